//! From the written policy to the one that the edge runs: the same code judges it at admission and compiles it for the core.

use crate::manifest::{ObjectKey, Snapshot, Sourced};
use crate::v1alpha1::{
    Action, Caller, McpCapabilityPolicy, McpCapabilityPolicySpec, Phase, PolicyInheritance, PolicyRule, TargetKind,
};
use crate::validate::Finding;
use mcp_sip::policy::{self, Inheritance, MethodSpec, Peer, Policy, PolicySpec, RuleLimits, RuleSpec};

/// A policy has 64 rules and an agent 256 tools; a status has not so much room.
const MAX_MISFITS: usize = 32;

/// Compiles a policy; its name is `namespace/name`, as it stands in audit records.
///
/// # Errors
/// Everything that is wrong with globs, identities and rules, with the field (`spec.rules[0].from[1].sipIdentity`).
pub fn compile(key: &ObjectKey, spec: &McpCapabilityPolicySpec) -> Result<Policy, Vec<Finding>> {
    Policy::compile(&written(key, spec)).map_err(|errors| {
        let finding = |error: policy::PolicyError| Finding {
            field: format!("spec.{}", error.field),
            message: error.problem.to_string(),
        };
        errors.into_iter().map(finding).collect()
    })
}

/// Conditions that do not fit the tools of an agent, which its edges reported by name and `inputSchema`: the field, the tool and what is
/// missing, for condition ResolvedRefs with reason UnknownArgument. At most 32 of them.
pub fn misfits(policy: &Policy, tools: &[(&str, &serde_json::Value)]) -> Vec<Finding> {
    let finding = |(rule, tool, misfit): (usize, &str, policy::when::Misfit)| Finding {
        field: format!("spec.rules[{rule}].when"),
        message: format!("for tool {tool}: {misfit}"),
    };
    policy.misfits(tools).take(MAX_MISFITS).map(finding).collect()
}

fn written(key: &ObjectKey, spec: &McpCapabilityPolicySpec) -> PolicySpec {
    PolicySpec {
        name: key.to_string(),
        inheritance: match spec.inheritance {
            PolicyInheritance::Default => Inheritance::Default,
            PolicyInheritance::Override => Inheritance::Override,
        },
        default_action: action(spec.default_action),
        rules: spec.rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &PolicyRule) -> RuleSpec {
    let methods: Vec<MethodSpec> =
        rule.methods.iter().map(|m| MethodSpec { name: m.name.clone(), params: m.params.clone() }).collect();
    let from: Vec<Peer> = rule.from.iter().map(peer).collect();
    RuleSpec {
        name: rule.name.clone(),
        from: (!from.is_empty()).then_some(from),
        methods: (!methods.is_empty()).then_some(methods),
        phases: rule.phases.iter().map(|phase| self::phase(*phase)).collect(),
        action: action(rule.action),
        when: rule.when.clone(),
        limits: rule
            .limits
            .as_ref()
            .map(|limits| RuleLimits { calls_per_minute: limits.calls_per_minute, concurrent: limits.concurrent }),
    }
}

fn peer(caller: &Caller) -> Peer {
    match &caller.sip_identity {
        Some(pattern) => Peer::SipIdentity(pattern.clone()),
        None => Peer::Anonymous,
    }
}

fn phase(phase: Phase) -> policy::Phase {
    match phase {
        Phase::List => policy::Phase::List,
        Phase::Call => policy::Phase::Call,
    }
}

fn action(action: Action) -> policy::Action {
    match action {
        Action::Allow => policy::Action::Allow,
        Action::Deny => policy::Action::Deny,
    }
}

impl Snapshot {
    /// The policies that select an agent, or (with [`TargetKind::SipDomain`] and the name of a `SipDomain`) a domain, and may: an agent is
    /// selected by policies of its own namespace only, a domain by those of the namespaces that it takes policies of.
    pub fn policies_for<'a>(
        &'a self,
        kind: TargetKind,
        target: &'a ObjectKey,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Sourced<McpCapabilityPolicy>)> {
        let domain = self.domains.get(&target.name).filter(|_| kind == TargetKind::SipDomain);
        self.policies.iter().filter(move |(key, policy)| {
            let reaches = match kind {
                TargetKind::McpAgent => key.namespace == target.namespace,
                TargetKind::SipDomain => domain.is_some_and(|domain| domain.spec.takes_policies_of(&key.namespace)),
            };
            reaches && policy.spec.target_refs.iter().any(|t| t.kind == kind && t.name == target.name)
        })
    }
}
