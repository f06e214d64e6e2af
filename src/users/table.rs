//! The reader of a user table.
//!
//! Owns the mapping and the search in it. Promises that an answer is right or an error: header, templates and
//! index are checked when the table is opened, a record when it is used. Never writes, and never follows an
//! offset it has not compared with the file's length.
#![forbid(unsafe_code)]

use super::header::{Header, HeaderFault};
use super::key::LocalPart;
use super::layout::{BUCKET, PAGE, SLOTS, Slot, home_bucket, tag};
use super::record::{Damage, Record, User};
use super::template::{self, Template};
use crate::sys::mmap::Mapping;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An open table. Immutable, so all workers may share one; it lives on if a new one is renamed over it.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    mapping: Mapping,
    header: Header,
    templates: Vec<Template>,
}

impl Table {
    /// Maps the table at `path` and checks its header, templates and index.
    ///
    /// # Errors
    /// If it cannot be read, is not a table, is cut off or damaged; the message names the part.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        let opened =
            Mapping::open(path).map_err(TableFault::Open).and_then(|mapping| Self::check(path, mapping));
        opened.map_err(|fault| TableError { path: path.to_owned(), fault })
    }

    /// A table in memory, from the whole content of a file; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, TableError> {
        let opened =
            Mapping::copy_of(bytes).map_err(TableFault::Open).and_then(|mapping| Self::check(path, mapping));
        opened.map_err(|fault| TableError { path: path.to_owned(), fault })
    }

    /// Looks a key up as it is stored: [`super::key::find`] is the way from a recipient to here.
    ///
    /// Allocates only where a path has variables in it.
    ///
    /// # Errors
    /// If a record that could be the one is damaged.
    pub fn lookup(&self, key: impl AsRef<[u8]>) -> Result<Option<User<'_>>, Damage> {
        match self.search(key.as_ref())? {
            Some(record) => self.user(&record).map(Some),
            // Damaged records are noticed; an index that reads as empty is not. "No such user" bounces mail,
            // so it is said only of a file that nobody has touched.
            None if self.mapping.is_changed() => Err(Damage::Rewritten),
            None => Ok(None),
        }
    }

    /// All users in the order in which they were added.
    ///
    /// A damaged record is an error in its place; if not even its length can be believed, it is the last item.
    pub fn users(&self) -> impl Iterator<Item = Result<User<'_>, Damage>> {
        self.records().map(|record| record.and_then(|record| self.user(&record)))
    }

    /// Where the table was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was done to the local parts of the keys.
    pub fn local_part(&self) -> LocalPart {
        self.header.local_part
    }

    /// Number of users.
    pub fn len(&self) -> u64 {
        self.header.records
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.header.records == 0
    }

    /// The figures of the header.
    pub fn shape(&self) -> Shape {
        Shape {
            users: self.header.records,
            file_bytes: self.header.file_length,
            heap_bytes: self.header.heap.length,
            template_bytes: self.header.template_section.length,
            index_bytes: self.header.index.length,
            templates: self.header.templates,
            home_buckets: self.header.home_buckets,
            longest_probe: self.header.longest_probe,
            local_part: self.header.local_part,
            built_at: (self.header.built_at > 0).then_some(self.header.built_at),
        }
    }

    fn check(path: &Path, mapping: Mapping) -> Result<Self, TableFault> {
        let header = Header::decode(&mapping).map_err(TableFault::Header)?;
        let mut table = Self { path: path.to_owned(), mapping, header, templates: Vec::new() };
        table.check_section("templates")?;
        table.check_section("index")?;
        let section = header.template_section.of(&table.mapping).unwrap_or_default();
        table.templates = template::read_section(section, header.templates)
            .map_err(|number| TableFault::Template { number })?;
        Ok(table)
    }

    pub(super) fn check_section(&self, name: &'static str) -> Result<(), TableFault> {
        for (section_name, section) in self.header.sections() {
            if section_name != name {
                continue;
            }
            let found = crc32c::crc32c(section.of(&self.mapping).unwrap_or_default());
            if section.checksum != found {
                return Err(TableFault::Section { section: name, expected: section.checksum, found });
            }
        }
        Ok(())
    }

    /// Buckets from the home on; the first empty slot, or the longest probe, ends the search.
    pub(super) fn search(&self, key: &[u8]) -> Result<Option<Record<'_>>, Damage> {
        let hash = self.header.hash(key);
        let tag = tag(hash);
        let home = home_bucket(hash, self.header.home_buckets);
        let first = usize::try_from(home * SLOTS).unwrap_or(usize::MAX);
        let reach = self.header.longest_probe as usize * BUCKET / 8;
        let slots = self.slots().get(first..).unwrap_or_default();
        for slot in &slots[..reach.min(slots.len())] {
            let Some(slot) = Slot::decode(*slot) else {
                return Ok(None);
            };
            if slot.tag == tag {
                let record = self.record_at(slot.offset)?;
                if record.key == key {
                    return Ok(Some(record));
                }
            }
        }
        Ok(None)
    }

    fn record_at(&self, offset: u64) -> Result<Record<'_>, Damage> {
        let heap = self.header.heap;
        let start = offset
            .checked_sub(heap.offset)
            .filter(|start| *start < heap.length)
            .and_then(|start| usize::try_from(start).ok())
            .ok_or(Damage::Outside { offset })?;
        Record::read(self.heap(), heap.offset, start)
    }

    /// All slots of the index, the empty ones too.
    pub(super) fn slots(&self) -> &[[u8; 8]] {
        let index = self.header.index.of(&self.mapping).unwrap_or_default();
        index.as_chunks().0
    }

    /// The whole record, with its templates filled in.
    pub(super) fn user<'t>(&'t self, record: &Record<'t>) -> Result<User<'t>, Damage> {
        record.user(&self.templates)
    }

    pub(super) fn records(&self) -> Records<'_> {
        Records { heap: self.heap(), next: 0, left: self.header.records }
    }

    fn heap(&self) -> &[u8] {
        self.header.heap.of(&self.mapping).unwrap_or_default()
    }
}

/// How large a table is, and how it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of users.
    pub users: u64,
    /// Octets of the whole file.
    pub file_bytes: u64,
    /// Octets of the record heap, to the end of its last page.
    pub heap_bytes: u64,
    /// Octets of the template section, likewise.
    pub template_bytes: u64,
    /// Octets of the index, likewise.
    pub index_bytes: u64,
    /// Number of path templates.
    pub templates: u32,
    /// Number of buckets in which a search can begin.
    pub home_buckets: u64,
    /// The most buckets that a search reads.
    pub longest_probe: u32,
    /// What was done to the local parts.
    pub local_part: LocalPart,
    /// When it was built, in Unix seconds; `None` if it was built reproducibly.
    pub built_at: Option<u64>,
}

/// A table that cannot be used: its path, and why.
#[derive(Debug)]
pub struct TableError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: TableFault,
}

/// What is wrong with a table as a whole.
#[derive(Debug)]
pub enum TableFault {
    /// It cannot be opened or mapped.
    Open(io::Error),
    /// The header is wrong.
    Header(HeaderFault),
    /// A section's checksum does not fit.
    Section {
        /// The section.
        section: &'static str,
        /// The checksum in the header.
        expected: u32,
        /// The checksum of the section's octets.
        found: u32,
    },
    /// A path template makes no sense although the checksum fits.
    Template {
        /// Its number, from 0.
        number: u32,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user table {}: {}", self.path.display(), self.fault)?;
        match &self.fault {
            TableFault::Open(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                f.write_str("; let the server's user read it")
            }
            _ => f.write_str("; build it with \"posthaste users build\""),
        }
    }
}

impl std::error::Error for TableError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            TableFault::Open(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "cannot open it: {error}"),
            Self::Header(fault) => fault.fmt(f),
            Self::Section { section, expected, found } => write!(
                f,
                "section {section} is damaged: expected checksum {expected:#010x}, found {found:#010x}"
            ),
            Self::Template { number } => {
                write!(f, "section templates: number {number} makes no sense")
            }
        }
    }
}

/// The heap's records, one after another.
pub(super) struct Records<'t> {
    heap: &'t [u8],
    next: usize,
    left: u64,
}

impl<'t> Iterator for Records<'t> {
    type Item = Result<Record<'t>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = Record::read(self.heap, PAGE as u64, self.next);
        match &record {
            Ok(record) => self.next = record.next,
            // Whether this length is the damage cannot be known; if it is, the next record is damaged too.
            Err(Damage::Checksum { .. } | Damage::Unknown { .. } | Damage::Malformed { .. }) => {
                self.next = Record::skip(self.heap, self.next);
            }
            Err(Damage::Cut { .. } | Damage::Outside { .. } | Damage::Rewritten) => self.left = 0,
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::build::{Options, write};
    use crate::users::entry::Entry;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn assert_message(error: &TableError, parts: &[&str]) {
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn what_is_not_a_table_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.table");
        let missing = Table::open(&path).unwrap_err();
        assert_message(&missing, &["users.table", "No such file", "posthaste users build"]);
        let directory_error = Table::open(directory.path()).unwrap_err();
        assert_message(&directory_error, &["cannot open it: not a regular file"]);
        std::fs::write(&path, "alice:x:1000:1000::/home/alice\n").unwrap();
        let text = Table::open(&path).unwrap_err();
        assert_message(&text, &["not a user table", "found \"alice:x:\""]);
        std::fs::write(&path, "").unwrap();
        assert_message(&Table::open(&path).unwrap_err(), &["the file has 0"]);
    }

    #[test]
    fn a_table_may_be_shared_and_outlives_its_replacement() {
        fn assert_shareable<T: Send + Sync>(_: &T) {}
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.table");
        let options = Options::random(LocalPart::Folded).unwrap();
        let user = |name: &str| Entry { address: name.into(), mail: "/srv/mail".into(), ..Entry::default() };
        write(&path, options, [&user("alice")]).unwrap();
        let before = Table::open(&path).unwrap();
        assert_shareable(&before);
        write(&path, options, [&user("bob")]).unwrap();
        assert!(before.lookup("alice").unwrap().is_some());
        let after = Table::open(&path).unwrap();
        assert!(after.lookup("alice").unwrap().is_none());
        assert!(after.lookup("bob").unwrap().is_some());
        assert!(after.shape().built_at.is_some());
    }

    #[test]
    fn a_table_without_users_knows_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.table");
        write(&path, Options::reproducible(LocalPart::Kept, [0; 16]), []).unwrap();
        let table = Table::open(&path).unwrap();
        assert!(table.is_empty() && table.lookup("").unwrap().is_none());
        assert!(table.lookup("alice@example.org").unwrap().is_none());
        assert!(table.verify(|| ()).is_empty());
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let path = "/[a-z%\u{e9} :@]{1,12}(/[a-d]{1,3}){0,3}";
        (
            "[a-c]{1,3}(@[a-c]{1,2}\\.[a-c]{1,2})?",
            path,
            prop::option::of("[a-z%~]{1,5}(/[a-c]{1,3}){0,2}"),
            prop::option::of(1..u32::MAX),
            prop::option::of(1..u32::MAX),
            prop::option::of(1..u64::MAX),
            prop::option::of(1..u64::MAX),
        )
            .prop_map(|(address, path, below, uid, gid, quota_bytes, quota_messages)| {
                let (home, mail) = match below {
                    Some(below) => (Some(path), below),
                    None => (None, path),
                };
                Entry { line: 0, address, home, mail, uid, gid, quota_bytes, quota_messages }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn look_ups_agree_with_a_hash_map(
            entries in prop::collection::vec(any_entry(), 0..300),
            strangers in prop::collection::vec("[a-d]{1,4}(@[a-d]{1,2}\\.[a-d]{1,2})?", 0..50),
            seed: [u8; 16],
        ) {
            let twin: HashMap<String, Entry> =
                entries.into_iter().map(|entry| (entry.address.clone(), entry)).collect();
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("users.table");
            write(&path, Options::reproducible(LocalPart::Folded, seed), twin.values()).unwrap();
            let table = Table::open(&path).unwrap();
            prop_assert!(table.verify(|| ()).is_empty());
            for key in twin.keys().chain(&strangers) {
                let found = table.lookup(key).unwrap().map(|user| Entry {
                    line: 0,
                    address: user.address.into_owned(),
                    home: user.home.as_deref().map(str::to_owned),
                    mail: user.mail.to_string(),
                    uid: user.uid,
                    gid: user.gid,
                    quota_bytes: user.quota_bytes,
                    quota_messages: user.quota_messages,
                });
                prop_assert_eq!(found.as_ref(), twin.get(key));
            }
        }
    }
}
