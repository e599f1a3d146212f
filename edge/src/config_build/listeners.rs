//! `SipEdge.spec.listeners` → what the sockets are opened with.

use std::net::SocketAddr;
use std::sync::Arc;

use crds::manifest::{ObjectKey, Problem, Snapshot, Sourced};
use crds::v1alpha1::{ClientAuth, Listener, ListenerProtocol, SipEdge, TlsVersion};
use edge_core::input::Transport;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::Builder;
use crate::net::listener::Wanted;
use crate::net::tls::{ClientCertificates, ListenerTls, certified_key};
use crate::net::verify::Trust;

impl Builder {
    /// A listener whose certificate cannot be used keeps the last good one; without one it is left out.
    pub(super) fn listeners(
        &mut self,
        objects: &Snapshot,
        edge: &Sourced<SipEdge>,
        trust: &Arc<Trust>,
        problems: &mut Vec<Problem>,
    ) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (index, listener) in edge.spec.listeners.iter().enumerate() {
            let Some(ip) = listener.bind_address() else { continue };
            let tls = match &listener.tls {
                None => None,
                Some(tls) => {
                    let keys = self.certificates(objects, edge, index, listener, problems);
                    if keys.is_empty() {
                        continue;
                    }
                    Some(ListenerTls {
                        keys,
                        tls13_only: tls.min_version == TlsVersion::V1_3,
                        clients: match tls.client_auth {
                            ClientAuth::None => ClientCertificates::NotAsked,
                            ClientAuth::Optional => ClientCertificates::Asked,
                            ClientAuth::Required => ClientCertificates::Demanded,
                        },
                        trust: trust.clone(),
                        http: listener.protocol == ListenerProtocol::Wss,
                    })
                }
            };
            wanted.push(Wanted {
                name: listener.name.clone(),
                transport: transport(listener.protocol),
                address: SocketAddr::new(ip, listener.port),
                tls,
            });
        }
        let names = |name: &String| edge.spec.listeners.iter().any(|listener| listener.name == *name);
        self.certificates.retain(|name, _| names(name));
        wanted
    }

    fn certificates(
        &mut self,
        objects: &Snapshot,
        edge: &Sourced<SipEdge>,
        index: usize,
        listener: &Listener,
        problems: &mut Vec<Problem>,
    ) -> Vec<Arc<CertifiedKey>> {
        let mut keys = Vec::new();
        let mut whole = true;
        let references = listener.tls.iter().flat_map(|tls| &tls.certificate_refs);
        for (number, reference) in references.enumerate() {
            let secret = objects.secrets.get(&ObjectKey::new(&self.edge.namespace, &reference.name));
            let half = |key: &str| secret.and_then(|secret| secret.get(key)).unwrap_or_default();
            match certified_key(half("tls.crt"), half("tls.key")) {
                Ok(key) => keys.push(Arc::new(key)),
                Err(error) => {
                    whole = false;
                    let field = format!("spec.listeners[{index}].tls.certificateRefs[{number}]");
                    let place = secret.map(|secret| format!(" ({})", secret.origin.place())).unwrap_or_default();
                    let message = format!("Secret {}{place}: {error}", reference.name);
                    problems.push(edge.origin.problem(field, message));
                }
            }
        }
        if whole {
            self.certificates.insert(listener.name.clone(), keys);
        }
        self.certificates.get(&listener.name).cloned().unwrap_or_default()
    }
}

fn transport(protocol: ListenerProtocol) -> Transport {
    match protocol {
        ListenerProtocol::Udp => Transport::Udp,
        ListenerProtocol::Tcp => Transport::Tcp,
        ListenerProtocol::Tls => Transport::Tls,
        ListenerProtocol::Ws => Transport::Ws,
        ListenerProtocol::Wss => Transport::Wss,
    }
}
