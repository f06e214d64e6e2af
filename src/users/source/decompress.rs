//! Inputs that may be compressed.
//!
//! Owns the recognition of gzip and zstd by the octets that a file begins with, whatever its name; anything else is
//! text. Promises to give all members of a file, as `cat a.gz b.gz` or pigz make it, and an error, never an early
//! end, if it is cut off. Forms that are known and not read are refused by name. Never looks at the text.
#![forbid(unsafe_code)]

use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// The text of `input`.
///
/// # Errors
/// If it cannot be read, or is compressed in a way that is not known here.
pub fn open(mut input: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let head = read_head(&mut input)?;
    let kind = Kind::of(&head);
    let input = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(input));
    Ok(match kind {
        Kind::Text => Box::new(input),
        Kind::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(input))),
        Kind::Zstd => Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(input)?)),
        Kind::Refused(name, program) => {
            let message = format!(
                "it is compressed with {name}; use \"{program} -dc FILE | posthaste users build ...\""
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
    })
}

/// How an input is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Gzip,
    Zstd,
    /// Not read here: its name, and who does.
    Refused(&'static str, &'static str),
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        match head {
            // RFC 1952 section 2.3.1: the method is always 8.
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            // RFC 8878 section 3.1: a frame, or one that decoders skip, which pzstd begins with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Refused("xz", "xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y'] => {
                Self::Refused("bzip2", "bzip2")
            }
            _ => Self::Text,
        }
    }
}

/// The first octets of `input`, however small the pieces are that it comes in.
fn read_head(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    input.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// As many octets as the longest mark has.
const HEAD_BYTES: usize = 10;
/// One read of the kernel, and one piece of text.
const BUFFER_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    /// Gives one octet at a time, as a slow pipe may.
    struct Dribble(Cursor<Vec<u8>>);

    impl Read for Dribble {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    fn text_of(bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        open(Dribble(Cursor::new(bytes.to_vec())))?.read_to_string(&mut text)?;
        Ok(text)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &str) -> Vec<u8> {
        zstd::encode_all(text.as_bytes(), 1).unwrap()
    }

    #[test]
    fn all_members_and_frames_are_read_whatever_is_in_front_of_them() {
        let skipped = [&[0x5e, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd("a")].concat();
        for (bytes, text) in [
            (b"".to_vec(), ""),
            (b"a".to_vec(), "a"),
            (b"alice@example.org:x".to_vec(), "alice@example.org:x"),
            (gzip("a\n"), "a\n"),
            ([gzip("a\n"), gzip(""), gzip("b\n")].concat(), "a\nb\n"),
            ([zstd("a\n"), zstd(""), zstd("b\n")].concat(), "a\nb\n"),
            (skipped, "a"),
        ] {
            assert_eq!(text_of(&bytes).unwrap(), text);
        }
    }

    #[test]
    fn what_is_cut_off_or_damaged_is_an_error_at_every_place() {
        let text: String = (0..50).map(|n| format!("user{n}@example.org:::::/home/{n}\n")).collect();
        for whole in [gzip(&text), zstd(&text)] {
            assert_eq!(text_of(&whole).unwrap(), text);
            for end in 4..whole.len() {
                assert!(text_of(&whole[..end]).is_err(), "cut off at {end}");
            }
        }
        let mut damaged = gzip(&text);
        *damaged.iter_mut().nth_back(5).unwrap() ^= 1;
        assert!(text_of(&damaged).is_err(), "the checksum does not fit");
    }

    #[test]
    fn other_forms_are_refused_with_a_way_to_read_them() {
        for (head, name) in [(&b"\xfd7zXZ\0rest"[..], "xz"), (b"BZh91AY&SYrest", "bzip2")] {
            let message = text_of(head).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("-dc FILE |"), "{message}");
        }
        assert_eq!(text_of(b"BZh9:::::/home/b\n").unwrap(), "BZh9:::::/home/b\n");
    }
}
