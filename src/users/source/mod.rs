//! Everything that users and aliases can be read from.
//!
//! Owns the readers of all formats, and what they have in common: a [`Source`] gives one [`Item`] after another,
//! or a [`BadLine`] that says what to change. Promises that every line of an input becomes an item, a bad line, or
//! was one that its format skips; whatever was wrong with one, the next is read. Never writes a table, and never
//! decides whether bad lines matter.
//!
//! | module | reads |
//! |---|---|
//! | [`passwd_file`] | Dovecot's passwd-file |
//! | [`nss`] | the system's users, through `getent passwd` |
//! | [`csv`] | comma or tab separated values with a header line |
//! | [`json`] | JSON lines, as `posthaste users dump --json` prints them |
//! | [`virtual_aliases`] | aliases, as in Postfix's virtual(5) |
//!
//! Below them, [`decompress`] opens what was compressed, and [`lines`] cuts it; [`fields`] makes a user of named
//! fields, and [`accounts`] knows the numbers of owners.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod csv;
pub mod decompress;
pub mod fields;
pub mod json;
pub mod lines;
pub mod nss;
pub mod passwd_file;
pub mod virtual_aliases;

use super::entry::{Alias, Entry};
use std::fmt;
use std::io;

/// What users or aliases are read from, one after another.
pub trait Source {
    /// Reads on to the next user or alias and puts it into `item`, whose memory is used again; `false` at the
    /// end of the input.
    ///
    /// # Errors
    /// [`ReadError::Line`] if a line is no good: what follows it can still be read. `item` means nothing then.
    fn read(&mut self, item: &mut Item) -> Result<bool, ReadError>;

    /// Number of lines that were read.
    fn line(&self) -> u64;

    /// The users, aliases and bad lines as they come, each in memory of its own.
    fn items(self) -> Items<Self>
    where
        Self: Sized,
    {
        Items { source: self }
    }
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn read(&mut self, item: &mut Item) -> Result<bool, ReadError> {
        (**self).read(item)
    }

    fn line(&self) -> u64 {
        (**self).line()
    }
}

/// One step of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A user with a mailbox.
    User(Entry),
    /// An address that leads to others.
    Alias(Alias),
}

impl Default for Item {
    fn default() -> Self {
        Self::User(Entry::default())
    }
}

impl Item {
    /// The line that it begins on.
    pub fn line(&self) -> u64 {
        match self {
            Self::User(entry) => entry.line,
            Self::Alias(alias) => alias.line,
        }
    }

    /// Counts its lines from another one on, as if `before` lines stood in front of the input.
    pub fn move_down(&mut self, before: u64) {
        match self {
            Self::User(entry) => entry.line += before,
            Self::Alias(alias) => alias.line += before,
        }
    }

    /// A user, whoever it was before, to be filled in; what he has may still be there.
    fn user(&mut self) -> &mut Entry {
        if let Self::Alias(_) = self {
            *self = Self::default();
        }
        match self {
            Self::User(entry) => entry,
            Self::Alias(_) => unreachable!("it was made a user"),
        }
    }
}

/// The iterator of [`Source::items`].
#[derive(Debug)]
pub struct Items<S> {
    source: S,
}

impl<S: Source> Iterator for Items<S> {
    type Item = Result<Item, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut item = Item::default();
        self.source.read(&mut item).map(|is_there| is_there.then_some(item)).transpose()
    }
}

/// Why there is no item.
#[derive(Debug)]
pub enum ReadError {
    /// The input cannot be read any further.
    Input(io::Error),
    /// This line is no good; the next one may be.
    Line(BadLine),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Input(error)
    }
}

impl ReadError {
    fn of(line: u64, fault: Fault) -> Self {
        Self::Line(BadLine { line, fault })
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(error) => error.fmt(f),
            Self::Line(line) => line.fmt(f),
        }
    }
}

/// A line that is neither a user nor an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, counted from 1; the first one, if what it says goes on on others.
    pub line: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, {}", self.line, self.fault)
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field, as its name in the format.
    pub field: &'static str,
    /// Why it is no good.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Fault {
    fn new(field: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field, reason: reason.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field {}: {}; {}", self.field, self.reason, self.remedy)
    }
}

/// The name of the field when a line as a whole is no good.
const LINE: &str = "line";

fn not_utf8() -> Fault {
    Fault::new(LINE, "it is not UTF-8", "convert the file to UTF-8")
}

fn owner_fault(field: &'static str, reason: String) -> Fault {
    Fault::new(field, reason, "give a number, a name that this system knows, or nothing for the server's own")
}

/// Puts `text` into `place`, in the memory that is there.
fn set(place: &mut String, text: &str) {
    place.clear();
    place.push_str(text);
}

/// The same for what need not be there.
fn set_option(place: &mut Option<String>, text: Option<&str>) {
    match (place, text) {
        (Some(place), Some(text)) => set(place, text),
        (place, text) => *place = text.map(str::to_owned),
    }
}
