//! Reading a whole table and checking that everything in it fits.
//!
//! Owns what `posthaste users verify` looks at beyond what opening a table does. Promises that a table without
//! a flaw answers every look-up. Never repairs: a table is built again.
#![forbid(unsafe_code)]

use super::layout::Slot;
use super::record::{Damage, Record};
use super::table::{Table, TableFault};
use std::fmt;

impl Table {
    /// Reads everything and checks that everything fits: all sections, all records, and that each is found.
    /// `on_record` is called after each record. Returns what is wrong, at most [`FLAWS_MAX`] of it.
    pub fn verify(&self, mut on_record: impl FnMut()) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        if let Err(fault) = self.check_section("heap") {
            flaws.push(Flaw::Section(fault));
        }
        let mut seen = 0;
        for record in self.records() {
            on_record();
            seen += 1;
            if let Some(flaw) =
                record.map_or_else(|damage| Some(Flaw::Record(damage)), |record| self.flaw_of(&record))
            {
                flaws.push(flaw);
            }
            if flaws.len() >= FLAWS_MAX {
                return flaws;
            }
        }
        let slots = self.slots_used();
        if seen != self.len() || slots != self.len() {
            flaws.push(Flaw::Counts { expected: self.len(), records: seen, slots });
        }
        flaws
    }

    fn flaw_of(&self, record: &Record<'_>) -> Option<Flaw> {
        if let Err(damage) = self.user(record) {
            return Some(Flaw::Record(damage));
        }
        match self.search(record.key) {
            Ok(Some(found)) if found.offset == record.offset => None,
            Ok(_) => Some(Flaw::Unreachable { address: String::from_utf8_lossy(record.key).into_owned() }),
            Err(damage) => Some(Flaw::Record(damage)),
        }
    }

    fn slots_used(&self) -> u64 {
        self.slots().iter().filter(|slot| Slot::decode(**slot).is_some()).count() as u64
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
    /// A good record that the index does not lead to.
    Unreachable {
        /// The record's key.
        address: String,
    },
    /// Header, heap and index do not agree about the number of users.
    Counts {
        /// What the header says.
        expected: u64,
        /// What is in the heap.
        records: u64,
        /// What is in the index.
        slots: u64,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(fault) => fault.fmt(f),
            Self::Record(damage) => damage.fmt(f),
            Self::Unreachable { address } => {
                write!(f, "index: {address} is in the heap, but a look-up does not find it")
            }
            Self::Counts { expected, records, slots } => write!(
                f,
                "counts: expected {expected} users, found {records} in the heap and {slots} in the index"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::build::{Options, write};
    use crate::users::key::LocalPart;
    use crate::users::record::User;
    use crate::users::{Entry, TableError};
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
        write(&path, options, &entries()).unwrap();
        std::fs::read(path).unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Table, TableError> {
        Table::from_bytes(Path::new("a table"), bytes)
    }

    fn is_same(user: &User<'_>, entry: &Entry) -> bool {
        user.address == entry.address
            && user.home.as_deref() == entry.home.as_deref()
            && user.mail == entry.mail
            && (user.uid, user.gid) == (entry.uid, entry.gid)
            && (user.quota_bytes, user.quota_messages) == (entry.quota_bytes, entry.quota_messages)
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
        let users: Vec<User<'_>> = table.users().map(Result::unwrap).collect();
        let entries = entries();
        assert!(users.iter().zip(&entries).all(|(user, entry)| is_same(user, entry)));
        let mut seen = 0;
        assert!(table.verify(|| seen += 1).is_empty());
        assert_eq!((seen, users.len()), (40, 40));
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
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
        bytes[at] ^= 1;
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
    fn a_good_record_that_the_index_does_not_lead_to_is_a_flaw() {
        let mut bytes = image();
        let header = crate::users::header::Header::decode(&bytes).unwrap();
        let index = usize::try_from(header.index.offset).unwrap();
        let taken = |slot: &usize| bytes[slot + 6] != 0 && bytes[slot + 7] != 0;
        let slot = (index..bytes.len()).step_by(8).find(taken).unwrap();
        bytes[slot + 7] ^= 0xff;
        // Somebody repaired the checksums: only the meaning is wrong now.
        let index_section =
            crate::users::header::Section { checksum: crc32c::crc32c(&bytes[index..]), ..header.index };
        let header = crate::users::header::Header { index: index_section, ..header };
        bytes[..4096].copy_from_slice(&header.encode());
        let flaws = open(&bytes).unwrap().verify(|| ());
        assert!(matches!(&flaws[..], [Flaw::Unreachable { .. }]), "{flaws:?}");
    }
}
