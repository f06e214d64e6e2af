//! Signals: a server that goes down finishes what it has begun and says goodbye to the rest.

use std::time::Duration;

use crate::client::{Client, assert_starts, blast, message};
use crate::ground::{Ground, owner};
use crate::process::Process;
use crate::stored::{assert_no_litter, new_in};

#[test]
fn a_server_that_is_told_to_end_finishes_transactions_and_dismisses_idle_clients() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let mut server = Process::start(&ground, "workers = 2\n", &[]);
    let (small, large) = (message("small", 2_000), message("large", 1 << 20));
    let mut idle = Client::greeted(&server.socket);
    let mut silent = Client::connect(&server.socket);
    assert_starts(&silent.reply(), "220 ");
    let mut enveloping = Client::greeted(&server.socket);
    assert_starts(&enveloping.say("MAIL FROM:<sender@example.org>"), "250 ");
    let mut sending = Client::greeted(&server.socket);
    sending.begin(&["alice"]);
    sending.send(&large[..700_000]);

    server.terminate();
    for client in [&mut idle, &mut silent] {
        assert_starts(&client.reply(), "421 4.3.2");
        assert_eq!(client.try_reply(), None);
    }
    // Both had begun, so both may end, and then they have to go as well.
    assert_starts(&enveloping.say("RCPT TO:<alice@example.test>"), "250 2.1.5");
    assert_starts(&enveloping.say("DATA"), "354 ");
    enveloping.send(&[&small[..], b".\r\n"].concat());
    sending.send(&[&large[700_000..], b".\r\n"].concat());
    for client in [&mut enveloping, &mut sending] {
        assert_starts(&client.reply(), "250 2.0.0");
        assert_starts(&client.reply(), "421 4.3.2");
        assert_eq!(client.try_reply(), None);
    }
    let status = server.ended();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!server.socket.exists(), "the socket file goes with the server");

    let mut found: Vec<_> = new_in(&maildir).iter().map(|file| file.content().to_vec()).collect();
    found.sort_by_key(Vec::len);
    assert!(found == [small, large], "both are there, whole");
}

#[test]
fn a_client_without_end_cannot_keep_a_server_from_ending() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let mut server = Process::start(&ground, "workers = 1\n[maildir]\ndurability = \"none\"\n", &[]);
    let mut client = Client::greeted(&server.socket);
    let mut sending = client.stream().try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || {
        let transactions = blast("alice", &message("more", 200)).repeat(20);
        // Until the server hangs up.
        while std::io::Write::write_all(&mut sending, &transactions).is_ok() {}
    });
    let mut saved = 0;
    let mut told = false;
    while let Some(reply) = client.try_reply() {
        saved += usize::from(reply.starts_with("250 2.0.0 <alice"));
        told |= reply.starts_with("421 4.3.2");
        if saved == 100 {
            server.terminate();
            saved += 1;
        }
        assert!(saved < 50_000, "it goes on for ever");
    }
    sender.join().expect("it ended with the connection");
    let status = server.ended();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(told, "the client was told why");
    // One was counted twice, to count no further.
    assert_eq!(new_in(&maildir).len(), saved - 1, "a file for every 250");
}

#[test]
fn told_twice_it_ends_at_once_and_leaves_nothing_half_done() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let mut server = Process::start(&ground, "", &[]);
    let mut sending = Client::greeted(&server.socket);
    sending.begin(&["alice"]);
    sending.send(&message("large", 700_000));
    let mut idle = Client::greeted(&server.socket);

    server.terminate();
    assert_starts(&idle.reply(), "421 4.3.2");
    assert_eq!(server.ended_within(Duration::from_millis(300)), None, "a transaction is under way");
    server.terminate();
    // Far less than the patience for transactions.
    let status = server.ended_within(Duration::from_secs(20)).expect("it ends");
    assert_eq!(status.code(), Some(1), "a transaction was broken off");
    assert_eq!(sending.try_reply(), None, "no reply, so the client tries again");
    assert_eq!(new_in(&maildir).len(), 0);
    assert_no_litter(&maildir);
}
