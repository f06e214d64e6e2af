//! What is written: message bytes, trace headers as Posthaste makes them, and how large messages are.
//!
//! Owns the content. Promises files of the very length that Posthaste's have for the same message.
#![forbid(unsafe_code)]

use std::path::Path;

use posthaste::mail::trace::Trace;

/// How large messages are.
#[derive(Debug)]
pub(crate) struct Sizes(Vec<usize>);

impl Sizes {
    /// All the same.
    pub(crate) fn fixed(size: usize) -> Self {
        Self(vec![size])
    }

    /// From a file with one number a line.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(&text)
            .ok_or_else(|| format!("{}: write one number of bytes on each line", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let sizes: Option<Vec<usize>> = text.lines().map(|line| line.trim().parse().ok()).collect();
        sizes.filter(|sizes| !sizes.is_empty()).map(Self)
    }

    /// The size of message `number`.
    pub(crate) fn of(&self, number: u64) -> usize {
        let count = u64::try_from(self.0.len()).expect("few");
        self.0[usize::try_from(number % count).expect("an index")]
    }

    /// The largest.
    pub(crate) fn largest(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(0)
    }
}

/// So many bytes of lines; messages are its beginnings.
pub(crate) fn text(bytes: usize) -> Vec<u8> {
    const LINE: &[u8] = b"The quick brown fox jumps over the lazy dog, and nobody is told about it.\r\n";
    LINE.iter().copied().cycle().take(bytes).collect()
}

/// The trace headers of message `number` for one recipient, or for all of them.
pub(crate) fn head(number: u64, mailbox: Option<usize>) -> Vec<u8> {
    let recipient = mailbox.map(|mailbox| format!("{mailbox}user@example.test"));
    let trace = Trace {
        sender: "sender@example.org",
        recipient: recipient.as_deref(),
        client: Some("client.example.org"),
        address: None,
        host: HOST,
        protocol: "LMTP",
        id: &format!("{number:016x}.0"),
        date: "Mon, 23 Nov 2026 12:00:00 +0000",
        line_end: "\r\n",
    };
    trace.headers()
}

/// The host in file names and headers.
pub(crate) const HOST: &str = "mx.example.test";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_taken_in_turn() {
        let sizes = Sizes::parse("10\n20\n30\n").expect("three sizes");
        assert_eq!([0, 1, 2, 3].map(|number| sizes.of(number)), [10, 20, 30, 10]);
        assert_eq!(sizes.largest(), 30);
        assert!(Sizes::parse("").is_none() && Sizes::parse("4KiB").is_none());
    }

    #[test]
    fn text_has_the_length_that_was_asked_for() {
        for bytes in [0, 1, 75, 4096] {
            assert_eq!(text(bytes).len(), bytes);
        }
    }
}
