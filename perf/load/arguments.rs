//! The command line.
//!
//! Owns the arguments, their help, and how they become a [`Plan`]. What is accepted here makes sense; files that are
//! named are read elsewhere.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};

use crate::message::RunId;
use crate::mix::SizeSource;
use crate::plan::{Limit, Pace, Plan};
use crate::schedule::Arrivals;
use crate::session::Pipeline;
use crate::sink::{Failure, Stall};
use crate::target::Target;
use crate::users::{Popularity, UserSource};

/// Measures LMTP servers: rate, latency, errors, and whether every acknowledged message is there
///
/// Exit code: 0 the run is valid (refused messages are in the report), 1 an acknowledged message is not there, or nothing
/// could be sent, 2 wrong arguments, 3 the run is void because the generator did not keep up.
#[derive(Debug, Parser)]
#[command(name = "posthaste-load", version, arg_required_else_help = true, after_help = EXAMPLES)]
#[command(group = ArgGroup::new("role").required(true).args(["to", "sink"]))]
pub(crate) struct Arguments {
    /// A server to measure; several take turns, round by round
    #[arg(long, value_name = "unix:PATH|HOST:PORT")]
    pub(crate) to: Vec<Target>,

    /// Be a server that accepts everything and keeps nothing, to see what the generator itself can do
    #[arg(long, value_name = "unix:PATH|HOST:PORT")]
    pub(crate) sink: Option<Target>,

    /// Connections to a server, all open from the start on
    #[arg(long, short = 'c', value_name = "COUNT", default_value = "20", value_parser = positive, help_heading = LOAD)]
    connections: usize,

    /// Measured messages in a round [default: 10000, unless --duration is given]
    #[arg(long, short = 'm', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "duration", help_heading = LOAD)]
    messages: Option<u64>,

    /// How long a round measures, as in 30s, 500ms or 5m
    #[arg(long, short = 'd', value_name = "TIME", value_parser = parse_time, help_heading = LOAD)]
    duration: Option<Duration>,

    /// Open loop: so many messages a second, whatever the server does; latency counts from the scheduled time
    ///
    /// Without it every connection sends the next message as soon as the last one is answered: good for the highest rate,
    /// but a server that stalls then gets fewer messages while it does, and its latencies look better than its users find.
    #[arg(long, short = 'r', value_name = "PER-SECOND", value_parser = parse_rate, help_heading = LOAD)]
    rate: Option<f64>,

    /// How messages of an open loop are spread
    #[arg(long, value_enum, default_value = "poisson", requires = "rate", help_heading = LOAD)]
    arrivals: Arrivals,

    /// How many commands are sent at once
    #[arg(long, value_enum, default_value = "postfix", help_heading = LOAD)]
    pipeline: Pipeline,

    /// Recipients of each message, all different
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = MAIL)]
    pub(crate) recipients: u16,

    /// Who gets the mail: file:PATH (an address a line), table:PATH (of "posthaste users build"), or a pattern
    #[arg(long, value_name = "SOURCE", default_value = "user{1..1000}@example.test", help_heading = MAIL)]
    pub(crate) users: UserSource,

    /// How the users are chosen: uniform, zipf or zipf:EXPONENT (the first user is the most popular)
    #[arg(long, value_name = "LAW", default_value = "uniform", help_heading = MAIL)]
    pub(crate) popularity: Popularity,

    /// The sender of all messages
    #[arg(long, value_name = "ADDRESS", default_value = "load@example.org", value_parser = parse_sender, help_heading = MAIL)]
    pub(crate) sender: String,

    /// Size of the messages: as in 4KiB, mix:FILE (mix:isp and mix:fixed-4k are shipped) or corpus:DIR (a message a file)
    #[arg(long, value_name = "SIZE", default_value = "4KiB", help_heading = MAIL)]
    pub(crate) size: SizeSource,

    /// What is sent before the measurement, in every round, and is in no figure
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time_or_none, help_heading = LOAD)]
    warm_up: Duration,

    /// Rounds for each server; with several servers they alternate
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u32).range(1..), help_heading = LOAD)]
    rounds: u32,

    /// Threads of the generator, each with its own ring
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = positive, help_heading = GENERATOR)]
    threads: usize,

    /// CPUs to keep the threads on, in turn, as in 0 or 0,2
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = GENERATOR)]
    pub(crate) cpus: Vec<usize>,

    /// How long a reply may take before the connection is given up
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_time, help_heading = LOAD)]
    timeout: Duration,

    /// How long the end of a round waits for what has begun or is due
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time, help_heading = LOAD)]
    drain: Duration,

    /// How often in a row a connection is tried again before it is given up
    #[arg(long, value_name = "COUNT", default_value = "5", help_heading = LOAD)]
    retries: u32,

    /// An open loop is void if the generator itself was later than this for one message in a hundred
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = parse_time, help_heading = GENERATOR)]
    lateness_max: Duration,

    /// The generator itself is what is measured, so being its own limit does not make the run void
    #[arg(long, conflicts_with = "sink", help_heading = GENERATOR)]
    calibrate: bool,

    /// Walk the Maildirs below DIR afterwards: every acknowledged message must be there once and whole; may be repeated
    #[arg(long, value_name = "DIR", conflicts_with = "sink", help_heading = RESULT)]
    pub(crate) verify: Vec<PathBuf>,

    /// The report as JSON on standard output, in place of the text
    #[arg(long, help_heading = RESULT)]
    pub(crate) json: bool,

    /// Write the transactions of every fifth of a second as an HdrHistogram log, tagged by server
    #[arg(long, value_name = "FILE", conflicts_with = "sink", help_heading = RESULT)]
    pub(crate) hgrm: Option<PathBuf>,

    /// Draw latency by percentile, and rate and p99 over time
    #[arg(long, value_name = "FILE.svg", conflicts_with = "sink", help_heading = RESULT)]
    pub(crate) plot: Option<PathBuf>,

    /// What tells the messages of this run from others; the same number gives the same messages [default: random]
    #[arg(long, value_name = "HEX", value_parser = parse_run, help_heading = MAIL)]
    pub(crate) run_id: Option<RunId>,

    /// Wait so long before the reply to each message
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "to", help_heading = SINK)]
    pub(crate) delay: Option<Duration>,

    /// Reply to nobody for a while, once, so long after the first connection; as in 2s:500ms
    #[arg(long, value_name = "AFTER:TIME", conflicts_with = "to", help_heading = SINK)]
    pub(crate) stall: Option<Stall>,

    /// Refuse every n-th of something, as in rcpt:550:10; also mail, data, end, and drop:N (close); may be repeated
    #[arg(long, value_name = "WHAT:CODE:N", conflicts_with = "to", help_heading = SINK)]
    pub(crate) fail: Vec<Failure>,
}

impl Arguments {
    /// How the rounds are done.
    pub(crate) fn plan(&self) -> Plan {
        let messages = Limit::Messages(self.messages.unwrap_or(MESSAGES));
        Plan {
            connections: self.connections,
            threads: self.threads.min(self.connections),
            limit: self.duration.map_or(messages, Limit::Duration),
            pace: match self.rate {
                None => Pace::FlatOut,
                Some(rate) => Pace::Open { rate, arrivals: self.arrivals },
            },
            pipeline: self.pipeline,
            warm_up: self.warm_up,
            rounds: self.rounds,
            timeout: self.timeout,
            drain: self.drain,
            retries: self.retries,
            remembers: !self.verify.is_empty(),
            calibrates: self.calibrate,
            lateness_max: self.lateness_max,
            cpus: self.cpus.clone(),
        }
    }
}

/// A size in bytes, as in `4096`, `4KiB` or `1MiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1), ("", 1)];
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor): (&str, u64) = unit.expect("the empty unit fits everything");
    let bytes = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let bytes = bytes.filter(|bytes| (1..=SIZE_MAX).contains(bytes));
    bytes.ok_or_else(|| {
        format!("{text:?} is no size from 1 to 1GiB: say a number of bytes, or as in 4KiB or 1MiB")
    })
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = parse_time_or_none(text)?;
    if time.is_zero() { Err("it has to be more than nothing".into()) } else { Ok(time) }
}

/// A time as in `500ms`, `30s`, `5m` or `1h`.
pub(crate) fn parse_time_or_none(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let found = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
    let seconds = found.and_then(|(number, unit)| Some(number.trim().parse::<f64>().ok()? * unit));
    let seconds = seconds.filter(|seconds| (0.0..=DAYS_MAX * 86400.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text:?} is no time: say it as in 500ms, 30s, 5m or 1h"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=10_000_000.0).contains(rate));
    rate.ok_or_else(|| "say messages a second, as in 500 or 0.5".into())
}

fn parse_run(text: &str) -> Result<RunId, String> {
    u64::from_str_radix(text, 16).map(RunId).map_err(|_| "say up to 16 hexadecimal digits".into())
}

fn parse_sender(text: &str) -> Result<String, String> {
    match text.find(|c: char| c.is_control() || matches!(c, '<' | '>' | ' ')) {
        None => Ok(text.to_owned()),
        Some(_) => Err("an address without angle brackets and spaces".into()),
    }
}

fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=COUNT_MAX).contains(number));
    number.ok_or_else(|| format!("say a number from 1 to {COUNT_MAX}"))
}

const MESSAGES: u64 = 10_000;
const SIZE_MAX: u64 = 1 << 30;
const DAYS_MAX: f64 = 30.0;
const COUNT_MAX: usize = 100_000;

const LOAD: &str = "How it is sent";
const MAIL: &str = "What is sent, and to whom";
const GENERATOR: &str = "The generator itself";
const RESULT: &str = "What comes of it";
const SINK: &str = "The sink";

const EXAMPLES: &str = "Examples:
  Highest rate, 16 connections, 4 KiB messages, and a look whether all are there:
    posthaste-load --to unix:/run/posthaste/lmtp --connections 16 --messages 100000 \\
      --users table:/var/lib/posthaste/users.table --verify /srv/mail
  Latency at 500 messages a second of mixed sizes, drawn:
    posthaste-load --to 127.0.0.1:2424 --rate 500 --duration 1m --warm-up 5s --size mix:isp --plot latency.svg
  Two servers beside each other:
    posthaste-load --to unix:/run/posthaste/lmtp --to unix:/run/dovecot/lmtp --rounds 3 --duration 10s
  What the generator itself can do, on two CPUs:
    posthaste-load --sink unix:/tmp/sink --cpus 1
    posthaste-load --to unix:/tmp/sink --cpus 0 --connections 64 --duration 5s --calibrate";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_arguments_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!(parse_size("4KiB"), Ok(4096));
        assert_eq!(parse_size("512"), Ok(512));
        assert!(parse_size("4 kb").is_err() && parse_size("0").is_err() && parse_size("2GiB").is_err());
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("1.5m"), Ok(Duration::from_secs(90)));
        assert!(parse_time("0s").is_err() && parse_time("5").is_err() && parse_time("-1s").is_err());
    }

    #[test]
    fn a_plan_follows_the_arguments() {
        let plan =
            parsed("posthaste-load --to unix:/x --rate 100 --duration 2s --threads 8 -c 4").unwrap().plan();
        assert_eq!(plan.pace, Pace::Open { rate: 100.0, arrivals: Arrivals::Poisson });
        assert_eq!(plan.limit, Limit::Duration(Duration::from_secs(2)));
        assert_eq!(plan.threads, 4);
        let plan = parsed("posthaste-load --to unix:/x").unwrap().plan();
        assert_eq!((plan.limit, plan.pace), (Limit::Messages(10_000), Pace::FlatOut));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "posthaste-load --messages 5",
            "posthaste-load --to unix:/x --sink unix:/y",
            "posthaste-load --to unix:/x --messages 5 --duration 1s",
            "posthaste-load --to unix:/x --arrivals constant",
            "posthaste-load --to unix:/x --delay 1s",
            "posthaste-load --sink unix:/x --verify /srv",
            "posthaste-load --to unix:/x --connections 0",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
