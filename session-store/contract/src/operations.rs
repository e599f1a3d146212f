//! Random operations of every kind, over so few names that they meet.
//!
//! Times are such that a store with a real clock agrees with one without: time passes in steps of [`STEP_MS`], and every lifetime (the
//! generated ones and the constants of [`session_store::op`]) ends at least four seconds away from a step. So two stores that run the
//! same operations within four seconds see the same entries.

use bytes::Bytes;
use proptest::prelude::*;
use session_store::key::{CapabilityKey, ConversationKey};
use session_store::op::{Actor, BindingChange, CloseExchange, Fence, NonceUse, OpenExchange, StoreOp};
use session_store::record::{
    Binding, DialogPhase, DialogRecord, ExchangeNote, JournalEntry, LegRecord, Owner, PeerFlow, SessionRecord,
};

use crate::samples::*;

/// Time passes in these steps.
pub const STEP_MS: u64 = 28_000;

/// An operation, and what passes before it.
#[derive(Clone, Debug)]
pub struct Step {
    /// A multiple of [`STEP_MS`].
    pub pass_ms: u64,
    operation: StoreOp,
}

impl Step {
    /// The operation at `now_ms` of the store: the ends of bindings are moments, generated as lifetimes.
    #[must_use]
    pub fn operation(&self, now_ms: u64) -> StoreOp {
        let mut operation = self.operation.clone();
        if let StoreOp::Register { change: BindingChange::Update(bindings), .. } = &mut operation {
            for binding in bindings.iter_mut().filter(|binding| binding.expires_at > 0) {
                binding.expires_at += now_ms;
            }
        }
        operation
    }
}

/// At most so many random steps, after some that make what the others are about.
pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let made = (proptest::collection::vec(answered_call().boxed(), 0..3), proptest::collection::vec(begun(), 0..3));
    (made, proptest::collection::vec(step(), 1..=most)).prop_map(|((calls, others), random)| {
        let made = calls.into_iter().flatten().chain(others).map(|operation| Step { pass_ms: 0, operation });
        made.chain(random).collect()
    })
}

fn answered_call() -> impl Strategy<Value = Vec<StoreOp>> {
    (legs(), proptest::option::of(some_conversation())).prop_map(|((n, mut first, second), conversation)| {
        first.cseq_in = Some(1);
        let answer = StoreOp::AnswerCall {
            guard: guard(n),
            owner: A,
            dialog: dialog(n),
            record: Box::new(first),
            ttl_ms: 3_598_000,
            peer: second.map(|leg| Box::new((dialog(n + 4), leg))),
            conversation,
        };
        vec![open_call(n, n, A), answer]
    })
}

fn begun() -> impl Strategy<Value = StoreOp> {
    let begin = |pod| StoreOp::TakeEpoch {
        pod,
        boot: 11,
        last_epoch: 0,
        address: "a:7443".into(),
        lease_ms: 98_000,
        generation: [1; 16],
    };
    prop_oneof![
        (1u64..3).prop_map(begin),
        (0u8..2, 0u8..2, any::<bool>()).prop_map(|(s, n, repeatable)| opening(open(exchange(s, n), A, 1, repeatable))),
        (0u8..2).prop_map(|n| StoreOp::WriteSession {
            session: session(n),
            version: 0,
            record: Box::new(session_record()),
            ttl_ms: 98_000,
        }),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    // Mostly none: what meets must be there still.
    let pass = prop_oneof![150 => Just(0), 5 => Just(1), 2 => Just(2), 1 => Just(7), 1 => Just(260)];
    (pass, operation()).prop_map(|(steps, operation)| Step { pass_ms: steps * STEP_MS, operation })
}

fn ttl() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(14_000u64), 1 => Just(42_000), 2 => Just(98_000), 4 => Just(3_598_000)]
}

const A2: Owner = Owner { pod: 1, epoch: 2, boot: 12 };
const A2_AGAIN: Owner = Owner { pod: 1, epoch: 2, boot: 13 };

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![12 => Just(A), 4 => Just(B), 1 => Just(A2), 1 => Just(A2_AGAIN), 1 => Just(C)]
}

/// Legs with a guard of their own have the names 0 and 1, the other legs of their calls 4 and 5.
fn leg_name() -> impl Strategy<Value = u8> {
    prop_oneof![3 => 0u8..2, 1 => 4u8..6]
}

fn cseq() -> impl Strategy<Value = u32> {
    1u32..12
}

fn version() -> impl Strategy<Value = u64> {
    1u64..5
}

fn some_flow() -> impl Strategy<Value = PeerFlow> {
    prop_oneof![
        (1u8..4).prop_map(flow),
        Just(PeerFlow { flow: None, source: record().source }),
        Just(PeerFlow::default())
    ]
}

fn actor() -> impl Strategy<Value = Actor> {
    let from = |source: String| Actor { source: Some(source), ..alice() };
    prop_oneof![
        8 => Just(alice()),
        1 => Just(from(record().source)),
        1 => (1u8..4).prop_map(move |n| from(flow(n).source)),
        1 => Just(Actor { principal: "sip:mallory@demo.example".into(), source: None }),
    ]
}

fn some_nonce() -> impl Strategy<Value = NonceUse> {
    // Within the window of the highest count, at its edge and beyond.
    let count = prop_oneof![4 => 1u32..9, 1 => 1u32..80];
    (0u8..2, count, 0u8..2).prop_map(|(n, count, request)| NonceUse { ttl_ms: 98_000, ..nonce(n, count, request) })
}

fn maybe_nonce() -> impl Strategy<Value = Option<NonceUse>> {
    proptest::option::weighted(0.1, some_nonce())
}

fn dialog_record(phase: DialogPhase) -> BoxedStrategy<DialogRecord> {
    let retention_ms = prop_oneof![Just(0), ttl()];
    (0u32..3, 0u32..4, owner(), some_flow(), 0u8..4, any::<bool>(), retention_ms)
        .prop_map(move |(cseq_in, out, owner, at, n, accept, retention_ms)| DialogRecord {
            phase,
            retention_ms,
            cseq_in: (cseq_in > 0).then_some(cseq_in),
            cseq_out: out,
            owner,
            flow: at.flow,
            source: at.source,
            remote_target: format!("sip:alice@192.0.2.{n}"),
            accept_bytes: accept.then(|| Bytes::from_static(b"SIP/2.0 200 OK")),
            ..record()
        })
        .boxed()
}

fn some_record() -> impl Strategy<Value = DialogRecord> {
    use DialogPhase::{Accepted, Confirmed, Terminating};
    prop_oneof![dialog_record(Accepted), dialog_record(Confirmed), dialog_record(Terminating)]
}

/// A call has a second leg, or none; then both know each other.
fn legs() -> impl Strategy<Value = (u8, DialogRecord, Option<DialogRecord>)> {
    (0u8..2, dialog_record(DialogPhase::Accepted), proptest::option::of(dialog_record(DialogPhase::Confirmed)))
        .prop_map(|(n, mut first, second)| {
            first.peer = second.is_some().then(|| dialog(n + 4));
            (n, first, second.map(|leg| DialogRecord { peer: Some(dialog(n)), we_called: true, ..leg }))
        })
}

fn some_conversation() -> impl Strategy<Value = ConversationKey> {
    (0u8..2).prop_map(conversation)
}

fn opening_of(sessions: impl Strategy<Value = u8>) -> impl Strategy<Value = OpenExchange> {
    let instead_of = proptest::option::weighted(0.3, owner());
    let name = (sessions, 0u8..2);
    let ends = prop_oneof![Just(0), ttl()];
    (name, owner(), (0u8..2, any::<bool>()), some_flow(), 1usize..5, ttl(), ends, instead_of).prop_map(
        |((s, n), owner, (digest, repeatable), flow, limit, ttl_ms, session_ttl_ms, instead_of)| {
            let leg = LegRecord { flow, ..LegRecord::default() };
            let entry = JournalEntry { leg, ..entry(owner, digest, repeatable) };
            OpenExchange { key: exchange(s, n), entry, limit, ttl_ms, session_ttl_ms, instead_of }
        },
    )
}

fn closing(sessions: impl Strategy<Value = u8>) -> impl Strategy<Value = CloseExchange> {
    (sessions, 0u8..2, owner(), any::<bool>(), proptest::bool::weighted(0.3)).prop_map(
        |(s, n, owner, kept, is_held)| CloseExchange {
            is_held,
            ..close(exchange(s, n), owner, (kept || is_held).then_some(b"answer"))
        },
    )
}

fn note() -> impl Strategy<Value = ExchangeNote> {
    let text = || proptest::option::of("[a-c]");
    (text(), text(), text(), text()).prop_map(|(event_id, task, upstream_id, backend_session)| ExchangeNote {
        event_id,
        task,
        upstream_id,
        backend_session,
    })
}

fn some_binding() -> impl Strategy<Value = Binding> {
    let end = prop_oneof![1 => Just(0u64), 3 => ttl()];
    (0u8..3, 0u8..2, 1u32..5, end, proptest::collection::vec(0u8..3, 0..3)).prop_map(
        |(key, call, cseq, end, offered)| Binding {
            call_id: format!("reg-{call}"),
            capabilities: offered.into_iter().map(|n| capability(n).hash).collect(),
            ..binding(&format!("sip:{key}@192.0.2.1"), cseq, end)
        },
    )
}

fn change() -> impl Strategy<Value = BindingChange> {
    prop_oneof![
        8 => proptest::collection::vec(some_binding(), 1..3).prop_map(BindingChange::Update),
        1 => (0u8..2, 1u32..5).prop_map(|(call, cseq)| BindingChange::RemoveAll { call_id: format!("reg-{call}"), cseq }),
        1 => Just(BindingChange::Query),
    ]
}

fn registrar() -> impl Strategy<Value = StoreOp> {
    prop_oneof![
        4 => (0u8..2, change(), maybe_nonce()).prop_map(|(n, change, nonce)| StoreOp::Register { aor: aor(n), change, nonce }),
        1 => (0u8..2).prop_map(|n| StoreOp::ReadBindings { aor: aor(n) }),
        2 => (0u8..3).prop_map(|n| {
            StoreOp::FindCapability { capability: CapabilityKey { ..capability(n) }, limit: 100 }
        }),
        1 => some_nonce().prop_map(StoreOp::UseNonce),
    ]
}

fn calls() -> impl Strategy<Value = StoreOp> {
    prop_oneof![
        3 => (0u8..2, owner(), ttl(), maybe_nonce()).prop_map(|(n, owner, lease_ms, nonce)| StoreOp::OpenCall {
            guard: guard(n),
            dialog: dialog(n),
            invite: Bytes::from_static(b"INVITE"),
            owner,
            lease_ms,
            nonce,
        }),
        1 => (0u8..2, owner(), 0u8..3)
            .prop_map(|(n, owner, legs)| StoreOp::PlaceLegs { guard: guard(n), owner, legs: (0..legs).map(leg).collect() }),
        1 => (0u8..2, owner(), dialog_record(DialogPhase::Early), ttl()).prop_map(|(n, owner, record, ttl_ms)| {
            StoreOp::EarlyCall { guard: guard(n), owner, dialog: dialog(n), record: Box::new(record), ttl_ms }
        }),
        4 => (legs(), owner(), ttl(), proptest::option::of(some_conversation())).prop_map(
            |((n, first, second), owner, ttl_ms, conversation)| StoreOp::AnswerCall {
                guard: guard(n),
                owner,
                dialog: dialog(n),
                record: Box::new(first),
                ttl_ms,
                peer: second.map(|leg| Box::new((dialog(n + 4), leg))),
                conversation,
            }
        ),
        1 => (0u8..2, owner()).prop_map(|(n, owner)| reject(n, owner)),
        1 => (0u8..2).prop_map(cancel),
    ]
}

fn in_dialog() -> impl Strategy<Value = StoreOp> {
    let method = prop_oneof![3 => Just("MESSAGE"), 1 => Just("BYE")];
    let opened = || proptest::option::weighted(0.3, opening_of(leg_name()).prop_map(Box::new));
    prop_oneof![
        2 => leg_name().prop_map(read),
        1 => leg_name().prop_map(|n| StoreOp::Confirm { dialog: dialog(n) }),
        5 => (leg_name(), actor(), proptest::option::of(some_flow()), cseq(), method, maybe_nonce(), opened()).prop_map(
            |(n, by, flow, cseq, method, nonce, exchange)| StoreOp::Begin {
                dialog: dialog(n),
                by,
                flow,
                cseq,
                method: method.into(),
                nonce,
                exchange: exchange.map(|mut open| {
                    // An exchange of a dialog is one of its own session.
                    open.key.session = dialog(n).session();
                    open
                }),
            }
        ),
        3 => (leg_name(), cseq(), proptest::option::of((version(), some_record(), ttl()))).prop_map(|(n, cseq, write)| {
            StoreOp::Commit {
                dialog: dialog(n),
                cseq,
                response: Bytes::from(format!("200 to {cseq}")),
                record: write.map(|(version, record, ttl_ms)| (version, Box::new(record), ttl_ms)),
            }
        }),
        1 => (leg_name(), actor(), cseq(), maybe_nonce()).prop_map(|(n, by, cseq, nonce)| StoreOp::Terminate {
            dialog: dialog(n),
            by,
            cseq,
            response: Bytes::from_static(b"200 BYE"),
            nonce,
        }),
        3 => (
            leg_name(),
            proptest::bool::weighted(0.2),
            proptest::option::of(closing(leg_name()).prop_map(Box::new)),
            proptest::option::weighted(0.3, (owner(), proptest::option::of(version()))),
        )
            .prop_map(|(n, terminating, close, fence)| StoreOp::NextCseq {
                dialog: dialog(n),
                terminating,
                close: close.map(|mut close| {
                    close.key.session = dialog(n).session();
                    close
                }),
                fence: fence.map(|(owner, version)| Fence { owner, version }),
            }),
        1 => (leg_name(), version(), some_record(), ttl()).prop_map(|(n, version, record, ttl_ms)| {
            StoreOp::UpdateDialog { dialog: dialog(n), version, record: Box::new(record), ttl_ms }
        }),
        1 => leg_name().prop_map(bury),
        1 => (leg_name(), some_record(), ttl(), proptest::option::of(some_conversation())).prop_map(
            |(n, record, ttl_ms, conversation)| StoreOp::RestoreDialog {
                dialog: dialog(n),
                record: Box::new(record),
                ttl_ms,
                conversation,
            }
        ),
    ]
}

fn mcp() -> impl Strategy<Value = StoreOp> {
    prop_oneof![
        4 => (opening_of(0u8..2), maybe_nonce())
            .prop_map(|(open, nonce)| StoreOp::OpenExchange { open: Box::new(open), nonce }),
        3 => closing(0u8..2).prop_map(StoreOp::CloseExchange),
        1 => (0u8..2, 0u8..2, owner(), note())
            .prop_map(|(s, n, owner, note)| StoreOp::NoteExchange { key: exchange(s, n), owner, note }),
        1 => (0u8..2, 0u8..3, ttl(), maybe_nonce())
            .prop_map(|(s, n, ttl_ms, nonce)| StoreOp::Once { key: exchange(s, n), ttl_ms, nonce }),
        2 => (0u8..3, 0u64..3, "[a-c]", ttl()).prop_map(|(n, version, backend, ttl_ms)| StoreOp::WriteSession {
            session: session(n),
            version,
            record: Box::new(SessionRecord { backend_session: Some(backend), ..session_record() }),
            ttl_ms,
        }),
        1 => (0u8..3, prop_oneof![Just(0), ttl()])
            .prop_map(|(n, ttl_ms)| StoreOp::ReadSession { session: session(n), ttl_ms }),
        1 => (0u8..3, proptest::option::of((0u64..4).prop_map(|steps| steps * STEP_MS))).prop_map(|(n, within)| {
            StoreOp::DropSession { session: session(n), if_ends_within_ms: within }
        }),
    ]
}

fn edges() -> impl Strategy<Value = StoreOp> {
    let address = || "[a-b]:7443";
    prop_oneof![
        2 => (1u64..3, 11u64..13, prop_oneof![8 => Just(0), 1 => 1u64..3], address(), ttl(), 0u8..3).prop_map(
            |(pod, boot, last_epoch, address, lease_ms, generation)| StoreOp::TakeEpoch {
                pod,
                boot,
                last_epoch,
                address,
                lease_ms,
                generation: [generation; 16],
            }
        ),
        4 => ((1u64..3, 1u64..4, 11u64..13), address(), ttl(), any::<bool>()).prop_map(
            |((pod, epoch, boot), address, lease_ms, draining)| StoreOp::Heartbeat {
                owner: Owner { pod, epoch, boot },
                address,
                lease_ms,
                draining,
            }
        ),
        1 => (1u64..3, 1u64..4, 11u64..13)
            .prop_map(|(pod, epoch, boot)| StoreOp::Leave { owner: Owner { pod, epoch, boot } }),
        3 => (owner(), owner(), ttl())
            .prop_map(|(from, by, lease_ms)| StoreOp::Adopt { slot: SLOT, from, by, limit: 500, lease_ms }),
        1 => (0u8..3).prop_map(|n| StoreOp::TenantNumber { domain: [n; 16] }),
        1 => some_conversation().prop_map(|conversation| StoreOp::Export { conversation }),
        1 => some_conversation().prop_map(|conversation| StoreOp::Erase { conversation }),
    ]
}

/// One operation; the ends of bindings are lifetimes (see [`Step::operation`]).
fn operation() -> impl Strategy<Value = StoreOp> {
    prop_oneof![
        2 => registrar().boxed(),
        4 => calls().boxed(),
        6 => in_dialog().boxed(),
        4 => mcp().boxed(),
        2 => edges().boxed(),
    ]
}
