//! Comma and tab separated values, with a header line that names the columns.
//!
//! Owns the header, and what fields mean; `records` cuts them. Columns are those of [`super::fields`], in any order.
//! Promises that a header which is no good is the only fault: nothing else could be understood. Never guesses a
//! separator.
//!
//! An empty field says nothing; that is also how PostgreSQL writes NULL. With tabs, `\N` and `NULL` say nothing too, as
//! psql and mysql write it; other backslashes would be escapes of theirs and are refused.
#![forbid(unsafe_code)]

mod records;

pub use records::Separator;

use super::accounts::Accounts;
use super::fields::{Field, Row, Value, remedy_for};
use super::{Fault, Item, LINE, ReadError, Source, not_utf8};
use crate::users::entry::Entry;
use crate::users::key::LocalPart;
use records::Records;
use std::io::BufRead;

/// The users of a table of values, one after another.
#[derive(Debug)]
pub struct Csv<R> {
    records: Records<R>,
    accounts: Accounts,
    local_part: LocalPart,
    ignore_unknown: bool,
    /// What each column is about, `None` if it is ignored. Before the header was read there are none.
    columns: Vec<Option<Field>>,
    is_begun: bool,
    is_over: bool,
}

impl<R: BufRead> Csv<R> {
    /// Reads `input`; names of owners are looked up in `accounts`. Columns with unknown names are ignored, or faults.
    pub fn new(
        input: R,
        separator: Separator,
        accounts: Accounts,
        local_part: LocalPart,
        ignore_unknown: bool,
    ) -> Self {
        Self {
            records: Records::new(input, separator),
            accounts,
            local_part,
            ignore_unknown,
            columns: Vec::new(),
            is_begun: false,
            is_over: false,
        }
    }

    /// Reads the header. Without a good one, nothing else means anything.
    fn begin(&mut self) -> Result<(), ReadError> {
        self.is_begun = true;
        // Until the header has turned out to be good.
        self.is_over = true;
        if !self.records.advance()? {
            let remedy = "give the names of the columns on the first line, like address,home";
            return Err(ReadError::of(1, Fault::new(HEADER, "there is none: the input is empty", remedy)));
        }
        let header = self.records.check().and_then(|()| self.read_header());
        self.columns = header.map_err(|fault| ReadError::of(self.records.begin(), fault))?;
        self.is_over = false;
        Ok(())
    }

    fn read_header(&self) -> Result<Vec<Option<Field>>, Fault> {
        let mut columns = Vec::new();
        for name in self.records.fields() {
            let name = str::from_utf8(name.text).map_err(|_| not_utf8())?.trim();
            let column = Field::named(name);
            if column.is_none() && !self.ignore_unknown {
                let reason = format!("there is no column \"{}\"", name.escape_debug());
                let known = Field::ALL.into_iter().map(Field::name);
                return Err(Fault::new(HEADER, reason, remedy_for(name, known)));
            }
            if column.is_some() && columns.contains(&column) {
                let reason = format!("the column \"{}\" is there twice", name.escape_debug());
                return Err(Fault::new(HEADER, reason, "remove one of them"));
            }
            columns.push(column);
        }
        if !columns.contains(&Some(Field::Address)) {
            let remedy = "give the names of the columns on the first line, like address,home";
            return Err(Fault::new(HEADER, "there is no column \"address\"", remedy));
        }
        Ok(columns)
    }

    fn parse(&self, entry: &mut Entry) -> Result<(), Fault> {
        self.records.check()?;
        if self.records.len() != self.columns.len() {
            let reason =
                format!("it has {} fields, and the header {}", self.records.len(), self.columns.len());
            return Err(Fault::new(LINE, reason, "quote fields that have the separator in them"));
        }
        let mut row = Row::default();
        for (column, value) in self.columns.iter().zip(self.records.fields()) {
            let Some(column) = *column else {
                continue;
            };
            let text =
                str::from_utf8(value.text).map_err(|_| Fault { field: column.name(), ..not_utf8() })?;
            if self.records.separator() == Separator::Tab && !value.is_quoted {
                match text {
                    r"\N" | "NULL" => continue,
                    _ if text.contains('\\') => {
                        let reason = "it has a backslash in it, which psql and mysql mean as an escape";
                        let remedy = "quote the field, or export as CSV";
                        return Err(Fault::new(column.name(), reason, remedy));
                    }
                    _ => {}
                }
            }
            row.put(column, Value::Text(text.into()))?;
        }
        row.write_to(entry, &self.accounts, self.local_part)
    }
}

impl<R: BufRead> Source for Csv<R> {
    fn read(&mut self, item: &mut Item) -> Result<bool, ReadError> {
        if !self.is_begun {
            self.begin()?;
        }
        if self.is_over || !self.records.advance()? {
            return Ok(false);
        }
        let entry = item.user();
        entry.line = self.records.begin();
        self.parse(entry).map_err(|fault| ReadError::of(self.records.begin(), fault))?;
        Ok(true)
    }

    fn line(&self) -> u64 {
        self.records.line()
    }
}

/// The name of the field when the header is no good.
const HEADER: &str = "header";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_as(separator: Separator, text: &[u8], ignore_unknown: bool) -> Vec<Result<Entry, String>> {
        let accounts = Accounts::parse("vmail:x:5000:5000::/:\n", "");
        let csv = Csv::new(text, separator, accounts, LocalPart::Folded, ignore_unknown);
        csv.items()
            .map(|item| match item {
                Ok(Item::User(entry)) => Ok(entry),
                Ok(Item::Alias(alias)) => panic!("an alias: {alias:?}"),
                Err(error) => Err(error.to_string()),
            })
            .collect()
    }

    fn read(text: &str) -> Vec<Result<Entry, String>> {
        read_as(Separator::Comma, text.as_bytes(), false)
    }

    #[test]
    fn columns_may_stand_in_any_order_and_lines_end_in_any_way() {
        for end in ["\n", "\r\n"] {
            let text = "\u{feff}home,Address,uid,mail,quota_bytes~/home/a,a@x,vmail,,1G~~/h/b,\"b@x\",,in,"
                .replace('~', end);
            let users = read(&text);
            let a = users[0].as_ref().unwrap();
            assert_eq!((a.line, a.address.as_str(), a.home.as_deref()), (2, "a@x", Some("/home/a")));
            assert_eq!((a.mail.as_str(), a.uid, a.quota_bytes), ("Maildir", Some(5000), Some(1 << 30)));
            let b = users[1].as_ref().unwrap();
            assert_eq!((b.line, b.address.as_str(), b.mail.as_str(), b.uid), (4, "b@x", "in", None));
            assert_eq!(users.len(), 2);
        }
    }

    #[test]
    fn quoted_fields_hold_separators_marks_and_line_ends_and_lines_are_still_counted() {
        let text =
            b"note,address,home\n\"one\ntwo\r\n,three\",a@x,\"/home/\"\"a\"\"\"\n,b@x,/b,\nx,\"c,c@x\",/c";
        let users = read_as(Separator::Comma, text, true);
        let a = users[0].as_ref().unwrap();
        assert_eq!((a.line, a.home.as_deref()), (2, Some("/home/\"a\"")));
        assert_eq!(
            users[1].as_ref().unwrap_err(),
            "line 5, field line: it has 4 fields, and the header 3; quote fields that have the separator in them"
        );
        let c = users[2].as_ref().unwrap();
        assert_eq!((c.line, c.address.as_str()), (6, "c,c@x"));
    }

    #[test]
    fn marks_in_the_wrong_place_cost_one_record() {
        let users = read("address,home\na\"@x,/a\n\"a@x\"b,/a\nc@x,/c\n\"d@x,/d\n");
        assert!(users[0].as_ref().unwrap_err().starts_with("line 2, field line: a quotation mark stands"));
        assert!(users[1].as_ref().unwrap_err().starts_with("line 3, field line: a quotation mark stands"));
        assert_eq!(users[2].as_ref().unwrap().address, "c@x");
        assert!(
            users[3].as_ref().unwrap_err().contains("line 5, field line: a quotation mark is not closed")
        );
        assert_eq!(users.len(), 4);
    }

    #[test]
    fn a_mark_that_is_never_closed_takes_no_more_than_a_bounded_record() {
        let text = format!("address,home\n\"a@x,/a\n{}", "b@x,/b\n".repeat(20_000));
        let users = read(&text);
        assert!(
            users[0].as_ref().unwrap_err().contains("line 2, field line: a quotation mark is not closed")
        );
        assert!(users.len() > 10_000, "{}", users.len());
        assert!(users[1..].iter().all(Result::is_ok));
    }

    #[test]
    fn a_header_that_is_no_good_is_the_only_fault() {
        for (text, message) in [
            ("", "line 1, field header: there is none"),
            (
                "\n\nadress,home\na,b",
                "line 3, field header: there is no column \"adress\"; did you mean \"address\"?",
            ),
            ("home,uid\n/a,1", "line 1, field header: there is no column \"address\""),
            ("address,uid,UID\na,1,2", "line 1, field header: the column \"UID\" is there twice"),
            (
                "a@x,/home/a\nb@x,/home/b",
                "line 1, field header: there is no column \"a@x\"; use address, home",
            ),
            ("\"address,home\na,b", "line 1, field line: a quotation mark is not closed"),
        ] {
            let users = read(text);
            assert_eq!(users.len(), 1);
            let said = users[0].as_ref().unwrap_err();
            assert!(said.starts_with(message), "{said}");
        }
    }

    #[test]
    fn with_tabs_null_says_nothing_and_escapes_are_refused() {
        let text = b"address\thome\tuid\tmail\na@x\t/a,b\t\\N\tNULL\nb@x\t/b\\tc\t\t\nc@x\t/c\t\t\"NULL\"\n";
        let users = read_as(Separator::Tab, text, false);
        let a = users[0].as_ref().unwrap();
        assert_eq!((a.home.as_deref(), a.uid, a.mail.as_str()), (Some("/a,b"), None, "Maildir"));
        assert!(users[1].as_ref().unwrap_err().starts_with("line 3, field home: it has a backslash"));
        assert_eq!(users[2].as_ref().unwrap().mail, "NULL");
    }

    #[test]
    fn what_is_not_utf8_matters_only_in_a_column_that_counts() {
        let text = b"address,home,name\na@x,/a,\xff\nb@x,/\xff,b\n";
        let users = read_as(Separator::Comma, text, true);
        assert!(users[0].is_ok());
        assert!(users[1].as_ref().unwrap_err().starts_with("line 3, field home: it is not UTF-8"));
    }

    proptest! {
        #[test]
        fn any_octets_give_records_or_faults_on_lines_that_rise(
            text in "(address|home|,|\"|\n|\r|a@x|/a|\\PC){0,40}",
            header in prop::bool::ANY,
        ) {
            let text = if header { format!("address,home\n{text}") } else { text };
            let mut csv =
                Csv::new(text.as_bytes(), Separator::Comma, Accounts::default(), LocalPart::Folded, false);
            let (mut item, mut last) = (Item::default(), 0);
            loop {
                let line = match csv.read(&mut item) {
                    Ok(false) => break,
                    Ok(true) => item.line(),
                    Err(ReadError::Line(bad)) => bad.line,
                    Err(ReadError::Input(error)) => panic!("{error}"),
                };
                prop_assert!(line > last && line <= csv.line().max(1));
                last = line;
            }
        }
    }
}
