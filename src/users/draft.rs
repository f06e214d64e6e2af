//! The file of a table that is being built, until it is published.
//!
//! Owns the working file: its name, its sections' checksums, its way to the table's own name. Promises that the
//! name is only given to a file whose content is durable, by rename, and that a file which is given up goes
//! away. Never knows what is in the sections.
#![forbid(unsafe_code)]

use super::build::BuildError;
use super::header::Section;
use super::layout::PAGE;
use super::record;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
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

    /// The content is durable by now; the name is after this.
    pub(super) fn publish(&mut self) -> Result<(), BuildError> {
        fs::rename(&self.path, &self.output).map_err(|error| self.failed("rename", error))?;
        self.is_published = true;
        let directory = match self.output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
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

/// The file that is written, with the position and the checksum of the section at hand.
#[derive(Debug)]
pub(super) struct Output {
    file: BufWriter<File>,
    /// Octets written so far.
    pub(super) offset: u64,
    section: Section,
}

impl Output {
    pub(super) fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(1 << 18, file), offset: 0, section: Section::default() }
    }

    pub(super) fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.file.write_all(octets)?;
        self.offset += octets.len() as u64;
        self.section.checksum = crc32c::crc32c_append(self.section.checksum, octets);
        Ok(())
    }

    pub(super) fn begin_section(&mut self) {
        self.section = Section { offset: self.offset, ..Section::default() };
    }

    /// Fills the last page.
    pub(super) fn end_section(&mut self) -> io::Result<Section> {
        let page = PAGE as u64;
        let missing = self.offset.next_multiple_of(page) - self.offset;
        self.write(&[0; PAGE][..usize::try_from(missing).unwrap_or_default()])?;
        self.section.length = self.offset - self.section.offset;
        Ok(self.section)
    }

    /// Makes everything that was written readable.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    /// The address of a record that was written and flushed.
    pub(super) fn address_at(&self, offset: u64) -> io::Result<String> {
        let mut length = [0; 2];
        let file = self.file.get_ref();
        file.read_exact_at(&mut length, offset + record::ADDRESS_AT)?;
        let mut address = vec![0; usize::from(u16::from_le_bytes(length))];
        file.read_exact_at(&mut address, offset + record::ADDRESS_AT + 2)?;
        String::from_utf8(address).map_err(io::Error::other)
    }

    pub(super) fn finish(&mut self, header: &[u8; PAGE]) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().write_all_at(header, 0)?;
        self.file.get_ref().sync_all()
    }
}
