//! The writer of user tables.
//!
//! Owns the way from entries in any order to a published file. Promises that a table appears under its name whole,
//! checked and durable, or not at all; that the same entries, seed and time give the same octets, whatever memory and
//! threads do; and that it works in the memory that it was given. Never changes a published table: it writes beside it
//! and renames.
//!
//! An entry becomes the body of a record at once, with domain, class and templates replaced by their numbers. A second
//! thread hashes the keys and parts the records by their hashes (`feed`, `spill`). When all are there, one thread
//! reads part by part and sorts it (`sort`), while another fills blocks, filter and the rest from left to right
//! (`sections`). At last, every alias is looked up in the finished file (`aliases`).
#![forbid(unsafe_code)]

mod aliases;
mod error;
mod feed;
mod sections;
mod sort;
mod spill;

use super::block::{bytes_elsewhere, bytes_in_block};
use super::draft::Draft;
use super::entry::{Alias, Entry};
use super::key::{LocalPart, Rules, fold};
use super::layout::{OFFSET_MAX, PROBE_MAX};
use super::record::{self, Dictionaries};
pub use error::{BuildError, Conflict};
use feed::Feed;
use sections::Plan;
use spill::Spill;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
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
    /// How much memory to work in, in octets; has no influence on the result. Less than [`MEMORY_BYTES_MIN`] is slow. The list
    /// of domains comes on top: about 100 octets for each of them, and not more than a million.
    pub memory_bytes: usize,
}

/// The memory to build in unless something else is asked for.
pub const MEMORY_BYTES: usize = 512 << 20;
/// With less, records are read more than once; and threads, dictionaries and buffers for writing need some too.
pub const MEMORY_BYTES_MIN: usize = 64 << 20;
/// The most conflicts that are listed; more would be no list, but the input itself.
pub const CONFLICTS_MAX: usize = 1_000_000;

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
    rules: Rules,
    draft: Draft,
    file: File,
    dictionaries: Dictionaries,
    feed: Feed,
    totals: Totals,
    /// One body at a time, reused.
    body: Vec<u8>,
}

/// What was added.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    users: u64,
    aliases: u64,
    /// Octets of records in blocks, and elsewhere.
    bytes_in_blocks: u64,
    bytes_elsewhere: u64,
}

impl Builder {
    /// Begins a table that will replace `output` or appear there.
    ///
    /// # Errors
    /// If `output` is there and not a regular file, or nothing can be created beside it.
    pub fn create(output: &Path, options: Options) -> Result<Self, BuildError> {
        let (draft, file) = Draft::create(output)?;
        // Half of the memory is for what is waiting; sorting takes the other half, when that has become little.
        let spill = Spill::new(draft.directory(), options.memory_bytes / 4);
        Ok(Self {
            options,
            rules: Rules::default(),
            feed: Feed::new(options.seed, spill),
            file,
            draft,
            dictionaries: Dictionaries::default(),
            totals: Totals::default(),
            body: Vec::new(),
        })
    }

    /// The rules by which the server will look up the targets of aliases; without them, a target has no detail and is
    /// in no local domain.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
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
        record::write_user(&entry, &mut self.dictionaries, &mut self.body);
        self.totals.users += 1;
        self.take(entry.line, &entry.address)
    }

    /// Adds one alias; its address is folded here, its targets when they are looked up.
    ///
    /// # Errors
    /// [`BuildError::Alias`] leaves the builder as it was, so that a caller can go on to find all faults.
    pub fn add_alias(&mut self, alias: &Alias) -> Result<(), BuildError> {
        alias.check().map_err(|fault| BuildError::Alias { line: alias.line, fault })?;
        let address = fold(&alias.address, self.options.local_part);
        record::write_alias(alias, &address, &mut self.dictionaries, &mut self.body);
        self.totals.aliases += 1;
        self.take(alias.line, &address)
    }

    /// Takes the body at hand.
    fn take(&mut self, line: u64, key: &str) -> Result<(), BuildError> {
        self.totals.bytes_in_blocks += bytes_in_block(self.body.len()) as u64;
        self.totals.bytes_elsewhere += bytes_elsewhere(self.body.len()) as u64;
        let fed = self.feed.push(line, key.as_bytes(), &self.body);
        fed.map_err(|source| self.draft.failed("write records beside", source))
    }

    /// Number of users so far.
    pub fn len(&self) -> u64 {
        self.totals.users
    }

    /// Number of aliases so far.
    pub fn aliases(&self) -> u64 {
        self.totals.aliases
    }

    /// Whether there is nobody yet.
    pub fn is_empty(&self) -> bool {
        self.totals.users == 0
    }

    /// What is wrong with the lines taken together, in their order, for who knows already that some were bad.
    /// Publishes nothing.
    ///
    /// # Errors
    /// If a step fails.
    pub fn conflicts(self) -> Result<Vec<Conflict>, BuildError> {
        self.write(&mut |_| ()).map(|(_, _, conflicts)| conflicts)
    }

    /// Writes the table, makes it durable and publishes it.
    ///
    /// # Errors
    /// If lines contradict each other, or a step fails: nothing is published then.
    pub fn finish(self) -> Result<Summary, BuildError> {
        self.finish_with(&mut |_| ())
    }

    /// [`Builder::finish`], which tells from time to time how many more users and aliases are written.
    ///
    /// # Errors
    /// As [`Builder::finish`].
    pub fn finish_with(self, on_written: &mut dyn FnMut(u64)) -> Result<Summary, BuildError> {
        let (mut draft, summary, conflicts) = self.write(on_written)?;
        if !conflicts.is_empty() {
            return Err(BuildError::Conflicts(conflicts));
        }
        draft.publish()?;
        Ok(summary)
    }

    fn write(self, on_written: &mut dyn FnMut(u64)) -> Result<(Draft, Summary, Vec<Conflict>), BuildError> {
        let Self { options, rules, draft, file, dictionaries, feed, totals, .. } = self;
        let spill = feed.finish().map_err(|source| draft.failed("write records beside", source))?;
        let plan = Plan::new(&options, &totals, &dictionaries);
        if plan.end() > OFFSET_MAX {
            return Err(BuildError::Large);
        }
        let bytes_max = (options.memory_bytes / 8).max(1);
        let written = plan.write(&file, &dictionaries, |sections| {
            sort::each_part(&spill, bytes_max, |part| {
                sections.take(part)?;
                on_written(part.len());
                Ok(())
            })
        });
        let (header, mut conflicts) = written.map_err(|source| draft.failed("write", source))?;
        if header.longest_probe > PROBE_MAX {
            return Err(BuildError::Crowded);
        }
        aliases::check(draft.path(), &rules, &spill, &mut conflicts).map_err(|error| error.told(&draft))?;
        conflicts.sort_by_key(Conflict::line);
        let summary = Summary {
            users: header.users,
            aliases: header.aliases,
            file_bytes: header.file_length,
            templates: header.templates,
            longest_probe: header.longest_probe,
        };
        Ok((draft, summary, conflicts))
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
    /// Number of aliases.
    pub aliases: u64,
    /// Octets of the file.
    pub file_bytes: u64,
    /// Number of path templates.
    pub templates: u32,
    /// The most blocks that a search reads.
    pub longest_probe: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::entry::EntryFault;
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
            .map(|conflict| match conflict {
                Conflict::Duplicate { line, first_line, address } => (*line, *first_line, address.as_str()),
                Conflict::Alias { .. } | Conflict::More { .. } => panic!("{conflict}"),
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
    fn memory_and_the_order_of_the_input_make_no_difference_but_time() {
        let directory = tempfile::tempdir().unwrap();
        let mut entries: Vec<Entry> = (0..20_000)
            .map(|n| Entry {
                home: Some(format!("/home/{}", n % 3)),
                mail: if n % 100 == 0 { "x".repeat(400) } else { "Maildir".to_owned() },
                ..entry(n + 1, &format!("user{n}@d{}.example", n % 7))
            })
            .collect();
        let built = |entries: &[Entry], memory_bytes: usize| {
            let path = directory.path().join("table");
            write(&path, Options { memory_bytes, ..OPTIONS }, entries).unwrap();
            assert_eq!(names_in(directory.path()), ["table"]);
            std::fs::read(&path).unwrap()
        };
        let in_memory = built(&entries, MEMORY_BYTES);
        assert_eq!(built(&entries, 64 << 10), in_memory);
        let table = Table::from_bytes(Path::new("table"), &in_memory).unwrap();
        assert!(table.verify(|| ()).is_empty());
        assert_eq!(table.users().count(), 20_000);
        // Numbers are given in the order of the input, so that may change octets, but nothing else.
        entries.reverse();
        let reversed = Table::from_bytes(Path::new("table"), &built(&entries, 64 << 10)).unwrap();
        let users = |table: &Table| table.users().map(|user| format!("{user:?}")).collect::<Vec<_>>();
        assert!(users(&table) == users(&reversed));
    }

    #[test]
    fn conflicts_are_found_in_files_as_they_are_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        for memory_bytes in [16 << 10, MEMORY_BYTES] {
            let mut builder = Builder::create(&path, Options { memory_bytes, ..OPTIONS }).unwrap();
            for n in 0..5000 {
                builder.add(&entry(n + 1, &format!("user{}@x", n % 4998))).unwrap();
            }
            assert_eq!((builder.len(), builder.aliases(), builder.is_empty()), (5000, 0, false));
            let lines: Vec<String> = builder.conflicts().unwrap().iter().map(Conflict::to_string).collect();
            assert_eq!(lines.len(), 2);
            assert_eq!(lines[0], "line 4999: user0@x is on line 1 already; remove one of them");
            assert!(names_in(directory.path()).is_empty());
        }
    }

    fn alias(line: u64, address: &str, targets: &[&str]) -> Alias {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        Alias { line, address: address.to_owned(), targets }
    }

    #[test]
    fn aliases_that_lead_nowhere_are_all_reported_and_nothing_is_published() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let mut builder = Builder::create(&path, OPTIONS).unwrap();
        builder.add(&entry(1, "alice@x")).unwrap();
        builder.add(&entry(2, "carol@x")).unwrap();
        builder.add(&entry(3, "dave@x")).unwrap();
        let chain: Vec<Alias> =
            (0..17).map(|n| alias(20 + n, &format!("c{n}@x"), &[&format!("c{}@x", n + 1)])).collect();
        for alias in chain.iter().chain(&[
            alias(40, "c17@x", &["dave@x"]),
            // Comes back to itself, and there is a user of the name.
            alias(3, "Alice@x", &["alice@x", "carol@x"]),
            alias(4, "a@x", &["b@x"]),
            alias(5, "b@x", &["c@x", "alice@x"]),
            alias(6, "c@x", &["a@x", "nobody@x", "alice@elsewhere"]),
            alias(7, "into@x", &["a@x"]),
            alias(8, "@x", &["@y"]),
            alias(9, "@y", &["@x"]),
            alias(10, "@z", &["@nowhere"]),
            alias(11, "carol@x", &["alice@x+"]),
            alias(12, "b@X", &["carol@x"]),
            alias(13, "@same", &["@x"]),
        ]) {
            builder.add_alias(alias).unwrap();
        }
        let bad = alias(14, "@", &["alice@x"]);
        assert!(builder.add_alias(&bad).unwrap_err().to_string().starts_with("line 14: "));
        let Err(BuildError::Conflicts(conflicts)) = builder.finish() else { panic!("they were accepted") };
        let lines: Vec<String> = conflicts
            .iter()
            .map(|conflict| conflict.to_string().split(';').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(
            lines,
            [
                "line 4: a@x: the alias leads back to itself",
                "line 5: b@x: the alias leads back to itself",
                "line 6: c@x: the alias leads back to itself",
                "line 6: c@x: the target alice@elsewhere is neither a user nor an alias",
                "line 8: @x: the alias leads back to itself",
                "line 9: @y: the alias leads back to itself",
                "line 10: @z: the target @nowhere is neither a user nor an alias",
                "line 11: carol@x: the target alice@x+ is neither a user nor an alias",
                "line 12: b@x is on line 5 already",
                "line 13: @same: the alias leads back to itself",
                "line 20: c0@x: more than 16 aliases one inside the other",
                "line 21: c1@x: more than 16 aliases one inside the other",
            ]
        );
        assert!(names_in(directory.path()).is_empty());
    }

    #[test]
    fn zero_limits_mean_the_same_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let unlimited = Entry { quota_bytes: Some(0), quota_messages: Some(0), ..entry(1, "alice@x") };
        write(&path, OPTIONS, [&unlimited]).unwrap();
        let table = Table::open(&path).unwrap();
        let user = table.lookup("alice@x").unwrap().unwrap();
        assert_eq!((user.quota_bytes(), user.quota_messages()), (None, None));
    }
}
