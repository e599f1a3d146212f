use std::sync::Arc;

use mcp_sip::jsonrpc::{Bounds, Envelope, ListOf};
use mcp_sip::policy::{
    Action, Arguments, CallArguments, Glob, GlobError, IdentityError, IdentityGlob, Inheritance, MethodSpec, Peer,
    Phase, Policies, Policy, PolicySpec, Principal, Problem, Request, RuleLimits, RuleSpec,
};
use serde_json::json;

const ALICE: Principal<'static> = Principal::User("sip:alice@acme.example");
const MALLORY: Principal<'static> = Principal::User("sip:mallory@evil.example");
const ANON: Principal<'static> = Principal::Anonymous;

fn acme() -> Option<Vec<Peer>> {
    Some(vec![Peer::SipIdentity("sip:*@acme.example".into())])
}

fn method(name: &str, params: &[&str]) -> MethodSpec {
    MethodSpec { name: name.into(), params: params.iter().map(|p| (*p).to_owned()).collect() }
}

fn rule(name: &str, action: Action) -> RuleSpec {
    RuleSpec { name: name.into(), action, ..RuleSpec::default() }
}

fn allow(name: &str) -> RuleSpec {
    RuleSpec { from: acme(), ..rule(name, Action::Allow) }
}

fn deny(name: &str) -> RuleSpec {
    RuleSpec { from: acme(), ..rule(name, Action::Deny) }
}

fn on(mut rule: RuleSpec, methods: &[MethodSpec], phases: &[Phase]) -> RuleSpec {
    rule.methods = Some(methods.to_vec());
    rule.phases = phases.to_vec();
    rule
}

fn spec(rules: Vec<RuleSpec>) -> PolicySpec {
    PolicySpec { name: "acme/p".into(), rules, ..PolicySpec::default() }
}

fn compiled(spec: &PolicySpec) -> Vec<Arc<Policy>> {
    vec![Arc::new(Policy::compile(spec).unwrap_or_else(|e| panic!("{e:?}")))]
}

struct Set {
    agent: Vec<Arc<Policy>>,
    domain: Vec<Arc<Policy>>,
}

impl Set {
    fn agent(rules: Vec<RuleSpec>) -> Set {
        Set { agent: compiled(&spec(rules)), domain: Vec::new() }
    }

    fn both(agent: &PolicySpec, domain: &PolicySpec) -> Set {
        Set { agent: compiled(agent), domain: compiled(domain) }
    }

    fn get(&self) -> Policies<'_> {
        Policies { agent: &self.agent, domain: &self.domain }
    }

    fn calls(&self, who: Principal<'_>, tool: &str) -> bool {
        self.get().evaluate(&Request::call(who, tool)).allowed
    }

    fn shows(&self, who: Principal<'_>, tool: &str) -> bool {
        self.get().evaluate(&Request::show(who, ListOf::Tools, tool)).allowed
    }

    fn sends(&self, who: Principal<'_>, method: &str) -> bool {
        self.get().evaluate(&Request::method(who, method, None, Arguments::Unknown)).allowed
    }
}

/// The policy of kubernetes.md 3.4.
fn partner_read() -> Set {
    let lookup = [method("tools/call", &["crm.lookup"])];
    Set::agent(vec![
        on(allow("see-lookup"), &lookup, &[Phase::List]),
        on(allow("call-lookup"), &lookup, &[Phase::Call]),
    ])
}

#[test]
fn sec_6_default_deny() {
    let nothing = Set { agent: vec![], domain: vec![] };
    let empty = Set::agent(vec![]);
    for set in [&nothing, &empty] {
        for who in [ALICE, ANON] {
            assert!(!set.calls(who, "a") && !set.shows(who, "a") && !set.sends(who, "ping") && !set.get().visible(who));
            assert!(!set.get().evaluate(&Request::plain_call(who)).allowed);
        }
    }
    let decision = nothing.get().evaluate(&Request::call(ALICE, "a"));
    assert_eq!((decision.policy, decision.rule), (None, None));
    assert_eq!(empty.get().evaluate(&Request::call(ALICE, "a")).policy, Some("acme/p"));
}

#[test]
fn sec_6_every_tool_call_is_authorised_by_a_rule() {
    let set = partner_read();
    let decision = set.get().evaluate(&Request::call(ALICE, "crm.lookup"));
    assert_eq!((decision.allowed, decision.policy, decision.rule), (true, Some("acme/p"), Some("call-lookup")));
    let decision = set.get().evaluate(&Request::show(ALICE, ListOf::Tools, "crm.lookup"));
    assert_eq!(decision.rule, Some("see-lookup"));
    assert!(!set.calls(ALICE, "refund.create") && !set.shows(ALICE, "refund.create"));
    assert!(!set.calls(MALLORY, "crm.lookup") && !set.calls(ANON, "crm.lookup"));
    assert!(
        !set.get().evaluate(&Request::method(ALICE, "tools/call", None, Arguments::Unknown)).allowed,
        "a call without a name"
    );
    assert!(!set.sends(ALICE, "resources/read") && !set.sends(ALICE, "acme/anything"));
}

#[test]
fn sec_6_phases_are_apart() {
    let lookup = [method("tools/call", &["crm.*"])];
    let seen = Set::agent(vec![on(allow("see"), &lookup, &[Phase::List])]);
    assert!(seen.shows(ALICE, "crm.a") && !seen.calls(ALICE, "crm.a"), "visible, this call denied");
    let callable = Set::agent(vec![on(allow("call"), &lookup, &[Phase::Call])]);
    assert!(!callable.shows(ALICE, "crm.a") && callable.calls(ALICE, "crm.a"));
    let both = Set::agent(vec![on(allow("both"), &lookup, &[])]);
    assert!(both.shows(ALICE, "crm.a") && both.calls(ALICE, "crm.a"), "no phases: both");
}

#[test]
fn sec_6_who_may_see_an_entry_may_ask_for_the_list() {
    let set = partner_read();
    assert!(set.sends(ALICE, "tools/list") && !set.sends(ALICE, "prompts/list") && !set.sends(MALLORY, "tools/list"));
    let call_only = Set::agent(vec![on(allow("call"), &[method("tools/call", &[])], &[Phase::Call])]);
    assert!(!call_only.sends(ALICE, "tools/list"));
    let named = Set::agent(vec![on(allow("list"), &[method("tools/list", &[])], &[Phase::Call])]);
    assert!(named.sends(ALICE, "tools/list"), "a rule that names the list needs no phase");
    let one_hidden =
        Set::agent(vec![allow("all"), on(deny("hide"), &[method("tools/call", &["secret"])], &[Phase::List])]);
    assert!(
        one_hidden.sends(ALICE, "tools/list") && one_hidden.shows(ALICE, "a") && !one_hidden.shows(ALICE, "secret")
    );
}

#[test]
fn sec_6_a_matching_deny_wins() {
    let set = Set::agent(vec![allow("all"), on(deny("no-refund"), &[method("tools/call", &["refund.*"])], &[])]);
    let decision = set.get().evaluate(&Request::call(ALICE, "refund.create"));
    assert_eq!((decision.allowed, decision.rule), (false, Some("no-refund")));
    assert!(set.calls(ALICE, "crm.lookup") && set.sends(ALICE, "acme/anything"));
    assert!(set.get().evaluate(&Request::plain_call(ALICE)).allowed, "a rule without methods matches plain calls too");
}

#[test]
fn sec_6_what_needs_no_rule_of_its_own() {
    let set = partner_read();
    for method in ["initialize", "server/discover", "ping", "notifications/initialized", "notifications/cancelled"] {
        assert!(set.sends(ALICE, method), "{method}");
        assert!(!set.sends(MALLORY, method) && !set.sends(ANON, method), "only who sees the address: {method}");
    }
    assert!(!set.sends(ALICE, "logging/setLevel"));
    assert!(!set.get().evaluate(&Request::plain_call(ALICE)).allowed, "methods are named: no plain calls");
}

#[test]
fn sec_6_a_rule_without_from() {
    let set = Set::agent(vec![rule("everybody", Action::Allow)]);
    assert!(set.calls(ALICE, "a") && set.calls(MALLORY, "a"));
    assert!(!set.calls(ANON, "a") && !set.get().anonymous_allowed(), "anonymous must be named");
}

#[test]
fn sec_6_anonymous_must_be_named() {
    let mut open = on(rule("echo", Action::Allow), &[method("tools/call", &["echo"])], &[]);
    open.from = Some(vec![Peer::Anonymous]);
    let set = Set::agent(vec![open]);
    assert!(set.get().anonymous_allowed() && set.calls(ANON, "echo") && set.sends(ANON, "initialize"));
    assert!(!set.calls(ANON, "other") && !set.calls(ALICE, "echo"), "a rule for anonymous is for nobody else");
    let default_allow = PolicySpec { default_action: Action::Allow, ..spec(vec![]) };
    let set = Set { agent: compiled(&default_allow), domain: vec![] };
    assert!(set.calls(ALICE, "a") && set.get().visible(ALICE));
    assert!(!set.calls(ANON, "a") && !set.get().visible(ANON));
}

#[test]
fn sec_6_visibility_is_any_allow_of_any_phase() {
    let set = Set::agent(vec![on(allow("see"), &[method("tools/call", &["x"])], &[Phase::List])]);
    assert!(set.get().visible(ALICE) && !set.get().visible(MALLORY) && !set.get().visible(ANON));
    let denied = Set::agent(vec![allow("a"), deny("d")]);
    assert!(denied.get().visible(ALICE), "a Deny is 403, not 404");
}

#[test]
fn neg_2_a_deny_without_from_is_no_mcp_for_anybody() {
    let set = Set::agent(vec![allow("a"), rule("no-mcp", Action::Deny)]);
    let decision = set.get().mcp_denied_for_all().unwrap();
    assert_eq!((decision.allowed, decision.rule), (false, Some("no-mcp")));
    assert!(!set.calls(ALICE, "a") && !set.sends(ALICE, "initialize"));
    assert!(set.get().evaluate(&Request::plain_call(ALICE)).allowed, "the call may go on without MCP (NEG-4)");
    let named = Set::agent(vec![allow("a"), deny("d")]);
    assert_eq!(named.get().mcp_denied_for_all(), None);
    let one_method = Set::agent(vec![allow("a"), on(rule("d", Action::Deny), &[method("tools/call", &[])], &[])]);
    assert_eq!(one_method.get().mcp_denied_for_all(), None);
    let listed = RuleSpec { phases: vec![Phase::List], ..rule("d", Action::Deny) };
    assert_eq!(Set::agent(vec![allow("a"), listed]).get().mcp_denied_for_all(), None);
}

#[test]
fn neg_12_a_deny_that_leaves_this_caller_nothing() {
    let nothing_left = |rules: Vec<RuleSpec>| {
        let set = Set::agent(rules);
        set.get().nothing_left(ALICE).map(|d| d.rule.unwrap().to_owned())
    };
    let lookup = || method("tools/call", &["crm.lookup"]);
    let crm = || method("tools/call", &["crm.*"]);
    let may = |what| on(allow("a"), &[what], &[]);
    let may_not = |what| on(deny("d"), &[what], &[]);
    let only_shown = || on(deny("d"), &[crm()], &[Phase::Call]);
    assert_eq!(nothing_left(vec![allow("a"), deny("d")]).as_deref(), Some("d"));
    assert_eq!(nothing_left(vec![may(lookup()), may_not(crm())]).as_deref(), Some("d"));
    assert_eq!(nothing_left(vec![may(crm()), may_not(lookup())]), None);
    assert_eq!(nothing_left(vec![may(lookup()), only_shown()]), None, "still shown");
    assert_eq!(nothing_left(vec![allow("a"), may_not(method("tools/*", &[]))]), None);
    let two = || on(allow("a"), &[lookup(), method("tools/call", &["b"])], &[]);
    assert_eq!(nothing_left(vec![two(), may_not(crm())]), None);
    let other = on(deny("e"), &[method("tools/call", &["b*"])], &[]);
    assert_eq!(nothing_left(vec![two(), may_not(crm()), other]).as_deref(), Some("d"));
    assert_eq!(nothing_left(vec![allow("a")]), None);
    let set = Set::agent(vec![allow("a"), deny("d")]);
    assert_eq!(set.get().nothing_left(MALLORY), None, "not visible in the first place");
}

#[test]
fn sec_13_agent_and_domain_must_both_allow() {
    let agent = spec(vec![allow("agent")]);
    let narrow = spec(vec![on(allow("domain"), &[method("tools/call", &["crm.*"])], &[])]);
    let set = Set::both(&agent, &narrow);
    assert!(set.calls(ALICE, "crm.a") && !set.calls(ALICE, "refund"));
    assert_eq!(set.get().evaluate(&Request::call(ALICE, "crm.a")).rule, Some("agent"));
    let domain_only = Set { agent: vec![], domain: compiled(&narrow) };
    assert!(domain_only.calls(ALICE, "crm.a"), "without a policy of its own, the domain's decides");
    let closed = Set::both(&agent, &spec(vec![]));
    assert!(!closed.calls(ALICE, "crm.a") && !closed.get().visible(ALICE));
}

#[test]
fn sec_13_a_deny_of_the_domain_wins_over_everything() {
    let agent = PolicySpec { inheritance: Inheritance::Override, ..spec(vec![allow("agent")]) };
    let domain = spec(vec![
        on(allow("some"), &[method("tools/call", &["x"])], &[]),
        on(deny("never"), &[method("tools/call", &["refund"])], &[]),
    ]);
    let set = Set::both(&agent, &domain);
    assert!(set.calls(ALICE, "crm.a"), "Override: the agent's policy allows by itself");
    assert_eq!(set.get().evaluate(&Request::call(ALICE, "refund")).rule, Some("never"));
    let inherits = Set::both(&spec(vec![allow("agent")]), &domain);
    assert!(!inherits.calls(ALICE, "crm.a"));
}

#[test]
fn sec_6_several_policies_of_one_level_add_up() {
    let mut set = Set::agent(vec![on(allow("a"), &[method("tools/call", &["a"])], &[])]);
    set.agent.extend(compiled(&spec(vec![on(allow("b"), &[method("tools/call", &["b"])], &[])])));
    assert!(set.calls(ALICE, "a") && set.calls(ALICE, "b") && !set.calls(ALICE, "c"));
    set.agent.extend(compiled(&PolicySpec { default_action: Action::Allow, ..spec(vec![]) }));
    assert!(!set.calls(ALICE, "c"), "one default of Deny closes the level");
}

#[test]
fn resources_and_prompts_have_params_too() {
    let set = Set::agent(vec![on(
        allow("read"),
        &[method("resources/read", &["file:///pub/*?v=[1]"]), method("prompts/get", &["greet"])],
        &[],
    )]);
    let ask =
        |name, subject| set.get().evaluate(&Request::method(ALICE, name, Some(subject), Arguments::Unknown)).allowed;
    assert!(ask("resources/read", "file:///pub/a?v=[1]") && !ask("resources/read", "file:///etc/passwd"));
    assert!(ask("prompts/get", "greet") && !ask("prompts/get", "other"));
    assert!(set.sends(ALICE, "resources/list") && set.sends(ALICE, "prompts/list") && !set.sends(ALICE, "tools/list"));
}

fn problems(spec: &PolicySpec) -> Vec<(String, Problem)> {
    Policy::compile(spec).unwrap_err().into_iter().map(|error| (error.field, error.problem)).collect()
}

#[test]
fn obs_6_every_mistake_is_reported_with_its_field() {
    let mut bad = on(
        rule("r", Action::Allow),
        &[method("tools/call", &["a?"]), method("tools/list", &["x"]), method("tools/*", &["x"]), method("", &[])],
        &[Phase::List, Phase::List],
    );
    bad.from = Some(vec![Peer::SipIdentity("acme.example".into()), Peer::SipIdentity("sip:*".into())]);
    let empty = RuleSpec { from: Some(vec![]), methods: Some(vec![]), ..rule("r", Action::Allow) };
    assert_eq!(
        problems(&spec(vec![bad, empty, rule("", Action::Allow)])),
        [
            ("rules[0].from[0].sipIdentity".into(), Problem::Identity(IdentityError::Scheme)),
            ("rules[0].from[1].sipIdentity".into(), Problem::Identity(IdentityError::NoUser)),
            ("rules[0].methods[0].params[0]".into(), Problem::Glob(GlobError::Character('?'))),
            ("rules[0].methods[1].params".into(), Problem::ParamsNotAllowed),
            ("rules[0].methods[2].params".into(), Problem::ParamsWithStar),
            ("rules[0].methods[3].name".into(), Problem::Glob(GlobError::Empty)),
            ("rules[0].phases[1]".into(), Problem::DuplicatePhase),
            ("rules[1].name".into(), Problem::DuplicateRule),
            ("rules[1].from".into(), Problem::EmptyList),
            ("rules[1].methods".into(), Problem::EmptyList),
            ("rules[2].name".into(), Problem::NoName),
        ]
    );
}

#[test]
fn obs_6_a_policy_that_can_only_deny_is_refused_under_default_deny() {
    assert_eq!(problems(&spec(vec![deny("d")])), [("rules".into(), Problem::DenyOnly)]);
    let default_allow = PolicySpec { default_action: Action::Allow, ..spec(vec![deny("d")]) };
    assert!(Policy::compile(&default_allow).is_ok());
}

#[test]
fn globs() {
    let glob = |pattern: &str| Glob::name(pattern).unwrap();
    for (pattern, yes, no) in [
        ("a", &["a"][..], &["", "aa", "A"][..]),
        ("*", &["", "a", "a/b"], &[]),
        ("a*", &["a", "ab", "a*"], &["b", "ba"]),
        ("*a", &["a", "ba", "aba"], &["ab"]),
        ("a*b*c", &["abc", "axxbyyc", "abcbc"], &["ab", "acb", "abcx"]),
    ] {
        assert!(yes.iter().all(|text| glob(pattern).matches(text)), "{pattern}");
        assert!(!no.iter().any(|text| glob(pattern).matches(text)), "{pattern}");
    }
    assert_eq!(Glob::name(""), Err(GlobError::Empty));
    assert_eq!(Glob::name("a**"), Err(GlobError::DoubleStar));
    assert_eq!(Glob::name("[ab]"), Err(GlobError::Character('[')));
    assert_eq!(Glob::name(&"a".repeat(257)), Err(GlobError::TooLong));
    assert_eq!(Glob::name(&"a*".repeat(9)), Err(GlobError::TooManyStars));
    let worst = glob(&"*a".repeat(8));
    assert!(!worst.matches(&("a".repeat(100_000) + "b")), "ends soon");
}

#[test]
fn globs_cover() {
    let covers = |a: &str, b: &str| Glob::name(a).unwrap().covers(&Glob::name(b).unwrap());
    assert!(covers("*", "a*") && covers("a*", "ab*") && covers("a*", "a") && covers("a*b", "a*b") && covers("*", "*"));
    assert!(!covers("a", "a*") && !covers("a*b", "a*") && !covers("ab*", "a*"));
}

#[test]
fn identities_compare_as_sip_uris() {
    let glob = |pattern: &str| IdentityGlob::new(pattern).unwrap();
    let acme = glob("sip:*@acme.example");
    for yes in [
        "sip:alice@acme.example",
        "SIP:alice@ACME.Example",
        "sips:bob@acme.example",
        "sip:a@acme.example;transport=tls",
    ] {
        assert!(acme.matches(yes), "{yes}");
    }
    for no in [
        "sip:alice@acme.example.evil",
        "sip:alice@evil.example",
        "sip:acme.example",
        "tel:+1",
        "alice@acme.example",
        "sip:x@acme.example@evil.example",
        "sip:alice@evil.example;x=@acme.example".split_once(";x=").unwrap().0,
        "",
    ] {
        assert!(!acme.matches(no), "{no}");
    }
    assert!(glob("sip:Alice@a.example").matches("sip:Alice@A.EXAMPLE"));
    assert!(!glob("sip:Alice@a.example").matches("sip:alice@a.example"), "the user part has its case");
    assert!(glob("sip:alice@a.example").matches("sip:%61lice@a.example"));
    assert!(!glob("sip:a*@a.example").matches("sip:%2a@a.example"), "an escaped star is no star");
    assert!(!glob("sip:*@a.example").matches("sip:x@b.example%40a.example"));
    assert!(glob("sip:*@[2001:DB8::1]").matches("sip:a@[2001:db8::1]"));
    assert!(glob("tel:+4930*").matches("tel:+49301234;phone-context=x") && !glob("tel:+4930*").matches("tel:+4940"));
    assert!(
        glob("sip:peer.example").matches("sip:peer.example") && !glob("sip:peer.example").matches("sip:a@peer.example")
    );
    for bad in [
        "",
        "alice",
        "http://a",
        "sip:",
        "sip:@",
        "sip:a@",
        "sip:a@b;x",
        "sip:a@b?x",
        "<sip:a@b>",
        "tel:1;x=1",
        "sip:**@a",
    ] {
        assert!(IdentityGlob::new(bad).is_err(), "{bad}");
    }
}

fn limited(mut rule: RuleSpec, calls_per_minute: u32) -> RuleSpec {
    rule.limits = Some(RuleLimits { calls_per_minute: Some(calls_per_minute), concurrent: None });
    rule
}

/// Rules whose limits a call of this tool counts for.
fn counted(set: &Set, who: Principal<'_>, method: &str, subject: Option<&str>) -> Vec<String> {
    let limits = set.get().limits(&Request::method(who, method, subject, Arguments::Unknown));
    limits.into_iter().map(|limit| limit.rule.to_owned()).collect()
}

#[test]
fn a_call_counts_for_every_allow_rule_that_is_about_it_in_whatever_order() {
    let lookup = [method("tools/call", &["crm.lookup"])];
    let rules = || vec![allow("wide"), limited(on(allow("narrow"), &lookup, &[]), 3), limited(allow("all"), 9)];
    let mut turned = rules();
    turned.reverse();
    for (rules, expected) in [(rules(), ["narrow", "all"]), (turned, ["all", "narrow"])] {
        let set = Set::agent(rules);
        assert_eq!(counted(&set, ALICE, "tools/call", Some("crm.lookup")), expected);
        assert_eq!(counted(&set, ALICE, "tools/call", Some("other")), ["all"]);
        assert!(counted(&set, MALLORY, "tools/call", Some("crm.lookup")).is_empty());
        // What is only shown, and what needs no rule, is no call.
        for method in ["tools/list", "initialize", "ping", "notifications/initialized"] {
            assert!(counted(&set, ALICE, method, None).is_empty(), "{method}");
        }
        assert!(set.get().limits(&Request::plain_call(ALICE)).is_empty());
        assert!(set.get().limits(&Request::show(ALICE, ListOf::Tools, "crm.lookup")).is_empty());
    }
}

#[test]
fn a_default_of_allow_takes_nothing_of_a_limit_and_both_levels_count() {
    let agent = PolicySpec { default_action: Action::Allow, ..spec(vec![limited(allow("own"), 3)]) };
    let domain = spec(vec![limited(allow("tenant"), 9)]);
    let set = Set::both(&agent, &domain);
    assert_eq!(counted(&set, ALICE, "tools/call", Some("a")), ["own", "tenant"]);
    let alone = PolicySpec { inheritance: Inheritance::Override, ..agent };
    assert_eq!(counted(&Set::both(&alone, &domain), ALICE, "tools/call", Some("a")), ["own"]);
}

#[test]
fn limits_are_for_rules_that_let_calls_through_and_limit_something() {
    let list = on(allow("list"), &[method("tools/call", &[])], &[Phase::List]);
    let empty = RuleSpec { limits: Some(RuleLimits::default()), ..allow("empty") };
    let rules = vec![limited(deny("deny"), 1), limited(list, 1), empty, limited(allow("good"), 1)];
    let errors = Policy::compile(&spec(rules)).unwrap_err();
    let found: Vec<(&str, &Problem)> = errors.iter().map(|error| (&*error.field, &error.problem)).collect();
    let not_allowed = &Problem::LimitsNotAllowed;
    let expected = [
        ("rules[0].limits", not_allowed),
        ("rules[1].limits", not_allowed),
        ("rules[2].limits", &Problem::EmptyLimits),
    ];
    assert_eq!(found, expected);
}

fn when(mut rule: RuleSpec, condition: &str) -> RuleSpec {
    rule.methods = Some(vec![method("tools/call", &[])]);
    rule.phases = vec![Phase::Call];
    rule.when = Some(condition.to_owned());
    rule
}

/// Whether a call of alice with this body may run.
fn runs(set: &Set, params: &str) -> bool {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
    // Some of it is refused before anybody asks a policy.
    let Ok(envelope) = Envelope::parse(&body.into(), &Bounds::default()) else { return false };
    let arguments = set.get().arguments(&envelope);
    let subject = envelope.subject();
    set.get().evaluate(&Request::method(ALICE, "tools/call", subject.as_deref(), arguments.known())).allowed
}

#[test]
fn sec_6_a_condition_that_fails_never_lets_a_call_through() {
    let allowed = Set::agent(vec![when(allow("small"), "args.amount <= 100")]);
    let denied = Set::agent(vec![allow("all"), when(deny("large"), "args.amount > 100")]);
    for (arguments, expected) in [
        (r#"{"amount":100}"#, true),
        (r#"{"amount":101}"#, false),
        // It fails.
        (r#"{"amount":"100"}"#, false),
        (r#"{"total":1}"#, false),
        ("{}", false),
        ("[]", false),
        ("null", false),
        // There is more than one reading of it.
        (r#"{"amount":1,"amount":1000}"#, false),
        (r#"{"amount":1,"Amount":1000}"#, false),
        (r#"{"Amount":1}"#, false),
        (r#"{"amount":1,"of":{"x":1,"x":2}}"#, false),
        (r#"{"amount":1e999}"#, false),
    ] {
        let params = format!(r#"{{"name":"pay","arguments":{arguments}}}"#);
        assert_eq!(runs(&allowed, &params), expected, "{arguments}");
        assert_eq!(runs(&denied, &params), expected, "{arguments}");
    }
    for params in [
        r#"{"name":"pay"}"#,
        r#"{"name":"pay","Arguments":{"amount":1}}"#,
        r#"{"name":"pay","arguments":{"amount":1},"Arguments":{"amount":9}}"#,
        r#"{"name":"pay","Name":"other","arguments":{"amount":1}}"#,
        r#"{"name":"pay","arguments":{"amount":1},"argument\u017f":{"amount":9}}"#,
        r#"{"name":"pay","arguments":{"amount":1}},"Params":{"name":"pay","arguments":{"amount":1000}}"#,
    ] {
        assert!(!runs(&allowed, params) && !runs(&denied, params), "{params}");
    }
    let tasks = Set::agent(vec![allow("all"), when(deny("many"), "args.tasks > 1")]);
    for (arguments, expected) in
        [(r#"{"tasks":1}"#, true), (r#"{"tasks":1,"ta\u017fKs":9}"#, false), (r#"{"tasks":1,"tasK":2}"#, true)]
    {
        assert_eq!(runs(&tasks, &format!(r#"{{"name":"pay","arguments":{arguments}}}"#)), expected, "{arguments}");
    }
    // A call without arguments has none, and that can be asked.
    let without = Set::agent(vec![when(allow("without"), "!has(args.amount)")]);
    assert!(runs(&without, r#"{"name":"pay"}"#) && runs(&without, r#"{"name":"pay","arguments":{"total":1}}"#));
    assert!(!runs(&without, r#"{"name":"pay","arguments":{"amount":1}}"#));
    assert!(!runs(&without, r#"{"name":"pay","arguments":{"AMOUNT":1}}"#));
    assert!(!runs(&without, r#"{"name":"pay","ARGUMENTS":{"amount":1}}"#));
}

#[test]
fn where_the_arguments_are_not_known_an_allow_may_match_and_a_deny_takes_nothing_away() {
    let set = Set::agent(vec![when(allow("small"), "args.amount <= 100"), when(deny("large"), "args.amount > 10")]);
    assert!(set.get().visible(ALICE) && set.calls(ALICE, "pay"));
    assert_eq!(set.get().nothing_left(ALICE), None);
    assert_eq!(set.get().mcp_denied_for_all(), None);
    // It is no rule about what is shown.
    assert!(!set.shows(ALICE, "pay"));
    // A rule without a condition takes everything.
    let denied = Set::agent(vec![when(allow("small"), "args.amount <= 100"), deny("all")]);
    assert!(denied.get().nothing_left(ALICE).is_some() && !denied.calls(ALICE, "pay"));
}

#[test]
fn a_limit_counts_the_calls_that_meet_its_condition() {
    let set = Set::agent(vec![limited(when(allow("large"), "args.amount > 100"), 3), allow("all")]);
    let rules = |amount: u32| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"pay","arguments":{{"amount":{amount}}}}}}}"#
        );
        let envelope = Envelope::parse(&body.into(), &Bounds::default()).unwrap();
        let arguments = set.get().arguments(&envelope);
        set.get().limits(&Request::method(ALICE, "tools/call", Some("pay"), arguments.known())).len()
    };
    assert_eq!((rules(100), rules(101)), (0, 1));
}

#[test]
fn arguments_are_read_only_where_a_rule_asks_for_them() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"a","arguments":{"a":1}}}"#;
    let envelope = Envelope::parse(&body.into(), &Bounds::default()).unwrap();
    let set = Set::agent(vec![when(allow("tools"), "args.a == 1"), allow("all")]);
    assert_eq!(set.get().arguments(&envelope), CallArguments::Unknown);
    let prompts = RuleSpec { methods: Some(vec![method("prompts/get", &[])]), ..when(allow("p"), "args.a == 1") };
    assert_eq!(Set::agent(vec![prompts]).get().arguments(&envelope), CallArguments::of(&envelope));
}

#[test]
fn a_condition_is_refused_where_there_are_no_arguments() {
    let at = |rule: RuleSpec| {
        let errors = Policy::compile(&spec(vec![allow("other"), rule])).unwrap_err();
        errors.into_iter().map(|error| (error.field, error.problem)).collect::<Vec<_>>()
    };
    let field = || "rules[1].when".to_owned();
    let good = || when(allow("a"), "args.a == 1");
    assert!(Policy::compile(&spec(vec![good()])).is_ok());
    for phases in [vec![], vec![Phase::List], vec![Phase::List, Phase::Call]] {
        assert_eq!(at(RuleSpec { phases, ..good() }), [(field(), Problem::WhenInList)]);
    }
    for name in ["tools/*", "tools/list", "resources/read"] {
        let methods = Some(vec![method("tools/call", &[]), method(name, &[])]);
        assert_eq!(at(RuleSpec { methods, ..good() }), [(field(), Problem::WhenWithoutArguments)], "{name}");
    }
    assert_eq!(at(RuleSpec { methods: None, ..good() }), [(field(), Problem::WhenWithoutArguments)]);
    let wrong = at(when(allow("a"), "request.a == 1"));
    assert!(matches!(&wrong[..], [(at, Problem::When(_))] if *at == field()), "{wrong:?}");
}

#[test]
fn conditions_are_held_against_the_tools_that_their_rules_are_about() {
    let about = |name: &str, tools: &[&str], condition: &str| RuleSpec {
        methods: Some(vec![method("tools/call", tools)]),
        ..when(allow(name), condition)
    };
    let prompts = RuleSpec { methods: Some(vec![method("prompts/get", &[])]), ..when(allow("p"), "args.none == 1") };
    let rules =
        vec![about("pay", &["pay.*"], "args.amount < 9"), allow("all"), about("any", &[], "args.to == 'x'"), prompts];
    let policy = Policy::compile(&spec(rules)).unwrap();
    let pay = json!({"type": "object", "properties": {"amount": {"type": "integer"}, "to": {"type": "string"}}});
    let odd = json!({"type": "object", "properties": {"amount": {"type": "string"}}});
    let tools = [("pay.now", &pay), ("pay.later", &odd), ("echo", &odd)];
    let found: Vec<(usize, &str, String)> =
        policy.misfits(&tools).map(|(rule, tool, misfit)| (rule, tool, misfit.to_string())).collect();
    let missing = "the tool has no argument to";
    let expected = [
        (0, "pay.later", "it fails for arguments that the tool takes: an order does not take these values".to_owned()),
        (2, "pay.later", missing.to_owned()),
        (2, "echo", missing.to_owned()),
    ];
    assert_eq!(found, expected);
}
