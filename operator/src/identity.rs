//! Who an edge is on the control stream and in the mesh, and who a replica of the operator is: what its certificate names.

use crds::manifest::ObjectKey;
use std::fmt;
use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Trust domain, namespace and pod. What SPIFFE-aware peers read.
const SPIFFE: &str = "spiffe://sipmcp/";
/// Namespace and name of the SipEdge that the pod belongs to.
const FLEET: &str = "urn:sipmcp:sipedge:";
/// The edge id in the mesh, `POD.NAMESPACE`: pods of two namespaces may have one name, and one authority issues for both.
const MESH: &str = "urn:sipmcp:edge:";

/// Namespace and pod of a replica of the operator.
const REPLICA: &str = "urn:sipmcp:operator:";

/// The URI that names a replica, `namespace/pod`.
#[must_use]
pub fn replica_uri(replica: &str) -> String {
    format!("{REPLICA}{replica}")
}

/// Which replica a certificate names that this authority issued, `namespace/pod`. `None`: none.
#[must_use]
pub fn replica_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let replica = certificate.valid_uri_names().find_map(|uri| uri.strip_prefix(REPLICA))?;
    let (namespace, pod) = replica.split_once('/')?;
    let fits = |name: &str| (1..=253).contains(&name.len()) && !name.contains('/');
    (fits(namespace) && fits(pod)).then(|| replica.to_owned())
}

/// One pod of a SipEdge. Both stand in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub edge: ObjectKey,
    pub pod: String,
}

impl Identity {
    /// `namespace/pod`, as the contract has it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.edge.namespace, self.pod)
    }

    /// The URIs of its certificate.
    #[must_use]
    pub fn uris(&self) -> [String; 3] {
        let Identity { edge: ObjectKey { namespace, .. }, pod } = self;
        [format!("{SPIFFE}{namespace}/{pod}"), format!("{FLEET}{}", self.edge), format!("{MESH}{pod}.{namespace}")]
    }

    /// Whom a certificate names that this authority issued. `None`: no edge.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let mut uris = certificate.valid_uri_names();
        let fleet = uris.find_map(|uri| uri.strip_prefix(FLEET))?;
        let (namespace, name) = fleet.split_once('/')?;
        let pod = certificate.valid_uri_names().find_map(|uri| uri.strip_prefix(SPIFFE)?.split_once('/'));
        let (of, pod) = pod?;
        let names = [namespace, name, pod];
        (of == namespace && names.iter().all(|name| !name.is_empty() && !name.contains('/')))
            .then(|| Identity { edge: ObjectKey::new(namespace, name), pod: pod.to_owned() })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.edge.namespace, self.pod)
    }
}
