//! Folders of a Maildir: from the detail of an address to the directory that its mail goes to.
//!
//! Owns what a detail may name, and the encoding of names. A detail is the name of a mailbox as Dovecot's
//! `lmtp_save_to_detail_mailbox` takes it, and the directory is the one that Dovecot has for that mailbox
//! (Maildir++): a dot, then the name, with a dot between the levels of the hierarchy, in modified UTF-7 (RFC 3501
//! section 5.1.3). So `alice+lists.rust` is for `.lists.rust`, which a reader shows as "rust" beneath "lists".
//!
//! Promises that a directory which comes from here is one path component of printable ASCII that leads
//! neither up nor out, and that it is never one of the Maildir's own. A detail that names no such folder is for
//! the inbox. Never looks at a disk.
//!
//! Names are taken as they come: case matters, and nothing is brought into a normal form. An "ü" of two characters
//! is another folder than one of a single character, for Dovecot 2.3 as well.
#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Most bytes of the directory's name: NAME_MAX.
pub const FOLDER_BYTES_MAX: usize = 255;

/// The directory for mail with this detail, `None` if it is for the inbox.
///
/// ```
/// use posthaste::maildir::folder::directory_for;
///
/// assert_eq!(directory_for("lists.rust").as_deref(), Some(".lists.rust"));
/// assert_eq!(directory_for("B\u{fc}cher & mehr").as_deref(), Some(".B&APw-cher &- mehr"));
/// assert_eq!(directory_for("../bob"), None);
/// ```
#[must_use]
pub fn directory_for(detail: &str) -> Option<String> {
    let is_clean = !detail.starts_with('~') && detail.split('.').all(|level| !level.is_empty());
    if !is_clean || detail.chars().any(is_refused) {
        return None;
    }
    let mut directory = String::with_capacity(detail.len() + 1);
    directory.push('.');
    match detail.split_once('.') {
        // The inbox has one name, however it is written (RFC 3501 section 5.1).
        None if is_inbox(detail) => return None,
        Some((first, rest)) if is_inbox(first) => {
            directory.push_str("INBOX.");
            push_modified_utf7(&mut directory, rest);
        }
        _ => push_modified_utf7(&mut directory, detail),
    }
    (directory.len() <= FOLDER_BYTES_MAX).then_some(directory)
}

fn is_inbox(level: &str) -> bool {
    level.eq_ignore_ascii_case("INBOX")
}

/// What a name must not contain: it would lead elsewhere, or break a line of somebody's list.
fn is_refused(character: char) -> bool {
    character == '/' || character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Appends `text` in modified UTF-7: printable ASCII as it is but for `&`, which is `&-`; the rest as UTF-16
/// in base64, between `&` and `-`.
fn push_modified_utf7(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let others = if is_direct(first) {
            rest.find(|character| !is_direct(character))
        } else {
            rest.find(is_direct)
        };
        let (run, behind) = rest.split_at(others.unwrap_or(rest.len()));
        if is_direct(first) {
            out.push_str(&run.replace('&', "&-"));
        } else {
            out.push('&');
            push_base64(out, run.encode_utf16());
            out.push('-');
        }
        rest = behind;
    }
}

fn is_direct(character: char) -> bool {
    matches!(character, ' '..='~')
}

/// Appends the units, high byte first, as base64 with `,` for `/` and without padding.
fn push_base64(out: &mut String, units: impl Iterator<Item = u16>) {
    let mut bits = 0_u32;
    let mut count = 0;
    for unit in units {
        // At most five bits are left of the unit before.
        bits = (bits << 16 | u32::from(unit)) & 0x001f_ffff;
        count += 16;
        while count >= 6 {
            count -= 6;
            out.push(digit(bits >> count));
        }
    }
    if count > 0 {
        out.push(digit(bits << (6 - count)));
    }
}

fn digit(bits: u32) -> char {
    char::from(BASE64[(bits & 63) as usize])
}

static BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/// One path for a Maildir and a folder in it, which [`apart`] takes apart again: two slashes stand between them, as they
/// stand in no path of the user table. The journal has it so. For the kernel it is the path of the folder.
#[must_use]
pub fn together<'p>(maildir: &'p str, folder: Option<&str>) -> Cow<'p, str> {
    match folder {
        Some(folder) => Cow::Owned(format!("{maildir}//{folder}")),
        None => Cow::Borrowed(maildir),
    }
}

/// The Maildir and the folder of a path that [`together`] made.
#[must_use]
pub fn apart(path: &str) -> (&str, Option<&str>) {
    match path.rsplit_once("//") {
        Some((maildir, folder)) if is_directory(folder) => (maildir, Some(folder)),
        _ => (path, None),
    }
}

/// Whether a name has the form of those that [`directory_for`] gives.
fn is_directory(name: &str) -> bool {
    name.strip_prefix('.').is_some_and(|rest| !rest.is_empty() && !rest.starts_with('.'))
        && name.len() <= FOLDER_BYTES_MAX
        && name.chars().all(|character| is_direct(character) && character != '/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(text: &str) -> String {
        let mut out = String::new();
        push_modified_utf7(&mut out, text);
        out
    }

    /// The naive twin: bytes to a string of bits, six at a time.
    fn encoded_naively(text: &str) -> String {
        let mut out = String::new();
        let mut waiting = String::new();
        let flush = |waiting: &mut String, out: &mut String| {
            if !waiting.is_empty() {
                let bits: String = waiting.encode_utf16().map(|unit| format!("{unit:016b}")).collect();
                let digits = bits.as_bytes().chunks(6).map(|six| {
                    let six = format!("{:0<6}", std::str::from_utf8(six).unwrap());
                    char::from(BASE64[usize::from_str_radix(&six, 2).unwrap()])
                });
                out.push_str(&format!("&{}-", digits.collect::<String>()));
                waiting.clear();
            }
        };
        for character in text.chars() {
            if (' '..='~').contains(&character) {
                flush(&mut waiting, &mut out);
                out.push(character);
                out.push_str(if character == '&' { "-" } else { "" });
            } else {
                waiting.push(character);
            }
        }
        flush(&mut waiting, &mut out);
        out
    }

    /// What a reader makes of a name.
    fn decoded(name: &str) -> Option<String> {
        let mut text = String::new();
        let mut rest = name;
        while let Some((before, encoded)) = rest.split_once('&') {
            text.push_str(before);
            let (encoded, behind) = encoded.split_once('-')?;
            rest = behind;
            if encoded.is_empty() {
                text.push('&');
                continue;
            }
            let mut bits = String::new();
            for digit in encoded.bytes() {
                let value = BASE64.iter().position(|&other| other == digit)?;
                bits.push_str(&format!("{value:06b}"));
            }
            let padding = bits.split_off(bits.len() / 16 * 16);
            assert!(padding.len() < 6 && !padding.contains('1'), "{name}");
            let units = bits
                .as_bytes()
                .chunks(16)
                .map(|unit| u16::from_str_radix(std::str::from_utf8(unit).unwrap(), 2).unwrap());
            text.push_str(&String::from_utf16(&units.collect::<Vec<_>>()).ok()?);
        }
        text.push_str(rest);
        Some(text)
    }

    #[test]
    fn names_are_encoded_as_dovecot_does_it() {
        for (text, expected) in [
            ("lists", "lists"),
            ("a&b", "a&-b"),
            ("&", "&-"),
            ("&&", "&-&-"),
            ("B\u{fc}cher", "B&APw-cher"),
            ("\u{65e5}\u{672c}", "&ZeVnLA-"),
            // RFC 3501 section 5.1.3.
            ("~peter/mail/\u{53f0}\u{5317}/\u{65e5}\u{672c}\u{8a9e}", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("u\u{308}", "u&Awg-"),
            ("\u{1f4ec}", "&2D3c7A-"),
            ("\u{1f4ec}&\u{fc}", "&2D3c7A-&-&APw-"),
        ] {
            assert_eq!(encoded(text), expected, "{text}");
        }
    }

    #[test]
    fn a_dot_begins_a_level_of_the_hierarchy_and_none_is_empty() {
        assert_eq!(directory_for("lists").as_deref(), Some(".lists"));
        assert_eq!(directory_for("Lists.Rust.x").as_deref(), Some(".Lists.Rust.x"));
        assert_eq!(directory_for("J\u{f6}rg.\u{e4}&").as_deref(), Some(".J&APY-rg.&AOQ-&-"));
        for detail in ["", ".", "..", "...", "a..b", ".a", "a.", "..a", "a.."] {
            assert_eq!(directory_for(detail), None, "{detail}");
        }
    }

    #[test]
    fn what_would_leave_the_maildir_is_for_the_inbox() {
        for detail in [
            "../bob",
            "../../etc",
            "a/b",
            "/etc/passwd",
            "/",
            "~",
            "~root",
            "a\0b",
            "a\nb",
            "a\tb",
            "\u{7f}",
            "a\u{85}b",
            "a\u{2028}b",
        ] {
            assert_eq!(directory_for(detail), None, "{detail:?}");
        }
        // No folder is meant by these, but they harm nobody.
        for detail in ["cur", "new", "tmp", "subscriptions", "maildirfolder", "a~", "a\\b", " a ", "a*%\"b"] {
            assert_eq!(directory_for(detail), Some(format!(".{detail}")));
        }
    }

    #[test]
    fn the_inbox_has_one_name_in_any_case() {
        for detail in ["INBOX", "inbox", "InBox"] {
            assert_eq!(directory_for(detail), None, "{detail}");
        }
        assert_eq!(directory_for("Inbox.a.inbox").as_deref(), Some(".INBOX.a.inbox"));
        assert_eq!(directory_for("inboxes").as_deref(), Some(".inboxes"));
    }

    #[test]
    fn a_directory_has_at_most_255_bytes() {
        assert_eq!(directory_for(&"a".repeat(254)), Some(format!(".{}", "a".repeat(254))));
        assert_eq!(directory_for(&"a".repeat(255)), None);
        // Eight digits for three of them.
        assert!(directory_for(&"\u{fc}".repeat(94)).is_some());
        assert_eq!(directory_for(&"\u{fc}".repeat(95)), None);
    }

    #[test]
    fn a_path_of_the_journal_keeps_maildir_and_folder_apart() {
        for (maildir, folder) in [
            ("/mail/alice/Maildir", Some(".lists.rust")),
            ("/mail/alice/.maildir", None),
            ("/mail/alice/.maildir", Some(".B&APw-cher")),
        ] {
            assert_eq!(apart(&together(maildir, folder)), (maildir, folder));
        }
        for path in
            ["/mail//alice", "/mail//..", "/mail//.", "/mail//...a", "/mail//.a/b", "/mail//", "//", ""]
        {
            assert_eq!(apart(path), (path, None));
        }
    }

    proptest! {
        #[test]
        fn every_name_is_encoded_as_the_naive_twin_does_it_and_read_back(text in "\\PC{0,40}|[a&\u{fc}\u{1f4ec}-]{0,20}") {
            let name = encoded(&text);
            prop_assert_eq!(&name, &encoded_naively(&text));
            prop_assert!(name.chars().all(is_direct));
            prop_assert_eq!(decoded(&name), Some(text));
        }

        #[test]
        fn a_directory_is_one_component_of_its_maildir_whatever_the_detail(detail in any::<String>()) {
            if let Some(directory) = directory_for(&detail) {
                prop_assert!(is_directory(&directory), "{}", directory);
                let path = together("/m", Some(&directory));
                prop_assert_eq!(apart(&path), ("/m", Some(&*directory)));
            }
        }
    }
}
