//! `posthaste users dump`.
//!
//! Owns the order and the exit code; [`crate::users::show`] owns the forms. Never leaves a user out silently.
#![forbid(unsafe_code)]

use super::{DAMAGED, FAILED, Failure, OK, report};
use crate::users::show::{to_json, to_passwd_line, to_virtual_line};
use crate::users::table::Table;
use serde_json::json;
use std::io::Write;
use std::path::Path;

pub(super) fn dump(path: &Path, as_json: bool, out: &mut impl Write) -> Result<u8, Failure> {
    let table = Table::open(path).map_err(Failure::Table)?;
    let mut code = OK;
    for user in table.users() {
        let user = match user {
            Ok(user) => user,
            Err(damage) => {
                report(&Failure::Damage(path.to_owned(), damage));
                code = DAMAGED;
                continue;
            }
        };
        if as_json {
            writeln!(out, "{}", to_json(&user))?;
        } else if let Some(line) = to_passwd_line(&user) {
            writeln!(out, "{line}")?;
        } else {
            report(&format_args!(
                "{}: a passwd-file has no way to write this user; use --json",
                user.address().to_cow().escape_debug()
            ));
            code = code.max(FAILED);
        }
    }
    Ok(code)
}

pub(super) fn dump_aliases(path: &Path, as_json: bool, out: &mut impl Write) -> Result<u8, Failure> {
    let table = Table::open(path).map_err(Failure::Table)?;
    let mut code = OK;
    for alias in table.aliases() {
        match alias {
            Ok((alias, targets)) if as_json => {
                writeln!(out, "{}", json!({ "alias": alias, "targets": targets }))?;
            }
            Ok((alias, targets)) => match to_virtual_line(&alias, &targets) {
                Some(line) => writeln!(out, "{line}")?,
                None => {
                    report(&format_args!(
                        "{}: a virtual(5) file has no way to write this alias; use --json",
                        alias.escape_debug()
                    ));
                    code = code.max(FAILED);
                }
            },
            Err(damage) => {
                report(&Failure::Damage(path.to_owned(), damage));
                code = DAMAGED;
            }
        }
    }
    Ok(code)
}
