//! New requests and responses. Content-Length is always written; control octets never get into a line.

use std::net::SocketAddr;

use bytes::Bytes;

use super::Message;
use super::headers::HeaderId;
use super::print;
use crate::chars::{self, TOKEN, URI};
use crate::header::Via;
use crate::status::reason_phrase;

/// A request under construction. Header lines come out in the order in which they were put in.
#[derive(Clone, Debug)]
pub struct Request {
    out: Vec<u8>,
    body: Option<(Vec<u8>, Bytes)>,
}

impl Request {
    /// Begins with the request line. Octets that cannot stand in a method become `-`, in a URI `%HH`.
    #[must_use]
    pub fn new(method: &str, uri: &str) -> Request {
        let mut out = Vec::with_capacity(512);
        token(&mut out, method);
        out.push(b' ');
        for &b in uri.as_bytes() {
            if chars::is(b, URI) || b == b'%' {
                out.push(b);
            } else {
                out.extend_from_slice(format!("%{b:02X}").as_bytes());
            }
        }
        out.extend_from_slice(b" SIP/2.0\r\n");
        Request { out, body: None }
    }

    /// A Via line: `SIP/2.0/TLS edge.example;branch=z9hG4bK…`.
    #[must_use]
    pub fn via(self, value: impl AsRef<[u8]>) -> Self {
        self.header(HeaderId::Via, value)
    }

    /// A header line. Content-Length is left out: the builder writes its own.
    #[must_use]
    pub fn header(mut self, id: HeaderId, value: impl AsRef<[u8]>) -> Self {
        header(&mut self.out, id, value.as_ref());
        self
    }

    /// A header line when there is a value.
    #[must_use]
    pub fn header_if(self, id: HeaderId, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.header(id, value),
            None => self,
        }
    }

    /// A header line with a name of its own.
    #[must_use]
    pub fn header_named(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        header_named(&mut self.out, name, value.as_ref());
        self
    }

    /// The body, with its Content-Type.
    #[must_use]
    pub fn body(mut self, content_type: impl AsRef<[u8]>, body: impl Into<Bytes>) -> Self {
        self.body = Some((content_type.as_ref().to_vec(), body.into()));
        self
    }

    /// The message.
    #[must_use]
    pub fn build(mut self) -> Bytes {
        print::end(&mut self.out, self.body.as_ref());
        self.out.into()
    }
}

/// A response under construction: Via (all), From, To, Call-ID, CSeq are those of the request, byte-exact.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    request: &'a Message,
    status: u16,
    reason: Option<String>,
    to_tag: Option<String>,
    received: Option<SocketAddr>,
    out: Vec<u8>,
    body: Option<(Vec<u8>, Bytes)>,
}

impl<'a> Response<'a> {
    /// A response to `request`; without a reason it has the registered one. A 100 also copies Timestamp.
    #[must_use]
    pub fn to_request(request: &'a Message, status: u16, reason: Option<&str>) -> Response<'a> {
        let reason = reason.map(str::to_owned);
        let response = Response { request, status, reason, to_tag: None, received: None, out: Vec::new(), body: None };
        if status == 100 { response.copy(HeaderId::Timestamp) } else { response }
    }

    /// Our tag; written when the request's To has none, and not into a 100 unless it is asked for.
    #[must_use]
    pub fn to_tag(mut self, tag: &str) -> Self {
        self.to_tag = Some(tag.to_owned());
        self
    }

    /// Fills `received` and `rport` into the top Via (RFC 3261 §18.2.1, RFC 3581).
    #[must_use]
    pub fn received(mut self, source: SocketAddr) -> Self {
        self.received = Some(source);
        self
    }

    /// Copies every line of one header from the request, byte-exact: Record-Route into a 2xx, for example.
    #[must_use]
    pub fn copy(mut self, id: HeaderId) -> Self {
        for line in self.request.header_lines().filter(|line| line.id == id) {
            self.out.extend_from_slice(line.raw);
        }
        self
    }

    /// A header line. Content-Length is left out: the builder writes its own.
    #[must_use]
    pub fn header(mut self, id: HeaderId, value: impl AsRef<[u8]>) -> Self {
        header(&mut self.out, id, value.as_ref());
        self
    }

    /// A header line when there is a value.
    #[must_use]
    pub fn header_if(self, id: HeaderId, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.header(id, value),
            None => self,
        }
    }

    /// A header line with a name of its own.
    #[must_use]
    pub fn header_named(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        header_named(&mut self.out, name, value.as_ref());
        self
    }

    /// The body, with its Content-Type.
    #[must_use]
    pub fn body(mut self, content_type: impl AsRef<[u8]>, body: impl Into<Bytes>) -> Self {
        self.body = Some((content_type.as_ref().to_vec(), body.into()));
        self
    }

    /// The message.
    #[must_use]
    pub fn build(self) -> Bytes {
        let body_len = self.body.as_ref().map_or(0, |(_, body)| body.len());
        let mut out = Vec::with_capacity(256 + self.request.head_len() + self.out.len() + body_len);
        let reason = self.reason.as_deref().unwrap_or_else(|| reason_phrase(self.status));
        print::status_line(&mut out, self.status, reason.as_bytes());
        let mut top = self.received.and_then(|source| received_value(&self.request.top_via(), source));
        for line in self.request.header_lines().filter(|line| line.id == HeaderId::Via) {
            match top.take() {
                // The line may hold further values.
                Some(value) => {
                    let old = self.request.top_via();
                    let rest = &line.value[line.value.len().min(old.raw().len())..];
                    out.extend_from_slice(b"Via: ");
                    out.extend_from_slice(&value);
                    out.extend_from_slice(rest);
                    out.extend_from_slice(b"\r\n");
                }
                None => out.extend_from_slice(line.raw),
            }
        }
        for line in self.request.header_lines() {
            match line.id {
                HeaderId::From | HeaderId::CallId | HeaderId::CSeq => out.extend_from_slice(line.raw),
                HeaderId::To => match &self.to_tag {
                    Some(tag) if self.request.to_tag().is_none() && !tag.is_empty() => {
                        out.extend_from_slice(b"To: ");
                        out.extend_from_slice(line.value);
                        out.extend_from_slice(b";tag=");
                        token(&mut out, tag);
                        out.extend_from_slice(b"\r\n");
                    }
                    _ => out.extend_from_slice(line.raw),
                },
                _ => {}
            }
        }
        out.extend_from_slice(&self.out);
        print::end(&mut out, self.body.as_ref());
        out.into()
    }
}

fn token(out: &mut Vec<u8>, text: &str) {
    if text.is_empty() {
        out.push(b'-');
    }
    out.extend(text.bytes().map(|b| if chars::is(b, TOKEN) { b } else { b'-' }));
}

fn header(out: &mut Vec<u8>, id: HeaderId, value: &[u8]) {
    if id != HeaderId::ContentLength {
        print::header(out, id.name(), value);
    }
}

fn header_named(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    if HeaderId::of(name.as_bytes()) != HeaderId::ContentLength {
        token(out, name);
        out.extend_from_slice(b": ");
        print::clean(out, value);
        out.extend_from_slice(b"\r\n");
    }
}

/// The Via value with what the server saw: `received` when sent-by is another address or a name, and, where `rport` is
/// there, both. What the client wrote as `received` or `rport` is replaced. `None` when nothing changes.
pub(crate) fn received_value(via: &Via<'_>, source: SocketAddr) -> Option<Vec<u8>> {
    let address = source.ip().to_canonical();
    let rport = via.rport().is_some();
    let matches = via.host().address().is_some_and(|host| host.to_canonical() == address);
    if matches && !rport && via.param("received").is_none() {
        return None;
    }
    let params = via.params().as_bytes();
    // The parameters are a part of the value, and stand at its end.
    let head = &via.raw()[..via.raw().len() - params.len()];
    let mut out = chars::trim(head).to_vec();
    for param in via.params() {
        if param.name.eq_ignore_ascii_case("received") {
            continue;
        }
        out.push(b';');
        out.extend_from_slice(param.name.as_bytes());
        if param.name.eq_ignore_ascii_case("rport") {
            out.extend_from_slice(format!("={}", source.port()).as_bytes());
        } else if let Some(value) = param.value {
            out.push(b'=');
            out.extend_from_slice(value.as_bytes());
        }
    }
    if !matches || rport {
        out.extend_from_slice(format!(";received={address}").as_bytes());
    }
    Some(out)
}

/// The message as a server stores it on arrival: the top Via says where it came from (RFC 3261 §18.2.1, RFC 3581).
#[must_use]
pub fn with_received(message: &Message, source: SocketAddr) -> Message {
    message.with_received(source)
}
