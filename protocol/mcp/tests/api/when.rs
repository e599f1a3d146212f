//! Conditions over arguments: what they mean, what is refused, and that nothing makes them run away.

use mcp_sip::policy::when::{Failure, MAX_SOURCE, Misfit, When, WhenError};
use proptest::prelude::*;
use serde_json::{Value, json};

#[track_caller]
fn holds(source: &str, args: &Value) -> Result<bool, Failure> {
    When::new(source).unwrap_or_else(|error| panic!("{source}: {error}")).holds(args)
}

#[test]
fn sec_6_a_condition_is_what_cel_says() {
    let args = json!({
        "region": "eu", "amount": 99.5, "count": 3, "big": u64::MAX, "dry": true, "none": null,
        "tags": ["a", "b"], "to": {"name": "Zoë", "roles": [{"id": 1}, {"id": 2}]},
    });
    for (source, expected) in [
        ("args.region in [\"eu\", 'us']", true),
        ("args.region == \"us\" || args.amount < 100", true),
        ("args.amount <= 99", false),
        ("args.count == 3.0 && args.count != 4 && args.count >= 3 && args.count > 2", true),
        ("args.big == 18446744073709551615u && args.big > 9007199254740993", true),
        ("args.count * 2 + 1 - 3 == 4 && args.count / 2 == 1 && args.count % 2 == 1 && -args.count < 0", true),
        ("args.amount + 1 == 100.5", true),
        ("has(args.region) && !has(args.country) && has(args.none)", true),
        ("args.none == null && args.dry", true),
        ("args.dry ? args.count < 4 : args.count < 2", true),
        ("size(args.tags) == 2 && args.tags.size() == 2 && size(args.to) == 2 && size(args.to.name) == 3", true),
        ("args.to.name.startsWith('Zo') && args.to.name.endsWith('ë') && args.to.name.contains('o')", true),
        ("args['region'] + '-' + args.tags[1] == 'eu-b'", true),
        ("args.tags.all(t, t in ['a', 'b', 'c']) && args.tags.exists(t, t == 'b')", true),
        ("args.to.roles.exists_one(r, r.id == 2) && !args.to.roles.exists_one(r, r.id > 0)", true),
        ("args.to.roles.all(r, args.tags.exists(t, size(t) == r.id))", false),
        ("args.all(name, size(name) < 10) && 'dry' in args && !('wet' in args)", true),
        ("args.tags == ['a', 'b'] && args.tags != ['b', 'a'] && args.to.roles[0] == args.to.roles[0]", true),
        ("args.region == 3", false),
        ("[].all(x, x) && ![].exists(x, x)", true),
        ("args.region < 'f'", true),
    ] {
        assert_eq!(holds(source, &args), Ok(expected), "{source}");
    }
}

#[test]
fn sec_6_what_fails_gives_no_answer_unless_the_other_side_decides() {
    let args = json!({"n": 1, "s": "x", "list": [1, "x"]});
    let missing = |name: &str| Err(Failure::Missing(name.to_owned()));
    assert_eq!(holds("args.m == 1", &args), missing("m"));
    assert_eq!(holds("args.m == 1", &Value::Null), Err(Failure::Types("a field")));
    assert_eq!(holds("args['k' + args.s] == 1", &args), missing("a key"));
    assert_eq!(holds("args.list[2] == 1", &args), missing("an element"));
    assert_eq!(holds("args.list[-1] == 1", &args), missing("an element"));
    for source in ["args.s < 1", "args.s && true", "args.n", "!args.n", "args.n + args.s == 1", "args.n in args.s"] {
        assert!(matches!(holds(source, &args), Err(Failure::Types(_))), "{source}");
    }
    for source in ["1 / (args.n - 1) == 1", "args.n % 0 == 1", "9223372036854775807 * 3 * args.n > 0"] {
        assert_eq!(holds(source, &args), Err(Failure::Range), "{source}");
    }
    assert_eq!(holds("args.m == 1 || args.n == 1", &args), Ok(true));
    assert_eq!(holds("args.n == 2 && args.m == 1", &args), Ok(false));
    assert_eq!(holds("args.m == 1 && args.n == 2", &args), Ok(false));
    assert_eq!(holds("args.m == 1 && args.n == 1", &args), missing("m"));
    assert_eq!(holds("args.list.exists(i, i > 0)", &args), Ok(true));
    assert_eq!(holds("args.list.all(i, i > 0)", &args), Err(Failure::Types("an order")));
    assert_eq!(holds("args.list.all(i, i > 1)", &args), Ok(false));
}

#[test]
fn a_condition_names_only_what_is_there() {
    let error = |source: &str| When::new(source).expect_err(source);
    let variable = |name: &str| WhenError::UnknownVariable(name.to_owned());
    assert_eq!(error("request.region == 'eu'"), variable("request"));
    assert_eq!(error("args.tags.all(t, u == t)"), variable("u"));
    assert_eq!(error("args.tags.all(t, t == 'a') && t == 'a'"), variable("t"), "its scope has ended");
    for source in [
        "matches(args.a, 'x')",
        "args.a.matches('(x+)+y')",
        "now() > 1",
        "timestamp(args.a) == 1",
        "args.a.map(x, x) == []",
        "args.a.filter(x, x) == []",
        "startsWith(args.a, 'x')",
        "args.a.size(1) == 1",
    ] {
        assert!(matches!(error(source), WhenError::UnknownFunction(_)), "{source}: {}", error(source));
    }
    for source in ["{'a': 1} == args", "args.a == b'x'", "!!args.a", "! !args.a", "--args.a == 1", "args.a == 1 - -1"] {
        assert!(matches!(error(source), WhenError::Unsupported(_)), "{source}");
    }
    for source in ["args", "1", "'x'", "args.a + 1", "size(args)", "[true]", "-args.a"] {
        assert_eq!(error(source), WhenError::NotABoolean, "{source}");
    }
    for source in ["", " ", "args.", "args.a ==", "args.a = 1", "a b", "args.a == 'x", "has(args)"] {
        assert!(matches!(error(source), WhenError::Syntax { .. }), "{source}: {}", error(source));
    }
    let when = When::new("args.b == 1 && has(args.a) && args['c'] != 2 && args.list.all(x, x.d == args.b)").unwrap();
    assert_eq!(when.arguments().collect::<Vec<_>>(), ["a", "b", "c", "list"]);
}

#[test]
fn a_condition_is_bounded_in_length_depth_and_work() {
    assert_eq!(When::new(&"x".repeat(MAX_SOURCE + 1)).unwrap_err(), WhenError::TooLong(MAX_SOURCE + 1));
    for (open, close, times) in [
        ("(", ")", 25),
        ("[", "]", 25),
        ("!(", ")", 25),
        ("true ? true : ", "", 25),
        ("(", ")", 500),
        ("args[", "]", 150),
        ("1 + ", "", 200),
    ] {
        let source = format!("{}true{}", open.repeat(times), close.repeat(times));
        assert_eq!(When::new(&source).unwrap_err(), WhenError::TooDeep, "{source}");
    }
    assert_eq!(When::new(&format!("args{} == 1", ".a".repeat(500))).unwrap_err(), WhenError::TooDeep);
    let args = json!({"n": (0..1000).collect::<Vec<_>>(), "s": "x".repeat(60_000)});
    for source in [
        "args.n.all(a, args.n.all(b, args.n.all(c, a + b + c >= 0)))",
        "args.n.all(a, args.n.all(b, a + b >= 0)) || true",
        "args.n.all(a, args.s.contains('y') == false)",
        "[args.s + 'y'].all(t, args.n.all(a, t != 'x' || a >= 0))",
    ] {
        assert_eq!(holds(source, &args), Err(Failure::TooMuch), "{source}");
    }
    assert_eq!(holds("args.s + args.s == 'x'", &args), Err(Failure::Range));
    assert_eq!(holds("args.n.all(a, a >= 0)", &args), Ok(true));
}

/// Brackets in quotes close nothing, and a thread has 2 MiB of stack.
#[test]
fn no_source_runs_out_of_stack() {
    let sources = || {
        let brackets = |n: usize| format!("{}'{}' == 'a'{}", "(".repeat(n), ")".repeat(n), ")".repeat(n));
        let mut all: Vec<String> = vec![
            format!("args{} == 1", ".a".repeat(500)),
            format!("args{} == 1", "[0]".repeat(20)),
            format!("{}args.a", "args.a && ".repeat(100)),
            format!("{}args.a", "1+".repeat(500)),
            format!("{}args.a", "1<".repeat(500)),
            format!("{}args.a", "-(".repeat(24)),
            format!("[{}].all(x, true)", "1,".repeat(500)),
            "args.a.all(x, ".repeat(70),
        ];
        all.extend([24, 100, 200, 330].map(brackets));
        for cycles in 1..14 {
            let open = format!("{}'{}' == ", "(".repeat(24), ")".repeat(24));
            all.push(format!("{}true{}", open.repeat(cycles), ")".repeat(24 * cycles)));
        }
        all
    };
    let run = move || {
        for source in sources() {
            if let Ok(when) = When::new(&source) {
                let _ = when.holds(&json!({"a": true}));
            }
        }
    };
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(run).unwrap().join().unwrap();
}

/// What a comment hides from the reader is hidden from no check.
#[test]
fn a_sign_twice_is_refused_across_a_comment_too() {
    for source in ["!// x\n!args.a", "!//\r\n !args.a", "1 -//\n-1 == args.a"] {
        assert!(When::new(source).is_err(), "{source}");
    }
    for source in ["args.url == 'http://a' || args.b", "args.a // a comment", "args.a == 1 // 'one\n || args.b"] {
        assert!(When::new(source).is_ok(), "{source}: {:?}", When::new(source));
    }
}

#[track_caller]
fn fits(source: &str, schema: &Value) -> Result<(), Misfit> {
    When::new(source).unwrap_or_else(|error| panic!("{source}: {error}")).fits(schema)
}

#[test]
fn a_condition_fits_a_tool_that_has_its_arguments_in_types_that_it_takes() {
    let schema = json!({
        "type": "object",
        "properties": {
            "region": {"type": "string"},
            "amount": {"type": "number", "minimum": 10},
            "mode": {"enum": ["fast", "slow"]},
            "note": {"type": ["string", "null"]},
            "dry": {"type": "boolean"},
            "any": {},
            "free": {"type": "object"},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3},
            "to": {"$ref": "#/$defs/person"},
            "who": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/person"}]},
        },
        "allOf": [{"properties": {"more": {"const": 7}}}],
        "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string"}, "of": {"type": "integer"}}}},
    });
    for source in [
        "args.region in ['eu', 'us']",
        "args.amount >= 10 && args.amount < 100.5 && args.more == 7",
        "args.mode.startsWith('f') || args.dry",
        "args.note == null || args.note.size() < 9",
        "args.tags[2] == 'a' && args.tags.all(t, t.contains('x'))",
        "args.to.name == 'a' && args.to.of > 0",
        "args.any < 7 || args.free.x.y.z",
        "has(args.region) && args.all(name, size(name) < 9)",
        "args.who == 1",
    ] {
        assert_eq!(fits(source, &schema), Ok(()), "{source}");
    }
    let unknown = |names: &[&str]| Err(Misfit::UnknownArguments(names.iter().map(|&name| name.to_owned()).collect()));
    assert_eq!(fits("args.regoin == 'eu' || args['amuont'] > 1 || args.dry", &schema), unknown(&["amuont", "regoin"]));
    assert_eq!(fits("!has(args.country)", &schema), unknown(&["country"]));
    assert_eq!(fits("args.a == 1", &json!({"type": "object"})), unknown(&["a"]));
    assert_eq!(fits("args.a == 1", &json!(true)), unknown(&["a"]));
    for source in [
        "args.region < 7",
        "args.amount.startsWith('1')",
        "args.note.startsWith('a')",
        "args.to.nmae == 'a'",
        "args.tags.all(t, t > 1)",
        "args.who.name == 'a'",
        "args.dry && args.region > 1",
        // What decides by one text does not hide what fails with another.
        "args.region in ['eu', 'us'] && args.amount.size() > 2",
        "args.region",
    ] {
        assert!(matches!(fits(source, &schema), Err(Misfit::Fails(_))), "{source}: {:?}", fits(source, &schema));
    }
    // Said on purpose: any name is taken.
    for more in [json!(true), json!({"type": "string"})] {
        assert_eq!(fits("args.a < 1", &json!({"type": "object", "additionalProperties": more})), Ok(()));
    }
    assert_eq!(fits("args.a < 1", &json!({"additionalProperties": false})), unknown(&["a"]));
}

#[test]
fn no_schema_makes_the_check_run_away() {
    let cycle = json!({"$ref": "#", "allOf": [{"$ref": "#"}, {"$ref": "#"}], "anyOf": [{"$ref": "#"}, {"$ref": "#"}]});
    assert!(fits("args.a == 1", &cycle).is_err());
    let mut deep = json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000});
    for _ in 0..30 {
        deep = json!({"type": "array", "items": deep, "minItems": 16});
    }
    assert_eq!(fits("size(args.a) > 0", &json!({"properties": {"a": deep}})), Ok(()), "it says too much to be tried");
    let own = json!({"properties": {"a": {"type": "object", "properties": {"b": {"$ref": "#"}, "c": {"$ref": "#"}}}}});
    assert_eq!(fits("args.a.b == args.a.c", &own), Ok(()));
}

#[test]
fn sec_11_a_failure_shows_nothing_of_the_call() {
    let args = json!({"s": "hunter2"});
    for source in ["args[args.s] == 1", "args.s < 1", "args.s.all(x, true)", "args.s + 1 == 2"] {
        let failure = holds(source, &args).unwrap_err();
        assert!(!format!("{failure} {failure:?}").contains("hunter2"), "{source}: {failure}");
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn source() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "args",
        ".a",
        ".b",
        "[0]",
        "['a']",
        " == ",
        " != ",
        " < ",
        " && ",
        " || ",
        "!",
        "(",
        ")",
        "[",
        "]",
        ", ",
        "1",
        "-1",
        "2.5",
        "1u",
        "'a'",
        "\"b\"",
        "true",
        "null",
        " in ",
        ".all(x, ",
        ".exists(x, ",
        "x",
        "size(",
        "has(",
        " + ",
        " * ",
        " / ",
        " % ",
        " ? ",
        " : ",
        "{",
        "}",
        "?",
        "\\",
        "'",
        "\n",
        "é",
        "0x",
        "1e",
        "b'",
        "r'",
        "//",
        ".map(",
        "`",
        "\u{0}",
    ]);
    prop_oneof![prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat()), ".{0,24}",]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_source_and_no_arguments_make_it_panic(source in source(), args in json()) {
        if let Ok(when) = When::new(&source) {
            let first = when.holds(&args);
            prop_assert_eq!(&first, &when.holds(&args));
        }
    }

    #[test]
    fn numbers_are_ordered_as_numbers(a in any::<i64>(), b in any::<i64>(), c in any::<f64>()) {
        let args = json!({"a": a, "b": b, "c": c});
        prop_assert_eq!(holds("args.a < args.b", &args), Ok(a < b));
        prop_assert_eq!(holds("args.a < args.c || args.a == args.c || args.a > args.c", &args), Ok(args["c"].is_number()));
    }
}
