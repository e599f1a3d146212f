//! Where the Services of backends answer, as an operator says: connections go straight to what is ready there, so an edge needs neither DNS nor
//! a virtual address, and no pod that is gone is tried (REG-9).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crds::manifest::{ObjectKey, Snapshot};
use crds::v1alpha1::BackendKind;
use serde::Deserialize;

/// Addresses that are ready, by port of the Service.
pub type Endpoints = BTreeMap<u16, Vec<SocketAddr>>;

/// As it travels.
#[derive(Deserialize)]
struct Service {
    ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Port {
    port: u16,
    addresses: Vec<SocketAddr>,
}

/// # Errors
/// It has another form.
pub fn read(json: &[u8]) -> Result<Endpoints, serde_json::Error> {
    let service: Service = serde_json::from_slice(json)?;
    Ok(service.ports.into_iter().map(|Port { port, addresses }| (port, addresses)).collect())
}

/// Where connections to the backend of each agent go; a Service without anything ready has no addresses. An agent is missing where its backend
/// is given by a URL, and where nobody knows its Service: then the name is looked up.
#[must_use]
pub fn routes(objects: &Snapshot, services: &BTreeMap<ObjectKey, Endpoints>) -> BTreeMap<String, Vec<SocketAddr>> {
    let route = |(key, agent): (&ObjectKey, &crds::manifest::Sourced<crds::v1alpha1::McpAgent>)| {
        let Some(BackendKind::McpHttp(http)) = agent.spec.backend.kind() else { return None };
        let reference = http.service_ref.as_ref()?;
        let ports = services.get(&ObjectKey::new(&*key.namespace, &*reference.name))?;
        Some((key.to_string(), ports.get(&reference.port).cloned().unwrap_or_default()))
    };
    objects.agents.iter().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::manifest::{Origin, Sourced};
    use serde_json::json;
    use std::sync::Arc;

    fn agent(name: &str, backend: serde_json::Value) -> (ObjectKey, Sourced<crds::v1alpha1::McpAgent>) {
        let spec = json!({"address": {"user": name, "domainRef": {"name": "d"}}, "backend": {"mcpHttp": backend}, "capabilities": {}});
        let metadata = json!({"name": name, "namespace": "acme"});
        let object =
            json!({"apiVersion": "sipmcp.dev/v1alpha1", "kind": "McpAgent", "metadata": metadata, "spec": spec});
        let object = Arc::new(serde_json::from_value(object).unwrap());
        (ObjectKey::new("acme", name), Sourced { object, origin: Arc::new(Origin::api()) })
    }

    #[test]
    fn reg_9_a_backend_is_where_its_service_is_ready() {
        let json = json!({"ports": [{"port": 80, "addresses": ["10.0.0.1:8080", "[fd00::1]:8080"]}, {"port": 81, "addresses": []}]});
        let services = BTreeMap::from([(ObjectKey::new("acme", "mcp"), read(json.to_string().as_bytes()).unwrap())]);
        let to = |name: &str, port: u16| json!({"serviceRef": {"name": name, "port": port}});
        let agents = [
            agent("ready", to("mcp", 80)),
            agent("empty", to("mcp", 81)),
            agent("other-port", to("mcp", 82)),
            agent("unknown", to("gone", 80)),
            agent("outside", json!({"url": "https://outside.example/mcp"})),
        ];
        let objects = Snapshot { agents: agents.into(), ..Snapshot::default() };
        let routes = routes(&objects, &services);
        assert_eq!(
            routes["acme/ready"],
            ["10.0.0.1:8080", "[fd00::1]:8080"].map(|address| address.parse::<SocketAddr>().unwrap())
        );
        assert_eq!((routes["acme/empty"].len(), routes["acme/other-port"].len(), routes.len()), (0, 0, 3));
    }

    #[test]
    fn another_form_is_refused() {
        for wrong in [
            "",
            "{}",
            r#"{"ports": [{"port": 70000, "addresses": []}]}"#,
            r#"{"ports": [{"port": 1, "addresses": ["a"]}]}"#,
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
