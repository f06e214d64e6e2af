//! Aliases of a table that was written and not yet published: whether each leads to mailboxes.
//!
//! Owns the walk over the roll of aliases. Promises that the server will expand what passes here, because it is the
//! server's own look-up that is asked. Never looks at users: there are many.
#![forbid(unsafe_code)]

use super::CONFLICTS_MAX;
use super::error::{BuildError, Conflict};
use super::spill::{PARTS, Spill};
use crate::users::draft::Draft;
use crate::users::expand::troubles;
use crate::users::key::Rules;
use crate::users::layout::Rest;
use crate::users::table::{Table, Want};
use std::collections::HashSet;
use std::io;
use std::path::Path;

/// Why the aliases could not be looked up.
#[derive(Debug)]
pub(super) enum CheckError {
    Build(BuildError),
    Roll(io::Error),
}

impl CheckError {
    pub(super) fn told(self, draft: &Draft) -> BuildError {
        match self {
            Self::Build(error) => error,
            Self::Roll(source) => draft.failed("read back records beside", source),
        }
    }
}

/// Adds what is wrong with each alias to `conflicts`.
pub(super) fn check(
    draft: &Path,
    rules: &Rules,
    spill: &Spill,
    conflicts: &mut Vec<Conflict>,
) -> Result<(), CheckError> {
    if spill.bytes(PARTS) == 0 {
        return Ok(());
    }
    let table = Table::open(draft).map_err(|error| CheckError::Build(BuildError::Unreadable(error)))?;
    // The second of two aliases with one name is not in the table.
    let duplicates: HashSet<u64> = conflicts.iter().map(Conflict::line).collect();
    let mut checked = Ok(());
    let read = spill.read(PARTS, |octets| {
        let mut rest = Rest(octets);
        while let (Some(line), Some(key)) = (rest.varint(), rest.text()) {
            if checked.is_ok() && conflicts.len() < CONFLICTS_MAX && !duplicates.contains(&line) {
                checked = check_one(&table, rules, line, key, conflicts);
            }
        }
    });
    read.map_err(CheckError::Roll)?;
    checked.map_err(CheckError::Build)
}

fn check_one(
    table: &Table,
    rules: &Rules,
    line: u64,
    key: &[u8],
    conflicts: &mut Vec<Conflict>,
) -> Result<(), BuildError> {
    let address = String::from_utf8_lossy(key);
    let found = table.search_stored(key, Want::Any).map_err(BuildError::Damaged)?;
    let Some(record) = found.filter(crate::users::record::Record::is_alias) else { return Ok(()) };
    for trouble in troubles(table, rules, record, &address).map_err(BuildError::Damaged)? {
        conflicts.push(Conflict::Alias { line, address: address.clone().into_owned(), trouble });
    }
    Ok(())
}
