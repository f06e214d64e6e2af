//! Every line is read alike, every reply is well formed, and the session keeps the order of commands: against a
//! twin that knows the rules of RFC 5321, RFC 2033 and RFC 3030 one by one.

use super::input::Input;
use posthaste::lmtp::command::{BodyType, Command, MailFrom, Malformed, RcptTo, parse};
use posthaste::lmtp::replies;
use posthaste::lmtp::reply::Reply;
use posthaste::lmtp::session::{Action, Session, SessionLimits};
use posthaste::mail::address::{Address, parse_path};
use std::sync::Arc;

/// Input: three limits; what the world decides, one bit for each question; the lines, LF between them.
pub fn hold(input: &[u8]) {
    let mut input = Input::new(input);
    let limits = SessionLimits {
        hostname: "mx.example.net".to_owned(),
        message_bytes_max: 1000,
        recipients_max: u32::from(input.byte() % 4) + 1,
        bad_commands_max: u32::from(input.byte() % 12),
    };
    let mut world = u32::from_le_bytes(input.array());
    let mut twin = Twin::new(limits.clone());
    let mut session = Session::new(Arc::new(limits));
    well_formed(&session.greeting());
    for line in input.rest().split(|byte| *byte == b'\n') {
        let command = parse(line);
        read_alike(line, &command);
        let expected = twin.line(&command);
        let action = session.line(line);
        check(&action, &expected, &command);
        let yes = world & 1 == 0;
        world = world.rotate_right(1);
        match action {
            Action::Recipient(_) if yes => {
                session.rcpt_accepted();
                twin.recipients += 1;
            }
            Action::Data(_) | Action::Chunk { last: true, .. } => {
                assert!(session.recipients() > 0, "a message goes to somebody");
                session.data_ended();
                twin.forget();
            }
            Action::Chunk { last: false, size } if yes => well_formed(&session.chunk_stored(size)),
            Action::Chunk { .. } => {
                session.chunk_failed();
                twin.lost = true;
            }
            Action::Quit(_) | Action::Hangup(_) => return,
            _ => {}
        }
        assert_eq!((session.in_transaction(), session.recipients()), (twin.open, twin.recipients));
        assert!(session.recipients() <= twin.limits.recipients_max);
    }
}

/// What is to come of a line.
#[derive(Debug, PartialEq)]
enum Expected {
    Code(u16),
    Greet,
    Begin,
    Recipient,
    Data,
    Chunk,
    Swallow { code: u16, size: u64, times: u32, last: bool },
    Reset,
    Quit,
    Hangup,
}

/// What a transaction is, as plainly as it can be said.
struct Twin {
    limits: SessionLimits,
    open: bool,
    recipients: u32,
    smtputf8: bool,
    /// Octets of the chunks, once there was one.
    chunks: Option<u64>,
    /// A chunk is missing.
    lost: bool,
    bad: u32,
}

impl Twin {
    fn new(limits: SessionLimits) -> Self {
        Self { limits, open: false, recipients: 0, smtputf8: false, chunks: None, lost: false, bad: 0 }
    }

    fn forget(&mut self) {
        let bad = self.bad;
        *self = Self { bad, ..Self::new(self.limits.clone()) };
    }

    fn line(&mut self, command: &Result<Command<'_>, Malformed>) -> Expected {
        let expected = match command {
            Ok(command) => self.command(command),
            Err(Malformed::ChunkSize) => Expected::Hangup,
            Err(Malformed::ChunkMarker { size }) => self.refuse(501, *size, false),
            Err(error) => Expected::Code(replies::malformed(*error).code()),
        };
        match expected {
            Expected::Code(500 | 501 | 503) | Expected::Swallow { code: 500 | 501 | 503, .. } => {
                self.bad += 1;
            }
            _ => self.bad = 0,
        }
        if self.bad > self.limits.bad_commands_max { Expected::Hangup } else { expected }
    }

    fn command(&mut self, command: &Command<'_>) -> Expected {
        let fresh = self.open && self.chunks.is_none() && !self.lost;
        match command {
            Command::Lhlo(_) => {
                self.forget();
                Expected::Greet
            }
            Command::Mail(_) if self.open => Expected::Code(503),
            Command::Mail(mail) if mail.size.is_some_and(|size| size > self.limits.message_bytes_max) => {
                Expected::Code(552)
            }
            Command::Mail(mail) => {
                (self.open, self.smtputf8) = (true, mail.smtputf8);
                Expected::Begin
            }
            Command::Rcpt(_) if !fresh => Expected::Code(503),
            Command::Rcpt(rcpt) if !rcpt.address.text.is_ascii() && !self.smtputf8 => Expected::Code(553),
            Command::Rcpt(_) if self.recipients == self.limits.recipients_max => Expected::Code(452),
            Command::Rcpt(_) => Expected::Recipient,
            Command::Data if !fresh || self.recipients == 0 => Expected::Code(503),
            Command::Data => Expected::Data,
            Command::Bdat { size, last } => self.chunk(*size, *last),
            Command::Rset => {
                self.forget();
                Expected::Reset
            }
            Command::Noop => Expected::Code(250),
            Command::Vrfy => Expected::Code(252),
            Command::Help => Expected::Code(214),
            Command::Quit => Expected::Quit,
            Command::NotOffered => Expected::Code(502),
            Command::WrongGreeting | Command::Unknown => Expected::Code(500),
        }
    }

    fn chunk(&mut self, size: u64, last: bool) -> Expected {
        if !self.open || self.recipients == 0 || self.lost {
            return self.refuse(503, size, last);
        }
        let octets = u128::from(self.chunks.unwrap_or(0)) + u128::from(size);
        if octets > u128::from(self.limits.message_bytes_max) {
            return self.refuse(552, size, last);
        }
        self.chunks = u64::try_from(octets).ok();
        Expected::Chunk
    }

    /// Nothing that lacks a chunk is ever delivered.
    fn refuse(&mut self, code: u16, size: u64, last: bool) -> Expected {
        let times = if last { self.recipients } else { 1 };
        if last {
            self.forget();
        } else {
            self.lost = self.open;
        }
        Expected::Swallow { code, size, times, last }
    }
}

fn check(action: &Action<'_>, expected: &Expected, command: &Result<Command<'_>, Malformed>) {
    let is = match action {
        Action::Reply(reply) => {
            well_formed(reply);
            Expected::Code(reply.code())
        }
        Action::Greet { client, reply } => {
            well_formed(reply);
            assert_eq!(*command, Ok(Command::Lhlo(client)));
            assert_eq!(reply.code(), 250);
            Expected::Greet
        }
        Action::Begin { mail, reply } => {
            assert_eq!(*command, Ok(Command::Mail(mail.clone())));
            assert_eq!(reply.code(), 250);
            Expected::Begin
        }
        Action::Recipient(rcpt) => {
            assert_eq!(*command, Ok(Command::Rcpt(rcpt.clone())));
            Expected::Recipient
        }
        Action::Data(reply) => {
            assert_eq!(reply.code(), 354);
            Expected::Data
        }
        Action::Chunk { size, last } => {
            assert_eq!(*command, Ok(Command::Bdat { size: *size, last: *last }));
            Expected::Chunk
        }
        Action::Swallow { size, reply, times, last } => {
            well_formed(reply);
            Expected::Swallow { code: reply.code(), size: *size, times: *times, last: *last }
        }
        Action::Reset(reply) => {
            assert_eq!(reply.code(), 250);
            Expected::Reset
        }
        Action::Quit(reply) => {
            assert_eq!(reply.code(), 221);
            Expected::Quit
        }
        Action::Hangup(reply) => {
            well_formed(reply);
            assert!(matches!(reply.code(), 421 | 501));
            Expected::Hangup
        }
    };
    assert_eq!(is, *expected, "{command:?}");
}

/// What a command means does not hang on the case of its verb or on blanks behind it, its parts lie within bounds,
/// and written anew it is the same.
fn read_alike(line: &[u8], command: &Result<Command<'_>, Malformed>) {
    let verb = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    for change in [u8::to_ascii_lowercase, u8::to_ascii_uppercase] {
        let mut changed = line.to_vec();
        changed[..verb].iter_mut().for_each(|byte| *byte = change(byte));
        changed.extend_from_slice(b" \t ");
        assert_eq!(parse(&changed), *command);
    }
    match command {
        Err(error) => {
            well_formed(&replies::malformed(*error));
            assert!(!replies::malformed(*error).is_positive());
        }
        Ok(Command::Lhlo(name)) => {
            assert!((1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        Ok(Command::Mail(mail)) => {
            mail.sender.as_ref().inspect(|sender| address(line, sender));
            assert!(mail.smtputf8 || mail.sender.as_ref().is_none_or(|sender| sender.text.is_ascii()));
            assert_eq!(parse(written(mail).as_bytes()), Ok(Command::Mail(mail.clone())));
        }
        Ok(Command::Rcpt(rcpt)) => {
            address(line, &rcpt.address);
            let again = format!("RCPT TO:<{}>", rcpt.address.text);
            assert_eq!(parse(again.as_bytes()), Ok(Command::Rcpt(RcptTo { address: rcpt.address.clone() })));
        }
        Ok(Command::Bdat { size, last }) => {
            let again = format!("BDAT {size}{}", if *last { " LAST" } else { "" });
            assert_eq!(parse(again.as_bytes()), Ok(Command::Bdat { size: *size, last: *last }));
        }
        Ok(_) => {}
    }
}

fn written(mail: &MailFrom<'_>) -> String {
    let mut line = format!("MAIL FROM:<{}>", mail.sender.as_ref().map_or("", |sender| sender.text));
    if let Some(size) = mail.size {
        line.push_str(&format!(" SIZE={size}"));
    }
    if mail.body == BodyType::EightBitMime {
        line.push_str(" BODY=8BITMIME");
    }
    if mail.smtputf8 {
        line.push_str(" SMTPUTF8");
    }
    line
}

/// An address is safe to repeat in a reply, a header and a log.
fn address(line: &[u8], address: &Address<'_>) {
    assert!(!address.local.is_empty());
    assert!(!address.local.contains(char::is_control) && !address.text.contains(char::is_control));
    assert!(line.windows(address.text.len()).any(|part| part == address.text.as_bytes()));
    if let Some(domain) = address.domain {
        assert!(!domain.contains([' ', '\\']));
        match domain.strip_prefix('[') {
            // RFC 5321 section 4.1.3 lets a literal hold any other character, `@` and `>` too.
            Some(literal) => {
                assert!(literal.len() > 1 && literal.find([']', '[']) == Some(literal.len() - 1));
            }
            None => {
                assert!(!domain.split('.').any(str::is_empty));
                assert!(!domain.contains(['@', '<', '>', '/', '"', ':']));
            }
        }
        assert!(address.text.ends_with(domain));
    }
    let path = format!("<{}>", address.text);
    assert_eq!(parse_path(&path), Ok((Some(address.clone()), "")));
    for text in [address.text, &address.local] {
        well_formed(&replies::saved(text, "id"));
    }
}

/// What the wire is promised of every reply (RFC 5321 section 4.2, RFC 2034 section 4).
fn well_formed(reply: &Reply) {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let text = std::str::from_utf8(&wire).expect("UTF-8");
    let lines: Vec<&str> = text.strip_suffix("\r\n").expect("CRLF at the end").split("\r\n").collect();
    let code = reply.code().to_string();
    assert!(code.len() == 3 && matches!(code.as_bytes()[0], b'2'..=b'5'));
    for (number, line) in lines.iter().enumerate() {
        let separator = if number + 1 == lines.len() { " " } else { "-" };
        assert!(line.starts_with(&code) && line[3..].starts_with(separator), "{text:?}");
        assert!(line.len() + 2 <= 512 && !line.contains(char::is_control), "{text:?}");
    }
    if let Some(enhanced) = reply.enhanced() {
        assert_eq!(u16::from(enhanced.0), reply.code() / 100);
    }
}
