//! The system's users and groups by name, for sources that name owners.
//!
//! Owns the reading of `/etc/passwd` and `/etc/group`. Never asks NSS: a table is built from files, so that it
//! comes out the same wherever it is built with the same ones; owners from elsewhere are given as numbers.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;

/// Names and their numbers.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Accounts {
    /// Those of this system; without the files there are none.
    ///
    /// # Errors
    /// If one of the files is there and cannot be read.
    pub fn system() -> io::Result<Self> {
        let read = |path| match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        };
        Ok(Self::parse(&read("/etc/passwd")?, &read("/etc/group")?))
    }

    /// From the text of a passwd and a group file: in both, the name comes first and the number third. The
    /// first of two lines with one name counts.
    pub fn parse(passwd: &str, group: &str) -> Self {
        Self { users: numbers_by_name(passwd), groups: numbers_by_name(group) }
    }

    /// The owner that `text` means; nothing if it is empty.
    ///
    /// # Errors
    /// Why it means nobody.
    pub(super) fn uid(&self, text: &str) -> Result<Option<u32>, String> {
        number(text, &self.users, "user")
    }

    /// The group that `text` means; nothing if it is empty.
    ///
    /// # Errors
    /// Why it means none.
    pub(super) fn gid(&self, text: &str) -> Result<Option<u32>, String> {
        number(text, &self.groups, "group")
    }
}

fn numbers_by_name(text: &str) -> HashMap<String, u32> {
    let mut numbers = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(Ok(number))) =
            (fields.next(), fields.next(), fields.next().map(str::parse))
        {
            numbers.entry(name.to_owned()).or_insert(number);
        }
    }
    numbers
}

fn number(text: &str, names: &HashMap<String, u32>, kind: &str) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.bytes().all(|octet| octet.is_ascii_digit()) {
        let number = text.parse().map_err(|_| format!("{text} is too large for a number of a {kind}"))?;
        return Ok(Some(number));
    }
    match names.get(text) {
        Some(number) => Ok(Some(*number)),
        None => Err(format!("there is no {kind} \"{}\" here", text.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_mean_the_same_and_nothing_means_nothing() {
        let accounts = Accounts::parse(
            "# comment\nroot:x:0:0::/root:/bin/sh\nvmail:x:5000:8::/:\nvmail:x:7:7::/:\nbad\n",
            "mail:x:8:\n",
        );
        assert_eq!(accounts.uid("vmail"), Ok(Some(5000)));
        assert_eq!(accounts.uid("5000"), Ok(Some(5000)));
        assert_eq!(accounts.gid("mail"), Ok(Some(8)));
        assert_eq!(accounts.uid(""), Ok(None));
        assert_eq!(accounts.uid("mail"), Err("there is no user \"mail\" here".into()));
        assert!(accounts.gid("4294967296").unwrap_err().contains("too large"));
        assert!(accounts.uid("-1").is_err());
    }
}
