//! The committed counts.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;

use serde::Deserialize;

/// What was counted when somebody accepted it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Baseline {
    pub(crate) made_with: String,
    /// Instructions by name of the scenario.
    pub(crate) counts: BTreeMap<String, u64>,
}

/// How a count compares with the baseline; with the baseline's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Same(Change),
    More(Change),
    Fewer(Change),
    /// The baseline has no such count.
    New,
}

/// From what, and by which part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    from: u64,
    part: f64,
}

impl Baseline {
    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string(path()).unwrap_or_default();
        // A missing or damaged baseline has nothing to compare with, and the message says how to make one.
        toml::from_str(&text).unwrap_or_else(|error| {
            eprintln!("{}: {error}", path().display());
            Self { made_with: "nothing".to_owned(), counts: BTreeMap::new() }
        })
    }

    pub(crate) fn write(&self, command: &str) {
        let mut text = format!(
            "# Instructions of the hot paths; tests/instructions says what is counted. Made by\n#   {command}\n\n\
             made_with = \"{}\"\n\n[counts]\n",
            self.made_with
        );
        for (name, count) in &self.counts {
            writeln!(text, "{name} = {count}").expect("memory");
        }
        std::fs::write(path(), &text).unwrap_or_else(|error| panic!("{}: {error}", path().display()));
        println!("{} says now:\n{text}", path().display());
    }

    pub(crate) fn verdict(&self, name: &str, count: u64, tolerance: f64) -> Verdict {
        let Some(&from) = self.counts.get(name) else { return Verdict::New };
        let part = count as f64 / from as f64 - 1.0;
        let change = Change { from, part };
        if part > tolerance {
            Verdict::More(change)
        } else if part < -tolerance {
            Verdict::Fewer(change)
        } else {
            Verdict::Same(change)
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(Change { from, part })
            | Self::More(Change { from, part })
            | Self::Fewer(Change { from, part }) => {
                write!(f, "before {from} ({:+.1}%)", part * 100.0)
            }
            Self::New => f.write_str("before unknown"),
        }
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("perf/instructions.toml")
}

#[test]
fn a_count_has_moved_when_it_leaves_the_tolerance_on_either_side() {
    let counts = BTreeMap::from([("scan".to_owned(), 1000)]);
    let baseline = Baseline { made_with: String::new(), counts };
    assert!(matches!(baseline.verdict("scan", 1049, 0.05), Verdict::Same(_)));
    assert!(matches!(baseline.verdict("scan", 1051, 0.05), Verdict::More(_)));
    assert!(matches!(baseline.verdict("scan", 949, 0.05), Verdict::Fewer(_)));
    assert!(matches!(baseline.verdict("another", 1, 0.05), Verdict::New));
    assert_eq!(baseline.verdict("scan", 1100, 0.05).to_string(), "before 1000 (+10.0%)");
}
