//! The memory store keeps its own contract; and no case is left out of the suite.

use store_contract::memory::Memory;

store_contract::suite!(Memory::new);

#[test]
fn the_same_operations_have_the_same_replies() {
    store_contract::differential::differential(64, 80, Memory::new);
}

#[test]
fn no_case_is_left_out() {
    let suite = include_str!("../src/lib.rs");
    for (module, source) in [
        ("adoption", include_str!("../src/adoption.rs")),
        ("calls", include_str!("../src/calls.rs")),
        ("capabilities", include_str!("../src/capabilities.rs")),
        ("conversations", include_str!("../src/conversations.rs")),
        ("dialogs", include_str!("../src/dialogs.rs")),
        ("early", include_str!("../src/early.rs")),
        ("edges", include_str!("../src/edges.rs")),
        ("ends", include_str!("../src/ends.rs")),
        ("exchanges", include_str!("../src/exchanges.rs")),
        ("legs", include_str!("../src/legs.rs")),
        ("nonces", include_str!("../src/nonces.rs")),
        ("registrations", include_str!("../src/registrations.rs")),
        ("restore", include_str!("../src/restore.rs")),
        ("sessions", include_str!("../src/sessions.rs")),
    ] {
        let listed = suite.split(&format!("            {module} {{")).nth(1).and_then(|rest| rest.split('}').next());
        let listed: Vec<&str> =
            listed.unwrap_or_else(|| panic!("{module} is not in the suite")).split_whitespace().collect();
        let cases = source.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split('(').next());
        for case in cases {
            assert!(listed.contains(&case), "{module}::{case} is not in the suite");
        }
    }
}

/// What the random operations never meet, they do not test.
#[test]
fn the_random_operations_reach_every_kind_of_reply() {
    use std::collections::BTreeMap;

    use proptest::strategy::{Strategy, ValueTree};
    use proptest::test_runner::TestRunner;
    use session_store::op::StoreReply;
    use store_contract::Subject;
    use store_contract::operations::steps;

    let word = |debug: String| debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..400 {
        let generated = steps(80).new_tree(&mut runner).expect("every step can be made").current();
        let mut subject = Memory::new();
        for step in generated {
            subject.pass(step.pass_ms);
            let operation = step.operation(subject.now());
            let kind = word(format!("{operation:?}"));
            let reply = subject.run(operation).expect("there is room");
            let detail = match &reply {
                StoreReply::Exchange(outcome) => word(format!("{outcome:?}")),
                StoreReply::Begun { exchange: Some(outcome), .. } => word(format!("{outcome:?}")),
                StoreReply::CallKnown { state, .. } => word(format!("{state:?}")),
                StoreReply::Adopted { items, .. } if !items.is_empty() => "some".into(),
                StoreReply::Exported(records) if !records.is_empty() => "some".into(),
                StoreReply::Erased(n) if *n > 0 => "some".into(),
                StoreReply::Bindings(bindings) if !bindings.is_empty() => "some".into(),
                _ => String::new(),
            };
            *seen.entry(format!("{kind} {} {detail}", word(format!("{reply:?}"))).trim().to_owned()).or_default() += 1;
        }
    }
    for (k, v) in &seen {
        println!("{v:6} {k}");
    }
}
