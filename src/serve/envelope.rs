//! One transaction: who sends, to whom, and since when. Lives in the transaction's arena.
//!
//! Recipients are who gets a reply; deliveries are the mailboxes that get a file. An alias is one recipient with
//! several deliveries, and a recipient given twice two recipients with the same one.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::rc::Rc;

use bumpalo::Bump;
use bumpalo::collections::{String as ArenaString, Vec as ArenaVec};

use super::loan::Loan;
use crate::journal::Approach;
use crate::maildir::{Mailbox, folder};
use crate::ring::{Owner, Peer, Time};
use crate::users::{Found, Target, user::Text};

/// The envelope of a message.
pub struct Envelope<'a> {
    arena: &'a Bump,
    /// The user table that the whole transaction is about, whatever replaces it meanwhile.
    pub table: Rc<Loan>,
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
        table: Rc<Loan>,
    ) -> Self {
        let name = client.name.map(|name| &*arena.alloc_str(name));
        Self {
            arena,
            table,
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
        let more = found.targets().filter(|target| self.position(target).is_none()).count();
        let has_room = self.deliveries.len() + more <= terms.deliveries_max;
        if more > 0 && !has_room && !self.recipients.is_empty() {
            return Err(TooManyDeliveries);
        }
        let address = &*self.arena.alloc_str(address);
        let mut deliveries = ArenaVec::new_in(self.arena);
        for target in found.targets() {
            let index = match self.position(target) {
                Some(index) => index,
                None => {
                    let delivery = self.delivery(address, target, terms);
                    // Two names for one mailbox in an alias are one delivery.
                    let is_same = |&index: &usize| self.deliveries[index].mailbox.is_as(&delivery.mailbox);
                    if deliveries.iter().any(is_same) {
                        continue;
                    }
                    self.deliveries.push(delivery);
                    self.deliveries.len() - 1
                }
            };
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
        deliveries.position(|other| target.user.address() == *other.user && other.detail == target.detail)
    }

    /// A delivery to `target`, for the recipient with this address.
    fn delivery(&self, address: &'a str, target: &Target<'_>, terms: &Terms) -> Delivery<'a> {
        let Target { user, detail } = target;
        let owner = match (user.uid(), user.gid()) {
            (Some(uid), Some(gid)) => Owner::User { uid, gid },
            (Some(uid), None) => Owner::User { uid, gid: uid },
            (None, _) => Owner::Server,
        };
        let folder = detail.filter(|_| terms.detail_to_folder).and_then(folder::directory_for);
        let copied = |text: &str| &*self.arena.alloc_str(text);
        let mailbox = Mailbox {
            home: user.home().map(|home| self.written(home)),
            path: self.written(user.maildir()),
            folder: folder.as_deref().map(copied),
            owner,
        };
        Delivery { address, user: self.written(user.address()), detail: detail.map(copied), mailbox }
    }

    /// A text of a user, which is put together here and nowhere else.
    fn written(&self, text: Text<'_>) -> &'a str {
        let mut written = ArenaString::with_capacity_in(text.len(), self.arena);
        text.write_to(&mut written).expect("an arena takes every text");
        written.into_bump_str()
    }
}

#[cfg(test)]
mod tests {
    use super::super::loan;
    use super::*;
    use crate::users::key::Base;
    use crate::users::{Entry, User};

    const TERMS: Terms = Terms { detail_to_folder: true, deliveries_max: 4 };

    fn target<'x>(address: &'x str, detail: Option<&'x str>) -> Target<'x> {
        let home = Some(format!("/mail/{address}"));
        let (address, mail, uid) = (address.to_owned(), "Maildir".to_owned(), Some(1001));
        let entry = Box::leak(Box::new(Entry { address, home, mail, uid, ..Entry::default() }));
        let user = User::of_entry(entry).unwrap();
        Target { user, detail }
    }

    fn found<'x>(targets: &[(&'x str, Option<&'x str>)]) -> Found<'x> {
        let mut targets = targets.iter().map(|&(address, detail)| target(address, detail));
        let target = targets.next().unwrap();
        Found { target, more: targets.collect(), base: Base { local: "x", domain: None } }
    }

    fn envelope(arena: &Bump) -> Envelope<'_> {
        let client = Client { name: None, peer: Peer::Local };
        let table = Rc::new(Loan::from(loan::empty_table()));
        Envelope::new(arena, client, "sender@example.org", false, Time(0), "id", table)
    }

    fn mailboxes(envelope: &Envelope<'_>) -> Vec<String> {
        envelope.deliveries.iter().map(|delivery| delivery.mailbox.directory().into_owned()).collect()
    }

    #[test]
    fn a_detail_names_a_folder_where_the_site_wants_it_and_else_nothing() {
        let arena = Bump::new();
        for (detail_to_folder, detail, expected) in [
            (true, None, "/mail/alice/Maildir"),
            (true, Some("lists.rust"), "/mail/alice/Maildir/.lists.rust"),
            (true, Some("../../bob"), "/mail/alice/Maildir"),
            (true, Some(""), "/mail/alice/Maildir"),
            (false, Some("lists.rust"), "/mail/alice/Maildir"),
        ] {
            let mut envelope = envelope(&arena);
            let terms = Terms { detail_to_folder, ..TERMS };
            envelope.add("alice@x", &found(&[("alice", detail)]), &terms).unwrap();
            assert_eq!(mailboxes(&envelope), [expected], "{detail:?}");
            let Delivery { user, mailbox, .. } = envelope.deliveries[0];
            assert_eq!((user, mailbox.path), ("alice", "/mail/alice/Maildir"));
            assert_eq!(mailbox.owner, Owner::User { uid: 1001, gid: 1001 });
        }
    }

    #[test]
    fn an_alias_is_one_recipient_and_each_of_its_mailboxes_one_delivery() {
        let arena = Bump::new();
        let mut envelope = envelope(&arena);
        let team =
            [("alice", None), ("bob", None), ("alice", Some("x")), ("bob", None), ("bob", Some("../y"))];
        envelope.add("bob@x", &found(&[("bob", None)]), &TERMS).unwrap();
        envelope.add("team@x", &found(&team), &TERMS).unwrap();
        envelope.add("bob@x", &found(&[("bob", None)]), &TERMS).unwrap();
        assert_eq!(
            mailboxes(&envelope),
            ["/mail/bob/Maildir", "/mail/alice/Maildir", "/mail/alice/Maildir/.x"]
        );
        let led: Vec<_> = envelope.recipients.iter().map(|one| (one.address, one.deliveries)).collect();
        assert_eq!(led, [("bob@x", &[0][..]), ("team@x", &[1, 0, 2]), ("bob@x", &[0])]);
        // Delivered-To names who was first to lead there.
        assert_eq!(
            envelope.deliveries.iter().map(|one| one.address).collect::<Vec<_>>(),
            ["bob@x", "team@x", "team@x"]
        );
    }

    #[test]
    fn two_recipients_with_other_details_are_two_deliveries_even_to_one_mailbox() {
        let arena = Bump::new();
        let mut envelope = envelope(&arena);
        let terms = Terms { detail_to_folder: false, ..TERMS };
        for detail in [Some("a"), Some("b"), Some("a")] {
            envelope.add("alice@x", &found(&[("alice", detail)]), &terms).unwrap();
        }
        assert_eq!((envelope.recipients.len(), envelope.deliveries.len()), (3, 2));
    }

    #[test]
    fn a_recipient_with_too_many_mailboxes_comes_again_unless_he_is_the_first() {
        let arena = Bump::new();
        let team = found(&[("a", None), ("b", None), ("c", None), ("d", None), ("e", None)]);
        let mut alone = envelope(&arena);
        alone.add("team@x", &team, &TERMS).unwrap();
        assert_eq!(alone.deliveries.len(), 5);
        // Who adds nothing is always welcome.
        alone.add("a@x", &found(&[("a", None)]), &TERMS).unwrap();
        assert_eq!(alone.add("f@x", &found(&[("f", None)]), &TERMS), Err(TooManyDeliveries));

        let mut second = envelope(&arena);
        second.add("a@x", &found(&[("a", None)]), &TERMS).unwrap();
        assert_eq!(second.add("team@x", &team, &TERMS), Err(TooManyDeliveries));
        assert_eq!((second.recipients.len(), second.deliveries.len()), (1, 1));
        second.add("four@x", &found(&[("a", None), ("b", None), ("c", None), ("d", None)]), &TERMS).unwrap();
        assert_eq!(second.deliveries.len(), 4);
    }
}
