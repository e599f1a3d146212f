//! Sealed tokens: who a message is for is written in the message itself, so that any edge reads it without a look-up.
//!
//! Shape: one byte `kid`, then AES-SIV (RFC 5297) over the content, with the kind as associated data: a token of one kind never opens as
//! another. Deterministic: the same dialog has the same tag on every edge. Text: lower-case base32 in tags and branches, base64url in
//! user parts. A token names; it does not authorise. A bad seal is refused without touching the store.

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use session_store::key::{DialogKey, SLOTS};
use session_store::record::Owner;

use crate::config::TokenKey;
use crate::input::{ConnId, FlowKey, Transport};
use crate::text;

/// The version of the content.
const VERSION: u8 = 1;
/// No token of ours is longer, in text.
const MAX_TEXT: usize = 160;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our tag and the user part of our Contact.
    Dialog,
    /// A connection, for Path and for what a record remembers.
    Flow,
    /// The Via branch of a request that we sent.
    Branch,
    /// The To tag of a refusal of an INVITE: its ACK belongs to the edge that refused.
    Refusal,
    /// A temporary GRUU (RFC 5627).
    Gruu,
}

impl Kind {
    fn name(self) -> &'static [u8] {
        match self {
            Kind::Dialog => b"sipmcp dialog",
            Kind::Flow => b"sipmcp flow",
            Kind::Branch => b"sipmcp branch",
            Kind::Refusal => b"sipmcp refusal",
            Kind::Gruu => b"sipmcp gruu",
        }
    }
}

/// What a dialog token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialogToken {
    pub key: DialogKey,
    /// Opened without credentials: its requests come from the same flow and cannot be challenged.
    pub anonymous: bool,
    /// There is another leg: requests in it go to the bridge.
    pub bridged: bool,
}

/// What a flow token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowToken {
    pub owner: Owner,
    pub transport: Transport,
    pub listener: u16,
    pub flow: FlowKey,
}

/// What a branch token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchToken {
    pub pod: u64,
    pub epoch: u64,
    pub random: [u8; 16],
}

/// What the To tag of a refused INVITE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalToken {
    pub pod: u64,
    /// The life of the process.
    pub boot: u64,
    /// Keyed hash of the request.
    pub request: [u8; 16],
}

/// The start of every branch (RFC 3261 §8.1.1.7).
const COOKIE: &str = "z9hG4bK";

pub(crate) fn seal(keys: &[TokenKey], kind: Kind, content: &[u8]) -> Vec<u8> {
    let Some(key) = keys.first() else {
        unreachable!("a configuration without token keys is refused before it gets here")
    };
    let mut siv = Aes128Siv::new((&*key.siv).into());
    let Ok(sealed) = siv.encrypt([kind.name(), &[key.kid]], content) else {
        unreachable!("AES-SIV encrypts every content below 2^39 bytes with fewer than 127 headers (RFC 5297 §2.6)")
    };
    let mut out = Vec::with_capacity(1 + sealed.len());
    out.push(key.kid);
    out.extend(sealed);
    out
}

pub(crate) fn open(keys: &[TokenKey], kind: Kind, sealed: &[u8]) -> Option<Vec<u8>> {
    let (kid, sealed) = sealed.split_first()?;
    let key = keys.iter().find(|k| k.kid == *kid)?;
    Aes128Siv::new((&*key.siv).into()).decrypt([kind.name(), &[*kid]], sealed).ok()
}

/// A reader over the fixed fields of a content.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

impl DialogToken {
    fn sealed(&self, keys: &[TokenKey]) -> Vec<u8> {
        let mut content = Vec::with_capacity(22);
        content.extend([VERSION, u8::from(self.anonymous) | u8::from(self.bridged) << 1]);
        content.extend(self.key.tenant.to_be_bytes());
        content.extend(self.key.slot.to_be_bytes());
        content.extend(self.key.id);
        seal(keys, Kind::Dialog, &content)
    }

    /// The text for a To or From tag.
    #[must_use]
    pub fn tag(&self, keys: &[TokenKey]) -> String {
        text::base32(&self.sealed(keys))
    }

    /// The text for the user part of a Contact.
    #[must_use]
    pub fn user(&self, keys: &[TokenKey]) -> String {
        text::base64url(&self.sealed(keys))
    }

    fn opened(keys: &[TokenKey], sealed: &[u8]) -> Option<DialogToken> {
        let content = open(keys, Kind::Dialog, sealed)?;
        let mut fields = Fields(&content);
        let [version, flags] = fields.take()?;
        let tenant = u16::from_be_bytes(fields.take()?);
        let slot = u16::from_be_bytes(fields.take()?);
        let id = fields.take()?;
        let (anonymous, bridged) = (flags & 1 == 1, flags & 2 == 2);
        let token = DialogToken { key: DialogKey { slot, tenant, id }, anonymous, bridged };
        (version == VERSION && flags <= 3 && slot < SLOTS).then_some(())?;
        fields.end(token)
    }

    /// Reads a tag, in either case.
    #[must_use]
    pub fn from_tag(keys: &[TokenKey], tag: &str) -> Option<DialogToken> {
        bounded(tag).and_then(text::from_base32).and_then(|sealed| DialogToken::opened(keys, &sealed))
    }

    /// Reads the user part of our Contact.
    #[must_use]
    pub fn from_user(keys: &[TokenKey], user: &str) -> Option<DialogToken> {
        bounded(user).and_then(text::from_base64url).and_then(|sealed| DialogToken::opened(keys, &sealed))
    }
}

impl FlowToken {
    /// The text for a URI's user part or a record.
    #[must_use]
    pub fn text(&self, keys: &[TokenKey]) -> String {
        let mut content = vec![VERSION, transport_code(self.transport)];
        content.extend(self.listener.to_be_bytes());
        content.extend(self.owner.pod.to_be_bytes());
        content.extend(self.owner.epoch.to_be_bytes());
        content.extend(self.owner.boot.to_be_bytes());
        match &self.flow {
            FlowKey::Stream(ConnId(id)) => content.extend(id.to_be_bytes()),
            FlowKey::Datagram { remote, .. } => {
                content.extend(remote.port().to_be_bytes());
                match remote.ip() {
                    std::net::IpAddr::V4(ip) => content.extend(ip.octets()),
                    std::net::IpAddr::V6(ip) => content.extend(ip.octets()),
                }
            }
        }
        text::base64url(&seal(keys, Kind::Flow, &content))
    }

    /// Reads a flow token.
    #[must_use]
    pub fn from_text(keys: &[TokenKey], token: &str) -> Option<FlowToken> {
        let content = open(keys, Kind::Flow, &bounded(token).and_then(text::from_base64url)?)?;
        let mut fields = Fields(&content);
        let [version, code] = fields.take()?;
        let transport = TRANSPORTS.into_iter().find(|t| transport_code(*t) == code)?;
        let listener = u16::from_be_bytes(fields.take()?);
        let pod = u64::from_be_bytes(fields.take()?);
        let epoch = u64::from_be_bytes(fields.take()?);
        let boot = u64::from_be_bytes(fields.take()?);
        let flow = if transport == Transport::Udp {
            let port = u16::from_be_bytes(fields.take()?);
            let ip: std::net::IpAddr = match fields.0.len() {
                4 => fields.take::<4>()?.into(),
                _ => fields.take::<16>()?.into(),
            };
            FlowKey::Datagram { listener, remote: (ip, port).into() }
        } else {
            FlowKey::Stream(ConnId(u64::from_be_bytes(fields.take()?)))
        };
        (version == VERSION).then_some(())?;
        fields.end(FlowToken { owner: Owner { pod, epoch, boot }, transport, listener, flow })
    }
}

impl BranchToken {
    /// The text for a Via branch, with the cookie.
    #[must_use]
    pub fn branch(&self, keys: &[TokenKey]) -> String {
        let mut content = vec![VERSION];
        content.extend(self.pod.to_be_bytes());
        content.extend(self.epoch.to_be_bytes());
        content.extend(self.random);
        format!("{COOKIE}{}", text::base32(&seal(keys, Kind::Branch, &content)))
    }

    /// Reads a branch, in either case. `None`: it is not ours.
    #[must_use]
    pub fn from_branch(keys: &[TokenKey], branch: &str) -> Option<BranchToken> {
        let branch = bounded(branch)?;
        branch.get(..COOKIE.len()).filter(|start| start.eq_ignore_ascii_case(COOKIE))?;
        let content = open(keys, Kind::Branch, &text::from_base32(&branch[COOKIE.len()..])?)?;
        let mut fields = Fields(&content);
        let [version] = fields.take()?;
        let pod = u64::from_be_bytes(fields.take()?);
        let epoch = u64::from_be_bytes(fields.take()?);
        let random = fields.take()?;
        (version == VERSION).then_some(())?;
        fields.end(BranchToken { pod, epoch, random })
    }
}

impl RefusalToken {
    /// The text for a To tag.
    #[must_use]
    pub fn tag(&self, keys: &[TokenKey]) -> String {
        let mut content = vec![VERSION];
        content.extend(self.pod.to_be_bytes());
        content.extend(self.boot.to_be_bytes());
        content.extend(self.request);
        text::base32(&seal(keys, Kind::Refusal, &content))
    }

    /// Reads a tag, in either case.
    #[must_use]
    pub fn from_tag(keys: &[TokenKey], tag: &str) -> Option<RefusalToken> {
        let content = open(keys, Kind::Refusal, &bounded(tag).and_then(text::from_base32)?)?;
        let mut fields = Fields(&content);
        let [version] = fields.take()?;
        let pod = u64::from_be_bytes(fields.take()?);
        let boot = u64::from_be_bytes(fields.take()?);
        let request = fields.take()?;
        (version == VERSION).then_some(())?;
        fields.end(RefusalToken { pod, boot, request })
    }
}

const TRANSPORTS: [Transport; 5] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

fn transport_code(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
        Transport::Ws => 3,
        Transport::Wss => 4,
    }
}

fn bounded(text: &str) -> Option<&str> {
    (!text.is_empty() && text.len() <= MAX_TEXT).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    fn key(kid: u8) -> TokenKey {
        TokenKey { kid, siv: Zeroizing::new([kid; 32]), mac: Zeroizing::new([kid; 32]) }
    }

    fn dialog(id: [u8; 16]) -> DialogToken {
        DialogToken { key: DialogKey { slot: 1023, tenant: 7, id }, anonymous: false, bridged: id[0] & 1 == 1 }
    }

    #[test]
    fn the_same_dialog_has_the_same_tag_and_tags_ignore_case() {
        let keys = [key(1)];
        let token = dialog([9; 16]);
        let tag = token.tag(&keys);
        assert_eq!(tag, token.tag(&keys));
        assert_eq!(tag, tag.to_ascii_lowercase());
        assert!(tag.len() <= 64, "{}", tag.len());
        assert_eq!(DialogToken::from_tag(&keys, &tag.to_ascii_uppercase()), Some(token));
        assert_eq!(DialogToken::from_user(&keys, &token.user(&keys)), Some(token));
    }

    #[test]
    fn two_keys_live_at_once() {
        let (old, new) = ([key(1)], [key(2), key(1)]);
        let token = dialog([3; 16]);
        assert_eq!(DialogToken::from_tag(&new, &token.tag(&old)), Some(token));
        assert_eq!(DialogToken::from_tag(&old, &token.tag(&new)), None);
        assert_ne!(token.tag(&old), token.tag(&new));
    }

    #[test]
    fn one_kind_never_opens_as_another() {
        let keys = [key(1)];
        let branch = BranchToken { pod: 1, epoch: 2, random: [3; 16] };
        let text = branch.branch(&keys);
        assert_eq!(BranchToken::from_branch(&keys, &text.to_ascii_uppercase()), Some(branch));
        assert_eq!(DialogToken::from_tag(&keys, &text["z9hG4bK".len()..]), None);
        assert_eq!(BranchToken::from_branch(&keys, &format!("z9hG4bK{}", dialog([1; 16]).tag(&keys))), None);
        assert_eq!(BranchToken::from_branch(&keys, "z9hG4bK"), None);
        assert_eq!(BranchToken::from_branch(&keys, "1"), None);
    }

    #[test]
    fn the_tag_of_a_refusal_leads_back_and_is_no_dialog() {
        let keys = [key(1)];
        let token = RefusalToken { pod: 5, boot: u64::MAX, request: [6; 16] };
        let tag = token.tag(&keys);
        assert_eq!(RefusalToken::from_tag(&keys, &tag.to_ascii_uppercase()), Some(token));
        assert_eq!(DialogToken::from_tag(&keys, &tag), None);
        assert_eq!(RefusalToken::from_tag(&keys, &dialog([1; 16]).tag(&keys)), None);
    }

    #[test]
    fn flow_tokens_lead_back() {
        let keys = [key(1)];
        let owner = Owner { pod: 5, epoch: 6, boot: 7 };
        for (transport, flow) in [
            (Transport::Tls, FlowKey::Stream(ConnId(77))),
            (Transport::Udp, FlowKey::Datagram { listener: 2, remote: "192.0.2.1:5060".parse().unwrap() }),
            (Transport::Udp, FlowKey::Datagram { listener: 2, remote: "[2001:db8::1]:5062".parse().unwrap() }),
        ] {
            let token = FlowToken { owner, transport, listener: 2, flow };
            assert_eq!(FlowToken::from_text(&keys, &token.text(&keys)), Some(token));
        }
    }

    proptest! {
        #[test]
        fn a_changed_token_never_opens(id: [u8; 16], at in 0usize..61, with in "[a-z2-7]") {
            let keys = [key(1)];
            let tag = dialog(id).tag(&keys);
            let mut changed = tag.clone();
            changed.replace_range(at..=at, &with);
            prop_assert_eq!(DialogToken::from_tag(&keys, &changed).is_some(), changed == tag);
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let keys = [key(1)];
            prop_assert!(DialogToken::from_tag(&keys, &text).is_none());
            prop_assert!(DialogToken::from_user(&keys, &text).is_none());
            prop_assert!(FlowToken::from_text(&keys, &text).is_none());
            prop_assert!(BranchToken::from_branch(&keys, &text).is_none());
        }
    }
}
