//! `posthaste users diff`.
//!
//! Owns the comparison of two tables and its forms. Promises that memory does not grow with the tables: whoever is in
//! one is looked up in the other. Additions and changes come in the order of the new table, removals after them in the
//! order of the old one. Never says "the same" of a table that is damaged.
#![forbid(unsafe_code)]

use super::{DIFFERENT, Failure, OK, progress_bar, report};
use crate::users::record::Damage;
use crate::users::show::to_json;
use crate::users::table::{Table, Want};
use crate::users::user::User;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `posthaste users diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArguments {
    /// The table as it was
    pub old: PathBuf,
    /// The table as it is now
    pub new: PathBuf,
    /// One JSON object for each difference, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// How differences are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Text,
    Coloured,
}

pub(super) fn diff(
    arguments: &DiffArguments,
    is_terminal: bool,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let old = Table::open(&arguments.old).map_err(Failure::Table)?;
    let new = Table::open(&arguments.new).map_err(Failure::Table)?;
    if old.local_part() != new.local_part() {
        report(&"one of the tables was built with --keep-case: addresses are compared as they are stored");
    }
    let form = match arguments.json {
        true => Form::Json,
        false if is_terminal && std::env::var_os("NO_COLOR").is_none() => Form::Coloured,
        false => Form::Text,
    };
    let bar = match is_terminal {
        // The differences are progress enough, and would be drawn over.
        true => ProgressBar::hidden(),
        false => {
            let total = [&old, &new].map(|table| table.len() + table.shape().aliases).iter().sum();
            progress_bar(Some(total), "{human_pos}/{human_len} {per_sec} eta {eta}", "")
        }
    };
    let counts = compare(&old, &new, &bar, |change| change.write(form, out));
    bar.finish_and_clear();
    let counts = counts?;
    if form != Form::Json {
        let Counts { added, removed, changed, same } = counts;
        writeln!(out, "{added} added, {removed} removed, {changed} changed, {same} the same")?;
    }
    Ok(if counts.is_same() { OK } else { DIFFERENT })
}

/// How many there are of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
    same: u64,
}

impl Counts {
    fn is_same(self) -> bool {
        self.added + self.removed + self.changed == 0
    }
}

/// Hands every difference to `tell`.
fn compare(
    old: &Table,
    new: &Table,
    bar: &ProgressBar,
    mut tell: impl FnMut(&Change<'_>) -> io::Result<()>,
) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    look_up(new, old, bar, |after, before| match before {
        Some(before) if before == after => {
            counts.same += 1;
            Ok(())
        }
        Some(before) => {
            counts.changed += 1;
            tell(&Change::Changed(before, after))
        }
        None => {
            counts.added += 1;
            tell(&Change::Added(after))
        }
    })?;
    look_up(old, new, bar, |before, after| match after {
        Some(_) => Ok(()),
        None => {
            counts.removed += 1;
            tell(&Change::Removed(before))
        }
    })?;
    Ok(counts)
}

/// Hands over everything that is in `table`, each with what `other` says of the same address.
fn look_up<'t>(
    table: &'t Table,
    other: &'t Table,
    bar: &ProgressBar,
    mut take: impl FnMut(Said<'t>, Option<Said<'t>>) -> io::Result<()>,
) -> Result<(), Failure> {
    let damage = |table: &Table| {
        let path = table.path().to_owned();
        move |damage| Failure::Damage(path, damage)
    };
    let users = table.users().map(|user| user.map(Said::User));
    let aliases = table.aliases().map(|alias| alias.map(|(address, targets)| Said::Alias(address, targets)));
    for (number, said) in users.chain(aliases).enumerate() {
        let said = said.map_err(damage(table))?;
        let other_said = said.look_up(other).map_err(damage(other))?;
        take(said, other_said)?;
        step(bar, number);
    }
    Ok(())
}

/// The bar costs more than a look-up.
fn step(bar: &ProgressBar, number: usize) {
    const EACH: usize = 4096;
    if number % EACH == EACH - 1 {
        bar.inc(EACH as u64);
    }
}

/// What a table says about an address.
#[derive(Debug, PartialEq, Eq)]
enum Said<'t> {
    User(User<'t>),
    /// The address, and where it leads.
    Alias(Cow<'t, str>, Vec<&'t str>),
}

impl Said<'_> {
    /// What another table says of the same user or alias.
    fn look_up<'t>(&self, table: &'t Table) -> Result<Option<Said<'t>>, Damage> {
        let address = match self {
            Self::User(user) => return Ok(table.lookup(&*user.address().to_cow())?.map(Said::User)),
            Self::Alias(address, _) => address.as_bytes(),
        };
        match table.search_stored(address, Want::Any)? {
            Some(record) if record.is_alias() => {
                Ok(Some(Said::Alias(table.address(&record)?.into_owned().into(), record.targets()?)))
            }
            _ => Ok(None),
        }
    }

    /// As text, which tells aliases from users.
    fn name(&self) -> String {
        match self {
            Self::User(user) => user.address().to_string(),
            Self::Alias(address, _) => format!("{address} (alias)"),
        }
    }

    fn fields(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::User(user) => vec![
                ("home", json!(user.home().map(|home| home.to_string()))),
                ("mail", json!(user.mail().to_string())),
                ("uid", json!(user.uid())),
                ("gid", json!(user.gid())),
                ("quota_bytes", json!(user.quota_bytes())),
                ("quota_messages", json!(user.quota_messages())),
            ],
            Self::Alias(_, targets) => vec![("targets", json!(targets))],
        }
    }

    /// As `users dump --json` prints it.
    fn to_json(&self) -> Value {
        match self {
            Self::User(user) => to_json(user),
            Self::Alias(address, targets) => json!({ "alias": address, "targets": targets }),
        }
    }
}

/// What happened to one address.
#[derive(Debug)]
enum Change<'t> {
    Added(Said<'t>),
    Removed(Said<'t>),
    Changed(Said<'t>, Said<'t>),
}

impl Change<'_> {
    fn write(&self, form: Form, out: &mut impl Write) -> io::Result<()> {
        if form == Form::Json {
            return writeln!(out, "{}", self.to_json());
        }
        let (mark, colour, said) = match self {
            Self::Added(said) => ('+', GREEN, said),
            Self::Removed(said) => ('-', RED, said),
            Self::Changed(_, said) => ('~', YELLOW, said),
        };
        let (on, off) = if form == Form::Coloured { (colour, PLAIN) } else { ("", "") };
        write!(out, "{on}{mark} {}{off}", said.name())?;
        if let Self::Changed(before, after) = self {
            for (name, before, after) in differences(before, after) {
                write!(out, " {name}: {} -> {}", shown(&before), shown(&after))?;
            }
        }
        writeln!(out)
    }

    fn to_json(&self) -> Value {
        let (change, said) = match self {
            Self::Added(said) => ("added", said),
            Self::Removed(said) => ("removed", said),
            Self::Changed(_, said) => ("changed", said),
        };
        let mut object = match said {
            Said::User(user) => json!({ "change": change, "address": user.address().to_string() }),
            Said::Alias(address, _) => json!({ "change": change, "alias": address }),
        };
        match self {
            Self::Added(after) => object["new"] = after.to_json(),
            Self::Removed(before) => object["old"] = before.to_json(),
            Self::Changed(before, after) => {
                let fields: Vec<&str> = differences(before, after).map(|(name, ..)| name).collect();
                object["fields"] = json!(fields);
                object["old"] = before.to_json();
                object["new"] = after.to_json();
            }
        }
        object
    }
}

/// The fields that are not the same, before and after.
fn differences(before: &Said<'_>, after: &Said<'_>) -> impl Iterator<Item = (&'static str, Value, Value)> {
    let pairs = before.fields().into_iter().zip(after.fields());
    pairs.filter(|(before, after)| before != after).map(|((name, before), (_, after))| (name, before, after))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";
