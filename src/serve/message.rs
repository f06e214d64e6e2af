//! A message on its way in: held in receive buffers while it is small, in its files when it is not.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use rustix::io::Errno;

use super::body::{Body, HeadSize};
use super::copy::{Copy, Outcome, Outcomes, Target};
use super::envelope::Envelope;
use super::recorded::{Plan, Recorded, record_of};
use super::worker::Worker;
use crate::exec::{Meanwhile, Permit, join_all};
use crate::limits;
use crate::mail::trace::Trace;
use crate::maildir::{Fault, Step, folder};
use crate::ring::{Bytes, Lease, Peer};

/// One message and the files it is going to, once they are open.
pub struct Message<'w> {
    worker: &'w Worker,
    body: Body,
    copies: Option<Vec<Copy>>,
    /// Leave to have the files of `copies` open.
    permit: Option<Permit<'w>>,
    /// Files that are being opened, or are open, before anything is to be written to them.
    early: Option<Meanwhile<'w, Early<'w>>>,
    /// What became of the deliveries.
    pub outcomes: Rc<Outcomes>,
    dropped: Option<Dropped>,
}

/// Files opened while their message was still arriving: two steps less between its last byte and its sync.
pub(super) struct Early<'w> {
    copies: RefCell<Vec<Copy>>,
    /// Leave to have them open.
    _permit: Permit<'w>,
}

/// Why nothing more of a message is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    /// It exceeds the limit.
    TooLarge,
    /// There are no files to write it to; every recipient's outcome is known.
    NoFiles,
}

impl<'w> Message<'w> {
    /// An empty message for `deliveries` mailboxes.
    #[must_use]
    pub fn new(worker: &'w Worker, deliveries: usize) -> Self {
        Self {
            worker,
            body: Body::new(worker.settings.line_endings),
            copies: None,
            permit: None,
            early: None,
            outcomes: Rc::new(Outcomes::new(deliveries)),
            dropped: None,
        }
    }

    /// Begins to open the files of a message whose bytes are about to come. They go on being opened
    /// [`during`](Self::during) the wait for these.
    pub fn open_early(&mut self, envelope: &'w Envelope<'_>) {
        let worker = self.worker;
        let targets = targets(envelope);
        if targets.len() > limits::EARLY_FILES || self.shares(envelope) {
            return;
        }
        let Some(permit) = worker.store.admit_early(targets.len()) else { return };
        self.early = Some(Meanwhile::new(async move {
            let opening = targets.iter().map(|&target| {
                let head = head(worker, envelope, Some(envelope.deliveries[target.index].address));
                Copy::open_early(&worker.store, target, head)
            });
            let copies = join_all(opening).await.into_iter().flatten().collect();
            Early { copies: RefCell::new(copies), _permit: permit }
        }));
    }

    /// Awaits `next`, and goes on with what was begun early.
    pub async fn during<T>(&mut self, next: impl Future<Output = T>) -> T {
        match &mut self.early {
            Some(early) => early.during(next).await,
            None => next.await,
        }
    }

    /// Adds the ranges `keep` of `lease`, after `carry`.
    pub fn push(&mut self, lease: &mut Rc<Lease>, carry: &'static [u8], keep: &mut Vec<Range<usize>>) {
        if self.dropped.is_some() {
            return;
        }
        self.body.push(lease, carry, keep);
        if self.body.received() > self.worker.settings.message_bytes_max {
            self.dropped = Some(Dropped::TooLarge);
            self.body.discard();
        }
    }

    /// Whether the message exceeded the limit; nothing of it is kept then.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.dropped == Some(Dropped::TooLarge)
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.body.received()
    }

    /// Keeps memory bounded: writes what is held to the files when it is more than this message's share.
    pub async fn relieve(&mut self, envelope: &Envelope<'_>) {
        if self.dropped.is_some() {
            self.discard().await;
            return;
        }
        let pool = self.worker.exec.pool();
        let share = usize::from(pool.free()) / limits::FREE_SHARE * pool.buffer_bytes();
        if self.body.held() <= share.min(self.worker.settings.stream_above) {
            return;
        }
        if self.permit.is_none() {
            self.permit = self.worker.store.admit_arriving(targets(envelope).len());
        }
        match self.permit {
            Some(_) => self.write(envelope).await,
            None => self.give_up(envelope),
        }
    }

    /// Too many messages that are still arriving have files open; this one shall come again.
    fn give_up(&mut self, envelope: &Envelope<'_>) {
        self.dropped = Some(Dropped::NoFiles);
        self.body.discard();
        for target in targets(envelope) {
            let fault = Fault { step: Step::Create, errno: Errno::MFILE };
            self.outcomes.set(target.index, Outcome::Failed(fault));
        }
    }

    /// Writes what is held to every file, opening them first where that is still to do.
    async fn write(&mut self, envelope: &Envelope<'_>) {
        // A message that is written while it arrives lasts; its files are counted in another way.
        self.early = None;
        let store = &self.worker.store;
        let mut copies = match self.copies.take() {
            Some(copies) => copies,
            None => self.open(envelope).await,
        };
        let part = self.body.take();
        join_all(copies.iter_mut().map(|copy| copy.append(store, &part))).await;
        self.copies = Some(copies);
    }

    async fn open(&self, envelope: &Envelope<'_>) -> Vec<Copy> {
        let store = &self.worker.store;
        let targets = targets(envelope);
        if self.shares(envelope) {
            let head = head(self.worker, envelope, None);
            return Copy::open_shared(store, &targets, &head, &self.outcomes).await;
        }
        let mut copies = Vec::with_capacity(targets.len());
        for some in targets.chunks(limits::DELIVERIES_AT_ONCE) {
            let opening = some.iter().map(|&target| {
                let recipient = envelope.deliveries[target.index].address;
                let head = head(self.worker, envelope, Some(recipient));
                Copy::open(store, target, head, &self.outcomes)
            });
            copies.extend(join_all(opening).await.into_iter().flatten());
        }
        copies
    }

    /// Delivers the whole message; every outcome is known afterwards.
    pub async fn deliver(&mut self, envelope: &Envelope<'_>) {
        if self.dropped == Some(Dropped::NoFiles) {
            return;
        }
        self.body.finish();
        if self.deliver_recorded(envelope).await {
            return;
        }
        if self.copies.is_some() || self.shares(envelope) {
            if self.permit.is_none() {
                self.permit = Some(self.worker.store.admit(targets(envelope).len()).await);
            }
            let approach = self.worker.store.approach();
            self.write(envelope).await;
            drop(approach);
            let copies = self.copies.take().unwrap_or_default();
            let (store, body, outcomes) = (&self.worker.store, &self.body, &self.outcomes);
            join_all(copies.into_iter().map(|copy| {
                let sizes = body.sizes(copy.head_size());
                copy.publish(store, sizes, None, outcomes)
            }))
            .await;
            self.permit = None;
            return;
        }
        let part = self.body.take();
        let early = match self.early.take() {
            Some(early) => Some(early.finish().await),
            None => None,
        };
        for some in targets(envelope).chunks(limits::DELIVERIES_AT_ONCE) {
            join_all(some.iter().map(|&target| self.deliver_one(envelope, target, &part, early.as_ref())))
                .await;
        }
    }

    /// Delivers by way of the journal; false if that is not possible for this message.
    async fn deliver_recorded(&mut self, envelope: &Envelope<'_>) -> bool {
        let Some(journal) = &self.worker.journal else { return false };
        if self.copies.is_some() || self.body.stored() > self.worker.settings.journal_message_max {
            return false;
        }
        let shares = self.shares(envelope);
        if let Some(early) = &mut self.early {
            early.ready().await;
        }
        let early = self.early.as_ref().and_then(Meanwhile::result);
        let plans: Vec<_> = targets(envelope)
            .into_iter()
            .map(|target| {
                let recipient = (!shares).then(|| envelope.deliveries[target.index].address);
                let begun = early.and_then(|early| early.head(target.index));
                let (head, head_size) = begun.unwrap_or_else(|| {
                    let head = head(self.worker, envelope, recipient);
                    let size = HeadSize::of(&head);
                    (head, size)
                });
                let sizes = self.body.sizes(head_size);
                let path = folder::together(target.mailbox.path, target.mailbox.folder);
                Plan { target, head, sizes, name: self.worker.store.name(sizes), path }
            })
            .collect();
        let Some(record) = record_of(journal, &plans, self.body.stored(), self.body.checksum()) else {
            return false;
        };
        let recorded = Recorded {
            store: &self.worker.store,
            journal,
            outcomes: &self.outcomes,
            plans: &plans,
            part: self.body.take(),
            approach: &envelope.approach,
        };
        if shares {
            recorded.deliver_shared(record).await;
        } else {
            recorded.deliver_each(record, early).await;
        }
        true
    }

    /// The whole recipe for one recipient.
    async fn deliver_one(
        &self,
        envelope: &Envelope<'_>,
        target: Target<'_>,
        part: &Rc<Vec<Bytes>>,
        early: Option<&Early<'_>>,
    ) {
        let store = &self.worker.store;
        let (copy, _permit, approach);
        match early.and_then(|early| early.take(target.index)) {
            Some(open) => {
                (_permit, approach) = (None, store.approach());
                copy = Some(open);
            }
            None => {
                _permit = Some(store.admit(1).await);
                approach = store.approach();
                let head = head(self.worker, envelope, Some(envelope.deliveries[target.index].address));
                copy = Copy::open(store, target, head, &self.outcomes).await;
            }
        }
        let Some(mut copy) = copy else { return };
        let sizes = self.body.sizes(copy.head_size());
        copy.append(store, part).await;
        copy.publish(store, sizes, approach, &self.outcomes).await;
    }

    /// Forgets the message; nothing of it was delivered.
    pub async fn discard(&mut self) {
        self.early = None;
        self.body.discard();
        for copy in self.copies.take().unwrap_or_default() {
            copy.discard(&self.worker.store).await;
        }
        self.permit = None;
    }

    /// Whether recipients may share a file: the site wants it, and there is somebody to share with.
    fn shares(&self, envelope: &Envelope<'_>) -> bool {
        self.worker.settings.single_instance && envelope.deliveries.len() > 1
    }
}

impl Early<'_> {
    /// The trace headers of the file of recipient `index`, if there is one, and what they add to its size.
    fn head(&self, index: usize) -> Option<(Vec<u8>, HeadSize)> {
        let copies = self.copies.borrow();
        copies.iter().find(|copy| copy.is_for(index)).map(|copy| (copy.head().to_vec(), copy.head_size()))
    }

    /// The file of recipient `index`, if there is one.
    pub(super) fn take(&self, index: usize) -> Option<Copy> {
        let mut copies = self.copies.borrow_mut();
        let at = copies.iter().position(|copy| copy.is_for(index))?;
        Some(copies.swap_remove(at))
    }
}

/// The trace headers of a file for `recipient`, or for several.
fn head(worker: &Worker, envelope: &Envelope<'_>, recipient: Option<&str>) -> Vec<u8> {
    let trace = Trace {
        sender: envelope.sender,
        recipient,
        client: envelope.client.name,
        address: match envelope.client.peer {
            Peer::Internet(address) => Some(address),
            Peer::Local => None,
        },
        host: &worker.settings.hostname,
        protocol: if envelope.smtputf8 { "UTF8LMTP" } else { "LMTP" },
        id: envelope.id,
        date: &worker.date(),
        line_end: worker.settings.line_endings.text(),
    };
    trace.headers()
}

/// The mailboxes that get a file.
fn targets<'a>(envelope: &Envelope<'a>) -> Vec<Target<'a>> {
    let deliveries = envelope.deliveries.iter().enumerate();
    deliveries.map(|(index, delivery)| Target { index, mailbox: delivery.mailbox }).collect()
}
