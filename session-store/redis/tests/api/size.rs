//! What a call and a binding take of the server's memory.

use redis::Commands;
use session_store::op::{BindingChange, StoreOp, StoreReply};
use store_contract::Subject;
use store_contract::samples::*;

use super::subject::{Kind, Redis};

/// Bytes of all keys whose name has this in it.
fn bytes(s: &Redis, part: &str) -> usize {
    let mut admin = s.servers()[0].admin();
    let keys: Vec<String> = admin.keys("*").expect("KEYS");
    let of = keys.iter().filter(|key| key.contains(part));
    // All fields are looked at, not a sample.
    let used = |key: &String| {
        let mut command = redis::cmd("MEMORY");
        command.arg("USAGE").arg(key).arg("SAMPLES").arg(0).query::<usize>(&mut admin).expect("MEMORY USAGE")
    };
    of.map(used).sum()
}

#[test]
fn p10_a_dialog_and_a_binding_take_no_more_than_3_kb() {
    let mut s = Redis::take(Kind::Redis);
    let mut invite = open_call(1, 1, A);
    if let StoreOp::OpenCall { invite, .. } = &mut invite {
        *invite = vec![b'I'; 4_000].into();
    }
    run(&mut s, invite);
    let mut answered = record();
    answered.local_sdp = Some(vec![b's'; 300].into());
    answered.remote_sdp = Some(vec![b's'; 300].into());
    answered.accept_bytes = Some(vec![b'2'; 900].into());
    answered.route_set = vec!["<sip:proxy.demo.example;lr;transport=tls>".into()];
    let op = StoreOp::AnswerCall {
        guard: guard(1),
        owner: A,
        dialog: dialog(1),
        record: Box::new(answered),
        ttl_ms: HOUR,
        peer: None,
        conversation: None,
    };
    assert_eq!(run(&mut s, op), StoreReply::Answered { version: 1 });
    run(&mut s, StoreOp::Confirm { dialog: dialog(1) });
    let dialog = bytes(&s, "{7}");
    assert!(dialog <= 3_072, "{dialog} bytes: the INVITE and the 2xx are gone");
    let change = BindingChange::Update(vec![binding("sip:alice@192.0.2.1:5061;transport=tls", 1, s.now() + HOUR)]);
    run(&mut s, StoreOp::Register { aor: aor(1), change, nonce: None });
    let binding = bytes(&s, "b:{");
    assert!(binding <= 3_072, "{binding} bytes");
    println!("{dialog} bytes per dialog, {binding} per binding");
}
