//! Callgrind: runs a scenario of this program under it and reads what it counted.
//!
//! It counts between the entry and the end of [`counted`], but for what happens within [`uncounted`] and in the ring
//! of the delivery: `--toggle-collect` turns counting over at each entry and each end of the functions that it
//! names, which must therefore stay functions. Where the ring is used outside of [`counted`] that counts the very thing that is
//! not meant; [`begin`] forgets it.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// Names the scenario that the child is to run.
pub(crate) const SCENARIO: &str = "POSTHASTE_INSTRUCTIONS_OF";

/// What turns counting over, by the names that callgrind knows: functions here, and the ring in `delivery`.
const TOGGLES: [&str; 3] = [
    "instructions::callgrind::counted*",
    "instructions::callgrind::uncounted*",
    "*instructions::delivery::Outside as posthaste::ring::Ring*",
];

const BEGIN: &str = "instructions::callgrind::begin*";

/// What a scenario has cost.
pub(crate) struct Count {
    /// Instructions each time.
    pub(crate) each: u64,
    /// The functions that cost most, a line each.
    pub(crate) top: Vec<String>,
}

/// What was counted before this is forgotten.
#[inline(never)]
pub(crate) fn begin() {
    std::hint::black_box(());
}

/// Does it, counted.
#[inline(never)]
pub(crate) fn counted<T>(act: impl FnOnce() -> T) -> T {
    act()
}

/// Does it, not counted, although it is within [`counted`].
#[inline(never)]
pub(crate) fn uncounted<T>(act: impl FnOnce() -> T) -> T {
    act()
}

/// Runs the test `test` of this program for `scenario` alone, which does its work so many times while it is counted.
pub(crate) fn count(test: &str, scenario: &str, times: u64) -> Count {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = directory.path().join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.args(TOGGLES.map(|function| format!("--toggle-collect={function}")));
    valgrind.arg(format!("--zero-before={BEGIN}"));
    valgrind.arg(std::env::current_exe().expect("this program")).args(["--exact", test, "--nocapture"]);
    // Whatever else the environment of the caller has must not cost anything.
    valgrind.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    valgrind.env("TZ", "UTC").env(SCENARIO, scenario);
    let output = valgrind.output().expect("valgrind was there a moment ago");
    assert!(
        output.status.success(),
        "{scenario} under valgrind: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    read(&out, scenario, times)
}

/// Reads the profile (valgrind manual, "Callgrind Format Specification").
fn read(path: &Path, scenario: &str, times: u64) -> Count {
    let text = std::fs::read_to_string(path).expect("callgrind wrote its profile");
    let (mut total, mut function, mut file) = (0, "", "");
    let mut costs: HashMap<&str, u64> = HashMap::new();
    let mut is_call = false;
    for line in text.lines() {
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "fn" => function = value,
                "fl" | "fi" | "fe" => file = value,
                // The next line is what the call cost, in the function that was called.
                "calls" => is_call = true,
                _ => {}
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit()) && !std::mem::take(&mut is_call) {
            let cost: u64 =
                line.split(' ').nth(1).and_then(|cost| cost.parse().ok()).expect("a line and a cost");
            assert!(
                !file.contains("src/ring/sim/"),
                "{scenario}: the simulated ring is in the count: {function} in {file}"
            );
            total += cost;
            *costs.entry(function).or_default() += cost;
        }
    }
    assert!(total > 0, "{scenario}: nothing was counted: is `counted` still a function?");
    let mut costs: Vec<(&str, u64)> = costs.into_iter().collect();
    costs.sort_by_key(|&(name, cost)| (std::cmp::Reverse(cost), name));
    let top = costs.iter().take(TOP).map(|(name, cost)| format!("{:>8} {name}", cost / times)).collect();
    Count { each: total / times, top }
}

/// Enough to see where it went.
const TOP: usize = 8;
