//! Requests that go on to an agent on another leg are metered like those of a declared one. What is counted of them ends with the answer
//! that passes here, with a request that did not get there, or with the time that the agent has for a request.

use mcp_sip::jsonrpc::{self, Envelope, Kind};
use sip_proto::message::HeaderId;

use super::policy::Said;
use crate::answer::Answer;
use crate::config::{AgentConfig, DomainConfig};
use crate::engine::{Metered, Principal};
use crate::state::EdgeState;

impl EdgeState {
    /// What the caller says, judged and metered; with the number of its places, where it has some.
    pub(super) fn take_said(
        &mut self,
        principal: &Principal,
        domain: &DomainConfig,
        agent: &AgentConfig,
        envelope: &Envelope,
    ) -> (Said, Option<u64>) {
        let said = self.judge_said(principal, domain, agent, envelope, true);
        let request = Metered { principal, domain, agent, envelope };
        match envelope.kind() {
            _ if matches!(said, Said::Refused(_)) => return (said, None),
            Kind::Request => {}
            // A server may run what has no id all the same, and nobody would hear of its end: what is counted needs one.
            Kind::Notification if request.is_counted() => return (Said::Refused(None), None),
            Kind::Notification | Kind::Response | Kind::Error => return (said, None),
        }
        match self.with_engine(|engine, ctx| engine.meter(ctx, request)) {
            Ok(places) => (said, places),
            Err(error) => (Said::Limited(jsonrpc::error_response(envelope.id().as_ref(), &error), error), None),
        }
    }

    /// What an agent says to a caller may be the answer to a call that is counted.
    pub(super) fn agent_said(&mut self, principal: &Principal, agent: &AgentConfig, envelope: &Envelope) {
        if matches!(envelope.kind(), Kind::Response | Kind::Error) {
            self.engine.relayed_answer(principal, agent, envelope);
        }
    }

    /// A request with these places did not get there.
    pub(super) fn leave_places(&mut self, places: Option<u64>) {
        if let Some(number) = places {
            self.engine.relayed_over(number);
        }
    }

    /// Before there is a conversation in which an error could be said: 480, because a quota is no statement about the server (sip.md,
    /// section 14).
    pub(super) fn over_quota(&mut self) -> Answer {
        let seconds = (1 + self.random.below(5)).to_string();
        Answer::new(480).phrase("Quota Reached").header(HeaderId::RetryAfter, seconds)
    }
}
