//! What the tests write: a backend, a store, a fleet, a tenant.

use serde_json::{Value, json};
use sip_proto::auth::{Algorithm, a1};

use crate::Fallible;
use crate::certificates::Authority;
use crate::harness::PATIENCE;
use crate::harness::cluster::{has, is_ready, said};
use crate::harness::space::Space;
use crate::harness::wait::until;

pub const EDGE: &str = "edge";
pub const STORE: &str = "main";
pub const ECHO: &str = "echo";
/// The user that the domain knows, and its password.
pub const USER: (&str, &str) = ("alice", "wonderland");
/// Secret with the certificate of every TLS and WSS listener.
pub const TLS: &str = "edge-tls";
const ECHO_PORT: u16 = 3900;
const REDIS_PORT: u16 = 6379;

pub fn v1alpha1(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": crds::v1alpha1::API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A hardened Deployment of one pod, and a Service in front of it.
fn service(name: &str, image: &str, port: u16, args: Value) -> [Value; 2] {
    let labels = json!({"app": name});
    let container = json!({
        "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "args": args, "ports": [{"containerPort": port}],
        "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    });
    [
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "strategy": {"type": "Recreate"}, "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 2,
                    "securityContext": {"runAsNonRoot": true, "runAsUser": 65_532, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [container],
                    "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
                },
            }},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": labels, "ports": [{"port": port, "targetPort": port}]},
        }),
    ]
}

/// A fleet, as far as tests differ.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub replicas: u32,
    /// `spec.network`.
    pub network: Value,
    /// `(protocol, port)` of the listeners.
    pub listeners: Vec<(&'static str, u16)>,
    /// More of `spec`.
    pub more: Value,
    /// Whether callers without a name are allowed. A dialog of theirs belongs to one connection, and cannot go on over another one.
    pub anonymous: bool,
}

impl Fleet {
    /// Inside the cluster, with these listeners.
    pub fn of(replicas: u32, listeners: &[(&'static str, u16)]) -> Fleet {
        let network = json!({"mode": "ClusterIP", "advertise": {"from": "ServiceAddress"}});
        Fleet { replicas, network, listeners: listeners.to_vec(), more: json!({}), anonymous: true }
    }

    pub fn object(&self) -> Value {
        let plain = |protocol: &str| matches!(protocol, "UDP" | "TCP" | "WS");
        let listener = |(protocol, port): &(&'static str, u16)| {
            let mut listener = json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port});
            if !plain(protocol) {
                listener["tls"] = json!({"certificateRefs": [{"name": TLS}], "clientAuth": "None"});
            }
            listener
        };
        let mut spec = json!({
            "replicas": self.replicas, "network": self.network,
            "listeners": self.listeners.iter().map(listener).collect::<Vec<_>>(),
            "insecure": self.listeners.iter().any(|(protocol, _)| plain(protocol)),
            "sessionStoreRef": {"name": STORE},
            "drain": {"settleSeconds": 1, "inFlightSeconds": 10, "dialogSeconds": 5},
            // A caller without a dialog has a session for each agent that it called.
            "limits": {"sessionsPerPod": 100_000},
        });
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), self.more.as_object()) {
            spec.extend(more.clone());
        }
        v1alpha1("SipEdge", EDGE, spec)
    }
}

/// A tenant of a test: its domain and what that needs.
pub struct Tenant {
    /// Of the SipDomain, without what the test itself adds.
    pub name: &'static str,
    pub domain: String,
    /// Who has a password: USER's.
    pub users: Vec<String>,
    /// Whether callers without a name are allowed.
    pub anonymous: bool,
    /// More of the SipDomain's `spec`.
    pub more: Value,
}

impl Tenant {
    /// The one that every test has: USER by digest.
    pub fn new(space: &Space<'_>, anonymous: bool) -> Tenant {
        let users = vec![USER.0.to_owned()];
        Tenant { name: "tenant", domain: space.domain(), users, anonymous, more: json!({}) }
    }

    /// Beside it.
    pub fn other(space: &Space<'_>, anonymous: bool) -> Tenant {
        Tenant { name: "other", domain: format!("other.{}", space.domain()), ..Tenant::new(space, anonymous) }
    }

    /// Its users, its domain, and the policy that lets its users call everything. For agents of the test's first namespace.
    pub fn objects(&self, space: &Space<'_>) -> [Value; 3] {
        let (name, domain) = (space.own(self.name), &self.domain);
        let users = if self.name == "tenant" { "users".to_owned() } else { format!("users-{}", self.name) };
        let hash = |user: &str| format!("SHA-256:{}", a1(Algorithm::Sha256, user, domain, USER.1));
        let hashes: serde_json::Map<String, Value> =
            self.users.iter().map(|user| (user.clone(), json!(hash(user)))).collect();
        let mut spec = json!({
            "domain": domain,
            "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}}},
            "authentication": {"digest": {"algorithms": ["SHA-256"], "usersSecretRef": {"namespace": space.name, "name": users}}},
            "transport": {"allowPlain": ["UDP", "TCP", "WS"]},
        });
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), self.more.as_object()) {
            spec.extend(more.clone());
        }
        let mut object = v1alpha1("SipDomain", &name, spec);
        object["metadata"]["labels"] = space.labels();
        let mut who = vec![json!({"sipIdentity": format!("sip:*@{domain}")})];
        who.extend(self.anonymous.then(|| json!({"anonymous": {}})));
        let policy = if self.name == "tenant" { "everybody".to_owned() } else { format!("everybody-{}", self.name) };
        let rules = json!([{"name": "all", "from": who, "action": "Allow"}]);
        [
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": users}, "stringData": hashes}),
            object,
            v1alpha1(
                "McpCapabilityPolicy",
                &policy,
                json!({"targetRefs": [{"kind": "SipDomain", "name": name}], "rules": rules}),
            ),
        ]
    }

    /// An agent of this tenant.
    pub fn agent(&self, space: &Space<'_>, user: &str) -> Value {
        let mut object = agent(space, user);
        object["spec"]["address"]["domainRef"]["name"] = json!(space.own(self.name));
        object
    }

    /// `sip:USER@DOMAIN`.
    pub fn uri(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.domain)
    }
}

/// The domain of a test, for agents of its first namespace: USER by digest, and anybody if `anonymous`.
pub fn tenant(space: &Space<'_>, anonymous: bool) -> [Value; 3] {
    Tenant::new(space, anonymous).objects(space)
}

/// An agent in front of the MCP server `echo`. What a policy of the domain allows is not its own affair.
pub fn agent(space: &Space<'_>, user: &str) -> Value {
    v1alpha1(
        "McpAgent",
        user,
        json!({
            "address": {"user": user, "domainRef": {"name": space.own("tenant")}},
            "parentRefs": [{"kind": "SipEdge", "name": EDGE}],
            "backend": {"mcpHttp": {"serviceRef": {"name": ECHO, "port": ECHO_PORT}, "revisions": ["2026-07-28", "2025-11-25"]}},
            "capabilities": {"source": "Discovered", "tools": [{"name": "echo", "version": 1, "effect": "ReadOnly"}]},
        }),
    )
}

impl Space<'_> {
    /// The MCP server of the tests.
    ///
    /// # Errors
    /// It does not run.
    pub async fn echo(&self) -> Fallible<()> {
        self.apply_all(&service(
            ECHO,
            &self.world.args.echo_image,
            ECHO_PORT,
            json!([format!("--listen=0.0.0.0:{ECHO_PORT}")]),
        ))
        .await?;
        self.running(ECHO).await
    }

    /// A store for any number of edges, and its SessionStore.
    ///
    /// # Errors
    /// It does not run.
    pub async fn store(&self) -> Fallible<()> {
        self.store_to_be().await?;
        self.apply(&self.redis()[0]).await?;
        self.running("redis").await
    }

    /// The SessionStore, and the Service of a server that nobody has started. The address is the Service's: there may be no DNS.
    ///
    /// # Errors
    /// The API server does not take them.
    pub async fn store_to_be(&self) -> Fallible<()> {
        self.apply(&self.redis()[1]).await?;
        let ip = self.cluster_ip("redis").await?;
        let redis = json!({"redis": {"topology": "Single", "addresses": [format!("{ip}:{REDIS_PORT}")]}});
        self.apply(&v1alpha1("SessionStore", STORE, redis)).await
    }

    fn redis(&self) -> [Value; 2] {
        let port = REDIS_PORT.to_string();
        let args =
            json!(["--bind", "0.0.0.0", "--port", port, "--protected-mode", "no", "--save", "", "--dir", "/data"]);
        service("redis", &self.world.args.redis_image, REDIS_PORT, args)
    }

    /// # Errors
    /// The Service has none.
    pub async fn cluster_ip(&self, service: &str) -> Fallible<String> {
        let services = self.world.api("v1", "Service", &self.name);
        let object = services.get(service).await.map_err(said(&format!("read Service {service}")))?;
        let ip = object.data["spec"]["clusterIP"].as_str().filter(|ip| *ip != "None");
        ip.map(str::to_owned).ok_or_else(|| format!("Service {service} has no ClusterIP"))
    }

    /// Waits until the one pod of a Deployment with label `app` is ready.
    ///
    /// # Errors
    /// Not in time.
    pub async fn running(&self, app: &str) -> Fallible<()> {
        until(&format!("{app} to run"), PATIENCE, || async {
            let pods = self.world.pods_of(&self.name, &format!("app={app}")).await?;
            crate::ensure!(pods.len() == 1 && pods.iter().all(is_ready), "{} pods, not all ready", pods.len());
            Ok(())
        })
        .await
    }

    /// A certificate for the listeners of [`Fleet`].
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn authority(&self) -> Fallible<Authority> {
        let authority = Authority::new()?;
        self.apply(&authority.secret(TLS, &self.domain())?).await?;
        Ok(authority)
    }

    /// Everything for calls: backend, store, tenant, fleet; waits until the edges are ready.
    ///
    /// # Errors
    /// Something does not get ready.
    pub async fn fleet(&self, fleet: &Fleet) -> Fallible<()> {
        self.apply_all(&tenant(self, fleet.anonymous)).await?;
        self.edges(fleet).await
    }

    /// The same without a tenant.
    ///
    /// # Errors
    /// Something does not get ready.
    pub async fn edges(&self, fleet: &Fleet) -> Fallible<()> {
        self.store().await?;
        self.echo().await?;
        self.apply(&fleet.object()).await?;
        self.edges_ready(fleet.replicas).await
    }

    /// Waits until so many edges are ready and connected, and nothing is on its way.
    ///
    /// # Errors
    /// Not in time.
    pub async fn edges_ready(&self, count: u32) -> Fallible<()> {
        let edges = self.world.ours("SipEdge", &self.name);
        until(&format!("{count} edges to be ready"), PATIENCE, || async {
            let pods = self.edge_pods().await?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            crate::ensure!(
                pods.len() == count as usize && ready == pods.len(),
                "{ready} of {} pods are ready",
                pods.len()
            );
            let edge = edges.get(EDGE).await.map_err(said("read the SipEdge"))?;
            has(&edge, "Ready", "True", None)?;
            let connected = edge.data["status"]["edges"]["connected"].as_u64();
            crate::ensure!(connected == Some(count.into()), "{connected:?} are connected");
            Ok(())
        })
        .await
    }

    /// The pods of the fleet, by name.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn edge_pods(&self) -> Fallible<Vec<k8s_openapi::api::core::v1::Pod>> {
        let labels = format!("app.kubernetes.io/name=sipmcp-edge,app.kubernetes.io/instance={EDGE}");
        self.world.pods_of(&self.name, &labels).await
    }

    /// Waits until an object of ours has a condition with this status and reason.
    ///
    /// # Errors
    /// Not in time.
    pub async fn comes(&self, kind: &str, name: &str, type_: &str, status: &str, reason: Option<&str>) -> Fallible<()> {
        let api = self.world.ours(kind, &self.name);
        let reason_text = reason.unwrap_or_default();
        until(&format!("{kind} {name}: {type_}={status} {reason_text}"), PATIENCE, || async {
            has(&api.get(name).await.map_err(said("read it"))?, type_, status, reason)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::v1alpha1::{McpAgent, SipEdge};

    #[test]
    fn what_is_written_is_valid() {
        let all = [("UDP", 5060), ("TCP", 5060), ("TLS", 5061), ("WSS", 5443)];
        let edge: SipEdge = serde_json::from_value(Fleet::of(3, &all).object()).unwrap();
        assert_eq!(crds::validate::edge(&edge.spec), Vec::new());
        let mut fleet = Fleet::of(1, &[("TLS", 5061)]);
        fleet.more = json!({"replicas": 2});
        let edge: SipEdge = serde_json::from_value(fleet.object()).unwrap();
        assert!(!edge.spec.insecure && edge.spec.replicas == Some(2));
        let agent: McpAgent = serde_json::from_value(v1alpha1("McpAgent", "a", json!({
            "address": {"user": "a", "domainRef": {"name": "d"}}, "backend": {"mcpHttp": {"serviceRef": {"name": ECHO, "port": ECHO_PORT}}},
            "capabilities": {"source": "Discovered"},
        })))
        .unwrap();
        assert_eq!(crds::validate::agent(&agent.spec), Vec::new());
    }
}
