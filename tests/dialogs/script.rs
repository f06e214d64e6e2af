//! Reading a dialog: from the text of an `.lmtp` file to steps. README.md beside it has the language.

use std::net::IpAddr;
use std::time::Duration;

use posthaste::ring::sim::{Fault, OpKind};
use rustix::io::Errno;

/// One dialog.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// It needs what only the simulated ring can do.
    pub(crate) simulated_only: bool,
    /// `key = value` lines for the configuration, keys with their table.
    pub(crate) config: Vec<(String, String)>,
    /// Where the client connects from; over a Unix socket if `None`.
    pub(crate) client: Option<IpAddr>,
    /// The mail file system knows no unnamed files.
    pub(crate) no_tmpfile: bool,
    /// Maildirs and folders that are there when the session begins.
    pub(crate) maildirs: Vec<String>,
    /// The mail file system keeps the order of bytes and names, by a log that can fail.
    pub(crate) keeps_order: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) mailboxes: Vec<Mailbox>,
    /// Files that are no messages, and what they hold.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) log: Vec<LogLine>,
}

/// One step and the line it stands on.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) act: Act,
}

/// What happens in a step.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// The client sends this in one packet.
    Send(Vec<u8>),
    /// The server says a line that this matches.
    Expect(Pattern),
    /// The client sends no more.
    HalfClose,
    /// The client closes.
    Close,
    /// The client vanishes, with what it sent and nobody received.
    Reset,
    /// The server closes, having said nothing more.
    ExpectClose,
    /// The server has nothing to say until the client or time does something.
    ExpectSilence,
    /// Time passes.
    Advance(Duration),
    /// From now on something fails.
    Fail(Fault),
    /// Nothing fails any more.
    Heal,
}

/// A line of text, or what it looks like.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    Exactly(String),
    /// With `*` for any text.
    Like(String),
}

/// What a directory holds in the end.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) path: String,
    /// How many files there may be.
    pub(crate) counts: Vec<usize>,
    pub(crate) messages: Vec<Message>,
}

/// What one file holds.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) line: usize,
    /// Everything behind the trace headers; lines end as the configuration says.
    pub(crate) content: Vec<Part>,
    /// What lines of the trace headers look like.
    pub(crate) trace: Vec<String>,
}

/// Part of the content of a file.
#[derive(Debug)]
pub(crate) enum Part {
    /// A line, so many times.
    Lines(usize, String),
    /// Bytes as they are.
    Raw(Vec<u8>),
}

/// What the log says.
#[derive(Debug)]
pub(crate) enum LogLine {
    Nothing,
    /// Some line looks like this.
    Like(String),
}

impl Pattern {
    pub(crate) fn matches(&self, line: &str) -> bool {
        match self {
            Self::Exactly(text) => text == line,
            Self::Like(pattern) => is_like(pattern, line),
        }
    }
}

/// Whether `text` looks like `pattern`, in which `*` stands for any text.
pub(crate) fn is_like(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(start) else {
        return false;
    };
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    ends.into_iter().any(|at| is_like(rest, &text[at..]))
}

impl Script {
    /// # Panics
    /// With the number of the line that cannot be understood.
    pub(crate) fn parse(text: &str) -> Self {
        let mut script = Self::default();
        let mut packet: Option<Vec<u8>> = None;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let understood = match line {
                "" => Some(()),
                "{" => packet.replace(Vec::new()).map_or(Some(()), |_| None),
                "}" => packet.take().map(|bytes| script.add(number, Act::Send(bytes))),
                _ => match (sent(line), &mut packet) {
                    (Some(bytes), Some(packet)) => {
                        packet.extend(bytes);
                        Some(())
                    }
                    (Some(bytes), None) => {
                        script.add(number, Act::Send(bytes));
                        Some(())
                    }
                    (None, _) => script.line(number, line),
                },
            };
            assert!(understood.is_some(), "line {number} means nothing: {line}");
        }
        assert!(packet.is_none(), "a packet has no end");
        script
    }

    fn add(&mut self, line: usize, act: Act) {
        self.steps.push(Step { line, act });
    }

    fn line(&mut self, number: usize, line: &str) -> Option<()> {
        if let Some(header) = line.strip_prefix('#') {
            return self.header(header.trim());
        }
        if let Some(expected) = line.strip_prefix("<- ") {
            self.add(number, Act::Expect(Pattern::Exactly(expected.to_owned())));
        } else if let Some(expected) = line.strip_prefix("<~ ") {
            self.add(number, Act::Expect(Pattern::Like(expected.to_owned())));
        } else if let Some(event) = line.strip_prefix("-- ") {
            let act = event_of(event)?;
            self.add(number, act);
        } else {
            return self.outcome(number, line);
        }
        Some(())
    }

    fn header(&mut self, header: &str) -> Option<()> {
        match header.split_once(": ") {
            Some(("ring", "simulated")) => self.simulated_only = true,
            Some(("config", setting)) => {
                let (key, value) = setting.split_once(" = ")?;
                self.config.push((key.to_owned(), value.to_owned()));
            }
            Some(("client", address)) => self.client = Some(address.parse().ok()?),
            Some(("maildir", path)) => self.maildirs.push(path.to_owned()),
            Some(("disk", "no O_TMPFILE")) => self.no_tmpfile = true,
            Some(("disk", "keeps order")) => self.keeps_order = true,
            Some(("ring" | "disk", _)) => return None,
            _ => {}
        }
        Some(())
    }

    /// What is left when all is over.
    fn outcome(&mut self, number: usize, line: &str) -> Option<()> {
        if let Some(mailbox) = line.strip_prefix("mailbox ") {
            let (path, counts) = mailbox.split_once(": ")?;
            let counts = counts.strip_suffix(" files").or_else(|| counts.strip_suffix(" file"))?;
            let counts: Result<Vec<usize>, _> = counts.split(" or ").map(str::parse).collect();
            self.mailboxes.push(Mailbox {
                path: path.to_owned(),
                counts: counts.ok()?,
                messages: Vec::new(),
            });
            return Some(());
        }
        if let Some(file) = line.strip_prefix("file ") {
            let (path, content) = file.split_once(':')?;
            self.files.push((path.to_owned(), unescaped(content.trim_start())?));
            return Some(());
        }
        match line.strip_prefix("log: ") {
            Some("nothing") => {
                self.log.push(LogLine::Nothing);
                return Some(());
            }
            Some(pattern) => {
                self.log.push(LogLine::Like(pattern.to_owned()));
                return Some(());
            }
            None => {}
        }
        let messages = &mut self.mailboxes.last_mut()?.messages;
        if line == "message:" {
            messages.push(Message { line: number, ..Message::default() });
            return Some(());
        }
        let message = messages.last_mut()?;
        if let Some(pattern) = line.strip_prefix("trace: ") {
            message.trace.push(pattern.to_owned());
        } else if let Some(raw) = line.strip_prefix("|| ") {
            message.content.push(Part::Raw(unescaped(raw)?));
        } else if let Some(repeated) = line.strip_prefix("|* ") {
            let (count, text) = repeated.split_once(' ')?;
            let text = text.to_owned();
            message.content.push(Part::Lines(count.parse().ok()?, text));
        } else {
            let text = line.strip_prefix('|')?;
            let text = text.strip_prefix(' ').unwrap_or(text).to_owned();
            message.content.push(Part::Lines(1, text));
        }
        Some(())
    }
}

/// The bytes that a line has the client send, if it is such a line.
fn sent(line: &str) -> Option<Vec<u8>> {
    if let Some(raw) = line.strip_prefix("->| ") {
        return unescaped(raw);
    }
    if let Some(repeated) = line.strip_prefix("->* ") {
        let (count, text) = repeated.split_once(' ')?;
        let line = format!("{text}\r\n");
        return Some(line.repeat(count.parse().ok()?).into_bytes());
    }
    if line == "->" {
        return Some(b"\r\n".to_vec());
    }
    let text = line.strip_prefix("-> ")?;
    Some(format!("{text}\r\n").into_bytes())
}

/// Text with `\r`, `\n`, `\0`, `\t`, `\\` and `\xHH` for what cannot be written.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

fn event_of(event: &str) -> Option<Act> {
    let words: Vec<&str> = event.split(' ').collect();
    Some(match words.as_slice() {
        ["close"] => Act::Close,
        ["half", "close"] => Act::HalfClose,
        ["reset"] => Act::Reset,
        ["expect", "close"] => Act::ExpectClose,
        ["expect", "silence"] => Act::ExpectSilence,
        ["advance", time] => Act::Advance(duration(time)?),
        ["heal"] => Act::Heal,
        ["fail", kind, errno] => Act::Fail(Fault::every(kind_of(kind)?, errno_of(errno)?)),
        ["fail", kind, errno, "on", path] => {
            Act::Fail(Fault::every(kind_of(kind)?, errno_of(errno)?).on(path))
        }
        ["fail", kind, errno, "once"] => Act::Fail(Fault::nth(kind_of(kind)?, 1, errno_of(errno)?)),
        _ => return None,
    })
}

fn kind_of(name: &str) -> Option<OpKind> {
    OpKind::ALL.into_iter().find(|kind| format!("{kind:?}") == name)
}

fn errno_of(name: &str) -> Option<Errno> {
    ERRNOS.iter().find(|(known, _)| *known == name).map(|&(_, errno)| errno)
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|character: char| !character.is_ascii_digit())?;
    let number: u64 = text[..unit].parse().ok()?;
    match &text[unit..] {
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(60 * number)),
        _ => None,
    }
}

const ERRNOS: [(&str, Errno); 11] = [
    ("EACCES", Errno::ACCESS),
    ("ECONNRESET", Errno::CONNRESET),
    ("EDQUOT", Errno::DQUOT),
    ("EIO", Errno::IO),
    ("EMFILE", Errno::MFILE),
    ("ENOENT", Errno::NOENT),
    ("ENOMEM", Errno::NOMEM),
    ("ENOSPC", Errno::NOSPC),
    ("EPERM", Errno::PERM),
    ("EPIPE", Errno::PIPE),
    ("EROFS", Errno::ROFS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text_and_nothing_else_does() {
        for (pattern, text, expected) in [
            ("250 *", "250 OK", true),
            ("250 *", "250 ", true),
            ("250 * Saved", "250 2.0.0 x Saved", true),
            ("250 * Saved", "250 2.0.0 x Saved.", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("250.OK", "250 OK", false),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_in_one_packet_is_sent_at_once_and_escapes_are_bytes() {
        let script = Script::parse("# config: limits.recipients = 2\n{\n-> RSET\n->| Q\\r\\x00\n}\n->");
        let sent: Vec<_> = script.steps.iter().map(|step| &step.act).collect();
        let [Act::Send(packet), Act::Send(empty)] = sent.as_slice() else {
            panic!("two packets, not {sent:?}");
        };
        assert_eq!(packet, b"RSET\r\nQ\r\0");
        assert_eq!(empty, b"\r\n");
        assert_eq!(script.config, [("limits.recipients".to_owned(), "2".to_owned())]);
    }

    #[test]
    #[should_panic(expected = "line 2 means nothing")]
    fn a_line_that_means_nothing_is_an_error() {
        Script::parse("# fine\n-- dance\n");
    }
}
