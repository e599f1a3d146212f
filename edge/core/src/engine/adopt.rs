//! Exchanges that an edge left in flight when it died (mcp.md, section 9). The journal entry is all that is known of them. Each ends with
//! one answer on the flow where its caller is now: never a second execution of what is not declared safe, never silence.

use std::sync::Arc;

use mcp_sip::era::Era;
use mcp_sip::errors::RpcError;
use mcp_sip::exchange::{Belongs, Exchange as Named, ExchangeId, McpExchange, Side};
use mcp_sip::jsonrpc::{Kind, RawId, request};
use session_store::key::ExchangeKey;
use session_store::op::{CloseExchange, StoreError, StoreOp, StoreReply};
use session_store::record::{DialogRecord, JournalEntry, LegRecord, Owner};
use sip_proto::time::{Mono, Now, UnixMillis};

use super::Engine;
use super::about::About;
use super::access::Access;
use super::deliver::deliveries_of;
use super::doubt::Past;
use super::exchange::{Exchange, GRACE_MS, Noted, Stage};
use super::judge::reread;
use super::pending::{Op, Outgoing};
use super::resume::Plan;
use super::session::client_of;
use super::timers::Timer;
use super::trace::Trace;
use super::types::{Carrier, Ctx, Leg, LegKey, Principal, Way};
use crate::config::{
    AgentBackend, AgentConfig, Capabilities, Config, Failovers, OnFailover, RegistrationProfile, SessionLimits,
};
use crate::effect::LogLevel;

/// While the lease is not renewed, or the store is away, an adopted exchange is looked at again after so long; milliseconds.
pub(super) const AGAIN_MS: u64 = 500;
/// What an adopted exchange may take at least; milliseconds.
pub(super) const LEAST_MS: u64 = 5_000;

/// An adopted exchange that waits. As many as the journal can hold at most.
#[derive(Debug)]
pub(super) struct Orphan {
    key: ExchangeKey,
    entry: Box<JournalEntry>,
    dialog: Option<Box<DialogRecord>>,
    /// The life that it was adopted in: a later one adopts it again.
    owner: Owner,
}

impl Engine {
    /// Takes over an exchange that the store has just made ours: `StoreReply::Adopted` had it. `dialog` is the record of its dialog,
    /// if the SIP half has it; else it is read. An exchange that this engine is still serving (the lease ended, and this life of the
    /// same process adopted its own) goes on as it is.
    pub fn adopted(
        &mut self,
        ctx: &mut Ctx<'_>,
        key: ExchangeKey,
        entry: Box<JournalEntry>,
        dialog: Option<&DialogRecord>,
    ) {
        let started = entry.started;
        match self.held.past(ctx.now.mono, &key) {
            // Its caller has the answer, or was told that nothing was taken: nobody waits, and nothing runs. A repetition is a new request.
            Some(Past::Over { started: known }) if known == started => return self.end_entry(ctx, key),
            Some(Past::Refused { started: known }) if known == started && entry.repeatable => {
                return self.end_entry(ctx, key);
            }
            _ => {}
        }
        let left_ms = entry.deadline.saturating_sub(ctx.now.wall.0).max(LEAST_MS);
        self.heard(ctx, key, ctx.now.mono.plus_millis(left_ms.saturating_add(2 * GRACE_MS)));
        let dialog = dialog.map(|record| Box::new(record.clone()));
        self.take_over(ctx, Orphan { key, entry, dialog, owner: ctx.owner });
    }

    fn end_entry(&mut self, ctx: &mut Ctx<'_>, key: ExchangeKey) {
        let close = CloseExchange { key, owner: ctx.owner, answer: None, is_held: false };
        self.store(ctx, StoreOp::CloseExchange(close), Op::Forget);
    }

    pub(super) fn orphan_alarm(&mut self, ctx: &mut Ctx<'_>, no: u64) {
        match self.orphans.remove(&no) {
            Some(orphan) => self.take_over(ctx, orphan),
            None => self.resume_again(ctx, no),
        }
    }

    /// The record of its dialog.
    pub(super) fn orphan_dialog(&mut self, ctx: &mut Ctx<'_>, no: u64, reply: Result<StoreReply, StoreError>) {
        let Some(mut orphan) = self.orphans.remove(&no) else { return };
        match reply {
            Ok(StoreReply::Dialog { record, .. }) => {
                orphan.dialog = Some(record);
                self.take_over(ctx, orphan);
            }
            // BYE cancels plain exchanges (mcp.md 5.6), whoever serves them.
            Ok(_) => {
                let close = CloseExchange { key: orphan.key, owner: orphan.owner, answer: None, is_held: false };
                self.store(ctx, StoreOp::CloseExchange(close), Op::Forget);
            }
            Err(_) => self.wait(ctx, orphan),
        }
    }

    fn wait(&mut self, ctx: &mut Ctx<'_>, orphan: Orphan) {
        let no = ctx.ids.number();
        self.orphans.insert(no, orphan);
        self.timers.set(Timer::Orphan(no), ctx.now.mono.plus_millis(AGAIN_MS));
    }

    fn take_over(&mut self, ctx: &mut Ctx<'_>, orphan: Orphan) {
        // Whoever adopts for the next life gets it again.
        if orphan.owner != ctx.owner || self.goes_on(ctx, orphan.key) {
            return;
        }
        if !ctx.has_lease() {
            return self.wait(ctx, orphan);
        }
        if self.taken_back.has(ctx.now, orphan.key.session, &orphan.entry) {
            return self.end_entry(ctx, orphan.key);
        }
        if let (Some(dialog), None) = (orphan.entry.leg.dialog, &orphan.dialog) {
            let no = ctx.ids.number();
            self.orphans.insert(no, orphan);
            return self.store(ctx, StoreOp::ReadDialog { dialog }, Op::OrphanDialog(no));
        }
        let Orphan { key, entry, dialog, .. } = orphan;
        let Some((mut exchange, plan)) = restore(ctx, key, &entry, dialog.as_deref()) else {
            let message = format!("an exchange of {} cannot be answered: its domain is gone", entry.leg.domain);
            self.log(LogLevel::Error, message);
            let close = CloseExchange { key, owner: ctx.owner, answer: None, is_held: false };
            return self.store(ctx, StoreOp::CloseExchange(close), Op::Forget);
        };
        let no = ctx.ids.number();
        let placed = self.place_adopted(ctx, &mut exchange);
        if let (Some(slot), Some(session)) = (exchange.slot, self.sessions.get_mut(&key.session)) {
            session.open.insert(slot, no);
        }
        self.timers.set(Timer::Exchange(no), exchange.deadline);
        let about = exchange.about.clone();
        let access = Access::of(ctx.config, &about.leg);
        let subject = about.subject.as_deref();
        let is_allowed = access
            .as_ref()
            .is_some_and(|access| access.still_allows(&about.method, subject, &access.arguments_of(&exchange)));
        self.seat(ctx, &mut exchange);
        self.exchanges.insert(no, exchange);
        // Whoever may not call it any more gets nothing of it either (mcp.md, section 9). What is run again was kept with its arguments.
        if !is_allowed {
            return self.fail(ctx, no, RpcError::denied(subject.unwrap_or(&about.method)));
        }
        let may_replay = access.as_ref().is_some_and(|access| access.may_replay(&about.method, subject));
        let on_failover = access.map(|access| access.on_failover(&about.method, subject));
        let plan = match plan {
            // What was declared safe then is not any more, or is not to run again.
            Plan::Replay(_) if !may_replay => Plan::Give,
            Plan::Stream { .. } if on_failover == Some(OnFailover::TaskOnly) => Plan::Give,
            plan if placed => plan,
            // Another request by its name runs here: nothing of the backend could be told apart.
            _ => Plan::Give,
        };
        self.resume(ctx, no, plan);
    }

    /// A place in its session's table, as the request had it where it came in. Its limit was kept there.
    fn place_adopted(&mut self, ctx: &mut Ctx<'_>, exchange: &mut Exchange) -> bool {
        let fresh = ExchangeId::from_random(&ctx.random.bytes());
        let header = exchange.header.as_ref().map(|header| header.exchange);
        let request = match &exchange.envelope {
            Some(envelope) => Some(envelope.clone()),
            None => reread(&request(&exchange.id, &exchange.about.method, None)),
        };
        let session = self.session(ctx, &exchange.leg);
        session.header |= header.is_some();
        let Some(request) = request else { return false };
        match session.table.admit(Side::Client, header, &request, fresh) {
            Ok(Belongs::Opened(slot)) => {
                session.placed(slot, request.bytes().len());
                exchange.slot = Some(slot);
            }
            Ok(_) | Err(_) => return false,
        }
        true
    }

    /// Whether an exchange is served here already, or its answer waits here for the store: then it is this life's from now on.
    fn goes_on(&mut self, ctx: &mut Ctx<'_>, key: ExchangeKey) -> bool {
        let open = self.sessions.get(&key.session).into_iter().flat_map(|session| session.open.values());
        let known = open.copied().find(|no| self.exchanges.get(no).is_some_and(|exchange| exchange.key == key));
        if let Some(exchange) = known.and_then(|no| self.exchanges.get_mut(&no)) {
            exchange.owner = ctx.owner;
            return true;
        }
        let ends = |outgoing: &Outgoing| outgoing.ends.as_ref().is_some_and(|ends| ends.key == key);
        let mut of_leg = self.leg_deliveries.range(deliveries_of(key.session)).map(|(_, id)| *id);
        let Some(id) = of_leg.find(|id| self.deliveries.get(id).is_some_and(ends)) else { return false };
        if let Some(outgoing) = self.deliveries.get_mut(&id) {
            for close in outgoing.close.iter_mut().chain(&mut outgoing.ends) {
                close.owner = ctx.owner;
            }
        }
        true
    }
}

/// An exchange from its entry, and what can be done for it. `None`: nobody knows its domain any more.
pub(super) fn restore(
    ctx: &mut Ctx<'_>,
    key: ExchangeKey,
    entry: &JournalEntry,
    dialog: Option<&DialogRecord>,
) -> Option<(Exchange, Plan)> {
    let id = RawId::parse(entry.id.clone()).ok()?;
    let leg = leg_of(ctx.config, key, &entry.leg, dialog)?;
    let named = entry.exchange.as_deref().and_then(|text| text.parse::<ExchangeId>().ok());
    let envelope = entry.request.as_ref().and_then(reread).filter(|envelope| envelope.kind() == Kind::Request);
    let version = envelope.as_ref().and_then(|e| e.meta_protocol_version()).map(|version| version.into_owned());
    let traceparent = envelope.as_ref().and_then(|e| e.traceparent()).map(|parent| parent.into_owned());
    let about = About {
        leg: leg.clone(),
        method: entry.method.clone(),
        subject: match &envelope {
            Some(envelope) => envelope.subject().map(|subject| subject.into_owned()),
            None => entry.tool.clone(),
        },
        rule: "default".into(),
        exchange: entry.exchange.clone(),
        received: since(ctx.now, entry.started),
        trace: Trace::new(ctx, traceparent.as_deref()),
    };
    let access = Access::of(ctx.config, &leg);
    let is_safe =
        entry.repeatable || access.is_some_and(|access| access.is_safe(&about.method, about.subject.as_deref()));
    let deadline = ctx.now.mono.plus_millis(time_left(ctx.now.wall, entry));
    let is_modern = version.is_some() || entry.method == "server/discover";
    let plan = match (&entry.answer, &envelope, &entry.task, &entry.event_id) {
        (Some(answer), ..) => Plan::Answer(answer.clone()),
        (None, Some(request), _, _) => Plan::Replay(request.clone()),
        (None, None, Some(task), _) => Plan::Task(task.clone()),
        (None, None, None, Some(event)) => {
            Plan::Stream { event: event.clone(), backend_session: entry.backend_session.clone() }
        }
        (None, None, None, None) => Plan::Give,
    };
    let exchange = Exchange {
        session: key.session,
        header: named.map(|id| McpExchange::new(Named::Id(id), client_of(&leg))),
        leg,
        slot: None,
        key,
        digest: entry.digest,
        id,
        era: if is_modern { Era::Modern } else { Era::Legacy },
        version,
        repeatable: entry.repeatable,
        is_safe,
        about,
        envelope,
        stage: Stage::Waiting,
        deadline,
        latest: deadline,
        owed: 0,
        owed_since: ctx.now.mono,
        notes: 0,
        retried: false,
        backend_session: None,
        is_adopted: true,
        is_reconsidered: false,
        opens_nothing: false,
        is_metered: false,
        limited: None,
        places: Vec::new(),
        owner: ctx.owner,
        upstream: entry.upstream_id.clone().and_then(|id| RawId::parse(id).ok()),
        resumed: None,
        noted: Noted::default(),
    };
    Some((exchange, plan))
}

/// How long the exchange may still take. Clocks of two edges differ, so a call has always a little time left, and never more than it had.
fn time_left(now: UnixMillis, entry: &JournalEntry) -> u64 {
    let whole = entry.deadline.saturating_sub(entry.started);
    entry.deadline.saturating_sub(now.0).max(LEAST_MS).min(whole)
}

/// A moment in the past on both clocks.
fn since(now: Now, wall: u64) -> Now {
    let ago_us = now.wall.0.saturating_sub(wall).saturating_mul(1_000);
    Now { mono: Mono(now.mono.0.saturating_sub(ago_us)), wall: UnixMillis(wall) }
}

fn leg_of(config: &Config, key: ExchangeKey, record: &LegRecord, dialog: Option<&DialogRecord>) -> Option<Arc<Leg>> {
    let domain = config.domains.get(&record.domain)?.clone();
    let agent = config.agents.get(&(record.domain.clone(), record.agent_user.clone())).cloned();
    let principal = match record.principal.as_str() {
        "anonymous" => Principal::Anonymous,
        user => Principal::User(user.to_owned()),
    };
    let leg_key = match record.dialog {
        Some(dialog) => LegKey::Dialog(dialog),
        None => LegKey::OutOfDialog(key.session),
    };
    let source = dialog.map_or(record.flow.source.as_str(), |dialog| dialog.source.as_str());
    Some(Arc::new(Leg {
        key: leg_key,
        session: key.session,
        domain,
        agent: agent.unwrap_or_else(|| Arc::new(no_agent(record))),
        principal,
        call_id: record.call_id.clone(),
        mcp: dialog.and_then(|dialog| dialog.mcp.clone()),
        carrier: if record.carrier == Carrier::Info.name() { Carrier::Info } else { Carrier::Message },
        plain_datagram: source.starts_with("udp/"),
        way: Way {
            caller_uri: record.caller_uri.clone(),
            agent_uri: record.agent_uri.clone(),
            flow: record.flow.clone(),
        },
    }))
}

/// An agent that left the configuration: nobody may call it, and its callers still hear so.
fn no_agent(record: &LegRecord) -> AgentConfig {
    AgentConfig {
        key: format!("{}@{}", record.agent_user, record.domain),
        user: record.agent_user.clone(),
        domain: record.domain.clone(),
        backend: AgentBackend::SipContact { by_certificate: false },
        capabilities: Capabilities::default(),
        registration: RegistrationProfile { min: 60, max: 60, default: 60, jitter: false },
        policies: Vec::new(),
        timeout_ms: 0,
        on_failover: Failovers::default(),
        session: SessionLimits::default(),
    }
}
