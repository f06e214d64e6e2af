//! File names: their sizes are exact, and no two are the same.

use std::collections::HashSet;

use crate::client::{Client, assert_starts, message};
use crate::ground::{Ground, owner};
use crate::server::Running;
use crate::stored::{Stored, new_in, only_in, with_crlf};

#[test]
fn sizes_in_names_are_exact_for_a_message_that_drips_in() {
    for (mode, as_stored) in MODES {
        let text = lone_line_feeds(2 << 10);
        let file = deliver(mode, &text, 50);
        assert_exact(&file, &as_stored(&text), mode);
    }
}

#[test]
fn sizes_in_names_are_exact_for_a_message_that_is_written_while_it_arrives() {
    for (mode, as_stored) in MODES {
        let text = lone_line_feeds(3 << 20);
        // Of a length that lets buffers end anywhere, between CR and LF too.
        let file = deliver(mode, &text, 9_973);
        assert_exact(&file, &as_stored(&text), mode);
    }
}

#[test]
fn sizes_in_names_are_exact_when_a_line_ends_with_two_carriage_returns() {
    for (mode, as_stored) in MODES {
        let text = b"Subject: returns\r\n\r\none\r\r\ntwo\r\r\r\nthree\n\r\n\r\r\n".to_vec();
        let file = deliver(mode, &text, 7);
        assert_exact(&file, &as_stored(&text), mode);
    }
}

#[test]
fn two_thousand_messages_over_two_workers_have_two_thousand_names() {
    let ground = Ground::new();
    let maildirs = [ground.user("alice", owner(0)), ground.user("bob", owner(1))];
    let server = Running::start(&ground, "workers = 2\n[maildir]\ndurability = \"none\"\n");
    std::thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| {
                let mut client = Client::greeted(&server.socket);
                for _ in 0..1_000 / SESSIONS {
                    for reply in client.deliver(&["alice", "bob"], &message("name", 200)) {
                        assert_starts(&reply, "250 2.0.0");
                    }
                }
                client.quit();
            });
        }
    });
    server.stop();
    let names: Vec<String> =
        maildirs.iter().flat_map(|maildir| new_in(maildir)).map(|file| unique_part(&file)).collect();
    assert_eq!(names.len(), 2_000);
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 2_000, "over all mailboxes, sizes left out");
    for worker in ["W0.", "W1."] {
        assert!(names.iter().any(|name| name.contains(worker)), "{worker} delivered something");
    }
}

/// Delivers `text` to a user of a new server, in writes of `packet` bytes, and returns the file.
fn deliver(mode: &str, text: &[u8], packet: usize) -> Stored {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, &format!("[maildir]\nline_endings = \"{mode}\"\n"));
    let mut client = Client::greeted(&server.socket);
    client.begin(&["alice"]);
    for part in [text, b".\r\n"].concat().chunks(packet) {
        client.send(part);
    }
    assert_starts(&client.reply(), "250 2.0.0");
    client.quit();
    server.stop();
    only_in(&maildir)
}

#[track_caller]
fn assert_exact(file: &Stored, expected: &[u8], mode: &str) {
    assert!(file.content() == expected, "{mode}: what was stored is what arrived");
    assert_eq!(file.size_in_name(",S="), file.bytes.len(), "{mode}: S of {}", file.name);
    assert_eq!(file.size_in_name(",W="), with_crlf(&file.bytes).len(), "{mode}: W of {}", file.name);
}

/// A message of at least `bytes` bytes in which lines end in every way, the last one as the end of data wants it.
fn lone_line_feeds(bytes: usize) -> Vec<u8> {
    let mut text = b"Subject: line ends\r\n\r\n".to_vec();
    let ends: [&[u8]; 5] = [b"\r\n", b"\n", b"\n\n", b"\r", b"\n\r\n"];
    for (number, end) in ends.iter().cycle().enumerate() {
        if text.len() >= bytes {
            break;
        }
        text.extend_from_slice(format!("line {number}").as_bytes());
        text.extend_from_slice(end);
    }
    text.extend_from_slice(b"last\r\n");
    text
}

/// The name without its sizes, which differ for different recipients anyway.
fn unique_part(file: &Stored) -> String {
    file.name.split_once(",S=").expect("sizes").0.to_owned()
}

/// The CR of each CRLF left out, the naive way.
fn as_lf(text: &[u8]) -> Vec<u8> {
    let mut stored = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        if byte != b'\r' || text.get(at + 1) != Some(&b'\n') {
            stored.push(byte);
        }
    }
    stored
}

/// A value of `maildir.line_endings`, and what is stored then.
type Mode = (&'static str, fn(&[u8]) -> Vec<u8>);

const MODES: [Mode; 2] = [("crlf", <[u8]>::to_vec), ("lf", as_lf)];
const SESSIONS: usize = 20;
