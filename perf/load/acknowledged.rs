//! Which recipients of which messages were acknowledged: one bit each.
//!
//! Owns nothing else. A run of a hundred million recipients needs 12 MB of it.
#![forbid(unsafe_code)]

/// A set of small numbers that grows with the largest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// Puts `index` in; whether it was not there before.
    pub(crate) fn insert(&mut self, index: u64) -> bool {
        let (word, bit) = place(index);
        if word >= self.0.len() {
            self.0.resize((word + 1).max(self.0.len() * 2), 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// Whether `index` is in it.
    pub(crate) fn contains(&self, index: u64) -> bool {
        let (word, bit) = place(index);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Puts in everything that is in `other`, moved up by `by`.
    pub(crate) fn add(&mut self, other: &Self, by: u64) {
        other.iter().for_each(|index| {
            self.insert(index + by);
        });
    }

    /// How many are in it.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// All of them, rising.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().zip(0_u64..).flat_map(|(word, number)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| number * 64 + bit)
        })
    }
}

fn place(index: u64) -> (usize, u64) {
    (usize::try_from(index / 64).expect("less than memory"), 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_in_it_and_nothing_else() {
        let mut bits = Bits::default();
        assert!(bits.insert(3) && bits.insert(64) && bits.insert(1000));
        assert!(!bits.insert(64));
        assert_eq!(bits.iter().collect::<Vec<_>>(), [3, 64, 1000]);
        assert_eq!(bits.count(), 3);
        assert!(bits.contains(1000) && !bits.contains(999) && !bits.contains(1 << 40));
        let mut sum = bits.clone();
        sum.add(&bits, 1);
        assert_eq!(sum.iter().collect::<Vec<_>>(), [3, 4, 64, 65, 1000, 1001]);
    }
}
