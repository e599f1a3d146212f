//! Default deny; what is hidden looks absent; lists show what may be seen; revocation acts at once.

use edge_core::audit::Outcome;
use edge_core::config::CapabilitySource;
use mcp_sip::policy::Phase;
use serde_json::{Value, json};

use super::rig::*;

fn list(id: i64) -> Value {
    modern(id, "tools/list", json!({}))
}

fn tools(names: &[&str]) -> Value {
    let tools: Vec<Value> = names.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
    json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools, "ttlMs": 1000, "cacheScope": "public"}})
}

#[test]
fn hidden_and_absent_look_alike_and_visible_but_denied_does_not() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let mut errors = Vec::new();
    for tool in ["secret", "no_such_tool"] {
        rig.send(&leg, Some(X), &call(1, tool));
        let (_, mut answer) = rig.one_delivery();
        let message = answer["error"]["message"].as_str().unwrap().replace(tool, "T");
        answer["error"]["message"] = message.into();
        errors.push(answer);
    }
    assert_eq!(errors[0], errors[1]);
    assert_eq!(errors[0]["error"]["code"], -32602);
    rig.send(&leg, Some(X), &call(1, "shown"));
    assert_eq!(rig.one_error().0, -31003);
    assert!(rig.calls.is_empty());
    assert!(rig.audits.iter().all(|a| matches!(a.outcome, Outcome::Denied(_))), "{:#?}", rig.audits);
}

#[test]
fn what_no_rule_names_is_refused_whatever_it_is() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    for (body, code) in [
        (modern(1, "prompts/get", json!({"name": "other"})), -32602),
        (modern(1, "resources/read", json!({"uri": "file:///closed/x"})), -32602),
        (modern(1, "completion/complete", json!({})), -31003),
        (modern(1, "vendor/anything", json!({})), -31003),
    ] {
        rig.send(&leg, Some(X), &body);
        assert_eq!(rig.one_error().0, code, "{body}");
    }
    assert!(rig.calls.is_empty());
    for body in [
        modern(1, "prompts/get", json!({"name": "greet"})),
        modern(2, "resources/read", json!({"uri": "file:///open/x"})),
        modern(3, "server/discover", json!({})),
        modern(4, "ping", json!({})),
    ] {
        rig.send(&leg, None, &body);
        rig.one_call();
    }
}

#[test]
fn a_list_shows_what_the_caller_may_see_and_is_private_then() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &list(1));
    let (id, _) = rig.one_call();
    rig.answer(id, &tools(&["echo", "secret", "shown", "other"]));
    let (_, answer) = rig.one_delivery();
    let names: Vec<&str> =
        answer["result"]["tools"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["echo", "shown"]);
    assert_eq!(answer["result"]["cacheScope"], "private");
    // Nothing removed: the bytes of the server.
    rig.send(&leg, Some(X), &list(2));
    let (id, _) = rig.one_call();
    let body = "{\"jsonrpc\":\"2.0\", \"id\":2,\"result\":{\"tools\":[ {\"name\":\"echo\",\"z\":1.0} ],\"cacheScope\":\"public\"}}";
    rig.message_bytes(id, body);
    rig.done(id);
    assert_eq!(rig.deliveries[0].body, body);
}

#[test]
fn a_list_that_cannot_be_judged_is_not_shown() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    for bad in [json!({"tools": {}}), json!({}), json!([])] {
        rig.send(&leg, Some(X), &list(1));
        let (id, _) = rig.one_call();
        rig.answer(id, &json!({"jsonrpc": "2.0", "id": 1, "result": bad}));
        assert_eq!(rig.one_error().0, -31001);
    }
    rig.assert_empty();
}

#[test]
fn disclosure_all_shows_what_may_not_be_called() {
    let mut both = agent("both", &[MODERN]);
    both.capabilities.disclose_all = true;
    let mut rig = Rig::new(config(vec![both], default_rules()));
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &list(1));
    let (id, _) = rig.one_call();
    rig.answer(id, &tools(&["echo", "secret"]));
    assert_eq!(rig.one_delivery().1, tools(&["echo", "secret"]));
    rig.send(&leg, Some(X), &call(1, "secret"));
    assert_eq!(rig.one_error().0, -31003);
}

#[test]
fn a_tool_that_its_agent_does_not_have_is_refused_in_the_words_for_a_hidden_one() {
    let mut rules = default_rules();
    rules[0] = allow("tools", vec![method("tools/call", &["echo", "absent", "odd"])], &[]);
    let mut rig = Rig::new(config(vec![agent("modern", &[MODERN])], rules));
    let leg = rig.dialog("modern");
    // The list is read for the mirrors of a call with arguments.
    rig.send(&leg, Some(X), &modern(1, "tools/call", json!({"name": "echo", "arguments": {"text": "x"}})));
    let (list, call_of_list) = rig.one_call();
    let tools = json!([{"name": "echo", "inputSchema": {"type": "object"}}, {"name": "odd", "inputSchema": {"type": "object"}}]);
    rig.answer(list, &json!({"jsonrpc": "2.0", "id": body_of(&call_of_list)["id"], "result": {"tools": tools}}));
    let (id, _) = rig.one_call();
    rig.answer(id, &result(1, "x"));
    rig.new_deliveries();
    let mut refused = Vec::new();
    for (n, tool) in [(2, "absent"), (3, "hidden")] {
        rig.send(&leg, Some(Y), &call(n, tool));
        if let Some((id, _)) = rig.new_calls().pop() {
            let words =
                json!({"jsonrpc": "2.0", "id": n, "error": {"code": -32602, "message": "no tool of that name here"}});
            rig.answer(id, &words);
        }
        let mut error = rig.one_delivery().1["error"].clone();
        error["message"] = error["message"].as_str().unwrap().replace(tool, "TOOL").into();
        refused.push(error);
    }
    assert_eq!(refused[0], refused[1]);
    // What is there fails in its own words.
    rig.send(&leg, Some(Y), &call(4, "odd"));
    let (id, _) = rig.one_call();
    let own = json!({"jsonrpc": "2.0", "id": 4, "error": {"code": -32602, "message": "odd wants an argument"}});
    rig.answer(id, &own);
    assert_eq!(rig.one_delivery().1, own);
    // So does everything once the list is old: a tool may be new.
    rig.pass(6 * 60_000);
    rig.send(&leg, Some(Y), &call(5, "absent"));
    let (id, _) = rig.one_call();
    let own = json!({"jsonrpc": "2.0", "id": 5, "error": {"code": -32602, "message": "mine"}});
    rig.answer(id, &own);
    assert_eq!(rig.one_delivery().1, own);
}

#[test]
fn only_what_the_agent_declares_is_there() {
    for source in [CapabilitySource::Declared, CapabilitySource::Intersect] {
        let mut both = agent("both", &[MODERN]);
        both.capabilities.source = source;
        let mut rig = Rig::new(config(vec![both], default_rules()));
        let leg = rig.dialog("both");
        // `add` is allowed by policy and not declared.
        rig.send(&leg, Some(X), &call(1, "add"));
        assert_eq!(rig.one_error().0, -32602);
        rig.send(&leg, Some(X), &call(1, "echo"));
        let (id, _) = rig.one_call();
        rig.answer(id, &result(1, "x"));
        rig.new_deliveries();
        rig.send(&leg, Some(X), &list(1));
        let (id, _) = rig.one_call();
        rig.answer(id, &tools(&["echo", "add"]));
        assert_eq!(rig.one_delivery().1["result"]["tools"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn only_what_the_leg_negotiated_or_selected_is_there() {
    let mut rig = Rig::default();
    let mut record = mcp_record();
    record.tools = Some(vec!["echo@1".into(), "deploy@2.0".into()]);
    let leg = rig.dialog_with("both", 1, Some(record));
    rig.send(&leg, Some(X), &call(1, "add"));
    assert_eq!(rig.one_error().0, -32602, "as if it were absent");
    for tool in ["echo", "deploy"] {
        rig.send(&leg, None, &call(tool, tool));
        rig.one_call();
    }
    rig.send(&leg, None, &list(1));
    let (id, _) = rig.one_call();
    rig.answer(id, &tools(&["echo", "add", "deploy"]));
    assert_eq!(rig.one_delivery().1["result"]["tools"].as_array().unwrap().len(), 2);
}

#[test]
fn sec_16_revoking_a_tool_ends_the_running_call_and_refuses_the_next() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "deploy"));
    let (deploy, _) = rig.one_call();
    rig.send(&leg, Some(Y), &call(2, "echo"));
    let (echo, _) = rig.one_call();
    let rules = vec![allow("tools", vec![method("tools/call", &["echo"])], &[])];
    let agents = vec![agent("both", &[MODERN, LEGACY])];
    rig.configure(config(agents, rules));
    assert_eq!(rig.cancelled, [deploy]);
    let (header, answer) = rig.one_delivery();
    assert_eq!((answer["error"]["code"].as_i64(), header), (Some(-31003), Some(format!("{X};rel=caller"))));
    assert_eq!(rig.audits.last().unwrap().outcome, Outcome::Denied(-31003));
    // What is still allowed runs on.
    rig.answer(echo, &result(2, "x"));
    assert_eq!(rig.one_delivery().1, result(2, "x"));
    rig.send(&leg, Some(X), &call(3, "deploy"));
    assert_eq!(rig.one_error().0, -32602);
    rig.answer(deploy, &result(1, "late"));
    assert!(rig.deliveries.is_empty());
    rig.assert_empty();
}

#[test]
fn sec_16_an_agent_that_is_gone_takes_its_sessions_along() {
    let mut rig = Rig::default();
    let leg = rig.dialog("both");
    let stream = rig.initialize(&leg, true);
    rig.send(&leg, Some(X), &legacy_call(1, "deploy"));
    rig.one_call();
    rig.configure(config(vec![agent("modern", &[MODERN])], default_rules()));
    assert!(rig.cancelled.contains(&stream));
    assert_eq!(rig.one_error().0, -31003);
    let actions: Vec<String> = rig.new_calls().iter().map(|(_, call)| format!("{:?}", call.action)).collect();
    assert!(actions.iter().any(|action| action == "EndSession"), "{actions:?}");
    rig.send(&leg, Some(X), &legacy_call(2, "echo"));
    assert_eq!(rig.one_error().0, -31003);
    assert!(!rig.engine.stats().agents.contains_key("demo/both"));
    rig.close(&leg);
    rig.pass(120_000);
    rig.assert_empty();
}

#[test]
fn a_rule_of_one_phase_is_one_of_that_phase() {
    let rules = vec![allow("run", vec![method("tools/call", &["echo"])], &[Phase::Call])];
    let mut rig = Rig::new(config(vec![agent("both", &[MODERN])], rules));
    let leg = rig.dialog("both");
    rig.send(&leg, Some(X), &call(1, "echo"));
    let (id, _) = rig.one_call();
    rig.answer(id, &result(1, "x"));
    rig.new_deliveries();
    rig.send(&leg, Some(X), &list(1));
    assert_eq!(rig.one_error().0, -31003, "nothing is to be shown to this caller");
}
