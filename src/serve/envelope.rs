//! One transaction: who sends, to whom, and since when. Lives in the transaction's arena.
#![forbid(unsafe_code)]

use std::cell::Cell;

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use crate::journal::Approach;
use crate::maildir::Mailbox;
use crate::ring::{Owner, Peer, Time};
use crate::users::record::User;

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
}

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
    /// The user it belongs to, as the table has them.
    pub user: &'a str,
    /// What the address adds to the user: the part behind the delimiter.
    pub detail: Option<&'a str>,
    /// Where the mail goes.
    pub mailbox: Mailbox<'a>,
    /// The recipient before this one that is the same; the message is stored once and told twice.
    pub same_as: Option<usize>,
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
        }
    }

    /// Adds a recipient that the user table knows.
    pub fn add(&mut self, address: &str, detail: Option<&str>, user: &User<'_>) {
        let same_as =
            self.recipients.iter().position(|other| other.user == user.address && other.detail == detail);
        let owner = match (user.uid, user.gid) {
            (Some(uid), Some(gid)) => Owner::User { uid, gid },
            (Some(uid), None) => Owner::User { uid, gid: uid },
            (None, _) => Owner::Server,
        };
        let mailbox = Mailbox {
            home: user.home.as_deref().map(|home| &*self.arena.alloc_str(home)),
            path: self.arena.alloc_str(&user.maildir()),
            owner,
        };
        self.recipients.push(Recipient {
            address: self.arena.alloc_str(address),
            user: self.arena.alloc_str(user.address),
            detail: detail.map(|detail| &*self.arena.alloc_str(detail)),
            mailbox,
            same_as,
        });
    }
}
