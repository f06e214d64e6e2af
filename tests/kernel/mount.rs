//! Small file systems in memory, for faults that only a real one has.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ground::{is_root, not_run};

/// A tmpfs that is mounted for one test.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts a tmpfs with `options` at `path`, which is made; `None` when that cannot be done here, which is
    /// reported as `test` not run.
    pub(crate) fn tmpfs(test: &str, path: &Path, options: &str) -> Option<Self> {
        if !is_root() {
            not_run(test, "only root may mount");
            return None;
        }
        std::fs::create_dir_all(path).expect("a mount point");
        match run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path)) {
            Ok(()) => Some(Self(path.to_owned())),
            Err(why) => {
                not_run(test, &format!("a tmpfs cannot be mounted: {why}"));
                None
            }
        }
    }

    /// Changes its options.
    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.0)).expect("what was mounted");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the server that still has it open goes down after this, or before.
        let unmounted = run(Command::new("umount").arg("--lazy").arg(&self.0));
        if let Err(why) = unmounted {
            eprintln!("{} stays mounted: {why}", self.0.display());
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "))
}
