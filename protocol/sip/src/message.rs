//! Messages, kept verbatim (RFC 3261 §7): the octets as they arrived, and where everything lies in them.

pub mod build;
mod check;
pub mod edit;
pub mod headers;
mod print;
pub mod refusal;
pub(crate) mod scan;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::{Buf, Bytes};

pub use build::{Request, Response, with_received};
pub use edit::{Edit, Value};
pub use headers::HeaderId;
pub use refusal::{Found, Refusal};

use crate::chars::{Cursor, number, text, trim};
use crate::escape::escape;
use crate::header::{
    CSeq, ContactList, Contacts, ContentDisposition, ContentType, NameAddr, NameAddrs, Params, RAck, Replaces,
    RetryAfter, SessionExpires, Via, Vias, name_addr, session_expires, via,
};
use crate::limits::BODY_BYTES_MAX;
use crate::method::Method;
use check::StartLine;
use refusal::Fault;
use scan::{Head, Slot};

/// How the message came, which decides where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transportation {
    /// One message per datagram: octets after Content-Length are ignored, without Content-Length the body is the rest.
    Datagram,
    /// Content-Length is needed and exact; the framer cuts.
    Stream,
}

/// A SIP message kept verbatim. Cheap to clone: a reference count, and the index of its lines.
///
/// What the accessors hand out was checked when the message was parsed.
#[derive(Clone)]
pub struct Message {
    bytes: Bytes,
    head: Head,
    start: StartLine,
}

/// One header line as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLine<'a> {
    /// Which header, if we know it.
    pub id: HeaderId,
    /// The name as written: long, compact, any case.
    pub name: &'a str,
    /// The value without white space at its ends; folds inside stay.
    pub value: &'a [u8],
    /// The whole line with its CRLF.
    pub raw: &'a [u8],
}

impl Message {
    /// Reads one message. CRLF before the start line is passed over (RFC 3261 §7.5).
    ///
    /// # Errors
    /// When the message is not legal SIP or beyond a limit of [`crate::limits`]. The refusal can be answered.
    pub fn parse(mut bytes: Bytes, mode: Transportation) -> Result<Message, Refusal> {
        while bytes.starts_with(b"\r\n") {
            bytes.advance(2);
        }
        // Built in the place where it is returned: the index is large enough that a copy would show.
        let mut result = Ok(Message { bytes, head: Head::EMPTY, start: StartLine::Response { status: 0, reason: 0 } });
        if let Ok(message) = &mut result
            && let Err(fault) = message.read(mode)
        {
            let refusal = Refusal::new(&message.bytes, fault);
            result = Err(refusal);
        }
        result
    }

    #[inline]
    fn read(&mut self, mode: Transportation) -> Result<(), Fault> {
        scan::scan(&self.bytes, &mut self.head)?;
        let body = self.bytes.len() - self.head.end;
        match (self.head.content_length, mode) {
            (None, Transportation::Datagram) => {}
            (None, Transportation::Stream) => return Err(Fault::framing("Missing Content-Length")),
            (Some(length), _) if length > BODY_BYTES_MAX => return Err(Fault::TOO_LARGE_BODY),
            (Some(length), _) if length > body => return Err(Fault::framing("Body Shorter Than Content-Length")),
            (Some(length), Transportation::Stream) if length < body => {
                return Err(Fault::framing("Octets After Content-Length"));
            }
            (Some(length), _) => self.bytes.truncate(self.head.end + length),
        }
        if self.bytes.len() - self.head.end > BODY_BYTES_MAX {
            return Err(Fault::TOO_LARGE_BODY);
        }
        self.start = check::check(&self.bytes, &self.head)?;
        Ok(())
    }

    /// Of a head that the framer has scanned, with exactly its body.
    pub(crate) fn framed(bytes: Bytes, head: Head) -> Result<Message, Refusal> {
        match check::check(&bytes, &head) {
            Ok(start) => Ok(Message { bytes, head, start }),
            Err(fault) => Err(Refusal::new(&bytes, fault)),
        }
    }

    /// The message as it arrived: from the start line to the end of the body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Request or response.
    #[must_use]
    pub fn is_request(&self) -> bool {
        matches!(self.start, StartLine::Request { .. })
    }

    /// Method of a request.
    #[must_use]
    pub fn method(&self) -> Option<Method<'_>> {
        match self.start {
            StartLine::Request { method_end, .. } => Some(Method::new(text(&self.bytes[..method_end]))),
            StartLine::Response { .. } => None,
        }
    }

    /// Request-URI as written.
    #[must_use]
    pub fn request_uri(&self) -> Option<&str> {
        self.request_uri_range().map(|range| text(&self.bytes[range]))
    }

    pub(crate) fn request_uri_range(&self) -> Option<Range<usize>> {
        match self.start {
            StartLine::Request { method_end, uri_end } => Some(method_end + 1..uri_end),
            StartLine::Response { .. } => None,
        }
    }

    /// Status code of a response, 100 to 699.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.start {
            StartLine::Request { .. } => None,
            StartLine::Response { status, .. } => Some(status),
        }
    }

    /// Reason phrase of a response as written; may be empty.
    #[must_use]
    pub fn reason(&self) -> Option<&[u8]> {
        match self.start {
            StartLine::Request { .. } => None,
            StartLine::Response { reason, .. } => Some(&self.bytes[reason..self.head.start_line_end]),
        }
    }

    /// CSeq.
    #[must_use]
    pub fn cseq(&self) -> CSeq<'_> {
        // Invariant: a message without a sound CSeq was refused.
        CSeq::parse(self.required(HeaderId::CSeq)).expect("CSeq was checked when the message was parsed")
    }

    /// Call-ID.
    #[must_use]
    pub fn call_id(&self) -> &str {
        text(self.required(HeaderId::CallId))
    }

    /// From.
    #[must_use]
    pub fn from(&self) -> NameAddr<'_> {
        self.address(HeaderId::From)
    }

    /// To.
    #[must_use]
    pub fn to(&self) -> NameAddr<'_> {
        self.address(HeaderId::To)
    }

    /// Tag of From. Requests of RFC 2543 may have none.
    #[must_use]
    pub fn from_tag(&self) -> Option<&str> {
        self.from().tag()
    }

    /// Tag of To.
    #[must_use]
    pub fn to_tag(&self) -> Option<&str> {
        self.to().tag()
    }

    /// Every Via value of every line, top first.
    pub fn vias(&self) -> impl Iterator<Item = Via<'_>> {
        self.headers(HeaderId::Via).flat_map(Vias::of)
    }

    /// The first Via value.
    #[must_use]
    pub fn top_via(&self) -> Via<'_> {
        // Invariant: a message without a sound Via was refused.
        via::take(&mut Cursor::new(self.required(HeaderId::Via))).expect("Via was checked when the message was parsed")
    }

    /// Max-Forwards.
    #[must_use]
    pub fn max_forwards(&self) -> Option<u8> {
        self.number(HeaderId::MaxForwards).and_then(|n| u8::try_from(n).ok())
    }

    /// Expires, seconds.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        self.number(HeaderId::Expires)
    }

    /// Min-Expires, seconds.
    #[must_use]
    pub fn min_expires(&self) -> Option<u32> {
        self.number(HeaderId::MinExpires)
    }

    /// RSeq (RFC 3262).
    #[must_use]
    pub fn rseq(&self) -> Option<u32> {
        self.number(HeaderId::RSeq)
    }

    /// RAck (RFC 3262).
    #[must_use]
    pub fn rack(&self) -> Option<RAck<'_>> {
        self.header(HeaderId::RAck).and_then(|value| RAck::parse(value).ok())
    }

    /// Session-Expires (RFC 4028).
    #[must_use]
    pub fn session_expires(&self) -> Option<SessionExpires<'_>> {
        self.header(HeaderId::SessionExpires).and_then(|value| SessionExpires::parse(value).ok())
    }

    /// Min-SE (RFC 4028), seconds.
    #[must_use]
    pub fn min_se(&self) -> Option<u32> {
        self.header(HeaderId::MinSe).and_then(|value| session_expires::seconds(value).ok()).map(|(seconds, _)| seconds)
    }

    /// Retry-After.
    #[must_use]
    pub fn retry_after(&self) -> Option<RetryAfter<'_>> {
        self.header(HeaderId::RetryAfter).and_then(|value| RetryAfter::parse(value).ok())
    }

    /// Refer-To (RFC 3515).
    #[must_use]
    pub fn refer_to(&self) -> Option<NameAddr<'_>> {
        self.header(HeaderId::ReferTo).and_then(|value| NameAddr::parse(value).ok())
    }

    /// Referred-By (RFC 3892).
    #[must_use]
    pub fn referred_by(&self) -> Option<NameAddr<'_>> {
        self.header(HeaderId::ReferredBy).and_then(|value| NameAddr::parse(value).ok())
    }

    /// Replaces (RFC 3891).
    #[must_use]
    pub fn replaces(&self) -> Option<Replaces<'_>> {
        self.header(HeaderId::Replaces).and_then(|value| Replaces::parse(value).ok())
    }

    /// Contact.
    #[must_use]
    pub fn contacts(&self) -> Contacts<'_> {
        match self.header(HeaderId::Contact) {
            Some(b"*") => Contacts::Star,
            _ => Contacts::List(self.addresses(HeaderId::Contact)),
        }
    }

    /// Route values, next hop first.
    pub fn routes(&self) -> NameAddrs<'_> {
        self.addresses(HeaderId::Route)
    }

    /// Record-Route values as they stand, top first.
    pub fn record_routes(&self) -> NameAddrs<'_> {
        self.addresses(HeaderId::RecordRoute)
    }

    /// Path values (RFC 3327).
    pub fn paths(&self) -> NameAddrs<'_> {
        self.addresses(HeaderId::Path)
    }

    /// Service-Route values (RFC 3608).
    pub fn service_routes(&self) -> NameAddrs<'_> {
        self.addresses(HeaderId::ServiceRoute)
    }

    /// P-Asserted-Identity values (RFC 3325).
    pub fn asserted_identities(&self) -> NameAddrs<'_> {
        self.addresses(HeaderId::PAssertedIdentity)
    }

    /// Value of the first line of a header, without white space at its ends; see [`unfold`].
    #[must_use]
    pub fn header(&self, id: HeaderId) -> Option<&[u8]> {
        self.head.find(id, 0).map(|(_, slot)| self.value(slot))
    }

    /// As [`Message::header`], as text. `None` also when the value is no UTF-8, which only free text can be.
    #[must_use]
    pub fn header_str(&self, id: HeaderId) -> Option<&str> {
        self.header(id).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether the header is there.
    #[must_use]
    pub fn has(&self, id: HeaderId) -> bool {
        self.head.find(id, 0).is_some()
    }

    /// Values of all lines of a header, in order: one item per line.
    #[must_use]
    pub fn headers(&self, id: HeaderId) -> Lines<'_> {
        Lines { message: Some(self), id, next: 0 }
    }

    /// Values of all lines of that name in any case: for headers that are not known. For a known one also its compact
    /// lines.
    pub fn headers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let id = HeaderId::of(name.as_bytes());
        self.header_lines()
            .filter(move |line| line.id == id && (id != HeaderId::Other || line.name.eq_ignore_ascii_case(name)))
            .map(|line| line.value)
    }

    /// Values of comma lists over all lines of a header: Supported, Require, Allow, Accept, … Quotes, brackets and
    /// comments keep their commas. Empty values are passed over.
    pub fn list_values(&self, id: HeaderId) -> impl Iterator<Item = &str> {
        self.headers(id).flat_map(split_list).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// Whether a comma list holds `token`, in any case.
    #[must_use]
    pub fn list_has(&self, id: HeaderId, token: &str) -> bool {
        self.list_values(id).any(|value| value.eq_ignore_ascii_case(token))
    }

    /// All header lines in order, verbatim.
    pub fn header_lines(&self) -> impl Iterator<Item = HeaderLine<'_>> {
        (0..self.head.len()).map(|i| self.header_line(i))
    }

    /// Content-Type.
    #[must_use]
    pub fn content_type(&self) -> Option<ContentType<'_>> {
        self.header(HeaderId::ContentType).and_then(|value| ContentType::parse(value).ok())
    }

    /// Content-Disposition.
    #[must_use]
    pub fn content_disposition(&self) -> Option<ContentDisposition<'_>> {
        self.header(HeaderId::ContentDisposition).and_then(|value| ContentDisposition::parse(value).ok())
    }

    /// The body, byte-exact; shares the message's memory.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.head.end..)
    }

    /// Start line, header lines and the empty line, in octets.
    #[must_use]
    pub fn head_len(&self) -> usize {
        self.head.end
    }

    /// The message as a server stores it on arrival: the top Via says where it came from (RFC 3261 §18.2.1, RFC 3581).
    #[must_use]
    pub fn with_received(&self, source: SocketAddr) -> Message {
        let Some(value) = build::received_value(&self.top_via(), source) else { return self.clone() };
        let bytes = Edit::new(self).replace_first_value(HeaderId::Via, value).build();
        // Only the Via grew, by an address and a port; if that passes a limit, the original serves as well.
        Message::parse(bytes, Transportation::Stream).unwrap_or_else(|_| self.clone())
    }

    fn required(&self, id: HeaderId) -> &[u8] {
        // Invariant: a message without Via, From, To, Call-ID or CSeq was refused.
        self.header(id).expect("the header was checked to be there when the message was parsed")
    }

    fn address(&self, id: HeaderId) -> NameAddr<'_> {
        // Invariant: a message whose From or To is broken was refused, by the same grammar.
        NameAddr::parse(self.required(id)).expect("the address was checked when the message was parsed")
    }

    fn addresses(&self, id: HeaderId) -> ContactList<'_> {
        NameAddrs { lines: self.headers(id), line: None }
    }

    fn number(&self, id: HeaderId) -> Option<u32> {
        self.header(id).and_then(|value| number(value, u64::from(u32::MAX))).and_then(|n| u32::try_from(n).ok())
    }

    #[inline]
    fn value(&self, slot: Slot) -> &[u8] {
        &self.bytes[usize::from(slot.value)..usize::from(slot.value_end)]
    }

    pub(crate) fn head_lines(&self) -> usize {
        self.head.len()
    }

    #[inline]
    pub(crate) fn line_id(&self, i: usize) -> HeaderId {
        self.head.line(i).0
    }

    /// Where line `i` lies, with its CRLF.
    #[inline]
    pub(crate) fn line_range(&self, i: usize) -> (HeaderId, Range<usize>) {
        let (id, slot) = self.head.line(i);
        let end = if i + 1 < self.head.len() { usize::from(self.head.line(i + 1).1.start) } else { self.head.end - 2 };
        (id, usize::from(slot.start)..end)
    }

    pub(crate) fn header_line(&self, i: usize) -> HeaderLine<'_> {
        let (id, range) = self.line_range(i);
        let (_, slot) = self.head.line(i);
        HeaderLine {
            id,
            name: text(&self.bytes[usize::from(slot.start)..usize::from(slot.name_end)]),
            value: self.value(slot),
            raw: &self.bytes[range],
        }
    }
}

impl fmt::Debug for Message {
    /// Start line, Call-ID and sizes only: bodies and credentials do not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cseq = self.cseq();
        match self.status() {
            Some(status) => write!(f, "Message({status}")?,
            None => f.write_str("Message(request")?,
        }
        let call_id = escape(self.call_id());
        write!(f, " {} {}, Call-ID {call_id}, {} bytes)", cseq.seq, escape(cseq.method.as_str()), self.bytes.len())
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Message) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Message {}

/// Values of the lines of one header, in order.
#[derive(Clone, Debug, Default)]
pub struct Lines<'a> {
    message: Option<&'a Message>,
    id: HeaderId,
    next: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let message = self.message?;
        let (i, slot) = message.head.find(self.id, self.next)?;
        self.next = i + 1;
        Some(message.value(slot))
    }
}

/// Splits at commas outside quotes, brackets and comments; without white space at the ends, without empty values.
pub fn split_list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        loop {
            let all = rest?;
            let (mut quoted, mut escaped, mut bracket, mut depth) = (false, false, false, 0usize);
            let comma = all.iter().position(|&b| {
                match b {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = quoted || depth > 0,
                    b'"' if depth == 0 => quoted = !quoted,
                    _ if quoted => {}
                    b'(' => depth += 1,
                    b')' => depth = depth.saturating_sub(1),
                    _ if depth > 0 => {}
                    b'<' => bracket = true,
                    b'>' => bracket = false,
                    b',' => return !bracket,
                    _ => {}
                }
                false
            });
            let value = match comma {
                Some(at) => {
                    rest = Some(&all[at + 1..]);
                    &all[..at]
                }
                None => {
                    rest = None;
                    all
                }
            };
            let value = trim(value);
            if !value.is_empty() {
                return Some(value);
            }
        }
    })
}

/// What stands behind the first value and its comma in a line of addresses or of Via.
fn after_first_value(id: HeaderId, line: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor::new(line);
    let found = match id {
        HeaderId::Via => via::take(&mut cursor).is_ok(),
        _ => name_addr::take(&mut cursor, |_, _| Ok(())).is_ok(),
    };
    (found && cursor.eat(b',')).then(|| cursor.rest())
}

/// A value in one line: each fold with the white space around it becomes one space (RFC 3261 §7.3.1).
#[must_use]
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    let mut out: Vec<u8> = Vec::with_capacity(value.len());
    for piece in value.split(|&b| b == b'\n') {
        if !out.is_empty() {
            out.push(b' ');
        }
        out.extend_from_slice(trim(piece));
    }
    Cow::Owned(out)
}

/// Parameters of a value such as `Event: refer;id=1`: what stands before them, and they.
///
/// # Errors
/// When they break the grammar.
pub fn value_and_params(value: &[u8]) -> Result<(&[u8], Params<'_>), crate::header::Malformed> {
    let end = value.iter().position(|&b| b == b';').unwrap_or(value.len());
    Ok((trim(&value[..end]), Params::parse(&value[end..])?))
}
