//! Multipart bodies out.

use bytes::Bytes;

use crate::chars;
use crate::header::Handling;

/// Puts parts together. The boundary is chosen so that it occurs in no part; without randomness, so the same parts give
/// the same octets.
#[derive(Clone, Debug)]
pub struct MultipartBuilder {
    subtype: &'static str,
    parts: Vec<BuiltPart>,
}

#[derive(Clone, Debug)]
struct BuiltPart {
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl MultipartBuilder {
    /// `multipart/mixed` (RFC 5621): every part counts.
    #[must_use]
    pub fn mixed() -> MultipartBuilder {
        MultipartBuilder { subtype: "mixed", parts: Vec::new() }
    }

    /// `multipart/related`: parts refer to each other by Content-ID.
    #[must_use]
    pub fn related() -> MultipartBuilder {
        MultipartBuilder { subtype: "related", parts: Vec::new() }
    }

    /// `multipart/alternative`: the last part that is understood counts.
    #[must_use]
    pub fn alternative() -> MultipartBuilder {
        MultipartBuilder { subtype: "alternative", parts: Vec::new() }
    }

    /// A part. The methods below concern the part that was added last.
    #[must_use]
    pub fn part(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.parts.push(BuiltPart { headers: Vec::new(), body: body.into() });
        self.header("Content-Type", content_type)
    }

    /// Content-Disposition of the part: `session`, `render`, `icon`, …, with `handling=optional` where so.
    #[must_use]
    pub fn disposition(self, kind: &str, handling: Handling) -> Self {
        match handling {
            Handling::Required => self.header("Content-Disposition", kind),
            Handling::Optional => self.header("Content-Disposition", &format!("{kind};handling=optional")),
        }
    }

    /// Content-ID of the part; brackets are added.
    #[must_use]
    pub fn content_id(self, id: &str) -> Self {
        self.header("Content-ID", &format!("<{id}>"))
    }

    /// A header of the part. Octets that would break the line become spaces, in a name `-`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Some(part) = self.parts.last_mut() {
            let name = name.chars().map(|c| if c.is_ascii() && chars::is(c as u8, chars::TOKEN) { c } else { '-' });
            let value = value.chars().map(|c| if c.is_ascii_control() && c != '\t' { ' ' } else { c });
            part.headers.push((name.collect(), value.collect()));
        }
        self
    }

    /// Content-Type of the whole, and the body.
    #[must_use]
    pub fn build(self) -> (String, Bytes) {
        let occurs = |boundary: &str| {
            self.parts.iter().any(|part| {
                memchr::memmem::find(&part.body, boundary.as_bytes()).is_some()
                    || part.headers.iter().any(|(_, value)| value.contains(boundary))
            })
        };
        // Ends: only finitely many numbers stand in finite parts.
        let boundary = (0u64..).map(|n| format!("=_part_{n}")).find(|b| !occurs(b)).unwrap_or_default();
        let mut out = Vec::with_capacity(self.parts.iter().map(|p| p.body.len() + 256).sum::<usize>() + 32);
        for part in &self.parts {
            out.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
            for (name, value) in &part.headers {
                out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&part.body);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        (format!("multipart/{};boundary=\"{boundary}\"", self.subtype), out.into())
    }
}
