//! A server that accepts everything and keeps nothing: `--sink`.
//!
//! Owns the server's side of LMTP, as little of it as the generator needs, and faults to show on purpose: delays, a
//! stall, refusals. It shares no code with Posthaste, so that a mistake there is not one here. One thread; it is there to
//! be faster than whatever is measured.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use memchr::memmem;

use crate::arguments::parse_time_or_none;
use crate::target::{Endpoint, Stream, listen};

/// How the sink behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manners {
    /// Before the reply to each message.
    pub(crate) delay: Option<Duration>,
    /// Once.
    pub(crate) stall: Option<Stall>,
    /// Now and then.
    pub(crate) failures: Vec<Failure>,
}

/// A time in which nobody gets a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stall {
    /// From the first connection on.
    after: Duration,
    lasts: Duration,
}

impl FromStr for Stall {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (after, lasts) = text.split_once(':').ok_or("say AFTER:TIME, as in 2s:500ms")?;
        Ok(Self { after: parse_time_or_none(after)?, lasts: parse_time_or_none(lasts)? })
    }
}

/// Something that goes wrong every so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    what: What,
    code: u16,
    every: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Mail,
    Rcpt,
    Data,
    End,
    Drop,
}

impl FromStr for Failure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let every = |text: &str| text.parse::<u64>().ok().filter(|every| *every > 0);
        let parts: Vec<&str> = text.split(':').collect();
        let parsed = match parts[..] {
            ["drop", n] => every(n).map(|every| Self { what: What::Drop, code: 0, every }),
            [what, code, n] => {
                let what = match what {
                    "mail" => Some(What::Mail),
                    "rcpt" => Some(What::Rcpt),
                    "data" => Some(What::Data),
                    "end" => Some(What::End),
                    _ => None,
                };
                let code = code.parse::<u16>().ok().filter(|code| (400..600).contains(code));
                what.zip(code).zip(every(n)).map(|((what, code), every)| Self { what, code, every })
            }
            _ => None,
        };
        parsed.ok_or_else(|| {
            "say mail, rcpt, data or end with a code and a number, as in rcpt:550:10, or drop:100".into()
        })
    }
}

/// Serves until the process is ended.
pub(crate) fn run(endpoint: &Endpoint, manners: Manners, ready: impl FnOnce()) -> io::Result<()> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun().setup_single_issuer();
    tokio_uring::builder().entries(1024).uring_builder(&ring).start(async {
        let mut accepted = listen(endpoint)?;
        ready();
        let house = Rc::new(House { manners, first: Cell::new(None), counts: RefCell::default() });
        while let Some(connection) = accepted.recv().await {
            house.first.set(house.first.get().or_else(|| Some(Instant::now())));
            if let Ok(stream) = Stream::accept(connection) {
                tokio_uring::spawn(serve(stream, Rc::clone(&house)));
            }
        }
        Ok(())
    })
}

/// What the connections have in common.
struct House {
    manners: Manners,
    first: Cell<Option<Instant>>,
    /// How often each failure could have happened.
    counts: RefCell<Vec<u64>>,
}

impl House {
    /// Whether it is time for something to go wrong.
    fn fails(&self, what: What) -> Option<u16> {
        let mut failed = None;
        for (index, failure) in self.manners.failures.iter().enumerate() {
            if failure.what == what {
                let mut counts = self.counts.borrow_mut();
                counts.resize(self.manners.failures.len(), 0);
                counts[index] += 1;
                if counts[index].is_multiple_of(failure.every) {
                    failed = Some(failure.code);
                }
            }
        }
        failed
    }

    /// Waits as long as the reply has to.
    async fn hesitate(&self, messages: u64) {
        if let (Some(delay), 1..) = (self.manners.delay, messages) {
            tokio::time::sleep(delay).await;
        }
        if let (Some(stall), Some(first)) = (self.manners.stall, self.first.get()) {
            let elapsed = first.elapsed();
            if elapsed >= stall.after && elapsed < stall.after + stall.lasts {
                tokio::time::sleep(stall.after + stall.lasts - elapsed).await;
            }
        }
    }
}

/// One connection.
async fn serve(stream: Stream, house: Rc<House>) {
    let mut dialogue = Dialogue { output: GREETING.to_vec(), ..Dialogue::default() };
    let mut input = Vec::with_capacity(INPUT_BYTES);
    loop {
        if !dialogue.output.is_empty() {
            house.hesitate(std::mem::take(&mut dialogue.messages)).await;
            let (result, output) = stream.write(std::mem::take(&mut dialogue.output)).await;
            dialogue.output = output;
            if result.is_err() {
                return;
            }
        }
        if dialogue.closes {
            return;
        }
        input.clear();
        let (result, read) = stream.read(input).await;
        input = read;
        if result.is_err() || input.is_empty() {
            return;
        }
        dialogue.feed(&input, |what| house.fails(what));
    }
}

/// The state of a connection, without the connection.
#[derive(Debug, Default)]
struct Dialogue {
    output: Vec<u8>,
    /// A line whose end has not come yet.
    line: Vec<u8>,
    /// In a message: the last bytes of it, at most four.
    content: Option<Vec<u8>>,
    recipients: usize,
    /// Messages that the output acknowledges.
    messages: u64,
    closes: bool,
}

impl Dialogue {
    /// Takes what has come, and puts the replies to it into the output.
    fn feed(&mut self, mut bytes: &[u8], fails: impl Fn(What) -> Option<u16>) {
        while !bytes.is_empty() && !self.closes {
            bytes = if self.content.is_some() {
                self.content(bytes, &fails)
            } else {
                self.command(bytes, &fails)
            };
        }
    }

    fn command<'b>(&mut self, bytes: &'b [u8], fails: &impl Fn(What) -> Option<u16>) -> &'b [u8] {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.line.extend_from_slice(bytes);
            return &[];
        };
        let (line, rest) = bytes.split_at(end + 1);
        if self.line.is_empty() {
            self.obey(line, fails);
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.obey(&whole, fails);
        }
        rest
    }

    fn obey(&mut self, line: &[u8], fails: &impl Fn(What) -> Option<u16>) {
        let verb: [u8; 4] = std::array::from_fn(|at| line.get(at).map_or(0, u8::to_ascii_uppercase));
        match &verb {
            b"MAIL" => match fails(What::Mail) {
                Some(code) => self.refuse(code),
                None => self.say(b"250 2.1.0 OK\r\n"),
            },
            b"RCPT" => match fails(What::Rcpt) {
                Some(code) => self.refuse(code),
                None => {
                    self.recipients += 1;
                    self.say(b"250 2.1.5 OK\r\n");
                }
            },
            b"DATA" if self.recipients == 0 => self.say(b"503 5.5.1 No valid recipients\r\n"),
            b"DATA" => match fails(What::Data) {
                Some(code) => self.refuse(code),
                None => {
                    // The dot may stand at the very beginning.
                    self.content = Some(b"\r\n".to_vec());
                    self.say(b"354 Go on\r\n");
                }
            },
            b"LHLO" => self.say(
                b"250-sink.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n",
            ),
            b"RSET" => {
                self.recipients = 0;
                self.say(b"250 2.0.0 OK\r\n");
            }
            b"NOOP" => self.say(b"250 2.0.0 OK\r\n"),
            b"QUIT" => {
                self.say(b"221 2.0.0 Bye\r\n");
                self.closes = true;
            }
            _ => self.say(b"500 5.5.2 Unknown command\r\n"),
        }
    }

    /// Looks for the end of the message: a dot on a line of its own.
    fn content<'b>(&mut self, bytes: &'b [u8], fails: &impl Fn(What) -> Option<u16>) -> &'b [u8] {
        let tail = self.content.as_mut().expect("within a message");
        // The end may lie over the seam of two reads.
        let before = tail.len();
        let mut seam = std::mem::take(tail);
        seam.extend_from_slice(&bytes[..bytes.len().min(END.len() - 1)]);
        let end = match memmem::find(&seam, END) {
            Some(at) => Some(at + END.len() - before),
            None => memmem::find(bytes, END).map(|at| at + END.len()),
        };
        let Some(end) = end else {
            // All of the seam, or what is new, whichever ends last.
            let last = if bytes.len() < END.len() - 1 { &seam[..] } else { bytes };
            tail.extend_from_slice(&last[last.len().saturating_sub(END.len() - 1)..]);
            return &[];
        };
        self.content = None;
        self.acknowledge(fails);
        &bytes[end..]
    }

    fn acknowledge(&mut self, fails: &impl Fn(What) -> Option<u16>) {
        if fails(What::Drop).is_some() {
            self.closes = true;
            return;
        }
        for _ in 0..std::mem::take(&mut self.recipients) {
            match fails(What::End) {
                Some(code) => self.refuse(code),
                None => self.say(b"250 2.0.0 Gone\r\n"),
            }
        }
        self.messages += 1;
    }

    fn refuse(&mut self, code: u16) {
        let text = format!("{code} {}.0.0 Refused as it was asked to\r\n", code / 100);
        self.say(text.as_bytes());
    }

    fn say(&mut self, reply: &[u8]) {
        self.output.extend_from_slice(reply);
    }
}

const GREETING: &[u8] = b"220 sink.example.net LMTP sink\r\n";
const END: &[u8] = b"\r\n.\r\n";
const INPUT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &[u8] = b"LHLO x\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nRCPT TO:<c>\r\nDATA\r\n\
        Subject: x\r\n\r\n..\r\n.x\r\n\r\n.\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n.\r\nQUIT\r\n";
    const REPLIES: &str = "250-sink.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n\
        250 2.1.0 OK\r\n250 2.1.5 OK\r\n250 2.1.5 OK\r\n354 Go on\r\n250 2.0.0 Gone\r\n250 2.0.0 Gone\r\n\
        250 2.1.0 OK\r\n250 2.1.5 OK\r\n354 Go on\r\n250 2.0.0 Gone\r\n221 2.0.0 Bye\r\n";

    fn replies(pieces: &[&[u8]]) -> String {
        let mut dialogue = Dialogue::default();
        pieces.iter().for_each(|piece| dialogue.feed(piece, |_| None));
        String::from_utf8(dialogue.output).unwrap()
    }

    #[test]
    fn a_session_is_understood_wherever_it_is_cut() {
        assert_eq!(replies(&[SESSION]), REPLIES);
        for first in 0..SESSION.len() {
            for second in first..SESSION.len() {
                let pieces = [&SESSION[..first], &SESSION[first..second], &SESSION[second..]];
                assert_eq!(replies(&pieces), REPLIES, "{first} {second}");
            }
        }
        let bytes: Vec<&[u8]> = SESSION.chunks(1).collect();
        assert_eq!(replies(&bytes), REPLIES);
    }

    #[test]
    fn every_nth_of_something_fails_when_asked_for() {
        let failures = ["rcpt:550:2", "drop:3"].map(|text| text.parse().unwrap()).to_vec();
        let house = House {
            manners: Manners { failures, ..Manners::default() },
            first: Cell::new(None),
            counts: RefCell::default(),
        };
        let fails: Vec<_> = (0..4).map(|_| house.fails(What::Rcpt)).collect();
        assert_eq!(fails, [None, Some(550), None, Some(550)]);
        assert_eq!((0..3).map(|_| house.fails(What::Drop)).collect::<Vec<_>>(), [None, None, Some(0)]);
        assert_eq!(house.fails(What::Mail), None);
    }

    #[test]
    fn failures_and_stalls_that_make_no_sense_are_refused() {
        for text in ["", "rcpt", "rcpt:550", "rcpt:250:1", "rcpt:550:0", "drop:0", "drop:1:2", "hop:550:1"] {
            assert!(text.parse::<Failure>().is_err(), "{text}");
        }
        assert_eq!(
            "2s:500ms".parse(),
            Ok(Stall { after: Duration::from_secs(2), lasts: Duration::from_millis(500) })
        );
        assert!("2s".parse::<Stall>().is_err());
    }
}
