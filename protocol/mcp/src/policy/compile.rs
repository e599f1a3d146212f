//! From the written policy to the compiled one. Everything wrong is reported together, each with its field.

use super::glob::{Glob, GlobError};
use super::identity::{IdentityError, IdentityGlob};
use super::when::{When, WhenError};
use super::{Action, MethodSpec, Peer, Phase, Policy, PolicySpec, RuleLimits, RuleSpec};

/// Rules of one policy, entries of one list.
const MAX_ITEMS: usize = 256;

/// Methods whose `params` a rule may name.
const METHODS_WITH_PARAMS: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// Methods whose calls have `arguments`.
const METHODS_WITH_ARGUMENTS: [&str; 2] = ["tools/call", "prompts/get"];

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    /// Path below `spec`, such as `rules[2].from[0].sipIdentity`.
    pub field: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A glob that does not parse.
    #[error("{0}")]
    Glob(GlobError),
    /// An identity pattern that does not parse.
    #[error("{0}")]
    Identity(IdentityError),
    /// A list that is there and empty: it would match nobody or nothing.
    #[error("the list is empty; leave it out to match everything")]
    EmptyList,
    /// `params` for a method whose parameters no rule can judge.
    #[error("params are for tools/call, prompts/get and resources/read only")]
    ParamsNotAllowed,
    /// A method name with a star, and params.
    #[error("params need a method without *")]
    ParamsWithStar,
    /// A rule without a name.
    #[error("the rule has no name")]
    NoName,
    /// Two rules of one name.
    #[error("a rule of this name is there already")]
    DuplicateRule,
    /// A phase twice.
    #[error("the phase is there twice")]
    DuplicatePhase,
    /// Every rule denies, though the default is Deny already.
    #[error("the policy can only deny, though its default is Deny already")]
    DenyOnly,
    /// A condition that does not compile.
    #[error("{0}")]
    When(WhenError),
    /// A condition where nothing is called: the arguments are not known, so the rule would show everything or nothing.
    #[error("conditions are for phase Call only; write phases: [Call], and a rule of its own for List")]
    WhenInList,
    /// A condition of a rule that is not about calls with arguments alone.
    #[error("conditions need methods, and of those only tools/call and prompts/get have arguments")]
    WhenWithoutArguments,
    /// Limits of a rule that lets no call through.
    #[error("limits are for Allow rules of phase Call only")]
    LimitsNotAllowed,
    /// Limits that limit nothing.
    #[error("the limits are empty; give callsPerMinute or concurrent")]
    EmptyLimits,
    /// Too long a list.
    #[error("more than {MAX_ITEMS} entries")]
    TooMany,
}

/// A compiled rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub name: String,
    pub from: From,
    pub methods: Option<Vec<Method>>,
    pub list: bool,
    pub call: bool,
    pub action: Action,
    pub when: Option<When>,
    pub limits: Option<RuleLimits>,
}

#[derive(Clone, Debug)]
pub(super) enum From {
    /// No `from`.
    Unnamed,
    Named {
        identities: Vec<IdentityGlob>,
        anonymous: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Method {
    pub name: Glob,
    /// Empty: all.
    pub params: Vec<Glob>,
}

impl Rule {
    pub(super) fn has_phase(&self, phase: Phase) -> bool {
        match phase {
            Phase::List => self.list,
            Phase::Call => self.call,
        }
    }
}

#[derive(Default)]
struct Errors(Vec<PolicyError>);

impl Errors {
    fn add(&mut self, field: String, problem: Problem) {
        self.0.push(PolicyError { field, problem });
    }

    fn list(&mut self, field: &str, len: usize) {
        if len == 0 {
            self.add(field.to_owned(), Problem::EmptyList);
        } else if len > MAX_ITEMS {
            self.add(field.to_owned(), Problem::TooMany);
        }
    }
}

pub(super) fn policy(spec: &PolicySpec) -> Result<Policy, Vec<PolicyError>> {
    let mut errors = Errors::default();
    if spec.rules.len() > MAX_ITEMS {
        errors.add("rules".to_owned(), Problem::TooMany);
    }
    let allows = spec.rules.iter().any(|rule| rule.action == Action::Allow);
    if spec.default_action == Action::Deny && !spec.rules.is_empty() && !allows {
        errors.add("rules".to_owned(), Problem::DenyOnly);
    }
    let mut rules = Vec::with_capacity(spec.rules.len());
    for (index, rule_spec) in spec.rules.iter().enumerate() {
        if spec.rules.iter().take(index).any(|earlier| earlier.name == rule_spec.name) {
            errors.add(format!("rules[{index}].name"), Problem::DuplicateRule);
        }
        rules.push(rule(rule_spec, &format!("rules[{index}]"), &mut errors));
    }
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    Ok(Policy { name: spec.name.clone(), inheritance: spec.inheritance, default_action: spec.default_action, rules })
}

fn rule(spec: &RuleSpec, at: &str, errors: &mut Errors) -> Rule {
    if spec.name.is_empty() {
        errors.add(format!("{at}.name"), Problem::NoName);
    }
    let from = match &spec.from {
        None => From::Unnamed,
        Some(peers) => named(peers, &format!("{at}.from"), errors),
    };
    let methods = spec.methods.as_ref().map(|methods| {
        let field = format!("{at}.methods");
        errors.list(&field, methods.len());
        methods
            .iter()
            .enumerate()
            .filter_map(|(index, spec)| method(spec, &format!("{field}[{index}]"), errors))
            .collect()
    });
    for (index, phase) in spec.phases.iter().enumerate() {
        if spec.phases.iter().take(index).any(|earlier| earlier == phase) {
            errors.add(format!("{at}.phases[{index}]"), Problem::DuplicatePhase);
        }
    }
    let has = |phase| spec.phases.is_empty() || spec.phases.contains(&phase);
    let when = spec.when.as_ref().and_then(|source| condition(source, spec, at, errors));
    if let Some(limits) = &spec.limits {
        if spec.action != Action::Allow || !has(Phase::Call) {
            errors.add(format!("{at}.limits"), Problem::LimitsNotAllowed);
        }
        if limits.calls_per_minute.is_none() && limits.concurrent.is_none() {
            errors.add(format!("{at}.limits"), Problem::EmptyLimits);
        }
    }
    Rule {
        name: spec.name.clone(),
        from,
        methods,
        list: has(Phase::List),
        call: has(Phase::Call),
        action: spec.action,
        when,
        limits: spec.limits,
    }
}

fn condition(source: &str, spec: &RuleSpec, at: &str, errors: &mut Errors) -> Option<When> {
    let field = format!("{at}.when");
    if spec.phases != [Phase::Call] {
        errors.add(field.clone(), Problem::WhenInList);
    }
    let have_arguments = |methods: &Vec<MethodSpec>| methods.iter().all(|m| METHODS_WITH_ARGUMENTS.contains(&&*m.name));
    if !spec.methods.as_ref().is_some_and(have_arguments) {
        errors.add(field.clone(), Problem::WhenWithoutArguments);
    }
    When::new(source).map_err(|error| errors.add(field, Problem::When(error))).ok()
}

fn named(peers: &[Peer], at: &str, errors: &mut Errors) -> From {
    errors.list(at, peers.len());
    let (mut identities, mut anonymous) = (Vec::new(), false);
    for (index, peer) in peers.iter().enumerate() {
        match peer {
            Peer::Anonymous => anonymous = true,
            Peer::SipIdentity(pattern) => match IdentityGlob::new(pattern) {
                Ok(glob) => identities.push(glob),
                Err(error) => errors.add(format!("{at}[{index}].sipIdentity"), Problem::Identity(error)),
            },
        }
    }
    From::Named { identities, anonymous }
}

fn method(spec: &MethodSpec, at: &str, errors: &mut Errors) -> Option<Method> {
    let name = Glob::name(&spec.name).map_err(|error| errors.add(format!("{at}.name"), Problem::Glob(error))).ok();
    if !spec.params.is_empty() {
        if spec.name.contains('*') {
            errors.add(format!("{at}.params"), Problem::ParamsWithStar);
        } else if !METHODS_WITH_PARAMS.contains(&spec.name.as_str()) {
            errors.add(format!("{at}.params"), Problem::ParamsNotAllowed);
        }
        if spec.params.len() > MAX_ITEMS {
            errors.add(format!("{at}.params"), Problem::TooMany);
        }
    }
    let mut params = Vec::with_capacity(spec.params.len());
    for (index, pattern) in spec.params.iter().enumerate() {
        let glob = if spec.name == "resources/read" { Glob::uri(pattern) } else { Glob::name(pattern) };
        match glob {
            Ok(glob) => params.push(glob),
            Err(error) => errors.add(format!("{at}.params[{index}]"), Problem::Glob(error)),
        }
    }
    Some(Method { name: name?, params })
}
