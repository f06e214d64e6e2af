//! `posthaste users`: building a table, and looking into one.
//!
//! Owns the arguments, the output and the exit codes of these commands. Results go to standard output, in text
//! or, with `--json`, as JSON; everything else goes to standard error. Never touches a running server, which takes a
//! new table up when it is started again.
#![forbid(unsafe_code)]

use super::build::{BuildError, Builder, MEMORY_BYTES_MIN, Options, Summary};
use super::key::{Answer, LocalPart, Rules, find};
use super::passwd_file::accounts::Accounts;
use super::passwd_file::{PasswdFile, ReadError};
use super::record::Damage;
use super::show::{to_json, to_passwd_line, to_virtual_line, write_user};
use super::table::{Table, TableError};
use super::template::split;
use super::verify::FLAWS_MAX;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The commands below `posthaste users`.
#[derive(Debug, clap::Subcommand)]
pub enum UsersCommand {
    /// Compile a user table and publish it by rename
    ///
    /// All bad lines are reported, and a table is only published if there are none. Exit code: 0 published,
    /// 1 bad lines or a failed step, 2 wrong arguments.
    #[command(
        after_help = "Example:\n  posthaste users build --from passwd-file --input /etc/dovecot/users \\\n    --output /var/lib/posthaste/users.table"
    )]
    Build(BuildArguments),
    /// Look an address up as the server does
    ///
    /// Exit code: 0 found, 1 unknown, 2 wrong arguments, 3 the table is damaged or cannot be read.
    #[command(
        after_help = "Example:\n  posthaste users lookup /var/lib/posthaste/users.table alice+list@example.org -d +"
    )]
    Lookup(LookupArguments),
    /// Read the whole table and check every checksum, record and look-up
    ///
    /// Exit code: 0 intact, 2 wrong arguments, 3 damaged.
    #[command(after_help = "Example:\n  posthaste users verify /var/lib/posthaste/users.table")]
    Verify {
        /// The table
        table: PathBuf,
    },
    /// Print all users as a passwd-file, which "users build" reads again, or as JSON lines
    ///
    /// Exit code: 0 all printed, 1 some cannot be written in this form, 2 wrong arguments, 3 damaged.
    #[command(after_help = "Example:\n  posthaste users dump --json users.table | jq .address")]
    Dump {
        /// The table
        table: PathBuf,
        /// One JSON object a line, for users and then for aliases
        #[arg(long)]
        json: bool,
        /// Print the aliases instead of the users: an address and its targets a line, as virtual(5) has them
        #[arg(long)]
        aliases: bool,
    },
    /// Print how many users there are, and how large and well spread the table is
    ///
    /// Exit code: 0 printed, 2 wrong arguments, 3 damaged.
    #[command(after_help = "Example:\n  posthaste users stats /var/lib/posthaste/users.table")]
    Stats {
        /// The table
        table: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `posthaste users build`.
#[derive(Debug, clap::Args)]
pub struct BuildArguments {
    /// The input's format
    #[arg(long, value_enum)]
    pub from: Format,
    /// The input; "-" is standard input
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub input: PathBuf,
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
}

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

/// What `posthaste users build` can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Dovecot's passwd-file: user:password:uid:gid:gecos:home:shell:extra
    PasswdFile,
}

/// Runs a command and says how the process should end.
pub fn run(command: UsersCommand) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let ended = execute(command, &mut out);
    let ended = ended.and_then(|code| out.flush().map(|()| code).map_err(Failure::Output));
    match ended {
        Ok(code) => code.into(),
        // Whoever closed the pipe has seen enough, as "head" does.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => OK.into(),
        Err(failure) => {
            report(&failure);
            failure.exit_code().into()
        }
    }
}

const OK: u8 = 0;
const FAILED: u8 = 1;
const UNKNOWN: u8 = 1;
const DAMAGED: u8 = 3;

/// Why a command ended early.
#[derive(Debug)]
enum Failure {
    Table(TableError),
    Damage(PathBuf, Damage),
    Build(BuildError),
    Input(PathBuf, io::Error),
    Output(io::Error),
    BadLines(u64),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Table(_) | Self::Damage(..) => DAMAGED,
            Self::Build(_) | Self::Input(..) | Self::Output(_) | Self::BadLines(_) => FAILED,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(error) => error.fmt(f),
            Self::Damage(path, damage) => write!(f, "user table {}: {damage}", path.display()),
            Self::Build(error) => error.fmt(f),
            Self::Input(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
            Self::BadLines(count) => write!(f, "{count} bad lines: nothing was published"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// The exit code, or why there is none.
fn execute(command: UsersCommand, out: &mut impl Write) -> Result<u8, Failure> {
    match command {
        UsersCommand::Build(arguments) => build(&arguments, out),
        UsersCommand::Lookup(arguments) => lookup(&arguments, out),
        UsersCommand::Verify { table } => verify(&table, out),
        UsersCommand::Dump { table, json: false, aliases: true } => dump_aliases(&table, false, out),
        UsersCommand::Dump { table, json: true, aliases: true } => dump_aliases(&table, true, out),
        UsersCommand::Dump { table, json: false, .. } => dump(&table, false, out),
        UsersCommand::Dump { table, json: true, .. } => {
            Ok(dump(&table, true, out)?.max(dump_aliases(&table, true, out)?))
        }
        UsersCommand::Stats { table, json } => stats(&table, json, out),
    }
}

fn report(message: &dyn fmt::Display) {
    // Nobody is left to be told if this fails.
    let _ = writeln!(io::stderr().lock(), "posthaste users: {message}");
}

fn build(arguments: &BuildArguments, out: &mut impl Write) -> Result<u8, Failure> {
    let unreadable = |error| Failure::Input(arguments.input.clone(), error);
    let local_part = match arguments.keep_case {
        true => LocalPart::Kept,
        false => LocalPart::Folded,
    };
    let options = match arguments.seed {
        Some(seed) => Options::reproducible(local_part, seed),
        None => Options::random(local_part).map_err(|error| Failure::Input("/dev/urandom".into(), error))?,
    };
    let options =
        Options { memory_bytes: arguments.memory.saturating_mul(1 << 20).max(MEMORY_BYTES_MIN), ..options };
    let rules = Rules::new(&arguments.recipient_delimiter, &arguments.local_domain);
    let (input, length) = open_input(&arguments.input).map_err(unreadable)?;
    let bar = progress_bar(length, "{bytes}/{total_bytes} {bytes_per_sec} eta {eta}");
    let accounts = Accounts::system().map_err(|error| Failure::Input("/etc".into(), error))?;
    let source = match arguments.from {
        Format::PasswdFile => PasswdFile::new(BufReader::new(bar.wrap_read(input)), accounts, local_part),
    };
    let builder = Builder::create(&arguments.output, options).map_err(Failure::Build)?.with_rules(rules);
    let built = fill(builder, source, &arguments.input, &bar);
    bar.finish_and_clear();
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

/// Adds all entries, reports all that is wrong, and publishes if nothing was.
fn fill(
    mut builder: Builder,
    source: PasswdFile<impl BufRead>,
    input: &Path,
    bar: &ProgressBar,
) -> Result<Summary, Failure> {
    let bad_lines = Cell::new(0);
    let complain = |message: &dyn fmt::Display| {
        bad_lines.set(bad_lines.get() + 1);
        bar.suspend(|| report(&format_args!("{}: {message}", input.display())));
    };
    for entry in source {
        match entry {
            Ok(entry) => match builder.add(&entry) {
                Err(error @ BuildError::Entry { .. }) => complain(&error),
                added => added.map_err(Failure::Build)?,
            },
            Err(ReadError::Line(line)) => complain(&line),
            Err(ReadError::Input(error)) => return Err(Failure::Input(input.into(), error)),
        }
    }
    let (conflicts, summary) = if bad_lines.get() > 0 {
        (builder.conflicts().map_err(Failure::Build)?, None)
    } else {
        let total = builder.len() + builder.aliases();
        let written = progress_bar(Some(total), "writing {human_pos}/{human_len} {per_sec} eta {eta}");
        let finished = builder.finish_with(&mut |more| written.inc(more));
        written.finish_and_clear();
        match finished {
            Err(BuildError::Conflicts(conflicts)) => (conflicts, None),
            finished => (Vec::new(), Some(finished.map_err(Failure::Build)?)),
        }
    };
    for conflict in &conflicts {
        complain(conflict);
    }
    summary.ok_or_else(|| Failure::BadLines(bad_lines.get()))
}

fn lookup(arguments: &LookupArguments, out: &mut impl Write) -> Result<u8, Failure> {
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

fn verify(path: &Path, out: &mut impl Write) -> Result<u8, Failure> {
    let table = Table::open(path).map_err(Failure::Table)?;
    let records = table.len() + table.shape().aliases;
    let bar = progress_bar(Some(records), "{human_pos}/{human_len} {per_sec} eta {eta}");
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

fn dump(path: &Path, as_json: bool, out: &mut impl Write) -> Result<u8, Failure> {
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
                user.address.escape_debug()
            ));
            code = code.max(FAILED);
        }
    }
    Ok(code)
}

fn dump_aliases(path: &Path, as_json: bool, out: &mut impl Write) -> Result<u8, Failure> {
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

fn stats(path: &Path, as_json: bool, out: &mut impl Write) -> Result<u8, Failure> {
    let table = Table::open(path).map_err(Failure::Table)?;
    let shape = table.shape();
    let (mut owned, mut limited, mut address_bytes) = (0_u64, 0_u64, 0_u64);
    for user in table.users() {
        let user = user.map_err(|damage| Failure::Damage(path.to_owned(), damage))?;
        owned += u64::from(user.uid.is_some());
        limited += u64::from(user.quota_bytes.is_some() || user.quota_messages.is_some());
        address_bytes += user.address.len() as u64;
    }
    let per_user = |bytes: u64| bytes as f64 / shape.users.max(1) as f64;
    let per_address = |bytes: u64| bytes as f64 / (shape.users + shape.aliases).max(1) as f64;
    let built_at = shape
        .built_at
        .and_then(|seconds| jiff::Timestamp::from_second(seconds.cast_signed()).ok())
        .map(|time| time.to_string());
    let figures = [
        ("users", json!(shape.users)),
        ("aliases", json!(shape.aliases)),
        ("domains", json!(shape.domains)),
        ("users_with_uid", json!(owned)),
        ("users_with_quota", json!(limited)),
        ("local_part_folded", json!(shape.local_part == LocalPart::Folded)),
        ("built_at", json!(built_at)),
        ("classes", json!(shape.classes)),
        ("path_templates", json!(shape.templates)),
        ("load_factor", rounded(shape.load)),
        ("longest_probe", json!(shape.longest_probe)),
        ("address_bytes_mean", rounded(per_user(address_bytes))),
        ("file_bytes", json!(shape.file_bytes)),
        ("class_bytes", json!(shape.class_bytes)),
        ("template_bytes", json!(shape.template_bytes)),
        ("domain_bytes", json!(shape.domain_bytes)),
        ("filter_bytes", json!(shape.filter_bytes)),
        ("elsewhere_bytes", json!(shape.elsewhere_bytes)),
        ("heap_bytes", json!(shape.heap_bytes)),
        ("file_bytes_per_address", rounded(per_address(shape.file_bytes))),
        ("class_bytes_per_address", rounded(per_address(shape.class_bytes))),
        ("template_bytes_per_address", rounded(per_address(shape.template_bytes))),
        ("domain_bytes_per_address", rounded(per_address(shape.domain_bytes))),
        ("filter_bytes_per_address", rounded(per_address(shape.filter_bytes))),
        ("elsewhere_bytes_per_address", rounded(per_address(shape.elsewhere_bytes))),
        ("heap_bytes_per_address", rounded(per_address(shape.heap_bytes))),
    ];
    if as_json {
        let object: serde_json::Map<String, Value> =
            figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        writeln!(out, "{}", Value::Object(object))?;
    } else {
        for (name, value) in figures {
            match value {
                Value::Null => writeln!(out, "{name:<28} not recorded")?,
                Value::String(text) => writeln!(out, "{name:<28} {text}")?,
                figure => writeln!(out, "{name:<28} {figure}")?,
            }
        }
    }
    Ok(OK)
}

fn rounded(figure: f64) -> Value {
    json!((figure * 100.0).round() / 100.0)
}

fn open_input(path: &Path) -> io::Result<(Box<dyn io::Read>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path)?;
    let length = Some(file.metadata()?).filter(std::fs::Metadata::is_file).map(|data| data.len());
    Ok((Box::new(file), length))
}

/// Draws itself on standard error, and not at all if that is no terminal.
fn progress_bar(length: Option<u64>, figures: &str) -> ProgressBar {
    let Some(length) = length else {
        let style = ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec}");
        return ProgressBar::new_spinner()
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    };
    let template = format!("{{wide_bar}} {figures}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

fn parse_seed(text: &str) -> Result<[u8; 16], String> {
    let is_hex = text.len() == 32 && text.bytes().all(|octet| octet.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
    number.map(u128::to_be_bytes).ok_or_else(|| "expected 32 hex digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::{Alias, Entry};
    use clap::Parser;
    use std::fs;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        users: UsersCommand,
    }

    /// Runs a command line in `directory`, with `=` before every file's name; exit code and output.
    fn run_in(directory: &Path, line: &str) -> (u8, String) {
        let directory = format!("{}/", directory.display());
        let words = line.split(' ').map(|word| word.replace('=', &directory));
        let line = Line::try_parse_from(["users".to_owned()].into_iter().chain(words)).unwrap();
        let mut out = Vec::new();
        let code = execute(line.users, &mut out).unwrap_or_else(|failure| failure.exit_code());
        (code, String::from_utf8(out).unwrap())
    }

    const USERS: &str = "alice@example.org:x:1000:8::/home/alice:/bin/sh:userdb_quota_rule=*:bytes=9\n\
        bob:x:::::/bin/sh:userdb_mail=maildir:/var/mail/%u\n";
    const BUILD: &str = "build --from passwd-file --input =users --output =table";

    #[test]
    fn the_commands_are_well_formed() {
        use clap::CommandFactory;
        Line::command().debug_assert();
    }

    #[test]
    fn what_was_built_is_looked_up_dumped_and_built_again() {
        let directory = tempfile::tempdir().unwrap();
        let run = |line: &str| run_in(directory.path(), line);
        fs::write(directory.path().join("users"), USERS).unwrap();
        let (code, said) = run(BUILD);
        assert!(code == 0 && said.contains("2 users"), "{said}");

        let (code, text) = run("lookup =table <ALICE+x@Example.org> -d +");
        assert!(code == 0 && text.contains("maildir         /home/alice/Maildir\n"), "{text}");
        assert!(text.contains("detail          x\n"), "{text}");
        let (code, text) = run("lookup =table bob@mx.example --local-domain MX.example --json");
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &found["address"], &found["uid"]), (0, &json!("bob"), &Value::Null));
        assert_eq!(run("lookup =table carol@example.org"), (1, String::new()));

        let (code, dumped) = run("dump =table");
        assert_eq!((code, dumped.lines().count()), (0, 2));
        fs::write(directory.path().join("users"), &dumped).unwrap();
        assert_eq!(run(BUILD).0, 0);
        // Another seed, another order.
        let sorted = |dumped: &str| {
            let mut lines: Vec<String> = dumped.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!(sorted(&run("dump =table").1), sorted(&dumped));
        let (_, lines) = run("dump --json =table");
        let users: Vec<Value> =
            sorted(&lines).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(users[0]["quota_bytes"], json!(9));
        assert_eq!(users[1]["mail"], json!("/var/mail/bob"));

        let (code, stats) = run("stats --json =table");
        let stats: Value = serde_json::from_str(&stats).unwrap();
        assert_eq!((code, &stats["users"], &stats["domains"]), (0, &json!(2), &json!(1)));
        assert!(run("stats =table").1.contains(&format!("{:<28} 1\n", "users_with_quota")));
        assert!(run("verify =table").1.ends_with("intact, 2 users, 0 aliases\n"));
    }

    #[test]
    fn aliases_are_looked_up_and_dumped_as_they_were_added() {
        let directory = tempfile::tempdir().unwrap();
        let run = |line: &str| run_in(directory.path(), line);
        let options = Options::reproducible(LocalPart::Folded, [1; 16]);
        let mut builder = Builder::create(&directory.path().join("table"), options).unwrap();
        for (address, line) in ["alice@x", "bob@x"].into_iter().zip(1..) {
            let (address, mail) = (address.to_owned(), "/srv/mail".to_owned());
            builder.add(&Entry { line, address, mail, ..Entry::default() }).unwrap();
        }
        let targets = vec!["bob@x".to_owned(), "alice@x".to_owned()];
        builder.add_alias(&Alias { line: 3, address: "team@x".to_owned(), targets }).unwrap();
        builder.finish().unwrap();
        let (code, text) = run("lookup =table team+d@x -d +");
        assert_eq!(
            (code, text.matches("maildir ").count(), text.matches("detail          d").count()),
            (0, 2, 2)
        );
        assert!(text.find("bob@x") < text.find("alice@x"), "{text}");
        assert_eq!(run("dump --aliases =table"), (0, "team@x bob@x, alice@x\n".to_owned()));
        assert_eq!(run("dump =table").1.lines().count(), 2);
        let json = run("dump --json =table").1;
        assert!(json.ends_with("{\"alias\":\"team@x\",\"targets\":[\"bob@x\",\"alice@x\"]}\n"), "{json}");
        assert_eq!((json.lines().count(), run("dump --json --aliases =table").1.lines().count()), (3, 1));
        assert!(run("verify =table").1.ends_with("intact, 2 users, 1 aliases\n"));
    }

    #[test]
    fn bad_lines_leave_the_published_table_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let run = |line: &str| run_in(directory.path(), line);
        fs::write(directory.path().join("users"), USERS).unwrap();
        assert_eq!(run(BUILD).0, 0);
        let before = fs::read(directory.path().join("table")).unwrap();
        for bad in ["carol:x:0:0::/root", "BOB:::::/home/bob", "carol"] {
            fs::write(directory.path().join("users"), format!("{USERS}{bad}\n")).unwrap();
            assert_eq!(run(BUILD), (FAILED, String::new()), "{bad}");
        }
        assert_eq!(fs::read(directory.path().join("table")).unwrap(), before);
        assert_eq!(run("build --from passwd-file --input =none --output =table").0, FAILED);
    }

    #[test]
    fn a_seed_makes_builds_reproducible_and_is_checked() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("users"), USERS).unwrap();
        let seeded = format!("{BUILD} --seed 000102030405060708090a0b0c0d0e0f");
        let built = || {
            assert_eq!(run_in(directory.path(), &seeded).0, 0);
            fs::read(directory.path().join("table")).unwrap()
        };
        assert_eq!(built(), built());
        assert!(
            run_in(directory.path(), "stats =table").1.contains(&format!("{:<28} not recorded", "built_at"))
        );
        for seed in ["", "00", "+00102030405060708090a0b0c0d0e0f", "zz0102030405060708090a0b0c0d0e0f"] {
            assert!(parse_seed(seed).is_err(), "{seed}");
        }
    }

    #[test]
    fn a_damaged_table_has_an_exit_code_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let run = |line: &str| run_in(directory.path(), line);
        fs::write(directory.path().join("users"), USERS).unwrap();
        assert_eq!(run(BUILD).0, 0);
        let path = directory.path().join("table");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(5).rposition(|octets| octets == b"alice").unwrap();
        bytes[at] ^= 1;
        let damaged = directory.path().join("damaged");
        fs::write(damaged, &bytes).unwrap();
        assert_eq!(run("lookup =damaged alice@example.org"), (DAMAGED, String::new()));
        assert_eq!(run("verify =damaged").0, DAMAGED);
        assert_eq!(run("stats =damaged").0, DAMAGED);
        let (code, rest) = run("dump =damaged");
        assert!(code == DAMAGED && rest.starts_with("bob:"), "{rest}");
        bytes.truncate(5000);
        fs::write(directory.path().join("damaged"), bytes).unwrap();
        assert_eq!(run("lookup =damaged alice@example.org").0, DAMAGED);
        assert_eq!(run("lookup =none alice@example.org").0, DAMAGED);
    }
}
