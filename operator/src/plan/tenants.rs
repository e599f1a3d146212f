//! The number of each tenant, which is inside every token: given once per domain name, and never to another one.

use std::collections::{BTreeMap, BTreeSet};

/// ConfigMap in the operator's namespace: domain name, lower case → number.
pub const CONFIG_MAP: &str = "sipmcp-tenants";

/// The first number that is given. 0 is for an edge that has its domains from files.
const FIRST: u16 = 1;

/// What stands in the ConfigMap, and what is wrong with the rest. Of two domains with one number the first by name has it: with the same
/// number each could read the other's tokens.
#[must_use]
pub fn read(data: Option<&BTreeMap<String, String>>) -> (BTreeMap<String, u16>, Vec<String>) {
    let (mut numbers, mut given, mut problems) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    for (domain, text) in data.into_iter().flatten() {
        match text.parse::<u16>() {
            Ok(number) if given.insert(number) => {
                numbers.insert(domain.to_ascii_lowercase(), number);
            }
            Ok(number) => problems.push(format!("{domain}: number {number} is another domain's; edit neither")),
            Err(_) => problems.push(format!("{domain}: {text:?} is no number of a tenant (0 to 65535)")),
        }
    }
    (numbers, problems)
}

/// Every number ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every number of a tenant was given; a domain that had none before can have none")]
pub struct Exhausted;

/// Numbers for the domains that have none. `given`: every number that is known to be given, to whom does not matter. Goes on after the
/// highest, so what was given and forgotten is not likely to be given again.
///
/// # Errors
/// There are none left; those before it in the order of their names have theirs.
pub fn assign(
    given: &BTreeSet<u16>,
    domains: impl IntoIterator<Item = String>,
) -> (BTreeMap<String, u16>, Result<(), Exhausted>) {
    let mut next = given.last().map_or(Some(FIRST), |last| last.checked_add(1));
    let mut numbers = BTreeMap::new();
    for domain in domains.into_iter().collect::<BTreeSet<_>>() {
        let Some(number) = next else { return (numbers, Err(Exhausted)) };
        numbers.insert(domain, number);
        next = number.checked_add(1);
    }
    (numbers, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_was_broken_by_hand_gives_nobody_another_ones_number() {
        let data = map(&[("a.example", "1"), ("b.example", "1"), ("c.example", "x"), ("d.example", "4")]);
        let (numbers, problems) = read(Some(&data));
        assert_eq!(numbers, [("a.example".to_owned(), 1), ("d.example".to_owned(), 4)].into());
        assert_eq!(problems.len(), 2);
        assert_eq!(read(None), Default::default());
    }

    #[test]
    fn the_last_number_is_given_and_then_none() {
        let (numbers, result) = assign(&[65_534].into(), ["a".to_owned(), "b".to_owned()]);
        assert_eq!((numbers, result), ([("a".to_owned(), 65_535)].into(), Err(Exhausted)));
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice(given in proptest::collection::btree_set(0_u16..2000, 0..50), rounds in proptest::collection::vec(1_usize..6, 1..10)) {
            let mut given = given;
            for (round, count) in rounds.into_iter().enumerate() {
                let (numbers, result) = assign(&given, (0..count).map(|domain| format!("{round}-{domain}")));
                prop_assert_eq!((numbers.len(), result), (count, Ok(())));
                for number in numbers.into_values() {
                    prop_assert!(given.insert(number));
                }
            }
        }
    }
}
