//! MESSAGE out of a dialog (RFC 3428; mcp.md, section 5.4): journal, 200 without a body, then the answer as a MESSAGE of its own.

use std::sync::Arc;

use mcp_sip::exchange::McpExchange;
use session_store::key::{SLOTS, SessionKey};
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::PeerFlow;
use sip_proto::message::HeaderId;

use crate::answer::Answer;
use crate::config::AgentConfig;
use crate::engine::{Carrier, Engine, Inbound, Leg, LegKey, Principal, SipAnswer, Ticket, Verdict, Way, Written};
use crate::gate::{Caller, policies, policy_principal, source};
use crate::input::{FlowKey, Transport};
use crate::negotiate::option_tags;
use crate::random::keyed_hash;
use crate::request::Request;
use crate::state::EdgeState;
use crate::token::FlowToken;
use crate::waiting::Waiting;

/// The media type of MCP.
pub(crate) const MCP_JSON: &str = mcp_sip::MEDIA_TYPE;

/// How long a message without an answer is known, so that its repetition has no second effect: 64·T1.
const ONCE_MS: u64 = 32_000;

/// A MESSAGE whose write is under way.
#[derive(Debug)]
pub(crate) struct Page {
    pub request: Request,
    pub caller: Caller,
    pub ticket: Ticket,
}

impl EdgeState {
    /// A MESSAGE to a declared agent, from a caller who may see it.
    pub(crate) fn on_page(
        &mut self,
        request: &Request,
        caller: Caller,
        agent: &Arc<AgentConfig>,
        merged: [u8; 16],
    ) -> Result<(), Answer> {
        self.check_require(request, &caller, agent, &[])?;
        let body = self.mcp_body(request, &caller)?;
        if caller.principal == Principal::Anonymous && !caller.proven {
            // The answer would go to an address that nobody has proven to be the sender's: no reflection.
            return Err(self.challenge(&caller.domain, false));
        }
        let exchange = self.exchange_header(request)?;
        let leg = self.page_leg(request, &caller, agent);
        let inbound =
            Inbound { leg: leg.clone(), exchange, body, transaction: request.transaction, received: request.received };
        let (ticket, open, once) = match self.with_engine(|engine, ctx| engine.judge(ctx, inbound)) {
            Verdict::Refuse { status, phrase } => return Err(Answer::new(status).phrase(phrase)),
            Verdict::Write { ticket, open, once } => (ticket, open, once),
        };
        let mut request = request.clone();
        match self.open_server(&request.flow, &request.message, merged) {
            Some(id) => request.server = Some(id),
            None => {
                self.engine.abandon(ticket);
                self.stats.limit("serverTransactions");
                return Err(self.unavailable("Too Many Transactions"));
            }
        }
        self.remember_route(&request, &caller, leg.key);
        let nonce = caller.nonce.clone();
        let operation = match (open, once, nonce) {
            (Some(open), _, nonce) => StoreOp::OpenExchange { open, nonce },
            (None, Some(key), nonce) => StoreOp::Once { key, ttl_ms: ONCE_MS, nonce },
            (None, None, Some(nonce)) => StoreOp::UseNonce(nonce),
            (None, None, None) => {
                let answer = self.redeem(ticket, Ok(Written::Claimed));
                self.answer_sip(&request, answer);
                return Ok(());
            }
        };
        self.store(operation, Waiting::Page(Box::new(Page { request, caller, ticket })));
        Ok(())
    }

    /// The write was answered: 200, or what the engine or the store says instead.
    pub(crate) fn page_written(&mut self, page: Page, reply: Result<StoreReply, StoreError>) {
        let Page { request, caller, ticket } = page;
        let outcome = match reply {
            Ok(StoreReply::NonceReplayed) => {
                self.engine.abandon(ticket);
                self.stats.failed_authentications += 1;
                let answer = self.challenge(&caller.domain, true);
                return self.answer(&request, &answer);
            }
            Ok(StoreReply::Exchange(outcome)) => Ok(Written::Exchange(outcome)),
            Ok(StoreReply::First(first)) => Ok(Written::First(first)),
            Ok(_) => Ok(Written::Claimed),
            Err(error) => Err(error),
        };
        if outcome.is_ok() {
            self.authenticated(&request, &caller);
        }
        let is_away = outcome.is_err();
        let answer = self.redeem(ticket, outcome);
        self.answer_sip(&request, answer);
        if is_away {
            self.missed(&request);
        } else {
            self.not_missed(&request);
        }
    }

    pub(crate) fn redeem(&mut self, ticket: Ticket, outcome: Result<Written, StoreError>) -> SipAnswer {
        self.with_engine(|engine, ctx| Engine::written(engine, ctx, ticket, outcome))
    }

    /// The engine's answer as a SIP one.
    pub(crate) fn sip_answer(&mut self, answer: SipAnswer) -> Answer {
        let SipAnswer { status, phrase, retry_after } = answer;
        match (status, retry_after) {
            (503, None) => self.unavailable(phrase),
            (_, Some(seconds)) => Answer::new(status).phrase(phrase).header(HeaderId::RetryAfter, seconds.to_string()),
            (_, None) => Answer::new(status).phrase(phrase),
        }
    }

    fn answer_sip(&mut self, request: &Request, answer: SipAnswer) {
        let answer = self.sip_answer(answer);
        self.answer(request, &answer);
    }

    /// The MCP body of a MESSAGE or INFO: media type 415, size 413.
    pub(crate) fn mcp_body(&mut self, request: &Request, caller: &Caller) -> Result<bytes::Bytes, Answer> {
        let message = &request.message;
        let is_mcp = message.content_type().is_some_and(|content| content.is(MCP_JSON));
        if !is_mcp {
            return Err(Answer::unsupported_media(MCP_JSON));
        }
        if message.has(HeaderId::ContentEncoding) {
            return Err(Answer::unsupported_media(MCP_JSON).header(HeaderId::AcceptEncoding, "identity"));
        }
        let body = message.body();
        let limit = self.body_limit(&caller.domain);
        if body.len() > limit {
            self.stats.limit("sipBodyBytes");
            return Err(Answer::new(413));
        }
        Ok(body)
    }

    /// Most bytes of a SIP body for this domain.
    pub(crate) fn body_limit(&self, domain: &crate::config::DomainConfig) -> usize {
        let limits = &self.config.edge.limits;
        let of_domain = domain.max_payload_bytes.unwrap_or(usize::MAX);
        limits.sip_body_bytes.min(limits.message_bytes).min(of_domain)
    }

    /// `MCP-Exchange`; a value that breaks its grammar is refused, not guessed (security.md, rule 4).
    pub(crate) fn exchange_header(&self, request: &Request) -> Result<Option<McpExchange>, Answer> {
        let mut values = request.message.headers(HeaderId::McpExchange);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Answer::new(400).phrase("More Than One MCP-Exchange"));
        }
        match McpExchange::parse(value) {
            Ok(exchange) => Ok(Some(exchange)),
            Err(_) => Err(Answer::new(400).phrase("Bad MCP-Exchange")),
        }
    }

    /// `Require` and the rules that hold for everybody at this address: 420, then 403. `also` are the tags that this method knows.
    pub(crate) fn check_require(
        &mut self,
        request: &Request,
        caller: &Caller,
        agent: &AgentConfig,
        also: &[&str],
    ) -> Result<(), Answer> {
        let tags = option_tags(&caller.domain);
        let required: Vec<&str> = request.message.list_values(HeaderId::Require).collect();
        let unknown: Vec<&str> = required
            .iter()
            .copied()
            .filter(|tag| !tags.is_mcp(tag) && !also.iter().any(|known| known.eq_ignore_ascii_case(tag)))
            .collect();
        if !unknown.is_empty() {
            return Err(Answer::new(420).header(HeaderId::Unsupported, unknown.join(", ")));
        }
        let policies = policies(agent, &caller.domain);
        let (domain, principal) = (caller.domain.domain.clone(), caller.principal.as_str().to_owned());
        if let Some(decision) = policies.mcp_denied_for_all() {
            let rule = rule_name(&decision);
            let asked = tags.all_in(required.iter().copied());
            let status = if asked.is_empty() { 488 } else { 420 };
            self.audit_refusal(request, &domain, &principal, &rule, i64::from(status));
            return Err(match status {
                420 => Answer::new(420).header(HeaderId::Unsupported, asked.join(", ")),
                _ => self.nothing_left(&caller.domain),
            });
        }
        if let Some(decision) = policies.nothing_left(policy_principal(&caller.principal)) {
            let rule = rule_name(&decision);
            self.audit_refusal(request, &domain, &principal, &rule, 403);
            return Err(Answer::new(403).phrase("Denied By Policy"));
        }
        Ok(())
    }

    /// 488: without MCP a declared agent has nothing to offer (its media lines are all refused).
    pub(crate) fn nothing_left(&self, domain: &crate::config::DomainConfig) -> Answer {
        Answer::new(488).warning(304, &domain.domain, "this address has no media, and no MCP was negotiated")
    }

    pub(crate) fn page_leg(&self, request: &Request, caller: &Caller, agent: &Arc<AgentConfig>) -> Arc<Leg> {
        let message = &request.message;
        let from_tag = message.from_tag().unwrap_or_default().to_ascii_lowercase();
        let tenant = caller.domain.tenant;
        let call_id = message.call_id();
        let slot = self.slot(tenant, call_id, &from_tag);
        let parts: [&[u8]; 4] =
            [caller.principal.as_str().as_bytes(), agent.key.as_bytes(), call_id.as_bytes(), from_tag.as_bytes()];
        let session = SessionKey { slot, tenant, hash: keyed_hash(self.naming_key(), "session", &parts) };
        Arc::new(Leg {
            key: LegKey::OutOfDialog(session),
            session,
            domain: caller.domain.clone(),
            agent: agent.clone(),
            principal: caller.principal.clone(),
            call_id: call_id.to_owned(),
            mcp: None,
            carrier: Carrier::Message,
            plain_datagram: request.flow.transport == Transport::Udp,
            way: self.way_back(request, caller),
        })
    }

    /// How another edge reaches this caller. An address that nobody has proven to be the caller's is not written down: an answer goes to
    /// the registered Contact then.
    fn way_back(&self, request: &Request, caller: &Caller) -> Way {
        let flow = &request.flow;
        let proven = caller.proven || matches!(flow.key, FlowKey::Stream(_));
        let token = || {
            let (transport, listener) = (flow.transport, flow.listener);
            FlowToken { owner: self.owner, transport, listener, flow: flow.key.clone() }.text(&self.config.token_keys)
        };
        Way {
            caller_uri: request.message.from().uri().to_owned(),
            agent_uri: request.message.to().uri().to_owned(),
            flow: if proven { PeerFlow { flow: Some(token()), source: source(flow) } } else { PeerFlow::default() },
        }
    }

    /// The slot label of a call: a keyed hash of tenant, Call-ID and From tag (sip.md, section 6).
    pub(crate) fn slot(&self, tenant: u16, call_id: &str, from_tag: &str) -> u16 {
        let hash =
            keyed_hash(self.naming_key(), "slot", &[&tenant.to_be_bytes(), call_id.as_bytes(), from_tag.as_bytes()]);
        u16::from_be_bytes([hash[0], hash[1]]) % SLOTS
    }

    pub(crate) fn remember_route(&mut self, request: &Request, caller: &Caller, leg: LegKey) {
        let message = &request.message;
        let session_id = crate::session_id::remote(message);
        let flow = request.flow.clone();
        self.routes.set(leg, flow, caller.proven, session_id, self.now.mono, &mut self.timers);
    }
}

/// `policy/rule`, as audit records name it.
pub(crate) fn rule_name(decision: &mcp_sip::policy::Decision<'_>) -> String {
    match (decision.policy, decision.rule) {
        (Some(policy), Some(rule)) => format!("{policy}/{rule}"),
        (Some(policy), None) => format!("{policy}/default"),
        (None, _) => "default".to_owned(),
    }
}
