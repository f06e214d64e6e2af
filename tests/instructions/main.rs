//! Instruction counts: what the hot paths cost is held against what they cost before (`perf/instructions.toml`).
//!
//! A clock says nothing on a machine that others use too; callgrind counts the same every time. It runs this
//! program once for each scenario, which does its work first without being counted, so that start-up and growing
//! buffers are not in the figure. `perf/README.md` says how to accept a count that has moved.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::process::Command;

use baseline::{Baseline, Verdict};

mod baseline;
mod callgrind;
mod delivery;
mod scenario;

#[path = "../../benches/subjects/envelope.rs"]
mod envelope;
#[path = "../../benches/subjects/mail.rs"]
mod mail;
#[path = "../../benches/subjects/scan.rs"]
mod scan;
#[path = "../../benches/subjects/users.rs"]
mod users;

/// By how much a count may differ from the baseline before it has moved. The same program scatters by a ten-thousandth, as
/// process ids have more or fewer digits; another order of events in the simulated ring (another seed) makes half a
/// percent. The rest is for the compiler, which arranges code anew when something elsewhere has changed.
const TOLERANCE: f64 = 0.03;

/// The same, where compiler or valgrind are not those of the baseline. Only more is a failure then.
const TOLERANCE_OTHERWISE: f64 = 0.15;

/// What rewrites the baseline.
const ACCEPT: &str = "POSTHASTE_INSTRUCTIONS=accept cargo nextest run --cargo-profile quick --features load --test instructions";

#[test]
fn what_the_hot_paths_cost_has_not_moved() {
    const NAME: &str = "what_the_hot_paths_cost_has_not_moved";
    if let Ok(scenario) = std::env::var(callgrind::SCENARIO) {
        return scenario::run(&scenario);
    }
    if let Some(why) = why_not() {
        return not_run(NAME, &why);
    }
    let found: Vec<(&str, callgrind::Count)> = scenario::ALL
        .iter()
        .map(|scenario| (scenario.name, callgrind::count(NAME, scenario.name, scenario.times)))
        .collect();
    let made_with = made_with();
    if std::env::var("POSTHASTE_INSTRUCTIONS").as_deref() == Ok("accept") {
        let counts = found.iter().map(|(name, count)| ((*name).to_owned(), count.each)).collect();
        return Baseline { made_with, counts }.write(ACCEPT);
    }
    let baseline = Baseline::read();
    let is_same = baseline.made_with == made_with;
    let tolerance = if is_same { TOLERANCE } else { TOLERANCE_OTHERWISE };
    let mut moved = String::new();
    for (name, count) in &found {
        let verdict = baseline.verdict(name, count.each, tolerance);
        println!("{name}: {} instructions, {verdict}", count.each);
        let is_failure = match verdict {
            Verdict::Same(_) => false,
            Verdict::Fewer(_) => is_same,
            Verdict::More(_) | Verdict::New => true,
        };
        if is_failure {
            let _ = writeln!(moved, "{name}: {} instructions, {verdict}; most of them in", count.each);
            count.top.iter().for_each(|line| moved.push_str(&format!("    {line}\n")));
        }
    }
    for name in baseline.counts.keys().filter(|&name| found.iter().all(|(found, _)| found != name)) {
        let _ = writeln!(moved, "{name}: in the baseline, and no scenario any more");
    }
    assert!(
        moved.is_empty(),
        "instruction counts have moved by more than {:.0}%:\n{moved}\
         The baseline was made with {}, this with {made_with}.\n\
         If that is meant, accept it, commit perf/instructions.toml, and say why:\n    {ACCEPT}\n",
        tolerance * 100.0,
        baseline.made_with,
    );
}

/// Why nothing can be counted here.
fn why_not() -> Option<String> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Some("not installed: valgrind".to_owned());
    }
    let program = std::env::current_exe().expect("this program");
    // Counts of another profile are other counts: the baseline is for the one that CI tests with.
    if !program.ancestors().any(|folder| folder.file_name().is_some_and(|name| name == "quick")) {
        return Some("the counts are those of `--cargo-profile quick`".to_owned());
    }
    None
}

/// What the counts depend on beside the source.
fn made_with() -> String {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let said = output.unwrap_or_else(|error| panic!("{program} --version: {error}")).stdout;
        String::from_utf8_lossy(&said).trim().to_owned()
    };
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    format!("{}, {}, {}", version(&compiler), version("valgrind"), std::env::consts::ARCH)
}

/// Reports a test that cannot run here, on standard error and in the file that `tests/run` shows at its end.
fn not_run(name: &str, why: &str) {
    let line = format!("NOT RUN {name}: {why}");
    eprintln!("{line}");
    if let Some(list) = std::env::var_os("POSTHASTE_TEST_NOT_RUN") {
        use std::io::Write as _;
        let mut file = std::fs::File::options().create(true).append(true).open(list).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line} (in CI every test must run)");
}
