//! What a run is to do, complete and consistent.
//!
//! Owns the settings that the threads work by, made of the arguments. Never reads anything.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::schedule::Arrivals;
use crate::session::Pipeline;

/// When a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// After so many measured messages.
    Messages(u64),
    /// After so long, the warm-up not counted.
    Duration(Duration),
}

/// When a message is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// As soon as a connection is free: a closed loop.
    FlatOut,
    /// When it is due, whatever the server does: an open loop.
    Open {
        /// Messages a second.
        rate: f64,
        /// How the gaps are spread.
        arrivals: Arrivals,
    },
}

/// How every round is done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Connections to each target, over all threads.
    pub(crate) connections: usize,
    /// Threads; no more than connections.
    pub(crate) threads: usize,
    /// When a round ends.
    pub(crate) limit: Limit,
    /// When a message is sent.
    pub(crate) pace: Pace,
    /// How many commands go out at once.
    pub(crate) pipeline: Pipeline,
    /// What comes before the measurement, in every round.
    pub(crate) warm_up: Duration,
    /// Rounds for each target.
    pub(crate) rounds: u32,
    /// How long a reply may take.
    pub(crate) timeout: Duration,
    /// How long the end of a round waits for what has begun or is due.
    pub(crate) drain: Duration,
    /// How often a connection is tried again.
    pub(crate) retries: u32,
    /// Whether it matters afterwards who acknowledged what.
    pub(crate) remembers: bool,
    /// Whether the generator is meant to be the limit.
    pub(crate) calibrates: bool,
    /// How late the generator may be for one message in a hundred.
    pub(crate) lateness_max: Duration,
    /// The CPUs of the threads in turn; none in particular if empty.
    pub(crate) cpus: Vec<usize>,
}

impl Plan {
    /// The connections of a thread.
    pub(crate) fn connections_of(&self, thread: usize) -> usize {
        self.connections / self.threads + usize::from(thread < self.connections % self.threads)
    }

    /// The measured messages of a thread in an open loop that counts them.
    pub(crate) fn messages_of(&self, thread: usize) -> u64 {
        let (thread, threads) = (thread as u64, self.threads as u64);
        match self.limit {
            Limit::Messages(count) => count / threads + u64::from(thread < count % threads),
            Limit::Duration(_) => u64::MAX,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan() -> Plan {
        Plan {
            connections: 10,
            threads: 3,
            limit: Limit::Messages(100),
            pace: Pace::FlatOut,
            pipeline: Pipeline::Postfix,
            warm_up: Duration::ZERO,
            rounds: 1,
            timeout: Duration::from_secs(1),
            drain: Duration::from_secs(1),
            retries: 1,
            remembers: false,
            calibrates: false,
            lateness_max: Duration::from_millis(10),
            cpus: Vec::new(),
        }
    }

    #[test]
    fn threads_share_connections_and_messages_without_a_rest() {
        let plan = plan();
        assert_eq!([0, 1, 2].map(|thread| plan.connections_of(thread)), [4, 3, 3]);
        assert_eq!([0, 1, 2].map(|thread| plan.messages_of(thread)), [34, 33, 33]);
    }
}
