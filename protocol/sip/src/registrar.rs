//! Registrar rules (RFC 3261 §10.3, RFC 5626 §6) as pure functions: what a REGISTER changes, what is then bound, what is
//! answered. Contact values are kept byte-exact, so what a UA said about itself is returned unchanged (REG-1).
//!
//! [`read`] needs no bindings, so a store can apply the [`Change`] in one operation; [`Change::apply`] is what it does then.
//! Authentication, and whose address-of-record it is, are decided before.

pub mod bounds;
pub mod contact;

pub use bounds::{ExpiresBounds, Profile, TooBrief};
pub use contact::binding_key;

use crate::header::Contacts;
use crate::message::{HeaderId, Message, unfold};
use crate::time::UnixMillis;

/// Contacts of one REGISTER.
pub const MAX_CONTACTS: usize = 8;
/// Bindings of one address-of-record.
pub const MAX_BINDINGS: usize = 16;

/// One contact that is bound to an address-of-record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// What makes it the same binding again: `+sip.instance` and `reg-id` when both are there, else the URI.
    pub key: String,
    /// The URI alone.
    pub uri: String,
    /// The Contact value as it came, but for `expires` and folds.
    pub contact: Vec<u8>,
    /// Until when; 0 in a [`Change`] means removal.
    pub expires_at: UnixMillis,
    /// The preference in thousandths; 1000 when it says none.
    pub q: u16,
    /// Call-ID of the REGISTER.
    pub call_id: String,
    /// CSeq number of the REGISTER.
    pub cseq: u32,
    /// Path values of the REGISTER, byte-exact, in order (RFC 3327).
    pub path: Vec<String>,
}

/// What a REGISTER wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// No Contact: the present bindings.
    Query,
    /// `Contact: *` with `Expires: 0`.
    RemoveAll {
        /// Call-ID of the REGISTER.
        call_id: String,
        /// CSeq number of the REGISTER.
        cseq: u32,
    },
    /// Add, refresh, and (where `expires_at` is 0) remove.
    Update(Vec<Binding>),
}

/// Why a REGISTER is refused. Nothing is changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterRefusal {
    /// 400 with this reason phrase.
    #[error("{0}")]
    BadRequest(&'static str),
    /// 423 with `Min-Expires`.
    #[error("Interval Too Brief")]
    TooBrief {
        /// For the header, in seconds.
        min_expires: u32,
    },
    /// 403: too many contacts in the request, or bindings of the address.
    #[error("Too Many Contacts")]
    TooMany,
    /// 500: an older request of the same Call-ID came later (§10.3, steps 6 and 7).
    #[error("CSeq Out Of Order")]
    OutOfOrder,
}

impl RegisterRefusal {
    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            RegisterRefusal::BadRequest(_) => 400,
            RegisterRefusal::TooBrief { .. } => 423,
            RegisterRefusal::TooMany => 403,
            RegisterRefusal::OutOfOrder => 500,
        }
    }
}

/// What is bound after a REGISTER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// All live bindings.
    pub bindings: Vec<Binding>,
    /// Contact values for the 200.
    pub contacts: Vec<Vec<u8>>,
    /// The 200 carries `Require: outbound` (RFC 5626 §6).
    pub outbound: bool,
}

/// The whole of §10.3 for one REGISTER and the present bindings. `random` spreads the expiry of pool members (REG-5).
///
/// # Errors
/// See [`RegisterRefusal`].
pub fn register(
    message: &Message,
    bindings: &[Binding],
    bounds: &ExpiresBounds,
    now: UnixMillis,
    random: u32,
) -> Result<Registered, RegisterRefusal> {
    let bindings = read(message, bounds, now, random)?.apply(bindings, now)?;
    let contacts = bindings.iter().map(|binding| answer_contact(binding, now)).collect();
    Ok(Registered { bindings, contacts, outbound: uses_outbound(message) })
}

/// What a REGISTER wants, within the bounds (§10.3, steps 6 and 7).
///
/// # Errors
/// `BadRequest`, `TooBrief`, `TooMany`.
pub fn read(
    message: &Message,
    bounds: &ExpiresBounds,
    now: UnixMillis,
    random: u32,
) -> Result<Change, RegisterRefusal> {
    let cseq = message.cseq().seq;
    let list = match message.contacts() {
        Contacts::Star => {
            return match message.expires() {
                Some(0) => Ok(Change::RemoveAll { call_id: message.call_id().to_owned(), cseq }),
                _ => Err(RegisterRefusal::BadRequest("Contact * Needs Expires 0")),
            };
        }
        Contacts::List(list) => list,
    };
    let path: Vec<String> =
        message.paths().map(|value| String::from_utf8_lossy(&unfold(value.raw())).into_owned()).collect();
    let mut changes: Vec<Binding> = Vec::new();
    for contact in list {
        if changes.len() == MAX_CONTACTS {
            return Err(RegisterRefusal::TooMany);
        }
        let key = binding_key(&contact);
        if changes.iter().any(|known| known.key == key) {
            return Err(RegisterRefusal::BadRequest("Contact Twice"));
        }
        let asked = contact.expires().or(message.expires());
        let expires_at = match bounds.grant(asked, random) {
            Ok(0) => UnixMillis(0),
            Ok(seconds) => now.plus_millis(u64::from(seconds) * 1000),
            Err(TooBrief { min_expires }) => return Err(RegisterRefusal::TooBrief { min_expires }),
        };
        changes.push(Binding {
            key,
            uri: contact.uri().to_owned(),
            contact: contact::without_expires(&contact),
            expires_at,
            q: contact.q().unwrap_or(1000),
            call_id: message.call_id().to_owned(),
            cseq,
            path: path.clone(),
        });
    }
    Ok(if changes.is_empty() { Change::Query } else { Change::Update(changes) })
}

impl Change {
    /// Applies the change to the present bindings, all of it or nothing. Those that have expired are dropped. A
    /// request that came before (same Call-ID and CSeq) gives the same result again.
    ///
    /// # Errors
    /// `OutOfOrder`, `TooMany`.
    pub fn apply(self, bindings: &[Binding], now: UnixMillis) -> Result<Vec<Binding>, RegisterRefusal> {
        let mut live: Vec<Binding> = bindings.iter().filter(|binding| binding.expires_at > now).cloned().collect();
        let older = |known: &Binding, call_id: &str, cseq: u32| known.call_id == call_id && cseq < known.cseq;
        match self {
            Change::Query => {}
            Change::RemoveAll { call_id, cseq } => {
                if live.iter().any(|known| older(known, &call_id, cseq)) {
                    return Err(RegisterRefusal::OutOfOrder);
                }
                live.clear();
            }
            Change::Update(changes) => {
                for new in changes {
                    let at = live.iter().position(|known| known.key == new.key);
                    if at.is_some_and(|at| older(&live[at], &new.call_id, new.cseq)) {
                        return Err(RegisterRefusal::OutOfOrder);
                    }
                    match (at, new.expires_at > now) {
                        (Some(at), true) => live[at] = new,
                        (Some(at), false) => {
                            live.remove(at);
                        }
                        (None, true) => live.push(new),
                        (None, false) => {}
                    }
                }
                if live.len() > MAX_BINDINGS {
                    return Err(RegisterRefusal::TooMany);
                }
            }
        }
        Ok(live)
    }
}

/// The Contact value of a binding for a 200: as it came, with the seconds that are left.
#[must_use]
pub fn answer_contact(binding: &Binding, now: UnixMillis) -> Vec<u8> {
    let left = binding.expires_at.0.saturating_sub(now.0).div_ceil(1000);
    let mut value = binding.contact.clone();
    value.extend_from_slice(format!(";expires={left}").as_bytes());
    value
}

/// Does this REGISTER make outbound bindings (RFC 5626 §6): `Supported: outbound`, instance and reg-id?
#[must_use]
pub fn uses_outbound(message: &Message) -> bool {
    message.list_has(HeaderId::Supported, "outbound")
        && message.contacts().iter().any(|contact| contact::outbound_key(&contact).is_some())
}

/// Is the first hop of an outbound registration one that keeps the flow (RFC 5626 §6): we ourselves, or an edge proxy whose Path
/// has `ob`? Else the answer is 439.
#[must_use]
pub fn first_hop_is_outbound(message: &Message) -> bool {
    if message.vias().nth(1).is_none() {
        return true;
    }
    // The hop next to the UA wrote its Path first, so it stands last.
    message.paths().last().is_some_and(|path| path.typed_uri().sip().is_some_and(|uri| uri.has_param("ob")))
}
