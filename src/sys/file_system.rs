//! What a file system promises about the order in which things become durable.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{fstat, fstatfs, major, minor};
use rustix::io::Errno;

/// Whether a name on the file system of `fd` can only survive a power cut together with the bytes that had been
/// written out to the device (sync_file_range(2)) before the name was given.
///
/// That is so where all changes of names and of file extents go through one log, in order, and the log makes
/// the device flush its cache before it commits: XFS, and ext4 with a journal. Where it cannot be told
/// (ext4 when /proc/fs is hidden) the answer is no.
///
/// # Errors
/// As fstatfs(2): a file system that has shut itself down says nothing about itself any more.
pub fn keeps_order(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(match fstatfs(&fd)?.f_type {
        XFS_MAGIC => true,
        EXT_MAGIC => has_jbd2_log(fstat(&fd)?.st_dev),
        _ => false,
    })
}

/// Whether the block device carries a jbd2 journal of its own. The number that ext2, ext3 and ext4 share does
/// not tell, nor does ext4, which can be made without.
fn has_jbd2_log(device: u64) -> bool {
    let number = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let Ok(target) = fs::read_link(number) else { return false };
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else { return false };
    // A journal in the file system itself is listed as device and inode, `sda1-8`.
    let Ok(logs) = fs::read_dir("/proc/fs/jbd2") else { return false };
    logs.flatten().any(|log| {
        let log = log.file_name();
        let behind =
            log.to_str().and_then(|log| log.strip_prefix(name)).and_then(|rest| rest.strip_prefix('-'));
        behind.is_some_and(|inode| inode.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Of linux/magic.h.
const EXT_MAGIC: i64 = 0xef53;
const XFS_MAGIC: i64 = 0x5846_5342;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_promises_no_order() {
        let directory = fs::File::open("/dev/shm").or_else(|_| fs::File::open("/proc")).unwrap();
        assert_eq!(keeps_order(&directory), Ok(false));
    }

    #[test]
    fn a_device_that_is_not_there_has_no_log() {
        assert!(!has_jbd2_log(rustix::fs::makedev(4095, 1_048_575)));
    }
}
