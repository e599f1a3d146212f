//! Requests that go on to an agent on another leg are metered like those of a declared one.

use mcp_sip::errors::RpcError;
use mcp_sip::jsonrpc::{self, Envelope, Kind};

use super::policy::Said;
use crate::answer::Answer;
use crate::config::{AgentConfig, DomainConfig};
use crate::engine::Principal;
use crate::state::EdgeState;
use sip_proto::message::HeaderId;

impl EdgeState {
    /// What the caller says, judged and metered.
    pub(super) fn take_said(
        &mut self,
        principal: &Principal,
        domain: &DomainConfig,
        agent: &AgentConfig,
        envelope: &Envelope,
    ) -> Said {
        match self.judge_said(principal, domain, agent, envelope, true) {
            Said::Refused(error) => Said::Refused(error),
            said => match self.meter_said(domain, envelope) {
                Ok(()) => said,
                Err(error) => Said::Limited(jsonrpc::error_response(envelope.id().as_ref(), &error), error),
            },
        }
    }

    fn meter_said(&mut self, domain: &DomainConfig, envelope: &Envelope) -> Result<(), RpcError> {
        let Some(method) = envelope.method().filter(|_| envelope.kind() == Kind::Request) else { return Ok(()) };
        self.with_engine(|engine, ctx| engine.meter(ctx, domain, method))
    }

    /// Before there is a conversation in which an error could be said: 480, because a quota is no statement about the server (sip.md,
    /// section 14).
    pub(super) fn over_quota(&mut self) -> Answer {
        let seconds = (1 + self.random.below(5)).to_string();
        Answer::new(480).phrase("Quota Reached").header(HeaderId::RetryAfter, seconds)
    }
}
