//! Load as Postfix makes it: several connections, each with one transaction after the other, all recipients of a
//! message in one, commands in a batch (PIPELINING). Notes for each recipient what became of him, and when.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::ground::DOMAIN;
use crate::message::{self, message};
use crate::random::Random;

/// A message on its way: its number, and its recipients as indices of the users.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) number: u64,
    pub(crate) to: Vec<usize>,
}

/// What became of one recipient of one message.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) number: u64,
    pub(crate) user: usize,
    pub(crate) reply: Reply,
}

/// What the client heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// 250, and the time at which it had been read.
    Saved(usize),
    /// Another reply.
    Refused(String),
    /// Nothing: the connection ended.
    None,
}

/// `count` letters, of run `run`, to one to three of `users` users each.
pub(crate) fn letters(run: u64, count: u64, users: usize, random: &mut Random) -> Vec<Letter> {
    let letter = |index: u64| {
        let first = random.below(users);
        let to = (0..=random.below(3)).map(|more| (first + more * 5) % users).collect();
        Letter { number: message::number(run, index), to }
    };
    (0..count).map(letter).collect()
}

/// Sends `letters` over `sessions` connections at once and returns what became of each recipient, in no order.
/// A connection that breaks ends its part of the load; what it has not sent is not in the answers. `clock` is read
/// at every reply.
pub(crate) fn send(
    socket: &Path,
    sessions: usize,
    letters: &[Letter],
    clock: impl Fn() -> usize + Sync,
) -> Vec<Answer> {
    let waiting = Mutex::new(letters.iter());
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..sessions {
            scope.spawn(|| {
                let Some(mut session) = Session::open(socket) else { return };
                loop {
                    // The lock is held for the choice only.
                    let letter = waiting.lock().expect("nobody panics with it").next();
                    let Some(letter) = letter else { return };
                    let replies = session.transact(letter, &clock);
                    let broken = replies.contains(&Reply::None);
                    let of_letter = letter.to.iter().zip(replies);
                    answers.lock().expect("nobody panics with it").extend(
                        of_letter.map(|(&user, reply)| Answer { number: letter.number, user, reply }),
                    );
                    if broken {
                        return;
                    }
                }
            });
        }
    });
    answers.into_inner().expect("nobody panicked with it")
}

/// The name of user `index`.
pub(crate) fn user(index: usize) -> String {
    format!("user{index}")
}

struct Session(BufReader<UnixStream>);

impl Session {
    /// Connects and is greeted; `None` if there is nobody.
    fn open(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        let mut session = Self(BufReader::new(stream));
        session.reply()?;
        session.send(b"LHLO client.example.test\r\n")?;
        session.reply()?;
        Some(session)
    }

    /// Sends one message: a reply for each recipient.
    fn transact(&mut self, letter: &Letter, clock: impl Fn() -> usize) -> Vec<Reply> {
        let mut replies = Vec::new();
        if self.begin(letter).is_some() {
            for _ in &letter.to {
                let Some(reply) = self.reply() else { break };
                replies.push(if reply.starts_with("250 ") {
                    Reply::Saved(clock())
                } else {
                    Reply::Refused(reply)
                });
            }
        }
        replies.resize(letter.to.len(), Reply::None);
        replies
    }

    /// Everything up to the final dot.
    fn begin(&mut self, letter: &Letter) -> Option<()> {
        let mut commands = String::from("MAIL FROM:<sender@example.org>\r\n");
        for &index in &letter.to {
            commands.push_str(&format!("RCPT TO:<{}@{DOMAIN}>\r\n", user(index)));
        }
        commands.push_str("DATA\r\n");
        self.send(commands.as_bytes())?;
        for _ in 0..=letter.to.len() {
            let reply = self.reply()?;
            assert!(reply.starts_with("250 "), "{reply}");
        }
        let reply = self.reply()?;
        assert!(reply.starts_with("354 "), "{reply}");
        self.send(&[&message(letter.number)[..], b".\r\n"].concat())
    }

    fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.0.get_mut().write_all(bytes).ok()
    }

    /// The last line of the next reply (RFC 5321 section 4.2.1: it has a space behind the code).
    fn reply(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no reply in time"),
                Ok(0) | Err(_) => return None,
                // A line that was cut off by the end of the connection is no reply.
                Ok(_) if !line.ends_with('\n') => return None,
                Ok(_) if line.as_bytes().get(3) == Some(&b' ') => return Some(line.trim_end().to_owned()),
                Ok(_) => {}
            }
        }
    }
}

/// How long a reply may take: far longer than the worst disk needs.
const PATIENCE: Duration = Duration::from_secs(60);
