//! REGISTER while the store is away: who only refreshes what this edge wrote a short while ago may hear 200 for half a minute, if its domain
//! allows that. Nothing is written; everybody else gets 503.

use std::collections::{BTreeMap, BTreeSet};

use session_store::key::AorKey;
use session_store::op::BindingChange;
use session_store::record::Binding;
use sip_proto::time::Mono;

use crate::answer::Answer;
use crate::gate::Caller;
use crate::request::Request;
use crate::state::EdgeState;

/// Addresses of record that are remembered per core.
const MAX_RECENT: usize = 16_384;
/// What is granted without the store, in seconds.
const SHORTEST_S: u64 = 30;
const LONGEST_S: u64 = 60;

/// The bindings that this edge served, as long as they last.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    known: BTreeMap<AorKey, (Mono, BTreeSet<String>)>,
}

impl EdgeState {
    /// These are the bindings of an address now.
    pub(crate) fn remember_bindings(&mut self, domain_allows: bool, aor: AorKey, bindings: &[Binding]) {
        let recent = &mut self.outage.recent.known;
        let last = bindings.iter().map(|binding| binding.expires_at).max();
        let Some(last) = last.filter(|_| domain_allows) else {
            recent.remove(&aor);
            return;
        };
        let now = self.now;
        if recent.len() >= MAX_RECENT && !recent.contains_key(&aor) {
            recent.retain(|_, (until, _)| *until > now.mono);
            if recent.len() >= MAX_RECENT {
                return self.stats.limit("recentRegistrations");
            }
        }
        let until = now.mono.plus_millis(last.saturating_sub(now.wall.0));
        recent.insert(aor, (until, bindings.iter().map(|binding| binding.key.clone()).collect()));
    }

    /// The bindings to answer with, or 503.
    pub(crate) fn refreshed_in_outage(
        &mut self,
        request: &Request,
        caller: &Caller,
        aor: &str,
        key: AorKey,
        change: BindingChange,
    ) -> Result<(), Answer> {
        let now = self.now;
        let known = self.outage.recent.known.get(&key).filter(|(until, _)| *until > now.mono);
        let refreshed = match (change, known) {
            (BindingChange::Update(bindings), Some((_, keys))) if caller.domain.refresh_in_outage => {
                let all = bindings.iter().all(|b| b.expires_at > now.wall.0 && keys.contains(&b.key));
                all.then_some(bindings)
            }
            _ => None,
        };
        let Some(mut bindings) = refreshed else {
            self.stats.limit("outage");
            return Err(self.unavailable("Store Unavailable"));
        };
        let seconds = SHORTEST_S + self.random.below(LONGEST_S - SHORTEST_S + 1);
        for binding in &mut bindings {
            binding.expires_at = now.wall.plus_millis(seconds * 1000).0;
        }
        *self.stats.from_cache.entry("REGISTER").or_default() += 1;
        let answer = self.registered_answer(request, caller, aor, &bindings);
        self.answer(request, &answer);
        Ok(())
    }
}
