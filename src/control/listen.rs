//! Where mail comes in: sockets bound, or taken from systemd, and checked.
//!
//! Promises that every listener it returns is a listening stream socket, close-on-exec and nonblocking,
//! and that nobody could connect before mode and owner of a socket file were right. A socket file is
//! removed by the one who made it, when its [`Listener`] is dropped, and only while the name still leads
//! to that same file. Never accepts a connection, and never takes over an address that another server
//! answers on.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::config::{ListenAddress, ListenConfig, Service};
pub use super::listen_error::ListenError;
pub use super::socket_file::SocketFile;
use crate::sys::handed;

/// One socket that connections arrive at.
#[derive(Debug)]
pub struct Listener {
    /// The listening socket.
    pub fd: OwnedFd,
    /// The address, for logs: as in the configuration, with the port that the kernel chose if it was 0.
    pub name: String,
    /// What is spoken.
    pub service: Service,
    /// What kind of peers connect.
    pub family: Family,
    /// The socket file, if this process made one: removed when this is dropped.
    pub file: Option<SocketFile>,
}

/// The address family of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A socket file, or an abstract name from systemd.
    Unix,
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

/// What [`open`] opened.
#[derive(Debug)]
pub struct Opened {
    /// In the order of the configuration; a systemd name may stand for several.
    pub listeners: Vec<Listener>,
    /// Sentences for the log: descriptors that systemd handed over and nobody asked for.
    pub warnings: Vec<String>,
}

/// Opens every listener, or none. Call it once, before the process opens anything else: descriptors from
/// systemd can be taken once.
///
/// # Errors
/// The first listener that cannot be had; those opened before it are closed again.
pub fn open(configured: &[ListenConfig]) -> Result<Opened, ListenError> {
    let mut handed = handed::take().map_err(ListenError::HandOver)?;
    let names: Vec<String> = handed.iter().map(|(_, name)| name.clone()).collect();
    let mut listeners = Vec::with_capacity(configured.len());
    for one in configured {
        let service = one.service;
        match &one.address {
            ListenAddress::Unix { path, mode, user, group } => {
                let name = one.address.to_string();
                let (fd, file) = super::socket_file::listen(path, *mode, user.as_ref(), group.as_ref())?;
                listeners.push(Listener { fd, name, service, family: Family::Unix, file: Some(file) });
            }
            ListenAddress::Tcp { address } => listeners.push(tcp(*address, service)?),
            ListenAddress::Systemd { name } => {
                let (ours, others) = handed.into_iter().partition(|(_, other)| other == name);
                handed = others;
                listeners.extend(from_systemd(name, service, ours, &names)?);
            }
        }
    }
    let warnings = handed
        .iter()
        .map(|(_, name)| {
            format!(
                "systemd handed over a descriptor named {name:?} that no listener uses: add \
                 [[listen]] lmtp = \"systemd:{name}\", or remove it from the socket unit"
            )
        })
        .collect();
    Ok(Opened { listeners, warnings })
}

fn tcp(address: SocketAddr, service: Service) -> Result<Listener, ListenError> {
    let failed = |step| move |error| ListenError::Tcp { step, address, error };
    let (domain, family) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, Family::Inet),
        SocketAddr::V6(_) => (AddressFamily::INET6, Family::Inet6),
    };
    let fd = net::socket_with(domain, SocketType::STREAM, FLAGS, None).map_err(failed("create"))?;
    // A restart must not wait for connections of its predecessor to leave TIME_WAIT.
    sockopt::set_socket_reuseaddr(&fd, true).map_err(failed("set SO_REUSEADDR on"))?;
    // Replies go out as soon as they are written; accepted sockets inherit this (tcp(7)).
    sockopt::set_tcp_nodelay(&fd, true).map_err(failed("set TCP_NODELAY on"))?;
    if family == Family::Inet6 {
        // "[::]" means IPv6 whatever net.ipv6.bindv6only says, so that "0.0.0.0" can stand beside it.
        sockopt::set_ipv6_v6only(&fd, true).map_err(failed("set IPV6_V6ONLY on"))?;
    }
    net::bind(&fd, &address).map_err(failed("bind"))?;
    net::listen(&fd, BACKLOG).map_err(failed("listen on"))?;
    let bound = net::getsockname(&fd).map_err(failed("ask the port of"))?;
    let address = SocketAddr::try_from(bound).unwrap_or(address);
    Ok(Listener { fd, name: format!("tcp:{address}"), service, family, file: None })
}

/// The descriptors named `name`, checked: a unit file can hand over anything.
fn from_systemd(
    name: &str,
    service: Service,
    ours: Vec<(OwnedFd, String)>,
    handed: &[String],
) -> Result<Vec<Listener>, ListenError> {
    if ours.is_empty() {
        return Err(ListenError::NotHanded { name: name.to_owned(), handed: handed.to_vec() });
    }
    ours.into_iter()
        .map(|(fd, name)| {
            let family = checked(&fd).map_err(|reason| ListenError::Unfit { name: name.clone(), reason })?;
            Ok(Listener { fd, name: format!("systemd:{name}"), service, family, file: None })
        })
        .collect()
}

/// What kind of listening stream socket this is, made nonblocking; or what it is instead.
fn checked(fd: &OwnedFd) -> Result<Family, String> {
    match sockopt::socket_type(fd) {
        Ok(SocketType::STREAM) => {}
        Ok(_) => return Err("it is no stream socket: use ListenStream=".to_owned()),
        Err(Errno::NOTSOCK) => return Err("it is no socket".to_owned()),
        Err(error) => return Err(format!("its type cannot be read: {error}")),
    }
    if !matches!(sockopt::socket_acceptconn(fd), Ok(true)) {
        return Err("it does not listen: use Accept=no".to_owned());
    }
    let family = match sockopt::socket_domain(fd) {
        Ok(AddressFamily::UNIX) => Family::Unix,
        Ok(AddressFamily::INET) => Family::Inet,
        Ok(AddressFamily::INET6) => Family::Inet6,
        _ => return Err("it is neither a Unix nor an IPv4 or IPv6 socket".to_owned()),
    };
    let flags = fcntl_getfl(fd).map_err(|error| format!("its flags cannot be read: {error}"))?;
    fcntl_setfl(fd, flags | OFlags::NONBLOCK)
        .map_err(|error| format!("it cannot be made nonblocking: {error}"))?;
    Ok(family)
}

/// Connections that wait for a worker; the kernel caps it at net.core.somaxconn, 4096 since Linux 5.4.
pub(super) const BACKLOG: i32 = 4_096;
/// How every socket of ours is made.
pub(super) const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
