//! One worker: an executor on a thread of its own, the mail store, and the view of the user table.
//!
//! Workers share nothing but immutable snapshots and a count of connections each. What must cross between
//! them (an accepted connection, the order to go down) crosses as a message.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::envelope::{Delivery, Envelope, Recipient, Terms};
use super::loan::Loan;
use crate::exec::Exec;
use crate::journal::Journal;
use crate::lmtp::replies::UnknownDomain;
use crate::lmtp::reply::Reply;
use crate::lmtp::session::SessionLimits;
use crate::mail::line_ends::LineEndings;
use crate::maildir::{self, NameMaker, Store};
use crate::observe::log::{Log, LogDeliveries};
use crate::users::key::Rules;

/// What all workers are told. Never changes while they run.
#[derive(Debug)]
pub struct Settings {
    /// Our name in the greeting and in `Received`.
    pub hostname: String,
    /// What the protocol allows.
    pub session: Arc<SessionLimits>,
    /// Bytes a message may have.
    pub message_bytes_max: u64,
    /// Where `<postmaster>` without a domain goes.
    pub postmaster: Address,
    /// How addresses are looked up.
    pub rules: Rules,
    /// What becomes of those that are found.
    pub terms: Terms,
    /// What is said of those in a domain that has no users.
    pub unknown_domain: UnknownDomain,
    /// How Maildirs are kept.
    pub maildir: maildir::Settings,
    /// How lines are stored.
    pub line_endings: LineEndings,
    /// Whether recipients may share a file.
    pub single_instance: bool,
    /// Bytes above which a message is written while it arrives.
    pub stream_above: usize,
    /// Bytes up to which a message goes by way of the journal.
    pub journal_message_max: u64,
    /// Connections of all workers together.
    pub connections_max: usize,
    /// Without a command for this long, a client is sent away.
    pub idle_timeout: Duration,
    /// From MAIL to the last reply.
    pub transaction_timeout: Duration,
    /// Bytes a second that a message must arrive with; 0 for any.
    pub data_rate_min: u64,
    /// Which deliveries get a line in the log.
    pub log_deliveries: LogDeliveries,
}

/// An address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Before the `@`.
    pub local: String,
    /// Behind it.
    pub domain: String,
}

/// How many connections each worker has.
pub type Loads = Arc<[CachePadded<AtomicUsize>]>;

/// One worker.
pub struct Worker {
    /// Its executor.
    pub exec: Rc<Exec>,
    /// Its mail store.
    pub store: Store,
    /// Its journal, where it has one.
    pub journal: Option<Rc<Journal>>,
    /// What it was told.
    pub settings: Arc<Settings>,
    /// Where it writes what happens.
    pub log: Log,
    /// Raised when the server goes down: no new transactions.
    pub draining: Cell<bool>,
    index: usize,
    loads: Loads,
    table: RefCell<Rc<Loan>>,
    ids: SessionIds,
    date: RefCell<(u64, Rc<str>)>,
}

/// What makes one worker different from another.
pub struct Seat {
    /// Its number.
    pub index: usize,
    /// The connection counts of all.
    pub loads: Loads,
    /// Random, different for every worker and every start.
    pub random: u64,
    /// Its journal, where it has one.
    pub journal: Option<Rc<Journal>>,
}

impl Worker {
    /// A worker that runs on `exec`.
    #[must_use]
    pub fn new(
        exec: Rc<Exec>,
        settings: Arc<Settings>,
        table: impl Into<Loan>,
        log: Log,
        seat: Seat,
    ) -> Rc<Self> {
        let first = u32::try_from(seat.random & 0xffff_ffff).expect("masked");
        let names = NameMaker::new(&settings.maildir.host, std::process::id(), seat.index, first);
        let store = Store::new(Rc::clone(&exec), settings.maildir.clone(), names);
        Rc::new(Self {
            exec,
            store,
            journal: seat.journal,
            settings,
            log,
            draining: Cell::new(false),
            index: seat.index,
            loads: seat.loads,
            table: RefCell::new(Rc::new(table.into())),
            ids: SessionIds { prefix: seat.random, count: Cell::new(0) },
            date: RefCell::new((u64::MAX, Rc::from(""))),
        })
    }

    /// Whether the worker, told to go down, has nothing left to do. What is on record has its checkpoint first, or
    /// what its readers remove in the meantime would come back with the next start.
    #[must_use]
    pub fn is_done(&self) -> bool {
        if !self.draining.get() || self.connections() > 0 {
            return false;
        }
        self.journal.as_ref().is_none_or(|journal| {
            journal.close();
            journal.is_empty()
        })
    }

    /// A connection that was counted to this worker is over.
    pub fn release(&self) {
        self.loads[self.index].fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections of this worker.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.loads[self.index].load(Ordering::Relaxed)
    }

    /// Counts a new connection to the worker that has the fewest, and names it; `None` when there are as
    /// many as there may be.
    #[must_use]
    pub fn place(&self) -> Option<usize> {
        let counts = || self.loads.iter().map(|load| load.load(Ordering::Relaxed));
        if counts().sum::<usize>() >= self.settings.connections_max {
            return None;
        }
        let fewest = counts().min().unwrap_or(0);
        // At equal load a connection stays where it was accepted.
        let own = self.connections() == fewest;
        let index = if own { self.index } else { counts().position(|count| count == fewest)? };
        self.loads[index].fetch_add(1, Ordering::Relaxed);
        Some(index)
    }

    /// This worker's number.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The user table as it is now. A transaction keeps the one it began with.
    #[must_use]
    pub fn table(&self) -> Rc<Loan> {
        Rc::clone(&self.table.borrow())
    }

    /// Takes `table` for what begins from now on. The old one goes home when its last transaction is over.
    pub fn replace_table(&self, table: Loan) {
        self.table.replace(Rc::new(table));
    }

    /// An id for a new session, unique over workers and restarts.
    #[must_use]
    pub fn session_id(&self) -> String {
        let count = self.ids.count.get();
        self.ids.count.set(count + 1);
        format!("{:016x}.{count:x}", self.ids.prefix)
    }

    /// Date and time for a trace header, in local time (RFC 5322 section 3.3). Made once a second.
    #[must_use]
    pub fn date(&self) -> Rc<str> {
        let now = self.exec.wall().as_secs();
        let mut date = self.date.borrow_mut();
        if date.0 != now {
            *date = (now, Rc::from(rfc5322_date(now)));
        }
        Rc::clone(&date.1)
    }

    /// Logs a delivery that is done.
    pub fn log_saved(
        &self,
        envelope: &Envelope<'_>,
        recipient: &Recipient<'_>,
        delivery: &Delivery<'_>,
        file: &str,
        bytes: u64,
    ) {
        if self.settings.log_deliveries != LogDeliveries::All {
            return;
        }
        let milliseconds = self.exec.now().since(envelope.started).as_millis();
        // Not formatted, as this is said of nearly every message.
        let (mut size, mut time) = (itoa::Buffer::new(), itoa::Buffer::new());
        self.log.line_of(&[
            "id=",
            envelope.id,
            " from=<",
            envelope.sender,
            "> to=<",
            recipient.address,
            "> user=",
            delivery.user,
            " size=",
            size.format(bytes),
            " time=",
            time.format(milliseconds),
            "ms status=saved file=",
            file,
        ]);
    }

    /// Logs a message that a recipient does not get, for a reason that lies in the message.
    pub fn log_refusal(&self, envelope: &Envelope<'_>, address: &str, reply: &Reply, why: &str) {
        self.log_fault(envelope, address, reply, format_args!("{why}"), "the client was told");
    }

    /// Logs a delivery that failed, and what to do about it.
    pub fn log_fault(
        &self,
        envelope: &Envelope<'_>,
        address: &str,
        reply: &Reply,
        fault: fmt::Arguments<'_>,
        advice: &str,
    ) {
        if self.settings.log_deliveries == LogDeliveries::None {
            return;
        }
        let status = if reply.code() < 500 { "deferred" } else { "refused" };
        self.log.line(format_args!(
            "id={} from=<{}> to=<{address}> status={status} reply={}: {fault} ({advice})",
            envelope.id,
            envelope.sender,
            reply.code()
        ));
    }
}

#[derive(Debug)]
struct SessionIds {
    prefix: u64,
    count: Cell<u64>,
}

fn rfc5322_date(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    let timestamp = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let zoned = timestamp.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}
