//! Octets out. Whatever a caller gives as a value, no CR, LF or other control octet gets into a header line.

/// Appends `value` with control octets (all but the tab) turned into spaces: same length, no new line.
pub(crate) fn clean(out: &mut Vec<u8>, value: &[u8]) {
    // Over the whole value, without an early end: many octets at a time.
    if !value.iter().fold(false, |any, &b| any | is_control(b)) {
        out.extend_from_slice(value);
        return;
    }
    out.extend(value.iter().map(|&b| if is_control(b) { b' ' } else { b }));
}

fn is_control(b: u8) -> bool {
    (b < 0x20) & (b != b'\t') | (b == 0x7f)
}

/// `Name: value` and the end of the line.
pub(crate) fn header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    clean(out, value);
    out.extend_from_slice(b"\r\n");
}

/// `SIP/2.0 200 OK` and the end of the line. A status that is none becomes 500.
pub(crate) fn status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    let status = if (100..700).contains(&status) { status } else { 500 };
    out.extend_from_slice(b"SIP/2.0 ");
    number(out, usize::from(status));
    out.push(b' ');
    clean(out, reason);
    out.extend_from_slice(b"\r\n");
}

/// Decimal digits of `n` in the tail of `buffer`.
pub(crate) fn digits(mut n: usize, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        // A remainder of 10 is a digit.
        buffer[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &buffer[at..];
        }
    }
}

/// Decimal.
pub(crate) fn number(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(digits(n, &mut [0; 20]));
}

/// Content-Type when there is one, Content-Length, the empty line, the body.
pub(crate) fn end(out: &mut Vec<u8>, body: Option<&(Vec<u8>, bytes::Bytes)>) {
    let content = body.map_or(&[][..], |(_, content)| content);
    if let Some((content_type, _)) = body {
        header(out, "Content-Type", content_type);
    }
    out.extend_from_slice(b"Content-Length: ");
    number(out, content.len());
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_a_line() {
        let mut out = Vec::new();
        header(&mut out, "Subject", b"a\r\nVia: b\0\x1b\tc");
        assert_eq!(out, b"Subject: a  Via: b  \tc\r\n");
        for n in [0, 7, 10, 65_535, usize::MAX] {
            let mut out = Vec::new();
            number(&mut out, n);
            assert_eq!(out, n.to_string().as_bytes());
        }
    }
}
