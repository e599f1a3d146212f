//! Two clocks: the edge's and the store's. The store's decides. Moments that stand in records are kept by the store's clock and turned
//! into the edge's on the way in and out, so edges whose clocks differ by half a minute mean the same moment.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The edge's wall clock: milliseconds since 1970.
#[derive(Clone)]
pub struct EdgeClock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl EdgeClock {
    /// The one of the system.
    #[must_use]
    pub fn system() -> EdgeClock {
        EdgeClock::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// Another one.
    #[must_use]
    pub fn new(clock: impl Fn() -> u64 + Send + Sync + 'static) -> EdgeClock {
        EdgeClock(Arc::new(clock))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

/// A smaller difference from what is known is the network's, not the clocks'.
const NOISE_MS: i64 = 1_000;
/// An answer that took longer says too little about the moment it was made.
const SLOW: Duration = Duration::from_millis(500);

/// How far the store's clock is ahead of the edge's.
pub(crate) struct StoreClock {
    pub edge: EdgeClock,
    state: Mutex<Offset>,
}

#[derive(Clone, Copy, Default)]
struct Offset {
    ms: i64,
    known: bool,
    /// What a sample said, where that differed, and when it was heard. It must be said again to a question asked later: what several
    /// servers were asked at one moment is one observation.
    other: Option<(i64, Instant)>,
}

impl StoreClock {
    pub fn new(edge: EdgeClock) -> StoreClock {
        StoreClock { edge, state: Mutex::new(Offset::default()) }
    }

    /// A server said that it is `store_ms`, to a question asked at `asked_ms` of the edge's clock, which was `asked`, and heard at `heard`.
    pub fn sample(&self, store_ms: u64, asked_ms: u64, asked: Instant, heard: Instant) {
        let took = heard.saturating_duration_since(asked);
        if took > SLOW {
            return;
        }
        let half = i64::try_from(took.as_millis() / 2).unwrap_or(0);
        let ms = signed(store_ms).saturating_sub(signed(asked_ms)).saturating_sub(half);
        let Ok(mut offset) = self.state.lock() else { return };
        let near = |a: i64, b: i64| a.abs_diff(b) < NOISE_MS.unsigned_abs();
        if !offset.known {
            // Clocks that agree but for the network agree.
            *offset = Offset { ms: if near(ms, 0) { 0 } else { ms }, known: true, other: None };
        } else if near(ms, offset.ms) {
            offset.other = None;
        } else if offset.other.is_some_and(|(other, since)| near(ms, other) && asked > since) {
            tracing::warn!(from_ms = offset.ms, to_ms = ms, "the store's clock and ours moved apart");
            *offset = Offset { ms, known: true, other: None };
        } else if offset.other.is_none_or(|(other, _)| !near(ms, other)) {
            offset.other = Some((ms, heard));
        }
    }

    /// The store's clock minus the edge's.
    pub fn offset_ms(&self) -> i64 {
        self.state.lock().map_or(0, |offset| offset.ms)
    }

    /// A moment of the edge's clock by the store's. 0 stays 0.
    pub fn to_store(&self, edge_ms: u64) -> u64 {
        moved(edge_ms, self.offset_ms())
    }

    /// A moment of the store's clock by the edge's. 0 stays 0.
    pub fn to_edge(&self, store_ms: u64) -> u64 {
        moved(store_ms, -self.offset_ms())
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn moved(ms: u64, by: i64) -> u64 {
    if ms == 0 { 0 } else { ms.saturating_add_signed(by).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skew_is_found_and_small_differences_are_noise() {
        let clock = StoreClock::new(EdgeClock::new(|| 1_000_000));
        let asked = Instant::now();
        clock.sample(1_030_002, 1_000_000, asked, asked + Duration::from_millis(4));
        assert_eq!(clock.offset_ms(), 30_000);
        clock.sample(1_030_402, 1_000_000, asked, asked + Duration::from_millis(4));
        assert_eq!(clock.offset_ms(), 30_000, "the same write reads the same");
        assert_eq!(clock.to_edge(clock.to_store(5)), 5);
        assert_eq!(clock.to_store(0), 0, "0 is no moment");
    }

    #[test]
    fn a_jump_counts_when_it_is_seen_twice() {
        let clock = StoreClock::new(EdgeClock::new(|| 0));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        clock.sample(1_000_300, 1_000_000, at(0), at(0));
        assert_eq!(clock.offset_ms(), 0);
        clock.sample(1_060_000, 1_000_000, at(10), at(20));
        assert_eq!(clock.offset_ms(), 0);
        clock.sample(1_060_100, 1_000_000, at(10), at(30));
        clock.sample(1_060_100, 1_000_000, at(20), at(30));
        assert_eq!(clock.offset_ms(), 0, "three servers that were asked at once saw one moment");
        clock.sample(1_060_000, 1_000_000, at(100), at(2_100));
        assert_eq!(clock.offset_ms(), 0, "too slow to say anything");
        clock.sample(1_060_100, 1_000_000, at(1_000), at(1_001));
        assert_eq!(clock.offset_ms(), 60_100);
    }
}
