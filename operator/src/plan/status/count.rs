//! Counters in a status are rough: exact numbers are metrics.

use crds::v1alpha1::SessionCounts;

/// The counters to be shown. Those that were shown stay while the new ones are within a tenth of them, or while they are not due; to and
/// from zero is always more than a tenth.
#[must_use]
pub fn counts(before: Option<&SessionCounts>, now: SessionCounts, due: bool) -> SessionCounts {
    match before {
        Some(before) if !due || (near(before.active, now.active) && near(before.in_flight, now.in_flight)) => {
            before.clone()
        }
        _ => now,
    }
}

fn near(before: u32, now: u32) -> bool {
    before == now || (before != 0 && now != 0 && before.abs_diff(now) <= before / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_move_past_a_tenth_and_only_when_they_are_due() {
        let counted = |active| SessionCounts { active, in_flight: 0 };
        let shown = |before, now, due| counts(Some(&counted(before)), counted(now), due).active;
        for (before, now, due, after) in [
            (100, 110, true, 100),
            (100, 111, true, 111),
            (100, 89, true, 89),
            (100, 50, false, 100),
            (1, 0, true, 0),
            (0, 1, true, 1),
            (5, 6, true, 6),
        ] {
            assert_eq!(shown(before, now, due), after, "{before} -> {now} due {due}");
        }
        assert_eq!(counts(None, counted(3), false).active, 3, "the first ones are always shown");
    }
}
