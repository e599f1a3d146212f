//! What one message costs. Goals: parse of the 923-byte INVITE ≤ 1 µs, parse + write of a proxy's copy ≤ 1.2 µs. That
//! parsing allocates nothing is a test: `tests/allocations.rs`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sip_proto::framing::{FrameLimits, StreamFramer};
use sip_proto::message::{Edit, Message, Response, Transportation};

static INVITE: &[u8] = include_bytes!("invite-923.sip");
static REGISTER: &[u8] = include_bytes!("../tests/rfc4475/other/cparam02.dat");

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(1));
    let invite = Bytes::from_static(INVITE);
    group.bench_function("parse INVITE 923", |b| {
        b.iter(|| Message::parse(black_box(invite.clone()), Transportation::Datagram));
    });
    group.bench_function("parse + write INVITE 923", |b| {
        b.iter(|| {
            let message = Message::parse(black_box(invite.clone()), Transportation::Datagram).unwrap();
            let hops = message.max_forwards().unwrap();
            Edit::new(&message)
                .push_via(&b"SIP/2.0/TLS edge.acme.example;branch=z9hG4bKabcdefghijklmnop"[..])
                .max_forwards(hops - 1)
                .build()
        });
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

criterion_group!(benches, messages);
criterion_main!(benches);
