//! Read-only mappings of whole files, and own copies of them.
//!
//! Owns the calls that turn a file into a slice. Promises that the slice has the length that `fstat` gave and
//! stays at its place as long as the [`Mapping`] lives; that of an own copy ([`Mapping::own`]) also keeps its
//! bytes, whatever is done to the file. Never writes to what it did not make, and never looks at what it maps.
#![allow(unsafe_code)] // this folder is where the unsafe calls live; those below say why they are sound

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Advice, Mmap, MmapMut, MmapOptions, UncheckedAdvice};
use rustix::fs::{Mode, OFlags};

use super::pace;

/// Where an own copy of a file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// In what.
    pub place: Place,
    /// Lock it in memory, so that the kernel never takes its pages away.
    pub lock: bool,
}

/// What holds the bytes of an own copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Memory that belongs to no file.
    Memory,
    /// A file without a name in this directory. The kernel may drop its pages and read them again. It is a
    /// clone, which takes neither time nor room, where the file system can make one of the original.
    File(PathBuf),
}

/// The bytes of a file, read through the page cache.
///
/// One that was [opened](Mapping::open) rests on a law: **a mapped file is only ever replaced by rename, never
/// rewritten or truncated in place.** Who breaks it gets SIGBUS or changing bytes, so the server, which others
/// depend on, maps [copies of its own](Mapping::own) only.
#[derive(Debug)]
pub struct Mapping {
    map: Mmap,
    /// The file, and when it was last written to; none for a copy.
    source: Option<(File, SystemTime)>,
}

impl Mapping {
    /// Maps the file at `path`, which may be a symbolic link, from its first to its last byte.
    ///
    /// # Errors
    /// Whatever `open`, `fstat` or `mmap` say; `InvalidInput` if this is not a regular file. An empty file is
    /// an empty slice.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, metadata) = open_regular(path)?;
        let length = usize::try_from(metadata.len()).map_err(io::Error::other)?;
        if length == 0 {
            return Self::copy_of(&[]);
        }
        let written = metadata.modified()?;
        let map = Self::of(&file, length)?;
        Ok(Self { map, source: Some((file, written)) })
    }

    /// Makes a copy of the file at `path` that nobody else can write to or truncate, with all its pages in
    /// memory. Takes as long as reading the file does.
    ///
    /// The copy may be torn if somebody writes to the file meanwhile. A file whose size or time changed is refused;
    /// that the rest is whole is for checksums to say.
    ///
    /// # Errors
    /// Whatever the system said, with the step and the remedy.
    pub fn own(path: &Path, keep: &Keep) -> io::Result<Self> {
        let (file, before) = open_regular(path).map_err(failed("cannot open it"))?;
        let length = usize::try_from(before.len()).map_err(io::Error::other)?;
        if length == 0 {
            return Self::copy_of(&[]);
        }
        let map = match &keep.place {
            Place::Memory => read_into_memory(&file, length)?,
            Place::File(directory) => copy_into_file(&file, length, directory)?,
        };
        let after = file.metadata().map_err(failed("cannot look at it"))?;
        if before.len() != after.len() || before.modified()? != after.modified()? {
            return Err(io::Error::other("somebody wrote to it while it was read; replace it by rename"));
        }
        if keep.lock {
            map.lock().map_err(failed("cannot lock it in memory (raise LimitMEMLOCK)"))?;
        }
        Ok(Self { map, source: None })
    }

    /// A private mapping that holds a copy of `bytes`: it depends on no file, so nothing can change it.
    ///
    /// # Errors
    /// Only when there is no memory or no address space left.
    pub fn copy_of(bytes: &[u8]) -> io::Result<Self> {
        // An anonymous mapping of length zero is refused by the kernel; memmap2 rounds it up by itself and
        // still reports the length asked for.
        let mut map = MmapMut::map_anon(bytes.len())?;
        // Large copies are read at random: with small pages, each read would look up its page's address first. A
        // kernel without huge pages refuses, which costs time and nothing else.
        let _ = map.advise(Advice::HugePage);
        map.copy_from_slice(bytes);
        Ok(Self { map: map.make_read_only()?, source: None })
    }

    /// Whether nobody but us could ever write to it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.source.is_none()
    }

    /// Whether somebody has broken the law: the file was written to, or has another length. Costs a system
    /// call. A file that was replaced, as it should be, is the same to us as before.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        let Some((file, written)) = &self.source else { return false };
        let same = |metadata: &Metadata| {
            metadata.len() == self.map.len() as u64 && metadata.modified().is_ok_and(|now| now == *written)
        };
        !file.metadata().is_ok_and(|metadata| same(&metadata))
    }

    fn of(file: &File, length: usize) -> io::Result<Mmap> {
        // SAFETY: the slice must not change or shrink under its readers. For a file of others the law above gives
        // that: `users::build` publishes a table by rename, and the documentation asks the same of who copies one
        // by hand. For an own file (`copy_into_file`) we uphold it alone: it has no name, so nobody can open it.
        // There is no safe way to map a file.
        let map = unsafe { MmapOptions::new().len(length).map(file) }?;
        // What is not in memory yet is then read a huge page at a time, where the file system can.
        if length >= HUGE_FROM {
            let _ = map.advise(Advice::HugePage);
        }
        Ok(map)
    }
}

/// Memory for something large that is soon over. It takes up what was put into it, and all of it goes back to the kernel when
/// it is dropped: an allocator would keep it for later.
#[derive(Debug)]
pub struct Room {
    map: MmapMut,
    length: usize,
}

impl Room {
    /// Room for so many bytes, none of them taken up yet.
    ///
    /// # Errors
    /// Only when there is no address space left, or the kernel promises no memory that it might not have.
    pub fn new(bytes_max: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(bytes_max).no_reserve_swap().map_anon()?;
        Ok(Self { map, length: 0 })
    }

    /// Puts `bytes` behind what is there; false, and nothing is done, if there is no room for them.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(place) = self.map.get_mut(self.length..self.length + bytes.len()) else { return false };
        place.copy_from_slice(bytes);
        self.length += bytes.len();
        true
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[..self.length]
    }
}

fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    // O_NONBLOCK: a FIFO in this place must be an error, not a server that waits for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return Ok((file, metadata));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

fn read_into_memory(mut file: &File, length: usize) -> io::Result<Mmap> {
    let mut map = MmapMut::map_anon(length).map_err(failed("no memory for a copy of it"))?;
    if length >= HUGE_FROM {
        let _ = map.advise(Advice::HugePage);
    }
    for piece in map.chunks_mut(PIECE_BYTES) {
        pace::breathe();
        file.read_exact(piece).map_err(failed("cannot read it"))?;
    }
    map.make_read_only()
}

fn copy_into_file(file: &File, length: usize, directory: &Path) -> io::Result<Mmap> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let copy = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| {
        let what = format!("cannot make a file without a name in {} for a copy of it", directory.display());
        failed(&what)(errno.into())
    })?;
    let copy = File::from(copy);
    // Only a file system that shares blocks can clone, and only within itself.
    if rustix::fs::ioctl_ficlone(&copy, file).is_err() {
        // The kernel keeps what is written at once on one page if it can.
        let piece_bytes = if length >= HUGE_FROM { HUGE_PAGE_BYTES } else { PIECE_BYTES };
        copy_in_pieces(file, &copy, piece_bytes)
            .map_err(failed("cannot copy it into the state directory"))?;
    }
    let copied = copy.metadata().map_err(failed("cannot look at the copy of it"))?;
    if copied.len() != length as u64 {
        return Err(io::Error::other("somebody wrote to it while it was copied; replace it by rename"));
    }
    let map = Mapping::of(&copy, length).map_err(failed("cannot map the copy of it"))?;
    // A disk that fails says so here; a later look would be a SIGBUS.
    for begin in (0..length).step_by(PIECE_BYTES) {
        pace::breathe();
        let piece = PIECE_BYTES.min(length - begin);
        map.advise_range(Advice::PopulateRead, begin, piece).map_err(failed("cannot read the copy of it"))?;
    }
    Ok(map)
}

fn copy_in_pieces(mut file: &File, mut copy: &File, piece_bytes: usize) -> io::Result<()> {
    let mut piece = vec![0; piece_bytes];
    loop {
        pace::breathe();
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => copy.write_all(&piece[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Puts the step before what the system said.
fn failed(step: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{step}: {error}"))
}

/// What is read at once: a few ten microseconds on a thread that has time for its work ([`pace`]).
const PIECE_BYTES: usize = 64 << 10;

/// From this length on, huge pages are asked for: fewer misses of the TLB later; it is as right without. But the kernel
/// clears or fills a huge page in one go of half a millisecond, in which others wait for the CPU, so a table that the
/// TLB nearly covers is better off with small ones.
const HUGE_FROM: usize = 256 << 20;

/// Octets of a huge page, where small ones have 4096.
const HUGE_PAGE_BYTES: usize = 2 << 20;

impl Drop for Mapping {
    /// Gives the memory back piece by piece: all at once takes long, and others want the CPU meanwhile.
    fn drop(&mut self) {
        if self.source.is_some() {
            return;
        }
        // One huge page at once, or 512 small ones.
        for begin in (0..self.map.len()).step_by(HUGE_PAGE_BYTES) {
            pace::breathe();
            let piece = HUGE_PAGE_BYTES.min(self.map.len() - begin);
            // SAFETY: the pages are gone afterwards, or read as zeroes. Nobody can look any more: slices of the map
            // borrow the `Mapping`, which its owner is dropping.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, begin, piece) };
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::{HUGE_FROM, Keep, Mapping, Place, Room};

    /// The ways to keep a copy, the second beneath `directory`.
    fn ways(directory: &std::path::Path) -> [Keep; 3] {
        let keep = |place, lock| Keep { place, lock };
        [
            keep(Place::Memory, false),
            keep(Place::File(directory.to_owned()), false),
            keep(Place::Memory, true),
        ]
    }

    #[test]
    fn an_own_copy_stays_whatever_is_done_to_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let text = "first ".repeat(100_000);
        for keep in ways(directory.path()) {
            std::fs::write(&path, &text).unwrap();
            let copy = Mapping::own(&path, &keep).unwrap();
            // Truncates it and writes it again.
            std::fs::write(&path, "another").unwrap();
            assert!(*copy == *text.as_bytes(), "{keep:?}");
            std::fs::File::create(&path).unwrap();
            assert!(*copy == *text.as_bytes(), "{keep:?}");
            assert!(!copy.is_changed());
            let names = std::fs::read_dir(directory.path()).unwrap().count();
            assert_eq!(names, 1, "the copy has no name");
        }
    }

    #[test]
    fn what_cannot_be_copied_is_refused_with_the_step() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for keep in ways(directory.path()) {
            let missing = Mapping::own(&path, &keep).unwrap_err().to_string();
            assert!(missing.starts_with("cannot open it: No such file"), "{missing}");
            let refused = Mapping::own(directory.path(), &keep).unwrap_err().to_string();
            assert_eq!(refused, "cannot open it: not a regular file");
        }
        std::fs::write(&path, "text").unwrap();
        let nowhere = Keep { place: Place::File(directory.path().join("gone")), lock: false };
        let error = Mapping::own(&path, &nowhere).unwrap_err().to_string();
        assert!(error.contains("file without a name in") && error.contains("gone"), "{error}");
        std::fs::write(&path, "").unwrap();
        assert!(Mapping::own(&path, &nowhere).unwrap().is_empty());
    }

    #[test]
    fn a_mapping_shows_the_whole_file_and_survives_its_replacement_by_rename() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) = (directory.path().join("file"), directory.path().join("next"));
        std::fs::write(&path, b"first").unwrap();
        let mapping = Mapping::open(&path).unwrap();
        std::fs::write(&next, b"the second").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(&*mapping, b"first");
        assert_eq!(&*Mapping::open(&path).unwrap(), b"the second");
    }

    #[test]
    fn room_holds_what_was_put_into_it_and_no_more_than_it_has() {
        let mut room = Room::new(5).unwrap();
        assert!(room.is_empty());
        assert!(room.append(b"abc") && !room.append(b"def") && room.append(b"de"));
        assert_eq!(&*room, b"abcde");
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Mapping::open(file.path()).unwrap().is_empty());
    }

    #[test]
    fn a_directory_and_a_fifo_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Mapping::open(directory.path()).is_err());
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(Mapping::open(&fifo).is_err());
    }

    #[test]
    fn a_large_file_asks_for_huge_pages_and_a_small_one_does_not() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return; // This kernel was built without them.
        }
        let directory = tempfile::tempdir().unwrap();
        for (name, length, expected) in [("small", HUGE_FROM - 1, false), ("large", HUGE_FROM, true)] {
            let path = directory.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(length as u64).unwrap();
            let mapping = Mapping::open(&path).unwrap();
            assert_eq!(vm_flags(&path).contains(" hg"), expected, "{name}");
            drop(mapping);
        }
    }

    /// What the kernel says about the mapping of a file (proc_pid_smaps(5)).
    fn vm_flags(path: &std::path::Path) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let of_file = smaps.lines().skip_while(|line| !line.ends_with(path.to_str().unwrap()));
        of_file.into_iter().find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
    }
}
