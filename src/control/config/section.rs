//! One table of the file, read key by key; what is wrong is noted and reading goes on.
//!
//! The kinds of values (`size`, `duration`, `choice`, ...) are functions from a TOML value to a checked
//! one, each with its bounds, so that the list of reads in [`super::read`] is the table of all keys.
#![forbid(unsafe_code)]

use std::ops::{Range, RangeInclusive};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Problem;
use super::{keys, unit};

/// The problems found so far, and the text they are found in.
pub(super) struct Problems<'t> {
    pub(super) text: &'t str,
    pub(super) list: Vec<Problem>,
}

impl Problems<'_> {
    /// Notes a problem at `span`.
    pub(super) fn at(&mut self, span: Range<usize>, message: String, advice: String) {
        self.list.push(Problem::at(self.text, span, message, advice));
    }
}

/// A table that is being read; an absent one reads as empty.
pub(super) struct Section<'p, 't, 'd> {
    /// The name in [`keys::KEYS`].
    name: &'static str,
    entries: Option<&'d DeTable<'d>>,
    problems: &'p mut Problems<'t>,
}

/// What a kind says about a value it refuses: the advice under the caret.
type Refusal = String;

impl<'p, 't, 'd> Section<'p, 't, 'd> {
    /// Begins to read `entries` as the table `name`: unknown keys are noted at once.
    pub(super) fn new(
        name: &'static str,
        entries: Option<&'d DeTable<'d>>,
        problems: &'p mut Problems<'t>,
    ) -> Self {
        for key in entries.into_iter().flat_map(DeTable::keys) {
            let word = key.get_ref().as_ref();
            if !keys::of_table(name).contains(&word) {
                let place = match name {
                    "" => String::new(),
                    "listen" => " in [[listen]]".to_owned(),
                    _ => format!(" in [{name}]"),
                };
                let message = format!("unknown key `{word}`{place}");
                problems.at(key.span(), message, keys::advice(name, word));
            }
        }
        Self { name, entries, problems }
    }

    /// The sub-table `name` of the top of the file.
    pub(super) fn beneath(top: &'d DeTable<'d>, name: &'static str, problems: &'p mut Problems<'t>) -> Self {
        let entries = match top.get(name).map(|value| (value.span(), value.get_ref())) {
            None => None,
            Some((_, DeValue::Table(entries))) => Some(entries),
            Some((span, other)) => {
                let advice = format!("expected a table, found {}", kind_of(other));
                problems.at(span, format!("wrong value for `{name}`"), advice);
                None
            }
        };
        Self::new(name, entries, problems)
    }

    /// The value of `key` as `kind` reads it, or `default` if it is absent or refused.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        kind: impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> T {
        self.optional(key, kind).unwrap_or(default)
    }

    /// The value of `key` as `kind` reads it; `None` if it is absent, or refused and noted.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        kind: impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Option<T> {
        let value = self.raw(key)?;
        match kind(value.get_ref()) {
            Ok(read) => Some(read),
            Err(advice) => {
                self.refuse(key, advice);
                None
            }
        }
    }

    /// The value of `key` as it stands in the file.
    pub(super) fn raw(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        debug_assert!(keys::of_table(self.name).contains(&key), "{key} is missing in KEYS");
        self.entries.and_then(|entries| entries.get(key))
    }

    /// Notes that the value of `key` cannot stay as it is.
    pub(super) fn refuse(&mut self, key: &'static str, advice: String) {
        let Some(value) = self.raw(key) else { return };
        let dot = if self.name.is_empty() { "" } else { "." };
        let message = format!("wrong value for `{}{dot}{key}`", self.name);
        self.problems.at(value.span(), message, advice);
    }
}

/// Any string.
pub(super) fn string(value: &DeValue<'_>) -> Result<String, Refusal> {
    value.as_str().map(str::to_owned).ok_or_else(|| expected("a string", value))
}

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Refusal> {
    value.as_bool().ok_or_else(|| expected("true or false", value))
}

/// A whole number within `bounds`.
pub(super) fn number<T>(bounds: RangeInclusive<T>) -> impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>
where
    T: TryFrom<u64> + PartialOrd + std::fmt::Display,
{
    move |value| {
        let wanted = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        value
            .as_integer()
            .and_then(|digits| u64::from_str_radix(digits.as_str(), digits.radix()).ok())
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| expected(&wanted, value))
    }
}

/// A number of bytes within `bounds`: "50MiB", or an integer.
pub(super) fn size(bounds: RangeInclusive<u64>) -> impl FnOnce(&DeValue<'_>) -> Result<u64, Refusal> {
    move |value| {
        let bytes = match value {
            DeValue::String(text) => unit::parse_size(text)?,
            DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix())
                .map_err(|_| "a size is not negative".to_owned())?,
            other => return Err(expected("a size such as \"50MiB\"", other)),
        };
        if bounds.contains(&bytes) {
            return Ok(bytes);
        }
        let (min, max) = (unit::size_text(*bounds.start()), unit::size_text(*bounds.end()));
        Err(format!("must be from {min} to {max}"))
    }
}

/// A length of time within `bounds`: "5m", "250ms", "1h30m".
pub(super) fn duration(
    bounds: RangeInclusive<Duration>,
) -> impl FnOnce(&DeValue<'_>) -> Result<Duration, Refusal> {
    move |value| {
        let text = value.as_str().ok_or_else(|| expected("a duration such as \"5m\"", value))?;
        let duration = unit::parse_duration(text)?;
        if bounds.contains(&duration) {
            return Ok(duration);
        }
        let min = unit::duration_text(*bounds.start());
        let max = unit::duration_text(*bounds.end());
        Err(format!("must be from {min} to {max}"))
    }
}

/// One of the words of `choices`, which also names them in the effective configuration.
pub(super) fn choice<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl FnOnce(&DeValue<'_>) -> Result<T, Refusal> {
    move |value| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let text =
            value.as_str().ok_or_else(|| expected(&format!("one of {}", keys::listed(&words)), value))?;
        if let Some((_, chosen)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*chosen);
        }
        Err(match keys::nearest(text, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected one of {}", keys::listed(&words)),
        })
    }
}

/// An absolute path without `..`.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let text = value.as_str().ok_or_else(|| expected("a path", value))?;
    absolute(text)
}

/// `text` as an absolute path without `..` and NUL; doubled slashes and `.` are dropped, so that equal
/// paths compare equal.
pub(super) fn absolute(text: &str) -> Result<PathBuf, Refusal> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err("the path must be absolute: it starts with /".to_owned());
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("write the path without `..`".to_owned());
    }
    if text.contains('\0') {
        return Err("a path holds no NUL".to_owned());
    }
    Ok(path.components().collect())
}

/// "expected a size, found an array".
pub(super) fn expected(what: &str, found: &DeValue<'_>) -> Refusal {
    match found {
        DeValue::Integer(digits) => format!("expected {what}, found {digits}"),
        other => format!("expected {what}, found {}", kind_of(other)),
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
