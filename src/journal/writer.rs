//! The journal of one worker at work: messages in line, batches, segments that are filled and given back.
//!
//! Batches form by themselves. Whatever is in line when a write ends goes into the next one, and a lone message
//! finds no write under way and waits for nobody.
//!
//! A segment is *filling*, then *closed* (full, old, or its disk has failed), then, when every message in it has
//! its files, ready for a checkpoint: whoever keeps the checkpoints takes it ([`Journal::closed`]), syncs the
//! file systems that it names, and [retires](Journal::retire) it. Until then it keeps its records, and when no
//! segment is free, new messages wait, and are refused when that takes too long. So neither memory nor
//! disk grows when the mail file systems are slow.
//!
//! After a failed write nothing more goes into that segment: what the disk made of it is not known.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use super::approach::{Approach, Approaching};
use super::file::{self, FileFault};
use super::format::{BLOCK_BYTES, ZEROES, capacity};
use super::name::SegmentName;
use super::record::RecordHead;
use super::segment::{Boot, SegmentHeader};
use crate::exec::{Bell, Exec, Patience};
use crate::limits;
use crate::ring::{Bytes, Fd, How, Part, Time};

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose it is.
    pub worker: u32,
    /// Length of a new segment; such as [`is_segment_length`](super::format::is_segment_length) likes.
    pub segment_bytes: u64,
    /// How long a record may wait for its checkpoint.
    pub checkpoint_interval: Duration,
    /// How long a message may wait for room.
    pub patience: Duration,
    /// The present boot.
    pub boot: Boot,
    /// A secret number, different for every worker and every start.
    pub key: u64,
}

/// The journal of one worker.
pub struct Journal {
    exec: Rc<Exec>,
    settings: Settings,
    directory: Rc<Fd>,
    state: RefCell<State>,
    /// Who is on the way.
    approaching: Rc<Approaching>,
    /// Rung when there is something to write, or room to write it.
    work: Bell,
    /// Rung when a segment may be ready for its checkpoint.
    ready: Bell,
}

struct State {
    line: VecDeque<InLine>,
    segments: Vec<Segment>,
    filling: Option<usize>,
    /// The number of the next new segment.
    number: u32,
    /// The journal's disk takes no segment at present.
    failing: Option<Errno>,
    /// A mail file system cannot be synced at present.
    unsettled: Option<Errno>,
    /// Nothing more will come: segments are not kept for their time.
    closing: bool,
}

struct Segment {
    name: SegmentName,
    file: Rc<Fd>,
    header: SegmentHeader,
    condition: Condition,
    /// Where the next batch goes.
    end: u64,
    sequence: u64,
    /// When its first record was written.
    since: Time,
    /// Messages whose files are not all there yet.
    unfinished: usize,
    /// The file systems that its messages went to.
    touched: Vec<Touched>,
    /// A write to it has failed.
    is_broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Free,
    Filling,
    Closed,
    /// Somebody makes a checkpoint of it.
    Taken,
    /// Not ours any more.
    Gone,
}

/// A file system that messages of a segment went to.
#[derive(Clone, Debug)]
pub struct Touched {
    /// `st_dev`.
    pub device: u64,
    /// Something open on it.
    pub on: Rc<Fd>,
    /// Its failed rounds ([`Ring::sync_failures`](crate::ring::Ring::sync_failures)) before the first of these
    /// messages was written.
    pub failures: u64,
}

/// Why a message is not in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The journal's disk failed.
    Write(Errno),
    /// Checkpoints fall behind: no room for too long.
    Full,
    /// A mail file system failed to sync, and what is in the journal is needed until it does.
    Unsettled(Errno),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(errno) => write!(f, "the journal cannot be written: {errno}"),
            Self::Full => f.write_str("the journal is full, as checkpoints fall behind"),
            Self::Unsettled(errno) => write!(f, "a mail file system cannot be synced: {errno}"),
        }
    }
}

/// A message in line, until its batch is written.
struct InLine {
    head: RecordHead,
    body: Rc<Vec<Bytes>>,
    seat: Rc<Seat>,
}

/// Where its sender hears of it.
#[derive(Default)]
struct Seat {
    outcome: RefCell<Option<Result<Entry, Refused>>>,
    bell: Bell,
    is_in_line: Cell<bool>,
}

/// A message that is durable in the journal, for as long as its files are being named. To be dropped then: it keeps
/// its segment.
pub struct Entry {
    journal: Rc<Journal>,
    segment: usize,
}

/// A segment whose messages all have their files, taken for its checkpoint.
#[derive(Debug)]
pub struct Closed {
    segment: usize,
    /// What it is called.
    pub name: SegmentName,
    /// What must be synced before it may be retired.
    pub touched: Vec<Touched>,
}

impl Journal {
    /// The journal in the open `directory`, with its first segments: those among `free` that are there and have
    /// the right length, and new ones. Every `free` segment must have been retired by recovery; what else is
    /// in the directory is left alone. To work, [`write`](Self::write) must be running.
    ///
    /// # Errors
    /// A segment cannot be made or opened.
    pub async fn open(
        exec: Rc<Exec>,
        directory: Rc<Fd>,
        settings: Settings,
        free: &[SegmentName],
    ) -> Result<Rc<Self>, FileFault> {
        let mut taken = Vec::new();
        for name in file::names(&exec, &directory)? {
            let plain = name.find(".segment").map_or("", |at| &name[..at]);
            taken.extend(SegmentName::parse(&format!("{plain}.segment")));
        }
        let own = taken.iter().filter(|name| name.worker == settings.worker);
        let state = State {
            line: VecDeque::new(),
            segments: Vec::new(),
            filling: None,
            number: own.map(|name| name.number + 1).max().unwrap_or(0),
            failing: None,
            unsettled: None,
            closing: false,
        };
        let journal = Self {
            exec,
            settings,
            directory,
            state: RefCell::new(state),
            approaching: Rc::default(),
            work: Bell::default(),
            ready: Bell::default(),
        };
        for name in free.iter().filter(|name| name.worker == journal.settings.worker) {
            journal.reuse(*name).await?;
        }
        while journal.state.borrow().segments.len() < limits::JOURNAL_SEGMENTS {
            journal.make_segment().await?;
        }
        Ok(Rc::new(journal))
    }

    /// Takes over a retired segment, or removes it where it is not what is wanted now.
    async fn reuse(&self, name: SegmentName) -> Result<(), FileFault> {
        let text = name.to_string();
        let file = file::open(&self.exec, &self.directory, &text, How::ReadWrite).await?;
        let header = file::load_header(&self.exec, &file).await?;
        match header {
            Some(header)
                if header.segment_bytes == self.settings.segment_bytes
                    && self.state.borrow().segments.len() < limits::JOURNAL_SEGMENTS =>
            {
                // A key of our own: the one that is there was secret to a server that is gone.
                let header = SegmentHeader { key: header.key ^ self.settings.key, ..header };
                let header = header.retired(self.settings.boot);
                file::write_header(&self.exec, &file, &header).await?;
                self.state.borrow_mut().segments.push(Segment::free(name, file, header));
                Ok(())
            }
            _ => file::remove(&self.exec, &self.directory, &text).await,
        }
    }

    async fn make_segment(&self) -> Result<(), FileFault> {
        let Settings { worker, segment_bytes, boot, key, .. } = self.settings;
        let number = {
            let mut state = self.state.borrow_mut();
            state.number += 1;
            state.number - 1
        };
        let name = SegmentName { worker, number };
        // Each number has a key of its own; see `SegmentHeader::retired`.
        let seed = SegmentHeader::new(segment_bytes, number, key, boot).retired(boot);
        let header = SegmentHeader::new(segment_bytes, worker, seed.key, boot);
        let file = file::make(&self.exec, &self.directory, &name.to_string(), &header).await?;
        self.state.borrow_mut().segments.push(Segment::free(name, file, header));
        Ok(())
    }

    /// Whether a record of so many bytes can be in the journal at all.
    #[must_use]
    pub fn takes(&self, record_bytes: u64) -> bool {
        batch_bytes(record_bytes) <= capacity(self.settings.segment_bytes)
    }

    /// Says that a message will come soon; to be dropped when it has come, or does not.
    #[must_use]
    pub fn approach(&self) -> Approach {
        self.approaching.begin(self.exec.now())
    }

    /// Puts a message on record, whose `approach` ends with that. Comes back when it is durable.
    ///
    /// # Errors
    /// Why it is not.
    ///
    /// # Panics
    /// If the journal does not [take](Self::takes) it.
    pub async fn append(
        self: &Rc<Self>,
        head: RecordHead,
        body: Rc<Vec<Bytes>>,
        approach: Option<Approach>,
    ) -> Result<Entry, Refused> {
        assert!(self.takes(head.record_bytes()), "the caller has asked");
        if let Some(refused) = self.state.borrow().refuses() {
            return Err(refused);
        }
        let seat = Rc::new(Seat::default());
        seat.is_in_line.set(true);
        self.state.borrow_mut().line.push_back(InLine { head, body, seat: Rc::clone(&seat) });
        drop(approach);
        self.exec.ring(&self.work);
        let until = self.exec.now().after(self.settings.patience);
        loop {
            if let Some(outcome) = seat.outcome.take() {
                return outcome;
            }
            let patience = Patience { until, unless: None };
            if !seat.is_in_line.get() {
                // It is being written. That ends.
                self.exec.rung_within(&seat.bell, FOREVER).await;
            } else if patience.is_over(self.exec.now()) {
                self.state.borrow_mut().line.retain(|other| !Rc::ptr_eq(&other.seat, &seat));
                return Err(Refused::Full);
            } else {
                self.exec.rung_within(&seat.bell, patience).await;
            }
        }
    }

    /// Writes what is put in line, for ever. To be spawned once.
    pub async fn write(self: Rc<Self>) {
        loop {
            self.replace_broken().await;
            self.gather().await;
            match self.next_batch() {
                Some(batch) => self.write_batch(batch).await,
                None => self.exec.rung_within(&self.work, FOREVER).await,
            }
        }
    }

    /// Waits a little for those who are on the way, once there is a message at all.
    async fn gather(&self) {
        let mut until = None;
        while !self.state.borrow().line.is_empty() && self.approaching.is_any(self.exec.now()) {
            let until = *until.get_or_insert_with(|| self.exec.now().after(limits::BATCH_PATIENCE));
            if until <= self.exec.now() {
                return;
            }
            self.exec.rung_within(&self.work, Patience { until, unless: None }).await;
        }
    }

    /// Makes segments for those that are lost. A disk that cannot take one is asked again later.
    async fn replace_broken(&self) {
        let is_of_use = |segment: &&Segment| !segment.is_broken && segment.condition != Condition::Gone;
        let count = || self.state.borrow().segments.iter().filter(is_of_use).count();
        while count() < limits::JOURNAL_SEGMENTS {
            if let Err(fault) = self.make_segment().await {
                self.state.borrow_mut().failing = Some(fault.errno);
                self.refuse_line();
                let until = self.exec.now().after(limits::JOURNAL_RETRY);
                self.exec.sleep_until(until).await;
            }
        }
        self.state.borrow_mut().failing = None;
    }

    /// Turns away whoever waits, if nothing is taken in.
    fn refuse_line(&self) {
        let mut state = self.state.borrow_mut();
        let Some(refused) = state.refuses() else { return };
        for waiting in std::mem::take(&mut state.line) {
            waiting.seat.tell(&self.exec, Err(refused));
        }
    }

    /// Takes as many from the front of the line as fit into one write and into the segment.
    fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state.borrow_mut();
        let first = state.line.front()?.head.record_bytes();
        let index = state.segment_with_room(batch_bytes(first), self)?;
        let segment = &state.segments[index];
        let (file, key, offset) = (Rc::clone(&segment.file), segment.header.key, segment.end);
        let room = (segment.header.segment_bytes - segment.end).min(limits::BATCH_BYTES);
        let mut sequence = segment.sequence;
        let mut bytes = 0;
        let mut taken: Vec<InLine> = Vec::new();
        while let Some(next) = state.line.front() {
            let with_next = bytes + next.head.record_bytes();
            if !taken.is_empty() && batch_bytes(with_next) > room {
                break;
            }
            bytes = with_next;
            taken.extend(state.line.pop_front());
        }
        let last = taken.len() - 1;
        let nothing = Rc::default();
        let zeroes = |count: usize| Part { head: ZEROES[..count].into(), body: Rc::clone(&nothing) };
        let mut parts = Vec::with_capacity(2 * taken.len() + 1);
        let mut seats = Vec::with_capacity(taken.len());
        for (nth, InLine { mut head, body, seat }) in taken.into_iter().enumerate() {
            head.seal(key, sequence, nth == last);
            sequence += 1;
            let padding = head.padding_bytes();
            parts.push(Part { head: head.into_bytes().into(), body });
            if padding > 0 {
                parts.push(zeroes(padding));
            }
            seat.is_in_line.set(false);
            seats.push(seat);
        }
        let length = batch_bytes(bytes);
        let rest = usize::try_from(length - bytes).expect("less than a block");
        if rest > 0 {
            parts.push(zeroes(rest));
        }
        let segment = &mut state.segments[index];
        segment.unfinished += seats.len();
        Some(Batch { segment: index, file, offset, length, parts, seats })
    }

    async fn write_batch(self: &Rc<Self>, batch: Batch) {
        let Batch { segment: index, file, offset, length, parts, seats } = batch;
        let written = file::write_durably(&self.exec, &file, parts, offset).await;
        let mut state = self.state.borrow_mut();
        let segment = &mut state.segments[index];
        match written {
            Ok(()) => {
                if segment.sequence == 0 {
                    segment.since = self.exec.now();
                    self.exec.ring(&self.ready);
                }
                segment.end += length;
                segment.sequence += seats.len() as u64;
            }
            Err(_) => {
                segment.is_broken = true;
                state.close_filling();
            }
        }
        drop(state);
        for seat in seats {
            // Made in any case: when it is dropped, the segment has one thing less to wait for.
            let entry = Entry { journal: Rc::clone(self), segment: index };
            seat.tell(&self.exec, written.map(|()| entry).map_err(Refused::Write));
        }
        self.exec.ring(&self.ready);
    }

    /// Waits for a segment that is closed and whose messages have all their files, and closes the one that is
    /// being filled when it is old.
    pub async fn closed(&self) -> Closed {
        loop {
            let until = {
                let mut state = self.state.borrow_mut();
                let until = state.due(self.settings.checkpoint_interval);
                if until <= self.exec.now() {
                    state.close_filling();
                }
                if let Some(closed) = state.take_closed() {
                    return closed;
                }
                until
            };
            let until = if until <= self.exec.now() { FOREVER.until } else { until };
            self.exec.rung_within(&self.ready, Patience { until, unless: None }).await;
        }
    }

    /// Everything in the segment is durable elsewhere: it is filled anew.
    ///
    /// # Errors
    /// Its header cannot be written: it keeps its records, which recovery will find done, and another one is
    /// made in its place.
    pub async fn retire(&self, closed: Closed) -> Result<(), FileFault> {
        let (file, header, is_broken) = {
            let state = self.state.borrow();
            let segment = &state.segments[closed.segment];
            (Rc::clone(&segment.file), segment.header.retired(self.settings.boot), segment.is_broken)
        };
        let mut retired = file::write_header(&self.exec, &file, &header).await;
        let is_of_use = retired.is_ok() && !is_broken;
        if retired.is_ok() && is_broken {
            retired = file::remove(&self.exec, &self.directory, &closed.name.to_string()).await;
        }
        {
            let mut state = self.state.borrow_mut();
            let segment = &mut state.segments[closed.segment];
            let condition = if is_of_use { Condition::Free } else { Condition::Gone };
            let (name, file) = (segment.name, Rc::clone(&segment.file));
            *segment = Segment { condition, is_broken: !is_of_use, ..Segment::free(name, file, header) };
        }
        self.exec.ring(&self.work);
        self.exec.ring(&self.ready);
        retired
    }

    /// The segment is in other hands: another one is made in its place.
    pub fn abandon(&self, closed: &Closed) {
        let mut state = self.state.borrow_mut();
        state.segments[closed.segment].condition = Condition::Gone;
        state.segments[closed.segment].touched.clear();
        drop(state);
        self.exec.ring(&self.work);
        self.exec.ring(&self.ready);
    }

    /// Takes nothing in until [`resume`](Self::resume): a mail file system cannot be synced.
    pub fn suspend(&self, errno: Errno) {
        self.state.borrow_mut().unsettled = Some(errno);
        self.refuse_line();
    }

    /// Takes messages in again.
    pub fn resume(&self) {
        self.state.borrow_mut().unsettled = None;
    }

    /// The directory of the segments.
    #[must_use]
    pub fn directory(&self) -> &Rc<Fd> {
        &self.directory
    }

    /// The present boot.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.settings.boot
    }

    /// Nothing more is coming: what is in the journal has its checkpoint now, not in a while.
    pub fn close(&self) {
        if !std::mem::replace(&mut self.state.borrow_mut().closing, true) {
            self.exec.ring(&self.ready);
        }
    }

    /// Whether there is no record that counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let state = self.state.borrow();
        let is_empty = |segment: &Segment| match segment.condition {
            Condition::Free | Condition::Gone => true,
            Condition::Filling => segment.sequence == 0 && segment.unfinished == 0,
            Condition::Closed | Condition::Taken => false,
        };
        state.line.is_empty() && state.segments.iter().all(is_empty)
    }
}

impl State {
    /// Whether nothing is taken in, and why. The two causes come and go by themselves.
    fn refuses(&self) -> Option<Refused> {
        self.failing.map(Refused::Write).or_else(|| self.unsettled.map(Refused::Unsettled))
    }

    /// The segment for a batch of so many bytes; nothing if it has to wait for one.
    fn segment_with_room(&mut self, bytes: u64, journal: &Journal) -> Option<usize> {
        if let Some(index) = self.filling {
            let segment = &self.segments[index];
            if segment.header.segment_bytes - segment.end >= bytes {
                return Some(index);
            }
            self.close_filling();
            journal.exec.ring(&journal.ready);
        }
        let free = self.segments.iter().position(|segment| segment.condition == Condition::Free)?;
        self.segments[free].condition = Condition::Filling;
        self.filling = Some(free);
        Some(free)
    }

    fn close_filling(&mut self) {
        if let Some(index) = self.filling.take() {
            self.segments[index].condition = Condition::Closed;
        }
    }

    /// When the segment that is being filled will be old.
    fn due(&self, interval: Duration) -> Time {
        match self.filling.map(|index| &self.segments[index]) {
            Some(segment) if segment.sequence == 0 => FOREVER.until,
            Some(_) if self.closing => Time(0),
            Some(segment) => segment.since.after(interval),
            None => FOREVER.until,
        }
    }

    fn take_closed(&mut self) -> Option<Closed> {
        let is_ready = |segment: &Segment| segment.condition == Condition::Closed && segment.unfinished == 0;
        let index = self.segments.iter().position(is_ready)?;
        let segment = &mut self.segments[index];
        segment.condition = Condition::Taken;
        Some(Closed { segment: index, name: segment.name, touched: segment.touched.clone() })
    }
}

impl Segment {
    fn free(name: SegmentName, file: Rc<Fd>, header: SegmentHeader) -> Self {
        Self {
            name,
            file,
            header,
            condition: Condition::Free,
            end: BLOCK_BYTES as u64,
            sequence: 0,
            since: Time(0),
            unfinished: 0,
            touched: Vec::new(),
            is_broken: false,
        }
    }
}

impl Entry {
    /// A file of the message has its name on the file system `touched`, unsynced.
    pub fn placed_on(&self, touched: &Touched) {
        let mut state = self.journal.state.borrow_mut();
        let known = &mut state.segments[self.segment].touched;
        match known.iter_mut().find(|other| other.device == touched.device) {
            Some(other) => other.failures = other.failures.min(touched.failures),
            None => known.push(touched.clone()),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.journal.state.borrow_mut();
        let segment = &mut state.segments[self.segment];
        segment.unfinished -= 1;
        let is_ready = segment.unfinished == 0 && segment.condition == Condition::Closed;
        drop(state);
        if is_ready {
            self.journal.exec.ring(&self.journal.ready);
        }
    }
}

impl Seat {
    fn tell(&self, exec: &Exec, outcome: Result<Entry, Refused>) {
        *self.outcome.borrow_mut() = Some(outcome);
        exec.ring(&self.bell);
    }
}

/// What one durable write carries.
struct Batch {
    segment: usize,
    file: Rc<Fd>,
    offset: u64,
    length: u64,
    parts: Vec<Part>,
    seats: Vec<Rc<Seat>>,
}

/// The length of a batch whose records have so many bytes.
fn batch_bytes(records: u64) -> u64 {
    records.next_multiple_of(BLOCK_BYTES as u64)
}

const FOREVER: Patience<'static> = Patience { until: Time(u64::MAX), unless: None };

#[cfg(test)]
mod tests;
