//! What a request that policy lets pass still needs: room in its tenant's quota.

use mcp_sip::errors::RpcError;

use super::Engine;
use super::exchange::Exchange;
use super::types::Ctx;
use crate::config::DomainConfig;

/// One too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limited {
    /// What it is more than.
    name: &'static str,
    /// After so long there is room again; milliseconds.
    after_ms: u64,
}

impl Engine {
    /// Meters a request once, where it is placed: not the repetition of one that is open, and nothing that opens nothing.
    pub(super) fn meter_exchange(&mut self, ctx: &Ctx<'_>, exchange: &mut Exchange) {
        if exchange.opens_nothing || exchange.slot.is_none() {
            return;
        }
        let Some(domain) = ctx.config.domains.get(&exchange.leg.domain.domain) else { return };
        exchange.limited = self.take_room(ctx, domain, &exchange.about.method).err();
    }

    /// The same for a request that goes on to an agent on another leg.
    ///
    /// # Errors
    /// -31002 with the time after which there is room again: the caller, or its tenant, asks for more than it may.
    pub fn meter(&mut self, ctx: &Ctx<'_>, domain: &DomainConfig, method: &str) -> Result<(), RpcError> {
        self.take_room(ctx, domain, method).map_err(|limited| self.refused_by(limited))
    }

    fn take_room(&mut self, ctx: &Ctx<'_>, domain: &DomainConfig, method: &str) -> Result<(), Limited> {
        if method == "tools/call"
            && let Some(per_second) = domain.tool_calls_per_second
            && let Err(after_ms) = self.quotas.take(ctx.now.mono, domain.tenant, per_second, ctx.cores)
        {
            return Err(Limited { name: "toolCallsPerSecond", after_ms });
        }
        Ok(())
    }

    /// -31002. Every refusal is counted by the limit's name.
    pub(super) fn refused_by(&mut self, Limited { name, after_ms }: Limited) -> RpcError {
        *self.stats.limited.entry(name).or_default() += 1;
        RpcError::limited(name, after_ms)
    }
}
