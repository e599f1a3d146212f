//! Ready endpoints of Services, from the Services and their EndpointSlices.
//!
//! A Service names its ports; its slices give a port number to each name and list the addresses. What an edge is told is already put together:
//! for each port of the Service, where a connection may go.

use crate::index::key_of;
use crds::manifest::ObjectKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Label of a slice: the name of its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// Services and slices that are known. One more has no endpoints.
pub const MAX_SERVICES: usize = 32_768;
pub const MAX_SLICES: usize = 65_536;
/// Addresses of one Service that an edge is told.
pub const MAX_ADDRESSES: usize = 1024;

/// By the port of the Service.
pub type Endpoints = BTreeMap<u16, BTreeSet<SocketAddr>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Backends {
    /// Port → its name; empty where it has none.
    services: BTreeMap<ObjectKey, BTreeMap<u16, String>>,
    /// Services whose names lead elsewhere, which no slice tells: edges look them up.
    elsewhere: BTreeSet<ObjectKey>,
    slices: BTreeMap<ObjectKey, Slice>,
    /// Names of the slices of each Service, in its namespace.
    of_service: BTreeMap<ObjectKey, BTreeSet<String>>,
    services_listed: bool,
    slices_listed: bool,
    /// Namespaces where Services may not be listed (`None`: all of them), so none that is missing there is surely not there.
    hidden: BTreeSet<Option<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Slice {
    service: String,
    ports: BTreeMap<String, u16>,
    ready: BTreeSet<IpAddr>,
}

impl Backends {
    /// A new or changed Service. Returns it where its endpoints may be others now.
    pub fn apply_service(&mut self, service: &Service) -> Option<ObjectKey> {
        let key = key_of(&service.metadata);
        if service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName")) {
            let there = self.services.remove(&key).is_some();
            let new = self.elsewhere.len() < MAX_SERVICES && self.elsewhere.insert(key.clone());
            return (there || new).then_some(key);
        }
        let moved = self.elsewhere.remove(&key);
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let ports: BTreeMap<u16, String> =
            ports.filter_map(|port| Some((number(port.port)?, port.name.clone().unwrap_or_default()))).collect();
        (put(&mut self.services, &key, ports, MAX_SERVICES) || moved).then_some(key)
    }

    pub fn delete_service(&mut self, key: &ObjectKey) -> Option<ObjectKey> {
        let there = self.services.remove(key).is_some();
        (self.elsewhere.remove(key) || there).then(|| key.clone())
    }

    /// A new or changed slice. Returns the Services whose endpoints may be others now.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) -> BTreeSet<ObjectKey> {
        let key = key_of(&slice.metadata);
        let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE)) else {
            return self.delete_slice(&key);
        };
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        let ports = ports.filter_map(|port| Some((port.name.clone().unwrap_or_default(), number(port.port?)?)));
        let serves = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
            // Nothing said means ready.
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
        };
        let ready = slice.endpoints.iter().flatten().filter(serves).flat_map(|endpoint| &endpoint.addresses);
        let new = Slice {
            service: service.clone(),
            ports: ports.collect(),
            // An address of type FQDN is none.
            ready: ready.filter_map(|address| address.parse().ok()).take(MAX_ADDRESSES).collect(),
        };
        if self.slices.get(&key) == Some(&new) {
            return BTreeSet::new();
        }
        let mut changed = self.delete_slice(&key);
        let of = ObjectKey::new(&*key.namespace, service);
        if put(&mut self.slices, &key, new, MAX_SLICES) {
            self.of_service.entry(of.clone()).or_default().insert(key.name);
            changed.insert(of);
        }
        changed
    }

    pub fn delete_slice(&mut self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        let Some(slice) = self.slices.remove(key) else { return BTreeSet::new() };
        let of = ObjectKey::new(&*key.namespace, slice.service);
        if let Some(names) = self.of_service.get_mut(&of) {
            names.remove(&key.name);
            if names.is_empty() {
                self.of_service.remove(&of);
            }
        }
        [of].into()
    }

    /// Services, and slices, of a namespace or of all.
    #[must_use]
    pub fn services_in(&self, namespace: Option<&str>) -> Vec<ObjectKey> {
        within(self.services.keys().chain(&self.elsewhere), namespace)
    }

    #[must_use]
    pub fn slices_in(&self, namespace: Option<&str>) -> Vec<ObjectKey> {
        within(self.slices.keys(), namespace)
    }

    /// The Services, or the slices, were listed: what is not here is not there. True where both are, for the first time.
    pub fn listed(&mut self, services: bool) -> bool {
        let before = self.services_listed && self.slices_listed;
        *(if services { &mut self.services_listed } else { &mut self.slices_listed }) = true;
        !before && self.services_listed && self.slices_listed
    }

    /// Services may not be listed in a namespace; `None`: in none.
    pub fn hide(&mut self, namespace: Option<&str>) {
        self.hidden.insert(namespace.map(str::to_owned));
    }

    /// They may, here; `None`: everywhere that is watched.
    pub fn show(&mut self, namespace: Option<&str>) {
        match namespace {
            Some(_) => drop(self.hidden.remove(&namespace.map(str::to_owned))),
            None => self.hidden.clear(),
        }
    }

    /// True where every Service is known, so that one which is not here is not there.
    #[must_use]
    pub fn are_known(&self) -> bool {
        let room = self.services.len() < MAX_SERVICES && self.elsewhere.len() < MAX_SERVICES;
        self.services_listed && self.hidden.is_empty() && room
    }

    /// Whether a Service's name leads elsewhere (`ExternalName`).
    #[must_use]
    pub fn leads_elsewhere(&self, service: &ObjectKey) -> bool {
        self.elsewhere.contains(service)
    }

    /// Where connections to a Service may go; a port without a ready endpoint has none. `None`: there is no such Service, or its
    /// name leads elsewhere.
    #[must_use]
    pub fn endpoints(&self, service: &ObjectKey) -> Option<Endpoints> {
        let ports = self.services.get(service)?;
        let names = self.of_service.get(service).into_iter().flatten();
        let slices: Vec<&Slice> =
            names.filter_map(|name| self.slices.get(&ObjectKey::new(&*service.namespace, name))).collect();
        let places = |name: &String| -> BTreeSet<SocketAddr> {
            let of_slice = |slice: &&Slice| {
                let port = slice.ports.get(name).copied();
                let ready = slice.ready.clone();
                port.into_iter()
                    .flat_map(move |port| ready.clone().into_iter().map(move |ip| SocketAddr::new(ip, port)))
            };
            slices.iter().flat_map(of_slice).take(MAX_ADDRESSES).collect()
        };
        Some(ports.iter().map(|(port, name)| (*port, places(name))).collect())
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn put<T: PartialEq>(into: &mut BTreeMap<ObjectKey, T>, key: &ObjectKey, new: T, most: usize) -> bool {
    if into.get(key) == Some(&new) || (into.len() >= most && !into.contains_key(key)) {
        return false;
    }
    into.insert(key.clone(), new);
    true
}

fn within<'a>(keys: impl Iterator<Item = &'a ObjectKey>, namespace: Option<&str>) -> Vec<ObjectKey> {
    keys.filter(|key| namespace.is_none_or(|namespace| key.namespace == namespace)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        let ports = json!([{"name": "mcp", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        serde_json::from_value(json!({"metadata": {"name": "billing", "namespace": "acme"}, "spec": {"ports": ports}}))
            .unwrap()
    }

    fn slice(name: &str, ready: &[(&str, bool)]) -> EndpointSlice {
        let endpoints: Vec<_> =
            ready.iter().map(|(ip, ready)| json!({"addresses": [ip], "conditions": {"ready": ready}})).collect();
        let labels = json!({SERVICE: "billing"});
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "acme", "labels": labels},
            "addressType": "IPv4", "ports": [{"name": "mcp", "port": 8080}], "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn key() -> ObjectKey {
        ObjectKey::new("acme", "billing")
    }

    fn told(backends: &Backends) -> Vec<String> {
        let endpoints = backends.endpoints(&key()).unwrap();
        endpoints.into_iter().flat_map(|(port, to)| to.into_iter().map(move |to| format!("{port} {to}"))).collect()
    }

    #[test]
    fn the_port_of_the_service_leads_to_the_ready_addresses_of_all_its_slices() {
        let mut backends = Backends::default();
        assert_eq!(backends.apply_slice(&slice("s1", &[("10.0.0.2", true), ("10.0.0.3", false)])), [key()].into());
        assert_eq!(backends.endpoints(&key()), None, "no Service yet");
        assert_eq!(backends.apply_service(&service()), Some(key()));
        assert_eq!(backends.apply_service(&service()), None);
        backends.apply_slice(&slice("s2", &[("10.0.0.1", true)]));
        assert_eq!(told(&backends), ["80 10.0.0.1:8080", "80 10.0.0.2:8080"]);
        assert!(backends.apply_slice(&slice("s2", &[("10.0.0.1", true)])).is_empty());
        assert_eq!(backends.apply_slice(&slice("s1", &[("10.0.0.2", false)])), [key()].into());
        assert_eq!(backends.delete_slice(&ObjectKey::new("acme", "s2")), [key()].into());
        assert!(told(&backends).is_empty());
        assert_eq!(backends.slices_in(Some("acme")).len(), 1);
        assert!(backends.services_in(Some("elsewhere")).is_empty());
        backends.delete_slice(&ObjectKey::new("acme", "s1"));
        assert!(backends.of_service.is_empty(), "what nobody needs takes no room");
    }

    #[test]
    fn a_service_whose_name_leads_elsewhere_is_looked_up() {
        let mut backends = Backends::default();
        backends.apply_service(&service());
        let mut elsewhere = service();
        elsewhere.spec.as_mut().unwrap().type_ = Some("ExternalName".to_owned());
        assert_eq!(backends.apply_service(&elsewhere), Some(key()));
        assert_eq!((backends.endpoints(&key()), backends.apply_service(&elsewhere)), (None, None));
        assert!(backends.leads_elsewhere(&key()) && backends.services_in(None) == [key()]);
        assert_eq!(backends.apply_service(&service()), Some(key()));
        assert!(!backends.leads_elsewhere(&key()));
        backends.apply_service(&elsewhere);
        assert_eq!((backends.delete_service(&key()), backends.delete_service(&key())), (Some(key()), None));
    }
}
