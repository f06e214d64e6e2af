//! File systems that are full or read-only, and a process with few descriptors: mail is put off for
//! those whom it concerns, nobody else notices, and service goes on.

use std::fs;
use std::path::{Path, PathBuf};

use crate::client::{Client, assert_starts, message};
use crate::ground::{Ground, is_root, own_directory, owner};
use crate::mount::Mount;
use crate::process::Process;
use crate::server::Running;
use crate::stored::{assert_no_litter, entries, new_in};

#[test]
fn a_full_disk_puts_off_its_own_recipients_only_and_until_there_is_room() {
    const NAME: &str = "a_full_disk_puts_off_its_own_recipients_only_and_until_there_is_room";
    let ground = Ground::new();
    let Some(disk) = Disk::new(NAME, &ground, "size=1m") else { return };
    let server = Running::start(&ground, "");
    let mut client = Client::greeted(&server.socket);
    assert_both(&client.deliver(&["far", "near"], &message("before", 2_000)), "250 2.0.0", "250 2.0.0");

    fill(&disk.path.join("filler"));
    // In buffers, and streamed to the file while it arrives.
    for size in [2_000, 600_000] {
        let replies = client.deliver(&["far", "near"], &message("full", size));
        assert_both(&replies, "452 4.3.1", "250 2.0.0");
    }
    assert_eq!((new_in(&disk.far).len(), new_in(&disk.near).len()), (1, 3));
    assert_no_litter(&disk.far);

    fs::remove_file(disk.path.join("filler")).expect("the filler");
    assert_both(&client.deliver(&["far", "near"], &message("after", 2_000)), "250 2.0.0", "250 2.0.0");
    assert_eq!((new_in(&disk.far).len(), new_in(&disk.near).len()), (2, 4));
    // The reserve of a full file system is not held by files that have no name.
    fs::write(disk.path.join("filler"), vec![0; 900_000]).expect("what was refused holds no space");
}

#[test]
fn a_message_larger_than_the_room_is_put_off_and_leaves_the_room_as_it_was() {
    const NAME: &str = "a_message_larger_than_the_room_is_put_off_and_leaves_the_room_as_it_was";
    let ground = Ground::new();
    let Some(disk) = Disk::new(NAME, &ground, "size=1m") else { return };
    let server = Running::start(&ground, "");
    let mut client = Client::greeted(&server.socket);
    let large = message("large", 3 << 20);
    assert_both(&client.deliver(&["far", "near"], &large), "452 4.3.1", "250 2.0.0");
    assert_eq!(new_in(&disk.far).len(), 0);
    assert!(new_in(&disk.near)[0].content() == large, "the neighbour has it whole");
    assert_both(&client.deliver(&["far", "near"], &message("small", 2_000)), "250 2.0.0", "250 2.0.0");
}

#[test]
fn a_disk_without_inodes_puts_off_its_own_recipients_only_and_until_there_are_some() {
    const NAME: &str = "a_disk_without_inodes_puts_off_its_own_recipients_only_and_until_there_are_some";
    let ground = Ground::new();
    let Some(disk) = Disk::new(NAME, &ground, "size=4m,nr_inodes=40") else { return };
    let server = Running::start(&ground, "");
    let mut client = Client::greeted(&server.socket);
    // Without inodes not even the Maildir can be made.
    let fillers = take_all_inodes(&disk.path);
    assert_both(&client.deliver(&["far", "near"], &message("full", 2_000)), "452 4.3.1", "250 2.0.0");
    fillers.iter().for_each(|path| fs::remove_file(path).expect("a filler"));
    assert_both(&client.deliver(&["far", "near"], &message("room", 2_000)), "250 2.0.0", "250 2.0.0");
    // And now only the file is wanting.
    let fillers = take_all_inodes(&disk.path);
    assert_both(&client.deliver(&["far", "near"], &message("full", 2_000)), "452 4.3.1", "250 2.0.0");
    assert_no_litter(&disk.far);
    fillers.iter().for_each(|path| fs::remove_file(path).expect("a filler"));
    assert_both(&client.deliver(&["far", "near"], &message("after", 2_000)), "250 2.0.0", "250 2.0.0");
    assert_eq!((new_in(&disk.far).len(), new_in(&disk.near).len()), (2, 4));
}

#[test]
fn a_read_only_disk_puts_off_its_own_recipients_only_and_until_it_can_be_written() {
    const NAME: &str = "a_read_only_disk_puts_off_its_own_recipients_only_and_until_it_can_be_written";
    let ground = Ground::new();
    let Some(disk) = Disk::new(NAME, &ground, "size=4m") else { return };
    let server = Running::start(&ground, "");
    let mut client = Client::greeted(&server.socket);
    // Before and after there is a Maildir on it.
    for round in 0..2 {
        disk.mount.remount("ro");
        let replies = client.deliver(&["far", "near"], &message("read-only", 2_000));
        assert_both(&replies, "451 4.3.0", "250 2.0.0");
        disk.mount.remount("rw");
        let replies = client.deliver(&["far", "near"], &message("writable", 2_000));
        assert_both(&replies, "250 2.0.0", "250 2.0.0");
        assert_eq!(new_in(&disk.far).len(), round + 1);
        assert_no_litter(&disk.far);
    }
}

#[test]
fn a_small_limit_of_open_files_lowers_the_connections_and_service_goes_on() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    // Root would raise the limit again; without this one capability it cannot.
    let mut through = vec!["prlimit", "--nofile=120:120", "--"];
    if is_root() {
        through.splice(0..0, ["setpriv", "--bounding-set=-sys_resource", "--"]);
    }
    let server = Process::start(&ground, "workers = 1\n[limits]\nconnections = 500\n", &through);
    server
        .said
        .wait_for("warning: limits.connections is lowered from 500 to 28: the limit of open files is 120", 1);

    let mut clients: Vec<Client> = (0..28).map(|_| Client::greeted(&server.socket)).collect();
    let mut refused = Client::connect(&server.socket);
    assert_starts(&refused.reply(), "421 4.3.2");
    // All at once, and each with more files than descriptors are left for.
    let text = message("few", 2_000);
    for _ in 0..3 {
        for client in &mut clients {
            client.begin(&["alice"]);
        }
        for client in &mut clients {
            client.send(&[&text[..], b".\r\n"].concat());
        }
        for client in &mut clients {
            assert_starts(&client.reply(), "250 2.0.0");
        }
    }
    assert_eq!(new_in(&maildir).len(), 3 * 28);
    clients.pop().expect("one of them").quit();
    Client::greeted(&server.socket).quit();
}

#[test]
fn large_messages_under_a_small_limit_of_open_files_are_delivered_or_put_off() {
    let ground = Ground::new();
    let names: Vec<String> = (0..20).map(|number| format!("user{number}")).collect();
    let maildirs: Vec<PathBuf> = names.iter().map(|name| ground.user(name, owner(0))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut through = vec!["prlimit", "--nofile=100:100", "--"];
    if is_root() {
        through.splice(0..0, ["setpriv", "--bounding-set=-sys_resource", "--"]);
    }
    let server = Process::start(&ground, "workers = 1\n[limits]\nconnections = 500\n", &through);
    // Streamed, so every recipient has a file open while the message arrives: 4 times 20 of them, and each
    // with its directory.
    let text = message("large", 600_000);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::greeted(&server.socket)).collect();
    for client in &mut clients {
        client.begin(&names);
    }
    for client in &mut clients {
        client.send(&text[..500_000]);
    }
    let mut saved = 0;
    for client in &mut clients {
        client.send(&[&text[500_000..], b".\r\n"].concat());
        for _ in &names {
            let reply = client.reply();
            assert!(reply.starts_with("250 2.0.0") || reply.starts_with("451 4.3.0"), "{reply}");
            saved += usize::from(reply.starts_with("250"));
        }
    }
    let found: Vec<_> = maildirs.iter().flat_map(|maildir| new_in(maildir)).collect();
    assert_eq!(found.len(), saved, "a file for every 250 and for nothing else");
    assert!(found.iter().all(|file| file.content() == text), "all of them whole");
    for reply in clients[0].deliver(&names[..3], &message("after", 2_000)) {
        assert_starts(&reply, "250 2.0.0");
    }
}

/// A file system in memory with the home of `far`, and that of `near` elsewhere.
struct Disk {
    path: PathBuf,
    mount: Mount,
    far: PathBuf,
    near: PathBuf,
}

impl Disk {
    fn new(test: &str, ground: &Ground, options: &str) -> Option<Self> {
        let path = ground.path("disk");
        let mount = Mount::tmpfs(test, &path, options)?;
        let home = path.join("far");
        own_directory(&home, owner(0));
        ground.add("far", &home, owner(0));
        let near = ground.user("near", owner(1));
        Some(Self { path, mount, far: home.join("Maildir"), near })
    }
}

#[track_caller]
fn assert_both(replies: &[String], far: &str, near: &str) {
    assert_eq!(replies.len(), 2);
    assert_starts(&replies[0], far);
    assert_starts(&replies[1], near);
}

/// Takes every byte of a file system.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).expect("room for a file");
    let full = std::io::copy(&mut std::io::repeat(b'x'), &mut file).expect_err("it is full at last");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

/// Takes every inode of a file system.
fn take_all_inodes(directory: &Path) -> Vec<PathBuf> {
    let before = entries(directory).len();
    let mut fillers = Vec::new();
    let full = loop {
        let path = directory.join(format!("filler{}", fillers.len()));
        match fs::File::create_new(&path) {
            Ok(_) => fillers.push(path),
            Err(full) => break full,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(entries(directory).len(), before + fillers.len());
    fillers
}
