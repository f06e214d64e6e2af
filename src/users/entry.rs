//! A user or an alias on the way into a table.
//!
//! Owns what every source of users must deliver, and the rules for it. Promises that an entry or alias which passes
//! its `check` can be stored; whether the targets of an alias are there, only the whole table can say. Never knows
//! where they came from.
#![forbid(unsafe_code)]

use super::key::ADDRESS_BYTES_MAX;
use super::path::{self, PathFault};
use super::template;
use std::fmt;

/// What one user of a source was parsed into.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The line of the source he stands on, counted from 1, for messages.
    pub line: u64,
    /// The full address, or a local part alone.
    pub address: String,
    /// The home, an absolute path; may only be missing if `mail` is absolute.
    pub home: Option<String>,
    /// The Maildir, absolute or relative to the home.
    pub mail: String,
    /// The owner of his files; `None`: the server's own user.
    pub uid: Option<u32>,
    /// The group of his files; `None`: the server's own group.
    pub gid: Option<u32>,
    /// The most octets of mail; `None` and 0: unlimited.
    pub quota_bytes: Option<u64>,
    /// The most messages; `None` and 0: unlimited.
    pub quota_messages: Option<u64>,
}

/// Why an entry cannot become a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFault {
    /// The address is empty or has an empty local part or domain.
    AddressPart,
    /// The address has a control character.
    AddressControl,
    /// The address is longer than [`ADDRESS_BYTES_MAX`].
    AddressLong,
    /// The home is no good.
    Home(PathFault),
    /// The mail location is no good.
    Mail(PathFault),
    /// The mail location is relative, and there is no home.
    NoHome,
    /// The owner is root, or the number that means "nobody in particular" to the kernel.
    Uid(u32),
    /// The same for the group.
    Gid(u32),
}

impl EntryFault {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::AddressPart => "write local-part@domain, or a local part alone",
            Self::AddressControl => "remove it",
            Self::AddressLong => "no mail can be addressed to it; remove the line",
            Self::Home(_) => "give the absolute path of a directory, without \".\" or \"..\"",
            Self::Mail(_) => "give a path without \".\" or \"..\", absolute or relative to the home",
            Self::NoHome => "give a home, or an absolute mail location",
            Self::Uid(_) | Self::Gid(_) => {
                "give the user who owns the mail, or leave the field empty for the server's own"
            }
        }
    }
}

impl fmt::Display for EntryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressPart => f.write_str("the address has an empty part"),
            Self::AddressControl => f.write_str("the address has a control character"),
            Self::AddressLong => {
                write!(f, "the address is longer than {ADDRESS_BYTES_MAX} octets")
            }
            Self::Home(fault) | Self::Mail(fault) => fault.fmt(f),
            Self::NoHome => f.write_str("there is no home for a relative mail location"),
            Self::Uid(0) => f.write_str("the uid is 0, and mail is never delivered as root"),
            Self::Gid(0) => f.write_str("the gid is 0, and mail is never delivered as root"),
            Self::Uid(id) => write!(f, "the uid {id} is reserved by the kernel"),
            Self::Gid(id) => write!(f, "the gid {id} is reserved by the kernel"),
        }
    }
}

impl Entry {
    /// Checks all that a record must fulfil.
    ///
    /// # Errors
    /// The first rule that the entry breaks.
    pub fn check(&self) -> Result<(), EntryFault> {
        check_address(&self.address)?;
        if let Some(home) = &self.home {
            path::check_home(home).map_err(EntryFault::Home)?;
        }
        path::check_location(&self.mail).map_err(EntryFault::Mail)?;
        if self.home.is_none() && !self.mail.starts_with('/') {
            return Err(EntryFault::NoHome);
        }
        check_owner(self.uid, self.gid)
    }
}

/// A name for other addresses of the table, as virtual(5) has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alias {
    /// The line of the source it stands on, counted from 1, for messages.
    pub line: u64,
    /// A full address, a local part alone, or `@domain`: whoever is not in the table otherwise.
    pub address: String,
    /// Where the mail goes, in order: addresses and local parts, which may be aliases and may have a detail, or
    /// `@domain`: the same local part in another domain.
    pub targets: Vec<String>,
}

/// The most targets of one alias, and the most mailboxes that one recipient leads to. Each is a file to write
/// before the reply; a list that is longer needs a mailing list manager.
pub const TARGETS_MAX: usize = 1000;

/// Why an alias cannot become a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AliasFault {
    /// Its address is no good.
    Address(EntryFault),
    /// It leads nowhere.
    NoTarget,
    /// It has more than [`TARGETS_MAX`] targets.
    ManyTargets(usize),
    /// A target is no address.
    Target(String, EntryFault),
}

impl AliasFault {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Address(EntryFault::AddressPart) => "write local-part@domain, a local part, or @domain",
            Self::Address(fault) => fault.remedy(),
            Self::NoTarget => "name at least one address, or remove the line",
            Self::ManyTargets(_) => "let a mailing list manager serve it",
            Self::Target(..) => {
                "write local-part@domain, a local part, or @domain for the same local part there"
            }
        }
    }
}

impl fmt::Display for AliasFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(fault) => fault.fmt(f),
            Self::NoTarget => f.write_str("the alias has no target"),
            Self::ManyTargets(count) => {
                write!(f, "the alias has {count} targets, and {TARGETS_MAX} are the most")
            }
            Self::Target(target, fault) => write!(f, "the target \"{}\": {fault}", target.escape_debug()),
        }
    }
}

impl Alias {
    /// Checks all that a record must fulfil.
    ///
    /// # Errors
    /// The first rule that the alias breaks.
    pub fn check(&self) -> Result<(), AliasFault> {
        check_name(&self.address).map_err(AliasFault::Address)?;
        match self.targets.len() {
            0 => return Err(AliasFault::NoTarget),
            1..=TARGETS_MAX => {}
            count => return Err(AliasFault::ManyTargets(count)),
        }
        let bad = self.targets.iter().find_map(|target| Some((target, check_name(target).err()?)));
        match bad {
            Some((target, fault)) => Err(AliasFault::Target(target.clone(), fault)),
            None => Ok(()),
        }
    }
}

/// An address, or `@domain`.
fn check_name(name: &str) -> Result<(), EntryFault> {
    match name.strip_prefix('@') {
        // The local part that a name of this form stands for is never empty.
        Some(_) => check_address(&format!("x{name}")),
        None => check_address(name),
    }
}

fn check_address(address: &str) -> Result<(), EntryFault> {
    let (name, domain) = template::split(address);
    if name.is_empty() || domain == Some("") {
        return Err(EntryFault::AddressPart);
    }
    let octets = address.as_bytes();
    let has_control = match address.is_ascii() {
        // Without an early end, many octets are looked at at a time.
        true => octets.iter().fold(false, |found, octet| found | octet.is_ascii_control()),
        false => address.chars().any(char::is_control),
    };
    if has_control {
        return Err(EntryFault::AddressControl);
    }
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(EntryFault::AddressLong);
    }
    Ok(())
}

fn check_owner(uid: Option<u32>, gid: Option<u32>) -> Result<(), EntryFault> {
    match (uid, gid) {
        (Some(id), _) if is_reserved(id) => Err(EntryFault::Uid(id)),
        (_, Some(id)) if is_reserved(id) => Err(EntryFault::Gid(id)),
        _ => Ok(()),
    }
}

/// Root; and -1, which chown and setresuid take for "leave it as it is".
pub(super) fn is_reserved(id: u32) -> bool {
    id == 0 || id == u32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(address: &str, targets: &[&str]) -> Alias {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        Alias { line: 1, address: address.to_owned(), targets }
    }

    #[test]
    fn an_alias_is_an_address_or_a_domain_and_so_are_its_targets() {
        for (address, targets) in
            [("a@x", &["b@x"][..]), ("a", &["a", "b+c@y"]), ("@x", &["@y"]), ("a@x", &["\u{e9}@y"])]
        {
            assert_eq!(alias(address, targets).check(), Ok(()), "{address}");
        }
        let part = EntryFault::AddressPart;
        for (alias, fault) in [
            (alias("", &["a@x"]), AliasFault::Address(part)),
            (alias("@", &["a@x"]), AliasFault::Address(part)),
            (alias("a@", &["a@x"]), AliasFault::Address(part)),
            (alias("a\n@x", &["a@x"]), AliasFault::Address(EntryFault::AddressControl)),
            (alias("a@x", &[]), AliasFault::NoTarget),
            (alias("a@x", &["b"; 1001]), AliasFault::ManyTargets(1001)),
            (alias("a@x", &["b@x", "@"]), AliasFault::Target("@".into(), part)),
        ] {
            assert_eq!(alias.check().as_ref(), Err(&fault));
            assert!(!fault.remedy().is_empty() && !fault.to_string().is_empty());
        }
    }
}
