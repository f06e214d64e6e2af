//! Where mail may lie: nothing leads out of a mailbox, and what is missing is made only when that is wanted.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::client::{Client, assert_starts, message};
use crate::ground::{Ground, give, own_directory, owner};
use crate::server::Running;
use crate::stored::{entries, new_in, only_in};

#[test]
fn a_maildir_that_is_a_link_to_another_users_gets_nothing_and_neither_does_the_other() {
    // The same owner for both: no permission of the file system stands in the way.
    for create in [true, false] {
        let ground = Ground::new();
        let victim = ground.user("victim", owner(0));
        make_maildir(&victim, owner(0));
        let attacker = ground.user("attacker", owner(0));
        symlink(&victim, &attacker).expect("a link");
        let reply = deliver_one(&ground, &format!("[maildir]\ncreate = {create}\n"), "attacker");
        assert_starts(&reply, "451 4.2.0");
        assert_eq!(entries(&victim.join("new")), Vec::<PathBuf>::new());
        assert_eq!(entries(&victim.join("tmp")), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_new_that_is_a_link_gets_nothing() {
    let ground = Ground::new();
    let elsewhere = ground.directory_of("elsewhere", owner(0));
    let maildir = ground.user("alice", owner(0));
    make_maildir(&maildir, owner(0));
    fs::remove_dir(maildir.join("new")).expect("it was empty");
    symlink(&elsewhere, maildir.join("new")).expect("a link");
    assert_starts(&deliver_one(&ground, "", "alice"), "451 4.2.0");
    assert_eq!(entries(&elsewhere), Vec::<PathBuf>::new());
}

#[test]
fn a_link_that_leads_nowhere_is_not_filled_in() {
    let ground = Ground::new();
    let target = ground.path("mail/target");
    let maildir = ground.user("alice", owner(0));
    symlink(&target, &maildir).expect("a link");
    assert_starts(&deliver_one(&ground, "", "alice"), "451 4.2.0");
    assert!(!target.exists(), "nothing was made through the link");
}

#[test]
fn a_home_behind_a_link_of_the_administrator_works() {
    for make_first in [true, false] {
        let ground = Ground::new();
        let real = ground.directory_of("disk2/alice", owner(0));
        symlink(ground.path("disk2"), ground.path("home")).expect("a link");
        ground.add("alice", &ground.path("home/alice"), owner(0));
        if make_first {
            make_maildir(&real.join("Maildir"), owner(0));
        }
        assert_starts(&deliver_one(&ground, "", "alice"), "250 2.0.0");
        only_in(&real.join("Maildir"));
    }
}

#[test]
fn beneath_a_mail_root_no_link_is_followed() {
    let ground = Ground::new();
    let real = ground.directory_of("root/disk2/alice", owner(0));
    make_maildir(&real.join("Maildir"), owner(0));
    symlink(ground.path("root/disk2"), ground.path("root/home")).expect("a link");
    ground.add("linked", &ground.path("root/home/alice"), owner(0));
    ground.add("direct", &ground.path("root/disk2/alice"), owner(0));
    let settings = format!("[maildir]\nroot = \"{}\"\n", ground.path("root").display());
    let server = Running::start(&ground, &settings);
    let mut client = Client::greeted(&server.socket);
    let replies = client.deliver(&["linked", "direct"], &message("root", 100));
    assert_starts(&replies[0], "451 4.2.0");
    assert_starts(&replies[1], "250 2.0.0");
    only_in(&real.join("Maildir"));
}

#[test]
fn a_home_outside_of_the_mail_root_gets_nothing() {
    let ground = Ground::new();
    fs::create_dir_all(ground.path("root")).expect("a root");
    // A name that begins as the root does lies outside all the same.
    for (name, home) in [("outside", "mail/outside"), ("lookalike", "root2/alice")] {
        let home = ground.directory_of(home, owner(0));
        make_maildir(&home.join("Maildir"), owner(0));
        ground.add(name, &home, owner(0));
    }
    let settings = format!("[maildir]\nroot = \"{}\"\n", ground.path("root").display());
    let server = Running::start(&ground, &settings);
    let mut client = Client::greeted(&server.socket);
    for reply in client.deliver(&["outside", "lookalike"], &message("root", 100)) {
        assert_starts(&reply, "451 4.2.0");
    }
    for home in ["mail/outside", "root2/alice"] {
        assert_eq!(new_in(&ground.path(home).join("Maildir")).len(), 0);
    }
}

#[test]
fn a_missing_home_is_made_with_its_parents_for_its_owner_alone() {
    for root in [false, true] {
        let ground = Ground::new();
        // Whoever owns the mail may make directories here.
        let base = ground.directory_of("mail", owner(0));
        let home = base.join("a/b/alice");
        ground.add("alice", &home, owner(0));
        let settings =
            if root { format!("[maildir]\nroot = \"{}\"\n", base.display()) } else { String::new() };
        assert_starts(&deliver_one(&ground, &settings, "alice"), "250 2.0.0");
        only_in(&home.join("Maildir"));
        for path in ["a", "a/b", "a/b/alice", "a/b/alice/Maildir", "a/b/alice/Maildir/tmp"] {
            let metadata = fs::metadata(base.join(path)).expect("it was made");
            assert_eq!(metadata.mode() & 0o7777, 0o700, "mode of {path}");
            assert_eq!(metadata.uid(), owner(0).unwrap_or_else(|| metadata.uid()), "owner of {path}");
        }
    }
}

#[test]
fn a_missing_mailbox_is_temporary_when_none_may_be_made() {
    let ground = Ground::new();
    let present = ground.user("present", owner(0));
    ground.add("missing", &ground.path("mail/missing"), owner(0));
    let server = Running::start(&ground, "[maildir]\ncreate = false\n");
    let mut client = Client::greeted(&server.socket);
    for reply in client.deliver(&["present", "missing"], &message("create", 100)) {
        assert_starts(&reply, "451 4.2.0");
    }
    assert!(!present.exists() && !ground.path("mail/missing").exists(), "nothing was made");
}

#[test]
fn a_file_where_a_directory_should_be_is_temporary_and_stays_as_it_is() {
    let ground = Ground::new();
    let at_maildir = ground.user("maildir", owner(0));
    fs::write(&at_maildir, "precious").expect("a file");
    let at_new = ground.user("new", owner(0));
    own_directory(&at_new, owner(0));
    fs::write(at_new.join("new"), "precious").expect("a file");
    let at_home = ground.path("file");
    fs::write(&at_home, "precious").expect("a file");
    ground.add("home", &at_home, owner(0));
    let server = Running::start(&ground, "");
    let mut client = Client::greeted(&server.socket);
    for reply in client.deliver(&["maildir", "new", "home"], &message("file", 100)) {
        assert_starts(&reply, "451 4.2.0");
    }
    for file in [at_maildir, at_new.join("new"), at_home] {
        assert_eq!(fs::read_to_string(&file).expect("the file"), "precious");
    }
}

#[test]
fn a_home_that_its_owner_may_not_enter_is_temporary() {
    if !crate::ground::needs_root(
        "a_home_that_its_owner_may_not_enter_is_temporary",
        "only root can deliver to somebody else",
    ) {
        return;
    }
    let ground = Ground::new();
    ground.user("alice", owner(0));
    give(&ground.path("mail/alice"), owner(1), 0o700);
    assert_starts(&deliver_one(&ground, "", "alice"), "451 4.2.0");
}

/// Starts a server, delivers one message and returns its reply.
fn deliver_one(ground: &Ground, settings: &str, user: &str) -> String {
    let server = Running::start(ground, settings);
    let mut client = Client::greeted(&server.socket);
    client.deliver(&[user], &message("one", 100)).remove(0)
}

fn make_maildir(maildir: &Path, owner: Option<u32>) {
    own_directory(maildir, owner);
    for name in ["new", "cur", "tmp"] {
        own_directory(&maildir.join(name), owner);
    }
}
