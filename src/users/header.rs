//! The first page of a table.
//!
//! Owns the coding of the header, which [`super::layout`] draws. Promises that a `Header` which was read fits
//! its file: the sections follow each other and fill it, and the counts fit the sections.
#![forbid(unsafe_code)]

use super::class::{CLASS_BYTES, CLASSES_MAX};
use super::domain::DOMAINS_MAX;
use super::key::LocalPart;
use super::layout::{BLOCK, HUGE_PAGE, LINE, PAGE, PROBE_MAX, domain_slots, hash, u32_at, u64_at};
use super::template::TEMPLATES_MAX;
use std::fmt;
use std::ops::Range;

/// Where a section lies, and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) checksum: u32,
}

impl Section {
    pub(super) fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.length)
    }

    /// Its place in memory; `None` if it is not there.
    pub(super) fn range(&self) -> Option<Range<usize>> {
        Some(usize::try_from(self.offset).ok()?..usize::try_from(self.end()?).ok()?)
    }
}

/// The first page of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) local_part: LocalPart,
    pub(super) file_length: u64,
    /// Unix seconds; zero if the table was built reproducibly.
    pub(super) built_at: u64,
    pub(super) seed: [u8; 16],
    /// Whether every domain of the keys is in the domain section.
    pub(super) lists_all_domains: bool,
    pub(super) users: u64,
    pub(super) aliases: u64,
    pub(super) home_blocks: u64,
    /// Octets of records in blocks, with their heads.
    pub(super) record_bytes: u64,
    pub(super) filter_lines: u64,
    pub(super) longest_probe: u32,
    pub(super) classes: u32,
    pub(super) templates: u32,
    pub(super) domains: u32,
    /// In the order of [`SECTIONS`].
    pub(super) sections: [Section; 7],
}

/// The sections' names, in the order of the file.
pub(super) const SECTIONS: [&str; 7] =
    ["classes", "templates", "domains", "domain slots", "filter", "elsewhere", "heap"];

/// Which section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Classes,
    Templates,
    Domains,
    DomainSlots,
    Filter,
    Elsewhere,
    Heap,
}

impl Header {
    /// The header as it is written.
    pub(super) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let folded = match self.local_part {
            LocalPart::Folded => FLAG_FOLDED,
            LocalPart::Kept => 0,
        };
        let flags = if self.lists_all_domains { folded } else { folded | FLAG_DOMAINS_MISSING };
        put(&mut page, 0, MAGIC);
        put(&mut page, at::VERSION, &VERSION.to_le_bytes());
        put(&mut page, at::BYTE_ORDER, &BYTE_ORDER.to_le_bytes());
        put(&mut page, at::FLAGS, &flags.to_le_bytes());
        put(&mut page, at::FILE_LENGTH, &self.file_length.to_le_bytes());
        put(&mut page, at::BUILT_AT, &self.built_at.to_le_bytes());
        put(&mut page, at::SEED, &self.seed);
        for (offset, number) in [
            (at::USERS, self.users),
            (at::ALIASES, self.aliases),
            (at::HOME_BLOCKS, self.home_blocks),
            (at::RECORD_BYTES, self.record_bytes),
            (at::FILTER_LINES, self.filter_lines),
        ] {
            put(&mut page, offset, &number.to_le_bytes());
        }
        for (offset, number) in [
            (at::LONGEST_PROBE, self.longest_probe),
            (at::CLASSES, self.classes),
            (at::TEMPLATES, self.templates),
            (at::DOMAINS, self.domains),
        ] {
            put(&mut page, offset, &number.to_le_bytes());
        }
        for (n, section) in self.sections.iter().enumerate() {
            put_section(&mut page, at::SECTIONS + n * SECTION_BYTES, *section);
        }
        let checksum = crc32c::crc32c(&page);
        put(&mut page, at::CHECKSUM, &checksum.to_le_bytes());
        page
    }

    /// Reads and checks the header of a table whose whole content is `file`.
    ///
    /// A header that this returns lies: its sections follow each other, fill the file, and its counts fit them.
    ///
    /// # Errors
    /// The first thing that is wrong, coarsest first.
    pub(super) fn decode(file: &[u8]) -> Result<Self, HeaderFault> {
        let found = file.len() as u64;
        if !file.starts_with(&MAGIC[..file.len().min(MAGIC.len())]) {
            let mut head = [0; 8];
            head[..file.len().min(8)].copy_from_slice(&file[..file.len().min(8)]);
            return Err(HeaderFault::Magic { found: head });
        }
        let page: &[u8; PAGE] = file.first_chunk().ok_or(HeaderFault::Short { found })?;
        check_identity(page)?;
        let header = Self::fields(page).ok_or(HeaderFault::Short { found })?;
        if header.file_length != found {
            return Err(HeaderFault::Length { expected: header.file_length, found });
        }
        header.check_sections()?;
        header.check_counts()?;
        Ok(header)
    }

    fn fields(page: &[u8; PAGE]) -> Option<Self> {
        let mut sections = [Section::default(); 7];
        for (n, section) in sections.iter_mut().enumerate() {
            *section = section_at(page, at::SECTIONS + n * SECTION_BYTES)?;
        }
        let flags = u32_at(page, at::FLAGS)?;
        Some(Self {
            local_part: match flags & FLAG_FOLDED {
                0 => LocalPart::Kept,
                _ => LocalPart::Folded,
            },
            lists_all_domains: flags & FLAG_DOMAINS_MISSING == 0,
            file_length: u64_at(page, at::FILE_LENGTH)?,
            built_at: u64_at(page, at::BUILT_AT)?,
            seed: *page.get(at::SEED..)?.first_chunk()?,
            users: u64_at(page, at::USERS)?,
            aliases: u64_at(page, at::ALIASES)?,
            home_blocks: u64_at(page, at::HOME_BLOCKS)?,
            record_bytes: u64_at(page, at::RECORD_BYTES)?,
            filter_lines: u64_at(page, at::FILTER_LINES)?,
            longest_probe: u32_at(page, at::LONGEST_PROBE)?,
            classes: u32_at(page, at::CLASSES)?,
            templates: u32_at(page, at::TEMPLATES)?,
            domains: u32_at(page, at::DOMAINS)?,
            sections,
        })
    }

    fn check_sections(&self) -> Result<(), HeaderFault> {
        let mut end = PAGE as u64;
        for (name, section) in SECTIONS.into_iter().zip(self.sections) {
            let wrong = |what| HeaderFault::Section {
                section: name,
                what,
                section_offset: section.offset,
                section_length: section.length,
            };
            if section.offset < end || section.offset - end >= HUGE_PAGE {
                return Err(wrong("does not begin where the one before ends"));
            }
            if section.offset % PAGE as u64 != 0 || section.length % PAGE as u64 != 0 {
                return Err(wrong("is not a whole number of pages"));
            }
            end = section
                .end()
                .filter(|end| *end <= self.file_length)
                .ok_or_else(|| wrong("ends behind the end of the file"))?;
        }
        if end == self.file_length {
            Ok(())
        } else {
            Err(HeaderFault::Length { expected: end, found: self.file_length })
        }
    }

    fn check_counts(&self) -> Result<(), HeaderFault> {
        let room = |which, each: u64| self.section(which).length / each;
        let blocks = room(Which::Heap, BLOCK as u64);
        // A record has eight octets at least.
        let records = room(Which::Heap, 8);
        let filled = u64::from(self.users > 0 || self.aliases > 0);
        let domains = u64::from(self.domains);
        let claims = [
            ("home blocks", self.home_blocks, 1, blocks),
            ("users", self.users, 0, records),
            ("aliases", self.aliases, 0, records),
            ("filter lines", self.filter_lines, 1, room(Which::Filter, LINE as u64)),
            ("longest probe", u64::from(self.longest_probe), filled, u64::from(PROBE_MAX)),
            (
                "classes",
                u64::from(self.classes),
                0,
                room(Which::Classes, CLASS_BYTES as u64).min(CLASSES_MAX as u64),
            ),
            ("templates", u64::from(self.templates), 0, TEMPLATES_MAX as u64),
            ("domains", domains, 0, DOMAINS_MAX as u64),
            ("domain slots", domain_slots(domains), 1, room(Which::DomainSlots, 8)),
        ];
        for (what, found, least, most) in claims {
            if found < least || found > most {
                return Err(HeaderFault::Count { what, found, least, most });
            }
        }
        Ok(())
    }

    pub(super) fn section(&self, which: Which) -> Section {
        self.sections[which as usize]
    }

    /// The keyed hash of a key.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        hash(&self.seed, key)
    }
}

/// What is wrong with a header; the section, what was expected and what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    /// Shorter than a header page.
    Short {
        /// The file's length in octets.
        found: u64,
    },
    /// The first octets are those of something else.
    Magic {
        /// What stands there, filled up with zeroes.
        found: [u8; 8],
    },
    /// Written by a newer (or another) program.
    Version {
        /// The version that the file says it has.
        found: u32,
    },
    /// The byte order mark reads wrongly.
    ByteOrder {
        /// The mark as read.
        found: u32,
    },
    /// The header's own checksum does not fit.
    Checksum {
        /// The checksum that the header carries.
        expected: u32,
        /// The checksum of its octets.
        found: u32,
    },
    /// A flag that this version does not know.
    Flags {
        /// All flags as read.
        found: u32,
    },
    /// Cut off, or grown.
    Length {
        /// Length in octets that the header promises.
        expected: u64,
        /// Length in octets that the file has.
        found: u64,
    },
    /// A section is not where it should be.
    Section {
        /// The section's name.
        section: &'static str,
        /// What is wrong with it.
        what: &'static str,
        /// Its offset in octets.
        section_offset: u64,
        /// Its length in octets.
        section_length: u64,
    },
    /// A count does not fit its section.
    Count {
        /// What is counted.
        what: &'static str,
        /// The count as read.
        found: u64,
        /// The least that could be.
        least: u64,
        /// The most that could be.
        most: u64,
    },
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Short { found } => {
                write!(f, "header: expected {PAGE} octets, the file has {found}: it is cut off")
            }
            Self::Magic { found } => write!(
                f,
                "header: not a user table: expected it to begin with \"PHUSERS\\0\", found \"{}\"",
                found.escape_ascii()
            ),
            Self::Version { found } => write!(
                f,
                "header: expected version {VERSION}, found {found}: built by {} release",
                if found < VERSION { "an older" } else { "a newer" }
            ),
            Self::ByteOrder { found } => {
                write!(f, "header: expected byte order mark {BYTE_ORDER:#010x}, found {found:#010x}")
            }
            Self::Checksum { expected, found } => {
                write!(f, "header: damaged: expected checksum {expected:#010x}, found {found:#010x}")
            }
            Self::Flags { found } => {
                write!(f, "header: unknown flags in {found:#x}: built by a newer release")
            }
            Self::Length { expected, found } if found < expected => {
                write!(f, "truncated: expected {expected} octets, found {found}")
            }
            Self::Length { expected, found } => {
                write!(f, "too long: expected {expected} octets, found {found}")
            }
            Self::Section { section, what, section_offset, section_length } => write!(
                f,
                "header: section {section} (offset {section_offset}, length {section_length}) {what}"
            ),
            Self::Count { what, found, least, most } => {
                write!(f, "header: {what}: expected {least} to {most}, found {found}")
            }
        }
    }
}

fn check_identity(page: &[u8; PAGE]) -> Result<(), HeaderFault> {
    let word = |offset| u32_at(page, offset).unwrap_or_default();
    let version = word(at::VERSION);
    if version != VERSION {
        return Err(HeaderFault::Version { found: version });
    }
    let mark = word(at::BYTE_ORDER);
    if mark != BYTE_ORDER {
        return Err(HeaderFault::ByteOrder { found: mark });
    }
    let expected = word(at::CHECKSUM);
    let found = crc32c::crc32c(&page[..at::CHECKSUM]);
    let found = crc32c::crc32c_append(found, &[0; 4]);
    let found = crc32c::crc32c_append(found, &page[at::FLAGS..]);
    if expected != found {
        return Err(HeaderFault::Checksum { expected, found });
    }
    let flags = word(at::FLAGS);
    if flags & !(FLAG_FOLDED | FLAG_DOMAINS_MISSING) != 0 {
        return Err(HeaderFault::Flags { found: flags });
    }
    Ok(())
}

fn put(page: &mut [u8; PAGE], offset: usize, octets: &[u8]) {
    page[offset..offset + octets.len()].copy_from_slice(octets);
}

fn put_section(page: &mut [u8; PAGE], offset: usize, section: Section) {
    put(page, offset, &section.offset.to_le_bytes());
    put(page, offset + 8, &section.length.to_le_bytes());
    put(page, offset + 16, &section.checksum.to_le_bytes());
}

fn section_at(page: &[u8; PAGE], offset: usize) -> Option<Section> {
    Some(Section {
        offset: u64_at(page, offset)?,
        length: u64_at(page, offset + 8)?,
        checksum: u32_at(page, offset + 16)?,
    })
}

const MAGIC: &[u8; 8] = b"PHUSERS\0";
const VERSION: u32 = 2;
const BYTE_ORDER: u32 = 0x0a0b_0c0d;
const FLAG_FOLDED: u32 = 1;
const FLAG_DOMAINS_MISSING: u32 = 2;
const SECTION_BYTES: usize = 24;

mod at {
    pub(super) const VERSION: usize = 8;
    pub(super) const BYTE_ORDER: usize = 12;
    pub(super) const CHECKSUM: usize = 16;
    pub(super) const FLAGS: usize = 20;
    pub(super) const FILE_LENGTH: usize = 24;
    pub(super) const BUILT_AT: usize = 32;
    pub(super) const SEED: usize = 40;
    pub(super) const USERS: usize = 56;
    pub(super) const ALIASES: usize = 64;
    pub(super) const HOME_BLOCKS: usize = 72;
    pub(super) const RECORD_BYTES: usize = 80;
    pub(super) const FILTER_LINES: usize = 88;
    pub(super) const LONGEST_PROBE: usize = 96;
    pub(super) const CLASSES: usize = 100;
    pub(super) const TEMPLATES: usize = 104;
    pub(super) const DOMAINS: usize = 108;
    pub(super) const SECTIONS: usize = 112;
    pub(super) const END: usize = SECTIONS + 7 * super::SECTION_BYTES;
}

const _: () = assert!(at::END <= PAGE);

#[cfg(test)]
mod tests {
    use super::*;

    /// A table whose sections have a page each, but for the elsewhere section, which is empty.
    fn header() -> Header {
        let mut offset = PAGE as u64;
        let sections = std::array::from_fn(|n| {
            let length = if n == Which::Elsewhere as usize { 0 } else { PAGE as u64 };
            offset += length;
            Section { offset: offset - length, length, checksum: 0 }
        });
        Header {
            local_part: LocalPart::Folded,
            file_length: FILE_BYTES as u64,
            built_at: 1,
            seed: [3; 16],
            lists_all_domains: true,
            users: 100,
            aliases: 3,
            home_blocks: 7,
            record_bytes: 2700,
            filter_lines: 3,
            longest_probe: 2,
            classes: 2,
            templates: 5,
            domains: 9,
            sections,
        }
    }

    const FILE_BYTES: usize = 7 * PAGE;

    fn decode(header: &Header) -> Result<Header, HeaderFault> {
        let mut file = header.encode().to_vec();
        file.resize(FILE_BYTES, 0);
        Header::decode(&file)
    }

    #[test]
    fn a_header_reads_as_it_was_written() {
        let other = Header { local_part: LocalPart::Kept, lists_all_domains: false, ..header() };
        assert_eq!(decode(&header()), Ok(header()));
        assert_eq!(decode(&other), Ok(other));
    }

    #[test]
    fn a_header_whose_checksum_fits_but_whose_claims_do_not_is_refused() {
        type Change = fn(&mut Header);
        let lies: [(Change, &str); 15] = [
            (|header| header.file_length += 1, "truncated: expected 28673"),
            (|header| header.sections[6].offset = 0, "section heap (offset 0"),
            (|header| header.sections[6].offset += HUGE_PAGE, "does not begin where"),
            (|header| header.sections[6].length = u64::MAX, "section heap"),
            (|header| header.sections[6].length = !0xfff, "ends behind the end of the file"),
            (|header| header.sections[0].length += 4096, "section templates"),
            (|header| header.sections[4].length -= 64, "not a whole number of pages"),
            (|header| header.sections[6].length = 0, "too long: expected 24576"),
            (|header| header.home_blocks = 0, "home blocks: expected 1 to 8, found 0"),
            (|header| header.users = 513, "users: expected 0 to 512, found 513"),
            (|header| header.longest_probe = 65, "longest probe: expected 1 to 64"),
            (|header| header.templates = 65_536, "templates: expected 0 to 65535"),
            (|header| header.classes = 129, "classes: expected 0 to 128"),
            (|header| header.filter_lines = 65, "filter lines: expected 1 to 64"),
            (|header| header.domains = 256, "domain slots: expected 1 to 512, found 513"),
        ];
        for (change, message) in lies {
            let mut header = header();
            change(&mut header);
            let fault = decode(&header).unwrap_err().to_string();
            assert!(fault.contains(message), "{message:?} is not in {fault:?}");
        }
    }

    #[test]
    fn another_version_byte_order_or_flag_is_named_as_such() {
        let file = |at: usize, value: u32| {
            let mut file = header().encode().to_vec();
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            file[at::CHECKSUM..at::FLAGS].fill(0);
            let checksum = crc32c::crc32c(&file);
            file[at::CHECKSUM..at::FLAGS].copy_from_slice(&checksum.to_le_bytes());
            file.resize(FILE_BYTES, 0);
            Header::decode(&file).unwrap_err()
        };
        assert_eq!(file(at::VERSION, 3), HeaderFault::Version { found: 3 });
        assert!(file(at::VERSION, 1).to_string().ends_with("found 1: built by an older release"));
        let swapped = BYTE_ORDER.swap_bytes();
        assert_eq!(file(at::BYTE_ORDER, swapped), HeaderFault::ByteOrder { found: swapped });
        assert_eq!(file(at::FLAGS, 5), HeaderFault::Flags { found: 5 });
    }
}
