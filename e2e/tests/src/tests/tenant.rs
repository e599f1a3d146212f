//! N8: one object owns a SIP domain: who has its name, the key of what is stored for it, and the way to erase that.

use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::Fallible;
use crate::ensure;
use crate::harness::admin::Admin;
use crate::harness::cluster::{condition, has, said};
use crate::harness::reach::Way;
use crate::harness::space::{Security, Space};
use crate::harness::wait::{stays, until};
use crate::harness::{PATIENCE, token};
use crate::manifests::{Fleet, Tenant, v1alpha1};
use crate::runner::Outcome;
use crate::sip::phone::Phone;

const EDGES: u32 = 2;
const PORT: u16 = 5060;
const LIMIT: Duration = Duration::from_secs(20);
/// Objects with it pass by the webhook of the test.
const UNSEEN: &str = "sipmcp.dev/e2e-unseen";
const WEBHOOKS: &str = "ValidatingWebhookConfiguration";
/// Of the release `sipmcp` in its namespace.
const WEBHOOK: &str = "sipmcp-operator-sipmcp-system";

/// The webhook does not look at objects with the label [`UNSEEN`], or looks at all again.
async fn blind(space: &Space<'_>, blind: bool) -> Fallible<()> {
    let configurations = space.world.api("admissionregistration.k8s.io/v1", WEBHOOKS, "");
    let selector = match blind {
        true => json!({"matchExpressions": [{"key": UNSEEN, "operator": "DoesNotExist"}]}),
        false => json!({}),
    };
    let there = configurations.get(WEBHOOK).await.map_err(said("read the webhook's configuration"))?;
    let mut webhooks = there.data["webhooks"].clone();
    for webhook in webhooks.as_array_mut().into_iter().flatten() {
        webhook["objectSelector"] = selector.clone();
    }
    space.world.merge(&configurations, WEBHOOK, &json!({"webhooks": webhooks})).await.map(drop)
}

/// A second SipDomain with a name that has an owner: refused at the door; where nobody stands at the door it says so itself, and changes nothing.
pub async fn n8_a_domain_has_one_owner(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    world.installed().await?;
    space.begin(Security::Restricted).await?;
    space.fleet(&Fleet::of(EDGES, &[("TCP", PORT)])).await?;
    let tenant = Tenant::new(space, true);
    space.apply(&tenant.agent(space, "echo")).await?;
    space.comes("McpAgent", "echo", "Programmed", "True", None).await?;
    let phone = phone(space, &tenant.domain).await?;
    let (phone, uri) = (&phone, &*tenant.uri("echo"));
    // Another spelling of the same name.
    let mut thief = v1alpha1("SipDomain", &space.own("thief"), json!({"domain": tenant.domain.to_uppercase()}));
    thief["metadata"]["labels"] = space.labels();
    until("a second owner to be refused", LIMIT, || async {
        match world.trial("", &thief).await? {
            Err(kube::Error::Api(status)) if status.message.contains("spec.domain: ") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    thief["metadata"]["labels"][UNSEEN] = json!("true");
    blind(space, true).await?;
    // The API server learns of it a moment later.
    let made = until("a second owner past the webhook", PATIENCE, || world.create("", &thief)).await;
    blind(space, false).await?;
    made?;
    let domains = world.ours("SipDomain", "");
    let stands = async |name: &str, status: &'static str, reason: Option<&'static str>| {
        until(&format!("Accepted={status} of {name}"), PATIENCE, || async {
            has(&domains.get(name).await.map_err(said("read it"))?, "Accepted", status, reason)
        })
        .await
    };
    stands(&space.own("thief"), "False", Some("DomainConflict")).await?;
    stands(&space.own("tenant"), "True", None).await?;
    stays("the owner's agent answers", Duration::from_secs(3), || async {
        phone.page(uri, "echo", &json!({"text": "mine"}), LIMIT).await.map(drop).map_err(String::from)
    })
    .await?;
    // Who waits inherits: the name is free again.
    let params = DeleteParams::default();
    for (kind, name) in
        [("McpCapabilityPolicy", "everybody"), ("McpAgent", "echo"), ("SipDomain", &*space.own("tenant"))]
    {
        let gone = world.ours(kind, &space.name).delete(name, &params).await;
        gone.map(drop).map_err(said(&format!("delete {kind} {name}")))?;
    }
    stands(&space.own("thief"), "True", None).await?;
    Ok(Outcome::Passed)
}

async fn phone(space: &Space<'_>, domain: &str) -> Fallible<Phone> {
    let mut ways = Vec::new();
    for pod in space.edge_pods().await? {
        ways.push(Way::to_pod(space.world, &pod, PORT).await?);
    }
    Ok(Phone::new(ways, None, domain, true))
}

/// A ServiceAccount that may read and erase what is stored of conversations, in the whole cluster.
fn keeper(space: &Space<'_>) -> [Value; 3] {
    let (name, api) = (space.own("keeper"), "rbac.authorization.k8s.io/v1");
    let rules =
        json!([{"apiGroups": ["sipmcp.dev"], "resources": ["sipdomains/sessions"], "verbs": ["get", "delete"]}]);
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "keeper"}}),
        json!({
            "apiVersion": api, "kind": "ClusterRole", "metadata": {"name": name, "labels": space.labels()}, "rules": rules,
        }),
        json!({
            "apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": name, "labels": space.labels()},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "keeper", "namespace": space.name}],
        }),
    ]
}

/// Two tenants with a key each, and an agent each; their records stay for a while.
async fn two(space: &Space<'_>) -> Fallible<[Tenant; 2]> {
    space.world.installed().await?;
    space.begin(Security::Restricted).await?;
    let tenants = [Tenant::new(space, true), Tenant::other(space, true)].map(|tenant| {
        let keys = json!({"namespace": space.name, "name": format!("keys-{}", tenant.name)});
        Tenant { more: json!({"dataProtection": {"keySecretRef": keys, "retention": "10m"}}), ..tenant }
    });
    for tenant in &tenants {
        let name = format!("keys-{}", tenant.name);
        space
            .apply(
                &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"1": key()}}),
            )
            .await?;
        space.apply_all(&tenant.objects(space)).await?;
    }
    space.edges(&Fleet::of(EDGES, &[("TCP", PORT)])).await?;
    for tenant in &tenants {
        space.apply(&tenant.agent(space, &format!("agent-{}", tenant.name))).await?;
        space.comes("McpAgent", &format!("agent-{}", tenant.name), "Programmed", "True", None).await?;
    }
    space.apply_all(&keeper(space)).await?;
    Ok(tenants)
}

/// 64 octets in hexadecimal digits.
fn key() -> String {
    token(64) + &token(64)
}

impl Tenant {
    /// A call with something in it that is stored, which is the answer of a tool that must not run twice; the conversation's name.
    async fn talk(&self, phone: &Phone) -> Fallible<String> {
        let dialog = phone.invite(&self.uri(&format!("agent-{}", self.name)), LIMIT).await?;
        let answer = phone.call(&dialog, "fail", &json!({"message": "for the record"}), LIMIT).await?;
        ensure!(answer["content"][0]["text"] == "for the record", "{answer}");
        phone.bye(&dialog, LIMIT).await?;
        Ok(dialog.conversation)
    }
}

/// What is stored of a conversation, as text, and what the edges say that gave nothing.
async fn export(
    space: &Space<'_>,
    admin: &Admin<'_>,
    tenant: &Tenant,
    conversation: &str,
) -> Fallible<(String, String)> {
    let question = json!({"domain": space.own(tenant.name), "conversation": conversation});
    let (status, answer) = admin.ask(crds::admin::EXPORT, &question).await?;
    ensure!(status == 200, "export: {status} {answer}");
    let documents = answer["documents"].as_object().cloned().unwrap_or_default();
    let text = if documents.is_empty() { String::new() } else { Value::Object(documents).to_string() };
    Ok((text, answer["edges"]["silent"].to_string()))
}

/// That everything is there: the dialog or session, and the answer of the tool.
async fn is_whole(space: &Space<'_>, admin: &Admin<'_>, tenant: &Tenant, conversation: &str) -> Fallible<()> {
    let (text, silent) = export(space, admin, tenant, conversation).await?;
    ensure!(text.contains("for the record"), "of {conversation} there is {text:?}, {silent}");
    Ok(())
}

/// The key of a tenant goes: what it sealed is closed for good, the tenant is closed while it has none, and nobody else notices.
pub async fn sec_15_n8_a_removed_key_closes_what_it_sealed(space: &Space<'_>) -> Fallible<Outcome> {
    let world = space.world;
    let tenants = two(space).await?;
    let [mine, other] = &tenants;
    let (phones, admin) = (
        [phone(space, &mine.domain).await?, phone(space, &other.domain).await?],
        Admin::open(world, &space.name, "keeper").await?,
    );
    let (before, theirs) = (mine.talk(&phones[0]).await?, other.talk(&phones[1]).await?);
    is_whole(space, &admin, mine, &before).await?;
    is_whole(space, &admin, other, &theirs).await?;
    // A conversation is its tenant's.
    let (text, _) = export(space, &admin, other, &before).await?;
    ensure!(text.is_empty(), "another tenant's name opens it: {text}");

    // Another key in the place of the first.
    let secrets = world.api("v1", "Secret", &space.name);
    let (old, name) = (secrets.get("keys-tenant").await.map_err(said("read the keys"))?, "keys-tenant");
    let anew = json!({"data": {"1": null}, "stringData": {"2": key()}});
    world.merge(&secrets, name, &anew).await?;
    let told = until("what the old key sealed to be closed", PATIENCE, || async {
        let (text, silent) = export(space, &admin, mine, &before).await?;
        ensure!(text.is_empty(), "it is open: {text}");
        Ok(silent)
    })
    .await?;
    ensure!(told.contains("unreadable") || told.contains("key"), "nothing says why it is closed: {told}");
    let after = until("calls under the new key", PATIENCE, || mine.talk(&phones[0])).await?;
    is_whole(space, &admin, mine, &after).await?;
    is_whole(space, &admin, other, &theirs).await?;

    // No key at all.
    secrets.delete(name, &DeleteParams::default()).await.map(drop).map_err(said("delete the keys"))?;
    let domains = world.ours("SipDomain", "");
    until("the domain to say that its key is not there", PATIENCE, || async {
        let domain = domains.get(&space.own("tenant")).await.map_err(said("read it"))?;
        has(&domain, "ResolvedRefs", "False", Some("SecretNotFound"))?;
        let (_, _, message) = condition(&domain, "ResolvedRefs").unwrap_or_default();
        ensure!(message.contains("spec.dataProtection.keySecretRef"), "the field is not named: {message}");
        Ok(())
    })
    .await?;
    for condition in ["ResolvedRefs", "Ready"] {
        space.comes("McpAgent", "agent-tenant", condition, "False", Some("DomainNotFound")).await?;
    }
    let closed = &phones[0];
    until("the agent to be closed", PATIENCE, || async {
        match closed.page(&mine.uri("agent-tenant"), "echo", &json!({"text": "hi"}), Duration::from_secs(2)).await {
            Ok(answer) => Err(format!("it answers: {answer}")),
            Err(_) => Ok(()),
        }
    })
    .await?;
    other.talk(&phones[1]).await.map_err(|why| format!("the other tenant: {why}"))?;
    is_whole(space, &admin, other, &theirs).await?;

    // From a copy of the first one.
    let copy = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": old.data["data"]});
    space.apply(&copy).await?;
    let healed = until("calls under the old key", PATIENCE, || mine.talk(&phones[0])).await?;
    is_whole(space, &admin, mine, &healed).await?;
    is_whole(space, &admin, mine, &before).await.map_err(|why| format!("the old key is there again: {why}"))?;
    space.comes("McpAgent", "agent-tenant", "Ready", "True", None).await?;
    Ok(Outcome::Passed)
}

/// One conversation is erased, and nothing else.
pub async fn obs_4_n8_one_conversation_is_erased(space: &Space<'_>) -> Fallible<Outcome> {
    let tenants = two(space).await?;
    let [mine, other] = &tenants;
    let (phones, admin) = (
        [phone(space, &mine.domain).await?, phone(space, &other.domain).await?],
        Admin::open(space.world, &space.name, "keeper").await?,
    );
    let (first, second) = (mine.talk(&phones[0]).await?, mine.talk(&phones[0]).await?);
    let theirs = other.talk(&phones[1]).await?;
    for (tenant, conversation) in [(mine, &first), (mine, &second), (other, &theirs)] {
        is_whole(space, &admin, tenant, conversation).await?;
    }
    let question = json!({"domain": space.own("tenant"), "conversation": first});
    let (status, answer) = admin.ask(crds::admin::ERASE, &question).await?;
    ensure!(status == 200 && answer["records"].as_u64() > Some(0), "erase: {status} {answer}");
    let (text, _) = export(space, &admin, mine, &first).await?;
    ensure!(text.is_empty(), "it is still there: {text}");
    is_whole(space, &admin, mine, &second).await?;
    is_whole(space, &admin, other, &theirs).await?;
    Ok(Outcome::Passed)
}
