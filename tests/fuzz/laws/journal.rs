//! A segment of the journal, whatever is in it, is read within its bounds; and what was written is read back up to
//! the damage.

use super::input::Input;
use posthaste::journal::format::{
    BLOCK_BYTES, HEAD_BYTES, HEADER_BYTES, NAME_BYTES_MAX, PATH_BYTES_MAX, RECORD_ALIGN, RECORD_MAGIC,
    SEGMENT_BYTES_MIN, checksum,
};
use posthaste::journal::{
    Boot, End, Recipient, Record, RecordHead, Records, SegmentHeader, Unrecordable, read_segment,
};
use posthaste::ring::Owner;
use std::cell::RefCell;

/// Input: one byte that says which of the three it is.
pub fn hold(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 4 {
        0 => raw(input.rest()),
        1 => pieces(input),
        _ => written(input),
    }
}

/// The bytes as they are, alone and as the begin of a whole segment.
fn raw(bytes: &[u8]) {
    match read_segment(bytes) {
        Ok(segment) => {
            walk(bytes, segment.header.key, segment.records());
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
    with_segment(|segment| {
        segment.put(0, &bytes[..bytes.len().min(segment.bytes.len())]);
        if let Ok(read) = read_segment(&segment.bytes) {
            walk(&segment.bytes, read.header.key, read.records());
        }
    });
}

/// Records of any content, with as much of them put right as the input asks for, so that it is not always a checksum
/// that stops the reader.
fn pieces(mut input: Input<'_>) {
    let header = SegmentHeader::new(SEGMENT_BYTES_MIN, 1, u64::from_le_bytes(input.array()), Boot::UNKNOWN);
    with_segment(|segment| {
        segment.put(0, &header.encode());
        let (mut at, mut sequence) = (BLOCK_BYTES, 0);
        while !input.is_empty() && sequence < 16 {
            let what = input.byte();
            let mut record = input.long().to_vec();
            mend(&mut record, what, header.key, sequence);
            if at + record.len() > segment.bytes.len() {
                break;
            }
            segment.put(at, &record);
            let last = record.get(4).is_some_and(|flags| flags & 1 == 1);
            at = (at + record.len()).next_multiple_of(if last { BLOCK_BYTES } else { RECORD_ALIGN });
            sequence += 1;
        }
        let read = read_segment(&segment.bytes).expect("its header is whole");
        assert_eq!(read.header, header);
        walk(&segment.bytes, header.key, read.records());
    });
}

fn mend(record: &mut Vec<u8>, what: u8, key: u64, sequence: u64) {
    let mut put = |at: usize, value: &[u8]| {
        record.resize(record.len().max(at + value.len()), 0);
        record[at..at + value.len()].copy_from_slice(value);
    };
    if what & 1 != 0 {
        put(0, &RECORD_MAGIC);
        put(16, &key.to_le_bytes());
        put(24, &sequence.to_le_bytes());
    }
    if what & 2 != 0 {
        record.resize(record.len().max(HEAD_BYTES).next_multiple_of(RECORD_ALIGN), 0);
        let length = record.len() as u64;
        record[8..16].copy_from_slice(&length.to_le_bytes());
    }
    if what & 4 != 0 && record.len() >= HEAD_BYTES {
        let meta: [u8; 4] = *record[44..].first_chunk().expect("a head is longer");
        let payload_at =
            HEAD_BYTES.saturating_add(usize::try_from(u32::from_le_bytes(meta)).expect("64 bits"));
        let payload_at = payload_at.min(record.len());
        let payload_bytes =
            record.get(48..56).map_or(0, |bytes| u64::from_le_bytes(*bytes.first_chunk().expect("eight")));
        let payload_end = usize::try_from(payload_bytes).unwrap_or(usize::MAX).saturating_add(payload_at);
        let sum = checksum([&record[payload_at..payload_end.min(record.len())]]);
        record[36..40].copy_from_slice(&sum.to_le_bytes());
        let sum = checksum([&record[40..payload_at], &record[..32]]);
        record[32..36].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Everything that a reader may rely on; returns how many records there are, and how they end.
fn walk(bytes: &[u8], key: u64, mut records: Records<'_>) -> (u64, End) {
    let mut count = 0;
    loop {
        let at = records.position();
        assert_eq!(records.end(), None);
        let Some(record) = records.next() else { break };
        assert!(at >= BLOCK_BYTES && at.is_multiple_of(RECORD_ALIGN));
        let whole = &bytes[at..at + record.length];
        assert_eq!(record.sequence, count);
        check(&record, whole, key);
        let next = records.position();
        if record.last {
            assert!(next.is_multiple_of(BLOCK_BYTES) && next - (at + record.length) < BLOCK_BYTES);
        } else {
            assert_eq!(next, at + record.length);
        }
        count += 1;
    }
    assert!(records.next().is_none(), "the end is the end");
    let end = records.end().expect("it has ended");
    if let End::Torn { at } = end {
        assert_eq!(at, records.position());
    }
    (count, end)
}

/// A record that is read is one that could have been written: made anew it has the same bytes.
fn check(record: &Record<'_>, whole: &[u8], key: u64) {
    let recipients: Vec<Recipient<'_>> = record.recipients().collect();
    assert_eq!(recipients.len(), record.count());
    let sum = checksum([record.payload]);
    let mut head = RecordHead::new(recipients, record.payload.len() as u64, sum).expect("what was read fits");
    head.seal(key, record.sequence, record.last);
    assert_eq!(head.as_bytes(), &whole[..head.as_bytes().len()]);
    assert_eq!(head.record_bytes(), record.length as u64);
    assert_eq!(record.payload, &whole[head.as_bytes().len()..][..record.payload.len()]);
}

/// A message as the input asks for it.
struct Message {
    recipients: Vec<Address>,
    payload: Vec<u8>,
    last: bool,
}

/// A [`Recipient`] that owns what it says.
struct Address {
    owner: Owner,
    home: Option<String>,
    path: String,
    name: String,
    trace: Vec<u8>,
}

impl Address {
    fn read(input: &mut Input<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let what = input.byte();
        let slash = |text: String| if what & 1 == 0 { format!("/{text}") } else { text };
        Self {
            owner: match what & 2 {
                0 => Owner::Server,
                _ => Owner::User {
                    uid: u32::from_le_bytes(input.array()),
                    gid: u32::from_le_bytes(input.array()),
                },
            },
            home: (what & 4 != 0).then(|| slash(text(input.short()))).filter(|home| !home.is_empty()),
            path: slash(text(input.short()).repeat(usize::from(what >> 3))),
            name: text(input.short()),
            trace: input.short().to_vec(),
        }
    }

    fn recipient(&self) -> Recipient<'_> {
        let Self { owner, home, path, name, trace } = self;
        Recipient { owner: *owner, home: home.as_deref(), path, name, trace }
    }

    /// What the format cannot hold, by its description.
    fn fault(&self) -> Option<Unrecordable> {
        let is_id = |id: u32| id != 0 && id != u32::MAX;
        let is_path =
            |path: &String| path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains('\0');
        let name = self.name.as_str();
        if matches!(self.owner, Owner::User { uid, gid } if !is_id(uid) || !is_id(gid)) {
            return Some(Unrecordable::Owner);
        }
        if !is_path(&self.path) || !self.home.as_ref().is_none_or(is_path) {
            return Some(Unrecordable::Path);
        }
        if name.contains(['/', '\0']) || matches!(name, "" | "." | "..") || name.len() > NAME_BYTES_MAX {
            return Some(Unrecordable::Name);
        }
        None
    }
}

impl Message {
    fn read(input: &mut Input<'_>) -> Self {
        let what = input.byte();
        let recipients = (0..what & 3).map(|_| Address::read(input)).collect();
        let payload = input.short().repeat(usize::from(what >> 3) + 1);
        Self { recipients, payload, last: what & 4 != 0 }
    }

    fn head(&self) -> Option<RecordHead> {
        let recipients = self.recipients.iter().map(Address::recipient);
        let made = RecordHead::new(recipients, self.payload.len() as u64, checksum([&self.payload[..]]));
        let faults = self.recipients.iter().find_map(Address::fault);
        let none = self.recipients.is_empty().then_some(Unrecordable::Recipients);
        assert_eq!(made.as_ref().err().copied(), faults.or(none));
        made.ok()
    }

    fn is(&self, record: &Record<'_>) -> bool {
        record.payload == self.payload
            && record.last == self.last
            && record.recipients().eq(self.recipients.iter().map(Address::recipient))
    }
}

/// Input: a key; the damage and its place; for a segment in its second epoch, how many messages were of the
/// first; the messages.
fn written(mut input: Input<'_>) {
    let key = u64::from_le_bytes(input.array());
    let boot = Boot(input.array());
    let damage = Damage::read(&mut input);
    let stale = usize::from(input.byte() % 8);
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < 24 {
        messages.push(Message::read(&mut input));
    }
    if let Some(message) = messages.last_mut() {
        message.last = true;
    }
    with_segment(|segment| {
        let mut header = SegmentHeader::new(SEGMENT_BYTES_MIN, 3, key, boot);
        if stale > 0 {
            segment.fill(&header, &messages[..stale.min(messages.len())]);
            header = header.retired(boot);
        }
        let written = segment.fill(&header, &messages);
        let whole = written.iter().map(|(_, end)| *end).max().unwrap_or(BLOCK_BYTES);
        let mut harm = damage.does(segment, whole);

        let read = match read_segment(&segment.bytes) {
            Ok(read) => read,
            Err(refusal) => {
                assert!(harm < HEADER_BYTES, "{refusal}, though the header is whole");
                return;
            }
        };
        assert!(harm >= HEADER_BYTES, "a header that was changed is refused");
        if harm < BLOCK_BYTES {
            // Nothing is there, between the header and the first batch.
            harm = whole;
        }
        assert_eq!(read.header, header);
        let (count, end) = walk(&segment.bytes, header.key, read.records());
        for (number, record) in read.records().enumerate() {
            assert!(written[number].0.is(&record), "record {number}");
        }
        let safe = written.iter().filter(|(_, end)| *end <= harm).count() as u64;
        assert!(count >= safe, "{count} were read of {safe} before the damage at {harm}");
        if harm >= whole {
            let open = written.last().is_some_and(|(message, _)| !message.last);
            assert_eq!((count, end == End::Clean), (written.len() as u64, !open));
        }
    });
}

/// What happens to a segment that was written.
enum Damage {
    None,
    /// One byte is another.
    Byte {
        place: usize,
        change: u8,
    },
    /// All is zero from some place on.
    Cut {
        place: usize,
    },
    /// A block was never written.
    Block {
        place: usize,
    },
}

impl Damage {
    fn read(input: &mut Input<'_>) -> Self {
        let kind = input.byte();
        let place = usize::try_from(u32::from_le_bytes(input.array())).expect("64 bits");
        match kind % 4 {
            0 => Self::None,
            1 => Self::Byte { place, change: input.byte().max(1) },
            2 => Self::Cut { place },
            _ => Self::Block { place },
        }
    }

    /// Damages the first `whole` bytes and a little more; returns where that begins.
    fn does(&self, segment: &mut Buffer, whole: usize) -> usize {
        let end = whole + 64;
        match *self {
            Self::None => end,
            Self::Byte { place, change } => {
                let place = place % end;
                segment.put(place, &[segment.bytes[place] ^ change]);
                place
            }
            Self::Cut { place } => {
                let place = BLOCK_BYTES + place % (end - BLOCK_BYTES);
                segment.zero(place, segment.used);
                place
            }
            Self::Block { place } => {
                let block = (BLOCK_BYTES + place % (end - BLOCK_BYTES)) / BLOCK_BYTES * BLOCK_BYTES;
                segment.zero(block, block + BLOCK_BYTES);
                block
            }
        }
    }
}

/// A whole segment, zero but for what was put there since it was last taken.
struct Buffer {
    bytes: Vec<u8>,
    used: usize,
}

impl Buffer {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.used = self.used.max(at + bytes.len());
    }

    fn zero(&mut self, from: usize, to: usize) {
        let to = to.min(self.bytes.len());
        if from < to {
            self.bytes[from..to].fill(0);
        }
    }

    /// Writes a header and the messages behind it, as a worker does; returns those that fit, with their ends.
    fn fill<'m>(&mut self, header: &SegmentHeader, messages: &'m [Message]) -> Vec<(&'m Message, usize)> {
        self.put(0, &header.encode());
        let (mut at, mut written) = (BLOCK_BYTES, Vec::new());
        for message in messages {
            let Some(mut head) = message.head() else { continue };
            let end = at + usize::try_from(head.record_bytes()).expect("64 bits");
            let next = if message.last { end.next_multiple_of(BLOCK_BYTES) } else { end };
            if next > self.bytes.len() - BLOCK_BYTES {
                break;
            }
            head.seal(header.key, written.len() as u64, message.last);
            self.put(at, head.as_bytes());
            self.put(at + head.as_bytes().len(), &message.payload);
            self.put(end - head.padding_bytes(), &[0; RECORD_ALIGN][..head.padding_bytes()]);
            self.put(end, &[0; BLOCK_BYTES][..next - end]);
            written.push((message, end));
            at = next;
        }
        written
    }
}

/// Lends a segment of zeroes. It is the same again and again: a million new ones would be the most expensive thing here.
fn with_segment(work: impl FnOnce(&mut Buffer)) {
    thread_local! {
        static SEGMENT: RefCell<Buffer> = RefCell::new(Buffer {
            bytes: vec![0; usize::try_from(SEGMENT_BYTES_MIN).expect("64 bits")],
            used: 0,
        });
    }
    SEGMENT.with_borrow_mut(|segment| {
        segment.zero(0, segment.used);
        segment.used = 0;
        work(segment);
    });
}
