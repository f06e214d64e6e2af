//! One connection that asks, as a story: take requests, look up, answer, wait.
//!
//! Postfix asks before it accepts, so what is said here must be what RCPT would hear: the same table, the same
//! rules. "Not found" is said only of what is certainly not in the table; a table that cannot be read is a temporary
//! failure. Every wait has an end, and a connection that is idle, as Postfix keeps them, is closed without a word:
//! Postfix opens another one. Look-ups leave no line in the log.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::connection::{Connection, End, Input};
use super::worker::{Settings, Worker};
use crate::exec::Patience;
use crate::limits;
use crate::ring::{Fd, Time};
use crate::socketmap::expansion;
use crate::socketmap::netstring::{Malformed, NetstringReader};
use crate::socketmap::reply::Reply;
use crate::socketmap::request::{self, Map, Request};
use crate::users::key::Rules;
use crate::users::{self, Answer, Base, Damage, Found, LocalPart, Table, User};

/// Answers the client at the other end of `socket` until it leaves or is sent away.
pub async fn serve(worker: Rc<Worker>, socket: Rc<Fd>) {
    let exec = Rc::clone(&worker.exec);
    let mut lookups = Lookups {
        connection: Connection::new(exec, socket, worker.settings.idle_timeout),
        requests: NetstringReader::default(),
        expansion: String::new(),
        id: worker.session_id(),
        idle_since: worker.exec.now(),
        worker: &worker,
    };
    let left = lookups.tell().await;
    lookups.farewell(left);
}

struct Lookups<'w> {
    worker: &'w Worker,
    connection: Connection,
    requests: NetstringReader,
    /// Room for an address, or all those that an alias stands for.
    expansion: String,
    id: String,
    /// When the last complete request came. One that never ends does not count as activity.
    idle_since: Time,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The client went.
    Gone(End),
    /// It does not speak our protocol.
    Malformed(Malformed),
    /// Nothing was asked for too long.
    Idle,
    /// The server goes down.
    Draining,
}

/// What there is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The requests in hand are answered, as far as they are complete.
    Wait,
    /// There are more of them, but the others have their turn first.
    GiveWay,
}

impl Lookups<'_> {
    async fn tell(&mut self) -> Left {
        loop {
            let Some(mut input) = self.connection.take_input() else {
                match self.wait().await {
                    Ok(()) => continue,
                    Err(left) => return left,
                }
            };
            let turned = self.turn(&mut input);
            self.connection.put_back(input);
            // Also while there is input: a client that never stops must not keep the server from ending.
            let is_over = turned.is_err() || self.worker.draining.get();
            let is_much = self.connection.outgoing().len() >= limits::SOCKETMAP_REPLIES_GATHERED;
            if (is_over || is_much)
                && let Err(left) = self.flush().await
            {
                return left;
            }
            match turned {
                Err(malformed) => return Left::Malformed(malformed),
                Ok(_) if is_over => return Left::Draining,
                Ok(Next::GiveWay) => self.worker.exec.give_way().await,
                Ok(Next::Wait) => {}
            }
        }
    }

    /// Answers requests until there are no more, or it is somebody else's turn.
    fn turn(&mut self, input: &mut Input) -> Result<Next, Malformed> {
        let table = self.worker.table();
        let mut rest = input.rest();
        let mut damaged = None;
        let mut next = Ok(Next::GiveWay);
        for _ in 0..limits::COMMANDS_PER_TURN {
            let request = match self.requests.next(&mut rest) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    next = Ok(Next::Wait);
                    break;
                }
                Err(malformed) => {
                    next = Err(malformed);
                    break;
                }
            };
            let out = self.connection.outgoing();
            if let Err(damage) = answer(&table, &self.worker.settings, request, &mut self.expansion, out) {
                CANNOT_TELL.write_to(out);
                damaged = Some(damage);
            }
            self.idle_since = self.worker.exec.now();
            if out.len() >= limits::SOCKETMAP_REPLIES_GATHERED {
                break;
            }
        }
        let unread = rest.len();
        input.keep_last(unread);
        if let Some(damage) = damaged {
            self.tell_damage(&table, damage);
        }
        next
    }

    /// Waits for the next requests; the replies go out on the way.
    async fn wait(&mut self) -> Result<(), Left> {
        let unless = Some(&self.worker.draining);
        if self.connection.has_replies() {
            let patience = Patience { until: Time(u64::MAX), unless };
            if let Some(lease) = self.connection.converse(patience).await.map_err(Left::Gone)? {
                self.connection.put_back(Input::new(lease));
                return Ok(());
            }
            self.flush().await?;
        }
        self.give_back_memory();
        let until = self.idle_since.after(self.worker.settings.idle_timeout);
        match self.connection.receive(Patience { until, unless }).await {
            Ok(lease) => {
                self.connection.put_back(Input::new(lease));
                Ok(())
            }
            Err(End::TimedOut) if self.worker.draining.get() => Err(Left::Draining),
            Err(End::TimedOut) => Err(Left::Idle),
            Err(end) => Err(Left::Gone(end)),
        }
    }

    async fn flush(&mut self) -> Result<(), Left> {
        if self.connection.has_replies() {
            self.connection.flush().await.map_err(Left::Gone)?;
            // The time that the client takes to read is not its idleness.
            self.idle_since = self.worker.exec.now();
        }
        Ok(())
    }

    /// Who waits for long keeps no room for the largest aliases.
    fn give_back_memory(&mut self) {
        if self.connection.outgoing().capacity() > limits::SOCKETMAP_REPLIES_GATHERED {
            *self.connection.outgoing() = Vec::new();
        }
        if self.expansion.capacity() > limits::SOCKETMAP_REPLIES_GATHERED {
            self.expansion = String::new();
        }
    }

    fn tell_damage(&self, table: &Table, damage: Damage) {
        self.worker.log.line(format_args!(
            "id={} peer={} look-up deferred: the user table {} cannot be read: {damage}; build it again with posthaste \
             users build",
            self.id,
            self.connection.peer,
            table.path().display()
        ));
    }

    fn farewell(&self, left: Left) {
        let log = &self.worker.log;
        let (id, peer) = (&self.id, self.connection.peer);
        let why = match left {
            Left::Draining => return,
            // Postfix keeps connections for later look-ups and closes them without a word, or lets us do it.
            Left::Idle | Left::Gone(End::Closed) if !self.requests.in_string() => return,
            Left::Idle => "a request took too long to arrive",
            Left::Gone(End::Closed) => "the client left in the middle of a request",
            Left::Gone(End::TimedOut) => "the client does not read its replies",
            Left::Gone(End::Broken(errno)) => {
                return log.line(format_args!("id={id} peer={peer} disconnected: {errno}"));
            }
            Left::Malformed(malformed) => {
                return log.line(format_args!(
                    "id={id} peer={peer} disconnected: this is not socketmap: {malformed} (what connects here must \
                     be a socketmap: table of Postfix)"
                ));
            }
        };
        log.line(format_args!("id={id} peer={peer} disconnected: {why}"));
    }
}

/// Looks up what `request` asks for, and writes the reply to `out`. Allocates what the look-up does, and no more, once
/// `expansion` is large enough.
fn answer(
    table: &Table,
    settings: &Settings,
    request: &[u8],
    expansion: &mut String,
    out: &mut Vec<u8>,
) -> Result<(), Damage> {
    let reply = match Request::parse(request) {
        Err(refusal) => Reply::Permanent(refusal.text()),
        Ok(Request { map: Map::Domain, key }) => match std::str::from_utf8(key) {
            Ok(domain) => match users::has_domain(table, domain) {
                Some(true) => Reply::Found(domain),
                Some(false) => Reply::NotFound,
                None => TOO_MANY_DOMAINS,
            },
            Err(_) => Reply::NotFound,
        },
        Ok(Request { map, key }) => match request::address(key) {
            Some((local, domain)) => return look_up(table, settings, map, (&local, domain), expansion, out),
            None => Reply::NotFound,
        },
    };
    reply.write_to(out);
    Ok(())
}

fn look_up(
    table: &Table,
    settings: &Settings,
    map: Map,
    (local, domain): (&str, Option<&str>),
    expansion: &mut String,
    out: &mut Vec<u8>,
) -> Result<(), Damage> {
    // As RCPT takes it.
    let (local, domain) = match domain {
        None if local.eq_ignore_ascii_case("postmaster") => {
            (settings.postmaster.local.as_str(), Some(settings.postmaster.domain.as_str()))
        }
        _ => (local, domain),
    };
    let found = match users::find(table, local, domain, &settings.rules)? {
        Answer::Found(found) => Some(found),
        Answer::UnknownUser | Answer::UnknownDomain => None,
    };
    let reply = match (map, &found) {
        (_, None) => Reply::NotFound,
        // Postfix asks `virtual_alias_maps` for bare domains too, and takes one that is there for a domain of aliases
        // (`virtual_alias_domains`). A local part alone it never asks for.
        (Map::Alias, Some(found)) if found.base.domain.is_none() => Reply::NotFound,
        (Map::Mailbox | Map::Domain, Some(found)) => {
            expansion.clear();
            found.target.user.address().write_to(expansion).expect("a string takes every text");
            Reply::Found(expansion)
        }
        (Map::Alias, Some(found)) => {
            expansion.clear();
            let names = Names { rules: &settings.rules, local_part: table.local_part(), asked: local };
            if names.expand(found, expansion) { Reply::Found(expansion) } else { Reply::NotFound }
        }
    };
    reply.write_to(out);
    Ok(())
}

/// How the table's answer becomes addresses again.
struct Names<'a> {
    rules: &'a Rules,
    local_part: LocalPart,
    /// The local part that was asked for, with its detail.
    asked: &'a str,
}

impl Names<'_> {
    /// Appends the addresses of all mailboxes that an alias leads to; `false` if `found` is a mailbox of its own.
    fn expand(&self, found: &Found<'_>, list: &mut String) -> bool {
        if found.more.is_empty() && self.is_himself(&found.target.user, &found.base) {
            return false;
        }
        let asked_with = self.asked[found.base.local.len()..].chars().next();
        let delimiter = asked_with.or_else(|| self.rules.delimiter()).unwrap_or('+');
        let mut octets = [0; 4];
        let delimiter = &*delimiter.encode_utf8(&mut octets);
        for target in found.targets() {
            // Without a domain, Postfix would complete it with one of its own choice.
            let local = target.user.local_part();
            let domain = target.user.domain().or_else(|| self.rules.local_domain());
            match target.detail {
                Some(detail) => expansion::push(list, &[local, delimiter, detail], domain),
                None => expansion::push(list, &[local], domain),
            }
        }
        true
    }

    /// Whether the user has this address himself, or, in a local domain, this local part.
    fn is_himself(&self, user: &User<'_>, base: &Base<'_>) -> bool {
        let local_is = |local: &str| match self.local_part {
            LocalPart::Folded => is_lower_of(local, base.local),
            LocalPart::Kept => local == base.local,
        };
        match (user.domain(), base.domain) {
            (Some(domain), Some(given)) => local_is(user.local_part()) && is_lower_of(domain, given),
            (Some(_), None) => false,
            (None, _) => local_is(user.local_part()),
        }
    }
}

/// Whether `lower` is `text` as a table folds it.
fn is_lower_of(lower: &str, text: &str) -> bool {
    text.chars().flat_map(char::to_lowercase).eq(lower.chars())
}

const TOO_MANY_DOMAINS: Reply<'_> =
    Reply::Temporary("the user table has more domains than it lists; name them in main.cf");
const CANNOT_TELL: Reply<'_> = Reply::Temporary("the user table cannot be read; see the log of the server");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::{Entry, Target};

    fn user(address: &str) -> User<'_> {
        let (address, mail) = (address.to_owned(), "/srv/mail".to_owned());
        User::of_entry(Box::leak(Box::new(Entry { address, mail, ..Entry::default() }))).unwrap()
    }

    /// What is said of an address that leads to these users, each with the detail that is asked for.
    fn expansion_with(local_part: LocalPart, asked: &str, users: &[&str]) -> Option<String> {
        let rules = Rules::new("+-", &["mx.example.net".to_owned()]);
        let (local, domain) = match asked.rsplit_once('@') {
            Some((local, domain)) => (local, Some(domain)),
            None => (asked, None),
        };
        let detail = rules.split_detail(local).1;
        let mut targets = users.iter().map(|address| Target { user: user(address), detail });
        let target = targets.next().unwrap();
        let found = Found { target, more: targets.collect(), base: rules.base(local, domain) };
        let mut list = String::new();
        let is_alias = Names { rules: &rules, local_part, asked: local }.expand(&found, &mut list);
        assert_eq!(is_alias, !list.is_empty());
        is_alias.then_some(list)
    }

    fn expansion(asked: &str, users: &[&str]) -> Option<String> {
        expansion_with(LocalPart::Folded, asked, users)
    }

    #[test]
    fn an_alias_is_what_leads_to_somebody_else_or_to_several() {
        for (asked, users, expected) in [
            ("sales@example.net", &["alice@example.net"][..], "alice@example.net"),
            (
                "sales@example.net",
                &["alice@example.net", "bob@example.org"],
                "alice@example.net,bob@example.org",
            ),
            // Himself and another: mail is copied.
            (
                "alice@example.net",
                &["alice@example.net", "bob@example.net"],
                "alice@example.net,bob@example.net",
            ),
            ("alice@example.org", &["alice@example.net"], "alice@example.net"),
            ("anybody@example.net", &["all@example.net"], "all@example.net"),
            ("sales", &["alice@example.net"], "alice@example.net"),
        ] {
            assert_eq!(expansion(asked, users).as_deref(), Some(expected), "{asked}");
        }
    }

    #[test]
    fn a_mailbox_is_no_alias_however_it_is_written() {
        for (asked, user) in [
            ("alice@example.net", "alice@example.net"),
            ("ALICE@Example.NET", "alice@example.net"),
            ("Alice+lists@example.net", "alice@example.net"),
            ("J\u{d6}RG@B\u{dc}cher.example", "j\u{f6}rg@b\u{fc}cher.example"),
            // Users of local domains have no domain in the table.
            ("dave@mx.example.net", "dave"),
            ("Dave+x@mx.example.net", "dave"),
            ("dave", "dave"),
        ] {
            assert_eq!(expansion(asked, &[user]), None, "{asked}");
        }
        assert_eq!(expansion_with(LocalPart::Kept, "Alice@B.example", &["Alice@b.example"]), None);
        let other = expansion_with(LocalPart::Kept, "alice@b.example", &["Alice@b.example"]);
        assert_eq!(other.as_deref(), Some("Alice@b.example"), "where case matters these are two");
    }

    #[test]
    fn a_detail_goes_to_every_target_behind_the_delimiter_it_came_with() {
        let users = ["alice@example.net", "bob@example.net"];
        let expected = "alice+urgent@example.net,bob+urgent@example.net";
        assert_eq!(expansion("sales+urgent@example.net", &users).as_deref(), Some(expected));
        let one = expansion("sales-urgent@example.net", &users[..1]);
        assert_eq!(one.as_deref(), Some("alice-urgent@example.net"));
        assert_eq!(expansion("sales+@example.net", &users[..1]).as_deref(), Some("alice+@example.net"));
    }

    #[test]
    fn a_target_without_domain_is_completed_with_the_first_local_one() {
        assert_eq!(expansion("sales@example.net", &["dave"]).as_deref(), Some("dave@mx.example.net"));
        assert_eq!(expansion("dave@example.net", &["dave"]), None, "it is the same local part");
    }

    #[test]
    fn odd_local_parts_are_quoted() {
        let users = ["john smith@example.net", "odd,name@example.net"];
        let expected = "\"john smith\"@example.net,\"odd,name\"@example.net";
        assert_eq!(expansion("sales@example.net", &users).as_deref(), Some(expected));
    }
}
