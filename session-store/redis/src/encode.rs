//! Operations as function calls. The arguments are those that the comments in `functions/*.lua` number.

mod calls;
mod conversations;
mod dialogs;
mod edges;
mod exchanges;
mod registrations;

use redis::Cmd;
use session_store::Durability;
use session_store::key::{ConversationKey, DialogKey, Slot, Tenant};
use session_store::op::{NonceUse, StoreError, StoreOp};

use crate::library;
use crate::names::{Keys, hex};
use crate::vault::Vault;

/// Longest lifetime that is asked for: the server's own limit lies far beyond.
const MAX_TTL_MS: u64 = 10 * 366 * 86_400_000;

/// One call of a function.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    function: &'static str,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    /// `key` decides which server is asked.
    pub fn new(function: &'static str, key: String, prefix: &str, slot: Option<Slot>) -> Call {
        let slot = slot.map(|slot| slot.to_string()).unwrap_or_default();
        Call { function, keys: vec![key], args: vec![prefix.into(), slot.into_bytes()] }
    }

    pub fn key(mut self, key: String) -> Call {
        self.keys.push(key);
        self
    }

    pub fn bytes(mut self, arg: Vec<u8>) -> Call {
        self.args.push(arg);
        self
    }

    pub fn text(self, arg: impl ToString) -> Call {
        self.bytes(arg.to_string().into_bytes())
    }

    pub fn ttl(self, ms: u64) -> Call {
        self.text(ms.min(MAX_TTL_MS))
    }

    pub fn flag(self, on: bool) -> Call {
        self.text(u8::from(on))
    }

    /// The key that is hashed.
    pub fn routed_by(&self) -> &str {
        self.keys.first().map(String::as_str).unwrap_or_default()
    }

    /// As it is sent where an acknowledgement has this class. In a durable one the function writes in any case, so that the wait behind it is
    /// for all that it tells, whoever wrote that.
    pub fn command(&self, class: Durability) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command
            .arg(library::function(self.function, class != Durability::Memory))
            .arg(self.keys.len())
            .arg(&self.keys)
            .arg(&self.args);
        command
    }
}

/// How an operation is executed.
pub(crate) struct Plan {
    /// First, and only if it says yes: a nonce in a slot of its own.
    pub before: Option<Call>,
    pub main: Call,
    /// Sent together with `main`, in other slots.
    pub beside: Vec<Call>,
}

impl Plan {
    fn only(main: Call) -> Plan {
        Plan { before: None, main, beside: Vec::new() }
    }
}

/// Makes calls.
pub(crate) struct Encoder<'a> {
    pub vault: Vault<'a>,
    pub prefix: &'a str,
    /// Whether keys of two hash tags may be in two places.
    pub is_cluster: bool,
}

impl Encoder<'_> {
    fn keys(&self) -> Keys<'_> {
        Keys(self.prefix)
    }

    fn call(&self, function: &'static str, key: String, slot: Slot) -> Call {
        Call::new(function, key, self.prefix, Some(slot))
    }

    /// A call outside of the slot labels.
    fn tagged(&self, function: &'static str, key: String) -> Call {
        Call::new(function, key, self.prefix, None)
    }

    fn use_nonce(&self, nonce: &NonceUse) -> Call {
        let call = self.tagged("use_nonce", self.keys().nonce(&nonce.key));
        call.text(nonce.count).text(hex(&nonce.request)).ttl(nonce.ttl_ms.max(1))
    }

    /// Arguments 3 to 5. In a Cluster the nonce lies elsewhere and is counted before.
    fn with_nonce(&self, call: Call, nonce: Option<&NonceUse>) -> (Option<Call>, Call) {
        match nonce {
            None => (None, call.text("").text("").text("")),
            Some(nonce) if self.is_cluster => (Some(self.use_nonce(nonce)), call.text("").text("").text("")),
            Some(nonce) => {
                let call = call.key(self.keys().nonce(&nonce.key));
                (None, call.text(nonce.count).text(hex(&nonce.request)).ttl(nonce.ttl_ms.max(1)))
            }
        }
    }

    /// The directory of a conversation names these legs.
    pub fn list_legs(&self, conversation: &ConversationKey, ttl_ms: u64, legs: &[DialogKey]) -> Call {
        let call = self.tagged("list_legs", self.keys().conversation(conversation)).ttl(ttl_ms);
        legs.iter().fold(call, |call, leg| call.text(crate::names::leg(leg)))
    }

    /// The operation as calls. `FindCapability`, `Export` and `Erase` ask more than once and have methods of their own.
    ///
    /// # Errors
    /// `Unreadable` where names of one operation lie in two slots, or a record cannot be written.
    pub fn plan(&self, op: &StoreOp) -> Result<Plan, StoreError> {
        match op {
            StoreOp::UseNonce(nonce) => Ok(Plan::only(self.use_nonce(nonce))),
            StoreOp::Register { .. } | StoreOp::ReadBindings { .. } => self.registrations(op),
            StoreOp::OpenCall { .. }
            | StoreOp::PlaceLegs { .. }
            | StoreOp::EarlyCall { .. }
            | StoreOp::AnswerCall { .. }
            | StoreOp::RejectCall { .. }
            | StoreOp::CancelCall { .. } => self.calls(op),
            StoreOp::ReadDialog { .. }
            | StoreOp::Confirm { .. }
            | StoreOp::Begin { .. }
            | StoreOp::Commit { .. }
            | StoreOp::Terminate { .. }
            | StoreOp::NextCseq { .. }
            | StoreOp::UpdateDialog { .. }
            | StoreOp::Bury { .. }
            | StoreOp::RestoreDialog { .. } => self.dialogs(op),
            StoreOp::OpenExchange { .. }
            | StoreOp::CloseExchange(_)
            | StoreOp::NoteExchange { .. }
            | StoreOp::Once { .. }
            | StoreOp::ReadSession { .. }
            | StoreOp::WriteSession { .. }
            | StoreOp::DropSession { .. } => self.exchanges(op),
            StoreOp::TakeEpoch { .. }
            | StoreOp::Heartbeat { .. }
            | StoreOp::Leave { .. }
            | StoreOp::Adopt { .. }
            | StoreOp::TenantNumber { .. } => Ok(self.edges(op)),
            StoreOp::FindCapability { capability, limit } => Ok(Plan::only(self.offered(capability, 0, *limit))),
            StoreOp::Export { conversation } | StoreOp::Erase { conversation } => {
                Ok(Plan::only(self.legs(conversation)))
            }
        }
    }
}

/// All names of a call share its label.
fn same_slot(first: Slot, second: Slot) -> Result<(), StoreError> {
    if first == second {
        return Ok(());
    }
    Err(StoreError::Unreadable { reason: format!("names of one call under the labels {first} and {second}") })
}

/// Whose durability class holds; `None`: nobody's alone.
pub(crate) fn tenant(op: &StoreOp) -> Option<Tenant> {
    match op {
        StoreOp::UseNonce(nonce) => Some(nonce.key.tenant),
        StoreOp::Register { aor, .. } | StoreOp::ReadBindings { aor } => Some(aor.tenant),
        StoreOp::OpenCall { guard, .. }
        | StoreOp::PlaceLegs { guard, .. }
        | StoreOp::EarlyCall { guard, .. }
        | StoreOp::AnswerCall { guard, .. }
        | StoreOp::RejectCall { guard, .. }
        | StoreOp::CancelCall { guard } => Some(guard.tenant),
        StoreOp::ReadDialog { dialog }
        | StoreOp::Confirm { dialog }
        | StoreOp::Begin { dialog, .. }
        | StoreOp::Commit { dialog, .. }
        | StoreOp::Terminate { dialog, .. }
        | StoreOp::NextCseq { dialog, .. }
        | StoreOp::UpdateDialog { dialog, .. }
        | StoreOp::Bury { dialog }
        | StoreOp::RestoreDialog { dialog, .. } => Some(dialog.tenant),
        StoreOp::OpenExchange { open, .. } => Some(open.key.session.tenant),
        StoreOp::CloseExchange(close) => Some(close.key.session.tenant),
        StoreOp::NoteExchange { key, .. } | StoreOp::Once { key, .. } => Some(key.session.tenant),
        StoreOp::ReadSession { session, .. }
        | StoreOp::WriteSession { session, .. }
        | StoreOp::DropSession { session, .. } => Some(session.tenant),
        StoreOp::FindCapability { capability, .. } => Some(capability.tenant),
        StoreOp::Export { conversation } | StoreOp::Erase { conversation } => Some(conversation.tenant),
        StoreOp::TakeEpoch { .. }
        | StoreOp::Heartbeat { .. }
        | StoreOp::Leave { .. }
        | StoreOp::Adopt { .. }
        | StoreOp::TenantNumber { .. } => None,
    }
}

/// Whether no call waits for it: what an edge does for many calls at once, after a death or an outage or for an operator.
pub(crate) fn is_background(op: &StoreOp) -> bool {
    matches!(op, StoreOp::Adopt { .. } | StoreOp::RestoreDialog { .. } | StoreOp::Export { .. } | StoreOp::Erase { .. })
}

/// Whether nothing has to be durable: it reads, or renews a lease.
pub(crate) fn is_light(op: &StoreOp) -> bool {
    matches!(
        op,
        StoreOp::ReadBindings { .. }
            | StoreOp::ReadDialog { .. }
            | StoreOp::ReadSession { .. }
            | StoreOp::FindCapability { .. }
            | StoreOp::Export { .. }
            | StoreOp::Heartbeat { .. }
    )
}
