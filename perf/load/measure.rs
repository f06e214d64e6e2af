//! What was measured: histograms, counts, errors, and how they went over time.
//!
//! Owns the figures of a thread, of a target and of an interval, and how they are added up. Times are nanoseconds in
//! histograms of three significant digits. Never decides whether a run is good: that is the report's.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::reply::Reply;
use crate::session::{Fault, Record, Step};

/// A histogram of durations.
#[derive(Debug, Clone)]
pub(crate) struct Latency(pub(crate) Histogram<u64>);

impl Latency {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, 3).expect("bounds that make sense"))
    }

    /// Counts one; what is longer than an hour counts as an hour.
    pub(crate) fn record(&mut self, duration: Duration) {
        self.0.saturating_record(nanoseconds(duration));
    }

    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the same bounds");
    }

    /// The value that this share of the durations does not exceed; `None` without any.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.value_at_quantile(quantile)))
    }

    /// The longest.
    pub(crate) fn longest(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.max()))
    }
}

/// A duration in nanoseconds; five hundred years are the most.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const SHORTEST_NS: u64 = 1_000;
const LONGEST_NS: u64 = 3_600_000_000_000;

/// What an error is counted as: where it happened, and the code of the reply, if it was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ErrorKind {
    /// The reply's code; `None` if the connection failed.
    pub(crate) code: Option<u16>,
    /// The step that it answered.
    pub(crate) step: Step,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code} at {}", self.step),
            None => write!(f, "connection failed at {}", self.step),
        }
    }
}

/// Errors by kind; of each the number, and the text of the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Errors(pub(crate) BTreeMap<ErrorKind, (u64, String)>);

impl Errors {
    /// Counts a reply.
    pub(crate) fn reply(&mut self, step: Step, reply: &Reply) {
        self.count(ErrorKind { code: Some(reply.code), step }, || reply.text.clone());
    }

    /// Counts what ended a connection.
    pub(crate) fn fault(&mut self, step: Step, fault: &Fault) {
        match fault {
            Fault::Refused(reply) => self.reply(step, reply),
            _ => self.count(ErrorKind { code: None, step }, || fault.to_string()),
        }
    }

    /// Adds others.
    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, (count, text)) in &other.0 {
            self.0.entry(*kind).or_insert_with(|| (0, text.clone())).0 += count;
        }
    }

    /// How many there are.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    fn count(&mut self, kind: ErrorKind, text: impl FnOnce() -> String) {
        self.0.entry(kind).or_insert_with(|| (0, text())).0 += 1;
    }
}

/// When a message was begun, and since when its latency counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// From the scheduled time, or from MAIL, to the last reply.
    pub(crate) transaction: Duration,
    /// From MAIL to the last reply.
    pub(crate) service: Duration,
}

/// Everything that one thread, or one target, has to say.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    /// RCPT to its reply.
    pub(crate) rcpt: Latency,
    /// The write that ends the message to each reply.
    pub(crate) end_of_data: Latency,
    /// Whole transactions, from the scheduled time in an open loop.
    pub(crate) transaction: Latency,
    /// Whole transactions from MAIL, whatever the schedule.
    pub(crate) service: Latency,
    /// How late the generator itself was, with a connection free.
    pub(crate) lateness: Latency,
    /// Messages that somebody acknowledged.
    pub(crate) messages: u64,
    /// Recipients who acknowledged.
    pub(crate) recipients: u64,
    /// Bytes of the acknowledged messages, each once.
    pub(crate) bytes: u64,
    /// Messages that nobody acknowledged.
    pub(crate) failed: u64,
    /// Messages of the warm-up, which are in no other figure but the errors.
    pub(crate) warm_up: u64,
    /// Scheduled messages that no connection became free for.
    pub(crate) never_begun: u64,
    /// The most scheduled messages that waited at the same time.
    pub(crate) backlog_max: u64,
    /// Errors of all kinds, those of the warm-up included.
    pub(crate) errors: Errors,
    /// Connections that were given up.
    pub(crate) given_up: u64,
    /// How long it was measured.
    pub(crate) seconds: f64,
    /// What the generator's threads did meanwhile.
    pub(crate) effort: Effort,
}

impl Figures {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            rcpt: Latency::new(),
            end_of_data: Latency::new(),
            transaction: Latency::new(),
            service: Latency::new(),
            lateness: Latency::new(),
            messages: 0,
            recipients: 0,
            bytes: 0,
            failed: 0,
            warm_up: 0,
            never_begun: 0,
            backlog_max: 0,
            errors: Errors::default(),
            given_up: 0,
            seconds: 0.0,
            effort: Effort::default(),
        }
    }

    /// Counts a message that was measured; its errors are counted elsewhere.
    pub(crate) fn count(&mut self, record: &Record, bytes: u64, times: Times) {
        record.rcpt.iter().for_each(|each| self.rcpt.record(*each));
        record.end_of_data.iter().for_each(|each| self.end_of_data.record(*each));
        if record.acknowledged.is_empty() {
            // How fast a message is refused says nothing about deliveries.
            self.failed += 1;
            return;
        }
        self.transaction.record(times.transaction);
        self.service.record(times.service);
        self.messages += 1;
        self.recipients += record.acknowledged.len() as u64;
        self.bytes += bytes;
    }

    /// Adds what other threads did in the same time.
    pub(crate) fn add_thread(&mut self, other: &Self) {
        let seconds = self.seconds.max(other.seconds);
        let backlog_max = self.backlog_max + other.backlog_max;
        self.add_round(other);
        (self.seconds, self.backlog_max) = (seconds, backlog_max);
    }

    /// Adds what was done at another time.
    pub(crate) fn add_round(&mut self, other: &Self) {
        self.rcpt.add(&other.rcpt);
        self.end_of_data.add(&other.end_of_data);
        self.transaction.add(&other.transaction);
        self.service.add(&other.service);
        self.lateness.add(&other.lateness);
        self.messages += other.messages;
        self.recipients += other.recipients;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.warm_up += other.warm_up;
        self.never_begun += other.never_begun;
        self.backlog_max = self.backlog_max.max(other.backlog_max);
        self.errors.add(&other.errors);
        self.given_up += other.given_up;
        self.seconds += other.seconds;
        self.effort.add(other.effort);
    }

    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.messages as f64 / self.seconds } else { 0.0 }
    }
}

/// What threads did with their time, by the kernel's account (`/proc/thread-self/schedstat`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Effort {
    /// On a CPU.
    pub(crate) ran: Duration,
    /// Ready to run, without a CPU.
    pub(crate) waited: Duration,
    /// All of it.
    pub(crate) wall: Duration,
    /// The largest share that a single thread was busy, on a CPU or waiting for one, in thousandths.
    pub(crate) busiest: u32,
}

impl Effort {
    /// The account of the calling thread so far; nothing if the kernel keeps none.
    pub(crate) fn of_this_thread() -> Option<(Duration, Duration)> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let mut fields = text.split_whitespace().map(|field| field.parse().ok().map(Duration::from_nanos));
        Some((fields.next()??, fields.next()??))
    }

    /// What a thread did between two accounts.
    pub(crate) fn between(before: (Duration, Duration), after: (Duration, Duration), wall: Duration) -> Self {
        let (ran, waited) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        let busiest = (ran + waited).as_micros() * 1000 / wall.as_micros().max(1);
        Self { ran, waited, wall, busiest: u32::try_from(busiest).unwrap_or(u32::MAX) }
    }

    fn add(&mut self, other: Self) {
        self.ran += other.ran;
        self.waited += other.waited;
        self.wall += other.wall;
        self.busiest = self.busiest.max(other.busiest);
    }

    /// The share of the time on a CPU, over all threads.
    pub(crate) fn busy(&self) -> f64 {
        self.ran.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }

    /// The share of the time spent waiting for a CPU.
    pub(crate) fn starved(&self) -> f64 {
        self.waited.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }
}

/// What completed within a fraction of a second.
#[derive(Debug, Clone)]
pub(crate) struct Interval {
    /// Whole transactions.
    pub(crate) transaction: Latency,
    /// Errors of all kinds.
    pub(crate) errors: u64,
}

impl Interval {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { transaction: Latency::new(), errors: 0 }
    }

    /// Adds what another thread did in the same time.
    pub(crate) fn add(&mut self, other: &Self) {
        self.transaction.add(&other.transaction);
        self.errors += other.errors;
    }
}

/// A point of the line over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    /// Where the interval begins, in seconds of this target's own time.
    pub(crate) at: f64,
    /// How long it is.
    pub(crate) seconds: f64,
    /// Acknowledged messages.
    pub(crate) messages: u64,
    /// Errors.
    pub(crate) errors: u64,
    /// 99 of 100 transactions took no longer; `None` if none completed.
    pub(crate) p99: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_code_and_step_and_keep_their_first_text() {
        let mut errors = Errors::default();
        for text in ["452 first", "452 second"] {
            errors.reply(Step::Rcpt, &Reply { code: 452, text: text.into() });
        }
        errors.fault(Step::EndOfData, &Fault::Closed);
        let mut all = errors.clone();
        all.add(&errors);
        assert_eq!(all.total(), 6);
        let lines: Vec<String> =
            all.0.iter().map(|(kind, (count, text))| format!("{count} {kind}: {text}")).collect();
        assert_eq!(
            lines,
            [
                "2 connection failed at end of data: the server closed the connection",
                "4 452 at RCPT: 452 first"
            ]
        );
    }

    #[test]
    fn threads_share_their_time_and_rounds_follow_each_other() {
        let one = Figures { messages: 100, seconds: 2.0, backlog_max: 3, ..Figures::new() };
        let mut threads = one.clone();
        threads.add_thread(&one);
        assert_eq!((threads.rate(), threads.backlog_max), (100.0, 6));
        let mut rounds = one.clone();
        rounds.add_round(&one);
        assert_eq!((rounds.rate(), rounds.backlog_max), (50.0, 3));
    }

    #[test]
    fn a_message_that_everybody_refused_has_no_latency() {
        let mut figures = Figures::new();
        let times = Times { transaction: Duration::from_millis(2), service: Duration::from_millis(1) };
        let refused = Record { rcpt: vec![Duration::from_micros(50)], ..Record::default() };
        figures.count(&refused, 4096, times);
        assert_eq!((figures.failed, figures.messages, figures.transaction.quantile(0.5)), (1, 0, None));
        assert!(figures.rcpt.quantile(0.5).is_some());
        let acknowledged = Record { acknowledged: vec![0, 2], ..Record::default() };
        figures.count(&acknowledged, 4096, times);
        assert_eq!((figures.messages, figures.recipients, figures.bytes), (1, 2, 4096));
    }

    #[test]
    fn the_account_of_a_thread_grows_with_its_work() {
        let before = Effort::of_this_thread().unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let effort = Effort::between(before, Effort::of_this_thread().unwrap(), begun.elapsed());
        assert!(effort.ran > Duration::ZERO && effort.busy() + effort.starved() < 1.2, "{effort:?}");
    }
}
