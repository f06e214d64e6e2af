//! Postfix from an own directory: queue, data, log and configuration are the test's, the binaries are the system's.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use crate::{
    dialog::Client,
    place::{Place, Running, eventually, program, run},
};

/// A running Postfix.
#[derive(Debug)]
pub(crate) struct Postfix {
    running: Running,
    configuration: PathBuf,
    smtp: SocketAddr,
    log: PathBuf,
}

impl Postfix {
    /// Starts Postfix with the given lines added to `main.cf`; returns when it accepts connections.
    pub(crate) fn start(place: &Place, main: &str) -> Self {
        Self::start_with(place, main, &master_cf(place.port(SMTP)))
    }

    /// The same, with those who ask maps in a chroot, as Debian's Postfix has them.
    pub(crate) fn start_in_chroot(place: &Place, main: &str) -> Self {
        let master = master_cf(place.port(SMTP))
            .replace("inet n - n - - smtpd", "inet n - y - - smtpd")
            .replace("cleanup unix n - n", "cleanup unix n - y")
            .replace("rewrite unix - - n", "rewrite unix - - y");
        assert_eq!(master.matches(" - y - ").count(), 3, "{master}");
        Self::start_with(place, main, &master)
    }

    fn start_with(place: &Place, main: &str, master: &str) -> Self {
        let smtp = place.port(SMTP);
        let log = place.path("postfix/log");
        let main_cf = place.write("postfix/main.cf", main_cf(place, main));
        place.write("postfix/master.cf", master);
        place.write("postfix/log", "");
        let configuration = main_cf.parent().expect("a file in a directory").to_owned();
        make_directories(place);
        // Makes the folders of the queue with the owners and modes that the daemons insist on.
        run(Command::new(program("postfix")).arg("-c").arg(&configuration).arg("check"), b"");
        let mut running =
            Running::start("postfix", place.path("postfix/output"), program("master"), |command| {
                // In the foreground, so that it ends with the test.
                command.arg("-c").arg(&configuration).arg("-d");
            });
        running.wait_until_up(|| TcpStream::connect(smtp).is_ok());
        Self { running, configuration, smtp, log }
    }

    /// An SMTP session, greeted.
    pub(crate) fn connect(&self) -> Client {
        let mut client = Client::tcp(self.smtp);
        client.expect("EHLO client.example.org", 250);
        client
    }

    /// Sends one message to the recipients in one SMTP transaction.
    pub(crate) fn send<S: AsRef<str>>(&self, from: &str, to: &[S], content: &[u8]) {
        let mut client = self.connect();
        let replies = client.transaction(from, to, content, 1);
        assert_eq!(replies[0].code, 250, "{replies:?}");
        client.expect("QUIT", 221);
    }

    /// Hands a message to sendmail(1), as local programs do: with LF line ends.
    pub(crate) fn submit(&self, from: &str, to: &str, content: &[u8]) {
        let mut sendmail = Command::new(program("sendmail"));
        // -i: a line of one dot is a line.
        sendmail.arg("-C").arg(&self.configuration).args(["-i", "-B", "8BITMIME", "-f", from, "--", to]);
        let lines: Vec<u8> = content.iter().copied().filter(|&byte| byte != b'\r').collect();
        run(&mut sendmail, &lines);
    }

    /// Waits until nothing is queued any more.
    pub(crate) fn wait_until_queue_is_empty(&mut self) {
        self.running.assert_alive();
        eventually(DELIVERY, "the queue is empty", || self.queue().is_empty());
    }

    /// Everything that Postfix logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log of Postfix")
    }

    /// What is queued, one JSON object a line; a message that could not be delivered says why.
    fn queue(&self) -> String {
        let queue = run(Command::new(program("postqueue")).arg("-c").arg(&self.configuration).arg("-j"), b"");
        assert!(!queue.contains("delay_reason"), "a delivery failed:\n{queue}\n{}", self.log());
        queue
    }
}

/// `main.cf`: nothing of the system's but its binaries, and loopback only.
fn main_cf(place: &Place, added: &str) -> String {
    format!(
        "compatibility_level = 3.6\n\
         queue_directory = {queue}\n\
         data_directory = {data}\n\
         command_directory = /usr/sbin\n\
         daemon_directory = /usr/lib/postfix/sbin\n\
         mail_owner = postfix\n\
         setgid_group = postdrop\n\
         maillog_file = {log}\n\
         maillog_file_prefixes = {place}\n\
         myhostname = mx.example.test\n\
         mydomain = example.test\n\
         mydestination =\n\
         alias_maps =\n\
         alias_database =\n\
         inet_interfaces = loopback-only\n\
         inet_protocols = ipv4\n\
         mynetworks = 127.0.0.0/8\n\
         # Nothing is added to what came over SMTP, so that it can be compared.\n\
         local_header_rewrite_clients =\n\
         # More than the largest message of the tests.\n\
         message_size_limit = 62914560\n\
         mailbox_size_limit = 0\n\
         virtual_mailbox_limit = 0\n\
         {added}\n",
        place = place.path("").display(),
        queue = place.path("postfix/queue").display(),
        data = place.path("postfix/data").display(),
        log = place.path("postfix/log").display(),
    )
}

/// `master.cf`: the services that receive, queue and hand on; none in a chroot, unless asked for.
fn master_cf(smtp: SocketAddr) -> String {
    format!(
        "{smtp} inet n - n - - smtpd\n\
         pickup unix n - n 1 1 pickup\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         verify unix - - n - 1 verify\n\
         flush unix n - n 1000? 0 flush\n\
         proxymap unix - - n - - proxymap\n\
         smtp unix - - n - - smtp\n\
         relay unix - - n - - smtp\n\
         showq unix n - n - - showq\n\
         error unix - - n - - error\n\
         retry unix - - n - - error\n\
         discard unix - - n - - discard\n\
         local unix - n n - - local\n\
         virtual unix - n n - - virtual\n\
         lmtp unix - - n - - lmtp\n\
         anvil unix - - n - 1 anvil\n\
         scache unix - - n - 1 scache\n\
         postlog unix-dgram n - n - 1 postlogd\n"
    )
}

fn make_directories(place: &Place) {
    for folder in ["postfix/queue", "postfix/data"] {
        fs::create_dir_all(place.path(folder)).expect("a directory of Postfix");
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("the users of this machine");
    let postfix = passwd.lines().find_map(|line| line.strip_prefix("postfix:x:")).expect("a user postfix");
    let owner = postfix.split(':').next().and_then(|id| id.parse().ok()).expect("a user id");
    chown(place.path("postfix/data"), Some(owner), None).expect("the owner of the data directory");
    fs::set_permissions(place.path("postfix/data"), fs::Permissions::from_mode(0o700)).expect("its mode");
}

/// The service number of the SMTP listener.
const SMTP: u16 = 2500;

/// The biggest test sends 30 MiB; a shared machine with a slow disk needs a moment for them.
const DELIVERY: Duration = Duration::from_secs(120);
