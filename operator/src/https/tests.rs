use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const NAME: &str = "sipmcp-operator.system.svc";

fn headers(name: hyper::header::HeaderName, value: &str) -> HeaderMap {
    [(name, HeaderValue::from_str(value).unwrap())].into_iter().collect()
}

#[test]
fn a_body_says_how_long_it_is() {
    assert_eq!(length(&headers(CONTENT_LENGTH, "17"), &Method::POST), Ok(17));
    assert_eq!(length(&HeaderMap::new(), &Method::GET), Ok(0));
    assert_eq!(length(&HeaderMap::new(), &Method::POST), Err(StatusCode::LENGTH_REQUIRED));
    assert_eq!(length(&headers(CONTENT_LENGTH, "-1"), &Method::POST), Err(StatusCode::BAD_REQUEST));
}

#[test]
fn only_a_bearer_token_is_one() {
    let read = |value| token(&headers(AUTHORIZATION, value)).map(|token| token.to_string());
    assert_eq!(read("Bearer abc").as_deref(), Some("abc"));
    assert_eq!(read("bearer  abc ").as_deref(), Some("abc"));
    for none in ["Basic abc", "Bearer", "Bearer ", "abc"] {
        assert_eq!(read(none), None, "{none}");
    }
}

#[test]
fn a_certificate_is_kept_for_half_of_its_life_and_for_its_names() {
    let (certificate, key) = Authority::make(1_000_000).unwrap();
    let authority = Authority::read(&certificate, &key, vec!["sipmcp-operator.system.svc".into()]).unwrap();
    let certificate = Certificate { authority: Arc::new(authority), made: Mutex::default() };
    let first = certificate.config(1_000_000).unwrap();
    assert!(Arc::ptr_eq(&first, &certificate.config(1_000_000 + LIFE / 2 - 1).unwrap()));
    let second = certificate.config(1_000_000 + LIFE / 2).unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
    certificate.authority.answer_to("other.svc");
    assert!(!Arc::ptr_eq(&second, &certificate.config(1_000_000 + LIFE / 2).unwrap()));
}

/// Says what it was asked; on `/slow` never.
struct Echo;

impl Answers for Echo {
    async fn answer(&self, asked: Asked) -> Reply {
        if asked.path == "/slow" {
            std::future::pending::<()>().await;
        }
        let token = asked.token.map(|token| token.to_string());
        json(StatusCode::OK, &serde_json::json!({"path": asked.path, "token": token, "octets": asked.body.len()}))
    }
}

/// What comes back until the server closes.
async fn say(address: SocketAddr, trusted: &str, request: &str) -> String {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_request_is_answered_over_tls_and_what_is_too_much_is_refused() {
    let (certificate, key) = Authority::make(unix_now()).unwrap();
    let authority = Arc::new(Authority::read(&certificate, &key, vec![NAME.into()]).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { connections: 4, body: 16, bodies: 2048, patience: Duration::from_millis(300) };
    let (end, ended) = oneshot::channel::<()>();
    let shutdown = async { drop(ended.await) };
    let server = tokio::spawn(serve(listener, authority, limits, Arc::new(Echo), shutdown));
    let post = |path: &str, more: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: op\r\nConnection: close\r\n{more}\r\n{body}")
    };
    for (request, status, body) in [
        (
            post("/a?b", "Authorization: Bearer t\r\nContent-Length: 3\r\n", "abc"),
            200,
            r#"{"octets":3,"path":"/a","token":"t"}"#,
        ),
        (post("/a", "Content-Length: 17\r\n", "0123456789abcdefg"), 413, "at most 16 octets"),
        (post("/a", "Transfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\n\r\n"), 411, "Content-Length"),
        (post("/a", "Content-Length: 9\r\n", "abc"), 408, "does not come"),
        (post("/slow", "Content-Length: 0\r\n", ""), 503, "try again"),
    ] {
        let answer = say(address, &certificate, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(body), "{request:?}: {answer}");
    }
    end.send(()).unwrap();
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
