//! Where a message goes: responses to their transactions, requests through the gate to the method that serves them.
//!
//! Order of refusals of a request out of a dialog: loop 482; draining 503; plain transport 403; no credentials 401; method 501 or 405;
//! URI scheme 416; address unknown or not visible 404; merged 482; then what the method itself checks (420, 403, 415, 488 …).

use std::sync::Arc;

use session_store::record::Owner;
use sip_proto::message::{Message, Refusal};
use sip_proto::method::Method;
use sip_proto::uri::Uri;

use crate::answer::Answer;
use crate::config::{AgentConfig, DomainConfig};
use crate::effect::Effect;
use crate::engine::Principal;
use crate::gate::{Caller, policies, policy_principal};
use crate::input::{Flow, FlowKey};
use crate::random::keyed_hash;
use crate::request::Request;
use crate::state::EdgeState;
use crate::text;
use crate::token::{BranchToken, RefusalToken};
use crate::transactions::server_key;

/// How a method is served out of a dialog. Exhaustive on purpose: a new method does not compile until it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Register,
    Options,
    Invite,
    Message,
    /// Has a meaning in a dialog only: 481.
    InDialog,
    /// Known, not served: 405.
    NotServed,
    /// Not known: 501.
    Unknown,
    /// Never answered (ACK), or matched before (CANCEL).
    Unanswered,
}

impl Service {
    pub fn of(method: &Method<'_>) -> Service {
        match method {
            Method::Register => Service::Register,
            Method::Options => Service::Options,
            Method::Invite => Service::Invite,
            Method::Message => Service::Message,
            Method::Bye | Method::Info | Method::Update => Service::InDialog,
            Method::Prack | Method::Refer | Method::Subscribe | Method::Notify | Method::Publish => Service::NotServed,
            Method::Ack | Method::Cancel => Service::Unanswered,
            Method::Extension(_) => Service::Unknown,
        }
    }
}

/// What a request out of a dialog is addressed to.
#[derive(Clone, Debug)]
pub(crate) enum Callee {
    /// A declared agent.
    Agent(Arc<AgentConfig>),
    /// A user of the domain, who may have registered.
    User,
    /// The domain itself: whoever offers one of these capabilities (REG-2).
    Offers(Vec<String>),
}

impl Callee {
    /// Whether it is reached where it registered, and not answered for here.
    pub fn registers(&self) -> bool {
        match self {
            Callee::Agent(agent) => agent.backend.is_sip_contact(),
            Callee::User | Callee::Offers(_) => true,
        }
    }
}

/// The address of a request, looked up in the configuration.
struct Address {
    domain: Option<Arc<DomainConfig>>,
    callee: Option<Callee>,
    /// The Request-URI is `sip:` or `sips:`.
    is_sip: bool,
}

impl EdgeState {
    pub(crate) fn on_message(&mut self, flow: Arc<Flow>, message: Message) {
        self.flows.opened(&flow);
        if !message.is_request() {
            return self.on_response(&flow, &message, false);
        }
        let method = message.cseq().method;
        let counted = if matches!(method, Method::Extension(_)) { "other" } else { known_name(&method) };
        *self.stats.requests.entry(counted).or_default() += 1;
        let found = self.servers.find(&server_key(&message));
        if let Some(id) = found {
            return self.server_again(id, method == Method::Ack);
        }
        let request = self.request(flow, message);
        match request.message.cseq().method {
            Method::Ack => self.on_ack(&request, false),
            Method::Cancel => self.on_cancel(request),
            _ if self.is_loop(&request.message) => self.answer(&request, &Answer::new(482)),
            _ if request.message.to_tag().is_some() => self.on_in_dialog(request),
            _ => self.on_new(request),
        }
    }

    pub(crate) fn request(&self, flow: Arc<Flow>, message: Message) -> Request {
        let cseq = message.cseq().seq.to_be_bytes();
        let from_tag = message.from_tag().unwrap_or_default().to_ascii_lowercase();
        let parts: [&[u8]; 3] = [message.call_id().as_bytes(), from_tag.as_bytes(), &cseq];
        let transaction = keyed_hash(self.naming_key(), "transaction", &parts);
        // Method and address are in it, so that it says nothing of other requests.
        let method = message.cseq().method;
        let tag = keyed_hash(self.mac_key(), "stateless tag", &[&transaction, method.as_str().as_bytes()]);
        let tag = if method == Method::Invite {
            // Its ACK may come to another edge, and belongs here.
            let Owner { pod, boot, .. } = self.owner;
            RefusalToken { pod, boot, request: tag }.tag(&self.config.token_keys)
        } else {
            text::base32(&tag)
        };
        Request { flow, message, received: self.now, server: None, tag, transaction }
    }

    /// Bytes that are no message. What can be answered is answered; a stream that cannot be read on is closed.
    pub(crate) fn on_fault(&mut self, flow: &Arc<Flow>, refusal: &Refusal) {
        self.flows.opened(flow);
        let tag = text::base32(&keyed_hash(
            self.mac_key(),
            "fault tag",
            &[refusal.call_id.as_deref().unwrap_or_default(), refusal.cseq.as_deref().unwrap_or_default()],
        ));
        match refusal.answer_from(&tag, flow.remote) {
            Some(bytes) => {
                *self.stats.answers.entry(refusal.status).or_default() += 1;
                self.emit(Effect::Send { flow: flow.key.clone(), bytes, tag: None });
            }
            None => self.stats.drop_one("unreadable"),
        }
        if refusal.close {
            self.emit_close(flow);
        }
    }

    /// A request that we sent ourselves came back (RFC 3261 §16.3 item 4, for a UA that sends on).
    fn is_loop(&self, message: &Message) -> bool {
        let keys = &self.config.token_keys;
        message.vias().any(|via| via.branch().is_some_and(|b| BranchToken::from_branch(keys, b).is_some()))
    }

    /// A request to an address of ours whose To tag is none of ours: who asks comes first, as for a new one; our Contact is no address.
    pub(crate) fn authenticate_addressed(&mut self, request: &Request) -> Result<(), Answer> {
        let address = self.address(&request.message);
        let Some(domain) = address.domain.filter(|_| address.is_sip) else { return Ok(()) };
        if let Some(refusal) = self.check_transport(request, &domain) {
            return Err(refusal);
        }
        self.authenticate(request, &domain, address.callee.as_ref()).map(|_| ())
    }

    /// The domain that a request is for, and whom in it.
    pub(crate) fn addressed(&self, message: &Message) -> Option<(Arc<DomainConfig>, Callee)> {
        let address = self.address(message);
        address.domain.zip(address.callee)
    }

    /// Whom a request is for.
    pub(crate) fn callee_of(&self, message: &Message) -> Option<Callee> {
        self.address(message).callee
    }

    fn address(&self, message: &Message) -> Address {
        let domain = |host: &str| self.config.domains.get(&host.to_ascii_lowercase()).cloned();
        let uri = message.request_uri().and_then(|text| Uri::parse(text).ok()).and_then(|uri| uri.sip());
        let Some(uri) = uri else {
            // Whoever asks for a foreign scheme still has to say who he is, to the domain that To or From names.
            let named = [message.to(), message.from()];
            let domain = named.iter().find_map(|addr| domain(addr.typed_uri().sip()?.host_str()));
            return Address { domain, callee: None, is_sip: false };
        };
        let domain = domain(uri.host_str());
        // A GRUU of ours names a user's instance (RFC 5627); one that does not open names nobody.
        let user = match (&domain, self.gruu(&uri)) {
            (Some(_), Ok(Some(named))) => Some(std::borrow::Cow::Owned(named.user)),
            (Some(_), Err(())) => None,
            _ => uri.user_unescaped(),
        };
        if domain.is_some() && uri.user().is_none() && matches!(message.cseq().method, Method::Invite | Method::Message)
        {
            let names = self.capabilities_wanted(message);
            let callee = (!names.is_empty()).then_some(Callee::Offers(names));
            return Address { domain, callee, is_sip: true };
        }
        let callee = domain.as_ref().zip(user).and_then(|(domain, user)| {
            match self.config.agents.get(&(domain.domain.clone(), user.clone().into_owned())) {
                Some(agent) => Some(Callee::Agent(agent.clone())),
                None => domain
                    .digest
                    .as_ref()
                    .is_some_and(|digest| digest.users.contains_key(user.as_ref()))
                    .then_some(Callee::User),
            }
        });
        Address { domain, callee, is_sip: true }
    }

    fn on_new(&mut self, request: Request) {
        if self.drain.is_on() {
            let answer = self.unavailable("Draining");
            return self.answer(&request, &answer);
        }
        if let Some(answer) = self.refuse_new(&request.message) {
            self.missed(&request);
            return self.answer(&request, &answer);
        }
        if let Err(answer) = self.serve_new(&request) {
            self.answer(&request, &answer);
        }
    }

    fn serve_new(&mut self, request: &Request) -> Result<(), Answer> {
        let address = self.address(&request.message);
        let service = Service::of(&request.message.cseq().method);
        if service == Service::Options {
            return self.on_options(request, address.domain.as_ref(), address.callee.as_ref(), address.is_sip);
        }
        let Some(domain) = address.domain else {
            // No domain of ours: nobody could be asked to authenticate.
            return Err(Answer::new(if address.is_sip { 404 } else { 416 }));
        };
        if let Some(refusal) = self.check_transport(request, &domain) {
            return Err(refusal);
        }
        let caller = self.authenticate(request, &domain, address.callee.as_ref())?;
        match service {
            Service::NotServed => return Err(Answer::not_allowed()),
            Service::Unknown => return Err(Answer::new(501)),
            Service::InDialog | Service::Unanswered => return Err(Answer::new(481)),
            Service::Register | Service::Options | Service::Invite | Service::Message => {}
        }
        if !address.is_sip {
            return Err(Answer::new(416));
        }
        if service == Service::Register {
            return self.on_register(request, caller);
        }
        let callee = self.visible(request, &caller, address.callee)?;
        let merged = self.merged_key(request);
        if self.servers.is_merged(&merged) {
            return Err(Answer::new(482).phrase("Merged Request"));
        }
        // It would have to be sent on, which is a hop (RFC 3261 §16.3 item 3).
        if callee.registers() && request.message.max_forwards() == Some(0) {
            return Err(Answer::new(483));
        }
        if !self.has_room() {
            self.stats.limit("storeOperations");
            return Err(self.unavailable("Too Much Work"));
        }
        let agent = match callee {
            Callee::Agent(agent) if !agent.backend.is_sip_contact() => agent,
            callee if service == Service::Invite => return self.bridge_call(request, caller, &callee, merged),
            callee => return self.bridge_page(request, caller, &callee, merged),
        };
        match service {
            Service::Invite => self.on_invite(request, caller, &agent, merged),
            _ => self.on_page(request, caller, &agent, merged),
        }
    }

    /// Who it is; without credentials only where a rule for `anonymous` names the address.
    pub(crate) fn authenticate(
        &mut self,
        request: &Request,
        domain: &Arc<DomainConfig>,
        callee: Option<&Callee>,
    ) -> Result<Caller, Answer> {
        if let Some(caller) = self.identify(request, domain)? {
            return Ok(caller);
        }
        match callee {
            Some(Callee::Agent(agent)) if policies(agent, domain).anonymous_allowed() => Ok(Caller {
                domain: domain.clone(),
                principal: Principal::Anonymous,
                certified: false,
                nonce: None,
                proven: !matches!(request.flow.key, FlowKey::Datagram { .. }),
            }),
            _ => Err(self.challenge(domain, false)),
        }
    }

    /// 404 for an address that is unknown and for one that this caller may not see, alike.
    pub(crate) fn visible(
        &mut self,
        request: &Request,
        caller: &Caller,
        callee: Option<Callee>,
    ) -> Result<Callee, Answer> {
        let principal = policy_principal(&caller.principal);
        let seen = match &callee {
            Some(Callee::Agent(agent)) => policies(agent, &caller.domain).visible(principal),
            Some(Callee::User) => {
                mcp_sip::policy::Policies { agent: &[], domain: &caller.domain.policies }.visible(principal)
            }
            // Whom it finds, it may see.
            Some(Callee::Offers(_)) => true,
            None => false,
        };
        match callee {
            Some(callee) if seen => Ok(callee),
            _ => {
                let domain = caller.domain.domain.clone();
                self.audit_refusal(request, &domain, caller.principal.as_str(), "default", 404);
                Err(Answer::new(404))
            }
        }
    }

    /// What a merged request has in common with the first one.
    pub(crate) fn merged_key(&self, request: &Request) -> [u8; 16] {
        keyed_hash(self.naming_key(), "merged", &[&request.transaction, request.method().as_bytes()])
    }
}

fn known_name(method: &Method<'_>) -> &'static str {
    sip_proto::method::REGISTERED.iter().find(|known| *known == method).map_or("other", |known| known.as_str())
}
