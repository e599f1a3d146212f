//! What cannot be a store is refused at start, with the reason, in bounded time.

use std::time::{Duration, Instant};

use session_store_redis::{RedisConfig, RedisStore, StartError, Topology};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::server::{Program, Server, free_port};
use super::subject::{RUNTIME, sealer};

fn single(address: String) -> RedisConfig {
    RedisConfig::new(Topology::Single { address }, "t:")
}

/// Refused, and long before an operator loses patience.
fn refused(config: RedisConfig) -> StartError {
    let started = Instant::now();
    let result = RUNTIME.block_on(RedisStore::connect(config, sealer(1)));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    result.expect_err("it must not start")
}

/// Something that listens and answers each read with the same bytes; `None` closes at once.
fn something(answer: Option<&'static [u8]>) -> String {
    let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    RUNTIME.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Some(answer) = answer else { return };
                let mut chunk = [0; 1_024];
                while matches!(stream.read(&mut chunk).await, Ok(n) if n > 0) {
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn an_http_proxy_is_no_redis() {
    let error = refused(single(something(Some(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))));
    assert!(matches!(&error, StartError::NotRedis { got, .. } if got.contains("HTTP/1.1 400")), "{error}");
    assert!(error.to_string().contains("neither Redis nor Valkey"), "{error}");
}

#[test]
fn random_bytes_are_no_redis() {
    let error = refused(single(something(Some(&[0x16, 0x03, 0xff, 0x00, 0x99, b'\n']))));
    assert!(matches!(error, StartError::NotRedis { .. }), "{error}");
    // Begins like an answer of Redis and goes on as something else.
    let error = refused(single(something(Some(b"+PONG\r\n\0\0\xff\xff"))));
    assert!(matches!(error, StartError::NotRedis { .. } | StartError::Unreachable { .. }), "{error}");
}

#[test]
fn silence_and_a_closed_connection_are_told_apart() {
    let error = refused(single(something(Some(b""))));
    assert!(matches!(&error, StartError::Unreachable { reason, .. } if reason.contains("says nothing")), "{error}");
    let error = refused(single(something(None)));
    assert!(
        matches!(&error, StartError::Unreachable { reason, .. } if reason.contains("without a word") || reason.contains("reset")),
        "{error}"
    );
}

#[test]
fn nobody_there_is_said() {
    let error = refused(single(format!("127.0.0.1:{}", free_port())));
    assert!(matches!(error, StartError::Unreachable { .. }), "{error}");
}

#[test]
fn an_old_version_is_refused() {
    let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    RUNTIME.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut chunk = [0; 1_024];
                while let Ok(n) = stream.read(&mut chunk).await {
                    // As much of Redis 6.2 as is asked before its version is known.
                    let asked = String::from_utf8_lossy(&chunk[..n]).to_string();
                    let mut answer = Vec::new();
                    for word in asked.split("\r\n") {
                        match word {
                            "PING" => answer.extend(b"+PONG\r\n"),
                            "HELLO" => answer.extend(b"%1\r\n$5\r\nproto\r\n:3\r\n"),
                            "CLIENT" => answer.extend(b"-ERR unknown subcommand\r\n"),
                            "INFO" => {
                                let info = "redis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\nrole:master\r\n";
                                answer.extend(format!("${}\r\n{info}\r\n", info.len()).bytes());
                            }
                            _ => {}
                        }
                    }
                    if n == 0 || stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let error = refused(single(address));
    assert!(matches!(&error, StartError::TooOld { version, .. } if version == "Redis 6.2.14"), "{error}");
}

#[test]
fn a_wrong_password_is_said() {
    let server = Server::start(Program::Redis, &["--requirepass", "right"]);
    let error = refused(single(server.address()));
    assert!(matches!(error, StartError::Refused { .. }), "{error}");
    let mut config = single(server.address());
    config.password = Some("wrong".to_owned().into());
    let error = refused(config.clone());
    assert!(matches!(error, StartError::Refused { .. }), "{error}");
    assert!(!format!("{config:?} {error}").contains("wrong\""), "the password is told to nobody");
    config.password = Some("right".to_owned().into());
    RUNTIME.block_on(RedisStore::connect(config, sealer(1))).expect("with the password");
}

#[test]
fn eviction_is_refused() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let server = Server::start(Program::Redis, &["--maxmemory-policy", policy]);
        let error = refused(single(server.address()));
        assert!(matches!(&error, StartError::Eviction { policy: said, .. } if said == policy), "{error}");
        assert!(error.to_string().contains("noeviction"), "{error}");
    }
}

#[test]
fn a_replica_is_not_written_to() {
    let primary = Server::start(Program::Redis, &[]);
    let port = primary.port.to_string();
    let replica = Server::start(Program::Redis, &["--replicaof", "127.0.0.1", &port]);
    let error = refused(single(replica.address()));
    assert!(matches!(error, StartError::Replica { .. }), "{error}");
}

#[test]
fn the_topology_has_to_be_the_servers() {
    let server = Server::start(Program::Redis, &[]);
    let error = refused(RedisConfig::new(Topology::Cluster { addresses: vec![server.address()] }, "t:"));
    assert!(matches!(error, StartError::OtherMode { .. }), "{error}");
    let node = Server::start(Program::Redis, &["--cluster-enabled", "yes"]);
    let error = refused(single(node.address()));
    assert!(matches!(error, StartError::OtherMode { .. }), "{error}");
}

#[test]
fn a_configuration_that_cannot_be_right_is_refused() {
    for address in ["", "host", "host:", "host:99999", ":1"] {
        assert!(matches!(refused(single(address.into())), StartError::Config(_)), "{address}");
    }
    let error = refused(RedisConfig::new(Topology::Single { address: "127.0.0.1:1".into() }, "a{b}"));
    assert!(matches!(error, StartError::Config(_)), "{error}");
    let error = refused(RedisConfig::new(Topology::Cluster { addresses: Vec::new() }, "t:"));
    assert!(matches!(error, StartError::Config(_)), "{error}");
}

#[test]
fn sec_the_library_of_somebody_else_is_not_used() {
    let server = Server::start(Program::Redis, &[]);
    let name = session_store_redis::library::name();
    let code = format!("#!lua name={name}\nredis.register_function('{name}_probe', function() return 'x' end)");
    redis::cmd("FUNCTION").arg("LOAD").arg(code).exec(&mut server.admin()).expect("it loads");
    let error = refused(single(server.address()));
    assert!(matches!(error, StartError::Library { .. }), "{error}");
}

#[test]
fn libraries_of_two_releases_lie_side_by_side() {
    let server = Server::start(Program::Redis, &[]);
    let other =
        session_store_redis::library::code().replace(session_store_redis::library::name(), "sipmcp_v1_00000000");
    redis::cmd("FUNCTION").arg("LOAD").arg(other).exec(&mut server.admin()).expect("it loads");
    RUNTIME.block_on(RedisStore::connect(single(server.address()), sealer(1))).expect("both");
}
