//! The sections of a table, written from left to right.
//!
//! Owns where each begins and what is in it; [`crate::users::layout`] says why. Promises that the octets depend on
//! nothing but the records, their order and the seed. Never reads the file.
#![forbid(unsafe_code)]

use super::error::Conflict;
use super::sort::{Coming, Sorted};
use super::{CONFLICTS_MAX, Options, Totals};
use crate::users::block::{Filling, elsewhere_at, elsewhere_head};
use crate::users::domain::Domains;
use crate::users::draft::Stream;
use crate::users::header::{Header, Section, Which};
use crate::users::layout::{
    BLOCK, BODY_BYTES_MAX, LINE, PAGE, begin_of, filter_bits, filter_lines, home, home_blocks, tag,
};
use crate::users::record::{Dictionaries, Record, Shared};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How large everything will be.
#[derive(Debug)]
pub(super) struct Plan {
    options: Options,
    totals: Totals,
    slots: Vec<u8>,
    home_blocks: u64,
    filter_lines: u64,
    /// Begin and length of each section, without the zeroes at its end; the heap may become longer.
    places: [(u64, u64); 7],
}

impl Plan {
    pub(super) fn new(options: &Options, totals: &Totals, dictionaries: &Dictionaries) -> Self {
        let slots = dictionaries.domains.slots(&options.seed);
        let home_blocks = home_blocks(totals.bytes_in_blocks);
        let filter_lines = filter_lines(totals.users + totals.aliases);
        let lengths = [
            dictionaries.classes.section().len() as u64,
            dictionaries.templates.section().len() as u64,
            dictionaries.domains.section().len() as u64,
            slots.len() as u64,
            filter_lines * LINE as u64,
            totals.bytes_elsewhere,
            home_blocks * BLOCK as u64,
        ];
        let mut end = PAGE as u64;
        let places = lengths.map(|length| {
            let begin = begin_of(end, length);
            end = (begin + length).next_multiple_of(PAGE as u64);
            (begin, length)
        });
        Self { options: *options, totals: *totals, slots, home_blocks, filter_lines, places }
    }

    /// Where the last section ends, but for what runs over.
    pub(super) fn end(&self) -> u64 {
        let (begin, length) = self.places[Which::Heap as usize];
        begin + length
    }

    /// Writes the file: `fill` hands over all records in their order.
    ///
    /// # Errors
    /// If something cannot be written.
    pub(super) fn write(
        &self,
        file: &File,
        dictionaries: &Dictionaries,
        fill: impl FnOnce(&mut Sections<'_>) -> io::Result<()>,
    ) -> io::Result<(Header, Vec<Conflict>)> {
        let mut done = [Section::default(); 7];
        for (which, octets) in [
            (Which::Classes, dictionaries.classes.section()),
            (Which::Templates, dictionaries.templates.section()),
            (Which::Domains, dictionaries.domains.section()),
            (Which::DomainSlots, &self.slots),
        ] {
            let mut stream = self.stream(file, which);
            stream.write(octets)?;
            done[which as usize] = stream.finish(0)?;
        }
        let mut sections = Sections {
            plan: self,
            domains: Domains { section: dictionaries.domains.section(), slots: &[], count: 0 },
            filter: self.stream(file, Which::Filter),
            line: [0; 8],
            line_number: 0,
            elsewhere: self.stream(file, Which::Elsewhere),
            heap: self.stream(file, Which::Heap),
            filling: Filling::new(),
            block_number: 0,
            longest_probe: 0,
            users: 0,
            aliases: 0,
            conflicts: Vec::new(),
            more: 0,
        };
        fill(&mut sections)?;
        self.finish(file, sections, done, dictionaries)
    }

    fn finish(
        &self,
        file: &File,
        mut sections: Sections<'_>,
        mut done: [Section; 7],
        dictionaries: &Dictionaries,
    ) -> io::Result<(Header, Vec<Conflict>)> {
        sections.line_up_to(self.filter_lines)?;
        // Blocks to the end of the page, so that every one has its checksum.
        let blocks_of_page = (PAGE / BLOCK) as u64;
        while sections.block_number < self.home_blocks
            || !sections.filling.is_empty()
            || !sections.block_number.is_multiple_of(blocks_of_page)
        {
            sections.close_block(false)?;
        }
        let (users, aliases, longest_probe) = (sections.users, sections.aliases, sections.longest_probe);
        let mut conflicts = sections.conflicts;
        if sections.more > 0 {
            conflicts.push(Conflict::More { count: sections.more });
        }
        let length = |which: Which| self.places[which as usize].1;
        done[Which::Filter as usize] = sections.filter.finish(length(Which::Filter))?;
        done[Which::Elsewhere as usize] = sections.elsewhere.finish(length(Which::Elsewhere))?;
        done[Which::Heap as usize] = sections.heap.finish(length(Which::Heap))?;
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let header = Header {
            local_part: self.options.local_part,
            file_length: done[Which::Heap as usize].end().unwrap_or(u64::MAX),
            built_at: self.options.built_at,
            seed: self.options.seed,
            lists_all_domains: dictionaries.domains.lists_all(),
            users,
            aliases,
            home_blocks: self.home_blocks,
            record_bytes: self.totals.bytes_in_blocks,
            filter_lines: self.filter_lines,
            longest_probe: u32::try_from(longest_probe).unwrap_or(u32::MAX),
            classes: count(dictionaries.classes.len()),
            templates: count(dictionaries.templates.len()),
            domains: count(dictionaries.domains.len()),
            sections: done,
        };
        // The header comes last, when everything is known; until then nobody takes this for a table.
        file.write_all_at(&header.encode(), 0)?;
        Ok((header, conflicts))
    }

    fn stream<'f>(&self, file: &'f File, which: Which) -> Stream<'f> {
        Stream::new(file, self.places[which as usize].0)
    }
}

/// The sections that grow with the records.
#[derive(Debug)]
pub(super) struct Sections<'p> {
    plan: &'p Plan,
    domains: Domains<'p>,
    filter: Stream<'p>,
    /// The filter line at hand.
    line: [u64; 8],
    line_number: u64,
    elsewhere: Stream<'p>,
    heap: Stream<'p>,
    /// The block at hand.
    filling: Filling,
    block_number: u64,
    longest_probe: u64,
    users: u64,
    aliases: u64,
    conflicts: Vec<Conflict>,
    /// Conflicts for which there was no room.
    more: u64,
}

impl Sections<'_> {
    /// Takes the next records.
    pub(super) fn take(&mut self, sorted: &Sorted) -> io::Result<()> {
        for group in sorted.groups() {
            let all = group.clone();
            for (n, coming) in group.enumerate() {
                // The same hash is hardly ever another key; the first of a kind is the one to keep.
                let mut earlier = all.clone().take(n);
                match earlier
                    .find(|earlier| earlier.is_user == coming.is_user && has_same_key(earlier, &coming))
                {
                    Some(first) => self.duplicate(&first, &coming),
                    None => self.place(&coming)?,
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, coming: &Coming<'_>) -> io::Result<()> {
        self.line_up_to(home(coming.hash, self.plan.filter_lines))?;
        for (word, mask) in filter_bits(coming.hash) {
            self.line[word] |= mask;
        }
        let home = home(coming.hash, self.plan.home_blocks);
        while self.block_number < home {
            self.close_block(false)?;
        }
        let stub =
            if coming.body.len() > BODY_BYTES_MAX { Some(self.put_elsewhere(coming.body)?) } else { None };
        let body = stub.as_ref().map_or(coming.body, |stub| stub);
        while !self.filling.push(tag(coming.hash), body) {
            self.close_block(true)?;
        }
        self.longest_probe = self.longest_probe.max(self.block_number - home + 1);
        if coming.is_user {
            self.users += 1;
        } else {
            self.aliases += 1;
        }
        Ok(())
    }

    /// Writes the filter lines before this one.
    fn line_up_to(&mut self, number: u64) -> io::Result<()> {
        while self.line_number < number {
            self.line.iter().try_for_each(|word| self.filter.write(&word.to_le_bytes()))?;
            self.line = [0; 8];
            self.line_number += 1;
        }
        Ok(())
    }

    fn close_block(&mut self, goes_on: bool) -> io::Result<()> {
        self.block_number += 1;
        self.heap.write(&self.filling.close(goes_on))
    }

    fn put_elsewhere(&mut self, body: &[u8]) -> io::Result<[u8; 7]> {
        let offset = self.elsewhere.position();
        self.elsewhere.write(&elsewhere_head(body))?;
        self.elsewhere.write(body)?;
        Ok(elsewhere_at(offset))
    }

    fn duplicate(&mut self, first: &Coming<'_>, coming: &Coming<'_>) {
        if self.conflicts.len() == CONFLICTS_MAX {
            self.more += 1;
            return;
        }
        let shared = Shared { classes: &[], templates: &[], domains: self.domains };
        let address = Record::parse(coming.body, 0).and_then(|record| record.address(shared));
        self.conflicts.push(Conflict::Duplicate {
            line: coming.line,
            first_line: first.line,
            address: address.map(std::borrow::Cow::into_owned).unwrap_or_default(),
        });
    }
}

fn has_same_key(one: &Coming<'_>, other: &Coming<'_>) -> bool {
    match (Record::parse(one.body, 0), Record::parse(other.body, 0)) {
        (Ok(one), Ok(other)) => one.has_key_of(&other),
        _ => false,
    }
}
