//! Token keys rotate; names in the store do not.

use session_store::op::{StoreOp, StoreReply};

use crate::calls::{ECHO, both, tls_call};
use crate::driver::*;

#[test]
fn sec_8_a_new_token_key_leaves_registrations_guards_and_sessions_where_they_are() {
    let mut world = World::new(config());
    let (mut alice, _) = tls_call(&mut world);
    let flow = udp(5062);
    let mut bob = Ua::new(&mut world, "bob", &flow, "sip:bob@acme.example");
    let registered = bob.ask(&mut world, "REGISTER", "", "");
    assert_eq!(registered.status(), Some(200), "{}", text(&registered));
    let exchange = format!("{MCP}MCP-Exchange: abcdefghijklmnopqrstuv;rel=caller\r\n");
    // A MESSAGE in flight, and an INVITE that waits for the store.
    let mut carol =
        Ua::new(&mut world, "alice", &stream(edge_core::input::Transport::Tls, 3, &["sip:alice@acme.example"]), ECHO);
    assert_eq!(carol.ask(&mut world, "MESSAGE", &exchange, &tool_call(1, "echo")).status(), Some(200));
    let names = |world: &World| -> Vec<String> {
        let named = world.operations.iter().filter_map(|op| match op {
            StoreOp::Register { aor, .. } => Some(format!("{aor:?}")),
            StoreOp::OpenCall { guard, .. } => Some(format!("{guard:?}")),
            StoreOp::OpenExchange { open, .. } => Some(format!("{:?}", open.key)),
            _ => None,
        });
        named.collect()
    };
    let before = names(&world);
    assert!(before.len() >= 3, "{before:?}");

    world.reconfigure(|config| config.token_keys.insert(0, token_key(2)));
    // The registration is found under the same name.
    let query = bob.ask(&mut world, "REGISTER", "", "");
    assert!(header(&query, sip_proto::message::HeaderId::Contact).contains("sip:bob@"), "{}", text(&query));
    let after = names(&world);
    let register = |names: &[String]| names.iter().find(|n| n.starts_with("AorKey")).cloned();
    assert_eq!(register(&before), register(&after[before.len()..]));
    // The exchange is found under the same name: its repetition is one.
    let posted = world.posted();
    let repeated = carol.ask(&mut world, "MESSAGE", &exchange, &tool_call(1, "echo"));
    assert_eq!(repeated.status(), Some(200));
    let _ = posted;
    // The tag of the old key opens.
    assert_eq!(alice.ask(&mut world, "INFO", "", "").status(), Some(200));
    assert_eq!(alice.ask(&mut world, "BYE", "", "").status(), Some(200));
}

#[test]
fn sec_8_a_cancel_after_the_rotation_finds_its_guard() {
    let mut world = World::new(config());
    let flow = udp(5062);
    let mut alice = Ua::new(&mut world, "alice", &flow, ECHO);
    let (headers, body) = both();
    alice.send(&mut world, "INVITE", &headers, &body);
    let challenge = world.response();
    alice.ack_refusal(&mut world, &challenge);
    alice.challenged(&challenge);
    world.mode = StoreMode::Held;
    alice.send(&mut world, "INVITE", &headers, &body);
    assert!(world.release());
    world.reconfigure(|config| config.token_keys = vec![token_key(2)]);
    // Another life, which has no transaction of it, with a key that the first one did not have.
    let store = std::mem::replace(&mut world.store, session_store::memory::MemoryStore::new(Default::default()));
    let owner = session_store::record::Owner { epoch: 2, ..OWNER };
    let mut other = World::with_store(edge_core::config::Config::clone(&world.config), owner, store);
    other.now = world.now;
    alice.send(&mut other, "CANCEL", "", "");
    assert_eq!(other.status(), 200);
    assert_eq!(other.status(), 487);
    let key = world.operations.iter().find_map(|op| match op {
        StoreOp::OpenCall { guard, .. } => Some(*guard),
        _ => None,
    });
    let cancelled = other.store.execute(other.now.wall.0, StoreOp::CancelCall { guard: key.unwrap() }).unwrap();
    assert!(matches!(cancelled, StoreReply::Cancelled { .. }), "{cancelled:?}");
}
