//! Multipart bodies (RFC 2046 §5.1, RFC 5621): bounded, byte-exact, either order.

mod build;

use bytes::Bytes;
use memchr::memmem;

pub use build::MultipartBuilder;

use crate::chars::{self, TOKEN, trim};
use crate::header::{ContentDisposition, ContentType, Handling};
use crate::limits::{MULTIPART_NESTING, MULTIPART_PARTS, PART_HEAD_BYTES, PART_HEADER_LINES};

/// Why a body is no multipart body that we read: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// The Content-Type is not `multipart/*`.
    #[error("not a multipart body")]
    NotMultipart,
    /// No boundary, an empty one, one beyond 70 characters, or one with characters that may not stand in it.
    #[error("no usable boundary")]
    Boundary,
    /// The first delimiter line is missing.
    #[error("no first boundary")]
    NoFirstBoundary,
    /// The closing delimiter is missing.
    #[error("no closing boundary")]
    NotClosed,
    /// A header line of a part is broken, or there are too many.
    #[error("broken header of a body part")]
    PartHeader,
    /// More parts than [`MULTIPART_PARTS`].
    #[error("more than 16 body parts")]
    TooManyParts,
    /// Deeper than [`MULTIPART_NESTING`].
    #[error("multipart nested deeper than 2")]
    TooDeep,
}

/// A multipart body, taken apart. Shares the memory of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multipart {
    parts: Vec<Part>,
}

/// One body part.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    headers: Vec<(Bytes, Bytes)>,
    body: Bytes,
    nested: Option<Multipart>,
}

impl Multipart {
    /// Takes `body` apart by the boundary in `content_type`, a header value or a [`ContentType`]. Multipart parts inside are
    /// taken apart as well.
    ///
    /// # Errors
    /// See [`MultipartError`].
    pub fn parse(content_type: impl AsRef<[u8]>, body: &Bytes) -> Result<Multipart, MultipartError> {
        let mut budget = MULTIPART_PARTS;
        parse(content_type.as_ref(), body, 1, &mut budget)
    }

    /// The parts in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// All parts that are no multipart themselves, in order, those of inner multiparts in their place.
    pub fn leaves(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().flat_map(|part| {
            // Two levels are the limit, so this is the whole depth.
            let inner: &[Part] = part.nested.as_ref().map_or(std::slice::from_ref(part), |nested| &nested.parts);
            inner.iter()
        })
    }

    /// The first leaf of that media type.
    #[must_use]
    pub fn find(&self, media: &str) -> Option<&Part> {
        self.leaves().find(|part| part.content_type().is_some_and(|t| t.is(media)))
    }
}

impl Part {
    /// Value of a header of the part, without white space at its ends.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| &value[..])
    }

    /// Header lines in order: name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|(name, value)| (&name[..], &value[..]))
    }

    /// Content-Type, when there is one that can be read. Without one a part is `text/plain` (RFC 2046 §5.2).
    #[must_use]
    pub fn content_type(&self) -> Option<ContentType<'_>> {
        self.header("Content-Type").and_then(|value| ContentType::parse(value).ok())
    }

    /// Content-Disposition, when there is one that can be read.
    #[must_use]
    pub fn disposition(&self) -> Option<ContentDisposition<'_>> {
        self.header("Content-Disposition").and_then(|value| ContentDisposition::parse(value).ok())
    }

    /// Whether the part must be understood (RFC 5621 §8.2).
    #[must_use]
    pub fn handling(&self) -> Handling {
        self.disposition().map_or(Handling::Required, |disposition| disposition.handling())
    }

    /// Content-ID without its angle brackets.
    #[must_use]
    pub fn content_id(&self) -> Option<&str> {
        let value = std::str::from_utf8(self.header("Content-ID")?).ok()?;
        Some(value.strip_prefix('<').and_then(|v| v.strip_suffix('>')).unwrap_or(value))
    }

    /// The body, byte-exact.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// The parts inside, when this one is multipart.
    #[must_use]
    pub fn nested(&self) -> Option<&Multipart> {
        self.nested.as_ref()
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Bodies do not belong into logs.
        write!(f, "Part({:?}, {} bytes)", self.content_type(), self.body.len())
    }
}

fn parse(content_type: &[u8], body: &Bytes, depth: usize, budget: &mut usize) -> Result<Multipart, MultipartError> {
    let content_type = ContentType::parse(content_type).map_err(|_| MultipartError::NotMultipart)?;
    if !content_type.is_multipart() {
        return Err(MultipartError::NotMultipart);
    }
    if depth > MULTIPART_NESTING {
        return Err(MultipartError::TooDeep);
    }
    let boundary = content_type.param("boundary").ok_or(MultipartError::Boundary)?;
    if !is_boundary(&boundary) {
        return Err(MultipartError::Boundary);
    }
    let finder = memmem::Finder::new(boundary.as_bytes());
    let mut from = 0;
    // What stands before the first delimiter is a preamble, to be ignored.
    let mut delimiter = next_delimiter(body, &finder, from).ok_or(MultipartError::NoFirstBoundary)?;
    let mut parts = Vec::new();
    while !delimiter.closing {
        from = delimiter.end;
        delimiter = next_delimiter(body, &finder, from).ok_or(MultipartError::NotClosed)?;
        *budget = budget.checked_sub(1).ok_or(MultipartError::TooManyParts)?;
        parts.push(part(&body.slice(from..delimiter.start.max(from)), depth, budget)?);
    }
    if parts.is_empty() {
        return Err(MultipartError::NoFirstBoundary);
    }
    Ok(Multipart { parts })
}

/// `bcharsnospace` and inner spaces, up to 70 (RFC 2046 §5.1.1).
fn is_boundary(boundary: &str) -> bool {
    (1..=70).contains(&boundary.len())
        && !boundary.ends_with(' ')
        && boundary.bytes().all(|b| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b))
}

struct Delimiter {
    /// Where the CRLF before the delimiter line begins, which belongs to it.
    start: usize,
    /// Behind the CRLF of the delimiter line.
    end: usize,
    closing: bool,
}

/// The next line `--boundary` or `--boundary--` at or behind `from`, which is the beginning of a line.
fn next_delimiter(body: &[u8], boundary: &memmem::Finder<'_>, from: usize) -> Option<Delimiter> {
    let mut search = from;
    loop {
        let at = search + boundary.find(&body[search..])?;
        search = at + 1;
        let Some(line) = at.checked_sub(2).filter(|&line| line >= from && &body[line..at] == b"--") else { continue };
        let start = match &body[..line] {
            _ if line == from => line,
            [.., b'\r', b'\n'] => line - 2,
            _ => continue,
        };
        let mut end = at + boundary.needle().len();
        let closing = body[end..].starts_with(b"--");
        if closing {
            end += 2;
        }
        while matches!(body.get(end), Some(b' ' | b'\t')) {
            end += 1;
        }
        if body[end..].starts_with(b"\r\n") {
            return Some(Delimiter { start, end: end + 2, closing });
        }
        // The closing delimiter may be the end of the body.
        if closing && end == body.len() {
            return Some(Delimiter { start, end, closing });
        }
    }
}

/// Header lines, an empty line, the body. A part without header lines begins with the empty line.
fn part(bytes: &Bytes, depth: usize, budget: &mut usize) -> Result<Part, MultipartError> {
    let mut headers = Vec::new();
    let mut at = 0;
    loop {
        if bytes[at..].starts_with(b"\r\n") {
            at += 2;
            break;
        }
        // Header lines up to the very end and no empty line: a part without a body.
        if at == bytes.len() {
            break;
        }
        let (line_end, next) = header_line(bytes, at);
        if next > PART_HEAD_BYTES || headers.len() == PART_HEADER_LINES {
            return Err(MultipartError::PartHeader);
        }
        let line = &bytes[at..line_end];
        let colon = memchr::memchr(b':', line).ok_or(MultipartError::PartHeader)?;
        let name = trim(&line[..colon]);
        if name.is_empty() || !chars::all(name, TOKEN) || line[0] == b' ' || line[0] == b'\t' {
            return Err(MultipartError::PartHeader);
        }
        headers.push((bytes.slice_ref(name), bytes.slice_ref(trim(&line[colon + 1..]))));
        at = next;
    }
    let mut part = Part { headers, body: bytes.slice(at..), nested: None };
    for name in ["Content-Type", "Content-Disposition"] {
        if part.headers().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).count() > 1 {
            return Err(MultipartError::PartHeader);
        }
    }
    if let Some(value) = part.header("Content-Type") {
        let content_type = ContentType::parse(value).map_err(|_| MultipartError::PartHeader)?;
        if content_type.is_multipart() {
            part.nested = Some(parse(value, &part.body, depth + 1, budget)?);
        }
    }
    if part.header("Content-Disposition").is_some() && part.disposition().is_none() {
        return Err(MultipartError::PartHeader);
    }
    Ok(part)
}

/// Where the line with its folds ends, and where the next begins.
fn header_line(bytes: &[u8], at: usize) -> (usize, usize) {
    let mut from = at;
    loop {
        match memmem::find(&bytes[from..], b"\r\n") {
            Some(length) => {
                let end = from + length;
                if !matches!(bytes.get(end + 2), Some(b' ' | b'\t')) {
                    return (end, end + 2);
                }
                from = end + 2;
            }
            None => return (bytes.len(), bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests;
