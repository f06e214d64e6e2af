//! Reads one request: the name of a map, a space, the key.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use crate::mail::address;

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// Whether mail for an address has a place to go: for `virtual_mailbox_maps`, `relay_recipient_maps` and
    /// `local_recipient_maps`.
    Mailbox,
    /// What an alias stands for: for `virtual_alias_maps`.
    Alias,
    /// Whether anybody has an address in a domain: for `virtual_mailbox_domains` and `relay_domains`.
    Domain,
}

/// A look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Where to look.
    pub map: Map,
    /// What for. Any octets; an address if the client is Postfix.
    pub key: &'a [u8],
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no space between a name and a key.
    NoKey,
    /// There is no map of this name.
    UnknownMap,
}

impl<'a> Request<'a> {
    /// Reads the content of a netstring.
    ///
    /// # Errors
    /// Why it is no request.
    pub fn parse(string: &'a [u8]) -> Result<Self, Refusal> {
        let space = memchr::memchr(b' ', string).ok_or(Refusal::NoKey)?;
        let (name, key) = (&string[..space], &string[space + 1..]);
        let (_, map) = MAPS.iter().find(|(known, _)| known.as_bytes() == name).ok_or(Refusal::UnknownMap)?;
        Ok(Self { map: *map, key })
    }
}

impl Refusal {
    /// What the client is told.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NoKey => "a request is the name of a map, a space and a key",
            Self::UnknownMap => "there is no such map; the maps are: mailbox, alias, domain",
        }
    }
}

/// The local part, without quotes, and the domain of an address in a key. Postfix asks for `"john smith"@example.net`
/// first and for `john smith@example.net` then. `None` for what is no text, and so no address.
#[must_use]
pub fn address(key: &[u8]) -> Option<(Cow<'_, str>, Option<&str>)> {
    let text = std::str::from_utf8(key).ok()?;
    if let Some((local, rest)) = address::quoted_local_part(text) {
        match rest.strip_prefix('@') {
            // With another @ it would read as somebody else, whose local part has one in it.
            Some(domain) if !domain.contains('@') => return Some((local, Some(domain))),
            None if rest.is_empty() => return Some((local, None)),
            _ => {}
        }
    }
    Some(match text.rsplit_once('@') {
        Some((local, domain)) => (Cow::Borrowed(local), Some(domain)),
        None => (Cow::Borrowed(text), None),
    })
}

/// The names of the maps, as they stand behind the last colon in `main.cf`.
pub const MAPS: &[(&str, Map)] = &[("mailbox", Map::Mailbox), ("alias", Map::Alias), ("domain", Map::Domain)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_name_a_space_and_a_key() {
        let request = Request::parse(b"mailbox alice@example.net").unwrap();
        assert_eq!(request, Request { map: Map::Mailbox, key: b"alice@example.net" });
        let request = Request::parse(b"alias john smith@example.net").unwrap();
        assert_eq!(request, Request { map: Map::Alias, key: b"john smith@example.net" });
        assert_eq!(Request::parse(b"mailbox ").unwrap().key, b"");
    }

    #[test]
    fn what_is_no_request_says_what_one_is() {
        assert_eq!(Request::parse(b""), Err(Refusal::NoKey));
        assert_eq!(Request::parse(b"mailbox"), Err(Refusal::NoKey));
        for name in ["", "Mailbox", "mailboxes", "transport"] {
            assert_eq!(Request::parse(format!("{name} a@b").as_bytes()), Err(Refusal::UnknownMap), "{name}");
        }
    }

    #[test]
    fn an_unknown_map_is_answered_with_those_there_are() {
        for (name, _) in MAPS {
            assert!(Refusal::UnknownMap.text().contains(name), "{name}");
        }
    }

    #[test]
    fn an_address_is_taken_apart_with_and_without_quotes() {
        for (key, local, domain) in [
            ("alice@example.net", "alice", Some("example.net")),
            ("Alice+x@Example.NET", "Alice+x", Some("Example.NET")),
            ("alice", "alice", None),
            ("@example.net", "", Some("example.net")),
            ("", "", None),
            ("john smith@example.net", "john smith", Some("example.net")),
            ("\"john smith\"@example.net", "john smith", Some("example.net")),
            ("\"a\\\"b\"@example.net", "a\"b", Some("example.net")),
            ("\"odd@name\"@example.net", "odd@name", Some("example.net")),
            ("odd@name@example.net", "odd@name", Some("example.net")),
            ("\"alone\"", "alone", None),
            // Quotes that are part of the name.
            ("\"a\"b@example.net", "\"a\"b", Some("example.net")),
            ("\"a@example.net", "\"a", Some("example.net")),
            // Not the domain "b@example.net", which would make the key of "a@b" in example.net.
            ("\"a\"@b@example.net", "\"a\"@b", Some("example.net")),
            ("alice@[192.0.2.1]", "alice", Some("[192.0.2.1]")),
        ] {
            let found = address(key.as_bytes()).unwrap();
            assert_eq!((&*found.0, found.1), (local, domain), "{key}");
        }
        assert_eq!(address(b"\xff@example.net"), None);
    }

    proptest::proptest! {
        #[test]
        fn an_address_that_is_written_is_read_back(local in "[a-z.@\"\\\\ ,+\u{f6}]{0,12}", domain in "[a-z.]{1,8}") {
            for domain in [None, Some(&*domain)] {
                let mut written = String::new();
                crate::socketmap::expansion::push(&mut written, &[&local], domain);
                let read = address(written.as_bytes()).unwrap();
                proptest::prop_assert_eq!((&*read.0, read.1), (&*local, domain));
            }
        }
    }
}
