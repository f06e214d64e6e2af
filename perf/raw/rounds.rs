//! One call for many: whoever asks while a call is under way shares the next one.
//!
//! Owns the order of calls. Promises that a request is answered by a call that began after it.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Condvar, Mutex};

use rustix::io::Errno;

/// A call that makes durable what all who ask for it have written before.
type Call<'a> = Box<dyn Fn() -> Result<(), Errno> + Send + Sync + 'a>;

/// The rounds of one call.
pub(crate) struct Rounds<'a> {
    call: Call<'a>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    started: u64,
    finished: u64,
    failure: Option<Errno>,
}

impl fmt::Debug for Rounds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rounds").field("state", &self.state).finish_non_exhaustive()
    }
}

impl<'a> Rounds<'a> {
    /// Rounds of `call`, which is made by one thread at a time.
    pub(crate) fn new(call: impl Fn() -> Result<(), Errno> + Send + Sync + 'a) -> Self {
        Self { call: Box::new(call), state: Mutex::default(), changed: Condvar::new() }
    }

    /// Returns when all that was written before is durable.
    ///
    /// # Errors
    /// A round failed; all that ask afterwards hear it too.
    pub(crate) fn join(&self) -> Result<(), Errno> {
        let mut state = self.state.lock().expect("nobody panics with it");
        let wanted = state.started + 1;
        while state.finished < wanted {
            if state.started > state.finished {
                state = self.changed.wait(state).expect("nobody panics with it");
                continue;
            }
            state.started += 1;
            drop(state);
            let outcome = (self.call)();
            state = self.state.lock().expect("nobody panics with it");
            state.finished = state.started;
            state.failure = state.failure.or_else(|| outcome.err());
            self.changed.notify_all();
        }
        state.failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_is_told_to_all_who_come_later() {
        let rounds = Rounds::new(|| Err(Errno::IO));
        assert_eq!((rounds.join(), rounds.join()), (Err(Errno::IO), Err(Errno::IO)));
    }

    #[test]
    fn many_threads_share_rounds_and_all_are_answered() {
        let rounds = Rounds::new(|| Ok(()));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5).for_each(|_| rounds.join().expect("a sync")));
            }
        });
        let state = rounds.state.lock().expect("nobody panicked");
        assert!(state.started == state.finished && state.started <= 40, "{state:?}");
    }
}
