//! `posthaste check`: is the file right, what is in effect, and what around it will be in the way.
//!
//! Changes nothing. What it finds outside the file are warnings: the check may run on another machine, or
//! as another user, than the server.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::config::{Config, ListenAddress};
use crate::sys::limit;

/// Checks the file at `path`; prints the effective configuration on standard output, everything else on
/// standard error. Exit code 0 if the server would take the file, 1 if not.
#[must_use]
pub fn run(path: &Path) -> ExitCode {
    let mut errors = std::io::stderr().lock();
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let colour = errors.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            // Whoever closed our output does not want to hear more.
            let _ = writeln!(errors, "{}", error.render(colour));
            return ExitCode::FAILURE;
        }
    };
    for warning in warnings(&config) {
        let _ = writeln!(errors, "warning: {warning}");
    }
    let _ = std::io::stdout().lock().write_all(config.to_toml().as_bytes());
    ExitCode::SUCCESS
}

/// What on this machine does not fit the configuration, each with its remedy.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(error) = access(&config.users.table, Access::READ_OK) {
        found.push(format!(
            "the user table {} cannot be read: {error}; `posthaste users build` makes one",
            config.users.table.display()
        ));
    }
    if let Err(error) = access(&config.state_dir, Access::WRITE_OK | Access::EXEC_OK) {
        found.push(format!(
            "the state directory {} cannot be written: {error}; create it for the server's user",
            config.state_dir.display()
        ));
    }
    if let Some(root) = &config.maildir.root
        && let Err(error) = access(root, Access::EXEC_OK)
    {
        found.push(format!("maildir.root {} cannot be entered: {error}", root.display()));
    }
    if config.maildir.create_folder && !config.maildir.detail_to_folder {
        found.push("maildir.create_folder makes nothing unless maildir.detail_to_folder is true".to_owned());
    }
    for listener in &config.listen {
        if let ListenAddress::Unix { path, .. } = &listener.address
            && let Some(parent) = path.parent()
            && let Err(error) = access(parent, Access::WRITE_OK | Access::EXEC_OK)
        {
            found.push(format!("no socket can be made in {}: {error}", parent.display()));
        }
    }
    // The server starts with the limits of its unit; here only the hard one of this process is known.
    let open_files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    found.extend(limit::divide(open_files, config.limits.connections, config.workers).warning);
    found
}

fn access(path: &Path, wanted: Access) -> Result<(), Errno> {
    accessat(CWD, path, wanted, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directory: &Path) -> Config {
        let text = format!(
            "hostname = \"mx\"\nstate_dir = \"{0}/state\"\n[[listen]]\nlmtp = \"unix:{0}/run/lmtp\"\n\
             [maildir]\nroot = \"{0}/mail\"\ndetail_to_folder = true\ncreate_folder = true\n[limits]\nconnections = 10\n",
            directory.display()
        );
        Config::parse(&text, "test").unwrap()
    }

    #[test]
    fn what_is_missing_around_the_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let found = warnings(&config(directory.path())).join("\n");
        for words in ["users build", "state directory", "maildir.root", "no socket can be made in"] {
            assert!(found.contains(words), "{words} in {found}");
        }
    }

    #[test]
    fn folders_that_are_made_for_nobody_are_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        let told = |config: &Config| warnings(config).join("\n").contains("maildir.detail_to_folder");
        assert!(!told(&config));
        config.maildir.detail_to_folder = false;
        assert!(told(&config));
    }

    #[test]
    fn a_prepared_machine_gets_no_warning() {
        let directory = tempfile::tempdir().unwrap();
        for part in ["state", "run", "mail"] {
            std::fs::create_dir(directory.path().join(part)).unwrap();
        }
        std::fs::write(directory.path().join("state/users.table"), "").unwrap();
        assert_eq!(warnings(&config(directory.path())), Vec::<String>::new());
    }
}
