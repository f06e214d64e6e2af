//! When messages are due in an open loop.
//!
//! Owns the arrivals of a thread: evenly spaced, or a Poisson process. They depend on the rate and on nothing else, least
//! of all on the server: that is what makes a stall visible. Never waits.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::random::Random;

/// How the gaps between messages are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrivals {
    /// All alike
    Constant,
    /// As of many senders who know nothing of each other: exponential gaps
    Poisson,
}

/// The due times of one thread's share, from the start of the run on, rising, without end.
#[derive(Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    gap_seconds: f64,
    first_seconds: f64,
    count: u64,
    at_seconds: f64,
    random: Random,
}

impl Schedule {
    /// The share of thread number `thread` of `threads` in `rate` messages a second.
    pub(crate) fn new(rate: f64, arrivals: Arrivals, thread: usize, threads: usize, seed: u64) -> Self {
        Self {
            arrivals,
            gap_seconds: threads as f64 / rate,
            // Threads take turns, so that together they are as even as one.
            first_seconds: thread as f64 / rate,
            count: 0,
            at_seconds: 0.0,
            random: Random::new(seed, thread as u64),
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at_seconds = match self.arrivals {
            // Not by adding up, which would add up the error.
            Arrivals::Constant => self.first_seconds + self.count as f64 * self.gap_seconds,
            Arrivals::Poisson => self.at_seconds + self.gap_seconds * self.random.exponential(),
        };
        self.count += 1;
        Some(Duration::from_secs_f64(self.at_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_of_all_threads_together_are_evenly_spaced() {
        let mut all: Vec<Duration> = (0..3)
            .flat_map(|thread| Schedule::new(1000.0, Arrivals::Constant, thread, 3, 1).take(100))
            .collect();
        all.sort();
        for (number, at) in all.iter().enumerate() {
            let expected = number as f64 / 1000.0;
            assert!((at.as_secs_f64() - expected).abs() < 1e-6, "{number}: {at:?}");
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_their_law() {
        let at: Vec<f64> = Schedule::new(500.0, Arrivals::Poisson, 0, 1, 9)
            .take(50_000)
            .map(|at| at.as_secs_f64())
            .collect();
        let gaps: Vec<f64> = at.windows(2).map(|two| two[1] - two[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 500.0 - 1.0).abs() < 0.03, "{mean}");
        // The deviation of exponential gaps is their mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{variance}");
    }
}
