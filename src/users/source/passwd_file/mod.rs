//! Dovecot's passwd-file as a source of users.
//!
//! Owns the meaning of lines: `user:password:uid:gid:gecos:home:shell:extra`. Promises that a line becomes an
//! [`Entry`] that Dovecot would understand alike, or a [`Fault`] that says what to change; every line is
//! looked at, whatever was wrong with the ones before. Never keeps a password, not even in a message.
//!
//! Lines that are empty or begin with `#` or `:` are skipped, as Dovecot does. Of the extra fields, separated by
//! spaces, those count which say where mail goes and how much of it there may be:
//!
//! | field | meaning |
//! |---|---|
//! | `userdb_mail=maildir:PATH[:OPTIONS]` | the Maildir; see [`location`] |
//! | `userdb_home=PATH` | the home, instead of the sixth field |
//! | `userdb_uid=`, `userdb_gid=` | instead of the third and fourth field |
//! | `userdb_quota_rule=*:storage=1G:messages=1000` | the quota; see [`quota_rule`] |
//!
//! All other fields are for other programs and ignored, with two exceptions that would move mail elsewhere if
//! they were: `userdb_mail_path` and `userdb_mail_driver`, Dovecot 2.4's names, are refused with a remedy.
#![forbid(unsafe_code)]

pub mod location;
pub mod quota_rule;

use super::accounts::Accounts;
use super::lines::{LINE_BYTES_MAX, Lines};
use super::{Fault, Item, ReadError, Source, not_utf8, owner_fault, set, set_option};
use crate::users::entry::{Entry, EntryFault};
use crate::users::key::{LocalPart, fold};
use location::Variables;
use std::borrow::Cow;
use std::io::BufRead;

/// The users of a passwd-file, one after another.
#[derive(Debug)]
pub struct PasswdFile<R> {
    lines: Lines<R>,
    accounts: Accounts,
    local_part: LocalPart,
}

impl<R: BufRead> PasswdFile<R> {
    /// Reads `input`; names of owners are looked up in `accounts`.
    pub fn new(input: R, accounts: Accounts, local_part: LocalPart) -> Self {
        Self { lines: Lines::new(input, LINE_BYTES_MAX), accounts, local_part }
    }

    fn parse(&self, entry: &mut Entry) -> Result<(), Fault> {
        let text = str::from_utf8(self.lines.line()?).map_err(|_| not_utf8())?;
        parse_into(text, &self.accounts, self.local_part, entry)
    }
}

impl<R: BufRead> Source for PasswdFile<R> {
    fn read(&mut self, item: &mut Item) -> Result<bool, ReadError> {
        while self.lines.advance()? {
            if !matches!(self.lines.first(), None | Some(b'#' | b':')) {
                let entry = item.user();
                entry.line = self.lines.number();
                self.parse(entry).map_err(|fault| ReadError::of(self.lines.number(), fault))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn line(&self) -> u64 {
        self.lines.number()
    }
}

/// One line that is neither empty nor a comment.
///
/// # Errors
/// The first field that is no good.
pub fn parse_line(text: &str, accounts: &Accounts, local_part: LocalPart) -> Result<Entry, Fault> {
    let mut entry = Entry::default();
    parse_into(text, accounts, local_part, &mut entry).map(|()| entry)
}

/// The same, into the memory of another user; all but the line is written.
fn parse_into(
    text: &str,
    accounts: &Accounts,
    local_part: LocalPart,
    entry: &mut Entry,
) -> Result<(), Fault> {
    let [address, uid, gid, home, extra] = split(text);
    let address = fold(address, local_part);
    let mut user = Fields {
        uid: ("uid", uid),
        gid: ("gid", gid),
        home: ("home", home.into()),
        mail: None,
        quota: quota_rule::Quota::default(),
    };
    let variables = Variables { address: &address, home: None };
    for (name, value) in extra.split_ascii_whitespace().map(|item| item.split_once('=').unwrap_or((item, "")))
    {
        user.take_extra(name, value, variables)?;
    }

    let home = Some(location::trim_slashes(&user.home.1)).filter(|home| !home.is_empty());
    match user.mail {
        Some(mail) => location::parse_into(mail, Variables { home, ..variables }, &mut entry.mail)?,
        None => set(&mut entry.mail, location::DEFAULT),
    }
    set_option(&mut entry.home, home);
    entry.uid = accounts.uid(user.uid.1).map_err(|reason| owner_fault(user.uid.0, reason))?;
    entry.gid = accounts.gid(user.gid.1).map_err(|reason| owner_fault(user.gid.0, reason))?;
    entry.quota_bytes = user.quota.bytes;
    entry.quota_messages = user.quota.messages;
    set(&mut entry.address, &address);
    entry.check().map_err(|fault| user.fault(fault))
}

/// The fields of a line that count: address, uid, gid, home and extra.
fn split(text: &str) -> [&str; 5] {
    let mut fields = [""; 8];
    let mut begin = 0;
    for (field, place) in fields.iter_mut().enumerate() {
        let rest = &text[begin..];
        // The last field may hold colons.
        let end = if field < 7 { memchr::memchr(b':', rest.as_bytes()) } else { None };
        *place = &rest[..end.unwrap_or(rest.len())];
        match end {
            Some(end) => begin += end + 1,
            None => break,
        }
    }
    let [address, _password, uid, gid, _gecos, home, _shell, extra] = fields;
    [address, uid, gid, home, extra]
}

/// What a line says, as text, each with the name of the field that said it last.
struct Fields<'l> {
    uid: (&'static str, &'l str),
    gid: (&'static str, &'l str),
    home: (&'static str, Cow<'l, str>),
    mail: Option<&'l str>,
    quota: quota_rule::Quota,
}

impl<'l> Fields<'l> {
    fn take_extra(&mut self, name: &str, value: &'l str, variables: Variables<'_>) -> Result<(), Fault> {
        match name {
            "userdb_mail" => self.mail = Some(value),
            "userdb_uid" => self.uid = ("userdb_uid", value),
            "userdb_gid" => self.gid = ("userdb_gid", value),
            "userdb_home" => {
                let home = location::expand("userdb_home", value, variables)?;
                self.home = ("userdb_home", home.into());
            }
            "userdb_mail_path" | "userdb_mail_driver" => {
                return Err(Fault::new(
                    location::FIELD,
                    format!("{name} is not understood here"),
                    "write userdb_mail=maildir:PATH",
                ));
            }
            _ if quota_rule::is_rule(name) => self.quota.apply(value)?,
            _ => {}
        }
        Ok(())
    }

    /// The fault with the name of the field that it came from.
    fn fault(&self, fault: EntryFault) -> Fault {
        let field = match fault {
            EntryFault::AddressPart | EntryFault::AddressControl | EntryFault::AddressLong => "user",
            EntryFault::Home(_) | EntryFault::NoHome => self.home.0,
            EntryFault::Mail(_) => location::FIELD,
            EntryFault::Uid(_) => self.uid.0,
            EntryFault::Gid(_) => self.gid.0,
        };
        Fault::new(field, fault.to_string(), fault.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::parse("vmail:x:5000:5000::/:\nroot:x:0:0::/root:\n", "mail:x:8:\n")
    }

    fn read(text: &[u8]) -> Vec<Result<Entry, String>> {
        let items = PasswdFile::new(text, accounts(), LocalPart::Folded).items();
        items
            .map(|item| match item {
                Ok(Item::User(entry)) => Ok(entry),
                Ok(Item::Alias(alias)) => panic!("an alias: {alias:?}"),
                Err(error) => Err(error.to_string()),
            })
            .collect()
    }

    #[test]
    fn a_line_becomes_the_user_that_dovecot_would_see() {
        let text = b"Alice@Example.org:{SHA}x:vmail:mail::/srv/mail/%d/:/bin/sh:nologin=y \
            userdb_mail=maildir:/var/vmail/%d/%n:LAYOUT=fs userdb_quota_rule=*:storage=1G:messages=10\r\n";
        let expected = Entry {
            line: 1,
            address: "alice@example.org".into(),
            home: Some("/srv/mail/%d".into()),
            mail: "/var/vmail/example.org/alice".into(),
            uid: Some(5000),
            gid: Some(8),
            quota_bytes: Some(1 << 30),
            quota_messages: Some(10),
        };
        assert_eq!(read(text), [Ok(expected)]);
    }

    #[test]
    fn missing_fields_have_defaults_and_extra_fields_win() {
        let users = read(
            b"bob::::::\n\nbob::::::/home/x\nbob:::::/home/bob\n\
            eve:x:1:2::/home/eve::userdb_uid=7 userdb_gid=mail userdb_home=/srv/%n\n\
            joe:::::::userdb_mail=maildir:/srv/joe",
        );
        assert!(users[0].as_ref().unwrap_err().starts_with("line 1, field home: "));
        assert!(users[1].as_ref().unwrap_err().starts_with("line 3, field home: "));
        let bob = users[2].as_ref().unwrap();
        assert_eq!((bob.line, bob.mail.as_str(), bob.uid), (4, "Maildir", None));
        let eve = users[3].as_ref().unwrap();
        assert_eq!((eve.home.as_deref(), eve.uid, eve.gid), (Some("/srv/eve"), Some(7), Some(8)));
        let joe = users[4].as_ref().unwrap();
        assert_eq!((joe.line, joe.home.as_deref(), joe.mail.as_str()), (6, None, "/srv/joe"));
    }

    #[test]
    fn empty_lines_comments_and_nameless_lines_are_skipped_but_counted() {
        let users = read(b"# alice\n\n:x:1:1\n\r\nbob:::::/home/bob\n");
        assert_eq!(users.len(), 1);
        assert_eq!(users[0].as_ref().unwrap().line, 5);
    }

    #[test]
    fn every_bad_line_is_reported_with_field_reason_and_remedy() {
        let cases: [(&[u8], &str, &str); 13] = [
            (b"a@b:x:0:8::/home/a", "uid", "mail is never delivered as root"),
            (b"a@b:x:root:8::/home/a", "uid", "mail is never delivered as root"),
            (b"a@b:x:8:0::/home/a", "gid", "mail is never delivered as root"),
            (b"a@b:x:nobody-here:8::/home/a", "uid", "there is no user \"nobody-here\""),
            (b"a@b:x:4294967295:8::/home/a", "uid", "reserved by the kernel"),
            (b"a@b:x:8:8::home/a", "home", "not absolute"),
            (b"a@b:x:8:8::/home/../a", "home", "\"..\""),
            (b"a@b:x:8:8::/home/a\0", "home", "control character"),
            (b"@b:x:8:8::/home/a", "user", "empty part"),
            (b"a@b:x:8:8::/h::userdb_mail=mbox:~/m", "userdb_mail", "\"mbox\""),
            (b"a@b:x:8:8::/h::userdb_mail=maildir:../m", "userdb_mail", "\"..\""),
            (b"a@b:x:8:8::/h::userdb_quota_rule=*:1", "userdb_quota_rule", "not a limit"),
            (b"\xff@b:x:8:8::/h", "line", "not UTF-8"),
        ];
        let text: Vec<&[u8]> = cases.iter().map(|(line, ..)| *line).collect();
        let users = read(&text.join(&b'\n'));
        assert_eq!(users.len(), cases.len());
        for ((user, (_, field, reason)), line) in users.iter().zip(cases).zip(1..) {
            let message = user.as_ref().unwrap_err();
            let begin = format!("line {line}, field {field}: ");
            assert!(message.starts_with(&begin) && message.contains(reason), "{message}");
            assert!(message.contains("; "), "no remedy in {message}");
        }
    }

    #[test]
    fn a_password_never_gets_into_a_message() {
        for line in ["a@b:secret:0:::/h", "a@b:secret", "a@b:secret:x:x:x:x:x:userdb_mail=x"] {
            let message = read(line.as_bytes())[0].clone().unwrap_err();
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_one_bad_line_and_the_next_one_is_read() {
        let mut text = vec![b'a'; 200_000];
        text.extend_from_slice(b"\nbob:::::/home/bob\n");
        let users = read(&text);
        assert!(users[0].as_ref().unwrap_err().contains("longer than 64 KiB"));
        assert_eq!(users[1].as_ref().unwrap().line, 2);
        assert_eq!(users.len(), 2);
    }
}
