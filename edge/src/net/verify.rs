//! Certificates of SIP peers: chains and extended key usage over `webpki`, names as RFC 5922 wants them. The stock verifiers are
//! wrong for SIP (they refuse `id-kp-sipDomain`, and clients with serverAuth alone).

use std::fmt;
use std::sync::Arc;

use edge_core::input::PeerCertificate;
use sip_proto::identity::matches_domain;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::identity::{fleet, named};

/// Object identifiers of extended key usages, DER without tag and length.
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
/// RFC 5924.
const SIP_DOMAIN: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 20];
/// `anyExtendedKeyUsage`, to which webpki gives no meaning of its own.
const ANY: &[u8] = &[0x55, 0x1d, 0x25, 0];

/// Accepted where the peer is the client. serverAuth alone too: public authorities no longer issue clientAuth.
const CLIENT_USAGES: [&[u8]; 4] = [CLIENT_AUTH, SIP_DOMAIN, SERVER_AUTH, ANY];
/// Accepted where the peer is the server.
const SERVER_USAGES: [&[u8]; 3] = [SERVER_AUTH, SIP_DOMAIN, ANY];

/// A bundle of certificate authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("no certificate in it; it must hold PEM blocks `BEGIN CERTIFICATE`")]
    Empty,
    #[error("certificate {number} cannot be read: {reason}")]
    Unreadable { number: usize, reason: String },
}

/// Reads a PEM bundle of certificate authorities.
///
/// # Errors
/// When it holds none, or one that cannot be read: half a bundle must not become the whole trust.
pub fn anchors(pem: &[u8]) -> Result<Vec<TrustAnchor<'static>>, BundleError> {
    let mut anchors = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let unreadable = |reason: String| BundleError::Unreadable { number: index + 1, reason };
        let certificate = certificate.map_err(|e| unreadable(e.to_string()))?;
        anchors.push(anchor_from_trusted_cert(&certificate).map_err(|e| unreadable(e.to_string()))?.to_owned());
    }
    if anchors.is_empty() { Err(BundleError::Empty) } else { Ok(anchors) }
}

/// The certificate authorities of one `SipDomain`.
#[derive(Clone, Debug)]
pub struct DomainTrust {
    /// Lower case.
    pub domain: String,
    pub anchors: Vec<TrustAnchor<'static>>,
}

/// Whom we trust, by domain.
#[derive(Debug)]
pub struct Trust {
    domains: Vec<DomainTrust>,
    provider: Arc<CryptoProvider>,
}

/// Why a chain is not trusted. Its text never holds bytes of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrusted(pub webpki::Error);

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // Another authority of the same name, which says as much.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                f.write_str("no configured certificate authority issued it")
            }
            webpki::Error::CertExpired { .. } => f.write_str("it has expired"),
            webpki::Error::CertNotValidYet { .. } => f.write_str("it is not valid yet"),
            webpki::Error::RequiredEkuNotFoundContext(_) => {
                f.write_str("its extended key usage allows neither a TLS peer nor a SIP domain")
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl Trust {
    #[must_use]
    pub fn new(domains: Vec<DomainTrust>, provider: Arc<CryptoProvider>) -> Self {
        Trust { domains, provider }
    }

    /// The names in a client's chain, and the domains whose authorities vouch for them.
    ///
    /// # Errors
    /// When no domain does.
    pub fn identify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<PeerCertificate, Untrusted> {
        let (leaf, intermediates) = chain.split_first().ok_or(Untrusted(webpki::Error::BadDer))?;
        let leaf = EndEntityCert::try_from(leaf).map_err(Untrusted)?;
        let mut domains = Vec::new();
        let mut refused = Untrusted(webpki::Error::UnknownIssuer);
        for domain in &self.domains {
            match self.check(&leaf, intermediates, &domain.anchors, &CLIENT_USAGES, now) {
                Ok(()) => domains.push(domain.domain.clone()),
                // "Unknown issuer" is what every other tenant's bundle says; the reason of the right one tells more.
                Err(webpki::Error::UnknownIssuer) => {}
                Err(reason) => refused = Untrusted(reason),
            }
        }
        if domains.is_empty() {
            return Err(refused);
        }
        Ok(PeerCertificate {
            uris: leaf.valid_uri_names().map(str::to_owned).collect(),
            dns: leaf.valid_dns_names().map(str::to_owned).collect(),
            domains,
        })
    }

    fn check(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        anchors: &[TrustAnchor<'static>],
        usages: &[&'static [u8]],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let mut refused = None;
        for usage in usages {
            let usage = KeyUsage::required_if_present(usage);
            match leaf.verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None) {
                Ok(_) => return Ok(()),
                Err(error @ webpki::Error::RequiredEkuNotFoundContext(_)) => {
                    refused.get_or_insert(error);
                }
                // Not a matter of usage: the next one would say the same.
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or(webpki::Error::UnknownIssuer))
    }
}

/// What every verifier says of signatures: what its `trust`'s provider says.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(
                message,
                certificate,
                signature,
                &self.trust.provider.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(
                message,
                certificate,
                signature,
                &self.trust.provider.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.trust.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Asks clients for a certificate. Where it is not demanded, one that nobody vouches for counts as none: a phone shows its maker's
/// certificate to everybody who asks. Who the client is comes from [`Trust::identify`] after the handshake, resumed ones included.
#[derive(Debug)]
pub struct ClientVerifier {
    pub trust: Arc<Trust>,
    pub required: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Naming the authorities would tell every stranger who our tenants are.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.required {
            let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(intermediates).cloned().collect();
            self.trust.identify(&chain, now).map_err(|refused| as_tls(&refused))?;
        }
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// Whom a client of ours wants to reach.
#[derive(Clone, Debug)]
pub enum Server {
    /// Whoever has the name that was asked for, as RFC 5922 §7 says.
    Domain,
    /// That edge, whatever its address: the address comes from the store, and who is there is known by the certificate alone.
    /// `fleet`: of that SipEdge, where ours is known.
    Edge { pod: u64, fleet: Option<String> },
}

/// Checks the server that we connected to: chain against all domains' authorities, then the name.
#[derive(Debug)]
pub struct ServerVerifier {
    pub trust: Arc<Trust>,
    pub wanted: Server,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usages = match &self.wanted {
            Server::Domain => &SERVER_USAGES[..],
            // An edge shows one certificate in both roles.
            Server::Edge { .. } => &CLIENT_USAGES[..],
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(|e| as_tls(&Untrusted(e)))?;
        let anchors: Vec<TrustAnchor<'static>> =
            self.trust.domains.iter().flat_map(|domain| domain.anchors.iter().cloned()).collect();
        let checked = self.trust.check(&leaf, intermediates, &anchors, usages, now);
        checked.map_err(|error| as_tls(&Untrusted(error)))?;
        let is_wanted = match (&self.wanted, name) {
            (Server::Domain, ServerName::DnsName(name)) => {
                matches_domain(name.as_ref(), leaf.valid_uri_names(), leaf.valid_dns_names())
            }
            // A SIP identity is a domain; an address is none (RFC 5922 §7.1).
            (Server::Domain, _) => false,
            (Server::Edge { pod, fleet: ours }, _) => {
                let owned = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect::<Vec<_>>();
                let (dns, uris) = (owned(&mut leaf.valid_dns_names()), owned(&mut leaf.valid_uri_names()));
                (ours.is_none() || ours.as_deref() == fleet(leaf.valid_uri_names()))
                    && named(&dns, &uris).iter().any(|edge| edge.pod() == *pod)
            }
        };
        if is_wanted {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    signatures!();
}

fn as_tls(refused: &Untrusted) -> Error {
    Error::InvalidCertificate(match &refused.0 {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::BadDer => CertificateError::BadEncoding,
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        _ => CertificateError::ApplicationVerificationFailure,
    })
}
