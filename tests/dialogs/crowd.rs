//! Many clients of one worker, on the simulated ring.

use std::time::Duration;

use posthaste::ring::sim::{Client, Cut, World};

use super::script::Script;
use super::simulated::{Server, files, prepare};

/// A world with a server in it that has so many receive buffers.
fn crowded(seed: u64, header: &str, buffers: u16) -> (World, Server) {
    let script = Script::parse(header);
    let world = World::new(seed);
    prepare(&script, &world);
    let server = Server::start(&script, &world, "\"group\"", buffers);
    (world, server)
}

fn said(client: &Client) -> String {
    String::from_utf8(client.received()).expect("replies are UTF-8")
}

fn message(number: usize) -> String {
    format!(
        "MAIL FROM:<>\r\nRCPT TO:<alice@example.net>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n\
         this is number {number}\r\n.\r\nQUIT\r\n"
    )
}

/// Twenty clients at once, each with a message for two; gives the digest of the run.
fn twenty_clients(seed: u64, buffers: u16) -> u64 {
    let (world, server) = crowded(seed, "", buffers);
    let clients: Vec<Client> = (0..20)
        .map(|number| {
            let client = world.connect();
            client.cut(Cut::Random);
            client.send(message(number).as_bytes());
            client
        })
        .collect();
    server.settle(Duration::ZERO);
    for client in &clients {
        let said = said(client);
        assert_eq!(said.matches(" Saved\r\n").count(), 2, "seed {seed}: {said}");
        assert!(said.ends_with("221 2.0.0 Bye\r\n"), "seed {seed}: {said}");
    }
    server.check_idle();
    let files = files(&world);
    for number in 0..20 {
        let end = format!("this is number {number}\r\n");
        for mailbox in ["alice/Maildir/new/", "bob/Maildir/new/"] {
            let count = files
                .iter()
                .filter(|(path, bytes)| path.starts_with(mailbox) && bytes.ends_with(end.as_bytes()))
                .count();
            assert_eq!(count, 1, "seed {seed}: {end} in {mailbox}");
        }
    }
    assert_eq!(files.len(), 40, "seed {seed}: nothing else");
    world.digest()
}

#[test]
fn every_client_of_a_crowd_gets_its_replies_and_every_message_is_stored_once() {
    for seed in 0..40 {
        twenty_clients(seed, 8);
    }
}

#[test]
fn a_run_of_the_whole_server_is_determined_by_its_seed() {
    assert_eq!(twenty_clients(7, 8), twenty_clients(7, 8));
    assert_ne!(twenty_clients(7, 8), twenty_clients(8, 8));
}

#[test]
fn a_single_receive_buffer_is_enough_for_everybody_in_turn() {
    for seed in 0..20 {
        twenty_clients(seed, 1);
    }
}

#[test]
fn clients_that_stall_in_the_middle_of_a_message_leave_buffers_for_the_others() {
    for seed in 0..10 {
        let (world, server) = crowded(seed, "# config: maildir.stream_above = \"64KiB\"", 16);
        let stalled: Vec<Client> = (0..32)
            .map(|_| {
                let client = world.connect();
                client.send(b"MAIL FROM:<>\r\nRCPT TO:<alice@example.net>\r\nDATA\r\n");
                client.send("half of a long message\r\n".repeat(4000).as_bytes());
                client
            })
            .collect();
        server.settle(Duration::ZERO);
        let other = world.connect();
        other.send(message(0).as_bytes());
        server.settle(Duration::ZERO);
        assert_eq!(said(&other).matches(" Saved\r\n").count(), 2, "seed {seed}");
        stalled.iter().for_each(Client::close);
        server.settle(Duration::ZERO);
        server.check_idle();
    }
}

#[test]
fn a_client_too_many_is_told_so_and_a_place_that_gets_free_is_given_again() {
    let (world, server) = crowded(1, "# config: limits.connections = 2", 64);
    let clients = [world.connect(), world.connect()];
    server.settle(Duration::ZERO);
    let refused = world.connect();
    server.settle(Duration::ZERO);
    assert_eq!(said(&refused), "421 4.3.2 mx.example.net Too many connections\r\n");
    assert!(refused.is_closed());
    clients[0].close();
    server.settle(Duration::ZERO);
    let welcome = world.connect();
    server.settle(Duration::ZERO);
    assert_eq!(said(&welcome), "220 mx.example.net Posthaste ready\r\n");
}

#[test]
fn a_client_that_does_not_read_its_replies_is_left_and_keeps_nobody_waiting() {
    let (world, server) = crowded(3, "", 4);
    let deaf = world.connect();
    deaf.window(10);
    deaf.send(b"NOOP\r\n");
    let other = world.connect();
    other.send(b"NOOP\r\n");
    server.settle(Duration::ZERO);
    assert!(said(&other).contains("250 2.0.0 OK"));
    server.settle(Duration::from_secs(301));
    assert!(deaf.is_closed());
}
