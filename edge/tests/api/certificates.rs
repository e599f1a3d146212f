//! Certificates for the tests, the rules for those of peers, and their rotation under live connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use edge::net::verify::{DomainTrust, Server, ServerVerifier, Trust, anchors};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::support::{Edge, Manifests, PATIENCE, answered, free_port, options, read_message, register};

/// A certificate authority of a test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn issue(&self, names: Vec<SanType>, usages: Vec<ExtendedKeyUsagePurpose>) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages = usages;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub fn server(&self, domain: &str) -> Pair {
        self.issue(
            vec![uri(&format!("sip:{domain}")), SanType::DnsName(domain.try_into().unwrap())],
            vec![ExtendedKeyUsagePurpose::ServerAuth],
        )
    }

    pub fn user(&self, name: &str) -> Pair {
        self.issue(vec![uri(name)], vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// A client that trusts this authority and shows a certificate.
    pub fn client(&self, own: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_auth_cert(chain(&pair.certificate), pair.key()).unwrap(),
        })
    }
}

impl Pair {
    /// As a manifest of type `kubernetes.io/tls`.
    pub fn secret(&self, name: &str) -> String {
        let indent = |pem: &str| pem.trim().lines().map(|line| format!("    {line}\n")).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indent(&self.certificate),
            indent(&self.key)
        )
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

pub fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

/// A TLS connection to the edge as `demo.example`.
pub fn tls_client(
    authority: &Authority,
    port: u16,
    own: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> StreamOwned<ClientConnection, TcpStream> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = authority.client(own, versions);
    StreamOwned::new(ClientConnection::new(config, "demo.example".try_into().unwrap()).unwrap(), tcp)
}

const TLS13: &[&SupportedProtocolVersion] = &[&tokio_rustls::rustls::version::TLS13];

fn trust(domains: &[(&str, &Authority)]) -> Trust {
    let domain = |(domain, authority): &(&str, &Authority)| DomainTrust {
        domain: (*domain).to_owned(),
        anchors: anchors(authority.pem().as_bytes()).unwrap(),
    };
    Trust::new(domains.iter().map(domain).collect(), Arc::new(aws_lc_rs::default_provider()))
}

#[test]
fn sec_4_every_usage_that_a_sip_peer_may_have_is_accepted_of_a_client_and_no_other() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, Other, ServerAuth};
    let authority = Authority::new();
    let trust = trust(&[("demo.example", &authority)]);
    let sip_domain = || Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 20]);
    let accepted = |usages| {
        let pair = authority.issue(vec![uri("sip:alice@demo.example")], usages);
        trust.identify(&chain(&pair.certificate), UnixTime::now()).is_ok()
    };
    assert!(accepted(vec![]));
    assert!(accepted(vec![ClientAuth]));
    assert!(accepted(vec![ServerAuth]), "public authorities issue no clientAuth any more");
    assert!(accepted(vec![sip_domain()]), "RFC 5924");
    assert!(accepted(vec![ServerAuth, sip_domain()]));
    assert!(accepted(vec![Any]));
    assert!(!accepted(vec![CodeSigning]));
}

#[test]
fn sec_4_a_certificate_speaks_for_the_domains_whose_authority_issued_it() {
    let (one, two, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let trust = trust(&[("one.example", &one), ("two.example", &two), ("also-two.example", &two)]);
    let identify = |pair: &Pair| trust.identify(&chain(&pair.certificate), UnixTime::now());
    let found = identify(&one.user("sip:alice@one.example")).unwrap();
    assert_eq!(found.domains, ["one.example"]);
    assert_eq!(found.uris, ["sip:alice@one.example"]);
    // What the names say is the core's to judge; who vouches is not.
    assert_eq!(identify(&two.user("sip:alice@one.example")).unwrap().domains, ["two.example", "also-two.example"]);
    let refused = identify(&stranger.user("sip:alice@one.example")).unwrap_err();
    assert_eq!(refused.to_string(), "no configured certificate authority issued it");
    let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 37));
    let expired = trust.identify(&chain(&one.user("sip:alice@one.example").certificate), later).unwrap_err();
    assert_eq!(expired.to_string(), "it has expired");
}

/// RFC 5922 §7 as a client: who may be `example.com`. Stock verifiers are wrong in five of these.
#[test]
fn sec_2_a_server_is_the_sip_domain_that_its_certificate_names_and_nothing_near_it() {
    use ExtendedKeyUsagePurpose::{ClientAuth, Other, ServerAuth};
    let (authority, stranger) = (Authority::new(), Authority::new());
    let verifier = ServerVerifier { trust: Arc::new(trust(&[("demo.example", &authority)])), wanted: Server::Domain };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let accepted_of = |authority: &Authority, asked: &str, names: &[SanType], usages: Vec<ExtendedKeyUsagePurpose>| {
        let pair = authority.issue(names.to_vec(), usages);
        let name = ServerName::try_from(asked.to_owned()).unwrap();
        verifier.verify_server_cert(&chain(&pair.certificate)[0], &[], &name, &[], UnixTime::now()).is_ok()
    };
    let accepted = |asked: &str, names: &[SanType]| accepted_of(&authority, asked, names, vec![ServerAuth]);
    let both = [uri("sip:example.com"), dns("proxy7.example.com")];
    assert!(accepted("example.com", &[uri("sip:example.com")]));
    assert!(accepted("example.com", &both));
    assert!(!accepted("proxy7.example.com", &both), "a URI makes the DNS names count for nothing");
    assert!(!accepted("sip.example.com", &[dns("*.example.com")]), "no wildcards");
    assert!(accepted("example.com", &[dns("example.com")]));
    assert!(accepted("EXAMPLE.com", &[dns("example.COM")]));
    assert!(!accepted("example.com", &[uri("sip:alice@example.com")]), "a user is no domain");
    assert!(!accepted("127.0.0.1", &[SanType::IpAddress([127, 0, 0, 1].into())]), "an address is no domain");
    let usage = |usages| accepted_of(&authority, "example.com", &[uri("sip:example.com")], usages);
    assert!(usage(vec![Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 20])]), "RFC 5924");
    assert!(usage(vec![]));
    assert!(!usage(vec![ClientAuth]));
    assert!(!accepted_of(&stranger, "example.com", &[uri("sip:example.com")], vec![ServerAuth]));
}

#[test]
fn sec_4_a_client_certificate_registers_its_address_and_no_other() {
    let port = free_port();
    let authority = Authority::new();
    let manifests = Manifests::new();
    manifests.write("domain.yaml", &with_authority(&authority));
    manifests.write(
        "agent.yaml",
        "apiVersion: sipmcp.dev/v1alpha1\nkind: McpAgent\nmetadata: {name: alice}\nspec:\n  address: {user: alice, domainRef: {name: demo}}\n  \
         backend: {sipContact: {authentication: ClientCertificate}}\n  capabilities: {source: Declared}\n",
    );
    manifests.write("tls.yaml", &authority.server("demo.example").secret("edge-tls"));
    let listener = format!(
        "{{name: sips, protocol: TLS, port: {port}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}"
    );
    let edge = Edge::with(manifests.with_edge(&listener));
    let registers = |user: &str, id: &str| {
        let mut stream = tls_client(&authority, port, Some(&authority.user(user)), TLS13);
        let local = stream.sock.local_addr().unwrap();
        stream.write_all(register("TLS", local, id).as_bytes()).unwrap();
        answered(&read_message(&mut stream), id)
    };
    assert_eq!(registers("sip:alice@demo.example", "alice"), 200);
    assert_eq!(edge.status()["counts"]["registrations"], 1);
    assert_eq!(registers("sip:bob@demo.example", "bob"), 403);
    let nobody = {
        let mut stream = tls_client(&authority, port, None, TLS13);
        let local = stream.sock.local_addr().unwrap();
        stream.write_all(register("TLS", local, "nobody").as_bytes()).unwrap();
        answered(&read_message(&mut stream), "nobody")
    };
    assert!(matches!(nobody, 401 | 403), "{nobody}");
}

/// The certificate that the edge shows now.
fn shown(authority: &Authority, port: u16) -> Option<Vec<u8>> {
    let mut stream = tls_client(authority, port, None, TLS13);
    stream.write_all(options("TLS", stream.sock.local_addr().unwrap(), "shown").as_bytes()).ok()?;
    answered(&read_message(&mut stream), "shown");
    Some(stream.conn.peer_certificates()?[0].to_vec())
}

#[test]
fn a_new_certificate_serves_new_connections_and_ends_no_live_one() {
    let port = free_port();
    let authority = Authority::new();
    let (first, second) = (authority.server("demo.example"), authority.server("demo.example"));
    let manifests = Manifests::new().with_domain();
    manifests.write("tls.yaml", &first.secret("edge-tls"));
    let listener = format!(
        "{{name: sips, protocol: TLS, port: {port}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}"
    );
    let manifests = manifests.with_edge(&listener);
    let edge = Edge::start(&manifests);
    let mut live = tls_client(&authority, port, None, TLS13);
    let local = live.sock.local_addr().unwrap();
    live.write_all(options("TLS", local, "before").as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut live), "before"), 200);
    assert_eq!(shown(&authority, port).unwrap(), chain(&first.certificate)[0].to_vec());

    // A half-written pair is refused and the old one stays.
    let half = Pair { certificate: second.certificate.clone(), key: first.key.clone() };
    manifests.write("tls.yaml", &half.secret("edge-tls"));
    let status = edge.status_until(|status| status["problems"].as_array().is_some_and(|p| !p.is_empty()));
    let problem = status["problems"][0].as_str().unwrap();
    assert!(problem.contains("spec.listeners[0].tls.certificateRefs[0]"), "{problem}");
    assert!(problem.contains("tls.key is not the key of the first certificate"), "{problem}");
    assert_eq!(shown(&authority, port).unwrap(), chain(&first.certificate)[0].to_vec());

    manifests.write("tls.yaml", &second.secret("edge-tls"));
    edge.status_until(|status| status["problems"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(shown(&authority, port).unwrap(), chain(&second.certificate)[0].to_vec());
    live.write_all(options("TLS", local, "after").as_bytes()).unwrap();
    assert_eq!(answered(&read_message(&mut live), "after"), 200);
}

#[test]
fn a_listener_that_demands_a_certificate_shakes_hands_with_nobody_else() {
    let port = free_port();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let manifests = Manifests::new();
    manifests.write("domain.yaml", &with_authority(&authority));
    manifests.write("tls.yaml", &authority.server("demo.example").secret("edge-tls"));
    let listener = format!(
        "{{name: sips, protocol: TLS, port: {port}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}], clientAuth: Required}}}}"
    );
    let _edge = Edge::with(manifests.with_edge(&listener));
    let speaks = |own: Option<&Pair>| {
        let mut stream = tls_client(&authority, port, own, TLS13);
        let local = stream.sock.local_addr().unwrap();
        let mut octet = [0];
        stream.write_all(options("TLS", local, "demand").as_bytes()).is_ok() && matches!(stream.read(&mut octet), Ok(1))
    };
    assert!(speaks(Some(&authority.user("sip:alice@demo.example"))));
    assert!(!speaks(Some(&stranger.user("sip:alice@demo.example"))));
    assert!(!speaks(None));
}

#[test]
fn sec_1_a_listener_shakes_hands_in_no_older_tls_than_its_least_version() {
    let authority = Authority::new();
    let pair = authority.server("demo.example");
    for (least, takes_1_2) in [("", true), (", minVersion: \"1.2\"", true), (", minVersion: \"1.3\"", false)] {
        let port = free_port();
        let manifests = Manifests::new().with_domain();
        manifests.write("tls.yaml", &pair.secret("edge-tls"));
        let listener = format!(
            "{{name: sips, protocol: TLS, port: {port}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]{least}}}}}"
        );
        let _edge = Edge::with(manifests.with_edge(&listener));
        let speaks = |versions: &[&'static SupportedProtocolVersion]| {
            let mut stream = tls_client(&authority, port, None, versions);
            let local = stream.sock.local_addr().unwrap();
            stream.write_all(options("TLS", local, "least").as_bytes()).map_err(|refused| refused.to_string())?;
            Ok::<_, String>(answered(&read_message(&mut stream), "least"))
        };
        assert_eq!(speaks(TLS13), Ok(200), "{least}");
        match speaks(&[&tokio_rustls::rustls::version::TLS12]) {
            Ok(status) => assert!(takes_1_2 && status == 200, "{least}: {status}"),
            Err(refused) => assert!(!takes_1_2 && refused.contains("ProtocolVersion"), "{least}: {refused}"),
        }
    }
}

#[test]
fn a_removed_authority_closes_the_connections_that_it_vouched_for_and_no_others() {
    let port = free_port();
    let (authority, next) = (Authority::new(), Authority::new());
    let manifests = Manifests::new();
    manifests.write("domain.yaml", &with_authority(&authority));
    manifests.write("tls.yaml", &authority.server("demo.example").secret("edge-tls"));
    let listener = format!(
        "{{name: sips, protocol: TLS, port: {port}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: edge-tls}}]}}}}"
    );
    let manifests = manifests.with_edge(&listener);
    let edge = Edge::start(&manifests);
    let mut known = tls_client(&authority, port, Some(&authority.user("sip:alice@demo.example")), TLS13);
    let mut anonymous = tls_client(&authority, port, None, TLS13);
    for stream in [&mut known, &mut anonymous] {
        let local = stream.sock.local_addr().unwrap();
        stream.write_all(options("TLS", local, "one").as_bytes()).unwrap();
        answered(&read_message(stream), "one");
    }
    manifests.write("domain.yaml", &with_authority(&next));
    edge.status_until(|status| status["counts"]["connections"] == 1);
    assert_eq!(known.read(&mut [0]).unwrap_or(0), 0, "closed");
    let local = anonymous.sock.local_addr().unwrap();
    anonymous.write_all(options("TLS", local, "two").as_bytes()).unwrap();
    answered(&read_message(&mut anonymous), "two");
}

fn with_authority(authority: &Authority) -> String {
    let indented: String = authority.pem().trim().lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: sipmcp.dev/v1alpha1\nkind: SipDomain\nmetadata: {{name: demo}}\nspec:\n  domain: demo.example\n  \
         authentication:\n    clientCertificates: {{caBundleRef: {{name: demo-ca}}}}\n---\napiVersion: v1\nkind: ConfigMap\n\
         metadata: {{name: demo-ca}}\ndata:\n  ca.crt: |\n{indented}"
    )
}
