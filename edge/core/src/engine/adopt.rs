//! Exchanges that an edge left in flight when it died (mcp.md, section 9). The journal entry is all that is known of them. Each ends with
//! one answer on the flow where its caller is now: never a second execution of what is not declared safe, never silence.

use std::sync::Arc;

use mcp_sip::era::Era;
use mcp_sip::errors::RpcError;
use mcp_sip::exchange::{Exchange as Named, ExchangeId, McpExchange};
use mcp_sip::jsonrpc::RawId;
use session_store::key::ExchangeKey;
use session_store::op::{CloseExchange, StoreError, StoreOp, StoreReply};
use session_store::record::{DialogRecord, JournalEntry, LegRecord, Owner};
use sip_proto::time::{Mono, Now, UnixMillis};

use super::Engine;
use super::about::About;
use super::access::Access;
use super::answer::failure;
use super::exchange::{Exchange, Stage};
use super::pending::Op;
use super::session::client_of;
use super::timers::Timer;
use super::trace::Trace;
use super::types::{Carrier, Ctx, Leg, LegKey, Principal, Way};
use crate::config::{AgentBackend, AgentConfig, Capabilities, Config, RegistrationProfile};
use crate::effect::LogLevel;
use crate::input::BackendFailure;

/// While the lease is not renewed, or the store is away, an adopted exchange is looked at again after so long; milliseconds.
const AGAIN_MS: u64 = 500;

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
        let dialog = dialog.map(|record| Box::new(record.clone()));
        self.take_over(ctx, Orphan { key, entry, dialog, owner: ctx.owner });
    }

    pub(super) fn orphan_alarm(&mut self, ctx: &mut Ctx<'_>, no: u64) {
        if let Some(orphan) = self.orphans.remove(&no) {
            self.take_over(ctx, orphan);
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
                let close = CloseExchange { key: orphan.key, owner: orphan.owner, answer: None };
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
        if orphan.owner != ctx.owner || self.serves(orphan.key) {
            return;
        }
        if !ctx.has_lease() {
            return self.wait(ctx, orphan);
        }
        if let (Some(dialog), None) = (orphan.entry.leg.dialog, &orphan.dialog) {
            let no = ctx.ids.number();
            self.orphans.insert(no, orphan);
            return self.store(ctx, StoreOp::ReadDialog { dialog }, Op::OrphanDialog(no));
        }
        let Orphan { key, entry, dialog, .. } = orphan;
        let Some(exchange) = restore(ctx, key, &entry, dialog.as_deref()) else {
            let message = format!("an exchange of {} cannot be answered: its domain is gone", entry.leg.domain);
            self.log(LogLevel::Error, message);
            let close = CloseExchange { key, owner: ctx.owner, answer: None };
            return self.store(ctx, StoreOp::CloseExchange(close), Op::Forget);
        };
        let no = ctx.ids.number();
        self.session(ctx, &exchange.leg);
        self.timers.set(Timer::Exchange(no), exchange.deadline);
        let about = exchange.about.clone();
        let repeatable = exchange.repeatable;
        self.exchanges.insert(no, exchange);
        let allowed = Access::of(ctx.config, &about.leg)
            .is_some_and(|access| access.still_allows(&about.method, about.subject.as_deref()));
        if !allowed {
            let what = about.subject.clone().unwrap_or_else(|| about.method.clone());
            return self.fail(ctx, no, RpcError::denied(&what));
        }
        self.fail(ctx, no, failure(BackendFailure::Interrupted, repeatable, 0));
    }

    fn serves(&self, key: ExchangeKey) -> bool {
        let session = self.sessions.get(&key.session);
        session.is_some_and(|session| {
            let mut open = session.open.values().filter_map(|no| self.exchanges.get(no));
            open.any(|exchange| exchange.key == key)
        })
    }
}

/// An exchange from its entry. `None`: nobody knows its domain any more.
fn restore(
    ctx: &mut Ctx<'_>,
    key: ExchangeKey,
    entry: &JournalEntry,
    dialog: Option<&DialogRecord>,
) -> Option<Exchange> {
    let id = RawId::parse(entry.id.clone()).ok()?;
    let leg = leg_of(ctx.config, key, &entry.leg, dialog)?;
    let named = entry.exchange.as_deref().and_then(|text| text.parse::<ExchangeId>().ok());
    let age_us = ctx.now.wall.0.saturating_sub(entry.started).saturating_mul(1_000);
    let received = Now { mono: Mono(ctx.now.mono.0.saturating_sub(age_us)), wall: UnixMillis(entry.started) };
    let deadline = ctx.now.mono.plus_millis(entry.deadline.saturating_sub(ctx.now.wall.0));
    let about = About {
        leg: leg.clone(),
        method: entry.method.clone(),
        subject: entry.tool.clone(),
        rule: "default".into(),
        exchange: entry.exchange.clone(),
        received,
        trace: Trace::new(ctx, None),
    };
    Some(Exchange {
        session: key.session,
        header: named.map(|id| McpExchange::new(Named::Id(id), client_of(&leg))),
        leg,
        slot: None,
        key,
        digest: entry.digest,
        id,
        era: if entry.backend_session.is_some() || entry.method == "initialize" { Era::Legacy } else { Era::Modern },
        version: None,
        repeatable: entry.repeatable,
        about,
        envelope: None,
        stage: Stage::Waiting,
        deadline,
        latest: deadline,
        owed: 0,
        owed_since: ctx.now.mono,
        notes: 0,
        retried: false,
        backend_session: None,
        is_adopted: true,
    })
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
    }
}
