//! The mailboxes, and the steps that make a file in one: open without a name, write, link.
//!
//! Owns the descriptors of the directories. Never syncs: that is the mode's business.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// All `new/` directories, open.
#[derive(Debug)]
pub(crate) struct Mailboxes(Vec<OwnedFd>);

impl Mailboxes {
    /// Opens `new/` of the Maildirs 0 to `count` - 1 below `directory`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn open(directory: &Path, count: usize) -> Result<Self, String> {
        let open = |number: usize| {
            let path = directory.join(format!("{number}/Maildir/new"));
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::empty())
                .map_err(|errno| format!("{}: {errno}; make the mailboxes first", path.display()))
        };
        let opened: Result<Vec<_>, String> = (0..count).map(open).collect();
        opened.map(Self)
    }

    /// The mailbox of recipient `place` of message `number`, when each message has so many: all in turn.
    pub(crate) fn choose(&self, number: u64, place: usize, recipients: usize) -> usize {
        let count = u64::try_from(self.0.len()).expect("few");
        let recipients = u64::try_from(recipients).expect("few");
        let start = usize::try_from(number.wrapping_mul(recipients) % count).expect("an index");
        (start + place) % self.0.len()
    }

    /// The directory of a mailbox.
    pub(crate) fn directory(&self, mailbox: usize) -> &OwnedFd {
        &self.0[mailbox]
    }

    /// A file in the mailbox that has no name yet.
    pub(crate) fn create(&self, mailbox: usize) -> Result<File, Errno> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0[mailbox], ".", flags, Mode::RUSR | Mode::WUSR)?;
        Ok(File::from(file))
    }

    /// Gives the file a name in the mailbox.
    pub(crate) fn link(&self, file: &File, mailbox: usize, name: &str) -> Result<(), Errno> {
        // By descriptor alone since Linux 6.10 for whoever opened the file; before, and for root alone, by way of /proc.
        static BY_PATH: OnceLock<()> = OnceLock::new();
        let into = &self.0[mailbox];
        if BY_PATH.get().is_none() {
            match rustix::fs::linkat(file, "", into, name, AtFlags::EMPTY_PATH) {
                Err(Errno::NOENT) => BY_PATH.get_or_init(|| ()),
                linked => return linked,
            };
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, path, into, name, AtFlags::SYMLINK_FOLLOW)
    }
}

/// Writes head and body with one call (more if the kernel takes less).
pub(crate) fn write(file: &mut File, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    let mut parts = [IoSlice::new(head), IoSlice::new(body)];
    let mut rest = &mut parts[..];
    while rest.iter().any(|part| !part.is_empty()) {
        let count = file.write_vectored(rest)?;
        if count == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, count);
    }
    Ok(())
}
