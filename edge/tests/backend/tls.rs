//! https: the configured authorities and the name decide.

use std::net::SocketAddr;
use std::sync::Arc;

use echo_agent::{Agent, Options};
use edge::backend::{Backend, BackendConfig, BackendConfigError};
use edge_core::input::BackendFailure;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::harness::{Client, PING, PONG, Server, http, modern, modern_tool};

struct Authority {
    pem: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).expect("a certificate").pem().into_bytes();
    Authority { pem, issuer: Issuer::new(params, key) }
}

/// Ends TLS and hands the bytes on to `to`.
async fn tls_in_front_of(to: SocketAddr, authority: &Authority, names: &[&str]) -> SocketAddr {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).expect("names").signed_by(&key, &authority.issuer).expect("signed");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a private key"),
        )
        .expect("a server configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let (Ok(mut client), Ok(mut server)) = (acceptor.accept(stream).await, TcpStream::connect(to).await)
                {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    address
}

fn client(url: String, authority: &Authority) -> Client {
    let mut config = BackendConfig::new(url);
    config.ca_bundle = Some(authority.pem.clone());
    Client::with(config)
}

#[tokio::test]
async fn a_certificate_of_the_configured_authority_for_the_right_name() {
    let agent = Agent::start(([127, 0, 0, 1], 0).into(), Options::default()).await.expect("a free port");
    let ours = authority();
    let address = tls_in_front_of(agent.address(), &ours, &["localhost", "127.0.0.1"]).await;
    for host in ["localhost", "127.0.0.1"] {
        let client = client(format!("https://{host}:{}/mcp", address.port()), &ours);
        let answer = client.answer(modern_tool(1, "echo", r#"{"text":"over TLS"}"#)).await;
        assert!(answer.contains("over TLS"));
    }
    assert_eq!(agent.runs("echo"), 2);
}

#[tokio::test]
async fn another_authority_or_another_name_is_refused_before_anything_is_sent() {
    let server = Server::answering(http("200 OK", "application/json", PONG)).await;
    let (ours, theirs) = (authority(), authority());
    let signed_by_them = tls_in_front_of(server.address, &theirs, &["localhost"]).await;
    let other_name = tls_in_front_of(server.address, &ours, &["elsewhere.example"]).await;
    for address in [signed_by_them, other_name] {
        let client = client(format!("https://localhost:{}/mcp", address.port()), &ours);
        assert_eq!(client.failure(modern("ping", None, PING)).await, BackendFailure::Unreachable);
    }
    // The system's authorities, where there are any, do not know ours.
    let system = BackendConfig::new(format!("https://localhost:{}/mcp", other_name.port()));
    match Backend::new("acme/agent", system.clone()) {
        Ok(_) => {
            assert_eq!(Client::with(system).failure(modern("ping", None, PING)).await, BackendFailure::Unreachable)
        }
        Err(error) => assert!(matches!(error, BackendConfigError::NoSystemAuthorities(_)), "{error}"),
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn https_to_a_plain_port_and_http_to_a_tls_port() {
    let server = Server::answering_once(http("200 OK", "application/json", PONG)).await;
    let ours = authority();
    let to_plain = client(format!("https://127.0.0.1:{}/mcp", server.address.port()), &ours);
    let mut call = modern("ping", None, PING);
    call.timeout_ms = 1000;
    assert_eq!(to_plain.failure(call).await, BackendFailure::Unreachable);
    let tls = tls_in_front_of(server.address, &ours, &["127.0.0.1"]).await;
    let to_tls = Client::new(&format!("http://{tls}/mcp"));
    assert_eq!(to_tls.failure(modern("ping", None, PING)).await, BackendFailure::Garbage);
    assert_eq!(server.requests(), 0);
}
