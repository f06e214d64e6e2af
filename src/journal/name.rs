//! What the files of a journal directory are called.
#![forbid(unsafe_code)]

use std::fmt;

/// The name of a segment: `WORKER-NUMBER.segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName {
    /// The worker whose messages are in it.
    pub worker: u32,
    /// Counts the segments of that worker.
    pub number: u32,
}

/// The file that is locked by whoever uses the directory.
pub const LOCK: &str = "lock";
/// Behind a segment's name: some of its mail could not be recovered yet.
pub const KEPT: &str = ".kept";
/// Behind a segment's name: it could not be read.
pub const UNREADABLE: &str = ".unreadable";

/// What a file of the journal directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A segment in use.
    Segment(SegmentName),
    /// A segment that was kept because some of its mail could not be recovered.
    Kept,
    /// A segment that was set aside because it could not be read.
    Unreadable,
    /// The lock, or nothing that is ours.
    Other,
}

impl SegmentName {
    /// Reads the name of a segment; only the spelling that [`fmt::Display`] gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (worker, number) = text.strip_suffix(SUFFIX)?.split_once('-')?;
        let name = Self { worker: worker.parse().ok()?, number: number.parse().ok()? };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}{SUFFIX}", self.worker, self.number)
    }
}

impl Kind {
    /// What a file called `name` is. Kept and unreadable ones may have a number behind them, where the plain
    /// name was taken.
    #[must_use]
    pub fn of(name: &str) -> Self {
        if let Some(segment) = SegmentName::parse(name) {
            return Self::Segment(segment);
        }
        let is = |mark: &str| {
            name.split_once(mark).is_some_and(|(segment, rest)| {
                SegmentName::parse(segment).is_some() && (rest.is_empty() || is_count(rest))
            })
        };
        match () {
            () if is(KEPT) => Self::Kept,
            () if is(UNREADABLE) => Self::Unreadable,
            () => Self::Other,
        }
    }
}

/// `.1`, `.2` and so on.
fn is_count(rest: &str) -> bool {
    rest.strip_prefix('.').is_some_and(|digits| {
        !digits.is_empty() && digits.len() < 10 && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

const SUFFIX: &str = ".segment";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written_and_no_other_way() {
        let name = SegmentName { worker: 3, number: 120 };
        assert_eq!(name.to_string(), "3-120.segment");
        assert_eq!(SegmentName::parse("3-120.segment"), Some(name));
        for other in
            ["03-120.segment", "3-+1.segment", "3-1.segment ", "3-.segment", "3.segment", "-3-1.segment", ""]
        {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn every_file_of_the_directory_is_known_by_its_name() {
        assert_eq!(Kind::of("0-1.segment"), Kind::Segment(SegmentName { worker: 0, number: 1 }));
        assert_eq!(Kind::of("0-1.segment.kept"), Kind::Kept);
        assert_eq!(Kind::of("0-1.segment.kept.2"), Kind::Kept);
        assert_eq!(Kind::of("0-1.segment.unreadable"), Kind::Unreadable);
        for other in ["lock", "0-1.segment.kept.", "0-1.segment.kept.x", "a.segment.kept", "0-1.segment~"] {
            assert_eq!(Kind::of(other), Kind::Other, "{other}");
        }
    }
}
