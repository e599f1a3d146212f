//! REGISTER (RFC 3261 §10.3; REG-1, REG-4 … REG-6): one compare-and-set in the store before the 200. Answered without a transaction
//! (RFC 3261 §8.2.7): the same REGISTER again is the same change again.
//!
//! With it: the flow that a binding came on (RFC 5626), the Path to it (RFC 3327), the addresses of its instance (RFC 5627), and what it
//! offers, by which it is found (REG-2).

use session_store::key::{AorKey, CapabilityKey};
use session_store::op::{BindingChange, NonceUse, StoreError, StoreOp, StoreReply};
use session_store::record::Binding;
use sip_proto::header::NameAddr;
use sip_proto::message::HeaderId;
use sip_proto::preferences;
use sip_proto::registrar::{self, Change, ExpiresBounds, Profile, RegisterRefusal};
use sip_proto::time::UnixMillis;

use crate::answer::Answer;
use crate::audit::{AuditKind, AuditRecord, Outcome};
use crate::config::{AgentBackend, CapabilitySource, DeclaredTool, DomainConfig, RegistrationProfile};
use crate::effect::Effect;
use crate::engine::Principal;
use crate::gate::{Caller, canonical};
use crate::names;
use crate::negotiate::option_tags;
use crate::random::keyed_hash;
use crate::request::Request;
use crate::state::EdgeState;
use crate::text::shown;
use crate::token::FlowToken;
use crate::waiting::Waiting;

/// A flow without traffic for so long has failed (RFC 5626 §4.4.1; sip.md, section 12.2).
const FLOW_TIMER_SECONDS: u32 = 25;
/// Spread of granted times where a profile asks for one, in percent (REG-5).
const JITTER_PERCENT: u8 = 20;

/// A REGISTER whose change is being written.
#[derive(Debug)]
pub(crate) struct Registration {
    request: Request,
    caller: Caller,
    aor: String,
}

fn bounds(profile: &RegistrationProfile) -> ExpiresBounds {
    let RegistrationProfile { min, max, default, jitter } = *profile;
    ExpiresBounds { min, max, default, raise: false, jitter_percent: if jitter { JITTER_PERCENT } else { 0 } }
}

impl EdgeState {
    /// The name of an address of record in the store.
    pub(crate) fn aor_key(&self, tenant: u16, aor: &str) -> AorKey {
        names::aor(&*self.config.naming_key, tenant, aor)
    }

    /// A REGISTER of an authenticated user.
    pub(crate) fn on_register(&mut self, request: &Request, caller: Caller) -> Result<(), Answer> {
        let message = &request.message;
        let tags = option_tags(&caller.domain);
        let known =
            |tag: &str| tags.is_mcp(tag) || ["path", "outbound", "gruu"].iter().any(|t| t.eq_ignore_ascii_case(tag));
        let unknown: Vec<&str> = message.list_values(HeaderId::Require).filter(|tag| !known(tag)).collect();
        if !unknown.is_empty() {
            return Err(Answer::new(420).header(HeaderId::Unsupported, unknown.join(", ")));
        }
        let to = message.to();
        let Some(to) = to.typed_uri().sip() else {
            return Err(Answer::new(400).phrase("To Must Be A SIP Or SIPS URI"));
        };
        if !to.host_str().eq_ignore_ascii_case(&caller.domain.domain) {
            return Err(Answer::new(404));
        }
        let aor = canonical(&to.aor());
        if caller.principal != Principal::User(aor.clone()) {
            self.audit_refusal(request, &caller.domain.domain.clone(), caller.principal.as_str(), "default", 403);
            self.refused_to_register(request, &caller.domain);
            return Err(Answer::new(403).phrase("Not Your Address"));
        }
        let user = to.user_unescaped().unwrap_or_default().into_owned();
        if registrar::uses_outbound(message) && !registrar::first_hop_is_outbound(message) {
            return Err(Answer::new(439).phrase("First Hop Lacks Outbound Support"));
        }
        let bounds = match self.config.agents.get(&(caller.domain.domain.clone(), user.clone())) {
            Some(agent)
                if agent.backend == (AgentBackend::SipContact { by_certificate: true }) && !caller.certified =>
            {
                self.refused_to_register(request, &caller.domain);
                return Err(Answer::new(403).phrase("Client Certificate Required"));
            }
            Some(agent) if agent.backend.is_sip_contact() => bounds(&agent.registration),
            // A declared agent answers without a registration; nobody may put himself in its place.
            Some(_) => return Err(Answer::new(403).phrase("A Declared Agent Does Not Register")),
            None => Profile::Production.bounds().raising(),
        };
        if !self.has_room() {
            self.stats.limit("storeOperations");
            return Err(self.unavailable("Too Much Work"));
        }
        let random = u32::try_from(self.random.u64() >> 32).unwrap_or(0);
        let change = match registrar::read(message, &bounds, self.now.wall, random) {
            Ok(change) => self.stored_change(request, &caller.domain, &aor, &user, change),
            Err(refusal) => return Err(self.refused_registration(refusal)),
        };
        let key = self.aor_key(caller.domain.tenant, &aor);
        if self.is_degraded() {
            return self.refreshed_in_outage(request, &caller, &aor, key, change);
        }
        let nonce: Option<NonceUse> = caller.nonce.clone();
        let registration = Registration { request: request.clone(), caller, aor };
        self.store(StoreOp::Register { aor: key, change, nonce }, Waiting::Register(Box::new(registration)));
        Ok(())
    }

    /// The key of the agent whose address a REGISTER is about, where it registers itself.
    fn registering(&self, request: &Request, domain: &DomainConfig) -> Option<String> {
        let to = request.message.to();
        let user = to.typed_uri().sip().and_then(|uri| uri.user_unescaped())?.into_owned();
        let agent = self.config.agents.get(&(domain.domain.clone(), user))?;
        agent.backend.is_sip_contact().then(|| agent.key.clone())
    }

    /// Whoever sent this is not who may. Where it is about the address of an agent, whoever looks after that one wants to know.
    pub(crate) fn refused_to_register(&mut self, request: &Request, domain: &DomainConfig) {
        if request.method() != "REGISTER" {
            return;
        }
        if let Some(agent) = self.registering(request, domain) {
            let refused = &mut self.stats.refused_registrations;
            // As many as the configuration has, whatever it had before.
            if refused.len() >= self.config.agents.len() {
                let config = &self.config;
                refused.retain(|key, _| config.agents.values().any(|agent| agent.key == *key));
            }
            refused.insert(agent, self.now.mono);
        }
    }

    fn stored_change(
        &self,
        request: &Request,
        domain: &DomainConfig,
        aor: &str,
        user: &str,
        change: Change,
    ) -> BindingChange {
        let flow = FlowToken {
            owner: self.owner,
            transport: request.flow.transport,
            listener: request.flow.listener,
            flow: request.flow.key.clone(),
        };
        // What came over another hop is not reached on this connection, but on the Path.
        let direct = request.message.vias().nth(1).is_none();
        let flow = direct.then(|| flow.text(&self.config.token_keys));
        match change {
            Change::Query => BindingChange::Query,
            Change::RemoveAll { call_id, cseq } => BindingChange::RemoveAll { call_id, cseq },
            Change::Update(bindings) => BindingChange::Update(
                bindings
                    .into_iter()
                    .map(|b| Binding {
                        capabilities: self.offered_capabilities(domain, user, &b.contact),
                        key: b.key,
                        uri: b.uri,
                        contact: b.contact,
                        expires_at: b.expires_at.0,
                        call_id: b.call_id,
                        cseq: b.cseq,
                        flow: flow.clone(),
                        path: b.path,
                        aor: aor.to_owned(),
                    })
                    .collect(),
            ),
        }
    }

    /// By which names an agent is found that offers this in `+mcp.cap` (REG-2). Only an agent of the configuration is, and where its
    /// capabilities are declared, by no others: nobody else can put himself in front of a tool (SEC-5).
    fn offered_capabilities(&self, domain: &DomainConfig, user: &str, contact: &[u8]) -> Vec<[u8; 16]> {
        let Some(agent) = self.config.agents.get(&(domain.domain.clone(), user.to_owned())) else { return Vec::new() };
        let Ok(contact) = NameAddr::parse(contact) else { return Vec::new() };
        let Some(cap) = contact.param("+mcp.cap") else { return Vec::new() };
        let tools = &agent.capabilities.tools;
        let permitted = |item: &str| {
            let (name, version) = item.split_once('@').unwrap_or((item, ""));
            let tool = |t: &DeclaredTool| {
                t.name.eq_ignore_ascii_case(name) && (version.is_empty() || version == t.version.to_string())
            };
            agent.capabilities.source == CapabilitySource::Discovered
                || tools.iter().any(tool)
                || agent.capabilities.schemas.iter().any(|schema| schema.eq_ignore_ascii_case(item))
        };
        let mut names: Vec<String> = Vec::new();
        for item in preferences::values(&cap.text()).into_iter().filter(|item| permitted(item)) {
            // Without its version, too: who asks for `summarize` takes any.
            let bare = item.split_once('@').map(|(name, _)| name.to_owned());
            names.extend(bare.filter(|bare| !bare.is_empty()));
            names.push(item);
        }
        names.sort_unstable();
        names.dedup();
        names.iter().map(|name| self.capability_key(domain.tenant, name).hash).collect()
    }

    /// The name of a capability in the store: `name@version`, `name`, or a schema.
    pub(crate) fn capability_key(&self, tenant: u16, name: &str) -> CapabilityKey {
        let name = name.to_ascii_lowercase();
        CapabilityKey { tenant, hash: keyed_hash(&*self.config.naming_key, "capability", &[name.as_bytes()]) }
    }

    fn refused_registration(&mut self, refusal: RegisterRefusal) -> Answer {
        let answer = Answer::new(refusal.status());
        match refusal {
            RegisterRefusal::BadRequest(phrase) => answer.phrase(phrase),
            RegisterRefusal::TooBrief { min_expires } => answer.header(HeaderId::MinExpires, min_expires.to_string()),
            RegisterRefusal::TooMany => {
                self.stats.limit("bindings");
                answer.phrase("Too Many Contacts")
            }
            RegisterRefusal::OutOfOrder => answer.phrase("CSeq Out Of Order"),
        }
    }

    pub(crate) fn registered(&mut self, registration: Registration, reply: Result<StoreReply, StoreError>) {
        let Registration { request, caller, aor } = registration;
        let answer = match reply {
            Ok(StoreReply::Bindings(bindings)) => {
                self.authenticated(&request, &caller);
                self.stats.registrations += 1;
                if let Some(agent) = self.registering(&request, &caller.domain) {
                    self.stats.refused_registrations.remove(&agent);
                }
                let record = self.registration_audit(&request, &caller, &aor);
                self.emit(Effect::Audit(record));
                let key = self.aor_key(caller.domain.tenant, &aor);
                self.remember_bindings(caller.domain.refresh_in_outage, key, &bindings);
                self.registered_answer(&request, &caller, &aor, &bindings)
            }
            Ok(StoreReply::NonceReplayed) => {
                self.stats.failed_authentications += 1;
                self.challenge(&caller.domain, true)
            }
            Ok(StoreReply::StaleRegister) => self.refused_registration(RegisterRefusal::OutOfOrder),
            Ok(StoreReply::TooManyBindings) => self.refused_registration(RegisterRefusal::TooMany),
            Ok(_) | Err(_) => self.unavailable("Store Unavailable"),
        };
        self.answer(&request, &answer);
    }

    /// 200 with every live binding; the bytes of a Contact are those that it came with (REG-1).
    pub(crate) fn registered_answer(
        &self,
        request: &Request,
        caller: &Caller,
        aor: &str,
        bindings: &[Binding],
    ) -> Answer {
        let message = &request.message;
        let mut answer = Answer::new(200);
        let asks = message.list_has(HeaderId::Supported, "gruu") || message.list_has(HeaderId::Require, "gruu");
        let to = message.to();
        let user = to.typed_uri().sip().and_then(|uri| uri.user_unescaped()).unwrap_or_default().into_owned();
        for binding in bindings {
            let bound = registrar::Binding {
                key: String::new(),
                uri: String::new(),
                contact: binding.contact.clone(),
                expires_at: UnixMillis(binding.expires_at),
                q: 1000,
                call_id: String::new(),
                cseq: 0,
                path: Vec::new(),
            };
            let mut value = registrar::answer_contact(&bound, self.now.wall);
            if asks && let Some((public, temporary)) = self.gruus(aor, &user, &caller.domain.domain, binding) {
                value.extend_from_slice(format!(";pub-gruu=\"{public}\";temp-gruu=\"{temporary}\"").as_bytes());
            }
            answer = answer.header_bytes(HeaderId::Contact, value);
        }
        for path in message.paths() {
            answer = answer.header_bytes(HeaderId::Path, path.raw());
        }
        if registrar::uses_outbound(message) {
            answer = answer
                .header(HeaderId::Require, "outbound")
                .header(HeaderId::FlowTimer, FLOW_TIMER_SECONDS.to_string());
        }
        let remote = crate::session_id::remote(message);
        answer
            .header(HeaderId::Supported, "path, outbound, gruu")
            .header(HeaderId::SessionId, self.session_id(message.call_id(), remote.as_deref()))
    }

    fn registration_audit(&self, request: &Request, caller: &Caller, aor: &str) -> AuditRecord {
        AuditRecord {
            at: self.now.wall,
            kind: AuditKind::Registration,
            domain: caller.domain.domain.clone(),
            principal: shown(caller.principal.as_str()),
            agent: shown(aor),
            method: Some("REGISTER".to_owned()),
            tool: None,
            rule: "default".to_owned(),
            outcome: Outcome::Ok,
            call_id: shown(request.message.call_id()),
            exchange: None,
            conversation: None,
            duration_us: Some(self.now.mono.0.saturating_sub(request.received.mono.0)),
        }
    }
}
