//! From TOML to [`Config`]: every key once, with its default and its bounds.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::listener;
use super::report::Problem;
use super::section::{Problems, Section, boolean, choice, duration, expected, number, path, size, string};
use super::{
    Config, Durability, Host, KeepIn, Limits, LineEndings, Log, LogDeliveries, Maildir, UnknownDomain, Users,
    unit,
};
use crate::journal::format::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, is_segment_length};

/// Parses the whole text.
///
/// # Errors
/// All problems, in the order of the file. If the text is not TOML, only what makes it so: the values of
/// a file that cannot be divided into keys would be guesses.
pub(super) fn parse(host: &Host, text: &str) -> Result<Config, Vec<Problem>> {
    let (document, broken) = DeTable::parse_recoverable(text);
    let mut problems = Problems { text, list: Vec::new() };
    for error in &broken {
        let span = error.span().unwrap_or(text.len()..text.len());
        problems.at(span, "this is not TOML".to_owned(), error.message().to_owned());
    }
    if !problems.list.is_empty() {
        return Err(in_order(problems.list));
    }

    let config = top(host, document.get_ref(), &mut problems);
    if problems.list.is_empty() { Ok(config) } else { Err(in_order(problems.list)) }
}

fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|problem| (problem.line, problem.column));
    problems
}

fn top(host: &Host, document: &DeTable<'_>, problems: &mut Problems<'_>) -> Config {
    let mut top = Section::new("", Some(document), problems);
    let named = top.raw("hostname").is_some();
    let hostname = top.or("hostname", host.hostname.clone(), host_name);
    let postmaster = top.or("postmaster", format!("postmaster@{hostname}"), mail_address);
    let state_dir = top.or("state_dir", PathBuf::from("/var/lib/posthaste"), path);
    let workers = top.or("workers", host.cpus.clamp(1, WORKERS_MAX), number(1..=WORKERS_MAX));
    if !named && let Err(reason) = check_host_name(&hostname) {
        problems.list.push(Problem::of_the_file(
            format!("the system's host name {hostname:?} cannot stand in mail: {reason}"),
            "set `hostname` in this file".to_owned(),
        ));
    }

    let listen = listener::all(host, document, problems);
    let users = users(document, state_dir.join("users.table"), problems);
    let limits = limits(document, problems);
    let maildir = maildir(document, limits.buffers, state_dir.join("journal"), problems);
    let log = log(document, problems);
    Config { hostname, postmaster, state_dir, workers, listen, users, maildir, limits, log }
}

fn users(document: &DeTable<'_>, table: PathBuf, problems: &mut Problems<'_>) -> Users {
    let mut section = Section::beneath(document, "users", problems);
    Users {
        table: section.or("table", table, path),
        keep_in: section.or("keep_in", KeepIn::Memory, choice(KEEP_IN)),
        lock_memory: section.or("lock_memory", false, boolean),
        recipient_delimiter: section.or("recipient_delimiter", "+".to_owned(), delimiters),
        local_domains: section.or("local_domains", Vec::new(), domains),
        unknown_domain: section.or("unknown_domain", UnknownDomain::NoDomain, choice(UNKNOWN_DOMAIN)),
    }
}

fn maildir(
    document: &DeTable<'_>,
    buffers: u64,
    journal_dir: PathBuf,
    problems: &mut Problems<'_>,
) -> Maildir {
    let mut section = Section::beneath(document, "maildir", problems);
    let maildir = Maildir {
        durability: section.or("durability", Durability::Journal, choice(DURABILITY)),
        line_endings: section.or("line_endings", LineEndings::Crlf, choice(LINE_ENDINGS)),
        create: section.or("create", true, boolean),
        detail_to_folder: section.or("detail_to_folder", false, boolean),
        create_folder: section.or("create_folder", false, boolean),
        single_instance: section.or("single_instance", false, boolean),
        root: section.optional("root", path),
        stream_above: section.or("stream_above", STREAM_ABOVE, size(KIB..=GIB)),
        journal_dir: section.or("journal_dir", journal_dir, path),
        journal_message_max: section.or("journal_message_max", 128 * KIB, size(KIB..=GIB)),
        journal_segment: section.or("journal_segment", 64 * MIB, segment_size),
        checkpoint_interval: section.or("checkpoint_interval", CHECKPOINT_INTERVAL, duration(CHECKPOINTS)),
    };
    // A message up to the threshold lives in the receive buffers until its end: one of them must never
    // hold so many that its neighbours on the worker starve.
    if maildir.stream_above > buffers / STREAM_SHARE {
        let most = unit::size_text(buffers / STREAM_SHARE);
        section.refuse(
            "stream_above",
            format!("at most a quarter of `limits.buffers`, which is {most}: lower this or raise that"),
        );
    }
    // A record is larger than its message, and one that needs a segment for itself helps nobody.
    if maildir.journal_message_max > maildir.journal_segment / SEGMENT_SHARE {
        let most = unit::size_text(maildir.journal_segment / SEGMENT_SHARE);
        let advice = format!("`journal_message_max` is at most a quarter of `journal_segment`: here {most}");
        // Whichever of the two is in the file.
        let key = if section.raw("journal_message_max").is_some() {
            "journal_message_max"
        } else {
            "journal_segment"
        };
        section.refuse(key, advice);
    }
    maildir
}

fn segment_size(value: &DeValue<'_>) -> Result<u64, String> {
    let bytes = size(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX)(value)?;
    if is_segment_length(bytes) { Ok(bytes) } else { Err("must be a multiple of 4KiB".to_owned()) }
}

fn limits(document: &DeTable<'_>, problems: &mut Problems<'_>) -> Limits {
    let times = TIMEOUT_MIN..=TIMEOUT_MAX;
    let mut section = Section::beneath(document, "limits", problems);
    Limits {
        message_size: section.or("message_size", 50 * MIB, size(KIB..=64 * GIB)),
        recipients: section.or("recipients", 1_000, number(1..=100_000)),
        connections: section.or("connections", 20_000, number(1..=1_000_000)),
        idle_timeout: section.or("idle_timeout", Duration::from_secs(300), duration(times.clone())),
        transaction_timeout: section.or("transaction_timeout", Duration::from_secs(600), duration(times)),
        data_rate_min: section.or("data_rate_min", 500, size(0..=GIB)),
        buffers: section.or("buffers", 16 * MIB, size(BUFFERS_MIN..=64 * GIB)),
        bad_commands: section.or("bad_commands", 10, number(1..=1_000_000)),
    }
}

fn log(document: &DeTable<'_>, problems: &mut Problems<'_>) -> Log {
    let mut section = Section::beneath(document, "log", problems);
    Log { deliveries: section.or("deliveries", LogDeliveries::All, choice(LOG_DELIVERIES)) }
}

fn host_name(value: &DeValue<'_>) -> Result<String, String> {
    let name = string(value)?;
    check_host_name(&name)?;
    Ok(name)
}

/// The name goes into the greeting, into trace headers and into Maildir file names, where `/` cannot
/// stand and `:` and `,` already mean something (the info part, the S= and W= fields).
fn check_host_name(name: &str) -> Result<(), &'static str> {
    let clean = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:,".contains(&byte));
    match name.len() {
        0 => Err("a host name is not empty"),
        // RFC 1035 section 2.3.4.
        256.. => Err("a host name has at most 255 characters"),
        _ if clean => Ok(()),
        _ => Err("a host name is printable ASCII without space, `/`, `:` and `,`"),
    }
}

fn mail_address(value: &DeValue<'_>) -> Result<String, String> {
    let address = string(value)?;
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| !c.is_control() && !" <>@".contains(c));
    match address.rsplit_once('@') {
        Some((local, domain)) if plain(local) && plain(domain) => Ok(address),
        _ => Err("expected an address such as \"postmaster@example.net\"".to_owned()),
    }
}

/// Characters of `atext` (RFC 5322 section 3.2.3) that are neither letters nor digits, and the dot: what
/// can stand in a local part without quotes.
fn delimiters(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value)?;
    for (at, character) in text.char_indices() {
        if !"!#$%&'*+-/=?^_`{|}~.".contains(character) {
            return Err(format!(
                "{character:?} cannot separate user and detail: use ASCII specials such as \"+\" or \"+-\""
            ));
        }
        if text[..at].contains(character) {
            return Err(format!("{character:?} stands here twice"));
        }
    }
    Ok(text)
}

fn domains(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let wanted = "a list of domains such as [\"example.net\"]";
    let list = value.as_array().ok_or_else(|| expected(wanted, value))?;
    let mut domains: Vec<String> = Vec::new();
    for item in list {
        let domain = item.get_ref().as_str().ok_or_else(|| expected(wanted, item.get_ref()))?;
        let domain = domain.to_lowercase();
        if domain.is_empty() || domain.chars().any(|c| c.is_control() || " <>@\"".contains(c)) {
            return Err(format!("{domain:?} is no domain"));
        }
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    Ok(domains)
}

/// The words of `users.keep_in`.
pub(super) const KEEP_IN: &[(&str, KeepIn)] = &[("memory", KeepIn::Memory), ("file", KeepIn::File)];

/// The words of `maildir.durability`.
pub(super) const DURABILITY: &[(&str, Durability)] = &[
    ("journal", Durability::Journal),
    ("group", Durability::Group),
    ("fsync", Durability::Fsync),
    ("none", Durability::None),
];

/// The words of `users.unknown_domain`: the enhanced status codes (RFC 3463 section 3.2).
pub(super) const UNKNOWN_DOMAIN: &[(&str, UnknownDomain)] =
    &[("5.1.2", UnknownDomain::NoDomain), ("5.1.1", UnknownDomain::NoUser)];

/// The words of `maildir.line_endings`.
pub(super) const LINE_ENDINGS: &[(&str, LineEndings)] =
    &[("crlf", LineEndings::Crlf), ("lf", LineEndings::Lf)];

/// The words of `log.deliveries`.
pub(super) const LOG_DELIVERIES: &[(&str, LogDeliveries)] =
    &[("all", LogDeliveries::All), ("failures", LogDeliveries::Failures), ("none", LogDeliveries::None)];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// One message in memory takes at most one part in this many of a worker's buffers.
const STREAM_SHARE: u64 = 4;
const WORKERS_MAX: usize = 1_024;
/// Below this even a busy client on the same machine would be cut off.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// Smallest pool of receive buffers.
const BUFFERS_MIN: u64 = MIB;
/// One message takes at most one part in this many of a journal segment.
const SEGMENT_SHARE: u64 = 4;
/// Default of `maildir.checkpoint_interval`.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
const CHECKPOINTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(10);
/// Default of `maildir.stream_above`.
const STREAM_ABOVE: u64 = 256 * KIB;
// A file that does not set `stream_above` is valid whatever it says about the buffers.
const _: () = assert!(STREAM_ABOVE <= BUFFERS_MIN / STREAM_SHARE);
