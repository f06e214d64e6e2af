//! Users, their mailboxes, and what lies in them.
//!
//! One passwd-file describes the users to every program: `posthaste users build` compiles it, Dovecot reads it as it
//! is. So a test asks both about the same homes and owners.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};

use rustix::process::{getegid, geteuid};

use crate::place::Place;

/// One user: who is written to, where it lands, and whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    /// The key of the table: an address, or a bare local part for system-style users.
    pub(crate) address: String,
    home: PathBuf,
    owner: u32,
}

/// The users of one test.
#[derive(Debug)]
pub(crate) struct Users {
    /// In the order in which they were named.
    pub(crate) mailboxes: Vec<Mailbox>,
    /// The passwd-file that names them all.
    pub(crate) passwd_file: PathBuf,
}

impl Users {
    /// A user with a home of its own for every name.
    pub(crate) fn named<S: AsRef<str>>(place: &Place, names: &[S]) -> Self {
        Self::sharing(place, names, names.len())
    }

    /// Users of whom every `homes`-th has the same home: many names, few mailboxes.
    pub(crate) fn sharing<S: AsRef<str>>(place: &Place, names: &[S], homes: usize) -> Self {
        let mut passwd = String::new();
        let mut mailboxes = Vec::with_capacity(names.len());
        for (number, name) in names.iter().enumerate() {
            let number = number % homes;
            let home = place.path(format!("mail/{number}"));
            let (owner, group) = owner_of(number);
            if !home.exists() {
                fs::create_dir_all(&home).expect("a home");
                chown(&home, Some(owner), Some(group)).expect("the owner of a home");
            }
            let name = name.as_ref();
            writeln!(passwd, "{name}:x:{owner}:{group}::{}::userdb_mail=maildir:~/Maildir", home.display())
                .expect("a line");
            mailboxes.push(Mailbox { address: name.to_owned(), home, owner });
        }
        Self { mailboxes, passwd_file: place.write("users.passwd", passwd) }
    }

    /// Every message of every home, once per home.
    pub(crate) fn all_messages(&self) -> Vec<Stored> {
        let homes: BTreeMap<&Path, &Mailbox> =
            self.mailboxes.iter().map(|mailbox| (&*mailbox.home, mailbox)).collect();
        homes.into_values().flat_map(Mailbox::messages).collect()
    }
}

impl Mailbox {
    /// Every message in `new/` and `cur/`; checks on the way that `tmp/` is empty, and owner, mode, S= and W= right.
    pub(crate) fn messages(&self) -> Vec<Stored> {
        assert_eq!(list(&self.maildir().join("tmp")), Vec::<PathBuf>::new(), "nothing is left in tmp/");
        let paths = ["new", "cur"].into_iter().flat_map(|folder| list(&self.maildir().join(folder)));
        paths.map(|path| Stored::read(path, self.owner)).collect()
    }

    /// The names in `new/` and `cur/`, without a look at the files.
    pub(crate) fn names(&self) -> Vec<PathBuf> {
        ["new", "cur"].into_iter().flat_map(|folder| list(&self.maildir().join(folder))).collect()
    }

    fn maildir(&self) -> PathBuf {
        self.home.join("Maildir")
    }
}

/// A message file.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// What the server puts before a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The value of Return-Path, with its brackets.
    pub(crate) return_path: String,
    /// The value of Delivered-To, where there is one.
    pub(crate) delivered_to: Option<String>,
    /// The first Received, unfolded.
    pub(crate) received: String,
}

impl Stored {
    fn read(path: PathBuf, owner: u32) -> Self {
        let bytes = fs::read(&path).expect("a message file");
        let metadata = fs::metadata(&path).expect("a message file");
        assert_eq!(metadata.uid(), owner, "owner of {}", path.display());
        assert_eq!(metadata.mode() & 0o7777, 0o600, "mode of {}", path.display());
        let stored = Self { path, bytes };
        assert_eq!(stored.size_in_name(",S="), stored.bytes.len(), "S= of {}", stored.path.display());
        assert_eq!(stored.size_in_name(",W="), stored.with_crlf().len(), "W= of {}", stored.path.display());
        stored
    }

    /// The number behind `,S=` or `,W=` in the name of the file.
    pub(crate) fn size_in_name(&self, key: &str) -> usize {
        let name = self.path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        let (_, value) = name.split_once(key).unwrap_or_else(|| panic!("no {key} in {name}"));
        let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
        value[..digits].parse().unwrap_or_else(|_| panic!("{key} in {name} is not a number"))
    }

    /// The message as IMAP shows it: every line ends with CRLF.
    pub(crate) fn with_crlf(&self) -> Vec<u8> {
        to_crlf(&self.bytes)
    }

    /// The headers that the server added, and everything after them (with CRLF).
    pub(crate) fn split_trace(&self) -> (Trace, Vec<u8>) {
        let bytes = self.with_crlf();
        let (return_path, rest) = take_header(&bytes, "Return-Path").expect("Return-Path comes first");
        let (delivered_to, rest) =
            take_header(rest, "Delivered-To").map_or((None, rest), |(value, rest)| (Some(value), rest));
        let (received, rest) = take_header(rest, "Received").expect("Received comes next");
        (Trace { return_path, delivered_to, received }, rest.to_vec())
    }

    /// The message as it was before the first mail system put a Received on it.
    pub(crate) fn original(&self) -> Vec<u8> {
        let (_, bytes) = self.split_trace();
        let mut rest = &bytes[..];
        while let Some((_, after)) = take_header(rest, "Received") {
            rest = after;
        }
        rest.to_vec()
    }
}

/// Fails unless the two hold the same messages, each as often; says which one is missing, and how it came out instead.
pub(crate) fn assert_same_messages(mut found: Vec<Vec<u8>>, expected: &[(&str, Vec<u8>)]) {
    for (name, bytes) in expected {
        let Some(place) = found.iter().position(|candidate| candidate == bytes) else {
            let starts: Vec<String> = found.iter().map(|candidate| describe(candidate, bytes)).collect();
            panic!(
                "{name} ({} bytes) is not there as it was sent; there are:\n{}",
                bytes.len(),
                starts.join("\n")
            );
        };
        found.swap_remove(place);
    }
    assert!(found.is_empty(), "{} messages are there that nobody sent", found.len());
}

/// Every LF that does not follow a CR becomes CRLF.
pub(crate) fn to_crlf(bytes: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    let mut previous = 0;
    for &byte in bytes {
        if byte == b'\n' && previous != b'\r' {
            result.push(b'\r');
        }
        result.push(byte);
        previous = byte;
    }
    result
}

/// Takes one header, with its folded lines, from the front; `None` if another one is there.
fn take_header<'a>(bytes: &'a [u8], name: &str) -> Option<(String, &'a [u8])> {
    let value = bytes.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
    let mut end = 0;
    loop {
        end += memchr::memmem::find(&value[end..], b"\r\n")? + 2;
        if !matches!(value.get(end), Some(b' ' | b'\t')) {
            break;
        }
    }
    let text = String::from_utf8_lossy(&value[..end]);
    Some((text.split_whitespace().collect::<Vec<_>>().join(" "), &value[end..]))
}

/// Where two messages part, for the text of a failure.
fn describe(found: &[u8], expected: &[u8]) -> String {
    let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let shown = &found[same..found.len().min(same + 80)];
    format!("  {} bytes, the same up to {same}, then {:?}", found.len(), String::from_utf8_lossy(shown))
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.map(|entry| entry.expect("an entry of a Maildir").path()).collect()
}

/// Root gives every mailbox an owner of its own, so that a mixed-up identity shows; anybody else can only be himself.
fn owner_of(number: usize) -> (u32, u32) {
    if geteuid().is_root() {
        let id = 20_001 + u32::try_from(number % 1000).expect("below 1000");
        (id, id)
    } else {
        (geteuid().as_raw(), getegid().as_raw())
    }
}
