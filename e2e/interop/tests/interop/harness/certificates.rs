//! One certificate authority per run, with what it issued: the edge's certificate and alice's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};

/// PEM of a certificate and its key.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

pub struct Authority {
    pub pem: String,
    /// For demo.example, md5.example, open.example and secure.example (RFC 5922).
    pub edge: Pair,
    /// For sip:alice@demo.example.
    pub alice: Pair,
    /// For the mesh: each names one edge of [`FLEET`], and both ends show one.
    pub mesh: Vec<Pair>,
}

/// What the edges of a fleet are called.
pub const FLEET: [&str; 2] = ["edge-1", "edge-2"];

pub fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(make)
}

fn make() -> Authority {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "interop");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(params, key()).unwrap();
    let issue = |names: Vec<SanType>, common: &str, usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        let own = key();
        Pair { certificate: params.signed_by(&own, &issuer).unwrap().pem(), key: own.serialize_pem() }
    };
    let domains = ["demo.example", "md5.example", "open.example", "secure.example"];
    let uri = |text: String| SanType::URI(text.as_str().try_into().unwrap());
    let names = domains
        .iter()
        .flat_map(|domain| [uri(format!("sip:{domain}")), SanType::DnsName((*domain).try_into().unwrap())]);
    Authority {
        edge: issue(names.collect(), "demo.example", &[ServerAuth]),
        alice: issue(vec![uri("sip:alice@demo.example".into())], "alice", &[ClientAuth]),
        mesh: FLEET
            .iter()
            .map(|name| issue(vec![SanType::DnsName((*name).try_into().unwrap())], name, &[ServerAuth, ClientAuth]))
            .collect(),
        pem: issuer.pem(),
    }
}

/// The files that a command line takes.
pub struct Files {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Writes the authority and alice's pair into a folder.
pub fn files(folder: &Path) -> Files {
    let Authority { pem, alice, .. } = authority();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    Files {
        ca: write("ca.pem", pem),
        certificate: write("alice.pem", &alice.certificate),
        key: write("alice.key", &alice.key),
    }
}
