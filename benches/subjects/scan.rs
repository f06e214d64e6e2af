//! The scanner at work on a whole message, in receive buffers.

use posthaste::lmtp::data::Scanner;

/// Octets of a receive buffer.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;

/// Scans the mail in receive buffers, and returns the octets kept.
pub(crate) fn scan(wire: &[u8]) -> usize {
    let mut scanner = Scanner::new();
    let mut keep = Vec::with_capacity(64);
    let mut kept = 0;
    for buffer in wire.chunks(BUFFER_BYTES) {
        keep.clear();
        let scan = scanner.scan(buffer, &mut keep);
        kept += scan.carry.len() + keep.iter().map(ExactSizeIterator::len).sum::<usize>();
    }
    kept
}
