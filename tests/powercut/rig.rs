//! The rig: disks, the file system on them, the server above it, and the Maildirs that it fills.
//!
//! Everything stands beneath one directory, with the same paths in the run and after each cut: `mail` is the mail file
//! system, `state` the server's own directory, on the same file system or on one of another disk.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use crate::blocklog::{BlockLog, Entry};
use crate::device::{Device, Faults};
use crate::filesystem::FileSystem;
use crate::ground::{Ground, owner};
use crate::image::Image;
use crate::load::{self, Answer, Letter};
use crate::mount::{Mount, run};
use crate::oracle::{Inventory, Verdict};
use crate::process::Process;

/// What `maildir.durability` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Journal,
    Group,
    Fsync,
    None,
}

/// Where the server keeps its state, and so its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Beside the mail.
    OneDisk,
    /// On a disk of its own.
    TwoDisks,
}

/// A place for runs and cuts.
pub(crate) struct Rig {
    pub(crate) file_system: FileSystem,
    layout: Layout,
    /// The Maildirs of the users, by index.
    pub(crate) maildirs: Vec<PathBuf>,
    /// What the disks have on them at first: the homes, and nothing in them.
    pub(crate) base: Vec<Image>,
    // Ended in this order.
    _images: Mount,
    pub(crate) ground: Ground,
}

/// The file systems of the rig, mounted.
#[derive(Debug)]
pub(crate) struct Mounted {
    // Ended in this order.
    _state: Mount,
    _mail: Mount,
}

/// A run that has been.
pub(crate) struct Recording {
    pub(crate) entries: Vec<Entry>,
    pub(crate) answers: Vec<Answer>,
    /// The time when the server was ready, and when the last reply had come.
    pub(crate) span: (usize, usize),
}

impl Mode {
    /// All that promise something.
    pub(crate) const PROMISING: [Self; 3] = [Self::Journal, Self::Group, Self::Fsync];

    /// The word of the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Group => "group",
            Self::Fsync => "fsync",
            Self::None => "none",
        }
    }

    /// A configuration that makes everything happen often in a short run.
    pub(crate) fn configuration(self) -> String {
        let name = self.name();
        let journal = match self {
            // Small segments that are full soon, and messages on both sides of the limit.
            Self::Journal => {
                "journal_message_max = \"32KiB\"\njournal_segment = \"1MiB\"\ncheckpoint_interval = \"500ms\"\n"
            }
            _ => "",
        };
        format!("workers = 2\n[maildir]\ndurability = \"{name}\"\n{journal}")
    }
}

impl Rig {
    /// Makes the file systems and the homes of `users` users.
    pub(crate) fn new(file_system: FileSystem, layout: Layout, users: usize) -> Self {
        let ground = Ground::new();
        let images = Mount::new(&["-t", "tmpfs"], "tmpfs".as_ref(), &ground.path("images"));
        let mut rig = Self {
            file_system,
            layout,
            maildirs: Vec::new(),
            base: Vec::new(),
            _images: images.expect("a tmpfs"),
            ground,
        };
        let files = rig.files();
        files.iter().for_each(|file| file_system.make(file, &[]));
        let mounted = rig.mount(&files).expect("a new file system");
        for index in 0..users {
            let number = u32::try_from(index).expect("a few");
            rig.maildirs.push(rig.ground.user(&load::user(index), owner(number)));
        }
        drop(mounted);
        rig.base = files.iter().map(|file| Image::load(file)).collect();
        rig
    }

    /// Disks that say what they are told, with the content `images`.
    pub(crate) fn devices(&self, images: &[Image], log: &Arc<BlockLog>) -> Vec<Device> {
        let show = |(number, image): (usize, &Image)| {
            let directory = self.ground.path(format!("device{number}"));
            Device::show(number, image.clone(), log, &directory).expect("a FUSE mount")
        };
        images.iter().enumerate().map(show).collect()
    }

    /// Mounts what is in `files`, one for each disk.
    ///
    /// # Errors
    /// What mount(8) said.
    pub(crate) fn mount(&self, files: &[PathBuf]) -> Result<Mounted, String> {
        let mail = self.file_system.mount(&files[0], &self.ground.path("mail"))?;
        let state = self.ground.path("state");
        let state = match self.layout {
            Layout::TwoDisks => self.file_system.mount(&files[1], &state)?,
            Layout::OneDisk => {
                let directory = self.ground.path("mail/.state");
                std::fs::create_dir_all(&directory).map_err(|error| format!(".state: {error}"))?;
                Mount::new(&["--bind"], &directory, &state)?
            }
        };
        Ok(Mounted { _state: state, _mail: mail })
    }

    /// The server, on what is mounted.
    pub(crate) fn serve(&self, mode: Mode) -> Process {
        Process::start(&self.ground, &mode.configuration(), &[])
    }

    /// Runs the server on fresh disks, sends it `letters`, and kills it.
    /// The disks behave like `faults` from when the server is ready until it is dead.
    pub(crate) fn record(
        &self,
        mode: Mode,
        sessions: usize,
        letters: &[Letter],
        faults: &Faults,
    ) -> Recording {
        let log = Arc::new(BlockLog::default());
        let devices = self.devices(&self.base, &log);
        let files: Vec<PathBuf> = devices.iter().map(Device::file).collect();
        let mounted = self.mount(&files).expect("a new file system");
        let server = self.serve(mode);
        let begin = log.now();
        devices.iter().for_each(|device| device.fail(faults.clone()));
        let answers = load::send(&server.socket, sessions, letters, || log.now());
        let end = log.now();
        drop(server);
        devices.iter().for_each(|device| device.fail(Faults::default()));
        drop(mounted);
        drop(devices);
        Recording { entries: log.take(), answers, span: (begin, end) }
    }

    /// Mounts disks with this content, has the server recover what it can, and asks the oracle, at `time`.
    ///
    /// # Errors
    /// What could not be mounted or recovered.
    pub(crate) fn examine(
        &self,
        images: &[Image],
        mode: Mode,
        answers: &[Answer],
        time: usize,
    ) -> Result<Verdict, String> {
        let _mounted = self.restore(images, mode)?;
        Ok(Inventory::take(&self.maildirs).judge(answers, time))
    }

    /// Mounts disks with this content, and has the server recover what it can.
    ///
    /// # Errors
    /// What could not be mounted or recovered.
    pub(crate) fn restore(&self, images: &[Image], mode: Mode) -> Result<Mounted, String> {
        let files = self.files();
        images.iter().zip(&files).for_each(|(image, file)| image.save(file));
        let mounted = self.mount(&files)?;
        self.recover(mode)?;
        Ok(mounted)
    }

    /// What a start of the server does before it serves.
    fn recover(&self, mode: Mode) -> Result<(), String> {
        if mode != Mode::Journal {
            return Ok(());
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        run(command.arg("recover").arg("--config").arg(self.ground.path("posthaste.toml"))).map(drop)
    }

    fn files(&self) -> Vec<PathBuf> {
        let disks = match self.layout {
            Layout::OneDisk => 1,
            Layout::TwoDisks => 2,
        };
        (0..disks).map(|number| self.ground.path(format!("images/{number}"))).collect()
    }
}
