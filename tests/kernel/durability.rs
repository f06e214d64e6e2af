//! Every durability mode delivers, and recipients share a file exactly when they may.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::client::{Client, assert_starts, message};
use crate::ground::{Ground, needs_root, owner};
use crate::server::Running;
use crate::stored::{Stored, assert_no_litter, only_in};

#[test]
fn every_durability_mode_delivers_small_and_large_messages_whole() {
    for mode in ["group", "fsync", "none"] {
        let ground = Ground::new();
        let maildirs = [ground.user("alice", owner(0)), ground.user("bob", owner(1))];
        let server = Running::start(&ground, &format!("[maildir]\ndurability = \"{mode}\"\n"));
        let mut client = Client::greeted(&server.socket);
        let (small, large) = (message("small", 2_000), message("large", 600_000));
        for text in [&small, &large] {
            for reply in client.deliver(&["alice", "bob"], text) {
                assert_starts(&reply, "250 2.0.0");
            }
        }
        client.quit();
        server.stop();
        for maildir in maildirs {
            let mut found: Vec<_> =
                crate::stored::new_in(&maildir).iter().map(|file| file.content().to_vec()).collect();
            found.sort_by_key(Vec::len);
            assert!(found == [small.clone(), large.clone()], "{mode}: both messages, byte for byte");
            assert_no_litter(&maildir);
        }
    }
}

#[test]
fn with_single_instance_recipients_of_one_owner_share_one_file() {
    const NAME: &str = "with_single_instance_recipients_of_one_owner_share_one_file";
    if !needs_root(NAME, "only root can deliver to two owners") {
        return;
    }
    for text in [message("small", 2_000), message("large", 600_000)] {
        let (shared, stranger) = deliver_to_six("single_instance = true", &text);
        let inodes: HashSet<u64> = shared.iter().map(|file| file.inode).collect();
        assert_eq!((inodes.len(), shared[0].links), (1, 5), "one file with five names");
        assert_eq!(stranger.links, 1, "another owner has a file of his own");
        assert!(!inodes.contains(&stranger.inode));
        for file in shared.iter().chain([&stranger]) {
            let (trace, content) = file.split();
            assert_eq!(content, text);
            assert!(trace.starts_with("Return-Path: <sender@example.org>\r\nReceived: "), "{trace}");
            assert!(!trace.contains("for <"), "a shared file names no recipient: {trace}");
        }
    }
}

#[test]
fn with_single_instance_a_message_for_one_names_its_recipient() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, "[maildir]\nsingle_instance = true\n");
    let mut client = Client::greeted(&server.socket);
    client.deliver(&["alice"], &message("alone", 100));
    server.stop();
    let file = only_in(&maildir);
    let (trace, _) = file.split();
    assert!(trace.contains("\r\nDelivered-To: alice@example.test\r\n"), "{trace}");
    assert!(trace.contains("for <alice@example.test>"), "{trace}");
}

#[test]
fn without_single_instance_every_recipient_has_a_file_that_names_him() {
    let text = message("each", 2_000);
    let (shared, stranger) = deliver_to_six("single_instance = false", &text);
    let all: Vec<&Stored> = shared.iter().chain([&stranger]).collect();
    assert_eq!(all.iter().map(|file| file.inode).collect::<HashSet<_>>().len(), 6);
    for (file, name) in all.iter().zip(["user0", "user1", "user2", "user3", "user4", "stranger"]) {
        let (trace, content) = file.split();
        assert_eq!(content, text);
        let expected = format!("Return-Path: <sender@example.org>\r\nDelivered-To: {name}@example.test\r\n");
        assert!(trace.starts_with(&expected), "{trace}");
        assert_eq!(file.links, 1);
    }
}

/// Five users of one owner and one of another, one message for all: what they have.
fn deliver_to_six(setting: &str, text: &[u8]) -> (Vec<Stored>, Stored) {
    let ground = Ground::new();
    let names = ["user0", "user1", "user2", "user3", "user4"];
    let maildirs: Vec<PathBuf> = names.iter().map(|name| ground.user(name, owner(0))).collect();
    let stranger = ground.user("stranger", owner(1));
    let server = Running::start(&ground, &format!("[maildir]\n{setting}\n"));
    let mut client = Client::greeted(&server.socket);
    for reply in client.deliver(&[&names[..], &["stranger"]].concat(), text) {
        assert_starts(&reply, "250 2.0.0");
    }
    client.quit();
    server.stop();
    (maildirs.iter().map(|maildir| only_in(maildir)).collect(), only_in(&stranger))
}
