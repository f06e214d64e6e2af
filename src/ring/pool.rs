//! Receive buffers: one block of memory, cut into equal buffers, lent out one at a time.
//!
//! A buffer is either free (the kernel, or the simulated ring, may fill it) or leased (only the holder
//! of the [`Lease`] may touch it). A lease that is dropped goes to the list of returned buffers, which
//! the ring gives back to the kernel in its next turn. Nothing here blocks; the pool never grows.
#![allow(unsafe_code, reason = "the block is mapped memory; slices into it rest on the lease law above")]

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The block and its accounts.
#[derive(Debug)]
pub struct Pool {
    base: NonNull<u8>,
    buffer_bytes: usize,
    count: u16,
    leased: Cell<u16>,
    returned: RefCell<Vec<u16>>,
}

/// One filled buffer, for as long as somebody wants its bytes.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<Pool>,
    id: u16,
    filled: usize,
}

impl Pool {
    /// Maps `count` buffers of `buffer_bytes` each. Pages are touched only when used.
    ///
    /// # Errors
    /// As mmap(2).
    ///
    /// # Panics
    /// If either is zero, or `count` exceeds the 32768 that a buffer ring can hold.
    pub fn new(count: u16, buffer_bytes: usize) -> Result<Rc<Self>, rustix::io::Errno> {
        assert!(count > 0 && count <= 32768 && buffer_bytes > 0, "a pool has 1 to 32768 buffers");
        let bytes = usize::from(count) * buffer_bytes;
        // SAFETY: an anonymous mapping at an address that the kernel chooses overlaps nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Rc::new(Self {
            base,
            buffer_bytes,
            count,
            leased: Cell::new(0),
            returned: RefCell::new(Vec::with_capacity(usize::from(count))),
        }))
    }

    /// Number of buffers.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Size of each, in bytes.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// How many are not leased.
    #[must_use]
    pub fn free(&self) -> u16 {
        self.count - self.leased.get()
    }

    /// Where buffer `id` starts. The ring hands this address to the kernel.
    ///
    /// # Panics
    /// If there is no such buffer.
    pub(super) fn address(&self, id: u16) -> NonNull<u8> {
        assert!(id < self.count, "buffer {id} of {}", self.count);
        // SAFETY: id < count, so the offset lies within the block that `new` mapped.
        unsafe { self.base.add(usize::from(id) * self.buffer_bytes) }
    }

    /// Lends out buffer `id`, whose first `filled` bytes were just received. Only the ring calls
    /// this, and only for a buffer that was free: it upholds that a buffer has one lease at most.
    pub(super) fn lease(self: &Rc<Self>, id: u16, filled: usize) -> Lease {
        assert!(id < self.count && filled <= self.buffer_bytes, "the kernel filled what it was given");
        self.leased.set(self.leased.get() + 1);
        assert!(self.leased.get() <= self.count, "a buffer is leased once");
        Lease { pool: Rc::clone(self), id, filled }
    }

    /// A buffer with `bytes` in it, for the tests of those who read buffers.
    #[cfg(test)]
    pub(crate) fn filled_with(self: &Rc<Self>, id: u16, bytes: &[u8]) -> Lease {
        let mut lease = self.lease(id, 0);
        lease.append(bytes);
        lease
    }

    /// Moves the ids of returned buffers to `to`: the ring may have them filled again.
    pub(super) fn take_returned(&self, to: &mut Vec<u16>) {
        to.append(&mut self.returned.borrow_mut());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let bytes = usize::from(self.count) * self.buffer_bytes;
        // SAFETY: `new` mapped exactly this block; every lease holds an Rc of the pool, and the ring
        // that registered the addresses holds one too, so nobody refers to it any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), bytes) };
        debug_assert!(unmapped.is_ok(), "the block was mapped");
    }
}

impl Lease {
    /// The bytes received.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let start = self.pool.address(self.id);
        // SAFETY: the buffer is leased to us, so neither kernel nor another lease writes to it; the
        // first `filled` bytes lie within it and are initialised (mapped memory is zeroed).
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.filled) }
    }

    /// Bytes that could still be put behind those received.
    #[must_use]
    pub fn room(&self) -> usize {
        self.pool.buffer_bytes - self.filled
    }

    /// Copies `bytes` behind those received, so that a small piece need not hold a buffer of its own.
    /// The new bytes are at `bytes()[old length..]`.
    ///
    /// # Panics
    /// If there is not enough [`room`](Self::room).
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "the caller looked at room()");
        let start = self.pool.address(self.id);
        // SAFETY: `filled` is within the buffer, which `address` found within the block.
        let end = unsafe { start.add(self.filled) };
        // SAFETY: `end` up to `room()` further is ours alone (`&mut self` on the only lease of this
        // buffer); `bytes` is borrowed, hence no part of the unfilled tail.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), end.as_ptr(), bytes.len()) };
        self.filled += bytes.len();
    }

    /// Moves the parts `keep` of the received bytes together, in place. They must be in order, none
    /// overlapping. Returns where they stand now: from the start of the first one on; what was behind that
    /// and in between is overwritten, what is behind the last part stays.
    ///
    /// # Panics
    /// If a part lies outside of the received bytes.
    pub fn close_gaps(&mut self, keep: &[Range<usize>]) -> Range<usize> {
        let start = self.pool.address(self.id);
        // SAFETY: as in `bytes`; `&mut self` makes it the only reference to this buffer.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.filled) };
        let begin = keep.first().map_or(0, |part| part.start);
        let mut end = begin;
        for part in keep {
            bytes.copy_within(part.clone(), end);
            end += part.len();
        }
        begin..end
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.leased.set(self.pool.leased.get() - 1);
        self.pool.returned.borrow_mut().push(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lease_returns_its_buffer_once() {
        let pool = Pool::new(4, 64).expect("four small buffers");
        let lease = Rc::new(pool.lease(2, 10));
        let other = Rc::clone(&lease);
        assert_eq!(pool.free(), 3);
        drop(lease);
        assert_eq!(pool.free(), 3);
        drop(other);
        assert_eq!(pool.free(), 4);
        let mut returned = Vec::new();
        pool.take_returned(&mut returned);
        assert_eq!(returned, [2]);
    }

    #[test]
    fn appended_bytes_stand_behind_the_received_ones_and_no_neighbour_is_touched() {
        let pool = Pool::new(2, 8).expect("two small buffers");
        let mut first = pool.lease(0, 0);
        let second = pool.lease(1, 8);
        first.append(b"abc");
        first.append(b"defgh");
        assert_eq!(first.bytes(), b"abcdefgh");
        assert_eq!(first.room(), 0);
        assert_eq!(second.bytes(), [0; 8]);
    }

    #[test]
    fn gaps_are_closed_in_place_and_what_is_behind_stays() {
        let pool = Pool::new(1, 16).expect("one small buffer");
        let mut lease = pool.lease(0, 0);
        lease.append(b"x12.34..5QUIT");
        let message = lease.close_gaps(&[1..3, 4..6, 8..9]);
        assert_eq!(&lease.bytes()[message], b"12345");
        assert_eq!(&lease.bytes()[9..], b"QUIT");
    }

    #[test]
    #[should_panic(expected = "room")]
    fn appending_more_than_fits_is_a_bug_that_is_caught() {
        let pool = Pool::new(1, 8).expect("one small buffer");
        pool.lease(0, 7).append(b"xy");
    }
}
