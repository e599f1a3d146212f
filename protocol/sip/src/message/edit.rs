//! A copy with changes: a proxy's copy, a rewritten route. Lines that no change touches come out byte-exact.

use std::borrow::Cow;

use bytes::Bytes;

use super::Message;
use super::headers::HeaderId;
use super::print;
use crate::chars::{self, TOKEN, URI};

/// A header value for an edit: text or octets, borrowed or not.
#[derive(Clone, Debug)]
pub struct Value<'a>(Cow<'a, [u8]>);

macro_rules! value_from {
    ($($from:ty => $convert:expr;)*) => {
        $( impl<'a> From<$from> for Value<'a> {
            fn from(value: $from) -> Self {
                let convert: fn($from) -> Cow<'a, [u8]> = $convert;
                Value(convert(value))
            }
        } )*
    };
}

value_from! {
    &'a str => |v| Cow::Borrowed(v.as_bytes());
    &'a String => |v| Cow::Borrowed(v.as_bytes());
    &'a [u8] => Cow::Borrowed;
    &'a Vec<u8> => |v| Cow::Borrowed(v);
    String => |v| Cow::Owned(v.into_bytes());
    Vec<u8> => Cow::Owned;
    Cow<'a, [u8]> => |v| v;
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Value(Cow::Borrowed(value))
    }
}

#[derive(Clone, Debug)]
enum Change<'a> {
    /// A new line above the first line of that header; Via and others that are not there yet: top, and bottom.
    PushFront(HeaderId, Cow<'a, [u8]>),
    /// A new line at the end of the head.
    Append(Cow<'a, str>, Cow<'a, [u8]>),
    /// Every line of that header goes.
    Remove(HeaderId),
    /// Every line of that name goes.
    RemoveNamed(&'a str),
    /// The first value of the first line is another one, or goes.
    FirstValue(HeaderId, Option<Cow<'a, [u8]>>),
    /// The first line has another value; there is none: a new line at the end.
    Set(HeaderId, Cow<'a, [u8]>),
}

/// Changes to a message. Later changes see the message as it arrived, not the earlier changes.
#[derive(Clone, Debug)]
pub struct Edit<'a> {
    message: &'a Message,
    request_uri: Option<Cow<'a, str>>,
    /// The first new Via: what every proxy's copy has, so that it costs no list.
    via: Option<Cow<'a, [u8]>>,
    changes: Vec<Change<'a>>,
    /// Headers that some change touches.
    touched: u128,
    max_forwards: Option<u8>,
    body: Option<Option<(Cow<'a, [u8]>, Bytes)>>,
}

impl<'a> Edit<'a> {
    /// No change yet.
    #[must_use]
    pub fn new(message: &'a Message) -> Edit<'a> {
        Edit { message, request_uri: None, via: None, changes: Vec::new(), touched: 0, max_forwards: None, body: None }
    }

    fn change(mut self, id: HeaderId, change: Change<'a>) -> Self {
        // Framing is not the caller's.
        if id != HeaderId::ContentLength {
            self.touched |= id.bit();
            self.changes.push(change);
        }
        self
    }

    /// Another Request-URI; octets that cannot stand in one become `%HH`. No effect on a response.
    #[must_use]
    pub fn request_uri(mut self, uri: impl Into<Cow<'a, str>>) -> Self {
        let uri = uri.into();
        let uri = if uri.bytes().all(|b| chars::is(b, URI) || b == b'%') {
            uri
        } else {
            let escape =
                |b: u8| if chars::is(b, URI) || b == b'%' { char::from(b).to_string() } else { format!("%{b:02X}") };
            Cow::Owned(uri.bytes().map(escape).collect())
        };
        self.request_uri = Some(uri);
        self
    }

    /// A new Via line on top of the others.
    #[must_use]
    pub fn push_via(mut self, value: impl Into<Value<'a>>) -> Self {
        if self.via.is_some() {
            return self.push_front(HeaderId::Via, value);
        }
        self.touched |= HeaderId::Via.bit();
        self.via = Some(value.into().0);
        self
    }

    /// A new line above the first one of that header; at the end of the head when there is none.
    #[must_use]
    pub fn push_front(self, id: HeaderId, value: impl Into<Value<'a>>) -> Self {
        self.change(id, Change::PushFront(id, value.into().0))
    }

    /// A new line at the end of the head.
    #[must_use]
    pub fn append(self, id: HeaderId, value: impl Into<Value<'a>>) -> Self {
        self.change(id, Change::Append(Cow::Borrowed(id.name()), value.into().0))
    }

    /// A new line at the end of the head, with a name of its own.
    #[must_use]
    pub fn append_named(self, name: &'a str, value: impl Into<Value<'a>>) -> Self {
        let token = |b: u8| if chars::is(b, TOKEN) { char::from(b) } else { '-' };
        let clean = if chars::is_token(name.as_bytes()) {
            Cow::Borrowed(name)
        } else {
            Cow::Owned(format!("-{}", name.bytes().map(token).collect::<String>()))
        };
        self.change(HeaderId::of(clean.as_bytes()), Change::Append(clean, value.into().0))
    }

    /// Removes every line of that header.
    #[must_use]
    pub fn remove(self, id: HeaderId) -> Self {
        self.change(id, Change::Remove(id))
    }

    /// Removes every line of that name, also of a header that is not known.
    #[must_use]
    pub fn remove_named(self, name: &'a str) -> Self {
        self.change(HeaderId::of(name.as_bytes()), Change::RemoveNamed(name))
    }

    /// Removes the first value of a header of addresses or of Via: the top Route, the top Via.
    #[must_use]
    pub fn remove_first_value(self, id: HeaderId) -> Self {
        self.change(id, Change::FirstValue(id, None))
    }

    /// Puts another value in the place of the first one of a header of addresses or of Via.
    #[must_use]
    pub fn replace_first_value(self, id: HeaderId, value: impl Into<Value<'a>>) -> Self {
        self.change(id, Change::FirstValue(id, Some(value.into().0)))
    }

    /// Gives the first line of that header another value and removes its other lines; adds it when there is none.
    #[must_use]
    pub fn replace(self, id: HeaderId, value: impl Into<Value<'a>>) -> Self {
        self.change(id, Change::Set(id, value.into().0))
    }

    /// Sets Max-Forwards.
    #[must_use]
    pub fn max_forwards(mut self, hops: u8) -> Self {
        self.touched |= HeaderId::MaxForwards.bit();
        self.max_forwards = Some(hops);
        self
    }

    /// Another body, or none; Content-Type and Content-Length follow.
    #[must_use]
    pub fn body(mut self, body: Option<(impl Into<Value<'a>>, Bytes)>) -> Self {
        self.touched |= HeaderId::ContentType.bit() | HeaderId::ContentLength.bit();
        self.body = Some(body.map(|(content_type, content)| (content_type.into().0, content)));
        self
    }

    /// The message with all changes: one allocation.
    #[must_use]
    pub fn build(&self) -> Bytes {
        let mut length = 0;
        self.emit(&mut |octets, _| length += octets.len());
        let mut out = Vec::with_capacity(length);
        self.emit(&mut |octets, verbatim| {
            if verbatim {
                out.extend_from_slice(octets);
            } else {
                print::clean(&mut out, octets);
            }
        });
        out.into()
    }

    /// All octets in order; the flag says which come from us or from the message itself and need no cleaning.
    #[inline]
    fn emit(&self, put: &mut impl FnMut(&[u8], bool)) {
        let message = self.message;
        let bytes = &message.bytes()[..];
        let lines = message.head_lines();
        // Octets from here to the line at hand are copied as they are.
        let mut from = 0;
        if let (Some(uri), Some(range)) = (&self.request_uri, message.request_uri_range()) {
            put(&bytes[..range.start], true);
            put(uri.as_bytes(), true);
            from = range.end;
        }
        let mut met = 0u128;
        for i in 0..lines {
            if self.touched & message.line_id(i).bit() == 0 {
                continue;
            }
            let (id, line) = message.line_range(i);
            let first = met & id.bit() == 0;
            met |= id.bit();
            put(&bytes[from..line.start], true);
            from = line.end;
            self.line(i, first, put);
        }
        let end = message.head_len() - 2;
        put(&bytes[from..end], true);
        for change in &self.changes {
            match change {
                Change::PushFront(id, value) | Change::Set(id, value) if met & id.bit() == 0 => {
                    put_line(id.name(), value, put);
                }
                Change::Append(name, value) => put_line(name, value, put),
                _ => {}
            }
        }
        if let Some(hops) = self.max_forwards
            && met & HeaderId::MaxForwards.bit() == 0
        {
            put_line("Max-Forwards", print::digits(usize::from(hops), &mut [0; 20]), put);
        }
        let content = match &self.body {
            Some(Some((content_type, content))) => {
                put_line("Content-Type", content_type, put);
                &content[..]
            }
            Some(None) => &[],
            None => &bytes[message.head_len()..],
        };
        if self.body.is_some() || message.header(HeaderId::ContentLength).is_none() {
            put_line("Content-Length", print::digits(content.len(), &mut [0; 20]), put);
        }
        put(b"\r\n", true);
        put(content, true);
    }

    /// Line `i` as the changes leave it.
    fn line(&self, i: usize, first: bool, put: &mut impl FnMut(&[u8], bool)) {
        let line = self.message.header_line(i);
        if line.id == HeaderId::Via
            && first
            && let Some(value) = &self.via
        {
            put_line("Via", value, put);
        }
        for change in &self.changes {
            if let Change::PushFront(id, value) = change
                && *id == line.id
                && first
            {
                put_line(id.name(), value, put);
            }
        }
        if self.body.is_some() && matches!(line.id, HeaderId::ContentType | HeaderId::ContentLength) {
            return;
        }
        if line.id == HeaderId::MaxForwards
            && let Some(hops) = self.max_forwards
        {
            put_line("Max-Forwards", print::digits(usize::from(hops), &mut [0; 20]), put);
            return;
        }
        for change in &self.changes {
            match change {
                Change::Remove(id) if *id == line.id => return,
                Change::RemoveNamed(name) if line.name.eq_ignore_ascii_case(name) => return,
                Change::RemoveNamed(name) if line.id != HeaderId::Other && HeaderId::of(name.as_bytes()) == line.id => {
                    return;
                }
                Change::Set(id, value) if *id == line.id => {
                    if first {
                        put_line(line.name, value, put);
                    }
                    return;
                }
                Change::FirstValue(id, value) if *id == line.id && first => {
                    first_value(line.name, line.value, line.id, value.as_deref(), put);
                    return;
                }
                _ => {}
            }
        }
        put(line.raw, true);
    }
}

fn put_line(name: &str, value: &[u8], put: &mut impl FnMut(&[u8], bool)) {
    put(name.as_bytes(), true);
    put(b": ", true);
    put(value, false);
    put(b"\r\n", true);
}

/// A line whose first value is replaced or goes; the values behind it stay as they are.
fn first_value(name: &str, line: &[u8], id: HeaderId, value: Option<&[u8]>, put: &mut impl FnMut(&[u8], bool)) {
    let rest = super::after_first_value(id, line);
    match (value, rest) {
        (None, None) => {}
        (None, Some(rest)) => {
            put(name.as_bytes(), true);
            put(b": ", true);
            put(chars::trim(rest), true);
            put(b"\r\n", true);
        }
        (Some(value), rest) => {
            put(name.as_bytes(), true);
            put(b": ", true);
            put(value, false);
            if let Some(rest) = rest {
                put(b",", true);
                put(rest, true);
            }
            put(b"\r\n", true);
        }
    }
}
