//! One certificate authority per run, the edges' certificate for SIP, and one per edge for the mesh.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Fallible;
use crate::manifests::DOMAIN;

/// PEM of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

pub struct Authority {
    pub pem: String,
    /// For the SIP domain (RFC 5922).
    pub edge: Pair,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn words<E: std::fmt::Display>(error: E) -> String {
    format!("certificates: {error}")
}

impl Authority {
    pub fn new() -> Fallible<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kill");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key()?).map_err(words)?;
        let uri = format!("sip:{DOMAIN}").as_str().try_into().map_err(words)?;
        let names = vec![SanType::URI(uri), SanType::DnsName(DOMAIN.try_into().map_err(words)?)];
        let edge = issue(&issuer, DOMAIN, names, &[ExtendedKeyUsagePurpose::ServerAuth])?;
        Ok(Authority { pem: issuer.pem(), edge, issuer })
    }

    /// For the mesh: both ends show one, and it names the edge.
    pub fn mesh(&self, names: &[String]) -> Fallible<Pair> {
        let names = names
            .iter()
            .map(|name| Ok(SanType::DnsName(name.as_str().try_into().map_err(words)?)))
            .collect::<Fallible<Vec<_>>>()?;
        issue(&self.issuer, "edge", names, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// What the clients trust.
    pub fn client_config(&self) -> Fallible<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(words)?;
        roots.add(certificate).map_err(words)?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(words)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn key() -> Fallible<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(words)
}

fn issue(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    common: &str,
    names: Vec<SanType>,
    usages: &[ExtendedKeyUsagePurpose],
) -> Fallible<Pair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common);
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    let own = key()?;
    let certificate = params.signed_by(&own, issuer).map_err(words)?.pem();
    Ok(Pair { certificate, key: own.serialize_pem() })
}
