//! Users as text: JSON, a page for people, a line of a passwd-file.
//!
//! Owns the three forms. Promises that a passwd-file line reads back as the same user, or is not written. Never
//! decides where the text goes.
#![forbid(unsafe_code)]

use super::template::escape;
use super::user::User;
use serde_json::{Value, json};
use std::io::{self, Write};

/// The user as a JSON object.
pub(super) fn to_json(user: &User<'_>) -> Value {
    json!({
        "address": user.address().to_cow(),
        "home": user.home().map(|home| home.to_cow()),
        "mail": user.mail().to_cow(),
        "maildir": user.maildir().to_cow(),
        "uid": user.uid(),
        "gid": user.gid(),
        "quota_bytes": user.quota_bytes(),
        "quota_messages": user.quota_messages(),
    })
}

/// The user as a page for human readers.
pub(super) fn write_user(out: &mut impl Write, user: &User<'_>) -> io::Result<()> {
    let id = |id: Option<u32>| id.map_or_else(|| "the server's".to_owned(), |id| id.to_string());
    let limit = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    writeln!(out, "address         {}", user.address())?;
    match user.home() {
        Some(home) => writeln!(out, "home            {home}")?,
        None => writeln!(out, "home            none")?,
    }
    writeln!(out, "maildir         {}", user.maildir())?;
    writeln!(out, "uid             {}", id(user.uid()))?;
    writeln!(out, "gid             {}", id(user.gid()))?;
    writeln!(out, "quota_bytes     {}", limit(user.quota_bytes()))?;
    writeln!(out, "quota_messages  {}", limit(user.quota_messages()))
}

/// The user as a line of a passwd-file; `None` if a separator of that format is in the way.
pub(super) fn to_passwd_line(user: &User<'_>) -> Option<String> {
    let has_space = |text: &str| text.contains(|character: char| character.is_ascii_whitespace());
    let (address, home, mail) =
        (user.address().to_cow(), user.home().map(|home| home.to_cow()), user.mail().to_cow());
    let is_comment = address.starts_with('#');
    if is_comment || address.contains(':') || mail.contains(':') || has_space(&mail) {
        return None;
    }
    let id = |id: Option<u32>| id.map(|id| id.to_string()).unwrap_or_default();
    let home = home.as_deref().unwrap_or_default();
    let mut extra = String::new();
    let field_home = if home.contains(':') {
        extra = format!("userdb_home={} ", escape(home));
        ""
    } else {
        home
    };
    if has_space(&extra[..extra.len().saturating_sub(1)]) {
        return None;
    }
    extra.push_str(&format!("userdb_mail=maildir:{}", location(&mail)));
    let limits = [("bytes", user.quota_bytes()), ("messages", user.quota_messages())];
    let limits: String =
        limits.iter().filter_map(|(name, limit)| limit.map(|limit| format!(":{name}={limit}"))).collect();
    if !limits.is_empty() {
        extra.push_str(&format!(" userdb_quota_rule=*{limits}"));
    }
    Some(format!("{address}::{}:{}::{field_home}::{extra}", id(user.uid()), id(user.gid())))
}

/// An alias as a line of a virtual(5) table; `None` if a separator of that format is in the way.
pub(super) fn to_virtual_line(alias: &str, targets: &[&str]) -> Option<String> {
    let is_separator = |character: char| character.is_whitespace() || matches!(character, ',' | '"');
    let is_plain = |text: &str| !text.contains(is_separator) && !text.starts_with('#');
    let can_be = is_plain(alias) && targets.iter().all(|target| is_plain(target));
    can_be.then(|| format!("{alias} {}", targets.join(", ")))
}

/// A path as a mail location: a relative one says so, and a percent sign is not a variable.
fn location(mail: &str) -> String {
    let prefix = if mail.starts_with('/') { "" } else { "~/" };
    format!("{prefix}{}", escape(mail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::entry::Entry;
    use crate::users::key::LocalPart;
    use crate::users::source::accounts::Accounts;
    use crate::users::source::passwd_file::parse_line;

    fn user_of<'t>(address: &'t str, home: Option<&'t str>, mail: &'t str) -> User<'t> {
        let (address, home, mail) = (address.to_owned(), home.map(str::to_owned), mail.to_owned());
        let (uid, quota_bytes) = (Some(1000), Some(1));
        let entry = Entry { address, home, mail, uid, quota_bytes, ..Entry::default() };
        User::of_entry(Box::leak(Box::new(entry))).unwrap()
    }

    fn user<'t>(home: Option<&'t str>, mail: &'t str) -> User<'t> {
        user_of("alice@example.org", home, mail)
    }

    #[test]
    fn a_line_reads_back_as_the_same_user() {
        for (home, mail) in [
            (Some("/home/alice"), "Maildir"),
            (Some("/home/alice"), "/home/alice"),
            (Some("/home/100%n"), "%h/~"),
            (Some("/home/alice"), "~/x"),
            (Some("/home/a:b%"), "Maildir"),
            (Some("/home/a b"), "Maildir"),
            (None, "/var/mail/%u"),
        ] {
            let user = user(home, mail);
            let line = to_passwd_line(&user).unwrap();
            let entry = parse_line(&line, &Accounts::default(), LocalPart::Folded).unwrap();
            assert_eq!((entry.home.as_deref(), entry.mail.as_str()), (home, mail), "{line}");
            assert_eq!(
                (entry.address.as_str(), entry.uid, entry.gid),
                (&*user.address().to_cow(), Some(1000), None)
            );
            assert_eq!((entry.quota_bytes, entry.quota_messages), (Some(1), None));
        }
    }

    #[test]
    fn what_the_format_cannot_say_is_not_written() {
        assert_eq!(to_passwd_line(&user(None, "/var/mail/a b")), None);
        assert_eq!(to_passwd_line(&user(None, "/var/mail/a:b")), None);
        assert_eq!(to_passwd_line(&user(Some("/a:b c"), "Maildir")), None);
        let colon = user_of("alice@[IPv6:::1]", None, "/var/mail/a");
        assert_eq!(to_passwd_line(&colon), None);
    }
}
