//! The order of SRV records (RFC 2782): by priority, then by lot, where the weight is the number of tickets.

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower first.
    pub priority: u16,
    /// More is more often first.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host.
    pub target: String,
}

/// Puts records into the order in which they are tried. `random` is moved on, so that the next draw differs.
pub(crate) fn order(mut records: Vec<Srv>, random: &mut u64) -> Vec<Srv> {
    // Weight 0 first, so that it keeps its small chance (RFC 2782).
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|record| record.priority) {
        let group = records.iter().take_while(|record| record.priority == priority).count();
        let sum: u64 = records[..group].iter().map(|record| u64::from(record.weight)).sum();
        let ticket = next(random) % (sum + 1);
        let mut running = 0;
        let drawn = records[..group].iter().position(|record| {
            running += u64::from(record.weight);
            running >= ticket
        });
        // The running sum ends at `sum`, which is at least the ticket, so one is always drawn.
        ordered.push(records.remove(drawn.unwrap_or(0)));
    }
    ordered
}

/// splitmix64: spreads one random argument over several draws.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: 5060, target: target.into() }
    }

    #[test]
    fn weights_decide_how_often_one_is_first() {
        let records = vec![record(10, 60, "a"), record(10, 20, "b"), record(10, 20, "c"), record(0, 0, "first")];
        let mut firsts = std::collections::BTreeMap::<String, u32>::new();
        let mut random = 7;
        for _ in 0..10_000 {
            let ordered = order(records.clone(), &mut random);
            assert_eq!((ordered.len(), ordered[0].target.as_str()), (4, "first"));
            *firsts.entry(ordered[1].target.clone()).or_default() += 1;
        }
        assert!((5_500..6_500).contains(&firsts["a"]), "{firsts:?}");
        assert!((1_500..2_500).contains(&firsts["b"]) && (1_500..2_500).contains(&firsts["c"]), "{firsts:?}");
    }

    #[test]
    fn weight_zero_is_drawn_too() {
        let records = vec![record(1, 0, "zero"), record(1, 9, "nine")];
        let mut random = 1;
        let zeros = (0..1_000).filter(|_| order(records.clone(), &mut random)[0].target == "zero").count();
        assert!((50..200).contains(&zeros), "{zeros}");
    }
}
