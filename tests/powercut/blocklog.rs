//! The block log: everything that the disks of one run were told, in the order in which they were told it.
//!
//! It grows only. Its length is the clock of a run: a reply that a client has read when the log had `n` entries was
//! sent before a power cut that keeps `n` or more of them.

use std::sync::{Mutex, PoisonError};

/// Something that a disk was told.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Which disk of the run.
    pub(crate) device: usize,
    pub(crate) event: Event,
}

/// What it was told.
#[derive(Debug)]
pub(crate) enum Event {
    /// To write these bytes.
    Write { offset: u64, bytes: Box<[u8]> },
    /// To forget a range, which reads as zeroes afterwards.
    Zero { offset: u64, length: u64 },
    /// To have all earlier writes on stable storage before it answers.
    Flush,
}

/// The entries of one run, over all its disks.
#[derive(Debug, Default)]
pub(crate) struct BlockLog(Mutex<Vec<Entry>>);

impl BlockLog {
    /// Adds an entry at the end.
    pub(crate) fn push(&self, device: usize, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Entry { device, event });
    }

    /// How many there are: the time.
    pub(crate) fn now(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All of them; the log is empty afterwards.
    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
