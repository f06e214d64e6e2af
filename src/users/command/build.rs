//! `posthaste users build`.
//!
//! Owns the arguments, and the way of what was read into the builder. Promises that everything that is wrong is
//! reported with the name of its input, and that a table is published only if nothing was.
#![forbid(unsafe_code)]

use super::inputs::{Batches, Input, Origins, Reading, STANDARD_INPUT, Text, count_standard_input};
use super::{Failure, OK, progress_bar, report};
use crate::users::build::{BuildError, Builder, Conflict, MEMORY_BYTES_MIN, Options, Summary};
use crate::users::key::{LocalPart, Rules};
use crate::users::source::Item;
use crate::users::source::accounts::Accounts;
use crate::users::source::csv::Separator;
use crate::users::source::nss::{Wanted, uids_of_people};
use indicatif::ProgressBar;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Arguments of `posthaste users build`.
#[derive(Debug, clap::Args)]
pub struct BuildArguments {
    /// The input's format
    #[arg(long, value_enum)]
    pub from: Format,
    /// An input, also compressed; "-" is standard input, and the only one if none is given. May be repeated
    #[arg(long, value_name = "FILE")]
    pub input: Vec<PathBuf>,
    /// Aliases as in Postfix's virtual(5): "address target, target" and "@domain target". May be repeated
    #[arg(long, value_name = "FILE")]
    pub aliases: Vec<PathBuf>,
    /// The table to publish
    #[arg(long, value_name = "TABLE")]
    pub output: PathBuf,
    /// A fixed hash seed (32 hex digits) and no build time: the same input gives the same file
    ///
    /// Keep it secret: who knows it can choose addresses that make look-ups slow.
    #[arg(long, value_name = "HEX", value_parser = parse_seed)]
    pub seed: Option<[u8; 16]>,
    /// Tell upper from lower case in local parts
    #[arg(long)]
    pub keep_case: bool,
    /// How much memory to work in, in MiB, 64 at least; larger inputs are sorted in files beside the table
    #[arg(long, default_value_t = 512, value_name = "MIB")]
    pub memory: usize,
    /// Characters that begin a detail in targets of aliases, as users.recipient_delimiter in the configuration
    #[arg(short = 'd', long, default_value = "", value_name = "CHARS")]
    pub recipient_delimiter: String,
    /// A domain in which targets of aliases are looked up by their local part alone as well; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    pub local_domain: Vec<String>,
    /// With csv, tsv and json: pass over columns and keys that mean nothing here
    #[arg(long)]
    pub ignore_unknown: bool,
    /// Publish a table although nobody is in it
    #[arg(long)]
    pub allow_empty: bool,
    /// With nss: the least uid of a person, instead of UID_MIN in /etc/login.defs
    #[arg(long, value_name = "UID")]
    pub uid_min: Option<u32>,
    /// With nss: the largest uid of a person, instead of UID_MAX in /etc/login.defs
    #[arg(long, value_name = "UID")]
    pub uid_max: Option<u32>,
    /// With nss: the domain of all addresses, instead of local parts alone
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
}

pub(super) const EXAMPLES: &str = "Examples:
  posthaste users build --from passwd-file --input /etc/dovecot/users --output /var/lib/posthaste/users.table
  psql -c \"copy (select address, home, uid, gid from mailbox) to stdout csv header\" mail |
    posthaste users build --from csv --aliases /etc/postfix/virtual --output /var/lib/posthaste/users.table
  posthaste users build --from nss --output /var/lib/posthaste/users.table
  posthaste users build --from json --input users.jsonl.zst --input more.jsonl.gz --output users.table";

/// What `posthaste users build` can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Dovecot's passwd-file: user:password:uid:gid:gecos:home:shell:extra
    PasswdFile,
    /// The system's own users, as "getent passwd" lists them
    Nss,
    /// Comma separated values; the first line names the columns
    Csv,
    /// The same, separated by tabs
    Tsv,
    /// JSON lines, as "posthaste users dump --json" prints them
    Json,
}

impl Format {
    /// What its files hold; `None` if there are none.
    fn text(self) -> Option<Text> {
        match self {
            Self::PasswdFile => Some(Text::PasswdFile),
            Self::Nss => None,
            Self::Csv => Some(Text::Values(Separator::Comma)),
            Self::Tsv => Some(Text::Values(Separator::Tab)),
            Self::Json => Some(Text::Json),
        }
    }
}

impl BuildArguments {
    /// What clap cannot check.
    fn check(&self) -> Result<(), Failure> {
        let is_nss = self.from == Format::Nss;
        let has_names = matches!(self.from, Format::Csv | Format::Tsv | Format::Json);
        let is_for_nss = self.uid_min.is_some() || self.uid_max.is_some() || self.domain.is_some();
        let message = if is_nss && !self.input.is_empty() {
            "--from nss reads the system's users itself: leave --input out, or use --from passwd-file for what \
             \"getent passwd\" has printed"
        } else if is_for_nss && !is_nss {
            "--uid-min, --uid-max and --domain are for --from nss only"
        } else if self.ignore_unknown && !has_names {
            "--ignore-unknown is for formats with named fields only: csv, tsv and json"
        } else if self.domain.as_ref().is_some_and(|domain| domain.is_empty() || domain.contains('@')) {
            "--domain is what stands behind the @, like example.net"
        } else if self.count_standard_input() > 1 {
            "standard input can be read only once: name a file instead"
        } else {
            return Ok(());
        };
        Err(Failure::Arguments(message.to_owned()))
    }

    fn count_standard_input(&self) -> usize {
        let default = usize::from(self.input.is_empty() && self.from != Format::Nss);
        default + count_standard_input(&self.input) + count_standard_input(&self.aliases)
    }

    /// All inputs, opened: the users first.
    fn open(&self) -> Result<Vec<Input>, Failure> {
        let mut inputs = Vec::new();
        match self.from.text() {
            None => inputs.push(Input::system(self.wanted()?)),
            Some(text) if self.input.is_empty() => {
                inputs.push(Input::open(text, Path::new(STANDARD_INPUT))?);
            }
            Some(text) => {
                for path in &self.input {
                    inputs.push(Input::open(text, path)?);
                }
            }
        }
        for path in &self.aliases {
            inputs.push(Input::open(Text::Aliases, path)?);
        }
        Ok(inputs)
    }

    fn wanted(&self) -> Result<Wanted, Failure> {
        let login_defs = match std::fs::read_to_string(LOGIN_DEFS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| Failure::Input(LOGIN_DEFS.to_owned(), error))?,
        };
        let (least, largest) = uids_of_people(&login_defs).into_inner();
        let least = self.uid_min.unwrap_or(least);
        let largest = self.uid_max.unwrap_or(largest);
        if least > largest {
            let message = format!("no uid is at least {least} and at most {largest}");
            return Err(Failure::Arguments(message));
        }
        Ok(Wanted { uids: least..=largest, domain: self.domain.clone() })
    }

    fn options(&self) -> Result<Options, Failure> {
        let local_part = match self.keep_case {
            true => LocalPart::Kept,
            false => LocalPart::Folded,
        };
        let options = match self.seed {
            Some(seed) => Options::reproducible(local_part, seed),
            None => Options::random(local_part)
                .map_err(|error| Failure::Input("/dev/urandom".to_owned(), error))?,
        };
        let memory_bytes = self.memory.saturating_mul(1 << 20).max(MEMORY_BYTES_MIN);
        Ok(Options { memory_bytes, ..options })
    }
}

pub(super) fn build(arguments: &BuildArguments, out: &mut impl Write) -> Result<u8, Failure> {
    arguments.check()?;
    let options = arguments.options()?;
    let accounts = Accounts::system().map_err(|error| Failure::Input("/etc".to_owned(), error))?;
    let inputs = arguments.open()?;
    let rules = Rules::new(&arguments.recipient_delimiter, &arguments.local_domain);
    let builder = Builder::create(&arguments.output, options).map_err(Failure::Build)?.with_rules(rules);
    let ignore_unknown = arguments.ignore_unknown;
    let origins = Origins::new(&inputs);
    let batches = Batches::read(inputs, Reading { accounts, local_part: options.local_part, ignore_unknown });
    let built = fill(builder, origins, &batches, arguments.allow_empty);
    batches.bar.finish_and_clear();
    let summary = built?;
    writeln!(
        out,
        "{}: {} users, {} aliases, {} octets, {} path templates, longest probe {}",
        arguments.output.display(),
        summary.users,
        summary.aliases,
        summary.file_bytes,
        summary.templates,
        summary.longest_probe,
    )?;
    Ok(OK)
}

/// What was wrong, told as it comes.
#[derive(Debug)]
struct Complaints<'b> {
    bar: &'b ProgressBar,
    count: u64,
}

impl Complaints<'_> {
    fn tell(&mut self, name: &str, message: &dyn fmt::Display) {
        self.count += 1;
        self.bar.suspend(|| report(&format_args!("{name}: {message}")));
    }
}

/// Adds everything, reports all that is wrong, and publishes if nothing was.
fn fill(
    mut builder: Builder,
    mut origins: Origins,
    batches: &Batches,
    allow_empty: bool,
) -> Result<Summary, Failure> {
    let mut complaints = Complaints { bar: &batches.bar, count: 0 };
    let mut is_anybody = allow_empty;
    while let Some(mut batch) = batches.next() {
        let name = origins.note(&batch);
        for line in &batch.bad_lines {
            complaints.tell(name, line);
        }
        is_anybody |= !batch.items().is_empty();
        for item in batch.items() {
            if let Some((line, message)) = add(&mut builder, item)? {
                let (name, line) = origins.find(line);
                complaints.tell(name, &format_args!("line {line}: {message}"));
            }
        }
        if let Some(failure) = batch.failure.take() {
            return Err(failure);
        }
        batches.reuse(batch);
    }
    if complaints.count == 0 && !is_anybody {
        return Err(Failure::Nobody);
    }
    finish(builder, &origins, complaints)
}

/// Adds one user or alias; returns the line and what is wrong with it, if anything is.
fn add(builder: &mut Builder, item: &Item) -> Result<Option<(u64, String)>, Failure> {
    let added = match item {
        Item::User(entry) => builder.add(entry),
        Item::Alias(alias) => builder.add_alias(alias),
    };
    match added {
        Ok(()) => Ok(None),
        Err(BuildError::Entry { line, fault }) => Ok(Some((line, format!("{fault}; {}", fault.remedy())))),
        Err(BuildError::Alias { line, fault }) => Ok(Some((line, format!("{fault}; {}", fault.remedy())))),
        Err(error) => Err(Failure::Build(error)),
    }
}

/// Publishes, unless something was wrong or lines contradict each other.
fn finish(builder: Builder, origins: &Origins, mut complaints: Complaints<'_>) -> Result<Summary, Failure> {
    let conflicts = if complaints.count > 0 {
        builder.conflicts().map_err(Failure::Build)?
    } else {
        let total = builder.len() + builder.aliases();
        let written = progress_bar(Some(total), "writing {human_pos}/{human_len} {per_sec} eta {eta}", "");
        let finished = builder.finish_with(&mut |more| written.inc(more));
        written.finish_and_clear();
        match finished {
            Err(BuildError::Conflicts(conflicts)) => conflicts,
            finished => return finished.map_err(Failure::Build),
        }
    };
    for conflict in &conflicts {
        match told(conflict, origins) {
            Some((name, message)) => complaints.tell(name, &message),
            None => report(conflict),
        }
    }
    Err(Failure::BadLines(complaints.count))
}

/// The input that a conflict is found in, and what to say about it, with that input's own lines.
fn told<'o>(conflict: &Conflict, origins: &'o Origins) -> Option<(&'o str, String)> {
    let (name, line) = origins.find(conflict.line());
    let message = match conflict {
        Conflict::Duplicate { first_line, address, .. } => {
            let (first_name, first_line) = origins.find(*first_line);
            let of = if name == first_name { String::new() } else { format!(" of {first_name}") };
            format!("field address: {address} is on line {first_line}{of} already; remove one of them")
        }
        Conflict::Alias { address, trouble, .. } => {
            format!("field target: {address}: {trouble}; {}", trouble.remedy())
        }
        Conflict::More { .. } => return None,
    };
    Some((name, format!("line {line}, {message}")))
}

const LOGIN_DEFS: &str = "/etc/login.defs";

pub(super) fn parse_seed(text: &str) -> Result<[u8; 16], String> {
    let is_hex = text.len() == 32 && text.bytes().all(|octet| octet.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
    number.map(u128::to_be_bytes).ok_or_else(|| "expected 32 hex digits".to_owned())
}
