//! TLS of listeners and of connections that we open: certificates from Secrets, swapped without touching live connections.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sip_proto::identity::domain_identities;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, Error, ServerConfig};

use super::verify::{ClientVerifier, Server, ServerVerifier, Trust};

/// A certificate or key that cannot be used: one sentence without key material.
#[derive(Debug, thiserror::Error)]
pub enum CertificateProblem {
    #[error("tls.crt holds no certificate; it must be PEM, the server's certificate first, then its intermediates")]
    NoCertificate,
    #[error("tls.crt cannot be read: {0}")]
    Certificate(String),
    #[error(
        "tls.key holds no private key that can be read; it must be PEM (PKCS#8, SEC1 or PKCS#1), without a passphrase"
    )]
    Key,
    #[error("tls.key is not the key of the first certificate in tls.crt; write both of one pair")]
    Mismatch,
    #[error("the key cannot be used: {0}")]
    Unsupported(String),
}

/// Reads a pair as a Secret of type `kubernetes.io/tls` holds it.
///
/// # Errors
/// When one half cannot be read or the halves do not belong together.
pub fn certified_key(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateProblem> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|e| CertificateProblem::Certificate(e.to_string()))?;
    if chain.is_empty() {
        return Err(CertificateProblem::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateProblem::Key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        Error::InconsistentKeys(_) => CertificateProblem::Mismatch,
        Error::InvalidCertificate(reason) => CertificateProblem::Certificate(format!("{reason:?}")),
        other => CertificateProblem::Unsupported(other.to_string()),
    })
}

/// The one crypto provider of the process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    NotAsked,
    Asked,
    Demanded,
}

/// What the TLS of one listener is made of.
pub struct ListenerTls {
    pub keys: Vec<Arc<CertifiedKey>>,
    pub tls13_only: bool,
    pub clients: ClientCertificates,
    pub trust: Arc<Trust>,
    /// WebSocket listeners say `http/1.1` in ALPN.
    pub http: bool,
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerTls")
            .field("keys", &self.keys.len())
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

/// TLS of a listener as it is now. A change is used by the next handshake; connections that live go on.
pub struct Current {
    config: ArcSwap<State>,
}

struct State {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    trust: Arc<Trust>,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl Current {
    /// # Errors
    /// When the provider refuses a protocol version.
    pub fn new(tls: &ListenerTls) -> Result<Self, Error> {
        Ok(Current { config: ArcSwap::from_pointee(State::build(tls)?) })
    }

    /// New keys, roots or rules. Tickets and cached sessions of the old ones end with it.
    ///
    /// # Errors
    /// As [`Current::new`]; the old state then stays.
    pub fn replace(&self, tls: &ListenerTls) -> Result<(), Error> {
        self.config.store(Arc::new(State::build(tls)?));
        Ok(())
    }

    /// For one handshake as the server.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.config.load().server.clone()
    }

    /// For one handshake as the client.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        self.config.load().client.clone()
    }

    #[must_use]
    pub fn trust(&self) -> Arc<Trust> {
        self.config.load().trust.clone()
    }
}

impl State {
    fn build(tls: &ListenerTls) -> Result<State, Error> {
        let versions: &[_] = if tls.tls13_only { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let builder = match tls.clients {
            ClientCertificates::NotAsked => builder.with_no_client_auth(),
            asked => builder.with_client_cert_verifier(Arc::new(ClientVerifier {
                trust: tls.trust.clone(),
                required: asked == ClientCertificates::Demanded,
            })),
        };
        let mut server = builder.with_cert_resolver(Arc::new(ByName::new(&tls.keys)));
        server.ticketer = aws_lc_rs::Ticketer::new()?;
        if tls.http {
            server.alpn_protocols = vec![b"http/1.1".to_vec()];
        }

        let verifier = Arc::new(ServerVerifier { trust: tls.trust.clone(), wanted: Server::Domain });
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        if let Some(key) = tls.keys.first() {
            client.client_auth_cert_resolver =
                Arc::new(tokio_rustls::rustls::sign::SingleCertAndKey::from(key.clone()));
        }
        Ok(State { server: Arc::new(server), client: Arc::new(client), trust: tls.trust.clone() })
    }
}

/// Chooses the certificate by the server name of the client; the first one where it names none that we have.
#[derive(Debug)]
struct ByName {
    keys: Vec<Arc<CertifiedKey>>,
    names: HashMap<String, usize>,
}

impl ByName {
    fn new(keys: &[Arc<CertifiedKey>]) -> Self {
        let mut names = HashMap::new();
        for (index, key) in keys.iter().enumerate() {
            let Some(leaf) = key.cert.first() else { continue };
            let Ok(leaf) = webpki::EndEntityCert::try_from(leaf) else { continue };
            let sip = domain_identities(leaf.valid_uri_names(), []);
            let dns = leaf.valid_dns_names().map(str::to_ascii_lowercase);
            for name in sip.into_iter().chain(dns) {
                names.entry(name).or_insert(index);
            }
        }
        ByName { keys: keys.to_vec(), names }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.names.get(&name.to_ascii_lowercase()));
        self.keys.get(named.copied().unwrap_or(0)).cloned()
    }
}
