//! What can be asked for from outside, by environment variables.

use crate::rig::Mode;

/// Images for each file system, all modes together: `POSTHASTE_POWERCUT_IMAGES`.
pub(crate) fn images() -> usize {
    number("POSTHASTE_POWERCUT_IMAGES")
        .map_or(300, |images| usize::try_from(images).expect("a number of images"))
}

/// How often a server is killed, in each mode: `POSTHASTE_KILLS`.
pub(crate) fn kills() -> usize {
    number("POSTHASTE_KILLS").map_or(100, |kills| usize::try_from(kills).expect("a number of kills"))
}

/// Where chance begins; any number, if none is asked for.
pub(crate) fn seed() -> u64 {
    number(SEED).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(since.expect("a clock that is set").subsec_nanos())
    })
}

/// The modes, separated by commas: `POSTHASTE_POWERCUT_MODES`.
pub(crate) fn modes() -> Vec<Mode> {
    let Ok(names) = std::env::var("POSTHASTE_POWERCUT_MODES") else {
        return MODES.to_vec();
    };
    let mode = |name: &str| {
        let found = Mode::PROMISING.into_iter().find(|mode| mode.name() == name);
        found.unwrap_or_else(|| {
            panic!("POSTHASTE_POWERCUT_MODES: {name} is not a mode that promises something")
        })
    };
    names.split(',').map(mode).collect()
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value}: not a number")))
}

/// The variable that repeats a run's choices.
pub(crate) const SEED: &str = "POSTHASTE_POWERCUT_SEED";

/// What runs when nothing else is asked for.
const MODES: [Mode; 3] = [Mode::Journal, Mode::Group, Mode::Fsync];
