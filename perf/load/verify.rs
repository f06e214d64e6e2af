//! Whether every acknowledged message is there, once and whole.
//!
//! Owns the walk over the Maildirs after a run. A message is found by its first line, behind whatever the server put
//! before it, and held against the digest of what was sent, which is derived from its number. Lines may end with CRLF or
//! with LF, all of a message alike. Whose copy a file is, is said by `Delivered-To:` if the server wrote it; without it, any
//! copy will do for any recipient of the message. Never changes a file, never follows a symbolic link.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::hash::Hasher as _;
use std::io;
use std::path::{Path, PathBuf};

use memchr::memmem;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::acknowledged::Bits;
use crate::message::{MARK, Message, Workload, read_mark};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Verification {
    /// Copies that were acknowledged: one for each recipient.
    pub(crate) acknowledged: u64,
    /// Copies that are there and whole, acknowledged or not, the first of each.
    pub(crate) whole: u64,
    /// Acknowledged, and nowhere.
    pub(crate) missing: u64,
    /// There, but not what was sent.
    pub(crate) altered: u64,
    /// There more than once: those beyond the first.
    pub(crate) duplicated: u64,
    /// Whole, but never acknowledged, as when a connection broke at the end. That is allowed.
    pub(crate) unacknowledged: u64,
    /// Files that are not of this run.
    pub(crate) others: u64,
    /// What could not be read.
    pub(crate) unreadable: u64,
    /// The first few of what is wrong.
    pub(crate) examples: Vec<String>,
}

impl Verification {
    /// Whether all is well.
    pub(crate) fn is_good(&self) -> bool {
        self.missing + self.altered + self.duplicated + self.unreadable == 0
    }

    fn complain(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what());
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, whole, missing, altered, duplicated, unacknowledged, unreadable, .. } = self;
        if self.is_good() {
            write!(f, "all {acknowledged} acknowledged copies are there, once and whole")?;
        } else {
            write!(
                f,
                "{acknowledged} copies acknowledged, {whole} whole, {missing} missing, {altered} altered, "
            )?;
            write!(f, "{duplicated} duplicated, {unreadable} unreadable")?;
        }
        if *unacknowledged > 0 {
            write!(f, "; {unacknowledged} more that were never acknowledged")?;
        }
        Ok(())
    }
}

/// Walks all Maildirs below `directories`; `begun` messages were sent, and `acknowledged` by whom is known.
/// `tell` hears now and then how many files were read.
pub(crate) fn verify(
    directories: &[PathBuf],
    workload: &Workload,
    begun: u64,
    acknowledged: &Bits,
    tell: impl Fn(u64),
) -> Verification {
    let found = Verification { acknowledged: acknowledged.count(), ..Verification::default() };
    let mut walk = Walk {
        workload,
        begun,
        acknowledged,
        seen: Bits::default(),
        found,
        files: 0,
        stored: Vec::new(),
        expected: Vec::new(),
        tell: &tell,
    };
    for directory in directories {
        walk.directory(directory, false);
    }
    walk.finish()
}

struct Walk<'w> {
    workload: &'w Workload,
    begun: u64,
    acknowledged: &'w Bits,
    seen: Bits,
    found: Verification,
    files: u64,
    stored: Vec<u8>,
    expected: Vec<u8>,
    tell: &'w dyn Fn(u64),
}

impl Walk<'_> {
    /// A directory and all below it. Messages are the files in `new` and `cur`.
    fn directory(&mut self, path: &Path, holds_messages: bool) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(path, &error),
        };
        for entry in entries {
            let (kind, entry) = match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
                Ok(found) => found,
                Err(error) => {
                    self.unreadable(path, &error);
                    continue;
                }
            };
            if kind.is_dir() {
                let name = entry.file_name();
                self.directory(&entry.path(), name == "new" || name == "cur");
            } else if kind.is_file() && holds_messages {
                self.file(&entry.path());
            }
        }
    }

    fn file(&mut self, path: &Path) {
        self.files += 1;
        if self.files.is_multiple_of(1000) {
            (self.tell)(self.files);
        }
        let mut stored = std::mem::take(&mut self.stored);
        stored.clear();
        match fs::File::open(path).and_then(|mut file| io::Read::read_to_end(&mut file, &mut stored)) {
            Ok(_) => self.message(path, &stored),
            // A reader has moved it from new to cur, or removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unreadable(path, &error),
        }
        self.stored = stored;
    }

    fn message(&mut self, path: &Path, stored: &[u8]) {
        let Some((trace, content, number)) = self.find(stored) else {
            self.found.others += 1;
            return;
        };
        if number >= self.begun {
            self.found.altered += 1;
            self.found.complain(|| format!("{}: altered: there was no message {number}", path.display()));
            return;
        }
        let message = self.workload.message(number);
        let whole = self.is_whole(message, content);
        let copy = self.copy(message, trace);
        match copy {
            Some(copy) => {
                self.seen.insert(copy);
                if !whole {
                    self.found.altered += 1;
                    let lengths = (content.len(), self.expected.len());
                    self.found.complain(|| {
                        format!(
                            "{}: altered: {} bytes of message {number}, {} were sent",
                            path.display(),
                            lengths.0,
                            lengths.1
                        )
                    });
                    return;
                }
                self.found.whole += 1;
                self.found.unacknowledged += u64::from(!self.acknowledged.contains(copy));
            }
            None => {
                self.found.duplicated += 1;
                self.found
                    .complain(|| format!("{}: message {number} is there more than once", path.display()));
            }
        }
    }

    /// What the server put before the message, the message, and its number, if it is one of this run.
    fn find<'s>(&self, stored: &'s [u8]) -> Option<(&'s [u8], &'s [u8], u64)> {
        let head = &stored[..stored.len().min(TRACE_BYTES_MAX)];
        let at = memmem::find_iter(head, MARK).find(|at| *at == 0 || head[at - 1] == b'\n')?;
        let (trace, content) = stored.split_at(at);
        let line = content.split(|byte| *byte == b'\n').next()?;
        let (run, number) = read_mark(line)?;
        (run == self.workload.run()).then_some((trace, content, number))
    }

    /// Compares digests, in the form of line ends that the first line has.
    fn is_whole(&mut self, message: Message, content: &[u8]) -> bool {
        self.expected.clear();
        self.workload.write_content(message, &mut self.expected);
        let has_cr = memchr::memchr(b'\n', content).is_some_and(|end| end > 0 && content[end - 1] == b'\r');
        if !has_cr {
            self.expected.retain(|byte| *byte != b'\r');
        }
        self.digest(content) == self.digest(&self.expected)
    }

    fn digest(&self, bytes: &[u8]) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.workload.run().0, bytes.len() as u64);
        hasher.write(bytes);
        hasher.finish128().as_u128()
    }

    /// Which copy of the message this is, among all recipients of all messages; `None` if that one is known already.
    fn copy(&self, message: Message, trace: &[u8]) -> Option<u64> {
        let recipients = self.workload.recipients() as u64;
        let copies = message.number * recipients..(message.number + 1) * recipients;
        if recipients > 1
            && let Some(recipient) = self.recipient(message, trace)
        {
            let copy = copies.start + recipient;
            return (!self.seen.contains(copy)).then_some(copy);
        }
        let unseen = || copies.clone().filter(|copy| !self.seen.contains(*copy));
        unseen().find(|copy| self.acknowledged.contains(*copy)).or_else(|| unseen().next())
    }

    /// Which of its recipients the server says it is for.
    fn recipient(&self, message: Message, trace: &[u8]) -> Option<u64> {
        let field = b"delivered-to:";
        let lines = trace.split(|byte| *byte == b'\n');
        let named =
            lines.filter(|line| line.get(..field.len()).is_some_and(|name| name.eq_ignore_ascii_case(field)));
        let addresses: Vec<&[u8]> = named
            .map(|line| line[field.len()..].trim_ascii())
            .map(|address| {
                address.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">")).unwrap_or(address)
            })
            .collect();
        let mut recipients = Vec::new();
        self.workload.choose_recipients(message, &mut recipients);
        let mut address = Vec::new();
        let is_named = |user: &u64| {
            address.clear();
            self.workload.write_address(*user, &mut address);
            addresses.iter().any(|named| named.eq_ignore_ascii_case(&address))
        };
        recipients.iter().position(is_named).map(|position| position as u64)
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.found.unreadable += 1;
        self.found.complain(|| format!("{}: {error}", path.display()));
    }

    fn finish(mut self) -> Verification {
        let recipients = self.workload.recipients() as u64;
        for copy in self.acknowledged.iter().filter(|copy| !self.seen.contains(*copy)) {
            self.found.missing += 1;
            if self.found.examples.len() < EXAMPLES_MAX {
                let (number, recipient) = (copy / recipients, copy % recipients);
                let mut users = Vec::new();
                self.workload.choose_recipients(self.workload.message(number), &mut users);
                let mut address = Vec::new();
                let user = users[usize::try_from(recipient).expect("one of them")];
                self.workload.write_address(user, &mut address);
                let address = String::from_utf8_lossy(&address);
                self.found
                    .complain(|| format!("message {number} for {address} was acknowledged and is not there"));
            }
        }
        self.found
    }
}

const EXAMPLES_MAX: usize = 10;
/// Our first line is looked for in so much of a file.
const TRACE_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RunId;
    use crate::users::{Choice, Popularity, UserSource, Users};

    struct Place {
        directory: tempfile::TempDir,
        workload: Workload,
        acknowledged: Bits,
    }

    impl Place {
        fn new(recipients: usize) -> Self {
            let users = Users::load(&"u{1..50}@example.test".parse::<UserSource>().unwrap()).unwrap();
            let choice = Choice::new(&users, Popularity::Uniform, recipients).unwrap();
            let size = "1000".parse().unwrap();
            let workload = Workload::new(RunId(7), "s@example.org".into(), users, choice, &size).unwrap();
            Self { directory: tempfile::tempdir().unwrap(), workload, acknowledged: Bits::default() }
        }

        /// Stores a copy in `folder`, with these trace headers, after `change`.
        fn store(&self, number: u64, folder: &str, trace: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
            let mut content = trace.as_bytes().to_vec();
            self.workload.write_content(self.workload.message(number), &mut content);
            let folder = self.directory.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            let count = fs::read_dir(&folder).unwrap().count();
            fs::write(folder.join(format!("{number}.{count}")), change(content)).unwrap();
        }

        fn verify(&self, begun: u64) -> Verification {
            let directories = [self.directory.path().to_owned()];
            verify(&directories, &self.workload, begun, &self.acknowledged, |_| ())
        }
    }

    fn lf(content: Vec<u8>) -> Vec<u8> {
        content.into_iter().filter(|byte| *byte != b'\r').collect()
    }

    #[test]
    fn messages_are_found_behind_trace_headers_with_either_line_end() {
        let mut place = Place::new(1);
        (0..3).for_each(|number| assert!(place.acknowledged.insert(number)));
        place.store(0, "a/Maildir/new", "Return-Path: <s@example.org>\r\n", |content| content);
        place.store(1, "a/Maildir/cur", "Return-Path: <s@example.org>\n", lf);
        place.store(2, "b/new", "", |content| content);
        place.store(3, "b/tmp", "", |content| content);
        fs::write(place.directory.path().join("b/new/other"), "Subject: not ours\n").unwrap();
        let found = place.verify(4);
        assert!(found.is_good(), "{found:?}");
        assert_eq!((found.whole, found.others), (3, 1));
        assert_eq!(found.to_string(), "all 3 acknowledged copies are there, once and whole");
    }

    #[test]
    fn whatever_is_missing_altered_or_there_twice_is_found() {
        let mut place = Place::new(1);
        (0..5).for_each(|number| assert!(place.acknowledged.insert(number)));
        place.store(0, "a/new", "", |content| content);
        place.store(1, "a/new", "", |mut content| {
            content[900] ^= 1;
            content
        });
        place.store(2, "a/new", "", |content| content[..999].to_vec());
        place.store(3, "a/new", "", |content| content);
        place.store(3, "b/cur", "", |content| content);
        let found = place.verify(5);
        assert_eq!((found.whole, found.altered, found.duplicated, found.missing), (2, 2, 1, 1), "{found:?}");
        assert!(!found.is_good());
        assert!(
            found.examples.iter().any(|line| line.starts_with("message 4 for u")),
            "{:?}",
            found.examples
        );
    }

    #[test]
    fn mixed_line_ends_are_no_whole_message() {
        let mut place = Place::new(1);
        place.acknowledged.insert(0);
        place.store(0, "a/new", "", |mut content| {
            let end = content.len() - 2;
            content.remove(end);
            content
        });
        assert_eq!(place.verify(1).altered, 1);
    }

    #[test]
    fn each_recipient_has_a_copy_of_his_own() {
        let mut place = Place::new(2);
        (0..4).for_each(|copy| assert!(place.acknowledged.insert(copy)));
        let delivered_to = |number, recipient: usize| {
            let (mut users, mut address) = (Vec::new(), Vec::new());
            place.workload.choose_recipients(place.workload.message(number), &mut users);
            place.workload.write_address(users[recipient], &mut address);
            format!("Delivered-To: {}\r\n", String::from_utf8(address).unwrap())
        };
        place.store(0, "a/new", &delivered_to(0, 0), |content| content);
        place.store(0, "b/new", &delivered_to(0, 1), |content| content);
        // The same number of copies, but both are one recipient's.
        place.store(1, "a/new", &delivered_to(1, 1), |content| content);
        place.store(1, "b/new", &delivered_to(1, 1), |content| content);
        let found = place.verify(2);
        assert_eq!((found.whole, found.duplicated, found.missing), (3, 1, 1), "{found:?}");
    }

    #[test]
    fn a_message_that_was_never_acknowledged_may_be_there() {
        let place = Place::new(1);
        place.store(0, "a/new", "", |content| content);
        let found = place.verify(1);
        assert!(found.is_good() && found.unacknowledged == 1, "{found:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_no_proof() {
        let place = Place::new(1);
        let directories = [place.directory.path().join("none")];
        assert!(!verify(&directories, &place.workload, 0, &place.acknowledged, |_| ()).is_good());
    }
}
