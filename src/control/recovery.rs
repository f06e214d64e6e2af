//! Recovery as a whole process does it: the lock on the journal, threads with a ring each, one report.
//!
//! `posthaste serve` calls this before it listens, `posthaste recover` does nothing else.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::config::Config;
use crate::exec::Exec;
use crate::journal::Boot;
use crate::journal::name::LOCK;
use crate::limits;
use crate::maildir::{self, Durability, NameMaker, Store};
use crate::recover::{Options, Report, SegmentReport, is_recovered, recover_segment};
use crate::ring::SyncThreads;
use crate::ring::uring::{self, Setup, SetupError, Uring};
use crate::sys::{boot, cpu, limit};

/// The right to use a journal directory, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    directory: PathBuf,
    _file: File,
}

/// Why nothing could be recovered.
#[derive(Debug)]
pub enum RecoveryError {
    /// The journal directory, or something in it, cannot be used.
    Directory(PathBuf, io::Error),
    /// Another process uses the journal.
    Locked(PathBuf),
    /// A ring cannot be made.
    Ring(SetupError),
    /// A ring failed while it was used.
    Broken(Errno),
    /// A thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path, error) => {
                write!(f, "cannot use the journal {}: {error}; give it to the server's user", path.display())
            }
            Self::Locked(path) => write!(
                f,
                "the journal {} is in use by another process: stop that server first, or wait for its recovery",
                path.display()
            ),
            Self::Ring(error) => error.fmt(f),
            Self::Thread(error) => {
                write!(f, "cannot start a thread: {error}; raise the limits of the service")
            }
            Self::Broken(errno) => write!(f, "the ring failed: {errno}; start it again"),
        }
    }
}

impl std::error::Error for RecoveryError {}

impl Lock {
    /// Takes the journal directory; nothing where there is none.
    ///
    /// # Errors
    /// [`RecoveryError::Locked`] when another process has it.
    pub fn take(directory: &Path) -> Result<Option<Self>, RecoveryError> {
        let failed = |error| RecoveryError::Directory(directory.to_path_buf(), error);
        let path = directory.join(LOCK);
        let file = match File::options().write(true).create(true).truncate(false).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { directory: directory.to_path_buf(), _file: file })),
            Err(Errno::WOULDBLOCK) => Err(RecoveryError::Locked(directory.to_path_buf())),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Takes the journal directory, and makes it first where there is none.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_or_make(directory: &Path) -> Result<Self, RecoveryError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| RecoveryError::Directory(directory.to_path_buf(), error))?;
        Self::take(directory)?.ok_or_else(|| {
            let gone = io::ErrorKind::NotFound.into();
            RecoveryError::Directory(directory.to_path_buf(), gone)
        })
    }

    /// The segments that recovery looks at, with their lengths in bytes.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn segments(&self) -> Result<Vec<(String, u64)>, RecoveryError> {
        let list = || {
            let mut found = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string()
                    && is_recovered(&name)
                {
                    found.push((name, entry.metadata()?.len()));
                }
            }
            found.sort_unstable();
            Ok(found)
        };
        list().map_err(|error| RecoveryError::Directory(self.directory.clone(), error))
    }

    /// Recovers these segments. `progress` hears of bytes that are done, from any thread.
    ///
    /// # Errors
    /// Only what keeps it from working at all; what goes wrong with one segment stands in the report.
    pub fn recover(
        &self,
        config: &Config,
        segments: Vec<String>,
        dry_run: bool,
        progress: Progress,
    ) -> Result<Report, RecoveryError> {
        let cpus = cpu::allowed();
        let threads = cpus.len().min(segments.len()).min(THREADS_MAX);
        let files = limit::raise_open_files(limit::files_wanted(0, threads));
        let job = Arc::new(Job {
            directory: self.directory.clone(),
            queue: Mutex::new(segments.into()),
            reports: Mutex::new(Vec::new()),
            settings: settings(config, limit::divide(files, 1, threads).delivery_files),
            setup: setup(config, &cpus),
            cpus,
            boot: boot::id().map_or(Boot::UNKNOWN, Boot),
            dry_run,
            progress,
        });
        let mut running = Vec::new();
        for index in 0..threads {
            let job = Arc::clone(&job);
            let thread = std::thread::Builder::new().name("recovery".into()).spawn(move || job.run(index));
            running.push(thread.map_err(RecoveryError::Thread)?);
        }
        for thread in running {
            // A thread that panics takes the process with it, so there is an end to hear of.
            thread.join().expect("it has not panicked")?;
        }
        let mut segments = std::mem::take(&mut *locked(&job.reports));
        segments.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(Report { segments })
    }
}

/// Who hears of bytes that are done.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// What the threads share.
struct Job {
    directory: PathBuf,
    queue: Mutex<VecDeque<String>>,
    reports: Mutex<Vec<SegmentReport>>,
    settings: maildir::Settings,
    setup: Setup,
    cpus: Vec<usize>,
    boot: Boot,
    dry_run: bool,
    progress: Progress,
}

impl Job {
    /// One thread: a ring, and segments until there are no more.
    fn run(self: Arc<Self>, index: usize) -> Result<(), RecoveryError> {
        let opened = File::open(&self.directory);
        let opened = opened.map_err(|error| RecoveryError::Directory(self.directory.clone(), error))?;
        let cpu = self.cpus.get(index % self.cpus.len().max(1)).copied();
        if let Some(cpu) = cpu {
            // It works all the same where that is not allowed.
            let _ = cpu::pin(cpu);
        }
        let setup = Setup { file_cpu: cpu, ..self.setup.clone() };
        let ring = Uring::new(&setup).map_err(RecoveryError::Ring)?;
        let directory = ring.adopt(opened.into());
        let exec = Exec::new(Box::new(ring));
        let names = NameMaker::new(&self.settings.host, std::process::id(), index, 0);
        let store = Store::new(Rc::clone(&exec), self.settings.clone(), names);
        let over = Rc::new(Cell::new(false));
        let done = Rc::clone(&over);
        exec.spawn(async move {
            let options = Options { dry_run: self.dry_run, boot: self.boot, progress: &*self.progress };
            while let Some(name) = self.next() {
                let report = recover_segment(&store, &directory, &name, options).await;
                locked(&self.reports).push(report);
            }
            done.set(true);
        });
        let ended = exec.run_until(|| over.get()).map_err(RecoveryError::Broken);
        exec.clear();
        ended
    }

    fn next(&self) -> Option<String> {
        locked(&self.queue).pop_front()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As for serving, but for the durability: one sync for all is recovery's own.
fn settings(config: &Config, delivery_files: usize) -> maildir::Settings {
    maildir::Settings {
        durability: Durability::None,
        create: config.maildir.create,
        create_folder: config.maildir.create_folder,
        root: config.maildir.root.clone(),
        host: config.hostname.clone(),
        open_files_max: delivery_files / 2,
        kept_directories_max: 0,
    }
}

fn setup(config: &Config, cpus: &[usize]) -> Setup {
    Setup {
        // There is nothing to receive.
        buffers_bytes: usize::from(limits::BUFFERS_MIN) * limits::BUFFER_BYTES,
        file_workers: limits::FILE_WORKERS,
        file_cpu: None,
        link_by: uring::link_by(&[&config.state_dir, &std::env::temp_dir(), Path::new("/dev/shm")]),
        sync_threads: SyncThreads::on(cpus),
    }
}

/// More of them would wait for the same disk.
const THREADS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_used_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("state/journal");
        assert!(Lock::take(&journal).unwrap().is_none(), "nothing is made");
        let lock = Lock::take_or_make(&journal).unwrap();
        let refused = Lock::take(&journal).unwrap_err();
        assert!(matches!(refused, RecoveryError::Locked(_)), "{refused}");
        assert!(refused.to_string().contains("stop that server first"));
        drop(lock);
        assert!(Lock::take(&journal).unwrap().is_some());
    }

    #[test]
    fn only_segments_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["0-0.segment", "0-1.segment.kept", "0-2.segment.unreadable", "notes"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let lock = Lock::take(directory.path()).unwrap().unwrap();
        let found = lock.segments().unwrap();
        assert_eq!(found, [("0-0.segment".to_owned(), 11), ("0-1.segment.kept".to_owned(), 16)]);
    }
}
