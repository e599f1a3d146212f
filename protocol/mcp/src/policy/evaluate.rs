//! Who may do what: pure functions of the attached policies and a request.

use std::sync::Arc;

use super::compile::{From, Method, Rule};
use super::{Action, Arguments, CallArguments, Inheritance, Phase, Policy, RuleLimits};
use crate::jsonrpc::{Envelope, ListOf};

/// The caller, as it was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal<'a> {
    /// No credentials.
    Anonymous,
    /// A verified SIP or tel URI.
    User(&'a str),
}

/// What the caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A call without MCP.
    PlainCall,
    /// An MCP method.
    Method {
        /// The method.
        name: &'a str,
        /// The tool, prompt or URI: [`crate::jsonrpc::Envelope::subject`].
        subject: Option<&'a str>,
    },
}

/// One question to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Who.
    pub principal: Principal<'a>,
    /// What.
    pub target: Target<'a>,
    /// Shown or run.
    pub phase: Phase,
    /// What it is called with.
    pub arguments: Arguments<'a>,
}

impl<'a> Request<'a> {
    /// May this method be sent, with these arguments? The phase follows from the method.
    #[must_use]
    pub fn method(
        principal: Principal<'a>,
        name: &'a str,
        subject: Option<&'a str>,
        arguments: Arguments<'a>,
    ) -> Request<'a> {
        Request { principal, target: Target::Method { name, subject }, phase: Phase::of_method(name), arguments }
    }

    /// May this entry of a list be shown?
    #[must_use]
    pub fn show(principal: Principal<'a>, list: ListOf, entry: &'a str) -> Request<'a> {
        let target = Target::Method { name: list.entry_method(), subject: Some(entry) };
        Request { principal, target, phase: Phase::List, arguments: Arguments::Unknown }
    }

    /// May this tool run, with some arguments?
    #[must_use]
    pub fn call(principal: Principal<'a>, tool: &'a str) -> Request<'a> {
        Request::method(principal, "tools/call", Some(tool), Arguments::Unknown)
    }

    /// May this caller call without MCP?
    #[must_use]
    pub fn plain_call(principal: Principal<'a>) -> Request<'a> {
        Request { principal, target: Target::PlainCall, phase: Phase::Call, arguments: Arguments::Unknown }
    }
}

/// The answer, and what gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether the request may go on.
    pub allowed: bool,
    /// The policy that decided; `None` where there is none.
    pub policy: Option<&'a str>,
    /// The rule that decided; `None` where a default did.
    pub rule: Option<&'a str>,
}

impl<'a> Decision<'a> {
    fn by(allowed: bool, policy: &'a Policy, rule: Option<&'a Rule>) -> Decision<'a> {
        Decision { allowed, policy: Some(&policy.name), rule: rule.map(|rule| rule.name.as_str()) }
    }

    const NOBODY_ALLOWED: Decision<'static> = Decision { allowed: false, policy: None, rule: None };
}

/// The limits of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<'a> {
    /// namespace/name of the policy.
    pub policy: &'a str,
    /// The rule.
    pub rule: &'a str,
    /// What it allows one caller.
    pub limits: RuleLimits,
}

/// The policies that hold at one address.
#[derive(Clone, Copy, Debug)]
pub struct Policies<'a> {
    /// Those whose target is the agent.
    pub agent: &'a [Arc<Policy>],
    /// Those whose target is its domain.
    pub domain: &'a [Arc<Policy>],
}

impl<'a> Policies<'a> {
    /// Judges one request. A matching Deny of any policy wins; then every level that has policies must allow, by a
    /// rule or by the default of all its policies; with `inheritance: Override` the agent's level is enough.
    #[must_use]
    pub fn evaluate(&self, request: &Request<'_>) -> Decision<'a> {
        if let Some((policy, rule)) = self.find(Action::Deny, request) {
            return Decision::by(false, policy, Some(rule));
        }
        if let Target::Method { name, .. } = request.target
            && needs_no_rule(name)
        {
            return self.visibility(request.principal);
        }
        self.each_level(|level| allowed_by(level, request))
    }

    /// The arguments of a call, as far as a rule asks for them.
    #[must_use]
    pub fn arguments(&self, call: &Envelope) -> CallArguments {
        let method = call.method().unwrap_or_default();
        let is_asked = self.all().flat_map(|policy| &policy.rules).any(|rule| {
            let methods = rule.methods.iter().flatten();
            rule.when.is_some() && methods.into_iter().any(|known| known.name.matches(method))
        });
        if is_asked { CallArguments::of(call) } else { CallArguments::Unknown }
    }

    /// The limits that a call counts for, where it is let through: those of every Allow rule that is about it, on every level that must
    /// allow. All of them must have room. So the order of rules does not matter, and neither a wider rule nor a default of Allow takes
    /// anything of a limit. What needs no rule, and what is only shown, counts for none.
    #[must_use]
    pub fn limits(&self, request: &Request<'_>) -> Vec<Limit<'a>> {
        match request.target {
            Target::Method { name, .. } if request.phase == Phase::Call && !needs_no_rule(name) => {}
            Target::Method { .. } | Target::PlainCall => return Vec::new(),
        }
        let rules = self
            .levels()
            .into_iter()
            .flatten()
            .flat_map(|policy| policy.rules.iter().map(move |rule| (policy.name.as_str(), rule)));
        let mut limits = Vec::new();
        for (policy, rule) in rules.filter(|(_, rule)| rule.action == Action::Allow) {
            if let Some(own) = rule.limits.filter(|_| matches(rule, request)) {
                limits.push(Limit { policy, rule: &rule.name, limits: own });
            }
        }
        limits
    }

    /// Whether the address is visible to this caller: an Allow rule of any phase matches, on every level that must
    /// allow. A default of Allow shows it to every authenticated caller.
    #[must_use]
    pub fn visible(&self, principal: Principal<'_>) -> bool {
        self.visibility(principal).allowed
    }

    /// Whether a rule for `anonymous` names this address: without one, a caller without credentials gets 401.
    #[must_use]
    pub fn anonymous_allowed(&self) -> bool {
        self.visible(Principal::Anonymous)
    }

    /// The Deny rule that names nobody and nothing: no MCP at this address for anybody (420, or NEG-4).
    #[must_use]
    pub fn mcp_denied_for_all(&self) -> Option<Decision<'a>> {
        let found = self.all().find_map(|policy| {
            let rule = policy.rules.iter().find(|rule| is_no_mcp_for_anybody(rule))?;
            Some((policy, rule))
        });
        found.map(|(policy, rule)| Decision::by(false, policy, Some(rule)))
    }

    /// The Deny rule that leaves this caller nothing of what an Allow gives it (403). `None` where something is left,
    /// or where nothing was allowed in the first place: then the address is not visible (404).
    #[must_use]
    pub fn nothing_left(&self, principal: Principal<'_>) -> Option<Decision<'a>> {
        if !self.visible(principal) {
            return None;
        }
        let denies: Vec<(&'a Policy, &'a Rule)> = self
            .all()
            .flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)))
            // One with a condition leaves what does not meet it.
            .filter(|(_, rule)| rule.action == Action::Deny && rule.when.is_none() && from_matches(rule, principal))
            .collect();
        let emptied =
            self.levels().into_iter().find(|level| !level.is_empty() && is_emptied(level, &denies, principal));
        emptied?;
        denies.first().map(|(policy, rule)| Decision::by(false, policy, Some(rule)))
    }

    fn visibility(&self, principal: Principal<'_>) -> Decision<'a> {
        self.each_level(|level| {
            let rule = level.iter().find_map(|policy| {
                let allow = |rule: &&Rule| rule.action == Action::Allow && from_matches(rule, principal);
                policy.rules.iter().find(allow).map(|rule| Decision::by(true, policy, Some(rule)))
            });
            rule.or_else(|| default_of(level, principal))
        })
    }

    fn all(&self) -> impl Iterator<Item = &'a Policy> {
        self.agent.iter().chain(self.domain).map(Arc::as_ref)
    }

    /// The levels that must allow, the agent's first.
    fn levels(&self) -> [&'a [Arc<Policy>]; 2] {
        let overrides = self.agent.iter().any(|policy| policy.inheritance == Inheritance::Override);
        [self.agent, if overrides { &[] } else { self.domain }]
    }

    fn each_level(&self, allowed: impl Fn(&'a [Arc<Policy>]) -> Option<Decision<'a>>) -> Decision<'a> {
        let mut decided = None;
        for level in self.levels().into_iter().filter(|level| !level.is_empty()) {
            match allowed(level) {
                Some(decision) => decided = decided.or(Some(decision)),
                None => {
                    let policy = level.first().map(|policy| policy.name.as_str());
                    return Decision { allowed: false, policy, rule: None };
                }
            }
        }
        decided.unwrap_or(Decision::NOBODY_ALLOWED)
    }

    fn find(&self, action: Action, request: &Request<'_>) -> Option<(&'a Policy, &'a Rule)> {
        self.all().find_map(|policy| {
            let rule = policy.rules.iter().find(|rule| rule.action == action && matches(rule, request))?;
            Some((policy, rule))
        })
    }
}

/// What every caller that sees the address may send.
fn needs_no_rule(method: &str) -> bool {
    matches!(method, "initialize" | "server/discover" | "ping") || method.starts_with("notifications/")
}

fn is_no_mcp_for_anybody(rule: &Rule) -> bool {
    let for_all = matches!(rule.from, From::Unnamed) && rule.methods.is_none() && rule.when.is_none();
    rule.action == Action::Deny && for_all && rule.call
}

fn allowed_by<'a>(level: &'a [Arc<Policy>], request: &Request<'_>) -> Option<Decision<'a>> {
    let rule = level.iter().find_map(|policy| {
        let allow = |rule: &&Rule| rule.action == Action::Allow && matches(rule, request);
        policy.rules.iter().find(allow).map(|rule| Decision::by(true, policy, Some(rule)))
    });
    rule.or_else(|| default_of(level, request.principal))
}

/// The default of a level: Allow only if all its policies say so, and never for anonymous, whom a rule must name.
fn default_of<'a>(level: &'a [Arc<Policy>], principal: Principal<'_>) -> Option<Decision<'a>> {
    let all_allow = level.iter().all(|policy| policy.default_action == Action::Allow);
    match (all_allow, principal, level.first()) {
        (true, Principal::User(_), Some(policy)) => Some(Decision::by(true, policy, None)),
        _ => None,
    }
}

fn from_matches(rule: &Rule, principal: Principal<'_>) -> bool {
    match (&rule.from, principal) {
        (From::Unnamed, Principal::User(_)) => true,
        // A Deny for everybody holds for anonymous too; an Allow for everybody does not name it.
        (From::Unnamed, Principal::Anonymous) => rule.action == Action::Deny,
        (From::Named { anonymous, .. }, Principal::Anonymous) => *anonymous,
        (From::Named { identities, .. }, Principal::User(uri)) => identities.iter().any(|glob| glob.matches(uri)),
    }
}

fn matches(rule: &Rule, request: &Request<'_>) -> bool {
    from_matches(rule, request.principal) && is_about(rule, request) && condition_holds(rule, request.arguments)
}

/// A condition that fails lets nothing through: an Allow rule does not match then, a Deny rule does. Where the arguments are not known an
/// Allow rule may match, and a Deny rule takes nothing away.
fn condition_holds(rule: &Rule, arguments: Arguments<'_>) -> bool {
    let Some(when) = &rule.when else { return true };
    match arguments.hold(when) {
        None => rule.action == Action::Allow,
        Some(Ok(holds)) => holds,
        Some(Err(_)) => rule.action == Action::Deny,
    }
}

fn is_about(rule: &Rule, request: &Request<'_>) -> bool {
    let (name, subject) = match request.target {
        // "No MCP here for anybody" says nothing about calls without MCP.
        Target::PlainCall => {
            return rule.methods.is_none() && rule.has_phase(Phase::Call) && !is_no_mcp_for_anybody(rule);
        }
        Target::Method { name, subject } => (name, subject),
    };
    let Some(methods) = &rule.methods else { return rule.has_phase(request.phase) };
    let named = methods.iter().any(|method| method_matches(method, name, subject));
    match ListOf::of_method(name) {
        // A list is asked for in one phase only, so a rule that names it needs no phase. And who may be shown an
        // entry may ask for the list; who may not be shown one entry may still ask for the others.
        Some(list) => {
            let shows = |method: &Method| method.name.matches(list.entry_method());
            named || rule.action == Action::Allow && rule.has_phase(Phase::List) && methods.iter().any(shows)
        }
        None => named && rule.has_phase(request.phase),
    }
}

pub(super) fn method_matches(method: &Method, name: &str, subject: Option<&str>) -> bool {
    method.name.matches(name)
        && (method.params.is_empty()
            || subject.is_some_and(|subject| method.params.iter().any(|glob| glob.matches(subject))))
}

/// Whether the Deny rules take everything that this level allows the caller.
fn is_emptied(level: &[Arc<Policy>], denies: &[(&Policy, &Rule)], principal: Principal<'_>) -> bool {
    let covered = |phase: Phase, method: Option<&Method>| {
        denies.iter().any(|(_, deny)| {
            deny.has_phase(phase)
                && match (&deny.methods, method) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(denied), Some(method)) => method_is_covered(denied, method),
                }
        })
    };
    let rule_is_covered = |rule: &Rule| {
        [Phase::List, Phase::Call].into_iter().filter(|phase| rule.has_phase(*phase)).all(|phase| match &rule.methods {
            None => covered(phase, None),
            Some(methods) => methods.iter().all(|method| covered(phase, Some(method))),
        })
    };
    let by_default = default_of(level, principal).is_some() && !covered(Phase::Call, None);
    let allows = level.iter().flat_map(|policy| &policy.rules);
    let mut allows = allows.filter(|rule| rule.action == Action::Allow && from_matches(rule, principal));
    !by_default && allows.all(rule_is_covered)
}

/// Whether the denied methods together take everything that `method` allows.
fn method_is_covered(denied: &[Method], method: &Method) -> bool {
    let mut whole = denied.iter().filter(|deny| deny.params.is_empty());
    if whole.any(|deny| deny.name.covers(&method.name)) {
        return true;
    }
    let covered = |param: &super::Glob| {
        denied
            .iter()
            .filter(|deny| deny.name.covers(&method.name))
            .any(|deny| deny.params.iter().any(|glob| glob.covers(param)))
    };
    !method.params.is_empty() && method.params.iter().all(covered)
}
