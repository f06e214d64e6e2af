//! A Unix socket and the file that names it: made with care, removed by who made it.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};

use super::config::Account;
use super::listen::{BACKLOG, FLAGS};
use super::listen_error::ListenError;

/// A socket file that this process made. Dropping it removes the file if it is still the same one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The directory as it was found, so that a renamed parent changes nothing.
    directory: OwnedFd,
    name: OsString,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Where it was made.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn is(&self, found: &Stat) -> bool {
        (found.st_dev, found.st_ino) == (self.device, self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have put its own socket here; removing that would cut it off.
        let found = fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| self.is(&found)) {
            // It is in nobody's way if this fails: the next start finds it stale.
            let _ = fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Binds and listens at `path`, with the given mode and owner.
///
/// The order makes it safe: until `listen`, connecting is refused by the kernel, and by then the file has
/// its mode and its owner. The file is made without any permission, so a failure in between opens nothing.
///
/// # Errors
/// See [`ListenError`]; a file that was already made is removed again.
pub(super) fn listen(
    path: &Path,
    mode: u32,
    user: Option<&Account>,
    group: Option<&Account>,
) -> Result<(OwnedFd, SocketFile), ListenError> {
    let failed = |step| move |error| ListenError::Unix { step, path: path.to_path_buf(), error };
    let (directory, name) = open_directory(path)?;
    remove_stale(path, &directory, &name)?;

    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)
        .map_err(failed("create a socket for"))?;
    // Linux gives the file the mode of the unbound socket, less the umask (unix(7), af_unix.c).
    fs::fchmod(&socket, Mode::empty()).map_err(failed("close for everybody"))?;
    let address = SocketAddrUnix::new(path).map_err(failed("bind"))?;
    net::bind(&socket, &address).map_err(failed("bind"))?;
    let (handle, file) = identify(path, directory, name)?;

    // Mode before owner: afterwards an unprivileged server might not be allowed to.
    set_mode(&handle, mode).map_err(failed("set the mode of"))?;
    set_owner(&handle, user, group).map_err(failed("set the owner of"))?;
    net::listen(&socket, BACKLOG).map_err(failed("listen on"))?;
    Ok((socket, file))
}

/// A handle on the file just bound, without following a link that somebody else, who may write to the
/// directory, has put in its place.
fn identify(path: &Path, directory: OwnedFd, name: OsString) -> Result<(OwnedFd, SocketFile), ListenError> {
    let failed = |error| ListenError::Unix { step: "find again", path: path.to_path_buf(), error };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = fs::openat(&directory, &name, flags, Mode::empty()).map_err(failed)?;
    let stat = fs::fstat(&handle).map_err(failed)?;
    let ours = FileType::from_raw_mode(stat.st_mode) == FileType::Socket
        && stat.st_uid == rustix::process::geteuid().as_raw();
    if !ours {
        return Err(ListenError::InTheWay { path: path.to_path_buf() });
    }
    let file =
        SocketFile { path: path.to_path_buf(), directory, name, device: stat.st_dev, inode: stat.st_ino };
    Ok((handle, file))
}

fn open_directory(path: &Path) -> Result<(OwnedFd, OsString), ListenError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let name = path.file_name().expect("the configuration takes no path without a file name");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = fs::open(parent, flags, Mode::empty())
        .map_err(|error| ListenError::Directory { path: parent.to_path_buf(), error })?;
    Ok((directory, name.to_owned()))
}

/// Removes a socket file that nobody listens on, and refuses anything else that has the name.
fn remove_stale(path: &Path, directory: &OwnedFd, name: &OsString) -> Result<(), ListenError> {
    let failed = |step| move |error| ListenError::Unix { step, path: path.to_path_buf(), error };
    let found = match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(ListenError::InTheWay { path: path.to_path_buf() });
    }
    let deadline = Instant::now() + DYING_TIME;
    loop {
        let probe = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)
            .map_err(failed("create a socket for"))?;
        let address = SocketAddrUnix::new(path).map_err(failed("probe"))?;
        match net::connect(&probe, &address) {
            // Nobody has it open for listening any more.
            Err(Errno::CONNREFUSED) => {
                return fs::unlinkat(directory, name, AtFlags::empty()).map_err(failed("remove the stale"));
            }
            Err(Errno::NOENT) => return Ok(()),
            // A full backlog is a server, too. One that was killed goes on listening until the kernel has
            // taken its rings apart, and nothing tells when that is.
            Ok(()) | Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(PROBE_PAUSE),
            Ok(()) | Err(Errno::AGAIN) => return Err(ListenError::InUse { path: path.to_path_buf() }),
            // A datagram socket.
            Err(Errno::PROTOTYPE) => return Err(ListenError::InTheWay { path: path.to_path_buf() }),
            Err(error) => return Err(failed("find out whether a server listens on")(error)),
        }
    }
}

/// Through /proc, as fchmod(2) refuses a handle without access and chmod(2) would follow links.
fn set_mode(handle: &OwnedFd, mode: u32) -> Result<(), Errno> {
    fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::from_raw_mode(mode))
}

fn set_owner(handle: &OwnedFd, user: Option<&Account>, group: Option<&Account>) -> Result<(), Errno> {
    if user.is_none() && group.is_none() {
        return Ok(());
    }
    let user = user.map(|account| Uid::from_raw(account.id));
    let group = group.map(|account| Gid::from_raw(account.id));
    fs::chownat(handle, "", user, group, AtFlags::EMPTY_PATH)
}

/// How long a server that was killed may be seen listening.
const DYING_TIME: Duration = Duration::from_secs(1);
/// Between two looks whether it still is.
const PROBE_PAUSE: Duration = Duration::from_millis(10);
