//! What is shown while it runs: a bar with rate, errors and p99 on standard error, if that is a terminal.
//!
//! Owns the bar. Never writes a result.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::measure::Point;
use crate::plan::{Limit, Plan};
use crate::target::Target;

/// A bar for the rounds.
pub(crate) struct Progress {
    bar: ProgressBar,
    limit: Limit,
    rounds: u32,
    errors: Cell<u64>,
    done: Cell<u64>,
}

impl Progress {
    /// A bar that is drawn where standard error is a terminal, and nowhere else.
    pub(crate) fn new(plan: &Plan) -> Self {
        let length = match plan.limit {
            Limit::Messages(count) => count,
            Limit::Duration(duration) => milliseconds(duration),
        };
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(5));
        bar.set_style(
            ProgressStyle::with_template("{prefix} {bar:30} {percent:>3}% {msg}").expect("a good template"),
        );
        Self { bar, limit: plan.limit, rounds: plan.rounds, errors: Cell::new(0), done: Cell::new(0) }
    }

    /// A round begins.
    pub(crate) fn round(&self, number: u32, target: &Target) {
        let round =
            if self.rounds > 1 { format!("round {number} of {}, ", self.rounds) } else { String::new() };
        self.bar.set_prefix(format!("{round}{target}"));
        self.bar.set_position(0);
        self.done.set(0);
        self.bar.set_message("connecting");
    }

    /// Some time has gone by.
    pub(crate) fn interval(&self, point: &Point, warm_up: Duration, elapsed: Duration) {
        self.errors.set(self.errors.get() + point.errors);
        if elapsed <= warm_up {
            self.bar.set_message("warming up");
            return;
        }
        self.done.set(self.done.get() + point.messages);
        let position = match self.limit {
            Limit::Messages(_) => self.done.get(),
            Limit::Duration(_) => milliseconds(elapsed - warm_up),
        };
        self.bar.set_position(position.min(self.bar.length().unwrap_or(position)));
        let rate = point.messages as f64 / point.seconds.max(1e-3);
        let p99 =
            point.p99.map_or_else(|| "-".to_owned(), |p99| format!("{:.2} ms", p99.as_secs_f64() * 1e3));
        self.bar.set_message(format!("{rate:.0}/s  errors {}  p99 {p99}", self.errors.get()));
    }

    /// The rounds are over, and the mailboxes are read.
    pub(crate) fn verifying(&self, files: u64) {
        self.bar.set_prefix("verifying");
        self.bar.set_message(format!("{files} files read"));
    }

    /// Nothing more to show.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
