//! What a home or mail location may look like.
//!
//! Owns the rules for paths in the user table. Promises that a path which passes names one place, whoever reads
//! it: no `.` or `..`, no empty component, nothing that a log or a terminal would act on. Never looks at a disk.
#![forbid(unsafe_code)]

use std::fmt;

/// The longest home or mail location, in octets. A path of the kernel has 4096; the rest is for the folder and
/// the message's name below it.
pub const PATH_BYTES_MAX: usize = 2048;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFault {
    /// There is none.
    Empty,
    /// It does not begin with a slash.
    Relative,
    /// It is the root directory.
    Root,
    /// Two slashes beside each other, or one at the end.
    EmptyComponent,
    /// A `.` or `..` between slashes.
    Dots,
    /// A NUL, line end or other control character.
    Control,
    /// More than [`PATH_BYTES_MAX`] octets.
    Long,
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the path is empty"),
            Self::Relative => f.write_str("the path is not absolute"),
            Self::Root => f.write_str("the path is the root directory"),
            Self::EmptyComponent => f.write_str("the path has an empty component"),
            Self::Dots => f.write_str("the path has a component \".\" or \"..\""),
            Self::Control => f.write_str("the path has a control character"),
            Self::Long => write!(f, "the path is longer than {PATH_BYTES_MAX} octets"),
        }
    }
}

/// Checks a home: an absolute path.
///
/// # Errors
/// The first rule that `path` breaks.
pub fn check_home(path: &str) -> Result<(), PathFault> {
    if path.is_empty() {
        return Err(PathFault::Empty);
    }
    let below = path.strip_prefix('/').ok_or(PathFault::Relative)?;
    if below.is_empty() {
        return Err(PathFault::Root);
    }
    check_components(below)
}

/// Checks a mail location: an absolute path, or one that is relative to the home.
///
/// # Errors
/// The first rule that `path` breaks.
pub fn check_location(path: &str) -> Result<(), PathFault> {
    match path.as_bytes().first() {
        None => Err(PathFault::Empty),
        Some(b'/') => check_home(path),
        Some(_) => check_components(path),
    }
}

fn check_components(path: &str) -> Result<(), PathFault> {
    if path.len() >= PATH_BYTES_MAX {
        return Err(PathFault::Long);
    }
    // Without an early end, these loops take many octets at a time.
    let octets = path.as_bytes();
    if octets.iter().fold(false, |found, octet| found | octet.is_ascii_control()) {
        return Err(PathFault::Control);
    }
    let is_suspect = |one: u8, next: u8| (one == b'/') & ((next == b'/') | (next == b'.'));
    let pairs = octets.iter().zip(octets.get(1..).unwrap_or_default());
    let is_plain = !pairs.fold(false, |found, (one, next)| found | is_suspect(*one, *next));
    if is_plain && !path.starts_with(['/', '.']) && !path.ends_with('/') && !path.is_empty() {
        return Ok(());
    }
    for component in path.as_bytes().split(|octet| *octet == b'/') {
        match component {
            b"" => return Err(PathFault::EmptyComponent),
            b"." | b".." => return Err(PathFault::Dots),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_absolute_and_plain() {
        for (path, verdict) in [
            ("/home/alice", Ok(())),
            ("/srv/mail/caf\u{e9}/.hidden/...", Ok(())),
            ("", Err(PathFault::Empty)),
            ("home", Err(PathFault::Relative)),
            ("/", Err(PathFault::Root)),
            ("//home", Err(PathFault::EmptyComponent)),
            ("/home/", Err(PathFault::EmptyComponent)),
            ("/home/./alice", Err(PathFault::Dots)),
            ("/home/..", Err(PathFault::Dots)),
            ("/home/a\nb", Err(PathFault::Control)),
            ("/home/a\0", Err(PathFault::Control)),
        ] {
            assert_eq!(check_home(path), verdict, "{path:?}");
        }
        assert_eq!(check_home(&format!("/{}", "a".repeat(2048))), Err(PathFault::Long));
        assert_eq!(check_home(&format!("/{}", "a".repeat(2047))), Ok(()));
    }

    #[test]
    fn a_location_may_be_relative_but_cannot_leave_the_home() {
        for (path, verdict) in [
            ("Maildir", Ok(())),
            ("mail/in", Ok(())),
            ("/var/mail/alice", Ok(())),
            ("", Err(PathFault::Empty)),
            ("..", Err(PathFault::Dots)),
            ("mail/../../bob", Err(PathFault::Dots)),
            ("/", Err(PathFault::Root)),
        ] {
            assert_eq!(check_location(path), verdict, "{path:?}");
        }
    }
}
