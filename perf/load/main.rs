//! `posthaste-load`: the load generator for LMTP servers, and the sink that it is measured against.
//!
//! Arguments to exit code. In the order of a run: [`arguments`] become a [`plan`] and a workload ([`message`], [`mix`],
//! [`users`]); [`run`] gives rounds to threads ([`worker`]), whose connections ([`session`]) send when it is time
//! ([`schedule`]); what they [`measure`] ends in [`report`], [`plot`] and [`histogram_log`], and [`mod@verify`] looks into the
//! mailboxes. [`sink`] is the other end.
#![forbid(unsafe_code)]

mod acknowledged;
mod arguments;
mod histogram_log;
mod measure;
mod message;
mod mix;
mod plan;
mod plot;
mod progress;
mod random;
mod reply;
mod report;
mod run;
mod schedule;
mod session;
mod sink;
mod target;
mod timer;
mod users;
mod verify;
mod worker;

use std::hash::BuildHasher as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;

use arguments::Arguments;
use histogram_log::HistogramLog;
use message::{RunId, Workload};
use plan::{Pace, Plan};
use progress::Progress;
use report::Verdict;
use run::{Finished, all_rounds};
use sink::Manners;
use target::Target;
use users::{Choice, Users};
use verify::{Verification, verify};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(why) = unusable_cpu(&arguments.cpus) {
        return complain(BAD_ARGUMENTS, &why);
    }
    if let Err(error) = tokio_uring::uring_builder().build(8) {
        return complain(FAILED, &format!("io_uring: {error}; {RING_REMEDY}"));
    }
    // Refused connections would be errors of the server in the report.
    let _ = posthaste::sys::limit::raise_open_files(OPEN_FILES);
    match &arguments.sink {
        Some(target) => serve(target, &arguments),
        None => match prepare(&arguments) {
            Ok(prepared) => measure_all(&arguments, prepared),
            Err(why) => complain(BAD_ARGUMENTS, &why),
        },
    }
}

fn unusable_cpu(cpus: &[usize]) -> Option<String> {
    let allowed = posthaste::sys::cpu::allowed();
    let unusable = cpus.iter().find(|cpu| !allowed.contains(cpu))?;
    Some(format!("--cpus {unusable}: this process may use {allowed:?}"))
}

/// `--sink`.
fn serve(target: &Target, arguments: &Arguments) -> ExitCode {
    let manners =
        Manners { delay: arguments.delay, stall: arguments.stall, failures: arguments.fail.clone() };
    if let Some(cpu) = arguments.cpus.first() {
        // Checked above.
        let _ = posthaste::sys::cpu::pin(*cpu);
    }
    let ready = || eprintln!("posthaste-load: sink at {target}, until it is ended");
    let endpoint = match target.resolve() {
        Ok(endpoint) => endpoint,
        Err(why) => return complain(BAD_ARGUMENTS, &why),
    };
    match sink::run(&endpoint, manners, ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(FAILED, &format!("sink at {target}: {error}")),
    }
}

/// What a run needs, complete.
struct Prepared {
    plan: Arc<Plan>,
    workload: Arc<Workload>,
    log: Option<HistogramLog>,
}

/// Everything that can be wrong before the first message.
fn prepare(arguments: &Arguments) -> Result<Prepared, String> {
    let users = Users::load(&arguments.users)?;
    let choice = Choice::new(&users, arguments.popularity, usize::from(arguments.recipients))?;
    let run = arguments.run_id.unwrap_or_else(random_run);
    let workload = Workload::new(run, arguments.sender.clone(), users, choice, &arguments.size)?;
    if let Some(directory) = arguments.verify.iter().find(|directory| !directory.is_dir()) {
        return Err(format!("--verify {}: it is not a directory", directory.display()));
    }
    if let Some(plot) = &arguments.plot {
        // Better now than after the run.
        std::fs::File::create(plot).map_err(|error| format!("--plot {}: {error}", plot.display()))?;
    }
    let log = arguments.hgrm.as_deref().map(HistogramLog::create).transpose()?;
    Ok(Prepared { plan: Arc::new(arguments.plan()), workload: Arc::new(workload), log })
}

/// The hash maps of the standard library have random keys: enough to tell runs apart.
fn random_run() -> RunId {
    RunId(std::hash::RandomState::new().hash_one(std::process::id()))
}

/// The rounds, the verification, the report.
fn measure_all(arguments: &Arguments, prepared: Prepared) -> ExitCode {
    let Prepared { plan, workload, mut log } = prepared;
    let progress = Progress::new(&plan);
    let finished = match all_rounds(&arguments.to, &plan, &workload, &mut log, &progress) {
        Ok(finished) => finished,
        Err(why) => return complain(FAILED, &why),
    };
    let tell = |files| progress.verifying(files);
    let verification = (!arguments.verify.is_empty())
        .then(|| verify(&arguments.verify, &workload, finished.begun, &finished.acknowledged, tell));
    progress.finish();
    match publish(arguments, &plan, workload.run(), &finished, verification.as_ref(), log) {
        Ok(()) => judge(&plan, &finished, verification.as_ref()),
        Err(why) => complain(FAILED, &why),
    }
}

fn publish(
    arguments: &Arguments,
    plan: &Plan,
    run: RunId,
    finished: &Finished,
    verification: Option<&Verification>,
    log: Option<HistogramLog>,
) -> Result<(), String> {
    let outcomes = &finished.outcomes;
    let report = if arguments.json {
        let report = report::to_json(outcomes, plan, run, verification);
        format!("{}\n", serde_json::to_string_pretty(&report).expect("plain values"))
    } else {
        report::text(outcomes, plan, run, verification)
    };
    match io::stdout().write_all(report.as_bytes()) {
        // Whoever closed the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(format!("standard output: {error}"));
        }
        _ => {}
    }
    if let Some(path) = &arguments.plot {
        let svg = plot::draw(outcomes, matches!(plan.pace, Pace::Open { .. }));
        std::fs::write(path, svg).map_err(|error| format!("--plot {}: {error}", path.display()))?;
    }
    log.map_or(Ok(()), HistogramLog::finish)
}

/// The exit code: a lost message is worse than anything, a void run is worse than a refused message.
fn judge(plan: &Plan, finished: &Finished, verification: Option<&Verification>) -> ExitCode {
    if verification.is_some_and(|found| !found.is_good()) {
        return complain(FAILED, "VOID: what was acknowledged is not what is there; see \"verified\" above");
    }
    for outcome in &finished.outcomes {
        if outcome.figures.messages == 0 {
            let why = outcome.figures.errors.0.iter().next();
            let why = why.map_or_else(String::new, |(kind, (_, text))| format!(": {kind}: {text}"));
            return complain(FAILED, &format!("{} acknowledged nothing{why}", outcome.target));
        }
        if outcome.figures.given_up > 0 {
            let why = "connections were given up, so the load was not what was asked for; see the errors";
            return complain(FAILED, &format!("{}: {why}", outcome.target));
        }
    }
    for outcome in &finished.outcomes {
        let verdict = Verdict::of(&outcome.figures, plan);
        if verdict != Verdict::KeptUp {
            return complain(VOID, &format!("{}: {verdict}", outcome.target));
        }
    }
    ExitCode::SUCCESS
}

fn complain(code: u8, why: &str) -> ExitCode {
    eprintln!("posthaste-load: {why}");
    code.into()
}

const RING_REMEDY: &str =
    "the kernel must have it (kernel.io_uring_disabled = 0) and a container must allow it";
const OPEN_FILES: u64 = 1 << 20;
const FAILED: u8 = 1;
const BAD_ARGUMENTS: u8 = 2;
const VOID: u8 = 3;
