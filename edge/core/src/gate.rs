//! The gate: every method passes it before anything is looked up. Who is it, and may this transport carry it?
//!
//! Order (security.md, section 6): plain transport not allowed 403 + `Warning: 399`; no credentials and no rule for `anonymous` 401, for
//! every address alike; address unknown or not visible 404. Nothing here touches the store: nonces are stateless, and the nonce count
//! rides on the operation that the request makes anyway.

pub(crate) mod digest;

use std::sync::Arc;

use mcp_sip::policy::Policies;
use mcp_sip::policy::Principal as PolicyPrincipal;
use session_store::op::{Actor, NonceUse};
use sip_proto::message::HeaderId;
use sip_proto::uri::Uri;

use crate::answer::Answer;
use crate::audit::{AuditKind, AuditRecord, Outcome};
use crate::config::{AgentConfig, DomainConfig};
use crate::effect::Effect;
use crate::engine::Principal;
use crate::input::{Flow, FlowKey, PeerCertificate, Transport};
use crate::request::Request;
use crate::state::EdgeState;
use crate::text::shown;

/// A peer that the gate let through.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub domain: Arc<DomainConfig>,
    pub principal: Principal,
    /// The digest's nonce count, for the next store operation.
    pub nonce: Option<NonceUse>,
    /// By a client certificate, not by a secret.
    pub certified: bool,
    /// Its address is proven: a stream, or a datagram that answered a challenge.
    pub proven: bool,
}

impl Caller {
    /// As whom it acts in a dialog.
    pub fn actor(&self, flow: &Flow) -> Actor {
        let source = (self.principal == Principal::Anonymous).then(|| source(flow));
        Actor { principal: self.principal.as_str().to_owned(), source }
    }
}

/// Where a request came from, as a record keeps it.
pub(crate) fn source(flow: &Flow) -> String {
    match &flow.key {
        FlowKey::Datagram { listener, remote } => format!("udp/{listener}/{remote}"),
        FlowKey::Stream(conn) => format!("conn/{}/{}", conn.0, flow.remote),
    }
}

/// The policies that hold at an address.
pub(crate) fn policies<'a>(agent: &'a AgentConfig, domain: &'a DomainConfig) -> Policies<'a> {
    Policies { agent: &agent.policies, domain: &domain.policies }
}

/// The principal as the policy reads it.
pub(crate) fn policy_principal(principal: &Principal) -> PolicyPrincipal<'_> {
    match principal {
        Principal::User(uri) => PolicyPrincipal::User(uri),
        Principal::Anonymous => PolicyPrincipal::Anonymous,
    }
}

/// Whether MCP may travel on this transport for this domain (SEC-1).
pub(crate) fn transport_allowed(domain: &DomainConfig, transport: Transport) -> bool {
    matches!(transport, Transport::Tls | Transport::Wss) || domain.allow_plain.contains(&transport)
}

/// The users that a client certificate names, canonical. It counts only where the CA of the domain that is asked vouches for it: another
/// tenant's CA opens nothing here (SEC-15).
fn certified(certificate: &PeerCertificate, asked: &DomainConfig) -> Vec<String> {
    if !asked.client_certificates || !certificate.domains.contains(&asked.domain) {
        return Vec::new();
    }
    let user = |text: &String| match Uri::parse(text).ok()? {
        Uri::Sip(uri) => uri.user().map(|_| canonical(&uri.aor())),
        Uri::Tel(_) | Uri::Other { .. } => Some(text.clone()),
    };
    certificate.uris.iter().filter_map(user).collect()
}

/// `sip:` and `sips:` name the same user.
pub(crate) fn canonical(aor: &str) -> String {
    match aor.strip_prefix("sips:") {
        Some(rest) => format!("sip:{rest}"),
        None => aor.to_owned(),
    }
}

impl EdgeState {
    /// 403 where the domain does not allow this transport.
    pub(crate) fn check_transport(&mut self, request: &Request, domain: &DomainConfig) -> Option<Answer> {
        if transport_allowed(domain, request.flow.transport) {
            return None;
        }
        self.stats.limit("plainTransport");
        Some(Answer::new(403).phrase("Plain Transport Not Allowed").warning(
            399,
            &domain.domain,
            "this domain takes MCP over TLS or WSS only",
        ))
    }

    /// Who sent this, for `domain`: by certificate, by what its TLS connection proved before, or by digest. `Ok(None)`: no credentials.
    ///
    /// # Errors
    /// The answer to credentials that are wrong or stale.
    pub(crate) fn identify(&mut self, request: &Request, domain: &Arc<DomainConfig>) -> Result<Option<Caller>, Answer> {
        let proven = request.flow.transport != Transport::Udp;
        let caller =
            |principal, nonce, proven| Caller { domain: domain.clone(), principal, nonce, certified: false, proven };
        if let Some(certificate) = request.flow.certificate.clone() {
            // One certificate may name several users: the one that the request claims to come from, else the first.
            let method_is_register = request.method() == "REGISTER";
            let claimed = if method_is_register { request.message.to() } else { request.message.from() };
            let claimed = claimed.typed_uri().sip().map(|uri| canonical(&uri.aor()));
            let users = certified(&certificate, domain);
            let user = users.iter().find(|user| Some(*user) == claimed.as_ref()).or(users.first());
            if let Some(user) = user {
                return Ok(Some(Caller { certified: true, ..caller(Principal::User(user.clone()), None, true) }));
            }
        }
        match self.digest(request, domain)? {
            Some((principal, nonce)) => Ok(Some(caller(principal, Some(nonce), true))),
            None => Ok(self.flows.marked(&request.flow, &domain.domain).cloned().map(|p| caller(p, None, proven))),
        }
    }

    /// The store took the nonce count: from now on this TLS connection stands for its user. Not before: credentials that were used
    /// elsewhere already must not open it.
    pub(crate) fn authenticated(&mut self, request: &Request, caller: &Caller) {
        if caller.nonce.is_some() {
            self.flows.mark(&request.flow, &caller.domain.domain, &caller.principal);
        }
    }

    /// An audit record of a refusal after the identity was known.
    pub(crate) fn audit_refusal(&mut self, request: &Request, domain: &str, principal: &str, rule: &str, status: i64) {
        let record = AuditRecord {
            at: self.now.wall,
            kind: AuditKind::Refusal,
            domain: domain.to_owned(),
            principal: shown(principal),
            agent: shown(request.message.request_uri().unwrap_or_default()),
            method: Some(shown(request.method())),
            tool: None,
            rule: rule.to_owned(),
            outcome: Outcome::Denied(status),
            call_id: shown(request.message.call_id()),
            exchange: None,
            conversation: None,
            duration_us: Some(self.now.mono.0.saturating_sub(request.received.mono.0)),
        };
        self.emit(Effect::Audit(record));
    }

    /// 401 with our challenges. Where no digest is configured nothing can be challenged: 401 where certificates would be accepted (the
    /// connection must bring one), else 403, because no credential could ever help.
    pub(crate) fn challenge(&mut self, domain: &DomainConfig, stale: bool) -> Answer {
        let values = self.challenges(domain, stale);
        if !values.is_empty() {
            let answer = Answer::new(401);
            return values.into_iter().fold(answer, |answer, value| answer.header(HeaderId::WwwAuthenticate, value));
        }
        if domain.client_certificates {
            Answer::new(401).phrase("Client Certificate Required")
        } else {
            Answer::new(403).phrase("No Authentication Configured")
        }
    }
}
