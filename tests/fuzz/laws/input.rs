//! An input, read as decisions: every sequence of bytes is one, and what is missing at its end is zero.

use std::ops::Range;

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'i> {
    rest: &'i [u8],
}

impl<'i> Input<'i> {
    /// All of it.
    #[must_use]
    pub fn new(bytes: &'i [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, length: usize) -> &'i [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// So many bytes, zeroes behind the end.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes as a number.
    pub fn number(&mut self) -> usize {
        usize::from(u16::from_le_bytes(self.array()))
    }

    /// A short text: its length in one byte, then the bytes.
    pub fn short(&mut self) -> &'i [u8] {
        let length = usize::from(self.byte());
        self.take(length)
    }

    /// A text: its length in two bytes, then the bytes.
    pub fn long(&mut self) -> &'i [u8] {
        let length = self.number();
        self.take(length)
    }

    /// All that is left.
    #[must_use]
    pub fn rest(self) -> &'i [u8] {
        self.rest
    }

    /// How something is cut into pieces: all of the same length, or at some places.
    pub fn cuts(&mut self) -> Cuts {
        let kind = usize::from(self.byte());
        if kind >= 0x80 {
            return Cuts::Every(kind - 0x7f);
        }
        Cuts::At((0..kind % 8).map(|_| self.number()).collect())
    }
}

/// Where something is cut.
#[derive(Clone, Debug)]
pub enum Cuts {
    /// Into pieces of this length.
    Every(usize),
    /// At these places, which may lie behind the end: they are counted from its begin again then.
    At(Vec<usize>),
}

impl Cuts {
    /// The pieces of something that has so many bytes, in order. Some may be empty.
    #[must_use]
    pub fn pieces(&self, length: usize) -> Vec<Range<usize>> {
        match self {
            Self::Every(step) => {
                (0..length).step_by(*step).map(|start| start..length.min(start + step)).collect()
            }
            Self::At(places) => {
                let mut places: Vec<usize> = places.iter().map(|place| place % (length + 1)).collect();
                places.extend([0, length]);
                places.sort_unstable();
                places.windows(2).map(|cut| cut[0]..cut[1]).collect()
            }
        }
    }
}
