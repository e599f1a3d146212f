//! One Contact of a REGISTER: which binding it is, and its bytes.

use std::borrow::Cow;

use crate::header::NameAddr;
use crate::message::unfold;
use crate::uri::{SipUri, Uri};

/// The key of the binding that a Contact makes or refreshes: instance and reg-id (RFC 5626 §6), else the URI in a form in
/// which equal URIs are equal texts.
///
/// RFC 3261 §19.1.4 ignores a parameter that only one of two URIs has, which is no equivalence and so makes no key. Here
/// every parameter counts: `line=1` and `line=2` of one phone are two bindings.
#[must_use]
pub fn binding_key(contact: &NameAddr<'_>) -> String {
    outbound_key(contact).unwrap_or_else(|| match contact.typed_uri() {
        Uri::Sip(uri) => sip_key(&uri),
        Uri::Tel(_) | Uri::Other { .. } => contact.uri().to_owned(),
    })
}

pub(super) fn outbound_key(contact: &NameAddr<'_>) -> Option<String> {
    let instance = contact.param("+sip.instance")?;
    let reg_id: u32 = contact.param("reg-id")?.text().parse().ok().filter(|id| *id > 0)?;
    let instance = instance.text();
    // A URN compares without regard to case in its first two parts and, as a UUID, in the third too.
    let instance = if is_uuid(&instance) { instance.to_ascii_lowercase() } else { instance.into_owned() };
    (!instance.is_empty()).then(|| format!("{instance};reg-id={reg_id}"))
}

fn is_uuid(instance: &str) -> bool {
    instance.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("<urn:uuid:"))
}

fn sip_key(uri: &SipUri<'_>) -> String {
    let mut key = uri.aor();
    let mut params: Vec<String> = uri
        .params()
        .map(|(name, value)| match value {
            Some(value) => format!(";{}={}", name.to_ascii_lowercase(), value.to_ascii_lowercase()),
            None => format!(";{}", name.to_ascii_lowercase()),
        })
        .collect();
    params.sort_unstable();
    params.iter().for_each(|param| key.push_str(param));
    if let Some(headers) = uri.headers_str() {
        key.push('?');
        key.push_str(headers);
    }
    key
}

/// The value with all its bytes but the `expires` parameter and line folds.
pub(super) fn without_expires(contact: &NameAddr<'_>) -> Vec<u8> {
    let raw = contact.raw();
    let params = contact.params().as_bytes();
    // The parameters are the tail of the value.
    let (head, _) = raw.split_at(raw.len().saturating_sub(params.len()));
    let mut out = head.to_vec();
    for param in segments(params) {
        let name = param.get(1..).unwrap_or_default();
        let name = name.split(|&b| b == b'=').next().unwrap_or_default().trim_ascii();
        if !name.eq_ignore_ascii_case(b"expires") {
            out.extend_from_slice(param);
        }
    }
    let end = out.trim_ascii_end().len();
    out.truncate(end);
    match unfold(&out) {
        Cow::Borrowed(_) => out,
        Cow::Owned(unfolded) => unfolded,
    }
}

/// Cuts `;a;b="x;y"` before each semicolon outside quotes.
fn segments(params: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = params;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.iter().enumerate().position(|(at, &b)| {
            match b {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b';' if !quoted && at > 0 => return true,
                _ => {}
            }
            false
        });
        let (segment, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        Some(segment)
    })
}
