//! Whose record it is: a local part, and mostly a domain.
//!
//! Owns the way from the octets of a record to the text of an address. Promises that a [`Name`] in hand is UTF-8 and
//! cut where every address is, at its last `@`. Never says whether an address is a good one: he who has it was found by
//! it.
#![forbid(unsafe_code)]

use super::octets::{is_plain_component, is_plain_domain};
use std::borrow::Cow;
use std::fmt;

/// An address that is not put together. Its octets are UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'t> {
    local: &'t [u8],
    domain: Option<&'t [u8]>,
    is_plain: bool,
}

impl<'t> Name<'t> {
    /// `None` if it is not UTF-8, or there is an `@` in the domain.
    #[inline]
    pub(super) fn new(local: &'t [u8], domain: Option<&'t [u8]>) -> Option<Self> {
        match is_plain_component(local) && domain.is_none_or(is_plain_domain) {
            true => Some(Self { local, domain, is_plain: true }),
            false => Self::not_plain(local, domain),
        }
    }

    #[cold]
    fn not_plain(local: &'t [u8], domain: Option<&'t [u8]>) -> Option<Self> {
        let is_text = |octets: &[u8]| str::from_utf8(octets).is_ok();
        let is_domain = |octets: &[u8]| is_text(octets) && !octets.contains(&b'@');
        let can_be = is_text(local) && domain.is_none_or(is_domain);
        can_be.then_some(Self { local, domain, is_plain: false })
    }

    /// The name in a key that was not taken apart; `None` if it is not UTF-8.
    pub(super) fn of_key(key: &'t [u8]) -> Option<Self> {
        match memchr::memrchr(b'@', key) {
            Some(at) => Self::new(&key[..at], Some(&key[at + 1..])),
            None => Self::new(key, None),
        }
    }

    pub(super) fn local(&self) -> &'t str {
        text(self.local)
    }

    pub(super) fn domain(&self) -> Option<&'t str> {
        self.domain.map(text)
    }

    /// Whether local part and domain are ASCII, and plain components of a path.
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    pub(super) fn has_domain(&self) -> bool {
        self.domain.is_some()
    }

    /// Octets of the address.
    pub(super) fn len(&self) -> usize {
        self.local.len() + self.domain.map_or(0, |domain| 1 + domain.len())
    }

    /// Whether the address is this one.
    pub(super) fn is(&self, address: &str) -> bool {
        let rest = address.as_bytes().strip_prefix(self.local);
        match self.domain {
            Some(domain) => rest.and_then(|rest| rest.strip_prefix(b"@")) == Some(domain),
            None => rest == Some(b""),
        }
    }

    pub(super) fn write_to(&self, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str(self.local())?;
        match self.domain() {
            Some(domain) => {
                out.write_str("@")?;
                out.write_str(domain)
            }
            None => Ok(()),
        }
    }

    pub(super) fn to_address(self) -> Cow<'t, str> {
        let Some(domain) = self.domain() else { return Cow::Borrowed(self.local()) };
        let mut address = String::with_capacity(self.len());
        address.push_str(self.local());
        address.push('@');
        address.push_str(domain);
        Cow::Owned(address)
    }
}

fn text(octets: &[u8]) -> &str {
    str::from_utf8(octets).expect("the octets of a name are checked when it is made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_address_that_it_was_cut_from_and_no_other() {
        for address in
            ["alice@example.org", "alice", "a@b@c", "@x", "a@", "", "j\u{f6}rg@b\u{fc}cher.example"]
        {
            let name = Name::of_key(address.as_bytes()).unwrap();
            let mut written = String::new();
            name.write_to(&mut written).unwrap();
            assert_eq!((&*written, &*name.to_address(), name.len()), (address, address, address.len()));
            assert_eq!((name.local(), name.domain()), super::super::template::split(address));
            assert!(name.is(address));
            for other in ["alice@example.or", "alice@example.org ", "alic", "alicealice", "a@b", "@", "x"] {
                assert!(!name.is(other), "{address} is not {other}");
            }
        }
    }

    #[test]
    fn what_is_no_text_or_has_another_at_sign_behind_the_cut_is_no_name() {
        assert_eq!(Name::new(b"a\xff", Some(b"example.org")), None);
        assert_eq!(Name::new(b"a", Some(b"\xffexample.org")), None);
        assert_eq!(Name::new(b"a", Some(b"b@example.org")), None);
        assert!(Name::new(b"a@b", Some(b"example.org")).is_some());
    }
}
