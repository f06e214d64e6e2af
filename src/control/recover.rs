//! `posthaste recover`: what the journal holds becomes files, without serving.
//!
//! Owns arguments, output and exit codes. The report goes to standard output, everything else to standard
//! error.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::config::Config;
use super::recovery::{Lock, RecoveryError};
use crate::journal::End;
use crate::recover::{Done, Failure, Fate, Mail, Report, SegmentReport};
use crate::serve::verdict::verdict;

/// Arguments of `posthaste recover`.
#[derive(Debug, clap::Args)]
pub struct RecoverArguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Change nothing; list what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Recovers the journal of a configuration. Exit code 0 if everything in it has its place now, 1 if something could
/// not be recovered or was set aside, 2 if the configuration is wrong.
#[must_use]
pub fn run(arguments: &RecoverArguments) -> ExitCode {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            let mut errors = io::stderr().lock();
            let colour = errors.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            // Whoever closed our output does not want to hear more.
            let _ = writeln!(errors, "{}", error.render(colour));
            return ExitCode::from(2);
        }
    };
    let report = match recover(&config, arguments.dry_run) {
        Ok(report) => report,
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "posthaste: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = if arguments.json {
        writeln!(out, "{}", to_json(&report))
    } else {
        lines(&report).into_iter().try_for_each(|line| writeln!(out, "{line}"))
    };
    let _ = written.and_then(|()| out.flush());
    if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn recover(config: &Config, dry_run: bool) -> Result<Report, RecoveryError> {
    let Some(lock) = Lock::take(&config.maildir.journal_dir)? else {
        return Ok(Report::default());
    };
    let segments = lock.segments()?;
    let bar = progress_bar(segments.iter().map(|(_, bytes)| bytes).sum());
    let shown = bar.clone();
    let names = segments.into_iter().map(|(name, _)| name).collect();
    let report = lock.recover(config, names, dry_run, Arc::new(move |bytes| shown.inc(bytes)));
    bar.finish_and_clear();
    report
}

/// Drawn on standard error, and only if that is a terminal.
fn progress_bar(bytes: u64) -> ProgressBar {
    let template = "{wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr()).with_style(style)
}

fn lines(report: &Report) -> Vec<String> {
    if report.segments.is_empty() {
        return vec!["nothing to recover: there is no journal".to_owned()];
    }
    report.segments.iter().flat_map(segment_lines).collect()
}

/// What people are told of a segment: a line for it, and one for each recipient that matters.
pub(super) fn segment_lines(segment: &SegmentReport) -> Vec<String> {
    let mut lines = vec![segment.to_string()];
    let Some(mail) = &segment.mail else { return lines };
    lines.extend(
        mail.actions
            .iter()
            .map(|action| format!("  would be {}: {}/new/{}", word(action.what), action.path, action.name)),
    );
    lines.extend(mail.failures.iter().map(failure_line));
    lines
}

fn failure_line(failure: &Failure) -> String {
    let Failure { path, name, fault, .. } = failure;
    format!("  FAILED {path}/new/{name}: {fault}; {}", verdict(*fault).advice)
}

fn word(what: Done) -> &'static str {
    match what {
        Done::Present => "left",
        Done::Written => "written",
        Done::Replaced => "replaced",
        Done::Beside => "written beside",
    }
}

fn to_json(report: &Report) -> Value {
    let segments: Vec<Value> = report
        .segments
        .iter()
        .map(|segment| {
            json!({
                "name": segment.name,
                "well": segment.is_well(),
                "fate": fate_word(&segment.fate),
                "text": segment.to_string(),
                "mail": segment.mail.as_ref().map(mail_json),
            })
        })
        .collect();
    json!({ "well": report.is_well(), "segments": segments })
}

fn fate_word(fate: &Fate) -> &'static str {
    match fate {
        Fate::Retired => "retired",
        Fate::Blank => "blank",
        Fate::Looked => "dry run",
        Fate::Kept { .. } => "kept",
        Fate::Newer { .. } => "newer",
        Fate::SetAside { .. } => "set aside",
        Fate::Unsettled(_) => "sync failed",
        Fate::Left(_) => "journal failed",
    }
}

fn mail_json(mail: &Mail) -> Value {
    let Mail { counts, failures, actions, end } = mail;
    json!({
        "messages": counts.records,
        "recipients": counts.recipients,
        "present": counts.present,
        "written": counts.written,
        "replaced": counts.replaced,
        "beside": counts.beside,
        "torn_at": match end { End::Torn { at } => Some(at), End::Clean => None },
        "actions": actions.iter().map(|action| json!({
            "path": action.path, "name": action.name, "what": word(action.what),
        })).collect::<Vec<_>>(),
        "failures": failures.iter().map(|failure| json!({
            "path": failure.path, "name": failure.name, "error": failure.fault.to_string(),
        })).collect::<Vec<_>>(),
    })
}
