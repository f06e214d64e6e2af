//! The file of a table that is being built, until it is published.
//!
//! Owns the working file: its name, its sections' checksums, its way to the table's own name. Promises that the
//! name is only given to a file whose content is durable, by rename, and that a file which is given up goes
//! away. Never knows what is in the sections.
#![forbid(unsafe_code)]

use super::build::BuildError;
use super::header::Section;
use super::layout::{HUGE_PAGE, PAGE};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file under its working name, which goes away with this value unless it was published.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    output: PathBuf,
    is_published: bool,
}

impl Draft {
    pub(super) fn create(output: &Path) -> Result<(Self, File), BuildError> {
        // A symbolic link stays: the file it points to is the one to replace.
        let output = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        let name = output.file_name().ok_or_else(|| BuildError::Occupied { path: output.clone() })?;
        if fs::symlink_metadata(&output).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(BuildError::Occupied { path: output });
        }
        let working_name = format!(".{}.{}.new", name.to_string_lossy(), std::process::id());
        let draft = Self { path: output.with_file_name(working_name), output, is_published: false };
        // An earlier process with this number may have been killed here.
        let _ = fs::remove_file(&draft.path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&draft.path)
            .map_err(|error| draft.failed("create", error))?;
        Ok((draft, file))
    }

    /// The file under its working name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where working name and name are.
    pub(super) fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Makes the content durable, then the name.
    pub(super) fn publish(&mut self) -> Result<(), BuildError> {
        let synced = File::open(&self.path).and_then(|file| file.sync_all());
        synced.map_err(|error| self.failed("sync", error))?;
        fs::rename(&self.path, &self.output).map_err(|error| self.failed("rename", error))?;
        self.is_published = true;
        let directory = self.directory();
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(|source| BuildError::File {
            step: "sync the directory",
            path: directory.to_owned(),
            source,
        })
    }

    pub(super) fn failed(&self, step: &'static str, source: io::Error) -> BuildError {
        BuildError::File { step, path: self.path.clone(), source }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published {
            // Nothing better can be done if this fails; the name begins with a dot and says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// One section on its way into the file.
#[derive(Debug)]
pub(super) struct Stream<'f> {
    file: &'f File,
    begin: u64,
    /// Where the buffer begins in the file.
    offset: u64,
    buffer: Vec<u8>,
    checksum: u32,
}

impl<'f> Stream<'f> {
    pub(super) fn new(file: &'f File, begin: u64) -> Self {
        Self { file, begin, offset: begin, buffer: Vec::new(), checksum: 0 }
    }

    /// Where the next octet will stand.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Whole huge pages are written at once: the kernel then keeps them as such, and maps them with one entry each.
    pub(super) fn write(&mut self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            let room = HUGE_PAGE - self.position() % HUGE_PAGE;
            let length = usize::try_from(room).map_or(octets.len(), |room| room.min(octets.len()));
            let (now, later) = octets.split_at(length);
            self.buffer.extend_from_slice(now);
            octets = later;
            if length as u64 == room {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, &self.buffer);
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Fills up with zeroes to `length` at least, and to the end of the page.
    pub(super) fn finish(mut self, length: u64) -> io::Result<Section> {
        let end = (self.begin + length).max(self.position()).next_multiple_of(PAGE as u64);
        while self.position() < end {
            let missing = usize::try_from(end - self.position()).map_or(PAGE, |missing| missing.min(PAGE));
            self.write(&[0; PAGE][..missing])?;
        }
        self.flush()?;
        Ok(Section { offset: self.begin, length: end - self.begin, checksum: self.checksum })
    }
}
