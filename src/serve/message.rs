//! A message on its way in: held in receive buffers while it is small, in its files when it is not.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::rc::Rc;

use rustix::io::Errno;

use super::body::{Body, HeadSize};
use super::copy::{Copy, Outcome, Outcomes, Target};
use super::envelope::Envelope;
use super::worker::Worker;
use crate::exec::{Permit, join_all};
use crate::limits;
use crate::mail::trace::Trace;
use crate::maildir::{Fault, Step};
use crate::ring::{Lease, Peer};

/// One message and the files it is going to, once they are open.
pub struct Message<'w> {
    worker: &'w Worker,
    body: Body,
    copies: Option<Vec<Copy>>,
    /// Leave to have the files of `copies` open.
    permit: Option<Permit<'w>>,
    /// What became of the recipients.
    pub outcomes: Rc<Outcomes>,
    dropped: Option<Dropped>,
}

/// Why nothing more of a message is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    /// It exceeds the limit.
    TooLarge,
    /// There are no files to write it to; every recipient's outcome is known.
    NoFiles,
}

/// Who sends the message, beyond what the envelope knows.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The name given in LHLO.
    pub name: Option<&'a str>,
    /// Where the connection comes from.
    pub peer: Peer,
}

impl<'w> Message<'w> {
    /// An empty message for `recipients` recipients.
    #[must_use]
    pub fn new(worker: &'w Worker, recipients: usize) -> Self {
        Self {
            worker,
            body: Body::new(worker.settings.line_endings),
            copies: None,
            permit: None,
            outcomes: Rc::new(Outcomes::new(recipients)),
            dropped: None,
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
    pub async fn relieve(&mut self, envelope: &Envelope<'_>, client: Client<'_>) {
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
            Some(_) => self.write(envelope, client).await,
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
    async fn write(&mut self, envelope: &Envelope<'_>, client: Client<'_>) {
        let store = &self.worker.store;
        let mut copies = match self.copies.take() {
            Some(copies) => copies,
            None => self.open(envelope, client).await,
        };
        let part = self.body.take();
        join_all(copies.iter_mut().map(|copy| copy.append(store, &part))).await;
        self.copies = Some(copies);
    }

    async fn open(&self, envelope: &Envelope<'_>, client: Client<'_>) -> Vec<Copy> {
        let store = &self.worker.store;
        let targets = targets(envelope);
        if self.shares(envelope) {
            let head = self.head(envelope, client, None);
            return Copy::open_shared(store, &targets, &head, &self.outcomes).await;
        }
        let mut copies = Vec::with_capacity(targets.len());
        for some in targets.chunks(limits::DELIVERIES_AT_ONCE) {
            let opening = some.iter().map(|&target| {
                let recipient = envelope.recipients[target.index].address;
                let head = self.head(envelope, client, Some(recipient));
                Copy::open(store, target, head, &self.outcomes)
            });
            copies.extend(join_all(opening).await.into_iter().flatten());
        }
        copies
    }

    /// Delivers the whole message; every outcome is known afterwards.
    pub async fn deliver(&mut self, envelope: &Envelope<'_>, client: Client<'_>) {
        if self.dropped == Some(Dropped::NoFiles) {
            return;
        }
        self.body.finish();
        if self.copies.is_some() || self.shares(envelope) {
            if self.permit.is_none() {
                self.permit = Some(self.worker.store.admit(targets(envelope).len()).await);
            }
            let approach = self.worker.store.approach();
            self.write(envelope, client).await;
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
        for some in targets(envelope).chunks(limits::DELIVERIES_AT_ONCE) {
            join_all(some.iter().map(|&target| self.deliver_one(envelope, client, target, &part))).await;
        }
    }

    /// The whole recipe for one recipient.
    async fn deliver_one(
        &self,
        envelope: &Envelope<'_>,
        client: Client<'_>,
        target: Target<'_>,
        part: &Rc<Vec<crate::ring::Bytes>>,
    ) {
        let store = &self.worker.store;
        let _permit = store.admit(1).await;
        let approach = store.approach();
        let head = self.head(envelope, client, Some(envelope.recipients[target.index].address));
        let sizes = self.body.sizes(HeadSize::of(&head));
        if let Some(mut copy) = Copy::open(store, target, head, &self.outcomes).await {
            copy.append(store, part).await;
            copy.publish(store, sizes, approach, &self.outcomes).await;
        }
    }

    /// Forgets the message; nothing of it was delivered.
    pub async fn discard(&mut self) {
        self.body.discard();
        for copy in self.copies.take().unwrap_or_default() {
            copy.discard(&self.worker.store).await;
        }
        self.permit = None;
    }

    /// Whether recipients may share a file: the site wants it, and there is somebody to share with.
    fn shares(&self, envelope: &Envelope<'_>) -> bool {
        self.worker.settings.single_instance
            && envelope.recipients.iter().filter(|recipient| recipient.same_as.is_none()).count() > 1
    }

    fn head(&self, envelope: &Envelope<'_>, client: Client<'_>, recipient: Option<&str>) -> Vec<u8> {
        let trace = Trace {
            sender: envelope.sender,
            recipient,
            client: client.name,
            address: match client.peer {
                Peer::Internet(address) => Some(address),
                Peer::Local => None,
            },
            host: &self.worker.settings.hostname,
            protocol: if envelope.smtputf8 { "UTF8LMTP" } else { "LMTP" },
            id: envelope.id,
            date: &self.worker.date(),
            line_end: self.worker.settings.line_endings.text(),
        };
        trace.headers()
    }
}

/// The recipients that get a file: all but those that are the same as one before.
fn targets<'a>(envelope: &Envelope<'a>) -> Vec<Target<'a>> {
    let recipients = envelope.recipients.iter().enumerate();
    recipients
        .filter(|(_, recipient)| recipient.same_as.is_none())
        .map(|(index, recipient)| Target { index, mailbox: recipient.mailbox })
        .collect()
}
