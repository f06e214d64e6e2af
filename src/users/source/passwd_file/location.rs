//! Dovecot's mail locations, and the variables in them.
//!
//! Owns `maildir:PATH[:OPTIONS]`. `~/` and `%h/` at the begin mean the home, and a relative path lies in it.
//! `%u`, `%n`, `%d` and `%h` are the address, local part, domain and home, `%%` a percent sign; `%L` before the
//! letter asks for lower case. `%{user}`, `%{username}`, `%{domain}` and `%{home}` are the same in full words.
//!
//! Of the options, those that say where Dovecot keeps its own files or how it names folders change nothing for
//! a delivery into the inbox and are dropped; any other would, and is refused.
#![forbid(unsafe_code)]

use crate::users::source::Fault;
use crate::users::template::split;

/// Where mail goes if nothing is said: what `maildir:~/Maildir` means.
pub(in crate::users::source) const DEFAULT: &str = "Maildir";
/// The field's name in messages.
pub(in crate::users::source) const FIELD: &str = "userdb_mail";

/// What variables stand for on one line.
#[derive(Debug, Clone, Copy)]
pub(in crate::users::source) struct Variables<'l> {
    pub(in crate::users::source) address: &'l str,
    /// `None` while the home itself is being expanded.
    pub(in crate::users::source) home: Option<&'l str>,
}

/// Puts the Maildir that `text` means into `path`: absolute, or relative to the home.
pub(in crate::users::source) fn parse_into(
    text: &str,
    variables: Variables<'_>,
    path: &mut String,
) -> Result<(), Fault> {
    path.clear();
    let (prefix, rest) = place(text, variables)?;
    path.push_str(prefix);
    expand_into(FIELD, rest, variables, path)
}

/// What the location begins with as it is, and what is to be expanded behind it.
fn place<'l>(text: &'l str, variables: Variables<'l>) -> Result<(&'l str, &'l str), Fault> {
    let fault = |reason: String, remedy| Err(Fault::new(FIELD, reason, remedy));
    let Some((driver, location)) = text.split_once(':') else {
        return fault("there is no mail driver".into(), "write userdb_mail=maildir:PATH");
    };
    if driver != "maildir" {
        return fault(
            format!("the driver is \"{}\"", driver.escape_debug()),
            "only maildir: can be delivered to",
        );
    }
    let (path, options) = location.split_once(':').unwrap_or((location, ""));
    for option in options.split(':').filter(|option| !option.is_empty()) {
        if !is_harmless(option) {
            return fault(
                format!("the option \"{}\" could change where the inbox is", option.escape_debug()),
                "write the inbox's own path, without this option",
            );
        }
    }
    let path = trim_slashes(path);
    match path.strip_prefix('~').or_else(|| path.strip_prefix("%h")).map(trim_home) {
        Some(Some("")) => match variables.home {
            Some(home) => Ok((home, "")),
            None => fault("there is no home".into(), "give a home, or an absolute path"),
        },
        Some(Some(below)) => Ok(("", below)),
        _ => Ok(("", path)),
    }
}

/// Replaces the variables in `text`, the value of `field`.
pub(super) fn expand(field: &'static str, text: &str, variables: Variables<'_>) -> Result<String, Fault> {
    let mut path = String::with_capacity(text.len() + variables.address.len());
    expand_into(field, text, variables, &mut path).map(|()| path)
}

fn expand_into(
    field: &'static str,
    text: &str,
    variables: Variables<'_>,
    path: &mut String,
) -> Result<(), Fault> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        path.push_str(before);
        let (variable, behind) = take_variable(after).ok_or_else(|| unknown(field, after))?;
        match variable.value(variables) {
            Some(value) if variable.is_lower => path.push_str(&value.to_lowercase()),
            Some(value) => path.push_str(value),
            None => {
                return Err(Fault::new(
                    field,
                    "a variable in it has no value for this user",
                    "give the address a domain and the line a home, or write the path out",
                ));
            }
        }
        rest = behind;
    }
    path.push_str(rest);
    Ok(())
}

/// Without the slashes at its end, which mean nothing in a directory's name.
pub(in crate::users::source) fn trim_slashes(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if !path.is_empty() => "/",
        trimmed => trimmed,
    }
}

/// What follows `~` or `%h`: nothing, or a path below it. `None`: this was the begin of another word.
fn trim_home(rest: &str) -> Option<&str> {
    match rest {
        "" => Some(""),
        _ => rest.strip_prefix('/'),
    }
}

/// Options for Dovecot's own files and for folders beside the inbox.
fn is_harmless(option: &str) -> bool {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    match name {
        "INDEX" | "INDEXPVT" | "CONTROL" | "VOLATILEDIR" | "SUBSCRIPTIONS" | "LISTINDEX" => true,
        // Both keep the inbox in the Maildir's own cur, new and tmp.
        "LAYOUT" => value.eq_ignore_ascii_case("maildir++") || value.eq_ignore_ascii_case("fs"),
        _ => false,
    }
}

#[derive(Debug, Clone, Copy)]
struct Variable {
    letter: u8,
    is_lower: bool,
}

impl Variable {
    fn value<'l>(self, variables: Variables<'l>) -> Option<&'l str> {
        let (name, domain) = split(variables.address);
        match self.letter {
            b'u' => Some(variables.address),
            b'n' => Some(name),
            b'd' => domain,
            b'h' => variables.home,
            _ => Some("%"),
        }
    }
}

/// The variable that begins behind a percent sign, and what follows it.
fn take_variable(text: &str) -> Option<(Variable, &str)> {
    if let Some(braced) = text.strip_prefix('{') {
        let (word, rest) = braced.split_once('}')?;
        let letter = match word {
            "user" => b'u',
            "username" => b'n',
            "domain" => b'd',
            "home" => b'h',
            _ => return None,
        };
        let is_lower = false;
        return Some((Variable { letter, is_lower }, rest));
    }
    let (is_lower, text) = match text.strip_prefix('L') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let letter = text.bytes().next().filter(|letter| b"undh%".contains(letter))?;
    Some((Variable { letter, is_lower }, &text[1..]))
}

fn unknown(field: &'static str, after: &str) -> Fault {
    let shown: String = after.chars().take(12).flat_map(char::escape_debug).collect();
    Fault::new(
        field,
        format!("unknown variable at \"%{shown}\""),
        "use %u, %n, %d or %h, or %% for a percent sign",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, variables: Variables<'_>) -> Result<String, Fault> {
        let mut path = "left over".to_owned();
        parse_into(text, variables, &mut path).map(|()| path)
    }

    const ALICE: Variables<'_> = Variables { address: "alice@example.org", home: Some("/home/alice") };

    #[test]
    fn locations_mean_what_dovecot_means() {
        for (text, path) in [
            ("maildir:~/Maildir", DEFAULT),
            ("maildir:~/Maildir/", "Maildir"),
            ("maildir:%h/mail", "mail"),
            ("maildir:mail/in", "mail/in"),
            ("maildir:~", "/home/alice"),
            ("maildir:/var/vmail/%d/%n", "/var/vmail/example.org/alice"),
            ("maildir:/srv/%Lu", "/srv/alice@example.org"),
            ("maildir:/srv/%{domain}/%{username}", "/srv/example.org/alice"),
            ("maildir:/srv/100%%", "/srv/100%"),
            ("maildir:~/Maildir:LAYOUT=fs:INDEX=/var/index/%u", "Maildir"),
            ("maildir:~alice/x", "~alice/x"),
        ] {
            assert_eq!(parse(text, ALICE).unwrap(), path, "{text}");
        }
    }

    #[test]
    fn other_drivers_options_and_variables_are_refused_with_a_reason() {
        for (text, reason) in [
            ("mbox:~/mail", "the driver is \"mbox\""),
            ("~/Maildir", "there is no mail driver"),
            ("maildir:~/Maildir:INBOX=/var/mail/%u", "\"INBOX=/var/mail/%u\""),
            ("maildir:~/Maildir:LAYOUT=index", "\"LAYOUT=index\""),
            ("maildir:/srv/%x", "unknown variable at \"%x\""),
            ("maildir:/srv/%{user|upper}", "unknown variable"),
            ("maildir:/srv/%", "unknown variable at \"%\""),
            ("maildir:/srv/%\u{e9}", "unknown variable"),
        ] {
            let fault = parse(text, ALICE).unwrap_err();
            assert!(fault.reason.contains(reason), "{text}: {fault}");
        }
        let no_domain = Variables { address: "alice", home: None };
        assert!(parse("maildir:/srv/%d", no_domain).is_err());
        assert!(parse("maildir:~", no_domain).is_err());
    }
}
