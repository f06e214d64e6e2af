//! The inputs of `posthaste users build`, read in a thread of its own.
//!
//! Owns their order, their names in messages, and the hand-over of what was read to the thread that builds. All inputs
//! are opened before the first is read, so that a name that is wrong is not found out after an hour. Promises that
//! [`Batch`]es come in the order of the inputs and their lines, with lines counted through all inputs; [`Origins`]
//! finds the input and its own line again. Never reads more than a few batches ahead.
#![forbid(unsafe_code)]

use super::{Failure, progress_bar};
use crate::users::key::LocalPart;
use crate::users::source::accounts::Accounts;
use crate::users::source::csv::{Csv, Separator};
use crate::users::source::json::Json;
use crate::users::source::nss::{Nss, Wanted};
use crate::users::source::passwd_file::PasswdFile;
use crate::users::source::virtual_aliases::VirtualAliases;
use crate::users::source::{BadLine, Item, ReadError, Source, decompress};
use crossbeam::channel::{Receiver, Sender, bounded};
use indicatif::ProgressBar;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// One input that is open.
#[derive(Debug)]
pub(super) struct Input {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File(Text, File),
    System(Wanted),
}

/// What a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    PasswdFile,
    Values(Separator),
    Json,
    Aliases,
}

/// How lines become users, whatever the format.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) accounts: Accounts,
    pub(super) local_part: LocalPart,
    pub(super) ignore_unknown: bool,
}

impl Input {
    /// # Errors
    /// If the file cannot be opened.
    pub(super) fn open(text: Text, path: &Path) -> Result<Self, Failure> {
        let is_standard = path == Path::new(STANDARD_INPUT);
        let name = if is_standard { "standard input".to_owned() } else { path.display().to_string() };
        let opened = match is_standard {
            true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
            false => File::open(path),
        };
        match opened {
            Ok(file) => Ok(Self { name, kind: Kind::File(text, file) }),
            Err(error) => Err(Failure::Input(name, error)),
        }
    }

    pub(super) fn system(wanted: Wanted) -> Self {
        Self { name: "getent passwd".to_owned(), kind: Kind::System(wanted) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Octets of the file, if it is one that has an end.
    fn length(&self) -> Option<u64> {
        let Kind::File(_, file) = &self.kind else {
            return None;
        };
        file.metadata().ok().filter(std::fs::Metadata::is_file).map(|data| data.len())
    }

    fn source(self, reading: &Reading, bar: &ProgressBar) -> io::Result<Box<dyn Source>> {
        let (text, file) = match self.kind {
            Kind::System(wanted) => return Ok(Box::new(Nss::ask(wanted)?)),
            Kind::File(text, file) => (text, file),
        };
        let Reading { accounts, local_part, ignore_unknown } = reading.clone();
        let input = decompress::open(bar.wrap_read(file))?;
        Ok(match text {
            Text::PasswdFile => Box::new(PasswdFile::new(input, accounts, local_part)),
            Text::Values(separator) => {
                Box::new(Csv::new(input, separator, accounts, local_part, ignore_unknown))
            }
            Text::Json => Box::new(Json::new(input, accounts, local_part, ignore_unknown)),
            Text::Aliases => Box::new(VirtualAliases::new(input)),
        })
    }
}

/// Stands for standard input among files.
pub(super) const STANDARD_INPUT: &str = "-";

/// What was read from one input, in memory that goes to and fro.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The number of the input, from 0.
    input: usize,
    /// Lines of the inputs in front of it.
    before: u64,
    items: Vec<Item>,
    filled: usize,
    /// What could not be read, with lines of the input itself.
    pub(super) bad_lines: Vec<BadLine>,
    /// Why there is nothing behind this batch.
    pub(super) failure: Option<Failure>,
}

impl Batch {
    pub(super) fn items(&self) -> &[Item] {
        &self.items[..self.filled]
    }

    fn begin(&mut self, input: usize, before: u64) {
        (self.input, self.before, self.filled) = (input, before, 0);
        self.bad_lines.clear();
    }

    /// Reads until the batch is full; `false` if nothing comes behind it.
    fn fill(&mut self, source: &mut dyn Source, name: &str) -> bool {
        while self.filled < BATCH_ITEMS && self.bad_lines.len() < BATCH_ITEMS {
            if self.items.len() == self.filled {
                self.items.push(Item::default());
            }
            let item = &mut self.items[self.filled];
            match source.read(item) {
                Ok(true) => {
                    item.move_down(self.before);
                    self.filled += 1;
                }
                Ok(false) => return false,
                Err(ReadError::Line(line)) => self.bad_lines.push(line),
                Err(ReadError::Input(error)) => {
                    self.failure = Some(Failure::Input(name.to_owned(), error));
                    return false;
                }
            }
        }
        true
    }
}

/// The batches of all inputs.
#[derive(Debug)]
pub(super) struct Batches {
    full: Receiver<Batch>,
    used: Sender<Batch>,
    /// How far the inputs have been read.
    pub(super) bar: ProgressBar,
}

impl Batches {
    /// Begins to read. The thread is not waited for: it may hang in an input while there is no use for it any more.
    pub(super) fn read(inputs: Vec<Input>, reading: Reading) -> Self {
        let (send_full, full) = bounded(AHEAD);
        let (used, take_used) = bounded(AHEAD + 2);
        let length: Option<u64> = inputs.iter().map(Input::length).sum();
        let figures = "{bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
        let bar = progress_bar(length, figures, "{bytes} {bytes_per_sec}");
        let reader = Reader { full: send_full, used: take_used, bar: bar.clone() };
        std::thread::spawn(move || reader.read_all(inputs, &reading));
        Self { full, used, bar }
    }

    /// The next batch; `None` behind the last one.
    pub(super) fn next(&self) -> Option<Batch> {
        self.full.recv().ok()
    }

    /// Gives the memory back.
    pub(super) fn reuse(&self, batch: Batch) {
        // If nobody wants it, it is freed.
        let _ = self.used.try_send(batch);
    }
}

/// The other end of [`Batches`].
struct Reader {
    full: Sender<Batch>,
    used: Receiver<Batch>,
    bar: ProgressBar,
}

impl Reader {
    fn read_all(&self, inputs: Vec<Input>, reading: &Reading) {
        let mut before = 0;
        for (number, input) in inputs.into_iter().enumerate() {
            let name = input.name.clone();
            match input.source(reading, &self.bar) {
                Ok(mut source) => {
                    if !self.read_one(&mut *source, &name, number, before) {
                        return;
                    }
                    before += source.line();
                }
                Err(error) => {
                    let failure = Some(Failure::Input(name, error));
                    let _ = self.full.send(Batch { failure, ..Batch::default() });
                    return;
                }
            }
        }
    }

    /// `false` if there is no use in reading on.
    fn read_one(&self, source: &mut dyn Source, name: &str, number: usize, before: u64) -> bool {
        loop {
            let mut batch = self.used.try_recv().unwrap_or_default();
            batch.begin(number, before);
            let is_more = batch.fill(source, name);
            let is_failed = batch.failure.is_some();
            if self.full.send(batch).is_err() || is_failed {
                return false;
            }
            if !is_more {
                return true;
            }
        }
    }
}

/// Which input a line is of, counted through all of them.
#[derive(Debug)]
pub(super) struct Origins {
    names: Vec<String>,
    /// Lines in front of each input that has come up, and its number.
    begins: Vec<(u64, usize)>,
}

impl Origins {
    pub(super) fn new(inputs: &[Input]) -> Self {
        Self { names: inputs.iter().map(|input| input.name().to_owned()).collect(), begins: Vec::new() }
    }

    /// Takes note of where a batch comes from; returns the name of its input.
    pub(super) fn note(&mut self, batch: &Batch) -> &str {
        if self.begins.last().is_none_or(|(_, input)| *input != batch.input) {
            self.begins.push((batch.before, batch.input));
        }
        &self.names[batch.input]
    }

    /// The name of the input, and its own number of the line.
    pub(super) fn find(&self, line: u64) -> (&str, u64) {
        let behind = self.begins.partition_point(|(before, _)| *before < line);
        match self.begins[..behind].last() {
            Some((before, input)) => (&self.names[*input], line - before),
            None => ("", line),
        }
    }
}

/// So many users are handed over at once.
const BATCH_ITEMS: usize = 512;
/// So many batches wait for the builder.
const AHEAD: usize = 4;

/// The paths among these that stand for standard input.
pub(super) fn count_standard_input(paths: &[PathBuf]) -> usize {
    paths.iter().filter(|path| path.as_path() == Path::new(STANDARD_INPUT)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_counted_through_all_inputs_are_found_in_their_own() {
        let names = ["a", "empty", "b", "c"].map(str::to_owned).to_vec();
        let mut origins = Origins { names, begins: Vec::new() };
        for (input, before) in [(0, 0), (0, 0), (1, 10), (2, 10), (3, 15)] {
            origins.note(&Batch { input, before, ..Batch::default() });
        }
        for (line, expected) in
            [(1, ("a", 1)), (10, ("a", 10)), (11, ("b", 1)), (15, ("b", 5)), (16, ("c", 1))]
        {
            assert_eq!(origins.find(line), expected);
        }
    }

    #[test]
    fn a_batch_is_bounded_in_bad_lines_too() {
        let text = b"bad\n".repeat(BATCH_ITEMS + 7);
        let mut source = PasswdFile::new(&*text, Accounts::default(), LocalPart::Folded);
        let mut batch = Batch::default();
        assert!(batch.fill(&mut source, "x"));
        assert_eq!((batch.bad_lines.len(), batch.items().len()), (BATCH_ITEMS, 0));
        batch.begin(0, 0);
        assert!(!batch.fill(&mut source, "x"));
        assert_eq!(batch.bad_lines.len(), 7);
    }
}
