//! Three ways to write a batch durably into a preallocated file: which one is the journal's?
//!
//! `cargo bench --bench journal`, on the file system of `POSTHASTE_BENCH_DIR` (else of the temporary directory). The
//! file is as long as a segment and written with zeroes before, as segments are; each batch goes to the next blocks.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::fs::File;
use std::hint::black_box;
use std::io::{IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::fs::OFlags;
use rustix::io::{ReadWriteFlags, pwrite, pwritev, pwritev2};

const SEGMENT_BYTES: usize = 64 << 20;
const BLOCK: usize = 4096;
/// Messages of a batch; each is 4 KiB with its record's head, as ten to a hundred sessions bring them.
const MESSAGES: [usize; 3] = [1, 8, 32];
const RECORD_BYTES: usize = 4096 + 700;

/// A segment-like file, and where the next batch goes.
struct Target {
    file: File,
    offset: usize,
}

impl Target {
    fn make(directory: &tempfile::TempDir, flags: OFlags) -> Self {
        let path = directory.path().join("segment");
        let mut file = File::create(&path).expect("a file");
        for _ in 0..SEGMENT_BYTES / (1 << 20) {
            file.write_all(&[0; 1 << 20]).expect("room for a segment");
        }
        file.sync_all().expect("a sync");
        let flags = i32::try_from(flags.bits()).expect("flags are small");
        let file = File::options().write(true).custom_flags(flags).open(path).expect("the same file");
        Self { file, offset: BLOCK }
    }

    /// Where a batch of `bytes` goes.
    fn next(&mut self, bytes: usize) -> u64 {
        if self.offset + bytes > SEGMENT_BYTES {
            self.offset = BLOCK;
        }
        let offset = self.offset;
        self.offset += bytes.next_multiple_of(BLOCK);
        offset as u64
    }
}

fn directory() -> tempfile::TempDir {
    let parent = std::env::var_os("POSTHASTE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(parent).expect("a directory")
}

fn batches(criterion: &mut Criterion) {
    let directory = directory();
    let record = vec![b'x'; RECORD_BYTES];
    let mut group = criterion.benchmark_group("journal");
    for messages in MESSAGES {
        let bytes = messages * RECORD_BYTES;
        let padded = bytes.next_multiple_of(BLOCK);
        let padding = vec![0; padded - bytes];
        let mut pieces: Vec<IoSlice<'_>> = (0..messages).map(|_| IoSlice::new(&record)).collect();
        pieces.push(IoSlice::new(&padding));
        group.throughput(Throughput::Elements(messages as u64));

        let mut target = Target::make(&directory, OFlags::empty());
        group.bench_function(BenchmarkId::new("write with RWF_DSYNC", messages), |bencher| {
            bencher.iter(|| {
                let offset = target.next(padded);
                let count = pwritev2(&target.file, &pieces, offset, ReadWriteFlags::DSYNC).expect("a write");
                assert_eq!(count, padded);
            });
        });
        group.bench_function(BenchmarkId::new("write, fdatasync", messages), |bencher| {
            bencher.iter(|| {
                let offset = target.next(padded);
                assert_eq!(pwritev(&target.file, &pieces, offset).expect("a write"), padded);
                rustix::fs::fdatasync(&target.file).expect("a sync");
            });
        });
        let mut target = Target::make(&directory, OFlags::DIRECT | OFlags::DSYNC);
        let mut bounce = vec![0; padded + BLOCK];
        let start = bounce.as_ptr().align_offset(BLOCK);
        group.bench_function(
            BenchmarkId::new("copy, write with O_DIRECT and O_DSYNC", messages),
            |bencher| {
                bencher.iter(|| {
                    let offset = target.next(padded);
                    let aligned = &mut bounce[start..start + padded];
                    for message in 0..messages {
                        aligned[message * RECORD_BYTES..][..RECORD_BYTES].copy_from_slice(black_box(&record));
                    }
                    assert_eq!(pwrite(&target.file, aligned, offset).expect("a write"), padded);
                });
            },
        );
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(2)).warm_up_time(std::time::Duration::from_millis(300));
    targets = batches
}
criterion_main!(benches);
