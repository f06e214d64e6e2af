//! The writer of user tables.
//!
//! Owns the file from its first octet to its publication. Promises that a table appears under its name whole,
//! checked and durable, or not at all, and that the same entries, seed and time give the same octets. Never
//! changes a published table: it writes beside it and renames.
//!
//! The heap is written while entries come in; what stays in memory is one `Place` for each, 24 octets. Sorted
//! by hash, these give the index from left to right (see [`super::layout`]), and bring duplicates together.
#![forbid(unsafe_code)]

use super::draft::{Draft, Output};
use super::entry::{Alias, AliasFault, Entry, EntryFault};
use super::header::Header;
use super::key::{LocalPart, fold};
use super::layout::{self, OFFSET_MAX, PAGE, PROBE_MAX, SLOTS, Slot, home_bucket};
use super::record;
use super::template::Dictionary;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a table is built with beside its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What to do to local parts.
    pub local_part: LocalPart,
    /// The key of the hash; it must not be known outside.
    pub seed: [u8; 16],
    /// The time to note in the header, in Unix seconds; 0: none.
    pub built_at: u64,
    /// How much memory to work in, in octets; has no influence on the result.
    pub memory_bytes: usize,
}

/// The memory to build in unless something else is asked for.
pub const MEMORY_BYTES: usize = 512 << 20;

impl Options {
    /// A random seed and the present time: what a server should be given.
    ///
    /// # Errors
    /// If the kernel gives no random octets.
    pub fn random(local_part: LocalPart) -> io::Result<Self> {
        let mut seed = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut seed)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self { local_part, seed, built_at: now.as_secs(), memory_bytes: MEMORY_BYTES })
    }

    /// This seed and no time: the same entries give the same file.
    pub fn reproducible(local_part: LocalPart, seed: [u8; 16]) -> Self {
        Self { local_part, seed, built_at: 0, memory_bytes: MEMORY_BYTES }
    }
}

/// A table being built; dropped before [`Builder::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Builder {
    options: Options,
    draft: Draft,
    out: Output,
    places: Vec<Place>,
    dictionary: Dictionary,
    /// One record at a time, reused.
    record: Vec<u8>,
}

impl Builder {
    /// Begins a table that will replace `output` or appear there.
    ///
    /// # Errors
    /// If `output` is there and not a regular file, or nothing can be created beside it.
    pub fn create(output: &Path, options: Options) -> Result<Self, BuildError> {
        let (draft, file) = Draft::create(output)?;
        let mut builder = Self {
            options,
            out: Output::new(file),
            draft,
            places: Vec::new(),
            dictionary: Dictionary::default(),
            record: Vec::new(),
        };
        // The header comes last, when everything is known; until then nobody takes this for a table.
        builder.out.write(&[0; PAGE]).map_err(|error| builder.draft.failed("write", error))?;
        builder.out.begin_section();
        Ok(builder)
    }

    /// Adds one entry; its address is folded here.
    ///
    /// # Errors
    /// [`BuildError::Entry`] leaves the builder as it was, so that a caller can go on to find all faults.
    pub fn add(&mut self, entry: &Entry) -> Result<(), BuildError> {
        let folded = fold(&entry.address, self.options.local_part);
        let entry = match folded {
            Cow::Borrowed(_) => Cow::Borrowed(entry),
            Cow::Owned(address) => Cow::Owned(Entry { address, ..entry.clone() }),
        };
        entry.check().map_err(|fault| BuildError::Entry { line: entry.line, fault })?;
        self.record.clear();
        record::write(&entry, &mut self.dictionary, &mut self.record);
        let place = Place {
            hash: layout::hash(&self.options.seed, entry.address.as_bytes()),
            offset: self.out.offset,
            line: entry.line,
        };
        if place.offset > OFFSET_MAX {
            return Err(BuildError::Large);
        }
        self.out.write(&self.record).map_err(|error| self.draft.failed("write", error))?;
        self.places.push(place);
        Ok(())
    }

    /// Adds one alias; its address is folded here, its targets when they are looked up.
    ///
    /// # Errors
    /// [`BuildError::Alias`] leaves the builder as it was, so that a caller can go on to find all faults.
    pub fn add_alias(&mut self, alias: &Alias) -> Result<(), BuildError> {
        alias.check().map_err(|fault| BuildError::Alias { line: alias.line, fault })?;
        Ok(())
    }

    /// Number of entries so far.
    pub fn len(&self) -> u64 {
        self.places.len() as u64
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What is wrong with the lines taken together, in their order, for who knows already that some were bad.
    /// Publishes nothing.
    ///
    /// # Errors
    /// If a step fails.
    pub fn conflicts(mut self) -> Result<Vec<Conflict>, BuildError> {
        self.find_conflicts()
    }

    fn find_conflicts(&mut self) -> Result<Vec<Conflict>, BuildError> {
        let found = self.find_duplicates().map_err(|error| self.draft.failed("read back", error))?;
        Ok(found.into_iter().map(Conflict::Duplicate).collect())
    }

    /// Writes the rest, makes it durable and publishes the table.
    ///
    /// # Errors
    /// If lines contradict each other, or a step fails: nothing is published then.
    pub fn finish(mut self) -> Result<Summary, BuildError> {
        let conflicts = self.find_conflicts()?;
        if !conflicts.is_empty() {
            return Err(BuildError::Conflicts(conflicts));
        }
        let header = self.write_sections()?;
        self.out.finish(&header.encode()).map_err(|error| self.draft.failed("write and sync", error))?;
        self.draft.publish()?;
        Ok(Summary {
            users: header.records,
            file_bytes: header.file_length,
            templates: header.templates,
            longest_probe: header.longest_probe,
        })
    }

    fn write_sections(&mut self) -> Result<Header, BuildError> {
        let failed = |draft: &Draft, error| draft.failed("write", error);
        let heap = self.out.end_section().map_err(|error| failed(&self.draft, error))?;

        self.out.begin_section();
        let templates = self.out.write(self.dictionary.section());
        templates.map_err(|error| failed(&self.draft, error))?;
        let template_section = self.out.end_section().map_err(|error| failed(&self.draft, error))?;

        self.out.begin_section();
        let records = self.places.len() as u64;
        let home_buckets = layout::home_buckets(records);
        let index = write_index(&mut self.out, &self.places, home_buckets);
        let longest_probe = index.map_err(|error| failed(&self.draft, error))?;
        let index = self.out.end_section().map_err(|error| failed(&self.draft, error))?;
        if longest_probe > u64::from(PROBE_MAX) {
            return Err(BuildError::Crowded);
        }
        Ok(Header {
            local_part: self.options.local_part,
            file_length: self.out.offset,
            built_at: self.options.built_at,
            seed: self.options.seed,
            records,
            home_buckets,
            longest_probe: u32::try_from(longest_probe).unwrap_or(PROBE_MAX),
            templates: u32::try_from(self.dictionary.len()).unwrap_or(u32::MAX),
            heap,
            template_section,
            index,
        })
    }

    fn find_duplicates(&mut self) -> io::Result<Vec<Duplicate>> {
        self.places.sort_unstable_by_key(|place| (place.hash, place.offset));
        self.out.flush()?;
        let mut duplicates = Vec::new();
        for group in self.places.chunk_by(|a, b| a.hash == b.hash) {
            if group.len() == 1 {
                continue;
            }
            let mut first_lines = HashMap::new();
            for place in group {
                let address = self.out.address_at(place.offset)?;
                if let Some(first_line) = first_lines.get(&address) {
                    duplicates.push(Duplicate { line: place.line, first_line: *first_line, address });
                } else {
                    first_lines.insert(address, place.line);
                }
            }
        }
        duplicates.sort_unstable_by_key(|duplicate| duplicate.line);
        Ok(duplicates)
    }
}

/// Builds and publishes a table from entries that are known to be good, as a demonstration or a test has them.
///
/// # Errors
/// The first thing that goes wrong.
pub fn write<'e>(
    output: &Path,
    options: Options,
    entries: impl IntoIterator<Item = &'e Entry>,
) -> Result<Summary, BuildError> {
    let mut builder = Builder::create(output, options)?;
    for entry in entries {
        builder.add(entry)?;
    }
    builder.finish()
}

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Number of users.
    pub users: u64,
    /// Octets of the file.
    pub file_bytes: u64,
    /// Number of path templates.
    pub templates: u32,
    /// The most buckets that a search reads.
    pub longest_probe: u32,
}

/// What is wrong with lines taken together. [`fmt::Display`] says on which line, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// An address is there twice.
    Duplicate(Duplicate),
}

impl Conflict {
    /// The line to look at.
    pub fn line(&self) -> u64 {
        match self {
            Self::Duplicate(duplicate) => duplicate.line,
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(duplicate) => duplicate.fmt(f),
        }
    }
}

/// An address that was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The line of the second (or later) one.
    pub line: u64,
    /// The line of the first one.
    pub first_line: u64,
    /// The address, folded.
    pub address: String,
}

/// Why a table was not built.
#[derive(Debug)]
pub enum BuildError {
    /// What stands at the output's name is not a file that can be replaced.
    Occupied {
        /// The output.
        path: PathBuf,
    },
    /// A step on a file failed.
    File {
        /// The step, as a verb.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An entry cannot be a record.
    Entry {
        /// Its line.
        line: u64,
        /// Why.
        fault: EntryFault,
    },
    /// An alias cannot be a record.
    Alias {
        /// Its line.
        line: u64,
        /// Why.
        fault: AliasFault,
    },
    /// Lines that are good by themselves and not together, in their order.
    Conflicts(Vec<Conflict>),
    /// More than 256 TiB of records.
    Large,
    /// The seed crowds some bucket more than a search may read.
    Crowded,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Occupied { path } => write!(
                f,
                "cannot replace {}: it is not a regular file; choose another output",
                path.display()
            ),
            Self::File { step, path, source } => {
                write!(f, "cannot {step} {}: {source}", path.display())
            }
            Self::Entry { line, fault } => write!(f, "line {line}: {fault}; {}", fault.remedy()),
            Self::Alias { line, fault } => write!(f, "line {line}: {fault}; {}", fault.remedy()),
            Self::Conflicts(conflicts) => {
                write!(f, "{} lines contradict others", conflicts.len())?;
                conflicts.first().map_or(Ok(()), |first| write!(f, "; the first: {first}"))
            }
            Self::Large => f.write_str("the records need more than 256 TiB; split the table"),
            Self::Crowded => f.write_str("this seed spreads the addresses badly; take another one"),
        }
    }
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, first_line, address } = self;
        write!(f, "line {line}: {address} is on line {first_line} already; remove one of them")
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Where a record is, and what places it in the index.
#[derive(Debug, Clone, Copy)]
struct Place {
    hash: u64,
    offset: u64,
    line: u64,
}

/// Writes the slots of `places`, which are sorted, and returns the longest probe in buckets.
fn write_index(out: &mut Output, places: &[Place], home_buckets: u64) -> io::Result<u64> {
    let mut free = 0;
    let mut longest = 0;
    for place in places {
        let home = home_bucket(place.hash, home_buckets);
        while free < home * SLOTS {
            out.write(&[0; 8])?;
            free += 1;
        }
        longest = longest.max(free / SLOTS - home + 1);
        out.write(&Slot::new(place.hash, place.offset).encode())?;
        free += 1;
    }
    while free < home_buckets * SLOTS {
        out.write(&[0; 8])?;
        free += 1;
    }
    Ok(longest)
}

const _: () = assert!(size_of::<Place>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::path::PathFault;
    use crate::users::table::Table;

    const OPTIONS: Options =
        Options { local_part: LocalPart::Folded, seed: [9; 16], built_at: 0, memory_bytes: MEMORY_BYTES };

    fn entry(line: u64, address: &str) -> Entry {
        Entry { line, address: address.to_owned(), mail: "/srv/mail".to_owned(), ..Entry::default() }
    }

    fn names_in(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_same_entries_and_seed_give_the_same_octets_and_another_seed_others() {
        let directory = tempfile::tempdir().unwrap();
        let built = |name: &str, seed| {
            let path = directory.path().join(name);
            let entries: Vec<Entry> =
                (0..1000).map(|n| entry(n + 1, &format!("user{n}@example.org"))).collect();
            write(&path, Options { seed, ..OPTIONS }, &entries).unwrap();
            std::fs::read(path).unwrap()
        };
        let first = built("a", [9; 16]);
        assert_eq!(first, built("b", [9; 16]));
        assert_ne!(first, built("c", [8; 16]));
        assert_ne!(Options::random(LocalPart::Kept).unwrap().seed, [0; 16]);
    }

    #[test]
    fn duplicates_are_all_reported_with_both_lines_and_nothing_is_published() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let lines = ["b@x", "A@X", "c@x", "a@x", "B@x", "a@X"];
        let entries: Vec<Entry> = lines.iter().zip(1..).map(|(address, line)| entry(line, address)).collect();
        let Err(BuildError::Conflicts(conflicts)) = write(&path, OPTIONS, &entries) else {
            panic!("duplicates were accepted");
        };
        let found: Vec<(u64, u64, &str)> = conflicts
            .iter()
            .map(|Conflict::Duplicate(Duplicate { line, first_line, address })| {
                (*line, *first_line, address.as_str())
            })
            .collect();
        assert_eq!(found, [(4, 2, "a@x"), (5, 1, "b@x"), (6, 2, "a@x")]);
        assert!(names_in(directory.path()).is_empty());
    }

    #[test]
    fn addresses_that_differ_in_the_kept_case_are_no_duplicates() {
        let directory = tempfile::tempdir().unwrap();
        let kept = Options { local_part: LocalPart::Kept, ..OPTIONS };
        let entries = [entry(1, "A@x"), entry(2, "a@x")];
        let summary = write(&directory.path().join("table"), kept, &entries).unwrap();
        assert_eq!(summary.users, 2);
    }

    #[test]
    fn an_unfinished_table_leaves_the_published_one_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        write(&path, OPTIONS, [&entry(1, "alice@x")]).unwrap();
        let mut builder = Builder::create(&path, OPTIONS).unwrap();
        builder.add(&entry(1, "bob@x")).unwrap();
        assert_eq!((names_in(directory.path()).len(), builder.len()), (2, 1));
        drop(builder);
        assert_eq!(names_in(directory.path()), ["table"]);
        let table = Table::open(&path).unwrap();
        assert!(table.lookup("alice@x").unwrap().is_some());
    }

    #[test]
    fn a_symbolic_link_stays_and_a_directory_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (link, path) = (directory.path().join("link"), directory.path().join("table"));
        std::fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, OPTIONS, [&entry(1, "alice@x")]).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(Table::open(&path).unwrap().len(), 1);
        let error = write(directory.path(), OPTIONS, []).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        let error = write(&directory.path().join("none/table"), OPTIONS, []).unwrap_err();
        assert!(error.to_string().starts_with("cannot create "), "{error}");
    }

    #[test]
    fn an_entry_that_cannot_be_a_record_is_refused_and_the_rest_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let mut builder = Builder::create(&path, OPTIONS).unwrap();
        let good = entry(1, "alice@x");
        let bad = |change: fn(&mut Entry)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad
        };
        for (entry, expected) in [
            (bad(|e| e.address = String::new()), EntryFault::AddressPart),
            (bad(|e| e.address = "@x".into()), EntryFault::AddressPart),
            (bad(|e| e.address = "a@".into()), EntryFault::AddressPart),
            (bad(|e| e.address = "a\n@x".into()), EntryFault::AddressControl),
            (bad(|e| e.address = "a".repeat(321)), EntryFault::AddressLong),
            (bad(|e| e.home = Some("~".into())), EntryFault::Home(PathFault::Relative)),
            (bad(|e| e.mail = "/a/..".into()), EntryFault::Mail(PathFault::Dots)),
            (bad(|e| e.mail = "Maildir".into()), EntryFault::NoHome),
            (bad(|e| e.uid = Some(0)), EntryFault::Uid(0)),
            (bad(|e| e.gid = Some(u32::MAX)), EntryFault::Gid(u32::MAX)),
        ] {
            match builder.add(&entry).unwrap_err() {
                BuildError::Entry { line: 1, fault } => assert_eq!(fault, expected),
                other => panic!("{other}"),
            }
        }
        builder.add(&good).unwrap();
        assert_eq!(builder.finish().unwrap().users, 1);
    }

    #[test]
    fn zero_limits_mean_the_same_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let unlimited = Entry { quota_bytes: Some(0), quota_messages: Some(0), ..entry(1, "alice@x") };
        write(&path, OPTIONS, [&unlimited]).unwrap();
        let table = Table::open(&path).unwrap();
        let user = table.lookup("alice@x").unwrap().unwrap();
        assert_eq!((user.quota_bytes, user.quota_messages), (None, None));
    }
}
