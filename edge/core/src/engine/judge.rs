//! Before anything is written: size → JSON bounds → envelope → exchange and relation → era → policy → limits.

use bytes::Bytes;
use mcp_sip::era::Era;
use mcp_sip::errors::{RpcError, SipRefusal};
use mcp_sip::exchange::Exchange as Belongs;
use mcp_sip::jsonrpc::{Answer, Body, Bounds, Envelope, Kind, META_CLIENT_CAPABILITIES, META_PROTOCOL_VERSION, RawId};
use session_store::key::ExchangeKey;
use session_store::op::OpenExchange;
use session_store::record::JournalEntry;
use sha2::{Digest, Sha256};

use super::Engine;
use super::about::About;
use super::access::Access;
use super::exchange::{ASK_MS, Exchange, GRACE_MS, LISTEN_MS, Stage};
use super::pending::{Fate, Judged, Refused, What};
use super::session::{self, Session, client_of};
use super::trace::Trace;
use super::types::{Ctx, Inbound, Leg, Ticket, Verdict};
use crate::config::{AgentBackend, AgentConfig, Config, ToolEffect};
use crate::random::keyed_hash;
use crate::text;

/// Messages on their way to callers at once, all legs together.
const MAX_DELIVERIES: usize = 65_536;
/// No method of MCP is longer.
const MAX_METHOD: usize = 256;

/// A refusal by SIP status.
struct No {
    status: u16,
    phrase: &'static str,
}

impl From<SipRefusal> for No {
    fn from(refusal: SipRefusal) -> No {
        No { status: refusal.status(), phrase: refusal.phrase() }
    }
}

/// What the backend of an agent speaks, in order of preference.
fn revisions(agent: &AgentConfig) -> Vec<&str> {
    match &agent.backend {
        AgentBackend::McpHttp { revisions } => revisions.iter().map(String::as_str).collect(),
        AgentBackend::SipContact => Vec::new(),
    }
}

fn speaks(revisions: &[&str], era: Era) -> bool {
    revisions.iter().any(|version| Era::of_version(version) == Some(era))
}

/// Whether a legacy session can be at the backend of this leg's agent at all.
pub(super) fn serves_legacy(leg: &Leg) -> bool {
    speaks(&revisions(&leg.agent), Era::Legacy)
}

/// The most bytes of one body on this leg, either way, while SIP carries it.
pub(super) fn body_limit(config: &Config, leg: &Leg) -> usize {
    let limits = &config.edge.limits;
    let domain = config.domains.get(&leg.domain.domain).unwrap_or(&leg.domain);
    limits.sip_body_bytes.min(limits.message_bytes).min(domain.max_payload_bytes.unwrap_or(usize::MAX))
}

impl Engine {
    /// Judges one message. Nothing is written and nothing leaves yet; the answer of [`Verdict::Write`]'s write goes to
    /// [`Self::written`], or the ticket to [`Self::abandon`].
    pub fn judge(&mut self, ctx: &mut Ctx<'_>, inbound: Inbound) -> Verdict {
        let what = match self.consider(ctx, &inbound) {
            Ok(what) => what,
            Err(No { status, phrase }) => return Verdict::Refuse { status, phrase },
        };
        let key = inbound.leg.session;
        let open = match &what {
            What::Request(exchange) => {
                let session =
                    self.sessions.entry(key).or_insert_with(|| Session::new(inbound.leg.clone(), ctx.now.mono));
                session.tickets += 1;
                Some(Box::new(self.journal(ctx, exchange)))
            }
            What::Refused(_) | What::Other(_) | What::Nothing => None,
        };
        if let Some(session) = self.sessions.get_mut(&key) {
            session.header |= inbound.exchange.is_some();
            session.leg = inbound.leg.clone();
        }
        let once = (open.is_none() && !inbound.leg.key.in_dialog())
            .then_some(ExchangeKey { session: key, hash: inbound.transaction });
        let number = ctx.ids.number();
        self.tickets.insert(number, Judged { leg: inbound.leg, header: inbound.exchange, what, fate: Fate::Live });
        Verdict::Write { ticket: Ticket(number), open, once }
    }

    fn consider(&mut self, ctx: &mut Ctx<'_>, inbound: &Inbound) -> Result<What, No> {
        if inbound.leg.agent.backend == AgentBackend::SipContact {
            return Err(No { status: 480, phrase: "Temporarily Unavailable" });
        }
        if self.deliveries.len() + self.tickets.len() >= MAX_DELIVERIES {
            return Err(No { status: 503, phrase: "Service Unavailable" });
        }
        let bounds = Bounds { bytes: body_limit(ctx.config, &inbound.leg), ..Bounds::default() };
        let envelope = match Body::parse(&inbound.body, &bounds) {
            Ok(Body::Message(envelope)) => envelope,
            Ok(Body::Negotiation(_)) => return Err(SipRefusal::EnvelopeNotHere.into()),
            Err(refused) => match refused.answer() {
                Answer::Sip(refusal) => return Err(refusal.into()),
                Answer::JsonRpc(id, error) => {
                    return Ok(What::Refused(Box::new(Refused { id, error, denied: false, about: None })));
                }
            },
        };
        Ok(match envelope.kind() {
            Kind::Request => match self.consider_request(ctx, inbound, envelope) {
                Ok(exchange) => What::Request(Box::new(exchange)),
                Err(refused) => What::Refused(Box::new(refused)),
            },
            Kind::Notification | Kind::Response | Kind::Error => self.consider_other(ctx, inbound, &envelope),
        })
    }

    /// Notifications and responses open nothing; what they belong to is looked up when they are written.
    fn consider_other(&mut self, ctx: &Ctx<'_>, inbound: &Inbound, envelope: &Envelope) -> What {
        let other_relation = inbound.exchange.as_ref().is_some_and(|h| h.relation != client_of(&inbound.leg));
        let allowed = match envelope.method() {
            Some(method) => Access::of(ctx.config, &inbound.leg)
                .is_some_and(|access| access.judge(method, envelope.subject().as_deref()).is_ok()),
            None => true,
        };
        if other_relation || !allowed {
            self.stats.unmatched += 1;
            return What::Nothing;
        }
        What::Other(envelope.bytes().clone())
    }

    fn consider_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        inbound: &Inbound,
        envelope: Envelope,
    ) -> Result<Exchange, Refused> {
        let leg = &inbound.leg;
        let header = inbound.exchange.as_ref();
        let id = envelope.id().unwrap_or_else(|| unreachable!("the parser gives a request its id"));
        let method = envelope.method().unwrap_or_default().to_owned();
        let trace = Trace::new(ctx, envelope.traceparent().as_deref());
        let about = About::new(leg, &envelope, header, "default".into(), inbound.received, trace);
        let era = if envelope.meta_protocol_version().is_some() || method == "server/discover" {
            Era::Modern
        } else {
            Era::Legacy
        };
        let key = exchange_key(ctx.config, inbound, &id);
        let digest: [u8; 32] = Sha256::digest(&inbound.body).into();
        let wrong = |error: RpcError| Refused { id: id.clone(), error, denied: false, about: Some(about.clone()) };

        if let Some(header) = header {
            if header.relation != client_of(leg) {
                // The agent's side is a server; as a client it has no capability that anybody could ask for (mcp.md 5.2).
                return Err(wrong(RpcError::method_not_found(&method)));
            }
            if header.exchange == Belongs::Session {
                return Err(wrong(RpcError::header_mismatch(era, "a request opens an exchange of its own")));
            }
        }
        self.check_names(inbound, &id, &key, &digest, era).map_err(&wrong)?;
        if method.len() > MAX_METHOD {
            return Err(wrong(RpcError::method_not_found(&method)));
        }
        let Some(access) = Access::of(ctx.config, leg) else {
            return Err(Refused { denied: true, ..wrong(RpcError::denied(&method)) });
        };
        check_era(access.agent(), leg, &envelope, era).map_err(&wrong)?;
        check_members(&envelope, &method).map_err(&wrong)?;
        let subject = envelope.subject();
        let rule = match access.judge(&method, subject.as_deref()) {
            Ok(rule) => rule,
            Err(refusal) => {
                let mut refused = Refused { denied: true, ..wrong(refusal.error) };
                if let Some(about) = &mut refused.about {
                    about.rule = refusal.rule;
                }
                return Err(refused);
            }
        };
        self.check_limits(ctx, leg).map_err(&wrong)?;

        let repeatable = match method.as_str() {
            "tools/call" => access.effect(subject.as_deref().unwrap_or_default()) != ToolEffect::Destructive,
            // It makes a session: once only.
            "initialize" => false,
            // Reading; and what changes a setting sets it to the same value again.
            _ => true,
        };
        let in_listen = era == Era::Modern && method == "subscriptions/listen" && leg.key.in_dialog();
        let timeout_ms = if in_listen { LISTEN_MS } else { access.agent().timeout_ms };
        let deadline = inbound.received.mono.plus_millis(timeout_ms);
        let latest = if era == Era::Legacy { deadline.plus_millis(ASK_MS) } else { deadline };
        Ok(Exchange {
            session: leg.session,
            leg: leg.clone(),
            header: inbound.exchange.clone(),
            key,
            digest,
            id,
            era,
            version: envelope.meta_protocol_version().map(|version| version.into_owned()),
            repeatable,
            about: About { rule, ..about },
            envelope: Some(envelope),
            stage: Stage::Waiting,
            deadline,
            latest,
            owed: 0,
            owed_since: inbound.received.mono,
            notes: 0,
            retried: false,
            backend_session: None,
        })
    }

    /// An id and an exchange name one open request each. The same request again is a repetition, which the journal knows.
    fn check_names(
        &self,
        inbound: &Inbound,
        id: &RawId,
        key: &ExchangeKey,
        digest: &[u8; 32],
        era: Era,
    ) -> Result<(), RpcError> {
        let Some(session) = self.sessions.get(&inbound.leg.session) else { return Ok(()) };
        if let Some(known) = session.open.get(&id.canonical()).and_then(|no| self.exchanges.get(no)) {
            if known.key == *key && known.digest == *digest {
                return Ok(());
            }
            return Err(RpcError::invalid_request("The id is that of another open request"));
        }
        let Some(header) = &inbound.exchange else { return Ok(()) };
        let is_taken = session
            .open
            .values()
            .filter_map(|no| self.exchanges.get(no))
            .any(|open| open.header.as_ref().is_some_and(|known| known.exchange == header.exchange));
        if is_taken {
            Err(RpcError::header_mismatch(era, "the exchange is that of another open request"))
        } else {
            Ok(())
        }
    }

    fn check_limits(&self, ctx: &Ctx<'_>, leg: &Leg) -> Result<(), RpcError> {
        let limits = &ctx.config.edge.limits;
        match self.sessions.get(&leg.session) {
            Some(session) if session.open.len() + session.tickets >= limits.in_flight_per_session => {
                Err(RpcError::limited("inFlightPerSession", 1_000))
            }
            // Dialogs are counted by the SIP half; sessions out of a dialog have as many places again.
            None if !leg.key.in_dialog() && self.sessions.len() >= limits.sessions_per_pod.saturating_mul(2) => {
                Err(RpcError::limited("sessionsPerPod", 1_000))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn journal(&self, ctx: &Ctx<'_>, exchange: &Exchange) -> OpenExchange {
        let life_ms = exchange.latest.millis_since(ctx.now.mono);
        OpenExchange {
            key: exchange.key,
            entry: JournalEntry {
                exchange: exchange.about.exchange.clone(),
                id: exchange.id.as_str().to_owned(),
                method: text::shown(&exchange.about.method),
                tool: exchange.about.subject.as_deref().map(text::shown),
                repeatable: exchange.repeatable,
                digest: exchange.digest,
                deadline: ctx.now.wall.plus_millis(life_ms).0,
                started: exchange.about.received.wall.0,
                owner: ctx.owner,
            },
            limit: ctx.config.edge.limits.in_flight_per_session,
            ttl_ms: life_ms.saturating_add(GRACE_MS),
            session_ttl_ms: session::ttl_ms(&exchange.leg.key),
        }
    }
}

/// The journal's name of a request: principal, exchange and id; or the SIP transaction, for a peer without the header.
fn exchange_key(config: &Config, inbound: &Inbound, id: &RawId) -> ExchangeKey {
    let hash = match inbound.exchange.as_ref().map(|header| header.exchange) {
        Some(Belongs::Id(exchange)) => {
            let mac: &[u8] = config.token_keys.first().map_or(&[], |key| &key.mac[..]);
            let id = id.canonical();
            let parts: [&[u8]; 3] = [inbound.leg.principal.as_str().as_bytes(), exchange.as_str().as_bytes(), id.raw()];
            keyed_hash(mac, "exchange", &parts)
        }
        Some(Belongs::Session) | None => inbound.transaction,
    };
    ExchangeKey { session: inbound.leg.session, hash }
}

/// The leg speaks what the backend speaks; translation is another feature.
fn check_era(agent: &AgentConfig, leg: &Leg, envelope: &Envelope, era: Era) -> Result<(), RpcError> {
    let revisions = revisions(agent);
    match era {
        Era::Modern => {
            let Some(version) = envelope.meta_protocol_version() else {
                return Err(missing_meta(META_PROTOCOL_VERSION));
            };
            if Era::of_version(&version) != Some(Era::Modern) || !revisions.contains(&&*version) {
                return Err(RpcError::unsupported_version(Era::Modern, Some(&version), &revisions));
            }
            if envelope.meta_client_capabilities().is_none() {
                return Err(missing_meta(META_CLIENT_CAPABILITIES));
            }
            Ok(())
        }
        Era::Legacy if envelope.is_initialize() => {
            if speaks(&revisions, Era::Legacy) {
                return Ok(());
            }
            let requested = envelope.initialize_version();
            Err(RpcError::unsupported_version(Era::Legacy, requested.as_deref(), &revisions))
        }
        Era::Legacy if speaks(&revisions, Era::Legacy) => Ok(()),
        // A draft peer whose envelope stands for `initialize` is a legacy peer; any other forgot something.
        Era::Legacy if leg.mcp.as_ref().is_some_and(|mcp| mcp.envelope && mcp.versions.is_empty()) => {
            Err(RpcError::unsupported_version(Era::Legacy, None, &revisions))
        }
        Era::Legacy => Err(missing_meta(META_PROTOCOL_VERSION)),
    }
}

pub(super) fn missing_meta(member: &str) -> RpcError {
    RpcError::missing_member(&format!("params._meta[\"{member}\"]"))
}

/// What the methods that policy judges by name cannot do without.
fn check_members(envelope: &Envelope, method: &str) -> Result<(), RpcError> {
    let missing = match method {
        "tools/call" | "prompts/get" => envelope.name().is_none().then_some("params.name"),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            envelope.uri().is_none().then_some("params.uri")
        }
        "initialize" => envelope.initialize_version().is_none().then_some("params.protocolVersion"),
        _ => None,
    };
    missing.map_or(Ok(()), |member| Err(RpcError::missing_member(member)))
}

/// Reads a message of a backend again, or one that was judged before: it was within the bounds.
pub(super) fn reread(body: &Bytes) -> Option<Envelope> {
    Envelope::parse(body, &Bounds { bytes: usize::MAX, error_without_id: true, ..Bounds::default() }).ok()
}
