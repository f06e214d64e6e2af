//! What many users have in common, written once: the templates of home and mail location, owner and quota.
//!
//! Owns the coding of classes and their numbers. Promises that a class which was read can be a user's: its templates
//! are there, nobody is root. Never knows a single user; [`super::user`] fills in the templates.
#![forbid(unsafe_code)]

use super::entry::is_reserved;
use super::layout::{u16_at, u32_at, u64_at};
use super::template::Template;
use super::user::{Fields, Source};
use std::collections::HashMap;
use std::sync::Arc;

/// The most classes in a table. A user who finds no room has his in the record; see [`super::layout`].
pub(super) const CLASSES_MAX: usize = u16::MAX as usize;
/// Octets of a class in its section.
pub(super) const CLASS_BYTES: usize = 32;

/// One class. Zero stands for "none" in owner and quota, as in no user can it be anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) home: Option<u16>,
    pub(super) mail: u16,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) quota_bytes: Option<u64>,
    pub(super) quota_messages: Option<u64>,
}

/// Bits that say which fields are there.
pub(super) mod flag {
    pub(crate) const HOME: u8 = 1;
    pub(crate) const UID: u8 = 2;
    pub(crate) const GID: u8 = 4;
    pub(crate) const BYTES: u8 = 8;
    pub(crate) const MESSAGES: u8 = 16;
    pub(crate) const ALL: u8 = 31;
}

impl Class {
    fn encode(&self) -> [u8; CLASS_BYTES] {
        let flags = [
            (self.home.is_some(), flag::HOME),
            (self.uid.is_some(), flag::UID),
            (self.gid.is_some(), flag::GID),
            (self.quota_bytes.is_some(), flag::BYTES),
            (self.quota_messages.is_some(), flag::MESSAGES),
        ];
        let mut octets = [0; CLASS_BYTES];
        octets[0] = flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);
        octets[2..4].copy_from_slice(&self.home.unwrap_or_default().to_le_bytes());
        octets[4..6].copy_from_slice(&self.mail.to_le_bytes());
        octets[8..12].copy_from_slice(&self.uid.unwrap_or_default().to_le_bytes());
        octets[12..16].copy_from_slice(&self.gid.unwrap_or_default().to_le_bytes());
        octets[16..24].copy_from_slice(&self.quota_bytes.unwrap_or_default().to_le_bytes());
        octets[24..].copy_from_slice(&self.quota_messages.unwrap_or_default().to_le_bytes());
        octets
    }

    /// What users of the class have in common; `None` if a template is missing.
    fn fields(&self, templates: &[Arc<Template>]) -> Option<Fields> {
        let source = |number: u16| Some(Source::Template(Arc::clone(templates.get(usize::from(number))?)));
        let home = match self.home {
            Some(number) => Some(source(number)?),
            None => None,
        };
        let mut fields = Fields::new(home, source(self.mail)?);
        (fields.uid, fields.gid) = (self.uid, self.gid);
        (fields.quota_bytes, fields.quota_messages) = (self.quota_bytes, self.quota_messages);
        Some(fields)
    }

    /// `None` if a flag is unknown, or a field cannot be.
    fn decode(octets: &[u8; CLASS_BYTES], templates: u32) -> Option<Self> {
        let flags = octets[0];
        let given = |bit: u8| flags & bit != 0;
        let class = Self {
            home: given(flag::HOME).then_some(u16_at(octets, 2)?),
            mail: u16_at(octets, 4)?,
            uid: given(flag::UID).then_some(u32_at(octets, 8)?),
            gid: given(flag::GID).then_some(u32_at(octets, 12)?),
            quota_bytes: given(flag::BYTES).then_some(u64_at(octets, 16)?),
            quota_messages: given(flag::MESSAGES).then_some(u64_at(octets, 24)?),
        };
        let has_template = |number: u16| u32::from(number) < templates;
        let is_possible = flags & !flag::ALL == 0
            && has_template(class.mail)
            && class.home.is_none_or(has_template)
            && !class.uid.is_some_and(is_reserved)
            && !class.gid.is_some_and(is_reserved)
            && class.quota_bytes != Some(0)
            && class.quota_messages != Some(0);
        is_possible.then_some(class)
    }
}

/// Reads the class section of a table with these templates.
///
/// # Errors
/// The number of the first class that is cut off or cannot be.
pub(super) fn read_section(
    section: &[u8],
    count: u32,
    templates: &[Arc<Template>],
) -> Result<Vec<Fields>, u32> {
    let classes = read_classes(section, count, u32::try_from(templates.len()).unwrap_or(u32::MAX))?;
    (0..).zip(classes).map(|(number, class)| class.fields(templates).ok_or(number)).collect()
}

fn read_classes(section: &[u8], count: u32, templates: u32) -> Result<Vec<Class>, u32> {
    let (classes, _) = section.as_chunks::<CLASS_BYTES>();
    (0..count)
        .map(|number| {
            let class = classes.get(number as usize).and_then(|octets| Class::decode(octets, templates));
            class.ok_or(number)
        })
        .collect()
}

/// The classes of a table that is being built, numbered in the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    numbers: HashMap<Class, u32>,
    section: Vec<u8>,
    /// What was asked for last: the next user is mostly of the same class.
    last: Option<(Class, u32)>,
}

impl Dictionary {
    /// The class's number; `None` if the dictionary is full and its fields must go into the record.
    pub(super) fn number(&mut self, class: Class) -> Option<u32> {
        if let Some((last, number)) = self.last
            && last == class
        {
            return Some(number);
        }
        let number = match self.numbers.get(&class) {
            Some(number) => *number,
            None => {
                let next = self.numbers.len();
                let next = u32::try_from(next).ok().filter(|_| next < CLASSES_MAX)?;
                self.section.extend_from_slice(&class.encode());
                self.numbers.insert(class, next);
                next
            }
        };
        self.last = Some((class, number));
        Some(number)
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The class section, without the zeroes at its end.
    pub(super) fn section(&self) -> &[u8] {
        &self.section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: Class = Class {
        home: Some(1),
        mail: 0,
        uid: Some(1000),
        gid: None,
        quota_bytes: Some(1 << 30),
        quota_messages: None,
    };

    #[test]
    fn classes_are_numbered_by_first_use_and_read_as_they_were_written() {
        let mut dictionary = Dictionary::default();
        let other = Class { uid: None, gid: Some(8), quota_messages: Some(1), home: None, ..CLASS };
        let numbers = [CLASS, other, CLASS, CLASS].map(|class| dictionary.number(class));
        assert_eq!(numbers, [Some(0), Some(1), Some(0), Some(0)]);
        assert_eq!(read_classes(dictionary.section(), 2, 2), Ok(vec![CLASS, other]));
        assert_eq!(read_classes(dictionary.section(), 3, 2), Err(2));
        assert_eq!(read_classes(dictionary.section(), 2, 1), Err(0));
    }

    #[test]
    fn a_class_that_nobody_can_be_of_is_refused() {
        for class in [
            Class { uid: Some(0), ..CLASS },
            Class { gid: Some(u32::MAX), ..CLASS },
            Class { quota_bytes: Some(0), ..CLASS },
        ] {
            assert_eq!(read_classes(&class.encode(), 1, 2), Err(0), "{class:?}");
        }
        let mut octets = CLASS.encode();
        octets[0] |= 0x80;
        assert_eq!(read_classes(&octets, 1, 2), Err(0));
    }

    #[test]
    fn a_full_dictionary_sends_classes_into_the_record() {
        let mut dictionary = Dictionary::default();
        for n in 1..=u32::from(u16::MAX) {
            assert_eq!(dictionary.number(Class { uid: Some(n), ..CLASS }), Some(n - 1));
        }
        assert_eq!(dictionary.number(Class { uid: Some(1 << 20), ..CLASS }), None);
        assert_eq!(dictionary.number(Class { uid: Some(7), ..CLASS }), Some(6));
        assert_eq!(dictionary.len(), CLASSES_MAX);
    }
}
