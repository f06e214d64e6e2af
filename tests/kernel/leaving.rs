//! Clients that vanish: before the end of data nothing is delivered, after it the message is whole or not there.

use std::net::Shutdown;

use crate::client::{Client, assert_starts, blast, message};
use crate::ground::{Ground, owner};
use crate::server::Running;
use crate::stored::{Stored, assert_no_litter, new_in};

#[test]
fn a_client_that_vanishes_before_the_end_of_data_leaves_nothing() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, "");
    let mut left = 0;
    // In buffers, and streamed; in the middle of a line, behind one, and one byte before the end.
    for size in [500, 1 << 20] {
        for end in ["cut of", "\r\n", "\r\n.\r", "\r\n.", "\n.\n", "\r.\r"] {
            let mut client = Client::greeted(&server.socket);
            client.begin(&["alice"]);
            client.send(&[&message("gone", size), end.as_bytes()].concat());
            drop(client);
            left += 1;
            server.said.wait_for("the client left in the middle of a transaction", left);
        }
    }
    server.stop();
    assert_eq!(new_in(&maildir).len(), 0);
    assert_no_litter(&maildir);
}

#[test]
fn a_client_that_vanishes_between_chunks_leaves_nothing() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, "");
    for (round, size) in (1..).zip([500, 1 << 20]) {
        let mut client = Client::greeted(&server.socket);
        assert_starts(&client.say("MAIL FROM:<sender@example.org>"), "250 ");
        assert_starts(&client.say("RCPT TO:<alice@example.test>"), "250 ");
        let text = message("chunk", size);
        client.send(&[format!("BDAT {}\r\n", text.len()).as_bytes(), &text].concat());
        assert_starts(&client.reply(), "250 ");
        // The last chunk is announced, and all of it but one byte is there.
        client.send(b"BDAT 6 LAST\r\nlast\r");
        drop(client);
        server.said.wait_for("the client left in the middle of a transaction", round);
    }
    server.stop();
    assert_eq!(new_in(&maildir).len(), 0);
    assert_no_litter(&maildir);
}

#[test]
fn a_client_that_vanishes_right_after_the_final_dot_has_its_mail_delivered() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, "workers = 2\n");
    for number in 0..CLIENTS {
        let mut client = Client::greeted(&server.socket);
        client.begin(&["alice"]);
        client.send(&[&text(number), &b".\r\n"[..]].concat());
        // It had read everything that it was told, so nothing it sent is lost with it.
        drop(client);
    }
    // A shutdown would rather break connections off than take new ones, so the last one goes the whole way: when
    // it is answered, the others have been accepted.
    let mut last = Client::greeted(&server.socket);
    assert_starts(&last.say("NOOP"), "250 ");
    server.said.wait_for("status=saved", CLIENTS);
    server.stop();
    let found = new_in(&maildir);
    assert_eq!(found.len(), CLIENTS);
    assert_all_whole(&found);
    assert_no_litter(&maildir);
}

#[test]
fn a_client_that_reads_nothing_at_all_has_each_message_whole_or_not_at_all() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, "workers = 2\n");
    for number in 0..CLIENTS {
        let mut client = Client::connect(&server.socket);
        client.send(b"LHLO client.example.test\r\n");
        client.send(&blast("alice", &text(number)));
        match number % 3 {
            // Closing with replies unread breaks the connection off.
            0 => {}
            1 => client.stream().shutdown(Shutdown::Both).expect("it is open"),
            // This one still listens, and must have its mail.
            _ => {
                client.send(b"QUIT\r\n");
                client.stream().shutdown(Shutdown::Write).expect("it is open");
                let mut last = String::new();
                while let Some(reply) = client.try_reply() {
                    last = reply;
                }
                assert_starts(&last, "221 ");
            }
        }
    }
    server.stop();
    let found = new_in(&maildir);
    assert!((CLIENTS / 3..=CLIENTS).contains(&found.len()), "{} of {CLIENTS}", found.len());
    assert_all_whole(&found);
    assert_no_litter(&maildir);
}

/// Every fourth is large enough to be written while it arrives.
fn text(number: usize) -> Vec<u8> {
    message(&format!("client{number}."), if number.is_multiple_of(4) { 400_000 } else { 3_000 })
}

/// Fails unless each is the whole message of one client, and no client's is there twice.
fn assert_all_whole(found: &[Stored]) {
    let mut numbers: Vec<usize> = found
        .iter()
        .map(|file| {
            let number = (0..CLIENTS).find(|&number| file.content() == text(number));
            number.unwrap_or_else(|| panic!("{} is nobody's whole message", file.name))
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), found.len(), "a message is there once");
}

const CLIENTS: usize = 30;
