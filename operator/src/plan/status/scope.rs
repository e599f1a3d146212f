//! Status of what agents stand under: SipDomain and McpCapabilityPolicy.

use super::{Said, Scene, changed, judged, programmed, ready, written};
use crate::key::{Key, Kind};
use crds::manifest::ObjectKey;
use crds::v1alpha1::{
    AncestorRef, ConditionType, GROUP, McpCapabilityPolicyStatus, PolicyAncestor, Reason, SipDomainStatus, TargetKind,
};

/// Who writes the ancestors of a policy (GEP-713).
pub const CONTROLLER: &str = "sipmcp.dev/operator";
/// Ancestors of one policy (GEP-713).
const MAX_ANCESTORS: usize = 16;

/// `None`: the domain is not there, or its status stands.
#[must_use]
pub fn domain(scene: &Scene<'_>, name: &str) -> Option<SipDomainStatus> {
    let entry = scene.index.domain(name)?;
    let before = entry.object.status.as_ref();
    let key = Key::of(Kind::SipDomain, "", name);
    let [accepted, resolved] = judged(scene.index, &key, &entry.findings, Reason::InvalidSpec);
    let (programmed, edges) = programmed(scene, &key, entry.generation);
    let ready = ready([&accepted, &resolved, &programmed]);
    let stands = |key: &&Key| key.kind == Kind::McpAgent && scene.index.view().objects.agents.contains_key(&key.object);
    let agents = scene.index.references().referrers(&key).filter(stands).count();
    let status = SipDomainStatus {
        observed_generation: Some(entry.generation),
        conditions: written(
            vec![accepted, resolved, programmed, ready],
            before.map_or(&[], |before| &before.conditions),
            entry.generation,
            scene.now,
        ),
        agents: u32::try_from(agents).unwrap_or(u32::MAX),
        tenant_number: scene.index.tenant(&entry.object.spec.domain),
        edges: Some(edges),
    };
    changed(before, status)
}

/// `None`: the policy is not there, or its status stands.
#[must_use]
pub fn policy(scene: &Scene<'_>, key: &ObjectKey) -> Option<McpCapabilityPolicyStatus> {
    let entry = scene.index.policy(key)?;
    let before = entry.object.status.as_ref();
    let reference = Key::new(Kind::McpCapabilityPolicy, key.clone());
    let [accepted, resolved] = judged(scene.index, &reference, &entry.findings, Reason::InvalidPolicy);
    let (programmed, edges) = programmed(scene, &reference, entry.generation);
    let faults = scene.index.view().verdicts_of(&reference);
    let targets = entry.object.spec.target_refs.iter().take(MAX_ANCESTORS).enumerate();
    let ancestors = targets.map(|(index, target)| {
        let (kind, namespace) = match target.kind {
            TargetKind::McpAgent => (Kind::McpAgent, Some(key.namespace.clone())),
            TargetKind::SipDomain => (Kind::SipDomain, None),
        };
        let ancestor_ref = AncestorRef {
            group: GROUP.to_owned(),
            kind: kind.as_str().to_owned(),
            namespace,
            name: target.name.clone(),
        };
        let field = format!("spec.targetRefs[{index}]");
        let (resolved, programmed) = match faults.iter().find(|fault| fault.field == field) {
            None if accepted.holds() => (Said::yes(ConditionType::ResolvedRefs), programmed.clone()),
            None => (resolved.clone(), programmed.clone()),
            Some(fault) => (
                Said::no(ConditionType::ResolvedRefs, fault.reason, &*fault.message),
                Said::no(ConditionType::Programmed, Reason::NoEdge, "has no effect on this target"),
            ),
        };
        let known = before.and_then(|before| before.ancestors.iter().find(|known| known.ancestor_ref == ancestor_ref));
        let conditions = written(
            vec![accepted.clone(), resolved, programmed],
            known.map_or(&[], |known| &known.conditions),
            entry.generation,
            scene.now,
        );
        PolicyAncestor { ancestor_ref, controller_name: CONTROLLER.to_owned(), conditions }
    });
    let ancestors = ancestors.collect();
    let status = McpCapabilityPolicyStatus {
        observed_generation: Some(entry.generation),
        conditions: written(
            vec![accepted, resolved, programmed],
            before.map_or(&[], |before| &before.conditions),
            entry.generation,
            scene.now,
        ),
        ancestors,
        edges: Some(edges),
    };
    changed(before, status)
}
