//! What is sent in a run: messages that can be told apart, for users who share mailboxes with other messages.

use super::random::Random;

/// Who has a mailbox: address, and Maildir beneath the mail root. With a detail, it is a folder.
pub(crate) const USERS: [(&str, &str); 6] = [
    ("alice@example.net", "alice/Maildir"),
    ("bob@example.net", "bob/Maildir"),
    ("carol@example.net", "carol/Maildir"),
    ("dave@example.net", "dave/Maildir"),
    ("alice+lists.rust@example.net", "alice/Maildir/.lists.rust"),
    ("dave+drafts@example.net", "dave/Maildir/.drafts"),
];

/// Users whose mailbox is there when the run begins; the others, and the folders, come with their first message.
pub(crate) const AT_HOME: usize = 2;

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) sender: String,
    /// Indices into the users, each once.
    pub(crate) recipients: Vec<usize>,
    /// What the client means to send, lines ended with CRLF.
    pub(crate) payload: Vec<u8>,
}

/// The messages of one run, as many for each client in each of so many lives of the server.
pub(crate) fn messages(seed: u64, lives: usize) -> Vec<Message> {
    let mut random = Random::new(seed);
    (0..lives * CLIENTS * MESSAGES).map(|number| message(number, &mut random)).collect()
}

/// The numbers of those messages, by client, for one of the lives.
pub(crate) fn numbers(life: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..CLIENTS).map(move |client| (life * CLIENTS + client) * MESSAGES).map(|first| first..first + MESSAGES)
}

fn message(number: usize, random: &mut Random) -> Message {
    let mut recipients: Vec<usize> = (0..USERS.len()).collect();
    for _ in 0..USERS.len() - 1 - random.below(3) {
        recipients.swap_remove(random.below(recipients.len()));
    }
    let length = random.one_of(&LENGTHS) + random.below(300);
    let mut payload = format!("{NUMBER}{number}\r\n\r\n").into_bytes();
    while payload.len() < length {
        // A dot at the start of some lines: they are stuffed on the way.
        let dot = if random.below(4) == 0 { "." } else { "" };
        payload.extend_from_slice(format!("{dot}{number} {:016x}\r\n", random.next()).as_bytes());
    }
    Message { sender: format!("sender{number}@example.org"), recipients, payload }
}

/// Which message a file holds, by the first line of its payload.
pub(crate) fn number_in(file: &[u8]) -> Option<usize> {
    let mut lines = file.split(|&byte| byte == b'\n');
    let line = lines.find_map(|line| line.strip_prefix(NUMBER.as_bytes()))?;
    std::str::from_utf8(line).ok()?.trim_end_matches('\r').parse().ok()
}

const CLIENTS: usize = 6;
const MESSAGES: usize = 3;
/// From less than a sector to more than a few receive buffers.
const LENGTHS: [usize; 6] = [0, 300, 1500, 5000, 20_000, 60_000];
const NUMBER: &str = "X-Number: ";
