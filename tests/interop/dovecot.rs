//! Dovecot from an own directory: the IMAP server that reads what was delivered, and the rival that delivers.
//!
//! Both run in the foreground with their own sockets, state and log; the Dovecot of the machine is not touched.

use std::{
    fmt::Display,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
};

use crate::{
    dialog::Imap,
    mailbox::Users,
    place::{Place, Running, START, eventually, program},
    server::Settings,
};

/// A running Dovecot IMAP server over the mailboxes of the users.
#[derive(Debug)]
pub(crate) struct DovecotImap {
    running: Running,
    address: SocketAddr,
    log: PathBuf,
}

impl DovecotImap {
    /// Starts it; returns when it accepts connections.
    pub(crate) fn start(place: &Place, users: &Users) -> Self {
        let address = place.port(IMAP);
        let listener = format!(
            "protocols = imap\n\
             service imap-login {{\n  chroot =\n  inet_listener imap {{\n{}  }}\n  inet_listener imaps {{\n    port = 0\n  }}\n}}\n",
            listener(address)
        );
        let (mut running, log) = start(place, "imap", users, &listener);
        running.wait_until_up(|| TcpStream::connect(address).is_ok());
        Self { running, address, log }
    }

    /// A session of that user.
    pub(crate) fn login(&self, user: &str) -> Imap {
        Imap::login(self.address, user, PASSWORD)
    }

    /// Waits until the log tells of the end of so many sessions, and returns the complaints in it: everything above
    /// "Info".
    ///
    /// Dovecot reports a wrong `,S=` or `,W=` as an error, and renames the file. All that a session had to say is in
    /// the log before its end.
    pub(crate) fn complaints_after(&mut self, sessions: usize) -> Vec<String> {
        self.running.assert_alive();
        let read = || std::fs::read_to_string(&self.log).unwrap_or_default();
        eventually(START, "every session has ended", || {
            read().matches("Disconnected: Logged out").count() == sessions
        });
        let is_complaint = |line: &&str| LEVELS.iter().any(|level| line.contains(level));
        read().lines().filter(is_complaint).map(str::to_owned).collect()
    }
}

/// Starts Dovecot's LMTP server with the same users.
pub(crate) fn start_lmtp(
    place: &Place,
    users: &Users,
    settings: &Settings,
    socket: &Path,
    tcp: SocketAddr,
) -> Running {
    // Dovecot knows no local domains: where the local part decides, it is cut off everywhere.
    let username = if settings.local_domain.is_some() { "%Ln" } else { "%Lu" };
    let folders = if settings.folders { "yes" } else { "no" };
    let crlf = if settings.line_endings == "crlf" { "yes" } else { "no" };
    let service = format!(
        "protocols = lmtp\n\
         auth_username_format = {username}\n\
         recipient_delimiter = +\n\
         mail_save_crlf = {crlf}\n\
         lmtp_save_to_detail_mailbox = {folders}\n\
         lda_mailbox_autocreate = {folders}\n\
         lda_mailbox_autosubscribe = {folders}\n\
         service lmtp {{\n  unix_listener {socket} {{\n    mode = 0600\n    user = postfix\n    group = postfix\n  }}\n  \
         inet_listener lmtp {{\n{tcp}  }}\n}}\n",
        socket = socket.display(),
        tcp = listener(tcp),
    );
    start(place, "lmtp", users, &service).0
}

fn start(place: &Place, name: &str, users: &Users, service: &str) -> (Running, PathBuf) {
    let directory = place.path(format!("dovecot-{name}"));
    std::fs::create_dir_all(&directory).expect("the directory of Dovecot");
    let log = directory.join("log");
    let configuration =
        place.write(&format!("dovecot-{name}.conf"), configuration(&directory, &log, users, service));
    let running = Running::start("dovecot", directory.join("output"), program("dovecot"), |command| {
        command.arg("-F").arg("-c").arg(&configuration);
    });
    (running, log)
}

fn configuration(directory: &Path, log: &Path, users: &Users, service: &str) -> String {
    format!(
        "base_dir = {directory}/run\n\
         state_dir = {directory}/state\n\
         log_path = {log}\n\
         ssl = no\n\
         disable_plaintext_auth = no\n\
         mail_location = maildir:~/Maildir\n\
         first_valid_uid = 1\n\
         namespace {{\n  inbox = yes\n}}\n\
         passdb {{\n  driver = static\n  args = password={PASSWORD}\n}}\n\
         userdb {{\n  driver = passwd-file\n  args = {users}\n}}\n\
         {service}",
        directory = directory.display(),
        log = log.display(),
        users = users.passwd_file.display(),
    )
}

fn listener(address: SocketAddr) -> impl Display {
    format!("    address = {}\n    port = {}\n", address.ip(), address.port())
}

/// How Dovecot marks what is not well.
const LEVELS: [&str; 4] = ["Warning: ", "Error: ", "Fatal: ", "Panic: "];

/// The service number of the IMAP listener.
const IMAP: u16 = 1400;

/// The password of every user.
const PASSWORD: &str = "secret";
