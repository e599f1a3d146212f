//! While the store is away (sip.md, section 11).

use crate::input::StoreHealth;
use crate::state::EdgeState;

impl EdgeState {
    /// The breaker of the store moved.
    pub(crate) fn store_health(&mut self, health: StoreHealth) {
        let _ = health;
    }
}
