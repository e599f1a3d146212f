//! One object that is about to be written, against those that are there.

use super::{Faults, address_of, agent, bearable, domain, edge, first_by, policies, quota, store};
use crate::manifest::{ObjectKey, Origin, Snapshot};
use crate::v1alpha1::{McpAgent, SipDomain};
use crate::validate::{ObjectRef, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Judges one object of the snapshot by the rules of [`super::judge`], and nothing else in it: the others count as they stand, so the snapshot
/// needs no more than what the object refers to and what may have the same address or domain. `older`: agents of the domain that are there
/// already; without it the quota is not looked at. Empty where the object is not in the snapshot.
pub fn judge_one(snapshot: &Snapshot, kind: &'static str, key: &ObjectKey, older: Option<usize>) -> Vec<Verdict> {
    let mut faults = Faults::default();
    let Some(origin) = judged(snapshot, kind, key, older, &mut faults) else {
        let mut verdicts = Vec::new();
        if kind == "McpCapabilityPolicy" {
            policies(snapshot, &mut verdicts);
            verdicts.retain(|verdict| verdict.object.key == *key);
        }
        return verdicts;
    };
    let verdict = |(reason, field, message)| Verdict {
        object: ObjectRef { kind, key: key.clone() },
        origin: origin.clone(),
        reason,
        field,
        message,
        stands: false,
    };
    faults.0.into_iter().map(verdict).collect()
}

fn judged(
    snapshot: &Snapshot,
    kind: &str,
    key: &ObjectKey,
    older: Option<usize>,
    faults: &mut Faults,
) -> Option<Arc<Origin>> {
    match kind {
        "SessionStore" => {
            let object = snapshot.stores.get(key)?;
            store(snapshot, key, object, faults);
            Some(object.origin.clone())
        }
        "SipDomain" => {
            let object = snapshot.domains.get(&key.name)?;
            let firsts =
                first_by(&snapshot.domains, |_, domain: &SipDomain| Some(domain.spec.domain.to_ascii_lowercase()));
            domain(snapshot, &firsts, &key.name, object, faults);
            Some(object.origin.clone())
        }
        "SipEdge" => {
            let object = snapshot.edges.get(key)?;
            edge(snapshot, key, object, faults);
            Some(object.origin.clone())
        }
        "McpAgent" => {
            let object = snapshot.agents.get(key)?;
            let permitted = |key: &ObjectKey, agent: &McpAgent| {
                let domain = snapshot.domains.get(&agent.spec.address.domain_ref.name)?;
                snapshot.allows_namespace(domain, &key.namespace).then(|| address_of(agent))
            };
            agent(snapshot, &first_by(&snapshot.agents, permitted), key, object, &[], faults);
            faults.0.extend(bearable(snapshot, key, object));
            if let Some(older) = older {
                quota(snapshot, &BTreeMap::from([(key.clone(), older)]), key, object, faults);
            }
            Some(object.origin.clone())
        }
        _ => None,
    }
}
