//! What the commands of a delivery cost: reading them, deciding about them, answering them.
#![forbid(unsafe_code)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use posthaste::lmtp::command::parse;
use posthaste::lmtp::replies;
use std::hint::black_box;

use envelope::{ANSWERS, answer, session};

#[path = "subjects/envelope.rs"]
mod envelope;

fn benches(criterion: &mut Criterion) {
    let mut session = session();
    let mut out = Vec::new();
    answer(&mut session, &mut out);
    assert_eq!(out, ANSWERS);

    let mut group = criterion.benchmark_group("command");
    for line in [
        "MAIL FROM:<bounces+12345-alice=example.org@lists.example.net> SIZE=4321 BODY=8BITMIME",
        "RCPT TO:<alice@example.org>",
        "RCPT TO:<\"quoted \\\"local\\\" part\"@example.org>",
        "DATA",
    ] {
        group.bench_function(line, |bencher| {
            bencher.iter(|| parse(black_box(line.as_bytes())).is_ok());
        });
    }
    group.bench_function("reply about a recipient", |bencher| {
        bencher.iter(|| {
            out.clear();
            replies::saved(black_box("alice@example.org"), "0123456789abcdef:T2").write_to(&mut out);
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("envelope of two recipients, read and answered", |bencher| {
        bencher.iter(|| answer(&mut session, &mut out));
    });
    group.finish();
}

criterion_group!(command, benches);
criterion_main!(command);
