//! Every method passes the gate: method × transport × authentication, out of a dialog and in one. Generated from the method enum: a new
//! method does not compile here until somebody decides what it gets.

use std::sync::Arc;

use edge_core::input::{Flow, Transport};
use sip_proto::message::HeaderId;
use sip_proto::method::{Method, REGISTERED};

use crate::calls::{ECHO, both};
use crate::driver::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Auth {
    Nothing,
    WrongDigest,
    Digest,
    Certificate,
    /// A TLS connection that answered a challenge before.
    Flow,
}

const TRANSPORTS: [Transport; 5] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
const AUTHS: [Auth; 5] = [Auth::Nothing, Auth::WrongDigest, Auth::Digest, Auth::Certificate, Auth::Flow];

fn methods() -> Vec<Method<'static>> {
    REGISTERED.into_iter().chain([Method::Extension("FROBNICATE"), Method::Extension("invite")]).collect()
}

/// What an authenticated user gets out of a dialog; `None`: no answer.
fn served(method: Method<'_>) -> Option<u16> {
    match method {
        Method::Invite | Method::Message | Method::Options | Method::Register => Some(200),
        Method::Bye | Method::Info | Method::Update => Some(481),
        Method::Prack | Method::Refer | Method::Subscribe | Method::Notify | Method::Publish => Some(405),
        Method::Cancel => Some(481),
        Method::Ack => None,
        Method::Extension(_) => Some(501),
    }
}

/// What the user of a dialog gets in it.
fn served_in_dialog(method: Method<'_>) -> Option<u16> {
    match method {
        Method::Invite | Method::Message | Method::Options | Method::Bye | Method::Info | Method::Update => Some(200),
        Method::Prack | Method::Refer | Method::Subscribe | Method::Notify | Method::Publish | Method::Register => {
            Some(405)
        }
        Method::Cancel => Some(481),
        Method::Ack => None,
        Method::Extension(_) => Some(501),
    }
}

fn flow(transport: Transport, auth: Auth) -> Arc<Flow> {
    let uris: &[&str] = if auth == Auth::Certificate { &["sip:alice@acme.example"] } else { &[] };
    match transport {
        Transport::Udp => {
            let mut flow = Flow::clone(&udp(5062));
            flow.certificate = stream(Transport::Tls, 1, uris).certificate.clone();
            Arc::new(flow)
        }
        other => stream(other, 1, uris),
    }
}

/// Sends one request as `auth` says and returns what came first.
fn one(world: &mut World, ua: &mut Ua, method: Method<'_>, auth: Auth) -> Option<u16> {
    let (extra, body) = match method {
        Method::Invite => both(),
        Method::Message => (MCP.to_owned(), tool_call(1, "echo")),
        _ => (String::new(), String::new()),
    };
    world.sent.clear();
    let before = world.operations.len();
    let built = ua.build(world, method.as_str(), &extra, &body);
    let built = if method == Method::Register {
        built.replacen(ECHO, "sip:acme.example", 1).replacen(
            &format!("To: <{ECHO}>"),
            "To: <sip:alice@acme.example>",
            1,
        )
    } else {
        built
    };
    let built = match auth {
        Auth::WrongDigest => {
            let forged = "Authorization: Digest username=\"alice\", realm=\"acme.example\", nonce=\"00\", uri=\"sip:x\", \
                          algorithm=SHA-256, qop=auth, nc=00000001, cnonce=\"c\", response=\"0000000000000000000000000000000000000000000000000000000000000000\"\r\n";
            built.replacen("Content-Length:", &format!("{forged}Content-Length:"), 1)
        }
        _ => built,
    };
    let flow = ua.flow.clone();
    world.arrive(&flow, built);
    let answer = world.sent.iter().map(|s| s.message.clone()).find(|m| !m.is_request() && m.status() != Some(100))?;
    let status = answer.status();
    if matches!(status, Some(401 | 403)) {
        assert_eq!(world.operations.len(), before, "a refusal touches no store");
    }
    if status == Some(405) {
        assert!(answer.list_has(HeaderId::Allow, "INVITE"));
    }
    if status == Some(401) {
        assert!(answer.has(HeaderId::WwwAuthenticate));
        if auth == Auth::Digest || auth == Auth::Flow {
            ua.challenged(&answer);
            let again = if method == Method::Register {
                let uri = ua.target.clone();
                ua.target = "sip:acme.example".into();
                let built = ua.build(world, "REGISTER", "", "").replacen(
                    "To: <sip:acme.example>",
                    "To: <sip:alice@acme.example>",
                    1,
                );
                ua.target = uri;
                built
            } else {
                ua.build(world, method.as_str(), &extra, &body)
            };
            world.sent.clear();
            world.arrive(&flow, again);
            return world
                .sent
                .iter()
                .map(|s| s.message.clone())
                .find(|m| !m.is_request() && m.status() != Some(100))?
                .status();
        }
    }
    status
}

fn expected(method: Method<'_>, transport: Transport, auth: Auth, plain: bool, in_dialog: bool) -> Option<u16> {
    let outcome = if in_dialog { served_in_dialog(method) } else { served(method) };
    match method {
        Method::Ack | Method::Cancel => return outcome,
        _ => {}
    }
    let secure = matches!(transport, Transport::Tls | Transport::Wss);
    let liveness = method == Method::Options && !in_dialog;
    if !secure && !plain {
        // Somebody is here: that much is told to anybody.
        return if liveness { Some(200) } else { Some(403) };
    }
    match auth {
        Auth::Nothing if liveness => Some(200),
        Auth::Nothing | Auth::WrongDigest => Some(401),
        Auth::Digest | Auth::Certificate | Auth::Flow => outcome,
    }
}

fn matrix(in_dialog: bool) {
    let mut wrong = Vec::new();
    let mut cells = 0;
    for plain in [true, false] {
        for transport in TRANSPORTS {
            for auth in AUTHS {
                for method in methods() {
                    let mut config = config();
                    change_domain(&mut config, |d| {
                        d.allow_plain =
                            if plain { vec![Transport::Udp, Transport::Tcp, Transport::Ws] } else { Vec::new() };
                    });
                    let mut world = World::new(config);
                    let flow = flow(transport, auth);
                    let mut ua = Ua::new(&mut world, "alice", &flow, ECHO);
                    if in_dialog {
                        // The dialog is alice's, made over TLS.
                        let tls = stream(Transport::Tls, 77, &["sip:alice@acme.example"]);
                        ua.flow = tls;
                        let (headers, body) = both();
                        ua.call(&mut world, &headers, &body);
                        ua.flow = flow.clone();
                    }
                    if auth == Auth::Flow {
                        let mut before = Ua::new(&mut world, "alice", &flow, ECHO);
                        one(&mut world, &mut before, Method::Message, Auth::Digest);
                    }
                    let got = one(&mut world, &mut ua, method, auth);
                    let wanted = expected(method, transport, auth, plain, in_dialog);
                    cells += 1;
                    if got != wanted {
                        wrong.push(format!(
                            "{method} {transport:?} {auth:?} plain allowed {plain}: {got:?}, expected {wanted:?}"
                        ));
                    }
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(cells, 2 * 5 * 5 * 16);
}

#[test]
fn every_method_passes_the_gate_out_of_a_dialog() {
    matrix(false);
}

#[test]
fn every_method_passes_the_gate_in_a_dialog() {
    matrix(true);
}
