//! Addresses as they stand between `<` and `>` in MAIL and RCPT (RFC 5321 section 4.1.2).
//!
//! The parser is strict about what could mislead somebody later, and lenient about what is only ugly. Control
//! characters, unbalanced quotes and text after the address are refused. Dots anywhere in a local part, as some
//! mobile carriers allow them, and underscores or hyphens anywhere in a domain are taken: the mail has come all the
//! way to its last hop, and refusing it here helps nobody.
//!
//! Lengths are bounded by the command line (4 KiB) and nothing else. RFC 5321 section 4.5.3.1 wants 64 octets of
//! local part to be *supported*, and VERP senders exceed them daily. A recipient that is too long is simply unknown.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

/// A mailbox. It holds no control character, neither of ASCII nor of Unicode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The local part as a value: without quotes and backslashes, in the case it was given. Never empty.
    pub local: Cow<'a, str>,
    /// The domain or the domain literal with its brackets, in the case it was given.
    pub domain: Option<&'a str>,
    /// What stood between the brackets, after a source route: what a reply or a header repeats.
    pub text: &'a str,
}

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The path does not start with `<`.
    NoBracket,
    /// There is white space before `<`.
    SpaceBefore,
    /// The `>` is missing, or something else stands where it should be.
    NotClosed,
    /// A source route is not `@domain,@domain:`.
    SourceRoute,
    /// The local part is the empty string.
    EmptyLocalPart,
    /// The local part holds a character that needs quoting.
    LocalPart,
    /// A quoted local part does not end, or holds a control character.
    QuotedString,
    /// The domain is missing after `@`, or is not one.
    Domain,
    /// The domain literal does not end, or holds what it may not.
    DomainLiteral,
}

impl Address<'_> {
    /// `<postmaster>` without a domain, in any case: every server must take mail for it (RFC 5321 section 4.5.1).
    #[must_use]
    pub fn is_bare_postmaster(&self) -> bool {
        self.domain.is_none() && self.local.eq_ignore_ascii_case("postmaster")
    }

    /// Whether the address is one that only SMTPUTF8 allows (RFC 6531 section 3.3).
    #[must_use]
    pub fn needs_utf8(&self) -> bool {
        !self.text.is_ascii()
    }
}

/// Reads a path from the front of `input`. Returns its address, or none for `<>`, and what is behind the `>`.
///
/// A missing domain is accepted. RFC 5321 allows that for postmaster alone, but system mail is often
/// addressed to the local part, and the sender of it may be as bare.
///
/// # Errors
/// The part of the path that does not follow the grammar.
pub fn parse_path(input: &str) -> Result<(Option<Address<'_>>, &str), PathError> {
    let inside = input.strip_prefix('<').ok_or_else(|| {
        if input.starts_with([' ', '\t']) { PathError::SpaceBefore } else { PathError::NoBracket }
    })?;
    if let Some(rest) = inside.strip_prefix('>') {
        return Ok((None, rest));
    }
    let text = skip_source_route(inside)?;
    let (local, rest) = local_part(text)?;
    let (domain, rest) = match rest.strip_prefix('@') {
        Some(rest) => {
            let (domain, rest) = domain_or_literal(rest)?;
            (Some(domain), rest)
        }
        None => (None, rest),
    };
    let behind = rest.strip_prefix('>').ok_or_else(|| match domain {
        // A character that ended an unquoted local part early, such as a space.
        None if !text.starts_with('"') && !rest.is_empty() => PathError::LocalPart,
        Some(domain) if !domain.starts_with('[') && !rest.is_empty() => PathError::Domain,
        _ => PathError::NotClosed,
    })?;
    if local.is_empty() {
        return Err(PathError::EmptyLocalPart);
    }
    let text = &text[..text.len() - rest.len()];
    Ok((Some(Address { local, domain, text }), behind))
}

/// Reads a quoted local part from the front of `text`: its value, and what is behind it. `None` where there is none.
#[must_use]
pub fn quoted_local_part(text: &str) -> Option<(Cow<'_, str>, &str)> {
    quoted_string(text.strip_prefix('"')?).ok()
}

/// Drops `@one,@two:`, which must be accepted and should be ignored (RFC 5321 section 4.1.1.3, appendix C).
fn skip_source_route(input: &str) -> Result<&str, PathError> {
    let mut rest = input;
    if !rest.starts_with('@') {
        return Ok(rest);
    }
    loop {
        let hop = rest.strip_prefix('@').ok_or(PathError::SourceRoute)?;
        let (_, behind) = domain_or_literal(hop).map_err(|_| PathError::SourceRoute)?;
        if let Some(address) = behind.strip_prefix(':') {
            return Ok(address);
        }
        rest = behind.strip_prefix(',').ok_or(PathError::SourceRoute)?;
    }
}

fn local_part(input: &str) -> Result<(Cow<'_, str>, &str), PathError> {
    if let Some(quoted) = input.strip_prefix('"') {
        return quoted_string(quoted);
    }
    let (local, rest) = split_where_not(input, is_dot_atom);
    Ok((Cow::Borrowed(local), rest))
}

/// Reads a quoted string after its opening quote. Returns its value, and what is behind the closing quote.
fn quoted_string(input: &str) -> Result<(Cow<'_, str>, &str), PathError> {
    let mut value = Cow::Borrowed("");
    let mut characters = input.char_indices();
    while let Some((at, character)) = characters.next() {
        let meant = match character {
            '"' => return Ok((value, &input[at + 1..])),
            '\\' => {
                // From here on the value is no part of the input any more.
                value.to_mut();
                characters.next().ok_or(PathError::QuotedString)?.1
            }
            other => other,
        };
        if meant.is_control() {
            return Err(PathError::QuotedString);
        }
        match &mut value {
            Cow::Borrowed(plain) => *plain = &input[..at + meant.len_utf8()],
            Cow::Owned(value) => value.push(meant),
        }
    }
    Err(PathError::QuotedString)
}

fn domain_or_literal(input: &str) -> Result<(&str, &str), PathError> {
    if let Some(inside) = input.strip_prefix('[') {
        let (content, rest) = split_where_not(inside, is_literal);
        if content.is_empty() || !rest.starts_with(']') {
            return Err(PathError::DomainLiteral);
        }
        return Ok(input.split_at(content.len() + "[]".len()));
    }
    let (domain, rest) = split_where_not(input, is_domain);
    if has_empty_label(domain) {
        return Err(PathError::Domain);
    }
    Ok((domain, rest))
}

/// Whether `name` is a domain or a domain literal in ASCII, and nothing else.
///
/// This is the check for the name that a client gives in LHLO.
#[must_use]
pub fn is_ascii_domain(name: &str) -> bool {
    name.is_ascii() && matches!(domain_or_literal(name), Ok((_, "")))
}

/// Whether there is nothing before the first dot, behind the last one, or between two of them.
fn has_empty_label(domain: &str) -> bool {
    let mut before = b'.';
    let is_doubled =
        domain.bytes().any(|octet| std::mem::replace(&mut before, octet) == b'.' && octet == b'.');
    is_doubled || before == b'.'
}

fn split_where_not(input: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = input.find(|character| !belongs(character)).unwrap_or(input.len());
    input.split_at(end)
}

/// RFC 5322 atext, dots anywhere, and what RFC 6531 section 3.3 adds.
fn is_dot_atom(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(character, '!' | '#'..='\'' | '*' | '+' | '-' | '/' | '=' | '?' | '^'..='`' | '{'..='~' | '.')
        || is_beyond_ascii(character)
}

fn is_domain(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.') || is_beyond_ascii(character)
}

/// RFC 5321 section 4.1.3: dtext is 33-90 and 94-126.
fn is_literal(character: char) -> bool {
    character.is_ascii_graphic() && !matches!(character, '[' | '\\' | ']')
}

fn is_beyond_ascii(character: char) -> bool {
    !character.is_ascii() && !character.is_control()
}

/// The reason, as a reply gives it to the client.
impl fmt::Display for PathError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NoBracket => "Missing < before path",
            Self::SpaceBefore => "Unexpected whitespace before path",
            Self::NotClosed => "Missing > after path",
            Self::SourceRoute => "Invalid source route",
            Self::EmptyLocalPart => "Empty path not allowed",
            Self::LocalPart => "Invalid character in local part",
            Self::QuotedString => "Invalid quoted local part",
            Self::Domain => "Invalid domain",
            Self::DomainLiteral => "Invalid domain literal",
        })
    }
}

impl std::error::Error for PathError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(path: &str) -> (String, Option<&str>, &str) {
        let (address, rest) = parse_path(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(rest, "", "{path}");
        let address = address.expect("not the null path");
        (address.local.into_owned(), address.domain, address.text)
    }

    #[test]
    fn a_path_is_a_local_part_a_domain_and_its_text() {
        let cases = [
            ("<a@b>", "a", Some("b"), "a@b"),
            ("<a+b@Example.ORG>", "a+b", Some("Example.ORG"), "a+b@Example.ORG"),
            ("<postmaster>", "postmaster", None, "postmaster"),
            ("<.a..b.@c-d.e_f>", ".a..b.", Some("c-d.e_f"), ".a..b.@c-d.e_f"),
            ("<!#$%&'*+-/=?^_`{|}~@b>", "!#$%&'*+-/=?^_`{|}~", Some("b"), "!#$%&'*+-/=?^_`{|}~@b"),
            ("<\"a b\"@c>", "a b", Some("c"), "\"a b\"@c"),
            ("<\"a\\\"b\\\\c\\d\"@e>", "a\"b\\cd", Some("e"), "\"a\\\"b\\\\c\\d\"@e"),
            ("<\"a@b>\"@c>", "a@b>", Some("c"), "\"a@b>\"@c"),
            ("<a@[127.0.0.1]>", "a", Some("[127.0.0.1]"), "a@[127.0.0.1]"),
            ("<a@[IPv6:::1]>", "a", Some("[IPv6:::1]"), "a@[IPv6:::1]"),
            ("<@one,@two.example:a@b>", "a", Some("b"), "a@b"),
            ("<@[10.0.0.1]:\"x y\"@b>", "x y", Some("b"), "\"x y\"@b"),
            (
                "<j\u{f6}rg@m\u{fc}ller.example>",
                "j\u{f6}rg",
                Some("m\u{fc}ller.example"),
                "j\u{f6}rg@m\u{fc}ller.example",
            ),
        ];
        for (path, local, domain, text) in cases {
            assert_eq!(parsed(path), (local.to_owned(), domain, text), "{path}");
        }
    }

    #[test]
    fn a_local_part_without_backslash_is_not_copied() {
        for path in ["<a.b@c>", "<\"a b\"@c>"] {
            let (address, _) = parse_path(path).unwrap();
            assert!(matches!(address.unwrap().local, Cow::Borrowed(_)), "{path}");
        }
    }

    #[test]
    fn the_null_path_has_no_address() {
        assert_eq!(parse_path("<> SIZE=1"), Ok((None, " SIZE=1")));
    }

    #[test]
    fn what_is_behind_the_path_is_returned() {
        let (address, rest) = parse_path("<a@b> BODY=8BITMIME").unwrap();
        assert_eq!((address.unwrap().text, rest), ("a@b", " BODY=8BITMIME"));
    }

    #[test]
    fn what_is_no_path_is_refused_with_its_reason() {
        let cases = [
            ("", PathError::NoBracket),
            ("a@b", PathError::NoBracket),
            (" <a@b>", PathError::SpaceBefore),
            ("<", PathError::NotClosed),
            ("<a", PathError::NotClosed),
            ("<a@b", PathError::NotClosed),
            ("<a b@c>", PathError::LocalPart),
            ("<a\0@c>", PathError::LocalPart),
            ("<a\r\n@c>", PathError::LocalPart),
            ("<a\u{85}@c>", PathError::LocalPart),
            ("<a<b@c>", PathError::LocalPart),
            ("<\"\"@b>", PathError::EmptyLocalPart),
            ("<\"\">", PathError::EmptyLocalPart),
            ("<@b>", PathError::SourceRoute),
            ("<@b,:a@c>", PathError::SourceRoute),
            ("<@b,c:a@c>", PathError::SourceRoute),
            ("<@:a@c>", PathError::SourceRoute),
            ("<@b:>", PathError::EmptyLocalPart),
            ("<@b:@c>", PathError::EmptyLocalPart),
            ("<\"a@b>", PathError::QuotedString),
            ("<\"a\\", PathError::QuotedString),
            ("<\"a\0\"@b>", PathError::QuotedString),
            ("<\"a\\\0\"@b>", PathError::QuotedString),
            ("<\"a\"b@c>", PathError::NotClosed),
            ("<a@>", PathError::Domain),
            ("<a@.b>", PathError::Domain),
            ("<a@b.>", PathError::Domain),
            ("<a@b..c>", PathError::Domain),
            ("<a@b@c>", PathError::Domain),
            ("<a@b c>", PathError::Domain),
            ("<a@b/../c>", PathError::Domain),
            ("<a@[]>", PathError::DomainLiteral),
            ("<a@[1.2.3.4>", PathError::DomainLiteral),
            ("<a@[1 2]>", PathError::DomainLiteral),
            ("<a@[1]b>", PathError::NotClosed),
        ];
        for (path, error) in cases {
            assert_eq!(parse_path(path), Err(error), "{path:?}");
        }
    }

    #[test]
    fn postmaster_is_known_in_any_case_but_only_without_a_domain() {
        for (path, expected) in [
            ("<postmaster>", true),
            ("<PostMaster>", true),
            ("<\"postmaster\">", true),
            ("<postmaster@a>", false),
            ("<postmasters>", false),
        ] {
            let (address, _) = parse_path(path).unwrap();
            assert_eq!(address.unwrap().is_bare_postmaster(), expected, "{path}");
        }
    }

    #[test]
    fn only_ascii_domains_name_a_client() {
        for name in ["localhost", "mx.example.net", "[127.0.0.1]", "a_b"] {
            assert!(is_ascii_domain(name), "{name}");
        }
        for name in ["", "a b", "a(b)", "\u{fc}.example", "[::1", "a]", "-.", "a\t"] {
            assert!(!is_ascii_domain(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_input_yields_an_address_with_a_control_character_or_no_local_part(
            path in "<([ -~\u{0}-\u{1f}\u{80}-\u{9f}\u{e9}]|[a@.\\\\\"\\[\\],:]){0,12}>[ -~]{0,3}"
        ) {
            if let Ok((Some(address), rest)) = parse_path(&path) {
                prop_assert!(!address.local.is_empty());
                prop_assert!(!address.local.contains(char::is_control));
                prop_assert!(!address.text.contains(char::is_control));
                prop_assert!(path.contains(address.text));
                prop_assert!(path.ends_with(rest));
                // Reading it again gives the same address.
                let again = format!("<{}>", address.text);
                let (read_again, _) = parse_path(&again).unwrap();
                prop_assert_eq!(read_again.unwrap(), address);
            }
        }
    }
}
