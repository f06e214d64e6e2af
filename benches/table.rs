//! The user table at the scale of a large provider: how fast it is built, how large it is, how long a look-up takes.
//!
//! `POSTHASTE_BENCH_USERS` says how many addresses (a million unless it is set), `POSTHASTE_BENCH_DIR` where the table
//! goes (a temporary directory). Everything comes from fixed seeds. Figures go to standard output, one a line, and the
//! bench ends with an error if an answer is wrong. With `--test` it is tiny; with `--print` it writes the users as a
//! passwd-file to standard output instead, which `posthaste users build --input -` takes.
//!
//! A look-up is timed by itself, for an address that the generator draws from all: in a table that is much larger than
//! the last-level cache, what it reads comes from memory. "In a cold server" means that before each look-up a buffer of
//! two MiB is walked over, of 128 MiB in turn, so that code, stack and allocator have left the nearer caches as well.
//! The clock's own time, which is measured the same way, is subtracted.
//!
//! What a line of memory costs differs between machines, and on a shared one from hour to hour, by more than anything that
//! a look-up could do better. So before each look-up one octet at a random place is read, of the table's own file before a hit and
//! of as much anonymous memory as its filter takes before a miss: no look-up can be faster than that.
//!
//! The table is looked at in its file, as the `users` commands do it; `--keep memory` or `--keep file` makes a copy first, as the
//! server does.
//!
//! `--hits` or `--misses` does ten thousand look-ups of that sort and nothing else, so that their instructions can be
//! counted: `valgrind --tool=callgrind --toggle-collect='posthaste::users::key::find' BENCH --reuse --hits`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "this program is made to print")]

use posthaste::sys::mmap::{Keep, Mapping, Place};
use posthaste::users::{Answer, Builder, Entry, LocalPart, Options, Rules, Table, find, warm};
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SAMPLES: usize = 200_000;
/// Look-ups under a tool that counts instructions.
const COUNTED: u64 = 10_000;
/// Recipients of one transaction.
const BATCH: usize = 50;
/// More than a last-level cache, in words.
const CACHE_WORDS: usize = 16 << 20;

fn main() {
    let given = |name: &str| std::env::args().any(|argument| argument == name);
    let users = match std::env::var("POSTHASTE_BENCH_USERS") {
        Ok(number) => number.parse().expect("POSTHASTE_BENCH_USERS is a number"),
        Err(_) if given("--test") => 2000,
        Err(_) => 1_000_000,
    };
    if given("--print") {
        return print(users);
    }
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let directory = std::env::var_os("POSTHASTE_BENCH_DIR");
    let directory = directory.map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let path = directory.join("bench.table");
    if !given("--reuse") {
        build(&path, users);
    }
    let place = || std::env::args().skip_while(|argument| argument != "--keep").nth(1).unwrap_or_default();
    let keep = given("--keep").then(|| Keep { place: place_named(&place(), &directory), lock: false });
    let begun = Instant::now();
    let table = match &keep {
        Some(keep) => Table::load(&path, keep),
        None => Table::open(&path),
    };
    let table = table.expect("the table was just built");
    println!("open: {:.2} s", begun.elapsed().as_secs_f64());
    let samples = if given("--test") { 500 } else { SAMPLES };
    match (given("--hits"), given("--misses")) {
        (false, false) => look_up(&table, &memory_of(&table, keep.as_ref()), users, samples),
        (is_there, _) => repeat(&table, users, is_there),
    }
}

/// What is known of a user by his number alone.
fn entry(number: u64) -> Entry {
    let (name, domain) = (local_part(number), domain(number));
    let limits = [1_u64 << 30, 5 << 30, 10 << 30, 50 << 30];
    Entry {
        line: number + 1,
        home: Some(format!("/var/vmail/{}/{domain}/{name}", number % 16)),
        address: format!("{name}@{domain}"),
        mail: "Maildir".to_owned(),
        uid: Some(5000 + u32::try_from(number % 8).expect("small")),
        gid: Some(5000),
        quota_bytes: Some(limits[usize::try_from(number / 3 % 4).expect("small")]),
        quota_messages: None,
    }
}

/// Fourteen octets and a half on average.
fn local_part(number: u64) -> String {
    const NAMES: [&str; 8] = ["ann", "robert", "li", "maria", "jo", "oluwaseun", "peter", "x"];
    format!("{}.{number:09}", NAMES[usize::try_from(mix(number) % 8).expect("small")])
}

/// One of a hundred thousand, the first ones far larger than the others. Thirteen octets.
fn domain(number: u64) -> String {
    let spread = mix(number ^ 0x5555) % 100_000;
    let spread = if number.is_multiple_of(4) { spread } else { spread % 100 };
    format!("d{spread:05}.example")
}

/// A number that looks random (`SplitMix64`).
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

fn print(users: u64) {
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    for number in 0..users {
        let Entry { address, home, uid, gid, quota_bytes, .. } = entry(number);
        let [home, uid, gid, quota] =
            [home.unwrap_or_default(), text(uid), text(gid), text(quota_bytes.map(|limit| limit >> 20))];
        let written =
            writeln!(out, "{address}:{{SHA}}x:{uid}:{gid}::{home}::userdb_quota_rule=*:storage={quota}M");
        if written.is_err() {
            return;
        }
    }
}

fn text(number: Option<impl ToString>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

fn place_named(name: &str, directory: &Path) -> Place {
    match name {
        "memory" => Place::Memory,
        "file" => Place::File(directory.to_owned()),
        other => panic!("--keep takes memory or file, not {other:?}"),
    }
}

fn build(path: &Path, users: u64) {
    let options = Options::reproducible(LocalPart::Folded, [0x5a; 16]);
    let mut builder = Builder::create(path, options).expect("the directory is ours");
    // Entries are made in batches before the clock runs, so that it is the builder that is measured.
    let (mut adding, mut address_bytes) = (0.0, 0);
    let mut entries = Vec::new();
    for begin in (0..users).step_by(10_000) {
        entries.clear();
        entries.extend((begin..users.min(begin + 10_000)).map(entry));
        address_bytes += entries.iter().map(|entry| entry.address.len()).sum::<usize>();
        let begun = Instant::now();
        for entry in &entries {
            builder.add(entry).expect("the entry is good");
        }
        adding += begun.elapsed().as_secs_f64();
    }
    let begun = Instant::now();
    let summary = builder.finish().expect("there is room for the table");
    let finishing = begun.elapsed().as_secs_f64();
    println!("users: {users}, mean address {:.1} octets", address_bytes as f64 / users as f64);
    println!("build: add {adding:.2} s, finish {finishing:.2} s, {:.2} million a second", {
        users as f64 / (adding + finishing) / 1e6
    });
    println!(
        "size: {} octets, {:.1} an address",
        summary.file_bytes,
        summary.file_bytes as f64 / users as f64
    );
    println!("longest probe: {} blocks", summary.longest_probe);
}

/// What a hit reads of, and what a miss reads of, mapped as the table maps them.
fn memory_of(table: &Table, keep: Option<&Keep>) -> [Mapping; 2] {
    let file = match keep {
        Some(keep) => Mapping::own(table.path(), keep),
        None => Mapping::open(table.path()),
    };
    let file = file.expect("it was just opened");
    let filter_bytes = usize::try_from(table.shape().filter_bytes).expect("it is mapped");
    let filter = Mapping::copy_of(&file[..filter_bytes]).expect("memory for another filter");
    [file, filter]
}

fn look_up(table: &Table, memory: &[Mapping; 2], users: u64, samples: usize) {
    let rules = Rules::new("+", &[]);
    let drawn = |round: u64, stranger: &str| -> Vec<(String, String)> {
        (0..samples as u64)
            .map(|n| mix(n ^ round << 40) % users)
            .map(|number| (format!("{}{stranger}", local_part(number)), domain(number)))
            .collect()
    };
    // What was not looked at since the table was written is mapped, not fetched from the disk.
    drawn(1, "").iter().for_each(|(local, domain)| assert!(is_there(table, local, domain, &rules)));

    let mut cache = vec![1_u64; if samples < SAMPLES { 1 << 10 } else { CACHE_WORDS }];
    for (memory, (what, stranger, expected)) in memory.iter().zip([("hit", "", true), ("miss", "x", false)]) {
        let addresses = drawn(2, stranger);
        for (how, share) in [("in a row", 1), ("in a cold server", 20)] {
            let mut times: Vec<f64> = Vec::with_capacity(samples);
            let mut clock: Vec<f64> = Vec::with_capacity(samples);
            let mut lines: Vec<f64> = Vec::with_capacity(samples);
            for (n, (local, domain)) in addresses.iter().enumerate().take(samples / share) {
                if share > 1 {
                    cool(&mut cache, n);
                }
                touch(local, domain);
                let begun = Instant::now();
                clock.push(begun.elapsed().as_nanos() as f64);
                let place = place_in(memory, n as u64);
                let begun = Instant::now();
                black_box(memory[place]);
                lines.push(begun.elapsed().as_nanos() as f64);
                let begun = Instant::now();
                let found = is_there(table, local, domain, &rules);
                times.push(begun.elapsed().as_nanos() as f64);
                assert_eq!(found, expected, "{local}@{domain}");
            }
            let clock = at(&mut clock, 0.5);
            let [median, p90, p99] = [0.5, 0.9, 0.99].map(|part| at(&mut times, part) - clock);
            let line = at(&mut lines, 0.5) - clock;
            println!(
                "{what}, {how}: median {median:.0} ns, p90 {p90:.0} ns, p99 {p99:.0} ns (clock {clock:.0} ns); \
                 one line of memory {line:.0} ns, {:.2} times that",
                median / line
            );
        }

        let addresses = drawn(3, stranger);
        let begun = Instant::now();
        let found = addresses.iter().filter(|(local, domain)| is_there(table, local, domain, &rules)).count();
        let mean = begun.elapsed().as_nanos() as f64 / samples as f64;
        assert_eq!(found, if expected { samples } else { 0 });
        println!("{what}, one after another: mean {mean:.0} ns");
    }

    let addresses = drawn(4, "");
    for warmed in [false, true, false, true] {
        let mut times: Vec<f64> = Vec::new();
        for (n, batch) in addresses.chunks(BATCH).enumerate() {
            cool(&mut cache, n);
            batch.iter().for_each(|(local, domain)| touch(local, domain));
            let begun = Instant::now();
            if warmed {
                batch.iter().for_each(|(local, domain)| warm(table, local, Some(domain), &rules));
            }
            let found = batch.iter().filter(|(local, domain)| is_there(table, local, domain, &rules)).count();
            times.push(begun.elapsed().as_nanos() as f64 / batch.len() as f64);
            assert_eq!(found, batch.len());
        }
        let how = if warmed { "prefetched" } else { "as they come" };
        println!(
            "hits, {BATCH} recipients of a transaction, {how}: median {:.0} ns each",
            at(&mut times, 0.5)
        );
    }
}

/// Look-ups of one sort and nothing else, for a tool that counts instructions.
fn repeat(table: &Table, users: u64, expected: bool) {
    let rules = Rules::new("+", &[]);
    let stranger = if expected { "" } else { "x" };
    for number in (0..COUNTED).map(|n| mix(n) % users) {
        let (local, domain) = (format!("{}{stranger}", local_part(number)), domain(number));
        assert_eq!(is_there(table, &local, &domain, &rules), expected);
    }
}

fn is_there(table: &Table, local: &str, domain: &str, rules: &Rules) -> bool {
    matches!(find(table, black_box(local), Some(domain), rules), Ok(Answer::Found(_)))
}

/// Where to read; another place for each number.
fn place_in(memory: &[u8], number: u64) -> usize {
    let place = (u128::from(mix(number ^ 0xaaaa)) * memory.len() as u128) >> 64;
    usize::try_from(place).expect("less than the length")
}

fn cool(cache: &mut [u64], n: usize) {
    let part = cache.len() / 64;
    let begin = n % 64 * part;
    cache[begin..begin + part].iter_mut().step_by(8).for_each(|word| *word = word.wrapping_add(1));
}

/// An address that a server looks up was just received.
fn touch(local: &str, domain: &str) {
    black_box(local.bytes().chain(domain.bytes()).map(u64::from).sum::<u64>());
}

fn at(times: &mut [f64], part: f64) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let rank = times.len() as f64 * part;
    times.iter().enumerate().find(|(n, _)| *n as f64 >= rank).map_or(f64::NAN, |(_, time)| *time)
}
