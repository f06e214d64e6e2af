//! Runs, stopped after every operation, and the power cuts of each moment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use posthaste::journal::SegmentName;
use posthaste::ring::sim::{Cut, Device, Fault, OpKind, World};
use posthaste::users::table::Table;
use rustix::io::Errno;

use super::oracle::Oracle;
use super::random::Random;
use super::sender::{Sender, Verdict};
use super::server::{self, JournalSetup, MAIL, Server, Setup};
use super::traffic::{AT_HOME, Message, USERS, messages, numbers};

/// How the server makes mail durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Fsync,
    Group,
    Journal,
    None,
}

impl Mode {
    /// The word of the configuration.
    fn durability(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Group => "group",
            Self::Journal => "journal",
            Self::None => "none",
        }
    }
}

/// Syncs that do nothing: those of a kind whose path ends so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lie {
    pub(crate) kind: OpKind,
    pub(crate) end: &'static str,
}

/// Which runs there are, and which cuts of them.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    mode: Mode,
    pub(crate) seeds: std::ops::Range<u64>,
    /// Only the cut after so many operations.
    operation: Option<u64>,
    /// Only what this one leaves.
    survivors: std::ops::Range<u64>,
}

impl Plan {
    /// Everything that is tried of a mode.
    pub(crate) fn of(mode: Mode) -> Self {
        // Recovery reads megabytes after each cut of a journal.
        let share = if mode == Mode::Journal { 2 } else { 1 };
        Self { mode, seeds: 0..SEEDS / share, operation: None, survivors: 0..SURVIVORS / share }
    }

    /// The same, or what the environment asks for.
    pub(crate) fn from_environment(mode: Mode) -> Self {
        let asked = |name: &str| {
            let value = std::env::var(format!("POSTHASTE_CRASH_{name}")).ok()?;
            Some(value.parse::<u64>().unwrap_or_else(|error| panic!("POSTHASTE_CRASH_{name}: {error}")))
        };
        let only = |number: u64| number..number + 1;
        let plan = Self::of(mode);
        let runs = asked("SEEDS").map_or(plan.seeds, |count| 0..count);
        Self {
            seeds: asked("SEED").map_or(runs, only),
            operation: asked("OPERATION"),
            survivors: asked("SURVIVOR").map_or(plan.survivors, only),
            ..plan
        }
    }
}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    runs: u64,
    cuts: u64,
    acknowledged: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, cuts, acknowledged } = self;
        write!(f, "{cuts} power cuts in {runs} runs, {acknowledged} acknowledged recipients looked for")
    }
}

/// A cut that is not survived.
#[derive(Debug)]
pub(crate) struct Failure {
    seed: u64,
    operation: u64,
    survivor: u64,
    pub(crate) reason: String,
    recent: Vec<String>,
}

impl Failure {
    /// What to set in the environment to meet it again.
    pub(crate) fn again(&self) -> String {
        let Self { seed, operation, survivor, .. } = self;
        format!(
            "POSTHASTE_CRASH_SEED={seed} POSTHASTE_CRASH_OPERATION={operation} POSTHASTE_CRASH_SURVIVOR={survivor}"
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, operation, survivor, reason, recent } = self;
        for line in recent {
            writeln!(f, "  {line}")?;
        }
        write!(f, "seed {seed}, power cut after operation {operation}, survivor {survivor}: {reason}")
    }
}

/// Makes all runs of the plan, on devices that tell these lies.
///
/// # Errors
/// The first cut that is not survived.
pub(crate) fn prove(plan: &Plan, lies: &[Lie]) -> Result<Counts, Box<Failure>> {
    let table = server::table();
    let mut counts = Counts::default();
    for seed in plan.seeds.clone() {
        let messages = messages(seed, LIVES);
        Run::new(plan, seed, &messages, lies, &table).cut_everywhere(&mut counts)?;
        counts.runs += 1;
    }
    Ok(counts)
}

/// One run: a server, a crash, and the server again.
struct Run<'r> {
    plan: &'r Plan,
    seed: u64,
    variant: Variant,
    setup: Setup,
    table: &'r Arc<Table>,
    messages: &'r [Message],
    world: World,
    verdicts: Vec<Verdict>,
    oracle: Oracle<'r>,
    random: Random,
}

impl<'r> Run<'r> {
    fn new(plan: &'r Plan, seed: u64, messages: &'r [Message], lies: &[Lie], table: &'r Arc<Table>) -> Self {
        let variant = Variant::of(seed);
        let world = World::new(seed);
        let device = Device { has_tmpfile: variant.has_tmpfile, keeps_order: variant.keeps_order };
        world.mount(MAIL, device);
        for (_, mailbox) in &USERS[..AT_HOME] {
            for part in ["tmp", "new", "cur"] {
                world.make_directory(&format!("{MAIL}/{mailbox}/{part}"));
            }
        }
        let setup = variant.setup(plan.mode);
        if let Some(journal) = &setup.journal {
            world.make_directory(&journal.directory);
        }
        lies.iter().for_each(|lie| world.ignore(lie.kind, lie.end));
        let oracle = Oracle::new(messages, variant.line_end, variant.shares);
        let (verdicts, random) = (Vec::new(), Random::new(seed ^ 0x5e4d));
        Self { plan, seed, variant, setup, table, messages, world, verdicts, oracle, random }
    }

    /// All lives of the server, with a crash after each.
    fn cut_everywhere(&mut self, counts: &mut Counts) -> Result<(), Box<Failure>> {
        let mut free = Vec::new();
        for life in 0..LIVES {
            // The last one ends when there is nothing left to do.
            let end = if life + 1 == LIVES { u64::MAX } else { LIFE_MIN + self.random.next() % LIFE_MIN };
            self.live(life, self.world.operations().saturating_add(end), free, counts)?;
            self.world.heal();
            self.world.halt_at(u64::MAX);
            self.world.power_cut(self.random.next());
            let recovered = server::recover(&self.world, &self.setup, boot_after(life));
            free = recovered.map_err(|reason| self.failure(0, reason))?.expect("nothing halts it");
        }
        Ok(())
    }

    /// Goes from operation to operation, and cuts the power after each, until nothing is left to do or `end`.
    fn live(
        &mut self,
        life: usize,
        end: u64,
        free: Vec<SegmentName>,
        counts: &mut Counts,
    ) -> Result<(), Box<Failure>> {
        let server = Server::start(&self.world, &self.setup, self.table, boot_of(life), free);
        let mut senders = self.senders(life);
        let mut is_failing = false;
        let mut waits = WAITS.iter();
        let mut wait = Duration::ZERO;
        loop {
            self.world.halt_at(self.world.operations() + 1);
            let world = self.world.clone();
            let mut quiet = world.quiet_after(wait);
            let run = server.exec.run_until(|| world.is_halted() || quiet());
            run.expect("the simulated ring does not fail");
            let acted =
                senders.iter_mut().fold(false, |acted, sender| sender.act(&mut self.verdicts) | acted);
            if server.is_ready() && self.variant.fails && !is_failing {
                is_failing = true;
                FAULTS.iter().for_each(|&(kind, of, errno)| self.world.fail(Fault::once_in(kind, of, errno)));
            }
            if self.world.is_halted() {
                self.cut(life, counts)?;
                if self.world.operations() >= end {
                    break;
                }
            } else if !acted {
                // Nothing happens by itself any more: let time pass, for timeouts and checkpoints.
                match waits.next() {
                    Some(next) => wait = *next,
                    None => break,
                }
            }
        }
        let is_over = end == u64::MAX;
        assert!(!is_over || senders.iter().all(Sender::is_done), "seed {}: it hangs", self.seed);
        server.exec.clear();
        Ok(())
    }

    fn senders(&mut self, life: usize) -> Vec<Sender> {
        let clients = numbers(life).map(|numbers| {
            let numbered: Vec<(usize, &Message)> =
                numbers.map(|number| (number, &self.messages[number])).collect();
            let client = self.world.connect();
            client.cut(*self.random.one_of(&[Cut::Whole, Cut::Random, Cut::Every(1460)]));
            Sender::new(client, &numbered, &mut self.random)
        });
        clients.collect()
    }

    /// The cuts of this moment.
    fn cut(&self, life: usize, counts: &mut Counts) -> Result<(), Box<Failure>> {
        let operation = self.world.operations();
        if self.plan.operation.is_some_and(|only| only != operation) {
            return Ok(());
        }
        for survivor in self.plan.survivors.clone() {
            let after = self.world.fork();
            let mut random = Random::new(self.seed << 32 ^ operation << 8 ^ survivor);
            let survived = self.survive(&after, boot_after(life), &mut random, counts);
            survived.map_err(|reason| self.failure(survivor, reason))?;
            let acknowledged = self.verdicts.iter().filter(|(_, _, code)| *code == 250).count();
            counts.acknowledged += u64::try_from(acknowledged).expect("a few");
        }
        Ok(())
    }

    /// What happens to a world whose power is cut, until the oracle has its say.
    fn survive(
        &self,
        world: &World,
        boot: u8,
        random: &mut Random,
        counts: &mut Counts,
    ) -> Result<(), String> {
        world.heal();
        // Now and then recovery is cut off in its turn, and does it again.
        let interrupted = self.setup.journal.is_some() && random.below(4) == 0;
        if interrupted {
            world.power_cut(random.next());
            counts.cuts += 1;
            world.halt_at(world.operations() + 1 + random.next() % INTERRUPTED_MAX);
            server::recover(world, &self.setup, boot)?;
        }
        world.halt_at(u64::MAX);
        world.power_cut(random.next());
        counts.cuts += 1;
        server::recover(world, &self.setup, boot + 1)?;
        if interrupted {
            // What recovery says is done is durable.
            world.power_cut(random.next());
            counts.cuts += 1;
        }
        self.oracle.check(world, &self.verdicts)
    }

    fn failure(&self, survivor: u64, reason: String) -> Box<Failure> {
        let (operation, recent) = (self.world.operations(), self.world.recent());
        Box::new(Failure { seed: self.seed, operation, survivor, reason, recent })
    }
}

/// Each life is a boot of its own, and so is each recovery after it.
fn boot_of(life: usize) -> u8 {
    u8::try_from(10 * (life + 1)).expect("a few lives")
}

fn boot_after(life: usize) -> u8 {
    boot_of(life) + 1
}

/// What differs from run to run.
struct Variant {
    has_tmpfile: bool,
    keeps_order: bool,
    shares: bool,
    line_end: &'static str,
    stream_above: &'static str,
    /// Where the journal is: with the mail, or on another file system.
    journal: &'static str,
    journal_message_max: &'static str,
    checkpoint_interval: Duration,
    fails: bool,
}

impl Variant {
    fn of(seed: u64) -> Self {
        Self {
            has_tmpfile: seed % 3 != 1,
            keeps_order: seed % 8 >= 4,
            shares: seed % 5 == 2,
            line_end: if seed % 7 == 3 { "\n" } else { "\r\n" },
            stream_above: if seed % 2 == 1 { "8KiB" } else { "64KiB" },
            journal: if seed % 2 == 1 { "/journal" } else { "/mail/journal" },
            journal_message_max: if seed % 3 == 2 { "16KiB" } else { "256KiB" },
            checkpoint_interval: Duration::from_millis(if seed % 5 == 4 { 5000 } else { 2 + seed % 7 }),
            fails: seed % 4 >= 2,
        }
    }

    fn setup(&self, mode: Mode) -> Setup {
        let line_endings = if self.line_end == "\n" { "lf" } else { "crlf" };
        let Self { shares, stream_above, journal_message_max, checkpoint_interval, .. } = *self;
        let settings = format!(
            "maildir.detail_to_folder = true\nmaildir.create_folder = true\n\
             maildir.durability = \"{}\"\nmaildir.line_endings = \"{line_endings}\"\n\
             maildir.single_instance = {shares}\nmaildir.stream_above = \"{stream_above}\"\n\
             maildir.journal_segment = \"1MiB\"\nmaildir.journal_message_max = \"{journal_message_max}\"\n",
            mode.durability()
        );
        let journal = JournalSetup { directory: self.journal.to_owned(), checkpoint_interval };
        Setup { settings, journal: (mode == Mode::Journal).then_some(journal) }
    }
}

/// One operation of a kind in so many fails, in the runs in which something does.
const FAULTS: [(OpKind, usize, Errno); 12] = [
    (OpKind::OpenDirectory, 60, Errno::IO),
    (OpKind::OpenUnnamed, 40, Errno::NOSPC),
    (OpKind::OpenNew, 40, Errno::NOSPC),
    (OpKind::Write, 40, Errno::NOSPC),
    (OpKind::WriteDurably, 20, Errno::IO),
    (OpKind::Sync, 30, Errno::IO),
    (OpKind::WriteOut, 30, Errno::IO),
    (OpKind::Touch, 30, Errno::IO),
    (OpKind::SyncFs, 15, Errno::IO),
    (OpKind::Link, 40, Errno::NOSPC),
    (OpKind::Rename, 40, Errno::IO),
    (OpKind::MakeDir, 10, Errno::NOSPC),
];

const SEEDS: u64 = 16;
const SURVIVORS: u64 = 4;
const LIVES: usize = 2;
/// Operations of a life that ends with a crash, at least; less than twice as many at most.
const LIFE_MIN: u64 = 300;
/// Operations after which a recovery is cut off, at most.
const INTERRUPTED_MAX: u64 = 60;
/// How long a server that has nothing to do is left alone: for timeouts, and for checkpoints.
const WAITS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(20)];
