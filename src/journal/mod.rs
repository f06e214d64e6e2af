//! The journal: where an acknowledged message is safe before its files are.
//!
//! A worker appends each message, with all that its recipients' files need, to a segment, and one durable write
//! covers every message that is waiting. The files themselves are synced seconds later, all at once; then the
//! segment is *retired* and filled anew. What a power cut leaves in a segment is read back by recovery.
//!
//! [`format`](mod@format) draws the bytes, [`record`] makes and reads one message, [`segment`] the header of a
//! file and all that follows it, [`name`] what the files are called. These four do no I/O, and never panic on
//! any input: a damaged segment ends early and says where.
//!
//! The module knows no LMTP and no Maildir: a recipient is an owner, a path, a file name and the bytes before the
//! payload.
#![forbid(unsafe_code)]

mod approach;
pub mod file;
pub mod format;
pub mod name;
pub mod record;
pub mod segment;
pub mod writer;

pub use approach::Approach;
pub use file::FileFault;
pub use name::SegmentName;
pub use record::{Recipient, Record, RecordHead, Unrecordable};
pub use segment::{Boot, End, Records, Refusal, Segment, SegmentHeader, read_segment};
pub use writer::{Closed, Entry, Journal, Refused, Settings, Touched};
