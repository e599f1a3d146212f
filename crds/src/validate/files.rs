//! What has a meaning only where Kubernetes is, and so is refused in manifests that an edge reads from files.

use super::{Finding, finding};
use crate::v1alpha1::{AdvertiseFrom, McpAgentSpec, NAMESPACE_NAME_LABEL, SipDomainSpec, SipEdgeSpec};

/// Of an `McpAgent`: a Service.
pub fn agent(spec: &McpAgentSpec) -> Vec<Finding> {
    let service = spec.backend.mcp_http.as_ref().and_then(|http| http.service_ref.as_ref());
    let message = "a Service cannot be resolved from files; use url: with the address of the MCP endpoint";
    service.map(|_| finding("spec.backend.mcpHttp.serviceRef", message)).into_iter().collect()
}

/// Of a `SipEdge`: addresses that only a node or a Service has.
pub fn edge(spec: &SipEdgeSpec) -> Vec<Finding> {
    let from = spec.network.advertise.from.filter(|from| *from != AdvertiseFrom::Static);
    let message = |from: AdvertiseFrom| {
        format!("{} is known in Kubernetes only; in files use from: Static with address, or name", from.as_str())
    };
    from.map(|from| finding("spec.network.advertise.from", message(from))).into_iter().collect()
}

/// Of a `SipDomain`: labels of namespaces, except their names.
pub fn domain(spec: &SipDomainSpec) -> Vec<Finding> {
    let keys = spec.allowed_namespaces.selector.iter().flat_map(|selector| selector.keys());
    let unknown = keys.filter(|key| *key != NAMESPACE_NAME_LABEL);
    unknown
        .map(|key| {
            let message =
                format!("labels of namespaces are not known from files ({key:?}); select by {NAMESPACE_NAME_LABEL}");
            finding("spec.allowedNamespaces.selector", message)
        })
        .collect()
}
