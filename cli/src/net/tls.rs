//! TLS as a client: the certificate must name the SIP domain that was asked for (RFC 5922), whatever host or address answers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use tokio_rustls::rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use tokio_rustls::{TlsConnector, rustls};

/// Debian's bundle, where no `--ca` is given.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Files for TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    /// Instead of `ca`: PEM that is in memory.
    pub ca_pem: Option<Vec<u8>>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// The configuration; errors name the file.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
    let (bundle, authorities) = match (&files.ca, &files.ca_pem) {
        (None, Some(pem)) => {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            (PathBuf::from("the edge's Secret"), read.map_err(|e| format!("ca.crt of the edge's Secret: {e}"))?)
        }
        _ => {
            let bundle = files.ca.clone().unwrap_or_else(|| SYSTEM_BUNDLE.into());
            let read = certificates(&bundle)?;
            (bundle, read)
        }
    };
    let mut roots = Vec::new();
    for certificate in authorities {
        let anchor = webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|e| format!("{}: not a CA certificate ({e})", bundle.display()))?;
        roots.push(anchor.to_owned());
    }
    if roots.is_empty() {
        return Err(format!(
            "{}: no certificate in this file; give the CA of the edge with --ca FILE",
            bundle.display()
        ));
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(SipServerVerifier { roots, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
            builder
                .with_client_auth_cert(chain, secret)
                .map_err(|e| format!("{} and {} do not fit together: {e}", certificate.display(), key.display()))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("a client certificate needs both --cert FILE and --key FILE".into()),
    };
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(file)
        .map_err(|e| format!("{}: {e}", file.display()))?
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{}: {e}", file.display()))
}

/// `name` is the SIP domain that was asked for.
pub async fn connect<S>(stream: S, name: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| io::Error::other(format!("{name} is no name that a certificate can have")))?;
    TlsConnector::from(config).connect(name, stream).await
}

/// Chain by webpki, names by RFC 5922.
#[derive(Debug)]
struct SipServerVerifier {
    roots: Vec<TrustAnchor<'static>>,
    provider: Arc<CryptoProvider>,
}

/// Extended key usages that a server may have: id-kp-serverAuth, id-kp-sipDomain (RFC 5924), any.
const SERVER_USAGES: [&[u8]; 3] =
    [&[0x2b, 6, 1, 5, 5, 7, 3, 1], &[0x2b, 6, 1, 5, 5, 7, 3, 0x14], &[0x55, 0x1d, 0x25, 0]];

impl SipServerVerifier {
    fn algorithms(&self) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
        self.provider.signature_verification_algorithms.all
    }
}

impl ServerCertVerifier for SipServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let certificate = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        let mut refused = None;
        for usage in SERVER_USAGES {
            match certificate.verify_for_usage(
                self.algorithms(),
                &self.roots,
                intermediates,
                now,
                webpki::KeyUsage::required_if_present(usage),
                None,
                None,
            ) {
                Ok(_) => {
                    refused = None;
                    break;
                }
                // An error about something else than the usage says more.
                Err(error) if refused.is_none() || !matches!(error, webpki::Error::RequiredEkuNotFoundContext(_)) => {
                    refused = Some(error);
                }
                Err(_) => {}
            }
        }
        if let Some(error) = refused {
            return Err(TlsError::General(format!("the certificate is not acceptable: {error}")));
        }
        let ServerName::DnsName(domain) = server_name else {
            return Err(TlsError::General("an IP address is no SIP domain".into()));
        };
        let uris: Vec<&str> = certificate.valid_uri_names().collect();
        let names: Vec<&str> = certificate.valid_dns_names().collect();
        if sip_proto::identity::matches_domain(domain.as_ref(), uris.iter().copied(), names.iter().copied()) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(TlsError::General(format!(
            "the certificate is for {}, not for the SIP domain {} (RFC 5922)",
            uris.iter().chain(&names).copied().collect::<Vec<_>>().join(", "),
            domain.as_ref()
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
