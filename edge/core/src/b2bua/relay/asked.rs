//! The audit record of an MCP request between two legs (OBS-1): who asked whom for what, by which rule, and whether it was handed over.
//! What the far end makes of it is a message of its own, which may pass another edge.

use mcp_sip::jsonrpc::{Envelope, Kind};
use mcp_sip::policy::Request as Question;
use session_store::record::DialogRecord;
use sip_proto::message::HeaderId;

use super::{Relay, principal_of};
use crate::audit::{AuditKind, AuditRecord, Outcome};
use crate::config::{AgentConfig, DomainConfig};
use crate::effect::Effect;
use crate::gate::{policies, policy_principal};
use crate::page::rule_name;
use crate::request::Request;
use crate::state::EdgeState;
use crate::text::shown;

/// What is known of the request before it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    method: String,
    subject: Option<String>,
    rule: String,
    exchange: Option<String>,
    domain: String,
    principal: String,
    agent: String,
    conversation: Option<String>,
}

impl Asked {
    /// Of a request in the dialog of `record`; `ping` has no record, nor has what is no request.
    pub fn of(
        envelope: &Envelope,
        request: &Request,
        record: &DialogRecord,
        domain: &DomainConfig,
        agent: &AgentConfig,
    ) -> Option<Asked> {
        let method = envelope.method().filter(|method| envelope.kind() == Kind::Request && *method != "ping")?;
        let subject = envelope.subject();
        let principal = principal_of(record);
        let rule = if record.we_called {
            // The agent asks its caller: no rule is about that.
            "default".to_owned()
        } else {
            let held = policies(agent, domain);
            let arguments = held.arguments(envelope);
            let who = policy_principal(&principal);
            rule_name(&held.evaluate(&Question::method(who, method, subject.as_deref(), arguments.known())))
        };
        Some(Asked {
            method: shown(method),
            subject: subject.as_deref().map(shown),
            rule,
            exchange: request.message.header_str(HeaderId::McpExchange).map(shown),
            domain: domain.domain.clone(),
            principal: shown(principal.as_str()),
            agent: format!("sip:{}@{}", agent.user, agent.domain),
            conversation: record.mcp.as_ref().map(|mcp| mcp.conversation.clone()).filter(|uuid| !uuid.is_empty()),
        })
    }
}

impl EdgeState {
    /// The far end, or this one, has answered with that status.
    pub(super) fn asked_done(&mut self, relay: &Relay, status: u16) {
        let Some(asked) = relay.asked.clone() else { return };
        let outcome = match status {
            200..=299 => Outcome::Ok,
            401 | 403 | 407 => Outcome::Denied(i64::from(status)),
            _ => Outcome::Error(i64::from(status)),
        };
        let record = AuditRecord {
            at: self.now.wall,
            kind: if asked.method == "tools/call" { AuditKind::ToolCall } else { AuditKind::McpRequest },
            domain: asked.domain,
            principal: asked.principal,
            agent: asked.agent,
            method: Some(asked.method),
            tool: asked.subject,
            rule: asked.rule,
            outcome,
            call_id: shown(relay.request.message.call_id()),
            exchange: asked.exchange,
            conversation: asked.conversation,
            duration_us: Some(self.now.mono.0.saturating_sub(relay.request.received.mono.0)),
        };
        self.emit(Effect::Audit(record));
    }
}
