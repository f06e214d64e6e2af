//! Dovecot IMAP behind: what was delivered is what is read, and every size in a file name is trusted by it.

use crate::{
    dialog::Client,
    dovecot::DovecotImap,
    mailbox::{Mailbox, Users},
    messages::{odd_shapes, shapes},
    place::{Place, can_run},
    server::{Server, Settings},
};

/// Delivers every shape to two users, reads all back over IMAP, and wants no complaint.
fn dovecot_reads_everything(line_endings: &'static str) {
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test", "bob@example.test"]);
    let server = Server::start_with(&place, &users, &Settings { line_endings, ..Settings::default() });
    let mut client = Client::unix(&server.socket);
    client.expect("LHLO client.example.org", 250);
    let contents: Vec<Vec<u8>> =
        shapes().into_iter().chain(odd_shapes()).map(|(_, content)| content).collect();
    for content in &contents {
        let recipients = ["alice@example.test", "bob@example.test"];
        for reply in client.transaction("sender@example.org", &recipients, content, 2) {
            assert_eq!(reply.code, 250, "{reply:?}");
        }
    }
    client.expect("QUIT", 221);

    let mut imap = DovecotImap::start(&place, &users);
    for mailbox in &users.mailboxes {
        let mut session = imap.login(&mailbox.address);
        assert_eq!(session.list(), ["INBOX"], "Dovecot finds no other mailbox");
        let fetched = session.fetch_inbox();
        session.logout();
        assert_eq!(fetched.len(), contents.len(), "messages of {}", mailbox.address);
        assert_fetched_as_stored(
            mailbox,
            fetched.into_iter().map(|message| (message.size, message.body)).collect(),
        );
    }
    assert_eq!(imap.complaints_after(users.mailboxes.len()), Vec::<String>::new());
    server.stop();
}

/// Every file has its message, with the size that its name promises.
fn assert_fetched_as_stored(mailbox: &Mailbox, mut fetched: Vec<(usize, Vec<u8>)>) {
    for stored in mailbox.messages() {
        let expected = stored.with_crlf();
        let position = fetched.iter().position(|(_, body)| *body == expected);
        let (size, _) = fetched
            .swap_remove(position.unwrap_or_else(|| panic!("{} was not fetched", stored.path.display())));
        assert_eq!(size, stored.size_in_name(",W="), "RFC822.SIZE of {}", stored.path.display());
    }
    assert!(fetched.is_empty(), "IMAP shows a message without a file");
}

#[test]
fn dovecot_reads_every_message_stored_with_crlf_identically() {
    if can_run("dovecot_reads_every_message_stored_with_crlf_identically", true, &["dovecot", "imap"]) {
        dovecot_reads_everything("crlf");
    }
}

#[test]
fn dovecot_reads_every_message_stored_with_lf_identically() {
    if can_run("dovecot_reads_every_message_stored_with_lf_identically", true, &["dovecot", "imap"]) {
        dovecot_reads_everything("lf");
    }
}
