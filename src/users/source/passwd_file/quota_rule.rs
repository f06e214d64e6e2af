//! Dovecot's quota rules.
//!
//! Owns `MAILBOX:LIMIT[:LIMIT...]` in `userdb_quota_rule`, `userdb_quota_rule2` and so on. Only the rule for all
//! mailboxes, `*`, counts: the others are about folders, and deliveries go into the inbox. Limits are
//! `storage=` (kilobytes unless a suffix says otherwise), `bytes=` and `messages=`, with the suffixes B, K, M, G
//! and T, and `ignore`; zero is "unlimited".
#![forbid(unsafe_code)]

use crate::users::source::Fault;

const FIELD: &str = "userdb_quota_rule";

/// What the rules of a line add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Quota {
    /// The most octets; `None`: unlimited.
    pub(super) bytes: Option<u64>,
    /// The most messages; `None`: unlimited.
    pub(super) messages: Option<u64>,
}

/// Whether an extra field of this name is a quota rule.
pub(super) fn is_rule(name: &str) -> bool {
    name.strip_prefix(FIELD).is_some_and(|number| number.bytes().all(|octet| octet.is_ascii_digit()))
}

impl Quota {
    /// Adds one rule; what it does not mention stays as it was.
    pub(super) fn apply(&mut self, rule: &str) -> Result<(), Fault> {
        let Some((mailbox, limits)) = rule.split_once(':') else {
            return Err(Fault::new(FIELD, "there is no limit in it", "write *:storage=1G:messages=1000"));
        };
        if mailbox != "*" {
            return Ok(());
        }
        for limit in limits.split(':') {
            match limit.split_once('=') {
                Some(("storage", value)) => self.bytes = parse_limit(FIELD, value, 1024)?,
                Some(("bytes", value)) => self.bytes = parse_limit(FIELD, value, 1)?,
                Some(("messages", value)) => self.messages = parse_limit(FIELD, value, 1)?,
                Some(("backend", _)) => {}
                None if limit == "ignore" => *self = Self::default(),
                _ => {
                    return Err(Fault::new(
                        FIELD,
                        format!("\"{}\" is not a limit", limit.escape_debug()),
                        "use storage=, bytes=, messages= or ignore",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The limit that `text`, the value of `field`, means; `None`: unlimited.
pub(in crate::users::source) fn parse_limit(
    field: &'static str,
    text: &str,
    default_unit: u64,
) -> Result<Option<u64>, Fault> {
    let bad = |reason: &str, remedy| {
        let reason = format!("the limit \"{}\" {reason}", text.escape_debug());
        Err(Fault::new(field, reason, remedy))
    };
    if text.starts_with(['+', '-']) || text.ends_with('%') {
        return bad("is relative to a rule that is not in this file", "write the limit itself");
    }
    let digits_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits_end);
    let unit = match suffix {
        "" => default_unit,
        "B" | "b" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        "T" | "t" => 1 << 40,
        _ => return bad("has an unknown suffix", "use B, K, M, G or T"),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(0) => Ok(None),
        Some(limit) => Ok(Some(limit)),
        None => bad("is not a number, or too large", "write a number and a suffix, like 10G"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_dovecots_units_and_zero_is_unlimited() {
        for (rule, bytes, messages) in [
            ("*:storage=1G:messages=1000", Some(1 << 30), Some(1000)),
            ("*:storage=100", Some(102_400), None),
            ("*:storage=100b", Some(100), None),
            ("*:bytes=100", Some(100), None),
            ("*:bytes=2T", Some(2 << 40), None),
            ("*:storage=0:messages=0", None, None),
            ("*:storage=5M:ignore", None, None),
            ("Trash:storage=+10%", None, None),
        ] {
            let mut quota = Quota::default();
            quota.apply(rule).unwrap();
            assert_eq!(quota, Quota { bytes, messages }, "{rule}");
        }
    }

    #[test]
    fn later_rules_change_only_what_they_mention() {
        let mut quota = Quota::default();
        quota.apply("*:storage=1G:messages=10").unwrap();
        quota.apply("*:messages=20").unwrap();
        assert_eq!((quota.bytes, quota.messages), (Some(1 << 30), Some(20)));
        assert!(is_rule("userdb_quota_rule") && is_rule("userdb_quota_rule2"));
        assert!(!is_rule("userdb_quota_rules") && !is_rule("quota_rule"));
    }

    #[test]
    fn limits_that_cannot_be_known_are_refused() {
        for rule in [
            "",
            "1G",
            "*:",
            "*:1G",
            "*:storage=",
            "*:storage=x",
            "*:storage=1X",
            "*:storage=+1G",
            "*:storage=10%",
            "*:storage=99999999999T",
            "*:storage=-1",
        ] {
            assert!(Quota::default().apply(rule).is_err(), "{rule:?}");
        }
    }
}
