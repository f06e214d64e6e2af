//! A reply, and how it is put on the wire.
//!
//! A reply is a code, an enhanced code (RFC 2034) and a text. It promises the wire three things, whatever its text
//! was made of: every line ends with CRLF, no line is longer than [`REPLY_LINE_BYTES_MAX`], and nothing that a
//! client said can start a line of its own. The texts themselves are in [`super::replies`].
#![forbid(unsafe_code)]

use crate::limits::{REPLY_ECHO_BYTES_MAX, REPLY_LINE_BYTES_MAX};
use std::borrow::Cow;
use std::fmt;

/// One reply, of one line or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<Enhanced>,
    /// LF between lines, no other control character.
    text: Cow<'static, str>,
}

/// An enhanced status code: class, subject, detail (RFC 3463 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enhanced(pub u8, pub u8, pub u8);

impl Reply {
    /// A reply with a fixed text.
    ///
    /// # Panics
    /// If the class of the enhanced code is not the first digit of the code (RFC 2034 section 4). For a constant, that
    /// is an error of the compiler.
    #[must_use]
    pub const fn fixed(code: u16, enhanced: Enhanced, text: &'static str) -> Self {
        assert!(code / 100 == enhanced.0 as u16);
        Self { code, enhanced: Some(enhanced), text: Cow::Borrowed(text) }
    }

    /// A reply with a fixed text and no enhanced code: the greeting, the reply to LHLO, and 354 have none
    /// (RFC 2034 section 4).
    #[must_use]
    pub const fn plain(code: u16, text: &'static str) -> Self {
        Self { code, enhanced: None, text: Cow::Borrowed(text) }
    }

    /// A reply with a text made for the occasion. LF starts a new line of the reply, other control characters
    /// become `?`. A part that a client can choose must go through [`echo`] first.
    ///
    /// # Panics
    /// As [`Reply::fixed`].
    #[must_use]
    pub fn made(code: u16, enhanced: Option<Enhanced>, text: String) -> Self {
        assert!(enhanced.is_none_or(|enhanced| code / 100 == u16::from(enhanced.0)));
        let unclean = |character: char| character.is_control() && character != '\n';
        let suspect = |octet| may_be_control(octet) & (octet != b'\n');
        let is_unclean = any_octet(&text, suspect) && text.contains(unclean);
        let text = if is_unclean { text.replace(unclean, "?") } else { text };
        Self { code, enhanced, text: Cow::Owned(text) }
    }

    /// The three digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code, where there is one.
    #[must_use]
    pub const fn enhanced(&self) -> Option<Enhanced> {
        self.enhanced
    }

    /// The text, LF between its lines.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether this says that a command did what it was meant to (2yz, or 354).
    #[must_use]
    pub const fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Appends the reply as it goes to the client, CRLF at the end of each line.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut rest: &str = &self.text;
        loop {
            let (line, more) = match memchr::memchr(b'\n', rest.as_bytes()) {
                Some(line_feed) => (&rest[..line_feed], Some(&rest[line_feed + 1..])),
                None => (rest, None),
            };
            let separator = if more.is_some() { b'-' } else { b' ' };
            self.write_line(line, separator, out);
            match more {
                Some(more) => rest = more,
                None => break,
            }
        }
    }

    fn write_line(&self, line: &str, separator: u8, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(HEAD_BYTES_MAX + line.len() + b"\r\n".len());
        out.extend_from_slice(&digits(self.code));
        out.push(separator);
        if let Some(Enhanced(class, subject, detail)) = self.enhanced {
            for number in [class, subject, detail] {
                write_number(number, out);
                out.push(b'.');
            }
            if let Some(last) = out.last_mut() {
                *last = b' ';
            }
        }
        let room = REPLY_LINE_BYTES_MAX - b"\r\n".len() - (out.len() - start);
        out.extend_from_slice(cut(line, room).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// What stands before the text: `250 2.255.255 `.
const HEAD_BYTES_MAX: usize = 14;

/// As on the wire, without the last CRLF: for log lines.
impl fmt::Display for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut wire = Vec::new();
        self.write_to(&mut wire);
        out.write_str(String::from_utf8_lossy(&wire).trim_end())
    }
}

/// What of a client's own text a reply may repeat: at most [`REPLY_ECHO_BYTES_MAX`] octets of it, `?` for every
/// control character.
#[must_use]
pub fn echo(text: &str) -> Cow<'_, str> {
    let text = cut(text, REPLY_ECHO_BYTES_MAX);
    if any_octet(text, may_be_control) && text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, "?"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether an octet may belong to a control character. Those beyond ASCII, U+0080 to U+009F, are C2 and one more octet.
fn may_be_control(octet: u8) -> bool {
    (octet < b' ') | (octet == 0x7f) | (octet == 0xc2)
}

/// Whether `text` has such an octet. All are looked at and none ends the search, so that the compiler makes vector code
/// of it: nearly every text has none, and need not be decoded.
fn any_octet(text: &str, is_such: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(false, |found, octet| found | is_such(octet))
}

/// The longest start of `text` that has at most `bytes_max` octets and ends between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn digits(code: u16) -> [u8; 3] {
    [code / 100, code / 10, code].map(|number| b'0' + (number % 10).to_le_bytes()[0])
}

fn write_number(number: u8, out: &mut Vec<u8>) {
    if number < 10 {
        return out.push(b'0' + number);
    }
    let [hundreds, tens, ones] = digits(u16::from(number));
    if number >= 100 {
        out.push(hundreds);
    }
    out.push(tens);
    out.push(ones);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_line_has_code_enhanced_code_and_text() {
        let reply = Reply::fixed(550, Enhanced(5, 1, 1), "No such user");
        assert_eq!(wire(&reply), "550 5.1.1 No such user\r\n");
        let reply = Reply::fixed(250, Enhanced(2, 10, 255), "OK");
        assert_eq!(wire(&reply), "250 2.10.255 OK\r\n");
        assert_eq!(wire(&Reply::plain(354, "OK")), "354 OK\r\n");
    }

    #[test]
    fn every_line_but_the_last_has_a_hyphen_after_the_code() {
        let reply = Reply::made(250, None, "host\nPIPELINING\nSIZE 1".to_owned());
        assert_eq!(wire(&reply), "250-host\r\n250-PIPELINING\r\n250 SIZE 1\r\n");
        let reply = Reply::fixed(214, Enhanced(2, 0, 0), "a\nb");
        assert_eq!(wire(&reply), "214-2.0.0 a\r\n214 2.0.0 b\r\n");
    }

    #[test]
    fn no_line_is_longer_than_the_limit_and_none_is_cut_inside_a_character() {
        for filler in ["x", "\u{e9}", "\u{20ac}", "\u{1f4e8}"] {
            let reply = Reply::made(550, Some(Enhanced(5, 1, 1)), filler.repeat(1000));
            let wire = wire(&reply);
            assert!(wire.len() <= REPLY_LINE_BYTES_MAX);
            assert!(wire.len() > REPLY_LINE_BYTES_MAX - 4);
            assert!(wire.ends_with(&format!("{filler}\r\n")));
        }
    }

    #[test]
    fn nothing_repeated_starts_a_line_or_moves_a_cursor() {
        assert_eq!(echo("a\r\n250 b\0\x1b[2J\u{9b}"), "a??250 b??[2J?");
        assert_eq!(echo(&"x".repeat(5000)).len(), REPLY_ECHO_BYTES_MAX);
        let reply = Reply::made(250, None, "a\rb\x7f".to_owned());
        assert_eq!(wire(&reply), "250 a?b?\r\n");
    }

    #[test]
    fn every_control_character_is_replaced_wherever_it_stands() {
        for character in (0..=0x2ff).filter_map(char::from_u32) {
            let text = format!("j\u{f6}rg{character}");
            let expected = if character.is_control() { "j\u{f6}rg?" } else { text.as_str() };
            assert_eq!(echo(&text), expected, "{character:?}");
            if character != '\n' {
                assert_eq!(Reply::made(250, None, text.clone()).text(), expected, "{character:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "code / 100")]
    fn an_enhanced_code_of_another_class_is_refused() {
        let _ = Reply::fixed(550, Enhanced(4, 1, 1), "no");
    }
}
