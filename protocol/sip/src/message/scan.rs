//! The head scan: where every header line lies and where the body begins. One pass, no allocation up to 64 lines.
//!
//! This is the only code that decides where a message ends; datagrams and streams share it.

use memchr::memchr;

use super::headers::HeaderId;
use super::refusal::Fault;
use crate::chars::{self, TOKEN};
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

/// Octets of one line, whose end is `end`, as an offset. Checked against the head limit before.
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
    let line_feed = memchr(b'\n', bytes).ok_or(Fault::INCOMPLETE)?;
    if line_feed == 0 || bytes[line_feed - 1] != b'\r' {
        return Err(Fault::framing("Bare Line Feed"));
    }
    head.start_line_end = line_feed - 1;
    let mut at = line_feed + 1;
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
            Some(_) => at = header_line(bytes, at, head)?,
            None => return Err(Fault::INCOMPLETE),
        }
    }
    head.end = at + 2;
    if head.end > HEAD_BYTES {
        return Err(Fault::too_large("Head Too Large"));
    }
    check_octets(bytes, head)
}

/// One header line with its folds, from `at`; where the next begins.
#[inline]
fn header_line(bytes: &[u8], at: usize, head: &mut Head) -> Result<usize, Fault> {
    let mut name_end = at;
    while name_end < bytes.len() && chars::is(bytes[name_end], TOKEN) {
        name_end += 1;
    }
    let mut colon = name_end;
    // RFC 3261 §25.1 HCOLON: spaces and tabs before the colon, no fold.
    while matches!(bytes.get(colon), Some(b' ' | b'\t')) {
        colon += 1;
    }
    if name_end == at || bytes.get(colon) != Some(&b':') {
        return Err(if colon < bytes.len() { Fault::framing("Broken Header Line") } else { Fault::INCOMPLETE });
    }
    let mut from = colon + 1;
    let next = loop {
        let line_feed = from + memchr(b'\n', &bytes[from..]).ok_or(Fault::INCOMPLETE)?;
        if bytes[line_feed - 1] != b'\r' {
            return Err(Fault::framing("Bare Line Feed"));
        }
        match bytes.get(line_feed + 1) {
            Some(b' ' | b'\t') => from = line_feed + 1,
            Some(_) => break line_feed + 1,
            None => return Err(Fault::INCOMPLETE),
        }
    };
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
    let id = HeaderId::of(&bytes[at..name_end]);
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

/// No bare CR, no control octet but behind the backslash of a quoted pair. Branch-free over the whole head, because
/// nearly every message is clean.
#[inline]
fn check_octets(bytes: &[u8], head: &mut Head) -> Result<(), Fault> {
    let octets = &bytes[..head.end];
    let (mut control, mut carriage_return, mut any) = (0u8, 0u8, 0u8);
    for &b in octets {
        any |= b;
        control |= u8::from(b < 0x20) & u8::from(b != b'\t') & u8::from(b != b'\r') & u8::from(b != b'\n');
        control |= u8::from(b == 0x7f);
    }
    for (&b, &next) in octets.iter().zip(&octets[1..]) {
        carriage_return |= u8::from(b == b'\r') & u8::from(next != b'\n');
    }
    head.has_non_ascii = any >= 0x80;
    if carriage_return != 0 {
        return Err(Fault::framing("Bare Carriage Return"));
    }
    if control != 0 {
        return check_controls(bytes, head);
    }
    Ok(())
}

#[cold]
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
