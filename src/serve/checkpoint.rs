//! Checkpoints: the mail file systems are synced, and what the journal kept for them is given back.
//!
//! A sync that fails leaves bytes in memory that the kernel shows to everybody and will never write. So the worker
//! takes no more mail by way of the journal, and everything in the segment is written again, to other blocks of
//! the disk, until a sync succeeds.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::worker::Worker;
use crate::exec::join_all;
use crate::journal::{Closed, Journal};
use crate::limits;
use crate::maildir::{Fault, FileSystem};
use crate::recover::{Fate, Options, recover_segment};

/// Has the worker's journal written and its checkpoints made from now on.
pub fn start(worker: &Rc<Worker>) {
    if let Some(journal) = &worker.journal {
        worker.exec.spawn(Rc::clone(journal).write());
        worker.exec.spawn(keep(Rc::clone(worker), Rc::clone(journal)));
    }
}

/// Makes the checkpoints, for ever.
async fn keep(worker: Rc<Worker>, journal: Rc<Journal>) {
    loop {
        let closed = journal.closed().await;
        match settle(&worker, &closed).await {
            Ok(()) => retire(&worker, &journal, closed).await,
            Err(fault) => start_over(&worker, &journal, closed, fault).await,
        }
    }
}

/// Makes durable what the messages of the segment have become.
async fn settle(worker: &Worker, closed: &Closed) -> Result<(), Fault> {
    let file_systems = closed.touched.iter().map(|touched| FileSystem {
        device: touched.device,
        on: Rc::clone(&touched.on),
        failures: touched.failures,
    });
    let file_systems: Vec<_> = file_systems.collect();
    let settling = file_systems.iter().map(|one| one.settle(&worker.store));
    join_all(settling).await.into_iter().collect()
}

async fn retire(worker: &Worker, journal: &Journal, closed: Closed) {
    let name = closed.name;
    if let Err(fault) = journal.retire(closed).await {
        worker.log.line(format_args!(
            "journal segment {name}: {fault}; it is replaced, and what is in it is safe in the Maildirs"
        ));
    }
}

/// The mail file system has lost something: writes all of it again until it is safe.
async fn start_over(worker: &Worker, journal: &Journal, closed: Closed, fault: Fault) {
    journal.suspend(fault.errno);
    let name = closed.name.to_string();
    worker.log.line(format_args!(
        "journal segment {name}: {fault}: the mail of its last seconds is safe in the journal alone. This worker \
         answers 451 until it could be written again; look at the kernel's log"
    ));
    loop {
        let again = worker.exec.now().after(limits::JOURNAL_RETRY);
        worker.exec.sleep_until(again).await;
        let options = Options { dry_run: false, boot: journal.boot(), progress: &|_| {} };
        let report = recover_segment(&worker.store, journal.directory(), &name, options).await;
        worker.log.line(format_args!("journal segment {report}"));
        match report.fate {
            Fate::Retired => retire(worker, journal, closed).await,
            // Its file is another one's now, or of no use to anybody.
            Fate::Kept { .. } | Fate::SetAside { .. } | Fate::Blank | Fate::Newer { .. } => {
                journal.abandon(&closed);
            }
            Fate::Unsettled(_) | Fate::Left(_) | Fate::Looked => continue,
        }
        journal.resume();
        worker.log.line(format_args!("worker {}: mail is taken again", worker.index()));
        return;
    }
}
