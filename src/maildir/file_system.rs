//! A mail file system that many files are written to before one sync makes them all durable.
#![forbid(unsafe_code)]

use std::rc::Rc;

use rustix::io::Errno;

use super::{Fault, Place, Step, Store};
use crate::ring::{Fd, Op};

/// A file system, and how many of its syncs had failed when this was made: before the first byte was written
/// that it is to vouch for.
#[derive(Clone, Debug)]
pub struct FileSystem {
    /// `st_dev`.
    pub device: u64,
    /// Something open on it.
    pub on: Rc<Fd>,
    /// How many of its syncs had failed before.
    pub failures: u64,
}

impl FileSystem {
    /// The one that `place` lies on.
    ///
    /// # Errors
    /// The step that failed: without a count of failures no sync would mean anything.
    pub fn of(store: &Store, place: &Place) -> Result<Self, Fault> {
        let asked = store.exec.with_ring(|ring| {
            let device = ring.device(&place.new)?;
            Ok((device, ring.sync_failures(&place.new)?))
        });
        let (device, failures) = asked.map_err(|errno| Fault { step: Step::SyncRound, errno })?;
        Ok(Self { device, on: Rc::clone(&place.new), failures })
    }

    /// Makes durable all that was written since this was made.
    ///
    /// # Errors
    /// The sync failed, or one before it did: then what was written may never reach the disk, whatever later
    /// syncs say, unless it is written again.
    pub async fn settle(&self, store: &Store) -> Result<(), Fault> {
        store.step(Step::SyncRound, Op::SyncFs { on: Rc::clone(&self.on) }).await?;
        let failures = store.exec.with_ring(|ring| ring.sync_failures(&self.on));
        match failures {
            Ok(failures) if failures == self.failures => Ok(()),
            Ok(_) => Err(Fault { step: Step::SyncRound, errno: Errno::IO }),
            Err(errno) => Err(Fault { step: Step::SyncRound, errno }),
        }
    }
}
