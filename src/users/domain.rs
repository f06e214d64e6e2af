//! The domains of a table, each written once.
//!
//! Owns their numbers, their section and the slots that find them. Promises that a domain is found by its text or not
//! in the list. Never knows who is in a domain, only whether it has a catch-all.
#![forbid(unsafe_code)]

use super::layout::{DOMAIN_STEP, domain_slots, hash, home, u16_at, u32_at};
use std::collections::HashMap;

/// The most domains in a table's list, which the builder keeps in memory: with this many, it is 100 octets for each
/// beside the memory that it was given. The domains of later users are written with their local parts.
pub(super) const DOMAINS_MAX: usize = 1 << 20;
/// Octets before a domain's text.
const HEAD: usize = 3;
const CATCH_ALL: u8 = 1;

/// A domain that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Domain {
    /// Its number; never 0.
    pub(super) number: u32,
    /// Whether `@domain` is an alias.
    pub(super) has_catch_all: bool,
}

/// The domain section and its slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Domains<'t> {
    pub(super) section: &'t [u8],
    pub(super) slots: &'t [u8],
    pub(super) count: u32,
}

impl<'t> Domains<'t> {
    /// The slots, and which of them is a hash's home.
    fn home(&self, hash: u64) -> Option<(&'t [[u8; 8]], usize)> {
        let (slots, _) = self.slots.as_chunks::<8>();
        let count = usize::try_from(domain_slots(u64::from(self.count))).ok()?;
        Some((slots.get(..count)?, usize::try_from(home(hash, count as u64)).ok()?))
    }

    /// Looks a folded domain up, which has this hash.
    #[inline]
    pub(super) fn find(&self, hash: u64, domain: &[u8]) -> Option<Domain> {
        let (slots, first) = self.home(hash)?;
        for slot in slots[first..].iter().chain(&slots[..first]) {
            let number = u32_at(slot, 0).filter(|number| *number != 0)?;
            if u32_at(slot, 4) == Some(tag(hash)) && self.text(number) == Some(domain) {
                let flags = self.octets(number)?.get(2)?;
                return Some(Domain { number, has_catch_all: flags & CATCH_ALL != 0 });
            }
        }
        None
    }

    /// The text of the domain with this number.
    pub(super) fn text(&self, number: u32) -> Option<&'t [u8]> {
        let octets = self.octets(number)?;
        octets.get(HEAD..HEAD + usize::from(u16_at(octets, 0)?))
    }

    fn octets(&self, number: u32) -> Option<&'t [u8]> {
        let at = (number as usize).checked_sub(1)?.checked_mul(DOMAIN_STEP)?;
        self.section.get(at..)
    }
}

/// The domains of a table that is being built.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    numbers: HashMap<Box<str>, u32>,
    section: Vec<u8>,
    is_full: bool,
}

impl Dictionary {
    /// The number of a folded domain; `None` if there is no room for it.
    pub(super) fn number(&mut self, domain: &str) -> Option<u32> {
        if let Some(number) = self.numbers.get(domain) {
            return Some(*number);
        }
        let next = u32::try_from(self.section.len() / DOMAIN_STEP + 1);
        let length = u16::try_from(domain.len());
        let (Ok(next), Ok(length)) = (next, length) else { return None };
        if self.numbers.len() >= DOMAINS_MAX {
            self.is_full = true;
            return None;
        }
        self.section.extend_from_slice(&length.to_le_bytes());
        self.section.push(0);
        self.section.extend_from_slice(domain.as_bytes());
        self.section.resize(self.section.len().next_multiple_of(DOMAIN_STEP), 0);
        self.numbers.insert(domain.into(), next);
        Some(next)
    }

    /// Notes that the domain with this number has a catch-all.
    pub(super) fn set_catch_all(&mut self, number: u32) {
        self.section[(number as usize - 1) * DOMAIN_STEP + 2] |= CATCH_ALL;
    }

    /// Whether every domain found room.
    pub(super) fn lists_all(&self) -> bool {
        !self.is_full
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The domain section, without the zeroes at its end.
    pub(super) fn section(&self) -> &[u8] {
        &self.section
    }

    /// The slots: each domain in the first free one from its home on, in the order of the numbers.
    pub(super) fn slots(&self, seed: &[u8; 16]) -> Vec<u8> {
        let count = domain_slots(self.numbers.len() as u64);
        let mut slots = vec![[0; 8]; usize::try_from(count).unwrap_or_default()];
        let mut domains: Vec<(u32, &str)> =
            self.numbers.iter().map(|(text, number)| (*number, &**text)).collect();
        domains.sort_unstable();
        for (number, text) in domains {
            let hash = hash(seed, text.as_bytes());
            let mut place = usize::try_from(home(hash, count)).unwrap_or_default();
            while slots[place] != [0; 8] {
                place = (place + 1) % slots.len();
            }
            slots[place][..4].copy_from_slice(&number.to_le_bytes());
            slots[place][4..].copy_from_slice(&tag(hash).to_le_bytes());
        }
        slots.concat()
    }
}

/// What a slot keeps of a hash; not the bits that choose it.
fn tag(hash: u64) -> u32 {
    (hash & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u8; 16] = [4; 16];

    #[test]
    fn a_domain_is_found_by_its_text_and_read_by_its_number() {
        let mut dictionary = Dictionary::default();
        let names: Vec<String> = (0..200).map(|n| format!("{}{n}.example", "x".repeat(n))).collect();
        for name in &names {
            let number = dictionary.number(name).unwrap();
            assert_eq!(dictionary.number(name), Some(number));
        }
        let last = dictionary.number(&names[199]).unwrap();
        dictionary.set_catch_all(last);
        let slots = dictionary.slots(&SEED);
        let domains = Domains { section: dictionary.section(), slots: &slots, count: 200 };
        for name in &names {
            let found = domains.find(hash(&SEED, name.as_bytes()), name.as_bytes()).unwrap();
            assert_eq!(domains.text(found.number), Some(name.as_bytes()));
            assert_eq!(found.has_catch_all, found.number == last);
        }
        assert_eq!(domains.find(hash(&SEED, b"example.org"), b"example.org"), None);
        assert_eq!((domains.text(0), domains.text(u32::MAX)), (None, None));
    }

    #[test]
    fn slots_without_an_empty_one_do_not_make_a_search_endless() {
        let domains = Domains { section: &[], slots: &[1; 24], count: 1 };
        assert_eq!(domains.find(hash(&SEED, b"example.org"), b"example.org"), None);
    }
}
