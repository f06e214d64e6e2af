//! Other people's LMTP clients: swaks, Python's smtplib, and Postfix's load generator.

use std::{collections::HashSet, process::Command};

use crate::{
    mailbox::{Stored, Users},
    place::{Place, can_run, program, run},
    server::Server,
};

#[test]
fn swaks_delivers_one_message_over_each_kind_of_socket() {
    if !can_run("swaks_delivers_one_message_over_each_kind_of_socket", false, &["swaks"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let server = Server::start(&place, &users);
    let swaks = |target: [&str; 2], subject: &str| {
        let mut swaks = Command::new(program("swaks"));
        swaks.args(["--protocol", "LMTP", "--from", "sender@example.org", "--to", "alice@example.test"]);
        run(swaks.args(target).args(["--header", &format!("Subject: {subject}")]), b"");
    };

    swaks(["--socket", server.socket.to_str().expect("a plain path")], "over a Unix socket");
    swaks(["--server", &server.tcp.to_string()], "over TCP");

    let messages = users.mailboxes[0].messages();
    assert_eq!(messages.len(), 2);
    for subject in ["Subject: over a Unix socket\r\n", "Subject: over TCP\r\n"] {
        assert!(messages.iter().any(|message| contains(&message.with_crlf(), subject)), "{subject}");
    }
    server.stop();
}

#[test]
fn python_delivers_to_those_it_was_told_250_for_and_to_nobody_else() {
    if !can_run("python_delivers_to_those_it_was_told_250_for_and_to_nobody_else", false, &["python3"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test", "bob@example.test", "carol@example.test"]);
    let server = Server::start(&place, &users);

    for (host, port) in
        [(server.socket.display().to_string(), 0), (server.tcp.ip().to_string(), server.tcp.port())]
    {
        let mut python = Command::new(program("python3"));
        run(python.args(["-", &host, &port.to_string()]), include_bytes!("smtplib_lmtp.py"));
    }

    // Per session of the script: three to alice and bob, one to carol, and what was refused or reset to nobody.
    let counts: Vec<usize> = users.mailboxes.iter().map(|mailbox| mailbox.messages().len()).collect();
    assert_eq!(counts, [6, 6, 2]);
    server.stop();
}

#[test]
fn twenty_thousand_messages_of_smtp_source_arrive_once_each_and_whole() {
    if !can_run("twenty_thousand_messages_of_smtp_source_arrive_once_each_and_whole", false, &["smtp-source"])
    {
        return;
    }
    let place = Place::new();
    // With -N, smtp-source puts a number that never repeats, from 1 on, before the address. Every number is a user
    // here, and a hundred of them share a mailbox, so that many deliveries meet in one directory.
    let names: Vec<String> = (1..=MESSAGES).map(|number| format!("{number}user@example.test")).collect();
    let users = Users::sharing(&place, &names, 200);
    let server = Server::start(&place, &users);

    let mut source = Command::new(program("smtp-source"));
    source.args(["-L", "-d", "-N", "-s", "64", "-m", &MESSAGES.to_string(), "-l", "4096"]);
    source.args(["-f", "sender@example.org", "-t", "user@example.test"]);
    run(source.arg(format!("unix:{}", server.socket.display())), b"");

    let messages = users.all_messages();
    assert_eq!(messages.len(), MESSAGES, "one file for every 250");
    let identities: HashSet<String> = messages.iter().map(message_identity).collect();
    assert_eq!(identities.len(), MESSAGES, "no message twice, none in place of another");
    let recipients: HashSet<String> = messages.iter().map(delivered_to).collect();
    assert_eq!(recipients, names.into_iter().collect(), "every recipient has exactly one");
    server.stop();
}

/// The Message-Id, after a check that everything that smtp-source sends is there, to the last byte.
fn message_identity(message: &Stored) -> String {
    let original = message.original();
    let header_end = memchr::memmem::find(&original, b"\r\n\r\n").expect("a header") + 4;
    let body = &original[header_end..];
    assert!(body == smtp_source_body(4096), "another body in {}", message.path.display());
    let header = String::from_utf8_lossy(&original[..header_end]);
    let identity = header.lines().find_map(|line| line.strip_prefix("Message-Id: ")).expect("a Message-Id");
    identity.to_owned()
}

fn delivered_to(message: &Stored) -> String {
    message.split_trace().0.delivered_to.expect("Delivered-To of a single recipient")
}

/// What `smtp-source -l` sends: X, where every line of 80 bytes but the last starts with a running digit and ends with
/// CRLF; then CRLF, which does not count.
fn smtp_source_body(length: usize) -> Vec<u8> {
    let mut body = vec![b'X'; length];
    for (line, digit) in body[..length - 1].chunks_exact_mut(80).zip((b'0'..=b'9').cycle().skip(1)) {
        line[0] = digit;
        line[78..].copy_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"\r\n");
    body
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

const MESSAGES: usize = 20_000;
