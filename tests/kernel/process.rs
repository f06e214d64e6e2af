//! The server as a process of its own: for signals, exit codes and limits of the process.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::client::PATIENCE;
use crate::ground::Ground;
use crate::server::Said;

/// A process that ends with its test; the kernel sees to it should the test be killed.
pub(crate) struct Process {
    child: Child,
    /// Its standard error.
    pub(crate) said: Said,
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

impl Process {
    /// Starts `posthaste serve` on `ground`, by way of the command `through`, and waits until it is ready.
    pub(crate) fn start(ground: &Ground, rest: &str, through: &[&str]) -> Self {
        ground.build_table();
        let configuration = ground.path("posthaste.toml");
        fs::write(&configuration, ground.configuration(rest)).expect("a configuration");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(through).arg(env!("CARGO_BIN_EXE_posthaste"));
        command.arg("serve").arg("--config").arg(configuration);
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv of util-linux, and the server");
        let said = Said::default();
        let (mut from, mut to) = (child.stderr.take().expect("piped"), said.clone());
        // Ends with the process, whose pipe it reads.
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        said.wait_for("ready:", 1);
        Self { child, said, socket: ground.path("lmtp.sock") }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        kill_process(self.id(), Signal::TERM).expect("our own child");
    }

    /// How it ended, if it does within `patience`.
    pub(crate) fn ended_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let handle = pidfd_open(self.id(), PidfdFlags::empty()).expect("our own child, not waited for");
        let patience = Timespec::try_from(patience).expect("some seconds");
        poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&patience)).expect("a poll");
        self.child.try_wait().expect("our own child")
    }

    /// How it ended.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let ended = self.ended_within(PATIENCE + PATIENCE);
        ended.unwrap_or_else(|| panic!("it does not end"))
    }

    fn id(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the server said at last\n{}", self.said.last_lines());
        }
    }
}
