//! What must be true of the mail after a crash, and nothing else matters.
//!
//! Every recipient who was answered 250 has exactly one whole file; every file in `new/` or `cur/` is a whole
//! message of somebody who was to have it, and he has it once. What lies in `tmp/` is no mail yet.

use std::collections::BTreeMap;

use posthaste::ring::sim::World;

use super::sender::Verdict;
use super::server::MAIL;
use super::traffic::{Message, USERS, number_in};

/// What the messages of a run look like in the mailboxes.
pub(crate) struct Oracle<'r> {
    messages: &'r [Message],
    /// What stands in the files behind the trace headers.
    payloads: Vec<Vec<u8>>,
    line_end: &'static str,
    /// Recipients may share a file, which then names none.
    shares: bool,
}

impl<'r> Oracle<'r> {
    pub(crate) fn new(messages: &'r [Message], line_end: &'static str, shares: bool) -> Self {
        let payload = |message: &Message| {
            let text = String::from_utf8(message.payload.clone()).expect("ASCII");
            text.replace("\r\n", line_end).into_bytes()
        };
        let payloads = messages.iter().map(payload).collect();
        Self { messages, payloads, line_end, shares }
    }

    /// Looks at all mail.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub(crate) fn check(&self, world: &World, verdicts: &[Verdict]) -> Result<(), String> {
        let mut found: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (user, (_, mailbox)) in USERS.iter().enumerate() {
            for part in ["new", "cur"] {
                let directory = format!("{MAIL}/{mailbox}/{part}");
                // A mailbox that nobody has had mail in may be missing.
                for name in world.list(&directory).unwrap_or_default() {
                    let path = format!("{directory}/{name}");
                    let bytes = world.read(&path).map_err(|errno| format!("{path}: {errno}"))?;
                    let message =
                        self.identify(user, &name, &bytes).map_err(|what| format!("{path} {what}"))?;
                    *found.entry((message, user)).or_default() += 1;
                }
            }
        }
        if let Some(((message, user), count)) = found.iter().find(|(_, count)| **count > 1) {
            return Err(format!("{} has message {message} {count} times", USERS[*user].0));
        }
        let lost = verdicts
            .iter()
            .find(|(message, user, code)| *code == 250 && !found.contains_key(&(*message, *user)));
        match lost {
            Some((message, user, _)) => {
                Err(format!("message {message} was acknowledged for {} and is lost", USERS[*user].0))
            }
            None => Ok(()),
        }
    }

    /// Which message a file of `user` is, whole.
    fn identify(&self, user: usize, name: &str, bytes: &[u8]) -> Result<usize, String> {
        if bytes.is_empty() {
            return Err("is empty".to_owned());
        }
        if bytes.contains(&0) {
            return Err(format!("has zeroes in its {} bytes", bytes.len()));
        }
        let number = number_in(bytes).filter(|&number| number < self.messages.len());
        let number = number.ok_or_else(|| format!("is no message, in {} bytes", bytes.len()))?;
        let message = &self.messages[number];
        if !message.recipients.contains(&user) {
            return Err(format!("is message {number}, which was not for him"));
        }
        let payload = &self.payloads[number];
        let Some(head) = bytes.strip_suffix(payload.as_slice()) else {
            return Err(format!("is not message {number} as it was sent, in {} bytes", bytes.len()));
        };
        self.check_head(message, user, head)?;
        if !name.contains(&format!(",S={},", bytes.len())) {
            return Err(format!("has {} bytes", bytes.len()));
        }
        Ok(number)
    }

    /// The trace headers: whole, and his.
    fn check_head(&self, message: &Message, user: usize, head: &[u8]) -> Result<(), String> {
        let end = self.line_end;
        let head = std::str::from_utf8(head).map_err(|_| "has broken trace headers")?;
        let sender = format!("Return-Path: <{}>{end}", message.sender);
        let mut expected = vec![format!("{sender}Delivered-To: {}{end}Received: from ", USERS[user].0)];
        if self.shares && message.recipients.len() > 1 {
            expected.push(format!("{sender}Received: from "));
        }
        let is_whole = head.lines().count() >= 5 && head.ends_with(end);
        if is_whole && expected.iter().any(|start| head.starts_with(start)) {
            return Ok(());
        }
        Err(format!("has trace headers that are not his: {head:?}"))
    }
}
