//! The commands of one envelope, read, decided about and answered.

use posthaste::lmtp::line::{Line, LineReader};
use posthaste::lmtp::replies;
use posthaste::lmtp::session::{Action, Session, SessionLimits};
use std::hint::black_box;
use std::sync::Arc;

/// What Postfix sends in one packet.
const ENVELOPE: &[u8] =
    b"MAIL FROM:<bounces+12345-alice=example.org@lists.example.net> SIZE=4321 BODY=8BITMIME\r\n\
    RCPT TO:<alice@example.org>\r\n\
    RCPT TO:<bob+folder@example.org>\r\n\
    DATA\r\n";

/// What is answered to it.
pub(crate) const ANSWERS: &[u8] =
    b"250 2.1.0 OK\r\n250 2.1.5 OK\r\n250 2.1.5 OK\r\n354 End data with <CR><LF>.<CR><LF>\r\n";

/// A session that takes any number of them.
pub(crate) fn session() -> Session {
    Session::new(Arc::new(SessionLimits {
        hostname: "mx.example.net".to_owned(),
        message_bytes_max: 50 * 1024 * 1024,
        recipients_max: 1000,
        bad_commands_max: 10,
    }))
}

/// Takes an envelope through line reader and session, and returns what is answered.
pub(crate) fn answer(session: &mut Session, out: &mut Vec<u8>) {
    let mut reader = LineReader::default();
    let mut input = black_box(ENVELOPE);
    out.clear();
    while let Line::Complete(line) = reader.next(&mut input) {
        match session.line(line) {
            Action::Begin { reply, .. } => reply.write_to(out),
            Action::Recipient(_) => {
                session.rcpt_accepted();
                replies::RECIPIENT_OK.write_to(out);
            }
            Action::Data(reply) => {
                reply.write_to(out);
                session.data_ended();
            }
            other => panic!("{other:?}"),
        }
    }
}
