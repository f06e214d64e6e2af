//! The rig itself: a disk that hid a flush, or a write, would prove nothing.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::process::Command;
use std::sync::Arc;

use crate::blocklog::{BlockLog, Event};
use crate::device::Device;
use crate::ground::Ground;
use crate::image::Image;
use crate::mount::{in_namespace, run};

#[test]
fn every_sync_of_the_disk_is_in_the_log_behind_its_write() {
    in_namespace("honest::every_sync_of_the_disk_is_in_the_log_behind_its_write", &["losetup"], || {
        let ground = Ground::new();
        let blank = ground.path("blank");
        File::create(&blank).and_then(|file| file.set_len(8 << 20)).expect("an image file");
        let log = Arc::new(BlockLog::default());
        let device =
            Device::show(0, Image::load(&blank), &log, &ground.path("device")).expect("a FUSE mount");
        let loops = Command::new("losetup").args(["--find", "--show"]).arg(device.file()).output();
        let loops = String::from_utf8(loops.expect("losetup").stdout).expect("a path");
        let disk = File::options().write(true).open(loops.trim()).expect("a loop device");
        // Done with the last handle, however this ends (LO_FLAGS_AUTOCLEAR).
        run(Command::new("losetup").arg("--detach").arg(loops.trim())).expect("a loop device");
        log.take();
        for round in 0..20_u8 {
            disk.write_all_at(&[round + 1; 4096], u64::from(round) * 8192).expect("a write");
            assert_eq!(log.now(), 0, "the page cache of the loop device has it, which may");
            disk.sync_data().expect("a sync");
            assert_write_and_flush(&log, u64::from(round) * 8192, round + 1);
        }
        // The other way to say it: one call that writes and syncs.
        let mut options = File::options();
        let direct = options.write(true).custom_flags(libc::O_DSYNC | libc::O_DIRECT).open(loops.trim());
        let page = aligned(0xaa);
        direct.expect("a loop device").write_all_at(&page.0, 4096).expect("a write");
        assert_write_and_flush(&log, 4096, 0xaa);
        let mut byte = [0];
        device.image().read(4096, &mut byte);
        assert_eq!(byte, [0xaa]);
    });
}

/// Since the last look there has been one write, and a flush behind it; O_DIRECT with O_DSYNC makes two of them.
#[track_caller]
fn assert_write_and_flush(log: &BlockLog, at: u64, byte: u8) {
    let entries = log.take();
    let [write, flushes @ ..] = &entries[..] else { panic!("nothing in the log") };
    let whole =
        matches!(&write.event, Event::Write { offset, bytes } if *offset == at && **bytes == [byte; 4096]);
    assert!(whole, "the write");
    assert!((1..=2).contains(&flushes.len()), "a flush behind it");
    assert!(flushes.iter().all(|entry| matches!(entry.event, Event::Flush)), "nothing else");
}

/// O_DIRECT wants memory that begins at a sector's multiple (open(2)).
#[repr(align(4096))]
struct Page([u8; 4096]);

fn aligned(byte: u8) -> Box<Page> {
    Box::new(Page([byte; 4096]))
}
