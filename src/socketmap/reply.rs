//! Puts an answer on the wire.
//!
//! Promises that no reply is longer than Postfix reads. `TIMEOUT` is never said: a look-up waits for nothing.
#![forbid(unsafe_code)]

use std::io::Write as _;

use crate::limits::SOCKETMAP_REPLY_BYTES_MAX;

/// The answer to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// What was asked for.
    Found(&'a str),
    /// There is certainly nothing under this key.
    NotFound,
    /// Nobody can tell now: Postfix defers, and asks again.
    Temporary(&'static str),
    /// The request cannot be answered, ever: main.cf is wrong.
    Permanent(&'static str),
}

impl Reply<'_> {
    /// Appends the reply to `out`. One that is longer than Postfix reads becomes [`Reply::Temporary`].
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let (word, text) = match *self {
            Self::Found(data) if data.len() > DATA_BYTES_MAX => ("TEMP", TOO_LONG),
            Self::Found(data) => ("OK", data),
            Self::NotFound => ("NOTFOUND", ""),
            Self::Temporary(reason) => ("TEMP", reason),
            Self::Permanent(reason) => ("PERM", reason),
        };
        let length = word.len() + 1 + text.len();
        write!(out, "{length}:{word} {text},").expect("a vector takes everything");
    }
}

/// Longest text behind `OK `.
pub const DATA_BYTES_MAX: usize = SOCKETMAP_REPLY_BYTES_MAX - "OK ".len();

const TOO_LONG: &str = "the alias leads to more addresses than Postfix can read";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: Reply<'_>) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reply_is_a_netstring_of_a_word_a_space_and_a_text() {
        assert_eq!(written(Reply::Found("alice@example.net")), "20:OK alice@example.net,");
        assert_eq!(written(Reply::NotFound), "9:NOTFOUND ,");
        assert_eq!(written(Reply::Temporary("later")), "10:TEMP later,");
        assert_eq!(written(Reply::Permanent("no")), "7:PERM no,");
        assert_eq!(written(Reply::Found("J\u{f6}rg")), "8:OK J\u{f6}rg,", "octets are counted");
    }

    #[test]
    fn what_postfix_would_not_read_is_never_sent() {
        let longest = "x".repeat(DATA_BYTES_MAX);
        assert!(written(Reply::Found(&longest)).starts_with("100000:OK xxx"));
        let over = "x".repeat(DATA_BYTES_MAX + 1);
        assert_eq!(written(Reply::Found(&over)), format!("{}:TEMP {TOO_LONG},", TOO_LONG.len() + 5));
    }
}
