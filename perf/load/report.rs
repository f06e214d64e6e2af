//! The report at the end, as text and as JSON, and the judgement whether the run is worth anything.
//!
//! Owns the words. Every figure comes from elsewhere.
#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::measure::{Figures, Latency, Point};
use crate::message::RunId;
use crate::plan::{Pace, Plan};
use crate::run::Outcome;
use crate::verify::Verification;

/// Whether the generator kept up, as seen from what it did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// What was measured is the server.
    KeptUp,
    /// Messages were sent late although a connection was free: by so much, for one in a hundred.
    Late(Duration),
    /// A thread had something to do nearly all the time, so the server waited for it: this share, in percent.
    Saturated(f64),
}

impl Verdict {
    /// Judges the figures of a target.
    pub(crate) fn of(figures: &Figures, plan: &Plan) -> Self {
        let busiest = f64::from(figures.effort.busiest) / 10.0;
        let lateness = figures.lateness.quantile(0.99).filter(|late| *late > plan.lateness_max);
        match (plan.pace, lateness) {
            (Pace::Open { .. }, Some(late)) => Self::Late(late),
            _ if busiest >= SATURATED_PERCENT && !plan.calibrates => Self::Saturated(busiest),
            _ => Self::KeptUp,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeptUp => f.write_str("kept up"),
            Self::Late(late) => write!(
                f,
                "VOID: one message in a hundred was sent {} late although a connection was free; lower --rate, give the generator CPUs of its own (--cpus), or raise --threads",
                Time(Some(*late))
            ),
            Self::Saturated(percent) => write!(
                f,
                "VOID: a thread was busy, or waiting for a CPU, for {percent:.0}% of the time, so the generator was the limit; raise --threads, give it CPUs of its own (--cpus), or say --calibrate if it is what you measure"
            ),
        }
    }
}

/// The figures of all targets, for people.
pub(crate) fn text(
    outcomes: &[Outcome],
    plan: &Plan,
    run: RunId,
    verification: Option<&Verification>,
) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        write_outcome(&mut out, outcome, plan).expect("memory");
    }
    if let [first, others @ ..] = outcomes
        && !others.is_empty()
    {
        let _ = writeln!(out, "{:<12} messages/s, median of rounds", "compared");
        for outcome in outcomes {
            let ratio = median(&outcome.rates) / median(&first.rates).max(1e-9);
            let _ = writeln!(out, "  {:>12.0}  {ratio:>6.2} x  {}", median(&outcome.rates), outcome.target);
        }
        out.push('\n');
    }
    if let Some(verification) = verification {
        let _ = writeln!(out, "{:<12} {verification}", "verified");
        verification.examples.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
    }
    let _ = writeln!(out, "{:<12} {run}", "run");
    out
}

fn write_outcome(out: &mut String, outcome: &Outcome, plan: &Plan) -> fmt::Result {
    let figures = &outcome.figures;
    writeln!(out, "{:<12} {}", "target", outcome.target)?;
    let refused = if figures.failed > 0 { format!(", {} failed", figures.failed) } else { String::new() };
    writeln!(
        out,
        "{:<12} {} acknowledged{refused} in {:.2} s",
        "messages", figures.messages, figures.seconds
    )?;
    write!(
        out,
        "{:<12} {:.0} messages/s, {:.0} recipients/s",
        "rate",
        figures.rate(),
        per_second(figures.recipients, figures)
    )?;
    writeln!(out, ", {:.1} MB/s", per_second(figures.bytes, figures) / 1e6)?;
    if outcome.rates.len() > 1 {
        let rates: Vec<String> = outcome.rates.iter().map(|rate| format!("{rate:.0}")).collect();
        writeln!(out, "{:<12} {} messages/s", "rounds", rates.join(", "))?;
    }
    write_errors(out, figures)?;
    if let Pace::Open { rate, .. } = plan.pace {
        write!(out, "{:<12} {rate} messages/s", "scheduled")?;
        writeln!(out, "; backlog {} at most, {} never begun", figures.backlog_max, figures.never_begun)?;
    }
    write_effort(out, figures, plan)?;
    writeln!(out)?;
    write_latencies(out, figures, plan)?;
    writeln!(out)
}

fn write_errors(out: &mut String, figures: &Figures) -> fmt::Result {
    if figures.errors.0.is_empty() {
        return writeln!(out, "{:<12} none", "errors");
    }
    for (number, (kind, (count, text))) in figures.errors.0.iter().enumerate() {
        writeln!(out, "{:<12} {count} x {kind}: {text}", if number == 0 { "errors" } else { "" })?;
    }
    if figures.given_up > 0 {
        writeln!(out, "{:<12} {} connections were given up", "", figures.given_up)?;
    }
    Ok(())
}

fn write_effort(out: &mut String, figures: &Figures, plan: &Plan) -> fmt::Result {
    let effort = figures.effort;
    write!(out, "{:<12} {}; ", "generator", Verdict::of(figures, plan))?;
    if let Pace::Open { .. } = plan.pace {
        let late = [0.5, 0.99].map(|q| Time(figures.lateness.quantile(q)).to_string());
        write!(out, "late by {} (median), {} (p99); ", late[0], late[1])?;
    }
    let each = effort.ran.as_secs_f64() * 1e6 / (figures.messages + figures.failed).max(1) as f64;
    writeln!(
        out,
        "on a CPU {:.0}% of the time, {each:.1} us a message, waited for one {:.0}%",
        effort.busy() * 100.0,
        effort.starved() * 100.0
    )
}

fn write_latencies(out: &mut String, figures: &Figures, plan: &Plan) -> fmt::Result {
    write!(out, "{:<24}", "latency")?;
    for (name, _) in PERCENTILES {
        write!(out, "{name:>10}")?;
    }
    writeln!(out, "{:>10}", "max")?;
    for (name, latency) in latencies(figures, plan) {
        write!(out, "  {name:<22}")?;
        for (_, quantile) in PERCENTILES {
            write!(out, "{:>10}", Time(latency.quantile(quantile)).to_string())?;
        }
        writeln!(out, "{:>10}", Time(latency.longest()).to_string())?;
    }
    Ok(())
}

/// The histograms that are worth showing, with their names.
fn latencies<'f>(figures: &'f Figures, plan: &Plan) -> Vec<(&'static str, &'f Latency)> {
    let mut shown = vec![("RCPT", &figures.rcpt), ("end of data", &figures.end_of_data)];
    match plan.pace {
        Pace::FlatOut => shown.push(("transaction", &figures.transaction)),
        Pace::Open { .. } => {
            shown.push(("transaction, from MAIL", &figures.service));
            shown.push(("transaction, scheduled", &figures.transaction));
        }
    }
    shown
}

fn per_second(count: u64, figures: &Figures) -> f64 {
    if figures.seconds > 0.0 { count as f64 / figures.seconds } else { 0.0 }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}

/// The same for programs. Times are in microseconds, as the names say.
pub(crate) fn to_json(
    outcomes: &[Outcome],
    plan: &Plan,
    run: RunId,
    verification: Option<&Verification>,
) -> Value {
    let targets: Vec<Value> = outcomes.iter().map(|outcome| outcome_to_json(outcome, plan)).collect();
    let verification = verification.map(|found| {
        json!({
            "good": found.is_good(),
            "acknowledged": found.acknowledged,
            "whole": found.whole,
            "missing": found.missing,
            "altered": found.altered,
            "duplicated": found.duplicated,
            "unacknowledged": found.unacknowledged,
            "unreadable": found.unreadable,
            "other_files": found.others,
            "examples": found.examples,
        })
    });
    json!({ "run": run.to_string(), "targets": targets, "verification": verification })
}

fn outcome_to_json(outcome: &Outcome, plan: &Plan) -> Value {
    let figures = &outcome.figures;
    let effort = figures.effort;
    let verdict = Verdict::of(figures, plan);
    let errors: Vec<Value> = figures
        .errors
        .0
        .iter()
        .map(|(kind, (count, text))| json!({ "code": kind.code, "step": kind.step.to_string(), "count": count, "first": text }))
        .collect();
    let open = match plan.pace {
        Pace::FlatOut => Value::Null,
        Pace::Open { rate, .. } => json!({
            "scheduled_per_second": rate,
            "backlog_max": figures.backlog_max,
            "never_begun": figures.never_begun,
            "generator_late_us": latency_to_json(&figures.lateness),
        }),
    };
    json!({
        "target": outcome.target.to_string(),
        "seconds": figures.seconds,
        "messages": figures.messages,
        "recipients": figures.recipients,
        "failed": figures.failed,
        "warm_up_messages": figures.warm_up,
        "bytes": figures.bytes,
        "messages_per_second": figures.rate(),
        "bytes_per_second": per_second(figures.bytes, figures),
        "rounds_per_second": outcome.rates,
        "errors": errors,
        "connections_given_up": figures.given_up,
        "open_loop": open,
        "generator": {
            "kept_up": verdict == Verdict::KeptUp,
            "verdict": verdict.to_string(),
            "busy": effort.busy(),
            "waited_for_cpu": effort.starved(),
            "cpu_us_per_message": effort.ran.as_secs_f64() * 1e6 / (figures.messages + figures.failed).max(1) as f64,
        },
        "latency_us": {
            "rcpt": latency_to_json(&figures.rcpt),
            "end_of_data": latency_to_json(&figures.end_of_data),
            "transaction": latency_to_json(&figures.transaction),
            "transaction_from_mail": latency_to_json(&figures.service),
        },
        "over_time": outcome.points.iter().map(point_to_json).collect::<Vec<_>>(),
    })
}

fn latency_to_json(latency: &Latency) -> Value {
    let mut fields = serde_json::Map::new();
    for (name, quantile) in PERCENTILES {
        fields.insert(name.into(), json!(latency.quantile(quantile).map(microseconds)));
    }
    fields.insert("max".into(), json!(latency.longest().map(microseconds)));
    fields.insert("mean".into(), json!((!latency.0.is_empty()).then(|| latency.0.mean() / 1e3)));
    fields.insert("count".into(), json!(latency.0.len()));
    Value::Object(fields)
}

fn point_to_json(point: &Point) -> Value {
    json!({
        "at": point.at,
        "seconds": point.seconds,
        "messages": point.messages,
        "errors": point.errors,
        "p99_us": point.p99.map(microseconds),
    })
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A time with a unit that suits it.
struct Time(Option<Duration>);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(seconds) = self.0.map(|duration| duration.as_secs_f64()) else {
            return f.write_str("-");
        };
        match seconds {
            1.0.. => write!(f, "{seconds:.2} s"),
            1e-3.. => write!(f, "{:.2} ms", seconds * 1e3),
            _ => write!(f, "{:.0} us", seconds * 1e6),
        }
    }
}

const PERCENTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("p99.999", 0.99999)];
/// A thread that is busy for more of the time cannot be trusted to have been waiting for the server.
const SATURATED_PERCENT: f64 = 95.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Effort, Times};
    use crate::plan::tests::plan;
    use crate::reply::Reply;
    use crate::schedule::Arrivals;
    use crate::session::{Record, Step};

    fn outcome(messages: u64) -> Outcome {
        let mut figures = Figures { seconds: 2.0, ..Figures::new() };
        let record = Record {
            rcpt: vec![Duration::from_micros(20)],
            end_of_data: vec![Duration::from_micros(900)],
            acknowledged: vec![0],
            ..Record::default()
        };
        let times = Times { transaction: Duration::from_millis(3), service: Duration::from_millis(1) };
        (0..messages).for_each(|_| figures.count(&record, 4096, times));
        figures.effort = Effort {
            ran: Duration::from_secs(1),
            wall: Duration::from_secs(2),
            busiest: 500,
            ..Effort::default()
        };
        figures.errors.reply(Step::Rcpt, &Reply { code: 550, text: "550 5.1.1 nobody".into() });
        Outcome { target: "unix:/x".parse().unwrap(), figures, rates: vec![500.0], points: Vec::new() }
    }

    #[test]
    fn the_text_has_rate_bytes_errors_and_percentiles() {
        let text = text(&[outcome(1000)], &plan(), RunId(0xab), None);
        for part in [
            "1000 acknowledged in 2.00 s",
            "500 messages/s, 500 recipients/s, 2.0 MB/s",
            "1 x 550 at RCPT: 550 5.1.1 nobody",
            "kept up; on a CPU 50% of the time, 1000.0 us a message",
            "end of data",
            "3.00 ms",
            "run          00000000000000ab",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("scheduled"));
    }

    #[test]
    fn a_saturated_generator_makes_the_run_void_unless_it_is_what_is_measured() {
        let mut outcome = outcome(10);
        outcome.figures.effort.busiest = 970;
        assert_eq!(Verdict::of(&outcome.figures, &plan()), Verdict::Saturated(97.0));
        let calibrating = Plan { calibrates: true, ..plan() };
        assert_eq!(Verdict::of(&outcome.figures, &calibrating), Verdict::KeptUp);
    }

    #[test]
    fn an_open_loop_is_void_when_the_generator_itself_was_late() {
        let mut outcome = outcome(10);
        (0..100).for_each(|_| outcome.figures.lateness.record(Duration::from_millis(11)));
        assert_eq!(Verdict::of(&outcome.figures, &plan()), Verdict::KeptUp);
        let open = Plan { pace: Pace::Open { rate: 5.0, arrivals: Arrivals::Constant }, ..plan() };
        assert!(
            matches!(Verdict::of(&outcome.figures, &open), Verdict::Late(late) if late.as_millis() == 11 || late.as_millis() == 10)
        );
    }

    #[test]
    fn several_targets_are_compared_by_their_medians() {
        let other = Outcome { rates: vec![900.0, 1000.0, 1500.0], ..outcome(10) };
        let text = text(&[outcome(10), other], &plan(), RunId(1), None);
        assert!(text.contains("1000    2.00 x  unix:/x"), "{text}");
    }
}
