//! Long work in short steps, on a thread whose work can wait.
//!
//! Owns the rests between the steps. Promises that a thread that has said [`gently`] is never on its CPU for much
//! longer than [`STEP`] between two calls of [`breathe`], and takes at most a quarter of it. Priorities do not
//! give that: the kernel lets a thread of low priority finish its slice of milliseconds before one that wakes
//! up, unless it is SCHED_IDLE, and such a thread comes to nothing while others keep the CPUs busy.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// When the present step began; none on a thread that works as fast as it can.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From now on this thread rests when it [breathes](breathe).
pub fn gently() {
    BEGAN.set(Some(Instant::now()));
}

/// A good place for a rest, between steps of at most some ten microseconds. Does nothing on a thread that is in a
/// hurry, as all are that have not called [`gently`].
pub fn breathe() {
    let Some(began) = BEGAN.get() else { return };
    let worked = began.elapsed();
    if worked >= STEP {
        std::thread::sleep((worked * RESTS).min(REST_MAX));
        BEGAN.set(Some(Instant::now()));
    }
}

/// What a thread that has time does at once.
pub const STEP: Duration = Duration::from_micros(50);

/// So many times as long as it has worked it rests.
const RESTS: u32 = 3;

/// Who was kept from the CPU himself did not work all that time.
const REST_MAX: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Time on the CPU is what the kernel says, so a busy machine changes nothing.
    #[test]
    fn only_a_thread_that_has_time_rests() {
        let rests = |gentle: bool| {
            let thread = std::thread::spawn(move || {
                if gentle {
                    gently();
                }
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(20) {
                    breathe();
                }
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
                line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
            });
            thread.join().unwrap()
        };
        let (gentle, hurried) = (rests(true), rests(false));
        assert!(gentle >= 10 && hurried < 10, "{gentle} and {hurried}");
    }
}
