//! One file for one recipient, or for several who share it: opened, written, published, told.
//!
//! Everything goes side by side, and each recipient's outcome is known by itself: a full mailbox does not
//! fail its neighbour.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;

use super::body::HeadSize;
use crate::exec::join_all;
use crate::journal::{Entry, Touched};
use crate::maildir::{Draft, Fault, FileSystem, Mailbox, Place, Sizes, Store};
use crate::ring::{Approach, Bytes, Owner};

/// What became of each delivery; starts as "not done", which is what a client hears if nothing else
/// is ever said.
#[derive(Debug)]
pub struct Outcomes {
    known: RefCell<Vec<Option<Outcome>>>,
}

/// What became of one delivery.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Durable, under this name.
    Saved {
        /// The file, with its path.
        file: String,
    },
    /// Not delivered.
    Failed(Fault),
}

impl Outcomes {
    /// For `count` deliveries.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { known: RefCell::new((0..count).map(|_| None).collect()) }
    }

    /// Takes what is known of delivery `index`, once.
    pub fn take(&self, index: usize) -> Option<Outcome> {
        self.known.borrow_mut()[index].take()
    }

    /// Decides the outcome of delivery `index`.
    ///
    /// # Panics
    /// If it was decided before.
    pub fn set(&self, index: usize, outcome: Outcome) {
        let before = self.known.borrow_mut()[index].replace(outcome);
        assert!(before.is_none(), "an outcome is decided once");
    }
}

/// One delivery as the store sees it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Which delivery: an index into the outcomes.
    pub index: usize,
    /// Whose mailbox.
    pub mailbox: Mailbox<'a>,
}

/// Who can share a file: mailboxes of one owner on one file system.
type Sharing = (Owner, Option<u64>);

/// Deliveries by index, and their mailboxes.
type Members = Vec<(usize, Place)>;

/// One file in the making and those who will have it.
#[derive(Debug)]
pub struct Copy {
    /// In the order of the deliveries; the file is created in the first.
    members: Members,
    draft: Result<Draft, Fault>,
    head: Vec<u8>,
    head_size: HeadSize,
}

impl Copy {
    /// Opens a file for `target` alone. `head` is the trace headers.
    pub async fn open(store: &Store, target: Target<'_>, head: Vec<u8>, outcomes: &Outcomes) -> Option<Self> {
        match Place::find(store, target.mailbox).await {
            Ok(place) => Some(Self::create(store, vec![(target.index, place)], head).await),
            Err(fault) => {
                outcomes.set(target.index, Outcome::Failed(fault));
                None
            }
        }
    }

    /// Opens a file for `target` alone if that takes nothing but to open it: the mailbox is there, and the file
    /// vanishes by itself if nothing comes of it. Whatever speaks against it is found again, and told, when the
    /// message is there.
    pub async fn open_early(store: &Store, target: Target<'_>, head: Vec<u8>) -> Option<Self> {
        let place = Place::existing(store, target.mailbox).await.ok()??;
        let draft = Draft::create_unnamed(store, &place).await.ok()??;
        Some(Self {
            members: vec![(target.index, place)],
            draft: Ok(draft),
            head_size: HeadSize::of(&head),
            head,
        })
    }

    /// Whether the file is for delivery `index` and for nobody else.
    #[must_use]
    pub fn is_for(&self, index: usize) -> bool {
        matches!(&*self.members, [(member, _)] if *member == index)
    }

    /// Opens one file for each owner and file system among `targets`.
    pub async fn open_shared(
        store: &Store,
        targets: &[Target<'_>],
        head: &[u8],
        outcomes: &Outcomes,
    ) -> Vec<Self> {
        let mut found = Vec::with_capacity(targets.len());
        for some in targets.chunks(crate::limits::DELIVERIES_AT_ONCE) {
            found.extend(join_all(some.iter().map(|target| Place::find(store, target.mailbox))).await);
        }
        let mut groups: Vec<(Sharing, Members)> = Vec::new();
        for (target, found) in targets.iter().zip(found) {
            match found {
                Ok(place) => {
                    let key = (place.owner, place.device(store));
                    match groups.iter_mut().find(|(other, _)| *other == key) {
                        Some((_, members)) => members.push((target.index, place)),
                        None => groups.push((key, vec![(target.index, place)])),
                    }
                }
                Err(fault) => outcomes.set(target.index, Outcome::Failed(fault)),
            }
        }
        join_all(groups.into_iter().map(|(_, members)| Self::create(store, members, head.to_vec()))).await
    }

    async fn create(store: &Store, members: Members, head: Vec<u8>) -> Self {
        let draft = Draft::create(store, &members[0].1, members.len() > 1).await;
        Self { members, draft, head_size: HeadSize::of(&head), head }
    }

    /// Writes the next part of the message. A fault is kept until the end is told.
    pub async fn append(&mut self, store: &Store, body: &Rc<Vec<Bytes>>) {
        let Ok(draft) = &mut self.draft else { return };
        let head = std::mem::take(&mut self.head);
        let Err(fault) = draft.append(store, head, body).await else { return };
        if let Ok(draft) = std::mem::replace(&mut self.draft, Err(fault)) {
            draft.discard(store).await;
        }
    }

    /// The trace headers, until the first part of the message is written.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// What the trace headers add to the message.
    #[must_use]
    pub fn head_size(&self) -> HeadSize {
        self.head_size
    }

    /// Makes the file durable and gives it its names; each member's outcome is set as soon as it is known.
    pub async fn publish(self, store: &Store, sizes: Sizes, approach: Option<Approach>, outcomes: &Outcomes) {
        let settled = match self.draft {
            Ok(draft) => match draft.settle(store, approach).await {
                Ok(()) => Ok(draft),
                Err(fault) => {
                    draft.discard(store).await;
                    Err(fault)
                }
            },
            Err(fault) => Err(fault),
        };
        let draft = match settled {
            Ok(draft) => draft,
            Err(fault) => return fail_all(&self.members, fault, outcomes),
        };
        for some in self.members.chunks(crate::limits::DELIVERIES_AT_ONCE) {
            join_all(
                some.iter().map(|(index, place)| publish_one(store, &draft, *index, place, sizes, outcomes)),
            )
            .await;
        }
        draft.discard(store).await;
    }

    /// Gives the file its names, of a message that is on record: `plan` tells name and sizes for a recipient. What is
    /// in the journal needs no sync.
    pub async fn publish_recorded<'p>(
        self,
        store: &Store,
        entry: &Entry,
        plan: impl Fn(usize) -> (&'p str, Sizes),
        outcomes: &Outcomes,
    ) {
        let Self { members, draft, .. } = self;
        let draft = match draft {
            Ok(draft) => draft,
            Err(fault) => return fail_all(&members, fault, outcomes),
        };
        match draft.file_system(store) {
            Ok(FileSystem { device, on, failures }) => {
                entry.placed_on(&Touched { device, on, failures });
                for some in members.chunks(crate::limits::DELIVERIES_AT_ONCE) {
                    join_all(some.iter().map(|(index, place)| {
                        let (name, sizes) = plan(*index);
                        name_one(store, &draft, *index, place, name, sizes, outcomes)
                    }))
                    .await;
                }
            }
            Err(fault) => fail_all(&members, fault, outcomes),
        }
        draft.discard(store).await;
    }

    /// Ends a message that will not be delivered, and says so to its recipients.
    pub async fn fail(self, store: &Store, fault: Fault, outcomes: &Outcomes) {
        match self.draft {
            Ok(draft) => {
                fail_all(&self.members, fault, outcomes);
                draft.discard(store).await;
            }
            Err(fault) => fail_all(&self.members, fault, outcomes),
        }
    }

    /// Ends a message that will not be delivered.
    pub async fn discard(self, store: &Store) {
        if let Ok(draft) = self.draft {
            draft.discard(store).await;
        }
    }
}

async fn publish_one(
    store: &Store,
    draft: &Draft,
    index: usize,
    place: &Place,
    sizes: Sizes,
    outcomes: &Outcomes,
) {
    let outcome = match draft.publish(store, place, sizes).await {
        Ok(name) => Outcome::Saved { file: [&*place.directory(), "/new/", &*name].concat() },
        Err(fault) => Outcome::Failed(fault),
    };
    outcomes.set(index, outcome);
}

#[allow(clippy::too_many_arguments, reason = "each of them is a different thing")]
async fn name_one(
    store: &Store,
    draft: &Draft,
    index: usize,
    place: &Place,
    name: &str,
    sizes: Sizes,
    outcomes: &Outcomes,
) {
    let outcome = match draft.publish_recorded(store, place, name, sizes).await {
        Ok(name) => Outcome::Saved { file: [&*place.directory(), "/new/", &*name].concat() },
        Err(fault) => Outcome::Failed(fault),
    };
    outcomes.set(index, outcome);
}

fn fail_all(members: &[(usize, Place)], fault: Fault, outcomes: &Outcomes) {
    for (index, _) in members {
        outcomes.set(*index, Outcome::Failed(fault));
    }
}
