//! One record of the heap: what the table knows about one key.
//!
//! Owns the coding of bodies in both directions. Promises to read what was written, or to say that it cannot be. Never
//! searches; `block` finds bodies and checks their sums.
#![forbid(unsafe_code)]

use super::class::{self, Class, flag};
use super::domain::{self, Domains};
use super::entry::{Alias, Entry, is_reserved};
use super::layout::{Rest, put_text, put_varint};
use super::name::Name;
use super::template::{self, Template, split};
use super::user::{Fields, Source, User};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A record or slot that cannot be trusted. Whose mail it is cannot be known then: the server answers 451 4.3.0
/// for every address that leads here, never 550.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The file was written to while it was in use, so what it does not hold means nothing.
    Rewritten,
    /// A record points to where no body can be.
    Outside {
        /// Where it points, in octets from the file's begin.
        offset: u64,
    },
    /// A record ends behind the end of its block or section.
    Cut {
        /// The record's offset in the file.
        offset: u64,
    },
    /// A checksum does not fit.
    Checksum {
        /// Of what.
        what: &'static str,
        /// Its offset in the file.
        offset: u64,
        /// The checksum that it carries.
        expected: u32,
        /// The checksum of its octets.
        found: u32,
    },
    /// The record is of a kind, or has fields, that this version does not know.
    Unknown {
        /// The record's offset in the file.
        offset: u64,
    },
    /// The checksum fits, but a field says what cannot be.
    Malformed {
        /// The record's offset in the file.
        offset: u64,
        /// The field.
        field: &'static str,
    },
    /// An alias that leads in a circle, to nobody or too far, which the builder would not have published.
    Alias {
        /// The alias's offset in the file.
        offset: u64,
        /// What is wrong with it.
        trouble: &'static str,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rewritten => {
                f.write_str("the file was written to in place; replace it by rename only")?;
            }
            Self::Outside { offset } => {
                write!(f, "heap: a record points to {offset}, which is outside of its section")?;
            }
            Self::Cut { offset } => {
                write!(f, "heap: the record at {offset} ends behind the end of its place")?;
            }
            Self::Checksum { what, offset, expected, found } => write!(
                f,
                "heap: the {what} at {offset} is damaged: expected checksum {expected:#010x}, found {found:#010x}"
            )?,
            Self::Unknown { offset } => {
                write!(f, "heap: the record at {offset} is of a newer release")?;
            }
            Self::Malformed { offset, field } => {
                write!(f, "heap: the record at {offset} has an impossible {field}")?;
            }
            Self::Alias { offset, trouble } => {
                write!(f, "heap: the alias at {offset} {trouble}")?;
            }
        }
        f.write_str("; build the table again")
    }
}

impl std::error::Error for Damage {}

/// What records refer to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'t> {
    pub(super) classes: &'t [Fields],
    pub(super) templates: &'t [Arc<Template>],
    pub(super) domains: Domains<'t>,
}

/// A body of which the key was read; the rest is read when it is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'t> {
    /// Where the record stands in the file.
    pub(super) offset: u64,
    kind: u8,
    domain: u32,
    local: &'t [u8],
    rest: Rest<'t>,
}

impl<'t> Record<'t> {
    /// Reads the key of the record at `offset`, whose checksum fits.
    ///
    /// # Errors
    /// If it is of a later version, or the key is cut off.
    #[inline]
    pub(super) fn parse(body: &'t [u8], offset: u64) -> Result<Self, Damage> {
        let mut rest = Rest(body);
        let kind = rest.octet().unwrap_or_default();
        if !matches!(kind, KIND_USER | KIND_ALIAS | KIND_USER_WITH_CLASS) {
            return Err(Damage::Unknown { offset });
        }
        let key = (|| Some((u32::try_from(rest.varint()?).ok()?, rest.text()?)))();
        let (domain, local) = key.ok_or(Damage::Malformed { offset, field: "address" })?;
        Ok(Self { offset, kind, domain, local, rest })
    }

    pub(super) fn is_alias(&self) -> bool {
        self.kind == KIND_ALIAS
    }

    /// Whether it is the alias for all who are not in a domain.
    pub(super) fn is_catch_all(&self) -> bool {
        self.is_alias() && (self.local.is_empty() || self.domain == 0 && self.local.starts_with(b"@"))
    }

    /// Whether the key is this one: a domain's number and a local part, or 0 and the whole key.
    pub(super) fn has_key(&self, domain: u32, local: &[u8]) -> bool {
        self.domain == domain && self.local == local
    }

    /// Whether the other record has the same key.
    pub(super) fn has_key_of(&self, other: &Self) -> bool {
        self.has_key(other.domain, other.local)
    }

    /// The key as text.
    ///
    /// # Errors
    /// If there is no such domain, or it is not UTF-8.
    pub(super) fn address(&self, shared: Shared<'t>) -> Result<Cow<'t, str>, Damage> {
        self.name(shared).map(Name::to_address)
    }

    #[inline]
    fn name(&self, shared: Shared<'t>) -> Result<Name<'t>, Damage> {
        let name = match self.domain {
            0 => Name::of_key(self.local),
            number => shared.domains.text(number).and_then(|domain| Name::new(self.local, Some(domain))),
        };
        name.ok_or_else(|| self.malformed("address"))
    }

    /// Everything about a user.
    ///
    /// # Errors
    /// If a field is missing or impossible, or there is more than there should be.
    #[inline]
    pub(super) fn user(&self, shared: Shared<'t>) -> Result<User<'t>, Damage> {
        let name = self.name(shared)?;
        let mut rest = self.rest;
        let user = match self.kind {
            KIND_USER => {
                let number = rest.varint().and_then(|number| usize::try_from(number).ok());
                let class = number.and_then(|number| shared.classes.get(number));
                User::of_class(name, class.ok_or_else(|| self.malformed("class"))?)
            }
            KIND_USER_WITH_CLASS => User::with_fields(name, self.fields(&mut rest, shared)?),
            _ => return Err(Damage::Unknown { offset: self.offset }),
        };
        let user = user.map_err(|field| self.malformed(field))?;
        if rest.0.is_empty() { Ok(user) } else { Err(self.malformed("length")) }
    }

    #[cold]
    fn fields(&self, rest: &mut Rest<'t>, shared: Shared<'t>) -> Result<Fields, Damage> {
        read_fields(rest, shared.templates).map_err(|fault| fault.damage(self.offset))
    }

    /// The targets of an alias.
    ///
    /// # Errors
    /// If one is cut off or not UTF-8, or there is more behind them.
    pub(super) fn targets(&self) -> Result<Vec<&'t str>, Damage> {
        let targets = || {
            let mut rest = self.rest;
            let count = usize::try_from(rest.varint()?).ok().filter(|count| *count <= rest.0.len())?;
            let targets: Option<Vec<&str>> = (0..count).map(|_| str::from_utf8(rest.text()?).ok()).collect();
            targets.filter(|_| self.is_alias() && rest.0.is_empty())
        };
        targets().ok_or_else(|| self.malformed("target"))
    }

    fn malformed(&self, field: &'static str) -> Damage {
        Damage::Malformed { offset: self.offset, field }
    }
}

/// What a table under construction has in common.
#[derive(Debug, Default)]
pub(super) struct Dictionaries {
    pub(super) classes: class::Dictionary,
    pub(super) templates: template::Dictionary,
    pub(super) domains: domain::Dictionary,
}

/// Writes the body of `entry`, which was checked and its address folded.
pub(super) fn write_user(entry: &Entry, dictionaries: &mut Dictionaries, body: &mut Vec<u8>) {
    body.clear();
    body.push(KIND_USER);
    put_key(&entry.address, &mut dictionaries.domains, body);
    let home = entry.home.as_deref().filter(|home| !home.is_empty());
    let home_number = home.map(|home| dictionaries.templates.number_of(home, &entry.address));
    let mail_number = dictionaries.templates.number_of(&entry.mail, &entry.address);
    let quota_bytes = entry.quota_bytes.filter(|limit| *limit > 0);
    let quota_messages = entry.quota_messages.filter(|limit| *limit > 0);
    let (uid, gid) = (entry.uid, entry.gid);
    if let (None | Some(Some(_)), Some(mail)) = (home_number, mail_number) {
        let class = Class { home: home_number.flatten(), mail, uid, gid, quota_bytes, quota_messages };
        if let Some(number) = dictionaries.classes.number(class) {
            return put_varint(body, number.into());
        }
    }
    body[0] = KIND_USER_WITH_CLASS;
    let numbers = [
        (uid.map(u64::from), flag::UID),
        (gid.map(u64::from), flag::GID),
        (quota_bytes, flag::BYTES),
        (quota_messages, flag::MESSAGES),
    ];
    let home_flag = if home.is_some() { flag::HOME } else { 0 };
    body.push(numbers.iter().filter(|(field, _)| field.is_some()).fold(home_flag, |all, (_, bit)| all | bit));
    if let Some(home) = home {
        put_path(home_number.flatten(), home, body);
    }
    put_path(mail_number, &entry.mail, body);
    numbers.iter().filter_map(|(field, _)| *field).for_each(|field| put_varint(body, field));
}

/// Writes the body of `alias`, which was checked; `address` is its address, folded.
pub(super) fn write_alias(alias: &Alias, address: &str, dictionaries: &mut Dictionaries, body: &mut Vec<u8>) {
    body.clear();
    body.push(KIND_ALIAS);
    let domain = put_key(address, &mut dictionaries.domains, body);
    if let Some(domain) = domain.filter(|_| address.starts_with('@')) {
        dictionaries.domains.set_catch_all(domain);
    }
    put_varint(body, alias.targets.len() as u64);
    for target in &alias.targets {
        put_text(body, target.as_bytes());
    }
}

/// Writes the key, and returns the number of its domain, if it has one in the list.
fn put_key(address: &str, domains: &mut domain::Dictionary, body: &mut Vec<u8>) -> Option<u32> {
    let (name, domain) = split(address);
    let number = domain.and_then(|domain| domains.number(domain));
    put_varint(body, number.unwrap_or_default().into());
    put_text(body, if number.is_some() { name } else { address }.as_bytes());
    number
}

fn put_path(template: Option<u16>, text: &str, body: &mut Vec<u8>) {
    put_varint(body, template.map_or(0, |number| u64::from(number) + 1));
    if template.is_none() {
        put_text(body, text.as_bytes());
    }
}

const KIND_USER: u8 = 1;
const KIND_ALIAS: u8 = 2;
const KIND_USER_WITH_CLASS: u8 = 3;

/// The field that cannot be; `None`: a flag of a later version.
struct FieldFault(Option<&'static str>);

impl FieldFault {
    fn damage(&self, offset: u64) -> Damage {
        self.0.map_or(Damage::Unknown { offset }, |field| Damage::Malformed { offset, field })
    }
}

/// The fields of a user whose class is in the record.
fn read_fields(rest: &mut Rest<'_>, templates: &[Arc<Template>]) -> Result<Fields, FieldFault> {
    let flags = rest.octet().ok_or(FieldFault(Some("length")))?;
    if flags & !flag::ALL != 0 {
        return Err(FieldFault(None));
    }
    let given = |bit: u8| flags & bit != 0;
    let mut source = |field| source_of(rest, templates).ok_or(FieldFault(Some(field)));
    let home = given(flag::HOME).then(|| source("home")).transpose()?;
    let mail = source("mail location")?;
    let mut number = |bit, field| match given(bit) {
        false => Ok(None),
        true => rest.varint().filter(|number| *number > 0).map(Some).ok_or(FieldFault(Some(field))),
    };
    let [uid, gid] = [number(flag::UID, "uid")?, number(flag::GID, "gid")?];
    let (quota_bytes, quota_messages) = (number(flag::BYTES, "quota")?, number(flag::MESSAGES, "quota")?);
    let mut fields = Fields::new(home, mail);
    (fields.uid, fields.gid) = (id(uid, "uid")?, id(gid, "gid")?);
    (fields.quota_bytes, fields.quota_messages) = (quota_bytes, quota_messages);
    Ok(fields)
}

fn source_of(rest: &mut Rest<'_>, templates: &[Arc<Template>]) -> Option<Source> {
    match rest.varint()? {
        0 => Some(Source::Text(str::from_utf8(rest.text()?).ok()?.into())),
        number => {
            let template = templates.get(usize::try_from(number - 1).ok()?)?;
            Some(Source::Template(Arc::clone(template)))
        }
    }
}

fn id(number: Option<u64>, field: &'static str) -> Result<Option<u32>, FieldFault> {
    let id = number.map(u32::try_from).transpose();
    id.ok().filter(|id| !id.is_some_and(is_reserved)).ok_or(FieldFault(Some(field)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::layout::BODY_BYTES_MAX;

    const OFFSET: u64 = 4102;

    fn entry(home: &str) -> Entry {
        Entry {
            address: "alice@example.org".to_owned(),
            home: Some(home.to_owned()),
            mail: "Maildir".to_owned(),
            uid: Some(1000),
            quota_bytes: Some(1),
            ..Entry::default()
        }
    }

    /// What a reader makes of a body that was written with these dictionaries.
    fn read(body: &[u8], dictionaries: &Dictionaries) -> Result<String, Damage> {
        let count = |length: usize| u32::try_from(length).unwrap();
        let templates = &dictionaries.templates;
        let templates = template::read_section(templates.section(), count(templates.len())).unwrap();
        let classes = &dictionaries.classes;
        let classes = class::read_section(classes.section(), count(classes.len()), &templates).unwrap();
        let slots = dictionaries.domains.slots(&[0; 16]);
        let domains = Domains {
            section: dictionaries.domains.section(),
            slots: &slots,
            count: count(dictionaries.domains.len()),
        };
        let shared = Shared { classes: &classes, templates: &templates, domains };
        let user = Record::parse(body, OFFSET)?.user(shared)?;
        Ok(format!("{} {}", user.address(), user.maildir()))
    }

    fn full_templates() -> Dictionaries {
        let mut dictionaries = Dictionaries::default();
        for n in 0..template::TEMPLATES_MAX {
            dictionaries.templates.number_of(&n.to_string(), "alice");
        }
        dictionaries
    }

    #[test]
    fn a_path_without_a_template_is_in_the_record() {
        let (mut body, mut dictionaries) = (Vec::new(), full_templates());
        write_user(&entry("/home/alice"), &mut dictionaries, &mut body);
        assert_eq!(dictionaries.classes.len(), 0);
        assert_eq!(read(&body, &dictionaries).unwrap(), "alice@example.org /home/alice/Maildir");
    }

    #[test]
    fn a_record_is_little_more_than_its_local_part() {
        let entry = Entry {
            address: "a.users.name@his.domain.example".to_owned(),
            gid: Some(8),
            quota_messages: Some(1),
            ..entry("/var/vmail/his.domain.example/a.users.name")
        };
        let (mut body, mut dictionaries) = (Vec::new(), Dictionaries::default());
        write_user(&entry, &mut dictionaries, &mut body);
        assert_eq!(body.len(), "a.users.name".len() + 4);
        assert!(body.len() <= BODY_BYTES_MAX);
    }

    #[test]
    fn fields_that_cannot_be_are_damage_even_if_the_checksum_fits() {
        type Change = fn(&mut Vec<u8>);
        let (mut good, mut dictionaries) = (Vec::new(), full_templates());
        write_user(&entry("/home/alice"), &mut dictionaries, &mut good);
        // Kind, domain, length and local part, then the fields.
        assert_eq!(&good[..9], b"\x03\x01\x05alice\x0b");
        let changes: [(Change, &str); 9] = [
            (|body| body[0] = 9, "newer release"),
            (|body| body[8] |= 0x80, "newer release"),
            (|body| body[1] = 5, "impossible address"),
            (|body| body[2] = 0xff, "impossible address"),
            (|body| body[4] = 0xff, "impossible address"),
            (|body| body[9] = 200, "impossible home"),
            (|body| body.push(0), "impossible length"),
            (|body| body.truncate(body.len() - 1), "impossible quota"),
            (|body| body.truncate(body.len() - 2), "impossible uid"),
        ];
        for (change, message) in changes {
            let mut body = good.clone();
            change(&mut body);
            let damage = read(&body, &dictionaries).unwrap_err().to_string();
            assert!(damage.contains(message), "{message:?} is not in {damage:?}");
        }
    }

    #[test]
    fn a_hostile_home_is_damage_and_not_a_user() {
        for home in ["/home/../etc", "relative", "/a//b", "/a\nb"] {
            for mut dictionaries in [Dictionaries::default(), full_templates()] {
                let mut body = Vec::new();
                write_user(&entry(home), &mut dictionaries, &mut body);
                let damage = read(&body, &dictionaries).unwrap_err();
                assert!(matches!(damage, Damage::Malformed { field: "home", .. }), "{home}");
            }
        }
    }

    #[test]
    fn the_targets_of_an_alias_are_read_as_they_were_written() {
        let targets = ["bob+X@example.org", "@example.net", "carol"];
        let alias = Alias { targets: targets.map(str::to_owned).to_vec(), ..Alias::default() };
        let (mut body, mut dictionaries) = (Vec::new(), Dictionaries::default());
        write_alias(&alias, "@example.org", &mut dictionaries, &mut body);
        let record = Record::parse(&body, OFFSET).unwrap();
        assert!(record.is_alias() && record.has_key(1, b""));
        assert_eq!(record.targets().unwrap(), targets);
        assert!(Record::parse(&body[..body.len() - 1], OFFSET).unwrap().targets().is_err());
    }
}
