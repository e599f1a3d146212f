//! What a request that policy lets pass still needs: room in its tenant's quota, and in the limits of the rules that are about it.

use mcp_sip::errors::RpcError;
use mcp_sip::jsonrpc::Envelope;
use mcp_sip::policy::{Limit, Policies, Request};

use super::Engine;
use super::access::Access;
use super::allowance::{Full, Places, Relayed, SWEEP_MS};
use super::exchange::Exchange;
use super::timers::Timer;
use super::types::{Ctx, Principal};
use crate::config::{AgentConfig, DomainConfig};
use crate::gate::policy_principal;

/// A call on another leg whose agent has no time of its own is over after so long; milliseconds.
const RELAYED_MS: u64 = 60_000;

/// One too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limited {
    /// What it is more than.
    name: &'static str,
    /// After so long there is room again; milliseconds.
    after_ms: u64,
}

impl From<Full> for Limited {
    fn from(Full { name, after_ms }: Full) -> Limited {
        Limited { name, after_ms }
    }
}

/// A request on its way to an agent on another leg.
#[derive(Clone, Copy, Debug)]
pub struct Metered<'a> {
    pub principal: &'a Principal,
    pub domain: &'a DomainConfig,
    pub agent: &'a AgentConfig,
    /// A request.
    pub envelope: &'a Envelope,
}

impl Metered<'_> {
    fn name(&self) -> Option<Relayed> {
        relayed(self.principal, self.agent, self.envelope)
    }

    /// Whether it is counted at all: by a rule that lets it through, or for its tenant.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        let method = self.envelope.method().unwrap_or_default();
        is_of_quota(self.domain, method) || !self.limits().is_empty()
    }

    fn limits(&self) -> Vec<Limit<'_>> {
        let held = Policies { agent: &self.agent.policies, domain: &self.domain.policies };
        let (subject, arguments) = (self.envelope.subject(), held.arguments(self.envelope));
        let method = self.envelope.method().unwrap_or_default();
        let who = policy_principal(self.principal);
        held.limits(&Request::method(who, method, subject.as_deref(), arguments.known()))
    }
}

/// Whether `quota.toolCallsPerSecond` counts a request of this method.
pub(super) fn is_of_quota(domain: &DomainConfig, method: &str) -> bool {
    method == "tools/call" && domain.tool_calls_per_second.is_some()
}

fn relayed(principal: &Principal, agent: &AgentConfig, envelope: &Envelope) -> Option<Relayed> {
    let id = envelope.id()?.canonical();
    Some(Relayed { caller: principal.as_str().to_owned(), agent: agent.key.clone(), id: id.as_str().to_owned() })
}

impl Engine {
    /// Meters a request once, where it is placed: not the repetition of one that is open, and nothing that opens nothing.
    pub(super) fn meter_exchange(&mut self, ctx: &Ctx<'_>, exchange: &mut Exchange) {
        if !exchange.opens_nothing && exchange.slot.is_some() {
            exchange.limited = self.meter_repetition(ctx, exchange).err();
        }
    }

    /// What was taken for the repetition of an open request is metered when the journal says that it is none. Else a second copy would run
    /// in the place of a first one that was one too many.
    ///
    /// # Errors
    /// It is one too many itself.
    pub(super) fn meter_repetition(&mut self, ctx: &Ctx<'_>, exchange: &mut Exchange) -> Result<(), Limited> {
        if std::mem::replace(&mut exchange.is_metered, true) {
            return exchange.limited.map_or(Ok(()), Err);
        }
        let Some(access) = Access::of(ctx.config, &exchange.leg) else { return Ok(()) };
        let (method, subject) = (exchange.about.method.as_str(), exchange.about.subject.as_deref());
        let limits = access.limits(method, subject, &access.arguments_of(exchange));
        exchange.places = self.take_room(ctx, access.domain(), exchange.leg.principal.as_str(), method, &limits)?;
        Ok(())
    }

    /// An exchange that another edge let in has its places here now, whether they are free or not.
    pub(super) fn seat(&mut self, ctx: &Ctx<'_>, exchange: &mut Exchange) {
        exchange.is_metered = true;
        let Some(access) = Access::of(ctx.config, &exchange.leg) else { return };
        let (method, subject) = (exchange.about.method.as_str(), exchange.about.subject.as_deref());
        let limits = access.limits(method, subject, &access.arguments_of(exchange));
        exchange.places = self.allowances.sit(exchange.leg.principal.as_str(), &limits);
        self.watch_allowances(ctx);
    }

    /// Meters a request that goes on to an agent on another leg. Where it has places they are kept under the number that is given, until
    /// [`Engine::relayed_answer`] or [`Engine::relayed_over`], or until the agent's time for a request is over.
    ///
    /// # Errors
    /// -31002 with the time after which there is room again: the caller, or its tenant, asks for more than it may.
    pub fn meter(&mut self, ctx: &mut Ctx<'_>, request: Metered<'_>) -> Result<Option<u64>, RpcError> {
        let Metered { principal, domain, agent, envelope } = request;
        let method = envelope.method().unwrap_or_default();
        let limits = request.limits();
        let is_kept = limits.iter().any(|limit| limit.limits.concurrent.is_some());
        let room = if is_kept { self.allowances.check_lent().map_err(Limited::from) } else { Ok(()) };
        let places = match room.and_then(|()| self.take_room(ctx, domain, principal.as_str(), method, &limits)) {
            Ok(places) => places,
            Err(limited) => return Err(self.refused_by(limited)),
        };
        let Some(name) = request.name().filter(|_| is_kept) else { return Ok(None) };
        let number = ctx.ids.number();
        let life_ms = if agent.timeout_ms == 0 { RELAYED_MS } else { agent.timeout_ms };
        self.timers.set(Timer::Relayed(number), ctx.now.mono.plus_millis(life_ms));
        self.allowances.lend(number, name, places);
        Ok(Some(number))
    }

    /// An answer of an agent on another leg passes.
    pub fn relayed_answer(&mut self, principal: &Principal, agent: &AgentConfig, answer: &Envelope) {
        let number = relayed(principal, agent, answer).and_then(|name| self.allowances.answered(&name));
        if let Some(number) = number {
            self.timers.clear(Timer::Relayed(number));
        }
    }

    /// A request for an agent on another leg did not get there, or its time is over.
    pub fn relayed_over(&mut self, number: u64) {
        self.timers.clear(Timer::Relayed(number));
        self.allowances.give_back(number);
    }

    /// Everything that is limited must have room; only then it is taken.
    fn take_room(
        &mut self,
        ctx: &Ctx<'_>,
        domain: &DomainConfig,
        caller: &str,
        method: &str,
        limits: &[Limit<'_>],
    ) -> Result<Places, Limited> {
        let now = ctx.now.mono;
        self.allowances.check(now, caller, limits)?;
        if is_of_quota(domain, method)
            && let Some(per_second) = domain.tool_calls_per_second
            && let Err(after_ms) = self.quotas.take(now, domain.tenant, per_second, ctx.cores)
        {
            return Err(Limited { name: "toolCallsPerSecond", after_ms });
        }
        if limits.is_empty() {
            return Ok(Places::new());
        }
        let places = self.allowances.count(now, caller, limits);
        self.watch_allowances(ctx);
        Ok(places)
    }

    /// Somebody takes away what counts nothing any more.
    fn watch_allowances(&mut self, ctx: &Ctx<'_>) {
        if self.allowances.len() > 0 && !self.timers.is_set(Timer::Allowances) {
            self.timers.set(Timer::Allowances, ctx.now.mono.plus_millis(SWEEP_MS));
        }
    }

    pub(super) fn sweep_allowances(&mut self, ctx: &Ctx<'_>) {
        if self.allowances.sweep(ctx.now.mono) {
            self.timers.set(Timer::Allowances, ctx.now.mono.plus_millis(SWEEP_MS));
        }
    }

    /// -31002. Every refusal is counted by the limit's name.
    pub(super) fn refused_by(&mut self, Limited { name, after_ms }: Limited) -> RpcError {
        *self.stats.limited.entry(name).or_default() += 1;
        RpcError::limited(name, after_ms)
    }
}
