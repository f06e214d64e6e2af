//! The files of a journal directory: read whole, retired, renamed, made.
//!
//! Every name that is made or changed here is durable when the function returns.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fmt;
use std::rc::Rc;

use rustix::io::Errno;

use super::format::{BLOCK_BYTES, SEGMENT_BYTES_MAX};
pub use super::name::{KEPT, UNREADABLE};
use super::segment::SegmentHeader;
use crate::exec::Exec;
use crate::ring::{Bytes, Done, Fd, How, Identity, Op, Part};
use crate::sys::mmap::Room;

/// A step on the journal's own disk that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// What was being done.
    pub step: FileStep,
    /// What the kernel said.
    pub errno: Errno,
}

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStep {
    /// List the directory.
    List,
    /// Open a segment.
    Open,
    /// Read it.
    Read,
    /// Write its header.
    Retire,
    /// Give it another name.
    Rename,
    /// Make a segment for what could not be recovered.
    Keep,
    /// Make a segment for records to come.
    Make,
    /// Write records.
    Write,
    /// Remove a segment that is of no more use.
    Remove,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            FileStep::List => "list the journal directory",
            FileStep::Open => "open the segment",
            FileStep::Read => "read the segment",
            FileStep::Retire => "write the segment's header",
            FileStep::Rename => "rename the segment",
            FileStep::Keep => "make a segment for what could not be recovered",
            FileStep::Make => "make a segment",
            FileStep::Write => "write to the segment",
            FileStep::Remove => "remove a segment",
        };
        write!(f, "cannot {what}: {}; look at the journal's disk", self.errno)
    }
}

impl std::error::Error for FileFault {}

/// The names in the directory, but for those that are not text.
///
/// # Errors
/// As getdents(2).
pub fn names(exec: &Exec, directory: &Fd) -> Result<Vec<String>, FileFault> {
    let names = exec.with_ring(|ring| ring.names(directory));
    let names = names.map_err(|errno| FileFault { step: FileStep::List, errno })?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Opens a file of the directory.
///
/// # Errors
/// As openat2(2).
pub async fn open(exec: &Exec, directory: &Rc<Fd>, name: &str, how: How) -> Result<Rc<Fd>, FileFault> {
    let op = Op::Open { at: Some(Rc::clone(directory)), path: c_name(name), how, identity: Identity::Server };
    match run(exec, FileStep::Open, op).await? {
        Done::Opened(file) => Ok(file),
        _ => unreachable!("an open gives a descriptor"),
    }
}

/// Reads a whole segment. Of a file that is longer than any segment, a little more than that.
///
/// # Errors
/// As read(2) and mmap(2).
pub async fn load(exec: &Exec, file: &Rc<Fd>) -> Result<Room, FileFault> {
    let failed = |errno| FileFault { step: FileStep::Read, errno };
    // A file that is longer than any segment is seen to be so, and not read to its end.
    let bytes_max = usize::try_from(SEGMENT_BYTES_MAX).expect("addresses have 64 bits") + PIECE_BYTES;
    let mut bytes =
        Room::new(bytes_max).map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::NOMEM)))?;
    let mut piece = vec![0; PIECE_BYTES];
    while bytes.len() as u64 <= SEGMENT_BYTES_MAX {
        let op = Op::Read { file: Rc::clone(file), buffer: piece, offset: bytes.len() as u64 };
        let finished = exec.run(op).await;
        let Some(Op::Read { buffer: back, .. }) = finished.op else { unreachable!("it comes back") };
        piece = back;
        match finished.result {
            Ok(Done::Count(0)) => break,
            Ok(Done::Count(count)) => {
                let fits = bytes.append(&piece[..count]);
                assert!(fits, "there is room for a piece behind the longest segment");
            }
            Ok(_) => unreachable!("a read gives a count"),
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(bytes)
}

/// Reads the header of an open segment; `None` if it is not one that this version can read.
///
/// # Errors
/// As read(2).
pub async fn load_header(exec: &Exec, file: &Rc<Fd>) -> Result<Option<SegmentHeader>, FileFault> {
    let mut start = Vec::new();
    while start.len() < BLOCK_BYTES {
        let buffer = vec![0; BLOCK_BYTES - start.len()];
        let op = Op::Read { file: Rc::clone(file), buffer, offset: start.len() as u64 };
        let finished = exec.run(op).await;
        let Some(Op::Read { buffer, .. }) = finished.op else { unreachable!("it comes back") };
        match finished.result {
            Ok(Done::Count(0)) => break,
            Ok(Done::Count(count)) => start.extend_from_slice(&buffer[..count]),
            Ok(_) => unreachable!("a read gives a count"),
            Err(errno) => return Err(FileFault { step: FileStep::Read, errno }),
        }
    }
    // Of the length of the file the header alone is to tell: whoever wants the records reads it whole.
    let claimed =
        start.get(16..24).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
    Ok(SegmentHeader::decode(&start, claimed).ok())
}

/// Writes the header of an open segment, durably.
///
/// # Errors
/// As pwritev2(2). The header may be the old one or the new one then.
pub async fn write_header(exec: &Exec, file: &Rc<Fd>, header: &SegmentHeader) -> Result<(), FileFault> {
    let parts = vec![Part { head: header.encode().to_vec().into(), body: Rc::default() }];
    write_durably(exec, file, parts, 0).await.map_err(|errno| FileFault { step: FileStep::Retire, errno })
}

/// Writes `parts` at `offset`, durably.
///
/// # Errors
/// As pwritev2(2). Any part of it may have been written then.
pub async fn write_durably(
    exec: &Exec,
    file: &Rc<Fd>,
    mut parts: Vec<Part>,
    offset: u64,
) -> Result<(), Errno> {
    let total: usize = parts.iter().map(Part::len).sum();
    let mut skip = 0;
    while skip < total {
        let op = Op::WriteDurably { file: Rc::clone(file), parts, skip, offset: offset + skip as u64 };
        let finished = exec.run(op).await;
        let Some(Op::WriteDurably { parts: back, .. }) = finished.op else { unreachable!("it comes back") };
        parts = back;
        skip += written(&finished.result)?;
    }
    Ok(())
}

/// Makes a new segment `name`, full of zeroes but for its header, so that a later write changes data alone. It is
/// durable, with its name.
///
/// # Errors
/// As open(2), write(2) or fsync(2); `EEXIST` when there is one. No file is left behind then, as far as that can be
/// done.
pub async fn make(
    exec: &Exec,
    directory: &Rc<Fd>,
    name: &str,
    header: &SegmentHeader,
) -> Result<Rc<Fd>, FileFault> {
    let op = Op::Open {
        at: Some(Rc::clone(directory)),
        path: c_name(name),
        how: How::New,
        identity: Identity::Server,
    };
    let Done::Opened(file) = run(exec, FileStep::Make, op).await? else {
        unreachable!("an open gives a descriptor")
    };
    let made = async {
        zero(exec, &file, header.segment_bytes).await?;
        // Whoever finds a header after a power cut shall find the length that it tells.
        sync(exec, FileStep::Make, &file).await?;
        write_header(exec, &file, header).await?;
        sync(exec, FileStep::Make, directory).await?;
        confirm(exec, FileStep::Make, &file).await
    };
    if let Err(fault) = made.await {
        let _ = remove(exec, directory, name).await;
        return Err(fault);
    }
    Ok(file)
}

async fn zero(exec: &Exec, file: &Rc<Fd>, length: u64) -> Result<(), FileFault> {
    let fault = |errno| FileFault { step: FileStep::Make, errno };
    let mut done = 0;
    while done < length {
        // Never beyond the length: after a short write what is left is not so many whole blocks.
        let blocks = usize::try_from((length - done) / ZEROES.len() as u64).unwrap_or(usize::MAX);
        let mut body = vec![Bytes::Static(&ZEROES); blocks.min(ZERO_BLOCKS)];
        let room = usize::try_from(length - done).unwrap_or(usize::MAX);
        if room < ZEROES.len() {
            body = vec![Bytes::Static(&ZEROES[..room])];
        }
        let (file, body) = (Rc::clone(file), Rc::new(body));
        let op = Op::Write { file, head: Vec::new(), body, skip: 0, offset: done };
        done += written(&exec.run(op).await.result).map_err(fault)? as u64;
    }
    Ok(())
}

/// Removes a file of the directory.
///
/// # Errors
/// As unlinkat(2).
pub async fn remove(exec: &Exec, directory: &Rc<Fd>, name: &str) -> Result<(), FileFault> {
    let op = Op::Unlink { at: Rc::clone(directory), name: c_name(name), identity: Identity::Server };
    run(exec, FileStep::Remove, op).await.map(drop)
}

/// Renames a segment so that `mark` stands behind its name; nothing is replaced. Gives the new name.
///
/// # Errors
/// As renameat2(2).
pub async fn rename(exec: &Exec, directory: &Rc<Fd>, name: &str, mark: &str) -> Result<String, FileFault> {
    for aside in names_aside(name, mark) {
        match rename_to(exec, directory, name, &aside).await {
            Err(FileFault { errno: Errno::EXIST, .. }) => {}
            renamed => {
                renamed?;
                sync(exec, FileStep::Rename, directory).await?;
                return Ok(aside);
            }
        }
    }
    Err(FileFault { step: FileStep::Rename, errno: Errno::EXIST })
}

async fn rename_to(exec: &Exec, directory: &Rc<Fd>, old: &str, name: &str) -> Result<(), FileFault> {
    let (from, into, identity) = (Rc::clone(directory), Rc::clone(directory), Identity::Server);
    let op = Op::Rename { from, old: c_name(old), into, name: c_name(name), identity };
    match run(exec, FileStep::Rename, op).await {
        Err(FileFault { errno: Errno::INVAL, .. }) => {}
        renamed => return renamed.map(drop),
    }
    // No rename that is sure to replace nothing: two names for a moment do no harm.
    let (from, into, identity) = (Rc::clone(directory), Rc::clone(directory), Identity::Server);
    let op = Op::LinkName { from, old: c_name(old), into, name: c_name(name), identity };
    run(exec, FileStep::Rename, op).await?;
    let op = Op::Unlink { at: Rc::clone(directory), name: c_name(old), identity: Identity::Server };
    run(exec, FileStep::Rename, op).await.map(drop)
}

/// Makes the segment `bytes` for what could not be recovered of `name`. Gives its name.
///
/// # Errors
/// As open(2), write(2) or fsync(2). No file is left behind then, as far as that can be done.
pub async fn create(
    exec: &Exec,
    directory: &Rc<Fd>,
    name: &str,
    bytes: Vec<u8>,
) -> Result<String, FileFault> {
    for aside in names_aside(name, KEPT) {
        let op = Op::Open {
            at: Some(Rc::clone(directory)),
            path: c_name(&aside),
            how: How::New,
            identity: Identity::Server,
        };
        let file = match run(exec, FileStep::Keep, op).await {
            Ok(Done::Opened(file)) => file,
            Ok(_) => unreachable!("an open gives a descriptor"),
            Err(FileFault { errno: Errno::EXIST, .. }) => continue,
            Err(fault) => return Err(fault),
        };
        if let Err(fault) = fill(exec, directory, &file, bytes).await {
            let op =
                Op::Unlink { at: Rc::clone(directory), name: c_name(&aside), identity: Identity::Server };
            let _ = exec.run(op).await;
            return Err(fault);
        }
        return Ok(aside);
    }
    Err(FileFault { step: FileStep::Keep, errno: Errno::EXIST })
}

async fn fill(exec: &Exec, directory: &Rc<Fd>, file: &Rc<Fd>, bytes: Vec<u8>) -> Result<(), FileFault> {
    let (total, mut head, mut skip) = (bytes.len(), bytes, 0);
    while skip < total {
        let op = Op::Write { file: Rc::clone(file), head, body: Rc::default(), skip, offset: skip as u64 };
        let finished = exec.run(op).await;
        let Some(Op::Write { head: back, .. }) = finished.op else { unreachable!("it comes back") };
        head = back;
        skip += written(&finished.result).map_err(|errno| FileFault { step: FileStep::Keep, errno })?;
    }
    sync(exec, FileStep::Keep, file).await?;
    sync(exec, FileStep::Keep, directory).await?;
    confirm(exec, FileStep::Keep, file).await
}

/// Asks whether the file system that says it is durable has given up meanwhile: fsync(2) of a directory is 0 when the
/// commit with the name has failed for another caller (see `maildir::draft`). Where it cannot be asked so, its word
/// is taken.
async fn confirm(exec: &Exec, step: FileStep, file: &Rc<Fd>) -> Result<(), FileFault> {
    match run(exec, step, Op::Touch { file: Rc::clone(file) }).await {
        Err(FileFault { errno: Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL, .. }) => Ok(()),
        touched => touched.map(drop),
    }
}

async fn sync(exec: &Exec, step: FileStep, file: &Rc<Fd>) -> Result<(), FileFault> {
    run(exec, step, Op::Sync { file: Rc::clone(file) }).await.map(drop)
}

async fn run(exec: &Exec, step: FileStep, op: Op) -> Result<Done, FileFault> {
    exec.run(op).await.result.map_err(|errno| FileFault { step, errno })
}

fn written(result: &Result<Done, Errno>) -> Result<usize, Errno> {
    match result {
        // A regular file takes something or says why not; nothing at all would loop for ever.
        Ok(Done::Count(0)) => Err(Errno::IO),
        Ok(Done::Count(count)) => Ok(*count),
        Ok(_) => unreachable!("a write gives a count"),
        Err(errno) => Err(*errno),
    }
}

/// `W-K.segment.MARK`, then the same with a number. What stands behind the name already is left out.
fn names_aside<'n>(name: &'n str, mark: &'n str) -> impl Iterator<Item = String> + 'n {
    let plain = name.split_once(KEPT).map_or(name, |(plain, _)| plain);
    let numbered = (1..NAMES_MAX).map(move |number| format!("{plain}{mark}.{number}"));
    std::iter::once(format!("{plain}{mark}")).chain(numbered)
}

fn c_name(name: &str) -> CString {
    CString::new(name).expect("names come from the directory, or are made without NUL")
}

/// What a new segment is filled with, so many times in one write.
static ZEROES: [u8; 16 * BLOCK_BYTES] = [0; 16 * BLOCK_BYTES];
const ZERO_BLOCKS: usize = 64;
/// How much is read at once.
const PIECE_BYTES: usize = 1 << 20;
/// Nobody looks through more of them.
const NAMES_MAX: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::super::name::Kind;
    use super::*;

    #[test]
    fn a_name_aside_is_recognised_and_marks_do_not_pile_up() {
        for name in ["0-1.segment", "0-1.segment.kept", "0-1.segment.kept.3"] {
            let kept: Vec<String> = names_aside(name, KEPT).take(2).collect();
            assert_eq!(kept, ["0-1.segment.kept", "0-1.segment.kept.1"]);
            assert_eq!((Kind::of(&kept[0]), Kind::of(&kept[1])), (Kind::Kept, Kind::Kept));
            let unreadable = names_aside(name, UNREADABLE).nth(2).unwrap();
            assert_eq!(
                (unreadable.as_str(), Kind::of(&unreadable)),
                ("0-1.segment.unreadable.2", Kind::Unreadable)
            );
        }
    }
}
