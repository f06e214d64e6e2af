//! Power cuts: when, and what the disks keep of what they had not been told to flush.
//!
//! A disk owes nothing but this: what was written before a flush that it has answered is there. Of everything after it,
//! any part may be there and any part not, in any order; a write may be torn at the borders of its sectors. Disks of
//! one machine owe nothing to each other.

use std::fmt;

use crate::blocklog::{Entry, Event};
use crate::image::Image;
use crate::load::{Answer, Reply};
use crate::random::Random;

/// A power cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// So many entries of the log have been.
    pub(crate) at: usize,
    keep: Keep,
    seed: u64,
}

/// What is kept of the writes behind the last flush.
#[derive(Clone, Copy, Debug)]
enum Keep {
    Nothing,
    Everything,
    /// Every piece of so many bytes with this chance in a hundred.
    Some {
        percent: usize,
        grain: u64,
    },
}

impl fmt::Display for Cut {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "cut after entry {}, keeping {:?} of the unflushed, seed {}",
            self.at, self.keep, self.seed
        )
    }
}

impl Cut {
    /// A cut after the last entry, with nothing kept that was not flushed; and with everything.
    pub(crate) fn extremes(at: usize) -> [Self; 2] {
        [Keep::Nothing, Keep::Everything].map(|keep| Self { at, keep, seed: 0 })
    }
}

/// Chooses `count` cuts of a run, in the order of time: between its entries `begin` and `end`, mostly where a promise
/// is youngest (a 250 has just been read) and around flushes. No piece is smaller than `grain` bytes.
pub(crate) fn choose(
    entries: &[Entry],
    answers: &[Answer],
    (begin, end): (usize, usize),
    grain: u64,
    count: usize,
    random: &mut Random,
) -> Vec<Cut> {
    let saved: Vec<usize> = answers
        .iter()
        .filter_map(|answer| match answer.reply {
            Reply::Saved(at) => Some(at),
            _ => None,
        })
        .collect();
    let flushes: Vec<usize> =
        (begin..end).filter(|&index| matches!(entries[index].event, Event::Flush)).collect();
    let mut cuts: Vec<Cut> = (0..count)
        .map(|_| {
            let at = match random.below(10) {
                0..=3 if !saved.is_empty() => *random.choose(&saved),
                // Before it and behind it.
                4..=6 if !flushes.is_empty() => random.choose(&flushes) + random.below(2),
                _ => begin + random.below(end - begin + 1),
            };
            let keep = match random.below(20) {
                0..=5 => Keep::Nothing,
                6..=8 => Keep::Everything,
                _ => Keep::Some {
                    percent: *random.choose(&[10, 50, 90]),
                    grain: *random.choose(&[grain, 4096, u64::MAX]),
                },
            };
            Cut { at, keep, seed: random.number() }
        })
        .collect();
    cuts.sort_by_key(|cut| cut.at);
    cuts
}

/// A run once more, up to each of its cuts.
pub(crate) struct Replay<'run> {
    entries: &'run [Entry],
    /// What each disk owes.
    owed: Vec<Image>,
    /// What each disk was told since its last flush.
    since: Vec<Vec<&'run Event>>,
    at: usize,
}

impl<'run> Replay<'run> {
    /// From the beginning, where the disks had the content `base`.
    pub(crate) fn new(base: &[Image], entries: &'run [Entry]) -> Self {
        Self { entries, owed: base.to_vec(), since: base.iter().map(|_| Vec::new()).collect(), at: 0 }
    }

    /// What the disks may have on them after `cut`, which is not earlier than the one before.
    pub(crate) fn after(&mut self, cut: &Cut) -> Vec<Image> {
        self.advance(cut.at);
        let mut random = Random::new(cut.seed);
        let disks = self.owed.iter().zip(&self.since);
        disks
            .map(|(owed, since)| {
                let mut image = owed.clone();
                for event in since {
                    cut.keep.apply(event, &mut image, &mut random);
                }
                image
            })
            .collect()
    }

    fn advance(&mut self, to: usize) {
        assert!(self.at <= to, "cuts come in the order of time");
        for Entry { device, event } in &self.entries[self.at..to] {
            if matches!(event, Event::Flush) {
                for event in self.since[*device].drain(..) {
                    Keep::Everything.apply(event, &mut self.owed[*device], &mut Random::new(0));
                }
            } else {
                self.since[*device].push(event);
            }
        }
        self.at = to;
    }
}

impl Keep {
    fn apply(self, event: &Event, image: &mut Image, random: &mut Random) {
        let length = match event {
            Event::Write { bytes, .. } => bytes.len() as u64,
            Event::Zero { length, .. } => *length,
            Event::Flush => 0,
        };
        let (percent, grain) = match self {
            Self::Nothing => return,
            Self::Everything => (100, u64::MAX),
            Self::Some { percent, grain } => (percent, grain),
        };
        let mut done = 0;
        while done < length {
            let piece = grain.min(length - done);
            if random.percent(percent) {
                apply(event, done, piece, image);
            }
            done += piece;
        }
    }
}

/// Does `piece` bytes of an event, from its byte `from` on.
fn apply(event: &Event, from: u64, piece: u64, image: &mut Image) {
    match event {
        Event::Write { offset, bytes } => {
            let start = usize::try_from(from).expect("a request");
            let end = usize::try_from(from + piece).expect("a request");
            image.write(offset + from, &bytes[start..end]);
        }
        Event::Zero { offset, .. } => image.zero(offset + from, piece),
        Event::Flush => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_is_kept_and_of_the_rest_any_part() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        std::fs::write(&path, [0; 65536]).expect("an image");
        let base = [Image::load(&path), Image::load(&path)];
        let write = |device: usize, offset: u64, byte: u8| Entry {
            device,
            event: Event::Write { offset, bytes: vec![byte; 8192].into() },
        };
        // The flush of one disk is none of the other.
        let flush = Entry { device: 0, event: Event::Flush };
        let entries = [write(0, 0, 1), write(1, 0, 2), flush, write(0, 4096, 3)];
        let cut = |keep: Keep, seed: u64| Cut { at: 4, keep, seed };
        let after = |cut: Cut| -> Vec<u8> {
            let images = Replay::new(&base, &entries).after(&cut);
            let byte = |disk: &Image, offset: u64| {
                let mut byte = [0];
                disk.read(offset, &mut byte);
                byte[0]
            };
            vec![byte(&images[0], 0), byte(&images[0], 4096), byte(&images[0], 8192), byte(&images[1], 0)]
        };
        assert_eq!(after(cut(Keep::Nothing, 0)), [1, 1, 0, 0]);
        assert_eq!(after(cut(Keep::Everything, 0)), [1, 3, 3, 2]);
        let mut seen = std::collections::HashSet::new();
        for seed in 0..200 {
            let bytes = after(cut(Keep::Some { percent: 50, grain: 4096 }, seed));
            assert_eq!(bytes[0], 1, "what was flushed");
            seen.insert(bytes);
        }
        // Two blocks of one write and one of another, each old or new.
        assert_eq!(seen.len(), 8);
    }
}
