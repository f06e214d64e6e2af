//! `posthaste users verify`.
//!
//! Owns the report; [`crate::users::verify`] looks for flaws. Never mends any.
#![forbid(unsafe_code)]

use super::{DAMAGED, Failure, OK, progress_bar, report};
use crate::users::table::Table;
use crate::users::verify::FLAWS_MAX;
use std::io::Write;
use std::path::Path;

pub(super) fn verify(path: &Path, out: &mut impl Write) -> Result<u8, Failure> {
    let table = Table::open(path).map_err(Failure::Table)?;
    let records = table.len() + table.shape().aliases;
    let bar = progress_bar(Some(records), "{human_pos}/{human_len} {per_sec} eta {eta}", "");
    let flaws = table.verify(|| bar.inc(1));
    bar.finish_and_clear();
    for flaw in &flaws {
        report(&format_args!("user table {}: {flaw}", path.display()));
    }
    if flaws.len() >= FLAWS_MAX {
        report(&"there may be more; the rest was not read");
    }
    if !flaws.is_empty() {
        return Ok(DAMAGED);
    }
    writeln!(out, "{}: intact, {} users, {} aliases", path.display(), table.len(), table.shape().aliases)?;
    Ok(OK)
}
