//! Replies of a server (RFC 5321, section 4.2): the machine that finds them in what was received.
//!
//! Owns nothing; bytes in, a reply and its length out.
#![forbid(unsafe_code)]

/// A reply: its code, and the first line if somebody will want to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Three digits.
    pub(crate) code: u16,
    /// The first line; empty for 2xx and 3xx.
    pub(crate) text: String,
}

/// The first reply in `bytes` and its length, if it is complete (RFC 5321, section 4.2.1).
///
/// # Errors
/// What is there instead of a reply.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, String> {
    let mut start = 0;
    loop {
        let Some(length) = memchr::memchr(b'\n', &bytes[start..]) else {
            return Ok(None);
        };
        let line = &bytes[start..start + length];
        start += length + 1;
        let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let code =
            digits.map(|digits| digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')));
        match (code, line.get(3)) {
            (Some(200..600), Some(b'-')) => {}
            (Some(code @ 200..600), None | Some(b' ' | b'\r')) => {
                let text = if code < 400 { String::new() } else { first_line(bytes) };
                return Ok(Some((Reply { code, text }, start)));
            }
            _ => return Err(first_line(line)),
        }
    }
}

/// The first line, as much as can be shown of it.
pub(crate) fn first_line(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(LINE_SHOWN_BYTES)]).trim_end().to_owned()
}

const LINE_SHOWN_BYTES: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Option<(u16, String, usize)> {
        parse(bytes).unwrap().map(|(reply, length)| (reply.code, reply.text, length))
    }

    #[test]
    fn a_reply_is_complete_with_its_last_line() {
        let replies = b"250-mx\r\n250-SIZE\r\n250 PIPELINING\r\n354 go\r\n";
        for cut in 0..34 {
            assert_eq!(parsed(&replies[..cut]), None, "{cut}");
        }
        assert_eq!(parsed(replies), Some((250, String::new(), 34)));
        assert_eq!(parsed(&replies[34..]), Some((354, String::new(), 8)));
        assert_eq!(parsed(b"221\r\n"), Some((221, String::new(), 5)));
    }

    #[test]
    fn a_refusal_keeps_its_first_line() {
        let reply = b"550-5.1.1 nobody\r\n550 5.1.1 here\r\n";
        assert_eq!(parsed(reply), Some((550, "550-5.1.1 nobody".into(), reply.len())));
    }

    #[test]
    fn what_is_no_reply_is_shown() {
        for bytes in ["SSH-2.0-OpenSSH\r\n", "25 ok\r\n", "999 x\r\n", "250+x\r\n", "\r\n"] {
            assert!(parse(bytes.as_bytes()).is_err(), "{bytes}");
        }
    }
}
