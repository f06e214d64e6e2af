//! Real file systems that are full, read-only, or have quotas: the right reply, for those whom it concerns, for as
//! long as it lasts.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::{Client, message};
use crate::filesystem::FileSystem;
use crate::ground::{Ground, own_directory, owner};
use crate::mount::{Mount, in_namespace, run};
use crate::process::Process;
use crate::rig::Mode;
use crate::settings;

#[test]
fn a_full_disk_puts_off_its_own_recipients_until_there_is_room() {
    let test = "full::a_full_disk_puts_off_its_own_recipients_until_there_is_room";
    on_every_disk(test, |disk, mode| {
        let mut mail = disk.mail(mode);
        mail.deliver(SMALL, ["250 2.0.0", "250 2.0.0"]);
        fill(&disk.path);
        // In buffers, and written while it arrives.
        for size in [SMALL, LARGE] {
            mail.deliver(size, ["452 4.3.1", "250 2.0.0"]);
        }
        fs::remove_file(disk.path.join("filler")).expect("the filler");
        run(Command::new("sync").arg("--file-system").arg(&disk.path)).expect("coreutils");
        mail.deliver(SMALL, ["250 2.0.0", "250 2.0.0"]);
        mail.end(&disk, 2);
    });
}

#[test]
fn a_disk_without_inodes_puts_off_its_own_recipients_until_there_are_some() {
    let test = "full::a_disk_without_inodes_puts_off_its_own_recipients_until_there_are_some";
    // XFS and btrfs make inodes as long as there is room.
    in_namespace(test, &[FileSystem::Ext4.maker()], || {
        for mode in settings::modes() {
            let disk = Disk::new(FileSystem::Ext4, &["-N", "64"]);
            let mut mail = disk.mail(mode);
            let fillers = take_all_inodes(&disk.path);
            // Not even the Maildir can be made, and later only the file is wanting.
            mail.deliver(SMALL, ["452 4.3.1", "250 2.0.0"]);
            fillers.iter().for_each(|path| fs::remove_file(path).expect("a filler"));
            mail.deliver(SMALL, ["250 2.0.0", "250 2.0.0"]);
            let fillers = take_all_inodes(&disk.path);
            mail.deliver(SMALL, ["452 4.3.1", "250 2.0.0"]);
            fillers.iter().for_each(|path| fs::remove_file(path).expect("a filler"));
            mail.deliver(SMALL, ["250 2.0.0", "250 2.0.0"]);
            mail.end(&disk, 2);
        }
    });
}

#[test]
fn a_read_only_disk_puts_off_its_own_recipients_until_it_can_be_written() {
    let test = "full::a_read_only_disk_puts_off_its_own_recipients_until_it_can_be_written";
    on_every_disk(test, |disk, mode| {
        let mut mail = disk.mail(mode);
        // Before and after there is a Maildir on it.
        for _ in 0..2 {
            disk.mount.remount("ro");
            mail.deliver(SMALL, ["451 4.3.0", "250 2.0.0"]);
            disk.mount.remount("rw");
            mail.deliver(SMALL, ["250 2.0.0", "250 2.0.0"]);
        }
        mail.end(&disk, 2);
    });
}

#[test]
fn a_quota_of_btrfs_refuses_its_own_user_until_it_is_raised() {
    let test = "full::a_quota_of_btrfs_refuses_its_own_user_until_it_is_raised";
    in_namespace(test, &[FileSystem::Btrfs.maker(), "btrfs"], || {
        for mode in settings::modes() {
            let disk = Disk::new(FileSystem::Btrfs, &[]);
            let limited = disk.path.join("limited");
            btrfs(&["subvolume", "create"], &limited);
            chown(&limited, owner(2), owner(2)).expect("an owner");
            disk.ground.add("limited", &limited, owner(2));
            btrfs(&["quota", "enable"], &disk.path);
            btrfs(&["quota", "rescan", "-w"], &disk.path);
            btrfs(&["qgroup", "limit", "1M"], &limited);
            let mut mail = disk.mail(mode);
            let text = message("quota", SMALL);
            let mut saved = 0;
            let refusal = loop {
                let replies = mail.client.deliver(&["limited", "far", "near"], &text);
                assert!(replies[1..].iter().all(|reply| reply.starts_with("250 ")), "{mode:?}: {replies:?}");
                if !replies[0].starts_with("250 ") {
                    break replies[0].clone();
                }
                saved += 1;
                assert!(saved < 100, "100 messages of 20 KB in 1 MiB");
            };
            assert!(refusal.starts_with("552 5.2.2"), "{mode:?}: {refusal}");
            assert!(saved > 5, "{mode:?}: refused after {saved} messages of 20 KB: {refusal}");
            btrfs(&["qgroup", "limit", "none"], &limited);
            let replies = mail.client.deliver(&["limited", "far", "near"], &text);
            assert!(replies.iter().all(|reply| reply.starts_with("250 ")), "{mode:?}: {replies:?}");
            assert_eq!(files(&limited.join("Maildir")), saved + 1, "a file for each 250");
            mail.end(&disk, saved + 2);
        }
    });
}

/// Every file system with every mode.
fn on_every_disk(test: &str, law: impl Fn(Disk, Mode)) {
    in_namespace(test, &FileSystem::ALL.map(FileSystem::maker), || {
        for file_system in FileSystem::ALL {
            for mode in settings::modes() {
                law(Disk::new(file_system, &[]), mode);
            }
        }
    });
}

/// A file system with the home of `far`; that of `near`, and the state of the server, are elsewhere.
struct Disk {
    name: &'static str,
    path: PathBuf,
    far: PathBuf,
    // Ended in this order.
    mount: Mount,
    _images: Mount,
    ground: Ground,
}

impl Disk {
    fn new(file_system: FileSystem, more: &[&str]) -> Self {
        let ground = Ground::new();
        let images = Mount::new(&["-t", "tmpfs"], "tmpfs".as_ref(), &ground.path("images"));
        let image = ground.path("images/0");
        file_system.make(&image, more);
        let path = ground.path("disk");
        let mount = file_system.mount(&image, &path).expect("a new file system");
        let home = path.join("far");
        own_directory(&home, owner(0));
        ground.add("far", &home, owner(0));
        ground.user("near", owner(1));
        let far = home.join("Maildir");
        Self { name: file_system.name(), path, far, mount, _images: images.expect("a tmpfs"), ground }
    }

    /// A server, and a client that is talking to it.
    fn mail(&self, mode: Mode) -> Mail {
        let server = Process::start(&self.ground, &mode.configuration(), &[]);
        let client = Client::greeted(&server.socket);
        Mail { what: format!("{}, {}", self.name, mode.name()), client, server }
    }
}

struct Mail {
    what: String,
    client: Client,
    server: Process,
}

impl Mail {
    /// Sends a message of this size to `far` and `near`.
    #[track_caller]
    fn deliver(&mut self, size: usize, expected: [&str; 2]) {
        let replies = self.client.deliver(&["far", "near"], &message("far and near", size));
        let all = replies.iter().zip(expected).all(|(reply, expected)| reply.starts_with(expected));
        assert!(all, "{}: {size} bytes, expected {expected:?}: {replies:?}", self.what);
    }

    /// Ends the server; `far` has so many messages.
    #[track_caller]
    fn end(self, disk: &Disk, far: usize) {
        let Self { what, client, mut server } = self;
        client.quit();
        server.terminate();
        assert!(server.ended().success(), "{what}: it ends well");
        assert_eq!(files(&disk.far), far, "{what}: a file for each 250");
    }
}

fn files(maildir: &Path) -> usize {
    fs::read_dir(maildir.join("new")).map_or(0, Iterator::count)
}

/// Takes every byte, down to the last block.
fn fill(directory: &Path) {
    let path = directory.join("filler");
    // What is written later finds less than what was promised to it, so again until nothing fits.
    for piece in [1 << 20, 64 << 10, 4 << 10, 4 << 10] {
        let mut file = File::options().create(true).append(true).open(&path).expect("a file");
        let bytes = vec![b'x'; piece];
        while std::io::Write::write_all(&mut file, &bytes).is_ok() {}
        let _ = file.sync_all();
    }
}

/// Takes every inode.
fn take_all_inodes(directory: &Path) -> Vec<PathBuf> {
    let path = |number: usize| directory.join(format!("filler{number}"));
    (0..).map(path).take_while(|path| File::create_new(path).is_ok()).collect()
}

fn btrfs(verb: &[&str], path: &Path) {
    run(Command::new("btrfs").args(verb).arg(path)).expect("btrfs of btrfs-progs");
}

/// Longer than what btrfs keeps in its metadata.
const SMALL: usize = 20_000;

/// Written to its file while it arrives.
const LARGE: usize = 600_000;
