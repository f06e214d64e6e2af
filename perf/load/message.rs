//! What is sent: the envelope and the content of message number n.
//!
//! Owns the workload of a run, from which every message can be derived again. A message begins with the one header line
//! that says which run and number it is; behind it come a small head and a piece of a text that was prepared before,
//! or a message of the corpus. So a message costs no more than a copy to make, is unlike every other, and can be
//! held against its copy in a Maildir with nothing but its number. Never touches a socket or a Maildir.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::Write as _;
use std::path::Path;

use crate::mix::{Mix, SizeSource};
use crate::random::{Random, mix};
use crate::users::{Choice, Users};

/// What tells the messages of one run from those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunId(pub(crate) u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Everything that decides what is sent.
#[derive(Debug)]
pub(crate) struct Workload {
    run: RunId,
    sender: String,
    users: Users,
    choice: Choice,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    Text { mix: Mix, text: Text },
    Corpus(Vec<Sample>),
}

/// A message of the corpus.
#[derive(Debug)]
struct Sample {
    content: Vec<u8>,
    wire: Vec<u8>,
}

/// One message of a run, derived from its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its number, from 0.
    pub(crate) number: u64,
    seed: u64,
    /// Bytes as stored with CRLF, without what a server puts before it.
    pub(crate) size: u64,
}

impl Workload {
    /// Loads what `sizes` names.
    pub(crate) fn new(
        run: RunId,
        sender: String,
        users: Users,
        choice: Choice,
        sizes: &SizeSource,
    ) -> Result<Self, String> {
        let text = |mix| Contents::Text { mix, text: Text::new() };
        let contents = match sizes {
            SizeSource::Fixed(size) if *size < SIZE_MIN => {
                return Err(format!(
                    "--size {size}: a message has at least {SIZE_MIN} bytes, as it must be found again"
                ));
            }
            SizeSource::Fixed(size) => text(Mix::fixed(*size)),
            SizeSource::Mix(path) => text(Mix::load(path)?),
            SizeSource::Corpus(path) => Contents::Corpus(load_corpus(path)?),
        };
        Ok(Self { run, sender, users, choice, contents })
    }

    /// The run that its messages belong to.
    pub(crate) fn run(&self) -> RunId {
        self.run
    }

    /// How many recipients each message has.
    pub(crate) fn recipients(&self) -> usize {
        self.choice.recipients()
    }

    /// The message of this number.
    pub(crate) fn message(&self, number: u64) -> Message {
        let seed = mix(self.run.0 ^ mix(number));
        let size = match &self.contents {
            Contents::Text { mix, .. } => {
                mix.draw(&mut Random::new(seed, Purpose::Size as u64)).max(SIZE_MIN)
            }
            Contents::Corpus(samples) => (MARK_BYTES + sample(samples, seed).content.len()) as u64,
        };
        Message { number, seed, size }
    }

    /// The indices of its recipients, in the order of their RCPT.
    pub(crate) fn choose_recipients(&self, message: Message, into: &mut Vec<u64>) {
        self.choice.choose(Random::new(message.seed, Purpose::Recipients as u64), into);
    }

    /// Appends the address of a user.
    pub(crate) fn write_address(&self, index: u64, out: &mut Vec<u8>) {
        self.users.write(index, out);
    }

    /// Appends the command MAIL.
    pub(crate) fn write_mail(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<");
        out.extend_from_slice(self.sender.as_bytes());
        out.extend_from_slice(b">\r\n");
    }

    /// Appends the command RCPT for a user.
    pub(crate) fn write_rcpt(&self, index: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<");
        self.users.write(index, out);
        out.extend_from_slice(b">\r\n");
    }

    /// Appends the message as it goes over the wire: dots stuffed, with the dot that ends it.
    pub(crate) fn write_wire(&self, message: Message, out: &mut Vec<u8>) {
        self.write_head(message, out);
        match &self.contents {
            Contents::Text { text, .. } => text.write(&text.wire, wire_offset, message, out),
            Contents::Corpus(samples) => out.extend_from_slice(&sample(samples, message.seed).wire),
        }
        out.extend_from_slice(b".\r\n");
    }

    /// Appends the message as it has to be stored, with CRLF.
    pub(crate) fn write_content(&self, message: Message, out: &mut Vec<u8>) {
        self.write_head(message, out);
        match &self.contents {
            Contents::Text { text, .. } => text.write(&text.content, content_offset, message, out),
            Contents::Corpus(samples) => out.extend_from_slice(&sample(samples, message.seed).content),
        }
    }

    fn write_head(&self, message: Message, out: &mut Vec<u8>) {
        out.extend_from_slice(MARK);
        write_hex(self.run.0, out);
        out.push(b'.');
        write_digits(message.number, out);
        out.push(b'.');
        write_hex(message.seed, out);
        out.extend_from_slice(b"\r\n");
        if matches!(self.contents, Contents::Text { .. }) {
            out.extend_from_slice(HEAD);
            write_digits(message.number, out);
            out.extend_from_slice(HEAD_ID);
            write_hex(self.run.0, out);
            out.push(b'.');
            write_digits(message.number, out);
            out.extend_from_slice(HEAD_END);
        }
    }
}

/// Which random numbers of a message are for what.
enum Purpose {
    Size = 1,
    Recipients = 2,
}

fn sample(samples: &[Sample], seed: u64) -> &Sample {
    let index = Random::new(seed, Purpose::Size as u64).below(samples.len() as u64);
    &samples[usize::try_from(index).expect("an index")]
}

/// Finds the run and number in the first line of a message, which begins with [`MARK`].
pub(crate) fn read_mark(line: &[u8]) -> Option<(RunId, u64)> {
    let text = std::str::from_utf8(line.strip_prefix(MARK)?).ok()?.trim_end();
    let mut parts = text.split('.');
    let run = u64::from_str_radix(parts.next()?, 16).ok()?;
    Some((RunId(run), parts.next()?.parse().ok()?))
}

/// How the first line of every message begins.
pub(crate) const MARK: &[u8] = b"X-Posthaste-Load: ";
const MARK_BYTES: usize = MARK.len() + 16 + 1 + DIGITS + 1 + 16 + 2;
/// Digits of a number in a message: always as many, so that all heads have the same length.
const DIGITS: usize = 12;
const HEAD: &[u8] = b"From: Posthaste load generator <load@example.org>\r\n\
    To: undisclosed-recipients:;\r\n\
    Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=us-ascii\r\n\
    Subject: message ";
const HEAD_ID: &[u8] = b"\r\nMessage-ID: <";
const HEAD_END: &[u8] = b"@load.example.org>\r\n\r\n";
const HEAD_BYTES: usize = MARK_BYTES + HEAD.len() + DIGITS + HEAD_ID.len() + 16 + 1 + DIGITS + HEAD_END.len();
/// The head and one line of text.
const SIZE_MIN: u64 = (HEAD_BYTES + LINE) as u64;

/// The prepared text: lines of 64 bytes, of which one in 16 begins with a dot, as it is stored and as it is sent.
#[derive(Debug)]
struct Text {
    content: Vec<u8>,
    wire: Vec<u8>,
}

impl Text {
    fn new() -> Self {
        let (mut content, mut wire) = (Vec::new(), Vec::new());
        for line in 0..LINES {
            let mut random = Random::new(line as u64, 0);
            let mut text: Vec<u8> = (0..LINE - 2).map(|_| LETTERS[(random.bits() & 63) as usize]).collect();
            if line % LINES_PER_DOT == 0 {
                text[0] = b'.';
                wire.push(b'.');
            }
            text.extend_from_slice(b"\r\n");
            content.extend_from_slice(&text);
            wire.extend_from_slice(&text);
        }
        debug_assert_eq!(wire.len(), wire_offset(LINES));
        Self { content, wire }
    }

    /// Appends the lines of `message` from `block`, in which line n begins at `offset(n)`. The last line is longer
    /// than the others by what is missing to the size.
    fn write(&self, block: &[u8], offset: fn(usize) -> usize, message: Message, out: &mut Vec<u8>) {
        let bytes = usize::try_from(message.size).expect("a message that fits into memory") - HEAD_BYTES;
        let groups = (LINES / LINES_PER_DOT) as u64;
        let mut at = usize::try_from(message.seed % groups).expect("less than the lines") * LINES_PER_DOT;
        let mut lines = bytes / LINE;
        while lines > 0 {
            let piece = lines.min(LINES - at);
            out.extend_from_slice(&block[offset(at)..offset(at + piece)]);
            lines -= piece;
            at = 0;
        }
        out.truncate(out.len() - 2);
        out.extend(std::iter::repeat_n(b'.', bytes % LINE));
        out.extend_from_slice(b"\r\n");
    }
}

fn content_offset(line: usize) -> usize {
    line * LINE
}

fn wire_offset(line: usize) -> usize {
    line * LINE + line.div_ceil(LINES_PER_DOT)
}

const LINE: usize = 64;
const LINES: usize = 1024;
const LINES_PER_DOT: usize = 16;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn write_hex(value: u64, out: &mut Vec<u8>) {
    let digits: [u8; 16] =
        std::array::from_fn(|at| b"0123456789abcdef"[(value >> (60 - 4 * at) & 15) as usize]);
    out.extend_from_slice(&digits);
}

fn write_digits(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789"[(value % 10) as usize];
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

/// All regular files of a directory, in the order of their names, so that runs can be compared.
fn load_corpus(directory: &Path) -> Result<Vec<Sample>, String> {
    let fail = |error| format!("corpus {}: {error}", directory.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| format!("corpus {}: {error}", path.display()))
    };
    let samples: Vec<Sample> =
        paths.iter().map(|path| read(path).map(|bytes| Sample::new(&bytes))).collect::<Result<_, _>>()?;
    if samples.is_empty() {
        return Err(format!(
            "corpus {}: there are no files in it; it holds one message a file",
            directory.display()
        ));
    }
    Ok(samples)
}

impl Sample {
    /// Lines end with CRLF, whatever they ended with in the file.
    fn new(bytes: &[u8]) -> Self {
        let (mut content, mut wire) = (Vec::new(), Vec::new());
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            // A lone CR is no line end that a server has to keep.
            let line: Vec<u8> = line.iter().map(|byte| if *byte == b'\r' { b' ' } else { *byte }).collect();
            if line.first() == Some(&b'.') {
                wire.push(b'.');
            }
            for out in [&mut content, &mut wire] {
                out.write_all(&line).expect("memory");
                out.extend_from_slice(b"\r\n");
            }
        }
        Self { content, wire }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::{Popularity, UserSource};

    fn workload(sizes: &str) -> Workload {
        let users = Users::load(&"u{1..50}@example.test".parse::<UserSource>().unwrap()).unwrap();
        let choice = Choice::new(&users, Popularity::Uniform, 3).unwrap();
        Workload::new(RunId(0xfeed), "s@example.org".into(), users, choice, &sizes.parse().unwrap()).unwrap()
    }

    fn written(write: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    /// What a server does to the wire: RFC 5321, 4.5.2.
    fn received(wire: &[u8]) -> Vec<u8> {
        let text = wire.strip_suffix(b".\r\n").unwrap();
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
    }

    #[test]
    fn what_goes_over_the_wire_is_the_content_with_its_dots_stuffed() {
        for size in [SIZE_MIN, SIZE_MIN + 1, SIZE_MIN + 63, SIZE_MIN + 64, 4096, 65_536 + 17, 300_001] {
            let workload = workload(&size.to_string());
            for number in [0, 1, 77, 123_456] {
                let message = workload.message(number);
                let content = written(|out| workload.write_content(message, out));
                let wire = written(|out| workload.write_wire(message, out));
                assert_eq!(content.len() as u64, size);
                assert_eq!(received(&wire), content);
                assert!(content.ends_with(b"\r\n") && !content.windows(3).any(|three| three == b"\r\r\n"));
            }
        }
    }

    #[test]
    fn messages_differ_and_name_themselves() {
        let workload = workload("4KiB");
        let one = written(|out| workload.write_content(workload.message(41), out));
        let other = written(|out| workload.write_content(workload.message(42), out));
        assert_ne!(one[HEAD_BYTES..], other[HEAD_BYTES..]);
        let line = other.split_inclusive(|byte| *byte == b'\n').next().unwrap();
        assert_eq!(read_mark(line), Some((RunId(0xfeed), 42)));
        assert_eq!(line.len(), MARK_BYTES);
        assert!(
            written(|out| workload.write_wire(workload.message(1), out))
                .windows(4)
                .any(|four| four == b"\n..A" || four[..3] == *b"\n..")
        );
        assert_eq!(read_mark(b"Subject: x\r\n"), None);
    }

    #[test]
    fn a_message_too_small_to_be_found_again_is_refused() {
        let users = Users::load(&"u{1..50}@x".parse::<UserSource>().unwrap()).unwrap();
        let choice = Choice::new(&users, Popularity::Uniform, 1).unwrap();
        let refusal =
            Workload::new(RunId(1), String::new(), users, choice, &SizeSource::Fixed(10)).unwrap_err();
        assert!(refusal.contains(&SIZE_MIN.to_string()), "{refusal}");
    }

    #[test]
    fn a_corpus_is_sent_with_proper_line_ends() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "Subject: a\n\n.dot\nlone\rCR").unwrap();
        std::fs::write(directory.path().join("b"), "Subject: b\r\n\r\nend\r\n").unwrap();
        let workload = workload(&format!("corpus:{}", directory.path().display()));
        let contents: Vec<String> = (0..20)
            .map(|number| {
                let message = workload.message(number);
                let content = written(|out| workload.write_content(message, out));
                assert_eq!(content.len() as u64, message.size);
                assert_eq!(received(&written(|out| workload.write_wire(message, out))), content);
                String::from_utf8(content[MARK_BYTES..].to_vec()).unwrap()
            })
            .collect();
        assert!(
            contents.iter().any(|content| content == "Subject: a\r\n\r\n.dot\r\nlone CR\r\n"),
            "{contents:?}"
        );
        assert!(contents.iter().any(|content| content == "Subject: b\r\n\r\nend\r\n"), "{contents:?}");
    }
}
