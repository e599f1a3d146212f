//! How long a binding is granted, by class of agent (REG-4, REG-5).

/// Only requests below this may be refused as too brief (RFC 3261 §10.3), in seconds.
const HOUR: u32 = 3600;

/// The limits of one registration profile, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiresBounds {
    /// The shortest.
    pub min: u32,
    /// The longest.
    pub max: u32,
    /// When the request says nothing.
    pub default: u32,
    /// A shorter wish is raised to `min` and not answered 423.
    pub raise: bool,
    /// Spread of the granted time, in percent of it: for agents that were started together.
    pub jitter_percent: u8,
}

/// The classes of agents (draft, "Registration Performance").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// 60–300 s.
    Ephemeral,
    /// 1800–7200 s.
    Production,
    /// 300–900 s, jittered.
    Pool,
    /// 600–1800 s.
    Federated,
}

/// The wish is below the minimum: 423.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBrief {
    /// For `Min-Expires`.
    pub min_expires: u32,
}

impl Profile {
    /// Its limits.
    #[must_use]
    pub fn bounds(self) -> ExpiresBounds {
        let (min, max, default, jitter_percent) = match self {
            Profile::Ephemeral => (60, 300, 300, 0),
            Profile::Production => (1800, 7200, 3600, 0),
            Profile::Pool => (300, 900, 600, 20),
            Profile::Federated => (600, 1800, 1800, 0),
        };
        ExpiresBounds { min, max, default, raise: false, jitter_percent }
    }
}

impl ExpiresBounds {
    /// The same limits where a short wish is raised.
    #[must_use]
    pub fn raising(self) -> ExpiresBounds {
        ExpiresBounds { raise: true, ..self }
    }

    /// What is granted for a wish; 0 stays 0, it removes. `random` picks a point in the spread.
    ///
    /// # Errors
    /// A wish below the minimum, where it is not raised.
    pub fn grant(&self, asked: Option<u32>, random: u32) -> Result<u32, TooBrief> {
        let asked = asked.unwrap_or(self.default);
        if asked == 0 {
            return Ok(0);
        }
        if asked < self.min && asked < HOUR && !self.raise {
            return Err(TooBrief { min_expires: self.min });
        }
        let granted = asked.min(self.max).max(self.min);
        // The spread lies below what would be granted, so that nobody gets more than asked for; where the minimum
        // leaves no room, it lies above.
        let spread = u32::try_from(u64::from(granted) * u64::from(self.jitter_percent) / 100).unwrap_or(0);
        let low = granted.saturating_sub(spread).max(self.min);
        let high = low.saturating_add(spread).min(self.max).max(low);
        Ok(low + random % (high - low + 1))
    }
}
