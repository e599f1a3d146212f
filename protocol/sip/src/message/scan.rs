//! The head scan: where every header line lies and where the body begins. One pass, no allocation up to 64 lines.
//!
//! This is the only code that decides where a message ends; datagrams and streams share it.

use memchr::memchr;

use super::headers::HeaderId;
use super::refusal::Fault;
use crate::chars;
use crate::limits::{HEAD_BYTES, HEADER_LINES, INLINE_HEADER_LINES, LINE_BYTES};

/// Where one header line lies, in octets from the start of the message. The next line begins where this one ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) start: u16,
    pub(crate) name_end: u16,
    pub(crate) value: u16,
    pub(crate) value_end: u16,
}

// Offsets of lines are below the head limit, which is why they fit.
const _: () = assert!(HEAD_BYTES <= 1 << 16 && HEADER_LINES <= 2 * INLINE_HEADER_LINES);

const LINES: usize = INLINE_HEADER_LINES;

#[derive(Clone, Debug)]
struct Index {
    ids: [HeaderId; LINES],
    slots: [Slot; LINES],
}

impl Index {
    const EMPTY: Index =
        Index { ids: [HeaderId::Other; LINES], slots: [Slot { start: 0, name_end: 0, value: 0, value_end: 0 }; LINES] };
}

/// What the scan found.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    index: Index,
    /// Lines 65 to 128.
    more: Option<Box<Index>>,
    count: usize,
    /// End of the start line, without its CRLF.
    pub(crate) start_line_end: usize,
    /// Where the body begins.
    pub(crate) end: usize,
    /// Known headers that are there.
    pub(crate) seen: u128,
    /// Headers that are there twice and may be there once.
    pub(crate) twice: u128,
    /// An octet beyond ASCII is somewhere in the head.
    pub(crate) has_non_ascii: bool,
    pub(crate) content_length: Option<usize>,
}

impl Head {
    pub(crate) const EMPTY: Head = Head {
        index: Index::EMPTY,
        more: None,
        count: 0,
        start_line_end: 0,
        end: 0,
        seen: 0,
        twice: 0,
        has_non_ascii: false,
        content_length: None,
    };

    /// Header lines.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    #[inline]
    pub(crate) fn has(&self, id: HeaderId) -> bool {
        self.seen & id.bit() != 0
    }

    /// Line `i`; callers stay below [`Head::len`].
    #[inline]
    pub(crate) fn line(&self, i: usize) -> (HeaderId, Slot) {
        match &self.more {
            Some(more) if i >= LINES => (more.ids[i - LINES], more.slots[i - LINES]),
            _ => (self.index.ids[i], self.index.slots[i]),
        }
    }

    /// The first line from `from` on with that header.
    #[inline]
    pub(crate) fn find(&self, id: HeaderId, from: usize) -> Option<(usize, Slot)> {
        if !self.has(id) && id != HeaderId::Other {
            return None;
        }
        let inline = self.count.min(LINES);
        if from < inline
            && let Some(i) = self.index.ids[from..inline].iter().position(|&known| known == id)
        {
            return Some((from + i, self.index.slots[from + i]));
        }
        let more = self.more.as_ref()?;
        let from = from.max(LINES) - LINES;
        let i = more.ids[from..self.count - LINES].iter().position(|&known| known == id)?;
        Some((LINES + from + i, more.slots[from + i]))
    }

    #[inline]
    fn push(&mut self, id: HeaderId, slot: Slot) -> Result<(), Fault> {
        if self.count < LINES {
            self.index.ids[self.count] = id;
            self.index.slots[self.count] = slot;
        } else if self.count < HEADER_LINES {
            let more = self.more.get_or_insert_with(|| Box::new(Index::EMPTY));
            more.ids[self.count - LINES] = id;
            more.slots[self.count - LINES] = slot;
        } else {
            return Err(Fault::too_large("Too Many Header Lines"));
        }
        self.count += 1;
        Ok(())
    }
}

/// An offset within a line.
#[inline]
fn offset(at: usize) -> u16 {
    // Invariant: `scan` refuses a head whose next line would begin beyond 64 KiB, so offsets within a line are smaller.
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// Scans from the start line to the empty line. `bytes` begins with the start line.
///
/// Finds what concerns framing: lines, names, folds, Content-Length. Values are checked afterwards.
#[inline]
pub(crate) fn scan(bytes: &[u8], head: &mut Head) -> Result<(), Fault> {
    let mut odd = false;
    let mut at = line_end(bytes, 0, &mut odd)?;
    head.start_line_end = at - 2;
    if at > HEAD_BYTES {
        return Err(Fault::too_large("Head Too Large"));
    }
    loop {
        match bytes.get(at) {
            Some(b'\r') => match bytes.get(at + 1) {
                Some(b'\n') => break,
                Some(_) => return Err(Fault::framing("Bare Carriage Return")),
                None => return Err(Fault::INCOMPLETE),
            },
            Some(_) => at = header_line(bytes, at, &mut odd, head)?,
            None => return Err(Fault::INCOMPLETE),
        }
    }
    head.end = at + 2;
    if head.end > HEAD_BYTES {
        return Err(Fault::too_large("Head Too Large"));
    }
    if odd { check_octets(bytes, head) } else { Ok(()) }
}

/// Behind the CRLF that ends the line in which `from` lies. `odd` is set when there is anything but visible ASCII and spaces
/// before it.
#[inline]
fn line_end(bytes: &[u8], from: usize, odd: &mut bool) -> Result<usize, Fault> {
    let at = first_odd(bytes, from);
    if bytes[at..].starts_with(b"\r\n") {
        return Ok(at + 2);
    }
    *odd = true;
    let line_feed = from + memchr(b'\n', &bytes[from..]).ok_or(Fault::INCOMPLETE)?;
    if line_feed == from || bytes[line_feed - 1] != b'\r' {
        return Err(Fault::framing("Bare Line Feed"));
    }
    Ok(line_feed + 1)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The first octet from `from` on that is neither visible ASCII nor a space: eight at a time.
#[inline]
fn first_odd(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = bytes[at..].first_chunk() {
        let word = u64::from_le_bytes(*word);
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        // Carries and borrows only run from an odd octet upwards, so the lowest mark is right.
        let marks = (below_space | word | word.wrapping_add(ONES)) & HIGHS;
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    bytes[at..].iter().position(|b| !(0x20..0x7f).contains(b)).map_or(bytes.len(), |i| at + i)
}

/// The first colon in the first 15 octets of `word`.
#[inline]
fn colon_in(word: u128) -> Option<usize> {
    const ONES: u128 = u128::MAX / 0xff;
    let zeros = word ^ (ONES * b':' as u128);
    let marks = zeros.wrapping_sub(ONES) & !zeros & (ONES * 0x80);
    let at = (marks.trailing_zeros() / 8) as usize;
    (at < 16).then_some(at)
}

/// End of the name, the colon, and which header it is.
#[inline]
fn name(bytes: &[u8], at: usize) -> Result<(usize, usize, HeaderId), Fault> {
    if let Some(word) = bytes[at..].first_chunk() {
        let word = u128::from_le_bytes(*word);
        if let Some(len) = colon_in(word) {
            let id = HeaderId::of_word(word, len);
            if id != HeaderId::Other {
                return Ok((at + len, at + len, id));
            }
        }
    }
    let Some(len) = bytes[at..].iter().position(|&b| b == b':') else {
        return Err(match memchr(b'\n', &bytes[at..]) {
            Some(_) => Fault::framing("Broken Header Line"),
            None => Fault::INCOMPLETE,
        });
    };
    let colon = at + len;
    let mut name_end = colon;
    // RFC 3261 §25.1 HCOLON: spaces and tabs before the colon, no fold.
    while name_end > at && matches!(bytes[name_end - 1], b' ' | b'\t') {
        name_end -= 1;
    }
    let id = HeaderId::of(&bytes[at..name_end]);
    // Names that we know are tokens.
    if id == HeaderId::Other && !chars::is_token(&bytes[at..name_end]) {
        return Err(Fault::framing("Broken Header Line"));
    }
    Ok((name_end, colon, id))
}

/// One header line with its folds, from `at`; where the next begins.
#[inline]
fn header_line(bytes: &[u8], at: usize, odd: &mut bool, head: &mut Head) -> Result<usize, Fault> {
    let (name_end, colon, id) = name(bytes, at)?;
    let mut next = line_end(bytes, colon + 1, odd)?;
    while let Some(b' ' | b'\t') = bytes.get(next) {
        next = line_end(bytes, next, odd)?;
    }
    if next == bytes.len() {
        return Err(Fault::INCOMPLETE);
    }
    if next > HEAD_BYTES {
        return Err(Fault::too_large("Head Too Large"));
    }
    if next - at > LINE_BYTES {
        return Err(Fault::too_large("Header Line Too Large"));
    }
    let (mut value, mut value_end) = (colon + 1, next - 2);
    while value < value_end && chars::is(bytes[value], chars::LWS) {
        value += 1;
    }
    while value < value_end && chars::is(bytes[value_end - 1], chars::LWS) {
        value_end -= 1;
    }
    if id != HeaderId::Other {
        if head.has(id) && id.is_once() {
            head.twice |= id.bit();
        }
        head.seen |= id.bit();
        if id == HeaderId::ContentLength {
            if head.content_length.is_some() {
                return Err(Fault::framing("Content-Length Twice"));
            }
            // Beyond this is no body that anybody accepts, and no number that overflows.
            let length = chars::number(&bytes[value..value_end], u64::from(u32::MAX));
            let length = length.and_then(|n| usize::try_from(n).ok());
            head.content_length = Some(length.ok_or(Fault::framing("Malformed Content-Length"))?);
        }
    }
    let slot =
        Slot { start: offset(at), name_end: offset(name_end), value: offset(value), value_end: offset(value_end) };
    head.push(id, slot)?;
    Ok(next)
}

/// No bare CR, no control octet but behind the backslash of a quoted pair. For heads in which anything is odd.
#[cold]
fn check_octets(bytes: &[u8], head: &mut Head) -> Result<(), Fault> {
    let octets = &bytes[..head.end];
    head.has_non_ascii = !octets.is_ascii();
    // Every LF has its CR: the scan of the lines has seen to it.
    if octets.windows(2).any(|pair| pair[0] == b'\r' && pair[1] != b'\n') {
        return Err(Fault::framing("Bare Carriage Return"));
    }
    check_controls(bytes, head)
}

fn check_controls(bytes: &[u8], head: &Head) -> Result<(), Fault> {
    let is_control = |b: u8| (b < 0x20 && !matches!(b, b'\t' | b'\r' | b'\n')) || b == 0x7f;
    if bytes[..head.start_line_end].iter().any(|&b| is_control(b)) {
        return Err(Fault::bad("Control Character"));
    }
    for i in 0..head.len() {
        let (_, slot) = head.line(i);
        let (mut quoted, mut escaped) = (false, false);
        for &b in &bytes[usize::from(slot.value)..usize::from(slot.value_end)] {
            if is_control(b) && !escaped {
                return Err(Fault::bad("Control Character"));
            }
            match b {
                _ if escaped => escaped = false,
                b'"' => quoted = !quoted,
                b'\\' => escaped = quoted,
                _ => {}
            }
        }
    }
    Ok(())
}
