//! Socket activation: systemd listens, the first connection starts the server, and nothing is refused meanwhile.

use std::path::PathBuf;

use crate::{
    dialog::Client,
    mailbox::Users,
    messages::with_body,
    place::{Place, Running, START, can_run, eventually, not_run, program},
    server::{POSTHASTE, Program, Readiness, Server, Settings, configure_posthaste},
};

#[test]
fn the_connection_that_starts_the_server_is_served_on_every_handed_over_socket() {
    let name = "the_connection_that_starts_the_server_is_served_on_every_handed_over_socket";
    // Dovecot has its own way of being activated; this is about ours.
    if Server::program() != Program::Posthaste {
        not_run(name, "Dovecot does this in another way");
        return;
    }
    if !can_run(name, false, &["systemd-socket-activate"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let listen = "[[listen]]\nlmtp = \"systemd:local\"\n[[listen]]\nlmtp = \"systemd:net\"\n";
    let configuration = configure_posthaste(&place, &users, &Settings::default(), listen);
    let readiness = Readiness::listen(&place);
    let (socket, tcp): (PathBuf, _) = (place.path("lmtp.sock"), place.port(2400));

    let mut running = Running::start(
        "systemd-socket-activate",
        place.path("log"),
        program("systemd-socket-activate"),
        |command| {
            command.arg("-l").arg(&socket).arg("-l").arg(tcp.to_string()).arg("--fdname=local:net");
            // It hands on nothing of the environment that is not named.
            command.arg("-E").arg(format!("NOTIFY_SOCKET={}", readiness.path.display()));
            command.arg(POSTHASTE).arg("serve").arg("--config").arg(&configuration);
        },
    );
    eventually(START, "both sockets are open", || running.log().matches("Listening on").count() == 2);

    // Client::unix waits for the greeting, which only the server sends.
    deliver(Client::unix(&socket), "over the socket that started it");
    readiness.wait(&mut running);
    deliver(Client::tcp(tcp), "over the other socket");

    assert_eq!(users.mailboxes[0].messages().len(), 2);
    let status = running.stop().expect("the server ends when it is asked to");
    assert!(status.success(), "{status}");
    assert!(socket.exists(), "a socket of systemd stays when the server ends");
}

fn deliver(mut client: Client, subject: &str) {
    client.expect("LHLO client.example.org", 250);
    let content = with_body("activated", subject.as_bytes());
    let content = [&content[..], b"\r\n"].concat();
    let replies = client.transaction("sender@example.org", &["alice@example.test"], &content, 1);
    assert_eq!(replies[0].code, 250, "{replies:?}");
    client.expect("QUIT", 221);
}
