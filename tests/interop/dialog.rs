//! A small client for SMTP and LMTP, and for its cousin IMAP.
//!
//! It says exactly what it is told, so that a test reads like the session that it describes. It never retries.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::messages::dot_stuffed;

/// One connection.
pub(crate) struct Client {
    stream: BufReader<Box<dyn ReadWrite>>,
}

/// Anything that can be talked to.
trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// A complete reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    /// The texts of all lines.
    pub(crate) text: String,
}

impl Client {
    /// Connects over a Unix socket and reads the greeting.
    pub(crate) fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        Self::greeted(Box::new(stream))
    }

    /// Connects over TCP and reads the greeting.
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        Self::greeted(Box::new(tcp_stream(address)))
    }

    fn greeted(stream: Box<dyn ReadWrite>) -> Self {
        let mut client = Self { stream: BufReader::new(stream) };
        let greeting = client.reply();
        assert_eq!(greeting.code, 220, "{greeting:?}");
        client
    }

    /// Sends one line and reads its reply.
    pub(crate) fn say(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends one line; fails the test unless the reply has this code.
    pub(crate) fn expect(&mut self, line: &str, code: u16) -> Reply {
        let reply = self.say(line);
        assert_eq!(reply.code, code, "{line}: {reply:?}");
        reply
    }

    /// Envelope and content of one message; `replies` are awaited after its end (LMTP: one per recipient).
    pub(crate) fn transaction<S: AsRef<str>>(
        &mut self,
        from: &str,
        to: &[S],
        content: &[u8],
        replies: usize,
    ) -> Vec<Reply> {
        self.expect(&format!("MAIL FROM:<{from}> BODY=8BITMIME"), 250);
        for recipient in to {
            self.expect(&format!("RCPT TO:<{}>", recipient.as_ref()), 250);
        }
        self.expect("DATA", 354);
        self.send(&dot_stuffed(content));
        (0..replies).map(|_| self.reply()).collect()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("a peer that reads");
    }

    /// Reads one reply (RFC 5321 section 4.2.1: the last line has a space after the code).
    pub(crate) fn reply(&mut self) -> Reply {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("a reply in time");
            assert!(line.len() >= 4 && line.ends_with("\r\n"), "not a reply: {line:?}");
            text.push_str(line[4..].trim_end());
            if line.as_bytes()[3] == b' ' {
                return Reply { code: line[..3].parse().expect("a code"), text };
            }
            text.push('\n');
        }
    }
}

/// An IMAP session (RFC 3501) that can log in, select and fetch.
pub(crate) struct Imap {
    stream: BufReader<TcpStream>,
}

/// A message as IMAP gave it.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) size: usize,
    pub(crate) body: Vec<u8>,
}

impl Imap {
    /// Connects and logs in.
    pub(crate) fn login(address: SocketAddr, user: &str, password: &str) -> Self {
        let mut imap = Self { stream: BufReader::new(tcp_stream(address)) };
        let greeting = imap.line();
        assert!(greeting.starts_with("* OK"), "{greeting}");
        imap.command(&format!("LOGIN \"{user}\" \"{password}\""), |_, _| ());
        imap
    }

    /// The names of all mailboxes.
    pub(crate) fn list(&mut self) -> Vec<String> {
        self.names("LIST \"\" *")
    }

    /// The names of all mailboxes that the user has subscribed to.
    pub(crate) fn subscribed(&mut self) -> Vec<String> {
        self.names("LSUB \"\" *")
    }

    /// Names without spaces.
    fn names(&mut self, command: &str) -> Vec<String> {
        let mut names = Vec::new();
        self.command(command, |line, _| {
            names.push(line.rsplit(' ').next().expect("a name").trim().replace('"', ""));
        });
        names.sort();
        names
    }

    /// Makes a mailbox, whose name is in modified UTF-7.
    pub(crate) fn create(&mut self, mailbox: &str) {
        self.command(&format!("CREATE \"{mailbox}\""), |_, _| ());
    }

    /// Size and body of every message of INBOX.
    pub(crate) fn fetch_inbox(&mut self) -> Vec<Fetched> {
        self.fetch("INBOX")
    }

    /// Size and body of every message of a mailbox.
    ///
    /// The sizes are asked for first, alone: then they come from the file names, and a name that lied shows when the
    /// bodies follow. Asked for together, a server may simply count.
    pub(crate) fn fetch(&mut self, mailbox: &str) -> Vec<Fetched> {
        self.command(&format!("SELECT \"{mailbox}\""), |_, _| ());
        let mut sizes = Vec::new();
        self.command("FETCH 1:* (RFC822.SIZE)", |line, _| {
            let size = line.split("RFC822.SIZE ").nth(1).and_then(|rest| rest.split([' ', ')']).next());
            sizes.extend(size.map(|size| size.parse::<usize>().expect("a size")));
        });
        let mut bodies = Vec::new();
        self.command("FETCH 1:* (BODY.PEEK[])", |_, literal| {
            bodies.extend(literal);
        });
        assert_eq!(sizes.len(), bodies.len(), "one size for every body");
        sizes.into_iter().zip(bodies).map(|(size, body)| Fetched { size, body }).collect()
    }

    /// Ends the session.
    pub(crate) fn logout(mut self) {
        self.command("LOGOUT", |_, _| ());
    }

    /// Sends a command, hands every untagged line (and its literal) to `each`, and checks that it ended with OK.
    fn command(&mut self, command: &str, mut each: impl FnMut(&str, Option<Vec<u8>>)) {
        self.stream.get_mut().write_all(format!("t {command}\r\n").as_bytes()).expect("a peer that reads");
        loop {
            let line = self.line();
            if let Some(result) = line.strip_prefix("t ") {
                assert!(result.starts_with("OK"), "{command}: {result}");
                return;
            }
            let length =
                line.trim_end().strip_suffix('}').and_then(|rest| rest.rsplit('{').next()?.parse().ok());
            let literal = length.map(|length: usize| {
                let mut bytes = vec![0; length];
                self.stream.read_exact(&mut bytes).expect("a whole literal");
                bytes
            });
            each(&line, literal);
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).expect("a line in time");
        assert!(read > 0, "the IMAP server closed the connection");
        line
    }
}

fn tcp_stream(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// How long a reply may take; a disk that has to sync gigabytes is the slowest that is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
