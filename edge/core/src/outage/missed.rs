//! A MESSAGE out of a dialog that was refused for want of the store may be the repetition of one that was accepted: its caller has moved, and
//! may not ask again before the outage is over (mcp.md, section 5.4). When the store is back it is looked up, once: the journal learns where
//! the caller is now, and the answer that it has is given. Nothing is opened, for the caller was told so.

use std::collections::BTreeMap;
use std::sync::Arc;

use session_store::op::{StoreError, StoreOp, StoreReply};
use sip_proto::message::HeaderId;
use sip_proto::method::Method;
use sip_proto::time::Mono;

use crate::config::AgentConfig;
use crate::engine::{Inbound, Written};
use crate::gate::{Caller, policies, policy_principal};
use crate::page::{MCP_JSON, Page};
use crate::random::keyed_hash;
use crate::request::Request;
use crate::router::Callee;
use crate::state::EdgeState;
use crate::waiting::Waiting;

/// Requests that are kept, and their bytes together, for one core. Above that the caller has its 503 and nothing else.
const MAX_MISSED: usize = 1_024;
const MAX_BYTES: usize = 4 << 20;
/// 64·T1: later it is a new request (mcp.md, section 5.4).
const KEPT_MS: u64 = 32_000;
/// Who still repeats is answered by that: longer than the longest `Retry-After` of ours.
const QUIET_MS: u64 = 6_000;
/// Where no lease is renewed it is looked so often whether something is due.
const LOOK_MS: u64 = 1_000;
/// Look-ups at once.
const AT_ONCE: usize = 64;

/// What was refused, by its exchange: of its copies the last one says where the caller is.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    kept: BTreeMap<[u8; 16], Request>,
    bytes: usize,
    running: usize,
}

impl Missed {
    fn put(&mut self, key: [u8; 16], request: Request) -> bool {
        self.take(&key);
        let bytes = request.message.body().len();
        if self.kept.len() >= MAX_MISSED || self.bytes + bytes > MAX_BYTES {
            return false;
        }
        self.bytes += bytes;
        self.kept.insert(key, request);
        true
    }

    fn take(&mut self, key: &[u8; 16]) -> Option<Request> {
        let request = self.kept.remove(key)?;
        self.bytes = self.bytes.saturating_sub(request.message.body().len());
        Some(request)
    }

    /// Those whose callers have been silent for long enough.
    fn due(&self, now: Mono) -> Vec<[u8; 16]> {
        let quiet = |request: &Request| now.millis_since(request.received.mono) >= QUIET_MS;
        let due = self.kept.iter().filter(|(_, request)| quiet(request)).map(|(key, _)| *key);
        due.take(AT_ONCE.saturating_sub(self.running)).collect()
    }
}

impl EdgeState {
    /// This request was answered 503, because the store is away. Only who is known is remembered: it costs memory.
    pub(crate) fn missed(&mut self, request: &Request) {
        let is_mcp = request.message.content_type().is_some_and(|content| content.is(MCP_JSON));
        let is_page = request.message.cseq().method == Method::Message && request.message.to_tag().is_none();
        if !is_mcp || !is_page || request.message.has(HeaderId::ContentEncoding) {
            return;
        }
        if self.caller_of_page(request).is_none() {
            return;
        }
        let key = self.missed_key(request);
        if !self.outage.missed.put(key, Request { server: None, ..request.clone() }) {
            self.stats.limit("missedMessages");
        }
        self.look_at_missed_later();
    }

    /// A copy of it was taken.
    pub(crate) fn not_missed(&mut self, request: &Request) {
        if !self.outage.missed.kept.is_empty() {
            let key = self.missed_key(request);
            self.outage.missed.take(&key);
        }
    }

    /// Copies of one exchange have it in common; without the header, those of one transaction.
    fn missed_key(&self, request: &Request) -> [u8; 16] {
        let message = &request.message;
        let from_tag = message.from_tag().unwrap_or_default().to_ascii_lowercase();
        let exchange = message.headers(HeaderId::McpExchange).next();
        let name: &[u8] = exchange.unwrap_or(&request.transaction);
        keyed_hash(self.naming_key(), "missed", &[message.call_id().as_bytes(), from_tag.as_bytes(), name])
    }

    /// A renewal of the lease comes by anyway.
    fn look_at_missed_later(&mut self) {
        if self.membership.is_none() && !self.outage.missed.kept.is_empty() {
            self.wake_at(self.now.mono.plus_millis(LOOK_MS));
        }
    }

    /// The gate of a MESSAGE to an agent, without its answers.
    fn caller_of_page(&mut self, request: &Request) -> Option<(Caller, Arc<AgentConfig>)> {
        let (domain, callee) = self.addressed(&request.message)?;
        if self.check_transport(request, &domain).is_some() {
            return None;
        }
        let caller = self.authenticate(request, &domain, Some(&callee)).ok()?;
        let Callee::Agent(agent) = &callee else { return None };
        let agent = (!agent.backend.is_sip_contact()).then(|| agent.clone())?;
        let sees = policies(&agent, &caller.domain).visible(policy_principal(&caller.principal));
        sees.then_some((caller, agent))
    }

    /// The store is used again.
    pub(super) fn look_up_missed(&mut self) {
        for key in self.outage.missed.due(self.now.mono) {
            let request = self.outage.missed.take(&key);
            let is_late = |request: &Request| self.now.mono.millis_since(request.received.mono) >= KEPT_MS;
            if let Some(request) = request.filter(|request| !is_late(request)) {
                self.look_up_page(request);
            }
        }
        self.look_at_missed_later();
    }

    /// `None`: it would not be taken now either.
    fn look_up_page(&mut self, request: Request) -> Option<()> {
        let (caller, agent) = self.caller_of_page(&request)?;
        let body = self.mcp_body(&request, &caller).ok()?;
        let exchange = self.exchange_header(&request).ok()?;
        let leg = self.page_leg(&request, &caller, &agent);
        let key = leg.key;
        let inbound = Inbound { leg, exchange, body, transaction: request.transaction, received: request.received };
        let (ticket, open) = self.with_engine(|engine, ctx| engine.judge_late(ctx, inbound))?;
        self.remember_route(&request, &caller, key);
        self.outage.missed.running += 1;
        let operation = StoreOp::OpenExchange { open, nonce: caller.nonce.clone() };
        self.store(operation, Waiting::Missed(Box::new(Page { request, caller, ticket })));
        Some(())
    }

    pub(crate) fn missed_looked_up(&mut self, page: Page, reply: Result<StoreReply, StoreError>) {
        self.outage.missed.running -= 1;
        let Page { request, caller, ticket } = page;
        match reply {
            Ok(StoreReply::Exchange(outcome)) => {
                self.authenticated(&request, &caller);
                self.redeem(ticket, Ok(Written::Exchange(outcome)));
            }
            Ok(_) => self.engine.abandon(ticket),
            Err(_) => {
                self.engine.abandon(ticket);
                let key = self.missed_key(&request);
                self.outage.missed.put(key, request);
            }
        }
    }
}
