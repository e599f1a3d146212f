//! What runs for a SipEdge: the objects that the operator applies, as the API takes them.
//!
//! Server-side apply with one field manager, so only what is written here is owned; what an autoscaler or a user sets beside it stays. All
//! objects have the same labels and an owner, so they go when the SipEdge goes.

use crate::index::keys_of;
use crds::manifest::ObjectKey;
use crds::v1alpha1::{Listener, ListenerProtocol, NetworkMode, SafeToEvict, SipEdge, WorkloadKind};
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Port where an edge answers `/healthz`, `/readyz` and `/metrics`, and nothing that would tell of conversations.
pub const HEALTH_PORT: u16 = 9091;
/// Port of the mesh between edges.
pub const MESH_PORT: u16 = 7443;
/// Audience of the token with which an edge enrols.
pub const AUDIENCE: &str = "sipmcp-edge";
/// Where a pod finds what it needs, and where it keeps what a restart of the container needs.
const TOKEN_DIR: &str = "/var/run/sipmcp/token";
const AUTHORITY_DIR: &str = "/var/run/sipmcp/authority";
const KEYS_DIR: &str = "/var/run/sipmcp/keys";
const STATE_DIR: &str = "/var/lib/sipmcp";
/// MiB that may be there: what is kept, what is written in its place, and a little. A pod that has more is ended by its node, and with a large
/// configuration that would be all of them at once.
const STATE_MIB: usize = 2 * (edge_api::MAX_KEPT >> 20) + 64;
/// The user that edges run as.
const USER: i64 = 65_532;

/// What the installation gives to every edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    pub image: String,
    /// `IfNotPresent`, `Always` or `Never`.
    pub pull_policy: String,
    /// `https://…` of the operator's port for edges, as an IP and port or a name: an edge starts without DNS.
    pub operator: String,
    /// Name in the operator's certificate.
    pub operator_name: String,
    /// ConfigMap with the operator's authority (`ca.crt`), in the namespace of the edge.
    pub authority: String,
}

/// The objects of one SipEdge.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub pods: Pods,
    pub headless: Service,
    /// `None` with host network: peers reach the nodes.
    pub ingress: Option<Service>,
    pub budget: PodDisruptionBudget,
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    pub account: ServiceAccount,
    pub network: NetworkPolicy,
}

/// What makes the pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Pods {
    StatefulSet(Box<StatefulSet>),
    DaemonSet(Box<DaemonSet>),
}

/// What could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Unmakeable {
    /// The overlay of the SipEdge gives a pod that is none.
    #[error("spec.overlay: {0}")]
    Overlay(serde_json::Error),
    /// What is made here does not fit its type.
    #[error("{0}")]
    Form(serde_json::Error),
}

/// Labels by which the pods of a SipEdge are selected.
#[must_use]
pub fn selector(edge: &ObjectKey) -> BTreeMap<String, String> {
    let labels = [
        ("app.kubernetes.io/name", "sipmcp-edge"),
        ("app.kubernetes.io/instance", &*edge.name),
        ("app.kubernetes.io/managed-by", "sipmcp-operator"),
    ];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// The objects of a SipEdge. `replicas`: of its StatefulSet, as [`super::rollout`] says; they are written with every apply, since nobody else may.
///
/// # Errors
/// The overlay does not fit.
pub fn workload(
    key: &ObjectKey,
    edge: &SipEdge,
    installation: &Installation,
    replicas: u32,
) -> Result<Workload, Unmakeable> {
    let spec = &edge.spec;
    let labels = selector(key);
    let meta = |name: String| {
        let owner = json!({
            "apiVersion": crds::v1alpha1::API_VERSION, "kind": "SipEdge", "name": key.name,
            "uid": edge.metadata.uid.as_deref().unwrap_or_default(), "controller": true, "blockOwnerDeletion": true,
        });
        json!({"name": name, "namespace": key.namespace, "labels": labels, "ownerReferences": [owner]})
    };
    let mut pod = template(key, edge, installation);
    if let Some(overlay) = &spec.overlay {
        merge(&mut pod, &Value::Object(overlay.0.clone()));
        let _: k8s_openapi::api::core::v1::PodTemplateSpec =
            serde_json::from_value(pod.clone()).map_err(Unmakeable::Overlay)?;
    }
    let headless = format!("{}-pods", key.name);
    let on_delete = json!({"type": "OnDelete"});
    let pods = match spec.workload.kind {
        WorkloadKind::StatefulSet => Pods::StatefulSet(Box::new(form(json!({
            "metadata": meta(key.name.clone()),
            "spec": {
                "replicas": replicas, "serviceName": headless, "selector": {"matchLabels": labels}, "template": pod,
                "podManagementPolicy": "Parallel", "updateStrategy": on_delete,
            },
        }))?)),
        WorkloadKind::DaemonSet => Pods::DaemonSet(Box::new(form(json!({
            "metadata": meta(key.name.clone()),
            "spec": {"selector": {"matchLabels": labels}, "template": pod, "updateStrategy": on_delete},
        }))?)),
    };
    let ports: Vec<Value> = spec.listeners.iter().map(service_port).collect();
    let ingress_type = match spec.network.mode {
        NetworkMode::HostNetwork => None,
        NetworkMode::LoadBalancer => Some("LoadBalancer"),
        NetworkMode::NodePort => Some("NodePort"),
        NetworkMode::ClusterIP => Some("ClusterIP"),
    };
    let ingress = ingress_type.map(|type_| {
        let mut service = json!({"type": type_, "selector": labels, "ports": ports, "sessionAffinity": "None"});
        // Keeps the source address; a ClusterIP has no such field.
        if type_ != "ClusterIP" {
            service["externalTrafficPolicy"] = "Local".into();
        }
        form(json!({"metadata": meta(key.name.clone()), "spec": service}))
    });
    let max_unavailable = match spec.disruption.safe_to_evict {
        SafeToEvict::Never => 0,
        SafeToEvict::Always | SafeToEvict::OnUpgrade => spec.disruption.max_unavailable,
    };
    let autoscaler = spec.autoscaling.as_ref().map(|autoscaling| {
        let metric = json!({"type": "Pods", "pods": {
            "metric": {"name": "sipmcp_edge_sessions"},
            "target": {"type": "AverageValue", "averageValue": autoscaling.target.active_sessions_per_pod.to_string()},
        }});
        // The SipEdge, not the StatefulSet: that one would lose pods without a drain.
        let target = json!({"apiVersion": crds::v1alpha1::API_VERSION, "kind": "SipEdge", "name": key.name});
        form(json!({"metadata": meta(key.name.clone()), "spec": {
            "scaleTargetRef": target, "minReplicas": autoscaling.min_replicas, "maxReplicas": autoscaling.max_replicas, "metrics": [metric],
        }}))
    });
    let open: Vec<Value> =
        spec.listeners.iter().map(|l| json!({"port": l.port, "protocol": transport(l.protocol)})).collect();
    let same = json!([{"podSelector": {"matchLabels": labels}}]);
    Ok(Workload {
        pods,
        headless: form(json!({"metadata": meta(headless), "spec": {
            "clusterIP": "None", "selector": labels, "publishNotReadyAddresses": true,
            "ports": [{"name": "mesh", "port": MESH_PORT, "protocol": "TCP"}],
        }}))?,
        ingress: ingress.transpose()?,
        budget: form(json!({"metadata": meta(key.name.clone()), "spec": {
            "maxUnavailable": max_unavailable, "selector": {"matchLabels": labels},
        }}))?,
        autoscaler: autoscaler.transpose()?,
        account: form(json!({"metadata": meta(key.name.clone()), "automountServiceAccountToken": false}))?,
        network: form(json!({"metadata": meta(key.name.clone()), "spec": {
            "podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": open},
                {"ports": [{"port": MESH_PORT, "protocol": "TCP"}], "from": same},
                {"ports": [{"port": HEALTH_PORT, "protocol": "TCP"}]},
            ],
        }}))?,
    })
}

/// The Secret with the keys that all edges of a SipEdge have in common. Made once and never changed by this: `octets` are 64 for the token key
/// and 32 for the naming key, from the operating system. It has no owner: without its keys nothing in the store can be read again.
#[must_use]
pub fn keys(edge: &ObjectKey, octets: &[u8; 96]) -> Secret {
    let ObjectKey { namespace, name } = keys_of(edge);
    let (token, naming) = octets.split_at(64);
    let data = [("0", token), (crds::core_v1::keys::NAMING, naming)];
    let value = |octets: &[u8]| k8s_openapi::ByteString(octets.to_vec());
    Secret {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            labels: Some(selector(edge)),
            ..Default::default()
        },
        data: Some(data.into_iter().map(|(key, octets)| (key.to_owned(), value(octets))).collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

fn form<T: DeserializeOwned>(value: Value) -> Result<T, Unmakeable> {
    serde_json::from_value(value).map_err(Unmakeable::Form)
}

fn transport(protocol: ListenerProtocol) -> &'static str {
    if protocol == ListenerProtocol::Udp { "UDP" } else { "TCP" }
}

fn service_port(listener: &Listener) -> Value {
    json!({
        "name": listener.name, "port": listener.port, "targetPort": listener.port, "protocol": transport(listener.protocol),
    })
}

fn template(key: &ObjectKey, edge: &SipEdge, installation: &Installation) -> Value {
    let spec = &edge.spec;
    let host = spec.network.mode == NetworkMode::HostNetwork;
    let labels = selector(key);
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let ports: Vec<Value> = spec.listeners.iter().map(|listener| {
        json!({"name": listener.name, "containerPort": listener.port, "protocol": transport(listener.protocol)})
    }).collect();
    let probe =
        |path: &str| json!({"httpGet": {"path": path, "port": HEALTH_PORT}, "periodSeconds": 2, "failureThreshold": 3});
    let container = json!({
        "name": "edge", "image": installation.image, "imagePullPolicy": installation.pull_policy,
        "args": [
            "--edge", key.to_string(), "--operator", installation.operator, "--operator-name", installation.operator_name,
            "--operator-ca", format!("{AUTHORITY_DIR}/ca.crt"), "--token", format!("{TOKEN_DIR}/token"),
            "--config-cache", format!("{STATE_DIR}/config"), "--config-cache-keys", KEYS_DIR,
            "--mesh-listen", format!("0.0.0.0:{MESH_PORT}"), "--mesh-advertise", format!("$(POD_IP):{MESH_PORT}"),
        ],
        "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"), field("POD_IP", "status.podIP"),
                field("HOST_IP", "status.hostIP"), {"name": "SIPMCP_HEALTH", "value": format!("0.0.0.0:{HEALTH_PORT}")}],
        "ports": ports,
        "readinessProbe": probe("/readyz"), "livenessProbe": probe("/healthz"),
        "lifecycle": {"preStop": {"sleep": {"seconds": spec.drain.settle_seconds}}},
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "token", "mountPath": TOKEN_DIR, "readOnly": true},
            {"name": "authority", "mountPath": AUTHORITY_DIR, "readOnly": true},
            {"name": "keys", "mountPath": KEYS_DIR, "readOnly": true},
            {"name": "state", "mountPath": STATE_DIR},
        ],
    });
    let near = json!({"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"});
    // With host network two edges on one node would want the same ports.
    let affinity = if host {
        json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}})
    } else {
        json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": near}]}})
    };
    let evict = spec.disruption.safe_to_evict == SafeToEvict::Always;
    let token = json!({"serviceAccountToken": {"path": "token", "audience": AUDIENCE, "expirationSeconds": 3600}});
    json!({
        "metadata": {
            "labels": labels,
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": evict.to_string()},
        },
        "spec": {
            "serviceAccountName": key.name, "automountServiceAccountToken": false, "enableServiceLinks": false,
            "hostNetwork": host, "terminationGracePeriodSeconds": spec.drain.grace_seconds(),
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "affinity": affinity,
            "containers": [container],
            "volumes": [
                {"name": "token", "projected": {"sources": [token]}},
                {"name": "authority", "configMap": {"name": installation.authority}},
                {"name": "keys", "secret": {"secretName": keys_of(key).name, "defaultMode": 0o440}},
                {"name": "state", "emptyDir": {"sizeLimit": format!("{STATE_MIB}Mi")}},
            ],
        },
    })
}

/// Strategic merge in the part that pods need: maps are merged, lists whose entries have a `name` are merged by it, everything else is
/// replaced, null removes.
fn merge(into: &mut Value, overlay: &Value) {
    match (into, overlay) {
        (Value::Object(into), Value::Object(overlay)) => {
            for (key, value) in overlay {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(into), Value::Array(overlay)) if overlay.iter().all(|entry| entry.get("name").is_some()) => {
            for entry in overlay {
                match into.iter_mut().find(|there| there.get("name") == entry.get("name")) {
                    Some(there) => merge(there, entry),
                    None => into.push(entry.clone()),
                }
            }
        }
        (into, overlay) => *into = overlay.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(spec: Value) -> SipEdge {
        let mut whole = json!({
            "network": {"mode": "LoadBalancer", "advertise": {"name": "sip.example"}},
            "listeners": [{"name": "sip-udp", "protocol": "UDP", "port": 5060}, {"name": "sips", "protocol": "TLS", "port": 5061,
                "tls": {"certificateRefs": [{"name": "c"}]}}],
            "insecure": true,
        });
        merge(&mut whole, &spec);
        let object = json!({"apiVersion": "sipmcp.dev/v1alpha1", "kind": "SipEdge",
            "metadata": {"name": "e", "namespace": "system", "uid": "u"}, "spec": whole});
        serde_json::from_value(object).unwrap()
    }

    fn made(spec: Value) -> Value {
        let installation = Installation {
            image: "edge:1".into(),
            pull_policy: "IfNotPresent".into(),
            operator: "https://10.0.0.1:8444".into(),
            operator_name: "sipmcp-operator".into(),
            authority: "sipmcp-ca".into(),
        };
        let workload = workload(&ObjectKey::new("system", "e"), &edge(spec), &installation, 3).unwrap();
        let pods = match &workload.pods {
            Pods::StatefulSet(set) => json!({"StatefulSet": set}),
            Pods::DaemonSet(set) => json!({"DaemonSet": set}),
        };
        json!({
            "pods": pods, "ingress": workload.ingress, "budget": workload.budget, "autoscaler": workload.autoscaler,
            "headless": workload.headless, "network": workload.network, "account": workload.account,
        })
    }

    #[test]
    fn pods_are_hardened_wait_for_their_drain_and_are_never_replaced_by_themselves() {
        let made = made(json!({}));
        let set = &made["pods"]["StatefulSet"]["spec"];
        assert_eq!((&set["updateStrategy"]["type"], &set["replicas"]), (&json!("OnDelete"), &json!(3)));
        let pod = &set["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], 60, "5 + 30 + 20 + 5");
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(
            (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["seccompProfile"]["type"]),
            (&json!(true), &json!("RuntimeDefault"))
        );
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
        assert_eq!(pod["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["audience"], AUDIENCE);
        assert_eq!(made["account"]["automountServiceAccountToken"], false);
        let args: Vec<_> = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        let given = |flag: &str| args[args.iter().position(|arg| *arg == flag).unwrap() + 1];
        let mounts = container["volumeMounts"].as_array().unwrap();
        for flag in ["--operator-ca", "--token", "--config-cache", "--config-cache-keys"] {
            let mounted = |mount: &Value| given(flag).starts_with(mount["mountPath"].as_str().unwrap());
            assert!(mounts.iter().any(mounted), "{flag}");
        }
        assert_eq!((given("--edge"), given("--mesh-advertise")), ("system/e", "$(POD_IP):7443"));
        assert_eq!(pod["volumes"][2]["secret"]["secretName"], "e-keys");
        // What an edge keeps, and what it writes in its place: a volume beyond its limit ends the pod.
        let state = &pod["volumes"][3];
        let limit = state["emptyDir"]["sizeLimit"].as_str().unwrap().strip_suffix("Mi").unwrap();
        let octets = limit.parse::<usize>().unwrap() << 20;
        assert!(state["name"] == "state" && octets > 2 * edge_api::MAX_KEPT, "{state}");
    }

    #[test]
    fn the_source_address_is_kept_and_nobody_is_bound_to_a_pod() {
        let service = made(json!({}))["ingress"]["spec"].clone();
        assert_eq!((&service["externalTrafficPolicy"], &service["sessionAffinity"]), (&json!("Local"), &json!("None")));
        assert_eq!(
            (&service["ports"][0]["protocol"], &service["ports"][1]["protocol"]),
            (&json!("UDP"), &json!("TCP"))
        );
        assert_eq!(
            made(json!({"network": {"mode": "ClusterIP"}}))["ingress"]["spec"].get("externalTrafficPolicy"),
            None
        );
        let host = made(json!({"network": {"mode": "HostNetwork"}, "workload": {"kind": "DaemonSet"}}));
        assert_eq!(host["ingress"], Value::Null);
        let pod = &host["pods"]["DaemonSet"]["spec"]["template"]["spec"];
        assert_eq!(pod["hostNetwork"], true);
        assert!(pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].is_array());
    }

    #[test]
    fn disruption_autoscaling_and_overlay_have_their_effect() {
        let made = made(json!({
            "disruption": {"safeToEvict": "Never"},
            "autoscaling": {"minReplicas": 3, "maxReplicas": 20, "target": {"activeSessionsPerPod": 800}},
            "overlay": {"spec": {"priorityClassName": "high", "containers": [{"name": "edge", "resources": {"limits": {"memory": "1Gi"}}},
                {"name": "side", "image": "x"}]}},
        }));
        assert_eq!(made["budget"]["spec"]["maxUnavailable"], 0);
        assert_eq!(made["autoscaler"]["spec"]["scaleTargetRef"]["kind"], "SipEdge");
        let template = &made["pods"]["StatefulSet"]["spec"]["template"];
        assert_eq!(template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"], "false");
        let pod = &template["spec"];
        assert_eq!(pod["priorityClassName"], "high");
        assert_eq!(
            (&pod["containers"][0]["image"], &pod["containers"][0]["resources"]["limits"]["memory"]),
            (&json!("edge:1"), &json!("1Gi"))
        );
        assert_eq!(pod["containers"][1]["name"], "side");
    }

    #[test]
    fn what_an_autoscaler_and_a_budget_are_told_is_what_the_manifest_says() {
        for (least, most, sessions) in [(2, 20, 800), (3, 7, 50)] {
            let target = json!({"activeSessionsPerPod": sessions});
            let scaled = json!({"autoscaling": {"minReplicas": least, "maxReplicas": most, "target": target}});
            let spec = made(scaled)["autoscaler"]["spec"].clone();
            assert_eq!((&spec["minReplicas"], &spec["maxReplicas"]), (&json!(least), &json!(most)));
            let [metric] = &spec["metrics"].as_array().unwrap()[..] else { panic!("{spec}") };
            assert_eq!(metric["type"], "Pods");
            assert_eq!(metric["pods"]["metric"]["name"], "sipmcp_edge_sessions");
            let wanted = json!({"type": "AverageValue", "averageValue": sessions.to_string()});
            assert_eq!(metric["pods"]["target"], wanted);
        }
        assert_eq!(made(json!({}))["autoscaler"], Value::Null);
        let budget = |spec: Value| made(spec)["budget"]["spec"]["maxUnavailable"].clone();
        assert_eq!(budget(json!({})), 1);
        for most in [1, 3] {
            assert_eq!(budget(json!({"disruption": {"maxUnavailable": most}})), most);
            let never = json!({"disruption": {"safeToEvict": "Never", "maxUnavailable": most}});
            assert_eq!(budget(never), 0, "Never is stronger");
        }
    }

    #[test]
    fn the_keys_are_good_for_the_edge() {
        let secret = keys(&ObjectKey::new("system", "e"), &[7; 96]);
        let data = secret.data.unwrap().into_iter().map(|(key, value)| (key, crds::core_v1::SecretBytes::new(value.0)));
        let read = crds::core_v1::Secret {
            name: "e-keys".into(),
            namespace: "system".into(),
            type_: "Opaque".into(),
            data: data.collect(),
        };
        assert_eq!(crds::core_v1::keys::token_keys(&read).unwrap()[0].kid, 0);
        assert!(crds::core_v1::keys::naming_key(&read).unwrap().is_some());
    }
}
