//! Look-ups in a table of a million addresses: who is there, and who is not.
//!
//! The table is built once, in a temporary directory, from a fixed seed. Look-ups go through `find`, as the
//! server's do, in an order that the caches cannot guess; both figures are for one look-up. The table is a few
//! times larger than a usual last-level cache, so either costs about one wait for memory, as filter line and block are fetched
//! together. `benches/table.rs` measures large tables.
#![forbid(unsafe_code)]
#![allow(missing_docs)] // criterion_main makes a public function

use criterion::{Criterion, criterion_group, criterion_main};
use posthaste::users::{Builder, Entry, LocalPart, Options, Rules, Table, find};
use std::hint::black_box;
use std::path::Path;

const USERS: u64 = 1_000_000;
const ORDER: usize = 1 << 16;

fn build(path: &Path) -> Table {
    let options = Options::reproducible(LocalPart::Folded, [0x5a; 16]);
    let mut builder = Builder::create(path, options).expect("the directory is ours");
    for number in 0..USERS {
        let name = local_part(number);
        let domain = domain(number);
        let entry = Entry {
            line: number + 1,
            home: Some(format!("/var/vmail/{domain}/{name}")),
            address: format!("{name}@{domain}"),
            mail: "Maildir".to_owned(),
            uid: Some(5000),
            gid: Some(5000),
            quota_bytes: Some(1 << 30),
            quota_messages: None,
        };
        builder.add(&entry).expect("the entry is good");
    }
    builder.finish().expect("there is room for the table");
    Table::open(path).expect("the table was just built")
}

fn local_part(number: u64) -> String {
    format!("first.last{number:07}")
}

fn domain(number: u64) -> String {
    format!("domain{}.example", number % 1000)
}

/// Addresses in a scattered order: the multiplier is prime to the number of users.
fn addresses(stranger: &str) -> Vec<(String, String)> {
    (0..ORDER as u64)
        .map(|n| n.wrapping_mul(7_919_317) % USERS)
        .map(|number| (format!("{}{stranger}", local_part(number)), domain(number)))
        .collect()
}

fn lookup(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let table = build(&directory.path().join("users.table"));
    let rules = Rules::new("+", &[]);
    let mut group = criterion.benchmark_group("lookup");
    for (name, stranger, is_there) in [("hit", "", true), ("miss", "x", false)] {
        let addresses = addresses(stranger);
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
