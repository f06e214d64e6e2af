//! The user table's file format, octet by octet: version 2.
//!
//! Owns every offset and constant of the file but the header's, which [`super::header`] codes. Promises that bytes are
//! only read through getters that check bounds, so that a hostile file is an error and never a panic. Never touches a
//! file itself: [`super::table`] reads, [`super::build`] writes.
//!
//! A table is a header page and seven sections, each a whole number of 4096-octet pages (the end filled with zeroes)
//! and each beginning where the one before ends; a long one begins at the next multiple of 2 MiB, with zeroes before
//! it, so that the kernel can map it with huge pages. All integers are little-endian; all texts are UTF-8; CRC means
//! CRC-32C (RFC 3720, appendix B.4); a varint has seven bits an octet, the lowest first, and the high bit set in all
//! octets but the last.
//!
//! ```text
//! header                               class, 32 octets: what many users have in common
//!    0  8  magic "PHUSERS\0"              0  1  flags: 1 home, 2 uid, 4 gid, 8 quota in
//!    8  4  version                              octets, 16 quota in messages are there
//!   12  4  byte order mark 0a0b0c0dh      1  1  zero
//!   16  4  CRC of the header, these       2  2  home: a template
//!          four octets taken as zero      4  2  mail location: a template
//!   20  4  flags (bit 0: local parts      6  2  zero
//!          are in lower case; bit 1:      8  4  uid         12  4  gid
//!          not all domains are listed)   16  8  quota, octets
//!   24  8  length of the file            24  8  quota, messages
//!   32  8  built at (Unix seconds,
//!          0: not recorded)            template: 2 length, then the octets
//!   40 16  hash seed
//!   56  8  number of users             domain, at a multiple of 16 octets
//!   64  8  number of aliases              0  2  length
//!   72  8  number of home blocks          2  1  flags: 1 catch-all
//!   80  8  octets of records in blocks    3 ..  the domain; zeroes to the next multiple
//!   88  8  number of filter lines
//!   96  4  longest probe, in blocks    domain slot: 4 domain's number (0: empty), 4 tag
//!  100  4  number of classes
//!  104  4  number of templates         filter line, 64 octets: 512 bits
//!  108  4  number of domains
//!  112 24  class section               elsewhere: a body that is too long for a block
//!  136 24  template section               0  4  CRC of all that follows
//!  160 24  domain section                 4  4  length L
//!  184 24  domain slot section            8  L  body
//!  208 24  filter section
//!  232 24  elsewhere section           block, 512 octets
//!  256 24  heap section: blocks           0  4  CRC of the other 508
//!  280 ..  zeroes to 4096                 4  2  where its records end; bit 15: it goes on
//!                                               in the next block
//! section, in the header                  6 ..  records, one after another; zeroes
//!    0  8  offset in the file
//!    8  8  length                      record
//!   16  4  CRC of the whole section       0  4  CRC of all that follows, to the body's end
//!   20  4  zero                           4  1  length L of the body
//!                                         5  1  tag, the hash's low 8 bits
//!                                         6  L  body, or if it is longer than 122 octets:
//!                                               the octet 80h and 6 its offset in the file
//! body
//!    0  1  kind: 1 user, 2 alias, 3 user whose class is in the record
//!   .. ..  varint: number of the domain; 0: the local part is the whole key
//!   .. ..  varint: length of the local part, then the local part
//!   user:  varint: number of the class
//!   alias: varint: number of targets; each a varint, its length, then its text
//!   user whose class is in the record, as far as the flags say so:
//!       1  flags, as in a class
//!      ..  home, mail location: a varint n; n = 0: a varint, its length, then the text; else template n - 1
//!      ..  varints: uid, gid, quota in octets, quota in messages
//! ```
//!
//! **Key.** A full address, a local part alone, or `@domain`. It is cut at its last `@`; the domain is written once, in
//! its section, and its number is its place there, in steps of 16 octets, and 1. A domain that found no room in the
//! builder's list of `domain::DOMAINS_MAX` is written in the key's place.
//!
//! **Hash.** SipHash-1-3 of the key with the header's seed: addresses come from strangers, and whoever does not know
//! the seed cannot crowd a block. The home block is the hash's upper part, `hash * home blocks >> 64`, so records
//! sorted by hash are sorted by block. There are as many home blocks as make them three quarters full.
//!
//! **Placing.** Records are placed in the order of their hashes, an alias before a user of the same key, each in the
//! first block from its home on that has room and is not before the place of the last one. A block that had no room
//! "goes on", so a search ends with the first block that does not, or after "longest probe" blocks, which is
//! `PROBE_MAX` at most.
//!
//! **Filter.** A Bloom filter in cache lines: a key sets five bits of the line `hash * lines >> 64`, each named by nine
//! bits of the hash, the lowest first. It says of most strangers that they are not there, from one line of memory.
//!
//! **Templates.** A home or location in which whole path components are the address (`%u`), its local part (`%n`) or
//! domain (`%d`) is stored once for all who share it; `%%` is a percent sign.
//!
//! **Checking.** Opening a table checks everything before the elsewhere section and copies it into memory of its own.
//! A record is checked when it is used, a whole block when a key that passed the filter is not in it. The CRCs of
//! elsewhere and heap are for `posthaste users verify`.
//!
//! **Growing.** Kinds and flags that mean nothing today belong to later versions; a reader that meets one says so and
//! answers "try again later" for that record, it does not guess.
#![forbid(unsafe_code)]

use super::siphash::siphash_1_3;

/// Sections begin and end on pages, so each can be populated, locked or advised by itself.
pub(super) const PAGE: usize = 4096;
/// What the kernel maps with one entry if a file is written and placed in such pieces.
pub(super) const HUGE_PAGE: u64 = 2 << 20;
/// From this length on, a section begins on a huge page.
pub(super) const HUGE_FROM: u64 = 8 * HUGE_PAGE;
/// Eight cache lines, which are fetched at once.
pub(super) const BLOCK: usize = 512;
/// Octets before the first record of a block.
pub(super) const BLOCK_HEAD: usize = 6;
/// Octets for records in a block.
pub(super) const BLOCK_ROOM: usize = BLOCK - BLOCK_HEAD;
/// In a block's second field: the search goes on in the next block.
pub(super) const GOES_ON: u16 = 1 << 15;
/// No look-up reads more blocks than this. Blocks that are three quarters full with records of thirty octets run over
/// one time in eight, and two beyond their end about once in a hundred million.
pub(super) const PROBE_MAX: u32 = 64;
/// Octets before a record's body.
pub(super) const RECORD_HEAD: usize = 6;
/// The longest body in a block. A longer one would leave too much of a block unused.
pub(super) const BODY_BYTES_MAX: usize = 122;
/// What stands in a block for a body that is elsewhere.
pub(super) const ELSEWHERE: u8 = 0x80;
/// Octets of it: the mark and a 48-bit offset.
pub(super) const ELSEWHERE_BYTES: usize = 7;
/// Octets before a body that is elsewhere.
pub(super) const ELSEWHERE_HEAD: usize = 8;
/// The greatest offset that a record can name.
pub(super) const OFFSET_MAX: u64 = (1 << 48) - 1;
/// A line of the filter.
pub(super) const LINE: usize = 64;
/// Keys for a line of the filter: twelve bits for each, so that one stranger in two hundred passes.
const LINE_KEYS: u64 = 42;
/// Bits that a key sets in its line.
const LINE_BITS: u32 = 5;
/// Domains begin at multiples of this.
pub(super) const DOMAIN_STEP: usize = 16;

/// The keyed hash that places a key.
#[inline]
pub(super) fn hash(seed: &[u8; 16], key: &[u8]) -> u64 {
    siphash_1_3(seed, key)
}

/// The eight bits that a record keeps of a hash; not the ones that choose the block.
pub(super) fn tag(hash: u64) -> u8 {
    (hash & 0xff) as u8
}

/// Where the search for a hash begins among so many blocks or lines; less than their number.
pub(super) fn home(hash: u64, homes: u64) -> u64 {
    ((u128::from(hash) * u128::from(homes)) >> 64) as u64
}

/// As many home blocks as are three quarters full of so many octets; one for an empty table.
pub(super) fn home_blocks(octets: u64) -> u64 {
    (octets * 4).div_ceil(3 * BLOCK_ROOM as u64).max(1)
}

/// As many lines as a filter for so many keys has.
pub(super) fn filter_lines(keys: u64) -> u64 {
    keys.div_ceil(LINE_KEYS).max(1)
}

/// The bits of its filter line that a hash sets, as pairs of a word's number and a mask.
pub(super) fn filter_bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..LINE_BITS).map(move |n| {
        let bit = hash >> (9 * n) & 0x1ff;
        ((bit / 64) as usize, 1_u64 << (bit % 64))
    })
}

/// As many domain slots as are half full of so many domains, so that each search meets an empty one.
pub(super) fn domain_slots(domains: u64) -> u64 {
    domains * 2 + 1
}

/// Where a section of this length may begin, if the one before ends at `end`.
pub(super) fn begin_of(end: u64, length: u64) -> u64 {
    if length >= HUGE_FROM { end.next_multiple_of(HUGE_PAGE) } else { end }
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Appends a varint.
pub(super) fn put_varint(octets: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        octets.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    octets.push((number & 0x7f) as u8);
}

/// Appends a text with its length before it.
pub(super) fn put_text(octets: &mut Vec<u8>, text: &[u8]) {
    put_varint(octets, text.len() as u64);
    octets.extend_from_slice(text);
}

/// What is left of some octets, read from the left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'t>(pub(super) &'t [u8]);

impl<'t> Rest<'t> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'t [u8]> {
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    pub(super) fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// `None` as well if the number has more than 64 bits.
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let octet = self.octet()?;
            let bits = u64::from(octet & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if octet < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn text(&mut self) -> Option<&'t [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }
}

const _: () =
    assert!(PAGE.is_multiple_of(BLOCK) && PAGE.is_multiple_of(LINE) && HUGE_PAGE.is_multiple_of(PAGE as u64));
const _: () = assert!(BODY_BYTES_MAX <= u8::MAX as usize && RECORD_HEAD + BODY_BYTES_MAX <= BLOCK_ROOM);
const _: () = assert!(LINE_BITS * 9 <= 64 && BLOCK < GOES_ON as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_reads_as_it_was_written_and_no_longer_one_does() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut octets = Vec::new();
            put_varint(&mut octets, number);
            octets.push(7);
            let mut rest = Rest(&octets);
            assert_eq!((rest.varint(), rest.0), (Some(number), &[7][..]));
            assert_eq!(Rest(&octets[..octets.len() - 2]).varint(), None);
        }
        assert_eq!(Rest(&[0xff; 10]).varint(), None);
        assert_eq!(Rest(&[0xff; 9]).varint(), None);
    }

    #[test]
    fn homes_follow_the_order_of_the_hashes_and_stay_inside() {
        let blocks = home_blocks(100_000);
        assert_eq!(blocks, 264);
        let hashes = (0..=1000).map(|n: u64| n * (u64::MAX / 1000));
        let homes: Vec<u64> = hashes.map(|hash| home(hash, blocks)).collect();
        assert!(homes.is_sorted());
        assert_eq!((homes[0], home(u64::MAX, blocks)), (0, blocks - 1));
    }

    #[test]
    fn the_hash_is_siphash_1_3_with_the_seed_as_its_key() {
        // A changed hash would make every published table unreadable, so it is nailed down here.
        let seed: [u8; 16] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        assert_eq!(hash(&seed, b""), 0xabac_0158_050f_c4dc);
    }
}
