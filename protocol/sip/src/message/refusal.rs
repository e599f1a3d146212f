//! Refused messages: why, and what is needed to answer them all the same (RFC 3261 §8.2.6).

use std::net::SocketAddr;
use std::ops::Deref;

use bytes::Bytes;

use super::build::received_value;
use super::headers::HeaderId;
use super::print;
use crate::chars::{self, LWS, TOKEN, trim};
use crate::header::{NameAddr, Via};
use crate::limits::{HEAD_BYTES, HEADER_LINES, VIA_VALUES};
use crate::status::reason_phrase;

/// Why a scan stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    /// What follows on a stream cannot be trusted to be the next message.
    pub(crate) close: bool,
}

impl Fault {
    pub(crate) const INCOMPLETE: Fault = Fault { status: 400, reason: "Incomplete Head", close: true };

    pub(crate) const TOO_LARGE_BODY: Fault = Fault { status: 413, reason: "Request Entity Too Large", close: true };

    /// The message is bad, but where it ends is known.
    pub(crate) const fn bad(reason: &'static str) -> Fault {
        Fault { status: 400, reason, close: false }
    }

    /// Where the message ends is not known.
    pub(crate) const fn framing(reason: &'static str) -> Fault {
        Fault { status: 400, reason, close: true }
    }

    pub(crate) const fn too_large(reason: &'static str) -> Fault {
        Fault { status: 513, reason, close: true }
    }
}

/// Why a message was refused, and what its head says as far as it could be read. The fields of [`Found`] are reached
/// directly: `refusal.via`, `refusal.call_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 413, 414, 483, 505 or 513.
    pub status: u16,
    /// Reason phrase; says what is wrong.
    pub reason: &'static str,
    /// On a stream: the connection must be closed, because where the next message begins is not known.
    pub close: bool,
    found: Box<Found>,
}

/// What could be read of a refused message. Values are cleaned: folds and control octets became spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// `None`: not even that could be told.
    pub is_request: Option<bool>,
    /// First word of the start line of a request.
    pub method: Option<Bytes>,
    /// One entry per Via line, top first.
    pub via: Vec<Bytes>,
    /// The first From line.
    pub from: Option<Bytes>,
    /// The first To line.
    pub to: Option<Bytes>,
    /// The first Call-ID line.
    pub call_id: Option<Bytes>,
    /// The first CSeq line.
    pub cseq: Option<Bytes>,
}

impl Deref for Refusal {
    type Target = Found;

    fn deref(&self) -> &Found {
        &self.found
    }
}

impl Refusal {
    #[cold]
    pub(crate) fn new(bytes: &[u8], fault: Fault) -> Refusal {
        let Fault { status, reason, close } = fault;
        Refusal { status, reason, close, found: Box::new(collect(bytes)) }
    }

    /// The response to a refused request. `None` for responses, ACK, what is no SIP, and when no Via says where to.
    #[must_use]
    pub fn answer(&self, to_tag: &str) -> Option<Bytes> {
        self.write(to_tag, None)
    }

    /// As [`Refusal::answer`], with `received` and `rport` filled into the top Via (RFC 3261 §18.2.1, RFC 3581).
    #[must_use]
    pub fn answer_from(&self, to_tag: &str, source: SocketAddr) -> Option<Bytes> {
        self.write(to_tag, Some(source))
    }

    fn write(&self, to_tag: &str, source: Option<SocketAddr>) -> Option<Bytes> {
        if self.is_request != Some(true) || self.method.as_deref() == Some(b"ACK") || self.via.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(512);
        let reason = if self.reason.is_empty() { reason_phrase(self.status) } else { self.reason };
        print::status_line(&mut out, self.status, reason.as_bytes());
        for (i, via) in self.via.iter().enumerate() {
            let filled = match source {
                Some(source) if i == 0 => Via::parse(via).ok().and_then(|top| received_value(&top, source)),
                _ => None,
            };
            print::header(&mut out, "Via", filled.as_deref().unwrap_or(via));
        }
        if let Some(from) = &self.from {
            print::header(&mut out, "From", from);
        }
        if let Some(to) = &self.to {
            out.extend_from_slice(b"To: ");
            print::clean(&mut out, to);
            if !has_tag(to) && chars::is_token(to_tag.as_bytes()) {
                out.extend_from_slice(b";tag=");
                out.extend_from_slice(to_tag.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        if let Some(call_id) = &self.call_id {
            print::header(&mut out, "Call-ID", call_id);
        }
        if let Some(cseq) = &self.cseq {
            print::header(&mut out, "CSeq", cseq);
        }
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        Some(out.into())
    }
}

/// Whether To has a tag; of a To that cannot be read, whether it looks as if.
fn has_tag(to: &[u8]) -> bool {
    match NameAddr::parse(to) {
        Ok(to) => to.tag().is_some(),
        Err(_) => to.to_ascii_lowercase().windows(5).any(|w| w == b";tag="),
    }
}

/// Reads what can be read, line by line, and trusts nothing.
fn collect(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES)];
    let (mut line_end, mut at) = line(bytes, 0);
    let start = &bytes[..line_end];
    let word_end = start.iter().position(|&b| chars::is(b, LWS)).unwrap_or(start.len());
    let word = &start[..word_end];
    if word.get(..4).is_some_and(|w| w.eq_ignore_ascii_case(b"SIP/")) {
        found.is_request = Some(false);
    } else if chars::is_token(word) && word_end < start.len() {
        found.is_request = Some(true);
        found.method = Some(Bytes::copy_from_slice(word));
    }
    for _ in 0..HEADER_LINES {
        let begin = at;
        (line_end, at) = line(bytes, at);
        if line_end == begin {
            break;
        }
        // With its folds.
        while matches!(bytes.get(at), Some(b' ' | b'\t')) {
            (line_end, at) = line(bytes, at);
        }
        let line = &bytes[begin..line_end];
        let name_end = line.iter().position(|&b| !chars::is(b, TOKEN)).unwrap_or(line.len());
        let Some(value) = trim(&line[name_end..]).strip_prefix(b":") else { continue };
        let clean = || {
            let mut out = Vec::new();
            print::clean(&mut out, trim(value));
            Bytes::from(out)
        };
        match HeaderId::of(&line[..name_end]) {
            HeaderId::Via if found.via.len() < VIA_VALUES => found.via.push(clean()),
            HeaderId::From if found.from.is_none() => found.from = Some(clean()),
            HeaderId::To if found.to.is_none() => found.to = Some(clean()),
            HeaderId::CallId if found.call_id.is_none() => found.call_id = Some(clean()),
            HeaderId::CSeq if found.cseq.is_none() => found.cseq = Some(clean()),
            _ => {}
        }
    }
    found
}

/// Where the line from `at` ends without its line end, which may be a bare line feed here, and where the next begins.
fn line(bytes: &[u8], at: usize) -> (usize, usize) {
    match memchr::memchr(b'\n', &bytes[at..]) {
        Some(length) => {
            let end = at + length;
            let bare = if end > at && bytes[end - 1] == b'\r' { end - 1 } else { end };
            (bare, end + 1)
        }
        None => (bytes.len(), bytes.len()),
    }
}
