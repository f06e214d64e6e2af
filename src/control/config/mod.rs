//! The configuration: one TOML file in, one [`Config`] out that cannot be wrong.
//!
//! Owns every key, its default and its bounds ([`KEYS`] names them all). Promises that a [`Config`] that
//! came out of [`Config::parse`] needs no further check inside the file: paths are absolute, accounts are
//! numbers, sizes and durations lie within their bounds, listeners are distinct. All problems of a file
//! are reported together, each with line and column. Never looks at anything the file only names (the
//! user table, directories, sockets): that is for [`super::check`] and for those who open them.
#![forbid(unsafe_code)]

mod keys;
mod listener;
mod read;
mod report;
mod section;
mod unit;
mod write;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use keys::KEYS;
pub use report::{ConfigError, Problem};

pub use crate::lmtp::replies::UnknownDomain;
pub use crate::mail::line_ends::LineEndings;
pub use crate::maildir::Durability;
pub use crate::observe::log::LogDeliveries;
pub use crate::serve::accept::Service;
use crate::sys::{account, cpu};

/// Everything the server is told before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name in the greeting, in `Received` and in Maildir file names: printable ASCII without spaces.
    pub hostname: String,
    /// Where mail for `<postmaster>` without a domain goes (RFC 5321 section 4.5.1): `local@domain`.
    pub postmaster: String,
    /// Absolute path of the directory for what must survive a restart.
    pub state_dir: PathBuf,
    /// Worker threads, at least one.
    pub workers: usize,
    /// Where connections come from: at least one, no two the same.
    pub listen: Vec<ListenConfig>,
    /// `[users]`: whose mail this is.
    pub users: Users,
    /// `[maildir]`: how messages are stored.
    pub maildir: Maildir,
    /// `[limits]`: what one client may cost.
    pub limits: Limits,
    /// `[log]`: what is written about it.
    pub log: Log,
}

/// One `[[listen]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenConfig {
    /// What is spoken there: which of the keys `lmtp` and `map` has the address.
    pub service: Service,
    /// Where.
    pub address: ListenAddress,
}

/// Where connections come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `unix:PATH`: a socket file that the server makes and removes.
    Unix {
        /// Absolute, at most 107 bytes (`sun_path` of unix(7)).
        path: PathBuf,
        /// Permission bits of the socket file, at most 0o777. Connecting needs write permission.
        mode: u32,
        /// Owner of the socket file; the server's own user if absent.
        user: Option<Account>,
        /// Group of the socket file; the server's own group if absent.
        group: Option<Account>,
    },
    /// `tcp:HOST:PORT`: a literal address. An IPv6 listener takes IPv6 connections only.
    Tcp {
        /// The address to bind; port 0 lets the kernel choose.
        address: SocketAddr,
    },
    /// `systemd:NAME`: every descriptor handed over under this name (`FileDescriptorName=`).
    Systemd {
        /// The name, as in `LISTEN_FDNAMES`.
        name: String,
    },
}

/// A user or a group of this host, found when the file was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As written in the file.
    pub name: String,
    /// The number behind it.
    pub id: u32,
}

/// `[users]`: the table of mailboxes and how addresses are looked up in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    /// Absolute path of the compiled table.
    pub table: PathBuf,
    /// Where the server's own copy of it stands.
    pub keep_in: KeepIn,
    /// Lock that copy in memory.
    pub lock_memory: bool,
    /// Characters that end the user part of a local part; each is an ASCII special, none twice. Empty:
    /// addresses have no detail.
    pub recipient_delimiter: String,
    /// Domains, in lower case, in which the local part alone is looked up as well.
    pub local_domains: Vec<String>,
    /// What an address in a domain without users is told.
    pub unknown_domain: UnknownDomain,
}

/// Where the server keeps the copy of the user table that it answers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepIn {
    /// In memory that belongs to no file.
    Memory,
    /// In a file without a name in [`Config::state_dir`].
    File,
}

/// `[maildir]`: how messages become files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maildir {
    /// What must have happened before a delivery is acknowledged.
    pub durability: Durability,
    /// Which line endings the files get.
    pub line_endings: LineEndings,
    /// Make a missing Maildir on first delivery.
    pub create: bool,
    /// Deliver to the folder that the detail of an address names.
    pub detail_to_folder: bool,
    /// Make a missing folder on first delivery.
    pub create_folder: bool,
    /// Let recipients of one message share a hard-linked file when owner and file system allow it.
    pub single_instance: bool,
    /// When set, every home lies beneath this absolute path, whatever the user table says.
    pub root: Option<PathBuf>,
    /// Bytes above which a message is written to its file while it arrives; at most a quarter of
    /// [`Limits::buffers`].
    pub stream_above: u64,
    /// Absolute path of the directory of the journal.
    pub journal_dir: PathBuf,
    /// Bytes up to which a message goes through the journal; at most a quarter of `journal_segment`.
    pub journal_message_max: u64,
    /// Length of a journal segment in bytes, a multiple of 4096.
    pub journal_segment: u64,
    /// Age at which a segment is not written to any more, so that its files are synced and it is free again.
    pub checkpoint_interval: Duration,
}

/// `[limits]`: bounds on what one client, or all together, may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes as received (announced as SIZE, RFC 1870).
    pub message_size: u64,
    /// Recipients of one transaction, all workers alike.
    pub recipients: usize,
    /// Connections of the whole server at one time.
    pub connections: usize,
    /// A client that sends nothing for this long is told 421 4.4.2.
    pub idle_timeout: Duration,
    /// From MAIL to the last reply.
    pub transaction_timeout: Duration,
    /// Bytes a second below which an arriving message is given up; 0 allows any rate.
    pub data_rate_min: u64,
    /// Memory of one worker's receive buffers, in bytes.
    pub buffers: u64,
    /// Consecutive bad commands after which a client is told 421 4.7.0.
    pub bad_commands: u32,
}

/// `[log]`: what is written about deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Which final replies get a line.
    pub deliveries: LogDeliveries,
}

/// What the parser asks the machine: defaults that depend on it, and its accounts.
///
/// A value, so that a test can say what the machine answers.
#[derive(Debug, Clone)]
pub struct Host {
    /// The system's host name, the default of `hostname`.
    pub hostname: String,
    /// CPUs that the process may use, the default of `workers`.
    pub cpus: usize,
    /// The number of a user, `None` if there is no such user.
    pub user: fn(&str) -> std::io::Result<Option<u32>>,
    /// The number of a group, `None` if there is no such group.
    pub group: fn(&str) -> std::io::Result<Option<u32>>,
}

impl Host {
    /// The machine this process runs on.
    #[must_use]
    pub fn this() -> Self {
        let name = rustix::system::uname();
        Self {
            hostname: name.nodename().to_string_lossy().into_owned(),
            cpus: cpu::allowed().len(),
            user: account::user_id,
            group: account::group_id,
        }
    }
}

impl Config {
    /// Reads and parses the file at `path`, with the defaults of this machine.
    ///
    /// # Errors
    /// The file cannot be read or is not UTF-8, or it has problems: all of them.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_path_buf(), error })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses `text`; `origin` is what messages call it.
    ///
    /// # Errors
    /// All problems of the text together.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Self::parse_for(&Host::this(), text, origin)
    }

    /// Parses `text` for a machine that answers as `host` does.
    ///
    /// # Errors
    /// All problems of the text together.
    pub fn parse_for(host: &Host, text: &str, origin: &str) -> Result<Self, ConfigError> {
        read::parse(host, text).map_err(|problems| ConfigError::Invalid {
            origin: origin.to_owned(),
            text: text.to_owned(),
            problems,
        })
    }

    /// The effective configuration, every default filled in, as TOML that parses to the same value.
    #[must_use]
    pub fn to_toml(&self) -> String {
        write::to_toml(self)
    }
}

impl std::fmt::Display for Config {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.to_toml())
    }
}

impl std::fmt::Display for ListenAddress {
    /// The address as the keys `lmtp` and `map` spell it.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix { path, .. } => write!(out, "unix:{}", path.display()),
            Self::Tcp { address } => write!(out, "tcp:{address}"),
            Self::Systemd { name } => write!(out, "systemd:{name}"),
        }
    }
}
