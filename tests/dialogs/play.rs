//! Playing a dialog over some connection, and looking at what is left afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use posthaste::control::config::LineEndings;
use posthaste::ring::sim::Fault;

use super::script::{Act, LogLine, Mailbox, Message, Part, Script, Step, is_like};

/// The client's end of a connection.
pub(crate) trait Wire {
    /// Sends `bytes` in one packet.
    fn send(&mut self, bytes: &[u8]);
    /// The next line that the server says, without its end; `None` when it closes instead. What the
    /// server never says ends in a panic.
    fn line(&mut self) -> Option<String>;
    /// Sends no more.
    fn half_close(&mut self);
    /// Closes.
    fn close(&mut self);
    /// What only the simulated ring can do.
    fn world(&mut self) -> &mut dyn Simulation;
}

/// What only the simulated ring can do.
pub(crate) trait Simulation {
    /// Vanishes.
    fn reset(&mut self);
    /// Lets `time` pass.
    fn advance(&mut self, time: Duration);
    /// Whether the server has nothing to say for now.
    fn is_silent(&mut self) -> bool;
    /// Makes something fail.
    fn fail(&mut self, fault: Fault);
    /// Ends all faults.
    fn heal(&mut self);
}

/// Plays the steps of `script`.
///
/// # Panics
/// With the line of the step that did not come true.
pub(crate) fn play(script: &Script, wire: &mut dyn Wire) {
    let mut said = Vec::new();
    for Step { line, act } in &script.steps {
        match act {
            Act::Send(bytes) => wire.send(bytes),
            Act::Expect(pattern) => match wire.line() {
                Some(reply) => {
                    assert!(
                        pattern.matches(&reply),
                        "line {line}: expected {pattern:?}\n  the server said: {reply}\n  before: {said:#?}"
                    );
                    said.push(reply);
                }
                None => panic!("line {line}: expected {pattern:?}, but the server closed"),
            },
            Act::ExpectClose => {
                let reply = wire.line();
                assert_eq!(reply, None, "line {line}: expected the server to close");
            }
            Act::HalfClose => wire.half_close(),
            Act::Close => wire.close(),
            Act::Reset => wire.world().reset(),
            Act::Advance(time) => wire.world().advance(*time),
            Act::ExpectSilence => {
                assert!(wire.world().is_silent(), "line {line}: the server says something");
            }
            Act::Fail(fault) => wire.world().fail(fault.clone()),
            Act::Heal => wire.world().heal(),
        }
    }
}

/// Files by their path beneath the mail root.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Compares what is left with what `script` says.
///
/// # Panics
/// If it differs, or a file name lies about sizes, or there is a file that the script does not mention.
pub(crate) fn check_files(script: &Script, files: &Files, line_endings: LineEndings) {
    let mut unmentioned = files.clone();
    for mailbox in &script.mailboxes {
        let path = format!("{}/", mailbox.path);
        let mut found: Vec<(&String, &Vec<u8>)> =
            files.iter().filter(|(name, _)| name.starts_with(&path)).collect();
        unmentioned.retain(|name, _| !name.starts_with(&path));
        assert!(
            mailbox.counts.contains(&found.len()),
            "{} has {:?} files: {files:#?}",
            mailbox.path,
            found.len()
        );
        for (name, bytes) in &found {
            check_sizes(name, bytes);
        }
        check_messages(mailbox, &mut found, line_endings);
    }
    for (path, content) in &script.files {
        let found = unmentioned.remove(path).unwrap_or_else(|| panic!("there is no file {path}"));
        assert_eq!(found.escape_ascii().to_string(), content.escape_ascii().to_string(), "{path}");
    }
    let names: Vec<&String> = unmentioned.keys().collect();
    assert!(names.is_empty(), "files that the dialog does not mention: {names:?}");
}

/// Each message of the mailbox is one of the files, whatever their order.
fn check_messages(mailbox: &Mailbox, found: &mut Vec<(&String, &Vec<u8>)>, line_endings: LineEndings) {
    if found.is_empty() && mailbox.counts.contains(&0) {
        return;
    }
    for message in &mailbox.messages {
        let expected = content(message, line_endings);
        let position = found.iter().position(|(_, bytes)| {
            let (trace, rest) = split_trace(bytes);
            let has_line = |pattern: &String| {
                let lines = trace.lines().map(str::trim_end);
                lines.into_iter().any(|line| is_like(pattern, line.trim_start()))
            };
            rest == expected && message.trace.iter().all(has_line)
        });
        let Some(position) = position else {
            let there: Vec<String> = found.iter().map(|(_, bytes)| shown(bytes)).collect();
            panic!(
                "line {}: no file in {} holds this message: {} with {:?}\n  but: {there:#?}",
                message.line,
                mailbox.path,
                shown(&expected),
                message.trace
            );
        };
        found.remove(position);
    }
}

fn content(message: &Message, line_endings: LineEndings) -> Vec<u8> {
    let end: &[u8] = match line_endings {
        LineEndings::Crlf => b"\r\n",
        LineEndings::Lf => b"\n",
    };
    let mut bytes = Vec::new();
    for part in &message.content {
        match part {
            Part::Lines(count, text) => {
                for _ in 0..*count {
                    bytes.extend_from_slice(text.as_bytes());
                    bytes.extend_from_slice(end);
                }
            }
            Part::Raw(raw) => bytes.extend_from_slice(raw),
        }
    }
    bytes
}

/// The headers that the server added, and what was sent: Return-Path, perhaps Delivered-To, and a
/// Received that goes on in lines that begin with a tab.
fn split_trace(bytes: &[u8]) -> (String, &[u8]) {
    let mut at = 0;
    let mut in_received = false;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let is_ours = if in_received {
            line.starts_with(b"\t")
        } else {
            in_received = line.starts_with(b"Received: ");
            in_received || line.starts_with(b"Return-Path: ") || line.starts_with(b"Delivered-To: ")
        };
        if !is_ours {
            break;
        }
        at += line.len();
    }
    (String::from_utf8_lossy(&bytes[..at]).into_owned(), &bytes[at..])
}

/// The sizes in a file's name are exact: S the bytes, W the bytes if every LF stood behind a CR.
fn check_sizes(name: &str, bytes: &[u8]) {
    let lone = bytes
        .iter()
        .enumerate()
        .filter(|&(at, &byte)| byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r'))
        .count();
    let expected = format!(",S={},W={}", bytes.len(), bytes.len() + lone);
    assert!(name.ends_with(&expected), "{name} should end in {expected}");
}

fn shown(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(2000)].escape_ascii().to_string();
    shown.replace("\\r\\n", "\\r\\n\n      ")
}

/// Compares the log with what `script` says of it.
///
/// # Panics
/// If they differ.
pub(crate) fn check_log(script: &Script, log: &[String]) {
    for expected in &script.log {
        match expected {
            LogLine::Nothing => assert!(log.is_empty(), "the log says something: {log:#?}"),
            LogLine::Like(pattern) => assert!(
                log.iter().any(|line| is_like(pattern, line)),
                "no line of the log is like {pattern}: {log:#?}"
            ),
        }
    }
}
