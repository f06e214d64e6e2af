//! Delivery by way of the journal: the files are written while the message goes on record, and named when it is.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

use rustix::io::Errno;

use super::copy::{Copy, Outcome, Outcomes, Target};
use super::message::Early;
use crate::exec::{Permit, join_all, join_two};
use crate::journal::{Approach, Entry, Journal, Recipient, RecordHead, Refused};
use crate::limits;
use crate::maildir::{Fault, Sizes, Step, Store};
use crate::ring::Bytes;

/// What becomes of one recipient.
pub(super) struct Plan<'m> {
    pub(super) target: Target<'m>,
    /// The trace headers of the file.
    pub(super) head: Vec<u8>,
    /// Of the whole file.
    pub(super) sizes: Sizes,
    /// Its name in `new/`.
    pub(super) name: String,
    /// The path of the mailbox, as the journal has it.
    pub(super) path: Cow<'m, str>,
}

/// A message that goes on record.
pub(super) struct Recorded<'m> {
    pub(super) store: &'m Store,
    pub(super) journal: &'m Rc<Journal>,
    pub(super) outcomes: &'m Outcomes,
    /// The recipients, by index.
    pub(super) plans: &'m [Plan<'m>],
    /// What their files end with.
    pub(super) part: Rc<Vec<Bytes>>,
    /// Ends when the message is in line.
    pub(super) approach: &'m Cell<Option<Approach>>,
}

/// Files that have their bytes and no names.
struct Written<'m> {
    copies: Vec<Copy>,
    /// Leave to have them open.
    _permit: Option<Permit<'m>>,
}

/// The record of a message for `plans`; nothing if there cannot be one, or none in this journal.
pub(super) fn record_of(
    journal: &Journal,
    plans: &[Plan<'_>],
    payload_bytes: u64,
    payload_checksum: u32,
) -> Option<RecordHead> {
    let recipients = plans.iter().map(|plan| Recipient {
        owner: plan.target.mailbox.owner,
        home: plan.target.mailbox.home,
        path: &plan.path,
        name: &plan.name,
        trace: &plan.head,
    });
    let record = RecordHead::new(recipients, payload_bytes, payload_checksum).ok()?;
    journal.takes(record.record_bytes()).then_some(record)
}

impl<'m> Recorded<'m> {
    /// Delivers a file to each recipient; every outcome is known afterwards.
    pub(super) async fn deliver_each(&self, record: RecordHead, early: Option<&Early<'_>>) {
        let (first, later) = self.plans.split_at(self.plans.len().min(limits::DELIVERIES_AT_ONCE));
        let recording = self.journal.append(record, Rc::clone(&self.part), self.approach.take());
        let (recorded, written) = join_two(recording, self.write_each(first, early)).await;
        let entry = match recorded {
            Ok(entry) => entry,
            Err(refused) => {
                self.refuse(refused, written).await;
                let fault = fault_of(refused);
                for plan in later {
                    self.outcomes.set(plan.target.index, Outcome::Failed(fault));
                }
                return;
            }
        };
        self.name(written, &entry).await;
        for some in later.chunks(limits::DELIVERIES_AT_ONCE) {
            let written = self.write_each(some, None).await;
            self.name(written, &entry).await;
        }
    }

    /// Delivers one file to all recipients of an owner and a file system; every outcome is known afterwards. The
    /// trace headers of all plans are the same.
    pub(super) async fn deliver_shared(&self, record: RecordHead) {
        let recording = self.journal.append(record, Rc::clone(&self.part), self.approach.take());
        match join_two(recording, self.write_shared()).await {
            (Ok(entry), written) => self.name(written, &entry).await,
            (Err(refused), written) => self.refuse(refused, written).await,
        }
    }

    async fn write_each(&self, plans: &[Plan<'_>], early: Option<&Early<'_>>) -> Written<'m> {
        let mut open = Vec::with_capacity(plans.len());
        let mut closed = Vec::new();
        for plan in plans {
            match early.and_then(|early| early.take(plan.target.index)) {
                Some(copy) => open.push(copy),
                None => closed.push(plan),
            }
        }
        let permit = if closed.is_empty() { None } else { Some(self.store.admit(closed.len()).await) };
        let rest =
            closed.iter().map(|plan| Copy::open(self.store, plan.target, plan.head.clone(), self.outcomes));
        open.extend(join_all(rest).await.into_iter().flatten());
        join_all(open.iter_mut().map(|copy| copy.append(self.store, &self.part))).await;
        Written { copies: open, _permit: permit }
    }

    async fn write_shared(&self) -> Written<'m> {
        let permit = self.store.admit(self.plans.len()).await;
        let targets: Vec<_> = self.plans.iter().map(|plan| plan.target).collect();
        let head = self.plans.first().map_or(&[][..], |plan| &plan.head);
        let mut copies = Copy::open_shared(self.store, &targets, head, self.outcomes).await;
        join_all(copies.iter_mut().map(|copy| copy.append(self.store, &self.part))).await;
        Written { copies, _permit: Some(permit) }
    }

    async fn name(&self, written: Written<'_>, entry: &Entry) {
        join_all(
            written.copies.into_iter().map(|copy| {
                copy.publish_recorded(self.store, entry, |index| self.plan(index), self.outcomes)
            }),
        )
        .await;
    }

    async fn refuse(&self, refused: Refused, written: Written<'_>) {
        for copy in written.copies {
            copy.fail(self.store, fault_of(refused), self.outcomes).await;
        }
    }

    fn plan(&self, index: usize) -> (&str, Sizes) {
        let at = self.plans.binary_search_by_key(&index, |plan| plan.target.index);
        let plan = &self.plans[at.expect("a file is for recipients of the message")];
        (&plan.name, plan.sizes)
    }
}

fn fault_of(refused: Refused) -> Fault {
    match refused {
        Refused::Write(errno) => Fault { step: Step::Record, errno },
        Refused::Full => Fault { step: Step::Record, errno: Errno::TIME },
        Refused::Unsettled(errno) => Fault { step: Step::Checkpoint, errno },
    }
}
