//! OPTIONS (RFC 3261 §11): liveness for anybody, without any capability; what an address offers for a caller who may see it.

use std::sync::Arc;

use sip_proto::message::HeaderId;

use crate::answer::{ACCEPT, ALLOW, Answer};
use crate::config::{AgentConfig, DomainConfig};
use crate::gate::{Caller, policies, transport_allowed};
use crate::negotiate::option_tags;
use crate::request::Request;
use crate::router::Callee;
use crate::state::EdgeState;
use crate::waiting::Waiting;

/// Answers to callers without credentials, per second and core (SEC-18).
const LIVENESS_PER_SECOND: u32 = 500;

impl EdgeState {
    pub(crate) fn on_options(
        &mut self,
        request: &Request,
        domain: Option<&Arc<DomainConfig>>,
        callee: Option<&Callee>,
        is_sip: bool,
    ) -> Result<(), Answer> {
        if !is_sip {
            return Err(Answer::new(416));
        }
        if self.is_full() {
            return Err(self.unavailable("Full"));
        }
        let Some(domain) = domain.filter(|domain| transport_allowed(domain, request.flow.transport)) else {
            return self.liveness(request);
        };
        let caller = match self.identify(request, domain)? {
            Some(caller) => caller,
            None => return self.liveness(request),
        };
        let tags = option_tags(domain);
        let unknown: Vec<&str> =
            request.message.list_values(HeaderId::Require).filter(|tag| !tags.is_mcp(tag) && *tag != "timer").collect();
        if !unknown.is_empty() {
            return Err(Answer::new(420).header(HeaderId::Unsupported, unknown.join(", ")));
        }
        let addressed = request.message.request_uri().is_some_and(|uri| uri.contains('@'));
        let answer = if addressed {
            match self.visible(request, &caller, callee.cloned())? {
                Callee::Agent(agent) if !agent.backend.is_sip_contact() => {
                    self.offered(request, &caller.principal, domain, &agent)
                }
                callee => return self.passed_options(request, caller, &callee),
            }
        } else {
            alive()
        };
        // The count of the nonce is taken here, too, or the credentials could be used again.
        match caller.nonce.clone() {
            Some(nonce) if self.has_room() => {
                let then = Waiting::Nonce {
                    request: Box::new(request.clone()),
                    caller: Box::new(caller),
                    answer: Box::new(answer),
                };
                self.store(session_store::op::StoreOp::UseNonce(nonce), then);
            }
            Some(_) => return Err(self.unavailable("Too Much Work")),
            None => self.answer(request, &answer),
        }
        Ok(())
    }

    /// Who registers speaks for itself.
    fn passed_options(&mut self, request: &Request, caller: Caller, callee: &Callee) -> Result<(), Answer> {
        let merged = self.merged_key(request);
        if self.servers.is_merged(&merged) {
            return Err(Answer::new(482).phrase("Merged Request"));
        }
        if request.message.max_forwards() == Some(0) {
            return Err(Answer::new(483));
        }
        if !self.has_room() {
            self.stats.limit("storeOperations");
            return Err(self.unavailable("Too Much Work"));
        }
        self.bridge_page(request, caller, callee, merged)
    }

    /// 200 that says nothing but that somebody is here.
    fn liveness(&mut self, request: &Request) -> Result<(), Answer> {
        let second = self.now.mono.0 / 1_000_000;
        if self.liveness.0 != second {
            self.liveness = (second, 0);
        }
        self.liveness.1 += 1;
        if self.liveness.1 > LIVENESS_PER_SECOND {
            self.stats.limit("anonymousOptions");
            return Ok(());
        }
        self.answer(request, &alive());
        Ok(())
    }

    /// What this caller may have at this address (SEC-11: nothing more).
    fn offered(
        &mut self,
        request: &Request,
        principal: &crate::engine::Principal,
        domain: &Arc<DomainConfig>,
        agent: &Arc<AgentConfig>,
    ) -> Answer {
        let policies = policies(agent, domain);
        let denied = policies.mcp_denied_for_all().is_some()
            || policies.nothing_left(crate::gate::policy_principal(principal)).is_some();
        let answer = Answer::new(200).header(HeaderId::Allow, ALLOW);
        if denied {
            return answer.header(HeaderId::Accept, "application/sdp").header(HeaderId::Supported, "timer");
        }
        let answer = answer.header(HeaderId::Accept, ACCEPT);
        let remote = crate::session_id::remote(&request.message);
        let session_id = self.session_id(request.message.call_id(), remote.as_deref());
        self.capability_headers(answer, principal, domain, agent).header(HeaderId::SessionId, session_id)
    }
}

fn alive() -> Answer {
    Answer::new(200)
        .header(HeaderId::Allow, ALLOW)
        .header(HeaderId::Accept, "application/sdp")
        .header(HeaderId::Supported, "timer")
}
