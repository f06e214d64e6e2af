//! The file systems of the proof, made small.

use std::path::Path;
use std::process::Command;

use crate::mount::{Mount, run};

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// Its name, as mount(8) knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The program that makes one.
    pub(crate) fn maker(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
        }
    }

    /// Makes an empty one in the file `path`; `more` goes to its maker.
    pub(crate) fn make(self, path: &Path, more: &[&str]) {
        let file = std::fs::File::create(path).expect("an image file");
        file.set_len(self.mebibytes() << 20).expect("room for an image");
        let mut command = Command::new(self.maker());
        match self {
            // What a mount would otherwise go on to write by itself is written now.
            Self::Ext4 => {
                command.args(["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs | Self::Btrfs => command.args(["-q", "-f"]),
        };
        run(command.args(more).arg(path)).expect("a new file system");
    }

    /// Mounts the image in the file `file` at `path`.
    ///
    /// # Errors
    /// What mount(8) said.
    pub(crate) fn mount(self, file: &Path, path: &Path) -> Result<Mount, String> {
        let options = match self {
            // Every image of a run has the same UUID.
            Self::Xfs => "loop,nosuid,nodev,nouuid",
            Self::Ext4 | Self::Btrfs => "loop,nosuid,nodev",
        };
        Mount::new(&["-t", self.name(), "-o", options], file, path)
    }

    /// The largest piece that it expects a disk to write whole, in bytes: its superblock, which has a checksum and is
    /// written in place. Everything else it protects against sectors of any size.
    pub(crate) fn grain(self) -> u64 {
        match self {
            Self::Ext4 => 1024,
            Self::Xfs => 512,
            Self::Btrfs => 4096,
        }
    }

    /// The least that its maker takes without complaint, with some room; nothing of it is memory before it is written.
    fn mebibytes(self) -> u64 {
        match self {
            Self::Ext4 => 128,
            Self::Xfs => 300,
            Self::Btrfs => 256,
        }
    }
}
