//! Calls that end without a dialog: cancelled, given up, refused by every target.

use bytes::Bytes;
use session_store::key::GuardKey;
use session_store::op::StoreOp;
use sip_proto::message::{HeaderId, Message};

use super::Stage;
use crate::answer::Answer;
use crate::b2bua::legs::{BridgeLeg, LegState};
use crate::request::Request;
use crate::state::EdgeState;

impl EdgeState {
    /// The caller has its 487: what rings is cancelled, and nobody else is called.
    pub(crate) fn setup_cancelled(&mut self, call: u64) {
        self.cancel_ringing(call, None);
        self.setup_over(call);
    }

    /// Nobody answered in time (Timer C).
    pub(crate) fn setup_timeout(&mut self, call: u64) {
        self.cancel_ringing(call, None);
        self.setup_refused(call, &Answer::new(408));
    }

    /// A leg has failed for good; `6xx` ends the whole call (RFC 3261 §16.7 step 5).
    pub(crate) fn leg_out(&mut self, call: u64, status: u16, message: Option<&Message>) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        let better = setup.best.as_ref().is_none_or(|(best, _)| preference(status) < preference(*best));
        if better {
            setup.best = Some((status, message.cloned()));
        }
        if status >= 600 {
            setup.groups.clear();
            self.cancel_ringing(call, None);
            return self.setup_exhausted(call);
        }
        let open = |leg: &BridgeLeg| !matches!(leg.state, LegState::Failed);
        if setup.stage == Stage::Trying && !setup.legs.iter().any(open) {
            self.next_group(call);
        }
    }

    /// No target is left: the best answer there was.
    pub(super) fn setup_exhausted(&mut self, call: u64) {
        let Some(setup) = self.bridges.calls.get_mut(&call) else { return };
        let best = setup.best.take();
        let Some(setup) = self.bridges.calls.get(&call) else { return };
        let Some((status, message)) = best else {
            return self.setup_refused(call, &Answer::new(480).phrase("Not Registered"));
        };
        // Redirections are not followed, nobody's credentials are asked for but ours, and a 503 is the agent's, not ours (§16.7).
        let mapped = match status {
            300..=399 | 401 | 407 | 430 => 480,
            503 => 500,
            other => other,
        };
        let Some(message) = message.filter(|_| mapped == status) else {
            return self.setup_refused(call, &Answer::new(mapped));
        };
        let (request, guard) = (setup.request.clone(), setup.guard);
        let tag = self.leg_tag(setup.dialog, &setup.caller);
        let session_id = self.passed_session_id(
            crate::session_id::remote(&message).as_deref(),
            message.call_id(),
            crate::session_id::remote(&request.message).as_deref(),
        );
        let domain = setup.caller.domain.domain.clone();
        let with_mcp = setup.offer.with_mcp;
        let lines = vec![(HeaderId::SessionId, session_id)];
        let bytes = self.passed_response(&request, &tag, status, &message, &domain, with_mcp, lines, None);
        self.setup_over(call);
        self.finish_refused(&request, guard, status, bytes);
    }

    /// The final answer is no 2xx, and it is ours.
    pub(crate) fn setup_refused(&mut self, call: u64, answer: &Answer) {
        let Some(setup) = self.setup_over(call) else { return };
        let tag = self.leg_tag(setup.dialog, &setup.caller);
        let bytes = answer.build(&setup.request.message, &setup.request.flow, &tag);
        self.finish_refused(&setup.request, setup.guard, answer.status, bytes);
    }

    fn finish_refused(&mut self, request: &Request, guard: GuardKey, status: u16, bytes: Bytes) {
        let operation = StoreOp::RejectCall { guard, owner: self.owner, response: bytes.clone() };
        self.store(operation, crate::waiting::Waiting::Nobody);
        if self.is_waiting(request) {
            self.answer_bytes(request, status, bytes);
        }
    }
}

/// Lower is better: 6xx, then the classes in order, and in 4xx what the caller can do something about (§16.7 step 6).
fn preference(status: u16) -> u16 {
    match status {
        600.. => 0,
        415 | 420 | 484 | 488 => 400,
        408 | 430 | 480 => 499,
        401 | 407 => 490,
        300..=399 => 498,
        400..=499 => 450,
        _ => 500,
    }
}
