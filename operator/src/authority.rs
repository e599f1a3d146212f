//! The authority of the control stream: a key and a certificate in one Secret, from which every replica issues. The holder of the Lease makes it
//! where it is missing, and nobody ever replaces it.

use crate::identity::{Identity, replica_uri};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use zeroize::Zeroizing;

/// Name of the Secret, in the namespace of the operator, and of the ConfigMap with its certificate where edges are.
pub const NAME: &str = "sipmcp-operator-ca";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Seconds.
const DAY: i64 = 86_400;
const AUTHORITY_LIFE: i64 = 3650 * DAY;
/// Of the certificates of edges and operators.
pub const LIFE: i64 = DAY;
/// Certificates begin earlier: the clocks of two nodes are not alike.
const SKEW: i64 = 300;
const RETRY: Duration = Duration::from_secs(5);

/// See the module.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The first one issues; more of them are trusted, so that one can follow another.
    pem: String,
    roots: Arc<RootCertStore>,
    own: Mutex<Own>,
}

/// The operator's own certificate, in memory only.
struct Own {
    /// Names in it; the first one is what edges ask for.
    names: Vec<String>,
    config: Option<(Arc<ServerConfig>, i64)>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// Why a Secret is no authority. Never holds a part of the key.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("has no {0}")]
    Missing(&'static str),
    #[error("{CERTIFICATE} holds no certificate that can be read")]
    Certificate,
    #[error(
        "{KEY} holds no private key that can be read, or it is not the key of the first certificate in {CERTIFICATE}"
    )]
    Key,
    #[error("cannot issue: {0}")]
    Issuing(rcgen::Error),
    #[error("cannot serve: {0}")]
    Serving(String),
}

/// A certificate for an edge.
#[derive(Debug)]
pub struct Issued {
    /// DER; the edge's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub not_after: i64,
}

/// The request is no PKCS #10 of a key that its sender has.
#[derive(Debug, thiserror::Error)]
#[error("no certificate can be made of the request: {0}")]
pub struct BadRequest(rcgen::Error);

impl Authority {
    /// The authority of this installation. Returns when there is one: where the Secret is missing the replica that may write makes it, and
    /// the others wait. Says what it waits for.
    pub async fn open(client: Client, namespace: &str, mut may_write: watch::Receiver<bool>) -> Arc<Authority> {
        let secrets = Api::<Secret>::namespaced(client, namespace);
        let mut said = String::new();
        loop {
            let writes = *may_write.borrow_and_update();
            let reason = match attempt(&secrets, namespace, writes).await {
                Ok(Some(authority)) => return Arc::new(authority),
                Ok(None) => "is not there; the holder of the Lease makes it".to_owned(),
                Err(reason) => reason,
            };
            if said != reason {
                tracing::warn!("waits for its authority: Secret {namespace}/{NAME} {reason}");
                said = reason;
            }
            // Without the task of the Lease nobody says so any more; the Secret may come all the same.
            let changed = async {
                if may_write.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = changed => {}
            }
        }
    }

    /// A new one: PEM of the certificate and of the key.
    ///
    /// # Errors
    /// When the system gives no random octets.
    pub fn make(now: i64) -> Result<(String, Zeroizing<String>), rcgen::Error> {
        let key = KeyPair::generate()?;
        // Another name than its servers have: some clients take a certificate for self-signed that has the name of its issuer.
        let mut params = params("sipmcp-operator-ca", now, AUTHORITY_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok((params.self_signed(&key)?.pem(), Zeroizing::new(key.serialize_pem())))
    }

    /// From PEM. `names`: of the operator, for its own certificate.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn read(certificates: &str, key: &str, names: Vec<String>) -> Result<Authority, Unusable> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| Unusable::Certificate)?;
        let first = chain.first().ok_or(Unusable::Certificate)?.clone();
        let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Unusable::Key)?;
        CertifiedKey::from_der(vec![first.clone()], der, &provider()).map_err(|_| Unusable::Key)?;
        let key = KeyPair::from_pem(key).map_err(|_| Unusable::Key)?;
        let mut roots = RootCertStore::empty();
        for certificate in chain {
            roots.add(certificate).map_err(|_| Unusable::Certificate)?;
        }
        Ok(Authority {
            issuer: Issuer::from_ca_cert_der(&first, key).map_err(Unusable::Issuing)?,
            pem: certificates.to_owned(),
            roots: Arc::new(roots),
            own: Mutex::new(Own { names, config: None }),
        })
    }

    /// What edges trust, `ca.crt`.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Another name for the operator's own certificate, the first one from now on.
    pub fn answer_to(&self, name: &str) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.names.retain(|known| known != name);
        own.names.insert(0, name.to_owned());
        own.config = None;
    }

    /// The names of the operator, the first one is what edges ask for.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).names.clone()
    }

    /// A certificate for an edge. The request gives the key and nothing else.
    ///
    /// # Errors
    /// It is no request, or not signed with its key.
    pub fn issue(&self, request: &[u8], identity: &Identity, now: i64) -> Result<Issued, BadRequest> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request));
        let public_key = request.map_err(BadRequest)?.public_key;
        let mut params = params("sipmcp-edge", now, LIFE);
        let uris = identity.uris().into_iter().map(|uri| Ok(SanType::URI(uri.try_into()?)));
        params.subject_alt_names = uris.collect::<Result<_, rcgen::Error>>().map_err(BadRequest)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // In the mesh an edge is client and server.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let signed = CertificateSigningRequestParams { params, public_key }.signed_by(&self.issuer);
        Ok(Issued { chain: vec![signed.map_err(BadRequest)?.der().clone()], not_after: now + LIFE })
    }

    /// A key with a certificate for these names, for a server of this process.
    ///
    /// # Errors
    /// A name that is none.
    pub fn certify(&self, names: &[String], now: i64) -> Result<CertifiedKey, Unusable> {
        let names = names.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
        let names = names.collect::<Result<_, rcgen::Error>>().map_err(Unusable::Issuing)?;
        self.make_own(names, ExtendedKeyUsagePurpose::ServerAuth, now)
    }

    /// A key with a certificate that names this replica (`namespace/pod`) to another one. It names no server and no edge.
    ///
    /// # Errors
    /// A name that is none.
    pub fn certify_replica(&self, replica: &str, now: i64) -> Result<CertifiedKey, Unusable> {
        let uri = replica_uri(replica).try_into().map_err(Unusable::Issuing)?;
        self.make_own(vec![SanType::URI(uri)], ExtendedKeyUsagePurpose::ClientAuth, now)
    }

    fn make_own(
        &self,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        now: i64,
    ) -> Result<CertifiedKey, Unusable> {
        let key = KeyPair::generate().map_err(Unusable::Issuing)?;
        let mut params = params("sipmcp-operator", now, LIFE);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).map_err(Unusable::Issuing)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| Unusable::Key)?;
        CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider())
            .map_err(|error| Unusable::Serving(error.to_string()))
    }

    /// For a connection to another replica, with this protocol in it. `key`: who this replica is there, where it says so.
    ///
    /// # Errors
    /// The key is none.
    pub fn client(&self, key: Option<CertifiedKey>, protocol: &[u8]) -> Result<Arc<ClientConfig>, Unusable> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Unusable::Serving(error.to_string()))?
            .with_root_certificates(self.roots.clone());
        let mut config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }

    /// For one handshake with an edge or another replica. A client may show a certificate of this authority, or none. The operator's own one is made anew at
    /// half of its life.
    ///
    /// # Errors
    /// The names of the operator are none.
    pub fn server(&self, now: i64) -> Result<Arc<ServerConfig>, Unusable> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, made)) = &own.config
            && (0..LIFE / 2).contains(&(now - made))
        {
            return Ok(config.clone());
        }
        let serving = |error: &dyn fmt::Display| Unusable::Serving(error.to_string());
        let key = self.certify(&own.names, now)?;
        let clients = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| serving(&error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| serving(&error))?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        // Every connection shows its certificate: they are few, and long.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        own.config = Some((config.clone(), now));
        Ok(config)
    }
}

/// `Ok(None)`: it is not there, and this replica may not make it.
async fn attempt(secrets: &Api<Secret>, namespace: &str, writes: bool) -> Result<Option<Authority>, String> {
    let cannot = |doing: &str, error: &Error| format!("cannot be {doing}: {error}");
    let secret = match secrets.get_opt(NAME).await.map_err(|error| cannot("read", &error))? {
        Some(secret) => secret,
        None if !writes => return Ok(None),
        None => {
            let (certificate, key) = Authority::make(unix_now()).map_err(|error| format!("cannot be made: {error}"))?;
            let value = |text: &str| ByteString(text.as_bytes().to_vec());
            let secret = Secret {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                type_: Some(crds::core_v1::Secret::TYPE_TLS.to_owned()),
                data: Some([(CERTIFICATE, &*certificate), (KEY, &**key)].map(|(k, v)| (k.to_owned(), value(v))).into()),
                ..Secret::default()
            };
            // Somebody else may have been quicker: then this is refused, and theirs is read with the next attempt.
            let made = secrets.create(&PostParams::default(), &secret).await;
            wipe(secret);
            made.map_err(|error| cannot("made", &error))?
        }
    };
    let mut data = secret.data.unwrap_or_default();
    let mut text = |key: &'static str| {
        let octets = Zeroizing::new(data.remove(key).ok_or(Unusable::Missing(key))?.0);
        std::str::from_utf8(&octets).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| Unusable::Certificate)
    };
    let mut read = || -> Result<Authority, Unusable> {
        let (certificates, key) = (text(CERTIFICATE)?, text(KEY)?);
        Authority::read(&certificates, &key, vec![format!("sipmcp-operator.{namespace}.svc")])
    };
    read().map(Some).map_err(|error| format!("{error}; nothing is issued until it is mended or removed"))
}

fn wipe(secret: Secret) {
    for (_, value) in secret.data.unwrap_or_default() {
        drop(Zeroizing::new(value.0));
    }
}

fn params(name: &str, now: i64, life: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = date_time_ymd(1970, 1, 1);
    let at = |seconds: i64| epoch + Duration::from_secs(seconds.max(0).unsigned_abs());
    params.not_before = at(now - SKEW);
    params.not_after = at(now + life);
    params
}

/// The one crypto provider of the process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Seconds since 1970-01-01T00:00:00Z.
#[must_use]
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
