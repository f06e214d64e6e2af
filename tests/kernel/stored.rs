//! What lies in a Maildir.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A message file in `new/`.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) inode: u64,
    pub(crate) links: u64,
}

impl Stored {
    /// The number behind `,S=` or `,W=` in the name.
    pub(crate) fn size_in_name(&self, key: &str) -> usize {
        let (_, value) = self.name.split_once(key).unwrap_or_else(|| panic!("no {key} in {}", self.name));
        let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
        value[..digits].parse().expect("a number")
    }

    /// Headers that the server added, and what came from the client. The trace ends where the first line
    /// of the client's begins, which is `Subject:` in all tests.
    pub(crate) fn split(&self) -> (String, &[u8]) {
        let start = memchr::memmem::find(&self.bytes, b"Subject:").expect("the client's first line");
        (String::from_utf8_lossy(&self.bytes[..start]).into_owned(), &self.bytes[start..])
    }

    /// Everything behind the trace headers.
    pub(crate) fn content(&self) -> &[u8] {
        self.split().1
    }
}

/// The messages in `new/` of `maildir`; none if it is not there.
pub(crate) fn new_in(maildir: &Path) -> Vec<Stored> {
    let read = |path: PathBuf| {
        let metadata = fs::metadata(&path).expect("a message file");
        Stored {
            name: path.file_name().expect("a name").to_string_lossy().into_owned(),
            bytes: fs::read(&path).expect("a message file"),
            inode: metadata.ino(),
            links: metadata.nlink(),
        }
    };
    entries(&maildir.join("new")).into_iter().map(read).collect()
}

/// The one message there is.
#[track_caller]
pub(crate) fn only_in(maildir: &Path) -> Stored {
    let mut all = new_in(maildir);
    assert_eq!(all.len(), 1, "messages in {}", maildir.display());
    all.remove(0)
}

/// Fails if something was left behind in `tmp/`.
#[track_caller]
pub(crate) fn assert_no_litter(maildir: &Path) {
    assert_eq!(entries(&maildir.join("tmp")), Vec::<PathBuf>::new(), "litter");
}

/// The entries of a directory; none if it is not there.
pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// The message as IMAP shows it: an LF without a CR before it becomes CRLF.
pub(crate) fn with_crlf(bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    let mut before = 0;
    for &byte in bytes {
        if byte == b'\n' && before != b'\r' {
            all.push(b'\r');
        }
        all.push(byte);
        before = byte;
    }
    all
}
