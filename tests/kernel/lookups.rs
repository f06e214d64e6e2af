//! Look-ups over real sockets: many at once, in order, and beside mail on all workers.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::client::{Client, PATIENCE};
use crate::ground::{DOMAIN, Ground};
use crate::server::Running;

/// A server with this many users and workers, and where it answers.
fn asked(ground: &Ground, users: usize, workers: usize) -> (Running, PathBuf) {
    for number in 0..users {
        ground.add(&format!("user{number}"), Path::new("/nonexistent"), None);
    }
    let map = ground.path("map.sock");
    let rest = format!("workers = {workers}\n[[listen]]\nmap = \"unix:{}\"\n", map.display());
    (Running::start(ground, &rest), map)
}

fn connect(map: &Path) -> UnixStream {
    let stream = UnixStream::connect(map).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream
}

fn netstring(text: &str) -> String {
    format!("{}:{text},", text.len())
}

/// Sends one request and reads its reply.
fn ask(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(netstring(request).as_bytes()).expect("a server that reads");
    let mut reply = Vec::new();
    while reply.last() != Some(&b',') {
        let mut octet = [0];
        stream.read_exact(&mut octet).expect("a reply");
        reply.push(octet[0]);
    }
    String::from_utf8(reply).expect("text")
}

#[test]
fn a_hundred_thousand_pipelined_look_ups_are_all_answered_in_order() {
    let ground = Ground::new();
    let (server, map) = asked(&ground, USERS, 1);
    let (mut requests, mut expected) = (String::new(), String::new());
    for number in 0..LOOK_UPS {
        // Scattered, and every second one is nobody.
        let user = number * 7919 % (2 * USERS);
        requests += &netstring(&format!("mailbox user{user}+x@{DOMAIN}"));
        expected += &netstring(&match user < USERS {
            true => format!("OK user{user}@{DOMAIN}"),
            false => "NOTFOUND ".to_owned(),
        });
    }
    let mut stream = connect(&map);
    let mut sender = stream.try_clone().expect("a descriptor");
    let begun = Instant::now();
    let mut replies = vec![0; expected.len()];
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.write_all(requests.as_bytes()).expect("a server that reads");
            sender.shutdown(Shutdown::Write).expect("it is open");
        });
        stream.read_exact(&mut replies).expect("all replies");
    });
    let rate = LOOK_UPS as f64 / begun.elapsed().as_secs_f64();
    assert!(replies == expected.as_bytes(), "a reply differs");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0, "nothing more is said");
    println!("{LOOK_UPS} pipelined look-ups, half of them of nobody: {rate:.0} in a second");
    server.stop();
}

#[test]
fn look_ups_and_mail_are_served_side_by_side_on_all_workers() {
    let ground = Ground::new();
    let (server, map) = asked(&ground, 10, 2);
    // They are placed where the fewest are, so both kinds are passed from one worker to the other.
    let mut pairs: Vec<(UnixStream, Client)> =
        (0..4).map(|_| (connect(&map), Client::greeted(&server.socket))).collect();
    for (number, (asking, mailing)) in pairs.iter_mut().enumerate() {
        let address = format!("user{number}@{DOMAIN}");
        assert_eq!(ask(asking, &format!("mailbox {address}")), netstring(&format!("OK {address}")));
        assert_eq!(ask(asking, &format!("alias {address}")), netstring("NOTFOUND "));
        assert!(mailing.say("NOOP").starts_with("250 "));
    }
    drop(pairs);
    server.stop();
}

#[test]
fn whoever_sends_garbage_or_nothing_harms_nobody_else() {
    let ground = Ground::new();
    let (server, map) = asked(&ground, 10, 1);
    let silent = connect(&map);
    let mut slow = connect(&map);
    slow.write_all(b"9:mail").expect("a server that reads");
    for garbage in [&b"LHLO client.example.org\r\n"[..], b"99999999999999999999:", b"\0\xff", b"3:abc\n"] {
        let mut client = connect(&map);
        client.write_all(garbage).expect("a server that reads");
        let mut said = Vec::new();
        // A reset, where more was sent than was read.
        let _ = client.read_to_end(&mut said);
        assert!(said.is_empty());
    }
    server.said.wait_for("this is not socketmap", 4);
    let mut client = connect(&map);
    assert_eq!(
        ask(&mut client, &format!("mailbox user1@{DOMAIN}")),
        netstring(&format!("OK user1@{DOMAIN}"))
    );
    drop((silent, client));
    // It closes an idle connection, and one that waits for the rest of a request, when it goes down.
    server.stop();
    assert_eq!(slow.read(&mut [0]).expect("an orderly end"), 0);
}

const USERS: usize = 10_000;
const LOOK_UPS: usize = 100_000;
