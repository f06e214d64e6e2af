//! Read-only mappings of whole files.
//!
//! Owns the one call that turns a file into a slice. Promises that the slice has the length that `fstat` gave
//! and stays at its place as long as the [`Mapping`] lives. Never writes, and never looks at what it maps.
#![allow(unsafe_code)] // this folder is where the unsafe calls live; the one below says why it is sound

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

/// The bytes of a file, read through the page cache.
///
/// It rests on one law: **a mapped file is only ever replaced by rename, never rewritten or truncated in
/// place.** Who breaks it gets SIGBUS or changing bytes. `users::build` keeps the law for the user table.
#[derive(Debug)]
pub struct Mapping {
    map: memmap2::Mmap,
    /// The file, and when it was last written to; none for a copy.
    source: Option<(File, SystemTime)>,
}

impl Mapping {
    /// Maps the file at `path`, which may be a symbolic link, from its first to its last byte.
    ///
    /// # Errors
    /// Whatever `open`, `fstat` or `mmap` say; `InvalidInput` if this is not a regular file. An empty file is
    /// an empty slice.
    pub fn open(path: &Path) -> io::Result<Self> {
        // O_NONBLOCK: a FIFO in this place must be an error, not a server that waits for a writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let length = usize::try_from(metadata.len()).map_err(io::Error::other)?;
        if length == 0 {
            return Self::copy_of(&[]);
        }
        let written = metadata.modified()?;
        let map = Self::of(&file, length)?;
        Ok(Self { map, source: Some((file, written)) })
    }

    /// A private mapping that holds a copy of `bytes`: it depends on no file, so nothing can change it.
    ///
    /// # Errors
    /// Only when there is no memory or no address space left.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        // An anonymous mapping of length zero is refused by the kernel; memmap2 rounds it up by itself and
        // still reports the length asked for.
        let mut map = memmap2::MmapMut::map_anon(bytes.len())?;
        // Large copies are read at random: with small pages, each read would look up its page's address first. A
        // kernel without huge pages refuses, which costs time and nothing else.
        let _ = map.advise(memmap2::Advice::HugePage);
        map.copy_from_slice(bytes);
        Ok(Self { map: map.make_read_only()?, source: None })
    }

    /// Whether somebody has broken the law: the file was written to, or has another length. Costs a system
    /// call. A file that was replaced, as it should be, is the same to us as before.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        let Some((file, written)) = &self.source else { return false };
        let same = |metadata: &std::fs::Metadata| {
            metadata.len() == self.map.len() as u64 && metadata.modified().is_ok_and(|now| now == *written)
        };
        !file.metadata().is_ok_and(|metadata| same(&metadata))
    }

    fn of(file: &File, length: usize) -> io::Result<memmap2::Mmap> {
        // SAFETY: the slice must not change or shrink under its readers. The law above gives that, and these
        // uphold it: `users::build` writes a table under a name of its own and publishes it by rename; the
        // documentation asks the same of who copies tables by hand. There is no safe way to map a file.
        unsafe { memmap2::MmapOptions::new().len(length).map(file) }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::Mapping;

    #[test]
    fn a_mapping_shows_the_whole_file_and_survives_its_replacement_by_rename() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) = (directory.path().join("file"), directory.path().join("next"));
        std::fs::write(&path, b"first").unwrap();
        let mapping = Mapping::open(&path).unwrap();
        std::fs::write(&next, b"the second").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(&*mapping, b"first");
        assert_eq!(&*Mapping::open(&path).unwrap(), b"the second");
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Mapping::open(file.path()).unwrap().is_empty());
    }

    #[test]
    fn a_directory_and_a_fifo_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Mapping::open(directory.path()).is_err());
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(Mapping::open(&fifo).is_err());
    }
}
