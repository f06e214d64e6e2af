//! Aliases, as Postfix's virtual(5) has them.
//!
//! Owns `address target[, target]...`. Promises that a line becomes an [`Alias`], or a fault that says what to write
//! instead: virtual(5) and aliases(5) can send mail where this server never does. Whether a target is in the table
//! is not known here.
//!
//! As postmap(1) reads it: empty lines, and those whose first visible character is `#`, are skipped; a line that
//! begins with white space goes on with the one before. Targets are separated by commas, white space, or both. A local
//! part may stand in quotation marks. `user@domain` is that address, `user` the local part alone, and `@domain` every
//! address of the domain that is nobody else's; as a target, the same local part in that domain.
#![forbid(unsafe_code)]

use super::lines::Lines;
use super::{Fault, Item, LINE, ReadError, Source, not_utf8};
use crate::users::entry::{Alias, AliasFault};
use std::io::{self, BufRead};

/// The longest alias with all its targets, in octets.
pub const ALIAS_BYTES_MAX: usize = 1024 * 1024;

/// The aliases of a file, one after another.
#[derive(Debug)]
pub struct VirtualAliases<R> {
    lines: Lines<R>,
    /// A logical line: all physical ones that belong together.
    whole: Vec<u8>,
    begin: u64,
    fault: Option<Fault>,
    /// Whether `lines` stands at one that has not been used yet.
    is_ahead: bool,
}

impl<R: BufRead> VirtualAliases<R> {
    /// Reads `input`.
    pub fn new(input: R) -> Self {
        let lines = Lines::new(input, ALIAS_BYTES_MAX);
        Self { lines, whole: Vec::new(), begin: 0, fault: None, is_ahead: false }
    }

    /// Puts a logical line together; `false` at the end of the input.
    fn advance(&mut self) -> io::Result<bool> {
        self.whole.clear();
        self.fault = None;
        loop {
            if !std::mem::take(&mut self.is_ahead) && !self.lines.advance()? {
                return Ok(false);
            }
            if !is_skipped(&self.lines) {
                break;
            }
        }
        self.begin = self.lines.number();
        self.append();
        while self.lines.advance()? {
            match self.lines.first() {
                _ if is_skipped(&self.lines) => {}
                Some(b' ' | b'\t') => self.append(),
                _ => {
                    self.is_ahead = true;
                    break;
                }
            }
        }
        Ok(true)
    }

    fn append(&mut self) {
        match self.lines.line() {
            Ok(line) if self.whole.len() + line.len() <= ALIAS_BYTES_MAX => {
                self.whole.extend_from_slice(line);
                self.whole.push(b' ');
            }
            Ok(_) => {
                let remedy = "let a mailing list manager serve it";
                self.fault = Some(Fault::new(LINE, "it is longer than 1024 KiB", remedy));
            }
            Err(fault) => self.fault = Some(fault),
        }
    }

    fn parse(&self) -> Result<Alias, Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let alias = parse_alias(str::from_utf8(&self.whole).map_err(|_| not_utf8())?)?;
        Ok(Alias { line: self.begin, ..alias })
    }
}

impl<R: BufRead> Source for VirtualAliases<R> {
    fn read(&mut self, item: &mut Item) -> Result<bool, ReadError> {
        if !self.advance()? {
            return Ok(false);
        }
        *item = Item::Alias(self.parse().map_err(|fault| ReadError::of(self.begin, fault))?);
        Ok(true)
    }

    fn line(&self) -> u64 {
        self.lines.number()
    }
}

/// Whether a line is empty or a comment: neither ends an alias.
fn is_skipped(lines: &Lines<impl BufRead>) -> bool {
    let line = lines.line().unwrap_or(b"too long");
    matches!(line.trim_ascii_start().first(), None | Some(b'#'))
}

/// One logical line that is neither empty nor a comment.
///
/// # Errors
/// What is wrong with it.
pub fn parse_alias(text: &str) -> Result<Alias, Fault> {
    if text.starts_with([' ', '\t']) {
        let reason = "it begins with white space, and there is no alias in front of it to go on with";
        return Err(Fault::new(LINE, reason, "begin it with the alias's address"));
    }
    let (address, mut rest) = Word::take(ADDRESS, text, |octet| matches!(octet, b' ' | b'\t'))?;
    let mut targets = Vec::new();
    while let Some(begin) = rest.find(|character| !matches!(character, ' ' | '\t' | ',')) {
        let (target, behind) =
            Word::take(TARGET, &rest[begin..], |octet| matches!(octet, b' ' | b'\t' | b','))?;
        targets.push(target);
        rest = behind;
    }
    check_address(&address, &targets)?;
    for target in &targets {
        check_target(&target.text)?;
        target.check_characters(TARGET)?;
    }
    let targets = targets.into_iter().map(|target| target.text).collect();
    let alias = Alias { line: 0, address: address.text, targets };
    check(&alias).map(|()| alias)
}

/// An address without its quotation marks.
#[derive(Debug)]
struct Word {
    text: String,
    is_quoted: bool,
}

impl Word {
    /// The word that `text` begins with, and what follows it.
    fn take<'t>(
        field: &'static str,
        text: &'t str,
        is_end: impl Fn(u8) -> bool,
    ) -> Result<(Self, &'t str), Fault> {
        let mut word = Self { text: String::new(), is_quoted: false };
        let mut in_marks = false;
        let mut characters = text.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    in_marks = !in_marks;
                    word.is_quoted = true;
                }
                '\\' if in_marks => word.text.extend(characters.next().map(|(_, escaped)| escaped)),
                ' '..='~' | '\t' if !in_marks && is_end(character as u8) => {
                    return Ok((word.bare(), &text[at..]));
                }
                _ => word.text.push(character),
            }
        }
        if in_marks {
            return Err(Fault::new(field, "a quotation mark is not closed", "close or remove it"));
        }
        Ok((word.bare(), ""))
    }

    /// Without the angle brackets that it may stand in.
    fn bare(self) -> Self {
        let inner = self.text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
        match inner {
            Some(inner) => Self { text: inner.to_owned(), ..self },
            None => self,
        }
    }

    /// RFC 5321 section 4.1.2: specials stand in a local part only if it is quoted.
    fn check_characters(&self, field: &'static str) -> Result<(), Fault> {
        let (local, _domain) = crate::users::template::split(&self.text);
        match local.find(['(', ')', '<', '>', '[', ']', ':', ';', ',', '\\']) {
            Some(at) if !self.is_quoted => {
                let reason =
                    format!("\"{}\" is no address: it has \"{}\" in it", shown(&self.text), &local[at..=at]);
                Err(Fault::new(field, reason, "write user@domain, or \"quoted\"@domain"))
            }
            _ => Ok(()),
        }
    }
}

fn check_address(address: &Word, targets: &[Word]) -> Result<(), Fault> {
    let text = &address.text;
    let fault = |reason: &str, remedy: &str| Err(Fault::new(ADDRESS, reason, remedy));
    let before_colon = text.split(':').next().unwrap_or_default();
    if !address.is_quoted && (text.ends_with(':') || targets.is_empty() && text.contains(':')) {
        let reason = "this looks like aliases(5), which ends the name with a colon";
        let remedy = format!("write \"{} TARGET, TARGET\", without it", shown(before_colon));
        return Err(Fault::new(ADDRESS, reason, remedy));
    }
    if text.starts_with('/') && !address.is_quoted {
        return fault(
            "this looks like a regular expression, which a table cannot hold",
            "write the addresses out, or @domain for all others of a domain",
        );
    }
    address.check_characters(ADDRESS)
}

/// Whether `target`, which stands without quotation marks, is an address, and not one of the other things that an
/// alias may lead to elsewhere.
///
/// # Errors
/// What it is.
pub(super) fn check_target(target: &str) -> Result<(), Fault> {
    let fault = |what: &str, remedy: &str| {
        Err(Fault::new(TARGET, format!("\"{}\" is {what}", shown(target)), remedy))
    };
    if target.starts_with('|') {
        return fault(
            "a command, and mail goes into mailboxes only",
            "keep this alias in Postfix's alias_maps",
        );
    }
    if target.to_ascii_lowercase().starts_with(":include:") {
        return fault("a file with a list", "write the addresses of that list here");
    }
    if target.starts_with('/') {
        return fault(
            "a file, and mail goes into the mailboxes of users only",
            "make a user with this Maildir, and name him here",
        );
    }
    Ok(())
}

/// What the table itself would refuse, with the field that it is about.
pub(super) fn check(alias: &Alias) -> Result<(), Fault> {
    alias.check().map_err(|fault| {
        let field = match fault {
            AliasFault::Address(_) => ADDRESS,
            AliasFault::NoTarget | AliasFault::ManyTargets(_) | AliasFault::Target(..) => TARGET,
        };
        Fault::new(field, fault.to_string(), fault.remedy())
    })
}

/// As much of a word as a message needs.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// The name of the first word in messages.
const ADDRESS: &str = "address";
/// The name of the others.
const TARGET: &str = "target";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &[u8]) -> Vec<Result<Alias, String>> {
        VirtualAliases::new(text)
            .items()
            .map(|item| match item {
                Ok(Item::Alias(alias)) => Ok(alias),
                Ok(Item::User(entry)) => panic!("a user: {entry:?}"),
                Err(error) => Err(error.to_string()),
            })
            .collect()
    }

    fn alias(line: u64, address: &str, targets: &[&str]) -> Result<Alias, String> {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        Ok(Alias { line, address: address.to_owned(), targets })
    }

    #[test]
    fn lines_mean_what_postmap_means() {
        let text = b"# comment\n\n  # another\nInfo@Example.org\talice@example.org, bob,carol@example.org \
            dave\r\n@example.net alice@example.org @example.org\n\npostmaster\n\troot@example.org,\n  # not the end\n\n bob\n\
            \"a b\"@example.org \"c,\\\"d\"@example.org <eve@example.org>\nlast bob";
        let expected = [
            alias(4, "Info@Example.org", &["alice@example.org", "bob", "carol@example.org", "dave"]),
            alias(5, "@example.net", &["alice@example.org", "@example.org"]),
            alias(7, "postmaster", &["root@example.org", "bob"]),
            alias(12, "a b@example.org", &["c,\"d@example.org", "eve@example.org"]),
            alias(13, "last", &["bob"]),
        ];
        assert_eq!(read(text), expected);
    }

    #[test]
    fn what_cannot_mean_anything_here_is_a_fault_with_a_remedy() {
        for (line, begin, remedy) in [
            ("a@x |/usr/bin/vacation", "target: \"|/usr/bin/vacation\" is a command", "alias_maps"),
            ("a@x \"|/usr/bin/vacation a\"", "target: \"|/usr/bin/vacation a\" is a command", "alias_maps"),
            ("a@x b@x, /var/mail/a", "target: \"/var/mail/a\" is a file", "make a user with this Maildir"),
            (
                "a@x :include:/etc/list",
                "target: \":include:/etc/list\" is a file with a list",
                "write the addr",
            ),
            (
                "a@x smtp:[192.0.2.1]",
                "target: \"smtp:[192.0.2.1]\" is no address: it has \":\"",
                "user@domain",
            ),
            ("a@x b@", "target: the target \"b@\": the address has an empty part", "local-part@domain"),
            ("a@x \"\"", "target: the target \"\": the address has an empty", "local-part@domain"),
            ("a@x", "target: the alias has no target", "name at least one"),
            ("a@x ,", "target: the alias has no target", "name at least one"),
            ("a@x \"b@x", "target: a quotation mark is not closed", "close or remove it"),
            ("root: alice", "address: this looks like aliases(5)", "write \"root TARGET, TARGET\""),
            ("root:alice", "address: this looks like aliases(5)", "write \"root TARGET, TARGET\""),
            ("/^a.*@x$/ b@x", "address: this looks like a regular expression", "@domain"),
            ("a@x,b@x c@x", "address: \"a@x,b@x\" is no address: it has \",\"", "user@domain"),
            ("@ b@x", "address: the address has an empty part", "@domain"),
            ("a@ b@x", "address: the address has an empty part", "a local part, or @domain"),
            ("a\x07@x b@x", "address: the address has a control character", "remove it"),
        ] {
            let lines = read(format!("\n{line}\nz y\n").as_bytes());
            let message = lines[0].as_ref().unwrap_err();
            assert!(message.starts_with(&format!("line 2, field {begin}")), "{line}: {message}");
            assert!(message.contains(remedy), "{line}: {message}");
            assert_eq!(lines[1..], [alias(3, "z", &["y"])], "{line}");
        }
        assert!(read(b"  a@x b@x\n")[0].as_ref().unwrap_err().contains("begins with white space"));
        assert!(read(b"a@x \xff\n")[0].as_ref().unwrap_err().contains("not UTF-8"));
        let long = format!("{}@x b", "a".repeat(320));
        assert!(read(long.as_bytes())[0].as_ref().unwrap_err().contains("longer than 320 octets"));
    }

    #[test]
    fn an_alias_is_bounded_as_a_whole_and_the_next_one_is_read() {
        let text = format!("a@x\n{}z y\n", " b@x, c@x, d@x\n".repeat(100_000));
        let lines = read(text.as_bytes());
        assert!(lines[0].as_ref().unwrap_err().starts_with("line 1, field line: it is longer than 1024 KiB"));
        assert_eq!(lines[1..], [alias(100_002, "z", &["y"])]);
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(
            address in "[a-z+\u{e9}]{1,8}(@[a-z.]{1,8})?|@[a-z]{1,8}",
            targets in prop::collection::vec("[a-z][a-z \"\\\\,:]{0,8}(@[a-z.]{1,8})?", 1..5),
            separator in "( |\t|,|, |\n |\n#x\n\t){1}",
        ) {
            let quote = |target: &String| match target.rsplit_once('@') {
                Some((local, domain)) => format!("\"{}\"@{domain}", escape(local)),
                None => format!("\"{}\"", escape(target)),
            };
            let quoted: Vec<String> = targets.iter().map(quote).collect();
            let text = format!("{address} {}\n", quoted.join(&separator));
            prop_assert_eq!(read(text.as_bytes()), [Ok(Alias { line: 1, address, targets })]);
        }

        #[test]
        fn any_octets_give_aliases_or_faults_and_every_logical_line_counts(
            lines in prop::collection::vec("([ \t#]?[a@x,\"\\\\<>|:\u{7}]{0,6}[ ,]?){0,4}", 0..8),
        ) {
            let text = lines.join("\n");
            let is_begun = |line: &&String| !matches!(line.trim_ascii_start().as_bytes().first(), None | Some(b'#'));
            let counted: Vec<&String> = lines.iter().filter(is_begun).collect();
            // The first one begins a logical line even where it should not.
            let begun = counted.iter().skip(1).filter(|line| !line.starts_with([' ', '\t'])).count();
            prop_assert_eq!(read(text.as_bytes()).len(), begun + usize::from(!counted.is_empty()));
        }
    }

    fn escape(local: &str) -> String {
        local.replace('\\', "\\\\").replace('"', "\\\"")
    }
}
