//! What a tenant can reach: the API of Kubernetes, and the operator's Admin API.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::config::AuthInfo;
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::faults::{AGENT, world_for};
use crate::Fallible;
use crate::ensure;
use crate::harness::PATIENCE;
use crate::harness::admin::token;
use crate::harness::cluster::{World, has, said};
use crate::harness::process::{Ran, run};
use crate::harness::space::{Security, Space};
use crate::harness::wait::until;
use crate::manifests::{USER, agent, tenant, v1alpha1};
use crate::runner::Outcome;

const LIMIT: Duration = Duration::from_secs(60);
/// `kubectl sipmcp`: refused.
const REFUSED: i32 = 3;

/// A ServiceAccount with a ClusterRole in one namespace.
fn account(name: &str, namespace: &str, role: &str) -> [Value; 2] {
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }),
    ]
}

/// The cluster as this ServiceAccount sees it.
async fn as_account(world: &World, namespace: &str, name: &str) -> Fallible<Client> {
    let token = token(world, namespace, name, None).await?;
    as_token(world, &token)
}

/// The cluster as the bearer of a token sees it.
pub fn as_token(world: &World, token: &str) -> Fallible<Client> {
    let auth_info: AuthInfo = serde_json::from_value(json!({"token": token})).map_err(|error| error.to_string())?;
    let mut config = world.config.clone();
    config.auth_info = auth_info;
    Client::try_from(config).map_err(|error| error.to_string())
}

fn ours(client: &Client, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("sipmcp.dev", "v1alpha1", kind));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// That the API server said 403 and nothing else.
fn forbidden<T>(what: &str, answer: Result<T, kube::Error>) -> Fallible<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(error) => Err(format!("{what}: not forbidden, but {error}")),
        Ok(_) => Err(format!("{what}: allowed")),
    }
}

async fn admin(space: &Space<'_>, arguments: &[&str], namespace: &str, who: &str) -> Fallible<Ran> {
    let whole = [&["sipmcp"], arguments, &["-n", namespace, "--service-account", who, "--json"]].concat();
    run(space.world, "kubectl", &whole, LIMIT).await
}

pub async fn sec_15_a_tenant_reaches_nothing_of_another(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    world.installed().await?;
    space.begin(Security::Restricted).await?;
    let other = space.more("b").await?;
    space.apply_all(&tenant(space, true)).await?;
    space.apply(&agent(space, "mine")).await?;
    // The other tenant: a domain, an agent, a Secret.
    let theirs = space.own("other");
    let mut domain = v1alpha1("SipDomain", &theirs, json!({"domain": format!("other.{}", space.domain())}));
    domain["metadata"]["labels"] = space.labels();
    space.apply(&domain).await?;
    let mut stranger = agent(space, "theirs");
    stranger["spec"]["address"]["domainRef"]["name"] = json!(theirs);
    stranger["metadata"]["namespace"] = json!(other);
    space.apply(&stranger).await?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": other}, "stringData": {"token": "x"}});
    space.apply(&secret).await?;
    space.apply_all(&account("alice", &space.name, "edit")).await?;
    space.apply_all(&account("boss", &space.name, "sipmcp-admin")).await?;

    let alice = as_account(world, &space.name, "alice").await?;
    // The cluster's role `edit` takes ours up a moment after the install.
    let (mine, all) = (ours(&alice, "McpAgent", &space.name), ListParams::default());
    until("a tenant to see its own agents", PATIENCE, || async {
        mine.list(&all).await.map(drop).map_err(|error| error.to_string())
    })
    .await?;
    mine.create(&PostParams { dry_run: true, ..PostParams::default() }, &object(&agent(space, "another"))?)
        .await
        .map_err(|error| format!("a tenant's own agent: {error}"))?;
    let secrets = Api::<Secret>::namespaced(alice.clone(), &other);
    forbidden("another tenant's Secret", secrets.get("token").await)?;
    forbidden("another tenant's Secrets", secrets.list(&all).await)?;
    for kind in ["McpAgent", "McpCapabilityPolicy", "SipEdge", "SessionStore"] {
        forbidden(&format!("another tenant's {kind}"), ours(&alice, kind, &other).list(&all).await)?;
    }
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    forbidden(
        "an agent in another's namespace",
        ours(&alice, "McpAgent", &other).create(&dry, &object(&stranger)?).await,
    )?;
    let domains = Api::<DynamicObject>::all_with(
        alice.clone(),
        &ApiResource::from_gvk(&GroupVersionKind::gvk("sipmcp.dev", "v1alpha1", "SipDomain")),
    );
    forbidden(
        "the domains of the cluster",
        domains.delete(&theirs, &kube::api::DeleteParams { dry_run: true, ..Default::default() }).await.map(drop),
    )?;
    // What edges and the operator have for themselves.
    let system = Api::<Secret>::namespaced(alice, crate::harness::cluster::SYSTEM);
    forbidden("the operator's authority", system.get("sipmcp-operator-ca").await)?;

    no_policy_for_others(space, &other).await?;

    let (own_domain, boss, clerk) =
        (space.own("tenant"), format!("{}/boss", space.name), format!("{}/alice", space.name));
    let own = until("the sessions of one's own domain", PATIENCE, || async {
        admin(space, &["sessions", &own_domain], &space.name, &boss).await?.ok()
    })
    .await?;
    ensure!(own.json()["ok"] == true, "{}", own.told());
    for (what, arguments, namespace, who) in [
        ("sessions without the right", &["sessions", &*own_domain][..], &*space.name, &*clerk),
        ("sessions of another's namespace", &["sessions", &*theirs], &*other, &*boss),
        ("one's own domain in another's namespace", &["sessions", &*own_domain], &*other, &*boss),
        ("why, of another's agent", &["why", "anonymous", "echo", "--agent", "theirs"], &*other, &*boss),
        ("drain of another's edge", &["drain", "edge", "edge-0", "--no-wait"], &*other, &*boss),
    ] {
        let ran = admin(space, arguments, namespace, who).await?;
        ensure!(ran.code == REFUSED, "{what}: {}", ran.told());
    }
    let everywhere =
        run(world, "kubectl", &["sipmcp", "sessions", &own_domain, "-A", "--service-account", &boss], LIMIT).await?;
    ensure!(everywhere.code == REFUSED, "sessions of all namespaces: {}", everywhere.told());
    Ok(Outcome::Passed)
}

/// Whoever may write policies in one namespace decides nothing for the domain of another tenant: a Deny would shut it, an Allow would open it.
async fn no_policy_for_others(space: &Space<'_>, other: &str) -> Fallible<()> {
    let rules = json!([{"name": "all", "from": [{"anonymous": {}}], "action": "Deny"}]);
    let spec = json!({"targetRefs": [{"kind": "SipDomain", "name": space.own("tenant")}], "defaultAction": "Allow", "rules": rules});
    let mut policy = v1alpha1("McpCapabilityPolicy", "meddler", spec);
    policy["metadata"]["namespace"] = json!(other);
    // Refused at the door, or written and without effect: both say so.
    match space.world.apply(other, &policy).await {
        Err(why) if why.contains("spec.targetRefs") => return Ok(()),
        Err(why) => return Err(format!("a policy for another tenant's domain: {why}")),
        Ok(_) => {}
    }
    let policies = space.world.ours("McpCapabilityPolicy", other);
    until("a policy for another tenant's domain to be without effect", Duration::from_secs(20), || async {
        let policy = policies.get("meddler").await.map_err(said("read it"))?;
        has(&policy, "ResolvedRefs", "False", Some("RefNotPermitted"))
    })
    .await
}

fn object(value: &Value) -> Fallible<DynamicObject> {
    serde_json::from_value(value.clone()).map_err(|error| error.to_string())
}

/// The rule that decides has a name, in the answer and in the refusal.
pub async fn why(space: &Space<'_>) -> Fallible<Outcome> {
    world_for(space, json!({}), true).await?;
    let rules = json!([
        {"name": "no-failures", "from": [{"anonymous": {}}], "methods": [{"name": "tools/call", "params": ["fail"]}], "action": "Deny"},
        {"name": "rest", "from": [{"anonymous": {}}, {"sipIdentity": format!("sip:*@{}", space.domain())}], "action": "Allow"},
    ]);
    let policy = json!({"targetRefs": [{"kind": "McpAgent", "name": AGENT}], "rules": rules});
    space.apply(&v1alpha1("McpCapabilityPolicy", "callers", policy)).await?;
    space.comes("McpCapabilityPolicy", "callers", "Programmed", "True", None).await?;
    space.apply_all(&account("boss", &space.name, "sipmcp-admin")).await?;
    let boss = format!("{}/boss", space.name);
    let user = format!("sip:{}@{}", USER.0, space.domain());
    for (caller, tool, allowed, rule) in [
        ("anonymous", "fail", false, "callers/no-failures"),
        ("anonymous", "echo", true, ""),
        (&*user, "fail", true, ""),
    ] {
        let ran = until(&format!("why {caller} {tool}"), PATIENCE, || async {
            admin(space, &["why", caller, tool, "--agent", AGENT], &space.name, &boss).await?.ok()
        })
        .await?;
        let answers = ran.json()["answers"].clone();
        let one = &answers[0];
        ensure!(answers.as_array().is_some_and(|all| all.len() == 1), "the edges do not agree: {answers}");
        ensure!(one["allowed"] == allowed, "{caller} {tool}: {one}");
        ensure!(
            one["rule"].as_str().is_some_and(|is| is.ends_with(rule) && !is.is_empty()),
            "{caller} {tool}: no rule {rule:?} in {one}"
        );
    }
    // Arguments are not known when tools are listed.
    let lying = json!({"targetRefs": [{"kind": "McpAgent", "name": AGENT}], "rules": [
        {"name": "r", "from": [{"anonymous": {}}], "phases": ["List"], "when": "args.region == 'eu'", "action": "Allow"},
    ]});
    match space.world.trial(&space.name, &v1alpha1("McpCapabilityPolicy", "lying", lying)).await? {
        Err(kube::Error::Api(status)) if status.message.contains("rules[0].when") => Ok(Outcome::Passed),
        Err(error) => Err(format!("the field is not named: {error}")),
        Ok(()) => Err("a rule of phase List that looks at arguments was taken".to_owned()),
    }
}
