//! Whatever users and aliases are read from: each line is accounted for, what comes out of it could be stored, and
//! written as JSON lines it is read as the same.

use super::input::Input;
use posthaste::users::source::accounts::Accounts;
use posthaste::users::source::csv::{Csv, Separator};
use posthaste::users::source::json::Json;
use posthaste::users::source::nss::{Nss, Wanted};
use posthaste::users::source::passwd_file::PasswdFile;
use posthaste::users::source::virtual_aliases::VirtualAliases;
use posthaste::users::source::{Item, ReadError, Source};
use posthaste::users::{Entry, LocalPart};
use serde_json::{Value, json};
use std::io::BufReader;

/// Input: the format; whether unknown names are ignored and local parts kept; the size of the pieces in which the text
/// comes; the text.
pub fn hold(input: &[u8]) {
    let mut input = Input::new(input);
    let (format, options, piece) = (input.byte() % 6, input.byte(), usize::from(input.byte()) + 1);
    let text = input.rest();
    let whole = read(&mut *open(format, options, text, 1 << 16));
    let in_pieces = read(&mut *open(format, options, text, piece));
    assert!(whole == in_pieces, "lines mean the same however they arrive");

    let expected = match format {
        0 => Some(lines(text).filter(|line| !matches!(line.first(), None | Some(b'#' | b':'))).count()),
        3 => Some(lines(text).filter(|line| !line.trim_ascii().is_empty()).count()),
        4 => Some(logical_lines(text)),
        _ => None,
    };
    assert!(expected.is_none_or(|expected| expected == whole.len()), "{expected:?}: {whole:?}");
    for item in whole.into_iter().flatten() {
        read_again(&item);
    }
}

fn open<'t>(format: u8, options: u8, text: &'t [u8], piece: usize) -> Box<dyn Source + 't> {
    let accounts = Accounts::parse("vmail:x:5000:5000::/:\n", "mail:x:8:\n");
    let local_part = if options & 1 == 0 { LocalPart::Folded } else { LocalPart::Kept };
    let ignore_unknown = options & 2 != 0;
    let input = BufReader::with_capacity(piece, text);
    let csv = |input, separator, accounts| Csv::new(input, separator, accounts, local_part, ignore_unknown);
    match format {
        0 => Box::new(PasswdFile::new(input, accounts, local_part)),
        1 => Box::new(csv(input, Separator::Comma, accounts)),
        2 => Box::new(csv(input, Separator::Tab, accounts)),
        3 => Box::new(Json::new(input, accounts, local_part, ignore_unknown)),
        4 => Box::new(VirtualAliases::new(input)),
        _ => {
            let domain = (options & 4 != 0).then(|| "example.net".to_owned());
            Box::new(Nss::new(text.to_vec(), Wanted { uids: 1000..=60_000, domain }))
        }
    }
}

/// All that a source gives; bad lines as what is said about them.
fn read(source: &mut dyn Source) -> Vec<Result<Item, String>> {
    let (mut found, mut last) = (Vec::new(), 0);
    loop {
        let mut item = Item::default();
        let (line, step) = match source.read(&mut item) {
            Ok(false) => return found,
            Ok(true) => (item.line(), Ok(item)),
            Err(ReadError::Line(bad)) => {
                let message = bad.to_string();
                assert!(message.contains("; ") && !message.contains(char::is_control), "{message:?}");
                (bad.line, Err(message))
            }
            Err(ReadError::Input(error)) => panic!("{error}"),
        };
        assert!(line > last && line <= source.line().max(1), "line {line} after {last}");
        last = line;
        found.push(step);
    }
}

/// Without their ends, and without a byte order mark.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    text.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// A line that is neither empty nor a comment begins one, unless it begins with a blank and goes on with another.
fn logical_lines(text: &[u8]) -> usize {
    let mut visible =
        lines(text).filter(|line| !matches!(line.trim_ascii_start().first(), None | Some(b'#')));
    let first = usize::from(visible.next().is_some());
    first + visible.filter(|line| !matches!(line.first(), Some(b' ' | b'\t'))).count()
}

fn read_again(item: &Item) {
    let line = match item {
        Item::User(entry) => {
            assert_eq!(entry.check(), Ok(()));
            user_as_json(entry)
        }
        Item::Alias(alias) => {
            assert_eq!(alias.check(), Ok(()));
            json!({ "alias": alias.address, "targets": alias.targets })
        }
    };
    let text = line.to_string();
    let again = read(&mut Json::new(text.as_bytes(), Accounts::default(), LocalPart::Folded, false));
    let expected = match item.clone() {
        Item::User(entry) => Item::User(Entry { line: 1, ..entry }),
        Item::Alias(alias) => Item::Alias(posthaste::users::Alias { line: 1, ..alias }),
    };
    assert_eq!(again, [Ok(expected)], "{text}");
}

/// As `users dump --json` prints it.
fn user_as_json(entry: &Entry) -> Value {
    let maildir = match &entry.home {
        Some(home) if !entry.mail.starts_with('/') => format!("{home}/{}", entry.mail),
        _ => entry.mail.clone(),
    };
    json!({
        "address": entry.address,
        "home": entry.home,
        "mail": entry.mail,
        "maildir": maildir,
        "uid": entry.uid,
        "gid": entry.gid,
        "quota_bytes": entry.quota_bytes,
        "quota_messages": entry.quota_messages,
    })
}
