//! kill -9 of the whole process, at random points, under load, over the same Maildirs.
//!
//! Nobody who was answered 250 loses anything, and nobody has anything twice but those whose client had no reply and
//! sent it again.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::ground::{Ground, owner};
use crate::load::{self, Answer, Letter, Reply};
use crate::oracle::Inventory;
use crate::process::Process;
use crate::random::Random;
use crate::rig::Mode;
use crate::settings;

#[test]
fn a_killed_server_loses_nothing_that_it_acknowledged_in_any_mode() {
    // Side by side, as each waits for the disk and for dying processes most of the time.
    thread::scope(|scope| {
        for mode in settings::modes() {
            scope.spawn(move || kill_often(mode));
        }
    });
}

fn kill_often(mode: Mode) {
    let mut random = Random::new(settings::seed());
    let mut mailing = Mailing::new(mode);
    for _ in 0..settings::kills() {
        mailing.round(Some(Duration::from_micros(random.number() % LIFE_MICROSECONDS)), &mut random);
        if mode == Mode::Journal && random.percent(30) {
            mailing.interrupt_recovery(Duration::from_micros(random.number() % RECOVERY_MICROSECONDS));
        }
    }
    // Nothing is left to be sent after this one, which may live as long as it likes.
    mailing.round(None, &mut random);
    mailing.judge();
}

/// Mail that is sent until everybody has been answered 250.
struct Mailing {
    mode: Mode,
    ground: Ground,
    maildirs: Vec<PathBuf>,
    /// What has not been answered, by message: to whom.
    open: BTreeMap<u64, Vec<usize>>,
    /// How often each was sent in vain.
    unanswered: HashMap<(u64, usize), usize>,
    saved: Vec<(u64, usize)>,
    runs: u64,
    /// Kills that broke a transaction off.
    hits: usize,
}

impl Mailing {
    fn new(mode: Mode) -> Self {
        let ground = Ground::new();
        let user = |index: u32| ground.user(&format!("user{index}"), owner(index));
        let maildirs = (0..USERS).map(user).collect();
        let (open, unanswered) = (BTreeMap::new(), HashMap::new());
        Self { mode, ground, maildirs, open, unanswered, saved: Vec::new(), runs: 0, hits: 0 }
    }

    /// Starts the server and sends what is open; with a `life`, adds to it, and kills the server after that time.
    fn round(&mut self, life: Option<Duration>, random: &mut Random) {
        if life.is_some() {
            while self.open.len() < ENOUGH {
                self.runs += 1;
                let fresh = load::letters(self.runs, LETTERS, self.maildirs.len(), random);
                self.open.extend(fresh.into_iter().map(|letter| (letter.number, letter.to)));
            }
        }
        let letters: Vec<Letter> =
            self.open.iter().map(|(&number, to)| Letter { number, to: to.clone() }).collect();
        let mut server = Process::start(&self.ground, &self.mode.configuration(), &[]);
        let socket = server.socket.clone();
        let answers = thread::scope(|scope| {
            let load = scope.spawn(|| load::send(&socket, SESSIONS, &letters, || 0));
            match life {
                Some(life) => {
                    // Not a wait for something: this is the random point.
                    thread::sleep(life);
                    drop(server);
                    load.join().expect("the load")
                }
                None => {
                    let answers = load.join().expect("the load");
                    server.terminate();
                    assert!(server.ended().success(), "it ends well");
                    answers
                }
            }
        });
        self.hits += usize::from(answers.iter().any(|answer| answer.reply == Reply::None));
        answers.iter().for_each(|answer| self.note(answer));
    }

    fn note(&mut self, answer: &Answer) {
        let &Answer { number, user, ref reply } = answer;
        match reply {
            Reply::Saved(_) => {
                self.saved.push((number, user));
                let to = self.open.get_mut(&number).expect("it was open");
                to.retain(|&other| other != user);
                if to.is_empty() {
                    self.open.remove(&number);
                }
            }
            Reply::Refused(text) => panic!("nothing is wrong with the disk: {text}"),
            Reply::None => *self.unanswered.entry((number, user)).or_default() += 1,
        }
    }

    /// Has `posthaste recover` begin, and kills it after this time.
    fn interrupt_recovery(&self, after: Duration) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.arg("recover").arg("--config").arg(self.ground.path("posthaste.toml"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server");
        // The random point again.
        thread::sleep(after);
        let _ = child.kill();
        child.wait().expect("our own child");
    }

    fn judge(&self) {
        assert!(self.open.is_empty(), "the last server has answered everything: {:?}", self.open);
        let inventory = Inventory::take(&self.maildirs);
        assert_eq!(inventory.damaged(), [], "damaged files");
        let mut repeated = 0;
        for &(number, user) in &self.saved {
            let times = inventory.times(number, user);
            let unanswered = self.unanswered.get(&(number, user)).copied().unwrap_or(0);
            assert!(times > 0, "message {number} to user{user} was answered 250 and is lost");
            assert!(times <= 1 + unanswered, "{number} to user{user}: {times} times, {unanswered} in vain");
            repeated += times - 1;
        }
        println!(
            "{}: {} kills, {} of them in a transaction; {} acknowledged recipients checked, {repeated} repeated",
            self.mode.name(),
            settings::kills(),
            self.hits,
            self.saved.len()
        );
        assert!(self.hits * 2 > settings::kills(), "most kills must hit something to prove anything");
    }
}

const USERS: u32 = 16;
const SESSIONS: usize = 8;

/// More than a server can do in its life.
const ENOUGH: usize = 300;

/// What comes in at once when less is open.
const LETTERS: u64 = 200;

/// A life after it is ready, at most.
const LIFE_MICROSECONDS: u64 = 80_000;

/// Of a recovery, which has little to do.
const RECOVERY_MICROSECONDS: u64 = 20_000;
