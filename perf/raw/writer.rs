//! One thread: takes messages, makes their files, and syncs as the mode asks.
//!
//! Owns the order of the steps, which is Posthaste's: no name before its bytes.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use posthaste::limits;
use posthaste::maildir::{NameMaker, Sizes as NameSizes};
use posthaste::ring::uring::{LinkBy, Setup, Uring};
use posthaste::ring::{Op, Ring as _, SyncThreads, Token};
use rustix::io::Errno;

use crate::message::{self, HOST};
use crate::{Mode, Plan, files};

/// What one thread has.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    plan: &'a Plan<'a>,
    names: NameMaker,
    text: Vec<u8>,
    files: u64,
    bytes: u64,
}

/// A file that is written and has no name yet, and where it gets its names.
#[derive(Debug)]
struct Draft {
    file: File,
    length: u64,
    mailboxes: std::ops::Range<usize>,
    number: u64,
    head: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// The writer of thread `number`.
    pub(crate) fn new(plan: &'a Plan<'a>, number: usize) -> Self {
        let names = NameMaker::new(HOST, std::process::id(), number, 0);
        Self { plan, names, text: message::text(plan.sizes.largest()), files: 0, bytes: 0 }
    }

    /// Files with a name so far.
    pub(crate) fn files(&self) -> u64 {
        self.files
    }

    /// Bytes of files so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Does messages until all are taken.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        let mut write_out = match self.plan.arguments.mode {
            Mode::Group => Some(WriteOut::new()?),
            _ => None,
        };
        loop {
            let batch = self.plan.take();
            if batch.is_empty() {
                return Ok(());
            }
            let done = match self.plan.arguments.mode {
                Mode::Journal => self.record(batch),
                Mode::Group => self.in_a_round(batch, write_out.as_mut().expect("made for this mode")),
                Mode::Fsync => batch.into_iter().try_for_each(|number| self.sync_each(number)),
                Mode::None => batch.into_iter().try_for_each(|number| {
                    let drafts = self.drafts(number)?;
                    drafts.iter().try_for_each(|draft| self.publish(draft))
                }),
            };
            done.map_err(|error| format!("a file in {}: {error}", self.plan.arguments.dir.display()))?;
        }
    }

    /// `none` up to the name: the files of a message, written.
    fn drafts(&mut self, number: u64) -> std::io::Result<Vec<Draft>> {
        let recipients = self.plan.arguments.recipients;
        let step = if self.plan.arguments.shared { recipients } else { 1 };
        (0..recipients).step_by(step).map(|first| self.draft(number, first..first + step)).collect()
    }

    fn draft(&mut self, number: u64, mailboxes: std::ops::Range<usize>) -> std::io::Result<Draft> {
        let mailbox = self.mailbox(number, mailboxes.start);
        let head = self.head(number, mailbox);
        let body = &self.text[..self.plan.sizes.of(number)];
        let mut file = self.plan.mailboxes.create(mailbox)?;
        files::write(&mut file, &head, body)?;
        let length = u64::try_from(head.len() + body.len()).expect("a length");
        self.bytes += length;
        Ok(Draft { file, length, mailboxes, number, head })
    }

    fn mailbox(&self, number: u64, place: usize) -> usize {
        self.plan.mailboxes.choose(number, place, self.plan.arguments.recipients)
    }

    fn head(&self, number: u64, mailbox: usize) -> Vec<u8> {
        message::head(number, (!self.plan.arguments.shared).then_some(mailbox))
    }

    /// Gives a draft its names.
    fn publish(&mut self, draft: &Draft) -> std::io::Result<()> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        for place in draft.mailboxes.clone() {
            let mailbox = self.mailbox(draft.number, place);
            let sizes = NameSizes { stored: draft.length, wire: draft.length };
            self.plan.mailboxes.link(&draft.file, mailbox, &self.names.with_sizes(wall, sizes))?;
            self.files += 1;
        }
        Ok(())
    }

    /// `fsync`: bytes, name, directory.
    fn sync_each(&mut self, number: u64) -> std::io::Result<()> {
        for draft in self.drafts(number)? {
            draft.file.sync_all()?;
            self.publish(&draft)?;
            for place in draft.mailboxes.clone() {
                rustix::fs::fsync(self.plan.mailboxes.directory(self.mailbox(number, place)))?;
            }
        }
        Ok(())
    }

    /// `group`: bytes written out, names, one syncfs for all.
    fn in_a_round(&mut self, batch: std::ops::Range<u64>, write_out: &mut WriteOut) -> std::io::Result<()> {
        let mut drafts = Vec::new();
        for number in batch {
            drafts.extend(self.drafts(number)?);
        }
        write_out.all(&drafts)?;
        for draft in &drafts {
            self.publish(draft)?;
        }
        drop(drafts);
        Ok(self.plan.rounds.join()?)
    }

    /// `journal`: files written and not synced, the batch on record, then the names. What is too large for the journal
    /// goes the way of `fsync`.
    fn record(&mut self, batch: std::ops::Range<u64>) -> std::io::Result<()> {
        let mut drafts = Vec::new();
        for number in batch {
            if self.plan.sizes.of(number) > self.plan.arguments.journal_message_max {
                self.sync_each(number)?;
            } else {
                drafts.extend(self.drafts(number)?);
            }
        }
        let journal = self.plan.journal.as_ref().expect("made for this mode");
        for of in drafts.chunk_by(|one, next| one.number == next.number) {
            journal.put(&heads(of), self.payload(of[0].number));
        }
        self.plan.rounds.join()?;
        drafts.iter().try_for_each(|draft| self.publish(draft))
    }

    fn payload(&self, number: u64) -> &[u8] {
        &self.text[..self.plan.sizes.of(number)]
    }
}

/// The trace headers of one message's record: those of each recipient, even where the files are one.
fn heads(drafts: &[Draft]) -> Vec<&[u8]> {
    drafts.iter().flat_map(|draft| draft.mailboxes.clone().map(|_| draft.head.as_slice())).collect()
}

/// sync_file_range(2) for many files. The library's ring has it, and rustix has not.
struct WriteOut {
    ring: Uring,
}

impl WriteOut {
    fn new() -> Result<Self, String> {
        let setup = Setup {
            buffers_bytes: usize::from(limits::BUFFERS_MIN) * limits::BUFFER_BYTES,
            file_workers: limits::FILE_WORKERS,
            file_cpu: None,
            link_by: LinkBy::Descriptor,
            sync_threads: SyncThreads::on(&posthaste::sys::cpu::allowed()),
        };
        Uring::new(&setup).map(|ring| Self { ring }).map_err(|error| error.to_string())
    }

    /// Returns when the bytes of all have gone to the device.
    fn all(&mut self, drafts: &[Draft]) -> std::io::Result<()> {
        for (index, draft) in (0..).zip(drafts) {
            let copy: OwnedFd = draft.file.as_fd().try_clone_to_owned()?;
            let file = self.ring.adopt(copy);
            self.ring.push(Token { index, generation: 0 }, Op::WriteOut { file });
        }
        let (mut pending, mut done) = (drafts.len(), Vec::new());
        let mut failure: Option<Errno> = None;
        while pending > 0 {
            self.ring.turn(None, &mut done)?;
            for completion in done.drain(..) {
                failure = failure.or_else(|| completion.result.err());
                pending -= 1;
            }
        }
        failure.map_or(Ok(()), |errno| Err(errno.into()))
    }
}
