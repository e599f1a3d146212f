//! Orders to drain, as the holder of the Lease gives them to all replicas: an edge hears of its own wherever it is attached, and whoever becomes the
//! holder goes on with them, with those of a person, too.

use super::{MAX_ENTRIES, contract, identity, pod};
use crate::identity::Identity;
use crate::plan::fleet::{DrainOrder, Fleet, Fleets};
use std::collections::BTreeMap;

/// Octets of a reason, and of a uid.
const MAX_REASON: usize = 1024;
const MAX_UID: usize = 256;

/// Every order, by the pod that it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    by_pod: BTreeMap<Identity, Given>,
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    order: DrainOrder,
    /// uid of the pod, where a person ordered it.
    by_hand: Option<String>,
}

impl Orders {
    /// As they stand here. More than a message takes are left for later: a rollout drains one pod at a time.
    #[must_use]
    pub fn of(fleets: &Fleets) -> Orders {
        let of_fleet = |(edge, fleet): (&crds::manifest::ObjectKey, &Fleet)| {
            let given = |(pod, order): (&String, &DrainOrder)| {
                let by_hand = fleet.by_hand.get(pod).cloned();
                (Identity { edge: edge.clone(), pod: pod.clone() }, Given { order: order.clone(), by_hand })
            };
            fleet.drains.iter().map(given).collect::<Vec<_>>()
        };
        Orders { by_pod: fleets.iter().flat_map(of_fleet).take(MAX_ENTRIES).collect() }
    }

    /// As they travel.
    #[must_use]
    pub fn to_message(&self) -> contract::Orders {
        let order = |(edge, given): (&Identity, &Given)| contract::Order {
            pod: Some(pod(edge)),
            deadline_s: given.order.deadline_s,
            reason: given.order.reason.chars().take(MAX_REASON / 4).collect(),
            by_hand: given.by_hand.clone().unwrap_or_default(),
        };
        contract::Orders { orders: self.by_pod.iter().map(order).collect() }
    }

    /// As they came. `None`: more than there may be. What is no order is left out.
    #[must_use]
    pub fn from_message(message: contract::Orders) -> Option<Orders> {
        if message.orders.len() > MAX_ENTRIES {
            return None;
        }
        let given = |order: contract::Order| {
            let edge = identity(order.pod.as_ref())?;
            let contract::Order { deadline_s, reason, by_hand, .. } = order;
            let fits = reason.len() <= MAX_REASON && by_hand.len() <= MAX_UID && (1..=86_400).contains(&deadline_s);
            let by_hand = (!by_hand.is_empty()).then_some(by_hand);
            fits.then_some((edge, Given { order: DrainOrder { deadline_s, reason }, by_hand }))
        };
        Some(Orders { by_pod: message.orders.into_iter().filter_map(given).collect() })
    }

    /// Makes them those that stand here, and no others. True: something changed.
    pub fn impose(&self, fleets: &mut Fleets) -> bool {
        if Orders::of(fleets) == *self {
            return false;
        }
        for fleet in fleets.values_mut() {
            fleet.drains.clear();
            fleet.by_hand.clear();
        }
        for (Identity { edge, pod }, Given { order, by_hand }) in &self.by_pod {
            let fleet = fleets.entry(edge.clone()).or_default();
            fleet.drains.insert(pod.clone(), order.clone());
            if let Some(uid) = by_hand {
                fleet.by_hand.insert(pod.clone(), uid.clone());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::manifest::ObjectKey;

    #[test]
    fn what_the_holder_orders_stands_everywhere_and_nothing_else_does() {
        let key = |name: &str| ObjectKey::new("system", name);
        let order = |reason: &str| DrainOrder { deadline_s: 60, reason: reason.to_owned() };
        let mut holder = Fleets::default();
        let fleet = holder.entry(key("e")).or_default();
        fleet.drains.insert("e-0".into(), order("rollout"));
        fleet.drains.insert("e-1".into(), order("ordered by alice"));
        fleet.by_hand.insert("e-1".into(), "uid-1".into());
        let mut replica = Fleets::default();
        replica.entry(key("f")).or_default().drains.insert("f-0".into(), order("of a former holder"));

        let orders = Orders::from_message(Orders::of(&holder).to_message()).unwrap();
        assert!(orders.impose(&mut replica));
        assert!(!orders.impose(&mut replica), "they stand");
        assert_eq!(replica[&key("e")].drains, holder[&key("e")].drains);
        assert_eq!(replica[&key("e")].by_hand, holder[&key("e")].by_hand);
        assert!(replica[&key("f")].drains.is_empty());
        assert!(Orders::default().impose(&mut replica));
        assert!(replica.values().all(|fleet| fleet.drains.is_empty() && fleet.by_hand.is_empty()));
    }

    #[test]
    fn nonsense_is_no_order() {
        let good = contract::Order {
            pod: Some(pod(&Identity { edge: ObjectKey::new("system", "e"), pod: "e-0".into() })),
            deadline_s: 60,
            ..contract::Order::default()
        };
        let orders = [
            contract::Order { pod: None, ..good.clone() },
            contract::Order { deadline_s: 0, ..good.clone() },
            contract::Order { reason: "x".repeat(MAX_REASON + 1), ..good.clone() },
            good.clone(),
        ];
        let orders = Orders::from_message(contract::Orders { orders: orders.into() }).unwrap();
        assert_eq!(orders.by_pod.len(), 1);
        assert!(Orders::from_message(contract::Orders { orders: vec![good; MAX_ENTRIES + 1] }).is_none());
    }
}
