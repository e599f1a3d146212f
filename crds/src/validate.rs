//! The rules beyond the schema's types and bounds.
//!
//! Per object ([`domain`], [`edge`], [`agent`], [`policy`], [`store`]): what the CEL rules of the schema say, in Rust and with an advice, and what
//! CEL cannot say (IP addresses, sockets). Over a whole set of objects: [`references::settle`]. A test keeps the CEL rules and these
//! functions in step.

use crate::manifest::ObjectKey;
use crate::policy::compile;
use crate::v1alpha1::{
    Action, AdvertiseFrom, BackendKind, CapabilitySource, Listener, ListenerProtocol, McpAgentSpec,
    McpCapabilityPolicySpec, McpHttp, SipDomainSpec, SipEdgeSpec,
};
use std::net::IpAddr;

pub mod references;
mod store;

pub use store::store;

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
    }
    let drain = &spec.drain;
    let total = u64::from(drain.settle_seconds) + u64::from(drain.in_flight_seconds) + u64::from(drain.dialog_seconds);
    if total > 86_400 {
        findings.push(finding(
            "spec.drain",
            format!("the three phases together take {total} s; at most 86400 are allowed"),
        ));
    }
    findings
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
    findings
}

fn mcp_http(http: &McpHttp, findings: &mut Vec<Finding>) {
    let field = "spec.backend.mcpHttp";
    if http.tls.is_some() && !http.url.starts_with("https://") {
        findings.push(finding(format!("{field}.tls"), "needs an https:// url; change the url or remove tls"));
    }
    let rest = http.url.split_once("://").map_or("", |(_, rest)| rest);
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
