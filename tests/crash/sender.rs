//! One client: says what it has to say, and remembers what it was told.

use std::collections::VecDeque;

use posthaste::ring::sim::Client;

use super::random::Random;
use super::traffic::{Message, USERS};

/// What a recipient was told: message, index of the user, reply code.
pub(crate) type Verdict = (usize, usize, u16);

/// A client at work.
pub(crate) struct Sender {
    client: Client,
    /// What is still to be said, once everything before has been answered.
    ahead: VecDeque<Words>,
    expected: VecDeque<Reply>,
    heard: Vec<u8>,
}

/// What is said at once, and the replies to it.
struct Words {
    text: Vec<u8>,
    replies: Vec<Reply>,
}

enum Reply {
    /// It must be a success.
    Success,
    /// To DATA: 354, or else the text is not sent.
    Go,
    /// For one recipient of a message.
    Verdict(usize, usize),
}

impl Sender {
    /// A client that sends these messages, each under its number; by chance in one packet or step by step.
    pub(crate) fn new(client: Client, messages: &[(usize, &Message)], random: &mut Random) -> Self {
        let mut ahead = VecDeque::new();
        let hello = Words { text: b"LHLO client.example.org\r\n".to_vec(), replies: vec![Reply::Success] };
        ahead.push_back(hello);
        let pipelines = random.below(3) == 0;
        for &(number, message) in messages {
            let steps = if random.below(2) == 0 {
                in_chunks(number, message, random)
            } else {
                as_data(number, message, pipelines)
            };
            ahead.extend(steps);
        }
        if pipelines {
            ahead = merged(ahead);
        }
        Self { client, ahead, expected: VecDeque::from([Reply::Success]), heard: Vec::new() }
    }

    /// Hears what the server has said and says what is next; whether it did anything.
    pub(crate) fn act(&mut self, verdicts: &mut Vec<Verdict>) -> bool {
        self.heard.extend(self.client.received());
        let mut acted = false;
        while let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            let line = String::from_utf8(line).expect("replies are UTF-8");
            if line.as_bytes()[3] == b' ' {
                self.take(&line, verdicts);
                acted = true;
            }
        }
        if self.expected.is_empty()
            && let Some(words) = self.ahead.pop_front()
        {
            self.client.send(&words.text);
            self.expected.extend(words.replies);
            acted = true;
        }
        acted
    }

    fn take(&mut self, line: &str, verdicts: &mut Vec<Verdict>) {
        let code: u16 = line[..3].parse().unwrap_or_else(|_| panic!("{line}"));
        match self.expected.pop_front() {
            Some(Reply::Success) => assert_eq!(code / 100, 2, "{line}"),
            Some(Reply::Go) if code == 354 => {}
            Some(Reply::Go) => drop(self.ahead.pop_front()),
            Some(Reply::Verdict(message, user)) => verdicts.push((message, user, code)),
            None => panic!("nothing was asked: {line}"),
        }
    }

    /// Whether everything was said and answered.
    pub(crate) fn is_done(&self) -> bool {
        self.ahead.is_empty() && self.expected.is_empty()
    }
}

/// MAIL and its RCPTs.
fn envelope(message: &Message) -> Words {
    let mut text = format!("MAIL FROM:<{}>\r\n", message.sender);
    let mut replies = vec![Reply::Success];
    for &user in &message.recipients {
        text += &format!("RCPT TO:<{}>\r\n", USERS[user].0);
        replies.push(Reply::Success);
    }
    Words { text: text.into_bytes(), replies }
}

fn verdicts(number: usize, message: &Message) -> Vec<Reply> {
    message.recipients.iter().map(|&user| Reply::Verdict(number, user)).collect()
}

/// With DATA, whose text waits for the permission; in one packet with the envelope (RFC 2920) or alone.
fn as_data(number: usize, message: &Message, in_one_packet: bool) -> Vec<Words> {
    let data = Words { text: b"DATA\r\n".to_vec(), replies: vec![Reply::Go] };
    let mut text = Vec::with_capacity(message.payload.len() + 64);
    for line in message.payload.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            text.push(b'.');
        }
        text.extend_from_slice(line);
    }
    text.extend_from_slice(b".\r\n");
    let text = Words { text, replies: verdicts(number, message) };
    let mut steps = vec![envelope(message), data, text];
    if in_one_packet {
        let data = steps.remove(1);
        steps[0].text.extend(data.text);
        steps[0].replies.extend(data.replies);
    }
    steps
}

/// With BDAT (RFC 3030), in one to three chunks.
fn in_chunks(number: usize, message: &Message, random: &mut Random) -> Vec<Words> {
    let mut rest = message.payload.as_slice();
    let mut steps = vec![envelope(message)];
    for _ in 0..random.below(3) {
        let chunk;
        (chunk, rest) = rest.split_at(random.below(rest.len() + 1));
        let text = [format!("BDAT {}\r\n", chunk.len()).as_bytes(), chunk].concat();
        steps.push(Words { text, replies: vec![Reply::Success] });
    }
    let text = [format!("BDAT {} LAST\r\n", rest.len()).as_bytes(), rest].concat();
    steps.push(Words { text, replies: verdicts(number, message) });
    steps
}

/// The same words in as few packets as can be: only DATA has to wait.
fn merged(words: VecDeque<Words>) -> VecDeque<Words> {
    let mut merged: VecDeque<Words> = VecDeque::new();
    for next in words {
        match merged.back_mut() {
            Some(last) if !matches!(last.replies.last(), Some(Reply::Go)) => {
                last.text.extend(next.text);
                last.replies.extend(next.replies);
            }
            _ => merged.push_back(next),
        }
    }
    merged
}
