//! How long the store takes to answer, lately.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far back "lately" goes.
const LATELY: Duration = Duration::from_secs(5);
/// Answers that are looked at; of more in that time, the last ones.
const KEPT: usize = 256;

/// The answers of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// When, and after how many microseconds.
    answers: Mutex<VecDeque<(Instant, u32)>>,
}

impl Latency {
    /// The store answered.
    pub(super) fn answered(&self, now: Instant, took: Duration) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() == KEPT {
            answers.pop_front();
        }
        answers.push_back((now, u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1)));
    }

    /// Microseconds, at least 1: the median, or the last answer's where there was none lately. `None`: there never was one.
    pub(super) fn median(&self, now: Instant) -> Option<u32> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < LATELY;
        let mut took: Vec<u32> = answers.iter().filter(|(at, _)| is_recent(at)).map(|(_, took)| *took).collect();
        took.sort_unstable();
        match took.len() {
            0 => answers.back().map(|(_, took)| *took),
            length => took.get((length - 1) / 2).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_last_seconds_counts_and_memory_is_bounded() {
        let (latency, begin) = (Latency::default(), Instant::now());
        let at = |ms: u64| begin + Duration::from_millis(ms);
        assert_eq!(latency.median(at(0)), None);
        for (now, took) in [(0, 90_000), (100, 90_000), (200, 90_000), (4_000, 10), (4_100, 700), (4_200, 30)] {
            latency.answered(at(now), Duration::from_micros(took));
        }
        assert_eq!(latency.median(at(4_300)), Some(700));
        assert_eq!(latency.median(at(5_300)), Some(30), "the slow ones are over");
        assert_eq!(latency.median(at(60_000)), Some(30), "the last one, where none was lately");
        latency.answered(at(60_000), Duration::ZERO);
        assert_eq!(latency.median(at(60_000)), Some(1), "0 would say that nobody measured");
        for _ in 0..10 * KEPT {
            latency.answered(at(60_100), Duration::from_micros(5));
        }
        assert_eq!(latency.answers.lock().unwrap().len(), KEPT);
        assert_eq!(latency.median(at(60_100)), Some(5));
    }
}
