//! Paths that many users share, written once with `%u`, `%n` and `%d` in them.
//!
//! Owns finding, storing and expanding templates. Promises that a path which was turned into a template for an
//! address expands to the same octets for it. Never decides what is a good path: [`super::path`] does.
#![forbid(unsafe_code)]

use super::layout::u16_at;
use std::borrow::Cow;
use std::collections::HashMap;

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
pub(super) enum Template {
    /// Without variables.
    Plain(Box<str>),
    Parts(Vec<Part>),
}

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Part {
    Text(Box<str>),
    Address,
    Name,
    Domain,
}

impl Template {
    /// `None` if a percent sign is followed by anything but `u`, `n`, `d` or another one.
    fn parse(text: &str) -> Option<Self> {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            let variable = match after.as_bytes().first()? {
                b'u' => Part::Address,
                b'n' => Part::Name,
                b'd' => Part::Domain,
                b'%' => Part::Text("%".into()),
                _ => return None,
            };
            parts.push(Part::Text(std::mem::take(&mut literal).into()));
            parts.push(variable);
            rest = &after[1..];
        }
        literal.push_str(rest);
        if parts.is_empty() {
            return Some(Self::Plain(literal.into()));
        }
        parts.push(Part::Text(literal.into()));
        Some(Self::Parts(parts))
    }

    /// The path for one user. Allocates only if there is a variable in it.
    pub(super) fn expand(&self, address: &str) -> Cow<'_, str> {
        let parts = match self {
            Self::Plain(text) => return Cow::Borrowed(text),
            Self::Parts(parts) => parts,
        };
        let (name, domain) = split(address);
        let mut path = String::with_capacity(2 * address.len() + 32);
        for part in parts {
            path.push_str(match part {
                Part::Text(text) => text,
                Part::Address => address,
                Part::Name => name,
                Part::Domain => domain.unwrap_or_default(),
            });
        }
        Cow::Owned(path)
    }
}

/// Reads the template section.
///
/// # Errors
/// The number of the first template that is cut off, not UTF-8 or has an unknown variable; `count` if there is
/// anything but zeroes behind the last one.
pub(super) fn read_section(section: &[u8], count: u32) -> Result<Vec<Template>, u32> {
    let mut templates = Vec::new();
    let mut rest = section;
    for number in 0..count {
        let (template, after) = read_one(rest).ok_or(number)?;
        templates.push(template);
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
            prop_assert_eq!(template.expand(&address), path);
        }
    }
}
