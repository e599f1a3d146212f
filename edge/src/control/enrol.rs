//! From the pod's token to a certificate. The key is made here and never leaves the memory of the process.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_api::control::EnrollRequest;
use edge_api::control::edge_enrolment_client::EdgeEnrolmentClient;
use rcgen::{CertificateParams, KeyPair};
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::CertifiedKey;
use tonic::transport::{Channel, Endpoint};
use zeroize::Zeroizing;

use super::Settings;
use crate::grpc::{Way, reason, refusal, secure};
use crate::mesh::tls::{client, trust};
use crate::net::tls::provider;
use crate::net::verify::{Server, Trust};

/// For TCP, TLS and HTTP/2 together.
const CONNECT: Duration = Duration::from_secs(5);
/// For the operator, which asks the API server.
const ANSWER: Duration = Duration::from_secs(15);
/// Octets of a token, as the contract has it.
const MAX_TOKEN: usize = 16 << 10;
/// What a Delta may bring before it was read: one of the largest.
const WINDOW: u32 = 4 << 20;

/// Who this edge is, proved.
pub struct Enrolled {
    pub key: Arc<CertifiedKey>,
    /// Whom it trusts: operators and the other edges.
    pub trust: Arc<Trust>,
    /// Half of the certificate's life is over.
    pub renew_at: Instant,
    pub ends_at: Instant,
}

impl fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enrolled")
    }
}

/// Enrols.
///
/// # Errors
/// One sentence: why there is no certificate.
pub async fn enrol(settings: &Settings) -> Result<Enrolled, String> {
    let trusted = authority(settings)?;
    let token = std::fs::read_to_string(&settings.token);
    let token = token.map_err(|error| format!("--token {}: {error}", settings.token.display()))?;
    let token = Zeroizing::new(token);
    if token.trim().is_empty() || token.len() > MAX_TOKEN {
        return Err(format!("--token {}: it has no token", settings.token.display()));
    }
    let key = KeyPair::generate().map_err(|error| format!("no key could be made: {error}"))?;
    let request = CertificateParams::default().serialize_request(&key);
    let csr = request.map_err(|error| format!("no request could be made: {error}"))?.der().to_vec();
    let config = client(trusted.clone(), Server::Domain, None).map_err(|error| error.to_string())?;
    let mut client = EdgeEnrolmentClient::new(connect(settings, config).await?).max_decoding_message_size(256 << 10);
    let asked = client.enroll(EnrollRequest { token: token.trim().to_owned(), csr: csr.into() });
    let answer = timeout(ANSWER, asked).await.map_err(|_| "no answer to the enrolment".to_owned())?;
    let answer = answer.map_err(|status| format!("enrolment: {}", refusal(&status)))?.into_inner();
    if answer.edge_id != settings.id() {
        return Err(format!(
            "the operator knows this pod as {}, and this edge is {} (--pod-name, --edge)",
            answer.edge_id,
            settings.id()
        ));
    }
    let chain: Vec<CertificateDer<'static>> =
        answer.chain.iter().map(|certificate| CertificateDer::from(certificate.to_vec())).collect();
    let secret = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let key = CertifiedKey::from_der(chain, secret, &provider());
    let key = key.map_err(|error| format!("the operator gave a certificate that cannot be used: {error}"))?;
    let (ends, now) = (u64::try_from(answer.not_after).unwrap_or(0), Instant::now());
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let life = Duration::from_secs(ends.saturating_sub(wall));
    Ok(Enrolled { key: Arc::new(key), trust: trusted, renew_at: now + life / 2, ends_at: now + life })
}

fn authority(settings: &Settings) -> Result<Arc<Trust>, String> {
    let place = settings.authority.display();
    let pem = std::fs::read(&settings.authority);
    let pem = pem.map_err(|error| format!("--operator-ca {place}: {error}"))?;
    trust(&pem).map(Arc::new).map_err(|error| format!("--operator-ca {place}: {error}"))
}

/// A channel to an operator on which this edge shows its certificate.
///
/// # Errors
/// One sentence.
pub async fn attached(settings: &Settings, enrolled: &Enrolled) -> Result<Channel, String> {
    // The authority may be another one by now.
    let trusted = authority(settings)?;
    let config = client(trusted, Server::Domain, Some(enrolled.key.clone())).map_err(|error| error.to_string())?;
    connect(settings, config).await
}

async fn connect(settings: &Settings, config: ClientConfig) -> Result<Channel, String> {
    let name = ServerName::try_from(settings.name.clone());
    let name = name.map_err(|_| format!("--operator-name {}: it is no name", settings.name))?;
    let (config, address) = (Arc::new(config), settings.operator.clone());
    let way = Way(move || {
        let (address, name, config) = (address.clone(), name.clone(), config.clone());
        async move { secure(&address, name, config).await }
    });
    let endpoint = Endpoint::from_static("http://operator.invalid")
        .connect_timeout(CONNECT)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5));
    let connected = timeout(CONNECT, endpoint.connect_with_connector(way)).await;
    let connected = connected.map_err(|_| "no connection in time".to_owned())?;
    connected.map_err(|error| reason(&error))
}
