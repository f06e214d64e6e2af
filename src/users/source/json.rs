//! JSON lines: one object for each user or alias.
//!
//! Owns the reading of what `posthaste users dump --json` prints, so that a table can be written out and built again:
//! users with the names of [`super::fields`], and aliases as `{"alias": "info@example.org", "targets": ["alice"]}`.
//! `null` is the same as leaving a key out. Promises that an unknown key is a fault, unless they are to be ignored.
//! Never keeps what it does not know.
#![forbid(unsafe_code)]

use super::accounts::Accounts;
use super::fields::{Field, Row, Value, remedy_for};
use super::lines::{LINE_BYTES_MAX, Lines};
use super::virtual_aliases::{check, check_target};
use super::{Fault, Item, LINE, ReadError, Source, not_utf8};
use crate::users::entry::Alias;
use crate::users::key::LocalPart;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::io::BufRead;

/// The users and aliases of JSON lines, one after another.
#[derive(Debug)]
pub struct Json<R> {
    lines: Lines<R>,
    accounts: Accounts,
    local_part: LocalPart,
    ignore_unknown: bool,
}

impl<R: BufRead> Json<R> {
    /// Reads `input`; names of owners are looked up in `accounts`. Unknown keys are ignored, or faults.
    pub fn new(input: R, accounts: Accounts, local_part: LocalPart, ignore_unknown: bool) -> Self {
        // An alias may have many targets.
        let lines = Lines::new(input, 16 * LINE_BYTES_MAX);
        Self { lines, accounts, local_part, ignore_unknown }
    }

    fn parse(&self, text: &str, item: &mut Item) -> Result<(), Fault> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let mut object = Object { ignore_unknown: self.ignore_unknown, ..Object::default() };
        let read = (&mut object).deserialize(&mut deserializer).and_then(|()| deserializer.end());
        read.map_err(|error| syntax_fault(text, &error))?;
        if let Some(fault) = object.fault {
            return Err(fault);
        }
        let line = self.lines.number();
        if object.alias.is_some() || object.targets.is_some() {
            *item = Item::Alias(Alias { line, ..object.into_alias()? });
            return Ok(());
        }
        let entry = item.user();
        entry.line = line;
        object.row.write_to(entry, &self.accounts, self.local_part)
    }
}

impl<R: BufRead> Source for Json<R> {
    fn read(&mut self, item: &mut Item) -> Result<bool, ReadError> {
        while self.lines.advance()? {
            let line = self.lines.line().and_then(|line| str::from_utf8(line).map_err(|_| not_utf8()));
            let parsed = match line.map(str::trim_ascii) {
                Ok("") => continue,
                Ok(text) => self.parse(text, item),
                Err(fault) => Err(fault),
            };
            parsed.map_err(|fault| ReadError::of(self.lines.number(), fault))?;
            return Ok(true);
        }
        Ok(false)
    }

    fn line(&self) -> u64 {
        self.lines.number()
    }
}

/// What one line says.
#[derive(Debug, Default)]
struct Object<'l> {
    row: Row<'l>,
    has_user: bool,
    alias: Option<String>,
    targets: Option<Vec<String>>,
    ignore_unknown: bool,
    /// The first one, found where the line was still good JSON.
    fault: Option<Fault>,
}

impl<'l> Object<'l> {
    fn into_alias(self) -> Result<Alias, Fault> {
        if self.has_user {
            let remedy = "give users and aliases an object each";
            return Err(Fault::new(ALIAS, "a user's keys stand beside it", remedy));
        }
        let remedy = "write {\"alias\": ADDRESS, \"targets\": [ADDRESS, ...]}";
        let address = self.alias.filter(|alias| !alias.is_empty());
        let address = address.ok_or_else(|| Fault::new(ALIAS, "there is none", remedy))?;
        let targets = self.targets.filter(|targets| !targets.is_empty());
        let targets = targets.ok_or_else(|| Fault::new(TARGETS, "there are none", remedy))?;
        for target in &targets {
            check_target(target).map_err(|fault| Fault { field: TARGETS, ..fault })?;
        }
        let alias = Alias { line: 0, address, targets };
        let checked = check(&alias);
        checked.map(|()| alias)
    }

    fn take<A: MapAccess<'l>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            ALIAS => {
                let Text(text) = map.next_value()?;
                self.alias = Some(text.into_owned());
            }
            TARGETS => self.targets = Some(map.next_value::<Targets>()?.0),
            _ => match Field::named(key) {
                Some(field) => {
                    let value = map.next_value_seed(ValueOf(field))?;
                    self.has_user = true;
                    if let Some(Err(fault)) = value.map(|value| self.row.put(field, value)) {
                        self.fault.get_or_insert(fault);
                    }
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                    if !self.ignore_unknown {
                        let known = Field::ALL.into_iter().map(Field::name).chain([ALIAS, TARGETS]);
                        let reason = format!("there is no key \"{}\"", key.escape_debug());
                        self.fault.get_or_insert_with(|| Fault::new(LINE, reason, remedy_for(key, known)));
                    }
                }
            },
        }
        Ok(())
    }
}

impl<'l> DeserializeSeed<'l> for &mut Object<'l> {
    type Value = ();

    fn deserialize<D: Deserializer<'l>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'l> Visitor<'l> for &mut Object<'l> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            self.take(&key, &mut map)?;
        }
        Ok(())
    }
}

/// A string, borrowed from the line unless it has escapes in it.
struct Text<'l>(Cow<'l, str>);

impl<'l> de::Deserialize<'l> for Text<'l> {
    fn deserialize<D: Deserializer<'l>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'l> Visitor<'l> for TextVisitor {
            type Value = Text<'l>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'l str) -> Result<Text<'l>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'l>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// The value of a field: a string, a number, or null.
struct ValueOf(Field);

impl<'l> DeserializeSeed<'l> for ValueOf {
    type Value = Option<Value<'l>>;

    fn deserialize<D: Deserializer<'l>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'l> Visitor<'l> for ValueOf {
    type Value = Option<Value<'l>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Field::Address | Field::Home | Field::Mail | Field::Maildir => "a string or null",
            _ => "a whole number, a string or null",
        };
        write!(f, "{kind} for {}", self.0.name())
    }

    fn visit_borrowed_str<E>(self, text: &'l str) -> Result<Self::Value, E> {
        Ok(Some(Value::Text(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Value::Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        match self.0 {
            Field::Address | Field::Home | Field::Mail | Field::Maildir => {
                Err(E::invalid_type(de::Unexpected::Unsigned(number), &self))
            }
            _ => Ok(Some(Value::Number(number))),
        }
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A list of strings, or one.
struct Targets(Vec<String>);

impl<'l> de::Deserialize<'l> for Targets {
    fn deserialize<D: Deserializer<'l>>(deserializer: D) -> Result<Self, D::Error> {
        struct TargetsVisitor;

        impl<'l> Visitor<'l> for TargetsVisitor {
            type Value = Targets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of strings for targets")
            }

            fn visit_seq<A: SeqAccess<'l>>(self, mut list: A) -> Result<Targets, A::Error> {
                let mut targets = Vec::new();
                while let Some(Text(text)) = list.next_element()? {
                    targets.push(text.into_owned());
                }
                Ok(Targets(targets))
            }
        }

        deserializer.deserialize_seq(TargetsVisitor)
    }
}

/// What serde_json says about a line, without its own count of lines.
fn syntax_fault(text: &str, error: &serde_json::Error) -> Fault {
    let message = error.to_string();
    let reason = message.split(" at line ").next().unwrap_or(&message);
    let reason = format!("{reason} in column {}", error.column());
    let remedy = match text.as_bytes().first() {
        Some(b'[') => "write one object a line and no list, as \"jq -c '.[]'\" does",
        Some(b'{') if error.is_eof() => "write each object on one line, as \"jq -c\" does",
        _ => "write one JSON object, as \"posthaste users dump --json\" does",
    };
    Fault::new(LINE, reason, remedy)
}

/// The key of an alias's address.
const ALIAS: &str = "alias";
/// The key of what it leads to.
const TARGETS: &str = "targets";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::entry::Entry;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_as(text: &[u8], ignore_unknown: bool) -> Vec<Result<Item, String>> {
        let accounts = Accounts::parse("vmail:x:5000:5000::/:\n", "");
        let json = Json::new(text, accounts, LocalPart::Folded, ignore_unknown);
        json.items().map(|item| item.map_err(|error| error.to_string())).collect()
    }

    fn read(text: &str) -> Vec<Result<Item, String>> {
        read_as(text.as_bytes(), false)
    }

    #[test]
    fn users_and_aliases_may_be_mixed_and_null_says_nothing() {
        let items = read(concat!(
            r#"{"address":"a@x","home":"/home/a","uid":"vmail","gid":8,"quota_bytes":"1G","quota_messages":null}"#,
            "\n\n  {\"alias\": \"info@x\", \"targets\": [\"a@x\", \"b\\u0040x\"]} \r\n",
            r#"{"quota_bytes":0,"mail":"Maildir","maildir":"/h/\"b/Maildir","address":"b@x","home":"/h/\"b"}"#,
        ));
        let a = Entry {
            line: 1,
            address: "a@x".into(),
            home: Some("/home/a".into()),
            mail: "Maildir".into(),
            uid: Some(5000),
            gid: Some(8),
            quota_bytes: Some(1 << 30),
            quota_messages: None,
        };
        let info = Alias { line: 3, address: "info@x".into(), targets: vec!["a@x".into(), "b@x".into()] };
        let b = Entry {
            line: 4,
            address: "b@x".into(),
            home: Some("/h/\"b".into()),
            mail: "Maildir".into(),
            ..Entry::default()
        };
        assert_eq!(items, [Ok(Item::User(a)), Ok(Item::Alias(info)), Ok(Item::User(b))]);
    }

    #[test]
    fn every_bad_line_says_what_is_wrong_and_what_to_do() {
        for (line, begin, remedy) in [
            (r#"{"adress":"a@x"}"#, "line: there is no key \"adress\"", "did you mean \"address\"?"),
            (r#"{"address":"a@x","target":1}"#, "line: there is no key \"target\"", "mean \"targets\"?"),
            (r#"[{"address":"a@x"}]"#, "line: invalid type: sequence, expected an object", "jq -c '.[]'"),
            ("{", "line: EOF while parsing an object in column 1", "each object on one line"),
            ("alice", "line: expected value in column 1", "one JSON object"),
            (r#"{"address":"a"} {"address":"b"}"#, "line: trailing characters", "one JSON object"),
            (r#"{"address":7}"#, "line: invalid type: integer `7`, expected a string", "one JSON object"),
            (r#"{"address":"a@x","home":"/a","uid":-1}"#, "line: invalid type: integer `-1`", "JSON"),
            (r#"{"address":"a@x","home":"/a","uid":4294967296}"#, "uid: 4294967296 is too large", "give"),
            (r#"{"address":"a@x","home":"/a","uid":1.5}"#, "line: invalid type: floating point", "JSON"),
            (r#"{"address":"a@x","home":"a"}"#, "home: the path is not absolute", "give the absolute path"),
            (r#"{"address":"a@x","home":"/a","home":"/b"}"#, "home: it is there twice", "remove one"),
            (r#"{"home":"/a"}"#, "address: there is none", "write local-part@domain"),
            (r#"{"alias":"a@x"}"#, "targets: there are none", "write {\"alias\""),
            (r#"{"targets":["a@x"]}"#, "alias: there is none", "write {\"alias\""),
            (r#"{"alias":"a@x","targets":[]}"#, "targets: there are none", "write {\"alias\""),
            (r#"{"alias":"a@x","targets":["|cat"]}"#, "targets: \"|cat\" is a command", "Postfix"),
            (r#"{"alias":"a","targets":["b"],"uid":1}"#, "alias: a user's keys stand beside it", "each"),
        ] {
            let items = read(&format!("\n{line}\n{{\"address\":\"z\",\"home\":\"/z\"}}"));
            let message = items[0].as_ref().unwrap_err();
            assert!(message.starts_with(&format!("line 2, field {begin}")), "{line}: {message}");
            assert!(message.contains(remedy), "{line}: {message}");
            assert!(items.len() == 2 && items[1].is_ok(), "{line}");
        }
        assert!(read_as(b"\xff", false)[0].as_ref().unwrap_err().contains("not UTF-8"));
        let deep = format!("{{\"x\":{}", "[".repeat(10_000));
        assert!(read(&deep)[0].as_ref().unwrap_err().contains("EOF"));
    }

    #[test]
    fn unknown_keys_can_be_ignored() {
        let text = br#"{"address":"a@x","home":"/a","x":{"y":[1]}}"#;
        assert!(read_as(text, true)[0].is_ok());
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(
            address in "[a-z\"\\\\\u{e9}]{1,8}(@[a-z.]{1,8})?",
            home in prop::option::of("/[a-z~\"\u{e9} :%]{1,8}"),
            mail in "[a-z~:%]{1,8}(/[a-z]{1,3})?",
            numbers: (Option<u32>, Option<u64>),
        ) {
            let mail = if home.is_none() { format!("/{mail}") } else { mail };
            let maildir = home.as_ref().map_or_else(|| mail.clone(), |home| format!("{home}/{mail}"));
            let uid = numbers.0.filter(|uid| *uid != 0 && *uid != u32::MAX);
            let line = json!({
                "address": address, "home": home, "mail": mail, "maildir": maildir,
                "uid": uid, "gid": uid, "quota_bytes": numbers.1, "quota_messages": null,
            });
            let expected = Entry {
                line: 1, address, home, mail, uid, gid: uid,
                quota_bytes: numbers.1.filter(|limit| *limit > 0),
                quota_messages: None,
            };
            prop_assert_eq!(read(&line.to_string()), [Ok(Item::User(expected))]);
        }

        #[test]
        fn any_line_is_an_item_or_a_fault(text in "(\\{|\\}|\"|:|,|address|null|7|\\[|\\PC){0,20}") {
            let items = read(&text);
            prop_assert_eq!(items.len(), usize::from(!text.trim_ascii().is_empty()));
        }
    }
}
