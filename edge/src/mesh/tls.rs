//! TLS of the mesh: both sides show a certificate of the fleet's own authority, and each is the edge that its certificate names. An operator's
//! authority certifies the edges of every SipEdge, so there the certificate names that, too, and only those of one SipEdge speak with each other.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use edge_core::input::PeerCertificate;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, Error, ServerConfig};
use webpki::EndEntityCert;

use crate::identity::{EdgeId, fleet, named};
use crate::net::tls::{certified_key, provider};
use crate::net::verify::{BundleError, ClientVerifier, DomainTrust, Server, ServerVerifier, Trust, anchors};

/// HTTP/2, both ways.
const ALPN: &[u8] = b"h2";

/// The files with the certificates of an edge, looked at again and again.
#[derive(Debug)]
pub struct MeshCertificates {
    me: EdgeId,
    /// PEM, the edge's own certificate first.
    certificate: PathBuf,
    key: PathBuf,
    /// PEM bundle of the authorities that issue the edges' certificates.
    authority: PathBuf,
    seen: [Option<(SystemTime, u64, u64)>; 3],
}

/// The TLS of one edge.
pub struct MeshTls {
    server: Arc<ServerConfig>,
    key: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    /// The SipEdge that our certificate is for, `namespace/name`; `None`: it names none.
    fleet: Option<String>,
}

impl fmt::Debug for MeshTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshTls")
    }
}

impl MeshCertificates {
    /// The files of an edge.
    #[must_use]
    pub fn new(me: &EdgeId, certificate: &Path, key: &Path, authority: &Path) -> Self {
        let mut files = MeshCertificates {
            me: me.clone(),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            authority: authority.to_owned(),
            seen: [None; 3],
        };
        files.seen = files.look();
        files
    }

    fn look(&self) -> [Option<(SystemTime, u64, u64)>; 3] {
        let modified = |file: &fs::Metadata| file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        [&self.certificate, &self.key, &self.authority]
            .map(|path| fs::metadata(path).ok().map(|file| (modified(&file), file.len(), file.ino())))
    }

    /// The new certificates, if a file has changed since the last look and they can be used.
    pub fn changed(&mut self) -> Option<Result<MeshTls, String>> {
        let now = self.look();
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(self.load())
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One sentence: which file cannot be used and why, or that the certificate does not name this edge.
    pub fn load(&self) -> Result<MeshTls, String> {
        let (certificate, key) =
            (read("--mesh-cert", &self.certificate)?, zeroize::Zeroizing::new(read("--mesh-key", &self.key)?));
        let authority = read("--mesh-ca", &self.authority)?;
        let key = certified_key(&certificate, &key).map_err(|error| {
            let text = error.to_string().replace("tls.crt", "--mesh-cert").replace("tls.key", "--mesh-key");
            format!("mesh certificate: {text}")
        })?;
        let trust = trust(&authority).map_err(|error| format!("--mesh-ca {}: {error}", self.authority.display()))?;
        let tls = MeshTls::new(Arc::new(key), Arc::new(trust)).map_err(|error| format!("mesh TLS: {error}"))?;
        let (me, path) = (&self.me, self.certificate.display());
        match tls.identify(&tls.key.cert) {
            Ok(names) if me.is_named(&names.dns, &names.uris) => Ok(tls),
            Ok(_) => Err(format!(
                "--mesh-cert {path}: the certificate does not name this edge; it needs the dNSName {me} or the URI urn:sipmcp:edge:{me}"
            )),
            Err(reason) => Err(format!("--mesh-cert {path}: {reason}, as the others would find")),
        }
    }
}

fn read(argument: &str, path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{argument} {}: cannot be read: {error}", path.display()))
}

/// TLS of a client of our own contracts: TLS 1.3, HTTP/2, a whole handshake each time.
///
/// # Errors
/// When the provider refuses the protocol version.
pub fn client(trust: Arc<Trust>, wanted: Server, key: Option<Arc<CertifiedKey>>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { trust, wanted }));
    let mut client = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(client)
}

/// Whom the edges of one authority trust. `authority`: PEM.
///
/// # Errors
/// The bundle cannot be read.
pub fn trust(authority: &[u8]) -> Result<Trust, BundleError> {
    Ok(Trust::new(vec![DomainTrust { domain: "mesh".into(), anchors: anchors(authority)? }], provider()))
}

impl MeshTls {
    /// # Errors
    /// When the provider refuses the protocol version.
    pub fn new(key: Arc<CertifiedKey>, trust: Arc<Trust>) -> Result<Self, Error> {
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(ClientVerifier { trust: trust.clone(), required: true }))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
        // Every connection shows its certificate: they are few, and long.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let leaf = key.cert.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok());
        let fleet = leaf.and_then(|leaf| fleet(leaf.valid_uri_names()).map(str::to_owned));
        Ok(MeshTls { server: Arc::new(server), key, trust, fleet })
    }

    /// For one handshake as the server.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For one handshake as the client of that pod.
    ///
    /// # Errors
    /// When the provider refuses the protocol version.
    pub fn client(&self, pod: u64) -> Result<Arc<ClientConfig>, Error> {
        let mut client =
            client(self.trust.clone(), Server::Edge { pod, fleet: self.fleet.clone() }, Some(self.key.clone()))?;
        client.enable_sni = false;
        Ok(Arc::new(client))
    }

    /// The edges that a client's chain names. Where our certificate is for a SipEdge: none of another one, whose policies and tenants are not ours.
    pub fn peers(&self, chain: &[CertificateDer<'_>]) -> Vec<EdgeId> {
        let ours = |names: &PeerCertificate| {
            self.fleet.is_none() || self.fleet.as_deref() == fleet(names.uris.iter().map(String::as_str))
        };
        let names = self.identify(chain).ok().filter(ours);
        names.map(|names| named(&names.dns, &names.uris)).unwrap_or_default()
    }

    fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<PeerCertificate, String> {
        self.trust.identify(chain, UnixTime::now()).map_err(|refused| refused.to_string())
    }
}
