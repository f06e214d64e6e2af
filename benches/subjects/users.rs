//! A table of as many users as are wanted, from a fixed seed, and their addresses in an order that scatters.

use posthaste::users::{Builder, Entry, LocalPart, Options, Table};
use std::path::Path;

/// Builds the table at `path`.
pub(crate) fn build(path: &Path, users: u64) -> Table {
    let options = Options::reproducible(LocalPart::Folded, [0x5a; 16]);
    let mut builder = Builder::create(path, options).expect("the directory is ours");
    for number in 0..users {
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

/// Addresses in a scattered order: the multiplier is prime to the number of users.
pub(crate) fn addresses(users: u64, count: usize, stranger: &str) -> Vec<(String, String)> {
    (0..count as u64)
        .map(|n| n.wrapping_mul(7_919_317) % users)
        .map(|number| (format!("{}{stranger}", local_part(number)), domain(number)))
        .collect()
}

fn local_part(number: u64) -> String {
    format!("first.last{number:07}")
}

fn domain(number: u64) -> String {
    format!("domain{}.example", number % 1000)
}
