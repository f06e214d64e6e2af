//! One recipient's file: looked for, judged, and written again where it must be.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;

use rustix::io::Errno;

use super::Mode;
use crate::maildir::{Draft, Fault, Folder, Place, Step, Store, Stored};

/// What a file must hold: the trace headers, then the payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'s> {
    pub(super) sequence: u64,
    /// Which recipient of that record.
    pub(super) recipient: usize,
    pub(super) name: &'s str,
    pub(super) trace: &'s [u8],
    pub(super) payload: &'s [u8],
    /// Its share of the journal, for the progress.
    pub(super) weight: u64,
}

/// What was done for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Done {
    /// The file was there with its bytes.
    Present,
    /// It was not there.
    Written,
    /// It was there without all of its bytes, as a power cut leaves files.
    Replaced,
    /// Something else has its name: it was written under another.
    Beside,
}

/// The open mailbox of the file, and what is known of it.
pub(super) struct Desk<'d> {
    pub(super) store: &'d Store,
    pub(super) mode: Mode,
    pub(super) place: &'d Place,
    pub(super) listed: &'d RefCell<Listed>,
}

/// What the directories of a mailbox held when somebody first wanted to know. To list a directory once costs less
/// than to ask for each file that is missing.
#[derive(Debug, Default)]
pub(super) struct Listed {
    new: Option<Rc<Folder>>,
    /// Listed after `new/`: what a reader moves in the meantime is seen twice, not missed.
    cur: Option<Rc<Folder>>,
}

enum Found {
    Nothing,
    Same(Stored),
    Torn(Stored),
    Foreign,
}

impl Desk<'_> {
    /// Sees to it that the file is there, or says what that would take. `buffer` is for reading.
    pub(super) async fn ensure(&self, wanted: &Wanted<'_>, buffer: &mut Vec<u8>) -> Result<Done, Fault> {
        let mut names = (0..=OTHER_NAMES).map(|number| name(wanted.name, number)).peekable();
        let mut surprises = 0;
        // The other names are tried in the same order each time, so that a recovery which was killed finds what
        // it had written.
        while let Some(name) = names.peek() {
            let tried = match self.look(name, wanted, buffer).await? {
                Found::Same(stored) if self.mode == Mode::Rewrite => {
                    self.write(wanted, Way::Over(stored)).await.map(|()| Done::Present)
                }
                Found::Same(_) => return Ok(Done::Present),
                Found::Torn(stored) => {
                    self.write(wanted, Way::InsteadOf(stored, name)).await.map(|()| Done::Replaced)
                }
                Found::Nothing => {
                    let done = if name == wanted.name { Done::Written } else { Done::Beside };
                    self.write(wanted, Way::As(name)).await.map(|()| done)
                }
                Found::Foreign => {
                    names.next();
                    continue;
                }
            };
            match tried {
                // Somebody was quicker: look again at what they did.
                Err(Fault { step: Step::Publish, errno: Errno::EXIST }) if surprises < SURPRISES_MAX => {
                    surprises += 1;
                    *self.listed.borrow_mut() = Listed::default();
                }
                done => return done,
            }
        }
        Err(Fault { step: Step::Publish, errno: Errno::EXIST })
    }

    /// Looks for `name` in `new/` and then in `cur/`: the way that a reader moves it.
    async fn look(&self, name: &str, wanted: &Wanted<'_>, buffer: &mut Vec<u8>) -> Result<Found, Fault> {
        let new = self.list_new()?;
        let found = match new.open(self.store, self.place, name).await {
            Ok(None) => self.look_in_cur(name, new.has(name)).await,
            found => found,
        };
        match found {
            Ok(None) => Ok(Found::Nothing),
            Ok(Some(stored)) => judge(self.store, stored, wanted, buffer).await,
            Err(fault) if is_no_file(fault) => Ok(Found::Foreign),
            Err(fault) => Err(fault),
        }
    }

    /// `has_moved`: it was in `new/` when that was listed, so an older list of `cur/` does not have it.
    async fn look_in_cur(&self, name: &str, has_moved: bool) -> Result<Option<Stored>, Fault> {
        let known = self.listed.borrow().cur.clone().filter(|_| !has_moved);
        let cur = match known {
            Some(cur) => cur,
            None => self.list_cur().await?,
        };
        match cur.open(self.store, self.place, name).await? {
            // It was there: its flags have changed since, and so its name.
            None if cur.has(name) => self.list_cur().await?.open(self.store, self.place, name).await,
            found => Ok(found),
        }
    }

    fn list_new(&self) -> Result<Rc<Folder>, Fault> {
        let known = self.listed.borrow().new.clone();
        if let Some(new) = known {
            return Ok(new);
        }
        let listed = Rc::new(Folder::new_of(self.store, self.place)?);
        self.listed.borrow_mut().new = Some(Rc::clone(&listed));
        Ok(listed)
    }

    async fn list_cur(&self) -> Result<Rc<Folder>, Fault> {
        let listed = Rc::new(Folder::cur_of(self.store, self.place).await?);
        self.listed.borrow_mut().cur = Some(Rc::clone(&listed));
        Ok(listed)
    }

    /// Writes the file and gives it its name. A file in its way goes only when the new one is whole.
    async fn write(&self, wanted: &Wanted<'_>, way: Way<'_>) -> Result<(), Fault> {
        let (store, place) = (self.store, self.place);
        if self.mode == Mode::Look {
            return Ok(());
        }
        let mut draft = Draft::create(store, place, false).await?;
        let published = async {
            draft.append(store, wanted.bytes(), &Rc::default()).await?;
            match way {
                Way::As(name) => draft.publish_as(store, place, name).await,
                Way::InsteadOf(torn, name) => {
                    torn.remove(store).await?;
                    draft.publish_as(store, place, name).await
                }
                Way::Over(stored) => draft.publish_over(store, place, &stored).await,
            }
        };
        let published = published.await;
        draft.discard(store).await;
        published
    }
}

/// How a new file gets its name.
enum Way<'n> {
    /// In `new/`.
    As(&'n str),
    /// In `new/`, and another goes, wherever it is.
    InsteadOf(Stored, &'n str),
    /// Where a file with the same bytes is now.
    Over(Stored),
}

/// Compares a file with what it must hold.
async fn judge(
    store: &Store,
    stored: Stored,
    wanted: &Wanted<'_>,
    buffer: &mut Vec<u8>,
) -> Result<Found, Fault> {
    let mut same = true;
    let mut offset = 0;
    loop {
        let count = match stored.read(store, buffer, offset as u64).await {
            Ok(count) => count,
            Err(fault) if is_no_file(fault) => return Ok(Found::Foreign),
            Err(fault) => return Err(fault),
        };
        let is_whole = offset == wanted.len();
        match (count, same && is_whole) {
            (0, true) => return Ok(Found::Same(stored)),
            (0, false) => return Ok(Found::Torn(stored)),
            _ => {}
        }
        match wanted.compare(offset, &buffer[..count]) {
            Likeness::Same => {}
            Likeness::Zeroes => same = false,
            Likeness::Other => return Ok(Found::Foreign),
        }
        offset += count;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    /// The bytes that are wanted there.
    Same,
    /// They are, but for some that are zero: as after a power cut.
    Zeroes,
    /// Something else, or more than is wanted.
    Other,
}

impl Wanted<'_> {
    fn len(&self) -> usize {
        self.trace.len() + self.payload.len()
    }

    fn bytes(&self) -> Vec<u8> {
        [self.trace, self.payload].concat()
    }

    /// How the bytes that a file has at `offset` compare.
    fn compare(&self, offset: usize, bytes: &[u8]) -> Likeness {
        let in_trace = self.trace.get(offset..).unwrap_or_default();
        let (first, second) = bytes.split_at(bytes.len().min(in_trace.len()));
        let in_payload = offset.saturating_sub(self.trace.len());
        let (Some(trace), Some(payload)) = (
            in_trace.get(..first.len()),
            self.payload.get(in_payload..).and_then(|rest| rest.get(..second.len())),
        ) else {
            return Likeness::Other;
        };
        if first == trace && second == payload {
            return Likeness::Same;
        }
        let mut pairs = first.iter().zip(trace).chain(second.iter().zip(payload));
        if pairs.all(|(is, wanted)| is == wanted || *is == 0) { Likeness::Zeroes } else { Likeness::Other }
    }
}

/// The name to try as number `number`: the record's own first. Another name keeps its form, with the sizes in
/// it: `1.M2P3Q4W0.host,S=5` becomes `1.M2P3Q4W0R1.host,S=5`.
fn name(name: &str, number: u32) -> String {
    if number == 0 {
        return name.to_owned();
    }
    let second_dot = name.match_indices('.').nth(1).map(|(at, _)| at);
    let at = second_dot.or_else(|| name.find(',')).unwrap_or(name.len());
    format!("{}R{number}{}", &name[..at], &name[at..])
}

/// Whether this means that what has the name is a link or a directory.
fn is_no_file(fault: Fault) -> bool {
    matches!(fault.step, Step::OpenStored | Step::ReadStored)
        && matches!(fault.errno, Errno::LOOP | Errno::ISDIR | Errno::NXIO)
}

/// Other names that are tried where the own one is taken.
const OTHER_NAMES: u32 = 4;
/// How often somebody may be quicker.
const SURPRISES_MAX: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> =
        Wanted { sequence: 0, recipient: 0, name: "n", trace: b"head", payload: b"body", weight: 0 };

    #[test]
    fn a_piece_of_a_file_is_compared_wherever_it_begins() {
        let whole = WANTED.bytes();
        for from in 0..=whole.len() {
            for to in from..=whole.len() {
                let mut bytes = whole[from..to].to_vec();
                assert_eq!(WANTED.compare(from, &bytes), Likeness::Same);
                for index in 0..bytes.len() {
                    let was = std::mem::replace(&mut bytes[index], 0);
                    assert_eq!(WANTED.compare(from, &bytes), Likeness::Zeroes);
                    bytes[index] = b'x';
                    assert_eq!(WANTED.compare(from, &bytes), Likeness::Other);
                    bytes[index] = was;
                }
                bytes.resize(whole.len() - from + 1, 0);
                assert_eq!(WANTED.compare(from, &bytes), Likeness::Other, "longer than wanted");
            }
        }
    }

    #[test]
    fn another_name_keeps_the_form_of_the_first() {
        assert_eq!(name("1.M2P3Q4W0.mx.example,S=5,W=6", 0), "1.M2P3Q4W0.mx.example,S=5,W=6");
        assert_eq!(name("1.M2P3Q4W0.mx.example,S=5,W=6", 2), "1.M2P3Q4W0R2.mx.example,S=5,W=6");
        assert_eq!((name("a,S=1", 1), name("a", 1)), ("aR1,S=1".into(), "aR1".into()));
    }
}
