//! A raw LMTP client: it sends what it is told, byte for byte, and reads replies. It never retries.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::ground::DOMAIN;

/// One connection.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects, and reads nothing.
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("a server that listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Self { stream: BufReader::new(stream) }
    }

    /// Connects, and has been greeted and greeted back.
    pub(crate) fn greeted(socket: &Path) -> Self {
        let mut client = Self::connect(socket);
        assert_starts(&client.reply(), "220 ");
        assert_starts(&client.say("LHLO client.example.test"), "250 ");
        client
    }

    /// The stream itself.
    pub(crate) fn stream(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("a server that reads");
    }

    /// Reads one reply and returns its last line; `None` when the server has closed the connection.
    pub(crate) fn try_reply(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply: {error}"),
            }
            // RFC 5321 section 4.2.1: the last line has a space behind the code.
            if line.as_bytes().get(3) == Some(&b' ') {
                return Some(line.trim_end().to_owned());
            }
        }
    }

    /// Reads one reply.
    pub(crate) fn reply(&mut self) -> String {
        self.try_reply().expect("a server that does not hang up")
    }

    /// Sends one line and reads its reply.
    pub(crate) fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Begins a message to `users` and is asked for it.
    pub(crate) fn begin(&mut self, users: &[&str]) {
        assert_starts(&self.say("MAIL FROM:<sender@example.org>"), "250 ");
        for user in users {
            assert_starts(&self.say(&format!("RCPT TO:<{user}@{DOMAIN}>")), "250 2.1.5");
        }
        assert_starts(&self.say("DATA"), "354 ");
    }

    /// Delivers `message`, which needs no dot-stuffing and ends with CRLF; a reply for each user.
    pub(crate) fn deliver(&mut self, users: &[&str], message: &[u8]) -> Vec<String> {
        self.begin(users);
        self.send(message);
        self.send(b".\r\n");
        users.iter().map(|_| self.reply()).collect()
    }

    /// Says goodbye, and waits until the server has closed.
    pub(crate) fn quit(mut self) {
        assert_starts(&self.say("QUIT"), "221 ");
        assert_eq!(self.try_reply(), None, "the server closes after QUIT");
    }
}

/// Commands and data of a whole transaction, for clients that wait for nothing.
pub(crate) fn blast(user: &str, message: &[u8]) -> Vec<u8> {
    let commands =
        format!("MAIL FROM:<sender@example.org>\r\nRCPT TO:<{user}@{DOMAIN}>\r\nDATA\r\n").into_bytes();
    [&commands, message, b".\r\n"].concat()
}

/// A message of about `bytes` bytes whose every line tells `mark`; no dot begins a line.
pub(crate) fn message(mark: &str, bytes: usize) -> Vec<u8> {
    let mut text = format!("Subject: {mark}\r\n\r\n").into_bytes();
    let mut number = 0;
    while text.len() < bytes {
        number += 1;
        text.extend_from_slice(
            format!("line {number} of {mark} goes on to about sixty bytes\r\n").as_bytes(),
        );
    }
    text
}

/// Fails unless `reply` begins with `start`.
#[track_caller]
pub(crate) fn assert_starts(reply: &str, start: &str) {
    assert!(reply.starts_with(start), "expected {start:?}, got {reply:?}");
}

/// How long a reply may take: far longer than the worst disk needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
