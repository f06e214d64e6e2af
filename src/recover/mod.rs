//! Recovery: what the journal promised becomes files again.
//!
//! For every record of every segment, each recipient's file is looked for in `new/` and `cur/`. If it is there with
//! exactly its bytes, nothing is done; else it is written again, by the recipe of [`maildir`].
//! Then each mail file system is synced once, and only then the segment is retired. So recovery may be killed at
//! any point and started again: until a segment is retired it says the same, and what was done is found done.
//!
//! Promises that nothing of a journal is ever lost by it: a segment that cannot be read is renamed, never
//! deleted; what cannot be written for one recipient is put into a segment of its own (`.kept`), which is
//! tried again the next time; a segment of a later version is not touched.
//!
//! What it cannot know: whether a user has removed a message since it was delivered. Such a message comes back.
//! That goes for what was delivered after the last checkpoint, so for a few seconds of mail, and it is why
//! a kept segment contains nothing but the recipients that failed.
//!
//! [`replay`](replay::replay) does one segment's mail and is also for a worker whose file system failed to sync;
//! [`recover`] does all segments of a directory. Everything runs on a ring, real or simulated.
#![forbid(unsafe_code)]

use std::fmt;
use std::rc::Rc;

use crate::journal::file::{self as segment_file, FileFault};
use crate::journal::name::Kind;
use crate::journal::{Boot, End, Refusal, Segment, read_segment};
use crate::maildir::{self, Store};
use crate::ring::{Fd, How};

mod file;
mod keep;
pub mod replay;

pub use replay::{Action, Counts, Done, Failure, Mail, Mode, Replayed, replay};

/// How to recover.
#[derive(Clone, Copy)]
pub struct Options<'o> {
    /// Only say what would be done.
    pub dry_run: bool,
    /// The present boot.
    pub boot: Boot,
    /// Called with bytes of journal that are done, now and then.
    pub progress: &'o dyn Fn(u64),
}

/// What was done with the segments of a directory.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order in which they were done.
    pub segments: Vec<SegmentReport>,
}

impl Report {
    /// Whether everything that the journal promised is durable in its place.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.segments.iter().all(SegmentReport::is_well)
    }
}

/// What was done with one segment.
#[derive(Debug)]
pub struct SegmentReport {
    /// The name of its file.
    pub name: String,
    /// What became of the file.
    pub fate: Fate,
    /// What became of its mail; nothing where it could not be read.
    pub mail: Option<Mail>,
}

/// What became of a segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Everything in it is durable elsewhere: it is free.
    Retired,
    /// It was never used, and nothing was done.
    Blank,
    /// A dry run: nothing was done.
    Looked,
    /// Some recipients failed; they are in a file of this name now, everything else is durable.
    Kept {
        /// In the same directory.
        file: String,
    },
    /// A later version wrote it: it was not touched.
    Newer {
        /// Which.
        version: u32,
    },
    /// It cannot be read.
    SetAside {
        /// Why.
        refusal: Refusal,
        /// What it is called now; nothing in a dry run.
        file: Option<String>,
    },
    /// Its mail is written and not durable: a mail file system failed to sync. The segment is as it was.
    Unsettled(maildir::Fault),
    /// The journal's own disk failed. The segment is as it was.
    Left(FileFault),
}

impl SegmentReport {
    /// Whether everything that the segment promised is durable in its place, or would be but for the dry run.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let complete = self.mail.as_ref().is_none_or(|mail| mail.failures.is_empty());
        complete && matches!(self.fate, Fate::Retired | Fate::Blank | Fate::Looked)
    }

    /// Whether its file still has records that count, under its own name: nobody may write there.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        matches!(self.fate, Fate::Unsettled(_) | Fate::Left(_))
    }
}

impl fmt::Display for SegmentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        if let Some(Mail { counts, failures, end, .. }) = &self.mail {
            write!(f, "{} messages for {} recipients", counts.records, counts.recipients)?;
            for (count, what) in [
                (counts.present, "in place"),
                (counts.written, "written again"),
                (counts.replaced, "replaced, being torn"),
                (counts.beside, "written beside a file that is not ours"),
                (failures.len() as u64, "FAILED"),
            ] {
                if count > 0 {
                    write!(f, ", {count} {what}")?;
                }
            }
            if let End::Torn { at } = end {
                write!(f, "; an unfinished batch at byte {at} was never acknowledged")?;
            }
            f.write_str("; ")?;
        }
        match &self.fate {
            Fate::Retired => f.write_str("the segment is free"),
            Fate::Blank => f.write_str("never used"),
            Fate::Looked => f.write_str("dry run, nothing was done"),
            Fate::Kept { file } => write!(
                f,
                "what failed is kept in {file}: remove the cause, then run `posthaste recover` or restart"
            ),
            Fate::Newer { version } => write!(
                f,
                "a later program wrote it (version {version}): it was not touched; recover it with that program"
            ),
            Fate::SetAside { refusal, file: Some(file) } => write!(f, "the file {refusal}; it is {file} now"),
            Fate::SetAside { refusal, file: None } => write!(f, "the file {refusal}; it would be set aside"),
            Fate::Unsettled(fault) => {
                write!(f, "{fault}; the segment stays as it is: look at the kernel's log, then recover again")
            }
            Fate::Left(fault) => write!(f, "{fault}; the segment stays as it is"),
        }
    }
}

/// The segments of a journal directory that recovery looks at, kept ones included, sorted.
///
/// # Errors
/// The directory cannot be listed.
pub fn segments(store: &Store, directory: &Fd) -> Result<Vec<String>, FileFault> {
    let mut names = segment_file::names(store.exec(), directory)?;
    names.retain(|name| is_recovered(name));
    names.sort_unstable();
    Ok(names)
}

/// Whether recovery looks at files of this name.
#[must_use]
pub fn is_recovered(name: &str) -> bool {
    matches!(Kind::of(name), Kind::Segment(_) | Kind::Kept)
}

/// Recovers all segments of the open journal directory, one after another. The caller has locked it.
///
/// # Errors
/// The directory cannot be listed. Whatever else goes wrong stands in the report.
pub async fn recover(store: &Store, directory: &Rc<Fd>, options: Options<'_>) -> Result<Report, FileFault> {
    let mut report = Report::default();
    for name in segments(store, directory)? {
        report.segments.push(recover_segment(store, directory, &name, options).await);
    }
    Ok(report)
}

/// Recovers the segment `name` of the open journal directory.
pub async fn recover_segment(
    store: &Store,
    directory: &Rc<Fd>,
    name: &str,
    options: Options<'_>,
) -> SegmentReport {
    let recovery = Recovery { store, directory, name, options };
    let (fate, mail) = recovery.run().await.unwrap_or_else(|fault| (Fate::Left(fault), None));
    SegmentReport { name: name.to_owned(), fate, mail }
}

/// The recovery of one segment.
struct Recovery<'r> {
    store: &'r Store,
    directory: &'r Rc<Fd>,
    name: &'r str,
    options: Options<'r>,
}

type Outcome = (Fate, Option<Mail>);

impl Recovery<'_> {
    async fn run(&self) -> Result<Outcome, FileFault> {
        let exec = self.store.exec();
        let how = if self.options.dry_run { How::ReadOnly } else { How::ReadWrite };
        let file = segment_file::open(exec, self.directory, self.name, how).await?;
        let bytes = segment_file::load(exec, &file).await?;
        let segment = match read_segment(&bytes) {
            Ok(segment) => segment,
            Err(Refusal::Blank) => return Ok((Fate::Blank, None)),
            Err(Refusal::Newer { version }) => return Ok((Fate::Newer { version }, None)),
            Err(refusal) => return Ok((self.set_aside(refusal).await?, None)),
        };
        let mode = match self.options {
            Options { dry_run: true, .. } => Mode::Look,
            // What this boot shows of a file may not be what is on its disk.
            Options { boot, .. } if segment.header.boot.may_be(boot) => Mode::Rewrite,
            Options { .. } => Mode::Repair,
        };
        let replayed = replay(self.store, &segment, mode, self.options.progress).await;
        let fate = self.finish(&file, &segment, &replayed).await.unwrap_or_else(Fate::Left);
        Ok((fate, Some(replayed.mail)))
    }

    /// Makes the mail durable, and only then lets go of the segment.
    async fn finish(
        &self,
        file: &Rc<Fd>,
        segment: &Segment<'_>,
        replayed: &Replayed,
    ) -> Result<Fate, FileFault> {
        if self.options.dry_run {
            return Ok(Fate::Looked);
        }
        if let Err(fault) = replayed.settle(self.store).await {
            return Ok(Fate::Unsettled(fault));
        }
        if replayed.mail.failures.is_empty() {
            if self.is_kept() || self.is_worn(segment, replayed) {
                self.retire(file, segment).await?;
            }
            return Ok(Fate::Retired);
        }
        let nothing_new = replayed.mail.failures.len() as u64 == replayed.mail.counts.recipients;
        if nothing_new && self.is_kept() {
            return Ok(Fate::Kept { file: self.name.to_owned() });
        }
        let rest = keep::rest(segment, &replayed.mail.failures, self.options.boot);
        let exec = self.store.exec();
        let kept = match rest {
            Some(rest) => segment_file::create(exec, self.directory, self.name, rest).await.ok(),
            None => None,
        };
        match kept {
            Some(kept) => {
                self.retire(file, segment).await?;
                Ok(Fate::Kept { file: kept })
            }
            // No room for a file of its own: keep all. What was recovered may come twice, nothing is lost.
            None => {
                let kept = segment_file::KEPT;
                let name = segment_file::rename(exec, self.directory, self.name, kept).await?;
                Ok(Fate::Kept { file: name })
            }
        }
    }

    /// Whether whoever uses the segment next must not go on in this epoch: because of its records, of what is torn
    /// behind them, or because a later recovery would take the records of this boot for those of another.
    fn is_worn(&self, segment: &Segment<'_>, replayed: &Replayed) -> bool {
        let is_used = replayed.mail.counts.records > 0 || replayed.mail.end != End::Clean;
        is_used || segment.header.boot != self.options.boot
    }

    /// Makes its records void; a segment that was kept for them alone goes.
    async fn retire(&self, file: &Rc<Fd>, segment: &Segment<'_>) -> Result<(), FileFault> {
        if self.is_kept() {
            return segment_file::remove(self.store.exec(), self.directory, self.name).await;
        }
        let next = segment.header.retired(self.options.boot);
        segment_file::write_header(self.store.exec(), file, &next).await
    }

    fn is_kept(&self) -> bool {
        Kind::of(self.name) == Kind::Kept
    }

    async fn set_aside(&self, refusal: Refusal) -> Result<Fate, FileFault> {
        if self.options.dry_run {
            return Ok(Fate::SetAside { refusal, file: None });
        }
        let unreadable = segment_file::UNREADABLE;
        let file = segment_file::rename(self.store.exec(), self.directory, self.name, unreadable).await?;
        Ok(Fate::SetAside { refusal, file: Some(file) })
    }
}

#[cfg(test)]
mod tests;
