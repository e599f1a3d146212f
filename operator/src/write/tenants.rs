//! The numbers of the tenants: given to each SipDomain that stands, written down first, used then.

use super::{Failure, MANAGER, Rounds, Writer};
use crate::board::State;
use crate::plan::tenants::{CONFIG_MAP, Exhausted, assign, read};
use crate::run::Context;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const LATEST: Duration = Duration::from_secs(30);

/// What is to be written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// New numbers, and those that are known and stand nowhere any more.
    numbers: BTreeMap<String, u16>,
    exhausted: bool,
}

/// What is to be written; nothing before everything that could know a number was read.
fn plan(state: &State) -> Plan {
    if !state.index.are_numbers_known() || !state.index.awaited().is_empty() {
        return Plan::default();
    }
    let index = &state.index;
    let mut given: BTreeSet<u16> = index.tenants().map(|(_, number)| number).collect();
    let mut numbers = BTreeMap::new();
    let mut without = Vec::new();
    for (name, domain) in &index.view().objects.domains {
        let text = domain.spec.domain.to_ascii_lowercase();
        if index.tenant(&text).is_some() {
            continue;
        }
        // Its status remembers what the ConfigMap has lost.
        let status = index.domain(name).and_then(|entry| entry.object.status.as_ref());
        match status.and_then(|status| status.tenant_number) {
            Some(number) if given.insert(number) => {
                numbers.insert(text, number);
            }
            _ => without.push(text),
        }
    }
    let (new, result) = assign(&given, without);
    numbers.extend(new);
    if state.tenants_lost {
        numbers.extend(index.tenants().map(|(domain, number)| (domain.to_owned(), number)));
    }
    Plan { numbers, exhausted: result == Err(Exhausted) }
}

pub(super) async fn run(context: Context, writer: Writer) {
    let mut rounds = Rounds::new(&context, LATEST);
    let mut said = false;
    while rounds.next().await.is_ok() {
        let Plan { numbers, exhausted } = context.board.quietly(|state| plan(state));
        if exhausted && !std::mem::replace(&mut said, true) {
            tracing::error!("{Exhausted}");
        }
        if numbers.is_empty() {
            continue;
        }
        match record(&context, &writer, &numbers).await {
            Ok(stands) => context.board.change(|state| {
                state.tenants_lost = false;
                for (domain, number) in stands {
                    state.index.number(&domain, number);
                }
            }),
            // Somebody else wrote it meanwhile: the watch brings that.
            Err(failure) if failure.is_conflict() => {}
            Err(Failure::NoLease) => {}
            Err(failure) => {
                tracing::warn!(error = %failure, "the numbers of the tenants could not be written; domains without one wait");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }
}

/// Adds to the ConfigMap what it has not. Returns what stands in it then; what stood in it before is never changed.
async fn record(
    context: &Context,
    writer: &Writer,
    numbers: &BTreeMap<String, u16>,
) -> Result<BTreeMap<String, u16>, Failure> {
    let api = writer.api::<ConfigMap>(&context.args.namespace);
    let there = writer.ask(api.get_opt(CONFIG_MAP)).await?;
    let (merged, stands) = merge(there.as_ref().and_then(|map| map.data.as_ref()), numbers);
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match there {
        None => {
            let metadata = ObjectMeta { name: Some(CONFIG_MAP.to_owned()), ..ObjectMeta::default() };
            let map = ConfigMap { metadata, data: Some(merged), ..ConfigMap::default() };
            writer.write("ConfigMap", api.create(&params, &map)).await?;
        }
        // Its resourceVersion is the one that was read: who changed it in between is not overwritten.
        Some(map) => {
            let map = ConfigMap { data: Some(merged), ..map };
            writer.write("ConfigMap", api.replace(CONFIG_MAP, &params, &map)).await?;
        }
    }
    Ok(stands)
}

fn merge(
    there: Option<&BTreeMap<String, String>>,
    numbers: &BTreeMap<String, u16>,
) -> (BTreeMap<String, String>, BTreeMap<String, u16>) {
    let (mut stands, _) = read(there);
    let mut merged = there.cloned().unwrap_or_default();
    let mut given: BTreeSet<u16> = stands.values().copied().collect();
    for (domain, number) in numbers {
        // A number that another domain got meanwhile is not given twice: this domain gets its own with the next round.
        if !stands.contains_key(domain) && !merged.contains_key(domain) && given.insert(*number) {
            merged.insert(domain.clone(), number.to_string());
            stands.insert(domain.clone(), *number);
        }
    }
    (merged, stands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Index, Object};
    use crate::key::Kind;
    use crate::testing::domain;

    fn state(numbered: &[(&str, u16)], status: Option<u16>) -> State {
        let mut index = Index::default();
        for (domain, number) in numbered {
            index.number(domain, *number);
        }
        let mut domains = [domain("d0", 1), domain("d1", 1)];
        if let (Object::Domain(domain), Some(number)) = (&mut domains[1], status) {
            domain.status = Some(crds::v1alpha1::SipDomainStatus { tenant_number: Some(number), ..Default::default() });
        }
        for kind in Kind::ALL {
            let of_kind = domains.iter().filter(|object| object.key().kind == kind).cloned().collect();
            index.reset(kind, of_kind).unwrap();
        }
        index.numbers_are_known();
        State { index, ..State::default() }
    }

    fn numbers(plan: &Plan) -> Vec<(&str, u16)> {
        plan.numbers.iter().map(|(domain, number)| (&**domain, *number)).collect()
    }

    #[test]
    fn a_domain_gets_a_number_that_nobody_ever_had() {
        let mut state = state(&[("gone.example", 7)], None);
        assert_eq!(numbers(&plan(&state)), [("d0.example", 8), ("d1.example", 9)]);
        state.index = Index::default();
        for kind in Kind::ALL {
            state.index.reset(kind, if kind == Kind::SipDomain { vec![domain("d0", 1)] } else { vec![] }).unwrap();
        }
        assert_eq!(plan(&state), Plan::default(), "what was not read may know more");
    }

    #[test]
    fn what_the_config_map_lost_is_restored_from_memory_and_from_the_statuses() {
        let mut state = state(&[("d0.example", 3)], Some(5));
        assert_eq!(numbers(&plan(&state)), [("d1.example", 5)]);
        state.tenants_lost = true;
        assert_eq!(numbers(&plan(&state)), [("d0.example", 3), ("d1.example", 5)]);
    }

    #[test]
    fn what_stands_is_never_changed() {
        let there = BTreeMap::from([("a.example".to_owned(), "4".to_owned()), ("broken".to_owned(), "x".to_owned())]);
        let wanted =
            BTreeMap::from([("a.example".to_owned(), 9), ("b.example".to_owned(), 4), ("c.example".to_owned(), 5)]);
        let (merged, stands) = merge(Some(&there), &wanted);
        assert_eq!((&*merged["a.example"], &*merged["broken"], &*merged["c.example"]), ("4", "x", "5"));
        assert_eq!(stands, [("a.example".to_owned(), 4), ("c.example".to_owned(), 5)].into());
    }
}
