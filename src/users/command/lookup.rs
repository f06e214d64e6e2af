//! `posthaste users lookup`.
//!
//! Owns the arguments and the exit code; the way to the user is the server's own, [`find`].
#![forbid(unsafe_code)]

use super::{Failure, OK, UNKNOWN, report};
use crate::users::key::{Answer, Rules, find};
use crate::users::show::{to_json, write_user};
use crate::users::table::Table;
use crate::users::template::split;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `posthaste users lookup`.
#[derive(Debug, clap::Args)]
pub struct LookupArguments {
    /// The table
    pub table: PathBuf,
    /// The address, with or without a domain
    pub address: String,
    /// Characters that begin a detail, as users.recipient_delimiter in the configuration
    #[arg(short = 'd', long, default_value = "", value_name = "CHARS")]
    pub recipient_delimiter: String,
    /// A domain in which the local part alone is looked up as well; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    pub local_domain: Vec<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) fn lookup(arguments: &LookupArguments, out: &mut impl Write) -> Result<u8, Failure> {
    let table = Table::open(&arguments.table).map_err(Failure::Table)?;
    let rules = Rules::new(&arguments.recipient_delimiter, &arguments.local_domain);
    let address = arguments.address.as_str();
    let bare = address.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let (local, domain) = split(bare.unwrap_or(address));
    let found = find(&table, local, domain, &rules)
        .map_err(|damage| Failure::Damage(arguments.table.clone(), damage))?;
    let found = match found {
        Answer::Found(found) => found,
        unknown => {
            let what = if unknown == Answer::UnknownDomain { "domain" } else { "user" };
            let base = rules.base(local, domain);
            report(&format_args!("{base}: no such {what} in {}", arguments.table.display()));
            return Ok(UNKNOWN);
        }
    };
    for target in found.targets() {
        if arguments.json {
            let mut object = to_json(&target.user);
            object["detail"] = json!(target.detail);
            writeln!(out, "{object}")?;
        } else {
            write_user(out, &target.user)?;
            if let Some(detail) = target.detail {
                writeln!(out, "detail          {detail}")?;
            }
        }
    }
    Ok(OK)
}
