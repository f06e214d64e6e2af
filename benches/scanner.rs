//! How fast a message is found in the bytes after DATA.
//!
//! The scanner reads every octet that arrives, so it is measured in GB/s, against two bounds: `memmem`, which only
//! finds the places that a scanner must look at, and `memcpy`, which is what a server pays that copies DATA once.
//! The mail is made by a fixed generator; what the scanner keeps of it is checked before anything is measured.
#![forbid(unsafe_code)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use posthaste::mail::line_ends::{LineEnds, ToLf};
use std::hint::black_box;

use mail::mail;
use scan::{BUFFER_BYTES, scan};

#[path = "subjects/mail.rs"]
mod mail;
#[path = "subjects/scan.rs"]
mod scan;

/// Octets of the mail measured.
const MAIL_BYTES: usize = 1024 * 1024;

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
