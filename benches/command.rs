//! What the commands of a delivery cost: reading them, deciding about them, answering them.
#![forbid(unsafe_code)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use posthaste::lmtp::command::parse;
use posthaste::lmtp::line::{Line, LineReader};
use posthaste::lmtp::replies;
use posthaste::lmtp::session::{Action, Session, SessionLimits};
use std::hint::black_box;
use std::sync::Arc;

/// What Postfix sends in one packet.
const ENVELOPE: &[u8] =
    b"MAIL FROM:<bounces+12345-alice=example.org@lists.example.net> SIZE=4321 BODY=8BITMIME\r\n\
    RCPT TO:<alice@example.org>\r\n\
    RCPT TO:<bob+folder@example.org>\r\n\
    DATA\r\n";

/// Takes an envelope through line reader and session, and returns what is answered.
fn answer(session: &mut Session, out: &mut Vec<u8>) {
    let mut reader = LineReader::default();
    let mut input = black_box(ENVELOPE);
    out.clear();
    while let Line::Complete(line) = reader.next(&mut input) {
        match session.line(line) {
            Action::Begin { reply, .. } => reply.write_to(out),
            Action::Recipient(_) => {
                session.rcpt_accepted();
                replies::RECIPIENT_OK.write_to(out);
            }
            Action::Data(reply) => {
                reply.write_to(out);
                session.data_ended();
            }
            other => panic!("{other:?}"),
        }
    }
}

fn benches(criterion: &mut Criterion) {
    let mut session = Session::new(Arc::new(SessionLimits {
        hostname: "mx.example.net".to_owned(),
        message_bytes_max: 50 * 1024 * 1024,
        recipients_max: 1000,
        bad_commands_max: 10,
    }));
    let mut out = Vec::new();
    answer(&mut session, &mut out);
    assert_eq!(
        out,
        b"250 2.1.0 OK\r\n250 2.1.5 OK\r\n250 2.1.5 OK\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
    );

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
