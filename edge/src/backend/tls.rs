//! TLS towards backends: TLS 1.2 and 1.3, the configured authorities only, HTTP/1.1 by ALPN.

use std::sync::{Arc, OnceLock};

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::config::BackendConfigError;

/// A connector that trusts the certificates of `ca_bundle` (PEM), or the system's authorities where there is none.
pub(super) fn connector(ca_bundle: Option<&[u8]>) -> Result<TlsConnector, BackendConfigError> {
    let roots = match ca_bundle {
        Some(pem) => Arc::new(bundle(pem)?),
        None => system()?,
    };
    // The provider is named, so that this works whatever else is linked and before `main` installs a default.
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| BackendConfigError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn bundle(pem: &[u8]) -> Result<RootCertStore, BackendConfigError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let certificate = certificate.map_err(|error| BackendConfigError::CaSyntax(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| BackendConfigError::CaCertificate { number: index + 1, reason: error.to_string() })?;
    }
    if roots.is_empty() { Err(BackendConfigError::CaEmpty) } else { Ok(roots) }
}

/// The system's authorities, read once: over a hundred certificates, and they change with the image, not with a reload.
fn system() -> Result<Arc<RootCertStore>, BackendConfigError> {
    static SYSTEM: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    SYSTEM
        .get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // Single unusable ones are usual in system stores; it matters that some are there.
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string));
            }
            Ok(Arc::new(roots))
        })
        .clone()
        .map_err(BackendConfigError::NoSystemAuthorities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_needs_a_certificate() {
        assert_eq!(bundle(b"").err(), Some(BackendConfigError::CaEmpty));
        assert_eq!(bundle(b"no pem at all").err(), Some(BackendConfigError::CaEmpty));
        let broken = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(bundle(broken), Err(BackendConfigError::CaSyntax(_))));
        let no_certificate = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(bundle(no_certificate), Err(BackendConfigError::CaCertificate { number: 1, .. })));
    }
}
