//! Folders by detail, as their owner, on a real file system.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use crate::client::{Client, assert_starts, message};
use crate::ground::{Ground, give, own_directory, owner};
use crate::server::Running;
use crate::stored::{assert_no_litter, new_in, only_in};

#[test]
fn a_folder_is_made_for_its_owner_alone_marked_and_subscribed() {
    for durability in ["journal", "group", "fsync", "none"] {
        let ground = Ground::new();
        let maildir = ground.user("alice", owner(0));
        let settings = format!("[maildir]\ndurability = \"{durability}\"\n{CREATE}");
        deliver(&ground, &settings, &["alice+lists.rust", "alice"], "250 2.0.0");
        only_in(&maildir);
        only_in(&maildir.join(".lists.rust"));
        assert_no_litter(&maildir.join(".lists.rust"));
        for (path, mode) in [
            (".lists.rust", 0o700),
            (".lists.rust/tmp", 0o700),
            (".lists.rust/cur", 0o700),
            (".lists.rust/new", 0o700),
            (".lists.rust/maildirfolder", 0o600),
            ("subscriptions", 0o600),
        ] {
            let metadata = fs::metadata(maildir.join(path)).expect("it was made");
            assert_eq!(metadata.mode() & 0o7777, mode, "mode of {path}");
            assert_eq!(metadata.uid(), owner(0).unwrap_or_else(|| metadata.uid()), "owner of {path}");
        }
        assert_eq!(list(&maildir), "V\t2\n\nlists\trust\n");
        assert!(!maildir.join("maildirfolder").exists(), "the Maildir itself is no folder");
    }
}

#[test]
fn many_messages_at_once_make_a_folder_once() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, &format!("workers = 2\n[maildir]\n{CREATE}"));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let socket = &server.socket;
            scope.spawn(move || {
                let mut client = Client::greeted(socket);
                for reply in client.deliver(&["alice+a", "alice+b"], &message(&number.to_string(), 300)) {
                    assert_starts(&reply, "250 2.0.0");
                }
            });
        }
    });
    server.stop();
    assert_eq!((new_in(&maildir.join(".a")).len(), new_in(&maildir.join(".b")).len()), (8, 8));
    let list = list(&maildir);
    let mut lines: Vec<&str> = list.lines().skip(2).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a", "b"]);
}

#[test]
fn a_list_of_subscriptions_is_added_to_in_its_own_format_and_keeps_every_line() {
    for (before, after) in [
        ("V\t2\n\nDrafts\n", "V\t2\n\nDrafts\nlists\trust\n"),
        ("INBOX\nDrafts\n", "INBOX\nDrafts\nlists.rust\n"),
        ("V\t2\n\nlists\trust\n", "V\t2\n\nlists\trust\n"),
        ("V\t9\nunheard of\n", "V\t9\nunheard of\n"),
    ] {
        let (ground, maildir) = alice();
        fs::write(maildir.join("subscriptions"), before).expect("a list");
        give(&maildir.join("subscriptions"), owner(0), 0o600);
        deliver(&ground, &format!("[maildir]\n{CREATE}"), &["alice+lists.rust"], "250 2.0.0");
        only_in(&maildir.join(".lists.rust"));
        assert_eq!(list(&maildir), after);
    }
}

#[test]
fn a_list_of_subscriptions_that_is_a_link_is_not_written_through() {
    let (ground, maildir) = alice();
    let precious = ground.path("precious");
    fs::write(&precious, "INBOX\n").expect("a file");
    give(&precious, owner(0), 0o600);
    symlink(&precious, maildir.join("subscriptions")).expect("a link");
    deliver(&ground, &format!("[maildir]\n{CREATE}"), &["alice+lists"], "250 2.0.0");
    only_in(&maildir.join(".lists"));
    assert_eq!(fs::read_to_string(&precious).expect("the file"), "INBOX\n");
}

#[test]
fn a_folder_that_is_a_link_gets_nothing() {
    for create in ["", CREATE] {
        let (ground, maildir) = alice();
        let elsewhere = ground.path("elsewhere");
        make_maildir(&elsewhere);
        symlink(&elsewhere, maildir.join(".lists")).expect("a link");
        let settings = format!("[maildir]\n{}", if create.is_empty() { FOLDERS } else { create });
        deliver(&ground, &settings, &["alice+lists"], "451 4.2.0");
        assert_eq!((new_in(&elsewhere).len(), new_in(&maildir).len()), (0, 0));
    }
}

#[test]
fn what_is_no_folder_leaves_its_mail_to_the_inbox() {
    for settings in [FOLDERS, CREATE] {
        let (ground, maildir) = alice();
        fs::write(maildir.join(".file"), "precious").expect("a file");
        let settings = format!("[maildir]\n{settings}");
        deliver(&ground, &settings, &["alice+file", "alice+../../bob", "alice+INBOX"], "250 2.0.0");
        assert_eq!(new_in(&maildir).len(), 3);
        assert_eq!(fs::read_to_string(maildir.join(".file")).expect("the file"), "precious");
    }
}

#[test]
fn a_folder_is_made_in_no_maildir_that_is_missing_and_may_not_be_made() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    deliver(&ground, &format!("[maildir]\ncreate = false\n{CREATE}"), &["alice+lists"], "451 4.2.0");
    assert!(!maildir.exists(), "nothing was made");

    let (ground, maildir) = alice();
    deliver(&ground, &format!("[maildir]\ncreate = false\n{CREATE}"), &["alice+lists"], "250 2.0.0");
    only_in(&maildir.join(".lists"));
}

#[test]
fn beneath_a_mail_root_folders_are_found_and_made() {
    let (ground, maildir) = alice();
    make_maildir(&maildir.join(".there"));
    let root = ground.path("mail");
    let settings = format!("[maildir]\nroot = \"{}\"\n{CREATE}", root.display());
    deliver(&ground, &settings, &["alice+there", "alice+new"], "250 2.0.0");
    only_in(&maildir.join(".there"));
    only_in(&maildir.join(".new"));
    assert_eq!(list(&maildir), "V\t2\n\nnew\n", "who was there is not subscribed");
}

/// Starts a server and delivers one message to all of `users`, who are all told the same.
fn deliver(ground: &Ground, settings: &str, users: &[&str], expected: &str) {
    let server = Running::start(ground, settings);
    let mut client = Client::greeted(&server.socket);
    for reply in client.deliver(users, &message("folders", 300)) {
        assert_starts(&reply, expected);
    }
}

/// A ground with a user who has a Maildir.
fn alice() -> (Ground, std::path::PathBuf) {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    make_maildir(&maildir);
    (ground, maildir)
}

fn make_maildir(maildir: &Path) {
    own_directory(maildir, owner(0));
    for name in ["new", "cur", "tmp"] {
        own_directory(&maildir.join(name), owner(0));
    }
}

fn list(maildir: &Path) -> String {
    fs::read_to_string(maildir.join("subscriptions")).expect("a list")
}

const FOLDERS: &str = "detail_to_folder = true\n";
const CREATE: &str = "detail_to_folder = true\ncreate_folder = true\n";
