//! What is legal now: the order of commands (RFC 5321 section 4.1.4, RFC 2033, RFC 3030), as a machine.
//!
//! The session is given command lines and returns [`Action`]s; whoever owns the connection performs them and reports
//! back what the session cannot know: whether a recipient exists, and when a message is over.
//!
//! ```text
//!           MAIL                 DATA
//!   Idle ---------> Envelope -------------> Data
//!    ^                | RCPT adds            | data_ended()
//!    |                | BDAT                 v
//!    |                v                     Idle
//!    |             Chunks -- refused --> ChunkFailed
//!    |                | LAST, data_ended()   | LAST
//!    +----------------+----------------------+        RSET, LHLO: Idle from anywhere
//! ```
//!
//! The session promises that each command gets the replies the RFC counts: one, save for BDAT LAST, which gets one
//! for each accepted recipient, hence none without any (RFC 2033 section 4.3). That holds for a BDAT LAST that is
//! refused too, as a client that pipelines knows only this rule.
//!
//! MAIL is taken without LHLO, as Dovecot does; nothing depends on the greeting.
#![forbid(unsafe_code)]

use crate::lmtp::command::{self, Command, MailFrom, Malformed, RcptTo};
use crate::lmtp::replies;
use crate::lmtp::reply::Reply;
use std::sync::Arc;

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    limits: Arc<SessionLimits>,
    stage: Stage,
    /// Recipients accepted in this transaction.
    recipients: u32,
    /// The transaction may hold UTF-8 addresses.
    smtputf8: bool,
    /// Commands refused with 500, 501 or 503 since the last better one.
    bad_commands: u32,
}

/// What all sessions of a listener have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// The name we give in the greeting. ASCII, no blanks.
    pub hostname: String,
    /// Octets a message may have.
    pub message_bytes_max: u64,
    /// Recipients a transaction may have.
    pub recipients_max: u32,
    /// Commands in a row that may be refused with 500, 501 or 503.
    pub bad_commands_max: u32,
}

/// What is to be done about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Say this, nothing else.
    Reply(Reply),
    /// LHLO: remember the client's name, forget the transaction if there is one, say this.
    Greet {
        /// The name, fit for a trace header.
        client: &'a str,
        /// The capabilities.
        reply: Reply,
    },
    /// MAIL is good: a transaction begins. Say this.
    Begin {
        /// The sender and its parameters.
        mail: MailFrom<'a>,
        /// 250.
        reply: Reply,
    },
    /// RCPT is legal: look the user up, call [`Session::rcpt_accepted`] if it exists, and answer.
    Recipient(RcptTo<'a>),
    /// Say 354, feed the bytes that follow to the scanner, answer each recipient, call [`Session::data_ended`].
    Data(Reply),
    /// A chunk of the message: read `size` octets as they are, then
    /// - not `last`: say what [`Session::chunk_stored`] returns, or call [`Session::chunk_failed`] and say why;
    /// - `last`: answer each recipient and call [`Session::data_ended`].
    Chunk {
        /// Octets that follow the line. Fits the message limit.
        size: u64,
        /// The message is complete with them.
        last: bool,
    },
    /// A chunk that is refused, but is on its way all the same: read and drop `size` octets, then say `reply` as
    /// often as said. If it was the last one, the transaction is over, and must be forgotten.
    Swallow {
        /// Octets that follow the line. Any number: the transaction clock is what bounds it.
        size: u64,
        /// What to say.
        reply: Reply,
        /// How often: once, or for LAST once for each accepted recipient.
        times: u32,
        /// The transaction is over.
        last: bool,
    },
    /// Forget the transaction, say this.
    Reset(Reply),
    /// Say this, close the connection.
    Quit(Reply),
    /// Say this, close the connection, and read nothing more from it: the client is not to be understood.
    Hangup(Reply),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// MAIL was taken.
    Envelope,
    /// BDAT has begun.
    Chunks {
        /// Octets of all chunks so far.
        octets: u64,
    },
    /// A chunk was refused: the message has a hole, and only LAST or RSET lead on.
    ChunkFailed,
    /// Between 354 and the end of data there are no commands.
    Data,
}

impl Session {
    /// A connection before its first command.
    #[must_use]
    pub const fn new(limits: Arc<SessionLimits>) -> Self {
        Self { limits, stage: Stage::Idle, recipients: 0, smtputf8: false, bad_commands: 0 }
    }

    /// What a client hears first.
    #[must_use]
    pub fn greeting(&self) -> Reply {
        replies::greeting(&self.limits.hostname)
    }

    /// Decides about a command line, given without its line end.
    ///
    /// # Panics
    /// If it is called between [`Action::Data`] and [`Session::data_ended`], when there are no lines.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Action<'a> {
        assert!(self.stage != Stage::Data, "the message is not over");
        let action = match command::parse(line) {
            Ok(command) => self.command(command),
            Err(error) => self.malformed(error),
        };
        self.count_bad_commands(action)
    }

    /// Decides about a line that was too long to be kept.
    pub fn line_too_long(&mut self) -> Action<'static> {
        self.count_bad_commands(Action::Reply(replies::LINE_TOO_LONG))
    }

    /// The recipient of the last [`Action::Recipient`] exists.
    pub fn rcpt_accepted(&mut self) {
        assert!(self.stage == Stage::Envelope, "RCPT belongs to an envelope");
        self.recipients += 1;
    }

    /// The chunk of the last [`Action::Chunk`] has arrived and was not the last: returns what to say.
    #[must_use]
    pub fn chunk_stored(&self, size: u64) -> Reply {
        replies::chunk_added(size)
    }

    /// The chunk of the last [`Action::Chunk`] could not be kept: the message cannot be completed any more, and
    /// further chunks will be refused.
    pub fn chunk_failed(&mut self) {
        self.stage = Stage::ChunkFailed;
    }

    /// The message is over, delivered or not: so is the transaction.
    pub fn data_ended(&mut self) {
        self.forget_transaction();
    }

    /// Whether MAIL was taken and its transaction is not over.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// Recipients accepted in this transaction, which is how many replies its message will get.
    #[must_use]
    pub const fn recipients(&self) -> u32 {
        self.recipients
    }

    fn command<'a>(&mut self, command: Command<'a>) -> Action<'a> {
        match command {
            Command::Lhlo(client) => self.lhlo(client),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(rcpt) => self.rcpt(rcpt),
            Command::Data => self.data(),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::Rset => {
                self.forget_transaction();
                Action::Reset(replies::OK)
            }
            Command::Quit => Action::Quit(replies::BYE),
            Command::Noop => Action::Reply(replies::OK),
            Command::Vrfy => Action::Reply(replies::CANNOT_VERIFY),
            Command::Help => Action::Reply(replies::HELP),
            Command::WrongGreeting => Action::Reply(replies::WRONG_GREETING),
            Command::NotOffered => Action::Reply(replies::UNSUPPORTED_COMMAND),
            Command::Unknown => Action::Reply(replies::UNKNOWN_COMMAND),
        }
    }

    /// A second LHLO in a session is as good as RSET (RFC 5321 section 4.1.4).
    fn lhlo<'a>(&mut self, client: &'a str) -> Action<'a> {
        self.forget_transaction();
        let limits = &self.limits;
        Action::Greet { client, reply: replies::capabilities(&limits.hostname, limits.message_bytes_max) }
    }

    fn mail<'a>(&mut self, mail: MailFrom<'a>) -> Action<'a> {
        if self.in_transaction() {
            return Action::Reply(replies::NESTED_MAIL);
        }
        if mail.size.is_some_and(|size| size > self.limits.message_bytes_max) {
            return Action::Reply(replies::MESSAGE_TOO_LARGE);
        }
        self.stage = Stage::Envelope;
        self.smtputf8 = mail.smtputf8;
        Action::Begin { mail, reply: replies::SENDER_OK }
    }

    fn rcpt<'a>(&self, rcpt: RcptTo<'a>) -> Action<'a> {
        if let Some(refusal) = self.not_in_envelope() {
            return Action::Reply(refusal);
        }
        if rcpt.address.needs_utf8() && !self.smtputf8 {
            return Action::Reply(replies::RECIPIENT_NEEDS_UTF8);
        }
        if self.recipients >= self.limits.recipients_max {
            return Action::Reply(replies::TOO_MANY_RECIPIENTS);
        }
        Action::Recipient(rcpt)
    }

    fn data<'a>(&mut self) -> Action<'a> {
        if let Some(refusal) = self.not_in_envelope() {
            return Action::Reply(refusal);
        }
        if self.recipients == 0 {
            return Action::Reply(replies::NO_RECIPIENTS);
        }
        self.stage = Stage::Data;
        Action::Data(replies::SEND_DATA)
    }

    fn bdat<'a>(&mut self, size: u64, last: bool) -> Action<'a> {
        match self.chunk_total(size) {
            Ok(octets) => {
                self.stage = Stage::Chunks { octets };
                Action::Chunk { size, last }
            }
            Err(refusal) => self.refuse_chunk(size, last, refusal),
        }
    }

    /// Octets of the message with a chunk of `size`, if one may come now.
    fn chunk_total(&self, size: u64) -> Result<u64, Reply> {
        let before = match self.stage {
            Stage::Idle | Stage::Data => return Err(replies::MAIL_FIRST),
            Stage::ChunkFailed => return Err(replies::CHUNK_FAILED),
            Stage::Envelope if self.recipients == 0 => return Err(replies::NO_RECIPIENTS),
            Stage::Envelope => 0,
            Stage::Chunks { octets } => octets,
        };
        before
            .checked_add(size)
            .filter(|&octets| octets <= self.limits.message_bytes_max)
            .ok_or(replies::MESSAGE_TOO_LARGE)
    }

    /// Refuses a chunk whose octets follow all the same (RFC 3030 section 2).
    ///
    /// A transaction that has lost a chunk must not go on to be delivered without it, whatever comes next: not even
    /// when its first recipient is accepted only later.
    fn refuse_chunk<'a>(&mut self, size: u64, last: bool, reply: Reply) -> Action<'a> {
        let times = if last { self.recipients } else { 1 };
        if last {
            self.forget_transaction();
        } else if self.in_transaction() {
            self.stage = Stage::ChunkFailed;
        }
        Action::Swallow { size, reply, times, last }
    }

    fn malformed<'a>(&mut self, error: Malformed) -> Action<'a> {
        let reply = replies::malformed(error);
        match error {
            Malformed::ChunkSize => Action::Hangup(reply),
            Malformed::ChunkMarker { size } => self.refuse_chunk(size, false, reply),
            _ => Action::Reply(reply),
        }
    }

    /// Why RCPT and DATA are not legal now, if they are not.
    fn not_in_envelope(&self) -> Option<Reply> {
        match self.stage {
            Stage::Envelope => None,
            Stage::Idle => Some(replies::MAIL_FIRST),
            Stage::Chunks { .. } | Stage::ChunkFailed | Stage::Data => Some(replies::BAD_SEQUENCE),
        }
    }

    /// Ends a connection whose client does not speak LMTP.
    ///
    /// 502, 550, 552, 555 and the like answer a client that does, so they end the row as any success does.
    fn count_bad_commands<'a>(&mut self, action: Action<'a>) -> Action<'a> {
        let bad = match &action {
            Action::Reply(reply) => is_bad(reply),
            Action::Swallow { reply, .. } => is_bad(reply),
            _ => false,
        };
        self.bad_commands = if bad { self.bad_commands + 1 } else { 0 };
        if self.bad_commands > self.limits.bad_commands_max {
            return Action::Hangup(replies::too_many_bad_commands(&self.limits.hostname));
        }
        action
    }

    fn forget_transaction(&mut self) {
        self.stage = Stage::Idle;
        self.recipients = 0;
        self.smtputf8 = false;
    }
}

fn is_bad(reply: &Reply) -> bool {
    matches!(reply.code(), 500 | 501 | 503)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new(Arc::new(SessionLimits {
            hostname: "mx.example.net".to_owned(),
            message_bytes_max: 1000,
            recipients_max: 3,
            bad_commands_max: 10,
        }))
    }

    /// Performs a dialog as the owner of the connection would, where every user but `nobody` exists; data and chunks
    /// are taken to arrive at once. Returns the replies.
    fn dialog(session: &mut Session, lines: &[&str]) -> Vec<String> {
        let mut said = Vec::new();
        for line in lines {
            match session.line(line.as_bytes()) {
                Action::Reply(reply)
                | Action::Greet { reply, .. }
                | Action::Begin { reply, .. }
                | Action::Reset(reply)
                | Action::Quit(reply)
                | Action::Hangup(reply) => said.push(reply.to_string()),
                Action::Recipient(rcpt) if rcpt.address.local == "nobody" => {
                    said.push(replies::user_unknown(rcpt.address.text).to_string());
                }
                Action::Recipient(_) => {
                    session.rcpt_accepted();
                    said.push(replies::RECIPIENT_OK.to_string());
                }
                Action::Data(reply) => {
                    said.push(reply.to_string());
                    deliver(session, &mut said);
                }
                Action::Chunk { last: true, .. } => deliver(session, &mut said),
                Action::Chunk { size, last: false } => {
                    said.push(session.chunk_stored(size).to_string());
                }
                Action::Swallow { reply, times, .. } => {
                    said.extend((0..times).map(|_| reply.to_string()));
                }
            }
        }
        said
    }

    fn deliver(session: &mut Session, said: &mut Vec<String>) {
        said.extend((0..session.recipients()).map(|_| "saved".to_owned()));
        session.data_ended();
    }

    /// The first three digits of each reply.
    fn codes(lines: &[&str]) -> Vec<String> {
        let said = dialog(&mut session(), lines);
        said.iter().map(|reply| reply[..3].to_owned()).collect()
    }

    const MAIL: &str = "MAIL FROM:<a@b>";
    const RCPT: &str = "RCPT TO:<c@d>";

    #[test]
    fn an_ordinary_session_is_answered_word_for_word() {
        let mut session = session();
        assert_eq!(session.greeting().to_string(), "220 mx.example.net Posthaste ready");
        let said = dialog(
            &mut session,
            &["LHLO client", MAIL, RCPT, "RCPT TO:<nobody@d>", RCPT, "DATA", "NOOP", "QUIT"],
        );
        assert_eq!(
            said[1..],
            [
                "250 2.1.0 OK",
                "250 2.1.5 OK",
                "550 5.1.1 <nobody@d> User doesn't exist: nobody@d",
                "250 2.1.5 OK",
                "354 End data with <CR><LF>.<CR><LF>",
                "saved",
                "saved",
                "250 2.0.0 OK",
                "221 2.0.0 Bye",
            ]
        );
        assert!(said[0].ends_with("250 SIZE 1000"));
        assert!(!session.in_transaction());
    }

    #[test]
    fn mail_without_lhlo_is_taken() {
        assert_eq!(codes(&[MAIL, RCPT, "DATA"]), ["250", "250", "354", "sav"]);
    }

    #[test]
    fn commands_out_of_order_are_refused() {
        let cases: &[(&[&str], &str)] = &[
            (&[RCPT], "503 5.5.1 MAIL needed first"),
            (&["DATA"], "503 5.5.1 MAIL needed first"),
            (&["BDAT 1"], "503 5.5.1 MAIL needed first"),
            (&[MAIL, MAIL], "503 5.5.1 MAIL already given"),
            (&[MAIL, "DATA"], "503 5.5.1 No valid recipients"),
            (&[MAIL, "RCPT TO:<nobody@d>", "DATA"], "503 5.5.1 No valid recipients"),
            (&[MAIL, "BDAT 1"], "503 5.5.1 No valid recipients"),
            (&[MAIL, RCPT, "BDAT 1", "DATA"], "503 5.5.1 Bad sequence of commands"),
            (&[MAIL, RCPT, "BDAT 1", RCPT], "503 5.5.1 Bad sequence of commands"),
            (&[MAIL, RCPT, "BDAT 1", MAIL], "503 5.5.1 MAIL already given"),
            (&[MAIL, RCPT, "DATA", "DATA"], "503 5.5.1 MAIL needed first"),
            (&[MAIL, RCPT, "RSET", "DATA"], "503 5.5.1 MAIL needed first"),
            (&[MAIL, RCPT, "LHLO again", RCPT], "503 5.5.1 MAIL needed first"),
            (&["EHLO a"], "500 5.5.1 This is LMTP, greet with LHLO"),
            (&["HELO a"], "500 5.5.1 This is LMTP, greet with LHLO"),
            (&["XCLIENT A=b"], "500 5.5.1 Unknown command"),
            (&["STARTTLS"], "502 5.5.1 Unsupported command"),
            (&["AUTH PLAIN"], "502 5.5.1 Unsupported command"),
            (&["VRFY a"], "252 2.5.2 Try RCPT instead"),
            (&["LHLO"], "501 Missing hostname"),
            (&[MAIL, "RCPT TO:<>"], "501 5.1.3 Invalid TO: Null path not allowed"),
            (&["MAIL FROM:<@>"], "501 5.1.7 Invalid FROM: Invalid source route"),
            (&["MAIL FROM: <a@b>"], "501 5.5.4 Invalid FROM: Unexpected whitespace before path"),
            (&["MAIL FROM:<a@b> RET=FULL"], "555 5.5.4 Unsupported parameters"),
            (&["MAIL FROM:<a@b> SIZE=1 SIZE=1"], "501 5.5.4 Repeated parameter"),
        ];
        for (lines, expected) in cases {
            let said = dialog(&mut session(), lines);
            assert_eq!(said.last().map(String::as_str), Some(*expected), "{lines:?}");
        }
    }

    #[test]
    fn a_message_announced_as_too_large_is_refused_at_mail() {
        assert_eq!(
            dialog(&mut session(), &["MAIL FROM:<a@b> SIZE=1001"]),
            ["552 5.3.4 Message size exceeds administrative limit"]
        );
        assert_eq!(codes(&["MAIL FROM:<a@b> SIZE=1000"]), ["250"]);
        assert_eq!(codes(&["MAIL FROM:<a@b> SIZE=99999999999999999999", RCPT]), ["552", "503"]);
    }

    #[test]
    fn only_accepted_recipients_count_against_the_limit() {
        let mut lines = vec![MAIL, RCPT, "RCPT TO:<nobody@d>", RCPT, RCPT, RCPT, "DATA"];
        assert_eq!(codes(&lines), ["250", "250", "550", "250", "250", "452", "354", "sav", "sav", "sav"]);
        lines.truncate(6);
        assert_eq!(dialog(&mut session(), &lines).last().unwrap(), "452 4.5.3 Too many recipients");
    }

    #[test]
    fn a_refused_mail_leaves_no_transaction() {
        let mut session = session();
        dialog(&mut session, &["MAIL FROM:<a@b> SIZE=5000"]);
        assert!(!session.in_transaction());
        dialog(&mut session, &[MAIL]);
        assert!(session.in_transaction());
    }

    #[test]
    fn a_utf8_recipient_needs_smtputf8_in_its_own_transaction() {
        let utf8 = "RCPT TO:<\u{e9}@d>";
        assert_eq!(
            codes(&["MAIL FROM:<a@b> SMTPUTF8", utf8, "RSET", MAIL, utf8]),
            ["250", "250", "250", "250", "553"]
        );
        assert_eq!(codes(&["MAIL FROM:<\u{e9}@b>"]), ["550"]);
    }

    #[test]
    fn chunks_make_a_message_with_one_reply_for_each_recipient_at_its_end() {
        assert_eq!(
            dialog(&mut session(), &[MAIL, RCPT, RCPT, "BDAT 86", "BDAT 0", "BDAT 7 LAST", MAIL])[3..],
            ["250 2.0.0 Added 86 octets", "250 2.0.0 Added 0 octets", "saved", "saved", "250 2.1.0 OK",]
        );
    }

    #[test]
    fn the_last_chunk_without_recipients_is_swallowed_and_not_answered() {
        for before in [&[][..], &[MAIL], &[MAIL, "RCPT TO:<nobody@d>"]] {
            let mut session = session();
            dialog(&mut session, before);
            let action = session.line(b"BDAT 7 LAST");
            assert!(matches!(action, Action::Swallow { size: 7, times: 0, last: true, .. }), "{action:?}");
            assert!(!session.in_transaction());
        }
    }

    #[test]
    fn a_chunk_out_of_sequence_still_has_its_octets_swallowed() {
        let mut session = session();
        let action = session.line(b"BDAT 12345");
        assert!(matches!(action, Action::Swallow { size: 12345, times: 1, last: false, .. }));
        assert!(!session.in_transaction());
        let action = session.line(b"BDAT 9 FIRST");
        assert!(matches!(action, Action::Swallow { size: 9, times: 1, .. }));
    }

    #[test]
    fn a_message_that_lost_a_chunk_is_never_delivered() {
        let too_large = "BDAT 1001";
        assert_eq!(
            codes(&[MAIL, RCPT, RCPT, too_large, "BDAT 1", RCPT, "DATA", "BDAT 1 LAST", MAIL]),
            ["250", "250", "250", "552", "503", "503", "503", "503", "503", "250"]
        );
        // Its first chunk came before its first recipient.
        assert_eq!(codes(&[MAIL, "BDAT 5", RCPT, "BDAT 5 LAST"]), ["250", "503", "503"]);
        assert_eq!(codes(&[MAIL, RCPT, "BDAT 5 FIRST", "BDAT 5 LAST"]), ["250", "250", "501", "503"]);
        assert_eq!(codes(&[MAIL, RCPT, "BDAT 1001", "RSET", MAIL, RCPT, "BDAT 1 LAST"])[6], "sav");
        let mut session = session();
        dialog(&mut session, &[MAIL, RCPT, "BDAT 1"]);
        session.chunk_failed();
        assert_eq!(
            dialog(&mut session, &["BDAT 1 LAST"]),
            ["503 5.5.1 Previous data chunk failed, issue RSET first"]
        );
    }

    #[test]
    fn chunks_are_measured_together() {
        assert_eq!(
            codes(&[MAIL, RCPT, RCPT, "BDAT 999", "BDAT 1", "BDAT 1 LAST"]),
            ["250", "250", "250", "250", "250", "552", "552"]
        );
        let endless = "BDAT 18446744073709551615";
        assert_eq!(codes(&[MAIL, RCPT, "BDAT 1", endless]), ["250", "250", "250", "552"]);
    }

    #[test]
    fn a_chunk_of_unreadable_size_ends_the_connection() {
        let mut session = session();
        assert_eq!(session.line(b"BDAT many"), Action::Hangup(replies::INVALID_CHUNK_SIZE));
    }

    #[test]
    fn the_eleventh_bad_command_in_a_row_ends_the_connection() {
        let mut session = session();
        for line in ["FOO", "", RCPT, "MAIL", "EHLO a", "DATA", "DATA x", "FOO", "BDAT 1"] {
            dialog(&mut session, &[line]);
        }
        assert!(matches!(session.line_too_long(), Action::Reply(_)));
        assert_eq!(session.line(b"FOO"), Action::Hangup(replies::too_many_bad_commands("mx.example.net")));
        assert_eq!(
            replies::too_many_bad_commands("mx.example.net").to_string(),
            "421 4.7.0 mx.example.net Too many invalid commands."
        );
    }

    #[test]
    fn any_better_command_begins_the_row_again() {
        for better in ["NOOP", "STARTTLS", "MAIL FROM:<a@b> SIZE=5000", "MAIL FROM:<a@b> X=1"] {
            let mut session = session();
            for _ in 0..3 {
                for _ in 0..10 {
                    assert_eq!(dialog(&mut session, &["FOO"]), ["500 5.5.1 Unknown command"]);
                }
                dialog(&mut session, &[better]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "the message is not over")]
    fn a_line_during_data_is_a_bug_of_the_caller() {
        let mut session = session();
        let _ = session.line(MAIL.as_bytes());
        session.rcpt_accepted();
        let _ = session.line(b"DATA");
        let _ = session.line(b"NOOP");
    }
}
