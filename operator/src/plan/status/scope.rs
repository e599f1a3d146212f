//! Status of what agents stand under: SipDomain and McpCapabilityPolicy.

use super::agent::tools_of;
use super::{Said, Scene, changed, judged, programmed, ready, with_field, written};
use crate::key::{Key, Kind};
use crds::manifest::ObjectKey;
use crds::policy::{compile, misfits};
use crds::v1alpha1::{
    AncestorRef, ConditionType, GROUP, McpCapabilityPolicySpec, McpCapabilityPolicyStatus, PolicyAncestor, Reason,
    SipDomainStatus, TargetKind,
};
use crds::validate::Finding;
use edge_api::control::ToolReport;
use std::collections::{BTreeMap, BTreeSet};

/// Who writes the ancestors of a policy (GEP-713).
pub const CONTROLLER: &str = "sipmcp.dev/operator";
/// Ancestors of one policy (GEP-713).
const MAX_ANCESTORS: usize = 16;
/// Agents of one target whose tools are looked at, octets of schemas that are read, and findings after which no further agent is looked at.
const MAX_LOOKED: usize = 256;
const MAX_READ: usize = 4 << 20;
const MAX_LACKING: usize = 32;

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

/// What the conditions of a policy miss in the tools that edges have listed, by the place of the target. A rule with such a condition allows
/// nothing there, and denies.
fn lacking(scene: &Scene<'_>, key: &ObjectKey, spec: &McpCapabilityPolicySpec) -> BTreeMap<usize, Vec<Finding>> {
    let mut lacking = BTreeMap::new();
    if spec.rules.iter().all(|rule| rule.when.is_none()) {
        return lacking;
    }
    let Ok(policy) = compile(key, spec) else { return lacking };
    let named = named(spec);
    let objects = &scene.index.view().objects;
    for (index, target) in spec.target_refs.iter().enumerate() {
        let agents: Vec<ObjectKey> = match target.kind {
            TargetKind::McpAgent => vec![ObjectKey::new(&key.namespace, &target.name)],
            TargetKind::SipDomain => {
                let domain = objects.domains.get(&target.name);
                if !domain.is_some_and(|domain| domain.spec.takes_policies_of(&key.namespace)) {
                    continue;
                }
                let domain = Key::of(Kind::SipDomain, "", &*target.name);
                let agents = scene.index.references().referrers(&domain).filter(|key| key.kind == Kind::McpAgent);
                agents.map(|key| key.object.clone()).collect()
            }
        };
        let standing = agents.into_iter().filter(|agent| objects.agents.contains_key(agent));
        let (mut findings, mut room) = (Vec::new(), MAX_READ);
        for agent in standing.take(MAX_LOOKED) {
            let Some(tools) = tools_of(scene.fleets, &agent) else { continue };
            let is_named = |tool: &&ToolReport| named.as_ref().is_none_or(|named| named.contains(&*tool.name));
            let read = |tool: &ToolReport| {
                room = room.checked_sub(tool.input_schema.len())?;
                Some((tool.name.clone(), serde_json::from_slice(&tool.input_schema).ok()?))
            };
            let schemas: Vec<(String, serde_json::Value)> =
                tools.into_values().filter(is_named).filter_map(read).collect();
            let schemas: Vec<_> = schemas.iter().map(|(name, schema)| (&**name, schema)).collect();
            let told =
                |finding: Finding| Finding { message: format!("McpAgent {agent}, {}", finding.message), ..finding };
            findings.extend(misfits(&policy, &schemas).into_iter().map(told));
            if findings.len() >= MAX_LACKING {
                break;
            }
        }
        if !findings.is_empty() {
            lacking.insert(index, findings);
        }
    }
    lacking
}

/// The tools that rules with conditions name, so that no other schema is read; `None`: they name them by patterns, or all.
fn named(spec: &McpCapabilityPolicySpec) -> Option<BTreeSet<&str>> {
    let conditional = spec.rules.iter().filter(|rule| rule.when.is_some()).flat_map(|rule| &rule.methods);
    let mut named = BTreeSet::new();
    for method in conditional {
        let pattern = |name: &String| name.contains('*');
        if pattern(&method.name) || method.params.is_empty() || method.params.iter().any(pattern) {
            return None;
        }
        named.extend(method.params.iter().map(String::as_str));
    }
    Some(named)
}

/// `None`: nothing is.
fn lacks<'a>(findings: impl Iterator<Item = &'a Finding>) -> Option<Said> {
    let mut findings = findings.peekable();
    let Finding { field, message } = findings.peek()?.to_owned().clone();
    let message = with_field(&field, &message, findings.count());
    Some(Said::no(ConditionType::ResolvedRefs, Reason::UnknownArgument, message))
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
    let lacking = lacking(scene, key, &entry.object.spec);
    let resolved = if resolved.holds() { lacks(lacking.values().flatten()).unwrap_or(resolved) } else { resolved };
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
            None if accepted.holds() => {
                let resolved = lacks(lacking.get(&index).into_iter().flatten());
                (resolved.unwrap_or_else(|| Said::yes(ConditionType::ResolvedRefs)), programmed.clone())
            }
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
