//! The limit of open files, and how many connections fit under it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to `wanted` if this process may, else as far as it may, and returns
/// the limit that now holds. Never lowers it.
#[must_use]
pub fn raise_open_files(wanted: u64) -> u64 {
    let before = getrlimit(Resource::Nofile);
    let hard = before.maximum.unwrap_or(u64::MAX);
    // Above the hard limit only with CAP_SYS_RESOURCE and up to fs.nr_open; a refusal costs nothing.
    if wanted > hard {
        let higher = Rlimit { current: Some(wanted), maximum: Some(wanted) };
        if setrlimit(Resource::Nofile, higher).is_ok() {
            return wanted;
        }
    }
    let _ = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Open files that a server with this configuration uses when it is full.
#[must_use]
pub fn files_wanted(connections: usize, workers: usize) -> u64 {
    let files =
        connections.saturating_add(workers.saturating_mul(DELIVERY_FILES)).saturating_add(FIXED_FILES);
    u64::try_from(files).unwrap_or(u64::MAX)
}

/// How the limit of open files is divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Connections of the whole server, at least one.
    pub connections: usize,
    /// Files and directories that the deliveries of one worker may hold open at one time, at least one.
    pub delivery_files: usize,
    /// How many of these may be directories that are kept between deliveries.
    pub kept_directories: usize,
    /// What to tell the operator when `connections` is less than configured.
    pub warning: Option<String>,
}

/// Divides `open_files`: a connection takes one, the deliveries of each worker up to
/// [`DELIVERY_FILES`], and the rest of the server (rings, listeners, user table, log) [`FIXED_FILES`].
/// Under a small limit deliveries keep at most half of what is left, so that both sides shrink together.
#[must_use]
pub fn divide(open_files: u64, connections: usize, workers: usize) -> Allowance {
    let workers = workers.max(1);
    let open_files = usize::try_from(open_files).unwrap_or(usize::MAX);
    let free = open_files.saturating_sub(FIXED_FILES);
    let deliveries = workers.saturating_mul(DELIVERY_FILES).min(free / 2);
    let allowed = connections.min(free - deliveries).max(1);
    let warning = (allowed < connections).then(|| {
        format!(
            "limits.connections is lowered from {connections} to {allowed}: the limit of open files is \
             {open_files}, {} would be needed (LimitNOFILE= in the unit, or ulimit -n)",
            files_wanted(connections, workers)
        )
    });
    let delivery_files = (deliveries / workers).max(1);
    let kept_directories = delivery_files / KEPT_SHARE;
    Allowance { connections: allowed, delivery_files, kept_directories, warning }
}

/// Open files for the deliveries of one worker: 1024 mailboxes, each with a file and its directory, and as many
/// directories that are kept for the next delivery.
pub const DELIVERY_FILES: usize = 3072;
/// The share of them that is kept between deliveries: one in so many.
const KEPT_SHARE: usize = 3;
/// Open files that are neither connections nor deliveries.
pub const FIXED_FILES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_fits_when_the_limit_allows_it() {
        let wanted = files_wanted(20_000, 2);
        let allowance = divide(wanted, 20_000, 2);
        assert_eq!(allowance.connections, 20_000);
        assert_eq!(allowance.delivery_files, DELIVERY_FILES);
        assert_eq!(allowance.warning, None);
    }

    #[test]
    fn one_file_less_is_one_connection_less_and_a_warning() {
        let allowance = divide(files_wanted(20_000, 2) - 1, 20_000, 2);
        assert_eq!(allowance.connections, 19_999);
        assert!(allowance.warning.unwrap().contains("from 20000 to 19999"));
    }

    #[test]
    fn a_small_limit_is_shared_between_connections_and_deliveries() {
        let allowance = divide(1_024, 20_000, 2);
        assert_eq!(allowance.connections, 480);
        assert_eq!(allowance.delivery_files, 240);
    }

    #[test]
    fn the_parts_never_exceed_the_whole_unless_nothing_is_left() {
        for workers in [1, 3, 64] {
            for open_files in 200..5_000 {
                let allowance = divide(open_files, 20_000, workers);
                let parts = allowance.connections + allowance.delivery_files * workers;
                assert!(parts + FIXED_FILES <= usize::try_from(open_files).unwrap());
            }
        }
        assert_eq!(divide(0, 10, 4).connections, 1);
    }

    #[test]
    fn raising_ends_at_least_at_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert!(raise_open_files(1) >= hard);
    }
}
