//! What a client and the administrator are told about a delivery that failed: one table.
//!
//! A system fault is never a 5xx: it says nothing about the message or the user, and a bounce cannot be
//! taken back. The one permanent answer here is a quota that the file system itself enforces, and only
//! where it is certain whose quota it was.
#![forbid(unsafe_code)]

use rustix::io::Errno;

use crate::maildir::{Fault, Step};

/// The answer to a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Reply code.
    pub code: u16,
    /// Enhanced status code (RFC 3463).
    pub enhanced: (u8, u8, u8),
    /// What the client reads, behind the recipient.
    pub text: &'static str,
    /// What the administrator should do, for the log.
    pub advice: &'static str,
}

/// The verdict on `fault`: the first row that fits.
#[must_use]
pub fn verdict(fault: Fault) -> Verdict {
    TABLE
        .iter()
        .find(|row| {
            (row.steps.is_empty() || row.steps.contains(&fault.step)) && row.errnos.contains(&fault.errno)
        })
        .map_or(UNLISTED, |row| row.verdict)
}

/// One row: any of these errnos at any of these steps (no steps: at every one).
struct Row {
    steps: &'static [Step],
    errnos: &'static [Errno],
    verdict: Verdict,
}

const fn internal(advice: &'static str) -> Verdict {
    Verdict { code: 451, enhanced: (4, 3, 0), text: "Temporary internal error", advice }
}

const fn mailbox(advice: &'static str) -> Verdict {
    Verdict { code: 451, enhanced: (4, 2, 0), text: "Mailbox is not available", advice }
}

const FULL: Verdict = Verdict {
    code: 452,
    enhanced: (4, 3, 1),
    text: "Insufficient system storage",
    advice: "the mail file system is full (bytes or inodes): free some, or add more",
};

const OVER_QUOTA: Verdict = Verdict {
    code: 552,
    enhanced: (5, 2, 2),
    text: "Quota exceeded (mailbox for user is full)",
    advice: "the user has reached the quota of the file system",
};

const UNLISTED: Verdict =
    internal("this error is not expected here: look at the kernel's log, and please report it");

const TABLE: &[Row] = &[
    Row {
        steps: &[Step::Record],
        errnos: &[Errno::TIME],
        verdict: Verdict {
            code: 451,
            enhanced: (4, 3, 1),
            text: "Mail storage is too slow at present",
            advice: "the mail file systems take longer to sync than the journal to fill: give them more speed, or raise \
                     maildir.journal_segment",
        },
    },
    Row {
        steps: &[Step::Record],
        errnos: &[Errno::NOSPC, Errno::DQUOT],
        verdict: Verdict {
            advice: "the disk of the journal has no room for a segment: see maildir.journal_dir",
            ..FULL
        },
    },
    Row {
        steps: &[Step::Checkpoint],
        errnos: &[Errno::NOSPC, Errno::DQUOT],
        verdict: Verdict {
            advice: "the mail file system had no room when it was synced: give it some",
            ..FULL
        },
    },
    Row {
        steps: &[Step::Checkpoint],
        errnos: &[Errno::IO, Errno::ROFS],
        verdict: internal(
            "a mail file system could not be synced: what is in the journal is written again until it can be; look \
             at the kernel's log",
        ),
    },
    Row { steps: &[], errnos: &[Errno::NOSPC], verdict: FULL },
    Row {
        steps: &[Step::SyncRound],
        errnos: &[Errno::DQUOT],
        verdict: internal(
            "a quota error came from a sync that covered many users: use durability = \"fsync\" where the file \
             system checks quotas late",
        ),
    },
    Row { steps: &[], errnos: &[Errno::DQUOT], verdict: OVER_QUOTA },
    Row {
        steps: &[Step::Identify],
        errnos: &[Errno::PERM, Errno::ACCESS],
        verdict: internal(
            "the server may not act as the mail owner: start it as root, or build the table with the uid and gid \
             that it runs as",
        ),
    },
    Row {
        steps: &[Step::OpenRoot],
        errnos: &[Errno::NOENT, Errno::NOTDIR, Errno::ACCESS],
        verdict: internal("maildir.root cannot be opened: is the mail file system mounted?"),
    },
    Row {
        steps: &[Step::OpenMailbox],
        errnos: &[Errno::NOENT],
        verdict: mailbox("the home or Maildir is missing: make it, or set maildir.create = true"),
    },
    Row {
        steps: &[Step::OpenMailbox],
        errnos: &[Errno::LOOP, Errno::XDEV],
        verdict: mailbox(
            "the path leads out of the mail root, or over a symbolic link within the home: mail is not delivered \
             through links; correct the user table",
        ),
    },
    Row {
        steps: &[Step::OpenMailbox, Step::MakeDirectory],
        errnos: &[Errno::NOTDIR, Errno::NAMETOOLONG, Errno::INVAL],
        verdict: mailbox("the path in the user table is not that of a directory: correct it"),
    },
    Row {
        steps: &[Step::OpenMailbox, Step::MakeDirectory, Step::Create, Step::Publish],
        errnos: &[Errno::ACCESS, Errno::PERM],
        verdict: mailbox(
            "the mail owner may not enter or write there: give the directory to the uid and gid of the user table",
        ),
    },
    Row {
        steps: &[Step::MakeDirectory, Step::Create, Step::Publish],
        errnos: &[Errno::NOENT, Errno::MLINK],
        verdict: mailbox("the Maildir was removed, or has too many entries, while mail was being delivered"),
    },
    Row {
        steps: &[Step::Publish],
        errnos: &[Errno::EXIST, Errno::XDEV, Errno::OPNOTSUPP],
        verdict: internal(
            "the file system cannot name the file: is tmp/ on the same file system as new/, and does it have links?",
        ),
    },
    Row {
        steps: &[],
        errnos: &[Errno::ROFS],
        verdict: internal("the mail file system is read-only: look at the kernel's log, then remount it"),
    },
    Row {
        steps: &[],
        errnos: &[Errno::IO, Errno::NXIO, Errno::NODEV, Errno::STALE, Errno::HOSTDOWN, Errno::TIMEDOUT],
        verdict: internal("the disk or file server reports an error: look at the kernel's log"),
    },
    Row {
        steps: &[],
        errnos: &[Errno::MFILE, Errno::NFILE],
        verdict: internal("out of file descriptors: raise LimitNOFILE, or lower limits.connections"),
    },
    Row {
        steps: &[],
        errnos: &[Errno::NOMEM, Errno::AGAIN, Errno::NOBUFS],
        verdict: internal("the system is out of memory or threads: raise the limits of the service"),
    },
    Row {
        steps: &[Step::Write],
        errnos: &[Errno::FBIG],
        verdict: internal("the file would be too large: raise LimitFSIZE, or lower limits.message_size"),
    },
    Row {
        steps: &[],
        errnos: &[Errno::INTR, Errno::CANCELED],
        verdict: internal("the server is going down"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every errno of Linux (asm-generic/errno.h ends at 133).
    fn errnos() -> impl Iterator<Item = Errno> {
        (1..=133).map(Errno::from_raw_os_error)
    }

    #[test]
    fn no_fault_is_permanent_but_a_quota_that_is_certainly_the_users() {
        for step in Step::ALL {
            for errno in errnos() {
                let found = verdict(Fault { step, errno });
                assert_eq!(u16::from(found.enhanced.0), found.code / 100, "{step:?} {errno:?}");
                let shared = [Step::SyncRound, Step::Record, Step::Checkpoint];
                let permanent = errno == Errno::DQUOT && !shared.contains(&step);
                assert_eq!(found.code >= 500, permanent, "{step:?} {errno:?}: {found:?}");
                assert!(!found.advice.is_empty() && found.text.is_ascii());
            }
        }
    }

    #[test]
    fn the_documented_codes_hold_at_every_step() {
        for step in Step::ALL {
            for (errno, code, enhanced) in [
                (Errno::NOSPC, 452, (4, 3, 1)),
                (Errno::ROFS, 451, (4, 3, 0)),
                (Errno::IO, 451, (4, 3, 0)),
                (Errno::MFILE, 451, (4, 3, 0)),
                (Errno::NFILE, 451, (4, 3, 0)),
                (Errno::NOMEM, 451, (4, 3, 0)),
            ] {
                let found = verdict(Fault { step, errno });
                assert_eq!((found.code, found.enhanced), (code, enhanced), "{step:?} {errno:?}");
            }
        }
        let missing_home = verdict(Fault { step: Step::OpenMailbox, errno: Errno::NOENT });
        assert_eq!((missing_home.code, missing_home.enhanced), (451, (4, 2, 0)));
        let quota = verdict(Fault { step: Step::Write, errno: Errno::DQUOT });
        assert_eq!((quota.code, quota.enhanced), (552, (5, 2, 2)));
    }

    #[test]
    fn every_row_is_reached_by_something() {
        for (index, row) in TABLE.iter().enumerate() {
            let steps = if row.steps.is_empty() { &Step::ALL[..] } else { row.steps };
            let reached = steps.iter().any(|&step| {
                row.errnos.iter().any(|&errno| {
                    let first = TABLE.iter().position(|row| {
                        (row.steps.is_empty() || row.steps.contains(&step)) && row.errnos.contains(&errno)
                    });
                    first == Some(index)
                })
            });
            assert!(reached, "row {index} is hidden by those before it");
        }
    }

    #[test]
    fn an_errno_that_nobody_thought_of_is_temporary_and_asks_for_a_report() {
        let found = verdict(Fault { step: Step::Write, errno: Errno::ILSEQ });
        assert_eq!(found, UNLISTED);
    }
}
