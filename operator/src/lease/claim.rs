//! Who may write: decisions over one Lease. Pure: `now` is milliseconds of a clock of this process that never goes back.
//!
//! Another one's lease is over when the Lease has not changed for as long as it says, by our clock from when we first saw it so; no two
//! clocks are compared. Its holder stops earlier, counted from when it sent its last renewal, by so much that a write that was on its way
//! then has ended, too ([`SILENCE_MS`] + [`WRITE_MS`] < [`LEASE_MS`]). Every change names the version that it replaces, so of two who try
//! at once one fails.

/// Milliseconds for which a lease is held without a renewal.
pub const LEASE_MS: u64 = 30_000;
/// Milliseconds after a renewal until the next one.
pub const RENEW_MS: u64 = 8_000;
/// Milliseconds after the last renewal was sent from which on its holder writes nothing.
pub const SILENCE_MS: u64 = 20_000;
/// Milliseconds that one write may take.
pub const WRITE_MS: u64 = 8_000;
/// Milliseconds between two looks, and between two tries.
pub const LOOK_MS: u64 = 2_000;

const _: () = assert!(SILENCE_MS + WRITE_MS < LEASE_MS && RENEW_MS + 2 * LOOK_MS < SILENCE_MS);

/// The Lease as it stands in the API, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub resource_version: String,
    /// Empty: nobody holds it.
    pub holder: String,
    /// For how long, from its last change.
    pub lease_ms: u64,
    /// How often the holder changed.
    pub transitions: i32,
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make the Lease, with us as its holder.
    Create,
    /// Replace this version, with us as its holder. `taken`: it was another one's before.
    Replace { resource_version: String, transitions: i32, taken: bool },
    /// It is another one's.
    Wait,
}

/// What one process knows of the Lease.
#[derive(Clone, Debug)]
pub struct Claim {
    me: String,
    /// With the time of the first look at this version.
    seen: Option<(Seen, u64)>,
    /// When the last renewal was sent that succeeded.
    renewed: Option<u64>,
}

impl Claim {
    /// `me`: unique among all processes that ever were.
    #[must_use]
    pub fn new(me: impl Into<String>) -> Self {
        Claim { me: me.into(), seen: None, renewed: None }
    }

    #[must_use]
    pub fn me(&self) -> &str {
        &self.me
    }

    /// The API server showed this; `None`: there is no Lease.
    pub fn saw(&mut self, seen: Option<Seen>, now: u64) {
        if seen.as_ref().is_none_or(|seen| seen.holder != self.me) {
            self.renewed = None;
        }
        self.seen = seen.map(|seen| match self.seen.take() {
            Some((before, since)) if before.resource_version == seen.resource_version => (seen, since),
            _ => (seen, now),
        });
    }

    /// What is to be written now, after a look.
    #[must_use]
    pub fn act(&self, now: u64) -> Act {
        let Some((seen, since)) = &self.seen else { return Act::Create };
        let replace = |taken: bool| Act::Replace {
            resource_version: seen.resource_version.clone(),
            transitions: seen.transitions.saturating_add(i32::from(taken)),
            taken,
        };
        if seen.holder == self.me {
            replace(false)
        } else if seen.holder.is_empty() || now.saturating_sub(*since) >= seen.lease_ms {
            replace(true)
        } else {
            Act::Wait
        }
    }

    /// What was sent at `sent` is there now.
    pub fn wrote(&mut self, seen: Seen, sent: u64, now: u64) {
        self.renewed = (seen.holder == self.me).then_some(sent);
        self.seen = Some((seen, now));
    }

    /// Until when we may write.
    #[must_use]
    pub fn until(&self) -> Option<u64> {
        self.renewed.map(|sent| sent + SILENCE_MS)
    }

    #[must_use]
    pub fn holds(&self, now: u64) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// Another one that holds it, or held it last, as far as we know.
    #[must_use]
    pub fn other(&self) -> Option<&str> {
        let holder = self.seen.as_ref().map(|(seen, _)| &*seen.holder)?;
        (!holder.is_empty() && holder != self.me).then_some(holder)
    }

    /// When to look again.
    #[must_use]
    pub fn next_look(&self, now: u64) -> u64 {
        match self.renewed {
            Some(sent) if sent + RENEW_MS > now => sent + RENEW_MS,
            _ => now + LOOK_MS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(version: &str, holder: &str) -> Seen {
        Seen { resource_version: version.into(), holder: holder.into(), lease_ms: LEASE_MS, transitions: 3 }
    }

    #[test]
    fn what_is_nobodys_is_taken_and_what_is_ours_is_renewed() {
        let mut claim = Claim::new("a");
        claim.saw(None, 0);
        assert_eq!(claim.act(0), Act::Create);
        claim.wrote(seen("1", "a"), 10, 20);
        assert!(claim.holds(10 + SILENCE_MS - 1) && !claim.holds(10 + SILENCE_MS), "from when it was sent");
        assert_eq!(claim.next_look(20), 10 + RENEW_MS);
        assert_eq!(claim.act(20), Act::Replace { resource_version: "1".into(), transitions: 3, taken: false });
        claim.saw(Some(seen("2", "")), 30);
        assert_eq!(claim.act(30), Act::Replace { resource_version: "2".into(), transitions: 4, taken: true });
        assert!(!claim.holds(30));
    }

    #[test]
    fn another_ones_lease_is_over_when_it_did_not_change_while_we_looked() {
        let mut claim = Claim::new("b");
        claim.saw(Some(seen("1", "a")), 0);
        assert_eq!((claim.act(LEASE_MS - 1), claim.other()), (Act::Wait, Some("a")));
        claim.saw(Some(seen("2", "a")), LEASE_MS - 1);
        assert_eq!(claim.act(LEASE_MS), Act::Wait, "it was renewed");
        claim.saw(Some(seen("2", "a")), LEASE_MS + 5);
        assert!(matches!(claim.act(2 * LEASE_MS - 1), Act::Replace { taken: true, .. }));
        claim.wrote(seen("3", "b"), 2 * LEASE_MS, 2 * LEASE_MS);
        assert_eq!(claim.other(), None);
    }

    #[test]
    fn who_sees_another_holder_writes_no_more() {
        let mut claim = Claim::new("a");
        claim.saw(None, 0);
        claim.wrote(seen("1", "a"), 0, 0);
        claim.saw(Some(seen("2", "b")), 5);
        assert!(!claim.holds(5));
        claim.saw(None, 6);
        assert!(!claim.holds(6), "somebody deleted it: it is made anew first");
    }

    /// One process of the test: it looks, and what it writes arrives later or never.
    struct Process {
        claim: Claim,
        next: u64,
        /// Sent, its content, when it arrives.
        on_its_way: Option<(u64, Act, u64)>,
    }

    proptest! {
        /// However slow the API server is and however often nothing arrives: no two may write at one time, and what the former holder had on its
        /// way has ended when the next one begins.
        #[test]
        fn never_two(delays in proptest::collection::vec((0_u64..4_000, any::<bool>()), 1..400)) {
            let mut processes: Vec<_> = ["a", "b", "c"].into_iter().enumerate().map(|(i, me)| {
                Process { claim: Claim::new(me), next: i as u64 * 300, on_its_way: None }
            }).collect();
            let mut there: Option<Seen> = None;
            let mut version = 0_u64;
            let mut delays = delays.into_iter().cycle();
            // Holder, and when the last write that it may have begun is over.
            let mut last: Option<(usize, u64)> = None;
            for now in (0..200_000_u64).step_by(100) {
                for process in &mut processes {
                    if let Some((sent, act, arrives)) = process.on_its_way.take() {
                        if arrives > now {
                            process.on_its_way = Some((sent, act, arrives));
                            continue;
                        }
                        let expected = match &act {
                            Act::Create => None,
                            Act::Replace { resource_version, .. } => Some(resource_version.clone()),
                            Act::Wait => unreachable!("nothing is sent"),
                        };
                        if there.as_ref().map(|seen| seen.resource_version.clone()) == expected {
                            version += 1;
                            let written = seen(&version.to_string(), process.claim.me());
                            there = Some(written.clone());
                            process.claim.wrote(written, sent, now);
                        }
                        process.next = process.claim.next_look(now);
                    } else if process.next <= now {
                        let (delay, lost) = delays.next().unwrap();
                        if lost {
                            process.next = now + LOOK_MS + delay;
                            continue;
                        }
                        process.claim.saw(there.clone(), now);
                        match process.claim.act(now) {
                            Act::Wait => process.next = process.claim.next_look(now),
                            act => process.on_its_way = Some((now, act, now + delay)),
                        }
                    }
                }
                let holders: Vec<usize> = (0..3).filter(|i| processes[*i].claim.holds(now)).collect();
                prop_assert!(holders.len() <= 1, "{holders:?} at {now}");
                if let Some(holder) = holders.first() {
                    if let Some((before, over)) = last {
                        prop_assert!(before == *holder || over <= now, "{before} may still write when {holder} begins");
                    }
                    last = Some((*holder, now + WRITE_MS));
                }
            }
        }
    }
}
