//! Memory: one hundred messages of 50 MiB that arrive at once do not have to fit into it.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    sync::Barrier,
    thread,
};

use rustix::fs::statvfs;

use crate::{
    dialog::Client,
    mailbox::{Mailbox, Users},
    place::{Place, can_run, not_run},
    server::{Program, Server},
};

#[test]
fn a_hundred_messages_of_fifty_mebibytes_at_once_fit_into_a_hundred_mebibytes() {
    let name = "a_hundred_messages_of_fifty_mebibytes_at_once_fit_into_a_hundred_mebibytes";
    // Dovecot forks, and spools to disk: one process's memory says nothing about it.
    if Server::program() != Program::Posthaste {
        not_run(name, "Dovecot does this in another way");
        return;
    }
    if !can_run(name, false, &["setpriv"]) {
        return;
    }
    let place = Place::new();
    let needed = (SENDERS as u64 + 2) * MESSAGE_BYTES as u64;
    if free_bytes(&place.path("")) < needed {
        not_run(name, &format!("less than {} MiB free in {}", needed >> 20, place.path("").display()));
        return;
    }
    let addresses: Vec<String> = (0..SENDERS).map(|number| format!("user{number}@example.test")).collect();
    let users = Users::named(&place, &addresses);
    let server = Server::start(&place, &users);
    let idle = server.memory("VmHWM");

    let all_may_send = Barrier::new(SENDERS);
    thread::scope(|scope| {
        for (number, address) in addresses.iter().enumerate() {
            let (socket, all_may_send) = (&server.socket, &all_may_send);
            scope.spawn(move || send_generated(socket, address, number, all_may_send));
        }
    });

    let peak = server.memory("VmHWM");
    assert!(peak < MEMORY_BYTES_MAX, "{} MiB at the peak, {} MiB when idle", peak >> 20, idle >> 20);
    for (number, mailbox) in users.mailboxes.iter().enumerate() {
        assert_whole(mailbox, number);
    }
    server.stop();
}

/// Sends one message, block by block, once every sender has its 354.
fn send_generated(socket: &Path, address: &str, number: usize, all_may_send: &Barrier) {
    let mut client = Client::unix(socket);
    client.expect("LHLO client.example.org", 250);
    client.expect(&format!("MAIL FROM:<sender@example.org> SIZE={MESSAGE_BYTES}"), 250);
    client.expect(&format!("RCPT TO:<{address}>"), 250);
    client.expect("DATA", 354);
    all_may_send.wait();
    let mut block = Vec::new();
    for block_number in 0..BLOCKS {
        fill(&mut block, number, block_number);
        client.send(&block);
    }
    client.send(b".\r\n");
    let reply = client.reply();
    assert_eq!(reply.code, 250, "{reply:?}");
    client.expect("QUIT", 221);
}

/// The file is there, once, and every byte after the trace is the one that was sent.
fn assert_whole(mailbox: &Mailbox, number: usize) {
    let names = mailbox.names();
    let [path] = &names[..] else { panic!("{} has {} messages", mailbox.address, names.len()) };
    let mut file = BufReader::new(File::open(path).expect("a message file"));
    let trace_bytes = trace_length(&mut BufReader::new(File::open(path).expect("a message file")));
    let length = fs::metadata(path).expect("a message file").len();
    assert_eq!(length, trace_bytes + MESSAGE_BYTES as u64, "length of {}", path.display());
    file.seek_relative(i64::try_from(trace_bytes).expect("a short trace")).expect("a message file");
    let (mut expected, mut found) = (Vec::new(), vec![0; BLOCK_BYTES]);
    for block_number in 0..BLOCKS {
        fill(&mut expected, number, block_number);
        file.read_exact(&mut found).expect("a whole file");
        assert!(expected == found, "block {block_number} of {}", path.display());
    }
}

/// Everything before the first line of the generated text.
fn trace_length(file: &mut impl std::io::BufRead) -> u64 {
    let mut bytes = 0;
    for line in file.split(b'\n') {
        let line = line.expect("a line of the trace");
        if line.starts_with(b"message") {
            break;
        }
        bytes += line.len() as u64 + 1;
    }
    bytes
}

/// A block of lines; the first one says whose it is and which, so that no block can stand in for another.
fn fill(block: &mut Vec<u8>, message: usize, number: usize) {
    let mut text = String::with_capacity(LINE_BYTES);
    write!(text, "message: {message:03} {number:05} {:.<45}\r\n", "").expect("a string takes everything");
    block.clear();
    block.extend_from_slice(text.as_bytes());
    while block.len() < BLOCK_BYTES {
        block.extend_from_slice(FILLER);
    }
    assert_eq!(block.len(), BLOCK_BYTES, "a whole number of lines");
}

fn free_bytes(path: &Path) -> u64 {
    let space = statvfs(path).expect("the file system of the test");
    space.f_bavail * space.f_frsize
}

const SENDERS: usize = 100;
const LINE_BYTES: usize = 66;
const FILLER: &[u8; LINE_BYTES] = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789\r\n";
const BLOCK_BYTES: usize = LINE_BYTES * 1000;
/// Just over 50 MiB.
const BLOCKS: usize = 50 * 1024 * 1024 / BLOCK_BYTES + 1;
const MESSAGE_BYTES: usize = BLOCKS * BLOCK_BYTES;
const MEMORY_BYTES_MAX: u64 = 100 << 20;
