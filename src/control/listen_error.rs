//! Why a listener could not be had, each with its remedy.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why the server cannot listen where it was told to.
#[derive(Debug)]
pub enum ListenError {
    /// The directory of a socket file cannot be entered.
    Directory {
        /// The directory.
        path: PathBuf,
        /// ENOENT, ENOTDIR, EACCES.
        error: Errno,
    },
    /// Something that is no stream socket has the name of a socket file.
    InTheWay {
        /// The name.
        path: PathBuf,
    },
    /// A server answers on the socket file.
    InUse {
        /// The socket file.
        path: PathBuf,
    },
    /// A step on the way to a listening socket file failed.
    Unix {
        /// What was tried, as a verb.
        step: &'static str,
        /// The socket file.
        path: PathBuf,
        /// What the kernel said.
        error: Errno,
    },
    /// A step on the way to a listening TCP socket failed.
    Tcp {
        /// What was tried, as a verb.
        step: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        error: Errno,
    },
    /// The variables that announce systemd's descriptors are wrong.
    HandOver(io::Error),
    /// No descriptor of this name was handed over.
    NotHanded {
        /// The name asked for.
        name: String,
        /// The names there are.
        handed: Vec<String>,
    },
    /// A descriptor was handed over that is no listening stream socket.
    Unfit {
        /// Its name.
        name: String,
        /// What it is instead.
        reason: String,
    },
}

impl fmt::Display for ListenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, error } => write!(
                out,
                "cannot enter {}, the directory of the socket: {error}; {}",
                path.display(),
                directory_remedy(*error)
            ),
            Self::InTheWay { path } => write!(
                out,
                "{} exists and is no stream socket: move it away, or give the listener another path",
                path.display()
            ),
            Self::InUse { path } => write!(
                out,
                "another server listens on {}: stop it, or give this one another path",
                path.display()
            ),
            Self::Unix { step, path, error } => {
                write!(out, "cannot {step} {}: {error}", path.display())?;
                remedy(out, &unix_remedy(*error, path))
            }
            Self::Tcp { step, address, error } => {
                write!(out, "cannot {step} tcp:{address}: {error}")?;
                remedy(out, tcp_remedy(*error))
            }
            Self::HandOver(error) => write!(
                out,
                "cannot take the sockets of systemd: {error}; LISTEN_FDS, LISTEN_FDNAMES and the open \
                 descriptors must agree"
            ),
            Self::NotHanded { name, handed } if handed.is_empty() => write!(
                out,
                "systemd handed over no socket, but systemd:{name} is configured: start posthaste.socket, \
                 or configure unix: or tcp:"
            ),
            Self::NotHanded { name, handed } => write!(
                out,
                "systemd handed over no socket named {name:?}; the names it gave are {handed:?}: set \
                 FileDescriptorName= in the socket unit, or change the listener"
            ),
            Self::Unfit { name, reason } => {
                write!(out, "cannot use the descriptor {name:?} that systemd handed over: {reason}")
            }
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Directory { error, .. } | Self::Unix { error, .. } | Self::Tcp { error, .. } => Some(error),
            Self::HandOver(error) => Some(error),
            Self::InTheWay { .. } | Self::InUse { .. } | Self::NotHanded { .. } | Self::Unfit { .. } => None,
        }
    }
}

fn remedy(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if text.is_empty() { Ok(()) } else { write!(out, "; {text}") }
}

fn directory_remedy(error: Errno) -> &'static str {
    match error {
        Errno::NOENT => "create it first, with an owner who may decide who connects",
        Errno::NOTDIR => "a part of this path is a file",
        Errno::ACCESS => "let the server's user search every directory of this path",
        _ => "check the path",
    }
}

fn unix_remedy(error: Errno, path: &Path) -> String {
    let directory = path.parent().unwrap_or(path).display();
    match error {
        Errno::ACCESS => format!("let the server's user write to {directory}"),
        Errno::ROFS => format!("{directory} is read-only: ReadWritePaths= in the unit, or another path"),
        Errno::PERM => {
            "only root may give a socket to another user or group: start the server as root, or remove \
             `user` and `group`"
                .to_owned()
        }
        Errno::ADDRINUSE => "another process made it just now: is the server started twice?".to_owned(),
        _ => String::new(),
    }
}

fn tcp_remedy(error: Errno) -> &'static str {
    match error {
        Errno::ADDRINUSE => "another server listens there: stop it, or choose another port",
        Errno::ADDRNOTAVAIL => "no interface of this host has this address",
        Errno::ACCESS => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        Errno::AFNOSUPPORT => "this kernel has this address family switched off",
        _ => "",
    }
}
