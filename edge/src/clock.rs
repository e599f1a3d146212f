//! The two clocks, read here and nowhere else.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sip_proto::time::{Mono, Now, UnixMillis};

/// The start of this process's monotonic time. One for all shards.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { origin: Instant::now() }
    }
}

impl Clock {
    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let micros = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now { mono: Mono(micros), wall: UnixMillis(unix_millis()) }
    }

    /// When a monotonic time of the core is, for the runtime's timer.
    #[must_use]
    pub fn instant(&self, at: Mono) -> Instant {
        self.origin + Duration::from_micros(at.0)
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
