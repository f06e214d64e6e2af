//! Who gets the mail: the addresses, and which of them a message is for.
//!
//! Owns the list of users (from a file, a pattern or a user table) and the choice among them, which is a pure function
//! of run and message number. Never asks whether a server knows these users.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use posthaste::users::Table;

use crate::random::{Random, Zipf};

/// Where the addresses come from, as `--users` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UserSource {
    /// One address a line.
    File(PathBuf),
    /// Numbered addresses.
    Pattern(Pattern),
    /// All users of a table that `posthaste users build` made.
    Table(PathBuf),
}

impl FromStr for UserSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("table", path)) if !path.is_empty() => Ok(Self::Table(path.into())),
            Some(("pattern", pattern)) => pattern.parse().map(Self::Pattern),
            _ if text.contains('{') => text.parse().map(Self::Pattern),
            _ => Err("say file:PATH, table:PATH or a pattern as in user{1..1000}@example.test".into()),
        }
    }
}

/// Addresses with a number in them: `user{1..1000}@example.test`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    before: String,
    first: u64,
    count: u64,
    after: String,
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (before, rest) = text.split_once('{')?;
            let (range, after) = rest.split_once('}')?;
            let (first, last) = range.split_once("..")?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            let count = last.checked_sub(first)?.checked_add(1)?;
            let (before, after) = (sendable(before).ok()?.to_owned(), sendable(after).ok()?.to_owned());
            Some(Self { before, first, count, after })
        };
        parts().ok_or_else(|| {
            "a pattern has one range of rising numbers, as in user{1..1000}@example.test".into()
        })
    }
}

/// The users of a run; there is at least one.
#[derive(Debug)]
pub(crate) enum Users {
    /// Made when they are needed.
    Numbered(Pattern),
    /// All addresses in one piece of memory, and where each ends.
    Listed { text: String, ends: Vec<usize> },
}

impl Users {
    /// Reads what `source` names.
    pub(crate) fn load(source: &UserSource) -> Result<Self, String> {
        match source {
            UserSource::Pattern(pattern) => Ok(Self::Numbered(pattern.clone())),
            UserSource::File(path) => Self::from_file(path),
            UserSource::Table(path) => Self::from_table(path),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Numbered(pattern) => pattern.count,
            Self::Listed { ends, .. } => ends.len() as u64,
        }
    }

    /// Appends the address of user `index` to `out`.
    pub(crate) fn write(&self, index: u64, out: &mut Vec<u8>) {
        match self {
            Self::Numbered(pattern) => {
                out.extend_from_slice(pattern.before.as_bytes());
                write!(out, "{}", pattern.first + index).expect("memory");
                out.extend_from_slice(pattern.after.as_bytes());
            }
            Self::Listed { text, ends } => {
                let index = usize::try_from(index).expect("an index of the list");
                let start = index.checked_sub(1).map_or(0, |before| ends[before]);
                out.extend_from_slice(&text.as_bytes()[start..ends[index]]);
            }
        }
    }

    fn from_file(path: &Path) -> Result<Self, String> {
        let content =
            std::fs::read_to_string(path).map_err(|error| format!("users of {}: {error}", path.display()))?;
        let lines = content.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let addresses = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let checked = addresses.map(|(number, line)| {
            sendable(line).map_err(|why| format!("users of {}, line {number}: {why}", path.display()))
        });
        Self::listed(checked, path)
    }

    fn from_table(path: &Path) -> Result<Self, String> {
        let table = Table::open(path).map_err(|error| error.to_string())?;
        let users = table.users().map(|user| match user {
            Ok(user) => sendable(user.address().to_cow()).map_err(|why| format!("{}: {why}", path.display())),
            Err(damage) => Err(format!("{}: {damage}; build it again", path.display())),
        });
        Self::listed(users, path)
    }

    fn listed(
        addresses: impl Iterator<Item = Result<impl AsRef<str>, String>>,
        path: &Path,
    ) -> Result<Self, String> {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for address in addresses {
            text.push_str(address?.as_ref());
            ends.push(text.len());
        }
        if ends.is_empty() {
            return Err(format!("{} has no users in it", path.display()));
        }
        Ok(Self::Listed { text, ends })
    }
}

/// An address becomes part of a command, so nothing in it may end that command.
fn sendable<A: AsRef<str>>(address: A) -> Result<A, String> {
    let text = address.as_ref();
    match text.find(|c: char| c.is_control() || matches!(c, '<' | '>' | ' ')) {
        None => Ok(address),
        Some(at) => {
            Err(format!("an address has {:?} at position {at}, which no command can carry", &text[at..=at]))
        }
    }
}

/// How the users are chosen, as `--popularity` says it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Popularity {
    /// All alike.
    Uniform,
    /// The k-th user in proportion to k to the power of minus this.
    Zipf(f64),
}

impl FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "zipf" => Ok(Self::Zipf(1.0)),
            Some(("zipf", exponent)) => match exponent.parse::<f64>() {
                Ok(exponent) if exponent > 0.0 && exponent <= 10.0 => Ok(Self::Zipf(exponent)),
                _ => Err("the exponent of zipf is a number above 0 and up to 10".into()),
            },
            _ => Err("say uniform, zipf or zipf:EXPONENT".into()),
        }
    }
}

/// Chooses the recipients of each message.
#[derive(Debug)]
pub(crate) struct Choice {
    count: u64,
    recipients: usize,
    zipf: Option<Zipf>,
}

impl Choice {
    /// So many `recipients` a message, all of them different users.
    pub(crate) fn new(users: &Users, popularity: Popularity, recipients: usize) -> Result<Self, String> {
        let count = users.count();
        if recipients as u64 > count {
            return Err(format!(
                "{recipients} recipients a message need more users than {count}: lower --recipients, or name more with --users"
            ));
        }
        let zipf = match popularity {
            Popularity::Uniform => None,
            Popularity::Zipf(exponent) => Some(Zipf::new(count, exponent)),
        };
        Ok(Self { count, recipients, zipf })
    }

    /// How many recipients each message has.
    pub(crate) fn recipients(&self) -> usize {
        self.recipients
    }

    /// The recipients of one message, by `random`, which belongs to it.
    pub(crate) fn choose(&self, mut random: Random, into: &mut Vec<u64>) {
        into.clear();
        while into.len() < self.recipients {
            let mut draw = || match &self.zipf {
                None => random.below(self.count),
                Some(zipf) => zipf.draw(&mut random) - 1,
            };
            // The unpopular may take for ever to be drawn: after some attempts the next one will do.
            let drawn = (0..DRAWS_MAX).map(|_| draw()).find(|index| !into.contains(index));
            let next = || {
                let start = draw();
                (0..self.count).map(|step| (start + step) % self.count).find(|index| !into.contains(index))
            };
            into.push(drawn.or_else(next).expect("more users than recipients"));
        }
    }
}

const DRAWS_MAX: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(users: &Users, index: u64) -> String {
        let mut out = Vec::new();
        users.write(index, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_pattern_numbers_its_users() {
        let source: UserSource = "pattern:u{9..11}@example.test".parse().unwrap();
        let users = Users::load(&source).unwrap();
        assert_eq!(users.count(), 3);
        assert_eq!([0, 2].map(|index| address(&users, index)), ["u9@example.test", "u11@example.test"]);
        assert_eq!("u{9..11}@example.test".parse::<UserSource>(), Ok(source));
    }

    #[test]
    fn a_source_that_makes_no_sense_is_refused_with_an_example() {
        for text in ["", "users.txt", "file:", "u{2..1}@x", "u{1..}@x", "pattern:none", "u{1..2}@x y"] {
            let refusal = text.parse::<UserSource>().unwrap_err();
            assert!(refusal.contains("user{1..1000}@example.test"), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_file_has_one_address_a_line_and_comments() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        std::fs::write(&path, "# ours\nalice@example.test\n\n bob@example.test \n").unwrap();
        let users = Users::load(&UserSource::File(path.clone())).unwrap();
        assert_eq!(users.count(), 2);
        assert_eq!(address(&users, 1), "bob@example.test");
        std::fs::write(&path, "alice@example.test\nbob> SIZE=1\n").unwrap();
        let refusal = Users::load(&UserSource::File(path)).unwrap_err();
        assert!(refusal.contains("line 2") && refusal.contains("\">\" at position 3"), "{refusal}");
    }

    #[test]
    fn the_recipients_of_a_message_differ_and_can_be_derived_again() {
        let users = Users::Numbered("u{1..20}@x".parse().unwrap());
        for popularity in [Popularity::Uniform, Popularity::Zipf(1.2)] {
            let choice = Choice::new(&users, popularity, 10).unwrap();
            let (mut first, mut again) = (Vec::new(), Vec::new());
            choice.choose(Random::new(4, 4), &mut first);
            choice.choose(Random::new(4, 4), &mut again);
            assert_eq!(first, again);
            again.sort_unstable();
            again.dedup();
            assert_eq!(again.len(), 10);
        }
        assert!(Choice::new(&users, Popularity::Uniform, 21).unwrap_err().contains("--recipients"));
        // As steep as it may be, and everybody has to get it.
        let choice = Choice::new(&users, Popularity::Zipf(10.0), 20).unwrap();
        let mut all = Vec::new();
        choice.choose(Random::new(4, 4), &mut all);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..20));
    }
}
