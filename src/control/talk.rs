//! How commands talk to a running server: `control.sock` in its state directory.
//!
//! One request, a word on a line; one answer, a JSON object on a line; then the server closes. New requests are
//! new words, new facts are new members: who reads an answer takes no notice of those it does not know. Only
//! the server's own user (and root) may connect.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use serde::{Deserialize, Serialize};

use super::listen_error::ListenError;
use super::socket_file::{self, SocketFile};
use crate::limits;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Load the user table again; the answer comes when it is in use, or refused.
    Reload,
    /// Tell about the one in use.
    Status,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Whether what was asked is done.
    pub(super) ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    /// The table in use.
    pub(super) table: TableStatus,
}

/// The user table in use, and what became of those that were to replace it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableStatus {
    /// Where it was loaded from.
    pub(super) path: String,
    /// Users in it.
    pub(super) users: u64,
    /// Bytes of it, all in memory.
    pub(super) bytes: u64,
    /// When it was loaded, in Unix seconds.
    pub(super) loaded_at: u64,
    /// How long that took.
    pub(super) load_ms: u64,
    /// Tables that have replaced another one since the server started.
    pub(super) reloads: u64,
    /// Files that were refused since then.
    pub(super) refused: u64,
    /// Why the last one of them was.
    pub(super) last_refusal: Option<String>,
}

impl Request {
    const WORDS: [(&'static str, Self); 2] = [("reload", Self::Reload), ("status", Self::Status)];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, request)| *request == self).expect("every request has a word").0
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii_end();
        Self::WORDS.iter().find(|(word, _)| word.as_bytes() == line).map(|(_, request)| *request)
    }
}

/// Where the socket of a server with this state directory is.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// The server's end.
pub(super) struct Listener {
    socket: OwnedFd,
    /// Gone when the server no longer listens.
    _file: SocketFile,
    /// Who has not said all yet.
    clients: Vec<Client>,
    /// No descriptor was left for who comes next: until when they are left waiting.
    rests_until: Option<Instant>,
}

/// Somebody who has asked, or is about to.
pub(super) struct Client {
    stream: UnixStream,
    said: Vec<u8>,
}

impl Listener {
    /// Makes the socket.
    pub(super) fn open(state_dir: &Path) -> Result<Self, ListenError> {
        let (socket, file) = socket_file::listen(&path(state_dir), 0o600, None, None)?;
        Ok(Self { socket, _file: file, clients: Vec::new(), rests_until: None })
    }

    /// Everything that may become readable. While it rests nobody new is waited for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let socket = self.rests_until.is_none().then(|| self.socket.as_fd());
        socket.into_iter().chain(self.clients.iter().map(|client| client.stream.as_fd()))
    }

    /// When [`requests`](Self::requests) is to be called even if nothing has become readable.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Requests that have arrived, each with who gets the answer. Never waits.
    pub(super) fn requests(&mut self) -> Vec<(Request, Client)> {
        if self.rests_until.is_none_or(|until| until <= Instant::now()) {
            self.rests_until = self.accept().err().map(|_| Instant::now() + limits::ACCEPT_REST);
        }
        let mut requests = Vec::new();
        for mut client in std::mem::take(&mut self.clients) {
            match client.read() {
                Said::Nothing => self.clients.push(client),
                Said::Request(request) => requests.push((request, client)),
                Said::Garbage => {}
            }
        }
        requests
    }

    /// Takes all who wait.
    ///
    /// # Errors
    /// There is no descriptor left: who waits goes on waiting, and would be told of again at once, for ever.
    fn accept(&mut self) -> Result<(), Errno> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    // Who connects and says nothing makes room for who does.
                    if self.clients.len() == CLIENTS_MAX {
                        self.clients.remove(0);
                    }
                    self.clients.push(Client { stream: socket.into(), said: Vec::new() });
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }
}

enum Said {
    Nothing,
    Request(Request),
    Garbage,
}

impl Client {
    fn read(&mut self) -> Said {
        let mut bytes = [0; REQUEST_BYTES_MAX];
        loop {
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                return Request::parse(&self.said[..end]).map_or(Said::Garbage, Said::Request);
            }
            if self.said.len() > REQUEST_BYTES_MAX {
                return Said::Garbage;
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Said::Garbage,
                Ok(count) => self.said.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Said::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Said::Garbage,
            }
        }
    }

    /// Answers and closes. An answer fits the socket's buffer; who is gone needs none.
    pub(super) fn answer(mut self, answer: &Answer) {
        let mut line = serde_json::to_string(answer).expect("numbers and strings");
        line.push('\n');
        let _ = self.stream.write_all(line.as_bytes());
    }
}

/// Asks the server with this state directory, and waits for the answer.
///
/// # Errors
/// One sentence: nobody listens there, or the answer does not come or makes no sense.
pub(super) fn ask(state_dir: &Path, request: Request) -> Result<Answer, String> {
    let path = path(state_dir);
    let at = path.display();
    let mut stream = UnixStream::connect(&path).map_err(|error| {
        format!(
            "no server can be reached at {at}: {error}; is it running, with this state_dir and this user?"
        )
    })?;
    let lost = |error| format!("{at}: the server does not answer: {error}; its log says more");
    stream.set_read_timeout(Some(ANSWER_PATIENCE)).map_err(lost)?;
    stream.write_all(format!("{}\n", request.word()).as_bytes()).map_err(lost)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(lost)?;
    if answer.is_empty() {
        return Err(format!("{at}: the server has ended, or does not know this request; its log says more"));
    }
    serde_json::from_str(&answer)
        .map_err(|error| format!("{at}: the answer makes no sense: {error}; is it another version?"))
}

/// Clients that have not said all yet.
const CLIENTS_MAX: usize = 16;
/// No request is longer.
const REQUEST_BYTES_MAX: usize = 64;
/// How long a load may take: eight gigabytes from a slow disk.
const ANSWER_PATIENCE: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        let table = TableStatus { path: "/t".to_owned(), users: 3, ..TableStatus::default() };
        Answer { ok: true, error: None, table }
    }

    /// Waits until something is readable, and gives the requests.
    fn wait(listener: &mut Listener) -> Vec<(Request, Client)> {
        let mut ready: Vec<_> = listener
            .descriptors()
            .map(|fd| rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN))
            .collect();
        rustix::event::poll(&mut ready, None).unwrap();
        drop(ready);
        listener.requests()
    }

    #[test]
    fn a_request_is_heard_and_answered_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut listener = Listener::open(directory.path()).unwrap();
        for request in [Request::Reload, Request::Status] {
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| ask(directory.path(), request));
                let (heard, client) = loop {
                    if let Some(heard) = wait(&mut listener).pop() {
                        break heard;
                    }
                };
                assert_eq!(heard, request);
                client.answer(&answer());
                assert_eq!(asked.join().unwrap().unwrap(), answer());
            });
        }
        drop(listener);
        let refused = ask(directory.path(), Request::Status).unwrap_err();
        assert!(refused.contains("no server can be reached at"), "{refused}");
    }

    #[test]
    fn a_request_may_come_in_pieces_and_garbage_is_hung_up_on() {
        let directory = tempfile::tempdir().unwrap();
        let mut listener = Listener::open(directory.path()).unwrap();
        let connect = || UnixStream::connect(path(directory.path())).unwrap();
        let mut slow = connect();
        slow.write_all(b"sta").unwrap();
        assert!(wait(&mut listener).is_empty());
        slow.write_all(b"tus\n").unwrap();
        assert!(matches!(&*wait(&mut listener), [(Request::Status, _)]));
        for garbage in [&b"what\n"[..], &[b'x'; 2 * REQUEST_BYTES_MAX + 1]] {
            let mut client = connect();
            client.write_all(garbage).unwrap();
            assert!(wait(&mut listener).is_empty());
            assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
        }
    }

    #[test]
    fn after_a_failed_accept_it_rests_and_then_takes_who_has_waited() {
        let directory = tempfile::tempdir().unwrap();
        let mut listener = Listener::open(directory.path()).unwrap();
        let mut client = UnixStream::connect(path(directory.path())).unwrap();
        client.write_all(b"status\n").unwrap();
        listener.rests_until = Some(Instant::now() + Duration::from_secs(60));
        assert!(listener.requests().is_empty());
        assert_eq!(listener.descriptors().count(), 0, "a poll would return at once");
        listener.rests_until = Some(Instant::now());
        assert!(matches!(&*listener.requests(), [(Request::Status, _)]));
        assert_eq!((listener.rests_until(), listener.descriptors().count()), (None, 1));
    }

    #[test]
    fn who_connects_and_says_nothing_keeps_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut listener = Listener::open(directory.path()).unwrap();
        let silent: Vec<_> =
            (0..2 * CLIENTS_MAX).map(|_| UnixStream::connect(path(directory.path())).unwrap()).collect();
        let mut last = UnixStream::connect(path(directory.path())).unwrap();
        last.write_all(b"status\n").unwrap();
        assert!(matches!(&*wait(&mut listener), [(Request::Status, _)]));
        assert!(listener.clients.len() <= CLIENTS_MAX);
        drop(silent);
    }
}
