//! Users as named fields: the columns of CSV, the keys of JSON.
//!
//! Owns the names, what each may say, and the way from a `Row` of them to a user. Promises that a name which is
//! not known is a fault that names the nearest one, never ignored. Never splits a line.
//!
//! | name | says |
//! |---|---|
//! | `address` | the full address, or a local part alone; must be there |
//! | `home` | the home |
//! | `mail` | the Maildir: a path, absolute or relative to the home; also `~/PATH`, and Dovecot's `maildir:PATH` with its variables; without it, `Maildir` |
//! | `maildir` | the whole path of the Maildir, instead of `mail` or as a check of it |
//! | `uid`, `gid` | number or name |
//! | `quota_bytes` | the most octets; B, K, M, G or T may follow |
//! | `quota_storage` | the same in kilobytes, if nothing follows |
//! | `quota_messages` | the most messages |
#![forbid(unsafe_code)]

use super::accounts::Accounts;
use super::passwd_file::location::{self, Variables};
use super::passwd_file::quota_rule::parse_limit;
use super::{Fault, owner_fault, set, set_option};
use crate::users::entry::{Entry, EntryFault};
use crate::users::key::{LocalPart, fold};
use std::borrow::Cow;

/// What a field is about; the place of its value in a [`Row`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Address,
    Home,
    Mail,
    Maildir,
    Uid,
    Gid,
    QuotaBytes,
    QuotaStorage,
    QuotaMessages,
}

impl Field {
    pub(super) const ALL: [Self; 9] = [
        Self::Address,
        Self::Home,
        Self::Mail,
        Self::Maildir,
        Self::Uid,
        Self::Gid,
        Self::QuotaBytes,
        Self::QuotaStorage,
        Self::QuotaMessages,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Home => "home",
            Self::Mail => "mail",
            Self::Maildir => "maildir",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::QuotaBytes => "quota_bytes",
            Self::QuotaStorage => "quota_storage",
            Self::QuotaMessages => "quota_messages",
        }
    }

    /// The field of this name; case does not matter.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name().eq_ignore_ascii_case(name))
    }
}

/// What to do about a name that is not one of `known`: the nearest of them, or all.
pub(super) fn remedy_for<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.collect();
    let lower = name.to_lowercase();
    let nearness = |known: &str| strsim::jaro_winkler(&lower, known);
    let nearest = known.iter().copied().max_by(|a, b| nearness(a).total_cmp(&nearness(b)));
    match nearest {
        Some(nearest) if nearness(nearest) > NEAR => format!("did you mean \"{nearest}\"?"),
        _ => format!("use {}, or leave it out (--ignore-unknown does)", known.join(", ")),
    }
}

/// What a field says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'l> {
    Text(Cow<'l, str>),
    Number(u64),
}

impl Value<'_> {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(number.to_string()),
        }
    }
}

/// What is said about one user.
#[derive(Debug, Default)]
pub(super) struct Row<'l> {
    values: [Option<Value<'l>>; Field::ALL.len()],
}

impl<'l> Row<'l> {
    /// Notes what `field` says. Nothing, in a text, is the same as not to mention it.
    ///
    /// # Errors
    /// If it was said before.
    pub(super) fn put(&mut self, field: Field, value: Value<'l>) -> Result<(), Fault> {
        let place = &mut self.values[field as usize];
        if place.is_some() {
            return Err(Fault::new(field.name(), "it is there twice", "remove one of them"));
        }
        let is_nothing = matches!(&value, Value::Text(text) if text.is_empty());
        *place = (!is_nothing).then_some(value);
        Ok(())
    }

    /// Makes the user of whom all this is said; his line stays as it is.
    ///
    /// # Errors
    /// The first field that is no good.
    pub(super) fn write_to(
        &self,
        entry: &mut Entry,
        accounts: &Accounts,
        local_part: LocalPart,
    ) -> Result<(), Fault> {
        let Some(address) = self.text(Field::Address) else {
            let remedy = "write local-part@domain, or a local part alone";
            return Err(Fault::new(Field::Address.name(), "there is none", remedy));
        };
        set(&mut entry.address, &address);
        let home = self.text(Field::Home);
        let home = home.as_deref().map(location::trim_slashes);
        set_option(&mut entry.home, home);
        self.write_mail(entry, &address, home, local_part)?;
        entry.uid = self.owner(Field::Uid, |text| accounts.uid(text))?;
        entry.gid = self.owner(Field::Gid, |text| accounts.gid(text))?;
        entry.quota_bytes = self.quota_bytes()?;
        entry.quota_messages = self.limit(Field::QuotaMessages, 1)?;
        entry.check().map_err(|fault| self.fault(fault))
    }

    fn text(&self, field: Field) -> Option<Cow<'_, str>> {
        self.values[field as usize].as_ref().map(Value::text)
    }

    /// A `maildir` beside `mail` settles what `mail` means: it is what `users dump` prints, a path and nothing else.
    fn write_mail(
        &self,
        entry: &mut Entry,
        address: &str,
        home: Option<&str>,
        local_part: LocalPart,
    ) -> Result<(), Fault> {
        let place = &mut entry.mail;
        match (self.text(Field::Mail), self.text(Field::Maildir)) {
            (None, None) => set(place, location::DEFAULT),
            (None, Some(maildir)) => set(place, location::trim_slashes(&maildir)),
            (Some(mail), Some(maildir)) => {
                let is_it = match (home, mail.strip_prefix('/')) {
                    (Some(home), None) => {
                        maildir.strip_prefix(home).and_then(|rest| rest.strip_prefix('/')) == Some(&mail)
                    }
                    _ => mail == maildir,
                };
                if !is_it {
                    let remedy = "leave one of them out";
                    return Err(Fault::new(Field::Maildir.name(), "home and mail give another one", remedy));
                }
                set(place, &mail);
            }
            (Some(mail), None) if mail.starts_with("maildir:") => {
                let variables = Variables { address: &fold(address, local_part), home };
                let parsed = location::parse_into(&mail, variables, place);
                parsed.map_err(|fault| Fault { field: Field::Mail.name(), ..fault })?;
            }
            (Some(mail), None) => match mail.strip_prefix("~/") {
                Some(below) => set(place, location::trim_slashes(below)),
                None => set(place, location::trim_slashes(&mail)),
            },
        }
        Ok(())
    }

    fn owner(
        &self,
        field: Field,
        resolve: impl Fn(&str) -> Result<Option<u32>, String>,
    ) -> Result<Option<u32>, Fault> {
        let found = match &self.values[field as usize] {
            None => return Ok(None),
            Some(Value::Number(number)) => {
                u32::try_from(*number).map(Some).map_err(|_| format!("{number} is too large"))
            }
            Some(Value::Text(text)) => resolve(text),
        };
        found.map_err(|reason| owner_fault(field.name(), reason))
    }

    fn quota_bytes(&self) -> Result<Option<u64>, Fault> {
        let [bytes, storage] = [Field::QuotaBytes, Field::QuotaStorage];
        if [bytes, storage].iter().all(|field| self.values[*field as usize].is_some()) {
            let reason = "quota_bytes says the same in another unit";
            return Err(Fault::new(storage.name(), reason, "leave one of them out"));
        }
        Ok(self.limit(bytes, 1)?.or(self.limit(storage, 1024)?))
    }

    fn limit(&self, field: Field, default_unit: u64) -> Result<Option<u64>, Fault> {
        match &self.values[field as usize] {
            None => Ok(None),
            Some(Value::Number(number)) if default_unit == 1 => Ok(Some(*number).filter(|limit| *limit > 0)),
            Some(value) => parse_limit(field.name(), &value.text(), default_unit),
        }
    }

    /// The fault with the name of the field that it came from.
    fn fault(&self, fault: EntryFault) -> Fault {
        let mail = if self.values[Field::Mail as usize].is_none() { Field::Maildir } else { Field::Mail };
        let field = match fault {
            EntryFault::AddressPart | EntryFault::AddressControl | EntryFault::AddressLong => Field::Address,
            EntryFault::Home(_) | EntryFault::NoHome => Field::Home,
            EntryFault::Mail(_) => mail,
            EntryFault::Uid(_) => Field::Uid,
            EntryFault::Gid(_) => Field::Gid,
        };
        Fault::new(field.name(), fault.to_string(), fault.remedy())
    }
}

/// How alike two names must be, from 0 to 1, for one to be suggested instead of the other.
const NEAR: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    fn user(fields: &[(Field, &str)]) -> Result<Entry, String> {
        let accounts = Accounts::parse("vmail:x:5000:8::/:\n", "mail:x:8:\n");
        let mut row = Row::default();
        for (field, text) in fields {
            row.put(*field, Value::Text((*text).into())).map_err(|fault| fault.to_string())?;
        }
        // What the user before had must not shine through.
        let mut entry = Entry {
            line: 7,
            address: "before".into(),
            home: Some("/before".into()),
            mail: "before".into(),
            uid: Some(1),
            gid: Some(1),
            quota_bytes: Some(1),
            quota_messages: Some(1),
        };
        row.write_to(&mut entry, &accounts, LocalPart::Folded).map_err(|fault| fault.to_string())?;
        Ok(entry)
    }

    const ALICE: (Field, &str) = (Field::Address, "Alice@example.org");
    const HOME: (Field, &str) = (Field::Home, "/home/alice/");

    #[test]
    fn what_is_not_said_has_a_default_and_what_is_said_counts() {
        let plain = user(&[ALICE, HOME, (Field::Uid, ""), (Field::QuotaBytes, "")]).unwrap();
        let expected = Entry {
            line: 7,
            address: "Alice@example.org".into(),
            home: Some("/home/alice".into()),
            mail: "Maildir".into(),
            ..Entry::default()
        };
        assert_eq!(plain, expected);
        let limits = [(Field::QuotaStorage, "5"), (Field::QuotaMessages, "10")];
        let owned = [(Field::Uid, "vmail"), (Field::Gid, "8"), (Field::Maildir, "/srv/alice/")];
        let full = user(&[&[ALICE][..], &limits, &owned].concat()).unwrap();
        let expected = Entry {
            mail: "/srv/alice".into(),
            home: None,
            uid: Some(5000),
            gid: Some(8),
            quota_bytes: Some(5 << 10),
            quota_messages: Some(10),
            ..expected
        };
        assert_eq!(full, expected);
    }

    #[test]
    fn mail_is_a_path_or_one_below_the_home_or_a_location_of_dovecot() {
        for (mail, expected) in [
            ("inbox", "inbox"),
            ("inbox/", "inbox"),
            ("/srv/100%/x/", "/srv/100%/x"),
            ("~/inbox", "inbox"),
            ("maildir:~/inbox:LAYOUT=fs", "inbox"),
            ("maildir:/srv/%d/%n", "/srv/example.org/alice"),
        ] {
            assert_eq!(user(&[ALICE, HOME, (Field::Mail, mail)]).unwrap().mail, expected);
        }
        let message = user(&[ALICE, HOME, (Field::Mail, "maildir:/srv/%x")]).unwrap_err();
        assert!(message.starts_with("field mail: "), "{message}");
    }

    #[test]
    fn a_maildir_beside_mail_must_be_the_same_and_makes_it_a_plain_path() {
        let both = |mail, maildir| user(&[ALICE, HOME, (Field::Mail, mail), (Field::Maildir, maildir)]);
        assert_eq!(both("~/in", "/home/alice/~/in").unwrap().mail, "~/in");
        assert_eq!(both("maildir:in", "/home/alice/maildir:in").unwrap().mail, "maildir:in");
        assert_eq!(both("/srv/in", "/srv/in").unwrap().mail, "/srv/in");
        let message = both("in", "/home/bob/in").unwrap_err();
        assert!(message.contains("home and mail give another one"), "{message}");
    }

    #[test]
    fn a_fault_names_its_field() {
        for (fields, begin) in [
            (&[HOME][..], "field address: there is none"),
            (&[(Field::Address, "@b"), HOME], "field address: the address has an empty part"),
            (&[ALICE], "field home: there is no home"),
            (&[ALICE, (Field::Home, "home")], "field home: the path is not absolute"),
            (&[ALICE, HOME, HOME], "field home: it is there twice"),
            (&[ALICE, HOME, (Field::Mail, "../x")], "field mail: "),
            (&[ALICE, (Field::Maildir, "/a/../x")], "field maildir: "),
            (&[ALICE, HOME, (Field::Uid, "0")], "field uid: the uid is 0"),
            (&[ALICE, HOME, (Field::Gid, "nobody-here")], "field gid: there is no group"),
            (&[ALICE, HOME, (Field::QuotaStorage, "1X")], "field quota_storage: the limit \"1X\""),
            (&[ALICE, HOME, (Field::QuotaMessages, "-1")], "field quota_messages: the limit \"-1\""),
            (
                &[ALICE, HOME, (Field::QuotaBytes, "1"), (Field::QuotaStorage, "1")],
                "field quota_storage: quota_bytes says the same",
            ),
        ] {
            let message = user(fields).unwrap_err();
            assert!(message.starts_with(begin) && message.contains("; "), "{message}");
        }
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_one_or_all() {
        let remedy = |name| remedy_for(name, Field::ALL.into_iter().map(Field::name));
        assert_eq!(remedy("Adress"), "did you mean \"address\"?");
        assert_eq!(remedy("quota"), "did you mean \"quota_bytes\"?");
        assert!(remedy("full name").starts_with("use address, home, mail, "));
        assert_eq!(Field::named("UID"), Some(Field::Uid));
        for (place, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!((field as usize, Field::named(field.name())), (place, Some(field)));
        }
    }
}
