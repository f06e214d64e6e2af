//! The rounds: one target after another, again and again, each by all threads.
//!
//! Owns the order of rounds and the adding up of what the threads bring home. Never measures anything itself.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::acknowledged::Bits;
use crate::histogram_log::HistogramLog;
use crate::measure::{Figures, Interval, Point};
use crate::message::Workload;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::target::{Endpoint, Target};
use crate::worker::{Harvest, Phase, Tick, run};

/// What came of one target.
pub(crate) struct Outcome {
    /// The target.
    pub(crate) target: Target,
    /// All its rounds together.
    pub(crate) figures: Figures,
    /// Messages a second in each round.
    pub(crate) rates: Vec<f64>,
    /// How it went over time, its rounds one after another.
    pub(crate) points: Vec<Point>,
}

/// What came of the run.
pub(crate) struct Finished {
    /// Of each target, in the order of the arguments.
    pub(crate) outcomes: Vec<Outcome>,
    /// number * recipients + recipient, for everybody who acknowledged.
    pub(crate) acknowledged: Bits,
    /// How many messages were begun; their numbers are smaller.
    pub(crate) begun: u64,
}

/// A target in the course of the run.
struct Contender {
    endpoint: Endpoint,
    outcome: Outcome,
    /// How long its rounds took so far.
    spent: Duration,
}

/// Does all rounds.
pub(crate) fn all_rounds(
    targets: &[Target],
    plan: &Arc<Plan>,
    workload: &Arc<Workload>,
    log: &mut Option<HistogramLog>,
    progress: &Progress,
) -> Result<Finished, String> {
    let mut contenders = Vec::new();
    for target in targets {
        let outcome = Outcome {
            target: target.clone(),
            figures: Figures::new(),
            rates: Vec::new(),
            points: Vec::new(),
        };
        contenders.push(Contender { endpoint: target.resolve()?, outcome, spent: Duration::ZERO });
    }
    let mut acknowledged = Bits::default();
    let mut begun = 0;
    for round in 1..=plan.rounds {
        for contender in &mut contenders {
            progress.round(round, &contender.outcome.target);
            let phase = Arc::new(new_phase(plan, workload, &contender.endpoint, begun));
            let harvest = one_round(&phase, contender, log, progress)?;
            acknowledged.add(&harvest.acknowledged, begun * workload.recipients() as u64);
            begun += phase.begun.load(Ordering::Relaxed);
            contender.outcome.rates.push(harvest.figures.rate());
            contender.outcome.figures.add_round(&harvest.figures);
        }
    }
    let outcomes = contenders.into_iter().map(|contender| contender.outcome).collect();
    Ok(Finished { outcomes, acknowledged, begun })
}

fn new_phase(plan: &Arc<Plan>, workload: &Arc<Workload>, endpoint: &Endpoint, first_number: u64) -> Phase {
    Phase {
        plan: Arc::clone(plan),
        workload: Arc::clone(workload),
        endpoint: endpoint.clone(),
        first_number,
        begun: AtomicU64::new(0),
        measured: AtomicU64::new(0),
        ready: Barrier::new(plan.threads),
        start: OnceLock::new(),
    }
}

fn one_round(
    phase: &Arc<Phase>,
    contender: &mut Contender,
    log: &mut Option<HistogramLog>,
    progress: &Progress,
) -> Result<Harvest, String> {
    let threads: Vec<(JoinHandle<Harvest>, Receiver<Tick>)> =
        (0..phase.plan.threads).map(|thread| start_thread(phase, thread)).collect::<Result<_, _>>()?;
    let (threads, ticks): (Vec<_>, Vec<_>) = threads.into_iter().unzip();
    let mut merge = Merge { from: Duration::ZERO };
    // Each thread hands out at the same times; the slowest decides when an interval is complete.
    while let Some((from, to, interval)) = merge.next(&ticks) {
        let warm_up = phase.plan.warm_up;
        let point = point(contender.spent + from.saturating_sub(warm_up), to - from, &interval);
        progress.interval(&point, warm_up, to);
        if to <= warm_up {
            continue;
        }
        contender.outcome.points.push(point);
        if let Some(log) = log {
            let ended = SystemTime::now();
            log.write(&contender.outcome.target, ended - (to - from), to - from, &interval.transaction)?;
        }
    }
    contender.spent += merge.from.saturating_sub(phase.plan.warm_up);
    let mut all = Harvest { figures: Figures::new(), acknowledged: Bits::default() };
    for thread in threads {
        let harvest = thread.join().map_err(|_| "a thread of the generator panicked; please report it")?;
        all.figures.add_thread(&harvest.figures);
        all.acknowledged.add(&harvest.acknowledged, 0);
    }
    Ok(all)
}

fn start_thread(phase: &Arc<Phase>, thread: usize) -> Result<(JoinHandle<Harvest>, Receiver<Tick>), String> {
    let (sender, receiver) = channel();
    let (phase, cpus) = (Arc::clone(phase), phase.plan.cpus.clone());
    let body = move || {
        if !cpus.is_empty() {
            // Checked before the run began.
            let _ = posthaste::sys::cpu::pin(cpus[thread % cpus.len()]);
        }
        run(&phase, thread, sender)
    };
    let started = std::thread::Builder::new().name(format!("load-{thread}")).spawn(body);
    started
        .map(|handle| (handle, receiver))
        .map_err(|error: io::Error| format!("cannot start a thread: {error}"))
}

/// Puts together what the threads hand out.
struct Merge {
    /// Where the next interval begins.
    from: Duration,
}

impl Merge {
    /// The next interval of all threads that still work; `None` when none does.
    fn next(&mut self, ticks: &[Receiver<Tick>]) -> Option<(Duration, Duration, Interval)> {
        let mut merged: Option<(Duration, Interval)> = None;
        for tick in ticks.iter().filter_map(|thread| thread.recv().ok()) {
            match &mut merged {
                Some((at, interval)) => {
                    *at = tick.at.max(*at);
                    interval.add(&tick.interval);
                }
                None => merged = Some((tick.at, tick.interval)),
            }
        }
        let (to, interval) = merged?;
        let to = to.max(self.from);
        let from = std::mem::replace(&mut self.from, to);
        Some((from, to, interval))
    }
}

fn point(at: Duration, lasted: Duration, interval: &Interval) -> Point {
    Point {
        at: at.as_secs_f64(),
        seconds: lasted.as_secs_f64(),
        messages: interval.transaction.0.len(),
        errors: interval.errors,
        p99: interval.transaction.quantile(0.99),
    }
}
