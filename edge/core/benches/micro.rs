//! What one token costs. Goal: seal + open of a dialog token ≤ 2 µs.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use edge_core::config::TokenKey;
use edge_core::token::DialogToken;
use session_store::key::DialogKey;

fn tokens(c: &mut Criterion) {
    let keys = [TokenKey { kid: 1, siv: [7; 32].into(), mac: [9; 32].into() }];
    let token = DialogToken { key: DialogKey { slot: 5, tenant: 7, id: [3; 16] }, anonymous: false, bridged: false };
    let mut group = c.benchmark_group("token");
    group.bench_function("seal", |b| b.iter(|| black_box(&token).tag(&keys)));
    let tag = token.tag(&keys);
    group.bench_function("open", |b| b.iter(|| DialogToken::from_tag(&keys, black_box(&tag))));
    group.bench_function("seal + open", |b| b.iter(|| DialogToken::from_tag(&keys, &black_box(&token).tag(&keys))));
    let forged = format!("{}a", &tag[..tag.len() - 1]);
    group.bench_function("refuse a forged one", |b| b.iter(|| DialogToken::from_tag(&keys, black_box(&forged))));
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
