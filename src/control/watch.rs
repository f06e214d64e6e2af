//! What the main thread does while the server runs: it waits for signals, for a new user table, for commands, and
//! for loads to end.
//!
//! Owns the decision when a table is loaded, and what is told about it: log, counters, answers, systemd.
//! Promises that whoever asks for a load gets one that began after he asked, and that many events at once make one
//! load. Never loads anything itself ([`super::tables`] does), so a signal is heard at once. It sleeps in one
//! poll(2) and has no other wait.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sd_notify::NotifyState;

use super::config::Config;
use super::notice::Notice;
use super::server::Server;
use super::tables::{Identity, Loaded, Outcome};
use super::talk::{Answer, Client, Listener, Request, TableStatus};
use crate::observe::log::Log;
use crate::sys::signal::{Signal, Signals};
use crate::users::TableError;

/// Returns when the server is to go down.
pub(super) fn until_the_end(config: &Config, server: &Server, signals: &Signals, log: &Log) {
    let mut watch = Watch::new(config, server, signals, log);
    loop {
        if let Err(error) = watch.wait() {
            log.line(format_args!("cannot wait for signals: {error}; ending"));
            return;
        }
        if let Some(signal) = watch.hear_signals() {
            log.line(format_args!("{signal:?}: finishing what was begun; once more ends at once"));
            return;
        }
        watch.hear_commands();
        watch.hear_notices();
        watch.hear_outcomes();
        watch.begin();
    }
}

struct Watch<'s> {
    config: &'s Config,
    server: &'s Server,
    signals: &'s Signals,
    log: &'s Log,
    notice: Option<Notice>,
    listener: Option<Listener>,
    status: TableStatus,
    /// The file that was loaded or refused last.
    seen: Option<Identity>,
    /// When to look whether there is another one.
    look_at: Option<Instant>,
    /// For whom a load is under way.
    running: Option<Job>,
    /// For whom another one begins when that one has ended.
    next: Option<Job>,
}

/// Who wants a load.
#[derive(Default)]
struct Job {
    /// Who gets an answer.
    clients: Vec<Client>,
    /// By SIGHUP, which systemd may have sent: it hears when the reload is over.
    hangup: bool,
}

impl<'s> Watch<'s> {
    fn new(config: &'s Config, server: &'s Server, signals: &'s Signals, log: &'s Log) -> Self {
        let notice =
            Notice::of(&config.users.table).inspect_err(|errno| cannot_watch(log, config, *errno)).ok();
        let listener = Listener::open(&config.state_dir)
            .inspect_err(|error| {
                log.line(format_args!("warning: posthaste reload cannot reach this server: {error}"));
            })
            .ok();
        let path = config.users.table.display().to_string();
        Self {
            config,
            server,
            signals,
            log,
            notice,
            listener,
            status: TableStatus { path, ..TableStatus::default() },
            // A file that came between the first load and the watch is found by a look.
            look_at: Some(Instant::now()),
            seen: None,
            // The first load has ended, and its outcome is to be heard.
            running: Some(Job::default()),
            next: None,
        }
    }

    /// Sleeps until there is something to hear or to do.
    fn wait(&self) -> io::Result<()> {
        let mut ready = vec![
            PollFd::new(self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(self.server.outcome_bell(), PollFlags::IN),
        ];
        ready
            .extend(self.notice.iter().map(|notice| PollFd::from_borrowed_fd(notice.as_fd(), PollFlags::IN)));
        let commands = self.listener.iter().flat_map(Listener::descriptors);
        ready.extend(commands.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // While a load is under way its end comes first.
        let look_at = self.look_at.filter(|_| self.running.is_none());
        let rest_ends_at = self.listener.as_ref().and_then(Listener::rests_until);
        let wakes_at = [look_at, rest_ends_at].into_iter().flatten().min();
        let left = wakes_at.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec::try_from(left).expect("it is short"));
        match poll(&mut ready, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The signal that ends the server, if it has come.
    fn hear_signals(&mut self) -> Option<Signal> {
        loop {
            match self.signals.pending() {
                Ok(Some(Signal::Hangup)) => {
                    self.log.line(format_args!(
                        "SIGHUP: loading the user table again (a changed configuration takes a restart)"
                    ));
                    self.tell_systemd_of_a_reload();
                    self.next.get_or_insert_default().hangup = true;
                }
                Ok(Some(signal)) => return Some(signal),
                Ok(None) => return None,
                Err(error) => {
                    self.log.line(format_args!("cannot read signals: {error}"));
                    return None;
                }
            }
        }
    }

    fn hear_commands(&mut self) {
        let Some(listener) = &mut self.listener else { return };
        for (request, client) in listener.requests() {
            match request {
                Request::Reload => self.next.get_or_insert_default().clients.push(client),
                Request::Status => {
                    client.answer(&Answer { ok: true, error: None, table: self.status.clone() });
                }
            }
        }
    }

    fn hear_notices(&mut self) {
        let Some(notice) = &mut self.notice else { return };
        let changed = notice.has_changed().unwrap_or_else(|errno| {
            cannot_watch(self.log, self.config, errno);
            true
        });
        if changed {
            // One look after the first event serves for all that come until then.
            self.look_at.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }

    fn hear_outcomes(&mut self) {
        while let Some(Outcome { file, loaded }) = self.server.outcome() {
            self.seen = file;
            let job = self.running.take().expect("a load was under way");
            let error = match loaded {
                Ok(loaded) => {
                    self.accept(&loaded);
                    None
                }
                Err(error) => Some(self.refuse(&error)),
            };
            let answer = Answer { ok: error.is_none(), error, table: self.status.clone() };
            job.clients.into_iter().for_each(|client| client.answer(&answer));
            let table = format!("{} users in {}", self.status.users, self.status.path);
            self.tell_systemd(&[NotifyState::Status(&table)]);
            if job.hangup {
                self.tell_systemd(&[NotifyState::Ready]);
            }
        }
    }

    fn accept(&mut self, loaded: &Loaded) {
        let is_first = self.status.loaded_at == 0;
        let status = &mut self.status;
        status.users = loaded.users;
        status.bytes = loaded.bytes;
        status.load_ms = u64::try_from(loaded.took.as_millis()).unwrap_or(u64::MAX);
        status.loaded_at = loaded.at.duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_secs());
        let TableStatus { path, users, load_ms, .. } = status;
        if is_first {
            self.log.line(format_args!("user table {path}: {users} users, loaded in {load_ms} ms"));
            return;
        }
        status.reloads += 1;
        self.log.line(format_args!(
            "reload {}: user table {path}: {users} users, loaded in {load_ms} ms, in use from here on",
            status.reloads
        ));
    }

    fn refuse(&mut self, error: &TableError) -> String {
        let error = error.to_string();
        let status = &mut self.status;
        status.refused += 1;
        status.last_refusal = Some(error.clone());
        self.log.line(format_args!(
            "warning: reload refused: {error}; the table in use stays, with {} users (refused so far: {})",
            status.users, status.refused
        ));
        error
    }

    /// Begins the load that is due, if none is under way.
    fn begin(&mut self) {
        if self.running.is_some() {
            return;
        }
        if self.look_at.is_some_and(|at| at <= Instant::now()) {
            self.look_at = None;
            let file = Identity::of(&self.config.users.table);
            // A name that leads nowhere for a moment is nothing to complain about: the next file is noticed.
            if file.is_some() && file != self.seen {
                self.next.get_or_insert_default();
            }
        }
        if let Some(job) = self.next.take() {
            // What has come until now is what will be loaded.
            self.look_at = None;
            self.running = Some(job);
            self.server.reload();
        }
    }

    fn tell_systemd_of_a_reload(&self) {
        match NotifyState::monotonic_usec_now() {
            // Type=notify-reload waits for both, and for READY=1 afterwards.
            Ok(now) => self.tell_systemd(&[NotifyState::Reloading, now]),
            Err(error) => self.log.line(format_args!("cannot read the clock for systemd: {error}")),
        }
    }

    fn tell_systemd(&self, state: &[NotifyState<'_>]) {
        super::serve::tell_systemd(self.log, state);
    }
}

fn cannot_watch(log: &Log, config: &Config, errno: Errno) {
    log.line(format_args!(
        "warning: a new user table at {} will not be noticed by itself: {errno}; posthaste reload or SIGHUP loads \
         it",
        config.users.table.display()
    ));
}

/// How long the look waits after the first event, so that a burst of them makes one load.
const SETTLE: Duration = Duration::from_millis(50);
