//! One message in the journal: made when it is complete, sealed when its batch is formed, read by recovery.
//!
//! Promises that what [`RecordHead`] accepts is read back as it was, and that what is read is within every bound
//! of [`super::format`]: names without `/` and NUL, absolute paths, an owner who is not root.
#![forbid(unsafe_code)]

use std::fmt;

use super::format::{
    FLAG_LAST, HEAD_BYTES, NAME_BYTES_MAX, PATH_BYTES_MAX, RECIPIENTS_MAX, RECORD_ALIGN, RECORD_MAGIC,
    SERVER_ID, TRACE_BYTES_MAX, put, record_at as at, u32_at, u64_at,
};
use crate::ring::Owner;

/// One file to be: who owns it, where it stands, and what precedes the payload in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'r> {
    /// Who owns it. Ids are never 0.
    pub owner: Owner,
    /// The user's home, absolute, where there is one.
    pub home: Option<&'r str>,
    /// The Maildir, absolute, or two slashes behind it a folder of its.
    pub path: &'r str,
    /// The file's name in `new/`.
    pub name: &'r str,
    /// The bytes before the payload.
    pub trace: &'r [u8],
}

/// A record up to its payload, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHead {
    bytes: Vec<u8>,
    payload_bytes: u64,
    /// CRC of what does not change any more: the bytes from 40 on.
    envelope_checksum: u32,
}

impl RecordHead {
    /// The head of a record whose payload has so many bytes and that CRC-32C (see [`super::format::checksum`]).
    /// It must be [sealed](Self::seal) before it is written.
    ///
    /// # Errors
    /// When a recipient, or all of them, do not fit the format: such a message is not for the journal.
    pub fn new<'r>(
        recipients: impl IntoIterator<Item = Recipient<'r>>,
        payload_bytes: u64,
        payload_checksum: u32,
    ) -> Result<Self, Unrecordable> {
        let mut bytes = Vec::with_capacity(RECORD_HEAD_BYTES);
        bytes.resize(HEAD_BYTES, 0);
        bytes.extend_from_slice(&payload_bytes.to_le_bytes());
        let mut count: u32 = 0;
        for recipient in recipients {
            recipient.check()?;
            recipient.encode(&mut bytes);
            count += 1;
            if count > RECIPIENTS_MAX {
                return Err(Unrecordable::Recipients);
            }
        }
        if count == 0 {
            return Err(Unrecordable::Recipients);
        }
        let meta_bytes = u32::try_from(bytes.len() - HEAD_BYTES).map_err(|_| Unrecordable::Recipients)?;
        let length = record_bytes(bytes.len() as u64, payload_bytes).ok_or(Unrecordable::Payload)?;
        put(&mut bytes, 0, &RECORD_MAGIC);
        put(&mut bytes, at::LENGTH, &length.to_le_bytes());
        put(&mut bytes, at::PAYLOAD_CHECKSUM, &payload_checksum.to_le_bytes());
        put(&mut bytes, at::RECIPIENTS, &count.to_le_bytes());
        put(&mut bytes, at::META_BYTES, &meta_bytes.to_le_bytes());
        let envelope_checksum = crc32c::crc32c(&bytes[at::RECIPIENTS..]);
        Ok(Self { bytes, payload_bytes, envelope_checksum })
    }

    /// Makes it the record `sequence` of the epoch with this key, and the last of its batch or not. Takes a few
    /// nanoseconds whatever the number of recipients, and may be done again.
    pub fn seal(&mut self, key: u64, sequence: u64, last: bool) {
        let flags = if last { FLAG_LAST } else { 0 };
        put(&mut self.bytes, at::FLAGS, &flags.to_le_bytes());
        put(&mut self.bytes, at::KEY, &key.to_le_bytes());
        put(&mut self.bytes, at::SEQUENCE, &sequence.to_le_bytes());
        let checksum = meta_checksum(self.envelope_checksum, &self.bytes);
        put(&mut self.bytes, at::META_CHECKSUM, &checksum.to_le_bytes());
    }

    /// The bytes before the payload.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes before the payload, for an operation that owns them.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes of the whole record: these, the payload and the padding.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.bytes.len() as u64 + self.payload_bytes + self.padding_bytes() as u64
    }

    /// How many zeroes follow the payload, fewer than [`RECORD_ALIGN`].
    #[must_use]
    pub fn padding_bytes(&self) -> usize {
        let over = (self.bytes.len() as u64 % ALIGN + self.payload_bytes % ALIGN) % ALIGN;
        ((ALIGN - over) % ALIGN) as usize
    }
}

/// Enough for the head of most records: one recipient.
const RECORD_HEAD_BYTES: usize = 1024;

/// Why a message cannot be a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecordable {
    /// None, or more than a record can have.
    Recipients,
    /// The owner is root, or an id that stands for the server itself.
    Owner,
    /// A home or a path that is too long, not absolute, or contains NUL.
    Path,
    /// A file name that is empty, too long, or contains `/` or NUL.
    Name,
    /// Trace headers that are too long.
    Trace,
    /// More bytes than can be counted.
    Payload,
}

impl fmt::Display for Unrecordable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recipients => "no recipients, or more than a record of the journal can have",
            Self::Owner => "the owner's ids cannot stand in the journal",
            Self::Path => "the path of the mailbox is too long, not absolute, or contains NUL",
            Self::Name => "the file name is empty, too long, or contains a slash or NUL",
            Self::Trace => "the trace headers are too long",
            Self::Payload => "the message is too long",
        })
    }
}

impl std::error::Error for Unrecordable {}

impl Recipient<'_> {
    fn check(&self) -> Result<(), Unrecordable> {
        if let Owner::User { uid, gid } = self.owner
            && (is_no_owner(uid) || is_no_owner(gid))
        {
            return Err(Unrecordable::Owner);
        }
        let paths = [Some(self.path), self.home];
        if !paths.into_iter().flatten().all(is_path) {
            return Err(Unrecordable::Path);
        }
        let name = self.name.as_bytes();
        let names_a_file = !name.is_empty() && !matches!(name, b"." | b"..");
        if !names_a_file || name.len() > NAME_BYTES_MAX || memchr::memchr2(b'/', 0, name).is_some() {
            return Err(Unrecordable::Name);
        }
        if self.trace.len() > TRACE_BYTES_MAX {
            return Err(Unrecordable::Trace);
        }
        Ok(())
    }

    /// Checked before, so every length fits.
    fn encode(&self, bytes: &mut Vec<u8>) {
        let (uid, gid) = match self.owner {
            Owner::Server => (SERVER_ID, SERVER_ID),
            Owner::User { uid, gid } => (uid, gid),
        };
        bytes.extend_from_slice(&uid.to_le_bytes());
        bytes.extend_from_slice(&gid.to_le_bytes());
        let texts =
            [self.home.unwrap_or("").as_bytes(), self.path.as_bytes(), self.name.as_bytes(), self.trace];
        for text in texts {
            let length = u32::try_from(text.len()).expect("checked before");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(text);
        }
    }
}

/// One record of a segment in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'s> {
    /// Its place in the epoch.
    pub sequence: u64,
    /// Whether its batch ends with it.
    pub last: bool,
    /// Bytes of the whole record, padding included.
    pub length: usize,
    /// What every recipient's file ends with.
    pub payload: &'s [u8],
    /// How many recipients.
    count: u32,
    /// The recipients, checked.
    envelope: &'s [u8],
}

impl<'s> Record<'s> {
    /// The record that `bytes` begin with, if it is whole, has the key and the sequence number, and is
    /// within every bound.
    #[must_use]
    pub fn parse(bytes: &'s [u8], key: u64, sequence: u64) -> Option<Self> {
        if !claims(bytes, key) || u64_at(bytes, at::SEQUENCE)? != sequence {
            return None;
        }
        let flags = u32_at(bytes, at::FLAGS)?;
        let length = usize::try_from(u64_at(bytes, at::LENGTH)?).ok()?;
        let whole = bytes.get(..length)?;
        let payload_at = HEAD_BYTES.checked_add(usize::try_from(u32_at(whole, at::META_BYTES)?).ok()?)?;
        let meta = whole.get(..payload_at)?;
        let sum = meta_checksum(crc32c::crc32c(meta.get(at::RECIPIENTS..)?), meta);
        if flags & !FLAG_LAST != 0 || u32_at(meta, at::META_CHECKSUM)? != sum {
            return None;
        }
        // From here on only what was written by a program is looked at, but it is not trusted more for it.
        let payload_bytes = u64_at(meta, at::PAYLOAD_BYTES)?;
        if record_bytes(payload_at as u64, payload_bytes)? != length as u64 {
            return None;
        }
        let payload = whole.get(payload_at..)?.get(..usize::try_from(payload_bytes).ok()?)?;
        if u32_at(meta, at::PAYLOAD_CHECKSUM)? != crc32c::crc32c(payload) {
            return None;
        }
        let count = u32_at(meta, at::RECIPIENTS)?;
        let envelope = meta.get(HEAD_BYTES + 8..)?;
        let last = flags & FLAG_LAST != 0;
        let record = Self { sequence, last, length, payload, count, envelope };
        record.is_within_bounds().then_some(record)
    }

    /// The recipients, in the order of the envelope.
    #[must_use]
    pub fn recipients(&self) -> Recipients<'s> {
        Recipients { rest: self.envelope }
    }

    /// How many recipients there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    fn is_within_bounds(&self) -> bool {
        let mut recipients = self.recipients();
        let read = recipients.by_ref().take(RECIPIENTS_MAX as usize).count();
        recipients.rest.is_empty() && read > 0 && read == self.count()
    }
}

/// The recipients of a [`Record`].
#[derive(Clone, Debug)]
pub struct Recipients<'s> {
    rest: &'s [u8],
}

impl<'s> Recipients<'s> {
    fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*number))
    }

    fn bytes(&mut self) -> Option<&'s [u8]> {
        let length = self.u32()? as usize;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(text)
    }

    fn text(&mut self) -> Option<&'s str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn read(&mut self) -> Option<Recipient<'s>> {
        let owner = match (self.u32()?, self.u32()?) {
            (SERVER_ID, SERVER_ID) => Owner::Server,
            (uid, gid) => Owner::User { uid, gid },
        };
        let home = Some(self.text()?).filter(|home| !home.is_empty());
        let (path, name, trace) = (self.text()?, self.text()?, self.bytes()?);
        let recipient = Recipient { owner, home, path, name, trace };
        recipient.check().is_ok().then_some(recipient)
    }
}

impl<'s> Iterator for Recipients<'s> {
    type Item = Recipient<'s>;

    fn next(&mut self) -> Option<Recipient<'s>> {
        let mut ahead = self.clone();
        let read = ahead.read()?;
        *self = ahead;
        Some(read)
    }
}

/// Whether `bytes` begin like a record of the epoch with this key, whole or not.
pub(super) fn claims(bytes: &[u8], key: u64) -> bool {
    bytes.starts_with(&RECORD_MAGIC) && u64_at(bytes, at::KEY) == Some(key)
}

/// The CRC of a head, from the one of its part that does not change when it is sealed. That part goes first so
/// that sealing need not go over it again.
fn meta_checksum(envelope_checksum: u32, head: &[u8]) -> u32 {
    crc32c::crc32c_append(envelope_checksum, &head[..at::META_CHECKSUM])
}

/// Length of a record whose payload begins at `payload_at`.
fn record_bytes(payload_at: u64, payload_bytes: u64) -> Option<u64> {
    payload_at.checked_add(payload_bytes)?.checked_next_multiple_of(ALIGN)
}

fn is_no_owner(id: u32) -> bool {
    id == 0 || id == SERVER_ID
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= PATH_BYTES_MAX && memchr::memchr(0, path.as_bytes()).is_none()
}

const ALIGN: u64 = RECORD_ALIGN as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::format::checksum;
    use proptest::prelude::*;

    const KEY: u64 = 0x1122_3344_5566_7788;

    fn alice() -> Recipient<'static> {
        Recipient {
            owner: Owner::User { uid: 1000, gid: 100 },
            home: Some("/h/alice"),
            path: "/h/alice/Maildir",
            name: "1.M2",
            trace: b"T: 1\r\n",
        }
    }

    fn whole(head: &RecordHead, payload: &[u8]) -> Vec<u8> {
        let bytes = [head.as_bytes(), payload, &[0; 8][..head.padding_bytes()]].concat();
        assert_eq!(bytes.len() as u64, head.record_bytes());
        bytes
    }

    #[test]
    fn one_record_has_exactly_these_bytes() {
        let payload = b"Hello\r\n";
        let mut head = RecordHead::new([alice()], 7, checksum([&payload[..]])).unwrap();
        head.seal(KEY, 5, true);
        #[rustfmt::skip]
        let golden: &[u8] = &[
            b'P', b'H', b'R', b'C', 1, 0, 0, 0,                 // magic, flags
            128, 0, 0, 0, 0, 0, 0, 0,                           // length
            0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,     // key
            5, 0, 0, 0, 0, 0, 0, 0,                             // sequence
            0, 0, 0, 0, 0, 0, 0, 0,                             // the two CRCs: below
            1, 0, 0, 0, 66, 0, 0, 0,                            // recipients, length of the envelope
            7, 0, 0, 0, 0, 0, 0, 0,                             // length of the payload
            0xe8, 3, 0, 0, 100, 0, 0, 0,                        // owner
            8, 0, 0, 0, b'/', b'h', b'/', b'a', b'l', b'i', b'c', b'e',
            16, 0, 0, 0, b'/', b'h', b'/', b'a', b'l', b'i', b'c', b'e',
                b'/', b'M', b'a', b'i', b'l', b'd', b'i', b'r',
            4, 0, 0, 0, b'1', b'.', b'M', b'2',
            6, 0, 0, 0, b'T', b':', b' ', b'1', b'\r', b'\n',
        ];
        let mut golden = golden.to_vec();
        // RFC 3720's CRC by its definition, bit by bit, so that the crate is checked as well.
        let payload_sum = crc_by_definition(payload);
        let meta_sum = crc_by_definition(&[&golden[40..], &golden[..32]].concat());
        golden[32..36].copy_from_slice(&meta_sum.to_le_bytes());
        golden[36..40].copy_from_slice(&payload_sum.to_le_bytes());
        assert_eq!(head.as_bytes(), golden);
        assert_eq!(whole(&head, payload).len(), 128);
    }

    fn crc_by_definition(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
    }

    #[test]
    fn sealing_again_is_as_good_as_sealing_once() {
        let mut twice = RecordHead::new([alice()], 3, checksum([&b"abc"[..]])).unwrap();
        twice.seal(1, 9, true);
        twice.seal(KEY, 0, false);
        let bytes = whole(&twice, b"abc");
        let record = Record::parse(&bytes, KEY, 0).unwrap();
        assert_eq!((record.last, record.payload, record.count()), (false, &b"abc"[..], 1));
        assert_eq!(record.recipients().collect::<Vec<_>>(), [alice()]);
        assert_eq!((Record::parse(&bytes, 1, 0), Record::parse(&bytes, KEY, 9)), (None, None));
    }

    #[test]
    fn what_does_not_fit_the_format_is_refused_when_it_is_made() {
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        let trace = vec![b'x'; TRACE_BYTES_MAX + 1];
        let refused = |recipient| RecordHead::new([recipient], 1, 0).map(drop).unwrap_err();
        for (uid, gid) in [(0, 5), (5, 0), (u32::MAX, 5), (u32::MAX, u32::MAX)] {
            assert_eq!(
                refused(Recipient { owner: Owner::User { uid, gid }, ..alice() }),
                Unrecordable::Owner
            );
        }
        for path in ["", "relative", "/nul\0", &long] {
            assert_eq!(refused(Recipient { path, ..alice() }), Unrecordable::Path);
        }
        for name in ["", ".", "..", "a/b", "nul\0", &long[1..257]] {
            assert_eq!(refused(Recipient { name, ..alice() }), Unrecordable::Name);
        }
        assert_eq!(refused(Recipient { home: Some("h"), ..alice() }), Unrecordable::Path);
        assert_eq!(refused(Recipient { trace: &trace, ..alice() }), Unrecordable::Trace);
        assert_eq!(RecordHead::new([], 1, 0), Err(Unrecordable::Recipients));
        assert_eq!(RecordHead::new([alice()], u64::MAX - 8, 0), Err(Unrecordable::Payload));
        let crowd = (0..=RECIPIENTS_MAX).map(|_| alice());
        assert_eq!(RecordHead::new(crowd, 1, 0), Err(Unrecordable::Recipients));
    }

    #[test]
    fn a_record_that_names_a_way_out_is_not_read_though_it_checks() {
        let mut head = RecordHead::new([alice()], 0, 0).unwrap();
        let name = head.bytes.windows(4).position(|window| window == b"1.M2").unwrap();
        head.bytes[name..name + 4].copy_from_slice(b"/../");
        head.envelope_checksum = crc32c::crc32c(&head.bytes[at::RECIPIENTS..]);
        head.seal(KEY, 0, true);
        assert_eq!(Record::parse(&whole(&head, b""), KEY, 0), None);
    }

    type Owned = (Option<(u32, u32)>, bool, String, String, Vec<u8>);

    fn recipient() -> impl Strategy<Value = Owned> {
        let owner = proptest::option::of((1..u32::MAX, 1..u32::MAX));
        let trace = proptest::collection::vec(any::<u8>(), 0..300);
        (owner, any::<bool>(), "/[a-z./\u{e9}]{0,40}", "[a-zA-Z0-9,=:_-]{1,60}", trace)
    }

    fn borrowed((owner, home, path, name, trace): &Owned) -> Recipient<'_> {
        let owner = owner.map_or(Owner::Server, |(uid, gid)| Owner::User { uid, gid });
        Recipient { owner, home: home.then_some("/home"), path, name, trace }
    }

    proptest! {
        #[test]
        fn every_record_is_read_back_as_it_was(
            recipients in proptest::collection::vec(recipient(), 1..6),
            payload in proptest::collection::vec(any::<u8>(), 0..2000),
            key: u64, sequence: u64, last: bool, behind in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let sum = checksum(payload.chunks(7));
            let mut head = RecordHead::new(recipients.iter().map(borrowed), payload.len() as u64, sum).unwrap();
            head.seal(key, sequence, last);
            let mut bytes = whole(&head, &payload);
            let length = bytes.len();
            bytes.extend_from_slice(&behind);
            let record = Record::parse(&bytes, key, sequence).unwrap();
            prop_assert_eq!((record.last, record.length, record.payload), (last, length, &payload[..]));
            prop_assert!(record.recipients().eq(recipients.iter().map(borrowed)));
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), key: u64) {
            prop_assert_eq!(Record::parse(&bytes, key, 0), None);
            if bytes.len() >= 32 {
                put(&mut bytes, 0, &RECORD_MAGIC);
                put(&mut bytes, at::KEY, &key.to_le_bytes());
                put(&mut bytes, at::SEQUENCE, &[0; 8]);
            }
            prop_assert_eq!(Record::parse(&bytes, key, 0), None);
        }
    }
}
