//! From bodies in the order of the input to records apart by their hashes.
//!
//! Owns the thread that does it, which begins with the first full batch: a small table needs none. Promises that
//! records come to their parts in the order of the input. Never holds more than a few batches.
#![forbid(unsafe_code)]

use super::spill::{PARTS, Spill};
use crate::users::layout::{self, Rest, put_varint};
use crate::users::record::Record;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::io;
use std::thread::JoinHandle;

/// Octets of a batch; a thread is woken for each.
const BATCH: usize = 256 << 10;
/// Batches that may wait.
const QUEUE: usize = 4;

/// Where bodies go in.
#[derive(Debug)]
pub(super) struct Feed {
    /// Lines, keys and bodies, one after another.
    batch: Vec<u8>,
    parter: Parter,
}

#[derive(Debug)]
enum Parter {
    Here(Box<Parting>),
    There {
        batches: Sender<Vec<u8>>,
        empty: Receiver<Vec<u8>>,
        thread: JoinHandle<io::Result<Spill>>,
    },
    /// It has failed, and the error was handed out.
    Nowhere,
}

impl Feed {
    pub(super) fn new(seed: [u8; 16], spill: Spill) -> Self {
        let parting = Parting { seed, spill, head: Vec::new() };
        Self { batch: Vec::new(), parter: Parter::Here(Box::new(parting)) }
    }

    /// # Errors
    /// If a record could not be kept, this one or one before.
    pub(super) fn push(&mut self, line: u64, key: &[u8], body: &[u8]) -> io::Result<()> {
        self.batch.extend_from_slice(&line.to_le_bytes());
        self.batch.extend_from_slice(&(key.len() as u64).to_le_bytes());
        self.batch.extend_from_slice(&(body.len() as u64).to_le_bytes());
        self.batch.extend_from_slice(key);
        self.batch.extend_from_slice(body);
        if self.batch.len() < BATCH {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        if let Parter::Here(_) = self.parter {
            self.parter = std::mem::replace(&mut self.parter, Parter::Nowhere).in_a_thread()?;
        }
        let Parter::There { batches, empty, .. } = &self.parter else { return Err(gone()) };
        if batches.send(batch).is_err() {
            return match std::mem::replace(&mut self.parter, Parter::Nowhere).end() {
                Ok(_) => Err(gone()),
                Err(error) => Err(error),
            };
        }
        self.batch = empty.try_recv().unwrap_or_default();
        self.batch.clear();
        Ok(())
    }

    /// # Errors
    /// If a record could not be kept.
    pub(super) fn finish(mut self) -> io::Result<Spill> {
        let batch = std::mem::take(&mut self.batch);
        match self.parter {
            Parter::Here(mut parting) => {
                parting.take(&batch)?;
                Ok(parting.spill)
            }
            Parter::There { ref batches, .. } => {
                // If this fails, the thread has ended and says why.
                let _ = batches.send(batch);
                self.parter.end()
            }
            Parter::Nowhere => Err(gone()),
        }
    }
}

impl Parter {
    fn in_a_thread(self) -> io::Result<Self> {
        let Self::Here(mut parting) = self else { return Ok(self) };
        let (batches, waiting) = bounded::<Vec<u8>>(QUEUE);
        let (used, empty) = bounded(QUEUE);
        let thread = std::thread::Builder::new().name("parting".to_owned()).spawn(move || {
            for batch in waiting {
                parting.take(&batch)?;
                // Nobody needs it if there is no room.
                let _ = used.try_send(batch);
            }
            Ok(parting.spill)
        })?;
        Ok(Self::There { batches, empty, thread })
    }

    fn end(self) -> io::Result<Spill> {
        let Self::There { batches, thread, .. } = self else { return Err(gone()) };
        drop(batches);
        thread.join().unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that parts records is gone")
}

/// Hashes keys and puts records into their parts.
#[derive(Debug)]
struct Parting {
    seed: [u8; 16],
    spill: Spill,
    head: Vec<u8>,
}

impl Parting {
    fn take(&mut self, batch: &[u8]) -> io::Result<()> {
        let mut rest = Rest(batch);
        while let Some(line) = rest.take(8) {
            let mut length = || {
                let octets = rest.take(8).and_then(|octets| octets.first_chunk().copied());
                usize::try_from(u64::from_le_bytes(octets.unwrap_or_default())).unwrap_or_default()
            };
            let (key, body) = (length(), length());
            let key = rest.take(key).unwrap_or_default();
            let body = rest.take(body).unwrap_or_default();
            let line = u64::from_le_bytes(line.first_chunk().copied().unwrap_or_default());
            self.part(line, key, body)?;
        }
        Ok(())
    }

    /// In a part, a record is its hash, then its line and its body's length as varints, then the body. Beside the
    /// parts is the roll of aliases: a line, a length, a key.
    fn part(&mut self, line: u64, key: &[u8], body: &[u8]) -> io::Result<()> {
        let hash = layout::hash(&self.seed, key);
        self.head.clear();
        self.head.extend_from_slice(&hash.to_le_bytes());
        put_varint(&mut self.head, line);
        put_varint(&mut self.head, body.len() as u64);
        self.spill.push((hash >> 56) as usize, &[&self.head, body])?;
        if Record::parse(body, 0).is_ok_and(|record| record.is_alias()) {
            self.head.clear();
            put_varint(&mut self.head, line);
            put_varint(&mut self.head, key.len() as u64);
            self.spill.push(PARTS, &[&self.head, key])?;
        }
        Ok(())
    }
}
