//! What one client may cost the others: nothing beyond its share.

use std::io::{ErrorKind, Write as _};
use std::time::{Duration, Instant};

use crate::client::{Client, assert_starts, message};
use crate::ground::{Ground, owner};
use crate::server::Running;
use crate::stored::new_in;

#[test]
fn one_connection_too_many_is_refused_and_the_next_is_welcome_when_one_has_left() {
    for workers in [1, 2] {
        let ground = Ground::new();
        let settings = format!("workers = {workers}\n[limits]\nconnections = 3\n");
        let server = Running::start(&ground, &settings);
        let mut clients: Vec<Client> = (0..3).map(|_| Client::greeted(&server.socket)).collect();
        for _ in 0..5 {
            let mut refused = Client::connect(&server.socket);
            assert_starts(&refused.reply(), "421 4.3.2");
            assert_eq!(refused.try_reply(), None, "the connection is closed");
            // Those within the limit do not notice.
            for client in &mut clients {
                assert_starts(&client.say("NOOP"), "250 2.0.0");
            }
            clients.remove(0).quit();
            clients.push(Client::greeted(&server.socket));
        }
        drop(clients);
        server.stop();
    }
}

#[test]
fn clients_that_vanish_make_room_for_others() {
    let ground = Ground::new();
    let server = Running::start(&ground, "workers = 2\n[limits]\nconnections = 4\n");
    for round in 1..=20 {
        // Some leave without a word, some in a transaction, some in the middle of a line.
        for last in ["", "MAIL FROM:<a@example.org>\r\n", "NOO"] {
            let mut client = Client::greeted(&server.socket);
            client.send(last.as_bytes());
        }
        // It left in the middle of a transaction, or broke the connection off with a reply unread.
        server.said.wait_for(" disconnected: ", round);
    }
    // The silent ones leave no line in the log, so ask until they are gone; it is a matter of a moment.
    let until = Instant::now() + SECONDS;
    let mut clients = Vec::new();
    while clients.len() < 4 {
        let mut client = Client::connect(&server.socket);
        if client.reply().starts_with("220 ") {
            clients.push(client);
        }
        assert!(Instant::now() < until, "{} of 4 have a place", clients.len());
    }
}

#[test]
fn a_command_line_of_twenty_thousand_bytes_is_refused_once_and_the_session_goes_on() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, "");
    let mut client = Client::greeted(&server.socket);
    let long = format!("NOOP {}", "x".repeat(20_000));
    assert_starts(&client.say(&long), "500 5.5.2");
    assert_starts(&client.say(&"y".repeat(20_000)), "500 5.5.2");
    assert_starts(&client.deliver(&["alice"], &message("after", 100))[0], "250 2.0.0");
    client.quit();
    server.stop();
    assert_eq!(new_in(&maildir).len(), 1);
}

#[test]
fn a_client_that_reads_no_replies_does_not_stop_the_others() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, "workers = 1\n[limits]\nidle_timeout = \"6s\"\n");
    let mut deaf: Vec<Client> = (0..3).map(|_| Client::greeted(&server.socket)).collect();
    for client in &mut deaf {
        talk_until_full(client);
    }
    let mut client = Client::greeted(&server.socket);
    for _ in 0..10 {
        assert_starts(&client.deliver(&["alice"], &message("others", 2_000))[0], "250 2.0.0");
    }
    assert_eq!(new_in(&maildir).len(), 10);
    // They are not waited for without end either.
    server.said.wait_for("the client does not read its replies", deaf.len());
}

#[test]
fn a_flood_of_commands_does_not_keep_another_client_from_being_served() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    let server = Running::start(&ground, "workers = 1\n");
    let mut flooding = Client::greeted(&server.socket);
    let mut sending = flooding.stream().try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        // It reads what it is told, so that nothing but the server's fairness slows it down.
        let reader = scope.spawn(|| {
            let mut replies = 0_u64;
            while flooding.try_reply().is_some() {
                replies += 1;
            }
            replies
        });
        let commands = b"NOOP\r\n".repeat(10_000);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
                sending.write_all(&commands).expect("a server that reads");
            }
            sending.write_all(b"QUIT\r\n").expect("a server that reads");
        });

        let began = Instant::now();
        let mut client = Client::greeted(&server.socket);
        for _ in 0..20 {
            assert_starts(&client.deliver(&["alice"], &message("fair", 2_000))[0], "250 2.0.0");
        }
        for _ in 0..200 {
            assert_starts(&client.say("NOOP"), "250 2.0.0");
        }
        let took = began.elapsed();
        drop(stop);
        let replies = reader.join().expect("the flood is answered to its end");
        assert!(took < SECONDS, "20 messages and 200 commands took {took:?} beside {replies} commands");
        assert!(replies > 1_000, "there was a flood: {replies}");
    });
    assert_eq!(new_in(&maildir).len(), 20);
}

/// Sends commands and reads nothing, until the server reads no more either.
fn talk_until_full(client: &mut Client) {
    let commands = b"NOOP\r\n".repeat(1_000);
    let mut stream = client.stream();
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a write timeout");
    loop {
        match stream.write(&commands) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("the server hangs up: {error}"),
        }
    }
}

/// A bound for what takes a moment on a machine that is not starved.
const SECONDS: Duration = Duration::from_secs(20);
