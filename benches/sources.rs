//! Users a second, from every format that `posthaste users build` reads.
//!
//! Each input lies in memory and has the same users, with what a site usually says of them: home, owner and quota. The
//! figure is for parsing alone, in processor time of one core, so that a busy machine gives the same; what the builder
//! does to them is not in it, what opens a compressed input is. Every run counts the users, and none may be missing.
#![forbid(unsafe_code)]
#![allow(missing_docs)] // criterion_main makes a public function

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use posthaste::users::LocalPart;
use posthaste::users::source::accounts::Accounts;
use posthaste::users::source::csv::{Csv, Separator};
use posthaste::users::source::json::Json;
use posthaste::users::source::nss::{Nss, Wanted};
use posthaste::users::source::passwd_file::PasswdFile;
use posthaste::users::source::virtual_aliases::VirtualAliases;
use posthaste::users::source::{Item, Source, decompress};
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{Cursor, Write as _};
use std::time::Duration;

/// Enough to leave the caches of the processor, and little when it is only a test.
fn users() -> u64 {
    if std::env::args().any(|argument| argument == "--test") { 100 } else { 200_000 }
}

fn text(header: &str, line: impl Fn(&mut String, &str, &str)) -> Vec<u8> {
    let mut text = header.to_owned();
    for number in 0..users() {
        line(&mut text, &format!("first.last{number:07}"), &format!("domain{}.example", number % 1000));
        text.push('\n');
    }
    text.into_bytes()
}

fn passwd_file() -> Vec<u8> {
    text("", |text, name, domain| {
        let home = format!("/var/vmail/{domain}/{name}");
        let _ = write!(
            text,
            "{name}@{domain}:{{SSHA}}c2VjcmV0:5000:5000::{home}::userdb_quota_rule=*:storage=1G"
        );
    })
}

fn values(separator: char, mark: &str) -> Vec<u8> {
    let header = "address,home,uid,gid,quota_bytes\n".replace(',', separator.to_string().as_str());
    text(&header, |text, name, domain| {
        let home = format!("/var/vmail/{domain}/{name}");
        let fields = [&format!("{name}@{domain}"), &home, "5000", "5000", "1073741824"];
        let fields = fields.map(|field| format!("{mark}{field}{mark}"));
        text.push_str(&fields.join(&separator.to_string()));
    })
}

fn json() -> Vec<u8> {
    text("", |text, name, domain| {
        let home = format!("/var/vmail/{domain}/{name}");
        let _ = write!(
            text,
            "{{\"address\":\"{name}@{domain}\",\"home\":\"{home}\",\"mail\":\"Maildir\",\
             \"maildir\":\"{home}/Maildir\",\"uid\":5000,\"gid\":5000,\"quota_bytes\":1073741824}}"
        );
    })
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).and_then(|()| encoder.finish()).expect("memory is enough")
}

/// Reads all of a source as the build does, with one item.
fn count(mut source: impl Source) {
    let mut item = Item::default();
    let mut count = 0;
    while source.read(&mut item).expect("every line is good") {
        black_box(&item);
        count += 1;
    }
    assert_eq!(count, users(), "a user is missing");
}

/// Counts the users of as many sources as criterion wants.
fn measure<S: Source>(bencher: &mut Bencher<'_>, open: impl Fn() -> S) {
    bencher.iter_custom(|times| {
        let begin = processor_time();
        (0..times).for_each(|_| count(open()));
        processor_time() - begin
    });
}

/// What this thread has used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it is not negative")
}

fn sources(criterion: &mut Criterion) {
    let accounts = Accounts::default();
    let folded = LocalPart::Folded;
    let mut group = criterion.benchmark_group("sources");
    group.throughput(Throughput::Elements(users()));
    group.sample_size(10);

    let passwd = passwd_file();
    group.bench_function("passwd-file", |bencher| {
        measure(bencher, || PasswdFile::new(&*passwd, accounts.clone(), folded));
    });
    let zstd = zstd::encode_all(&*passwd, 3).expect("memory is enough");
    for (name, bytes) in [("passwd-file.gz", gzip(&passwd)), ("passwd-file.zst", zstd)] {
        group.bench_function(name, |bencher| {
            measure(bencher, || {
                let input = decompress::open(Cursor::new(bytes.clone())).expect("it is whole");
                PasswdFile::new(input, accounts.clone(), folded)
            });
        });
    }
    for (name, separator, octet, mark) in [
        ("csv", Separator::Comma, ',', ""),
        ("csv, quoted", Separator::Comma, ',', "\""),
        ("tsv", Separator::Tab, '\t', ""),
    ] {
        let values = values(octet, mark);
        group.bench_function(name, |bencher| {
            measure(bencher, || Csv::new(&*values, separator, accounts.clone(), folded, false));
        });
    }
    let json = json();
    group.bench_function("json", |bencher| {
        measure(bencher, || Json::new(&*json, accounts.clone(), folded, false));
    });
    let nss = text("", |text, name, domain| {
        let _ = write!(text, "{name}:x:5000:5000:{name}:/home/{domain}/{name}:/bin/sh");
    });
    group.bench_function("nss", |bencher| {
        measure(bencher, || Nss::new(nss.clone(), Wanted { uids: 1000..=60_000, domain: None }));
    });
    let aliases = text("", |text, name, domain| {
        let _ = write!(text, "{name}@{domain} one.{name}@{domain}, two.{name}@{domain}");
    });
    group.bench_function("virtual", |bencher| {
        measure(bencher, || VirtualAliases::new(&*aliases));
    });
    group.finish();
}

criterion_group!(benches, sources);
criterion_main!(benches);
