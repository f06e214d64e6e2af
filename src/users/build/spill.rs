//! The records of a table under construction, apart by the upper bits of their hashes.
//!
//! Owns the buffers and the file into which they are emptied. Promises that what was put into a part comes out of it
//! in the same order, in no more memory than it was given, and that nothing stays on the disk: the file has no name.
//! Never knows what a record means.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Records are parted by eight bits of the hash: with 64 MiB to sort in, that is enough for a hundred million.
pub(super) const PARTS: usize = 256;

/// Parts 0 to [`PARTS`] - 1, and one more for whatever else must be kept.
#[derive(Debug)]
pub(super) struct Spill {
    directory: PathBuf,
    file: Option<File>,
    written: u64,
    parts: Vec<Part>,
    buffered: usize,
    buffered_max: usize,
}

#[derive(Debug, Default)]
struct Part {
    buffer: Vec<u8>,
    /// What is in the file: offsets and lengths.
    extents: Vec<(u64, usize)>,
    /// Octets in the file.
    bytes: usize,
}

impl Spill {
    /// Keeps at most so many octets in memory, and the rest in `directory`.
    pub(super) fn new(directory: &Path, buffered_max: usize) -> Self {
        let parts = (0..=PARTS).map(|_| Part::default()).collect();
        Self { directory: directory.to_owned(), file: None, written: 0, parts, buffered: 0, buffered_max }
    }

    /// Appends to a part.
    ///
    /// # Errors
    /// If there is no room for it.
    pub(super) fn push(&mut self, part: usize, pieces: &[&[u8]]) -> io::Result<()> {
        let buffer = &mut self.parts[part].buffer;
        for piece in pieces {
            buffer.extend_from_slice(piece);
            self.buffered += piece.len();
        }
        if self.buffered >= self.buffered_max { self.empty() } else { Ok(()) }
    }

    /// Octets of a part.
    pub(super) fn bytes(&self, part: usize) -> usize {
        self.parts[part].bytes + self.parts[part].buffer.len()
    }

    /// Everything in a part, in pieces of one or more whole pushes, in order.
    ///
    /// # Errors
    /// If it cannot be read back.
    pub(super) fn read(&self, part: usize, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let Part { buffer, extents, .. } = &self.parts[part];
        let mut octets = Vec::new();
        for (offset, length) in extents {
            octets.resize(*length, 0);
            let file = self.file.as_ref().expect("an extent is in the file");
            file.read_exact_at(&mut octets, *offset)?;
            take(&octets);
        }
        take(buffer);
        Ok(())
    }

    fn empty(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(nameless(&self.directory)?),
        };
        for part in self.parts.iter_mut().filter(|part| !part.buffer.is_empty()) {
            file.write_all_at(&part.buffer, self.written)?;
            part.extents.push((self.written, part.buffer.len()));
            part.bytes += part.buffer.len();
            self.written += part.buffer.len() as u64;
            part.buffer.clear();
        }
        self.buffered = 0;
        Ok(())
    }
}

/// A file that goes away with the process, however that ends.
fn nameless(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.custom_flags(libc::O_TMPFILE).open(directory) {
        Ok(file) => return Ok(file),
        // Not every file system has it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {}
        Err(error) => return Err(error),
    }
    let path = directory.join(format!(".users.{}.spill", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let file = options.custom_flags(0).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_in_order_from_file_and_memory_and_leave_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(directory.path(), 1000);
        let mut expected = vec![Vec::new(); PARTS + 1];
        for n in 0..2000_usize {
            let (part, text) = (n * 7 % (PARTS + 1), n.to_string());
            spill.push(part, &[text.as_bytes(), b","]).unwrap();
            expected[part].extend_from_slice(format!("{n},").as_bytes());
        }
        assert!(spill.file.is_some() && spill.buffered < 1000);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        for (part, expected) in expected.iter().enumerate() {
            let mut read = Vec::new();
            spill.read(part, |octets| read.extend_from_slice(octets)).unwrap();
            assert_eq!((&read, spill.bytes(part)), (expected, expected.len()));
        }
    }

    #[test]
    fn little_stays_in_memory() {
        let mut spill = Spill::new(Path::new("/nonexistent"), 1000);
        spill.push(3, &[b"x"]).unwrap();
        assert!(spill.push(3, &[&[0; 1000]]).is_err());
    }
}
