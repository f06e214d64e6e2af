//! Every reply this server gives, in one table.
//!
//! Codes are those of RFC 5321 section 4.2, enhanced codes those of RFC 3463 and its registry. Two rules decide
//! between them. Postfix defers or bounces by the class of the *enhanced* code, so the two classes always agree
//! ([`Reply::fixed`] checks it). And 500 to 509 make Postfix write to its postmaster, so they are for clients that
//! do not speak the protocol, never for mail we do not want.
//!
//! A reply about one recipient begins with its address, `<addr> `: after DATA there are many replies in a row, and
//! the address is what tells them apart in a log.
#![forbid(unsafe_code)]

use crate::lmtp::command::Malformed;
use crate::lmtp::reply::{Enhanced, Reply, echo};
use crate::mail::address::PathError;
use std::fmt::Display;

// What goes well.

/// RSET and NOOP.
pub const OK: Reply = Reply::fixed(250, Enhanced(2, 0, 0), "OK");
/// MAIL: the sender is taken (RFC 3463 X.1.0, "other address status").
pub const SENDER_OK: Reply = Reply::fixed(250, Enhanced(2, 1, 0), "OK");
/// RCPT: the address is valid (RFC 3463 X.1.5). Not echoed: the client knows which RCPT this answers.
pub const RECIPIENT_OK: Reply = Reply::fixed(250, Enhanced(2, 1, 5), "OK");
/// QUIT.
pub const BYE: Reply = Reply::fixed(221, Enhanced(2, 0, 0), "Bye");
/// DATA: go on. RFC 2034 section 4 gives enhanced codes to classes 2, 4 and 5 only.
pub const SEND_DATA: Reply = Reply::plain(354, "End data with <CR><LF>.<CR><LF>");
/// VRFY (RFC 5321 section 3.5.3): whether a user exists is said at RCPT and nowhere else.
pub const CANNOT_VERIFY: Reply = Reply::fixed(252, Enhanced(2, 5, 2), "Try RCPT instead");
/// HELP.
pub const HELP: Reply = Reply::fixed(
    214,
    Enhanced(2, 0, 0),
    "This is an LMTP server (RFC 2033). It knows:\n\
     LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT",
);

// Lines and commands that mean nothing here.

/// The verb is over 32 letters, or the parameters are over 4 KiB.
pub const LINE_TOO_LONG: Reply = Reply::fixed(500, Enhanced(5, 5, 2), "Line too long");
/// Not a verb, or something between verb and parameters that does not belong there.
pub const INVALID_SYNTAX: Reply = Reply::fixed(500, Enhanced(5, 5, 2), "Invalid command syntax");
/// A verb we do not know.
pub const UNKNOWN_COMMAND: Reply = Reply::fixed(500, Enhanced(5, 5, 1), "Unknown command");
/// HELO and EHLO, which RFC 2033 section 4.1 forbids here: an SMTP client must not take this for SMTP.
pub const WRONG_GREETING: Reply = Reply::fixed(500, Enhanced(5, 5, 1), "This is LMTP, greet with LHLO");
/// STARTTLS and AUTH: known, and not announced (RFC 5321 section 4.2.4).
pub const UNSUPPORTED_COMMAND: Reply = Reply::fixed(502, Enhanced(5, 5, 1), "Unsupported command");
/// LHLO without a name. No enhanced code: RFC 2034 section 4 leaves it out of every reply to a greeting.
pub const MISSING_HOSTNAME: Reply = Reply::plain(501, "Missing hostname");
/// Parameters where there are none, or `FROM:` or `TO:` missing.
pub const INVALID_PARAMETERS: Reply = Reply::fixed(501, Enhanced(5, 5, 4), "Invalid parameters");
/// A parameter given twice.
pub const REPEATED_PARAMETER: Reply = Reply::fixed(501, Enhanced(5, 5, 4), "Repeated parameter");
/// SIZE without digits, or with more than twenty (RFC 1870 section 5).
pub const INVALID_SIZE: Reply = Reply::fixed(501, Enhanced(5, 5, 4), "Invalid SIZE parameter value");
/// SMTPUTF8 with a value (RFC 6531 section 3.4).
pub const UTF8_HAS_NO_VALUE: Reply = Reply::fixed(501, Enhanced(5, 5, 4), "SMTPUTF8 takes no value");
/// BODY with another type than 7BIT or 8BITMIME (RFC 6152); BINARYMIME is not announced.
pub const UNSUPPORTED_BODY: Reply = Reply::fixed(555, Enhanced(5, 5, 4), "Unsupported mail BODY type");
/// A parameter of an extension that was not announced (RFC 5321 section 4.1.1.11).
pub const UNSUPPORTED_PARAMETERS: Reply = Reply::fixed(555, Enhanced(5, 5, 4), "Unsupported parameters");
/// A BDAT line whose size cannot be read. The connection is closed after it.
pub const INVALID_CHUNK_SIZE: Reply = Reply::fixed(501, Enhanced(5, 5, 4), "Invalid chunk size parameter");
/// Something other than LAST behind the size of a chunk (RFC 3030 section 2).
pub const INVALID_CHUNK_MARKER: Reply = Reply::fixed(501, Enhanced(5, 5, 4), "Invalid end marker parameter");

// Addresses.

/// MAIL with an address that is not UTF-8 (RFC 3463 X.1.7, "bad sender's mailbox address syntax").
pub const SENDER_NOT_UTF8: Reply = Reply::fixed(501, Enhanced(5, 1, 7), "Invalid FROM: Not UTF-8");
/// RCPT with an address that is not UTF-8 (RFC 3463 X.1.3, "bad destination mailbox address syntax").
pub const RECIPIENT_NOT_UTF8: Reply = Reply::fixed(501, Enhanced(5, 1, 3), "Invalid TO: Not UTF-8");
/// MAIL with a non-ASCII address and without SMTPUTF8: RFC 6531 section 3.5 gives MAIL 550.
pub const SENDER_NEEDS_UTF8: Reply =
    Reply::fixed(550, Enhanced(5, 6, 7), "A non-ASCII address needs the SMTPUTF8 parameter");
/// RCPT with a non-ASCII address in a transaction without SMTPUTF8: RFC 6531 section 3.5 gives RCPT 553.
pub const RECIPIENT_NEEDS_UTF8: Reply =
    Reply::fixed(553, Enhanced(5, 6, 7), "A non-ASCII address needs SMTPUTF8 at MAIL");
/// `RCPT TO:<>`: nobody can receive there.
pub const NULL_RECIPIENT: Reply = Reply::fixed(501, Enhanced(5, 1, 3), "Invalid TO: Null path not allowed");
/// `RCPT TO:<"">`: well written, and there can be no such mailbox.
pub const EMPTY_RECIPIENT: Reply =
    Reply::fixed(550, Enhanced(5, 1, 1), "Unacceptable TO: Empty path not allowed");

// What is not legal now.

/// A second MAIL in a transaction (RFC 5321 section 4.1.4).
pub const NESTED_MAIL: Reply = Reply::fixed(503, Enhanced(5, 5, 1), "MAIL already given");
/// RCPT, DATA or BDAT before MAIL.
pub const MAIL_FIRST: Reply = Reply::fixed(503, Enhanced(5, 5, 1), "MAIL needed first");
/// DATA or BDAT and no RCPT was accepted: LMTP says 503 where SMTP has 554 (RFC 2033 section 4.2).
pub const NO_RECIPIENTS: Reply = Reply::fixed(503, Enhanced(5, 5, 1), "No valid recipients");
/// DATA or RCPT after BDAT (RFC 3030 section 2).
pub const BAD_SEQUENCE: Reply = Reply::fixed(503, Enhanced(5, 5, 1), "Bad sequence of commands");
/// BDAT after a chunk that was refused (RFC 3030 section 2).
pub const CHUNK_FAILED: Reply =
    Reply::fixed(503, Enhanced(5, 5, 1), "Previous data chunk failed, issue RSET first");

// Limits.

/// SIZE at MAIL, or the sum of the chunks, is over the limit (RFC 1870 section 6.1, RFC 3463 X.3.4).
pub const MESSAGE_TOO_LARGE: Reply =
    Reply::fixed(552, Enhanced(5, 3, 4), "Message size exceeds administrative limit");
/// One RCPT more than a transaction may have. 452, so that the client sends these in another one (RFC 5321
/// section 4.5.3.1.10).
pub const TOO_MANY_RECIPIENTS: Reply = Reply::fixed(452, Enhanced(4, 5, 3), "Too many recipients");

// Replies that carry a name or a number of ours.

/// The first line of a connection (RFC 5321 section 4.2: 220). No enhanced code (RFC 2034 section 4).
#[must_use]
pub fn greeting(hostname: &str) -> Reply {
    Reply::made(220, None, [hostname, " Posthaste ready"].concat())
}

/// The reply to LHLO: what we can do, one keyword a line (RFC 2033 section 4.1).
///
/// PIPELINING (RFC 2920) and ENHANCEDSTATUSCODES (RFC 2034) are duties of LMTP (RFC 2033 section 5), 8BITMIME is RFC
/// 6152, SMTPUTF8 RFC 6531, CHUNKING RFC 3030, and SIZE RFC 1870, in octets.
#[must_use]
pub fn capabilities(hostname: &str, message_bytes_max: u64) -> Reply {
    Reply::made(
        250,
        None,
        format!(
            "{hostname}\nPIPELINING\nENHANCEDSTATUSCODES\n8BITMIME\nSMTPUTF8\nCHUNKING\n\
             SIZE {message_bytes_max}"
        ),
    )
}

/// A chunk that was not the last has arrived (RFC 3030 section 2).
#[must_use]
pub fn chunk_added(octets: u64) -> Reply {
    Reply::made(250, Some(Enhanced(2, 0, 0)), format!("Added {octets} octets"))
}

// Replies after which the connection is closed: 421 may answer any command (RFC 5321 section 3.8).

/// More bad commands in a row than a client that speaks LMTP would send.
#[must_use]
pub fn too_many_bad_commands(hostname: &str) -> Reply {
    closing(Enhanced(4, 7, 0), hostname, "Too many invalid commands.")
}

/// Nothing came for too long.
#[must_use]
pub fn idle_too_long(hostname: &str) -> Reply {
    closing(Enhanced(4, 4, 2), hostname, "Disconnected for inactivity")
}

/// A transaction took longer than it may, from MAIL to the last reply.
#[must_use]
pub fn transaction_too_long(hostname: &str) -> Reply {
    closing(Enhanced(4, 4, 2), hostname, "Transaction took too long")
}

/// A message came in more slowly than it may.
#[must_use]
pub fn data_too_slow(hostname: &str) -> Reply {
    closing(Enhanced(4, 4, 2), hostname, "Message arrives too slowly")
}

/// The server stops; said between transactions.
#[must_use]
pub fn shutting_down(hostname: &str) -> Reply {
    closing(Enhanced(4, 3, 2), hostname, "Server shutting down")
}

/// Said in place of the greeting, when no further connection may be served.
#[must_use]
pub fn too_many_connections(hostname: &str) -> Reply {
    closing(Enhanced(4, 3, 2), hostname, "Too many connections")
}

fn closing(enhanced: Enhanced, hostname: &str, text: &str) -> Reply {
    Reply::made(421, Some(enhanced), format!("{hostname} {text}"))
}

// Replies about one recipient. `address` is what the client gave between the brackets.

/// Any outcome of one recipient: `text` is ours, without line ends, and `address` is put before it.
///
/// # Panics
/// If the classes of `code` and `enhanced` differ.
#[must_use]
pub fn recipient(code: u16, enhanced: Enhanced, address: &str, text: impl Display) -> Reply {
    Reply::made(code, Some(enhanced), format!("<{}> {text}", echo(address)))
}

/// RCPT for somebody who has no mailbox here. Postfix's address verification keeps this answer for days, so it
/// is for users that are certainly not in the table, never for a table that could not be read.
#[must_use]
pub fn user_unknown(address: &str) -> Reply {
    let user = echo(address);
    recipient(550, Enhanced(5, 1, 1), address, format_args!("User doesn't exist: {user}"))
}

/// RCPT for an address in a domain in which nobody has a mailbox; for sites that want it told from
/// [`user_unknown`].
#[must_use]
pub fn domain_unknown(address: &str, domain: &str) -> Reply {
    let domain = echo(domain);
    recipient(550, Enhanced(5, 1, 2), address, format_args!("Domain doesn't exist: {domain}"))
}

/// What an address in a domain without users is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownDomain {
    /// That there is no such domain: 5.1.2.
    NoDomain,
    /// That there is no such user, as in other domains: 5.1.1.
    NoUser,
}

/// Something of ours failed; the client shall try again.
#[must_use]
pub fn temporary_failure(address: &str) -> Reply {
    recipient(451, Enhanced(4, 3, 0), address, "Temporary internal error")
}

/// The message is in the mailbox, as durably as the configuration promises.
#[must_use]
pub fn saved(address: &str, session_id: &str) -> Reply {
    // As `recipient` has it, without the cost of formatting: this is said for nearly every message.
    let text = ["<", &*echo(address), "> ", session_id, " Saved"].concat();
    Reply::made(250, Some(Enhanced(2, 0, 0)), text)
}

/// The message turned out to be over the limit while it was received.
#[must_use]
pub fn too_large_for(address: &str) -> Reply {
    recipient(552, Enhanced(5, 3, 4), address, MESSAGE_TOO_LARGE.text())
}

/// What is said to a line that is no command.
///
/// A path that does not parse is 501 at MAIL as well. Dovecot takes such a sender as `<>`, which loses the
/// address that a bounce would have to go to; Postfix never sends one.
#[must_use]
pub fn malformed(error: Malformed) -> Reply {
    match error {
        Malformed::LineTooLong => LINE_TOO_LONG,
        Malformed::Syntax => INVALID_SYNTAX,
        Malformed::MissingName => MISSING_HOSTNAME,
        Malformed::Parameters => INVALID_PARAMETERS,
        Malformed::RepeatedParameter => REPEATED_PARAMETER,
        Malformed::UnknownParameter => UNSUPPORTED_PARAMETERS,
        Malformed::Size => INVALID_SIZE,
        Malformed::BodyType => UNSUPPORTED_BODY,
        Malformed::Utf8Value => UTF8_HAS_NO_VALUE,
        Malformed::SenderNotUtf8 => SENDER_NOT_UTF8,
        Malformed::SenderNeedsUtf8 => SENDER_NEEDS_UTF8,
        Malformed::Sender(PathError::SpaceBefore) => {
            let text = format!("Invalid FROM: {}", PathError::SpaceBefore);
            Reply::made(501, Some(Enhanced(5, 5, 4)), text)
        }
        Malformed::Sender(reason) => {
            let text = format!("Invalid FROM: {reason}");
            Reply::made(501, Some(Enhanced(5, 1, 7)), text)
        }
        Malformed::RecipientNotUtf8 => RECIPIENT_NOT_UTF8,
        Malformed::NullRecipient => NULL_RECIPIENT,
        Malformed::Recipient(PathError::EmptyLocalPart) => EMPTY_RECIPIENT,
        Malformed::Recipient(PathError::SpaceBefore) => {
            let text = format!("Invalid TO: {}", PathError::SpaceBefore);
            Reply::made(501, Some(Enhanced(5, 5, 4)), text)
        }
        Malformed::Recipient(reason) => {
            let text = format!("Invalid TO: {reason}");
            Reply::made(501, Some(Enhanced(5, 1, 3)), text)
        }
        Malformed::ChunkSize => INVALID_CHUNK_SIZE,
        Malformed::ChunkMarker { .. } => INVALID_CHUNK_MARKER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REPLY_LINE_BYTES_MAX;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_unknown_user_is_told_exactly_as_address_verification_expects() {
        assert_eq!(
            wire(&user_unknown("nobody@example.net")),
            "550 5.1.1 <nobody@example.net> User doesn't exist: nobody@example.net\r\n"
        );
    }

    #[test]
    fn an_unknown_domain_is_told_in_the_manner_of_an_unknown_user() {
        assert_eq!(
            wire(&domain_unknown("alice@elsewhere.example", "elsewhere.example")),
            "550 5.1.2 <alice@elsewhere.example> Domain doesn't exist: elsewhere.example\r\n"
        );
        let reply = wire(&domain_unknown(&"x".repeat(4000), &"y".repeat(4000)));
        assert!(reply.len() <= REPLY_LINE_BYTES_MAX && reply.contains("x> Domain doesn't exist: y"));
        assert_eq!(wire(&domain_unknown("a", "b\r\n250 2.0.0 OK")).matches('\n').count(), 1);
    }

    #[test]
    fn outcomes_name_their_recipient() {
        assert_eq!(wire(&saved("a@b", "SESSION:T2")), "250 2.0.0 <a@b> SESSION:T2 Saved\r\n");
        assert_eq!(wire(&temporary_failure("a@b")), "451 4.3.0 <a@b> Temporary internal error\r\n");
        assert_eq!(
            wire(&too_large_for("a@b")),
            "552 5.3.4 <a@b> Message size exceeds administrative limit\r\n"
        );
    }

    #[test]
    fn greeting_and_capabilities_have_no_enhanced_code() {
        assert_eq!(wire(&greeting("mx.example.net")), "220 mx.example.net Posthaste ready\r\n");
        assert_eq!(
            wire(&capabilities("mx.example.net", 52_428_800)),
            "250-mx.example.net\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n\
             250-SMTPUTF8\r\n250-CHUNKING\r\n250 SIZE 52428800\r\n"
        );
    }

    #[test]
    fn an_address_of_four_kilobytes_fits_a_reply_line_and_both_copies_are_seen() {
        let reply = wire(&user_unknown(&"x".repeat(4000)));
        assert!(reply.len() <= REPLY_LINE_BYTES_MAX);
        assert!(reply.contains("x> User doesn't exist: x"));
        assert!(reply.ends_with("x\r\n"));
    }

    #[test]
    fn an_address_cannot_write_a_reply_of_its_own() {
        let reply = wire(&user_unknown("a\r\n250 2.0.0 OK"));
        assert_eq!(reply.matches('\n').count(), 1);
    }
}
