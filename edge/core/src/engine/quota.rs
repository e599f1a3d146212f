//! `SipDomain.spec.quota.toolCallsPerSecond`: a bucket for each tenant that has such a quota. Ten seconds' worth of calls may come at once;
//! after that they go as fast as the quota says.

use std::collections::BTreeMap;

use sip_proto::time::Mono;

use crate::config::Config;

/// Seconds over which calls are averaged.
const WINDOW_S: u64 = 10;
/// One call. A bucket counts in millionths of it, so that every microsecond adds a whole number: the quota itself.
const CALL: u64 = 1_000_000;

/// As many buckets as the configuration has domains with a quota: [`Quotas::configure`] takes the others away.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    by_tenant: BTreeMap<u16, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    level: u64,
    at: Mono,
}

impl Quotas {
    /// Takes one tool call of this tenant. `cores` share the quota of their edge, each of them has its part.
    ///
    /// # Errors
    /// Milliseconds until there is one again.
    pub(super) fn take(&mut self, now: Mono, tenant: u16, per_second: u32, cores: u16) -> Result<(), u64> {
        let rate = u64::from(per_second.max(1));
        let price = CALL * u64::from(cores.max(1));
        let full = (rate * WINDOW_S * CALL).max(price);
        let bucket = self.by_tenant.entry(tenant).or_insert(Bucket { level: full, at: now });
        let added = now.0.saturating_sub(bucket.at.0).saturating_mul(rate);
        // A smaller quota counts at once.
        bucket.level = bucket.level.saturating_add(added).min(full);
        bucket.at = bucket.at.max(now);
        match bucket.level.checked_sub(price) {
            Some(left) => {
                bucket.level = left;
                Ok(())
            }
            None => Err((price - bucket.level).div_ceil(rate).div_ceil(1_000)),
        }
    }

    /// Only tenants that have a quota have a bucket.
    pub(super) fn configure(&mut self, config: &Config) {
        let has_quota = |tenant: u16| {
            config.domains.values().any(|domain| domain.tenant == tenant && domain.tool_calls_per_second.is_some())
        };
        self.by_tenant.retain(|tenant, _| has_quota(*tenant));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn taken(quotas: &mut Quotas, at: u64, per_second: u32, cores: u16) -> u32 {
        let mut taken = 0;
        while quotas.take(Mono(at), 1, per_second, cores).is_ok() {
            taken += 1;
        }
        taken
    }

    #[test]
    fn ten_seconds_worth_at_once_then_the_rate() {
        let mut quotas = Quotas::default();
        assert_eq!(taken(&mut quotas, SECOND, 5, 1), 50);
        assert_eq!(quotas.take(Mono(SECOND), 1, 5, 1), Err(200));
        assert_eq!(taken(&mut quotas, SECOND + 199_999, 5, 1), 0);
        assert_eq!(taken(&mut quotas, SECOND + 200_000, 5, 1), 1);
        assert_eq!(taken(&mut quotas, 3 * SECOND + 200_000, 5, 1), 10);
        assert_eq!(taken(&mut quotas, 1_000 * SECOND, 5, 1), 50, "what was not used is not saved up");
    }

    #[test]
    fn cores_share_the_quota_and_each_has_at_least_one_call() {
        assert_eq!(taken(&mut Quotas::default(), 0, 5, 2), 25);
        assert_eq!(taken(&mut Quotas::default(), 0, 1, 64), 1);
        let mut quotas = Quotas::default();
        taken(&mut quotas, 0, 5, 2);
        assert_eq!(taken(&mut quotas, 2 * SECOND, 5, 2), 5);
    }

    #[test]
    fn a_clock_that_stands_or_a_quota_that_shrinks_gives_nothing() {
        let mut quotas = Quotas::default();
        taken(&mut quotas, 5 * SECOND, 5, 1);
        assert_eq!(quotas.take(Mono(SECOND), 1, 5, 1), Err(200));
        taken(&mut quotas, 100 * SECOND, 100, 1);
        assert!(taken(&mut quotas, 200 * SECOND, 1, 1) == 10);
    }
}
