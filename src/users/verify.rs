//! Reading a whole table and checking that everything in it fits.
//!
//! Owns what `posthaste users verify` looks at beyond what opening a table does. Promises that a table without
//! a flaw answers every look-up. Never repairs: a table is built again.
#![forbid(unsafe_code)]

use super::header::Which;
use super::record::{Damage, Record};
use super::table::{Table, TableFault, Want};
use std::fmt;

impl Table {
    /// Reads everything and checks that everything fits: all sections, all records, and that each is found.
    /// `on_record` is called after each record. Returns what is wrong, at most [`FLAWS_MAX`] of it.
    pub fn verify(&self, mut on_record: impl FnMut()) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        for which in [Which::Elsewhere, Which::Heap] {
            flaws.extend(self.check_section(which).err().map(Flaw::Section));
        }
        if self.gaps().flatten().any(|octet| *octet != 0) {
            flaws.push(Flaw::Gap);
        }
        let (mut users, mut aliases) = (0, 0);
        for record in self.records() {
            on_record();
            let flaw = match record {
                Ok(record) => {
                    if record.is_alias() {
                        aliases += 1;
                    } else {
                        users += 1;
                    }
                    self.flaw_of(&record)
                }
                Err(damage) => Some(Flaw::Record(damage)),
            };
            flaws.extend(flaw);
            if flaws.len() >= FLAWS_MAX {
                return flaws;
            }
        }
        let is_readable = !flaws.iter().any(|flaw| matches!(flaw, Flaw::Record(_)));
        if is_readable && (users, aliases) != (self.len(), self.alias_count()) {
            let expected = (self.len(), self.alias_count());
            flaws.push(Flaw::Counts { expected, found: (users, aliases) });
        }
        flaws
    }

    fn flaw_of(&self, record: &Record<'_>) -> Option<Flaw> {
        let readable = match record.is_alias() {
            true => record.targets().map(|_| ()),
            false => self.user(record).map(|_| ()),
        };
        let address = match readable.and_then(|()| self.address(record)) {
            Ok(address) => address,
            Err(damage) => return Some(Flaw::Record(damage)),
        };
        let want = if record.is_alias() { Want::Any } else { Want::User };
        match self.search_stored(address.as_bytes(), want) {
            Ok(Some(found)) if found.offset == record.offset => None,
            Ok(_) => Some(Flaw::Unreachable { address: address.into_owned() }),
            Err(damage) => Some(Flaw::Record(damage)),
        }
    }
}

/// The most flaws that [`Table::verify`] lists.
pub const FLAWS_MAX: usize = 20;

/// One thing that [`Table::verify`] found wrong.
#[derive(Debug)]
pub enum Flaw {
    /// A section's checksum does not fit.
    Section(TableFault),
    /// A record is damaged.
    Record(Damage),
    /// A good record that a look-up does not find.
    Unreachable {
        /// The record's key.
        address: String,
    },
    /// There is something between the sections.
    Gap,
    /// Header and heap do not agree about the numbers of users and aliases.
    Counts {
        /// What the header says.
        expected: (u64, u64),
        /// What is in the heap.
        found: (u64, u64),
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(fault) => fault.fmt(f),
            Self::Record(damage) => damage.fmt(f),
            Self::Unreachable { address } => {
                write!(f, "{address} is in the heap, but a look-up does not find it")
            }
            Self::Gap => f.write_str("there is something between the sections"),
            Self::Counts { expected, found } => write!(
                f,
                "counts: expected {} users and {} aliases, found {} and {}",
                expected.0, expected.1, found.0, found.1
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::build::{Builder, Options};
    use crate::users::header::Header;
    use crate::users::key::LocalPart;
    use crate::users::{Alias, Entry, TableError, User};
    use std::path::Path;

    /// Users with every field there is, and some with none.
    fn entries() -> Vec<Entry> {
        (0..40_u32)
            .map(|n| Entry {
                line: u64::from(n) + 1,
                address: format!("user{n}@example.org"),
                home: (n % 3 > 0).then(|| format!("/srv/{}/user{n}", n % 2)),
                mail: if n % 3 > 0 { "Maildir".into() } else { format!("/var/mail/user{n}@example.org") },
                uid: (n % 2 > 0).then_some(1000 + n),
                gid: (n % 5 > 0).then_some(8),
                quota_bytes: (n % 4 > 0).then_some(1 << 30),
                quota_messages: (n % 7 > 0).then_some(1000),
            })
            .collect()
    }

    fn image() -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let options = Options::reproducible(LocalPart::Folded, [7; 16]);
        let mut builder = Builder::create(&path, options).unwrap();
        for entry in entries() {
            builder.add(&entry).unwrap();
        }
        for (address, targets) in aliases() {
            builder.add_alias(&Alias { line: 1, address, targets }).unwrap();
        }
        builder.finish().unwrap();
        std::fs::read(path).unwrap()
    }

    /// One that is too long for a block, and a catch-all.
    fn aliases() -> Vec<(String, Vec<String>)> {
        let all = (0..40).map(|n| format!("user{n}@example.org")).collect();
        vec![("all".to_owned(), all), ("@example.net".to_owned(), vec!["user1@example.org".to_owned()])]
    }

    fn open(bytes: &[u8]) -> Result<Table, TableError> {
        Table::from_bytes(Path::new("a table"), bytes)
    }

    fn is_same(user: &User<'_>, entry: &Entry) -> bool {
        user.address() == *entry.address
            && user.home().map(|home| home.to_cow()).as_deref() == entry.home.as_deref()
            && user.mail() == *entry.mail
            && (user.uid(), user.gid()) == (entry.uid, entry.gid)
            && (user.quota_bytes(), user.quota_messages()) == (entry.quota_bytes, entry.quota_messages)
    }

    /// Whatever is wrong with the table: an answer is right, or there is none.
    fn assert_no_wrong_answer(table: &Table, entries: &[Entry], what: &str) {
        for entry in entries {
            match table.lookup(&entry.address) {
                Ok(Some(user)) => assert!(is_same(&user, entry), "{what}: {user:?}"),
                Ok(None) => panic!("{what}: {} became unknown", entry.address),
                Err(_) => {}
            }
        }
        if let Ok(Some(user)) = table.lookup("nobody@example.org") {
            panic!("{what}: found {user:?}");
        }
    }

    #[test]
    fn a_table_gives_back_what_went_in_and_has_no_flaw() {
        let bytes = image();
        let table = open(&bytes).unwrap();
        assert_eq!(table.len(), 40);
        assert_no_wrong_answer(&table, &entries(), "intact");
        let mut users: Vec<User<'_>> = table.users().map(Result::unwrap).collect();
        users.sort_by_key(|user| user.local_part()[4..].parse::<u32>().unwrap());
        assert!(users.iter().zip(&entries()).all(|(user, entry)| is_same(user, entry)));
        let mut found: Vec<(String, Vec<String>)> = table
            .aliases()
            .map(Result::unwrap)
            .map(|(alias, targets)| (alias.into_owned(), targets.into_iter().map(str::to_owned).collect()))
            .collect();
        found.sort_by_key(|(alias, _)| alias.starts_with('@'));
        assert_eq!(found, aliases());
        let mut seen = 0;
        assert!(table.verify(|| seen += 1).is_empty());
        assert_eq!((seen, users.len()), (42, 40));
    }

    #[test]
    fn every_changed_octet_is_refused_or_reported_and_never_a_wrong_answer() {
        let mut bytes = image();
        let entries = entries();
        for at in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff] {
                bytes[at] ^= change;
                if let Ok(table) = open(&bytes) {
                    let what = format!("octet {at} ^ {change:#x}");
                    assert_no_wrong_answer(&table, &entries, &what);
                    assert!(!table.verify(|| ()).is_empty(), "{what}: not noticed");
                }
                bytes[at] ^= change;
            }
        }
    }

    #[test]
    fn every_truncation_and_every_longer_file_is_refused() {
        let mut bytes = image();
        for length in 0..bytes.len() {
            let error = open(&bytes[..length]).unwrap_err().to_string();
            let names_it = error.contains("cut off") || error.contains("truncated: expected");
            assert!(names_it && error.contains(&format!("{length}")), "{length}: {error}");
        }
        bytes.push(0);
        assert!(open(&bytes).unwrap_err().to_string().contains("too long: expected"));
    }

    #[test]
    fn a_damaged_record_is_named_and_its_neighbours_are_still_found() {
        let mut bytes = image();
        let key = b"user17@example.org";
        let heap = usize::try_from(Header::decode(&bytes).unwrap().section(Which::Heap).offset).unwrap();
        let at = bytes[heap..].windows(6).position(|window| window == b"user17").unwrap();
        bytes[heap + at] ^= 1;
        let table = open(&bytes).unwrap();
        let damage = table.lookup(key).unwrap_err();
        assert!(matches!(damage, Damage::Checksum { .. }), "{damage}");
        assert!(damage.to_string().starts_with("heap: the record at "), "{damage}");
        assert!(table.lookup("user18@example.org").unwrap().is_some());
        assert_eq!(table.users().filter(Result::is_err).count(), 1);
        let flaws: Vec<String> = table.verify(|| ()).iter().map(Flaw::to_string).collect();
        assert!(flaws[0].starts_with("section heap is damaged: expected checksum"), "{flaws:?}");
        assert_eq!(flaws.len(), 2, "{flaws:?}");
    }

    #[test]
    fn a_good_record_that_a_look_up_does_not_find_is_a_flaw() {
        let mut bytes = image();
        let header = Header::decode(&bytes).unwrap();
        let filter = header.section(Which::Filter);
        let place = usize::try_from(filter.offset).unwrap()..usize::try_from(filter.end().unwrap()).unwrap();
        bytes[place.clone()].fill(0);
        // Somebody repaired the checksums: only the meaning is wrong now.
        let mut sections = header.sections;
        sections[Which::Filter as usize].checksum = crc32c::crc32c(&bytes[place]);
        bytes[..4096].copy_from_slice(&Header { sections, ..header }.encode());
        let flaws = open(&bytes).unwrap().verify(|| ());
        assert!(matches!(&flaws[0], Flaw::Unreachable { .. }), "{flaws:?}");
        assert_eq!(flaws.len(), FLAWS_MAX);
    }

    #[test]
    fn a_wrong_count_is_a_flaw() {
        let mut bytes = image();
        let header = Header::decode(&bytes).unwrap();
        bytes[..4096].copy_from_slice(&Header { users: 41, ..header }.encode());
        let flaws = open(&bytes).unwrap().verify(|| ());
        assert!(matches!(&flaws[..], [Flaw::Counts { expected: (41, 2), found: (40, 2) }]), "{flaws:?}");
    }
}
