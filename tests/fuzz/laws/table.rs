//! A user table answers rightly or says that it cannot, whatever its bytes are.

use super::input::Input;
use posthaste::users::build::BuildError;
use posthaste::users::entry::EntryFault;
use posthaste::users::verify::FLAWS_MAX;
use posthaste::users::{Answer, Builder, Entry, LocalPart, Options, Rules, Table, User, find};
use siphasher::sip::SipHasher13;
use std::collections::BTreeMap;
use std::path::Path;

/// Input: one byte that says which of the three it is.
pub fn hold(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 4 {
        0 => raw(input.rest()),
        1 => pieces(input),
        _ => built(input),
    }
}

/// The bytes as they are.
fn raw(bytes: &[u8]) {
    open(bytes, &[("alice", Some("example.org")), ("", None)]);
}

/// A table of any content, with as much of it put right as the input asks for, so that it is not always a checksum
/// that stops the reader.
fn pieces(mut input: Input<'_>) {
    let what = input.byte();
    let seed: [u8; 16] = input.array();
    let mut header = vec![0; PAGE];
    let [mut homes, mut probe] = [u64::from(input.byte()), u64::from(input.byte())];
    let counts = [input.number(), input.number()];
    let asked: Vec<String> = (0..4).map(|_| String::from_utf8_lossy(input.short()).into_owned()).collect();
    let mut heap = input.long().to_vec();
    let templates = paged(input.long().to_vec());
    let mut index = input.rest().to_vec();
    if what & 1 != 0 {
        let slots = mend_records(&mut heap, &seed, what & 2 != 0);
        if what & 4 != 0 {
            // One bucket is everybody's home, so the order is of no account.
            (homes, probe) = (1, (slots.len() as u64).div_ceil(64 / 8).max(1));
            index = slots.concat();
        }
    }
    let (heap, index) = (paged(heap), paged(index));

    let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
    put(0, b"PHUSERS\0");
    put(8, &1_u32.to_le_bytes());
    put(12, &0x0a0b_0c0d_u32.to_le_bytes());
    put(20, &u32::from(what >> 7).to_le_bytes());
    put(24, &((PAGE + heap.len() + templates.len() + index.len()) as u64).to_le_bytes());
    put(40, &seed);
    put(56, &(counts[0] as u64).to_le_bytes());
    put(64, &homes.to_le_bytes());
    put(72, &probe.to_le_bytes()[..4]);
    put(76, &(counts[1] as u64).to_le_bytes()[..4]);
    let mut begin = PAGE;
    for (at, section) in [(80, &heap), (104, &templates), (128, &index)] {
        put(at, &(begin as u64).to_le_bytes());
        put(at + 8, &(section.len() as u64).to_le_bytes());
        put(at + 16, &crc32c::crc32c(section).to_le_bytes());
        begin += section.len();
    }
    let sum = crc32c::crc32c(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    let recipients: Vec<(&str, Option<&str>)> = asked
        .iter()
        .map(|asked| match asked.rsplit_once('@') {
            Some((local, domain)) => (local, Some(domain)),
            None => (asked.as_str(), None),
        })
        .collect();
    open(&[header, heap, templates, index].concat(), &recipients);
}

/// Walks the records by their lengths and gives each its checksum; returns a slot for each. `kind` makes each
/// a mailbox.
fn mend_records(heap: &mut [u8], seed: &[u8; 16], kind: bool) -> Vec<[u8; 8]> {
    let mut slots = Vec::new();
    let mut at = 0;
    while let Some(head) = heap.get(at..at + 6) {
        let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let end = at + 6 + length;
        if length == 0 || end > heap.len() {
            break;
        }
        if kind {
            heap[at + 6] = 1;
        }
        let record = &heap[at..end];
        let sum = crc32c::crc32c_append(crc32c::crc32c(&record[..2]), &record[6..]);
        let key = record.get(12..14).map_or(0, |key| usize::from(u16::from_le_bytes([key[0], key[1]])));
        let hash = SipHasher13::new_with_key(seed).hash(record.get(14..14 + key).unwrap_or_default());
        heap[at + 2..at + 6].copy_from_slice(&sum.to_le_bytes());
        slots.push((hash << 48 | (PAGE + at) as u64).to_le_bytes());
        at = end;
    }
    slots
}

fn paged(mut section: Vec<u8>) -> Vec<u8> {
    section.resize(section.len().next_multiple_of(PAGE), 0);
    section
}

/// What may be relied on in a table that somebody else has made.
fn open(bytes: &[u8], recipients: &[(&str, Option<&str>)]) {
    let table = match Table::from_bytes(Path::new("table"), bytes) {
        Ok(table) => table,
        Err(error) => {
            assert!(error.to_string().starts_with("user table table: "), "{error}");
            return;
        }
    };
    let flaws = table.verify(|| ());
    assert!(flaws.len() <= FLAWS_MAX);
    for flaw in &flaws {
        assert!(!flaw.to_string().is_empty());
    }
    let users: Vec<_> = table.users().collect();
    assert!(users.len() as u64 <= table.len());
    if flaws.is_empty() {
        assert_eq!(users.len() as u64, table.len(), "a table without a flaw has all its users");
    }
    for user in users {
        match user {
            Ok(user) => {
                deliverable(&user);
                let found = table.lookup(&*user.address);
                if flaws.is_empty() {
                    assert_eq!(found, Ok(Some(user)), "a table without a flaw answers every look-up");
                }
            }
            Err(damage) => {
                assert!(!damage.to_string().is_empty());
                assert!(!flaws.is_empty(), "{damage} is a flaw");
            }
        }
    }
    for (local, domain) in recipients {
        for rules in [Rules::default(), Rules::new("+-", &["example.org".to_owned()])] {
            if let Ok(Answer::Found(found)) = find(&table, local, *domain, &rules) {
                deliverable(&found.target.user);
                assert!(local.starts_with(found.base.local));
                let address = &found.target.user.address;
                let local_part = address.split_once('@').map_or(&**address, |(local, _)| local);
                assert!(local_part.is_empty() || !local.is_empty(), "nobody is found by nothing");
            }
        }
    }
}

/// A user who is read is one who could have been written, but for his address: he was found by it, so what it says
/// is what the client said.
fn deliverable(user: &User<'_>) {
    assert!(user.maildir().starts_with('/'));
    let fault = entry_of(user).check().err();
    let of_address = [EntryFault::AddressPart, EntryFault::AddressControl, EntryFault::AddressLong]
        .map(Some)
        .contains(&fault);
    assert!(fault.is_none() || of_address, "{user:?}: {fault:?}");
}

fn entry_of(user: &User<'_>) -> Entry {
    Entry {
        line: 0,
        address: user.address.clone().into_owned(),
        home: user.home.as_ref().map(|home| home.clone().into_owned()),
        mail: user.mail.clone().into_owned(),
        uid: user.uid,
        gid: user.gid,
        quota_bytes: user.quota_bytes,
        quota_messages: user.quota_messages,
    }
}

/// Input: how local parts are kept; the damage; recipients to look for; the entries.
fn built(mut input: Input<'_>) {
    let local_part = if input.byte() & 1 == 0 { LocalPart::Folded } else { LocalPart::Kept };
    let options = Options::reproducible(local_part, input.array());
    let (place, change) = (usize::from_le_bytes(input.array()), input.byte().max(1));
    let asked: Vec<String> = (0..4).map(|_| String::from_utf8_lossy(input.short()).into_owned()).collect();

    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let path = directory.path().join("table");
    let mut builder = Builder::create(&path, options).expect("a new file");
    let mut model = BTreeMap::new();
    let mut duplicates = 0;
    for line in 1..=32 {
        if input.is_empty() {
            break;
        }
        let entry = Entry { line, ..read_entry(&mut input) };
        let key = folded(&entry.address, local_part);
        let as_stored = Entry { address: key.clone(), ..entry.clone() };
        match builder.add(&entry) {
            Ok(()) => {
                assert_eq!(as_stored.check(), Ok(()));
                duplicates += usize::from(model.contains_key(&key));
                model.entry(key).or_insert(as_stored);
            }
            Err(BuildError::Entry { line: named, fault }) => {
                assert_eq!((named, Err(fault)), (line, as_stored.check()));
            }
            Err(error) => panic!("{error}"),
        }
    }
    match builder.finish() {
        Ok(summary) => assert_eq!((summary.users, duplicates), (model.len() as u64, 0)),
        Err(BuildError::Conflicts(found)) => {
            assert_eq!(found.len(), duplicates);
            assert!(duplicates > 0 && !path.exists());
            return;
        }
        Err(error) => panic!("{error}"),
    }

    let mut bytes = std::fs::read(&path).expect("it was published");
    let table = Table::open(&path).expect("it was just built");
    assert!(table.verify(|| ()).is_empty());
    for (key, entry) in &model {
        assert_eq!(table.lookup(key), Ok(Some(user_of(entry))));
    }
    assert_eq!(table.users().count(), model.len());
    let asked: Vec<&str> = asked.iter().map(String::as_str).chain(model.keys().map(String::as_str)).collect();
    for asked in &asked {
        look_for(&table, &model, asked, true);
    }

    let heap_end = PAGE + usize::try_from(table.shape().heap_bytes).expect("64 bits");
    let place = place % bytes.len();
    assert!(Table::from_bytes(&path, &bytes[..place]).is_err(), "cut off at {place}");
    bytes[place] ^= change;
    match Table::from_bytes(&path, &bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(table) => {
            assert!((PAGE..heap_end).contains(&place), "only the heap is not checked when a table is opened");
            assert!(!table.verify(|| ()).is_empty(), "but verify does");
            for asked in &asked {
                look_for(&table, &model, asked, false);
            }
        }
    }
}

fn read_entry(input: &mut Input<'_>) -> Entry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let what = input.byte();
    let address = text(input.short());
    let path = |what: u8, bytes: &[u8]| match what & 3 {
        0 => format!("/srv/mail/{address}"),
        1 => format!("/{}", address.replace('@', "/")),
        2 => format!("/{}", text(bytes)),
        _ => text(bytes),
    };
    let home = (what & 16 != 0).then(|| path(what >> 2, input.short()));
    let mail = path(what, input.short());
    let given = |bit: u8| what & bit != 0;
    Entry {
        line: 0,
        home,
        mail,
        uid: given(32).then(|| u32::from_le_bytes(input.array())),
        gid: given(32).then(|| u32::from_le_bytes(input.array())),
        quota_bytes: given(64).then(|| u64::from_le_bytes(input.array())),
        quota_messages: given(128).then(|| u64::from_le_bytes(input.array())),
        address,
    }
}

fn user_of(entry: &Entry) -> User<'_> {
    User {
        address: entry.address.as_str().into(),
        home: entry.home.as_deref().filter(|home| !home.is_empty()).map(Into::into),
        mail: entry.mail.as_str().into(),
        uid: entry.uid,
        gid: entry.gid,
        quota_bytes: entry.quota_bytes.filter(|limit| *limit > 0),
        quota_messages: entry.quota_messages.filter(|limit| *limit > 0),
    }
}

/// Looks for a recipient as the server does, and in the model as it is described. In a table that is not `whole` an
/// error is right too; another user, or none, is not.
fn look_for(table: &Table, model: &BTreeMap<String, Entry>, asked: &str, whole: bool) {
    let (local, domain) = match asked.rsplit_once('@') {
        Some((local, domain)) => (local, Some(domain)),
        None => (asked, None),
    };
    let rules = Rules::new("+-", &["Example.org".to_owned()]);
    let delimiter = local.char_indices().skip(1).find(|(_, character)| "+-".contains(*character));
    let (name, detail) = match delimiter {
        Some((at, _)) => (&local[..at], Some(&local[at + 1..])),
        None => (local, None),
    };
    let key = match domain {
        Some(domain) => folded(&format!("{name}@{domain}"), table.local_part()),
        None => folded_local(name, table.local_part()),
    };
    let is_local = domain.is_none_or(|domain| lower(domain) == "example.org") && !name.contains('@');
    // Without a domain, what has an "@" in it is no local part that could be stored.
    let by_address = domain.and_then(|_| model.get(&key));
    let alone = || is_local.then(|| model.get(&folded_local(name, table.local_part()))).flatten();
    let expected = by_address.or_else(alone);
    match find(table, local, domain, &rules) {
        Ok(answer) => {
            let found = answer.found();
            let user = found.as_ref().map(|found| &found.target.user);
            assert_eq!(user, expected.map(user_of).as_ref(), "{asked:?}");
            if let Some(found) = found {
                let told = (found.target.detail, found.base.local, found.base.domain);
                assert_eq!(told, (detail, name, domain));
            }
        }
        Err(damage) => assert!(!whole, "{asked:?}: {damage}"),
    }
}

fn folded(address: &str, local_part: LocalPart) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => format!("{}@{}", folded_local(local, local_part), lower(domain)),
        None => folded_local(address, local_part),
    }
}

fn folded_local(local: &str, local_part: LocalPart) -> String {
    match local_part {
        LocalPart::Folded => lower(local),
        LocalPart::Kept => local.to_owned(),
    }
}

fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

const PAGE: usize = 4096;
