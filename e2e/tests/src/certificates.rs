//! A certificate authority of one test, and what it issues for a SIP domain (RFC 5922).

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Fallible;

pub struct Authority {
    pub pem: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn words<E: std::fmt::Display>(error: E) -> String {
    format!("certificates: {error}")
}

fn key() -> Fallible<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(words)
}

/// A client that trusts this authority, and no other.
///
/// # Errors
/// It cannot be read.
pub fn trusting(pem: &str) -> Fallible<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(words)?).map_err(words)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(words)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Authority {
    /// # Errors
    /// No random numbers.
    pub fn new() -> Fallible<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "sipmcp e2e");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key()?).map_err(words)?;
        Ok(Authority { pem: issuer.pem(), issuer })
    }

    /// The Secret of a listener of this domain.
    ///
    /// # Errors
    /// The domain is no name.
    pub fn secret(&self, name: &str, domain: &str) -> Fallible<Value> {
        let uri = format!("sip:{domain}").as_str().try_into().map_err(words)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "sip edge");
        params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(domain.try_into().map_err(words)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let own = key()?;
        let certificate = params.signed_by(&own, &self.issuer).map_err(words)?.pem();
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate, "tls.key": own.serialize_pem(), "ca.crt": self.pem},
        }))
    }

    /// What our clients trust.
    ///
    /// # Errors
    /// Our own certificate cannot be read.
    pub fn client_config(&self) -> Fallible<Arc<ClientConfig>> {
        trusting(&self.pem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_holds_a_certificate_for_the_domain() {
        let authority = Authority::new().unwrap();
        let secret = authority.secret("edge-tls", "a.example").unwrap();
        assert!(secret["stringData"]["tls.crt"].as_str().is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE")));
        assert!(authority.client_config().is_ok());
        assert!(authority.secret("edge-tls", "ä example").is_err());
    }
}
