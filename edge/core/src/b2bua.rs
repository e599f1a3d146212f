//! Between two legs: calls to agents that register themselves (sip.md, section 2). One leg is a dialog with the caller, where we are the
//! UAS; the other one with the registered agent, where we are the UAC. Both stand in the store and name each other, so that any edge
//! serves a request of either side.
//!
//! What other parts hand over comes in here; [`DialogToken::bridged`] in our tag says that a dialog has another leg.

use session_store::key::{DialogKey, GuardKey};
use session_store::record::{CallLeg, DialogRecord};
use sip_proto::message::Message;

use crate::answer::Answer;
use crate::gate::Caller;
use crate::input::Flow;
use crate::request::Request;
use crate::router::Callee;
use crate::state::EdgeState;
use crate::token::DialogToken;

impl EdgeState {
    /// An INVITE to an address that is no declared agent of ours: to its bindings. No server transaction is open yet; `merged` is its
    /// merge key.
    #[allow(clippy::unused_self, clippy::needless_pass_by_value, reason = "the shape that its callers rely on")]
    pub(crate) fn bridge_call(
        &mut self,
        request: &Request,
        caller: Caller,
        callee: &Callee,
        merged: [u8; 16],
    ) -> Result<(), Answer> {
        let _ = (request, caller, callee, merged);
        Err(Answer::new(480))
    }

    /// A request (not ACK, not BYE) whose To tag is that of a dialog with another leg; nothing of it was checked yet.
    #[allow(clippy::unused_self, reason = "the shape that its callers rely on")]
    pub(crate) fn bridge_in_dialog(&mut self, request: &Request, token: DialogToken) -> Result<(), Answer> {
        let _ = (request, token);
        Err(Answer::new(481))
    }

    /// An ACK in a dialog with another leg.
    #[allow(clippy::unused_self, reason = "the shape that its callers rely on")]
    pub(crate) fn bridge_ack(&mut self, request: &Request, token: DialogToken) {
        let _ = (request, token);
    }

    /// One leg has its tombstone or its BYE (of the peer, or ours), and `record` is what it was: the other leg is `Terminating` in the
    /// store, and its BYE is to be sent.
    #[allow(clippy::unused_self, reason = "the shape that its callers rely on")]
    pub(crate) fn bridge_ended(&mut self, dialog: DialogKey, record: &DialogRecord) {
        let _ = (dialog, record);
    }

    /// The guard is cancelled, and the INVITE has its 487: the legs that were opened for it.
    #[allow(clippy::unused_self, clippy::needless_pass_by_value, reason = "the shape that its callers rely on")]
    pub(crate) fn bridge_cancel(&mut self, guard: GuardKey, dialog: DialogKey, legs: Vec<CallLeg>) {
        let _ = (guard, dialog, legs);
    }

    /// A call with legs that another edge left without a final response: ours now.
    #[allow(
        dead_code,
        clippy::unused_self,
        clippy::needless_pass_by_value,
        reason = "the shape that its callers rely on"
    )]
    pub(crate) fn bridge_adopt(&mut self, guard: GuardKey, dialog: DialogKey, invite: Message, legs: Vec<CallLeg>) {
        let _ = (guard, dialog, invite, legs);
    }

    /// A response to a request that no transaction here has. `true` where it was one to an INVITE of a leg: it is dealt with.
    #[allow(clippy::unused_self, reason = "the shape that its callers rely on")]
    pub(crate) fn bridge_response(&mut self, flow: &Flow, message: &Message) -> bool {
        let _ = (flow, message);
        false
    }
}
