//! A journal as Posthaste's is on the disk: two segments of zeroes, batches with one durable write, checkpoints.
//!
//! Owns the segment files. Promises that a batch is durable when `write` returns, and that no segment is used again
//! before the files of its messages are. What it writes has the lengths of Posthaste's records and no meaning.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::JoinHandle;

use posthaste::journal::format::{BLOCK_BYTES, HEAD_BYTES, RECORD_ALIGN};
use rustix::io::{Errno, ReadWriteFlags};

/// The journal: threads put records in, and one of them writes what all have put in.
#[derive(Debug)]
pub(crate) struct Journal {
    pending: Mutex<Vec<u8>>,
    segments: Mutex<Segments>,
}

#[derive(Debug)]
struct Segments {
    files: [File; 2],
    paths: [PathBuf; 2],
    /// The one that is being filled, and where.
    current: usize,
    offset: usize,
    /// The sync that frees the other one.
    checkpoint: Option<JoinHandle<Result<(), Errno>>>,
    mail: File,
}

impl Journal {
    /// Makes the segments in `directory`; `mail` is a directory of the file system that the messages are on.
    ///
    /// # Errors
    /// As open(2), write(2).
    pub(crate) fn make(directory: &Path, mail: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let paths = [0, 1].map(|half| directory.join(format!("raw-{half}")));
        let files = [make_segment(&paths[0])?, make_segment(&paths[1])?];
        let mail = File::open(mail)?;
        let segments = Segments { files, paths, current: 0, offset: BLOCK_BYTES, checkpoint: None, mail };
        Ok(Self { pending: Mutex::default(), segments: Mutex::new(segments) })
    }

    /// Puts the record of a message in: the trace headers of its files, and the payload.
    pub(crate) fn put(&self, heads: &[&[u8]], payload: &[u8]) {
        let mut pending = self.pending.lock().expect("nobody panics with it");
        for head in heads {
            pending.extend_from_slice(&ENVELOPE);
            pending.extend_from_slice(head);
        }
        pending.extend_from_slice(payload);
        let aligned = pending.len().next_multiple_of(RECORD_ALIGN);
        pending.resize(aligned, 0);
    }

    /// Makes all records durable that were put in before.
    ///
    /// # Errors
    /// As pwrite(2), syncfs(2); a short write is one.
    pub(crate) fn write(&self) -> Result<(), Errno> {
        let mut segments = self.segments.lock().expect("nobody panics with it");
        let mut batch = std::mem::take(&mut *self.pending.lock().expect("nobody panics with it"));
        batch.resize(batch.len().next_multiple_of(BLOCK_BYTES), 0);
        // A batch is written in pieces that fit into a segment; nearly always it is one.
        batch.chunks(PIECE_BYTES_MAX).try_for_each(|piece| segments.write(piece))
    }
}

impl Segments {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if self.offset + bytes.len() > SEGMENT_BYTES {
            self.turn()?;
        }
        let offset = u64::try_from(self.offset).expect("an offset in a segment");
        let parts = [IoSlice::new(bytes)];
        let written = rustix::io::pwritev2(&self.files[self.current], &parts, offset, ReadWriteFlags::DSYNC)?;
        if written != bytes.len() {
            return Err(Errno::NOSPC);
        }
        self.offset += bytes.len();
        Ok(())
    }

    /// Turns to the other segment, once a sync has made its messages safe elsewhere, and has this one's made safe.
    fn turn(&mut self) -> Result<(), Errno> {
        if let Some(checkpoint) = self.checkpoint.take() {
            checkpoint.join().expect("a thread that does not panic")?;
        }
        let mail = self.mail.try_clone().map_err(|_| Errno::MFILE)?;
        self.checkpoint = Some(std::thread::spawn(move || rustix::fs::syncfs(mail)));
        self.current = 1 - self.current;
        self.offset = BLOCK_BYTES;
        Ok(())
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        for path in &self.paths {
            // Left behind it would only take room; the directory is the caller's.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn make_segment(path: &Path) -> std::io::Result<File> {
    let mut file = File::create(path)?;
    let zeroes = vec![0; 1 << 20];
    for _ in 0..SEGMENT_BYTES >> 20 {
        file.write_all(&zeroes)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// As long as Posthaste's are by default.
const SEGMENT_BYTES: usize = 64 << 20;

/// What stands in a record for a recipient beside the trace headers: the record's head, owner, home, Maildir, file name.
const ENVELOPE: [u8; HEAD_BYTES + 160] = [b'e'; HEAD_BYTES + 160];

/// Shorter than a segment.
const PIECE_BYTES_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_used_in_turn_and_a_batch_never_crosses_their_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let journal = Journal::make(directory.path(), directory.path()).expect("a journal");
        let payload = vec![b'x'; 7 << 20];
        for _ in 0..20 {
            journal.put(&[&payload[..300]], &payload);
            journal.put(&[&payload[..300], &payload[..301]], &payload);
            journal.write().expect("a write");
        }
        let segments = journal.segments.lock().expect("nobody panicked");
        let lengths = segments.files.iter().map(|file| file.metadata().expect("a file").len());
        assert!(lengths.eq([64 << 20, 64 << 20]));
    }
}
