//! The capability policy (`McpCapabilityPolicy`, kubernetes §3.4; SEC-6): compiled once, evaluated on every message.
//!
//! A matching Deny wins, then a matching Allow, then the default. What no rule allows is refused. Policies are attached
//! to the agent and to its domain ([`Policies`]): a Deny of either wins, and each level that has a policy must allow.
//!
//! Two phases: **List** is what a caller is shown, **Call** what it may run. `initialize`, `server/discover`, `ping`
//! and notifications need no rule of their own: who may see the address may send them.

mod arguments;
mod compile;
mod evaluate;
mod glob;
mod identity;
pub mod when;

pub use arguments::{Arguments, CallArguments};
pub use compile::{PolicyError, Problem};
pub use evaluate::{Decision, Limit, Policies, Principal, Request, Target};
pub use glob::{Glob, GlobError};
pub use identity::{IdentityError, IdentityGlob};

use serde_json::Value;
use when::Misfit;

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Refuse.
    #[default]
    Deny,
    /// Let through.
    Allow,
}

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// What is shown.
    List,
    /// What runs.
    Call,
}

impl Phase {
    /// The phase of a request: the four list methods are judged in List, everything else in Call.
    #[must_use]
    pub fn of_method(method: &str) -> Phase {
        if crate::jsonrpc::ListOf::of_method(method).is_some() { Phase::List } else { Phase::Call }
    }
}

/// How an agent's policy stands to those of the domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Inheritance {
    /// Both levels must allow.
    #[default]
    Default,
    /// The agent's policy allows by itself. A Deny of the domain still wins.
    Override,
}

/// A policy as it is written, before it is compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// namespace/name.
    pub name: String,
    /// How it stands to the policies of the domain. Without effect on a domain's own policy.
    pub inheritance: Inheritance,
    /// Where no rule matches.
    pub default_action: Action,
    /// The rules, by unique name.
    pub rules: Vec<RuleSpec>,
}

/// A rule as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSpec {
    /// Unique in the policy.
    pub name: String,
    /// Who. Absent: an Allow rule means every authenticated caller, a Deny rule everybody.
    pub from: Option<Vec<Peer>>,
    /// What. Absent: every MCP method, and plain calls too.
    pub methods: Option<Vec<MethodSpec>>,
    /// When. Empty: both phases.
    pub phases: Vec<Phase>,
    /// Allow or Deny.
    pub action: Action,
    /// A condition over the arguments ([`when`]). For rules of phase Call about methods that have arguments.
    pub when: Option<String>,
    /// How much a caller may have of the calls that it is about. For Allow rules of phase Call.
    pub limits: Option<RuleLimits>,
}

/// Limits of a rule, for each caller; at least one of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleLimits {
    /// Calls in any 60 seconds.
    pub calls_per_minute: Option<u32>,
    /// Calls that wait for their answer.
    pub concurrent: Option<u32>,
}

/// One entry of `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `sipIdentity`: a SIP URI with `*`, such as `sip:*@acme.example`. Host without regard to case, user with.
    SipIdentity(String),
    /// `anonymous`: callers without credentials.
    Anonymous,
}

/// One entry of `methods` (the shape of SIG-Network's MCPMethod).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodSpec {
    /// The method; `*` matches any text.
    pub name: String,
    /// Globs over the tool (`tools/call`), prompt (`prompts/get`) or URI (`resources/read`). Empty: all.
    pub params: Vec<String>,
}

/// A compiled policy.
#[derive(Clone, Debug)]
pub struct Policy {
    name: String,
    inheritance: Inheritance,
    default_action: Action,
    rules: Vec<compile::Rule>,
}

impl Policy {
    /// Compiles and checks a policy.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its field.
    pub fn compile(spec: &PolicySpec) -> Result<Policy, Vec<PolicyError>> {
        compile::policy(spec)
    }

    /// Which conditions do not fit the tools that were reported: by the rule's place in the policy, the tool and what is wrong. `tools`:
    /// name and `inputSchema`; only those are looked at that a rule with a condition is about.
    pub fn misfits<'a>(&'a self, tools: &'a [(&'a str, &'a Value)]) -> impl Iterator<Item = (usize, &'a str, Misfit)> {
        let conditions =
            self.rules.iter().enumerate().filter_map(|(place, rule)| Some((place, rule, rule.when.as_ref()?)));
        conditions.flat_map(move |(place, rule, when)| {
            let is_about = move |tool: &str| {
                rule.methods.iter().flatten().any(|method| evaluate::method_matches(method, "tools/call", Some(tool)))
            };
            let about = tools.iter().filter(move |(tool, _)| is_about(tool));
            about.filter_map(move |(tool, schema)| Some((place, *tool, when.fits(schema).err()?)))
        })
    }

    /// namespace/name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
