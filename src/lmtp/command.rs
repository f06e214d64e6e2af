//! Reads one command line.
//!
//! ```text
//! command   = verb [SP parameters]          verb in any case, trailing blanks are ignored
//! LHLO      = "LHLO" SP name
//! MAIL      = "MAIL FROM:" path *(SP ("SIZE=" 1*20DIGIT / "BODY=" ("7BIT" / "8BITMIME") / "SMTPUTF8"))
//! RCPT      = "RCPT TO:" path               no parameter: DSN is not announced
//! BDAT      = "BDAT" SP 1*20DIGIT [SP "LAST"]
//! DATA RSET QUIT                            nothing behind them
//! NOOP VRFY HELP                            anything behind them is ignored
//! ```
//!
//! A parsed command borrows the line. What is legal at this moment is not decided here but in [`super::session`].
#![forbid(unsafe_code)]

use crate::limits::{
    CLIENT_NAME_BYTES_MAX, COMMAND_PARAMETERS_BYTES_MAX, COMMAND_VERB_BYTES_MAX, SIZE_DIGITS_MAX,
};
use crate::mail::address::{Address, PathError, is_ascii_domain, parse_path};
use std::fmt;

/// A well-formed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The client's name if it is a domain or a domain literal, else `unknown`: it may go into the trace header.
    Lhlo(&'a str),
    /// The beginning of a transaction.
    Mail(MailFrom<'a>),
    /// One more recipient.
    Rcpt(RcptTo<'a>),
    /// The message follows, once we say so.
    Data,
    /// `size` octets of the message follow this line at once.
    Bdat {
        /// Octets behind the line.
        size: u64,
        /// The chunk ends the message.
        last: bool,
    },
    /// Forget the transaction.
    Rset,
    /// Do nothing.
    Noop,
    /// Whether somebody exists.
    Vrfy,
    /// Who are you.
    Help,
    /// Good bye.
    Quit,
    /// HELO or EHLO.
    WrongGreeting,
    /// STARTTLS or AUTH: a command of an extension that we know and do not offer.
    NotOffered,
    /// Any other verb.
    Unknown,
}

/// MAIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailFrom<'a> {
    /// The sender; none for `<>`.
    pub sender: Option<Address<'a>>,
    /// Octets of the message, as the client estimates them.
    pub size: Option<u64>,
    /// What the message is made of.
    pub body: BodyType,
    /// The envelope and the header may hold UTF-8 (RFC 6531).
    pub smtputf8: bool,
}

/// RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptTo<'a> {
    /// The recipient.
    pub address: Address<'a>,
}

/// BODY (RFC 6152). Stored as it comes either way; mail without the parameter is seven-bit by definition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    /// `BODY=7BIT`, or none.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The verb or the parameters are over their limit.
    LineTooLong,
    /// No verb, two blanks behind it, a control character, or bytes that are not UTF-8.
    Syntax,
    /// LHLO without a name.
    MissingName,
    /// Parameters where there are none; `FROM:` or `TO:` missing; a parameter that is not `KEYWORD[=value]`.
    Parameters,
    /// A parameter given twice.
    RepeatedParameter,
    /// A well-formed parameter of an extension that was not announced.
    UnknownParameter,
    /// A SIZE value that is not 1 to 20 digits.
    Size,
    /// A BODY value other than 7BIT and 8BITMIME.
    BodyType,
    /// SMTPUTF8 with a value.
    Utf8Value,
    /// MAIL with bytes that are not UTF-8.
    SenderNotUtf8,
    /// MAIL with a non-ASCII address, without SMTPUTF8.
    SenderNeedsUtf8,
    /// MAIL with a path that is none.
    Sender(PathError),
    /// RCPT with bytes that are not UTF-8.
    RecipientNotUtf8,
    /// RCPT with `<>`.
    NullRecipient,
    /// RCPT with a path that is none.
    Recipient(PathError),
    /// BDAT without a size that can be read. How much of the stream is message is unknown, so nothing behind this
    /// line may be taken for a command: the connection must be closed. Were it read on, the author of a
    /// message could speak to us in the client's place.
    ChunkSize,
    /// BDAT with something other than LAST behind the size.
    ChunkMarker {
        /// Octets behind the line, to be read and dropped.
        size: u64,
    },
}

/// Reads a line, without its line end.
///
/// # Errors
/// Why it is no command; [`super::replies::malformed`] has the replies.
pub fn parse(line: &[u8]) -> Result<Command<'_>, Malformed> {
    let line = line.trim_ascii_end();
    let (verb, rest) = match memchr::memchr(b' ', line) {
        Some(blank) => (&line[..blank], &line[blank + 1..]),
        None => (line, &line[line.len()..]),
    };
    if verb.len() > COMMAND_VERB_BYTES_MAX || rest.len() > COMMAND_PARAMETERS_BYTES_MAX {
        return Err(Malformed::LineTooLong);
    }
    if verb.is_empty() || !verb.iter().all(u8::is_ascii_alphabetic) {
        return Err(Malformed::Syntax);
    }
    let verb = VERBS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(verb))
        .map_or(Verb::Unknown, |&(_, verb)| verb);
    let rest = parameters(verb, rest)?;
    match verb {
        Verb::Lhlo => lhlo(rest),
        Verb::Mail => mail(rest).map(Command::Mail),
        Verb::Rcpt => rcpt(rest).map(Command::Rcpt),
        Verb::Bdat => bdat(rest),
        Verb::Data => bare(Command::Data, rest),
        Verb::Rset => bare(Command::Rset, rest),
        Verb::Quit => bare(Command::Quit, rest),
        // RFC 5321 section 4.1.1.9 lets NOOP carry a string, to be ignored.
        Verb::Noop => Ok(Command::Noop),
        Verb::Vrfy => Ok(Command::Vrfy),
        Verb::Help => Ok(Command::Help),
        Verb::WrongGreeting => Ok(Command::WrongGreeting),
        Verb::NotOffered => Ok(Command::NotOffered),
        Verb::Unknown => Ok(Command::Unknown),
    }
}

#[derive(Clone, Copy)]
enum Verb {
    Lhlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
    WrongGreeting,
    NotOffered,
    Unknown,
}

/// The most frequent first.
const VERBS: [(&[u8], Verb); 14] = [
    (b"RCPT", Verb::Rcpt),
    (b"MAIL", Verb::Mail),
    (b"DATA", Verb::Data),
    (b"RSET", Verb::Rset),
    (b"QUIT", Verb::Quit),
    (b"LHLO", Verb::Lhlo),
    (b"BDAT", Verb::Bdat),
    (b"NOOP", Verb::Noop),
    (b"VRFY", Verb::Vrfy),
    (b"HELP", Verb::Help),
    (b"HELO", Verb::WrongGreeting),
    (b"EHLO", Verb::WrongGreeting),
    (b"STARTTLS", Verb::NotOffered),
    (b"AUTH", Verb::NotOffered),
];

/// What stands behind the verb, as text that holds no ASCII control character.
fn parameters(verb: Verb, rest: &[u8]) -> Result<&str, Malformed> {
    let Ok(text) = str::from_utf8(rest) else {
        return Err(match verb {
            Verb::Mail => Malformed::SenderNotUtf8,
            Verb::Rcpt => Malformed::RecipientNotUtf8,
            Verb::Bdat => Malformed::ChunkSize,
            _ => Malformed::Syntax,
        });
    };
    // Every octet is looked at and none ends the search, so that the compiler makes vector code of it.
    let has_control = rest.iter().fold(false, |found, octet| found | octet.is_ascii_control());
    if rest.starts_with(b" ") || has_control {
        return Err(match verb {
            Verb::Bdat => Malformed::ChunkSize,
            _ => Malformed::Syntax,
        });
    }
    Ok(text)
}

fn bare<'a>(command: Command<'a>, rest: &str) -> Result<Command<'a>, Malformed> {
    if rest.is_empty() { Ok(command) } else { Err(Malformed::Parameters) }
}

fn lhlo(name: &str) -> Result<Command<'_>, Malformed> {
    if name.is_empty() {
        return Err(Malformed::MissingName);
    }
    // RFC 5321 section 4.1.4: mail must not be refused because the name is wrong.
    let usable = name.len() <= CLIENT_NAME_BYTES_MAX && is_ascii_domain(name);
    Ok(Command::Lhlo(if usable { name } else { "unknown" }))
}

fn mail(rest: &str) -> Result<MailFrom<'_>, Malformed> {
    let path = strip_prefix_any_case(rest, "FROM:").ok_or(Malformed::Parameters)?;
    let (sender, rest) = parse_path(path).map_err(Malformed::Sender)?;
    let mut mail = MailFrom { sender, size: None, body: BodyType::default(), smtputf8: false };
    let mut body = None;
    each_parameter(rest, |keyword, value| {
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        let repeated = if is("SIZE") {
            mail.size.replace(size_value(value)?).is_some()
        } else if is("BODY") {
            body.replace(body_type(value)?).is_some()
        } else if is("SMTPUTF8") {
            if value.is_some() {
                return Err(Malformed::Utf8Value);
            }
            std::mem::replace(&mut mail.smtputf8, true)
        } else {
            return Err(Malformed::UnknownParameter);
        };
        if repeated {
            return Err(Malformed::RepeatedParameter);
        }
        Ok(())
    })?;
    mail.body = body.unwrap_or_default();
    if !mail.smtputf8 && mail.sender.as_ref().is_some_and(Address::needs_utf8) {
        return Err(Malformed::SenderNeedsUtf8);
    }
    Ok(mail)
}

fn rcpt(rest: &str) -> Result<RcptTo<'_>, Malformed> {
    let path = strip_prefix_any_case(rest, "TO:").ok_or(Malformed::Parameters)?;
    let (address, rest) = parse_path(path).map_err(Malformed::Recipient)?;
    let address = address.ok_or(Malformed::NullRecipient)?;
    each_parameter(rest, |_, _| Err(Malformed::UnknownParameter))?;
    Ok(RcptTo { address })
}

/// Calls `take` with keyword and value of each parameter behind a path: `*(SP keyword ["=" value])` of RFC 5321
/// section 4.1.2.
fn each_parameter<'a>(
    rest: &'a str,
    mut take: impl FnMut(&'a str, Option<&'a str>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    if rest.is_empty() {
        return Ok(());
    }
    let parameters = rest.strip_prefix(' ').ok_or(Malformed::Parameters)?;
    for parameter in parameters.split(' ') {
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (parameter, None),
        };
        let keyword_ok = keyword.starts_with(|first: char| first.is_ascii_alphanumeric())
            && keyword.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let value_ok = value.is_none_or(|value| !value.is_empty() && !value.contains('='));
        if !keyword_ok || !value_ok {
            return Err(Malformed::Parameters);
        }
        take(keyword, value)?;
    }
    Ok(())
}

/// A SIZE beyond what 64 bits can say is a size all the same, and beyond every limit.
fn size_value(value: Option<&str>) -> Result<u64, Malformed> {
    let digits = value.filter(|value| is_number(value)).ok_or(Malformed::Size)?;
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn body_type(value: Option<&str>) -> Result<BodyType, Malformed> {
    let value = value.ok_or(Malformed::Parameters)?;
    if value.eq_ignore_ascii_case("8BITMIME") {
        Ok(BodyType::EightBitMime)
    } else if value.eq_ignore_ascii_case("7BIT") {
        Ok(BodyType::SevenBit)
    } else {
        Err(Malformed::BodyType)
    }
}

fn bdat(rest: &str) -> Result<Command<'static>, Malformed> {
    let (digits, marker) = match rest.split_once(' ') {
        Some((digits, marker)) => (digits, Some(marker)),
        None => (rest, None),
    };
    if !is_number(digits) {
        return Err(Malformed::ChunkSize);
    }
    let size = digits.parse().map_err(|_| Malformed::ChunkSize)?;
    let last = match marker {
        None => false,
        Some(marker) if marker.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(Malformed::ChunkMarker { size }),
    };
    Ok(Command::Bdat { size, last })
}

fn is_number(text: &str) -> bool {
    (1..=SIZE_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn strip_prefix_any_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// As the client is told.
impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(super::replies::malformed(*self).text())
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed_mail(line: &str) -> MailFrom<'_> {
        match parse(line.as_bytes()) {
            Ok(Command::Mail(mail)) => mail,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn simple_commands_are_known_in_any_case_and_with_blanks_behind_them() {
        let cases = [
            ("DATA", Command::Data),
            ("data ", Command::Data),
            ("Rset \t ", Command::Rset),
            ("QUIT", Command::Quit),
            ("NOOP", Command::Noop),
            ("NOOP keeps alive", Command::Noop),
            ("VRFY alice", Command::Vrfy),
            ("HELP", Command::Help),
            ("HELP MAIL", Command::Help),
            ("HELO a", Command::WrongGreeting),
            ("ehlo a", Command::WrongGreeting),
            ("STARTTLS", Command::NotOffered),
            ("AUTH PLAIN", Command::NotOffered),
            ("EXPN list", Command::Unknown),
            ("MAI", Command::Unknown),
            ("MAILS", Command::Unknown),
        ];
        for (line, command) in cases {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn a_name_that_is_no_domain_is_unknown_but_not_refused() {
        let long = format!("LHLO {}", "x".repeat(256));
        let cases = [
            ("LHLO mx.example.net", "mx.example.net"),
            ("lhlo [IPv6:::1]", "[IPv6:::1]"),
            ("LHLO two words", "unknown"),
            ("LHLO x(comment)", "unknown"),
            ("LHLO \u{fc}.example", "unknown"),
            (&long, "unknown"),
        ];
        for (line, name) in cases {
            assert_eq!(parse(line.as_bytes()), Ok(Command::Lhlo(name)), "{line}");
        }
    }

    #[test]
    fn mail_takes_what_postfix_sends() {
        let mail = parsed_mail("MAIL FROM:<a@b> SIZE=4096 BODY=8BITMIME SMTPUTF8");
        assert_eq!(mail.sender.unwrap().text, "a@b");
        assert_eq!(mail.size, Some(4096));
        assert_eq!(mail.body, BodyType::EightBitMime);
        assert!(mail.smtputf8);
        let mail = parsed_mail("mail from:<>");
        assert_eq!(mail.sender, None);
        assert_eq!((mail.size, mail.body, mail.smtputf8), (None, BodyType::SevenBit, false));
        assert_eq!(parsed_mail("MAIL FROM:<> body=7bit").body, BodyType::SevenBit);
    }

    #[test]
    fn a_size_that_no_number_can_hold_is_larger_than_any_limit() {
        let line = "MAIL FROM:<> SIZE=99999999999999999999";
        assert_eq!(parsed_mail(line).size, Some(u64::MAX));
    }

    #[test]
    fn rcpt_takes_an_address() {
        let Ok(Command::Rcpt(rcpt)) = parse(b"RCPT TO:<@relay:Alice+x@b>") else {
            panic!("a good recipient");
        };
        assert_eq!(rcpt.address.text, "Alice+x@b");
    }

    #[test]
    fn bdat_has_a_size_and_may_be_the_last() {
        for (line, size, last) in [
            ("BDAT 0", 0, false),
            ("BDAT 0 LAST", 0, true),
            ("bdat 18446744073709551615 last", u64::MAX, true),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Command::Bdat { size, last }));
        }
    }

    #[test]
    fn a_line_that_is_no_command_is_refused_with_its_reason() {
        let cases: &[(&[u8], Malformed)] = &[
            (b"", Malformed::Syntax),
            (b" ", Malformed::Syntax),
            (b" NOOP", Malformed::Syntax),
            (b"NOOP\0", Malformed::Syntax),
            (b"MAIL\tFROM:<>", Malformed::Syntax),
            (b"MAIL  FROM:<>", Malformed::Syntax),
            (b"MAIL FROM:<a\0@b>", Malformed::Syntax),
            (b"NOOP \x7f", Malformed::Syntax),
            (b"NOOP \xff", Malformed::Syntax),
            (b"M\xc3\xa4IL FROM:<>", Malformed::Syntax),
            (b"XABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG", Malformed::LineTooLong),
            (b"LHLO", Malformed::MissingName),
            (b"DATA now", Malformed::Parameters),
            (b"RSET now", Malformed::Parameters),
            (b"QUIT now", Malformed::Parameters),
            (b"MAIL", Malformed::Parameters),
            (b"MAIL TO:<a@b>", Malformed::Parameters),
            (b"MAIL FROM :<a@b>", Malformed::Parameters),
            (b"MAIL FROM: <a@b>", Malformed::Sender(PathError::SpaceBefore)),
            (b"MAIL FROM:a@b", Malformed::Sender(PathError::NoBracket)),
            (b"MAIL FROM:<a@b", Malformed::Sender(PathError::NotClosed)),
            (b"MAIL FROM:<a@b>x", Malformed::Parameters),
            (b"MAIL FROM:<\xe4@b>", Malformed::SenderNotUtf8),
            (b"MAIL FROM:<\xc3\xa4@b>", Malformed::SenderNeedsUtf8),
            (b"MAIL FROM:<a@\xc3\xa4> BODY=8BITMIME", Malformed::SenderNeedsUtf8),
            (b"MAIL FROM:<a@b>  SIZE=1", Malformed::Parameters),
            (b"MAIL FROM:<a@b> =1", Malformed::Parameters),
            (b"MAIL FROM:<a@b> -X=1", Malformed::Parameters),
            (b"MAIL FROM:<a@b> SIZE=", Malformed::Parameters),
            (b"MAIL FROM:<a@b> SIZE", Malformed::Size),
            (b"MAIL FROM:<a@b> SIZE=-1", Malformed::Size),
            (b"MAIL FROM:<a@b> SIZE=+1", Malformed::Size),
            (b"MAIL FROM:<a@b> SIZE=100000000000000000000", Malformed::Size),
            (b"MAIL FROM:<a@b> SIZE=1 size=1", Malformed::RepeatedParameter),
            (b"MAIL FROM:<a@b> BODY=7BIT BODY=7BIT", Malformed::RepeatedParameter),
            (b"MAIL FROM:<a@b> SMTPUTF8 SMTPUTF8", Malformed::RepeatedParameter),
            (b"MAIL FROM:<a@b> SMTPUTF8=1", Malformed::Utf8Value),
            (b"MAIL FROM:<a@b> BODY", Malformed::Parameters),
            (b"MAIL FROM:<a@b> BODY=BINARYMIME", Malformed::BodyType),
            (b"MAIL FROM:<a@b> RET=HDRS", Malformed::UnknownParameter),
            (b"MAIL FROM:<a@b> AUTH=<>", Malformed::UnknownParameter),
            (b"RCPT", Malformed::Parameters),
            (b"RCPT FROM:<a@b>", Malformed::Parameters),
            (b"RCPT TO:<>", Malformed::NullRecipient),
            (b"RCPT TO:<\"\">", Malformed::Recipient(PathError::EmptyLocalPart)),
            (b"RCPT TO:<\xff@b>", Malformed::RecipientNotUtf8),
            (b"RCPT TO:<a@b> NOTIFY=NEVER", Malformed::UnknownParameter),
            (b"RCPT TO:<a@b> ORCPT=rfc822;a@b", Malformed::UnknownParameter),
            (b"RCPT TO:<a@b> <", Malformed::Parameters),
            (b"BDAT", Malformed::ChunkSize),
            (b"BDAT LAST", Malformed::ChunkSize),
            (b"BDAT -1", Malformed::ChunkSize),
            (b"BDAT 1\0", Malformed::ChunkSize),
            (b"BDAT  1", Malformed::ChunkSize),
            (b"BDAT 1\xff", Malformed::ChunkSize),
            (b"BDAT 18446744073709551616", Malformed::ChunkSize),
            (b"BDAT 7 FIRST", Malformed::ChunkMarker { size: 7 }),
            (b"BDAT 7 LAST LAST", Malformed::ChunkMarker { size: 7 }),
        ];
        for (line, error) in cases {
            assert_eq!(parse(line), Err(*error), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn verb_and_parameters_have_limits_of_their_own() {
        let fits = format!("NOOP {}", "x".repeat(COMMAND_PARAMETERS_BYTES_MAX));
        assert_eq!(parse(fits.as_bytes()), Ok(Command::Noop));
        let long = format!("{fits}x");
        assert_eq!(parse(long.as_bytes()), Err(Malformed::LineTooLong));
        let verb = "X".repeat(COMMAND_VERB_BYTES_MAX);
        assert_eq!(parse(verb.as_bytes()), Ok(Command::Unknown));
    }

    proptest! {
        #[test]
        fn any_line_is_a_command_or_a_reason_and_never_a_panic(
            line in prop::collection::vec(any::<u8>(), 0..80)
        ) {
            let _ = parse(&line);
        }

        #[test]
        fn any_line_that_resembles_a_command_is_read_without_a_panic(
            line in "(MAIL FROM:|RCPT TO:|BDAT |LHLO |)<?[a@.\"\\\\\u{e9} ]{0,9}>?\
                ( (SIZE|BODY|SMTPUTF8|X)=?[0-9A-Z]{0,9}){0,3}"
        ) {
            let _ = parse(line.as_bytes());
        }
    }
}
