//! TLS with own roots, and a user that may do no more than what is needed.

use session_store::Durability;
use session_store::op::StoreReply;
use session_store_redis::{RedisConfig, RedisStore, StartError, TlsConfig, Topology};
use store_contract::Subject;
use store_contract::samples::*;

use super::full::OnOne;
use super::server::{Program, Server, free_port};
use super::subject::{RUNTIME, patient, sealer};

/// The user of `docs/adr/0004-the-store-on-redis.md`.
const ACL: &str = "user sipmcp on >secret resetchannels ~t:* -@all +fcall +function|list +function|load +hello +ping +info +time \
                   +config|get +cluster|slots +asking +wait +waitaof +@read +@write +@keyspace -keys -flushall -flushdb";

#[test]
fn the_documented_user_may_do_all_that_is_needed() {
    let server = Server::start(Program::Redis, &["--appendonly", "yes", "--appendfsync", "always"]);
    let mut admin = server.admin();
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER");
    for word in ACL.split_whitespace().skip(1).filter(|word| *word != "+waitaof") {
        acl.arg(word);
    }
    acl.exec(&mut admin).expect("ACL SETUSER");
    let mut config = patient(Topology::Single { address: server.address() });
    (config.username, config.password) = (Some("sipmcp".into()), Some("secret".to_owned().into()));
    let store = RUNTIME.block_on(RedisStore::connect(config.clone(), sealer(1))).expect("the store");
    RUNTIME.block_on(store.check_durability(Durability::Fsync)).expect("it may ask for the settings");
    let mut s = OnOne(&store);
    with_dialog(&mut s, 1);
    assert!(matches!(s.run(bye(1, 5)), Ok(StoreReply::Dialog { .. })));

    config.key_prefix = "other:".into();
    let other = RUNTIME.block_on(RedisStore::connect(config.clone(), sealer(1))).expect("the store");
    let refused = RUNTIME.block_on(other.execute(read(1)));
    assert!(refused.is_err(), "keys of another prefix are not its: {refused:?}");

    redis::cmd("ACL").arg("SETUSER").arg("sipmcp").arg("-function").exec(&mut admin).expect("ACL SETUSER");
    let error = RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect_err("it may not load functions");
    assert!(matches!(error, StartError::NotAllowed { .. }), "{error}");
}

#[test]
fn tls_is_checked_against_our_roots_alone() {
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let cert = params.self_signed(&key).expect("a certificate");
        (cert.pem(), rcgen::Issuer::new(params, key))
    };
    let (roots, issuer) = authority("ours");
    let (others, _) = authority("theirs");
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
    let cert = params.signed_by(&key, &issuer).expect("a certificate");
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in [("ca.pem", &roots), ("cert.pem", &cert.pem()), ("key.pem", &key.serialize_pem())] {
        std::fs::write(directory.path().join(name), text).expect("a file");
    }
    let port = free_port();
    let tls = port.to_string();
    let options = [
        "--tls-port",
        &tls,
        "--tls-cert-file",
        "cert.pem",
        "--tls-key-file",
        "key.pem",
        "--tls-ca-cert-file",
        "ca.pem",
        "--tls-auth-clients",
        "no",
    ];
    let server = Server::start_in(Program::Redis, free_port(), &options, directory);
    let config = |host: &str, roots: &str| {
        let mut config = patient(Topology::Single { address: format!("{host}:{port}") });
        config.tls = Some(TlsConfig { roots: roots.as_bytes().to_vec(), client: None });
        config
    };
    let store = RUNTIME.block_on(RedisStore::connect(config("localhost", &roots), sealer(1))).expect("the store");
    with_dialog(&mut OnOne(&store), 1);
    let refused = |config: RedisConfig| RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect_err("no trust");
    let error = refused(config("localhost", &others));
    assert!(matches!(&error, StartError::Unreachable { reason, .. } if reason.contains("certificate")), "{error}");
    let error = refused(config("127.0.0.1", &roots));
    assert!(matches!(error, StartError::Unreachable { .. }), "another name: {error}");
    // No TLS where TLS is expected, and the other way round.
    let mut plain = config("localhost", &roots);
    plain.tls = None;
    let error = refused(plain);
    assert!(matches!(error, StartError::NotRedis { .. } | StartError::Unreachable { .. }), "{error}");
    let mut tls = config("localhost", &roots);
    tls.topology = Topology::Single { address: format!("localhost:{}", server.port) };
    let error = refused(tls);
    assert!(matches!(error, StartError::NotRedis { .. } | StartError::Unreachable { .. }), "{error}");
}
