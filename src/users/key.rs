//! From a recipient's address to the key he is stored under.
//!
//! Owns folding, the cut of the detail, and the order in which keys are tried. Promises that writer and reader
//! fold alike. Never parses address syntax: the caller hands over a local part without its quotes.
#![forbid(unsafe_code)]

use super::domain::Domain;
use super::expand::expand;
use super::octets;
use super::record::{Damage, Record};
use super::table::{Table, Want};
use super::template::split;
use super::user::User;
use std::borrow::Cow;
use std::fmt;

/// The longest key, in octets: 64 for the local part, the `@`, 255 for the domain (RFC 5321 section 4.5.3.1).
/// RFC 6531 lets octets grow, but nobody who is longer is in the table, so he is simply not found.
pub const ADDRESS_BYTES_MAX: usize = 320;

/// What a table did to the local parts of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalPart {
    /// They are in lower case, so case does not matter in look-ups.
    #[default]
    Folded,
    /// They are as they were, and case matters (RFC 5321 section 2.4 allows it, hardly anybody wants it).
    Kept,
}

/// How recipients are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    recipient_delimiter: String,
    local_domains: Vec<String>,
}

impl Rules {
    /// Rules with these characters, each of which begins a detail, and these domains, in which the local part
    /// alone is looked up as well.
    pub fn new(recipient_delimiter: &str, local_domains: &[String]) -> Self {
        Self {
            recipient_delimiter: recipient_delimiter.to_owned(),
            local_domains: local_domains.iter().map(|domain| lower(domain).into_owned()).collect(),
        }
    }

    /// Cuts the detail off: at the first delimiter that is not the local part's first character.
    #[inline]
    pub fn split_detail<'a>(&self, local: &'a str) -> (&'a str, Option<&'a str>) {
        let at = match self.recipient_delimiter.as_bytes() {
            [] => None,
            [delimiter] => octets::position_behind_first(local.as_bytes(), *delimiter),
            _ => self.first_of_several(local),
        };
        let behind = |at: usize| at + local[at..].chars().next().map_or(0, char::len_utf8);
        at.map_or((local, None), |at| (&local[..at], Some(&local[behind(at)..])))
    }

    fn first_of_several(&self, local: &str) -> Option<usize> {
        let delimiters = self.recipient_delimiter.as_bytes();
        if delimiters.is_ascii() {
            let is_delimiter = |(at, octet): (usize, u8)| at > 0 && delimiters.contains(&octet);
            return local.bytes().enumerate().position(is_delimiter);
        }
        let is_delimiter =
            |&(at, character): &(usize, char)| at > 0 && self.recipient_delimiter.contains(character);
        local.char_indices().find(is_delimiter).map(|(at, _)| at)
    }

    /// The address without its detail, as replies name it, whether or not there is such a user.
    pub fn base<'a>(&self, local: &'a str, domain: Option<&'a str>) -> Base<'a> {
        Base { local: self.split_detail(local).0, domain }
    }

    /// The character that begins a detail, where one must be chosen.
    pub fn delimiter(&self) -> Option<char> {
        self.recipient_delimiter.chars().next()
    }

    /// The domain of users who are stored without one, where one must be named.
    pub fn local_domain(&self) -> Option<&str> {
        self.local_domains.first().map(String::as_str)
    }

    fn is_local(&self, folded_domain: &[u8]) -> bool {
        self.local_domains.iter().any(|local| local.as_bytes() == folded_domain)
    }
}

/// What a table says about a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'x> {
    /// There are mailboxes for his mail.
    Found(Found<'x>),
    /// Nobody has the address, in a domain (or without one) in which others may.
    UnknownUser,
    /// Nobody has any address in this domain.
    UnknownDomain,
}

/// A recipient who is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'x> {
    /// The first mailbox; a user has no other.
    pub target: Target<'x>,
    /// The other mailboxes that an alias leads to, each once.
    pub more: Vec<Target<'x>>,
    /// The address with the detail cut off, in the recipient's own case.
    pub base: Base<'x>,
}

/// One mailbox that mail for a recipient goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'x> {
    /// Whose mailbox it is.
    pub user: User<'x>,
    /// What stood behind the delimiter; may be empty.
    pub detail: Option<&'x str>,
}

impl<'x> Found<'x> {
    /// All mailboxes, in the order in which aliases name them.
    pub fn targets(&self) -> impl Iterator<Item = &Target<'x>> {
        std::iter::once(&self.target).chain(&self.more)
    }
}

impl<'x> Answer<'x> {
    /// What was found, for callers who do not care why if there is nothing.
    pub fn found(self) -> Option<Found<'x>> {
        match self {
            Self::Found(found) => Some(found),
            Self::UnknownUser | Self::UnknownDomain => None,
        }
    }
}

/// An address without its detail; [`fmt::Display`] writes it as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base<'a> {
    /// The local part, unquoted.
    pub local: &'a str,
    /// The domain, if the recipient had one.
    pub domain: Option<&'a str>,
}

impl fmt::Display for Base<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.local)?;
        match self.domain {
            Some(domain) => write!(f, "@{domain}"),
            None => Ok(()),
        }
    }
}

/// Looks a recipient up; aliases lead to all their mailboxes.
///
/// The order is that of virtual(5): `local@domain` as it is, then without its detail; in a local domain or without any
/// domain, the local part alone, likewise; then the domain's catch-all. A name that is an alias and a user is the
/// alias. `local` has no quotes any more.
///
/// # Errors
/// If the table cannot tell: answer "try again later".
pub fn find<'x>(
    table: &'x Table,
    local: &'x str,
    domain: Option<&'x str>,
    rules: &Rules,
) -> Result<Answer<'x>, Damage> {
    let mut more = Vec::new();
    let (target, detail) = match resolve(table, local, domain, rules)? {
        Resolved::User(record, detail) => (Target { user: table.user(&record)?, detail }, detail),
        Resolved::Alias(alias) => {
            more = expand(table, rules, alias)?;
            if more.is_empty() {
                return Ok(Answer::UnknownUser);
            }
            (more.remove(0), alias.detail)
        }
        Resolved::UnknownUser => return Ok(Answer::UnknownUser),
        Resolved::UnknownDomain => return Ok(Answer::UnknownDomain),
    };
    let name = if detail.is_some() { rules.split_detail(local).0 } else { local };
    Ok(Answer::Found(Found { target, more, base: Base { local: name, domain } }))
}

/// Whether anybody has an address in a domain; `None` if the table does not list all its domains, and not this one.
pub fn has_domain(table: &Table, domain: &str) -> Option<bool> {
    let mut room = [0; ADDRESS_BYTES_MAX];
    let Some(folded) = Key::of(&mut room, domain, None, LocalPart::Folded) else { return Some(false) };
    match table.domain(folded.whole) {
        Some(_) => Some(true),
        None => table.lists_all_domains().then_some(false),
    }
}

/// Fetches what [`find`] will read first for a recipient, without waiting for it: for recipients who are known to
/// come soon. Nothing but time depends on it.
pub fn warm(table: &Table, local: &str, domain: Option<&str>, rules: &Rules) {
    let mut room = [0; ADDRESS_BYTES_MAX];
    if let Some(key) = Key::of(&mut room, rules.split_detail(local).0, domain, table.local_part()) {
        table.prefetch(key);
    }
}

/// What a name is in a table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Resolved<'x> {
    /// A user, and the detail that was cut off.
    User(Record<'x>, Option<&'x str>),
    Alias(Alias<'x>),
    UnknownUser,
    UnknownDomain,
}

/// An alias under the name that led to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alias<'x> {
    pub(super) record: Record<'x>,
    /// The local part of that name, without its detail.
    pub(super) name: &'x str,
    pub(super) detail: Option<&'x str>,
}

/// Looks a name up, as [`find`] says; aliases are not followed.
pub(super) fn resolve<'x>(
    table: &'x Table,
    local: &'x str,
    domain: Option<&str>,
    rules: &Rules,
) -> Result<Resolved<'x>, Damage> {
    // Room for the longest of keys takes longer to clear than a short one to fold.
    match local.len() + domain.map_or(0, str::len) < SHORT_BYTES {
        true => resolve_in(&mut [0; GROWTH_MAX * SHORT_BYTES], table, local, domain, rules),
        false => resolve_in(&mut [0; ADDRESS_BYTES_MAX], table, local, domain, rules),
    }
}

/// Most addresses have fewer octets.
const SHORT_BYTES: usize = 64;
/// As many octets become of one at most when a text is folded.
const GROWTH_MAX: usize = 2;

/// With room for the key.
fn resolve_in<'x>(
    room: &mut [u8],
    table: &'x Table,
    local: &'x str,
    domain: Option<&str>,
    rules: &Rules,
) -> Result<Resolved<'x>, Damage> {
    let (name, detail) = rules.split_detail(local);
    let key = if local.is_empty() { None } else { Key::of(room, name, domain, table.local_part()) };
    let Some(main) = key else { return Ok(Resolved::UnknownUser) };
    let what = |record: Record<'x>, name, detail| match record.is_alias() {
        true => Resolved::Alias(Alias { record, name, detail }),
        false => Resolved::User(record, detail),
    };

    let mut listed = None;
    if let Some(folded) = main.domain {
        let hash = table.prefetch(main);
        listed = table.domain(folded);
        if listed.is_some() || !table.lists_all_domains() {
            if detail.is_some()
                && let Some(record) = search(table, local, domain, listed)?
            {
                return Ok(what(record, local, None));
            }
            if let Some(record) = table.search(main, hash, listed, Want::Any)? {
                return Ok(what(record, name, detail));
            }
        }
    }
    let is_local = main.domain.is_none_or(|domain| rules.is_local(domain));
    // A quoted local part may hold an "@": alone it would pass for somebody else's full address.
    if is_local && !local.contains('@') {
        if detail.is_some()
            && let Some(record) = search(table, local, None, None)?
        {
            return Ok(what(record, local, None));
        }
        if let Some(record) = search(table, name, None, None)? {
            return Ok(what(record, name, detail));
        }
    }
    let may_have_catch_all = listed.map_or_else(|| !table.lists_all_domains(), |listed| listed.has_catch_all);
    if domain.is_some()
        && may_have_catch_all
        && let Some(record) = search(table, "", domain, listed)?
    {
        return Ok(what(record, name, detail));
    }
    match listed.is_none() && table.lists_all_domains() && !is_local {
        true => Ok(Resolved::UnknownDomain),
        false => Ok(Resolved::UnknownUser),
    }
}

/// The record of a name in a domain. A name that is too long is nobody's.
fn search<'t>(
    table: &'t Table,
    local: &str,
    domain: Option<&str>,
    listed: Option<Domain>,
) -> Result<Option<Record<'t>>, Damage> {
    let mut room = [0; ADDRESS_BYTES_MAX];
    // To fold what is folded changes nothing.
    let Some(key) = Key::of(&mut room, local, domain, table.local_part()) else { return Ok(None) };
    table.search(key, table.hash(key.whole), listed, Want::Any)
}

/// The key under which an address is stored.
pub(super) fn fold(address: &str, local_part: LocalPart) -> Cow<'_, str> {
    match (local_part, split(address)) {
        (LocalPart::Folded, _) => lower(address),
        (LocalPart::Kept, (_, None)) => Cow::Borrowed(address),
        (LocalPart::Kept, (name, Some(domain))) => match lower(domain) {
            Cow::Borrowed(_) => Cow::Borrowed(address),
            Cow::Owned(domain) => Cow::Owned(format!("{name}@{domain}")),
        },
    }
}

/// Lower case, character by character: unlike [`str::to_lowercase`] it does not depend on the neighbours, so
/// that a part folds alike alone and in an address.
fn lower(text: &str) -> Cow<'_, str> {
    let is_lower = |character: char| match character.is_ascii() {
        true => !character.is_ascii_uppercase(),
        false => character.to_lowercase().eq([character]),
    };
    let is_plain = |text: &str| {
        let upper = text.bytes().fold(false, |found, octet| found | octet.is_ascii_uppercase());
        text.is_ascii() && !upper
    };
    if is_plain(text) || text.chars().all(is_lower) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().flat_map(char::to_lowercase).collect())
    }
}

/// A folded key, and its parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'k> {
    pub(super) whole: &'k [u8],
    pub(super) local: &'k [u8],
    pub(super) domain: Option<&'k [u8]>,
}

impl<'k> Key<'k> {
    /// A key as it is stored, cut at its last `@`.
    pub(super) fn cut(whole: &'k [u8]) -> Self {
        Self::cut_at(whole, memchr::memrchr(b'@', whole))
    }

    fn cut_at(whole: &'k [u8], at: Option<usize>) -> Self {
        match at.and_then(|at| whole.split_at_checked(at)) {
            Some((local, domain)) => Self { whole, local, domain: domain.get(1..) },
            None => Self { whole, local: whole, domain: None },
        }
    }

    /// The key of a local part in a domain, written to `room`; `None` if it is too long.
    #[inline]
    fn of(room: &'k mut [u8], local: &str, domain: Option<&str>, local_part: LocalPart) -> Option<Self> {
        let (at, length) = (local.len(), local.len() + domain.map_or(0, |domain| 1 + domain.len()));
        let folded = match (copy(room, local, domain), local_part) {
            (None, _) => false,
            (Some(()), LocalPart::Folded) => {
                octets::lower_ascii(room.as_chunks_mut().0.get_mut(..length.div_ceil(8))?)
            }
            (Some(()), LocalPart::Kept) => {
                room[at..length].make_ascii_lowercase();
                room[at..length].is_ascii()
            }
        };
        match folded {
            true => Some(Self::cut_at(&room[..length], domain.map(|_| at))),
            false => Self::by_characters(room, local, domain, local_part),
        }
    }

    /// The same, one character after the other.
    #[cold]
    fn by_characters(
        room: &'k mut [u8],
        local: &str,
        domain: Option<&str>,
        local_part: LocalPart,
    ) -> Option<Self> {
        let mut key = Writer { room, length: 0 };
        match local_part {
            LocalPart::Folded => key.push_lower(local)?,
            LocalPart::Kept => key.push(local.as_bytes())?,
        }
        let at = key.length;
        if let Some(domain) = domain {
            key.push(b"@")?;
            key.push_lower(domain)?;
        }
        let Writer { room, length } = key;
        Some(Self::cut_at(&room[..length], domain.map(|_| at)))
    }
}

/// Writes an address to `room`, as it is; `None` if it has no room.
fn copy(room: &mut [u8], local: &str, domain: Option<&str>) -> Option<()> {
    let (place, rest) = room.split_at_mut_checked(local.len())?;
    place.copy_from_slice(local.as_bytes());
    if let Some(domain) = domain {
        let (at, rest) = rest.split_first_mut()?;
        *at = b'@';
        rest.get_mut(..domain.len())?.copy_from_slice(domain.as_bytes());
    }
    Some(())
}

/// Writes a key. Every push is `None` if there is no room.
struct Writer<'k> {
    room: &'k mut [u8],
    length: usize,
}

impl Writer<'_> {
    fn push(&mut self, octets: &[u8]) -> Option<()> {
        let place = self.room.get_mut(self.length..self.length + octets.len())?;
        place.copy_from_slice(octets);
        self.length += octets.len();
        Some(())
    }

    fn push_lower(&mut self, text: &str) -> Option<()> {
        for character in text.chars().flat_map(char::to_lowercase) {
            self.push(character.encode_utf8(&mut [0; 4]).as_bytes())?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::build::{Builder, Options, write};
    use crate::users::domain::DOMAINS_MAX;
    use crate::users::entry::{self, Entry};
    use std::path::Path;

    fn table(addresses: &[&str], local_part: LocalPart) -> Table {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let entries: Vec<Entry> = addresses
            .iter()
            .map(|address| Entry {
                address: (*address).to_owned(),
                mail: "/srv/mail".to_owned(),
                ..Entry::default()
            })
            .collect();
        write(&path, Options::reproducible(local_part, [1; 16]), &entries).unwrap();
        Table::from_bytes(Path::new("table"), &std::fs::read(path).unwrap()).unwrap()
    }

    fn rules() -> Rules {
        Rules::new("+-", &["MX.example.org".to_owned()])
    }

    /// Who is found for an address, and his detail.
    fn who<'a>(
        table: &'a Table,
        local: &'a str,
        domain: Option<&'a str>,
    ) -> Option<(&'a str, Option<&'a str>)> {
        let target = find(table, local, domain, &rules()).unwrap().found()?.target;
        let address: &str = target.user.address().to_cow().into_owned().leak();
        Some((address, target.detail))
    }

    #[test]
    fn case_does_not_matter_in_a_folded_table_and_matters_in_the_local_part_of_another() {
        let folded = table(&["Alice@Example.ORG", "J\u{d6}RG@B\u{dc}CHER.example"], LocalPart::Folded);
        assert_eq!(who(&folded, "aLICE", Some("exampLE.org")), Some(("alice@example.org", None)));
        assert_eq!(
            who(&folded, "j\u{f6}rg", Some("b\u{dc}cher.EXAMPLE")),
            Some(("j\u{f6}rg@b\u{fc}cher.example", None))
        );
        let kept = table(&["Alice@Example.ORG", "Bob"], LocalPart::Kept);
        assert_eq!(who(&kept, "Alice", Some("EXAMPLE.org")), Some(("Alice@example.org", None)));
        assert_eq!(who(&kept, "alice", Some("example.org")), None);
        assert_eq!(who(&kept, "Bob", None), Some(("Bob", None)));
        assert_eq!(who(&kept, "bob", None), None);
    }

    #[test]
    fn the_detail_is_cut_at_the_first_delimiter_but_never_at_the_begin() {
        let table = table(&["alice@b", "+list@b"], LocalPart::Folded);
        for (local, expected) in [
            ("alice", Some(("alice@b", None))),
            ("alice+x-y", Some(("alice@b", Some("x-y")))),
            ("Alice-x+Y", Some(("alice@b", Some("x+Y")))),
            ("alice+", Some(("alice@b", Some("")))),
            ("+list", Some(("+list@b", None))),
            ("+list+x", Some(("+list@b", Some("x")))),
            ("alic", None),
        ] {
            assert_eq!(who(&table, local, Some("b")), expected, "{local}");
        }
        let found = find(&table, "Alice+x", Some("B"), &rules()).unwrap().found().unwrap();
        assert_eq!(found.base.to_string(), "Alice@B");
        let without = Rules::default();
        assert_eq!(find(&table, "alice+x", Some("b"), &without).unwrap(), Answer::UnknownUser);
    }

    #[test]
    fn in_a_local_domain_the_local_part_alone_comes_after_the_full_address() {
        let table = table(&["alice", "bob", "bob@mx.example.org"], LocalPart::Folded);
        assert_eq!(who(&table, "alice+x", Some("mx.EXAMPLE.org")), Some(("alice", Some("x"))));
        assert_eq!(who(&table, "alice", None), Some(("alice", None)));
        assert_eq!(who(&table, "alice", Some("example.org")), None);
        assert_eq!(who(&table, "bob", Some("mx.example.org")), Some(("bob@mx.example.org", None)));
    }

    #[test]
    fn a_quoted_at_sign_does_not_make_a_local_part_somebody_elses_address() {
        let table = table(&["alice@example.org"], LocalPart::Folded);
        assert_eq!(who(&table, "alice@example.org", Some("mx.example.org")), None);
        assert_eq!(who(&table, "alice@example.org", None), None);
    }

    #[test]
    fn an_address_that_is_too_long_is_nobody() {
        let longest = format!("{}@{}", "a".repeat(64), "b".repeat(255));
        let table = table(&[&longest], LocalPart::Folded);
        assert!(who(&table, &"A".repeat(64), Some(&"B".repeat(255))).is_some());
        assert_eq!(who(&table, &"a".repeat(65), Some(&"b".repeat(255))), None);
        assert_eq!(who(&table, &"a".repeat(400), None), None);
        assert_eq!(who(&table, &"\u{130}".repeat(160), None), None);
        assert_eq!(who(&table, "", None), None);
    }

    #[test]
    fn no_character_grows_beyond_the_room_of_a_short_key_when_it_is_folded() {
        for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let folded: usize = character.to_lowercase().map(char::len_utf8).sum();
            assert!(folded <= GROWTH_MAX * character.len_utf8(), "{character:?}");
        }
        let growing = "\u{130}".repeat(SHORT_BYTES / 2 - 1);
        let table = table(&[&growing], LocalPart::Folded);
        assert_eq!(who(&table, &growing, None), Some((&*"i\u{307}".repeat(SHORT_BYTES / 2 - 1), None)));
    }

    /// A table with users and aliases, and rules by which it was built.
    fn aliased(users: &[&str], aliases: &[(&str, &[&str])]) -> Table {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let options = Options::reproducible(LocalPart::Folded, [1; 16]);
        let mut builder = Builder::create(&path, options).unwrap().with_rules(rules());
        for (address, line) in users.iter().zip(1..) {
            let (address, mail) = ((*address).to_owned(), "/srv/mail".to_owned());
            builder.add(&Entry { line, address, mail, ..Entry::default() }).unwrap();
        }
        for ((address, targets), line) in aliases.iter().zip(1..) {
            let targets = targets.iter().map(|target| (*target).to_owned()).collect();
            builder.add_alias(&entry::Alias { line, address: (*address).to_owned(), targets }).unwrap();
        }
        builder.finish().unwrap();
        let table = Table::from_bytes(Path::new("table"), &std::fs::read(path).unwrap()).unwrap();
        assert!(table.verify(|| ()).is_empty());
        table
    }

    /// All mailboxes that an address leads to, each with its detail behind a colon; or why there is none.
    fn all(table: &Table, address: &str) -> String {
        let (local, domain) = split(address);
        match find(table, local, domain, &rules()).unwrap() {
            Answer::Found(found) => {
                let name = |target: &Target<'_>| match target.detail {
                    Some(detail) => format!("{}:{detail}", target.user.address()),
                    None => target.user.address().to_string(),
                };
                found.targets().map(name).collect::<Vec<_>>().join(" ")
            }
            Answer::UnknownUser => "unknown user".to_owned(),
            Answer::UnknownDomain => "unknown domain".to_owned(),
        }
    }

    #[test]
    fn an_alias_leads_to_each_mailbox_once_in_the_order_first_named() {
        let table = aliased(
            &["alice@x", "bob@x", "carol@x"],
            &[
                ("team@x", &["bob@x", "Rest@X", "BOB@x", "alice@x"]),
                ("rest@x", &["carol@x", "bob@x"]),
                ("bob+lists@x", &["carol@x"]),
            ],
        );
        assert_eq!(all(&table, "TEAM@x"), "bob@x carol@x alice@x");
        assert_eq!(all(&table, "bob@x"), "bob@x");
        assert_eq!(all(&table, "bob+lists@x"), "carol@x");
        assert_eq!(all(&table, "bob+other@x"), "bob@x:other");
        assert_eq!(all(&table, "nobody@x"), "unknown user");
        assert_eq!(all(&table, "alice@y"), "unknown domain");
        let found = find(&table, "bob+lists", Some("x"), &rules()).unwrap().found().unwrap();
        assert_eq!(found.base.to_string(), "bob+lists@x");
    }

    #[test]
    fn the_detail_goes_on_to_targets_that_have_none() {
        let table = aliased(
            &["alice@x", "bob@x"],
            &[("team@x", &["alice@x", "bob+Work@x", "bob@x"]), ("all@x", &["team+list@x", "alice@x"])],
        );
        assert_eq!(all(&table, "team@x"), "alice@x bob@x:Work bob@x");
        assert_eq!(all(&table, "team+X@x"), "alice@x:X bob@x:Work bob@x:X");
        assert_eq!(all(&table, "all+y@x"), "alice@x:list bob@x:Work bob@x:list alice@x:y");
        let found = find(&table, "Team+X", Some("x"), &rules()).unwrap().found().unwrap();
        assert_eq!(found.base.to_string(), "Team@x");
    }

    #[test]
    fn an_alias_that_comes_back_to_itself_means_the_mailbox_of_its_name() {
        let table = aliased(
            &["alice@x", "bob@x", "chain@x", "root"],
            &[
                ("alice@x", &["alice@x", "bob@x"]),
                ("bob@x", &["chain@x"]),
                ("chain@x", &["chain@x", "bob@x", "alice@x"]),
                ("root", &["root", "alice@x"]),
            ],
        );
        assert_eq!(all(&table, "alice@x"), "alice@x chain@x bob@x");
        assert_eq!(all(&table, "bob@x"), "chain@x bob@x alice@x");
        assert_eq!(all(&table, "root"), "root alice@x chain@x bob@x");
        assert_eq!(all(&table, "root+d@mx.example.org"), "root:d alice@x:d chain@x:d bob@x:d");
        // The user is what look-ups by key are for.
        assert_eq!(table.lookup("alice@x").unwrap().unwrap().address(), "alice@x");
    }

    #[test]
    fn a_catch_all_takes_who_is_not_there_and_a_domain_may_stand_for_another() {
        let table = aliased(
            &["alice@x", "bob", "carol@mx.example.org"],
            &[
                ("@x", &["alice+lost@x"]),
                ("@y", &["@x"]),
                ("@z", &["@mx.example.org"]),
                ("bob@z", &["bob"]),
                ("@mx.example.org", &["bob"]),
            ],
        );
        assert_eq!(all(&table, "alice+d@x"), "alice@x:d");
        assert_eq!(all(&table, "whoever@x"), "alice@x:lost");
        assert_eq!(all(&table, "alice+d@y"), "alice@x:d");
        assert_eq!(all(&table, "whoever+d@y"), "alice@x:lost");
        assert_eq!(all(&table, "carol@z"), "carol@mx.example.org");
        assert_eq!(all(&table, "bob@z"), "bob");
        assert_eq!(all(&table, "nobody@mx.example.org"), "bob");
        assert_eq!(all(&table, "x@x@y"), "alice@x:lost");
        assert_eq!(all(&table, "@x"), "unknown user");
        assert_eq!(all(&table, "nobody"), "unknown user");
    }

    #[test]
    fn who_is_not_in_the_other_domain_is_unknown_in_the_one_that_stands_for_it() {
        let table = aliased(&["alice@x"], &[("@y", &["@x"])]);
        assert_eq!(all(&table, "alice@y"), "alice@x");
        assert_eq!(all(&table, "bob@y"), "unknown user");
        assert_eq!(all(&table, "bob@z"), "unknown domain");
        assert_eq!(all(&table, "bob@mx.example.org"), "unknown user");
    }

    #[test]
    fn beyond_the_list_of_domains_everybody_is_found_and_no_domain_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("table");
        let options = Options::reproducible(LocalPart::Folded, [1; 16]);
        let mut builder = Builder::create(&path, options).unwrap();
        let mut entry = Entry { mail: "/srv/mail".to_owned(), ..Entry::default() };
        for n in 0..DOMAINS_MAX + 2 {
            entry.address = format!("a@d{n}");
            builder.add(&entry).unwrap();
        }
        let targets = vec!["a@d7".to_owned()];
        builder.add_alias(&entry::Alias { line: 1, address: "@late".to_owned(), targets }).unwrap();
        builder.finish().unwrap();
        let table = Table::open(&path).unwrap();
        assert_eq!(table.shape().domains as usize, DOMAINS_MAX);
        for n in [0, 7, DOMAINS_MAX - 1, DOMAINS_MAX, DOMAINS_MAX + 1] {
            let address = format!("a@d{n}");
            assert_eq!(all(&table, &address.to_uppercase()), address);
        }
        assert_eq!(all(&table, "whoever@late"), "a@d7");
        assert_eq!(
            (all(&table, "b@d1"), all(&table, "a@never")),
            ("unknown user".into(), "unknown user".into())
        );
    }

    #[test]
    fn warming_changes_no_answer() {
        let table = aliased(&["alice@x"], &[]);
        for local in ["alice", "alice+x", "", &"a".repeat(400)] {
            warm(&table, local, Some("x"), &rules());
            warm(&table, local, None, &rules());
        }
        assert_eq!(all(&table, "alice@x"), "alice@x");
    }
}
