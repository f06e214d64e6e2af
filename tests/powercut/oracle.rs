//! The oracle: what 250 promises, asked of the Maildirs.
//!
//! Every recipient who was answered 250 has exactly one file, whole, in `new/` or `cur/`. What nobody answered for is
//! there whole, or not at all. Nothing else is there: nothing short, empty, zero-filled, or somebody else's.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::ground::DOMAIN;
use crate::load::{Answer, Reply, user};
use crate::message::{message, number_in};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Answered 250, and not there.
    Lost { number: u64, user: usize },
    /// There more often than it should be.
    Repeated { number: u64, user: usize, times: usize },
    /// A file that is not a whole message for this recipient.
    Damaged { file: PathBuf, why: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { number, user } => {
                write!(to, "message {number} to user{user} was answered 250 and is lost")
            }
            Self::Repeated { number, user, times } => {
                write!(to, "message {number} to user{user} is there {times} times")
            }
            Self::Damaged { file, why } => write!(to, "{}: {why}", file.display()),
        }
    }
}

/// What there is: how often each message lies in each user's Maildir, and what is wrong with the files themselves.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    whole: HashMap<(u64, usize), usize>,
    damaged: Vec<Finding>,
}

impl Inventory {
    /// Reads every message in the Maildirs of the users, whose indices are those of `maildirs`.
    pub(crate) fn take(maildirs: &[PathBuf]) -> Self {
        let mut inventory = Self::default();
        for (user, maildir) in maildirs.iter().enumerate() {
            for folder in ["new", "cur"] {
                for file in entries(&maildir.join(folder)) {
                    match examine(&file, user) {
                        Ok(number) => *inventory.whole.entry((number, user)).or_default() += 1,
                        Err(why) => inventory.damaged.push(Finding::Damaged { file, why }),
                    }
                }
            }
        }
        inventory
    }

    /// How often message `number` is there for `user`.
    pub(crate) fn times(&self, number: u64, user: usize) -> usize {
        self.whole.get(&(number, user)).copied().unwrap_or(0)
    }

    /// What is wrong with the files themselves, whatever was answered.
    pub(crate) fn damaged(&self) -> &[Finding] {
        &self.damaged
    }

    /// Holds what is there against the answers: those that were read by `time` count, and nobody's message may be
    /// there twice, as every one was sent once.
    pub(crate) fn judge(&self, answers: &[Answer], time: usize) -> Verdict {
        let mut verdict = Verdict { findings: self.damaged.clone(), acknowledged: 0 };
        let mut sent = 0;
        for &Answer { number, user, ref reply } in answers {
            let times = self.times(number, user);
            sent += times;
            if matches!(reply, Reply::Saved(at) if *at <= time) {
                verdict.acknowledged += 1;
                if times == 0 {
                    verdict.findings.push(Finding::Lost { number, user });
                }
            }
            if times > 1 {
                verdict.findings.push(Finding::Repeated { number, user, times });
            }
        }
        // Whatever is not an answer's is nobody's: it was never sent to this user.
        if sent != self.whole.values().sum::<usize>() {
            let known: Vec<(u64, usize)> =
                answers.iter().map(|answer| (answer.number, answer.user)).collect();
            let foreign = self.whole.keys().filter(|key| !known.contains(key));
            verdict.findings.extend(foreign.map(|&(number, user)| Finding::Damaged {
                file: PathBuf::from(format!("user{user}")),
                why: format!("has message {number}, which was never sent to him"),
            }));
        }
        verdict
    }
}

/// The outcome of one examination.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) findings: Vec<Finding>,
    /// Recipients that had their 250.
    pub(crate) acknowledged: usize,
}

/// Which message a file holds, if it holds one, whole, and says that it is for `index`.
fn examine(file: &Path, index: usize) -> Result<u64, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let filled = bytes.iter().filter(|&&byte| byte != 0).count();
    let Some((number, start)) = number_in(&bytes) else {
        return Err(format!("no message: {} bytes, {filled} of them not zero", bytes.len()));
    };
    if bytes[start..] != message(number) {
        let (is, should) = (bytes.len() - start, message(number).len());
        return Err(format!(
            "not the bytes of message {number}: {is} of {should}, {filled} of them not zero"
        ));
    }
    let trace = String::from_utf8_lossy(&bytes[..start]);
    let start =
        format!("Return-Path: <sender@example.org>\r\nDelivered-To: {}@{DOMAIN}\r\nReceived: ", user(index));
    if !trace.starts_with(&start) || !trace.ends_with("\r\n") {
        return Err(format!("the trace headers are not whole, or somebody else's: {trace:?}"));
    }
    let name = file.file_name().expect("an entry").to_string_lossy();
    if !name.contains(&format!(",S={},", bytes.len())) {
        return Err(format!("the name does not tell the size {}", bytes.len()));
    }
    Ok(number)
}

/// The entries of a directory; none if it is not there.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries.map(|entry| entry.expect("a directory that can be read").path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_sees_what_is_lost_repeated_short_zero_filled_and_somebody_elses() {
        let directory = tempfile::tempdir().expect("a directory");
        let maildirs: Vec<PathBuf> = (0..2).map(|index| directory.path().join(user(index))).collect();
        let place = |index: usize, name: &str, bytes: &[u8]| {
            let folder = maildirs[index].join("new");
            std::fs::create_dir_all(&folder).expect("a Maildir");
            std::fs::write(folder.join(format!("{name},S={},W=0", bytes.len())), bytes).expect("a file");
        };
        let whole = |index: usize, number: u64| {
            let trace = format!(
                "Return-Path: <sender@example.org>\r\nDelivered-To: {}@{DOMAIN}\r\nReceived: x\r\n",
                user(index)
            );
            [trace.as_bytes(), &message(number)].concat()
        };
        let answer = |number: u64, user: usize, reply: Reply| Answer { number, user, reply };
        let answers = [
            answer(1, 0, Reply::Saved(5)),
            answer(2, 0, Reply::Saved(9)),
            answer(3, 0, Reply::None),
            answer(4, 1, Reply::Saved(1)),
        ];
        let judge = |time: usize| Inventory::take(&maildirs).judge(&answers, time);

        place(1, "a", &whole(1, 4));
        assert_eq!(judge(4).findings, []);
        assert_eq!(judge(5).findings, [Finding::Lost { number: 1, user: 0 }]);
        place(0, "b", &whole(0, 1));
        place(0, "c", &whole(0, 3));
        assert_eq!((judge(5).findings, judge(5).acknowledged), (vec![], 2));
        place(0, "d", &whole(0, 3));
        assert_eq!(judge(5).findings, [Finding::Repeated { number: 3, user: 0, times: 2 }]);
        let bytes = whole(0, 2);
        let mut zeroed = bytes.clone();
        zeroed[bytes.len() - 100..].fill(0);
        let bad = [&b""[..], &[0; 4096], &bytes[..bytes.len() - 1], &zeroed, &whole(1, 2)];
        for (index, bytes) in bad.iter().enumerate() {
            place(0, &format!("bad{index}"), bytes);
            let damaged = Inventory::take(&maildirs).damaged().len();
            assert_eq!(damaged, index + 1, "{} bytes", bytes.len());
        }
        place(1, "e", &whole(1, 77));
        let verdict = judge(0);
        assert!(verdict.findings.iter().any(|finding| finding.to_string().contains("never sent")));
    }
}
