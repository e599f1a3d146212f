//! MESSAGE and OPTIONS out of a dialog to somebody who registers (RFC 3428, RFC 3261 §11): passed on to one of its contacts, the best by
//! `q` and caller preferences, and its final answer is passed back. Nothing is written before: what the sender hears is the word of the
//! far end. Call-ID, tag and CSeq of the request that leaves are made of those that came, so that a copy at another edge is the same
//! request to whoever gets both.

mod sent;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::jsonrpc::{Bounds, Envelope};
use mcp_sip::policy::Request as Question;
use session_store::op::{StoreError, StoreOp, StoreReply};
use session_store::record::Binding;
use sip_proto::message::HeaderId;
use sip_proto::preferences::Preferences;

use super::Step;
use super::bodies::{Mcp, Parts};
use super::policy::Said;
use super::setup::{MAX_FOUND, address};
use super::targets::Way;
use crate::answer::Answer;
use crate::config::AgentConfig;
use crate::engine::Principal;
use crate::gate::{Caller, policies, policy_principal};
use crate::gruu::Named;
use crate::negotiate::option_tags;
use crate::page::rule_name;
use crate::request::Request;
use crate::router::Callee;
use crate::state::EdgeState;

/// A request that is passed on.
#[derive(Debug)]
pub(crate) struct Paged {
    request: Request,
    caller: Caller,
    agent: Arc<AgentConfig>,
    parts: Parts,
    mcp: Mcp,
    /// Tags and header fields of MCP pass.
    with_mcp: bool,
    named: Option<Named>,
    wanted: Preferences,
    /// To the domain itself: any of these, until the agent is chosen.
    capabilities: Vec<String>,
    asking: usize,
    found: Vec<Binding>,
    /// What the store, or the nonce, says against it.
    refusal: Option<Answer>,
    ways: VecDeque<Way>,
    /// Policy denied it: the error that its sender hears.
    error: Option<Bytes>,
    /// It is too large for a datagram.
    by_tcp: bool,
    /// How the last contact failed.
    last: Option<u16>,
    /// Its places, where a rule counts how many wait for their answer.
    places: Option<u64>,
}

/// What policy says of a request before it is passed on.
enum Judged {
    Pass(Mcp),
    /// 200, and this error as a message of its own.
    Error(Bytes),
}

impl EdgeState {
    /// A MESSAGE or OPTIONS of a caller who may see the address. No server transaction is open yet.
    pub(crate) fn bridge_page(
        &mut self,
        request: &Request,
        caller: Caller,
        callee: &Callee,
        merged: [u8; 16],
    ) -> Result<(), Answer> {
        let message = &request.message;
        let domain = caller.domain.clone();
        let tags = option_tags(&domain);
        let known = |tag: &str| tags.is_mcp(tag) || tag.eq_ignore_ascii_case("gruu");
        let unknown: Vec<&str> = message.list_values(HeaderId::Require).filter(|tag| !known(tag)).collect();
        if !unknown.is_empty() {
            return Err(Answer::new(420).header(HeaderId::Unsupported, unknown.join(", ")));
        }
        let parts = Parts::read(message)?;
        if parts.largest() > self.body_limit(&domain) {
            self.stats.limit("sipBodyBytes");
            return Err(Answer::new(413));
        }
        let (agent, named) = self.called(message, callee, &domain.domain)?;
        let capabilities = match callee {
            Callee::Offers(names) => names.clone(),
            Callee::Agent(_) | Callee::User => Vec::new(),
        };
        let wanted = Preferences::of(message);
        let mut page = Paged {
            request: request.clone(),
            agent,
            parts,
            mcp: Mcp::Keep,
            with_mcp: true,
            named,
            wanted,
            asking: capabilities.len().max(1) + usize::from(caller.nonce.is_some()),
            capabilities,
            found: Vec::new(),
            refusal: None,
            ways: VecDeque::new(),
            error: None,
            by_tcp: false,
            last: None,
            places: None,
            caller,
        };
        if page.capabilities.is_empty() {
            match self.judge_page(&mut page)? {
                Judged::Pass(mcp) => page.mcp = mcp,
                Judged::Error(body) => {
                    page.error = Some(body);
                    page.asking -= 1;
                }
            }
        }
        let Some(id) = self.open_server(&request.flow, &request.message, merged) else {
            self.stats.limit("serverTransactions");
            return Err(self.unavailable("Too Many Transactions"));
        };
        page.request.server = Some(id);
        let tenant = domain.tenant;
        let number = self.ids.number();
        // All at once: one round trip for the count of the nonce and the bindings.
        if let Some(nonce) = page.caller.nonce.clone() {
            self.bridge_store(StoreOp::UseNonce(nonce), Step::Paged(number));
        }
        if page.capabilities.is_empty() && page.error.is_none() {
            let aor = self.aor_key(tenant, &address(&page.agent));
            self.bridge_store(StoreOp::ReadBindings { aor }, Step::Paged(number));
        }
        for name in &page.capabilities {
            let capability = self.capability_key(tenant, name);
            self.bridge_store(StoreOp::FindCapability { capability, limit: MAX_FOUND }, Step::Paged(number));
        }
        let asking = page.asking;
        self.bridges.pages.insert(number, page);
        if asking == 0 {
            self.page_ready(number);
        }
        Ok(())
    }

    /// What policy says of it at its address.
    fn judge_page(&mut self, page: &mut Paged) -> Result<Judged, Answer> {
        let (request, caller, agent, parts) = (&page.request, &page.caller, &page.agent, &page.parts);
        let domain = caller.domain.clone();
        let principal = policy_principal(&caller.principal);
        let Some(body) = &parts.mcp else {
            let held = policies(agent, &domain);
            let plain = held.evaluate(&Question::plain_call(principal));
            // The rule that denies MCP to everybody leaves what is none (NEG-4). What an address can do is asked by whoever sees it.
            let allowed = plain.allowed || held.mcp_denied_for_all().is_some() || request.method() == "OPTIONS";
            if allowed {
                return Ok(Judged::Pass(Mcp::Keep));
            }
            let rule = rule_name(&plain);
            self.audit_refusal(request, &domain.domain, caller.principal.as_str(), &rule, 403);
            return Err(Answer::new(403).phrase("Denied By Policy"));
        };
        self.check_require(request, caller, agent, &["gruu"])?;
        let envelope = match Envelope::parse(body, &Bounds::default()) {
            Ok(envelope) => envelope,
            Err(refused) => {
                let sip = refused.sip();
                return Err(Answer::new(sip.status()).phrase(sip.phrase()));
            }
        };
        // What an agent says is shown to the other side as far as that one may see it.
        if let Some(sender) = self.sender(caller) {
            self.agent_said(&Principal::User(address(agent)), &sender, &envelope);
        }
        if let Some(said) = self.agent_says(caller, agent, &envelope) {
            return match said {
                Said::Pass => Ok(Judged::Pass(Mcp::Keep)),
                Said::Shorter(body) => Ok(Judged::Pass(Mcp::Replace(body))),
                Said::Refused(_) | Said::Limited(..) => Err(Answer::new(403).phrase("Denied By Policy")),
            };
        }
        let (said, places) = self.take_said(&caller.principal, &domain, agent, &envelope);
        page.places = places;
        match said {
            Said::Pass => Ok(Judged::Pass(Mcp::Keep)),
            Said::Shorter(body) => Ok(Judged::Pass(Mcp::Replace(body))),
            Said::Refused(error) => {
                self.audit_refusal(request, &domain.domain, caller.principal.as_str(), "default", 403);
                match error.filter(|_| caller.principal != Principal::Anonymous || caller.proven) {
                    Some(body) => Ok(Judged::Error(body)),
                    None => Err(Answer::new(403).phrase("Denied By Policy")),
                }
            }
            Said::Limited(body, error) => {
                self.audit_refusal(request, &domain.domain, caller.principal.as_str(), "default", error.code);
                if caller.principal != Principal::Anonymous || caller.proven {
                    return Ok(Judged::Error(body));
                }
                Err(self.over_quota())
            }
        }
    }

    /// The sender is an agent that registers, and this is its answer to a user.
    fn agent_says(&self, caller: &Caller, to: &AgentConfig, envelope: &Envelope) -> Option<Said> {
        if envelope.kind() != mcp_sip::jsonrpc::Kind::Response {
            return None;
        }
        let sender = self.sender(caller)?;
        let domain = self.config.domains.get(&sender.domain)?;
        Some(self.judge_said(&Principal::User(address(to)), domain, &sender, envelope, false))
    }

    /// The agent that sends, if it is one.
    fn sender(&self, caller: &Caller) -> Option<Arc<AgentConfig>> {
        let Principal::User(own) = &caller.principal else { return None };
        let uri = sip_proto::uri::Uri::parse(own).ok().and_then(|uri| uri.sip())?;
        let user = uri.user_unescaped()?.into_owned();
        self.config.agents.get(&(uri.host_str().to_ascii_lowercase(), user)).cloned()
    }

    /// A reply of the store to one of its questions.
    pub(super) fn page_told(&mut self, number: u64, reply: Result<StoreReply, StoreError>) {
        let Some(page) = self.bridges.pages.get_mut(&number) else { return };
        page.asking -= 1;
        match reply {
            Ok(StoreReply::Bindings(bindings)) => {
                for binding in bindings {
                    if !page.found.iter().any(|known| known.aor == binding.aor && known.key == binding.key) {
                        page.found.push(binding);
                    }
                }
            }
            Ok(StoreReply::NonceReplayed) => {
                let domain = page.caller.domain.clone();
                self.stats.failed_authentications += 1;
                let challenge = self.challenge(&domain, true);
                if let Some(page) = self.bridges.pages.get_mut(&number) {
                    page.refusal = Some(challenge);
                }
            }
            Ok(_) => {}
            Err(_) => {
                let refusal = self.unavailable("Store Unavailable");
                if let Some(page) = self.bridges.pages.get_mut(&number) {
                    page.refusal.get_or_insert(refusal);
                }
            }
        }
        if self.bridges.pages.get(&number).is_some_and(|page| page.asking == 0) {
            self.page_ready(number);
        }
    }

    fn page_ready(&mut self, number: u64) {
        let Some(mut page) = self.bridges.pages.remove(&number) else { return };
        if let Some(answer) = page.refusal.take() {
            self.leave_places(page.places);
            return self.answer(&page.request, &answer);
        }
        let (request, caller) = (page.request.clone(), page.caller.clone());
        self.authenticated(&request, &caller);
        if let Some(body) = page.error.take() {
            return self.page_denied(&page, body);
        }
        if !page.capabilities.is_empty() {
            match self.pick_agent(&caller, &page.wanted, &page.capabilities, &page.found) {
                Ok((aor, agent)) => {
                    page.found.retain(|binding| binding.aor == aor);
                    page.agent = agent;
                }
                Err(answer) => return self.answer(&request, &answer),
            }
            match self.judge_page(&mut page) {
                Ok(Judged::Pass(mcp)) => page.mcp = mcp,
                Ok(Judged::Error(body)) => return self.page_denied(&page, body),
                Err(answer) => return self.answer(&request, &answer),
            }
        }
        let held = policies(&page.agent, &caller.domain);
        let principal = policy_principal(&caller.principal);
        page.with_mcp = held.mcp_denied_for_all().is_none() && held.nothing_left(principal).is_none();
        let groups = self.targets(&page.found, &page.wanted, page.named.as_ref());
        page.ways = groups.into_iter().flatten().flatten().collect();
        self.page_next(number, page);
    }
}
