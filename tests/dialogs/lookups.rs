//! Look-ups over the simulated ring: however requests arrive, whoever else is connected, whatever the client does not do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use posthaste::limits;
use posthaste::ring::sim::{Client, Cut, World};
use posthaste::serve::accept::Service;
use posthaste::users::Table;

use super::script::Script;
use super::server;
use super::simulated::{MAIL, Server, prepare};

/// A world with a server in it that answers look-ups about the users of the dialogs.
fn asked(seed: u64, header: &str, buffers: u16) -> (World, Server) {
    asked_about(server::table(Path::new(MAIL)), seed, header, buffers)
}

fn asked_about(table: Arc<Table>, seed: u64, header: &str, buffers: u16) -> (World, Server) {
    let script = Script::parse(header);
    let world = World::new(seed);
    prepare(&script, &world);
    let server = Server::speaking(Service::Map, table, &script, &world, "\"group\"", buffers);
    (world, server)
}

fn request(map: &str, key: &str) -> String {
    format!("{}:{map} {key},", map.len() + 1 + key.len())
}

fn reply(text: &str) -> String {
    format!("{}:{text},", text.len())
}

fn said(client: &Client) -> String {
    String::from_utf8(client.received()).expect("replies are UTF-8")
}

/// Sends requests and gives what is said to them.
fn ask(world: &World, server: &Server, requests: &str) -> String {
    let client = world.connect();
    client.send(requests.as_bytes());
    server.settle(Duration::ZERO);
    let said = said(&client);
    client.close();
    server.settle(Duration::ZERO);
    server.check_idle();
    said
}

/// Keys, and what the map `mailbox` says.
const MAILBOXES: &[(&str, &str)] = &[
    ("alice@example.net", "OK alice@example.net"),
    ("ALICE+lists@Example.NET", "OK alice@example.net"),
    ("nobody@example.net", "NOTFOUND "),
    ("alice@example.org", "NOTFOUND "),
    ("dave@mx.example.net", "OK dave"),
    ("dave@example.net", "NOTFOUND "),
    ("dave", "OK dave"),
    ("\"john smith\"@example.net", "OK john smith@example.net"),
    ("john smith@example.net", "OK john smith@example.net"),
    ("\"odd@name\"@example.net", "OK odd@name@example.net"),
    ("j\u{d6}rg@example.net", "OK j\u{f6}rg@example.net"),
    ("alice@[192.0.2.1]", "OK alice@[192.0.2.1]"),
    ("postmaster", "OK postmaster@example.net"),
    ("@example.net", "NOTFOUND "),
    ("@", "NOTFOUND "),
    ("example.net", "NOTFOUND "),
    ("", "NOTFOUND "),
];

#[test]
fn any_cut_of_the_requests_gets_the_same_replies() {
    let requests: String = MAILBOXES.iter().map(|(key, _)| request("mailbox", key)).collect();
    let expected: String = MAILBOXES.iter().map(|(_, text)| reply(text)).collect();
    for seed in 0..20 {
        for cut in [Cut::Whole, Cut::Every(1), Cut::Every(7), Cut::Random] {
            let (world, server) = asked(seed, "", 8);
            let client = world.connect();
            client.cut(cut);
            client.send(requests.as_bytes());
            server.settle(Duration::ZERO);
            assert_eq!(said(&client), expected, "seed {seed}, {cut:?}");
            client.close();
            server.settle(Duration::ZERO);
            server.check_idle();
            assert_eq!(server.stop(), Vec::<String>::new(), "look-ups leave no line");
        }
    }
}

#[test]
fn a_mailbox_is_no_alias_and_nobody_is_none() {
    let (world, server) = asked(1, "", 8);
    for (key, _) in MAILBOXES {
        assert_eq!(ask(&world, &server, &request("alias", key)), reply("NOTFOUND "), "{key}");
    }
}

#[test]
fn an_alias_is_every_mailbox_that_it_leads_to() {
    let (world, server) = asked(1, "", 8);
    for (key, targets) in [
        ("info@example.net", "alice@example.net,bob@example.net"),
        ("Info+x@Example.NET", "alice+x@example.net,bob+x@example.net"),
        ("everybody@example.net", "alice@example.net,bob@example.net,carol@example.net"),
        ("deep@example.net", "bob+filed@example.net"),
        ("anybody@catchall.example", "carol@example.net"),
    ] {
        assert_eq!(ask(&world, &server, &request("alias", key)), reply(&format!("OK {targets}")), "{key}");
        let said = ask(&world, &server, &request("mailbox", key));
        assert!(said.contains(":OK "), "there is a place for it: {key}: {said}");
    }
    // Postfix would take a domain that is found for one of aliases.
    for key in ["catchall.example", "example.net", "@catchall.example"] {
        assert_eq!(ask(&world, &server, &request("alias", key)), reply("NOTFOUND "), "{key}");
    }
    let domain = ask(&world, &server, &request("domain", "catchall.example"));
    assert_eq!(domain, reply("OK catchall.example"));
}

#[test]
fn a_domain_is_there_if_anybody_has_an_address_in_it() {
    let (world, server) = asked(1, "", 8);
    for (key, text) in [
        ("example.net", "OK example.net"),
        ("Example.NET", "OK Example.NET"),
        ("[192.0.2.1]", "OK [192.0.2.1]"),
        ("example.org", "NOTFOUND "),
        ("net", "NOTFOUND "),
        ("sub.example.net", "NOTFOUND "),
        // Its users are stored by their local part alone.
        ("mx.example.net", "NOTFOUND "),
        ("alice@example.net", "NOTFOUND "),
        ("", "NOTFOUND "),
    ] {
        assert_eq!(ask(&world, &server, &request("domain", key)), reply(text), "{key}");
    }
}

#[test]
fn who_is_found_is_who_rcpt_takes() {
    let (world, server) = asked(1, "", 8);
    let mail = World::new(1);
    let script = Script::parse("");
    prepare(&script, &mail);
    let lmtp = Server::start(&script, &mail, "\"group\"", 8);
    for (key, text) in MAILBOXES.iter().filter(|(key, _)| !key.contains("john smith@") && !key.is_empty()) {
        let client = mail.connect();
        client.send(format!("LHLO a\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<{key}>\r\n").as_bytes());
        lmtp.settle(Duration::ZERO);
        let is_taken = said(&client).ends_with("250 2.1.5 OK\r\n");
        assert_eq!(is_taken, text.starts_with("OK "), "{key}");
        assert_eq!(ask(&world, &server, &request("mailbox", key)), reply(text), "{key}");
    }
}

#[test]
fn an_unknown_map_is_answered_with_the_names_of_those_there_are_and_the_connection_stays() {
    let (world, server) = asked(1, "", 8);
    let said =
        ask(&world, &server, &(request("transport", "a") + "7:nothing," + &request("mailbox", "dave")));
    let unknown = reply("PERM there is no such map; the maps are: mailbox, alias, domain");
    let no_key = reply("PERM a request is the name of a map, a space and a key");
    assert_eq!(said, unknown + &no_key + &reply("OK dave"));
}

#[test]
fn a_damaged_record_is_a_temporary_failure_and_never_not_found() {
    let file = server::table_file(Path::new(MAIL));
    // One of the places where her name stands is her own record, and its checksum does not fit then.
    let damaged = (0..file.len() - 5).filter(|at| file[*at..].starts_with(b"carol")).find_map(|at| {
        let mut file = file.clone();
        file[at] ^= 1;
        let table = Table::from_bytes(&PathBuf::from("users.table"), &file).ok()?;
        (table.lookup("carol@example.net").is_err() && table.lookup("dave").is_ok()).then_some(table)
    });
    let table = Arc::new(damaged.expect("her record"));
    let (world, server) = asked_about(table, 1, "", 8);
    let said = ask(&world, &server, &(request("mailbox", "carol@example.net") + &request("mailbox", "dave")));
    let deferred = reply("TEMP the user table cannot be read; see the log of the server");
    assert_eq!(said, deferred.clone() + &reply("OK dave"));
    assert_eq!(ask(&world, &server, &request("alias", "carol@example.net")), deferred);
    let log = server.stop();
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(log[0].contains("look-up deferred: the user table users.table cannot be read: heap:"), "{log:?}");
    assert!(log[0].contains("build it again with posthaste users build"), "{log:?}");
}

#[test]
fn what_is_no_netstring_is_answered_up_to_there_and_closed_with_a_line() {
    for (garbage, reason) in [
        ("GET / HTTP/1.1\r\n", "begins with its length and a colon"),
        ("LHLO client.example.org\r\n", "begins with its length and a colon"),
        ("014:mailbox alice,", "begins with 0"),
        ("12:mailbox alice,", "ends with a comma"),
        ("4161:", "more than 4160 bytes"),
        ("99999999999999999999999:", "more than 4160 bytes"),
    ] {
        let (world, server) = asked(1, "", 8);
        let client = world.connect();
        let other = world.connect();
        client.send((request("mailbox", "dave") + garbage).as_bytes());
        server.settle(Duration::ZERO);
        assert_eq!(said(&client), reply("OK dave"), "{garbage}");
        assert!(client.is_closed(), "{garbage}");
        other.send(request("mailbox", "dave").as_bytes());
        server.settle(Duration::ZERO);
        assert_eq!(said(&other), reply("OK dave"), "the others are unharmed");
        other.close();
        server.settle(Duration::ZERO);
        server.check_idle();
        let log = server.stop();
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].contains("this is not socketmap: ") && log[0].contains(reason), "{log:?}");
    }
}

#[test]
fn the_longest_request_is_answered() {
    let (world, server) = asked(1, "", 8);
    let key = "a".repeat(limits::SOCKETMAP_REQUEST_BYTES_MAX - "mailbox ".len());
    assert_eq!(ask(&world, &server, &request("mailbox", &key)), reply("NOTFOUND "));
    let detail = "d".repeat(4000);
    let said = ask(&world, &server, &request("mailbox", &format!("alice+{detail}@example.net")));
    assert_eq!(said, reply("OK alice@example.net"));
}

#[test]
fn a_client_that_asks_nothing_is_closed_without_a_word_when_its_time_is_over() {
    let (world, server) = asked(1, "# config: limits.idle_timeout = \"10s\"", 8);
    let silent = world.connect();
    let asking = world.connect();
    for _ in 0..4 {
        asking.send(request("mailbox", "dave").as_bytes());
        server.settle(Duration::from_secs(4));
    }
    assert!(silent.is_closed() && said(&silent).is_empty());
    assert!(!asking.is_closed(), "who asks is not idle");
    server.settle(Duration::from_secs(10));
    assert!(asking.is_closed());
    server.check_idle();
    assert_eq!(server.stop(), Vec::<String>::new());
}

#[test]
fn a_request_that_never_ends_is_no_activity() {
    let (world, server) = asked(1, "# config: limits.idle_timeout = \"10s\"", 8);
    let slow = world.connect();
    for octet in request("mailbox", "alice@example.net").chars().take(6) {
        slow.send(octet.to_string().as_bytes());
        server.settle(Duration::from_secs(2));
    }
    assert!(slow.is_closed());
    server.check_idle();
    let log = server.stop();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].ends_with("disconnected: a request took too long to arrive"), "{log:?}");
}

#[test]
fn a_client_that_leaves_within_a_request_leaves_a_line() {
    let (world, server) = asked(1, "", 8);
    let client = world.connect();
    client.send(b"20:mailbox al");
    server.settle(Duration::ZERO);
    client.close();
    server.settle(Duration::ZERO);
    server.check_idle();
    assert!(server.stop()[0].ends_with("disconnected: the client left in the middle of a request"));
}

#[test]
fn a_half_closed_client_gets_all_its_replies() {
    let (world, server) = asked(1, "", 8);
    let client = world.connect();
    client.send(request("mailbox", "dave").repeat(1000).as_bytes());
    client.half_close();
    server.settle(Duration::ZERO);
    assert_eq!(said(&client), reply("OK dave").repeat(1000));
    assert!(client.is_closed());
}

#[test]
fn a_client_that_does_not_read_its_replies_is_left_and_keeps_nobody_waiting() {
    let (world, server) = asked(3, "", 4);
    let deaf = world.connect();
    deaf.window(10);
    deaf.send(request("mailbox", "dave").repeat(10_000).as_bytes());
    let other = world.connect();
    other.send(request("mailbox", "dave").as_bytes());
    server.settle(Duration::ZERO);
    assert_eq!(said(&other), reply("OK dave"));
    server.settle(Duration::from_secs(301));
    assert!(deaf.is_closed());
    other.close();
    server.settle(Duration::ZERO);
    server.check_idle();
    let log = server.stop();
    assert!(log.iter().any(|line| line.ends_with("the client does not read its replies")), "{log:?}");
}

#[test]
fn a_busy_client_leaves_others_their_turn() {
    for seed in 0..10 {
        let (world, server) = asked(seed, "", 8);
        let busy = world.connect();
        busy.send(request("mailbox", "dave").repeat(20_000).as_bytes());
        let other = world.connect();
        other.send(request("mailbox", "dave").as_bytes());
        server.settle(Duration::ZERO);
        assert_eq!(said(&other), reply("OK dave"));
        assert_eq!(said(&busy), reply("OK dave").repeat(20_000));
    }
}

#[test]
fn a_server_that_goes_down_answers_what_it_has_and_closes() {
    let (world, server) = asked(1, "", 8);
    let idle = world.connect();
    let asking = world.connect();
    server.settle(Duration::ZERO);
    asking.send(request("mailbox", "dave").as_bytes());
    server.settle(Duration::ZERO);
    server.drain();
    server.settle(Duration::ZERO);
    assert_eq!(said(&asking), reply("OK dave"));
    assert!(idle.is_closed() && asking.is_closed());
    server.check_idle();
}

#[test]
fn a_client_too_many_is_put_off() {
    let (world, server) = asked(1, "# config: limits.connections = 1", 8);
    let first = world.connect();
    server.settle(Duration::ZERO);
    let refused = world.connect();
    server.settle(Duration::ZERO);
    assert_eq!(said(&refused), reply("TEMP too many connections"));
    assert!(refused.is_closed() && !first.is_closed());
}
