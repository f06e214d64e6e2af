//! One LMTP connection, as a client: RFC 2033, RFC 5321, pipelined as Postfix does it (RFC 2920).
//!
//! Owns the dialogue: greeting, LHLO, then MAIL, RCPT, DATA and the message, again and again. What every step took is
//! left in [`Record`]; whether that is counted is not known here. Never sends a message twice.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::message::{Message, Workload};
use crate::reply::{Reply, first_line, parse};
use crate::target::{Endpoint, Stream};

/// How many commands go out before a reply is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pipeline {
    /// MAIL, all RCPT and DATA in one write, then the message in one; as Postfix does, if the server offers PIPELINING
    Postfix,
    /// One command at a time
    None,
}

/// Where in the dialogue something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    /// Before a message: connect, greeting, LHLO.
    Connect,
    /// MAIL.
    Mail,
    /// RCPT, for one recipient.
    Rcpt,
    /// DATA.
    Data,
    /// The end of the message, for one recipient.
    EndOfData,
    /// After a message that came to nothing.
    Rset,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::EndOfData => "end of data",
            Self::Rset => "RSET",
        })
    }
}

/// Why a connection is of no use any more.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The kernel said so.
    Io(io::Error),
    /// The server closed it.
    Closed,
    /// This side closed it, because nothing came for too long.
    TimedOut,
    /// What came is no reply.
    NoReply(String),
    /// A reply that ends the session.
    Refused(Reply),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::TimedOut => f.write_str("no reply in time"),
            Self::NoReply(text) => write!(f, "not an LMTP reply: {text:?}"),
            Self::Refused(reply) => f.write_str(&reply.text),
        }
    }
}

/// What happened to one message.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// From the write of RCPT to its reply.
    pub(crate) rcpt: Vec<Duration>,
    /// From the write that ends the message to the reply for each recipient that was accepted.
    pub(crate) end_of_data: Vec<Duration>,
    /// Which recipients, counted in the order of RCPT, were acknowledged.
    pub(crate) acknowledged: Vec<usize>,
    /// What was refused, where.
    pub(crate) refused: Vec<(Step, Reply)>,
}

impl Record {
    fn clear(&mut self) {
        self.rcpt.clear();
        self.end_of_data.clear();
        self.acknowledged.clear();
        self.refused.clear();
    }
}

/// A connection on which messages can be sent.
pub(crate) struct Session {
    stream: Rc<Stream>,
    patience: Rc<Patience>,
    input: Vec<u8>,
    /// How much of `input` has been read as replies.
    read: usize,
    output: Vec<u8>,
    recipients: Vec<u64>,
    accepted: Vec<usize>,
    offers_pipelining: bool,
    step: Step,
    record: Record,
}

/// Since when a session has been waiting, for who ends the wait. Counted in turns of its clock.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// What the clock says now.
    pub(crate) now: Cell<u64>,
}

impl Session {
    /// Connects and says LHLO. The stream is given to `opened` at once, so that it can be cut.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        patience: &Rc<Patience>,
        opened: impl FnOnce(Rc<Stream>),
    ) -> Result<Self, Fault> {
        let stream = Rc::new(Stream::connect(endpoint).await.map_err(Fault::Io)?);
        opened(Rc::clone(&stream));
        let mut session = Self {
            stream,
            patience: Rc::clone(patience),
            input: Vec::with_capacity(INPUT_BYTES),
            read: 0,
            output: Vec::with_capacity(OUTPUT_BYTES),
            recipients: Vec::new(),
            accepted: Vec::new(),
            offers_pipelining: false,
            step: Step::Connect,
            record: Record::default(),
        };
        session.greet().await?;
        Ok(session)
    }

    /// What happened to the last message, whether or not it went well.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// How far the last message came.
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// Sends one message. An error ends the session; what is in [`Session::record`] until then has happened.
    pub(crate) async fn send(
        &mut self,
        workload: &Workload,
        message: Message,
        pipeline: Pipeline,
    ) -> Result<(), Fault> {
        self.record.clear();
        self.accepted.clear();
        workload.choose_recipients(message, &mut self.recipients);
        let ready = if pipeline == Pipeline::Postfix && self.offers_pipelining {
            self.envelope_at_once(workload).await?
        } else {
            self.envelope_step_by_step(workload).await?
        };
        match (ready, self.accepted.is_empty()) {
            (true, false) => self.content(workload, message).await,
            (true, true) => Err(Fault::NoReply("354 for a message without recipients".into())),
            (false, _) => self.forget().await,
        }
    }

    /// Says QUIT; whether the server answers is of no interest.
    pub(crate) async fn quit(mut self) {
        self.output.extend_from_slice(b"QUIT\r\n");
        if self.flush().await.is_ok() {
            let _ = self.reply().await;
        }
    }

    async fn greet(&mut self) -> Result<(), Fault> {
        let greeting = self.reply().await?;
        if greeting.code != 220 {
            return Err(Fault::Refused(greeting));
        }
        self.output.extend_from_slice(b"LHLO load.example.org\r\n");
        self.flush().await?;
        let (reply, offer) = self.reply_with_lines().await?;
        if reply.code != 250 {
            return Err(Fault::Refused(reply));
        }
        self.offers_pipelining = offer.split(|byte| *byte == b'\n').any(|line| {
            line.get(4..).is_some_and(|keyword| keyword.trim_ascii().eq_ignore_ascii_case(b"PIPELINING"))
        });
        Ok(())
    }

    /// One write, then the replies to all of it. Whether the server wants the message.
    async fn envelope_at_once(&mut self, workload: &Workload) -> Result<bool, Fault> {
        workload.write_mail(&mut self.output);
        for user in &self.recipients {
            workload.write_rcpt(*user, &mut self.output);
        }
        self.output.extend_from_slice(b"DATA\r\n");
        let begun = Instant::now();
        self.flush().await?;
        self.reply_to_mail().await?;
        for number in 0..self.recipients.len() {
            self.reply_to_rcpt(number, begun).await?;
        }
        self.reply_to_data().await
    }

    /// Each command waits for the reply to the one before.
    async fn envelope_step_by_step(&mut self, workload: &Workload) -> Result<bool, Fault> {
        workload.write_mail(&mut self.output);
        self.flush().await?;
        if !self.reply_to_mail().await? {
            return Ok(false);
        }
        for number in 0..self.recipients.len() {
            workload.write_rcpt(self.recipients[number], &mut self.output);
            let begun = Instant::now();
            self.flush().await?;
            self.reply_to_rcpt(number, begun).await?;
        }
        if self.accepted.is_empty() {
            return Ok(false);
        }
        self.output.extend_from_slice(b"DATA\r\n");
        self.flush().await?;
        self.reply_to_data().await
    }

    async fn reply_to_mail(&mut self) -> Result<bool, Fault> {
        self.step = Step::Mail;
        let reply = self.reply().await?;
        let taken = reply.code / 100 == 2;
        if !taken {
            self.refused(reply)?;
        }
        Ok(taken)
    }

    async fn reply_to_rcpt(&mut self, number: usize, begun: Instant) -> Result<(), Fault> {
        self.step = Step::Rcpt;
        let reply = self.reply().await?;
        self.record.rcpt.push(begun.elapsed());
        if reply.code / 100 == 2 {
            self.accepted.push(number);
            return Ok(());
        }
        self.refused(reply)
    }

    async fn reply_to_data(&mut self) -> Result<bool, Fault> {
        self.step = Step::Data;
        let reply = self.reply().await?;
        let wanted = reply.code == 354;
        // When nobody was accepted, a refusal for good says nothing new.
        let says_nothing_new = self.accepted.is_empty() && reply.code / 100 == 5;
        if !(wanted || says_nothing_new) {
            self.refused(reply)?;
        }
        Ok(wanted)
    }

    /// The message, and a reply for each recipient that was accepted (RFC 2033, section 4.2).
    async fn content(&mut self, workload: &Workload, message: Message) -> Result<(), Fault> {
        self.step = Step::EndOfData;
        workload.write_wire(message, &mut self.output);
        if self.output.len() > LAST_WRITE_BYTES {
            // How long a large message takes to get through is no part of what its end takes.
            let last = self.output.split_off(self.output.len() - LAST_WRITE_BYTES);
            self.flush().await?;
            self.output = last;
        }
        let begun = Instant::now();
        self.flush().await?;
        for at in 0..self.accepted.len() {
            let reply = self.reply().await?;
            self.record.end_of_data.push(begun.elapsed());
            if reply.code / 100 == 2 {
                self.record.acknowledged.push(self.accepted[at]);
            } else {
                self.refused(reply)?;
            }
        }
        Ok(())
    }

    /// Makes the server forget the recipients of a message that it did not want.
    async fn forget(&mut self) -> Result<(), Fault> {
        self.step = Step::Rset;
        self.output.extend_from_slice(b"RSET\r\n");
        self.flush().await?;
        let reply = self.reply().await?;
        if reply.code / 100 == 2 { Ok(()) } else { self.refused(reply) }
    }

    /// Notes a refusal; 421 says that the server closes the connection (RFC 5321, section 3.8).
    fn refused(&mut self, reply: Reply) -> Result<(), Fault> {
        if reply.code == 421 {
            return Err(Fault::Refused(reply));
        }
        self.record.refused.push((self.step, reply));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        self.stream.waits_since.set(Some(self.patience.now.get()));
        let (result, output) = self.stream.write(std::mem::take(&mut self.output)).await;
        self.stream.waits_since.set(None);
        self.output = output;
        result.map_err(|error| self.fault(error))
    }

    async fn reply(&mut self) -> Result<Reply, Fault> {
        loop {
            match parse(&self.input[self.read..]).map_err(Fault::NoReply)? {
                Some((reply, length)) => {
                    self.consume(length);
                    return Ok(reply);
                }
                None => self.receive().await?,
            }
        }
    }

    async fn reply_with_lines(&mut self) -> Result<(Reply, Vec<u8>), Fault> {
        loop {
            match parse(&self.input[self.read..]).map_err(Fault::NoReply)? {
                Some((reply, length)) => {
                    let lines = self.input[self.read..self.read + length].to_vec();
                    self.consume(length);
                    return Ok((reply, lines));
                }
                None => self.receive().await?,
            }
        }
    }

    fn consume(&mut self, length: usize) {
        self.read += length;
        if self.read == self.input.len() {
            self.input.clear();
            self.read = 0;
        }
    }

    async fn receive(&mut self) -> Result<(), Fault> {
        if self.read > 0 {
            self.input.drain(..self.read);
            self.read = 0;
        }
        if self.input.len() > REPLY_BYTES_MAX {
            return Err(Fault::NoReply(first_line(&self.input)));
        }
        let before = self.input.len();
        self.stream.waits_since.set(Some(self.patience.now.get()));
        let (result, input) = self.stream.read(std::mem::take(&mut self.input)).await;
        self.stream.waits_since.set(None);
        self.input = input;
        match result {
            Ok(()) if self.input.len() > before => Ok(()),
            Ok(()) if self.stream.is_cut() => Err(Fault::TimedOut),
            Ok(()) => Err(Fault::Closed),
            Err(error) => Err(self.fault(error)),
        }
    }

    fn fault(&self, error: io::Error) -> Fault {
        if self.stream.is_cut() { Fault::TimedOut } else { Fault::Io(error) }
    }
}

const INPUT_BYTES: usize = 2 * 1024;
const OUTPUT_BYTES: usize = 8 * 1024;
/// A message larger than this is written in two pieces, of which the last has this size.
const LAST_WRITE_BYTES: usize = 64 * 1024;
/// More than this without the end of a line is no reply.
const REPLY_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RunId;
    use crate::users::{Choice, Popularity, UserSource, Users};
    use std::io::{Read as _, Write as _};

    /// What the client noted, or what ended the session.
    type Ended = Result<Vec<(Step, u16)>, String>;

    /// Sends one message with two recipients to a server that knows its replies by heart: one for each time that
    /// something comes. What came each time, what the client noted, and how it ended.
    fn dialogue(replies: &'static [&'static str]) -> (Vec<String>, Ended) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lmtp");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut came, mut buffer) = (Vec::new(), [0; 8192]);
            for reply in replies {
                stream.write_all(reply.as_bytes()).unwrap();
                let length = stream.read(&mut buffer).unwrap();
                came.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
            came
        });
        let users = Users::load(&"u{1..2}@x".parse::<UserSource>().unwrap()).unwrap();
        let choice = Choice::new(&users, Popularity::Uniform, 2).unwrap();
        let workload =
            Workload::new(RunId(1), "s@x".into(), users, choice, &"1000".parse().unwrap()).unwrap();
        let ended = tokio_uring::start(async {
            let endpoint = Endpoint::Unix(path);
            let mut session = Session::open(&endpoint, &Rc::default(), |_| ()).await?;
            session.send(&workload, workload.message(0), Pipeline::Postfix).await?;
            Ok(session.record().refused.iter().map(|(step, reply)| (*step, reply.code)).collect())
        });
        (server.join().unwrap(), ended.map_err(|fault: Fault| fault.to_string()))
    }

    #[test]
    fn the_envelope_goes_in_one_write_and_the_message_in_the_next() {
        let (came, ended) =
            dialogue(&["220 x\r\n", OFFER, "250 a\r\n250 b\r\n250 c\r\n354 d\r\n", "250 e\r\n250 f\r\n"]);
        assert_eq!(ended, Ok(Vec::new()));
        assert_eq!(came.len(), 4);
        assert_eq!(
            came[1].lines().map(|line| &line[..4]).collect::<Vec<_>>(),
            ["MAIL", "RCPT", "RCPT", "DATA"]
        );
        assert!(came[2].starts_with("X-Posthaste-Load: ") && came[2].ends_with("\r\n.\r\n"), "{}", came[2]);
    }

    #[test]
    fn a_server_that_offers_no_pipelining_gets_one_command_at_a_time() {
        let replies = &[
            "220 x\r\n",
            "250 x\r\n",
            "250 a\r\n",
            "250 b\r\n",
            "250 c\r\n",
            "354 d\r\n",
            "250 e\r\n250 f\r\n",
        ];
        let (came, ended) = dialogue(replies);
        assert_eq!(ended, Ok(Vec::new()));
        let verbs: Vec<&str> = came.iter().map(|packet| packet.get(..4).unwrap_or_default()).collect();
        assert_eq!(verbs, ["LHLO", "MAIL", "RCPT", "RCPT", "DATA", "X-Po", ""]);
    }

    #[test]
    fn a_message_that_nobody_wants_is_not_sent() {
        let (came, ended) =
            dialogue(&["220 x\r\n", OFFER, "250 a\r\n550 b\r\n551 c\r\n503 d\r\n", "250 e\r\n"]);
        // That DATA was refused as well says nothing new.
        assert_eq!(ended, Ok(vec![(Step::Rcpt, 550), (Step::Rcpt, 551)]));
        assert_eq!(came[2], "RSET\r\n");
    }

    #[test]
    fn a_server_that_leaves_ends_the_session() {
        let (_, ended) = dialogue(&["220 x\r\n", OFFER, "250 a\r\n250 b\r\n421 4.3.2 leaving\r\n"]);
        assert_eq!(ended, Err("421 4.3.2 leaving".into()));
        let (_, ended) = dialogue(&["554 5.3.2 not today\r\n"]);
        assert_eq!(ended, Err("554 5.3.2 not today".into()));
        let (_, ended) = dialogue(&["HTTP/1.1 400 Bad Request\r\n"]);
        assert_eq!(ended, Err("not an LMTP reply: \"HTTP/1.1 400 Bad Request\"".into()));
    }

    const OFFER: &str = "250-x\r\n250-8BITMIME\r\n250 pipelining\r\n";
}
