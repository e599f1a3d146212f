//! GRUUs (RFC 5627): an address of one instance of a UA, whatever connection it has at the moment. The public one is the address of record
//! with the instance in `gr`; the temporary one hides both in a sealed user part, and ends with the Call-ID of the registration.

use session_store::record::Binding;
use sip_proto::header::NameAddr;
use sip_proto::uri::{SipUri, unescape};

use crate::random::keyed_hash;
use crate::state::EdgeState;
use crate::text;
use crate::token::{Kind, open, seal};

/// What a temporary GRUU's user part begins with (as in RFC 5627 §3.1.2).
const TEMPORARY: &str = "tgruu.";
const VERSION: u8 = 1;
/// A longer user part is none of ours.
const MAX_USER: usize = 512;

/// The instance in a Contact (`+sip.instance`), without its angle brackets.
pub(crate) fn instance(contact: &[u8]) -> Option<String> {
    let contact = NameAddr::parse(contact).ok()?;
    let value = contact.param("+sip.instance")?.text().into_owned();
    let inner = value.strip_prefix('<').and_then(|v| v.strip_suffix('>')).unwrap_or(&value);
    (!inner.is_empty()).then(|| inner.to_owned())
}

/// `reg-id` of a Contact (RFC 5626 §4.2).
pub(crate) fn reg_id(contact: &[u8]) -> Option<u32> {
    NameAddr::parse(contact).ok()?.param("reg-id")?.text().parse().ok()
}

/// UUIDs in URNs are compared without regard to case (RFC 8141 §3.1).
pub(crate) fn same_instance(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// A value as a URI parameter may hold it (RFC 3261 §25.1, `pvalue`).
fn as_parameter(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()[]/:&+$".contains(&b);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Whom a GRUU of ours names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The user part of the address of record, unescaped.
    pub user: String,
    pub instance: String,
    /// Temporary: of the registration with this Call-ID only.
    registration: Option<[u8; 8]>,
}

impl EdgeState {
    fn registration_hash(&self, call_id: &str) -> [u8; 8] {
        let mut out = [0; 8];
        out.copy_from_slice(&keyed_hash(&*self.config.naming_key, "registration", &[call_id.as_bytes()])[..8]);
        out
    }

    /// Public and temporary GRUU of a binding with an instance; `user` is that of its address of record.
    pub(crate) fn gruus(&self, aor: &str, user: &str, domain: &str, binding: &Binding) -> Option<(String, String)> {
        let instance = instance(&binding.contact)?;
        let public = format!("{aor};gr={}", as_parameter(&instance));
        let mut content = vec![VERSION];
        content.extend(self.registration_hash(&binding.call_id));
        content.extend(user.as_bytes());
        content.push(0);
        content.extend(instance.as_bytes());
        let sealed = text::base64url(&seal(&self.config.token_keys, Kind::Gruu, &content));
        (sealed.len() < MAX_USER).then(|| (public, format!("sip:{TEMPORARY}{sealed}@{domain};gr")))
    }

    /// What a URI of a domain of ours names where it is a GRUU: `gr` with a value, or a sealed user part. `Err`: it looks like a temporary
    /// one and does not open.
    pub(crate) fn gruu(&self, uri: &SipUri<'_>) -> Result<Option<Named>, ()> {
        let Some(user) = uri.user_unescaped() else { return Ok(None) };
        if let Some(sealed) = user.strip_prefix(TEMPORARY) {
            return self.temporary(sealed).map(Some).ok_or(());
        }
        let named = uri.param("gr").filter(|gr| !gr.is_empty()).map(|gr| Named {
            user: user.into_owned(),
            instance: unescape(gr.as_bytes()).into_owned(),
            registration: None,
        });
        Ok(named)
    }

    fn temporary(&self, sealed: &str) -> Option<Named> {
        let sealed = (sealed.len() <= MAX_USER).then(|| text::from_base64url(sealed)).flatten()?;
        let content = open(&self.config.token_keys, Kind::Gruu, &sealed)?;
        let (version, rest) = content.split_first()?;
        let (registration, rest) = rest.split_first_chunk::<8>()?;
        let at = rest.iter().position(|b| *b == 0)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let named =
            Named { user: text(&rest[..at])?, instance: text(&rest[at + 1..])?, registration: Some(*registration) };
        (*version == VERSION).then_some(named)
    }

    /// Whether a binding is what a GRUU names.
    pub(crate) fn is_named(&self, named: &Named, binding: &Binding) -> bool {
        instance(&binding.contact).is_some_and(|own| same_instance(&own, &named.instance))
            && named.registration.is_none_or(|hash| hash == self.registration_hash(&binding.call_id))
    }
}
