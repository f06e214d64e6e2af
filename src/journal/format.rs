//! The journal's file format, byte by byte: version 1.
//!
//! Owns every offset, bound and constant of a segment. Promises that bytes are read only through getters that
//! check bounds, so that a hostile file is an error and never a panic. Never touches a file itself.
//!
//! A segment is a file of fixed length: one block of header, then batches. All integers are little-endian; CRC
//! means CRC-32C (RFC 3720, appendix B.4).
//!
//! ```text
//! header: 64 bytes, then zeroes to 4096      record: begins at a multiple of 8
//!    0  8  magic "PHSTJRNL"                     0  4  magic "PHRC"
//!    8  4  version: 1                           4  4  flags (bit 0: the last of its batch)
//!   12  4  CRC of these 64 bytes, with          8  8  length of the whole record, padding included
//!          these four taken as zero            16  8  key of the epoch, from the header
//!   16  8  length of the segment               24  8  sequence: 0, 1, 2.. within the epoch
//!   24  8  epoch: 1, 2, 3..                    32  4  CRC of bytes 40..P of the record and then of
//!   32  4  worker                                     bytes 0..32
//!   36  4  zero                                36  4  CRC of the payload
//!   40  8  key of this epoch                   40  4  number of recipients
//!   48 16  boot that this epoch began in       44  4  length M of the next part
//!                                              48  M  envelope: 8 bytes, then the recipients
//! recipient, in the envelope                       0  8  length N of the payload
//!    0  4  user id, and                            8 ..  recipients, one after another
//!    4  4  group id of the owner; both        P=48+M
//!          ffffffffh: the server itself         P  N  payload
//!    8  .. home, or nothing                   P+N  .. zeroes to a multiple of 8
//!    .. .. path of the Maildir, absolute
//!    .. .. name of the file in new/           text: 4 bytes of length, then the bytes
//!    .. .. trace headers
//! ```
//!
//! A recipient's file has exactly these bytes: the trace headers, then the payload.
//!
//! **Folders.** The path for mail to a folder of a Maildir is that of the Maildir, two slashes, and the folder's
//! directory. Elsewhere in a path no two slashes stand beside each other.
//!
//! **Batches.** A batch is what one durable write carries. It begins at a multiple of 4096, its records follow
//! each other, the last has bit 0 of the flags set and is followed by zeroes to the next multiple of 4096. So a
//! block that holds acknowledged bytes is never written again.
//!
//! **Epochs.** The segment is filled again and again, and nothing is erased: records count only if they carry the
//! key that the header has now. Writing a header with the next epoch and key therefore *retires* all records
//! at once, and that write is shorter than a sector: the header is the old or the new one, never a mixture.
//! The key is a secret. With a number that can be guessed, a stranger could send a message whose *text*
//! contains a record of the next epoch, and recovery might come to read there: what stands behind the end of
//! the present epoch is the middle of somebody's old mail.
//!
//! **Boots.** After a failed sync the kernel takes pages for clean that never reached the disk, and shows them to
//! whoever reads. Only a new boot shows what is really there, so the header tells in which boot its epoch
//! began (random boot id, RFC 9562; zero: not known), and recovery within the same boot trusts no file.
//!
//! **The end.** A reader takes records from 4096 on, each with the key and the next sequence number, until the
//! first that does not check. That is the end: a batch that was in flight when the power went may be torn, and
//! nobody was told 250 for it.
//!
//! **Growing.** A reader leaves alone what has a greater version. Magic and version keep their place for ever.
#![forbid(unsafe_code)]

/// How every segment begins.
pub const SEGMENT_MAGIC: [u8; 8] = *b"PHSTJRNL";
/// How every record begins.
pub const RECORD_MAGIC: [u8; 4] = *b"PHRC";
/// The version that is written, and the greatest that is read.
pub const VERSION: u32 = 1;
/// Batches begin at multiples of this, the first behind the header's block.
pub const BLOCK_BYTES: usize = 4096;
/// The part of the header's block that is used, and written when a segment is retired.
pub const HEADER_BYTES: usize = 64;
/// The part of a record before its envelope.
pub const HEAD_BYTES: usize = 48;
/// Records begin at multiples of this.
pub const RECORD_ALIGN: usize = 8;
/// Shortest segment.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Longest segment: recovery holds one in memory for each of its threads.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Most recipients of one record.
pub const RECIPIENTS_MAX: u32 = 65536;
/// Longest home and longest path of a Maildir: PATH_MAX.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest file name: NAME_MAX.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest trace headers.
pub const TRACE_BYTES_MAX: usize = 64 * 1024;
/// Zeroes to fill a record or a batch with.
pub static ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The flag of the last record of a batch.
pub(super) const FLAG_LAST: u32 = 1;
/// User and group id of files that belong to the server itself.
pub(super) const SERVER_ID: u32 = u32::MAX;

/// Where the fields of the header are.
pub(super) mod header_at {
    pub(in super::super) const VERSION: usize = 8;
    pub(in super::super) const CHECKSUM: usize = 12;
    pub(in super::super) const SEGMENT_BYTES: usize = 16;
    pub(in super::super) const EPOCH: usize = 24;
    pub(in super::super) const WORKER: usize = 32;
    pub(in super::super) const KEY: usize = 40;
    pub(in super::super) const BOOT: usize = 48;
}

/// Where the fields of a record are.
pub(super) mod record_at {
    pub(in super::super) const FLAGS: usize = 4;
    pub(in super::super) const LENGTH: usize = 8;
    pub(in super::super) const KEY: usize = 16;
    pub(in super::super) const SEQUENCE: usize = 24;
    pub(in super::super) const META_CHECKSUM: usize = 32;
    pub(in super::super) const PAYLOAD_CHECKSUM: usize = 36;
    pub(in super::super) const RECIPIENTS: usize = 40;
    pub(in super::super) const META_BYTES: usize = 44;
    pub(in super::super) const PAYLOAD_BYTES: usize = super::HEAD_BYTES;
}

/// Bytes that all batches of a segment have together.
#[must_use]
pub fn capacity(segment_bytes: u64) -> u64 {
    segment_bytes.saturating_sub(BLOCK_BYTES as u64)
}

/// Whether a segment may be so long: whole blocks, within the bounds.
#[must_use]
pub fn is_segment_length(bytes: u64) -> bool {
    (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(BLOCK_BYTES as u64)
}

/// CRC-32C of pieces that follow each other.
pub fn checksum<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> u32 {
    pieces.into_iter().fold(0, crc32c::crc32c_append)
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Puts `value` over what is there. The caller has made the room.
pub(super) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

const _: () = {
    assert!(HEADER_BYTES <= 512, "a header is written in one sector");
    assert!(BLOCK_BYTES.is_multiple_of(RECORD_ALIGN) && HEAD_BYTES.is_multiple_of(RECORD_ALIGN));
    assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK_BYTES as u64));
};
