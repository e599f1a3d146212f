//! Dialogs (RFC 3261 §12) as plain values that any store can keep: identity, route set, remote target, sequence numbers.
//! Both sides, early and confirmed, also forked ones; and the requests that are built from them.
//!
//! An edge that takes a dialog over needs nothing but its [`DialogState`].

pub mod forks;
pub mod id;
pub mod request;
pub mod uac;
pub mod uas;

pub use forks::{ForkEvent, Forks, MAX_FORKS};
pub use id::DialogId;
pub use request::{ack_failure, cancel};

use crate::header::NameAddr;
use crate::limits::CSEQ_MAX;
use crate::message::Message;
use crate::method::Method;
use crate::uri::Uri;

/// Everything that RFC 3261 §12 calls the state of a dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialogState {
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// The peer's tag; empty when an RFC 2543 peer has none.
    pub remote_tag: String,
    /// Our URI, as in From or To, without brackets.
    pub local_uri: String,
    /// The peer's URI.
    pub remote_uri: String,
    /// Where the peer is: the URI of its last Contact.
    pub remote_target: String,
    /// URIs in the order of `Route`, without brackets.
    pub route_set: Vec<String>,
    /// CSeq number of our last request; 0 before the first.
    pub local_cseq: u32,
    /// CSeq number of the peer's last request.
    pub remote_cseq: Option<u32>,
    /// CSeq number of the last INVITE of this dialog, for the ACK of its 2xx.
    pub invite_cseq: u32,
    /// Made over TLS with a `sips` URI: everything in it stays on TLS (§12.1.1, RFC 5630).
    pub secure: bool,
    /// Who sent the INVITE.
    pub role: Role,
    /// Where it stands.
    pub phase: Phase,
}

/// The name under which the rest of the house knows it.
pub type Dialog = DialogState;

/// Our part in the INVITE that made the dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We sent it.
    Uac,
    /// We received it.
    Uas,
}

/// Where a dialog stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// After a 101–199 with a tag.
    Early,
    /// After a 2xx.
    Confirmed,
    /// After BYE, or a response that ends it.
    Terminated,
}

/// Why no dialog can be made from a message: answer 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialogError {
    /// A response where a request is needed, or the reverse.
    #[error("wrong kind of message")]
    WrongMessage,
    /// No usable Contact: exactly one with a `sip` or `sips` URI is needed (§8.1.1.8).
    #[error("no usable Contact")]
    Contact,
    /// A Record-Route that is no `sip` or `sips` URI.
    #[error("no usable Record-Route")]
    RecordRoute,
    /// The response has no To tag.
    #[error("no To tag")]
    NoTag,
}

/// How a request's sequence number stands to the dialog's (§12.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CSeqCheck {
    /// Higher than all before: handle it.
    Next,
    /// The number of the last request: a copy that came by another way, or an ACK or CANCEL.
    Repeated,
    /// Lower: answer 500.
    TooOld,
}

impl DialogState {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> DialogId {
        DialogId {
            call_id: self.call_id.clone(),
            local_tag: self.local_tag.clone(),
            remote_tag: self.remote_tag.clone(),
        }
    }

    /// How `cseq` stands to the peer's last number; changes nothing.
    #[must_use]
    pub fn check_cseq(&self, cseq: u32) -> CSeqCheck {
        match self.remote_cseq {
            Some(last) if cseq < last => CSeqCheck::TooOld,
            Some(last) if cseq == last => CSeqCheck::Repeated,
            _ => CSeqCheck::Next,
        }
    }

    /// Takes note of a request of the peer. ACK and CANCEL carry their INVITE's number and change nothing.
    pub fn on_request(&mut self, request: &Message) -> CSeqCheck {
        let cseq = request.cseq();
        if matches!(cseq.method, Method::Ack | Method::Cancel) {
            return CSeqCheck::Repeated;
        }
        let check = self.check_cseq(cseq.seq);
        if check == CSeqCheck::Next {
            self.remote_cseq = Some(cseq.seq);
            if cseq.method == Method::Invite {
                self.invite_cseq = cseq.seq;
            }
        }
        check
    }

    /// The number for our next request; `None` when all are used (§8.1.1.5), which ends the dialog.
    pub fn next_cseq(&mut self) -> Option<u32> {
        let next = self.local_cseq.checked_add(1).filter(|next| *next <= CSEQ_MAX)?;
        self.local_cseq = next;
        Some(next)
    }

    /// Moves the remote target when `message` is a target refresh request of the peer, or a 2xx to one of ours, with
    /// one usable Contact (§12.2.1.2, §12.2.2). The route set never changes. Did it move?
    pub fn refresh_target(&mut self, message: &Message) -> bool {
        let counts = message.status().is_none_or(|status| (200..300).contains(&status));
        if !counts || !is_target_refresh(message.cseq().method) {
            return false;
        }
        match contact_uri(message) {
            Some(uri) if uri != self.remote_target => {
                self.remote_target = uri.to_owned();
                true
            }
            _ => false,
        }
    }

    /// The URI to locate for the next request (§8.1.2): the first route, else the remote target.
    #[must_use]
    pub fn next_hop(&self) -> &str {
        self.route_set.first().unwrap_or(&self.remote_target)
    }

    /// Must every hop use TLS?
    #[must_use]
    pub fn needs_tls(&self) -> bool {
        let sips = |uri: &str| uri.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("sips:"));
        self.secure || sips(&self.remote_target)
    }
}

/// Methods whose Contact moves the remote target: RFC 3261 §12.2, RFC 3311 §5.1, RFC 6665 §4.4.1, RFC 3515 §2.2.
#[must_use]
pub fn is_target_refresh(method: Method<'_>) -> bool {
    matches!(method, Method::Invite | Method::Update | Method::Subscribe | Method::Notify | Method::Refer)
}

/// Does this final response to a request in a dialog end the dialog (RFC 5057 §5.1), or the session in it (408, 481)?
#[must_use]
pub fn ends_dialog(status: u16) -> bool {
    matches!(status, 404 | 408 | 410 | 416 | 481 | 482 | 483 | 484 | 485 | 502 | 604)
}

/// The URI of the only Contact, when it is one that a request can be sent to.
fn contact_uri(message: &Message) -> Option<&str> {
    let mut contacts = message.contacts().iter();
    let (first, second) = (contacts.next()?, contacts.next());
    (second.is_none() && is_sip(&first)).then(|| first.uri())
}

fn is_sip(address: &NameAddr<'_>) -> bool {
    matches!(address.typed_uri(), Uri::Sip(_))
}

/// The URIs of Record-Route as they stand.
fn record_route(message: &Message) -> Result<Vec<String>, DialogError> {
    message
        .record_routes()
        .map(|route| if is_sip(&route) { Ok(route.uri().to_owned()) } else { Err(DialogError::RecordRoute) })
        .collect()
}

fn is_sips(uri: &str) -> bool {
    matches!(Uri::parse(uri), Ok(Uri::Sip(uri)) if uri.is_secure())
}
