//! Who is about to put a message on record.
//!
//! A sync that covers ten messages costs what one costs that covers two, so a batch waits a little while others are
//! on their way: clients in a transaction, and clients that were just answered and came straight back the last time. One
//! that has been on its way for long may take longer still, and nobody waits for it.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;

use crate::limits;
use crate::ring::Time;

/// Counts who set out in the present span of time, and in the one before.
#[derive(Debug, Default)]
pub(super) struct Approaching {
    span: Cell<u64>,
    present: Cell<usize>,
    previous: Cell<usize>,
}

/// Somebody on the way, until this is dropped.
#[derive(Debug)]
pub struct Approach {
    span: u64,
    of: Rc<Approaching>,
}

impl Approaching {
    /// Somebody sets out.
    pub(super) fn begin(self: &Rc<Self>, now: Time) -> Approach {
        self.roll(now);
        self.present.set(self.present.get() + 1);
        Approach { span: self.span.get(), of: Rc::clone(self) }
    }

    /// Whether somebody is on the way who set out not long ago.
    pub(super) fn is_any(&self, now: Time) -> bool {
        self.roll(now);
        self.present.get() + self.previous.get() > 0
    }

    fn roll(&self, now: Time) {
        let span = now.0 / SPAN_NANOSECONDS;
        match span - self.span.get() {
            0 => return,
            1 => self.previous.set(self.present.get()),
            _ => self.previous.set(0),
        }
        self.present.set(0);
        self.span.set(span);
    }
}

impl Drop for Approach {
    fn drop(&mut self) {
        let count = match self.of.span.get() - self.span {
            0 => &self.of.present,
            1 => &self.of.previous,
            _ => return,
        };
        count.set(count.get() - 1);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a few milliseconds")]
const SPAN_NANOSECONDS: u64 = limits::APPROACH_SPAN.as_nanos() as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(spans: u64) -> Time {
        Time(spans * SPAN_NANOSECONDS + 1)
    }

    #[test]
    fn who_set_out_lately_is_on_the_way_until_they_arrive() {
        let approaching = Rc::new(Approaching::default());
        assert!(!approaching.is_any(at(5)));
        let first = approaching.begin(at(5));
        let second = approaching.begin(at(6));
        assert!(approaching.is_any(at(6)));
        drop(first);
        assert!(approaching.is_any(at(7)));
        drop(second);
        assert!(!approaching.is_any(at(7)));
    }

    #[test]
    fn nobody_waits_for_who_set_out_long_ago() {
        let approaching = Rc::new(Approaching::default());
        let slow = approaching.begin(at(5));
        assert!(approaching.is_any(at(6)));
        assert!(!approaching.is_any(at(7)));
        let other = approaching.begin(at(8));
        drop(slow);
        assert!(approaching.is_any(at(8)));
        drop(other);
        assert!(!approaching.is_any(at(8)));
    }
}
