//! Paths that many users share, written once with `%u`, `%n` and `%d` in them.
//!
//! Owns finding, storing and expanding templates. Promises that a path which was turned into a template for an
//! address expands to the same octets for it. Never decides what is a good path:
//! [`super::path`] does; but for which addresses a template is one, is found out once and not for each of them.
#![forbid(unsafe_code)]

use super::layout::u16_at;
use super::name::Name;
use super::path::{self, PATH_BYTES_MAX, PathFault};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The most templates in a table: what sixteen bits can name. A path that finds no room is written in its record.
pub(super) const TEMPLATES_MAX: usize = u16::MAX as usize;

/// Writes the template of `path` for the user `address`: whole components that are the address, its domain or its
/// local part become variables, the rest is kept.
pub(super) fn write(template: &mut String, path: &str, address: &str) {
    template.clear();
    let (name, domain) = split(address);
    let mut slashes = memchr::memchr_iter(b'/', path.as_bytes());
    let mut begin = 0;
    loop {
        let end = slashes.next();
        let component = &path[begin..end.unwrap_or(path.len())];
        // An address without domain is its own local part, and "%n" is the way to say it.
        match component {
            "" => {}
            whole if whole == address && domain.is_some() => template.push_str("%u"),
            part if Some(part) == domain => template.push_str("%d"),
            part if part == name => template.push_str("%n"),
            other => template.push_str(&escape(other)),
        }
        let Some(end) = end else { return };
        template.push('/');
        begin = end + 1;
    }
}

/// Doubles the percent signs, so that expansion gives `text` again.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if text.contains('%') { Cow::Owned(text.replace('%', "%%")) } else { Cow::Borrowed(text) }
}

/// The local part and domain of an address; the last `@` parts them.
pub(super) fn split(address: &str) -> (&str, Option<&str>) {
    match memchr::memrchr(b'@', address.as_bytes()) {
        Some(at) => (&address[..at], Some(&address[at + 1..])),
        None => (address, None),
    }
}

/// A template that was read from a table and is well formed.
#[derive(Debug)]
pub(super) struct Template {
    parts: Box<[Part]>,
    as_home: Reach,
    as_location: Reach,
}

/// A piece of a template.
#[derive(Debug)]
enum Part {
    Text(Box<str>),
    Address,
    Name,
    Domain,
}

/// For whom paths keep the rules for certain: users with plain names ([`Name::is_plain`]) that are not too long. The
/// paths of all others must be judged one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    address_bytes_max: usize,
    needs_domain: bool,
}

impl Reach {
    pub(super) const NOBODY: Self = Self { address_bytes_max: 0, needs_domain: true };

    #[inline]
    pub(super) fn covers(self, name: Name<'_>) -> bool {
        name.is_plain() && name.len() <= self.address_bytes_max && (name.has_domain() || !self.needs_domain)
    }

    /// Who is in reach of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            address_bytes_max: self.address_bytes_max.min(other.address_bytes_max),
            needs_domain: self.needs_domain || other.needs_domain,
        }
    }
}

impl Template {
    /// `None` if a percent sign is followed by anything but `u`, `n`, `d` or another one.
    fn parse(text: &str) -> Option<Self> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            let variable = match after.as_bytes().first()? {
                b'u' => Some(Part::Address),
                b'n' => Some(Part::Name),
                b'd' => Some(Part::Domain),
                b'%' => None,
                _ => return None,
            };
            match variable {
                Some(variable) => {
                    parts.push(Part::Text(std::mem::take(&mut literal).into()));
                    parts.push(variable);
                }
                None => literal.push('%'),
            }
            rest = &after[1..];
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal.into()));
        let (as_home, as_location) = (reach(&parts, path::check_home), reach(&parts, path::check_location));
        Some(Self { parts: parts.into(), as_home, as_location })
    }

    /// For whom it is a home for certain.
    pub(super) fn reach_as_home(&self) -> Reach {
        self.as_home
    }

    /// For whom it is a mail location for certain.
    pub(super) fn reach_as_location(&self) -> Reach {
        self.as_location
    }

    /// Whether the path for this user begins with a slash.
    pub(super) fn is_absolute_for(&self, name: Name<'_>) -> bool {
        let mut pieces = self.parts.iter().map(|part| part.first_octet(name));
        pieces.find_map(|octet| octet) == Some(b'/')
    }

    /// Octets of the path for one user.
    pub(super) fn len_for(&self, name: Name<'_>) -> usize {
        let domain = || name.domain().map_or(0, str::len);
        let lengths = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.len(),
            Part::Address => name.len(),
            Part::Name => name.local().len(),
            Part::Domain => domain(),
        });
        lengths.sum()
    }

    /// Writes the path for one user.
    pub(super) fn write_to(&self, name: Name<'_>, out: &mut impl fmt::Write) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.write_str(text)?,
                Part::Address => name.write_to(out)?,
                Part::Name => out.write_str(name.local())?,
                Part::Domain => out.write_str(name.domain().unwrap_or_default())?,
            }
        }
        Ok(())
    }

    /// The path for one user. Allocates only if there is a variable in it.
    pub(super) fn expand(&self, name: Name<'_>) -> Cow<'_, str> {
        if let [Part::Text(text)] = &*self.parts {
            return Cow::Borrowed(text);
        }
        let mut path = String::with_capacity(self.len_for(name));
        self.write_to(name, &mut path).expect("a string takes every text");
        Cow::Owned(path)
    }
}

impl Part {
    /// `None` if it is nothing for this user.
    fn first_octet(&self, name: Name<'_>) -> Option<u8> {
        let text = match self {
            Self::Text(text) => text,
            Self::Address if name.local().is_empty() => "@",
            Self::Address | Self::Name => name.local(),
            Self::Domain => name.domain().unwrap_or_default(),
        };
        text.as_bytes().first().copied()
    }
}

/// A path in which every variable is a whole component keeps the rules for all plain addresses if it does for one, as
/// long as it is not too long.
fn reach(parts: &[Part], check: fn(&str) -> Result<(), PathFault>) -> Reach {
    let (mut sample, mut variables, mut text_bytes) = (String::new(), 0, 0);
    for (n, part) in parts.iter().enumerate() {
        let Part::Text(text) = part else {
            variables += 1;
            sample.push('x');
            continue;
        };
        let is_parted_before = n == 0 || text.starts_with('/') || n + 1 == parts.len() && text.is_empty();
        let is_parted_behind = n + 1 == parts.len() || text.ends_with('/') || n == 0 && text.is_empty();
        if !is_parted_before || !is_parted_behind {
            return Reach::NOBODY;
        }
        text_bytes += text.len();
        sample.push_str(text);
    }
    let room = PATH_BYTES_MAX.checked_sub(text_bytes + 1);
    match (check(&sample), room) {
        (Ok(()), Some(room)) => Reach {
            address_bytes_max: room.checked_div(variables).unwrap_or(usize::MAX),
            needs_domain: parts.iter().any(|part| matches!(part, Part::Domain)),
        },
        _ => Reach::NOBODY,
    }
}

/// Reads the template section.
///
/// # Errors
/// The number of the first template that is cut off, not UTF-8 or has an unknown variable; `count` if there is
/// anything but zeroes behind the last one.
pub(super) fn read_section(section: &[u8], count: u32) -> Result<Vec<Arc<Template>>, u32> {
    let mut templates = Vec::new();
    let mut rest = section;
    for number in 0..count {
        let (template, after) = read_one(rest).ok_or(number)?;
        templates.push(Arc::new(template));
        rest = after;
    }
    if rest.iter().all(|octet| *octet == 0) { Ok(templates) } else { Err(count) }
}

fn read_one(section: &[u8]) -> Option<(Template, &[u8])> {
    let length = usize::from(u16_at(section, 0)?);
    let (text, rest) = section.get(2..)?.split_at_checked(length)?;
    let template = Template::parse(str::from_utf8(text).ok()?)?;
    Some((template, rest))
}

/// The templates of a table that is being built, numbered in the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    numbers: HashMap<String, u16>,
    section: Vec<u8>,
    /// The template at hand.
    template: String,
}

impl Dictionary {
    /// The number of the path's template; `None` if the dictionary is full and the path must go into the record.
    pub(super) fn number_of(&mut self, path: &str, address: &str) -> Option<u16> {
        let mut template = std::mem::take(&mut self.template);
        write(&mut template, path, address);
        let number = self.number(&template);
        self.template = template;
        number
    }

    fn number(&mut self, template: &str) -> Option<u16> {
        match self.numbers.get(template) {
            Some(number) => Some(*number),
            None => self.insert(template),
        }
    }

    fn insert(&mut self, template: &str) -> Option<u16> {
        let length = u16::try_from(template.len()).ok()?;
        let next =
            u16::try_from(self.numbers.len()).ok().filter(|next| usize::from(*next) < TEMPLATES_MAX)?;
        self.section.extend_from_slice(&length.to_le_bytes());
        self.section.extend_from_slice(template.as_bytes());
        self.numbers.insert(template.to_owned(), next);
        Some(next)
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The template section, without the zeroes at its end.
    pub(super) fn section(&self) -> &[u8] {
        &self.section
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_components_become_variables_and_nothing_else_does() {
        for (path, address, template) in [
            ("/var/vmail/example.org/a", "a@example.org", "/var/vmail/%d/%n"),
            ("/srv/a@b/Maildir", "a@b", "/srv/%u/Maildir"),
            ("/home/alice", "alice", "/home/%n"),
            ("/srv/100%/alices", "alice@b", "/srv/100%%/alices"),
            ("Maildir", "alice@b", "Maildir"),
        ] {
            let mut written = String::new();
            write(&mut written, path, address);
            assert_eq!(written, template);
        }
    }

    #[test]
    fn unknown_variables_and_texts_that_are_cut_off_are_refused() {
        let section = |text: &str| {
            let mut dictionary = Dictionary::default();
            dictionary.number(text).unwrap();
            dictionary.section().to_vec()
        };
        assert_eq!(read_section(&section("/a/%x"), 1).unwrap_err(), 0);
        assert_eq!(read_section(&section("/a/%"), 1).unwrap_err(), 0);
        let good = section("/a/%n");
        assert_eq!(read_section(&good, 1).unwrap().len(), 1);
        assert_eq!(read_section(&good, 2).unwrap_err(), 1);
        assert_eq!(read_section(&good[..4], 1).unwrap_err(), 0);
        assert_eq!(read_section(&good, 0).unwrap_err(), 0);
    }

    #[test]
    fn a_full_dictionary_sends_texts_into_the_record() {
        let mut dictionary = Dictionary::default();
        for n in 0..TEMPLATES_MAX {
            assert_eq!(dictionary.number(&n.to_string()).map(usize::from), Some(n));
        }
        assert_eq!(dictionary.number("one more"), None);
        assert_eq!(dictionary.number_of("17", "alice"), Some(17));
        assert_eq!(dictionary.len(), TEMPLATES_MAX);
    }

    proptest! {
        #[test]
        fn a_template_expands_to_the_path_it_was_made_from(
            path in "(/|a|b|@|%|%u|\u{e9}|a@b|a@b@a){0,8}",
            address in "(a|b|a@b|a@b@a|%|%@%n)",
        ) {
            let mut written = String::new();
            write(&mut written, &path, &address);
            let template = Template::parse(&written).unwrap();
            let name = Name::of_key(address.as_bytes()).unwrap();
            prop_assert_eq!(template.len_for(name), path.len());
            prop_assert_eq!(template.is_absolute_for(name), path.starts_with('/'));
            prop_assert_eq!(template.expand(name), path);
        }
    }
}
