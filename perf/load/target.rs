//! Where the generator connects to, and where the sink listens.
//!
//! Owns addresses and the two kinds of stream behind one face. Never knows what is said over them.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::net::{TcpStream, UnixStream};

/// An address: `unix:PATH` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host name or IP address, with a port.
    Tcp(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("the path after unix: is missing".into()),
                // unix(7): 108 with the octet that ends it.
                108.. => Err("the path of a Unix socket has at most 107 bytes".into()),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        let text = text.strip_prefix("tcp:").unwrap_or(text);
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        match port.map(|(_, port)| port.parse::<u16>()) {
            Some(Ok(1..)) => Ok(Self::Tcp(text.to_owned())),
            _ if text.starts_with('/') => Err(format!("a path needs its kind: unix:{text}")),
            _ => Err("say unix:PATH or HOST:PORT, as in 127.0.0.1:2424 or [::1]:2424".into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

impl Target {
    /// The address with the name looked up, once, so that no look-up is part of what is measured.
    pub(crate) fn resolve(&self) -> Result<Endpoint, String> {
        match self {
            Self::Unix(path) => Ok(Endpoint::Unix(path.clone())),
            Self::Tcp(address) => {
                let mut found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
                found.next().map(Endpoint::Tcp).ok_or_else(|| format!("{address}: the name has no address"))
            }
        }
    }
}

/// A target that can be connected to.
#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// One connection, of either kind.
pub(crate) struct Stream {
    socket: Socket,
    cut: Cell<bool>,
    /// Since when somebody has been waiting for the peer, by whatever clock he uses.
    pub(crate) waits_since: Cell<Option<u64>>,
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Connects.
    pub(crate) async fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        let socket = match endpoint {
            Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
            Endpoint::Tcp(address) => Socket::tcp(TcpStream::connect(*address).await?)?,
        };
        Ok(Self::new(socket))
    }

    /// Takes a connection that was accepted into the ring of this thread.
    pub(crate) fn accept(accepted: Accepted) -> io::Result<Self> {
        Ok(Self::new(match accepted {
            Accepted::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)),
            Accepted::Tcp(stream) => Socket::tcp(TcpStream::from_std(stream))?,
        }))
    }

    fn new(socket: Socket) -> Self {
        Self { socket, cut: Cell::new(false), waits_since: Cell::new(None) }
    }

    /// Appends to `buffer` what is there, waiting for something; appending nothing means that the peer has closed.
    pub(crate) async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        if buffer.capacity() == buffer.len() {
            buffer.reserve(READ_BYTES);
        }
        let filled = buffer.len();
        let slice = buffer.slice(filled..);
        let (result, slice) = match &self.socket {
            Socket::Unix(stream) => stream.read(slice).await,
            Socket::Tcp(stream) => stream.read(slice).await,
        };
        (result.map(drop), slice.into_inner())
    }

    /// Writes all of `buffer` and gives it back empty.
    pub(crate) async fn write(&self, buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let (result, mut buffer) = match &self.socket {
            Socket::Unix(stream) => stream.write_all(buffer).await,
            Socket::Tcp(stream) => stream.write_all(buffer).await,
        };
        buffer.clear();
        (result, buffer)
    }

    /// Ends the connection under whoever waits for it.
    pub(crate) fn cut(&self) {
        self.cut.set(true);
        // A connection that is closed already is what was wanted.
        let _ = match &self.socket {
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Whether it was this side that ended it.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.get()
    }
}

impl Socket {
    /// Commands are written whole, so nothing is won by waiting for more.
    fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }
}

/// Listens at `endpoint`, and hands over every connection. A socket file that nobody listens at is replaced.
///
/// Accepting is left to a thread of its own: tokio-uring asks for SO_REUSEPORT when it binds, which newer kernels refuse
/// for Unix sockets.
pub(crate) fn listen(endpoint: &Endpoint) -> io::Result<UnboundedReceiver<Accepted>> {
    let (sender, receiver) = unbounded_channel();
    match endpoint {
        Endpoint::Unix(path) => {
            remove_left_over(path)?;
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            std::thread::spawn(move || {
                listener.incoming().try_for_each(|each| pass(each.map(Accepted::Unix), &sender))
            });
        }
        Endpoint::Tcp(address) => {
            let listener = std::net::TcpListener::bind(*address)?;
            std::thread::spawn(move || {
                listener.incoming().try_for_each(|each| pass(each.map(Accepted::Tcp), &sender))
            });
        }
    }
    Ok(receiver)
}

/// A connection that no ring knows yet.
pub(crate) enum Accepted {
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
    /// Over TCP.
    Tcp(std::net::TcpStream),
}

/// Without anybody to take connections there is no more need for them.
fn pass(accepted: io::Result<Accepted>, to: &UnboundedSender<Accepted>) -> Result<(), ()> {
    match accepted {
        Ok(accepted) => to.send(accepted).map_err(drop),
        Err(error) => {
            eprintln!("posthaste-load: sink: {error}");
            // Out of descriptors, most likely, and not for ever.
            std::thread::sleep(ACCEPT_PAUSE);
            Ok(())
        }
    }
}

fn remove_left_over(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Room for what one read may bring.
const READ_BYTES: usize = 16 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_and_say_what_they_were() {
        for text in ["unix:/run/lmtp", "127.0.0.1:2424", "[::1]:24", "mx.example.net:24"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("tcp:localhost:24".parse(), Ok(Target::Tcp("localhost:24".into())));
    }

    #[test]
    fn an_address_that_cannot_be_one_is_refused_with_a_remedy() {
        assert!("/run/lmtp".parse::<Target>().unwrap_err().contains("unix:/run/lmtp"));
        for text in ["", "unix:", "host", "host:", ":24", "host:99999", "host:0"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        assert!(format!("unix:/{}", "x".repeat(107)).parse::<Target>().unwrap_err().contains("107"));
    }
}
