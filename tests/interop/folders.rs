//! Folders by detail: Dovecot's own are found under any name, and Dovecot finds and lists those that were made.

use crate::{
    dialog::Client,
    dovecot::DovecotImap,
    mailbox::Users,
    messages::with_body,
    place::{Place, can_run},
    server::{Program, Server, Settings},
};

#[test]
fn dovecot_and_the_server_mean_the_same_folder_by_a_name() {
    if !can_run("dovecot_and_the_server_mean_the_same_folder_by_a_name", true, &["dovecot", "imap"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let mut imap = DovecotImap::start(&place, &users);
    let mut session = imap.login(&users.mailboxes[0].address);
    let there = ["lists.rust", "a&-b", "B&APw-cher", "&ZeVnLA-.&2D3c7A-"];
    there.iter().for_each(|name| session.create(name));
    let before = session.list();
    assert_eq!(session.subscribed(), Vec::<String>::new());

    let settings = Settings { folders: true, ..Settings::default() };
    let server = Server::start_with(&place, &users, &settings);
    let mut client = Client::unix(&server.socket);
    client.expect("LHLO client.example.org", 250);
    let mut deliver = |detail: &str| {
        // Dovecot's LMTP server takes no addresses in UTF-8.
        if !detail.is_ascii() && server.program == Program::DovecotLmtp {
            return None;
        }
        let parameters = if detail.is_ascii() { "" } else { " SMTPUTF8" };
        client.expect(&format!("MAIL FROM:<sender@example.org>{parameters}"), 250);
        client.expect(&format!("RCPT TO:<alice+{detail}@example.test>"), 250);
        client.expect("DATA", 354);
        client.send(&with_body("folder", format!("for {detail}\r\n").as_bytes()));
        client.send(b".\r\n");
        let reply = client.reply();
        assert_eq!(reply.code, 250, "{reply:?}");
        Some(detail.to_owned())
    };
    let details = ["lists.rust", "a&b", "B\u{fc}cher", "\u{65e5}\u{672c}.\u{1f4ec}"];
    let delivered: Vec<_> = details.into_iter().map(&mut deliver).collect();
    for (name, detail) in there.iter().zip(delivered) {
        let Some(detail) = detail else { continue };
        let fetched = session.fetch(name);
        assert_eq!(fetched.len(), 1, "{name}");
        assert!(fetched[0].body.ends_with(format!("for {detail}\r\n").as_bytes()), "{name}");
    }
    assert_eq!(session.list(), before, "nothing was made beside them");

    // What is new is made, and subscribed, in the list as Dovecot begins it and behind what Dovecot has in it.
    let new = [("new", "new"), ("lists.new", "lists.new"), ("Neu\u{df}", "Neu&AN8-"), ("Inbox.x", "INBOX.x")];
    let made: Vec<&str> =
        new.into_iter().filter(|(detail, _)| deliver(detail).is_some()).map(|(_, name)| name).collect();
    let mut expected = made.clone();
    expected.sort_unstable();
    // A session that has listed mailboxes may keep what it saw for a while.
    session.logout();
    let mut session = imap.login(&users.mailboxes[0].address);
    assert_eq!(session.subscribed(), expected);
    let listed = session.list();
    for name in &made {
        assert!(listed.iter().any(|other| other == name), "{name} in {listed:?}");
        assert_eq!(session.fetch(name).len(), 1, "{name}");
    }
    // No folders.
    let others = ["../x", "a..b", "~root", "INBOX"];
    others.into_iter().for_each(|detail| assert!(deliver(detail).is_some()));
    assert_eq!(session.fetch_inbox().len(), others.len());
    session.logout();
    client.expect("QUIT", 221);
    assert_eq!(imap.complaints_after(2), Vec::<String>::new());
    server.stop();
}
