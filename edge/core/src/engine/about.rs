//! What is told about a request: one audit record, one pair of spans, one count. Names and ids, never a payload (SEC-11).

use std::sync::Arc;

use mcp_sip::exchange::{Exchange, McpExchange};
use mcp_sip::jsonrpc::{Envelope, Kind};
use sip_proto::time::Now;

use super::trace::Trace;
use super::types::Leg;
use crate::audit::{AuditKind, AuditRecord, Outcome, Span, SpanKind};
use crate::text;

/// Who asks whom for what, by which rule.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub leg: Arc<Leg>,
    pub method: String,
    pub subject: Option<String>,
    pub rule: String,
    pub exchange: Option<String>,
    pub received: Now,
    pub trace: Trace,
}

impl About {
    pub(super) fn new(
        leg: &Arc<Leg>,
        envelope: &Envelope,
        header: Option<&McpExchange>,
        rule: String,
        received: Now,
        trace: Trace,
    ) -> About {
        About {
            leg: leg.clone(),
            method: envelope.method().unwrap_or_default().to_owned(),
            subject: envelope.subject().map(|subject| subject.into_owned()),
            rule,
            exchange: header.and_then(|header| match header.exchange {
                Exchange::Id(id) => Some(id.to_string()),
                Exchange::Session => None,
            }),
            received,
            trace,
        }
    }

    /// namespace/name of the agent.
    pub(super) fn agent_key(&self) -> &str {
        &self.leg.agent.key
    }

    /// The tool, if its agent declares it.
    pub(super) fn declared_tool(&self) -> Option<&str> {
        let tool = self.subject.as_deref().filter(|_| self.is_tool_call())?;
        self.leg.agent.capabilities.tools.iter().any(|declared| declared.name == tool).then_some(tool)
    }

    fn conversation(&self) -> Option<&str> {
        self.leg.mcp.as_ref().map(|mcp| mcp.conversation.as_str())
    }

    pub(super) fn is_tool_call(&self) -> bool {
        self.method == "tools/call"
    }

    /// The record. `ping` alone has none.
    pub(super) fn record(&self, now: Now, outcome: Outcome) -> Option<AuditRecord> {
        if self.method == "ping" {
            return None;
        }
        Some(AuditRecord {
            at: now.wall,
            kind: if self.is_tool_call() { AuditKind::ToolCall } else { AuditKind::McpRequest },
            domain: self.leg.domain.domain.clone(),
            principal: self.leg.principal.as_str().to_owned(),
            agent: address(&self.leg),
            method: Some(text::shown(&self.method)),
            tool: self.subject.as_deref().map(text::shown),
            rule: self.rule.clone(),
            outcome,
            call_id: text::shown(&self.leg.call_id),
            exchange: self.exchange.clone(),
            conversation: self.conversation().map(str::to_owned),
            duration_us: Some(self.duration_us(now)),
        })
    }

    pub(super) fn duration_us(&self, now: Now) -> u64 {
        now.mono.0.saturating_sub(self.received.mono.0)
    }

    /// The span of the request, and that of the backend call inside it.
    pub(super) fn spans(&self, now: Now, forwarded: Option<Now>, outcome: &Outcome) -> Vec<Span> {
        if !self.trace.is_sampled() {
            return Vec::new();
        }
        let name = match self.subject.as_deref().filter(|_| self.is_tool_call()) {
            Some(tool) => format!("{} {}", text::shown(&self.method), text::shown(tool)),
            None => text::shown(&self.method),
        };
        let error = !matches!(outcome, Outcome::Ok | Outcome::Cancelled);
        let mut attributes = vec![
            ("mcp.method.name", text::shown(&self.method)),
            ("sip.call_id", text::shown(&self.leg.call_id)),
            ("sipmcp.agent", address(&self.leg)),
            ("sipmcp.rule", self.rule.clone()),
        ];
        if let Some(tool) = self.subject.as_deref().filter(|_| self.is_tool_call()) {
            attributes.push(("gen_ai.tool.name", text::shown(tool)));
            attributes.push(("gen_ai.operation.name", "execute_tool".into()));
        }
        if let Some(exchange) = &self.exchange {
            attributes.push(("sipmcp.exchange", exchange.clone()));
        }
        if let Some(conversation) = self.conversation() {
            attributes.push(("gen_ai.conversation.id", conversation.to_owned()));
        }
        match outcome {
            Outcome::Error(code) | Outcome::Denied(code) => {
                attributes.push(("rpc.jsonrpc.error_code", code.to_string()))
            }
            Outcome::ToolError => attributes.push(("error.type", "tool_error".into())),
            Outcome::Ok | Outcome::Cancelled => {}
        }
        let span = |kind, span_id, parent, start| Span {
            name: name.clone(),
            trace_id: self.trace.id,
            span_id,
            parent,
            kind,
            start,
            end: now.wall,
            attributes: attributes.clone(),
            error,
        };
        let mut spans = Vec::with_capacity(2);
        if let Some(at) = forwarded {
            spans.push(span(SpanKind::Client, self.trace.client, Some(self.trace.server), at.wall));
        }
        spans.push(span(SpanKind::Server, self.trace.server, self.trace.parent, self.received.wall));
        spans
    }
}

/// `sip:echo@demo.example`
pub(super) fn address(leg: &Leg) -> String {
    format!("sip:{}@{}", leg.agent.user, leg.agent.domain)
}

/// What a final answer of the backend means for the record.
pub(super) fn outcome_of(envelope: &Envelope, is_tool_call: bool) -> Outcome {
    /// The one member of a tool result that says whether the tool failed.
    #[derive(serde::Deserialize)]
    struct ToolResult {
        #[serde(default, rename = "isError")]
        is_error: bool,
    }
    match envelope.kind() {
        Kind::Error => Outcome::Error(envelope.error_code().unwrap_or_default()),
        _ if is_tool_call => {
            let result = envelope.result().and_then(|raw| serde_json::from_slice::<ToolResult>(&raw).ok());
            if result.is_some_and(|result| result.is_error) { Outcome::ToolError } else { Outcome::Ok }
        }
        _ => Outcome::Ok,
    }
}
