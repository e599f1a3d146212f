//! Before anything is written: size → JSON bounds → envelope → exchange and relation → era → policy → limits.

use std::sync::Arc;

use bytes::Bytes;
use mcp_sip::era::{Era, RelationEra};
use mcp_sip::errors::{RpcError, SipRefusal};
use mcp_sip::exchange::{Belongs, Exchange as Named, ExchangeId, Rejected, Side};
use mcp_sip::jsonrpc::{Answer, Body, Bounds, Envelope, Kind, RawId};
use session_store::key::{ExchangeKey, SessionKey};
use session_store::op::OpenExchange;
use session_store::record::{JournalEntry, LegRecord, McpRecord};
use sha2::{Digest, Sha256};

use super::Engine;
use super::about::About;
use super::access::{Access, Refusal};
use super::exchange::{ASK_MS, Exchange, GRACE_MS, LISTEN_MS, Noted, Stage};
use super::pending::{Fate, Judged, Refused, What};
use super::session::{self, Session, client_of};
use super::trace::Trace;
use super::types::{Ctx, Inbound, Leg, LegKey, Ticket, Verdict};
use crate::config::{AgentBackend, AgentConfig, Config};
use crate::random::keyed_hash;
use crate::text;

/// Messages on their way to callers at once, all legs together.
const MAX_DELIVERIES: usize = 65_536;
/// Requests of one session that are open weigh no more than so many of the largest messages.
const IN_FLIGHT_MESSAGES: usize = 8;
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
fn revisions(agent: &AgentConfig) -> &[String] {
    match &agent.backend {
        AgentBackend::McpHttp { revisions } => revisions,
        AgentBackend::SipContact { .. } => &[],
    }
}

fn speaks(revisions: &[String], era: Era) -> bool {
    revisions.iter().any(|version| Era::of_version(version) == Some(era))
}

/// Whether a legacy session can be at the backend of this leg's agent at all.
pub(super) fn serves_legacy(leg: &Leg) -> bool {
    speaks(revisions(&leg.agent), Era::Legacy)
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
        let mut what = match self.consider(ctx, &inbound) {
            Ok(what) => what,
            Err(No { status, phrase }) => return Verdict::Refuse { status, phrase },
        };
        if let What::Request(exchange) = &mut what {
            self.meter_exchange(ctx, exchange);
        }
        let key = inbound.leg.session;
        let open = match &what {
            What::Request(exchange) => {
                self.session(ctx, &inbound.leg).tickets += 1;
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

    /// The same for a request that was refused while the store was away, should it be the repetition of an accepted one: its write opens
    /// nothing. `None`: it is no request that could be.
    pub fn judge_late(&mut self, ctx: &mut Ctx<'_>, inbound: Inbound) -> Option<(Ticket, Box<OpenExchange>)> {
        let Ok(What::Request(mut exchange)) = self.consider(ctx, &inbound) else { return None };
        exchange.opens_nothing = true;
        self.session(ctx, &inbound.leg).tickets += 1;
        let open = Box::new(self.journal(ctx, &exchange));
        let (number, what) = (ctx.ids.number(), What::Request(exchange));
        self.tickets.insert(number, Judged { leg: inbound.leg, header: inbound.exchange, what, fate: Fate::Live });
        Some((Ticket(number), open))
    }

    /// The write's reply has another negotiated set for this leg than the judgement was made on: the store's word decides. A request that
    /// was let in is checked once more before it runs. `true`: nothing was written for it, so the ticket is to be abandoned and the message
    /// judged anew, on a leg of that set.
    pub fn reconsider(&mut self, ticket: &Ticket, mcp: Option<&McpRecord>) -> bool {
        let Some(judged) = self.tickets.get_mut(&ticket.0).filter(|judged| judged.leg.mcp.as_ref() != mcp) else {
            return false;
        };
        let What::Request(exchange) = &mut judged.what else { return true };
        let leg = Arc::new(Leg { mcp: mcp.cloned(), ..Leg::clone(&judged.leg) });
        exchange.about.leg = leg.clone();
        exchange.leg = leg.clone();
        exchange.is_reconsidered = true;
        if let Some(session) = self.sessions.get_mut(&leg.session) {
            session.leg = leg.clone();
        }
        judged.leg = leg;
        false
    }

    fn consider(&mut self, ctx: &mut Ctx<'_>, inbound: &Inbound) -> Result<What, No> {
        if inbound.leg.agent.backend.is_sip_contact() {
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
            // What it opens would belong to a life that has ended; another edge takes it.
            Kind::Request if !ctx.has_lease() => self.consider_repetition(ctx, inbound, envelope)?,
            Kind::Request => match self.consider_request(ctx, inbound, envelope) {
                Ok(exchange) => What::Request(Box::new(exchange)),
                Err(refused) => What::Refused(refused),
            },
            Kind::Notification | Kind::Response | Kind::Error => self.consider_other(ctx, inbound, &envelope),
        })
    }

    /// Without a lease: the answer that the journal may have of a request. One that is safe to run again has none to rely on.
    fn consider_repetition(&mut self, ctx: &mut Ctx<'_>, inbound: &Inbound, envelope: Envelope) -> Result<What, No> {
        match self.consider_request(ctx, inbound, envelope) {
            Ok(mut exchange) if !exchange.repeatable => {
                exchange.opens_nothing = true;
                return Ok(What::Request(Box::new(exchange)));
            }
            Ok(exchange) => self.give_back(inbound.leg.session, exchange.slot),
            Err(_) => {}
        }
        Err(No { status: 503, phrase: "No Lease" })
    }

    /// Notifications and responses open nothing; what they belong to is looked up when they are written.
    fn consider_other(&mut self, ctx: &Ctx<'_>, inbound: &Inbound, envelope: &Envelope) -> What {
        let other_relation = inbound.exchange.as_ref().is_some_and(|h| h.relation != client_of(&inbound.leg));
        let allowed = match envelope.method() {
            Some(method) => Access::of(ctx.config, &inbound.leg).is_some_and(|access| {
                let (subject, arguments) = (envelope.subject(), access.arguments(envelope));
                // A server may run what has no id all the same, and nobody would hear of its end: what is counted needs one.
                let is_counted = access.is_metered(method, subject.as_deref(), &arguments);
                !is_counted && access.judge(method, subject.as_deref(), &arguments).is_ok()
            }),
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
    ) -> Result<Exchange, Box<Refused>> {
        let leg = &inbound.leg;
        let header = inbound.exchange.as_ref();
        let id = envelope.id().unwrap_or_else(|| unreachable!("the parser gives a request its id"));
        let trace = Trace::new(ctx, envelope.traceparent().as_deref());
        let about = About::new(leg, &envelope, header, "default".into(), inbound.received, trace);
        let key = exchange_key(ctx.config, inbound, &id);
        let digest: [u8; 32] = Sha256::digest(&inbound.body).into();
        let wrong =
            |error: RpcError| Box::new(Refused { id: id.clone(), error, denied: false, about: Some(about.clone()) });

        if header.is_some_and(|header| header.relation != client_of(leg)) {
            // The agent's side is a server; as a client it has no capability that anybody could ask for (mcp.md 5.2).
            return Err(wrong(RpcError::method_not_found(&about.method)));
        }
        self.check_sessions(ctx, leg).map_err(&wrong)?;
        let slot = self.admit(ctx, inbound, &envelope, &key, &digest).map_err(&wrong)?;
        let exchange = self.admitted(ctx, inbound, envelope, &about, key, digest, slot);
        if exchange.is_err() {
            self.give_back(leg.session, slot);
        }
        exchange.map_err(|refusal| {
            let mut refused = wrong(refusal.error);
            refused.denied = refusal.denied;
            if let Some(about) = &mut refused.about {
                about.rule = refusal.rule;
            }
            refused
        })
    }

    /// Places a request in its session's table: an id and an exchange name one open request each, and so many are open at most.
    /// `None`: the same request is open there already; the journal knows what becomes of the repetition.
    fn admit(
        &mut self,
        ctx: &mut Ctx<'_>,
        inbound: &Inbound,
        envelope: &Envelope,
        key: &ExchangeKey,
        digest: &[u8; 32],
    ) -> Result<Option<ExchangeId>, RpcError> {
        let fresh = ExchangeId::from_random(&ctx.random.bytes());
        let session_key = inbound.leg.session;
        let limit = ctx.config.edge.limits.message_bytes.saturating_mul(IN_FLIGHT_MESSAGES);
        let bytes = inbound.body.len();
        let session = self.session(ctx, &inbound.leg);
        let header = inbound.exchange.as_ref().map(|header| header.exchange);
        let has_room = session.has_room(bytes, limit);
        match session.table.admit(Side::Client, header, envelope, fresh) {
            Ok(Belongs::Opened(slot)) if !has_room => {
                session.table.close(slot);
                Err(RpcError::limited("inFlightBytesPerSession", 1_000))
            }
            Ok(Belongs::Opened(slot)) => {
                session.placed(slot, bytes);
                Ok(Some(slot))
            }
            Ok(Belongs::Repeated(slot)) => {
                let open = session.open.get(&slot).copied().and_then(|no| self.exchanges.get(&no));
                let judged = || {
                    self.tickets.values().find_map(|judged| match &judged.what {
                        What::Request(known) if known.session == session_key && known.slot == Some(slot) => {
                            Some(&**known)
                        }
                        _ => None,
                    })
                };
                let is_same = open.or_else(judged).is_some_and(|known| known.key == *key && known.digest == *digest);
                if is_same {
                    Ok(None)
                } else {
                    Err(RpcError::invalid_request("The id is that of another open request"))
                }
            }
            Ok(_) | Err(Rejected::Drop(_)) => Err(RpcError::invalid_request("The request has no place here")),
            Err(Rejected::Refuse(error)) => Err(error),
        }
        .inspect_err(|_| self.settle(session_key))
    }

    /// A place that was taken and is not needed.
    pub(super) fn give_back(&mut self, key: SessionKey, slot: Option<ExchangeId>) {
        if let (Some(slot), Some(session)) = (slot, self.sessions.get_mut(&key)) {
            session.leaves(slot);
        }
        self.settle(key);
    }

    /// The session of a leg, made where there is none.
    pub(super) fn session(&mut self, ctx: &Ctx<'_>, leg: &Arc<Leg>) -> &mut Session {
        let limit = ctx.config.edge.limits.in_flight_per_session;
        self.sessions.entry(leg.session).or_insert_with(|| Session::new(leg.clone(), limit, ctx.now.mono))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request, each from another check")]
    fn admitted(
        &mut self,
        ctx: &Ctx<'_>,
        inbound: &Inbound,
        envelope: Envelope,
        about: &About,
        key: ExchangeKey,
        digest: [u8; 32],
        slot: Option<ExchangeId>,
    ) -> Result<Exchange, Refusal> {
        let leg = &inbound.leg;
        let method = about.method.as_str();
        if method.len() > MAX_METHOD {
            return Err(Refusal::wrong(RpcError::method_not_found(method)));
        }
        let access = Access::of(ctx.config, leg).ok_or_else(|| Refusal::denied(method))?;
        let has_legacy = self.sessions.get(&leg.session).is_some_and(|session| session.legacy.is_some());
        let era = check_era(access.agent(), leg, &envelope, has_legacy).map_err(Refusal::wrong)?;
        check_members(&envelope, method).map_err(Refusal::wrong)?;
        let subject = envelope.subject();
        let rule = access.judge(method, subject.as_deref(), &access.arguments(&envelope))?;
        let repeatable = access.may_replay(method, subject.as_deref());
        let is_safe = access.is_safe(method, subject.as_deref());
        let is_listen = era == Era::Modern && method == "subscriptions/listen" && leg.key.in_dialog();
        let timeout_ms = if is_listen { LISTEN_MS } else { access.agent().timeout_ms };
        let deadline = inbound.received.mono.plus_millis(timeout_ms);
        let latest = if era == Era::Legacy { deadline.plus_millis(ASK_MS) } else { deadline };
        Ok(Exchange {
            session: leg.session,
            leg: leg.clone(),
            header: inbound.exchange.clone(),
            slot,
            key,
            digest,
            id: envelope.id().unwrap_or_else(|| unreachable!("the parser gives a request its id")),
            era,
            version: envelope.meta_protocol_version().map(|version| version.into_owned()),
            repeatable,
            is_safe,
            about: About { rule, ..about.clone() },
            envelope: Some(envelope),
            stage: Stage::Waiting,
            deadline,
            latest,
            owed: 0,
            owed_since: inbound.received.mono,
            notes: 0,
            retried: false,
            backend_session: None,
            is_adopted: false,
            is_reconsidered: false,
            opens_nothing: false,
            is_metered: false,
            limited: None,
            places: Vec::new(),
            owner: ctx.owner,
            upstream: None,
            resumed: None,
            noted: Noted::default(),
        })
    }

    /// Dialogs are counted by the SIP half; sessions out of a dialog have as many places again.
    fn check_sessions(&self, ctx: &Ctx<'_>, leg: &Leg) -> Result<(), RpcError> {
        let limit = ctx.config.edge.limits.sessions_per_pod.saturating_mul(2);
        let is_new = !leg.key.in_dialog() && !self.sessions.contains_key(&leg.session);
        if is_new && self.sessions.len() >= limit { Err(RpcError::limited("sessionsPerPod", 1_000)) } else { Ok(()) }
    }

    /// What the journal is to have of an exchange now, where it lost what it had.
    pub(super) fn journal_again(&self, ctx: &Ctx<'_>, exchange: &Exchange) -> OpenExchange {
        let mut open = self.journal(ctx, exchange);
        let (entry, known) = (&mut open.entry, exchange.noted.known.clone());
        entry.event_id = known.event_id;
        entry.task = known.task;
        entry.upstream_id = known.upstream_id.or_else(|| exchange.upstream.as_ref().map(|id| id.as_str().to_owned()));
        entry.backend_session = known.backend_session.or(entry.backend_session.take());
        open
    }

    pub(super) fn journal(&self, ctx: &Ctx<'_>, exchange: &Exchange) -> OpenExchange {
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
                leg: leg_record(&exchange.leg),
                // Only what may be sent again by another edge; the rest need not lie anywhere.
                request: exchange.envelope.as_ref().filter(|_| exchange.repeatable).map(|e| e.bytes().clone()),
                upstream_id: None,
                backend_session: self
                    .sessions
                    .get(&exchange.session)
                    .and_then(|session| session.legacy.as_ref())
                    .and_then(|legacy| legacy.record.backend_session.clone())
                    .filter(|_| exchange.era == Era::Legacy && !exchange.is_initialize()),
                event_id: None,
                task: None,
                answer: None,
            },
            limit: if exchange.opens_nothing || exchange.limited.is_some() {
                0
            } else {
                ctx.config.edge.limits.in_flight_per_session
            },
            ttl_ms: life_ms.saturating_add(GRACE_MS),
            session_ttl_ms: session::ttl_ms(&exchange.leg, ctx.config),
            instead_of: None,
        }
    }
}

/// The journal's name of a request: principal, exchange and id; or the SIP transaction, for a peer without the header.
fn exchange_key(config: &Config, inbound: &Inbound, id: &RawId) -> ExchangeKey {
    let hash = match inbound.exchange.as_ref().map(|header| header.exchange) {
        Some(Named::Id(exchange)) => {
            let id = id.canonical();
            let parts: [&[u8]; 3] = [inbound.leg.principal.as_str().as_bytes(), exchange.as_str().as_bytes(), id.raw()];
            keyed_hash(&*config.naming_key, "exchange", &parts)
        }
        Some(Named::Session) | None => inbound.transaction,
    };
    ExchangeKey { session: inbound.leg.session, hash }
}

/// What another edge needs to answer on this leg.
fn leg_record(leg: &Leg) -> LegRecord {
    LegRecord {
        dialog: match leg.key {
            LegKey::Dialog(dialog) => Some(dialog),
            LegKey::OutOfDialog(_) => None,
        },
        principal: leg.principal.as_str().to_owned(),
        agent_user: leg.agent.user.clone(),
        domain: leg.domain.domain.clone(),
        call_id: leg.call_id.clone(),
        carrier: leg.carrier.name().to_owned(),
        caller_uri: leg.way.caller_uri.clone(),
        agent_uri: leg.way.agent_uri.clone(),
        flow: leg.way.flow.clone(),
    }
}

/// The leg speaks what the backend speaks; translation is another feature. Gives the era of the request.
fn check_era(agent: &AgentConfig, leg: &Leg, request: &Envelope, has_legacy: bool) -> Result<Era, RpcError> {
    let served = revisions(agent);
    let negotiated = match leg.mcp.as_ref().map(|mcp| mcp.versions.as_slice()) {
        Some([version]) => Era::of_version(version),
        _ => None,
    };
    let is_plain = !request.is_initialize()
        && request.method() != Some("server/discover")
        && request.meta_protocol_version().is_none();
    let decided = match (has_legacy, negotiated) {
        (true, _) => Some(Era::Legacy),
        (false, Some(era)) => Some(era),
        // Whether it belongs to a session only the store can say.
        (false, None) if is_plain && speaks(served, Era::Legacy) => Some(Era::Legacy),
        (false, None) => None,
    };
    let envelope = leg.mcp.as_ref().is_some_and(|mcp| mcp.envelope);
    let era = RelationEra::restored(served, envelope, decided, None).admit(request)?;
    Ok(era.unwrap_or(Era::Legacy))
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
