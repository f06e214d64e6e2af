//! Postfix in front: the three ways in which its manual hands mail to an LMTP server.

use crate::{
    dialog::Client,
    mailbox::{Stored, Users, assert_same_messages},
    messages::{shapes, with_body},
    place::{Place, can_run},
    postfix::Postfix,
    server::{Program, Server, Settings},
};

/// All mail of a virtual domain goes to the server.
fn virtual_domain(server: &Server) -> String {
    format!(
        "virtual_mailbox_domains = example.test\n\
         virtual_mailbox_maps =\n\
         virtual_transport = lmtp:unix:{}\n",
        server.socket.display()
    )
}

fn originals(messages: &[Stored]) -> Vec<Vec<u8>> {
    messages.iter().map(Stored::original).collect()
}

#[test]
fn every_shape_submitted_with_sendmail_arrives_byte_for_byte() {
    if !can_run("every_shape_submitted_with_sendmail_arrives_byte_for_byte", true, &["postfix", "sendmail"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let server = Server::start(&place, &users);
    let mut postfix = Postfix::start(&place, &virtual_domain(&server));

    let shapes = shapes();
    for (_, content) in &shapes {
        postfix.submit("sender@example.org", "alice@example.test", content);
    }
    postfix.wait_until_queue_is_empty();

    let messages = users.mailboxes[0].messages();
    assert_same_messages(originals(&messages), &shapes);
    server.stop();
}

#[test]
fn every_shape_sent_over_smtp_arrives_byte_for_byte_behind_its_trace() {
    if !can_run("every_shape_sent_over_smtp_arrives_byte_for_byte_behind_its_trace", true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let server = Server::start(&place, &users);
    let mut postfix = Postfix::start(&place, &virtual_domain(&server));

    let mut shapes = shapes();
    shapes.push(("as few headers as there can be", b"Subject: bare\r\n\r\nbody\r\n".to_vec()));
    for (_, content) in &shapes {
        postfix.send("sender@example.org", &["alice@example.test"], content);
    }
    postfix.wait_until_queue_is_empty();

    let messages = users.mailboxes[0].messages();
    for message in &messages {
        let (trace, rest) = message.split_trace();
        assert_eq!(trace.return_path, "<sender@example.org>");
        assert_eq!(trace.delivered_to.as_deref(), Some("alice@example.test"));
        assert!(trace.received.contains("LMTP"), "{}", trace.received);
        assert!(rest.starts_with(b"Received: from client.example.org"), "Postfix's own trace comes next");
    }
    assert_same_messages(originals(&messages), &shapes);
    server.stop();
}

#[test]
fn fifty_recipients_of_one_message_each_get_their_own_copy() {
    if !can_run("fifty_recipients_of_one_message_each_get_their_own_copy", true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let addresses: Vec<String> = (0..50).map(|number| format!("user{number}@example.test")).collect();
    let users = Users::named(&place, &addresses);
    let server = Server::start(&place, &users);
    let mut postfix = Postfix::start(&place, &virtual_domain(&server));

    let content = with_body("fifty", b"To all of you.\r\n");
    postfix.send("sender@example.org", &addresses, &content);
    postfix.wait_until_queue_is_empty();

    for mailbox in &users.mailboxes {
        let messages = mailbox.messages();
        assert_same_messages(originals(&messages), &[("the message", content.clone())]);
        // Dovecot leaves Delivered-To out when there are several recipients.
        if server.program == Program::Posthaste {
            let (trace, _) = messages[0].split_trace();
            assert_eq!(trace.delivered_to.as_deref(), Some(&*mailbox.address));
        }
    }
    server.stop();
}

#[test]
fn a_null_sender_and_a_detail_arrive_in_the_plain_mailbox() {
    if !can_run("a_null_sender_and_a_detail_arrive_in_the_plain_mailbox", true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let server = Server::start(&place, &users);
    let mut postfix = Postfix::start(&place, &virtual_domain(&server));

    postfix.send("", &["alice+lists@example.test"], &with_body("detail", b"a bounce\r\n"));
    postfix.wait_until_queue_is_empty();

    let messages = users.mailboxes[0].messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].split_trace().0.return_path, "<>");
    server.stop();
}

#[test]
fn system_users_behind_mailbox_transport_are_found_by_their_local_part() {
    if !can_run("system_users_behind_mailbox_transport_are_found_by_their_local_part", true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    // The second is a user of every Debian, the first of none: local(8) must hand on both.
    let users = Users::named(&place, &["alice", "games"]);
    let settings = Settings { local_domain: Some("mx.example.test"), ..Settings::default() };
    let server = Server::start_with(&place, &users, &settings);
    let main = format!(
        "mydestination = mx.example.test\n\
         local_recipient_maps =\n\
         mailbox_transport = lmtp:unix:{}\n",
        server.socket.display()
    );
    let mut postfix = Postfix::start(&place, &main);

    let content = with_body("local", b"for a user of this host\r\n");
    postfix.send("sender@example.org", &["alice@mx.example.test", "games@mx.example.test"], &content);
    postfix.wait_until_queue_is_empty();

    for mailbox in &users.mailboxes {
        assert_same_messages(originals(&mailbox.messages()), &[(&mailbox.address, content.clone())]);
    }
    server.stop();
}

#[test]
fn an_unknown_address_is_refused_while_it_is_verified_and_no_probe_leaves_a_file() {
    let name = "an_unknown_address_is_refused_while_it_is_verified_and_no_probe_leaves_a_file";
    if !can_run(name, true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let server = Server::start(&place, &users);
    let main = format!(
        "{}smtpd_recipient_restrictions = reject_unverified_recipient, permit\n\
         unverified_recipient_reject_code = 550\n\
         address_verify_poll_count = 30\n\
         address_verify_poll_delay = 1s\n",
        virtual_domain(&server)
    );
    let mut postfix = Postfix::start(&place, &main);

    let mut client = postfix.connect();
    client.expect("MAIL FROM:<sender@example.org>", 250);
    let refused = client.expect("RCPT TO:<nobody@example.test>", 550);
    assert!(refused.text.contains("550 5.1.1"), "{}", refused.text);
    assert!(refused.text.contains("User doesn't exist: nobody@example.test"), "{}", refused.text);
    client.expect("RCPT TO:<alice@example.test>", 250);
    client.expect("QUIT", 221);
    drop::<Client>(client);

    postfix.wait_until_queue_is_empty();
    assert!(users.mailboxes[0].names().is_empty(), "a probe is no mail");
    server.stop();
}
