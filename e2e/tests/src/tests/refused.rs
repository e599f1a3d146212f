//! What the schema, its CEL rules and the webhook refuse, each with the path of the field.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::space::{Security, Space};
use crate::harness::wait::until;
use crate::manifests::{agent, tenant, v1alpha1};
use crate::runner::Outcome;

/// Files with one kind each, whose faults stand in one object. The others are about files, or about several objects.
const FILES: [&str; 5] =
    ["mcp-agent.yaml", "mcp-capability-policy.yaml", "session-store.yaml", "sip-domain.yaml", "sip-edge.yaml"];
/// Faults that are none in a cluster, or that only those see who read what a Secret holds.
const OF_FILES: [&str; 5] =
    ["is not there", "from files", "known in Kubernetes only", "has no key password", "has an empty username"];

/// An object that must be refused.
struct Bad {
    place: String,
    object: Value,
    /// Paths of the fields of which at least one must be named.
    fields: Vec<String>,
}

/// `#! FIELD: MESSAGE` and `#!cel FIELD: MESSAGE` at the ends of lines say what is wrong. Empty where all of it is of files only.
fn marks(document: &str) -> Vec<String> {
    let lines = document.lines().filter(|line| !line.starts_with('#'));
    let marks: Vec<&str> = lines
        .flat_map(|line| line.split(" #!").skip(1))
        .map(|mark| mark.strip_prefix("cel ").unwrap_or(mark).trim())
        .collect();
    if marks.iter().all(|mark| OF_FILES.iter().any(|text| mark.contains(text))) {
        return Vec::new();
    }
    marks.into_iter().filter_map(|mark| mark.split_once(':').map(|(field, _)| field.to_owned())).collect()
}

fn bad(root: &Path) -> Fallible<Vec<Bad>> {
    let mut all = Vec::new();
    for file in FILES {
        let path = root.join("crds/tests/invalid").join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut line = 1;
        for document in text.split("\n---\n") {
            let place = format!("{file}:{line}");
            line += document.lines().count() + 1;
            let fields = marks(document);
            // What is no YAML never gets to an API server.
            let Ok(object) = serde_saphyr::from_str::<Value>(document) else { continue };
            let ours = object["apiVersion"] == crds::v1alpha1::API_VERSION;
            if !fields.is_empty() && ours && object["kind"].is_string() && object["metadata"]["name"].is_string() {
                all.push(Bad { place, object, fields });
            }
        }
    }
    Ok(all)
}

/// Whether the field is named, or one that it is in: CEL rules stand at the object that they are about. The API server says
/// `spec.x: Invalid value`, the webhook `spec.x: …`, strict decoding `unknown field "spec.x"`.
fn names(said: &str, field: &str) -> bool {
    let named = |path: &str, ends: &[char]| {
        said.match_indices(path).any(|(at, _)| {
            let before = said[..at].chars().next_back();
            let inside = before.is_some_and(|c| c.is_alphanumeric() || c == ']');
            !inside && said[at + path.len()..].starts_with(ends)
        })
    };
    let around = field.char_indices().filter(|(_, c)| matches!(c, '.' | '[')).map(|(at, _)| &field[..at]);
    named(field, &[':', '"', ' ', ',', '.', '[']) || around.into_iter().any(|path| named(path, &[':', '"', ' ', ',']))
}

/// The same object in the namespace of the test; a kind without one stays without.
fn at(space: &Space<'_>, object: &Value) -> Value {
    let mut object = object.clone();
    let namespaced = object["kind"] != "SipDomain";
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("namespace");
        if namespaced {
            meta.insert("namespace".to_owned(), json!(space.name));
        }
    }
    object
}

/// The webhook's authority gets to the API server a moment after the operator is ready.
async fn webhook_answers(space: &Space<'_>) -> Fallible<()> {
    // A pattern that the compiler of policies does not know: no schema can see that.
    let policy = v1alpha1(
        "McpCapabilityPolicy",
        "probe",
        json!({
            "targetRefs": [{"kind": "McpAgent", "name": "nobody"}],
            "rules": [{"name": "r", "from": [{"anonymous": {}}], "methods": [{"name": "tools/call", "params": ["a[bc]"]}], "action": "Allow"}],
        }),
    );
    until("the webhook to refuse", PATIENCE, || async {
        match space.world.trial(&space.name, &policy).await? {
            Err(kube::Error::Api(status)) if names(&status.message, "spec.rules[0].methods[0].params[0]") => Ok(()),
            Err(error) => Err(format!("{error}")),
            Ok(()) => Err("the API server takes a rule that cannot be compiled".to_owned()),
        }
    })
    .await
}

pub async fn obs_6_invalid_examples_are_refused_with_their_field(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    world.installed().await?;
    space.begin(Security::Restricted).await?;
    webhook_answers(space).await?;
    let (mut wrong, mut by_webhook) = (Vec::new(), 0);
    let all = bad(&world.args.root)?;
    ensure!(all.len() > 40, "only {} invalid examples were found", all.len());
    for Bad { place, object, fields } in &all {
        match world.trial(&space.name, &at(space, object)).await? {
            Ok(()) => wrong.push(format!("{place}: taken, though {fields:?} is wrong")),
            Err(kube::Error::Api(status)) => {
                by_webhook += usize::from(status.message.contains("admission webhook"));
                let causes =
                    status.details.iter().flat_map(|details| &details.causes).map(|cause| format!("{}: ", cause.field));
                let said = status.message.clone() + " " + &causes.collect::<String>();
                if !fields.iter().any(|field| names(&said, field)) {
                    wrong.push(format!("{place}: none of {fields:?} is named: {}", status.message));
                }
            }
            Err(error) => return Err(format!("{place}: {error}")),
        }
    }
    world
        .figures
        .tell("invalid-refused", json!({"objects": all.len(), "wrong": wrong.len(), "by_webhook": by_webhook}))?;
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    Ok(Outcome::Passed)
}

pub async fn valid(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    world.installed().await?;
    space.begin(Security::Restricted).await?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in ["fleet.yaml", "tenant.yaml"] {
        let path = world.args.root.join("crds/examples/kubernetes").join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        for document in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).map_err(|error| format!("{file}: {error}"))?;
            count += 1;
            if let Err(error) = world.trial(&space.name, &at(space, &object)).await? {
                wrong.push(format!("{file}: {} {}: {error}", object["kind"], object["metadata"]["name"]));
            }
        }
    }
    ensure!(count >= 7, "only {count} examples were found");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(Outcome::Passed)
}

/// Two agents with one address, two tenants with one domain, an agent of a namespace that the domain does not allow, an address that changes.
pub async fn conflicts(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    world.installed().await?;
    space.begin(Security::Restricted).await?;
    let other = space.more("b").await?;
    webhook_answers(space).await?;
    space.apply_all(&tenant(space, true)).await?;
    space.apply(&agent(space, "first")).await?;
    let refusal = |place: String, object: Value, field: &'static str| async move {
        // The operator learns of the objects before it a moment later.
        until(&format!("{field} to be refused"), Duration::from_secs(20), || async {
            match world.trial(&place, &object).await? {
                Err(kube::Error::Api(status)) if names(&status.message, field) => Ok(()),
                Err(error) => Err(format!("{field} is not named: {error}")),
                Ok(()) => Err(format!("taken, though {field} is wrong")),
            }
        })
        .await
    };
    let mut second = agent(space, "second");
    second["spec"]["address"]["user"] = json!("first");
    refusal(space.name.clone(), second, "spec.address").await?;
    let same = v1alpha1("SipDomain", &space.own("thief"), json!({"domain": space.domain()}));
    refusal(String::new(), same, "spec.domain").await?;
    refusal(other, agent(space, "stranger"), "spec.address.domainRef").await?;
    let mut moved = agent(space, "first");
    moved["spec"]["address"]["user"] = json!("elsewhere");
    refusal(space.name.clone(), moved, "spec").await?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invalid_example_of_the_definitions_is_used() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let all = bad(&root).unwrap();
        assert!(all.len() > 40, "{}", all.len());
        for Bad { place, fields, .. } in &all {
            assert!(
                fields.iter().all(|field| field.starts_with("spec") || field.starts_with("metadata")),
                "{place}: {fields:?}"
            );
        }
    }

    #[test]
    fn a_field_is_named_by_its_path_or_that_of_what_it_is_in() {
        let said = "SipEdge.sipmcp.dev \"e\" is invalid: spec.listeners[1].port: Invalid value: 65536";
        assert!(names(said, "spec.listeners[1].port"));
        assert!(names("spec: Invalid value: \"object\": give exactly one", "spec.network.advertise"));
        assert!(names("strict decoding error: unknown field \"spec.pinn\"", "spec.pinn"));
        assert!(!names("the webhook is not there", "spec.listeners[1].port"));
        assert!(names("spec.listeners: Invalid value", "spec.listeners[1].port"));
        assert!(!names("spec.insecure: Invalid value", "spec.listeners[1].port"));
        assert!(!names("spec.listeners[0].port: Invalid value", "spec.listeners[1].port"));
    }
}
