//! What one message costs. Goals: parse of the 923-byte INVITE ≤ 1 µs, parse + write of a proxy's copy ≤ 1.2 µs. That
//! parsing allocates nothing is a test: `tests/allocations.rs`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sip_proto::framing::{FrameLimits, StreamFramer};
use sip_proto::message::{Edit, Message, Response, Transportation};

static INVITE: &[u8] = include_bytes!("invite-923.sip");
static VIA: &[u8] = b"SIP/2.0/TLS edge.acme.example;branch=z9hG4bKabcdefghijklmnop";
static REGISTER: &[u8] = include_bytes!("../tests/rfc4475/other/cparam02.dat");

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(1));
    let invite = Bytes::from_static(INVITE);
    group.bench_function("parse INVITE 923", |b| {
        b.iter(|| Message::parse(black_box(invite.clone()), Transportation::Datagram));
    });
    group.bench_function("parse + write INVITE 923", |b| {
        b.iter(|| copy_of(&invite));
    });
    let register = Bytes::from_static(REGISTER);
    group.bench_function("parse REGISTER 311", |b| {
        b.iter(|| Message::parse(black_box(register.clone()), Transportation::Datagram));
    });
    let message = Message::parse(invite.clone(), Transportation::Datagram).unwrap();
    group.bench_function("200 to INVITE 923", |b| {
        b.iter(|| Response::to_request(black_box(&message), 200, None).to_tag("abcdef").build());
    });
    group.bench_function("clone INVITE 923", |b| b.iter(|| black_box(&message).clone()));
    group.bench_function("frame INVITE 923", |b| {
        let mut framer = StreamFramer::new(FrameLimits::default());
        b.iter(|| {
            framer.push(black_box(INVITE));
            framer.next()
        });
    });
    group.finish();
}

/// Nanoseconds of one call: the best of many short rounds, so that other work on the machine does not count.
#[expect(clippy::disallowed_methods, reason = "the clock is what a benchmark is about")]
fn best_of<T>(mut work: impl FnMut() -> T) -> f64 {
    const CALLS: u32 = 200;
    let round = || {
        let start = std::time::Instant::now();
        for _ in 0..CALLS {
            black_box(work());
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    std::iter::repeat_with(round).take(5_000).fold(f64::MAX, f64::min)
}

fn copy_of(invite: &Bytes) -> Bytes {
    let message = Message::parse(black_box(invite.clone()), Transportation::Datagram).unwrap();
    let hops = message.max_forwards().unwrap();
    Edit::new(&message).push_via(VIA).max_forwards(hops - 1).build()
}

/// The two goals, as a verdict that other load does not change.
fn goals(_: &mut Criterion) {
    let invite = Bytes::from_static(INVITE);
    let parse = best_of(|| Message::parse(black_box(invite.clone()), Transportation::Datagram));
    let copy = best_of(|| copy_of(&invite));
    for (what, is, goal) in [("parse INVITE 923", parse, 1000.0), ("parse + write INVITE 923", copy, 1200.0)] {
        let verdict = if is <= goal { "ok" } else { "MISSED" };
        println!("goal: {what}: {is:.0} ns, at most {goal:.0} ns: {verdict}");
    }
    assert!(parse <= 1000.0 && copy <= 1200.0, "a goal was missed");
}

criterion_group!(benches, messages, goals);
criterion_main!(benches);
