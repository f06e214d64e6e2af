//! The message as it arrives: pieces of receive buffers, in order, not yet written anywhere.
//!
//! On the fast path nothing is copied: a piece is a range of a leased buffer. Where there would be very many
//! ranges (lines stored with LF, a buffer that is all dots) they are moved together in place. A small
//! piece is moved behind the one before it, so that the pool is not held by little. So all memory of
//! messages is the pool's, and is bounded by it.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::rc::Rc;

use crate::journal::format::checksum;
use crate::limits;
use crate::mail::line_ends::{LineEndings, LineEnds, ToLf};
use crate::maildir::Sizes;
use crate::ring::{Bytes, Lease};

/// What has arrived of a message and is not yet in a file.
#[derive(Debug)]
pub struct Body {
    pieces: Vec<Bytes>,
    /// Bytes of buffers held, whether filled or not: what this message takes from the pool.
    held: usize,
    /// Bytes received, as they count against the size limit.
    received: u64,
    stored: u64,
    /// Of what is stored: a line may end in CRLF even when CRLFs became LFs, if it had two CRs.
    line_ends: LineEnds,
    to_lf: Option<ToLf>,
}

impl Body {
    /// An empty one.
    #[must_use]
    pub fn new(line_endings: LineEndings) -> Self {
        Self {
            pieces: Vec::new(),
            held: 0,
            received: 0,
            stored: 0,
            line_ends: LineEnds::default(),
            to_lf: (line_endings == LineEndings::Lf).then(ToLf::default),
        }
    }

    /// Adds the ranges `keep` of `lease`, after `carry`, which belongs in front of them. The ranges may be
    /// changed on the way.
    pub fn push(&mut self, lease: &mut Rc<Lease>, carry: &'static [u8], keep: &mut Vec<Range<usize>>) {
        let kept: usize = keep.iter().map(Range::len).sum();
        self.received += (carry.len() + kept) as u64;
        if self.to_lf.is_some() {
            self.convert(lease, carry, keep);
        } else {
            self.add_static(carry);
        }
        for range in &*keep {
            self.line_ends.count(&lease.bytes()[range.clone()]);
        }
        if keep.len() > limits::RANGES_MAX {
            match Rc::get_mut(lease) {
                Some(lease) => *keep = vec![lease.close_gaps(keep)],
                // An earlier chunk of the message lies in the same buffer, so it cannot be changed.
                None => return self.add_copy(lease, keep),
            }
        }
        let kept = keep.iter().map(Range::len).sum();
        if kept < limits::SMALL_PIECE_BYTES && self.fits_behind_last(kept) {
            keep.iter().for_each(|range| self.append_to_last(&lease.bytes()[range.clone()]));
        } else {
            self.add_ranges(lease, keep);
        }
    }

    /// Takes the CR of each CRLF out of the ranges, and adds the carry as it is stored.
    fn convert(&mut self, lease: &Lease, carry: &'static [u8], keep: &mut Vec<Range<usize>>) {
        let Some(to_lf) = &mut self.to_lf else { return };
        let mut converted = Vec::new();
        // CRs that were withheld and stand alone after all. They belong in front of the first range: what
        // precedes any other is a dot that was dropped, and before that a CRLF.
        let mut lone = to_lf.convert(carry, 0..carry.len(), &mut converted).len();
        for range in keep.drain(..) {
            lone += to_lf.convert(lease.bytes(), range, &mut converted).len();
        }
        *keep = converted;
        for _ in 0..lone {
            self.add_static(b"\r");
        }
    }

    fn add_static(&mut self, bytes: &'static [u8]) {
        if !bytes.is_empty() {
            self.line_ends.count(bytes);
            self.stored += bytes.len() as u64;
            self.pieces.push(Bytes::Static(bytes));
        }
    }

    fn add_ranges(&mut self, lease: &Rc<Lease>, keep: &[Range<usize>]) {
        if keep.is_empty() {
            return;
        }
        self.held += lease.bytes().len() + lease.room();
        for range in keep {
            self.stored += range.len() as u64;
            self.pieces.push(Bytes::Leased(Rc::clone(lease), range.clone()));
        }
    }

    fn add_copy(&mut self, lease: &Lease, keep: &[Range<usize>]) {
        let mut copy = Vec::new();
        keep.iter().for_each(|range| copy.extend_from_slice(&lease.bytes()[range.clone()]));
        self.held += copy.len();
        self.stored += copy.len() as u64;
        self.pieces.push(Bytes::Owned(copy.into()));
    }

    /// Whether the last piece ends its buffer's bytes, nobody else reads that buffer, and there is room.
    fn fits_behind_last(&mut self, bytes: usize) -> bool {
        match self.pieces.last_mut() {
            Some(Bytes::Leased(lease, range)) => {
                range.end == lease.bytes().len()
                    && Rc::get_mut(lease).is_some_and(|lease| lease.room() >= bytes)
            }
            _ => false,
        }
    }

    fn append_to_last(&mut self, bytes: &[u8]) {
        let Some(Bytes::Leased(lease, range)) = self.pieces.last_mut() else {
            unreachable!("the caller looked at fits_behind_last");
        };
        Rc::get_mut(lease).expect("nobody else reads it").append(bytes);
        range.end += bytes.len();
        self.stored += bytes.len() as u64;
    }

    /// Memory that the unwritten part holds, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Bytes of the message so far, written or not, as received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of the message so far, written or not, as stored.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// The CRC-32C of what is not yet written.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        checksum(self.pieces.iter().map(Bytes::as_slice))
    }

    /// Hands over what is not yet written.
    pub fn take(&mut self) -> Rc<Vec<Bytes>> {
        self.held = 0;
        Rc::new(std::mem::take(&mut self.pieces))
    }

    /// Forgets what is not yet written, of a message that will not be stored.
    pub fn discard(&mut self) {
        self.held = 0;
        self.pieces.clear();
    }

    /// Adds what was withheld until the end of the message was known.
    pub fn finish(&mut self) {
        if let Some(to_lf) = self.to_lf {
            self.add_static(to_lf.finish());
        }
    }

    /// The exact sizes of a file with trace headers of size `head` in front of this message.
    #[must_use]
    pub fn sizes(&self, head: HeadSize) -> Sizes {
        let stored = head.bytes + self.stored;
        Sizes { stored, wire: stored + head.lone_lf + self.line_ends.lone_lf }
    }
}

/// What trace headers add to the size of a file. They end in a line end, so they can be counted alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSize {
    bytes: u64,
    lone_lf: u64,
}

impl HeadSize {
    /// The size of `head`.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        let mut line_ends = LineEnds::default();
        line_ends.count(head);
        Self { bytes: head.len() as u64, lone_lf: line_ends.lone_lf }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lmtp::data::Scanner;
    use crate::ring::Pool;
    use proptest::prelude::*;

    const BUFFERS: u16 = 256;
    const SYMBOLS: &[&[u8]] = &[b"\r\n", b"\r", b"\n", b".", b"a", b"\r\n.", b"some words"];

    fn pool() -> Rc<Pool> {
        Pool::new(BUFFERS, limits::BUFFER_BYTES).expect("it maps lazily")
    }

    /// Feeds `wire`, cut into `pieces`, through the scanner into a body.
    fn received(pool: &Rc<Pool>, wire: &[&[u8]], line_endings: LineEndings) -> Body {
        let mut body = Body::new(line_endings);
        let mut scanner = Scanner::new();
        for (id, bytes) in (0..).zip(wire) {
            let mut lease = Rc::new(pool.filled_with(id, bytes));
            let mut keep = Vec::new();
            let scan = scanner.scan(bytes, &mut keep);
            body.push(&mut lease, scan.carry, &mut keep);
            if scan.ended {
                break;
            }
        }
        body.finish();
        body
    }

    fn bytes_of(body: &mut Body) -> Vec<u8> {
        body.take().iter().flat_map(|piece| piece.as_slice().to_vec()).collect()
    }

    fn cut<'w>(wire: &'w [u8], lengths: &[usize]) -> Vec<&'w [u8]> {
        let (mut pieces, mut rest) = (Vec::new(), wire);
        for &length in lengths.iter().cycle().take(usize::from(BUFFERS) - 1) {
            let (piece, behind) = rest.split_at(length.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(&rest[..rest.len().min(limits::BUFFER_BYTES)]);
        pieces
    }

    /// The message inside of `wire`, told byte by byte.
    fn naive(wire: &[u8]) -> Vec<u8> {
        let end = (0..wire.len())
            .find(|&at| wire[at..].starts_with(b".\r\n") && (at == 0 || wire[..at].ends_with(b"\r\n")));
        let wire = &wire[..end.unwrap_or(wire.len())];
        let dropped = |at: usize| wire[at] == b'.' && (at == 0 || wire[..at].ends_with(b"\r\n"));
        (0..wire.len()).filter(|&at| !dropped(at)).map(|at| wire[at]).collect()
    }

    fn with_lf(message: &[u8]) -> Vec<u8> {
        let kept = |at: usize| message[at] != b'\r' || message.get(at + 1) != Some(&b'\n');
        (0..message.len()).filter(|&at| kept(at)).map(|at| message[at]).collect()
    }

    /// Bytes with every line ending in CRLF.
    fn wire_bytes(stored: &[u8]) -> u64 {
        let lone =
            (0..stored.len()).filter(|&at| stored[at] == b'\n' && (at == 0 || stored[at - 1] != b'\r'));
        (stored.len() + lone.count()) as u64
    }

    proptest! {
        #[test]
        fn what_is_stored_is_what_was_sent_however_it_was_cut(
            symbols in proptest::collection::vec(proptest::sample::select(SYMBOLS), 0..400),
            lengths in proptest::collection::vec(1_usize..400, 1..8),
            lf in any::<bool>(),
        ) {
            let mut wire = symbols.concat();
            wire.extend_from_slice(b"\r\n.\r\n");
            let line_endings = if lf { LineEndings::Lf } else { LineEndings::Crlf };
            let expected = if lf { with_lf(&naive(&wire)) } else { naive(&wire) };
            let pool = pool();
            let pieces = cut(&wire, &lengths);
            prop_assume!(pieces.iter().map(|piece| piece.len()).sum::<usize>() == wire.len());
            let mut body = received(&pool, &pieces, line_endings);
            let head: &[u8] = if lf { b"Return-Path: <>\n" } else { b"Return-Path: <>\r\n" };
            let sizes = body.sizes(HeadSize::of(head));
            prop_assert_eq!(body.received(), naive(&wire).len() as u64);
            let stored = bytes_of(&mut body);
            prop_assert_eq!(&stored, &expected);
            let file = [head, &stored].concat();
            prop_assert_eq!(sizes, Sizes { stored: file.len() as u64, wire: wire_bytes(&file) });
            prop_assert_eq!(pool.free(), BUFFERS, "nothing is held once the pieces are gone");
        }
    }

    #[test]
    fn a_message_in_small_packets_holds_one_buffer() {
        let pool = pool();
        let packets: Vec<&[u8]> = std::iter::repeat_n(&b"twenty bytes of text"[..], 200).collect();
        let body = received(&pool, &packets, LineEndings::Crlf);
        assert_eq!(pool.free(), BUFFERS - 1);
        assert_eq!(body.held(), limits::BUFFER_BYTES);
    }

    #[test]
    fn a_buffer_of_dots_becomes_one_piece() {
        let pool = pool();
        let wire = b"..\r\n".repeat(4000);
        let mut body = received(&pool, &[&wire], LineEndings::Crlf);
        let pieces = body.take();
        assert_eq!(pieces.len(), 1);
        assert_eq!(pieces[0].as_slice(), b".\r\n".repeat(4000));
    }

    #[test]
    fn on_the_fast_path_the_piece_is_the_buffer_itself() {
        let pool = pool();
        let wire = [b"a line of text\r\n".repeat(1000), b".\r\n".to_vec()].concat();
        let mut body = Body::new(LineEndings::Crlf);
        let mut lease = Rc::new(pool.filled_with(0, &wire));
        let address = lease.bytes().as_ptr();
        let mut keep = Vec::new();
        Scanner::new().scan(&wire, &mut keep);
        body.push(&mut lease, b"", &mut keep);
        assert_eq!(body.take()[0].as_slice().as_ptr(), address);
    }
}
