//! What a message must be before anybody looks at it: refused here, not repaired (RFC 4475 §3.1.2).

use super::headers::HeaderId;
use super::refusal::Fault;
use super::scan::{Head, Slot};
use crate::chars::{self, Cursor, is_token, number};
use crate::header::{content_type, cseq, date, name_addr, rack, replaces, retry_after, session_expires, via, warning};
use crate::limits::{REQUEST_URI_BYTES, ROUTE_VALUES, VIA_VALUES};
use crate::uri::{self, Uri};

/// The start line, read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StartLine {
    /// Method from 0 to `method_end`; Request-URI from there, after one space, to `uri_end`.
    Request { method_end: usize, uri_end: usize },
    /// Reason phrase from `reason` to the end of the line.
    Response { status: u16, reason: usize },
}

#[inline]
pub(crate) fn check(bytes: &[u8], head: &Head) -> Result<StartLine, Fault> {
    let start = start_line(&bytes[..head.start_line_end])?;
    if head.twice != 0 {
        return Err(Fault::bad(twice(head)));
    }
    if head.seen & REQUIRED != REQUIRED {
        return Err(Fault::bad(missing(head)));
    }
    let mut counts = Counts::default();
    for i in 0..head.len() {
        let (id, slot) = head.line(i);
        if id != HeaderId::Other {
            header(id, value(bytes, slot), bytes, start, head.has_non_ascii, &mut counts)?;
        }
    }
    if counts.star && counts.contact_lines > 1 {
        return Err(Fault::bad("Contact * Beside Others"));
    }
    Ok(start)
}

const REQUIRED: u128 = (1 << HeaderId::Via as u8)
    | (1 << HeaderId::From as u8)
    | (1 << HeaderId::To as u8)
    | (1 << HeaderId::CallId as u8)
    | (1 << HeaderId::CSeq as u8);

#[derive(Default)]
struct Counts {
    vias: usize,
    routes: usize,
    record_routes: usize,
    contact_lines: usize,
    star: bool,
}

#[inline]
fn value(bytes: &[u8], slot: Slot) -> &[u8] {
    &bytes[usize::from(slot.value)..usize::from(slot.value_end)]
}

#[cold]
fn twice(head: &Head) -> &'static str {
    let first = |id: HeaderId| head.twice & id.bit() != 0;
    match () {
        () if first(HeaderId::From) => "From Twice",
        () if first(HeaderId::To) => "To Twice",
        () if first(HeaderId::CallId) => "Call-ID Twice",
        () if first(HeaderId::CSeq) => "CSeq Twice",
        () if first(HeaderId::MaxForwards) => "Max-Forwards Twice",
        () if first(HeaderId::ContentType) => "Content-Type Twice",
        () if first(HeaderId::Expires) => "Expires Twice",
        () => "Header Twice That May Be There Once",
    }
}

#[cold]
fn missing(head: &Head) -> &'static str {
    match () {
        () if !head.has(HeaderId::Via) => "Missing Via",
        () if !head.has(HeaderId::From) => "Missing From",
        () if !head.has(HeaderId::To) => "Missing To",
        () if !head.has(HeaderId::CallId) => "Missing Call-ID",
        () => "Missing CSeq",
    }
}

fn start_line(line: &[u8]) -> Result<StartLine, Fault> {
    if line.get(..4).is_some_and(|sip| sip.eq_ignore_ascii_case(b"SIP/")) {
        return status_line(line);
    }
    let last = match line.len().checked_sub(VERSION.len()) {
        Some(last) if line[last..].eq_ignore_ascii_case(VERSION) => last,
        _ => return Err(other_version(line)),
    };
    let first = line.iter().position(|&b| b == b' ').unwrap_or(last);
    if first >= last || !is_token(&line[..first]) {
        return Err(Fault::bad("Malformed Request Line"));
    }
    let request_uri = &line[first + 1..last];
    if request_uri.len() > REQUEST_URI_BYTES {
        return Err(Fault { status: 414, reason: "Request-URI Too Long", close: false });
    }
    match uri::parse(request_uri) {
        Ok(Uri::Sip(uri)) if uri.headers_str().is_some() => Err(Fault::bad("Headers in the Request-URI")),
        Ok(_) => Ok(StartLine::Request { method_end: first, uri_end: last }),
        Err(_) => Err(Fault::bad("Malformed Request-URI")),
    }
}

/// How a request line ends.
const VERSION: &[u8] = b" SIP/2.0";

#[cold]
fn other_version(line: &[u8]) -> Fault {
    let version = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
    match version {
        [s, i, p, b'/', number @ ..]
            if [*s, *i, *p].eq_ignore_ascii_case(b"SIP")
                && !number.is_empty()
                && number.iter().all(|b| b.is_ascii_digit() || *b == b'.') =>
        {
            Fault { status: 505, reason: "Version Not Supported", close: true }
        }
        _ => Fault::bad("Malformed Request Line"),
    }
}

fn status_line(line: &[u8]) -> Result<StartLine, Fault> {
    match line {
        [_, _, _, b'/', b'2', b'.', b'0', b' ', a @ b'1'..=b'6', b, c, b' ', ..]
            if b.is_ascii_digit() && c.is_ascii_digit() =>
        {
            let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
            Ok(StartLine::Response { status, reason: 12 })
        }
        _ => Err(Fault::bad("Malformed Status Line")),
    }
}

const U32: u64 = u32::MAX as u64;

#[inline]
fn header(
    id: HeaderId,
    value: &[u8],
    bytes: &[u8],
    start: StartLine,
    has_non_ascii: bool,
    counts: &mut Counts,
) -> Result<(), Fault> {
    if has_non_ascii && !id.is_text() && std::str::from_utf8(value).is_err() {
        return Err(Fault::bad("Header Is Not UTF-8"));
    }
    let ok = |fits: bool, reason| if fits { Ok(()) } else { Err(Fault::bad(reason)) };
    match id {
        HeaderId::Via => {
            let mut cursor = Cursor::new(value);
            loop {
                via::take(&mut cursor).map_err(|_| Fault::bad("Malformed Via"))?;
                counts.vias += 1;
                if !cursor.eat(b',') {
                    break;
                }
            }
            if counts.vias > VIA_VALUES {
                return Err(Fault { status: 483, reason: "Too Many Hops", close: false });
            }
            Ok(())
        }
        HeaderId::From => ok(name_addr::check_single(value).is_ok(), "Malformed From"),
        HeaderId::To => ok(name_addr::check_single(value).is_ok(), "Malformed To"),
        HeaderId::CallId => {
            let mut cursor = Cursor::new(value);
            ok(replaces::take_call_id(&mut cursor).is_ok() && cursor.at_end(), "Malformed Call-ID")
        }
        HeaderId::CSeq => {
            let (_, method) = cseq::take(value).map_err(|_| Fault::bad("Malformed CSeq"))?;
            match start {
                StartLine::Request { method_end, .. } if method != &bytes[..method_end] => {
                    Err(Fault::bad("CSeq Method Is Not the Method"))
                }
                _ => Ok(()),
            }
        }
        HeaderId::MaxForwards => ok(number(value, 255).is_some(), "Malformed Max-Forwards"),
        HeaderId::Contact => {
            counts.contact_lines += 1;
            if value == b"*" {
                counts.star = true;
                return Ok(());
            }
            ok(name_addr::check_list(value, true).is_ok(), "Malformed Contact")
        }
        HeaderId::Route => {
            counts.routes += name_addr::check_list(value, false).map_err(|_| Fault::bad("Malformed Route"))?;
            ok(counts.routes <= ROUTE_VALUES, "Too Many Routes")
        }
        HeaderId::RecordRoute => {
            counts.record_routes +=
                name_addr::check_list(value, false).map_err(|_| Fault::bad("Malformed Record-Route"))?;
            ok(counts.record_routes <= ROUTE_VALUES, "Too Many Record-Routes")
        }
        HeaderId::Path => ok(name_addr::check_list(value, false).is_ok(), "Malformed Path"),
        HeaderId::ServiceRoute => ok(name_addr::check_list(value, false).is_ok(), "Malformed Service-Route"),
        HeaderId::Expires => ok(number(value, U32).is_some(), "Malformed Expires"),
        HeaderId::MinExpires => ok(number(value, U32).is_some(), "Malformed Min-Expires"),
        HeaderId::RSeq => ok(number(value, U32).is_some(), "Malformed RSeq"),
        HeaderId::FlowTimer => ok(number(value, U32).is_some(), "Malformed Flow-Timer"),
        HeaderId::ContentType => ok(content_type::take(value).is_ok(), "Malformed Content-Type"),
        HeaderId::ContentDisposition => {
            ok(content_type::ContentDisposition::parse(value).is_ok(), "Malformed Content-Disposition")
        }
        HeaderId::Require => ok(is_token_list(value), "Malformed Require"),
        HeaderId::ProxyRequire => ok(is_token_list(value), "Malformed Proxy-Require"),
        HeaderId::Date => ok(date::parse(value).is_some(), "Malformed Date"),
        HeaderId::RetryAfter => ok(retry_after::take(value).is_ok(), "Malformed Retry-After"),
        HeaderId::Warning => ok(warning::check(value).is_ok(), "Malformed Warning"),
        HeaderId::SessionExpires => ok(session_expires::take(value).is_ok(), "Malformed Session-Expires"),
        HeaderId::MinSe => ok(session_expires::seconds(value).is_ok(), "Malformed Min-SE"),
        HeaderId::RAck => ok(rack::take(value).is_ok(), "Malformed RAck"),
        HeaderId::Replaces => ok(replaces::take(value).is_ok(), "Malformed Replaces"),
        HeaderId::ReferTo => ok(name_addr::check_single(value).is_ok(), "Malformed Refer-To"),
        HeaderId::ReferredBy => ok(name_addr::check_single(value).is_ok(), "Malformed Referred-By"),
        HeaderId::PAssertedIdentity => ok(name_addr::check_list(value, false).is_ok(), "Malformed P-Asserted-Identity"),
        HeaderId::PPreferredIdentity => {
            ok(name_addr::check_list(value, false).is_ok(), "Malformed P-Preferred-Identity")
        }
        _ => Ok(()),
    }
}

/// `token *(COMMA token)`, or nothing. Only what a peer demands is held to it: a stray comma in what it merely supports,
/// which phones do write, is no reason to refuse a call.
fn is_token_list(value: &[u8]) -> bool {
    let mut cursor = Cursor::new(value);
    if cursor.at_end() {
        return true;
    }
    loop {
        cursor.skip_lws();
        if cursor.run(chars::TOKEN).is_empty() {
            return false;
        }
        cursor.skip_lws();
        if cursor.at_end() {
            return true;
        }
        if !cursor.eat(b',') {
            return false;
        }
    }
}
