//! One client connection: bytes in, replies out, and how long to wait for either.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;

use crate::exec::{Exec, Patience};
use crate::limits;
use crate::lmtp::reply::Reply;
use crate::ring::{Done, Fd, Lease, Op, Peer};

/// A connected client.
pub struct Connection {
    exec: Rc<Exec>,
    socket: Rc<Fd>,
    /// Who is at the other end.
    pub peer: Peer,
    input: Option<Input>,
    replies: Vec<u8>,
    send_timeout: Duration,
}

/// Received bytes that nobody has read yet.
#[derive(Clone, Debug)]
pub struct Input {
    lease: Rc<Lease>,
    read: usize,
}

/// Why there is no more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed its side.
    Closed,
    /// The connection broke.
    Broken(Errno),
    /// Patience ended.
    TimedOut,
}

impl Connection {
    /// A connection over `socket`. A reply that the client does not take within `send_timeout` ends it.
    #[must_use]
    pub fn new(exec: Rc<Exec>, socket: Rc<Fd>, send_timeout: Duration) -> Self {
        let peer = exec.with_ring(|ring| ring.peer(&socket));
        Self { exec, socket, peer, input: None, replies: Vec::new(), send_timeout }
    }

    /// The bytes that arrived and were not read, if there are any.
    pub fn take_input(&mut self) -> Option<Input> {
        self.input.take()
    }

    /// Keeps what is unread of `input` for later; a buffer that was read is given back.
    pub fn put_back(&mut self, input: Input) {
        debug_assert!(self.input.is_none(), "input is read in order");
        if !input.rest().is_empty() {
            self.input = Some(input);
        }
    }

    /// Waits for bytes. No buffer is held in the meantime: the kernel takes one when there is something
    /// to put into it.
    ///
    /// # Errors
    /// Why nothing will come.
    pub async fn receive(&mut self, patience: Patience<'_>) -> Result<Lease, End> {
        loop {
            let op = Op::Recv { socket: Rc::clone(&self.socket) };
            match self.exec.run_within(patience, op).await.result {
                Ok(Done::Received(lease)) => return Ok(lease),
                Ok(_) => return Err(End::Closed),
                Err(Errno::NOBUFS) => {
                    self.exec.buffer_within(patience).await;
                    if patience.is_over(self.exec.now()) {
                        return Err(End::TimedOut);
                    }
                }
                Err(Errno::TIME) => return Err(End::TimedOut),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(End::Broken(errno)),
            }
        }
    }

    /// Sends the queued replies and waits for what the client says to them, as one operation of the ring, but not
    /// for long. With nothing in return replies may be left, without those bytes that did go out: then
    /// [`flush`](Self::flush) and [`receive`](Self::receive) go on, each with its own patience.
    ///
    /// # Errors
    /// Why nothing will come, or why the client did not take the replies.
    pub async fn converse(&mut self, patience: Patience<'_>) -> Result<Option<Lease>, End> {
        let look = self.exec.now().after(limits::CONVERSE_LOOK.min(self.send_timeout));
        let patience = Patience { until: patience.until.min(look), ..patience };
        let (socket, bytes) = (Rc::clone(&self.socket), std::mem::take(&mut self.replies));
        let op = Op::Exchange { socket, bytes, from: 0, sent: false };
        let finished = self.exec.run_within(patience, op).await;
        let Some(Op::Exchange { mut bytes, from, sent, .. }) = finished.op else {
            unreachable!("it comes back")
        };
        bytes.drain(..if sent { bytes.len() } else { from });
        self.replies = bytes;
        match finished.result {
            Ok(Done::Received(lease)) => Ok(Some(lease)),
            Ok(_) => Err(End::Closed),
            Err(Errno::NOBUFS) if sent => Ok(None),
            Err(Errno::TIME | Errno::INTR) => Ok(None),
            Err(errno) => Err(End::Broken(errno)),
        }
    }

    /// Adds a reply to those that go out with the next [`flush`](Self::flush).
    pub fn queue(&mut self, reply: &Reply) {
        reply.write_to(&mut self.replies);
    }

    /// Where replies of another protocol are written, to go out with the next [`flush`](Self::flush).
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.replies
    }

    /// Whether replies wait for a flush.
    #[must_use]
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Sends the queued replies in as few packets as they fit in.
    ///
    /// # Errors
    /// Why the client did not take them.
    pub async fn flush(&mut self) -> Result<(), End> {
        let (mut bytes, mut from) = (std::mem::take(&mut self.replies), 0);
        let until = self.exec.now().after(self.send_timeout);
        while from < bytes.len() {
            let look_again = self.exec.now().after(limits::PRESSURE_LOOK);
            let patience = Patience { until: until.min(look_again), unless: None };
            let op = Op::Send { socket: Rc::clone(&self.socket), bytes, from };
            let finished = self.exec.run_within(patience, op).await;
            let Some(Op::Send { bytes: back, .. }) = finished.op else { unreachable!("it comes back") };
            bytes = back;
            match finished.result {
                Ok(Done::Count(count)) => from += count,
                Ok(_) => unreachable!("a send gives a count"),
                Err(Errno::INTR) => {}
                Err(Errno::TIME) if self.exec.now() < until && !self.is_in_the_way() => {}
                Err(Errno::TIME) => return Err(End::TimedOut),
                Err(errno) => return Err(End::Broken(errno)),
            }
        }
        bytes.clear();
        self.replies = bytes;
        Ok(())
    }

    /// Whether this client, which sends without reading its replies, holds a buffer that others need.
    fn is_in_the_way(&self) -> bool {
        let pool = self.exec.pool();
        self.input.is_some() && pool.free() < pool.count() / limits::PRESSURE_SHARE
    }
}

impl Input {
    /// All of `lease` is unread.
    #[must_use]
    pub fn new(lease: Lease) -> Self {
        Self::behind(Rc::new(lease), 0)
    }

    /// What is behind the first `read` bytes of `lease`.
    #[must_use]
    pub fn behind(lease: Rc<Lease>, read: usize) -> Self {
        Self { lease, read }
    }

    /// The unread bytes.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.lease.bytes()[self.read..]
    }

    /// Marks all but the last `rest` bytes as read.
    pub fn keep_last(&mut self, rest: usize) {
        self.read = self.lease.bytes().len() - rest;
    }

    /// The buffer, and where its unread bytes start.
    #[must_use]
    pub fn into_parts(self) -> (Rc<Lease>, usize) {
        (self.lease, self.read)
    }
}
