//! Date (RFC 3261 §20.17): `Sat, 13 Nov 2010 23:29:00 GMT`, always GMT, always this width.

use crate::time::UnixMillis;

const DAYS: [&[u8]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Reads a date. `None` when it is not in the grammar, or not in the calendar, or before 1970. The name of the day is
/// checked to be one, not to be the right one.
#[must_use]
pub fn parse(value: &[u8]) -> Option<UnixMillis> {
    let [
        day_name @ ..,
        b',',
        b' ',
        d1,
        d2,
        b' ',
        m1,
        m2,
        m3,
        b' ',
        y1,
        y2,
        y3,
        y4,
        b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
        b'G',
        b'M',
        b'T',
    ] = value
    else {
        return None;
    };
    if !DAYS.iter().any(|d| d.eq_ignore_ascii_case(day_name)) {
        return None;
    }
    let two = |a: &u8, b: &u8| -> Option<u64> {
        (a.is_ascii_digit() && b.is_ascii_digit()).then(|| u64::from(a - b'0') * 10 + u64::from(b - b'0'))
    };
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(&[*m1, *m2, *m3]))?;
    let (day, year) = (two(d1, d2)?, two(y1, y2)? * 100 + two(y3, y4)?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    if year < 1970 || day == 0 || day > days_of(month, year) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_before_year(year) + (0..month).map(|m| days_of(m, year)).sum::<u64>() + day - 1;
    Some(UnixMillis((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000))
}

/// Writes a date; fractions of a second are cut off.
#[must_use]
pub fn format(at: UnixMillis) -> String {
    let seconds = at.0 / 1000;
    let days = seconds / 86_400;
    let name = usize::try_from(days % 7).map_or(DAYS[0], |d| DAYS[d]);
    let mut year = 1970 + days / 366;
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let mut day = days - days_before_year(year);
    let mut month = 0;
    while day >= days_of(month, year) {
        day -= days_of(month, year);
        month += 1;
    }
    format!(
        "{}, {:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        String::from_utf8_lossy(name),
        day + 1,
        String::from_utf8_lossy(MONTHS[month]),
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(month: usize, year: u64) -> u64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

/// Days between 1970-01-01 and the first day of `year`.
fn days_before_year(year: u64) -> u64 {
    let leaps = |y: u64| y / 4 - y / 100 + y / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_both_ways() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sat, 15 Oct 2005 04:44:56 GMT", 1_129_351_496),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Mon, 28 Feb 2101 12:00:00 GMT", 4_139_035_200),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(UnixMillis(seconds * 1000)), "{text}");
            assert_eq!(format(UnixMillis(seconds * 1000 + 999)), text);
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..146_097 {
            let at = UnixMillis((day * 86_400 + 3_661) * 1000);
            assert_eq!(parse(format(at).as_bytes()), Some(at));
        }
    }

    #[test]
    fn other_zones_and_broken_dates_are_refused() {
        for bad in [
            "Fri, 01 Jan 2010 16:00:00 EST",
            "Fri, 01 Jan 2010 16:00:00",
            "Fri, 1 Jan 2010 16:00:00 GMT",
            "Xxx, 01 Jan 2010 16:00:00 GMT",
            "Fri, 32 Jan 2010 16:00:00 GMT",
            "Fri, 29 Feb 2010 16:00:00 GMT",
            "Fri, 01 Jan 2010 24:00:00 GMT",
            "Fri, 01 Foo 2010 16:00:00 GMT",
            "",
            "Fri, 01 Jan 2010 16:60:00 GMT",
            "Fri, 0x Jan 2010 16:00:00 GMT",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
