//! One record of the heap: what the table knows about one address.
//!
//! Owns the coding of records in both directions. Promises that a
//! [`User`] in hand is whole: its checksum fits and its paths keep the rules. Never searches.
#![forbid(unsafe_code)]

use super::entry::{Entry, is_reserved};
use super::key::ADDRESS_BYTES_MAX;
use super::layout::{RECORD_HEAD, u16_at, u32_at, u64_at};
use super::path::{self, PATH_BYTES_MAX};
use super::template::{self, Dictionary, IN_RECORD, Template};
use std::borrow::Cow;
use std::fmt;

/// A user as the table knows him, borrowing from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User<'t> {
    /// The key he was found by: the full address, or a local part alone.
    pub address: Cow<'t, str>,
    /// His home, an absolute path. `None` only if `mail` is absolute.
    pub home: Option<Cow<'t, str>>,
    /// His Maildir: an absolute path, or one relative to `home`. [`User::maildir`] joins them.
    pub mail: Cow<'t, str>,
    /// Who owns his files, never 0; `None`: the server's own user.
    pub uid: Option<u32>,
    /// The group of his files, never 0; `None`: the server's own group.
    pub gid: Option<u32>,
    /// The most octets that his mail may have; `None`: unlimited.
    pub quota_bytes: Option<u64>,
    /// The most messages that he may have; `None`: unlimited.
    pub quota_messages: Option<u64>,
}

impl User<'_> {
    /// The absolute path of the Maildir.
    pub fn maildir(&self) -> Cow<'_, str> {
        match &self.home {
            Some(home) if !self.mail.starts_with('/') => Cow::Owned(format!("{home}/{}", self.mail)),
            _ => Cow::Borrowed(&self.mail),
        }
    }
}

/// A record or slot that cannot be trusted. Whose mail it is cannot be known then: the server answers 451 4.3.0
/// for every address that leads here, never 550.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The file was written to while it was in use, so what it does not hold means nothing.
    Rewritten,
    /// A slot of the index points to where no record can be.
    Outside {
        /// Where it points, in octets from the file's begin.
        offset: u64,
    },
    /// The record ends behind the end of the heap.
    Cut {
        /// The record's offset in the file.
        offset: u64,
    },
    /// The record's checksum does not fit.
    Checksum {
        /// The record's offset in the file.
        offset: u64,
        /// The checksum that the record carries.
        expected: u32,
        /// The checksum of its octets.
        found: u32,
    },
    /// The record is of a kind, or has fields, that this version does not know.
    Unknown {
        /// The record's offset in the file.
        offset: u64,
    },
    /// The checksum fits, but a field says what cannot be.
    Malformed {
        /// The record's offset in the file.
        offset: u64,
        /// The field.
        field: &'static str,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rewritten => {
                f.write_str("the file was written to in place; replace it by rename only")?;
            }
            Self::Outside { offset } => {
                write!(f, "index: a slot points to {offset}, which is outside of the heap")?;
            }
            Self::Cut { offset } => {
                write!(f, "heap: the record at {offset} ends behind the heap's end")?;
            }
            Self::Checksum { offset, expected, found } => write!(
                f,
                "heap: the record at {offset} is damaged: expected checksum {expected:#010x}, found {found:#010x}"
            )?,
            Self::Unknown { offset } => {
                write!(f, "heap: the record at {offset} is of a newer release")?;
            }
            Self::Malformed { offset, field } => {
                write!(f, "heap: the record at {offset} has an impossible {field}")?;
            }
        }
        f.write_str("; build the table again")
    }
}

impl std::error::Error for Damage {}

/// A record that was found, with its checksum checked; its key can be compared before the rest is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'t> {
    pub(super) offset: u64,
    pub(super) key: &'t [u8],
    body: &'t [u8],
    /// Where the next record begins, counted in the heap.
    pub(super) next: usize,
}

impl<'t> Record<'t> {
    /// The record `start` octets into `heap`, which itself begins at `heap_offset` in the file.
    ///
    /// # Errors
    /// If it does not lie in the heap or its checksum does not fit.
    pub(super) fn read(heap: &'t [u8], heap_offset: u64, start: usize) -> Result<Self, Damage> {
        let offset = heap_offset + start as u64;
        let cut = Damage::Cut { offset };
        let octets = heap.get(start..).ok_or(cut)?;
        let length = usize::from(u16_at(octets, 0).ok_or(cut)?);
        let expected = u32_at(octets, 2).ok_or(cut)?;
        let body = octets.get(RECORD_HEAD..RECORD_HEAD + length).ok_or(cut)?;
        let found = checksum(&octets[..2], body);
        if expected != found {
            return Err(Damage::Checksum { offset, expected, found });
        }
        if body.first() != Some(&KIND_MAILBOX) {
            return Err(Damage::Unknown { offset });
        }
        let key = key_of(body).ok_or(Damage::Malformed { offset, field: "address" })?;
        Ok(Self { offset, key, body, next: start + RECORD_HEAD + length })
    }

    /// Where the record behind a damaged one would begin, if the damaged one's length is right.
    pub(super) fn skip(heap: &[u8], start: usize) -> usize {
        let length = heap.get(start..).and_then(|octets| u16_at(octets, 0));
        start + RECORD_HEAD + usize::from(length.unwrap_or_default())
    }

    /// Everything in the record, with the templates filled in.
    ///
    /// # Errors
    /// If a field is missing or impossible, or there is more than the flags announce.
    pub(super) fn user(&self, templates: &'t [Template]) -> Result<User<'t>, Damage> {
        let malformed = |field| Damage::Malformed { offset: self.offset, field };
        let flags = self.body.get(1).copied().unwrap_or(u8::MAX);
        if flags & !flag::ALL != 0 {
            return Err(Damage::Unknown { offset: self.offset });
        }
        let address = str::from_utf8(self.key).map_err(|_| malformed("address"))?;
        let mut fields = Fields { flags, rest: &self.body[FIXED + self.key.len()..] };
        let user = User {
            uid: fields.uid(flag::UID).ok_or_else(|| malformed("uid"))?,
            gid: fields.uid(flag::GID).ok_or_else(|| malformed("gid"))?,
            quota_bytes: fields.quota(flag::BYTES).ok_or_else(|| malformed("quota"))?,
            quota_messages: fields.quota(flag::MESSAGES).ok_or_else(|| malformed("quota"))?,
            home: match flags & flag::HOME {
                0 => None,
                _ => Some(
                    fields
                        .path(u16_at(self.body, 2), templates, address)
                        .filter(|home| path::check_home(home).is_ok())
                        .ok_or_else(|| malformed("home"))?,
                ),
            },
            mail: fields
                .path(u16_at(self.body, 4), templates, address)
                .filter(|mail| path::check_location(mail).is_ok())
                .ok_or_else(|| malformed("mail location"))?,
            address: address.into(),
        };
        let is_placed = user.home.is_some() || user.mail.starts_with('/');
        if !is_placed || !fields.rest.is_empty() {
            return Err(malformed("length"));
        }
        Ok(user)
    }
}

/// Appends the record of `entry` to `heap`. The entry was checked and its address folded.
pub(super) fn write(entry: &Entry, dictionary: &mut Dictionary, heap: &mut Vec<u8>) {
    let begin = heap.len();
    let address = entry.address.as_bytes();
    let home = entry.home.as_deref().unwrap_or_default();
    let home_number = match home {
        "" => 0,
        _ => dictionary.number(template::of(home, &entry.address)),
    };
    let mail_number = dictionary.number(template::of(&entry.mail, &entry.address));
    let quota_bytes = entry.quota_bytes.filter(|limit| *limit > 0);
    let quota_messages = entry.quota_messages.filter(|limit| *limit > 0);
    let flags = [
        (entry.uid.is_some(), flag::UID),
        (entry.gid.is_some(), flag::GID),
        (quota_bytes.is_some(), flag::BYTES),
        (quota_messages.is_some(), flag::MESSAGES),
        (!home.is_empty(), flag::HOME),
    ];
    let flags = flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);

    heap.extend_from_slice(&[0; RECORD_HEAD]);
    heap.extend_from_slice(&[KIND_MAILBOX, flags]);
    heap.extend_from_slice(&home_number.to_le_bytes());
    heap.extend_from_slice(&mail_number.to_le_bytes());
    put_text(heap, address);
    for id in [entry.uid, entry.gid].into_iter().flatten() {
        heap.extend_from_slice(&id.to_le_bytes());
    }
    for limit in [quota_bytes, quota_messages].into_iter().flatten() {
        heap.extend_from_slice(&limit.to_le_bytes());
    }
    if home_number == IN_RECORD {
        put_text(heap, home.as_bytes());
    }
    if mail_number == IN_RECORD {
        put_text(heap, entry.mail.as_bytes());
    }
    seal(&mut heap[begin..]);
}

/// Where the address's length stands, counted from the record's begin; the address follows.
pub(super) const ADDRESS_AT: u64 = (RECORD_HEAD + FIXED - 2) as u64;
const KIND_MAILBOX: u8 = 1;
/// Octets of a body before the address.
const FIXED: usize = 8;

mod flag {
    pub(super) const UID: u8 = 1;
    pub(super) const GID: u8 = 2;
    pub(super) const BYTES: u8 = 4;
    pub(super) const MESSAGES: u8 = 8;
    pub(super) const HOME: u8 = 16;
    pub(super) const ALL: u8 = 31;
}

// The longest record fits its length field.
const _: () = assert!(FIXED + ADDRESS_BYTES_MAX + 24 + 2 * (2 + PATH_BYTES_MAX) <= u16::MAX as usize);

/// The fields behind the address, taken from the left. `None` is "cannot be", `Some(None)` "is not there".
struct Fields<'t> {
    flags: u8,
    rest: &'t [u8],
}

impl<'t> Fields<'t> {
    fn take(&mut self, length: usize) -> Option<&'t [u8]> {
        let (field, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(field)
    }

    fn uid(&mut self, bit: u8) -> Option<Option<u32>> {
        if self.flags & bit == 0 {
            return Some(None);
        }
        let id = u32_at(self.take(4)?, 0)?;
        (!is_reserved(id)).then_some(Some(id))
    }

    fn quota(&mut self, bit: u8) -> Option<Option<u64>> {
        if self.flags & bit == 0 {
            return Some(None);
        }
        let limit = u64_at(self.take(8)?, 0)?;
        (limit > 0).then_some(Some(limit))
    }

    fn path(
        &mut self,
        number: Option<u16>,
        templates: &'t [Template],
        address: &str,
    ) -> Option<Cow<'t, str>> {
        match number? {
            IN_RECORD => {
                let length = u16_at(self.take(2)?, 0)?;
                let text = self.take(usize::from(length))?;
                str::from_utf8(text).ok().map(Cow::Borrowed)
            }
            number => Some(templates.get(usize::from(number))?.expand(address)),
        }
    }
}

fn key_of(body: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16_at(body, FIXED - 2)?);
    body.get(FIXED..FIXED + length)
}

fn put_text(heap: &mut Vec<u8>, text: &[u8]) {
    let length = u16::try_from(text.len()).expect("checked entries have short texts");
    heap.extend_from_slice(&length.to_le_bytes());
    heap.extend_from_slice(text);
}

fn seal(record: &mut [u8]) {
    let (head, body) = record.split_at_mut(RECORD_HEAD);
    let length = u16::try_from(body.len()).expect("the longest record fits its length field");
    head[..2].copy_from_slice(&length.to_le_bytes());
    let checksum = checksum(&head[..2], body);
    head[2..].copy_from_slice(&checksum.to_le_bytes());
}

fn checksum(length: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAP_OFFSET: u64 = 4096;

    fn entry(home: &str) -> Entry {
        Entry {
            address: "alice@example.org".to_owned(),
            home: Some(home.to_owned()),
            mail: "Maildir".to_owned(),
            uid: Some(1000),
            quota_bytes: Some(1),
            ..Entry::default()
        }
    }

    /// A record, and the templates it needs.
    fn written(entry: &Entry) -> (Vec<u8>, Vec<Template>) {
        let (mut heap, mut dictionary) = (Vec::new(), Dictionary::default());
        write(entry, &mut dictionary, &mut heap);
        let count = u32::try_from(dictionary.len()).unwrap();
        let templates = template::read_section(dictionary.section(), count).unwrap();
        (heap, templates)
    }

    fn read<'t>(heap: &'t [u8], templates: &'t [Template]) -> Result<User<'t>, Damage> {
        Record::read(heap, HEAP_OFFSET, 0)?.user(templates)
    }

    #[test]
    fn a_path_without_a_template_is_in_the_record() {
        let entry = entry("/home/alice");
        let (mut heap, mut dictionary) = (Vec::new(), Dictionary::default());
        for n in 0..template::TEMPLATES_MAX {
            dictionary.number(n.to_string());
        }
        write(&entry, &mut dictionary, &mut heap);
        let user = read(&heap, &[]).unwrap();
        assert_eq!(user.home.as_deref(), Some("/home/alice"));
        assert_eq!(user.maildir(), "/home/alice/Maildir");
    }

    #[test]
    fn a_record_with_all_fields_takes_as_many_octets_as_a_hundred_million_can_have() {
        let entry = Entry {
            address: "a.user.name.of.28@example.org".to_owned(),
            gid: Some(8),
            quota_messages: Some(1),
            ..entry("/home/alice")
        };
        let (heap, _) = written(&entry);
        // The index takes ten octets an address, and eighty are to be enough.
        assert!(heap.len() <= 70, "{}", heap.len());
    }

    #[test]
    fn fields_that_cannot_be_are_damage_even_if_the_checksum_fits() {
        type Change = fn(&mut Vec<u8>);
        let owner = FIXED + "alice@example.org".len();
        assert_eq!(owner, 25);
        let (heap, templates) = written(&entry("/home/alice"));
        assert!(read(&heap, &templates).is_ok());
        let changes: [(Change, &str); 10] = [
            (|body| body[0] = 2, "newer release"),
            (|body| body[1] |= 0x80, "newer release"),
            (|body| body[2] = 9, "impossible home"),
            (|body| body[4..6].fill(0xff), "impossible mail location"),
            (|body| body[6] = 0xff, "impossible address"),
            (|body| body[8] = 0xff, "impossible address"),
            (|body| body[25..29].fill(0), "impossible uid"),
            (|body| body[29..37].fill(0), "impossible quota"),
            (|body| body.push(0), "impossible length"),
            (|body| body.truncate(30), "impossible quota"),
        ];
        for (change, message) in changes {
            let mut body = heap[RECORD_HEAD..].to_vec();
            change(&mut body);
            let mut record = vec![0; RECORD_HEAD];
            record.append(&mut body);
            seal(&mut record);
            let damage = read(&record, &templates).unwrap_err().to_string();
            assert!(damage.contains(message), "{message:?} is not in {damage:?}");
        }
    }

    #[test]
    fn a_hostile_home_is_damage_and_not_a_user() {
        for home in ["/home/../etc", "relative", "/a//b", "/a\nb"] {
            let (heap, templates) = written(&entry(home));
            let damage = read(&heap, &templates).unwrap_err();
            assert!(matches!(damage, Damage::Malformed { field: "home", .. }), "{home}");
        }
    }
}
