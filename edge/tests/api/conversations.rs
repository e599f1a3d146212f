//! Export and erasure of conversations by the admin door, with each store that outlives the process (OBS-4).

use crate::calls::{Echo, tool_call};
use crate::fleet::{Caller, Redis, member, udp};
use crate::stores::in_file;
use crate::support::{DOMAIN, Edge, Manifests, free_port};

const PATH: &str = "/conversations/11111111-2222-4333-8444-555555555555";
const INFO: &str = "Info-Package: mcp\r\nContent-Type: application/mcp+json\r\nContent-Disposition: Info-Package\r\n";

fn retained(manifests: &Manifests, retention: &str) {
    let with = format!("  domain: demo.example\n  dataProtection: {{retention: {retention}}}\n");
    manifests.write("domain.yaml", &DOMAIN.replace("  domain: demo.example\n", &with));
}

/// A call with a tool call in it, acknowledged and answered.
fn converse(port: u16, call_id: &str) -> Caller {
    let mut bob = Caller::new(call_id);
    bob.invite(port);
    bob.ack(port);
    let accepted = bob.ask(port, "INFO", INFO, &tool_call("echo", r#"{"text":"hi"}"#));
    assert!(accepted.starts_with("SIP/2.0 200"), "{accepted}");
    assert!(bob.answered_by_info(port).contains("hi"));
    bob
}

/// How many records of each kind the door shows, and the dialog.
fn shown(edge: &Edge) -> (usize, usize, serde_json::Value) {
    let (status, text) = edge.get(PATH);
    assert_eq!(status, 200, "{text}");
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown["found"][0]["domain"], "demo.example");
    let records = shown["found"][0]["records"].as_array().unwrap();
    let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).collect::<Vec<_>>();
    let dialog = of("dialog").first().map(|dialog| dialog["record"].clone()).unwrap_or_default();
    (of("dialog").len(), of("exchange").len(), dialog)
}

const NOTHING: &str = "nothing is stored of such a conversation\n";

/// All of it on one edge whose domain retains for an hour, then, after a restart, on one that does not.
fn lives_ends_and_is_erased(manifests: &Manifests, port: u16) {
    let echo = Echo::start();
    manifests.write("agent.yaml", &echo.manifest());
    retained(manifests, "1h");
    let edge = Edge::start_with(manifests, &["--edge-id", "edge-0"]);
    let mut bob = converse(port, "retained");
    let (dialogs, exchanges, dialog) = shown(&edge);
    assert_eq!((dialogs, exchanges, dialog["phase"].as_str()), (1, 1, Some("Confirmed")), "{dialog:#}");
    // It ends, and is still told, with what was negotiated.
    let ended = bob.ask(port, "BYE", "", "");
    assert!(ended.starts_with("SIP/2.0 200"), "{ended}");
    let (dialogs, exchanges, dialog) = shown(&edge);
    assert_eq!((dialogs, exchanges, dialog["phase"].as_str()), (1, 1, Some("Terminated")), "{dialog:#}");
    assert_eq!((&dialog["call_id"], &dialog["mcp"]["tools"][0]), (&"retained".into(), &"echo@1".into()), "{dialog:#}");
    // By another life of the edge, too.
    drop(edge);
    retained(manifests, "0s");
    let edge = Edge::start_with(manifests, &["--edge-id", "edge-0"]);
    assert_eq!(shown(&edge).0, 1);
    assert_eq!(edge.ask("POST", PATH).0, 405);
    assert_eq!(edge.ask("DELETE", &format!("{PATH}?domain=other.example")).0, 404);
    let (status, told) = edge.ask("DELETE", PATH);
    assert_eq!(status, 200, "{told}");
    assert!(serde_json::from_str::<serde_json::Value>(&told).unwrap()["erased"].as_u64() >= Some(2), "{told}");
    assert_eq!(edge.get(PATH), (404, NOTHING.to_owned()));
    assert_eq!(edge.ask("DELETE", PATH), (404, NOTHING.to_owned()));

    // Without retention it goes with its end; what is still there is the journal, for as long as a request may be repeated.
    let mut bob = converse(port, "forgotten");
    assert_eq!(shown(&edge).0, 1);
    let ended = bob.ask(port, "BYE", "", "");
    assert!(ended.starts_with("SIP/2.0 200"), "{ended}");
    let (dialogs, exchanges, _) = shown(&edge);
    assert_eq!((dialogs, exchanges), (0, 1));

    // Erased while it lives: whoever is in the call finds it ended.
    let mut bob = converse(port, "erased");
    assert_eq!(edge.ask("DELETE", PATH).0, 200);
    assert_eq!(edge.get(PATH), (404, NOTHING.to_owned()));
    let refused = bob.ask(port, "INFO", INFO, &tool_call("echo", r#"{"text":"again"}"#));
    assert!(refused.starts_with("SIP/2.0 481"), "{refused}");
}

#[test]
fn obs_4_a_conversation_in_redis_is_shown_kept_for_its_time_and_erased() {
    let redis = Redis::start(&[]);
    let port = free_port();
    lives_ends_and_is_erased(&member(redis.port, &udp(port)), port);
}

#[test]
fn obs_4_a_conversation_in_a_file_is_shown_kept_for_its_time_and_erased() {
    let port = free_port();
    lives_ends_and_is_erased(&in_file(Manifests::new().with_domain(), port), port);
}
