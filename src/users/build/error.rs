//! Why a table was not built.
#![forbid(unsafe_code)]

use crate::users::entry::{AliasFault, EntryFault};
use crate::users::expand::Trouble;
use crate::users::record::Damage;
use crate::users::table::TableError;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a table was not built.
#[derive(Debug)]
pub enum BuildError {
    /// What stands at the output's name is not a file that can be replaced.
    Occupied {
        /// The output.
        path: PathBuf,
    },
    /// A step on a file failed.
    File {
        /// The step, as a verb.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An entry cannot be a record.
    Entry {
        /// Its line.
        line: u64,
        /// Why.
        fault: EntryFault,
    },
    /// An alias cannot be a record.
    Alias {
        /// Its line.
        line: u64,
        /// Why.
        fault: AliasFault,
    },
    /// Lines that are good by themselves and not together, in their order.
    Conflicts(Vec<Conflict>),
    /// More than 256 TiB of records.
    Large,
    /// The seed crowds some block more than a search may read.
    Crowded,
    /// The table that was just written cannot be opened.
    Unreadable(TableError),
    /// A record that was just written cannot be read.
    Damaged(Damage),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Occupied { path } => write!(
                f,
                "cannot replace {}: it is not a regular file; choose another output",
                path.display()
            ),
            Self::File { step, path, source } => {
                write!(f, "cannot {step} {}: {source}", path.display())
            }
            Self::Entry { line, fault } => write!(f, "line {line}: {fault}; {}", fault.remedy()),
            Self::Alias { line, fault } => write!(f, "line {line}: {fault}; {}", fault.remedy()),
            Self::Conflicts(conflicts) => {
                write!(f, "{} lines contradict others", conflicts.len())?;
                conflicts.first().map_or(Ok(()), |first| write!(f, "; the first: {first}"))
            }
            Self::Large => f.write_str("the records need more than 256 TiB; split the table"),
            Self::Crowded => f.write_str("this seed spreads the addresses badly; take another one"),
            Self::Unreadable(error) => {
                write!(f, "the disk gave back another table than was written: {error}")
            }
            Self::Damaged(damage) => write!(f, "the disk gave back another table than was written: {damage}"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What is wrong with lines taken together. [`fmt::Display`] says on which line, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// An address is there twice, for two users or two aliases.
    Duplicate {
        /// The line of the second (or later) one.
        line: u64,
        /// The line of the first one.
        first_line: u64,
        /// The address, folded.
        address: String,
    },
    /// An alias does not lead to mailboxes.
    Alias {
        /// Its line.
        line: u64,
        /// Its address, folded.
        address: String,
        /// Why.
        trouble: Trouble,
    },
    /// There are more than the list has room for.
    More {
        /// So many more.
        count: u64,
    },
}

impl Conflict {
    /// The line to look at.
    pub fn line(&self) -> u64 {
        match self {
            Self::Duplicate { line, .. } | Self::Alias { line, .. } => *line,
            Self::More { .. } => u64::MAX,
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate { line, first_line, address } => {
                write!(f, "line {line}: {address} is on line {first_line} already; remove one of them")
            }
            Self::Alias { line, address, trouble } => {
                write!(f, "line {line}: {address}: {trouble}; {}", trouble.remedy())
            }
            Self::More { count } => write!(f, "and {count} more of the same kind"),
        }
    }
}
