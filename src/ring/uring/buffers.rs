//! The buffer ring: how receive buffers are given to the kernel, and given again.
#![allow(unsafe_code, reason = "memory that the kernel reads, and its tail, which both sides see")]

use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::entry::{BUFFER_GROUP, length32};
use super::setup::SetupError;
use crate::ring::pool::Pool;

/// The memory through which buffers are given to the kernel (kernel 5.19).
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    bytes: usize,
    mask: u16,
    tail: u16,
    returned: Vec<u16>,
}

impl BufferRing {
    pub(super) fn register(ring: &IoUring, pool: &Rc<Pool>) -> Result<Self, SetupError> {
        let slots = pool.count().next_power_of_two();
        let bytes = usize::from(slots) * size_of::<BufRingEntry>();
        // SAFETY: an anonymous mapping at an address that the kernel chooses overlaps nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )
        }
        .map_err(SetupError::Memory)?;
        let entries = NonNull::new(base.cast()).ok_or(SetupError::Memory(Errno::NOMEM))?;
        let mut made =
            Self { entries, bytes, mask: slots - 1, tail: 0, returned: (0..pool.count()).collect() };
        // SAFETY: the memory is page-aligned, holds `slots` entries and lives until after the ring
        // is closed (field order of `Uring`).
        unsafe { ring.submitter().register_buf_ring_with_flags(base as u64, slots, BUFFER_GROUP, 0) }
            .map_err(|error| SetupError::Register("its buffer ring", error))?;
        made.publish(pool);
        Ok(made)
    }

    /// Tells the kernel about the buffers whose leases were dropped since the last call.
    pub(super) fn give_back(&mut self, pool: &Pool) {
        pool.take_returned(&mut self.returned);
        if !self.returned.is_empty() {
            self.publish(pool);
        }
    }

    fn publish(&mut self, pool: &Pool) {
        for id in self.returned.drain(..) {
            let place = usize::from(self.tail & self.mask);
            // SAFETY: `place` is within the ring; the kernel reads an entry only once the tail says so.
            let mut entry = unsafe { self.entries.add(place) };
            // SAFETY: mapped and aligned; only this thread writes entries, and it holds no other reference.
            let entry = unsafe { entry.as_mut() };
            entry.set_addr(pool.address(id).as_ptr() as u64);
            entry.set_len(length32(pool.buffer_bytes()));
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: `entries` is the start of the registered ring, whose first entry holds the tail.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: aligned, mapped, and written by this thread alone; the kernel reads it (acquire).
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: mapped by `register` with this length; the ring that knew the address is closed.
        let unmapped = unsafe { munmap(self.entries.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "the ring was mapped");
    }
}
