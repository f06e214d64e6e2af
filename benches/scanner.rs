//! How fast a message is found in the bytes after DATA.
//!
//! The scanner reads every octet that arrives, so it is measured in GB/s, against two bounds: `memmem`, which only
//! finds the places that a scanner must look at, and `memcpy`, which is what a server pays that copies DATA once.
//! The mail is made by a fixed generator; what the scanner keeps of it is checked before anything is measured.
#![forbid(unsafe_code)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use posthaste::lmtp::data::Scanner;
use posthaste::mail::line_ends::{LineEnds, ToLf};
use std::hint::black_box;

/// Octets of a receive buffer, and of the mail measured.
const BUFFER_BYTES: usize = 16 * 1024;
const MAIL_BYTES: usize = 1024 * 1024;

/// Lines of 40 to 78 characters of text, one in `dot_every` with a dot at its start (doubled, as on the wire), and the
/// final dot.
fn mail(bytes: usize, dot_every: u64) -> Vec<u8> {
    const TEXT: &[u8] = b"etaoin shrdlu, cmfwyp vbgkqj xz. ETAOIN 0123456789 <a href=\"3D\">";
    let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut wire = Vec::with_capacity(bytes + 128);
    while wire.len() < bytes {
        let start = wire.len();
        if random(dot_every) == 0 {
            wire.push(b'.');
        }
        for _ in 0..40 + random(39) {
            let place = usize::try_from(random(TEXT.len() as u64)).expect("small");
            wire.push(TEXT[place]);
        }
        if wire[start] == b'.' {
            wire.insert(start, b'.');
        }
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Scans the mail in receive buffers, and returns the octets kept.
fn scan(wire: &[u8]) -> usize {
    let mut scanner = Scanner::new();
    let mut keep = Vec::with_capacity(64);
    let mut kept = 0;
    for buffer in wire.chunks(BUFFER_BYTES) {
        keep.clear();
        let scan = scanner.scan(buffer, &mut keep);
        kept += scan.carry.len() + keep.iter().map(ExactSizeIterator::len).sum::<usize>();
    }
    kept
}

fn benches(criterion: &mut Criterion) {
    let text = mail(MAIL_BYTES, 200);
    let dots = mail(MAIL_BYTES, 2);
    let doubled = memchr::memmem::find_iter(&text, "\r\n..").count();
    assert_eq!(scan(&text), text.len() - doubled - ".\r\n".len());

    let mut group = criterion.benchmark_group("scanner");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("scan", |bencher| bencher.iter(|| scan(black_box(&text))));
    group.bench_function("scan, every second line with a dot", |bencher| {
        bencher.iter(|| scan(black_box(&dots)));
    });
    group.bench_function("memmem", |bencher| {
        let finder = memchr::memmem::Finder::new("\r\n.");
        bencher.iter(|| {
            let buffers = black_box(&text).chunks(BUFFER_BYTES);
            buffers.map(|buffer| finder.find_iter(buffer).count()).sum::<usize>()
        });
    });
    group.bench_function("memcpy", |bencher| {
        let mut copy = vec![0_u8; BUFFER_BYTES];
        bencher.iter(|| {
            for buffer in black_box(&text).chunks(BUFFER_BYTES) {
                copy[..buffer.len()].copy_from_slice(buffer);
                black_box(&mut copy);
            }
        });
    });
    group.bench_function("line ends", |bencher| {
        bencher.iter(|| {
            let mut counts = LineEnds::default();
            for buffer in black_box(&text).chunks(BUFFER_BYTES) {
                counts.count(buffer);
            }
            counts
        });
    });
    group.bench_function("to LF", |bencher| {
        bencher.iter_batched_ref(
            || Vec::with_capacity(BUFFER_BYTES),
            |keep| {
                let mut to_lf = ToLf::default();
                for buffer in black_box(&text).chunks(BUFFER_BYTES) {
                    keep.clear();
                    to_lf.convert(buffer, 0..buffer.len(), keep);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();

    // A message of the size that benchmarks of mail servers use, whole in one buffer.
    let small = mail(4096, 200);
    let mut group = criterion.benchmark_group("scanner, 4 KiB");
    group.throughput(Throughput::Bytes(small.len() as u64));
    group.bench_function("scan", |bencher| bencher.iter(|| scan(black_box(&small))));
    group.bench_function("line ends", |bencher| {
        bencher.iter(|| {
            let mut counts = LineEnds::default();
            counts.count(black_box(&small));
            counts
        });
    });
    group.finish();
}

criterion_group!(scanner, benches);
criterion_main!(scanner);
