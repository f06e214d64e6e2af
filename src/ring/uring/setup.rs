//! Making a ring: what the kernel must have, what the ring may do, and what is said when it cannot be.
#![forbid(unsafe_code)]

use std::path::Path;

use io_uring::register::Restriction;
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use crate::ring::SyncThreads;
use crate::sys::{cpu, credentials};

/// How to make a ring.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Memory of the receive buffers, in bytes.
    pub buffers_bytes: usize,
    /// Kernel threads (io-wq) that may work on files for this ring at once.
    pub file_workers: u32,
    /// The CPU that they stay on: the one of the thread that owns the ring. A wake-up across CPUs costs more
    /// than it gains, and the owner sleeps while they work.
    pub file_cpu: Option<usize>,
    /// How unnamed files get their names.
    pub link_by: LinkBy,
    /// The threads that call syncfs(2).
    pub sync_threads: SyncThreads,
}

/// How linkat(2) is told which unnamed file to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkBy {
    /// `AT_EMPTY_PATH`: allowed to whoever opened the file since kernel 6.10.
    Descriptor,
    /// `/proc/self/fd/N`, followed: any kernel, needs /proc.
    ProcPath,
}

/// Why there is no ring.
#[derive(Debug)]
pub enum SetupError {
    /// io_uring_setup(2) failed.
    Create(std::io::Error),
    /// An opcode or feature that the kernel lacks.
    Missing(&'static str),
    /// A registration failed.
    Register(&'static str, std::io::Error),
    /// The buffers could not be mapped.
    Memory(Errno),
}

impl std::fmt::Display for SetupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create(error) => match error.raw_os_error() {
                Some(libc::ENOSYS) => f.write_str(
                    "io_uring is not in this kernel: run Linux 6.1 or later, with CONFIG_IO_URING",
                ),
                Some(libc::EPERM) => f.write_str(
                    "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0 (or to 1 and \
                     add the server's group to kernel.io_uring_group); in a container, allow io_uring_setup, \
                     io_uring_enter and io_uring_register in its seccomp profile",
                ),
                Some(libc::EINVAL) => f.write_str(
                    "io_uring here does not know deferred task work (IORING_SETUP_DEFER_TASKRUN): run Linux \
                     6.1 or later",
                ),
                Some(libc::ENOMEM) => f.write_str(
                    "io_uring got no memory for its queues: raise LimitMEMLOCK (ulimit -l) or the memory \
                     limit of the service, or configure fewer workers",
                ),
                _ => write!(f, "io_uring_setup failed: {error}; try fewer workers"),
            },
            Self::Missing(what) => {
                write!(f, "io_uring here lacks {what}: run Linux 6.1 or later")
            }
            Self::Register(what, error) => {
                write!(f, "io_uring refused to register {what}: {error}; run Linux 6.1 or later")
            }
            Self::Memory(errno) => write!(
                f,
                "the receive buffers could not be mapped: {errno}; lower limits.buffers or the number of workers"
            ),
        }
    }
}

impl std::error::Error for SetupError {}

/// Finds out whether this kernel lets whoever opened an unnamed file name it by descriptor alone, by doing
/// it in one of `directories`. A privileged process asks as nobody: root was always allowed to.
#[must_use]
pub fn link_by(directories: &[&Path]) -> LinkBy {
    let (mut uid, mut gid) = credentials::server_uid_gid();
    if uid == 0 {
        (uid, gid) = (NOBODY, NOBODY);
    }
    let can = |directory: &&Path| {
        credentials::with_identity(uid, gid, || can_link_descriptor(directory)).unwrap_or(false)
    };
    if directories.iter().any(can) { LinkBy::Descriptor } else { LinkBy::ProcPath }
}

fn can_link_descriptor(directory: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, unlinkat};
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let Ok(file) = openat(CWD, directory, flags, Mode::RUSR) else {
        return false;
    };
    let name = directory.join(format!(".posthaste-link-probe.{}", std::process::id()));
    let linked = linkat(&file, c"", CWD, &name, AtFlags::EMPTY_PATH).is_ok();
    linked && unlinkat(CWD, &name, AtFlags::empty()).is_ok()
}

/// The features and opcodes without which nothing works, found before the first connection.
pub(super) fn check_features(ring: &IoUring) -> Result<(), SetupError> {
    let params = ring.params();
    let features = [
        (params.is_feature_nodrop(), "lossless completions (IORING_FEAT_NODROP)"),
        (params.is_feature_ext_arg(), "waiting with a timeout (IORING_FEAT_EXT_ARG)"),
        (params.is_feature_submit_stable(), "stable submissions (IORING_FEAT_SUBMIT_STABLE)"),
        (params.is_feature_fast_poll(), "internal polling (IORING_FEAT_FAST_POLL)"),
        (params.is_feature_skip_cqe_on_success(), "silent successes (IORING_FEAT_CQE_SKIP)"),
    ];
    for (present, name) in features {
        if !present {
            return Err(SetupError::Missing(name));
        }
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| SetupError::Register("a probe", error))?;
    for (code, name) in OPCODES {
        if !probe.is_supported(code) {
            return Err(SetupError::Missing(name));
        }
    }
    Ok(())
}

/// Leaves the ring with the operations it needs and nothing else, and caps its kernel threads. Must
/// happen before the ring is enabled (IORING_SETUP_R_DISABLED, kernel 5.10).
pub(super) fn restrict(ring: &IoUring, setup: &Setup) -> Result<(), SetupError> {
    let submitter = ring.submitter();
    // The first number caps workers for files, the second those for what may block without bound.
    let mut workers = [setup.file_workers, setup.file_workers];
    submitter
        .register_iowq_max_workers(&mut workers)
        .map_err(|error| SetupError::Register("the cap on its kernel threads", error))?;
    if let Some(cpu) = setup.file_cpu {
        // Where that is refused they go where the scheduler puts them.
        let _ = submitter.register_iowq_aff(&cpu::set_of(cpu));
    }
    let mut restrictions: Vec<_> = OPCODES.iter().map(|&(code, _)| Restriction::sqe_op(code)).collect();
    restrictions.extend(REGISTRATIONS.iter().map(|&code| Restriction::register_op(code)));
    let flags = squeue::Flags::BUFFER_SELECT
        | squeue::Flags::SKIP_SUCCESS
        | squeue::Flags::ASYNC
        | squeue::Flags::IO_LINK;
    restrictions.push(Restriction::sqe_flags_allowed(flags.bits()));
    submitter
        .register_restrictions(&mut restrictions)
        .map_err(|error| SetupError::Register("its restrictions", error))
}

/// What the ring is allowed to do, and what is probed for at start.
const OPCODES: [(u8, &str); 15] = [
    (opcode::AcceptMulti::CODE, "accept (IORING_OP_ACCEPT)"),
    (opcode::Recv::CODE, "receive (IORING_OP_RECV)"),
    (opcode::Send::CODE, "send (IORING_OP_SEND)"),
    (opcode::Read::CODE, "read (IORING_OP_READ)"),
    (opcode::Writev::CODE, "vectored writes (IORING_OP_WRITEV)"),
    (opcode::OpenAt2::CODE, "openat2 (IORING_OP_OPENAT2)"),
    (opcode::Close::CODE, "close (IORING_OP_CLOSE)"),
    (opcode::SyncFileRange::CODE, "sync_file_range (IORING_OP_SYNC_FILE_RANGE)"),
    (opcode::Fsync::CODE, "fsync (IORING_OP_FSYNC)"),
    (opcode::Fallocate::CODE, "fallocate (IORING_OP_FALLOCATE)"),
    (opcode::MkDirAt::CODE, "mkdirat (IORING_OP_MKDIRAT)"),
    (opcode::LinkAt::CODE, "linkat (IORING_OP_LINKAT)"),
    (opcode::RenameAt::CODE, "renameat (IORING_OP_RENAMEAT)"),
    (opcode::UnlinkAt::CODE, "unlinkat (IORING_OP_UNLINKAT)"),
    (opcode::AsyncCancel::CODE, "cancellation (IORING_OP_ASYNC_CANCEL)"),
];

/// Registrations made after the ring is enabled (numbers of linux/io_uring.h): personalities come and
/// go with the mail owners, and the ring descriptor is registered by the thread that uses it.
const REGISTRATIONS: [u8; 5] = [
    9,  // IORING_REGISTER_PERSONALITY
    10, // IORING_UNREGISTER_PERSONALITY
    12, // IORING_REGISTER_ENABLE_RINGS
    20, // IORING_REGISTER_RING_FDS
    21, // IORING_UNREGISTER_RING_FDS
];

/// The user with no rights at all, on Linux.
const NOBODY: u32 = 65534;
