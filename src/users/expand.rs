//! Aliases: from a name to the mailboxes behind it.
//!
//! Owns the walk through aliases of aliases, and its bounds. Promises each mailbox once for each detail, in the order
//! in which it was first named, and an end to every walk. Never decides what a name is: [`super::key::resolve`] does.
//!
//! As in Postfix's virtual(5): a detail goes on to targets that have none of their own; `@domain` is the same local
//! part in another domain; an alias that comes back to itself means the user of that name.
#![forbid(unsafe_code)]

use super::entry::TARGETS_MAX;
use super::key::{Alias, Resolved, Rules, Target, resolve};
use super::record::{Damage, Record};
use super::table::{Table, Want};
use super::template::split;
use std::collections::HashSet;
use std::fmt;

/// The most aliases one inside the other. People write two or three; a chain of more is rather a mistake, and each
/// costs a look-up before the reply.
pub(super) const DEPTH_MAX: usize = 16;
/// The most names that are looked up for one recipient: lists of lists may name the same people again and again.
pub(super) const LOOKUPS_MAX: usize = 4 * TARGETS_MAX;

/// Why an alias does not lead to mailboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The target is neither a user nor an alias.
    Missing {
        /// The target.
        target: String,
    },
    /// It comes back to itself, and there is no user of its name.
    Loop,
    /// More than 16 aliases one inside the other.
    Deep,
    /// More than [`TARGETS_MAX`] mailboxes, or four times as many names.
    Wide,
}

impl Trouble {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "mail is delivered to users of this table only: add the user, correct the target, or let the mail \
                 server in front expand what leads elsewhere; if it has a detail, build with --recipient-delimiter"
            }
            Self::Loop => "remove the target that leads back, or add a user of this name",
            Self::Deep => "name the last targets directly",
            Self::Wide => "let a mailing list manager serve it",
        }
    }

    fn as_damage(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "leads to nobody",
            Self::Loop => "leads back to itself",
            Self::Deep => "leads through too many others",
            Self::Wide => "leads to too many",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { target } => {
                write!(f, "the target {} is neither a user nor an alias", target.escape_debug())
            }
            Self::Loop => f.write_str("the alias leads back to itself"),
            Self::Deep => write!(f, "more than {DEPTH_MAX} aliases one inside the other"),
            Self::Wide => {
                write!(f, "the alias leads to more than {TARGETS_MAX} mailboxes, or {LOOKUPS_MAX} names")
            }
        }
    }
}

/// The mailboxes behind an alias. None if it stands for another domain, in which nobody has the name.
///
/// # Errors
/// If a record is damaged, or the alias is in trouble, of which the builder should have told.
pub(super) fn expand<'x>(
    table: &'x Table,
    rules: &Rules,
    alias: Alias<'x>,
) -> Result<Vec<Target<'x>>, Damage> {
    let mut walk = Walk::new(table, rules);
    walk.alias(alias)?;
    match walk.troubles.first() {
        Some((trouble, _)) => {
            Err(Damage::Alias { offset: alias.record.offset, trouble: trouble.as_damage() })
        }
        None => Ok(walk.targets),
    }
}

/// What is wrong with an alias itself; what is wrong with aliases behind it is for them to tell.
///
/// # Errors
/// If a record is damaged.
pub(super) fn troubles<'x>(
    table: &'x Table,
    rules: &Rules,
    record: Record<'x>,
    address: &'x str,
) -> Result<Vec<Trouble>, Damage> {
    let name = match split(address) {
        // A catch-all stands for every name; this one nobody can have.
        ("", _) => NOBODY,
        (name, _) => name,
    };
    let mut walk = Walk::new(table, rules);
    walk.alias(Alias { record, name, detail: None })?;
    Ok(walk.troubles.into_iter().filter(|(_, is_own)| *is_own).map(|(trouble, _)| trouble).collect())
}

const NOBODY: &str = "\u{1}";

struct Walk<'x, 'r> {
    table: &'x Table,
    rules: &'r Rules,
    /// The aliases one inside the other, by their offsets.
    path: Vec<u64>,
    /// What was expanded already.
    done: HashSet<(u64, &'x str, Option<&'x str>)>,
    found: HashSet<(u64, Option<&'x str>)>,
    lookups: usize,
    targets: Vec<Target<'x>>,
    troubles: Vec<(Trouble, bool)>,
}

impl<'x, 'r> Walk<'x, 'r> {
    fn new(table: &'x Table, rules: &'r Rules) -> Self {
        Self {
            table,
            rules,
            path: Vec::new(),
            done: HashSet::new(),
            found: HashSet::new(),
            lookups: 0,
            targets: Vec::new(),
            troubles: Vec::new(),
        }
    }

    fn alias(&mut self, alias: Alias<'x>) -> Result<(), Damage> {
        let offset = alias.record.offset;
        if self.path.contains(&offset) {
            return self.namesake(alias);
        }
        if self.path.len() == DEPTH_MAX {
            self.trouble(Trouble::Deep, true);
            return Ok(());
        }
        if self.done.insert((offset, alias.name, alias.detail)) {
            self.path.push(offset);
            for target in alias.record.targets()? {
                self.target(target, alias)?;
            }
            self.path.pop();
        }
        Ok(())
    }

    /// An alias that comes back to itself: the user who has its name.
    fn namesake(&mut self, alias: Alias<'x>) -> Result<(), Damage> {
        let address = self.table.address(&alias.record)?;
        match self.table.search_stored(address.as_bytes(), Want::User)? {
            Some(user) => self.user(user, alias.detail)?,
            None => {
                // It is for the aliases of the circle to tell, not for one that leads into it. A catch-all does not
                // know all names that it stands for, so who leads to it by one of them tells.
                let is_first = self.path.first() == Some(&alias.record.offset);
                self.trouble(Trouble::Loop, is_first || alias.record.is_catch_all());
            }
        }
        Ok(())
    }

    fn target(&mut self, target: &'x str, alias: Alias<'x>) -> Result<(), Damage> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX {
            self.trouble(Trouble::Wide, true);
            return Ok(());
        }
        let elsewhere = target.strip_prefix('@');
        let (local, domain) = match elsewhere {
            Some(domain) => (alias.name, Some(domain)),
            None => split(target),
        };
        match resolve(self.table, local, domain, self.rules)? {
            Resolved::User(record, detail) => self.user(record, detail.or(alias.detail)),
            Resolved::Alias(next) => self.alias(Alias { detail: next.detail.or(alias.detail), ..next }),
            // A domain that stands for another one: who is not there is unknown here too.
            Resolved::UnknownUser if elsewhere.is_some() && alias.record.is_catch_all() => Ok(()),
            Resolved::UnknownUser | Resolved::UnknownDomain => {
                self.trouble(Trouble::Missing { target: target.to_owned() }, self.path.len() == 1);
                Ok(())
            }
        }
    }

    fn user(&mut self, record: Record<'x>, detail: Option<&'x str>) -> Result<(), Damage> {
        if !self.found.insert((record.offset, detail)) {
            return Ok(());
        }
        if self.targets.len() == TARGETS_MAX {
            self.trouble(Trouble::Wide, true);
            return Ok(());
        }
        self.targets.push(Target { user: self.table.user(&record)?, detail });
        Ok(())
    }

    /// Notes a trouble once, and whether it is the first alias's own.
    fn trouble(&mut self, trouble: Trouble, is_own: bool) {
        if !self.troubles.iter().any(|(known, _)| *known == trouble) {
            self.troubles.push((trouble, is_own));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::users::entry::{Alias, Entry};
    use crate::users::{Answer, Builder, Found, LocalPart, Options, Rules, Table, find};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Aliases as their manual tells it, without an index, a memory or bounds.
    #[derive(Debug, Default)]
    struct Twin {
        users: BTreeSet<String>,
        aliases: BTreeMap<String, Vec<String>>,
    }

    type Targets = Vec<(String, Option<String>)>;

    impl Twin {
        /// The key that a name leads to, the local part that it stands for, and the detail that was cut off.
        fn resolve(&self, local: &str, domain: &str) -> Option<(String, String, Option<String>)> {
            let has = |key: &str| self.users.contains(key) || self.aliases.contains_key(key);
            let (name, detail) = match local.split_once('+') {
                Some((name, detail)) => (name, Some(detail.to_owned())),
                None => (local, None),
            };
            let whole = format!("{local}@{domain}");
            if has(&whole) {
                return Some((whole, local.to_owned(), None));
            }
            let tries = [format!("{name}@{domain}"), format!("@{domain}")];
            let key = tries.into_iter().find(|key| has(key))?;
            Some((key, name.to_owned(), detail))
        }

        /// `None` if the alias is in trouble.
        fn walk(
            &self,
            key: &str,
            name: &str,
            detail: Option<String>,
            path: &mut Vec<String>,
            out: &mut Targets,
        ) -> Option<()> {
            let mut take = |user: &str, detail: Option<String>| {
                if !out.contains(&(user.to_owned(), detail.clone())) {
                    out.push((user.to_owned(), detail));
                }
            };
            if path.iter().any(|above| above == key) || !self.aliases.contains_key(key) {
                return self.users.contains(key).then(|| take(key, detail));
            }
            path.push(key.to_owned());
            for target in &self.aliases[key] {
                let (local, domain) = target.split_once('@')?;
                let local = if local.is_empty() { name } else { local };
                match self.resolve(local, domain) {
                    Some((next, name, own)) => {
                        self.walk(&next, &name, own.or_else(|| detail.clone()), path, out)?;
                    }
                    None if target.starts_with('@') && key.starts_with('@') && self.knows(domain) => {}
                    None => return None,
                }
            }
            path.pop();
            Some(())
        }

        fn knows(&self, domain: &str) -> bool {
            self.users.iter().chain(self.aliases.keys()).any(|key| key.ends_with(&format!("@{domain}")))
        }

        fn is_sound(&self) -> bool {
            self.aliases.keys().all(|key| {
                let name = key.split('@').next().filter(|name| !name.is_empty()).unwrap_or("nobody");
                self.walk(key, name, None, &mut Vec::new(), &mut Vec::new()).is_some()
            })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn aliases_lead_where_their_twin_says_or_are_refused_as_it_would(
            users in prop::collection::btree_set("[a-c](\\+d)?@[xy]", 0..5),
            aliases in prop::collection::btree_map(
                "([a-d](\\+d)?)?@[xyz]",
                prop::collection::vec("([a-d](\\+[de])?)?@[xyz]", 1..4),
                0..6,
            ),
        ) {
            let twin = Twin { users, aliases };
            let rules = Rules::new("+", &[]);
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("table");
            let options = Options::reproducible(LocalPart::Folded, [2; 16]);
            let mut builder = Builder::create(&path, options).unwrap().with_rules(rules.clone());
            for address in &twin.users {
                let (address, mail) = (address.clone(), "/srv/mail".to_owned());
                builder.add(&Entry { address, mail, ..Entry::default() }).unwrap();
            }
            for (line, (address, targets)) in (1..).zip(&twin.aliases) {
                let (address, targets) = (address.clone(), targets.clone());
                builder.add_alias(&Alias { line, address, targets }).unwrap();
            }
            let built = builder.finish();
            prop_assert_eq!(built.is_ok(), twin.is_sound(), "{:?}", built);
            if built.is_err() {
                return Ok(());
            }
            let table = Table::open(&path).unwrap();
            prop_assert!(table.verify(|| ()).is_empty());
            let locals = ["a", "b", "c", "d", "a+d", "b+e", "c+d", "nobody"];
            for (local, domain) in locals.iter().flat_map(|local| ["x", "y", "z"].map(|domain| (*local, domain))) {
                let mut expected = Some(Vec::new());
                if let Some((key, name, detail)) = twin.resolve(local, domain) {
                    let mut out = Vec::new();
                    let sound = twin.walk(&key, &name, detail, &mut Vec::new(), &mut out);
                    expected = sound.map(|()| out);
                }
                let found = find(&table, local, Some(domain), &rules);
                let targets = |answer: Answer<'_>| -> Targets {
                    let found = answer.found();
                    let targets = found.iter().flat_map(Found::targets);
                    targets
                        .map(|target| (target.user.address().to_string(), target.detail.map(str::to_owned)))
                        .collect()
                };
                prop_assert_eq!(found.map(targets).ok(), expected, "{}@{}", local, domain);
            }
        }
    }
}
