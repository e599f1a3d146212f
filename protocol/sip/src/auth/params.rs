//! Syntax of challenges and credentials: `Digest name=value, name="value"` (RFC 3261 §25.1, RFC 7616 §3.3, §3.4).

use std::borrow::Cow;

/// More parameters than this are refused.
const MAX_PARAMS: usize = 32;
/// A longer header value is refused.
const MAX_LEN: usize = 8192;

/// The parameters of one challenge or one set of credentials. Names are unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthParams<'a> {
    /// The scheme, verbatim (`Digest`, `Bearer`, …).
    pub scheme: &'a str,
    params: Vec<(&'a str, Raw<'a>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raw<'a> {
    /// Without the quotes, escapes as they came.
    text: &'a str,
    quoted: bool,
}

/// Why a header value is no challenge and no credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthSyntax {
    /// Not UTF-8.
    #[error("not UTF-8")]
    Encoding,
    /// Longer than 8 KiB or more than 32 parameters.
    #[error("too long")]
    TooLong,
    /// No scheme, no `=`, an open quote, a stray octet.
    #[error("malformed")]
    Malformed,
    /// The same parameter twice.
    #[error("a parameter occurs twice")]
    Duplicate,
}

impl<'a> AuthParams<'a> {
    /// Parses one header value.
    ///
    /// # Errors
    /// See [`AuthSyntax`].
    pub fn parse(value: &'a [u8]) -> Result<AuthParams<'a>, AuthSyntax> {
        if value.len() > MAX_LEN {
            return Err(AuthSyntax::TooLong);
        }
        let text = std::str::from_utf8(value).map_err(|_| AuthSyntax::Encoding)?.trim_matches(LWS);
        let end = text.find(LWS).ok_or(AuthSyntax::Malformed)?;
        let (scheme, mut rest) = text.split_at(end);
        if !is_token(scheme) {
            return Err(AuthSyntax::Malformed);
        }
        let mut params: Vec<(&str, Raw<'_>)> = Vec::with_capacity(12);
        loop {
            rest = rest.trim_start_matches(LWS);
            let (name, after) = rest.split_once('=').ok_or(AuthSyntax::Malformed)?;
            let name = name.trim_end_matches(LWS);
            let (raw, after) = value_of(after.trim_start_matches(LWS))?;
            if !is_token(name) {
                return Err(AuthSyntax::Malformed);
            }
            if params.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                return Err(AuthSyntax::Duplicate);
            }
            if params.len() == MAX_PARAMS {
                return Err(AuthSyntax::TooLong);
            }
            params.push((name, raw));
            rest = after.trim_start_matches(LWS);
            if rest.is_empty() {
                return Ok(AuthParams { scheme, params });
            }
            rest = rest.strip_prefix(',').ok_or(AuthSyntax::Malformed)?;
        }
    }

    /// Is it digest?
    #[must_use]
    pub fn is_digest(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("Digest")
    }

    /// The value without quotes, escapes as they came: what goes into the hash.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, raw)| raw.text)
    }

    /// The value with the escapes of a quoted string resolved: what it means.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Cow<'a, str>> {
        let (_, raw) = self.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        if !raw.quoted || !raw.text.contains('\\') {
            return Some(Cow::Borrowed(raw.text));
        }
        let mut text = String::with_capacity(raw.text.len());
        let mut chars = raw.text.chars();
        while let Some(c) = chars.next() {
            // A backslash is followed by something: an open escape does not parse.
            text.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        Some(Cow::Owned(text))
    }
}

/// White space, with the line ends of a folded header line.
const LWS: [char; 4] = [' ', '\t', '\r', '\n'];

fn value_of(text: &str) -> Result<(Raw<'_>, &str), AuthSyntax> {
    if let Some(inner) = text.strip_prefix('"') {
        let mut escaped = false;
        for (at, octet) in inner.bytes().enumerate() {
            match octet {
                0 => return Err(AuthSyntax::Malformed),
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return Ok((Raw { text: &inner[..at], quoted: true }, &inner[at + 1..])),
                _ => {}
            }
        }
        return Err(AuthSyntax::Malformed);
    }
    let end = text.find([',', ' ', '\t', '\r', '\n']).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    let fits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
    if fits { Ok((Raw { text: value, quoted: false }, rest)) } else { Err(AuthSyntax::Malformed) }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b))
}

/// Writes `name="value"` with `"` and `\` escaped; control characters are left out.
pub(crate) fn push_quoted(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_tokens_quotes_escapes_and_folds() {
        let value = b"Digest  realm=\"a, \\\"b\\\"\",\r\n nonce = \"n\" ,qop=auth, uri=\"sip:x\"";
        let params = AuthParams::parse(value).unwrap();
        assert!(params.is_digest());
        assert_eq!(params.raw("REALM"), Some("a, \\\"b\\\""));
        assert_eq!(params.value("realm").unwrap(), "a, \"b\"");
        assert_eq!(params.raw("nonce"), Some("n"));
        assert_eq!(params.raw("qop"), Some("auth"));
        assert_eq!(params.raw("opaque"), None);
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let cases: [(&[u8], AuthSyntax); 8] = [
            (b"Digest", AuthSyntax::Malformed),
            (b"Digest realm", AuthSyntax::Malformed),
            (b"Digest realm=\"open", AuthSyntax::Malformed),
            (b"Digest realm=\"open\\", AuthSyntax::Malformed),
            (b"Digest realm=\"a\" nonce=\"b\"", AuthSyntax::Malformed),
            (b"Digest realm=\"a\", REALM=\"b\"", AuthSyntax::Duplicate),
            (b"Digest realm=\"\xe9\"", AuthSyntax::Encoding),
            (b"Digest realm=, nonce=x", AuthSyntax::Malformed),
        ];
        for (value, error) in cases {
            assert_eq!(AuthParams::parse(value), Err(error), "{}", String::from_utf8_lossy(value));
        }
        let many: String = (0..40).map(|n| format!("p{n}=1,")).collect();
        assert_eq!(AuthParams::parse(format!("Digest {many}z=1").as_bytes()), Err(AuthSyntax::TooLong));
    }
}
