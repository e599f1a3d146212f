//! `SipDomain` → `DomainConfig` and the domain's trust anchors.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::core_v1::users::parse_users;
use crds::manifest::{ObjectKey, Problem, Snapshot, Sourced};
use crds::policy::compile;
use crds::v1alpha1::{DigestAlgorithm, DigestAuthentication, NamespacedRef, PlainTransport, SipDomain, TargetKind};
use crds::validate::references::CA_KEY;
use edge_core::config::{DigestConfig, DomainConfig};
use edge_core::input::Transport;
use mcp_sip::policy::{Policy, PolicySpec};
use zeroize::Zeroizing;

use super::{Builder, Domains};
use crate::net::verify::{DomainTrust, anchors};

impl Builder {
    pub(super) fn domains(&mut self, objects: &Snapshot, problems: &mut Vec<Problem>) -> Domains {
        let mut domains = Domains::new();
        for (name, object) in &objects.domains {
            let domain = object.spec.domain.to_ascii_lowercase();
            let Some(tenant) = self.tenants.get(&domain).copied() else {
                let message = "waits for its number in the store, which does not answer, or from the operator";
                problems.push(object.origin.problem("spec.domain", message));
                continue;
            };
            let trusted = self.trust_domain(objects, object, &domain, problems);
            let spec = &object.spec;
            domains.insert(
                name.clone(),
                Arc::new(DomainConfig {
                    tenant,
                    option_tags: spec.option_tags.clone(),
                    digest: spec
                        .authentication
                        .digest
                        .as_ref()
                        .map(|digest| self::digest(objects, digest, spec.digest_realm())),
                    client_certificates: trusted,
                    allow_plain: spec.transport.allow_plain.iter().map(|plain| transport(*plain)).collect(),
                    max_sessions: spec.quota.max_sessions.map(|max| max as usize),
                    tool_calls_per_second: spec.quota.tool_calls_per_second,
                    max_payload_bytes: Some(spec.quota.max_payload_bytes as usize),
                    policies: policies(objects, TargetKind::SipDomain, &ObjectKey::new("", name), problems),
                    lenient_headers: false,
                    retention_ms: spec.data_protection.retention.seconds().unwrap_or(0).saturating_mul(1000),
                    refresh_in_outage: spec.outage.refresh_registrations,
                    durability: super::store::class(spec.durability),
                    domain,
                }),
            );
        }
        domains
    }

    /// Reads the domain's certificate authorities. A bundle that cannot be read leaves the last good one; without one nobody is known
    /// by certificate.
    fn trust_domain(
        &mut self,
        objects: &Snapshot,
        object: &Sourced<SipDomain>,
        domain: &str,
        problems: &mut Vec<Problem>,
    ) -> bool {
        let Some(certificates) = &object.spec.authentication.client_certificates else {
            self.anchors.remove(domain);
            return false;
        };
        let NamespacedRef { namespace, name } = &certificates.ca_bundle_ref;
        let bundle = objects.config_maps.get(&ObjectKey::new(namespace, name)).and_then(|map| map.data.get(CA_KEY));
        match anchors(bundle.map_or(&[][..], |pem| pem.as_bytes())) {
            Ok(anchors) => {
                self.anchors.insert(domain.to_owned(), DomainTrust { domain: domain.to_owned(), anchors });
            }
            Err(error) => {
                let field = "spec.authentication.clientCertificates.caBundleRef";
                problems.push(object.origin.problem(field, format!("ConfigMap {namespace}/{name}, {CA_KEY}: {error}")));
            }
        }
        self.anchors.contains_key(domain)
    }
}

fn digest(objects: &Snapshot, digest: &DigestAuthentication, realm: Option<&str>) -> DigestConfig {
    let NamespacedRef { namespace, name } = &digest.users_secret_ref;
    let users = objects.secrets.get(&ObjectKey::new(namespace, name)).map(|secret| parse_users(secret));
    let hashes = |hashes: BTreeMap<DigestAlgorithm, crds::core_v1::SecretBytes>| {
        hashes.into_iter().map(|(algorithm, hash)| (algorithm.as_str().to_owned(), hex(hash.as_bytes()))).collect()
    };
    let users =
        users.unwrap_or_default().into_iter().map(|(user, by_algorithm)| (user, hashes(by_algorithm))).collect();
    let mut algorithms = digest.algorithms.clone();
    algorithms.sort_by_key(|algorithm| DigestAlgorithm::ALL.iter().position(|known| known == algorithm));
    DigestConfig {
        realm: realm.unwrap_or_default().to_owned(),
        algorithms: algorithms.iter().map(|algorithm| algorithm.as_str().to_owned()).collect(),
        users: Arc::new(users),
    }
}

fn hex(octets: &[u8]) -> Zeroizing<String> {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    Zeroizing::new(octets.iter().flat_map(|octet| [digit(octet >> 4), digit(octet & 15)]).collect())
}

fn transport(plain: PlainTransport) -> Transport {
    match plain {
        PlainTransport::Udp => Transport::Udp,
        PlainTransport::Tcp => Transport::Tcp,
        PlainTransport::Ws => Transport::Ws,
    }
}

/// The compiled policies for one target. One that does not compile denies everything where it stands: nobody can tell what it would
/// have denied.
pub(super) fn policies(
    objects: &Snapshot,
    kind: TargetKind,
    target: &ObjectKey,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Policy>> {
    let mut policies = Vec::new();
    for (key, object) in objects.policies_for(kind, target) {
        let findings = match compile(key, &object.spec) {
            Ok(policy) => {
                policies.push(Arc::new(policy));
                continue;
            }
            Err(findings) => findings,
        };
        problems.extend(findings.into_iter().map(|finding| object.origin.problem(finding.field, finding.message)));
        let closed = PolicySpec { name: key.to_string(), ..PolicySpec::default() };
        policies.extend(Policy::compile(&closed).ok().map(Arc::new));
    }
    policies
}
