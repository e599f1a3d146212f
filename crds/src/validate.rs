//! The rules beyond the schema's types and bounds.
//!
//! Per object ([`domain`], [`edge`], [`agent`], [`policy`], [`store`]): what the CEL rules of the schema say, in Rust and with an advice, and what
//! CEL cannot say (IP addresses, sockets). What has a meaning in Kubernetes only: [`files`]. Over a whole set of objects: [`references::judge`]. A test keeps the CEL rules and these
//! functions in step.

use crate::manifest::ObjectKey;
use crate::policy::compile;
use crate::v1alpha1::{
    Action, AdvertiseFrom, Allowed, AllowedFrom, Autoscaling, BackendKind, CapabilitySource, DrainStrategy,
    LabelOperator, Listener, ListenerProtocol, McpAgentSpec, McpCapabilityPolicySpec, McpHttp, NetworkMode, OnFailover,
    Overlay, Phase, SessionLimits, SipDomainSpec, SipEdgeSpec, ToolEffect, WorkloadKind,
};
use std::net::IpAddr;

mod age;
pub mod files;
pub mod references;
mod store;
mod verdict;

pub use store::store;
pub use verdict::{ObjectRef, Verdict};

/// A broken rule in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path of the field, for example `spec.listeners[0].tls`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

fn finding(field: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { field: field.into(), message: message.into() }
}

/// Rules of a `SipDomain`.
pub fn domain(spec: &SipDomainSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    if spec.domain.split('.').any(|label| label.len() > 63) {
        findings
            .push(finding("spec.domain", "has a label of more than 63 characters, so it is no DNS name; shorten it"));
    }
    allowed("spec.allowedNamespaces", &spec.allowed_namespaces, &mut findings);
    store::retention("spec.dataProtection.retention", &spec.data_protection.retention, &mut findings);
    findings
}

/// Rules of a `SipEdge`.
pub fn edge(spec: &SipEdgeSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    let advertise = &spec.network.advertise;
    if advertise.name.is_some() == advertise.from.is_some() {
        findings.push(finding("spec.network.advertise", "give exactly one of name and from"));
    }
    if (advertise.from == Some(AdvertiseFrom::Static)) != advertise.address.is_some() {
        findings.push(finding("spec.network.advertise", "from: Static needs address, and address needs from: Static"));
    }
    match (spec.network.mode, advertise.from) {
        (NetworkMode::ClusterIP, Some(AdvertiseFrom::NodeExternalIP)) => {
            let message =
                "nobody outside reaches a Service of mode ClusterIP: choose another mode, or from: ServiceAddress";
            findings.push(finding("spec.network", message));
        }
        (NetworkMode::HostNetwork, Some(AdvertiseFrom::ServiceAddress)) => {
            let message =
                "mode HostNetwork has no Service address: use from: NodeExternalIP or NodeInternalIP, or a name";
            findings.push(finding("spec.network", message));
        }
        _ => {}
    }
    workload(spec, &mut findings);
    if let Some(address) = &advertise.address {
        match address.parse::<IpAddr>() {
            Err(_) => {
                let message = format!("{address:?} is no IP address; for a host name use advertise.name");
                findings.push(finding("spec.network.advertise.address", message));
            }
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                let message = format!("no peer can reach {ip}; give the address at which peers see the edge");
                findings.push(finding("spec.network.advertise.address", message));
            }
            Ok(_) => {}
        }
    }
    for (index, listener) in spec.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{index}]");
        let protocol = listener.protocol.as_str();
        match (listener.protocol.is_secure(), &listener.tls) {
            (true, None) => findings.push(finding(&field, format!("{protocol} needs tls with certificateRefs"))),
            (false, Some(_)) => findings.push(finding(
                format!("{field}.tls"),
                format!("{protocol} has no TLS; remove tls, or use protocol TLS or WSS"),
            )),
            _ => {}
        }
        if !listener.protocol.is_secure() && !spec.insecure {
            let message = format!("{protocol} is a plain transport: set spec.insecure: true, or use TLS or WSS");
            findings.push(finding(format!("{field}.protocol"), message));
        }
        if listener.bind_address().is_none() {
            let address = listener.address.as_deref().unwrap_or_default();
            let message = format!("{address:?} is no IP address; give one of this machine, or leave it out for all");
            findings.push(finding(format!("{field}.address"), message));
        }
        if let Some(other) = spec.listeners[..index].iter().find(|other| same_socket(other, listener)) {
            let message = format!("port {} is taken by listener {:?}; choose another", listener.port, other.name);
            findings.push(finding(format!("{field}.port"), message));
        }
        allowed(&format!("{field}.allowedDomains"), &listener.allowed_domains, &mut findings);
    }
    if spec.listeners.iter().any(|listener| listener.allowed_domains != spec.listeners[0].allowed_domains) {
        let message = "an edge does not tell its listeners apart, so all need the same allowedDomains; make a SipEdge of its own \
            for listeners of other domains";
        findings.push(finding("spec.listeners", message));
    }
    let drain = &spec.drain;
    if drain.strategy == DrainStrategy::WaitForEnd && drain.in_flight_seconds > drain.dialog_seconds() {
        let message = format!(
            "is less than inFlightSeconds ({}): with strategy WaitForEnd dialogs would end before the calls in them",
            drain.in_flight_seconds
        );
        findings.push(finding("spec.drain.dialogSeconds", message));
    }
    let total = drain.total_seconds();
    if total > 86_400 {
        findings.push(finding(
            "spec.drain",
            format!("the three phases together take {total} s; at most 86400 are allowed"),
        ));
    }
    findings
}

/// How many edges there are, and what that needs.
fn workload(spec: &SipEdgeSpec, findings: &mut Vec<Finding>) {
    let every_node = spec.workload.kind == WorkloadKind::DaemonSet;
    if every_node && (spec.autoscaling.is_some() || spec.replicas.is_some()) {
        let message = "a DaemonSet has one edge per node: remove replicas and autoscaling, or use a StatefulSet";
        findings.push(finding("spec.workload", message));
    }
    if let Some(Autoscaling { min_replicas, max_replicas, .. }) = &spec.autoscaling
        && min_replicas > max_replicas
    {
        let message = format!("is {min_replicas}, more than maxReplicas ({max_replicas})");
        findings.push(finding("spec.autoscaling.minReplicas", message));
    }
    let several = every_node || spec.autoscaling.is_some() || spec.replicas.is_some_and(|replicas| replicas > 1);
    if several && spec.session_store_ref.is_none() {
        findings.push(finding("spec.sessionStoreRef", "is missing: more than one edge needs a shared store"));
    }
    if let Some(Overlay(overlay)) = &spec.overlay {
        let bytes = serde_json::to_vec(overlay).map_or(usize::MAX, |json| json.len());
        if bytes > Overlay::MAX_BYTES {
            let message = format!("has {bytes} bytes of JSON; at most {} are allowed", Overlay::MAX_BYTES);
            findings.push(finding("spec.overlay", message));
        }
    }
}

/// Rules of who is allowed.
fn allowed(field: &str, allowed: &Allowed, findings: &mut Vec<Finding>) {
    if (allowed.from == AllowedFrom::Selector) != allowed.selector.is_some() {
        let message = "from: Selector needs selector, and selector needs from: Selector";
        findings.push(finding(field, message));
    }
    for (index, requirement) in allowed.selector.iter().flat_map(|s| s.match_expressions.iter().enumerate()) {
        let field = format!("{field}.selector.matchExpressions[{index}]");
        if matches!(requirement.operator, LabelOperator::In | LabelOperator::NotIn) == requirement.values.is_empty() {
            findings.push(finding(field, "In and NotIn need values; Exists and DoesNotExist must not have them"));
        }
    }
    for key in allowed.selector.iter().flat_map(|selector| selector.keys()).filter(|key| !is_label_key(key)) {
        let message =
            format!("{key:?} is no label name: write `name` or `dns.prefix/name`, the name with at most 63 characters");
        findings.push(finding(format!("{field}.selector"), message));
    }
}

/// The name of a label (Kubernetes "qualified name").
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let end = |c: char| c.is_ascii_alphanumeric();
    let in_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let in_prefix = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    (1..=63).contains(&name.len())
        && name.starts_with(end)
        && name.ends_with(end)
        && name.chars().all(in_name)
        && prefix.is_none_or(|p| {
            (1..=253).contains(&p.len()) && p.chars().all(in_prefix) && p.starts_with(end) && p.ends_with(end)
        })
}

/// True where both listeners would bind one socket: same transport, same port, and addresses that overlap.
fn same_socket(a: &Listener, b: &Listener) -> bool {
    let datagram = |listener: &Listener| listener.protocol == ListenerProtocol::Udp;
    let (Some(first), Some(second)) = (a.bind_address(), b.bind_address()) else { return false };
    let overlap =
        first == second || (first.is_ipv4() == second.is_ipv4() && (first.is_unspecified() || second.is_unspecified()));
    datagram(a) == datagram(b) && a.port == b.port && overlap
}

/// Rules of an `McpAgent`.
pub fn agent(spec: &McpAgentSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    match spec.backend.kind() {
        None => findings.push(finding("spec.backend", "give exactly one of mcpHttp and sipContact")),
        Some(BackendKind::McpHttp(http)) => mcp_http(http, &mut findings),
        Some(BackendKind::SipContact(_)) => {}
    }
    if spec.registration.is_some() && spec.backend.sip_contact.is_none() {
        let message = "is for backend.sipContact: an MCP server over HTTP does not register; remove it";
        findings.push(finding("spec.registration", message));
    }
    if spec.backend.sip_contact.is_some() && spec.capabilities.source == CapabilitySource::Discovered {
        let message =
            "an agent that registers itself may advertise only what is declared (SEC-5): use Declared or Intersect";
        findings.push(finding("spec.capabilities.source", message));
    }
    if let Some(registration) = &spec.registration
        && let Some(seconds) = registration.expires_seconds
        && !registration.profile.seconds().contains(&seconds)
    {
        let range = registration.profile.seconds();
        let name = registration.profile.as_str();
        let message = format!("is {seconds}; profile {name} allows {} to {}", range.start(), range.end());
        findings.push(finding("spec.registration.expiresSeconds", message));
    }
    session(&spec.session, &mut findings);
    in_flight(spec, &mut findings);
    findings
}

fn session(session: &SessionLimits, findings: &mut Vec<Finding>) {
    for (name, length) in [("idleTimeout", &session.idle_timeout), ("maxDuration", &session.max_duration)] {
        if let Some(length) = length {
            store::lifetime(&format!("spec.session.{name}"), length, findings);
        }
    }
    if let (Some(idle), Some(longest)) = (&session.idle_timeout, &session.max_duration)
        && idle.seconds() > longest.seconds()
    {
        let message = format!("is longer than maxDuration ({}); lower it", longest.as_str());
        findings.push(finding("spec.session.idleTimeout", message));
    }
}

fn in_flight(spec: &McpAgentSpec, findings: &mut Vec<Finding>) {
    for (index, named) in spec.in_flight.tools.iter().enumerate() {
        let declared = spec.capabilities.tools.iter().find(|tool| tool.name == named.name);
        if spec.capabilities.source == CapabilitySource::Declared && declared.is_none() {
            let message =
                format!("capabilities.tools does not declare {:?}; add it there or remove it here", named.name);
            findings.push(finding(format!("spec.inFlight.tools[{index}].name"), message));
        }
        let repeatable = declared.is_some_and(|tool| tool.effect != ToolEffect::Destructive);
        if named.on_failover == OnFailover::Replay && !repeatable {
            let message = format!(
                "Replay runs {:?} a second time: declare it ReadOnly or Idempotent in capabilities.tools, or use TaskOnly or FailRetryable",
                named.name
            );
            findings.push(finding(format!("spec.inFlight.tools[{index}].onFailover"), message));
        }
    }
}

fn mcp_http(http: &McpHttp, findings: &mut Vec<Finding>) {
    let field = "spec.backend.mcpHttp";
    if http.url.is_some() == http.service_ref.is_some() {
        findings.push(finding(field, "give exactly one of serviceRef and url"));
    }
    if http.path.is_some() && http.service_ref.is_none() {
        findings.push(finding(format!("{field}.path"), "is for serviceRef; put the path into the url"));
    }
    let Some(url) = &http.url else { return };
    if http.tls.is_some() && !url.starts_with("https://") {
        findings.push(finding(format!("{field}.tls"), "needs an https:// url; change the url or remove tls"));
    }
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        let message = "has a user or password in it; put a token into a Secret and name it in credentialRef";
        findings.push(finding(format!("{field}.url"), message));
        return;
    }
    let port = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                findings.push(finding(format!("{field}.url"), format!("[{address}] is no IPv6 address")));
            }
            after.strip_prefix(':')
        }
        None => authority.split_once(':').map(|(_, port)| port),
    };
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        findings.push(finding(format!("{field}.url"), "has no valid port; allowed is 1 to 65535"));
    }
}

/// Methods whose `params` name something.
const METHODS_WITH_PARAMS: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// Methods whose calls have `arguments`.
const METHODS_WITH_ARGUMENTS: [&str; 2] = ["tools/call", "prompts/get"];

/// Rules of an `McpCapabilityPolicy`: those of the schema, and everything that keeps it from compiling.
pub fn policy(key: &ObjectKey, spec: &McpCapabilityPolicySpec) -> Vec<Finding> {
    let mut findings = schema_rules_of_policy(spec);
    if let Err(errors) = compile(key, spec) {
        // The compiler knows the same rules; what was said with an advice is not said twice.
        let news: Vec<_> = errors.into_iter().filter(|error| findings.iter().all(|f| f.field != error.field)).collect();
        findings.extend(news);
    }
    findings
}

fn schema_rules_of_policy(spec: &McpCapabilityPolicySpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    if spec.target_refs.iter().any(|target| target.kind != spec.target_refs[0].kind) {
        findings.push(finding("spec.targetRefs", "has more than one kind; make one policy per kind"));
    }
    if spec.default_action == Action::Deny
        && !spec.rules.is_empty()
        && spec.rules.iter().all(|r| r.action == Action::Deny)
    {
        let message =
            "only Deny rules under defaultAction Deny change nothing: add an Allow rule, or set defaultAction: Allow";
        findings.push(finding("spec.rules", message));
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        if rule.when.is_some() {
            if rule.phases.contains(&Phase::List) {
                let message = "is for phase Call only: write phases: [Call], and a rule of its own for List";
                findings.push(finding(format!("{field}.when"), message));
            }
            let have_arguments = rule.methods.iter().all(|m| METHODS_WITH_ARGUMENTS.contains(&m.name.as_str()));
            if rule.methods.is_empty() || !have_arguments {
                let message =
                    format!("needs methods, of which only {} have arguments", METHODS_WITH_ARGUMENTS.join(" and "));
                findings.push(finding(format!("{field}.when"), message));
            }
        }
        if let Some(limits) = &rule.limits {
            if rule.action != Action::Allow || !rule.phases.contains(&Phase::Call) {
                let message = "are for Allow rules of phase Call; remove them, or change the rule";
                findings.push(finding(format!("{field}.limits"), message));
            }
            if limits.calls_per_minute.is_none() && limits.concurrent.is_none() {
                findings.push(finding(format!("{field}.limits"), "give at least one of callsPerMinute and concurrent"));
            }
        }
        for (index, caller) in rule.from.iter().enumerate() {
            if caller.sip_identity.is_some() == caller.anonymous.is_some() {
                let message = "give exactly one of sipIdentity and anonymous; make one entry per caller";
                findings.push(finding(format!("{field}.from[{index}]"), message));
            }
        }
        for (index, method) in rule.methods.iter().enumerate() {
            if !method.params.is_empty() && !METHODS_WITH_PARAMS.contains(&method.name.as_str()) {
                let message = format!("only {} take params; {} does not", METHODS_WITH_PARAMS.join(", "), method.name);
                findings.push(finding(format!("{field}.methods[{index}].params"), message));
            }
        }
    }
    findings
}
