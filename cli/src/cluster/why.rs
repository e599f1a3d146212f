//! `kubectl sipmcp why`: which rule decides.

use crds::admin::{Edges, Reason, WHY, Why, WhyQuestion};
use serde_json::{Value, json};
use sip_proto::escape::escape;

use super::admin::{Admin, is_whole, merge, say_missing};
use super::args::WhyArgs;
use crate::failure::Failure;

pub async fn run(args: WhyArgs) -> Result<(), Failure> {
    let arguments = match args.args_json.as_deref().map(serde_json::from_str) {
        None => None,
        Some(Ok(Value::Object(map))) => Some(map),
        Some(_) => return Err(Failure::usage("--args-json: a JSON object is expected")),
    };
    let admin = Admin::open(&args.operator).await?;
    let caller = match args.caller.as_str() {
        "anonymous" => String::new(),
        uri if uri.contains(':') => uri.to_owned(),
        address => format!("sip:{address}"),
    };
    let question = WhyQuestion {
        namespace: admin.namespace().to_owned(),
        agent: args.agent,
        caller,
        method: args.method,
        param: if args.tool == "-" { String::new() } else { args.tool },
        arguments,
    };
    let said = admin.ask_until::<Why>(WHY, &question, |answer| is_whole(&answer.edges)).await?;
    let mut edges = Edges::default();
    let mut reasons: Vec<Reason> = Vec::new();
    for (_, answer) in said.answers {
        let known = edges.answered.clone();
        merge(&mut edges, &answer.edges);
        for mut reason in answer.answers {
            // What another replica said of an edge already is not said again.
            reason.edges.retain(|edge| !known.contains(edge));
            if reason.edges.is_empty() {
                continue;
            }
            let same = |known: &&mut Reason| {
                (known.allowed, &known.rule, &known.policy, &known.explanation)
                    == (reason.allowed, &reason.rule, &reason.policy, &reason.explanation)
            };
            match reasons.iter_mut().find(same) {
                Some(known) => known.edges.extend(reason.edges),
                None => reasons.push(reason),
            }
        }
    }
    if args.json {
        println!("{}", json!({ "ok": true, "answers": reasons, "edges": edges }));
    } else {
        for reason in &reasons {
            println!("{}", line(reason, reasons.len() > 1));
        }
    }
    say_missing(&edges, &said.failures);
    if reasons.is_empty() {
        return Err(Failure::unreachable("no edge that serves this agent answered"));
    }
    if reasons.len() > 1 {
        eprintln!("sipmcp: the edges do not agree; see `kubectl get mcpol` for what they have not applied");
    }
    Ok(())
}

fn line(reason: &Reason, several: bool) -> String {
    let word = if reason.allowed { "allowed" } else { "denied" };
    let said = match (&*reason.explanation, &*reason.rule, &*reason.policy) {
        ("", "", "") => format!("{word}: no policy is for this agent"),
        ("", "", policy) => format!("{word} by the default of policy {policy}"),
        ("", rule, _) => format!("{word} by rule {rule}"),
        (explanation, ..) => explanation.to_owned(),
    };
    let who = if several { format!(" ({})", reason.edges.join(", ")) } else { String::new() };
    escape(format!("{said}{who}").as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deciding_rule_is_named() {
        let reason = |allowed, rule: &str, policy: &str| {
            line(&Reason { allowed, rule: rule.into(), policy: policy.into(), ..Reason::default() }, false)
        };
        assert_eq!(reason(true, "acme/p/r", "acme/p"), "allowed by rule acme/p/r");
        assert_eq!(reason(false, "", "acme/p"), "denied by the default of policy acme/p");
        assert_eq!(reason(false, "", ""), "denied: no policy is for this agent");
    }
}
