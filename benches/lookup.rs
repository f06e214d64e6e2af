//! Look-ups in a table of a million addresses: who is there, and who is not.
//!
//! The table is built once, in a temporary directory, from a fixed seed. Look-ups go through `find`, as the
//! server's do, in an order that the caches cannot guess; both figures are for one look-up. The table is a few
//! times larger than a usual last-level cache, so either costs about one wait for memory, as filter line and block are fetched
//! together. `benches/table.rs` measures large tables.
#![forbid(unsafe_code)]
#![allow(missing_docs)] // criterion_main makes a public function

use criterion::{Criterion, criterion_group, criterion_main};
use posthaste::users::{Rules, find};
use std::hint::black_box;

#[path = "subjects/users.rs"]
mod users;

const USERS: u64 = 1_000_000;
const ORDER: usize = 1 << 16;

fn lookup(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let table = users::build(&directory.path().join("users.table"), USERS);
    let rules = Rules::new("+", &[]);
    let mut group = criterion.benchmark_group("lookup");
    for (name, stranger, is_there) in [("hit", "", true), ("miss", "x", false)] {
        let addresses = users::addresses(USERS, ORDER, stranger);
        let mut next = (0..ORDER).cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (local, domain) = &addresses[next.next().unwrap_or_default()];
                let found = find(&table, black_box(local), Some(domain), &rules);
                assert_eq!(found.expect("an intact table").found().is_some(), is_there);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
