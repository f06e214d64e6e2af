//! A user as the table knows him.
//!
//! Owns what is known of him, and how his address and paths are put together. Promises that a [`User`] in hand is whole
//! and his paths keep the rules of [`super::path`]: they are judged when he is read, though they are only written out
//! when somebody asks for them. Most of what is looked up is asked for once, and much of it never.
#![forbid(unsafe_code)]

use super::entry::{Entry, EntryFault};
use super::name::Name;
use super::path;
use super::template::{Reach, Template};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A user as the table knows him, borrowing from it.
#[derive(Clone)]
pub struct User<'t> {
    name: Name<'t>,
    fields: Whose<'t>,
}

/// Most users share all but their name with others. A look-up hands a user over several times, so he is small.
#[derive(Clone)]
enum Whose<'t> {
    Class(&'t Fields),
    Own(Box<Fields>),
}

/// What is known of a user, or a whole class of users, beside the name.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    home: Option<Source>,
    mail: Source,
    /// For whom home and mail location keep the rules for certain.
    reach: Reach,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) quota_bytes: Option<u64>,
    pub(super) quota_messages: Option<u64>,
}

/// What a path is made from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Template(Arc<Template>),
    Text(Box<str>),
}

impl<'t> User<'t> {
    /// What a table that is built from `entry` says of him.
    ///
    /// # Errors
    /// As [`Entry::check`].
    pub fn of_entry(entry: &'t Entry) -> Result<Self, EntryFault> {
        entry.check()?;
        let name = Name::of_key(entry.address.as_bytes()).ok_or(EntryFault::AddressPart)?;
        let text = |text: &String| Source::Text(text.as_str().into());
        let fields = Fields {
            uid: entry.uid,
            gid: entry.gid,
            quota_bytes: entry.quota_bytes.filter(|limit| *limit > 0),
            quota_messages: entry.quota_messages.filter(|limit| *limit > 0),
            ..Fields::new(entry.home.as_ref().map(text), text(&entry.mail))
        };
        Ok(Self { name, fields: Whose::Own(Box::new(fields)) })
    }

    /// A user of a class.
    ///
    /// # Errors
    /// The field that breaks a rule.
    #[inline]
    pub(super) fn of_class(name: Name<'t>, class: &'t Fields) -> Result<Self, &'static str> {
        class.judge(name)?;
        Ok(Self { name, fields: Whose::Class(class) })
    }

    /// A user who is the only one of his kind.
    ///
    /// # Errors
    /// The field that breaks a rule.
    #[cold]
    pub(super) fn with_fields(name: Name<'t>, fields: Fields) -> Result<Self, &'static str> {
        fields.judge(name)?;
        Ok(Self { name, fields: Whose::Own(Box::new(fields)) })
    }

    /// The key he was found by: the full address, or a local part alone.
    #[must_use]
    pub fn address(&self) -> Text<'t> {
        Text { name: self.name, above: None, source: None }
    }

    /// The local part of his address.
    #[must_use]
    pub fn local_part(&self) -> &'t str {
        self.name.local()
    }

    /// The domain of his address, if it has one.
    #[must_use]
    pub fn domain(&self) -> Option<&'t str> {
        self.name.domain()
    }

    /// His home, an absolute path. `None` only if [`User::mail`] is absolute.
    #[must_use]
    pub fn home(&self) -> Option<Text<'_>> {
        let home = self.fields().home.as_ref()?;
        Some(Text { name: self.name, above: None, source: Some(home) })
    }

    /// His Maildir: an absolute path, or one relative to the home. [`User::maildir`] joins them.
    #[must_use]
    pub fn mail(&self) -> Text<'_> {
        Text { name: self.name, above: None, source: Some(&self.fields().mail) }
    }

    /// The absolute path of the Maildir.
    #[must_use]
    pub fn maildir(&self) -> Text<'_> {
        let Fields { home, mail, .. } = self.fields();
        Text { above: home.as_ref().filter(|_| !mail.is_absolute(self.name)), ..self.mail() }
    }

    /// Who owns his files, never 0; `None`: the server's own user.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        self.fields().uid
    }

    /// The group of his files, never 0; `None`: the server's own group.
    #[must_use]
    pub fn gid(&self) -> Option<u32> {
        self.fields().gid
    }

    /// The most octets that his mail may have; `None`: unlimited.
    #[must_use]
    pub fn quota_bytes(&self) -> Option<u64> {
        self.fields().quota_bytes
    }

    /// The most messages that he may have; `None`: unlimited.
    #[must_use]
    pub fn quota_messages(&self) -> Option<u64> {
        self.fields().quota_messages
    }

    fn fields(&self) -> &Fields {
        match &self.fields {
            Whose::Class(fields) => fields,
            Whose::Own(fields) => fields,
        }
    }
}

impl PartialEq for User<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.address(), self.home(), self.mail()) == (other.address(), other.home(), other.mail())
            && (self.uid(), self.gid()) == (other.uid(), other.gid())
            && (self.quota_bytes(), self.quota_messages()) == (other.quota_bytes(), other.quota_messages())
    }
}

impl Eq for User<'_> {}

impl fmt::Debug for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("address", &self.address())
            .field("home", &self.home())
            .field("mail", &self.mail())
            .field("uid", &self.uid())
            .field("gid", &self.gid())
            .field("quota_bytes", &self.quota_bytes())
            .field("quota_messages", &self.quota_messages())
            .finish()
    }
}

impl Fields {
    /// With the server's owner and without limits.
    pub(super) fn new(home: Option<Source>, mail: Source) -> Self {
        let reach = match &home {
            Some(home) => home.reach_as_home().and(mail.reach_as_location()),
            // It must be absolute then, and an absolute location keeps the rules of homes.
            None => mail.reach_as_home(),
        };
        Self { home, mail, reach, uid: None, gid: None, quota_bytes: None, quota_messages: None }
    }

    /// # Errors
    /// The field that breaks a rule if it is written out for this user.
    #[inline]
    fn judge(&self, name: Name<'_>) -> Result<(), &'static str> {
        if self.reach.covers(name) {
            return Ok(());
        }
        self.judge_written_out(name)
    }

    #[cold]
    fn judge_written_out(&self, name: Name<'_>) -> Result<(), &'static str> {
        let text = |source| Text { name, above: None, source: Some(source) }.to_cow();
        if self.home.as_ref().is_some_and(|home| path::check_home(&text(home)).is_err()) {
            return Err("home");
        }
        let mail = text(&self.mail);
        if path::check_location(&mail).is_err() {
            return Err("mail location");
        }
        if self.home.is_none() && !mail.starts_with('/') {
            return Err("length");
        }
        Ok(())
    }
}

impl Source {
    fn reach_as_home(&self) -> Reach {
        match self {
            Self::Template(template) => template.reach_as_home(),
            Self::Text(_) => Reach::NOBODY,
        }
    }

    fn reach_as_location(&self) -> Reach {
        match self {
            Self::Template(template) => template.reach_as_location(),
            Self::Text(_) => Reach::NOBODY,
        }
    }

    fn is_absolute(&self, name: Name<'_>) -> bool {
        match self {
            Self::Template(template) => template.is_absolute_for(name),
            Self::Text(text) => text.starts_with('/'),
        }
    }

    fn len(&self, name: Name<'_>) -> usize {
        match self {
            Self::Template(template) => template.len_for(name),
            Self::Text(text) => text.len(),
        }
    }

    fn write_to(&self, name: Name<'_>, out: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::Template(template) => template.write_to(name, out),
            Self::Text(text) => out.write_str(text),
        }
    }
}

/// The address or a path of a user, which is put together where it is written to.
#[derive(Clone, Copy)]
pub struct Text<'u> {
    name: Name<'u>,
    /// A directory, which a slash parts from the rest.
    above: Option<&'u Source>,
    /// `None`: the address.
    source: Option<&'u Source>,
}

impl<'u> Text<'u> {
    /// Octets of the text.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "none that a builder has written is empty")]
    pub fn len(&self) -> usize {
        let above = self.above.map_or(0, |above| above.len(self.name) + 1);
        above + self.source.map_or_else(|| self.name.len(), |source| source.len(self.name))
    }

    /// Writes the text, as [`fmt::Display`] does, but without a formatter.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl fmt::Write) -> fmt::Result {
        if let Some(above) = self.above {
            above.write_to(self.name, out)?;
            out.write_str("/")?;
        }
        match self.source {
            Some(source) => source.write_to(self.name, out),
            None => self.name.write_to(out),
        }
    }

    /// The text in one piece.
    #[must_use]
    pub fn to_cow(&self) -> Cow<'u, str> {
        match (self.above, self.source) {
            (None, Some(Source::Text(text))) => Cow::Borrowed(text),
            (None, Some(Source::Template(template))) => template.expand(self.name),
            (None, None) => self.name.to_address(),
            (Some(_), _) => {
                let mut text = String::with_capacity(self.len());
                self.write_to(&mut text).expect("a string takes every text");
                Cow::Owned(text)
            }
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_to(f)
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_cow(), f)
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.to_cow() == other.to_cow()
    }
}

impl Eq for Text<'_> {}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        match self.source {
            None => self.name.is(other),
            Some(_) => self.to_cow() == other,
        }
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::path::PATH_BYTES_MAX;
    use crate::users::template;
    use proptest::prelude::*;

    /// A path that is given in the record, or by a template of this text.
    fn source(text: &str, is_template: bool) -> Option<Source> {
        if !is_template {
            return Some(Source::Text(text.into()));
        }
        let length = u16::try_from(text.len()).unwrap();
        let section = [&length.to_le_bytes()[..], text.as_bytes()].concat();
        Some(Source::Template(template::read_section(&section, 1).ok()?.remove(0)))
    }

    /// The path as a simple loop makes it.
    fn expanded(source: &str, is_template: bool, local: &str, domain: Option<&str>) -> String {
        let (mut path, mut rest) = (String::new(), source);
        while let Some((before, after)) = rest.split_once('%').filter(|_| is_template) {
            path.push_str(before);
            match after.as_bytes()[0] {
                b'u' => path.push_str(&address_of(local, domain)),
                b'n' => path.push_str(local),
                b'd' => path.push_str(domain.unwrap_or_default()),
                _ => path.push('%'),
            }
            rest = &after[1..];
        }
        path + rest
    }

    fn address_of(local: &str, domain: Option<&str>) -> String {
        domain.map_or_else(|| local.to_owned(), |domain| format!("{local}@{domain}"))
    }

    /// Holds a user against the verdict on his paths when they are written out.
    fn assert_judged_as_written_out(
        local: &str,
        domain: Option<&str>,
        home: Option<(&str, bool)>,
        mail: (&str, bool),
    ) {
        let name = Name::new(local.as_bytes(), domain.map(str::as_bytes));
        let sources = (home.map(|(text, is_template)| source(text, is_template)), source(mail.0, mail.1));
        let (Some(name), (home_source @ (None | Some(Some(_))), Some(mail_source))) = (name, sources) else {
            return;
        };
        let fields = Fields::new(home_source.flatten(), mail_source);
        let user = User::of_class(name, &fields);
        assert_eq!(user, User::with_fields(name, fields.clone()));
        let home = home.map(|(text, is_template)| expanded(text, is_template, local, domain));
        let mail = expanded(mail.0, mail.1, local, domain);
        let is_good = home.as_deref().is_none_or(|home| path::check_home(home).is_ok())
            && path::check_location(&mail).is_ok()
            && (home.is_some() || mail.starts_with('/'));
        assert_eq!(user.is_ok(), is_good, "{local:?} {domain:?} {home:?} {mail:?}");
        let Ok(user) = user else { return };
        let maildir = match &home {
            Some(home) if !mail.starts_with('/') => format!("{home}/{mail}"),
            _ => mail.clone(),
        };
        let address = address_of(local, domain);
        let texts = [(user.address(), &address), (user.mail(), &mail), (user.maildir(), &maildir)];
        for (text, expected) in texts.into_iter().chain(user.home().zip(home.as_ref())) {
            assert!(text == **expected);
            assert_eq!(
                (&text.to_string(), &*text.to_cow(), text.len()),
                (expected, &**expected, expected.len())
            );
        }
        assert_eq!(user.home().is_some(), home.is_some());
    }

    const NAME: &str = "(a|b|[.]|[.][.]|/|@|%n|%|\u{7f}|\n|\u{e9}|[a-z]{7}){0,3}";
    const DOMAIN: &str = "(a|[.]|[.][.]|/|@|\u{7f}|\u{e9}|[a-z]{7}[.]example){0,2}";
    const PATH: &str = "(/|/|a|[.]|[.][.]|%u|%n|%d|%%|%x|\u{e9}|\t|/srv/|/%n/|/%d){0,6}";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn a_user_is_judged_as_if_his_paths_were_written_out(
            local in NAME,
            domain in prop::option::of(DOMAIN),
            home in prop::option::of((PATH, any::<bool>())),
            mail in (PATH, any::<bool>()),
        ) {
            let home = home.as_ref().map(|(text, is_template)| (&**text, *is_template));
            assert_judged_as_written_out(&local, domain.as_deref(), home, (&mail.0, mail.1));
        }
    }

    #[test]
    fn a_path_of_a_template_is_as_long_as_any_other_may_be() {
        for length in PATH_BYTES_MAX - 6..PATH_BYTES_MAX + 6 {
            let (long_text, long_name) = ("a".repeat(length - 3), "b".repeat((length - 4) / 2));
            for (template, local) in [(&*format!("/{long_text}/%d"), "b"), ("/%n/%u", &*long_name)] {
                for template in [template, &template[1..]] {
                    assert_judged_as_written_out(local, Some("d"), None, (template, true));
                    assert_judged_as_written_out(local, Some("d"), Some(("/home", false)), (template, true));
                    assert_judged_as_written_out(local, Some("d"), Some((template, true)), ("x", false));
                }
            }
        }
    }

    #[test]
    fn who_is_in_no_table_keeps_the_rules_too() {
        for (address, home, mail, is_good) in [
            ("alice@example.org", Some("/home/alice"), "Maildir", true),
            ("@example.org", None, "/srv/mail", false),
            ("alice", None, "Maildir", false),
            ("alice", Some("/home/../root"), "Maildir", false),
            ("alice", Some("/home/alice"), "../bob", false),
        ] {
            let (address, home) = (address.to_owned(), home.map(str::to_owned));
            let entry = Entry { address, home, mail: mail.to_owned(), ..Entry::default() };
            assert_eq!(User::of_entry(&entry).is_ok(), is_good, "{entry:?}");
        }
    }
}
