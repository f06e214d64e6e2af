//! Inputs to begin with: what real clients, the builder of tables and the journal's writer make.

use super::input::Input;
use posthaste::journal::format::{BLOCK_BYTES, RECORD_ALIGN, SEGMENT_BYTES_MIN, checksum};
use posthaste::journal::{Boot, Recipient, RecordHead, SegmentHeader};
use posthaste::ring::Owner;
use posthaste::users::{Alias, Builder, Entry, LocalPart, Options};
use std::path::Path;

/// An input for a target.
#[derive(Debug)]
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// Its file in the corpus of that target.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

/// All of them. `dialogs` is the folder of the dialogs with the server.
#[must_use]
pub fn all(dialogs: &Path) -> Vec<Seed> {
    let seed = |target, name: &str, parts: &[&[u8]]| Seed {
        target,
        name: format!("seed-{name}"),
        bytes: parts.concat(),
    };
    let mut seeds = Vec::new();
    for name in ["smuggling", "chunks_out_of_sequence", "parameters", "malformed_addresses"] {
        let script = std::fs::read_to_string(dialogs.join(name).with_extension("lmtp")).expect("a dialog");
        let said = said_by_client(&script);
        // In pieces of eight bytes, nothing put in; four recipients, eleven bad commands, a kind world; DATA.
        seeds.push(seed("line", name, &[&[0x87, 0, 0, 0, 0], &said]));
        seeds.push(seed("command", name, &[&[3, 11, 0, 0, 0, 0], &said]));
        seeds.push(seed("data", name, &[&[0x87, 0], &said]));
    }
    // Just as long as a line may be, and one byte more; both with CR and without, in two buffers.
    for (name, count, end) in
        [("limit", 192, "\n"), ("limit-cr", 192, "\r\n"), ("over", 191, "\n"), ("over-cr", 191, "\r\n")]
    {
        seeds.push(seed("line", name, &[&[1, 9, 0, 0, 0, count, b'x'], end.as_bytes(), b"QUIT\r\n"]));
    }
    // Whole, and in pieces of three bytes.
    for (number, requests) in LOOK_UPS.iter().enumerate() {
        let stream: String = requests.iter().map(|text| format!("{}:{text},", text.len())).collect();
        seeds.push(seed("socketmap", &format!("whole-{number}"), &[&[0], stream.as_bytes()]));
        seeds.push(seed("socketmap", &format!("pieces-{number}"), &[&[0x82], stream.as_bytes()]));
    }
    for (name, stream) in [
        ("http", "GET / HTTP/1.1\r\n"),
        ("zero", "010:alias a@b,"),
        ("over", "4161:"),
        ("huge", "7:alias a,18446744073709551617:"),
        ("comma", "7:alias a;"),
        ("cut", "20:mailbox alice@exampl"),
    ] {
        seeds.push(seed("socketmap", name, &[&[0], stream.as_bytes()]));
    }
    let table = table();
    seeds.push(seed("table", "raw", &[&[0], &table]));
    seeds.push(seed("table", "pieces", &[&[1], &table_in_pieces(&table)]));
    seeds.push(seed("table", "built", &[&[2, 0], &[5; 16], &4200_u64.to_le_bytes(), &[1], BUILT]));
    let records = records();
    let header = header().encode();
    let batch = records.concat();
    seeds.push(seed("journal", "raw", &[&[0], &header, &[0; BLOCK_BYTES][header.len()..], &batch]));
    let mut miscounted = records.clone();
    miscounted[0][40] += 1;
    for (name, mended, records) in
        [("pieces", 0, &records), ("mended", 7, &records), ("miscounted", 7, &miscounted)]
    {
        let piece = |record: &Vec<u8>| {
            let length = u16::try_from(record.len()).expect("short").to_le_bytes();
            [&[mended][..], &length, record].concat()
        };
        let pieces: Vec<u8> = records.iter().flat_map(piece).collect();
        seeds.push(seed("journal", name, &[&[1], &KEY.to_le_bytes(), &pieces]));
    }
    for (name, damage) in [("whole", 0), ("byte", 1), ("cut", 2), ("block", 3)] {
        let place = 4150_u32.to_le_bytes();
        let change: &[u8] = if damage == 1 { &[0x10] } else { &[] };
        let start: [&[u8]; 5] = [&[2], &KEY.to_le_bytes(), &[9; 16], &[damage], &place];
        seeds.push(seed("journal", name, &[&start.concat(), change, &[2], WRITTEN]));
    }
    seeds
}

/// What a dialog's client sends, where the dialog says it literally.
fn said_by_client(script: &str) -> Vec<u8> {
    let mut said = Vec::new();
    for line in script.lines() {
        if let Some(text) = line.strip_prefix("-> ") {
            said.extend_from_slice(text.as_bytes());
            said.extend_from_slice(b"\r\n");
        } else if let Some(text) = line.strip_prefix("->| ") {
            let text = text.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0");
            said.extend_from_slice(text.as_bytes());
        }
    }
    assert!(!said.is_empty());
    said
}

/// Entries of `laws::table`: recipients to look for, then the users.
const BUILT: &[u8] = b"\x0fbob+x@EXAMPLE.org\x05alice\x00\x00\
    \x00\x11Alice@example.org\x00\xf1\x0fbob@example.net\x00\x00\xe8\x03\x00\x00\x64\x00\x00\x00\
    \x00\x00\x10\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x02\x05alice\x04mail";

/// Messages of `laws::journal`: to one recipient, to two, and the last of its batch.
const WRITTEN: &[u8] = b"\x01\x0a\xe8\x03\x00\x00\x64\x00\x00\x00\x01m\x041.M1\x03T: \x05text\n\
    \xfa\x0c\x02h1\x02m1\x041.M2\x00\x08\x02m2\x041.M3\x00\x20a line of text that is long.....\n\
    \x05\x08\x01m\x041.M4\x00\x00";

const KEY: u64 = 0x0123_4567_89ab_cdef;

fn header() -> SegmentHeader {
    SegmentHeader::new(SEGMENT_BYTES_MIN, 1, KEY, Boot([7; 16]))
}

/// A batch of two records.
fn records() -> Vec<Vec<u8>> {
    let recipient = |name| Recipient {
        owner: Owner::User { uid: 1000, gid: 100 },
        home: Some("/home/alice"),
        path: "/home/alice/Maildir",
        name,
        trace: b"Return-Path: <sender@example.org>\r\n",
    };
    let payloads: [&[u8]; 2] = [b"Subject: one\r\n\r\nHello\r\n", b"two"];
    let record = |(number, payload): (u8, &[u8])| {
        let recipients = [recipient("1.M1"), recipient("1.M2,S=7,W=8")];
        let mut head =
            RecordHead::new(recipients, payload.len() as u64, checksum([payload])).expect("it fits");
        head.seal(KEY, u64::from(number), number == 1);
        [head.as_bytes(), payload, &[0; RECORD_ALIGN][..head.padding_bytes()]].concat()
    };
    (0..).zip(payloads).map(record).collect()
}

fn table() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("table");
    let mut builder =
        Builder::create(&path, Options::reproducible(LocalPart::Folded, [3; 16])).expect("a file");
    for (line, address) in (1..).zip(["alice@example.org", "bob", "carol@example.net"]) {
        let entry = Entry {
            line,
            address: address.to_owned(),
            home: Some(format!("/home/{address}")),
            mail: "Maildir".to_owned(),
            uid: Some(1000),
            quota_bytes: Some(1 << 30),
            ..Entry::default()
        };
        builder.add(&entry).expect("a good entry");
    }
    let targets = vec!["carol@example.net".to_owned(), "alice@example.org".to_owned()];
    builder
        .add_alias(&Alias { line: 4, address: "team@example.org".to_owned(), targets })
        .expect("a good alias");
    builder.finish().expect("a table");
    std::fs::read(&path).expect("it was published")
}

/// The same table, as `laws::table` takes it apart.
fn table_in_pieces(table: &[u8]) -> Vec<u8> {
    let section = |at: usize| {
        let mut place = Input::new(&table[at..]);
        let offset = usize::from_le_bytes(place.array());
        &table[offset..offset + usize::from_le_bytes(place.array())]
    };
    let mut pieces = vec![0x43];
    pieces.extend_from_slice(&table[40..56]);
    pieces.push(table[96]);
    pieces
        .extend_from_slice(&[table[56], table[57], table[64], table[65], table[100], table[104], table[108]]);
    for asked in ["alice+x@example.org", "bob", "team@example.org", "nobody@example.net"] {
        pieces.push(u8::try_from(asked.len()).expect("short"));
        pieces.extend_from_slice(asked.as_bytes());
    }
    for section in [section(112), section(136), section(160), section(232)] {
        let used = section.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        pieces.extend_from_slice(&u16::try_from(used).expect("short").to_le_bytes());
        pieces.extend_from_slice(&section[..used]);
    }
    for block in section(256).chunks(512) {
        let end = usize::from(u16::from_le_bytes([block[4], block[5]]) & 0x7fff);
        let mut at = 6;
        while at < end {
            let length = usize::from(block[at + 4]);
            pieces.push(block[at + 4]);
            pieces.extend_from_slice(&block[at + 6..at + 6 + length]);
            at += 6 + length;
        }
    }
    pieces
}

/// Requests that Postfix makes, and some that it does not.
const LOOK_UPS: &[&[&str]] = &[
    &["mailbox alice@example.net", "alias alice@example.net"],
    &["mailbox Alice+lists@Example.NET"],
    &["alias \"john smith\"@example.net", "alias john smith@example.net"],
    &["mailbox \"a\\\"b\\\\c\"@example.net"],
    &["mailbox \"a\"@b@example.net", "mailbox odd@name@example.net"],
    &["alias \"a@example.net", "alias a\"@example.net"],
    &["mailbox j\u{f6}rg@b\u{fc}cher.example"],
    &["mailbox @example.net", "mailbox ", "mailbox", ""],
    &["transport alice@example.net", "alias example.net"],
    &["mailbox a..b.@[192.0.2.1]", "mailbox .@."],
];
