//! Whatever the store, the backends, the callers and the clock do, in whatever order.

use std::collections::BTreeMap;
use std::sync::Arc;

use edge_core::audit::AuditKind;
use edge_core::effect::BackendAction;
use edge_core::engine::{Closing, Delivery, DeliveryOutcome, Inbound, Leg, Ticket, Verdict, Written};
use edge_core::input::{BackendEvent, BackendFailure, BackendId};
use proptest::prelude::*;
use serde_json::{Value, json};
use session_store::key::ExchangeKey;
use session_store::op::{OpenOutcome, StoreOp, StoreReply};

use super::rig::*;

const LEGS: usize = 4;

#[derive(Clone, Debug)]
enum Act {
    /// A request: leg, id, tool, exchange (0: none).
    Request(usize, u8, u8, u8),
    Initialize(usize, u8),
    /// A notification or response of the caller: leg, which, id, exchange.
    Other(usize, u8, u8, u8),
    /// The oldest, or a younger, write that was asked for is done, fails, or is given up.
    Write(usize, u8),
    /// An operation of the engine's own is answered.
    Release,
    /// Something of the backend, on one of the calls ever made.
    Backend(usize, u8, u8),
    /// A delivery ends.
    Delivered(usize, u8),
    Pass(u64),
    StoreUp(bool),
    Close(usize),
    /// `deploy` is revoked, or allowed again.
    Configure(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let (leg, id, exchange) = (0..LEGS, 0u8..3, 0u8..4);
    prop_oneof![
        6 => (leg.clone(), id.clone(), 0u8..5, exchange.clone()).prop_map(|(l, i, t, x)| Act::Request(l, i, t, x)),
        2 => (leg.clone(), exchange.clone()).prop_map(|(l, x)| Act::Initialize(l, x)),
        4 => (leg.clone(), 0u8..5, id, exchange).prop_map(|(l, w, i, x)| Act::Other(l, w, i, x)),
        8 => (0usize..4, 0u8..12).prop_map(|(n, how)| Act::Write(n, how)),
        4 => Just(Act::Release),
        12 => (0usize..8, 0u8..12, 0u8..3).prop_map(|(n, e, i)| Act::Backend(n, e, i)),
        6 => (0usize..4, 0u8..10).prop_map(|(n, o)| Act::Delivered(n, o)),
        2 => prop_oneof![Just(10), Just(1_000), Just(25_000), Just(400_000)].prop_map(Act::Pass),
        1 => any::<bool>().prop_map(Act::StoreUp),
        1 => leg.prop_map(Act::Close),
        1 => any::<bool>().prop_map(Act::Configure),
    ]
}

struct Judged {
    ticket: Ticket,
    leg: usize,
    body: String,
    is_tool_call: bool,
    write: Option<StoreOp>,
}

/// What must hold.
#[derive(Default)]
struct Ledger {
    /// Journal entries that were opened, by body and by key.
    opened: BTreeMap<String, usize>,
    opened_keys: BTreeMap<ExchangeKey, usize>,
    forwarded: BTreeMap<String, usize>,
    answered: BTreeMap<ExchangeKey, usize>,
    tool_calls: usize,
}

struct World {
    rig: Rig,
    legs: Vec<Arc<Leg>>,
    judged: Vec<Judged>,
    held: Vec<Delivery>,
    /// Every call ever made, with the id of the request in it.
    calls: Vec<(BackendId, Value)>,
    ledger: Ledger,
    transaction: u8,
}

fn both(deploy_is_allowed: bool) -> edge_core::config::Config {
    let mut rules = default_rules();
    if !deploy_is_allowed {
        rules[0] = allow("tools", vec![method("tools/call", &["echo", "add", "slow"])], &[]);
    }
    config(vec![agent("both", &[MODERN, LEGACY]), agent("modern", &[MODERN]), agent("legacy", &[LEGACY])], rules)
}

impl World {
    fn new() -> World {
        let mut rig = Rig::new(both(true));
        rig.delivers = false;
        rig.holds_ops = true;
        let mut draft = mcp_record();
        draft.envelope = true;
        let legs = vec![
            rig.dialog_with("modern", 1, Some(mcp_record())),
            rig.dialog_with("legacy", 2, Some(mcp_record())),
            rig.out_of_dialog("both", "alice"),
            rig.dialog_with("legacy", 3, Some(draft)),
        ];
        World { rig, legs, judged: vec![], held: vec![], calls: vec![], ledger: Ledger::default(), transaction: 0 }
    }

    fn judge(&mut self, leg: usize, exchange: u8, body: &Value) {
        self.transaction = self.transaction.wrapping_add(1);
        let exchange = (exchange > 0).then(|| header(&format!("exchange-{exchange}-of-the-test")));
        let inbound = Inbound {
            leg: self.legs[leg].clone(),
            exchange,
            body: body.to_string().into(),
            transaction: [self.transaction; 16],
            received: self.rig.now,
        };
        let key = self.legs[leg].session;
        if let Verdict::Write { ticket, open, once } = self.rig.ctx(|engine, ctx| engine.judge(ctx, inbound)) {
            if let Some(open) = &open {
                assert!(open.key.session == key);
            }
            let write = match (open, once) {
                (Some(open), _) => Some(StoreOp::OpenExchange { open, nonce: None }),
                (None, Some(key)) => Some(StoreOp::Once { key, ttl_ms: 32_000, nonce: None }),
                (None, None) => None,
            };
            let is_tool_call = body["method"] == "tools/call";
            self.judged.push(Judged { ticket, leg, body: body.to_string(), is_tool_call, write });
        }
        self.collect();
    }

    fn write(&mut self, n: usize, how: u8) {
        if self.judged.is_empty() {
            return;
        }
        let judged = self.judged.remove(n % self.judged.len());
        if how == 0 {
            self.rig.engine.abandon(judged.ticket);
            return self.collect();
        }
        let key = match &judged.write {
            Some(StoreOp::OpenExchange { open, .. }) => Some(open.key),
            _ => None,
        };
        let reply = match judged.write {
            Some(write) => {
                let reply = self.rig.run(write);
                if let (Ok(StoreReply::Exchange(OpenOutcome::Opened { .. })), Some(key)) = (&reply, key) {
                    *self.ledger.opened.entry(judged.body.clone()).or_default() += 1;
                    *self.ledger.opened_keys.entry(key).or_default() += 1;
                }
                reply.map(|reply| match reply {
                    StoreReply::Exchange(outcome) => Written::Exchange(outcome),
                    StoreReply::First(first) => Written::First(first),
                    _ => Written::Claimed,
                })
            }
            None if self.rig.store_is_up => Ok(Written::Claimed),
            None => Err(session_store::op::StoreError::Unavailable),
        };
        let repeats = matches!(
            reply,
            Ok(Written::Exchange(OpenOutcome::RepeatInFlight { .. } | OpenOutcome::RepeatAnswered { .. })
                | Written::First(false))
                | Err(_)
        );
        let before = self.audited();
        let open = self.rig.engine.stats().exchanges;
        let answer = self.rig.ctx(|engine, ctx| engine.written(ctx, judged.ticket, reply));
        assert!(matches!(answer.status, 200 | 481 | 503), "{answer:?}");
        // The store forgot the request that this one repeats (its session was dropped); the engine did not.
        let opened_before = key.is_some_and(|key| self.ledger.opened_keys.get(&key).is_some_and(|times| *times > 1));
        let is_served = opened_before && self.rig.engine.stats().exchanges == open && self.audited_after() == before;
        if judged.is_tool_call && !repeats && !is_served && (answer.status == 200 || self.audited_after() > before) {
            self.ledger.tool_calls += 1;
        }
        let _ = judged.leg;
        self.collect();
    }

    fn audited(&self) -> usize {
        self.rig.audits.iter().filter(|record| record.kind == AuditKind::ToolCall).count()
    }

    fn audited_after(&mut self) -> usize {
        self.collect();
        self.audited()
    }

    /// Looks at what the engine did since the last look.
    fn collect(&mut self) {
        self.rig.drain();
        for (id, call) in self.rig.new_calls() {
            let mut request = Value::Null;
            if let BackendAction::Post { body } = &call.action {
                let text = String::from_utf8(body.to_vec()).unwrap();
                let body: Value = serde_json::from_str(&text).unwrap();
                request = body["id"].clone();
                if body["method"] == "tools/call" {
                    let times = self.ledger.forwarded.entry(text.clone()).or_default();
                    *times += 1;
                    let opened = self.ledger.opened.get(&text).copied().unwrap_or_default();
                    assert!(*times <= opened, "forwarded {times} times, in the journal {opened} times: {text}");
                }
            }
            self.calls.push((id, request));
        }
        for delivery in std::mem::take(&mut self.rig.deliveries) {
            if let Some(close) = &delivery.close {
                let body: Value = serde_json::from_slice(&delivery.body).unwrap();
                assert!(body.get("method").is_none(), "only an answer closes");
                assert_eq!(close.owner, self.rig.owner);
            }
            self.held.retain(|known| known.id != delivery.id);
            self.held.push(delivery);
        }
        let stats = self.rig.engine.stats();
        assert!(stats.exchanges <= LEGS * 4 && stats.sessions <= LEGS, "{stats:?}");
    }

    fn delivered(&mut self, n: usize, how: u8) {
        if self.held.is_empty() {
            return;
        }
        let delivery = self.held.remove(n % self.held.len());
        let written = match &delivery.close {
            Some(close) => self.rig.run(StoreOp::CloseExchange((**close).clone())),
            None => Ok(StoreReply::Done),
        };
        let outcome = match (written, how) {
            (Err(_), _) => DeliveryOutcome::StoreUnavailable,
            (Ok(StoreReply::Fenced), _) => DeliveryOutcome::Fenced,
            (Ok(_), 0) => DeliveryOutcome::Refused { status: 415 },
            (Ok(_), 1) => DeliveryOutcome::Unreachable,
            (Ok(_), 2) => DeliveryOutcome::TooLarge { limit: 60 },
            (Ok(_), _) => DeliveryOutcome::Delivered,
        };
        if let (Some(close), DeliveryOutcome::Delivered | DeliveryOutcome::Refused { .. }) = (&delivery.close, outcome)
        {
            let times = self.ledger.answered.entry(close.key).or_default();
            *times += 1;
            assert!(*times <= self.ledger.opened_keys[&close.key], "a second final answer");
        }
        self.rig.ctx(|engine, ctx| engine.delivered(ctx, delivery.id, outcome));
        self.collect();
    }

    fn backend(&mut self, n: usize, event: u8, id: u8) {
        if self.calls.is_empty() {
            return;
        }
        // The younger ones are the interesting ones.
        let at = self.calls.len() - 1 - n % self.calls.len();
        let (call, request) = self.calls[at].clone();
        let message = |body: Value| BackendEvent::Message { body: body.to_string().into(), event_id: None };
        let event = match event {
            0 => BackendEvent::Head { status: 200, session: Some("b".into()) },
            1 => BackendEvent::Head { status: 202, session: None },
            2 => message(result(request, "x")),
            3 => message(json!({"jsonrpc": "2.0", "id": request, "result": {"protocolVersion": LEGACY, "tools": []}})),
            4 => message(json!({"jsonrpc": "2.0", "id": request, "error": {"code": -32000, "message": "m"}})),
            5 => message(json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})),
            6 => message(json!({"jsonrpc": "2.0", "id": id, "method": "roots/list"})),
            7 => message(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})),
            8 => BackendEvent::Message { body: "{".into(), event_id: None },
            9 => BackendEvent::Failed(
                [BackendFailure::SessionGone, BackendFailure::Unreachable, BackendFailure::Garbage][usize::from(id)],
            ),
            _ => BackendEvent::Done,
        };
        self.rig.ctx(|engine, ctx| engine.backend(ctx, call, event));
        self.collect();
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Request(leg, id, tool, exchange) => {
                let name = ["echo", "deploy", "secret", "slow", "slow"][usize::from(tool)];
                let body = match (leg, tool) {
                    (0, 4) => modern(id, "tools/call", json!({"name": name, "arguments": {"a": 1}})),
                    (0, _) => call(id, name),
                    _ => legacy_call(id, name),
                };
                self.judge(leg, exchange, &body);
            }
            Act::Initialize(leg, exchange) => self.judge(leg, exchange, &initialize_request(9)),
            Act::Other(leg, which, id, exchange) => {
                let body = match which {
                    0 => initialized(),
                    1 => json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}),
                    2 => json!({"jsonrpc": "2.0", "id": id, "result": {"roots": []}}),
                    3 => json!({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": "no"}}),
                    _ => json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}),
                };
                self.judge(leg, exchange, &body);
            }
            Act::Write(n, how) => self.write(n, how),
            Act::Release => {
                self.rig.release();
                self.collect();
            }
            Act::Backend(n, event, id) => self.backend(n, event, id),
            Act::Delivered(n, how) => self.delivered(n, how),
            Act::Pass(ms) => {
                self.rig.pass(ms);
                self.collect();
            }
            Act::StoreUp(up) => self.rig.store_is_up = up,
            Act::Close(leg) => {
                let key = self.legs[leg].key;
                self.rig.ctx(|engine, ctx| engine.leg_closed(ctx, &key, Closing::Bye));
                self.collect();
                self.held.retain(|delivery| delivery.leg.key != key);
            }
            Act::Configure(allowed) => {
                self.rig.configure(both(allowed));
                self.collect();
            }
        }
    }

    /// Everybody answers what he owes, the legs close, time passes.
    fn end(&mut self) {
        self.rig.store_is_up = true;
        while !self.judged.is_empty() {
            self.write(0, 9);
        }
        for leg in 0..LEGS {
            self.act(Act::Close(leg));
        }
        for _ in 0..20 {
            while self.rig.release() {}
            self.collect();
            while !self.held.is_empty() {
                self.delivered(0, 9);
            }
            for (call, _) in std::mem::take(&mut self.calls) {
                self.rig.ctx(|engine, ctx| engine.backend(ctx, call, BackendEvent::Done));
                self.collect();
            }
            self.rig.pass(100_000);
            self.collect();
        }
        self.rig.assert_empty();
        assert_eq!(self.audited(), self.ledger.tool_calls, "one record per tool call");
        assert_eq!(self.rig.store.counts().sessions, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn one_answer_per_exchange_no_forward_without_a_journal_entry_nothing_left_at_the_end(
        acts in proptest::collection::vec(act(), 1..120)
    ) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        world.end();
    }
}
