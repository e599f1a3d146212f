//! What policy makes of the MCP in a call between two legs. We are the UA that makes the offer and the answer (D9): what policy does not
//! change passes byte by byte, the rest says less. A call without MCP is one, too (NEG-4, NEG-5).

use bytes::Bytes;
use mcp_sip::envelope::{Negotiation, Step};
use mcp_sip::errors::{Code, RpcError};
use mcp_sip::headers::Capabilities;
use mcp_sip::jsonrpc::{self, Bounds, Envelope, Kind, ListOf};
use mcp_sip::policy::Request as Question;
use sip_proto::message::{HeaderId, Message};

use super::bodies::{Mcp, Parts};
use crate::answer::Answer;
use crate::call::plan::mode;
use crate::config::{AgentConfig, DomainConfig};
use crate::engine::Principal;
use crate::gate::{Caller, policies, policy_principal};
use crate::negotiate::{option_tags, shows};
use crate::page::rule_name;
use crate::request::Request;
use crate::state::EdgeState;

/// What goes to the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub mcp: Mcp,
    /// Tags and header fields of MCP pass.
    pub with_mcp: bool,
    /// `MCP-Capabilities`, where policy shortened it.
    pub capabilities: Option<String>,
    /// Conversation of the envelope.
    pub conversation: Option<String>,
}

/// What policy says of a message in the dialog.
#[derive(Debug)]
pub(super) enum Said {
    Pass,
    /// With this body.
    Shorter(Bytes),
    /// Not at all; for a request: this error goes back.
    Refused(Option<Bytes>),
    /// Not now: it is one too many. This error goes back.
    Limited(Bytes, RpcError),
}

fn speaks_mcp(message: &Message, domain: &DomainConfig, parts: &Parts) -> bool {
    let tags = option_tags(domain);
    let listed = message.list_values(HeaderId::Require).chain(message.list_values(HeaderId::Supported));
    tags.first_in(listed).is_some()
        || parts.mcp.is_some()
        || message.has(HeaderId::McpCapabilities)
        || message.has(HeaderId::McpSelect)
}

impl EdgeState {
    /// The INVITE of a caller who may see the address.
    ///
    /// # Errors
    /// 420 or 488 where MCP is required and denied for everybody, 403 where nothing is left for this caller, 400 for a broken envelope.
    pub(super) fn judge_offer(
        &mut self,
        request: &Request,
        caller: &Caller,
        agent: &AgentConfig,
        parts: &Parts,
    ) -> Result<Offer, Answer> {
        let (message, domain) = (&request.message, &caller.domain);
        let held = policies(agent, domain);
        let principal = policy_principal(&caller.principal);
        let plain = held.evaluate(&Question::plain_call(principal));
        // The rule that denies MCP to everybody leaves the call (NEG-4).
        let denied = held.mcp_denied_for_all();
        let (plain_allowed, plain_rule) = (plain.allowed || denied.is_some(), rule_name(&plain));
        let (name, who) = (domain.domain.clone(), caller.principal.as_str().to_owned());
        if !speaks_mcp(message, domain, parts) {
            if !plain_allowed {
                self.audit_refusal(request, &name, &who, &plain_rule, 403);
                return Err(Answer::new(403).phrase("Denied By Policy"));
            }
            return Ok(Offer::default());
        }
        let tags = option_tags(domain);
        let asked = tags.all_in(message.list_values(HeaderId::Require));
        if let Some(decision) = denied.or_else(|| held.nothing_left(principal)) {
            let rule = rule_name(&decision);
            let refusal = match () {
                () if !plain_allowed => Some(Answer::new(403).phrase("Denied By Policy")),
                () if !asked.is_empty() => Some(Answer::new(420).header(HeaderId::Unsupported, asked.join(", "))),
                () if parts.mcp_required => Some(Answer::new(488).warning(399, &name, "no MCP at this address")),
                () => None,
            };
            if let Some(answer) = refusal {
                self.audit_refusal(request, &name, &who, &rule, i64::from(answer.status));
                return Err(answer);
            }
            // The call goes on without MCP (NEG-4).
            return Ok(Offer { mcp: Mcp::Remove, ..Offer::default() });
        }
        let mut offer = Offer { with_mcp: true, ..Offer::default() };
        if let Some(body) = &parts.mcp {
            match Envelope::parse(body, &Bounds::default()) {
                Ok(envelope) => match self.take_said(&caller.principal, domain, agent, &envelope).0 {
                    Said::Refused(_) => {
                        self.audit_refusal(request, &name, &who, "default", 403);
                        return Err(Answer::new(403).phrase("Denied By Policy"));
                    }
                    Said::Limited(_, error) => {
                        self.audit_refusal(request, &name, &who, "default", error.code);
                        return Err(self.over_quota());
                    }
                    Said::Pass | Said::Shorter(_) => {}
                },
                Err(_) => {
                    match shorter_envelope(body, Step::Offer, agent, domain, &caller.principal)? {
                        Some((mcp, conversation)) => (offer.mcp, offer.conversation) = (mcp, Some(conversation)),
                        // Nothing of what is offered is permitted: without MCP, or not at all.
                        None if plain_allowed && !parts.mcp_required && asked.is_empty() => {
                            return Ok(Offer { mcp: Mcp::Remove, ..Offer::default() });
                        }
                        None => {
                            let warning = "nothing of what is offered is permitted";
                            return Err(Answer::new(488).warning(399, &name, warning));
                        }
                    }
                }
            }
        }
        offer.capabilities = shorter_header(message, agent, domain, &caller.principal);
        Ok(offer)
    }

    /// A 2xx of the agent: what of its answer this caller may have (SEC-11).
    pub(super) fn judge_answer(
        &self,
        message: &Message,
        parts: &Parts,
        agent: &AgentConfig,
        domain: &DomainConfig,
        principal: &Principal,
        offered: bool,
    ) -> Offer {
        if !offered {
            // Nothing was asked, so nothing is said.
            return Offer { mcp: Mcp::Remove, ..Offer::default() };
        }
        let tags = option_tags(domain);
        let listed =
            tags.first_in(message.list_values(HeaderId::Supported).chain(message.list_values(HeaderId::Require)));
        let mut out = Offer { with_mcp: listed.is_some() || parts.mcp.is_some(), ..Offer::default() };
        if let Some(body) = &parts.mcp
            && Envelope::parse(body, &Bounds::default()).is_err()
        {
            let offers = Negotiation::parse(body).is_ok_and(|n| n.step == Step::Offer);
            let step = if offers { Step::Offer } else { Step::Answer };
            match shorter_envelope(body, step, agent, domain, principal) {
                Ok(Some((mcp, conversation))) => (out.mcp, out.conversation) = (mcp, Some(conversation)),
                // What cannot be read is not shown.
                Ok(None) | Err(_) => out.mcp = Mcp::Remove,
            }
        }
        out.capabilities = shorter_header(message, agent, domain, principal);
        out
    }

    /// A JSON-RPC message between the legs; one without an id is judged by its method, too, because a server may run it all the same.
    /// `by_caller`: from the side that called; the other one is the agent, whose answers are shown as far as policy shows them.
    pub(super) fn judge_said(
        &self,
        principal: &Principal,
        domain: &DomainConfig,
        agent: &AgentConfig,
        envelope: &Envelope,
        by_caller: bool,
    ) -> Said {
        let held = policies(agent, domain);
        let who = policy_principal(principal);
        match (envelope.kind(), by_caller) {
            (kind @ (Kind::Request | Kind::Notification), true) => {
                let method = envelope.method().unwrap_or_default();
                let subject = envelope.subject();
                let arguments = held.arguments(envelope);
                let question = Question::method(who, method, subject.as_deref(), arguments.known());
                if held.evaluate(&question).allowed {
                    return Said::Pass;
                }
                if kind == Kind::Notification {
                    // Nobody answers what has no id.
                    return Said::Refused(None);
                }
                let error = match (method, subject.as_deref()) {
                    // Hidden and absent look alike.
                    ("tools/call", Some(tool)) if !shows(agent, domain, principal, tool) => {
                        RpcError::unknown_tool(tool)
                    }
                    (_, Some(subject)) => RpcError::denied(subject),
                    _ => RpcError::denied(method),
                };
                Said::Refused(Some(jsonrpc::error_response(envelope.id().as_ref(), &error)))
            }
            (Kind::Response, false) => {
                // A list says itself what it is; a result that has two of them is judged twice.
                let mut body = envelope.bytes().clone();
                for list in [ListOf::Tools, ListOf::Prompts, ListOf::Resources, ListOf::ResourceTemplates] {
                    let Ok(read) = Envelope::parse(&body, &Bounds::default()) else { return Said::Refused(None) };
                    let keep = |entry: &str| held.evaluate(&Question::show(who, list, entry)).allowed;
                    match read.filter_list(list, keep) {
                        Ok(filtered) => body = filtered.bytes,
                        Err(jsonrpc::ListError::Duplicate) => {
                            let error = RpcError::new(Code::InternalError, "The answer cannot be judged");
                            return Said::Shorter(jsonrpc::error_response(envelope.id().as_ref(), &error));
                        }
                        Err(_) => {}
                    }
                }
                if body == *envelope.bytes() { Said::Pass } else { Said::Shorter(body) }
            }
            _ => Said::Pass,
        }
    }
}

/// An envelope with the tools that this caller is shown; `None`: an offer of which nothing is left. The bytes stay where nothing is
/// hidden.
fn shorter_envelope(
    body: &Bytes,
    step: Step,
    agent: &AgentConfig,
    domain: &DomainConfig,
    principal: &Principal,
) -> Result<Option<(Mcp, String)>, Answer> {
    let bad = |text: &str| Answer::new(400).phrase(&format!("Bad MCP Envelope: {text}"));
    let mut envelope = Negotiation::parse(body).map_err(|error| bad(&error.to_string()))?;
    if envelope.step != step {
        return Err(bad("an answer where an offer belongs"));
    }
    let conversation = envelope.conversation.as_str().to_owned();
    let before = envelope.tools.len();
    envelope.tools.retain(|tool| shows(agent, domain, principal, &tool.name));
    if envelope.tools.len() == before {
        return Ok(Some((Mcp::Keep, conversation)));
    }
    if envelope.tools.is_empty() && envelope.schemas.is_empty() && step == Step::Offer {
        return Ok(None);
    }
    Ok(Some((Mcp::Replace(envelope.to_bytes()), conversation)))
}

/// `MCP-Capabilities` without the tools that policy hides; `None` where nothing is hidden, or nothing can be read.
fn shorter_header(
    message: &Message,
    agent: &AgentConfig,
    domain: &DomainConfig,
    principal: &Principal,
) -> Option<String> {
    if !message.has(HeaderId::McpCapabilities) {
        return None;
    }
    let read = Capabilities::parse_lines(message.headers(HeaderId::McpCapabilities), mode(domain)).ok()?;
    let hidden = |name: &str| !shows(agent, domain, principal, name);
    if !read.tools().any(|tool| hidden(&tool.name)) {
        return None;
    }
    let tools = read.tools().filter(|tool| !hidden(&tool.name)).cloned().collect();
    let schemas = read.schemas().map(str::to_owned).collect();
    let versions: Vec<&str> = read.versions().collect();
    Some(Capabilities::of(tools, schemas, &versions).to_string())
}
