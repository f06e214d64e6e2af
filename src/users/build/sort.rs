//! From parts to records in the order of their hashes.
//!
//! Owns the reading back and sorting of parts, in a thread of its own, one part ahead of whoever takes them. Promises
//! records in the order of (hash, alias before user, line), and not more of them in memory than it was given.
#![forbid(unsafe_code)]

use super::spill::{PARTS, Spill};
use crate::users::layout::Rest;
use crate::users::record::Record;
use crossbeam::channel::bounded;
use std::io;
use std::ops::RangeInclusive;

/// Records with hashes that are next to each other, sorted.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    bodies: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    hash: u64,
    /// The line; the highest bit is set for a user.
    order: u64,
    begin: u32,
    length: u32,
}

/// A record on its way into the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coming<'s> {
    pub(super) hash: u64,
    pub(super) line: u64,
    pub(super) is_user: bool,
    pub(super) body: &'s [u8],
}

const USER: u64 = 1 << 63;

impl Sorted {
    pub(super) fn len(&self) -> u64 {
        self.items.len() as u64
    }

    /// Groups of records with the same hash: mostly of one, or an alias and a user of the same name.
    pub(super) fn groups(&self) -> impl Iterator<Item = impl Iterator<Item = Coming<'_>> + Clone> {
        self.items.chunk_by(|one, next| one.hash == next.hash).map(|group| {
            group.iter().map(|item| Coming {
                hash: item.hash,
                line: item.order & !USER,
                is_user: item.order & USER != 0,
                body: &self.bodies[item.begin as usize..][..item.length as usize],
            })
        })
    }

    fn read(spill: &Spill, part: usize, hashes: &RangeInclusive<u64>) -> io::Result<Self> {
        let mut sorted = Self::default();
        spill.read(part, |octets| {
            let mut rest = Rest(octets);
            while let Some((hash, line, body)) = next(&mut rest) {
                if hashes.contains(&hash) {
                    sorted.push(hash, line, body);
                }
            }
        })?;
        sorted.items.sort_unstable_by_key(|item| (item.hash, item.order, item.begin));
        Ok(sorted)
    }

    fn push(&mut self, hash: u64, line: u64, body: &[u8]) {
        let is_alias = Record::parse(body, 0).is_ok_and(|record| record.is_alias());
        self.items.push(Item {
            hash,
            order: if is_alias { line & !USER } else { line | USER },
            begin: u32::try_from(self.bodies.len()).expect("a part in memory is less than 4 GiB"),
            length: u32::try_from(body.len()).expect("a checked entry is short"),
        });
        self.bodies.extend_from_slice(body);
    }
}

fn next<'o>(rest: &mut Rest<'o>) -> Option<(u64, u64, &'o [u8])> {
    let hash = u64::from_le_bytes(*rest.take(8)?.first_chunk()?);
    Some((hash, rest.varint()?, rest.text()?))
}

/// Hands all records to `take`, a part at a time, each of not more than so many octets.
///
/// # Errors
/// Those of `take`, or if a part cannot be read back.
pub(super) fn each_part(
    spill: &Spill,
    bytes_max: usize,
    mut take: impl FnMut(&Sorted) -> io::Result<()>,
) -> io::Result<()> {
    let (sender, sorted) = bounded(0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            for part in 0..PARTS {
                // A part that is too large is read more than once, each time for some of its hashes.
                for hashes in pieces(part as u64, spill.bytes(part).div_ceil(bytes_max.min(BYTES_MAX))) {
                    if sender.send(Sorted::read(spill, part, &hashes)?).is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        let taken = sorted.into_iter().try_for_each(|sorted| take(&sorted));
        let read = reader.join().unwrap_or_else(|_| Err(io::Error::other("the thread that sorts is gone")));
        taken.and(read)
    })
}

/// No part in memory is larger, so that 32 bits name any place in it.
const BYTES_MAX: usize = 1 << 30;

/// The hashes of a part, in so many ranges of the same length.
fn pieces(part: u64, count: usize) -> impl Iterator<Item = RangeInclusive<u64>> {
    let (begin, count) = (part << 56, count as u64);
    // There are not more pieces than octets in a part, far fewer than hashes.
    let width = (1 << 56) / count.max(1);
    let edge = move |n: u64| begin + n * width;
    (0..count).map(move |n| match n + 1 == count {
        true => edge(n)..=begin | ((1 << 56) - 1),
        false => edge(n)..=edge(n + 1) - 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_part_without_overlap() {
        for (part, count) in [(0, 1), (255, 7), (17, 3)] {
            let pieces: Vec<_> = pieces(part, count).collect();
            assert_eq!(pieces.len(), count);
            assert_eq!((*pieces[0].start(), *pieces[count - 1].end() >> 56), (part << 56, part));
            assert_eq!(*pieces[count - 1].end() | !0 << 56, u64::MAX);
            assert!(pieces.windows(2).all(|two| *two[0].end() + 1 == *two[1].start()));
        }
    }
}
