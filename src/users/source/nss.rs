//! The users of the system, whoever keeps them: `getent passwd`.
//!
//! Owns the call of getent(1), which asks NSS for everybody it lists, and the choice of those who are people: their
//! uid lies in a range, by default the one that `/etc/login.defs` gives to them. Of two users with one name the first
//! counts, as it does for getpwnam(3). Promises that a getent that fails is an error, not a short list. Services that
//! do not list their users (sssd without `enumerate`) cannot be read like this.
#![forbid(unsafe_code)]

use super::lines::{LINE_BYTES_MAX, Lines};
use super::passwd_file::location;
use super::{Fault, Item, LINE, ReadError, Source, not_utf8, set, set_option};
use crate::users::entry::{Entry, EntryFault};
use std::collections::HashSet;
use std::io::{self, Cursor};
use std::ops::RangeInclusive;
use std::process::Command;

/// Who is wanted, and under which address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The uids of people.
    pub uids: RangeInclusive<u32>,
    /// Goes behind each name; without it, names are local parts alone.
    pub domain: Option<String>,
}

/// The users of the system, one after another.
#[derive(Debug)]
pub struct Nss {
    lines: Lines<Cursor<Vec<u8>>>,
    wanted: Wanted,
    names: HashSet<String>,
}

impl Nss {
    /// Asks the system.
    ///
    /// # Errors
    /// If getent cannot be started, or fails.
    pub fn ask(wanted: Wanted) -> io::Result<Self> {
        Ok(Self::new(output_of(PROGRAM, ARGUMENTS)?, wanted))
    }

    /// Reads what getent has printed.
    pub fn new(output: Vec<u8>, wanted: Wanted) -> Self {
        Self { lines: Lines::new(Cursor::new(output), LINE_BYTES_MAX), wanted, names: HashSet::new() }
    }

    /// Whether the line is one of somebody who is wanted; then he is in `entry`.
    fn parse(&mut self, entry: &mut Entry) -> Result<bool, Fault> {
        let text = str::from_utf8(self.lines.line()?).map_err(|_| not_utf8())?;
        let fields: Vec<&str> = text.split(':').collect();
        let [name, _password, uid, gid, _gecos, home, _shell] = fields[..] else {
            let reason = format!("it has {} fields, and a user of the system 7", fields.len());
            return Err(Fault::new(LINE, reason, "correct the service that this user comes from"));
        };
        let uid = number("uid", uid)?;
        if !self.wanted.uids.contains(&uid) || !self.names.insert(name.to_owned()) {
            return Ok(false);
        }
        set(&mut entry.address, name);
        if let Some(domain) = &self.wanted.domain {
            entry.address.push('@');
            entry.address.push_str(domain);
        }
        set_option(&mut entry.home, Some(location::trim_slashes(home)).filter(|home| !home.is_empty()));
        set(&mut entry.mail, location::DEFAULT);
        entry.uid = Some(uid);
        entry.gid = Some(number("gid", gid)?);
        (entry.quota_bytes, entry.quota_messages) = (None, None);
        entry.check().map(|()| true).map_err(|fault| named(name, &fault))
    }
}

impl Source for Nss {
    fn read(&mut self, item: &mut Item) -> Result<bool, ReadError> {
        while self.lines.advance()? {
            let entry = item.user();
            entry.line = self.lines.number();
            if self.parse(entry).map_err(|fault| ReadError::of(self.lines.number(), fault))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn line(&self) -> u64 {
        self.lines.number()
    }
}

/// The uids of people, by the text of `/etc/login.defs`; what it does not say is as login.defs(5) has it.
pub fn uids_of_people(login_defs: &str) -> RangeInclusive<u32> {
    let value = |key: &str, otherwise: u32| {
        login_defs
            .lines()
            .filter_map(|line| line.split_once(char::is_whitespace))
            .filter(|(word, _)| *word == key)
            .filter_map(|(_, value)| value.trim().parse().ok())
            .next_back()
            .unwrap_or(otherwise)
    };
    value("UID_MIN", 1000)..=value("UID_MAX", 60_000)
}

/// What is printed by `program`, if it ends well.
fn output_of(program: &str, arguments: &[&str]) -> io::Result<Vec<u8>> {
    let shown = format!("\"{program} {}\"", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(|error| {
        io::Error::new(error.kind(), format!("{shown} cannot be started: {error}; install libc-bin"))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let message = format!("{shown} failed ({}): {}", output.status, said.trim().escape_debug());
        return Err(io::Error::other(message));
    }
    Ok(output.stdout)
}

fn number(field: &'static str, text: &str) -> Result<u32, Fault> {
    let is_number = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or_else(|| {
        let reason = format!("\"{}\" is no number of an owner", text.escape_debug());
        Fault::new(field, reason, "correct the service that this user comes from")
    })
}

/// Lines of getent are nothing that anybody can look up later, so the message names the user.
fn named(name: &str, fault: &EntryFault) -> Fault {
    let field = match fault {
        EntryFault::AddressPart | EntryFault::AddressControl | EntryFault::AddressLong => "name",
        EntryFault::Home(_) | EntryFault::NoHome | EntryFault::Mail(_) => "home",
        EntryFault::Uid(_) => "uid",
        EntryFault::Gid(_) => "gid",
    };
    let reason = format!("{fault} (user \"{}\")", name.escape_debug());
    Fault::new(field, reason, "correct the account, or leave it out with --uid-min and --uid-max")
}

const PROGRAM: &str = "getent";
const ARGUMENTS: &[&str] = &["passwd"];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, domain: Option<&str>) -> Vec<Result<Entry, String>> {
        let wanted = Wanted { uids: 1000..=60_000, domain: domain.map(str::to_owned) };
        let items = Nss::new(text.as_bytes().to_vec(), wanted).items();
        items
            .map(|item| match item {
                Ok(Item::User(entry)) => Ok(entry),
                Ok(Item::Alias(alias)) => panic!("an alias: {alias:?}"),
                Err(error) => Err(error.to_string()),
            })
            .collect()
    }

    const OUTPUT: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:*:1:1::/usr/sbin:/bin/false\n\
        alice:x:1000:100:Alice:/home/alice/:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n\
        alice:x:1001:101:another:/home/other:/bin/sh\nbob:x:60000:1::/home/%n:\n";

    #[test]
    fn people_are_users_and_of_two_with_one_name_the_first() {
        let alice = Entry {
            line: 3,
            address: "alice".into(),
            home: Some("/home/alice".into()),
            mail: "Maildir".into(),
            uid: Some(1000),
            gid: Some(100),
            ..Entry::default()
        };
        let bob = Entry {
            line: 6,
            address: "bob".into(),
            home: Some("/home/%n".into()),
            uid: Some(60_000),
            gid: Some(1),
            ..alice.clone()
        };
        assert_eq!(read(OUTPUT, None), [Ok(alice), Ok(bob)]);
        let addresses: Vec<String> =
            read(OUTPUT, Some("example.net")).into_iter().map(|user| user.unwrap().address).collect();
        assert_eq!(addresses, ["alice@example.net", "bob@example.net"]);
    }

    #[test]
    fn users_that_cannot_be_are_faults_with_their_names() {
        let users = read("a:x:1000:0::/home/a:\nb:x:1000:1::/:\nc:x:1000\nd:x:y:1::/home/d:\n", None);
        for (user, begin) in users.iter().zip([
            "line 1, field gid: the gid is 0, and mail is never delivered as root (user \"a\")",
            "line 2, field home: the path is the root directory (user \"b\")",
            "line 3, field line: it has 3 fields",
            "line 4, field uid: \"y\" is no number",
        ]) {
            let message = user.as_ref().unwrap_err();
            assert!(message.starts_with(begin), "{message}");
        }
        assert_eq!(users.len(), 4);
    }

    #[test]
    fn the_range_of_people_is_the_one_of_login_defs() {
        assert_eq!(uids_of_people(""), 1000..=60_000);
        assert_eq!(uids_of_people("#UID_MIN 7\nUID_MIN\t\t 500\nUID_MAX x\nSYS_UID_MIN 1\n"), 500..=60_000);
    }

    #[test]
    fn a_program_that_fails_or_is_not_there_is_an_error() {
        let failed = output_of("false", &["passwd"]).unwrap_err().to_string();
        assert!(failed.starts_with("\"false passwd\" failed (exit status: 1)"), "{failed}");
        let missing = output_of("/nonexistent/getent", ARGUMENTS).unwrap_err().to_string();
        assert!(missing.contains("cannot be started") && missing.ends_with("install libc-bin"), "{missing}");
    }

    #[test]
    fn the_system_itself_can_be_asked() {
        let everybody = Nss::ask(Wanted { uids: 0..=u32::MAX, domain: None }).unwrap();
        let faults: Vec<String> =
            everybody.items().filter_map(|user| Some(user.err()?.to_string())).collect();
        assert!(faults.iter().any(|fault| fault.contains("(user \"root\")")), "{faults:?}");
    }
}
