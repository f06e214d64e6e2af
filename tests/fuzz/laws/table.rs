//! A user table answers rightly or says that it cannot, whatever its bytes are.

use super::input::Input;
use posthaste::users::build::BuildError;
use posthaste::users::entry::{EntryFault, TARGETS_MAX};
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
    let probe = u32::from(input.byte());
    let [users, aliases] = [input.number(), input.number()];
    let [classes, templates, domains] = [input.byte(), input.byte(), input.byte()].map(u32::from);
    let asked: Vec<String> = (0..4).map(|_| String::from_utf8_lossy(input.short()).into_owned()).collect();
    let [class_section, template_section, domain_section] =
        std::array::from_fn(|_| paged(input.long().to_vec()));
    let elsewhere = paged(input.long().to_vec());
    let slots = paged(mend_slots(&domain_section, domains, &seed));
    let filter = paged(vec![if what & 1 != 0 { 0xff } else { 0 }; 64]);
    let heap = match what & 2 {
        0 => paged(input.rest().to_vec()),
        _ => mend_heap(input.rest(), &domain_section, &seed),
    };

    let sections = [class_section, template_section, domain_section, slots, filter, elsewhere, heap];
    let mut header = vec![0; PAGE];
    let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
    put(0, b"PHUSERS\0");
    put(8, &2_u32.to_le_bytes());
    put(12, &0x0a0b_0c0d_u32.to_le_bytes());
    put(20, &u32::from(what >> 6).to_le_bytes());
    put(24, &((PAGE + sections.iter().map(Vec::len).sum::<usize>()) as u64).to_le_bytes());
    put(40, &seed);
    put(56, &(users as u64).to_le_bytes());
    put(64, &(aliases as u64).to_le_bytes());
    put(72, &1_u64.to_le_bytes());
    put(88, &1_u64.to_le_bytes());
    for (at, count) in [(96, probe), (100, classes), (104, templates), (108, domains)] {
        put(at, &count.to_le_bytes());
    }
    let mut begin = PAGE;
    for (at, section) in (112..).step_by(24).zip(&sections) {
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
    open(&[header, sections.concat()].concat(), &recipients);
}

/// Slots that lead to all domains that the section says it has, as far as it does.
fn mend_slots(section: &[u8], count: u32, seed: &[u8; 16]) -> Vec<u8> {
    let mut slots = vec![[0; 8]; count as usize * 2 + 1];
    let mut at = 0;
    for _ in 0..count {
        let Some(text) = domain_at(section, at) else { break };
        let hash = SipHasher13::new_with_key(seed).hash(text);
        let home = (u128::from(hash) * slots.len() as u128) >> 64;
        let mut place = usize::try_from(home).expect("less than the slots");
        while slots[place] != [0; 8] {
            place = (place + 1) % slots.len();
        }
        let number = u32::try_from(at / 16 + 1).expect("the section is short");
        slots[place][..4].copy_from_slice(&number.to_le_bytes());
        slots[place][4..].copy_from_slice(&hash.to_le_bytes()[..4]);
        at += (3 + text.len()).next_multiple_of(16);
    }
    slots.concat()
}

fn domain_at(section: &[u8], at: usize) -> Option<&[u8]> {
    let length = section.get(at..at + 2)?;
    section.get(at + 3..)?.get(..usize::from(u16::from_le_bytes([length[0], length[1]])))
}

/// Bodies, each behind its length, as records in blocks that go on, with tags and checksums that fit.
fn mend_heap(bodies: &[u8], domains: &[u8], seed: &[u8; 16]) -> Vec<u8> {
    let mut blocks: Vec<Vec<u8>> = vec![vec![0; 6]];
    let mut rest = Input::new(bodies);
    while !rest.is_empty() {
        let body = rest.short();
        let head = [u8::try_from(body.len()).expect("it has a short length"), tag_of(body, domains, seed)];
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head), body);
        if blocks.last().is_some_and(|block| block.len() + 6 + body.len() > 512) {
            blocks.push(vec![0; 6]);
        }
        let block = blocks.last_mut().expect("there is one at least");
        block.extend_from_slice(&[&sum.to_le_bytes()[..], &head, body].concat());
    }
    let mut heap = Vec::new();
    for mut block in blocks {
        let end = u16::try_from(block.len()).expect("a block is short") | 1 << 15;
        block[4..6].copy_from_slice(&end.to_le_bytes());
        block.resize(512, 0);
        let sum = crc32c::crc32c(&block[4..]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
        heap.extend_from_slice(&block);
    }
    paged(heap)
}

/// The tag of a body whose domain's number and local part are short.
fn tag_of(body: &[u8], domains: &[u8], seed: &[u8; 16]) -> u8 {
    let mut body = Input::new(body);
    let (_, number, local) = (body.byte(), usize::from(body.byte()), body.short());
    let domain = number.checked_sub(1).and_then(|number| domain_at(domains, number * 16));
    let key = domain.map_or_else(|| local.to_vec(), |domain| [local, b"@", domain].concat());
    SipHasher13::new_with_key(seed).hash(&key).to_le_bytes()[0]
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
    for alias in table.aliases() {
        assert!(alias.is_ok() || !flaws.is_empty());
    }
    if flaws.is_empty() {
        assert_eq!(users.len() as u64, table.len(), "a table without a flaw has all its users");
    }
    for user in users {
        match user {
            Ok(user) => {
                deliverable(&user);
                let found = table.lookup(&*user.address().to_cow());
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
            posthaste::users::warm(&table, local, *domain, &rules);
            if let Ok(Answer::Found(found)) = find(&table, local, *domain, &rules) {
                assert!(found.targets().count() <= TARGETS_MAX);
                found.targets().for_each(|target| deliverable(&target.user));
                assert!(local.starts_with(found.base.local));
                assert!(!local.is_empty(), "nobody is found by nothing");
            }
        }
    }
}

/// A user who is read is one who could have been written, but for his address: he was found by it, so what it says
/// is what the client said.
fn deliverable(user: &User<'_>) {
    let maildir = user.maildir().to_string();
    assert!(maildir.starts_with('/'));
    assert_eq!(maildir.len(), user.maildir().len());
    let fault = entry_of(user).check().err();
    let of_address = [EntryFault::AddressPart, EntryFault::AddressControl, EntryFault::AddressLong]
        .map(Some)
        .contains(&fault);
    assert!(fault.is_none() || of_address, "{user:?}: {fault:?}");
}

fn entry_of(user: &User<'_>) -> Entry {
    Entry {
        line: 0,
        address: user.address().to_string(),
        home: user.home().map(|home| home.to_string()),
        mail: user.mail().to_string(),
        uid: user.uid(),
        gid: user.gid(),
        quota_bytes: user.quota_bytes(),
        quota_messages: user.quota_messages(),
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

    let shape = table.shape();
    let records = usize::try_from(shape.elsewhere_bytes + shape.heap_bytes).expect("64 bits");
    let records = bytes.len() - records..bytes.len();
    let place = place % bytes.len();
    assert!(Table::from_bytes(&path, &bytes[..place]).is_err(), "cut off at {place}");
    bytes[place] ^= change;
    match Table::from_bytes(&path, &bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(table) => {
            assert!(records.contains(&place), "only records are not checked when a table is opened");
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
    User::of_entry(entry).expect("what was built is good")
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
    let is_local = domain.is_none_or(|domain| lower(domain) == "example.org") && !local.contains('@');
    let in_domain = |local: &str| {
        let key = domain.map(|domain| folded(&format!("{local}@{domain}"), table.local_part()));
        key.and_then(|key| model.get(&key)).filter(|_| !local.is_empty())
    };
    // Without a domain, what has an "@" in it is no local part that could be stored.
    let alone = |local: &str| is_local.then(|| model.get(&folded_local(local, table.local_part()))).flatten();
    let tries =
        [(in_domain(local), true), (in_domain(name), false), (alone(local), true), (alone(name), false)];
    let (expected, is_whole) = tries
        .into_iter()
        .find_map(|(entry, whole)| Some((entry?, whole)))
        .map_or((None, false), |(entry, whole)| (Some(entry), whole && detail.is_some()));
    let (name, detail) = if is_whole { (local, None) } else { (name, detail) };
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
