//! Mounts, in a mount namespace of this test's own: however it ends, nothing of it stays mounted.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::ground::{is_root, not_run};

/// Runs `body` in a mount namespace of its own, by starting this test once more through `unshare`; `test` is its
/// whole name, modules included. Reports the test as not run where that is not possible.
pub(crate) fn in_namespace(test: &str, needs: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| std::fs::write(inside, "").is_ok()) {
        return body();
    }
    if !is_root() {
        return not_run(test, "only root may mount");
    }
    if !Path::new("/dev/fuse").exists() {
        return not_run(test, "there is no /dev/fuse");
    }
    let missing: Vec<&str> = needs.iter().copied().filter(|program| !is_installed(program)).collect();
    if !missing.is_empty() {
        return not_run(test, &format!("not installed: {}", missing.join(", ")));
    }
    let been_there = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::remove_file(been_there.path()).expect("a temporary file");
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, been_there.path())
        .stdin(Stdio::null())
        .status()
        .expect("setpriv and unshare of util-linux");
    assert!(status.success(), "{test} failed inside its namespace: {status}");
    assert!(been_there.path().exists(), "{test} is not the name of this test");
}

/// Something that is mounted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts with these arguments of mount(8), at `path`, which is made.
    ///
    /// # Errors
    /// What mount(8) said.
    pub(crate) fn new(arguments: &[&str], source: &Path, path: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(path).expect("a mount point");
        run(Command::new("mount").args(arguments).arg(source).arg(path))?;
        Ok(Self(path.to_owned()))
    }

    /// Changes its options. The server closes a file in the same call that sends the reply, on another CPU than ours, and
    /// until it has, the file system is busy; for longer than [`CLOSES_WITHIN`] it must not be.
    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let begun = Instant::now();
        loop {
            match run(Command::new("mount").args(["-o", &options]).arg(&self.0)) {
                Ok(_) => return,
                Err(why) if why.contains("busy") && begun.elapsed() < CLOSES_WITHIN => {}
                Err(why) => panic!("{}: {why}", self.0.display()),
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(why) = run(Command::new("umount").arg(&self.0)) {
            eprintln!("{}: {why}; it goes with the namespace", self.0.display());
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// What it said, if it did not succeed.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    Err(format!("{} {}: {said}", command.get_program().to_string_lossy(), output.status))
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.any(|folder| folder.join(program).is_file())
}

/// How long a file of a message that was answered may still be open.
const CLOSES_WITHIN: Duration = Duration::from_millis(500);

/// Set in the namespace: a file that shows that the test has been there.
const INSIDE: &str = "POSTHASTE_POWERCUT_INSIDE";
