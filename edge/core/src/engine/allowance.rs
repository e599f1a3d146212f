//! `limits` of Allow rules: how often a caller may make the calls that a rule is about, and how many of them may wait for their answer.
//! Counted by caller and rule, on each core by itself.
//!
//! A place is a value that whoever serves the call keeps: with the call it is gone, whatever ends it, so none is forgotten. The counters
//! themselves are taken away by an alarm once they count nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mcp_sip::policy::{Limit, RuleLimits};
use sip_proto::time::Mono;

/// Callers that are counted at once, for all rules together. Above it nobody new is let in by a rule with limits.
const MAX_COUNTERS: usize = 65_536;
/// Calls on other legs that have places at once, of all callers. Above it none that a rule counts goes on to another leg.
const MAX_LENT: usize = 65_536;
/// A call counts for the 60 seconds after it; it is kept by the second that it came in, so that it is forgotten after 61 at the latest.
const COUNTS_S: u64 = 61;
/// How often counters that count nothing are taken away; milliseconds.
pub(super) const SWEEP_MS: u64 = 61_000;
const SECOND_US: u64 = 1_000_000;

/// Places of one call, one for each rule that counts it.
pub(super) type Places = Vec<Arc<()>>;

/// Why a rule does not let a call through now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub name: &'static str,
    pub after_ms: u64,
}

/// By caller and rule (`namespace/policy/rule`).
#[derive(Debug, Default)]
pub(super) struct Allowances {
    counters: BTreeMap<(String, String), Counter>,
    swept: Option<Mono>,
    lent: Lent,
}

#[derive(Debug, Default)]
struct Counter {
    /// By second: how many calls.
    calls: VecDeque<(u64, u32)>,
    sum: u64,
    /// Whoever waits for an answer has a copy.
    place: Arc<()>,
}

impl Counter {
    fn waiting(&self) -> usize {
        Arc::strong_count(&self.place) - 1
    }

    fn forget(&mut self, now: Mono) {
        let second = now.0 / SECOND_US;
        while let Some((_, count)) = self.calls.front().copied().filter(|(at, _)| at + COUNTS_S <= second) {
            self.calls.pop_front();
            self.sum -= u64::from(count);
        }
    }

    fn check(&mut self, now: Mono, limits: RuleLimits) -> Result<(), Full> {
        self.forget(now);
        let is_often = limits.calls_per_minute.is_some_and(|most| self.sum >= u64::from(most));
        if let Some((oldest, _)) = self.calls.front().filter(|_| is_often) {
            let free_us = (oldest + COUNTS_S).saturating_mul(SECOND_US);
            return Err(Full { name: "callsPerMinute", after_ms: free_us.saturating_sub(now.0).div_ceil(1_000) });
        }
        if limits.concurrent.is_some_and(|most| self.waiting() >= usize::try_from(most).unwrap_or(usize::MAX)) {
            return Err(Full { name: "concurrent", after_ms: 1_000 });
        }
        Ok(())
    }

    fn count(&mut self, now: Mono) {
        // A clock never goes back; should it stand still, the second is the same.
        let second = now.0 / SECOND_US;
        match self.calls.back_mut() {
            Some((at, count)) if *at >= second => *count = count.saturating_add(1),
            _ => self.calls.push_back((second, 1)),
        }
        self.sum += 1;
    }

    fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.waiting() == 0
    }
}

fn name(caller: &str, limit: &Limit<'_>) -> (String, String) {
    (caller.to_owned(), format!("{}/{}", limit.policy, limit.rule))
}

impl Allowances {
    /// Whether every rule has room for one more call.
    ///
    /// # Errors
    /// The first one that has not.
    pub(super) fn check(&mut self, now: Mono, caller: &str, limits: &[Limit<'_>]) -> Result<(), Full> {
        for limit in limits {
            let name = name(caller, limit);
            if let Some(counter) = self.counters.get_mut(&name) {
                counter.check(now, limit.limits)?;
            } else if self.counters.len() + limits.len() > MAX_COUNTERS {
                // Once a second at most: whoever is refused asks again.
                if self.swept.is_none_or(|at| now.millis_since(at) >= 1_000) {
                    self.sweep(now);
                }
                if self.counters.len() + limits.len() > MAX_COUNTERS {
                    return Err(Full { name: "callersOfRules", after_ms: 1_000 });
                }
            }
        }
        Ok(())
    }

    /// Counts a call that [`Allowances::check`] let through.
    pub(super) fn count(&mut self, now: Mono, caller: &str, limits: &[Limit<'_>]) -> Places {
        let mut places = Places::with_capacity(limits.len());
        for limit in limits {
            let counter = self.counters.entry(name(caller, limit)).or_default();
            counter.count(now);
            places.push(counter.place.clone());
        }
        places
    }

    /// Places for a call that another edge let through. There may be more of them than the rules allow: it runs already.
    pub(super) fn sit(&mut self, caller: &str, limits: &[Limit<'_>]) -> Places {
        let mut places = Places::with_capacity(limits.len());
        for limit in limits {
            let name = name(caller, limit);
            if self.counters.len() < MAX_COUNTERS || self.counters.contains_key(&name) {
                places.push(self.counters.entry(name).or_default().place.clone());
            }
        }
        places
    }

    /// Takes away what counts nothing any more; whether something is left.
    pub(super) fn sweep(&mut self, now: Mono) -> bool {
        self.swept = Some(now);
        self.counters.retain(|_, counter| {
            counter.forget(now);
            !counter.is_idle()
        });
        !self.counters.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.counters.len() + self.lent.by_number.len()
    }

    /// Whether one more call on another leg can be kept.
    ///
    /// # Errors
    /// No: others must end first.
    pub(super) fn check_lent(&self) -> Result<(), Full> {
        if self.lent.by_number.len() < MAX_LENT {
            return Ok(());
        }
        Err(Full { name: "callsOfRules", after_ms: 1_000 })
    }

    /// Keeps the places of a call that is served on another leg, until its answer passes or its time is over.
    pub(super) fn lend(&mut self, number: u64, call: Relayed, places: Places) {
        let Relayed { caller, agent, id } = call.clone();
        self.lent.by_name.insert((caller, agent, id, number));
        self.lent.by_number.insert(number, (call, places));
    }

    /// It is over: no answer comes any more.
    pub(super) fn give_back(&mut self, number: u64) {
        if let Some((Relayed { caller, agent, id }, _)) = self.lent.by_number.remove(&number) {
            self.lent.by_name.remove(&(caller, agent, id, number));
        }
    }

    /// The oldest call of that name was answered; its number.
    pub(super) fn answered(&mut self, call: &Relayed) -> Option<u64> {
        let Relayed { caller, agent, id } = call;
        let first = (caller.clone(), agent.clone(), id.clone(), 0);
        let (of, to, with, number) = self.lent.by_name.range(first..).next()?;
        let number = (of == caller && to == agent && with == id).then_some(*number)?;
        self.give_back(number);
        Some(number)
    }
}

/// Calls on other legs, [`MAX_LENT`] at most.
#[derive(Debug, Default)]
struct Lent {
    by_number: BTreeMap<u64, (Relayed, Places)>,
    by_name: BTreeSet<(String, String, String, u64)>,
}

/// A call on another leg, as its answer names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relayed {
    pub caller: String,
    /// `AgentConfig::key`.
    pub agent: String,
    /// Canonical.
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds.
    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000)
    }

    fn limit(calls_per_minute: Option<u32>, concurrent: Option<u32>) -> Limit<'static> {
        Limit { policy: "ns/p", rule: "r", limits: RuleLimits { calls_per_minute, concurrent } }
    }

    #[test]
    fn in_any_sixty_seconds_there_are_no_more_calls_than_the_rule_says() {
        let limits = [limit(Some(3), None)];
        let mut all = Allowances::default();
        let mut taken: Vec<u64> = Vec::new();
        for tenth in 0..4_000 {
            let now = at(tenth * 100 + 50);
            if all.check(now, "sip:a@x", &limits).is_ok() {
                all.count(now, "sip:a@x", &limits);
                taken.push(now.0);
            }
        }
        for window in taken.windows(4) {
            assert!(window[3] - window[0] >= 60_000_000, "{window:?}");
        }
        assert!(taken.len() >= 18, "and not much less: {taken:?}");
    }

    #[test]
    fn the_time_that_is_told_is_enough_and_others_have_counters_of_their_own() {
        let limits = [limit(Some(1), None)];
        let mut all = Allowances::default();
        all.count(at(10_500), "sip:a@x", &limits);
        let full = all.check(at(11_000), "sip:a@x", &limits).unwrap_err();
        assert_eq!(full, Full { name: "callsPerMinute", after_ms: 60_000 });
        assert_eq!(all.check(at(11_000), "sip:b@x", &limits), Ok(()));
        assert_eq!(all.check(at(70_999), "sip:a@x", &limits).map_err(|full| full.after_ms), Err(1));
        assert_eq!(all.check(at(71_000), "sip:a@x", &limits), Ok(()));
    }

    #[test]
    fn a_place_is_free_when_whoever_has_it_is_gone_and_the_counter_goes_after_it() {
        let limits = [limit(None, Some(1))];
        let mut all = Allowances::default();
        let places = all.count(at(1_000), "sip:a@x", &limits);
        assert_eq!(all.check(at(100_000), "sip:a@x", &limits), Err(Full { name: "concurrent", after_ms: 1_000 }));
        assert!(all.sweep(at(100_000)), "it still waits");
        drop(places);
        assert_eq!(all.check(at(100_000), "sip:a@x", &limits), Ok(()));
        assert!(!all.sweep(at(100_000)));
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn there_are_no_more_counters_than_the_bound_and_those_that_count_nothing_make_room() {
        let limits = [limit(Some(1), None)];
        let mut all = Allowances::default();
        for n in 0..MAX_COUNTERS {
            let caller = format!("sip:{n}@x");
            assert_eq!(all.check(at(1_000), &caller, &limits), Ok(()));
            all.count(at(1_000), &caller, &limits);
        }
        assert_eq!(all.check(at(2_000), "sip:new@x", &limits).map_err(|full| full.name), Err("callersOfRules"));
        assert_eq!(all.check(at(2_000), "sip:0@x", &limits).map_err(|full| full.name), Err("callsPerMinute"));
        assert_eq!(all.check(at(70_000), "sip:new@x", &limits), Ok(()));
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn no_more_calls_on_other_legs_are_kept_than_the_bound() {
        let mut all = Allowances::default();
        let call = |id: u64| Relayed { caller: "sip:a@x".into(), agent: "ns/a".into(), id: id.to_string() };
        for number in 0..MAX_LENT as u64 {
            assert_eq!(all.check_lent(), Ok(()));
            all.lend(number, call(number), Places::new());
        }
        assert_eq!(all.check_lent().map_err(|full| full.name), Err("callsOfRules"));
        all.give_back(0);
        assert_eq!(all.check_lent(), Ok(()));
    }

    #[test]
    fn answers_free_the_oldest_call_of_their_name() {
        let limits = [limit(None, Some(2))];
        let mut all = Allowances::default();
        let call = |id: &str| Relayed { caller: "sip:a@x".into(), agent: "ns/a".into(), id: id.into() };
        for number in [7, 8] {
            let places = all.count(at(1_000), "sip:a@x", &limits);
            all.lend(number, call("1"), places);
        }
        assert!(all.check(at(1_000), "sip:a@x", &limits).is_err());
        assert_eq!(all.answered(&call("2")), None);
        assert_eq!(all.answered(&call("1")), Some(7));
        assert_eq!(all.check(at(1_000), "sip:a@x", &limits), Ok(()));
        all.give_back(8);
        assert_eq!(all.answered(&call("1")), None);
    }
}
