//! One transaction: who sends, to whom, and since when. Lives in the transaction's arena.
//!
//! Recipients are who gets a reply; deliveries are the mailboxes that get a file. An alias is one recipient with
//! several deliveries, and a recipient given twice two recipients with the same one.
#![forbid(unsafe_code)]

use std::cell::Cell;

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use crate::journal::Approach;
use crate::maildir::{Mailbox, folder};
use crate::ring::{Owner, Peer, Time};
use crate::users::{Found, Target};

/// The envelope of a message.
pub struct Envelope<'a> {
    arena: &'a Bump,
    /// Until the message is in line for the journal.
    pub approach: Cell<Option<Approach>>,
    /// Who sends the message.
    pub client: Client<'a>,
    /// The sender without brackets; empty for the null path.
    pub sender: &'a str,
    /// The client asked for internationalised addresses (RFC 6531).
    pub smtputf8: bool,
    /// When MAIL came.
    pub started: Time,
    /// The id that trace header, reply and log carry.
    pub id: &'a str,
    /// Accepted recipients, in the order of RCPT, which is the order of the replies.
    pub recipients: ArenaVec<'a, Recipient<'a>>,
    /// The mailboxes that get the message, each once, in the order in which recipients first led to them.
    pub deliveries: ArenaVec<'a, Delivery<'a>>,
}

/// What a site says about the recipients of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The detail of an address names a folder; else it means nothing.
    pub detail_to_folder: bool,
    /// Deliveries of one transaction. The first recipient may have more.
    pub deliveries_max: usize,
}

/// A recipient with whom the transaction would have too many deliveries. He was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyDeliveries;

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The name given in LHLO.
    pub name: Option<&'a str>,
    /// Where the connection comes from.
    pub peer: Peer,
}

/// One accepted recipient.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// The address as the client gave it.
    pub address: &'a str,
    /// Where his mail goes, as indices of the envelope's deliveries; at least one.
    pub deliveries: &'a [usize],
}

/// One mailbox that gets the message.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The address of the first recipient who leads here, as the client gave it.
    pub address: &'a str,
    /// Whose mailbox it is, as the table has them.
    pub user: &'a str,
    /// What the address adds to the user: the part behind the delimiter.
    pub detail: Option<&'a str>,
    /// Where it is.
    pub mailbox: Mailbox<'a>,
}

impl<'a> Envelope<'a> {
    /// An envelope without recipients.
    #[must_use]
    pub fn new(
        arena: &'a Bump,
        client: Client<'_>,
        sender: &str,
        smtputf8: bool,
        started: Time,
        id: &str,
    ) -> Self {
        let name = client.name.map(|name| &*arena.alloc_str(name));
        Self {
            arena,
            approach: Cell::new(None),
            client: Client { name, peer: client.peer },
            sender: arena.alloc_str(sender),
            smtputf8,
            started,
            id: arena.alloc_str(id),
            recipients: ArenaVec::new_in(arena),
            deliveries: ArenaVec::new_in(arena),
        }
    }

    /// Adds a recipient that the user table knows.
    ///
    /// # Errors
    /// An alias leads to more mailboxes than the transaction has room for. The recipient may come again in one of his
    /// own: the first is always added.
    pub fn add(&mut self, address: &str, found: &Found<'_>, terms: &Terms) -> Result<(), TooManyDeliveries> {
        let others = found.targets().filter(|target| self.position(target).is_none()).count();
        let is_first = self.recipients.is_empty();
        if !is_first && self.deliveries.len() + others > terms.deliveries_max {
            return Err(TooManyDeliveries);
        }
        let address = &*self.arena.alloc_str(address);
        let mut deliveries = ArenaVec::new_in(self.arena);
        for target in found.targets() {
            let index = self.position(target).unwrap_or_else(|| self.deliver_to(address, target, terms));
            // Two names for one mailbox in an alias are one delivery.
            if !deliveries.contains(&index) {
                deliveries.push(index);
            }
        }
        self.recipients.push(Recipient { address, deliveries: deliveries.into_bump_slice() });
        Ok(())
    }

    /// The delivery to `target`, if there is one.
    fn position(&self, target: &Target<'_>) -> Option<usize> {
        let mut deliveries = self.deliveries.iter();
        deliveries.position(|other| other.user == target.user.address && other.detail == target.detail)
    }

    /// Adds a delivery to `target`.
    fn deliver_to(&mut self, address: &'a str, target: &Target<'_>, terms: &Terms) -> usize {
        let Target { user, detail } = target;
        let owner = match (user.uid, user.gid) {
            (Some(uid), Some(gid)) => Owner::User { uid, gid },
            (Some(uid), None) => Owner::User { uid, gid: uid },
            (None, _) => Owner::Server,
        };
        let folder = detail.filter(|_| terms.detail_to_folder).and_then(folder::directory_for);
        let mailbox = Mailbox {
            home: user.home.as_deref().map(|home| &*self.arena.alloc_str(home)),
            path: self.arena.alloc_str(&user.maildir()),
            folder: folder.map(|folder| &*self.arena.alloc_str(&folder)),
            owner,
        };
        self.deliveries.push(Delivery {
            address,
            user: self.arena.alloc_str(user.address),
            detail: detail.map(|detail| &*self.arena.alloc_str(detail)),
            mailbox,
        });
        self.deliveries.len() - 1
    }
}
