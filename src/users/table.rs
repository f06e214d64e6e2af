//! The reader of a user table.
//!
//! Owns the mapping and the search in it. Promises that an answer is right or an error: everything that a search
//! begins with is checked when the table is opened and held in memory of the table's own, a record is checked when it
//! is used, and a block in which something should have been and was not. Never writes, and never follows an offset
//! that it has not compared with the file's length.
#![forbid(unsafe_code)]

use super::block::{Block, Raw, may_hold};
use super::class;
use super::domain::{Domain, Domains};
use super::header::{Header, HeaderFault, SECTIONS, Which};
use super::key::{Key, LocalPart};
use super::layout::{BLOCK, BLOCK_ROOM, LINE, home, tag};
use super::record::{Damage, Record, Shared};
use super::template::{self, Template};
use super::user::{Fields, User};
use crate::sys::cpu::prefetch;
use crate::sys::mmap::{Keep, Mapping};
use crate::sys::pace;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open table. Immutable, so all workers may share one; it lives on if a new one is renamed over it.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    mapping: Mapping,
    /// A copy of the file up to its elsewhere section: one octet and a half for each address.
    head: Option<Mapping>,
    header: Header,
    /// Where the sections are, in their order.
    ranges: [Range<usize>; SECTIONS.len()],
    templates: Vec<Arc<Template>>,
    classes: Vec<Fields>,
}

/// What a search is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// An alias; if there is none of the key, a user.
    Any,
    /// A user.
    User,
}

impl Table {
    /// Maps the table at `path` and checks everything but the records.
    ///
    /// # Errors
    /// If it cannot be read, is not a table, is cut off or damaged; the message names the part.
    pub fn open(path: &Path) -> Result<Self, TableError> {
        let opened =
            Mapping::open(path).map_err(TableFault::Open).and_then(|mapping| Self::check(path, mapping));
        opened.map_err(|fault| TableError { path: path.to_owned(), fault })
    }

    /// Makes a copy of the table at `path` that nobody else can change, and checks every section of it.
    ///
    /// # Errors
    /// As [`Table::open`]; a copy that is torn, as somebody wrote to the file meanwhile, is damaged.
    pub fn load(path: &Path, keep: &Keep) -> Result<Self, TableError> {
        let copied =
            Mapping::own(path, keep).map_err(TableFault::Copy).and_then(|mapping| Self::check(path, mapping));
        copied
            .and_then(|table| {
                table.check_section(Which::Elsewhere)?;
                table.check_section(Which::Heap)?;
                Ok(table)
            })
            .map_err(|fault| TableError { path: path.to_owned(), fault })
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

    /// Looks a user up by his key as it is stored: [`super::key::find`] is the way from a recipient to here.
    ///
    /// # Errors
    /// If a record that could be the one is damaged.
    pub fn lookup(&self, key: impl AsRef<[u8]>) -> Result<Option<User<'_>>, Damage> {
        match self.search_stored(key.as_ref(), Want::User)? {
            Some(record) => self.user(&record).map(Some),
            None => Ok(None),
        }
    }

    /// The record of a key as it is stored.
    pub(super) fn search_stored(&self, key: &[u8], want: Want) -> Result<Option<Record<'_>>, Damage> {
        let key = Key::cut(key);
        let hash = self.prefetch(key);
        let domain = key.domain.and_then(|domain| self.domain(domain));
        self.search(key, hash, domain, want)
    }

    /// All users, in the order of the hashes of their keys.
    ///
    /// A damaged record is an error in its place.
    pub fn users(&self) -> impl Iterator<Item = Result<User<'_>, Damage>> {
        let users = self.records().filter(|record| !record.as_ref().is_ok_and(Record::is_alias));
        users.map(|record| record.and_then(|record| self.user(&record)))
    }

    /// All aliases and their targets, likewise.
    pub fn aliases(&self) -> impl Iterator<Item = Result<(Cow<'_, str>, Vec<&str>), Damage>> {
        let aliases = self.records().filter(|record| !record.as_ref().is_ok_and(|record| !record.is_alias()));
        aliases.map(|record| {
            let record = record?;
            Ok((self.address(&record)?, record.targets()?))
        })
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
        self.header.users
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.header.users == 0
    }

    /// Octets of all that a look-up may have to fetch from memory.
    pub fn heap_bytes(&self) -> u64 {
        self.header.section(Which::Heap).length
    }

    /// The figures of the header.
    pub fn shape(&self) -> Shape {
        let header = &self.header;
        let length = |which| header.section(which).length;
        Shape {
            users: header.users,
            aliases: header.aliases,
            file_bytes: header.file_length,
            class_bytes: length(Which::Classes),
            template_bytes: length(Which::Templates),
            domain_bytes: length(Which::Domains) + length(Which::DomainSlots),
            filter_bytes: length(Which::Filter),
            elsewhere_bytes: length(Which::Elsewhere),
            heap_bytes: length(Which::Heap),
            classes: header.classes,
            templates: header.templates,
            domains: header.domains,
            load: header.record_bytes as f64 / (header.home_blocks as f64 * BLOCK_ROOM as f64),
            longest_probe: header.longest_probe,
            local_part: header.local_part,
            built_at: (header.built_at > 0).then_some(header.built_at),
        }
    }

    fn check(path: &Path, mapping: Mapping) -> Result<Self, TableFault> {
        let header = Header::decode(&mapping).map_err(TableFault::Header)?;
        let before = usize::try_from(header.section(Which::Elsewhere).offset).unwrap_or_default();
        // "No such user" bounces mail. It is said by what is here, which no writer can change any more.
        let copy = || Mapping::copy_of(mapping.get(..before).unwrap_or_default()).map_err(TableFault::Open);
        let head = if mapping.is_own() { None } else { Some(copy()?) };
        let ranges = header.sections.map(|section| section.range().unwrap_or_default());
        let (path, templates, classes) = (path.to_owned(), Vec::new(), Vec::new());
        let mut table = Self { path, mapping, head, header, ranges, templates, classes };
        for which in [Which::Classes, Which::Templates, Which::Domains, Which::DomainSlots, Which::Filter] {
            table.check_section(which)?;
        }
        table.templates = template::read_section(table.octets(Which::Templates), header.templates)
            .map_err(|number| TableFault::Template { number })?;
        table.classes = class::read_section(table.octets(Which::Classes), header.classes, &table.templates)
            .map_err(|number| TableFault::Class { number })?;
        Ok(table)
    }

    pub(super) fn check_section(&self, which: Which) -> Result<(), TableFault> {
        let expected = self.header.section(which).checksum;
        let found = checksum(self.octets(which));
        match expected == found {
            true => Ok(()),
            false => Err(TableFault::Section { section: SECTIONS[which as usize], expected, found }),
        }
    }

    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.header.hash(key)
    }

    /// Fetches what a search reads, without waiting for it: the line of the filter, and the block, though a stranger
    /// needs none: looking up its page takes no longer than the filter's line needs to come. Meanwhile the key's domain
    /// can be looked up. Returns the key's hash.
    pub(super) fn prefetch(&self, key: Key<'_>) -> u64 {
        let hash = self.hash(key.whole);
        prefetch(self.filter_line(hash).map_or(&[], |line| &line[..]));
        prefetch(self.block_at(home(hash, self.header.home_blocks)).map_or(&[], |(octets, _)| &octets[..]));
        hash
    }

    /// A folded domain, if it is in the list.
    pub(super) fn domain(&self, domain: &[u8]) -> Option<Domain> {
        self.domains().find(self.hash(domain), domain)
    }

    /// Whether a domain that is not in the list has no keys.
    pub(super) fn lists_all_domains(&self) -> bool {
        self.header.lists_all_domains
    }

    /// The record of a key whose hash and domain are these.
    pub(super) fn search(
        &self,
        key: Key<'_>,
        hash: u64,
        domain: Option<Domain>,
        want: Want,
    ) -> Result<Option<Record<'_>>, Damage> {
        if self.filter_line(hash).is_some_and(|line| !may_hold(line, hash)) {
            return Ok(None);
        }
        let (domain, local) = match (domain, key.domain) {
            (Some(domain), Some(_)) => (domain.number, key.local),
            (None, Some(_)) if self.header.lists_all_domains => return Ok(None),
            _ => (0, key.whole),
        };
        for block in self.blocks_of(hash) {
            for raw in block.records().filter(|raw| raw.tag == tag(hash)) {
                let record = self.record(raw)?;
                if record.has_key(domain, local) && (want == Want::Any || !record.is_alias()) {
                    return Ok(Some(record));
                }
            }
        }
        // The filter lets one stranger in two hundred pass. Or something is not as it was written.
        self.blocks_of(hash).try_for_each(|block| block.check())?;
        if self.mapping.is_changed() { Err(Damage::Rewritten) } else { Ok(None) }
    }

    /// The blocks in which a record with this hash can be.
    fn blocks_of(&self, hash: u64) -> impl Iterator<Item = Block<'_>> {
        let home = home(hash, self.header.home_blocks);
        let mut goes_on = true;
        (home..home + u64::from(self.header.longest_probe)).map_while(move |number| {
            let (octets, offset) = self.block_at(number).filter(|_| goes_on)?;
            let block = Block::new(octets, offset);
            goes_on = block.goes_on();
            Some(block)
        })
    }

    fn block_at(&self, number: u64) -> Option<(&[u8; BLOCK], u64)> {
        let (blocks, _) = self.octets(Which::Heap).as_chunks();
        let octets = blocks.get(usize::try_from(number).ok()?)?;
        Some((octets, self.header.section(Which::Heap).offset + number * BLOCK as u64))
    }

    /// There always is one.
    fn filter_line(&self, hash: u64) -> Option<&[u8; LINE]> {
        let (lines, _) = self.octets(Which::Filter).as_chunks();
        lines.get(usize::try_from(home(hash, self.header.filter_lines)).ok()?)
    }

    #[inline]
    pub(super) fn record<'t>(&'t self, raw: Raw<'t>) -> Result<Record<'t>, Damage> {
        let elsewhere = || (self.octets(Which::Elsewhere), self.header.section(Which::Elsewhere).offset);
        Record::parse(raw.body(elsewhere)?, raw.offset)
    }

    /// Everything about a user.
    #[inline]
    pub(super) fn user<'t>(&'t self, record: &Record<'t>) -> Result<User<'t>, Damage> {
        record.user(self.shared())
    }

    pub(super) fn address<'t>(&'t self, record: &Record<'t>) -> Result<Cow<'t, str>, Damage> {
        record.address(self.shared())
    }

    /// All blocks of the heap.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        (0..).map_while(|number| self.block_at(number)).map(|(octets, offset)| Block::new(octets, offset))
    }

    /// All records in the order of the heap. In a block that is damaged, at least one item is an error.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<Record<'_>, Damage>> {
        self.blocks().flat_map(|block| {
            let damage = block.check().err();
            let is_hidden = damage.is_some() && block.records().all(|raw| self.record(raw).is_ok());
            let records = block.records().map(|raw| self.record(raw));
            records.chain(damage.filter(|_| is_hidden).map(Err))
        })
    }

    fn shared(&self) -> Shared<'_> {
        Shared { classes: &self.classes, templates: &self.templates, domains: self.domains() }
    }

    fn domains(&self) -> Domains<'_> {
        Domains {
            section: self.octets(Which::Domains),
            slots: self.octets(Which::DomainSlots),
            count: self.header.domains,
        }
    }

    /// A section: of the table's own copy if it is in it, else of the mapping.
    fn octets(&self, which: Which) -> &[u8] {
        let source = match which {
            Which::Elsewhere | Which::Heap => &self.mapping,
            _ => self.head.as_ref().unwrap_or(&self.mapping),
        };
        source.get(self.ranges[which as usize].clone()).unwrap_or_default()
    }

    /// Octets between the sections; see [`super::layout`].
    pub(super) fn gaps(&self) -> impl Iterator<Item = &[u8]> {
        let sections = self.header.sections;
        sections.into_iter().zip(sections.into_iter().skip(1)).filter_map(|(section, next)| {
            let (end, begin) = (usize::try_from(section.end()?).ok()?, usize::try_from(next.offset).ok()?);
            self.mapping.get(end..begin)
        })
    }

    pub(super) fn alias_count(&self) -> u64 {
        self.header.aliases
    }
}

fn checksum(octets: &[u8]) -> u32 {
    octets.chunks(PIECE_BYTES).fold(0, |sum, piece| {
        pace::breathe();
        crc32c::crc32c_append(sum, piece)
    })
}

/// What is checked at once, where the thread has time.
const PIECE_BYTES: usize = 64 << 10;

/// How large a table is, and how it is built.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Number of users.
    pub users: u64,
    /// Number of aliases.
    pub aliases: u64,
    /// Octets of the whole file.
    pub file_bytes: u64,
    /// Octets of the classes, to the end of their last page.
    pub class_bytes: u64,
    /// Octets of the path templates, likewise.
    pub template_bytes: u64,
    /// Octets of the domains and their slots, likewise.
    pub domain_bytes: u64,
    /// Octets of the filter, likewise.
    pub filter_bytes: u64,
    /// Octets of bodies that are too long for a block, likewise.
    pub elsewhere_bytes: u64,
    /// Octets of the blocks, likewise.
    pub heap_bytes: u64,
    /// Number of classes.
    pub classes: u32,
    /// Number of path templates.
    pub templates: u32,
    /// Number of listed domains.
    pub domains: u32,
    /// How full the home blocks would be if each held its own records.
    pub load: f64,
    /// The most blocks that a search reads.
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
    /// No copy can be made of it; the error says which step failed.
    Copy(io::Error),
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
    /// A class makes no sense although the checksum fits.
    Class {
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
            TableFault::Copy(error) if error.kind() != io::ErrorKind::NotFound => Ok(()),
            _ => f.write_str("; build it with \"posthaste users build\""),
        }
    }
}

impl std::error::Error for TableError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            TableFault::Open(error) | TableFault::Copy(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "cannot open it: {error}"),
            Self::Copy(error) => error.fmt(f),
            Self::Header(fault) => fault.fmt(f),
            Self::Section { section, expected, found } => write!(
                f,
                "section {section} is damaged: expected checksum {expected:#010x}, found {found:#010x}"
            ),
            Self::Template { number } => {
                write!(f, "section templates: number {number} makes no sense")
            }
            Self::Class { number } => write!(f, "section classes: number {number} makes no sense"),
        }
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
                    address: user.address().to_string(),
                    home: user.home().map(|home| home.to_string()),
                    mail: user.mail().to_string(),
                    uid: user.uid(),
                    gid: user.gid(),
                    quota_bytes: user.quota_bytes(),
                    quota_messages: user.quota_messages(),
                });
                prop_assert_eq!(found.as_ref(), twin.get(key));
            }
        }
    }
}
