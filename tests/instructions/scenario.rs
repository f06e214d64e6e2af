//! What is counted. Each does its work once before, so that what only the first time costs is not in the count.

use std::hint::black_box;

use posthaste::users::{Rules, find};

use super::callgrind::counted;
use super::delivery;
use super::{envelope, mail, scan, users};

/// One of them.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// How many times it does what is counted.
    pub(crate) times: u64,
    run: fn(u64),
}

/// All of them. The names are those of the baseline.
pub(crate) const ALL: [Scenario; 7] = [
    // 64 KiB of mail, with a dot at the start of few lines, and of every second one.
    Scenario { name: "scanner", times: 20, run: |times| scan_mail(times, 200) },
    Scenario { name: "scanner_many_dots", times: 20, run: |times| scan_mail(times, 2) },
    // MAIL, RCPT twice, DATA: lines, commands, decisions, replies.
    Scenario { name: "envelope", times: 100, run: answer_envelopes },
    Scenario { name: "lookup_hit", times: LOOKUPS, run: |times| look_up(times, "", true) },
    Scenario { name: "lookup_miss", times: LOOKUPS, run: |times| look_up(times, "x", false) },
    // Connect, LHLO, MAIL, RCPT, DATA, a message of 4 KiB for one recipient, QUIT: all but the ring.
    Scenario { name: "delivery_journal", times: 50, run: |times| delivery::run("journal", times) },
    Scenario { name: "delivery_group", times: 50, run: |times| delivery::run("group", times) },
];

/// Does the work of the scenario `name`.
pub(crate) fn run(name: &str) {
    let scenario = ALL.iter().find(|scenario| scenario.name == name).expect("a name of the list");
    (scenario.run)(scenario.times);
}

fn scan_mail(times: u64, dot_every: u64) {
    let wire = mail::mail(64 * 1024, dot_every);
    let doubled = memchr::memmem::find_iter(&wire, "\r\n..").count() + usize::from(wire.starts_with(b".."));
    assert_eq!(scan::scan(&wire), wire.len() - doubled - ".\r\n".len());
    counted(|| (0..times).for_each(|_| assert!(scan::scan(black_box(&wire)) > 0)));
}

fn answer_envelopes(times: u64) {
    let (mut session, mut out) = (envelope::session(), Vec::new());
    envelope::answer(&mut session, &mut out);
    assert_eq!(out, envelope::ANSWERS);
    counted(|| (0..times).for_each(|_| envelope::answer(&mut session, black_box(&mut out))));
}

fn look_up(times: u64, stranger: &str, is_there: bool) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let table = users::build(&directory.path().join("users.table"), USERS);
    let rules = Rules::new("+", &[]);
    let addresses = users::addresses(USERS, usize::try_from(times).expect("few"), stranger);
    let look = |(local, domain): &(String, String)| {
        let found = find(&table, black_box(local), Some(domain), &rules);
        assert_eq!(found.expect("an intact table").found().is_some(), is_there);
    };
    addresses.iter().for_each(look);
    counted(|| addresses.iter().for_each(look));
}

/// Enough for probes of all lengths, few enough to be built under callgrind.
const USERS: u64 = 10_000;
const LOOKUPS: u64 = 2000;
