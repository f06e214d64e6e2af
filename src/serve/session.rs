//! One connection as a story: greet, take commands, take messages, deliver them, answer for each recipient.
//!
//! Every wait has an end: idle clients, slow ones and transactions without end are told 421. Before the end
//! of data nothing is delivered; after it the deliveries run to their end whether or not the client is
//! still there to hear of it.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bumpalo::Bump;

use super::connection::{Connection, End, Input};
use super::copy::Outcome;
use super::envelope::{Client, Delivery, Envelope, Recipient, TooManyDeliveries};
use super::message::Message;
use super::verdict::verdict;
use super::worker::{Address, Worker};
use crate::exec::{Patience, join_two};
use crate::journal::Approach;
use crate::limits;
use crate::lmtp::command::RcptTo;
use crate::lmtp::data::Scanner;
use crate::lmtp::line::{Line, LineReader};
use crate::lmtp::replies::{self, UnknownDomain};
use crate::lmtp::reply::{Enhanced, Reply};
use crate::lmtp::session::{Action, Session as Protocol};
use crate::ring::{Fd, Lease, Time};
use crate::users::{self, Answer};

/// Serves the client at the other end of `socket` until it leaves or is sent away.
pub async fn serve(worker: Rc<Worker>, socket: Rc<Fd>) {
    let exec = Rc::clone(&worker.exec);
    let connection = Connection::new(exec, socket, worker.settings.idle_timeout);
    let mut session = Session {
        protocol: Protocol::new(std::sync::Arc::clone(&worker.settings.session)),
        id: worker.session_id(),
        connection,
        lines: LineReader::default(),
        client: None,
        transactions: 0,
        idle_since: worker.exec.now(),
        habit: Habit::default(),
        worker: &worker,
    };
    let left = session.tell().await;
    session.farewell(left);
}

struct Session<'w> {
    worker: &'w Worker,
    connection: Connection,
    protocol: Protocol,
    lines: LineReader,
    /// The name given in LHLO.
    client: Option<String>,
    id: String,
    transactions: u64,
    /// When the last complete command came. A line that never ends does not count as activity.
    idle_since: Time,
    habit: Habit,
}

/// When the client comes back for the next transaction. One that came straight back the last time is on its way to the
/// journal again as soon as it was answered; of another one nothing is known before MAIL.
#[derive(Default)]
struct Habit {
    answered_at: Option<Time>,
    comes_straight_back: bool,
    returning: Option<Approach>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// We said goodbye, as asked.
    Quit,
    /// We said why we close.
    Told(&'static str),
    /// The client went.
    Gone(End),
}

/// What a command leads to, beyond a reply.
enum Next {
    Command,
    TransactionOver,
    Data,
    Chunk { size: u64, last: bool },
    Swallow { size: u64, reply: Reply, times: u32, last: bool },
    Leave(Left),
}

impl Session<'_> {
    async fn tell(&mut self) -> Left {
        self.connection.queue(&self.protocol.greeting());
        let mut arena = Bump::new();
        loop {
            if let Err(left) = self.transaction(&arena).await {
                return left;
            }
            arena.reset();
        }
    }

    /// Commands until a transaction is over, or none was begun and forgotten.
    async fn transaction(&mut self, arena: &Bump) -> Result<(), Left> {
        let mut envelope = None;
        let mut message = None;
        let told = self.commands(arena, &mut envelope, &mut message).await;
        // Whatever ended the transaction, a message that was not delivered leaves nothing behind.
        if let Some(mut message) = message {
            Box::pin(message.discard()).await;
        }
        if let Err(Left::Quit | Left::Told(_)) = told {
            let _ = self.connection.flush().await;
        }
        told
    }

    async fn commands<'a, 'm>(
        &mut self,
        arena: &'a Bump,
        envelope: &mut Option<Envelope<'a>>,
        message: &mut Option<Message<'m>>,
    ) -> Result<(), Left>
    where
        Self: 'm,
    {
        loop {
            match self.next(arena, envelope).await? {
                Next::Command => {}
                Next::TransactionOver => return Ok(()),
                Next::Leave(left) => return Err(left),
                Next::Data => {
                    let envelope = envelope.as_ref().expect("DATA is legal only after MAIL");
                    let mut message = Message::new(self.worker, envelope.deliveries.len());
                    message.open_early(envelope);
                    // Boxed, so that a connection without a message does not carry the room for one.
                    let received = Box::pin(self.receive_data(envelope, &mut message)).await;
                    return Box::pin(self.end_of_message(envelope, message, received)).await;
                }
                Next::Chunk { size, last } => {
                    let envelope = envelope.as_ref().expect("BDAT is legal only after MAIL");
                    let mut part = message
                        .take()
                        .unwrap_or_else(|| Message::new(self.worker, envelope.deliveries.len()));
                    let received = Box::pin(self.receive_chunk(envelope, &mut part, size)).await;
                    if last || received.is_err() {
                        return Box::pin(self.end_of_message(envelope, part, received)).await;
                    }
                    *message = Some(part);
                    self.connection.queue(&self.protocol.chunk_stored(size));
                }
                Next::Swallow { size, reply, times, last } => {
                    Box::pin(self.swallow(envelope.as_ref(), size)).await?;
                    for _ in 0..times {
                        self.connection.queue(&reply);
                    }
                    if last {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The next command that needs more than a reply.
    async fn next<'a>(&mut self, arena: &'a Bump, envelope: &mut Option<Envelope<'a>>) -> Result<Next, Left> {
        let mut turn = 0;
        loop {
            // Also while there is input: a client that never stops must not keep the server from ending.
            if envelope.is_none() && self.worker.draining.get() {
                let reply = replies::shutting_down(&self.worker.settings.hostname);
                return Err(self.dismiss(&reply, "the server goes down"));
            }
            let Some(mut input) = self.connection.take_input() else {
                self.wait_for_command(envelope.as_ref()).await?;
                turn = 0;
                continue;
            };
            let mut lines = std::mem::take(&mut self.lines);
            let mut rest = input.rest();
            let had_envelope = envelope.is_some();
            let next = match lines.next(&mut rest) {
                Line::Incomplete => Next::Command,
                Line::TooLong => {
                    self.idle_since = self.worker.exec.now();
                    let action = self.protocol.line_too_long();
                    self.act(action, arena, envelope)
                }
                Line::Complete(line) => {
                    self.idle_since = self.worker.exec.now();
                    let action = self.protocol.line(line);
                    self.act(action, arena, envelope)
                }
            };
            if !had_envelope && envelope.is_some() {
                self.warm(rest);
            }
            let unread = rest.len();
            input.keep_last(unread);
            self.connection.put_back(input);
            self.lines = lines;
            if !matches!(next, Next::Command) {
                return Ok(next);
            }
            turn += 1;
            if turn == limits::COMMANDS_PER_TURN {
                turn = 0;
                self.flush().await?;
                self.worker.exec.give_way().await;
            }
        }
    }

    /// Recipients that came together with MAIL: what their look-ups will read is fetched for all of them at once, if it
    /// mostly comes from memory.
    fn warm(&self, commands: &[u8]) {
        let table = self.worker.table();
        if table.heap_bytes() < limits::TABLE_WARMED_FROM {
            return;
        }
        for line in commands.split(|octet| *octet == b'\n').take(limits::RECIPIENTS_WARMED_MAX) {
            let path = line.split_at_checked(9).filter(|(verb, _)| verb.eq_ignore_ascii_case(b"RCPT TO:<"));
            let Some((_, path)) = path else { return };
            let length = memchr::memchr(b'>', path).unwrap_or(path.len());
            let Ok(address) = str::from_utf8(&path[..length]) else { continue };
            let (local, domain) = match address.rsplit_once('@') {
                Some((local, domain)) => (local, Some(domain)),
                None => (address, None),
            };
            users::key::warm(&table, local, domain, &self.worker.settings.rules);
        }
    }

    /// Does what a command asks for as far as that needs no waiting.
    fn act<'a>(&mut self, action: Action<'_>, arena: &'a Bump, envelope: &mut Option<Envelope<'a>>) -> Next {
        match action {
            Action::Reply(reply) => self.connection.queue(&reply),
            Action::Greet { client, reply } => {
                self.client = Some(client.to_owned());
                self.connection.queue(&reply);
                return Next::TransactionOver;
            }
            Action::Begin { mail, reply } => {
                let sender = mail.sender.as_ref().map_or("", |address| address.text);
                self.transactions += 1;
                let id = self.transaction_id();
                let client = Client { name: self.client.as_deref(), peer: self.connection.peer };
                let now = self.worker.exec.now();
                let begun =
                    Envelope::new(arena, client, sender, mail.smtputf8, now, &id, self.worker.table());
                begun.approach.set(self.worker.journal.as_ref().map(|journal| journal.approach()));
                self.habit.is_back(now);
                *envelope = Some(begun);
                self.connection.queue(&reply);
            }
            Action::Recipient(recipient) => {
                let envelope = envelope.as_mut().expect("RCPT is legal only after MAIL");
                let reply = self.recipient(&recipient, envelope);
                self.connection.queue(&reply);
            }
            Action::Data(reply) => {
                self.connection.queue(&reply);
                return Next::Data;
            }
            Action::Chunk { size, last } => return Next::Chunk { size, last },
            Action::Swallow { size, reply, times, last } => {
                return Next::Swallow { size, reply, times, last };
            }
            Action::Reset(reply) => {
                self.connection.queue(&reply);
                return Next::TransactionOver;
            }
            Action::Quit(reply) => {
                self.connection.queue(&reply);
                return Next::Leave(Left::Quit);
            }
            Action::Hangup(reply) => {
                self.connection.queue(&reply);
                return Next::Leave(Left::Told("the client does not speak LMTP"));
            }
        }
        Next::Command
    }

    /// Looks a recipient up in the user table.
    fn recipient(&mut self, recipient: &RcptTo<'_>, envelope: &mut Envelope<'_>) -> Reply {
        let given = &recipient.address;
        let table = Rc::clone(&envelope.table);
        let (local, domain) = if given.is_bare_postmaster() {
            let Address { local, domain } = &self.worker.settings.postmaster;
            (local.as_str(), Some(domain.as_str()))
        } else {
            (&*given.local, given.domain)
        };
        match users::key::find(&table, local, domain, &self.worker.settings.rules) {
            Ok(Answer::Found(found)) => match envelope.add(given.text, &found, &self.worker.settings.terms) {
                Ok(()) => {
                    self.protocol.rcpt_accepted();
                    replies::RECIPIENT_OK
                }
                Err(TooManyDeliveries) => replies::TOO_MANY_RECIPIENTS,
            },
            Ok(Answer::UnknownUser) => replies::user_unknown(given.text),
            Ok(Answer::UnknownDomain) => {
                unknown_domain(self.worker.settings.unknown_domain, given.text, domain)
            }
            Err(damage) => {
                self.worker.log.line(format_args!(
                    "id={} to=<{}> status=deferred: the user table {} cannot be read: {damage}; build it again \
                     with posthaste users build",
                    envelope.id,
                    given.text,
                    table.path().display()
                ));
                replies::temporary_failure(given.text)
            }
        }
    }

    /// Takes a message up to its final dot. The end of data is the last thing that may fail here.
    async fn receive_data(&mut self, envelope: &Envelope<'_>, message: &mut Message<'_>) -> Result<(), Left> {
        let mut scanner = Scanner::new();
        let mut keep = Vec::new();
        let mut arrival = Arrival::begin(self.worker);
        loop {
            let input = message.during(self.arriving(envelope, &mut arrival)).await?;
            let (mut lease, read) = input.into_parts();
            keep.clear();
            let scan = scanner.scan(&lease.bytes()[read..], &mut keep);
            for range in &mut keep {
                *range = range.start + read..range.end + read;
            }
            message.push(&mut lease, scan.carry, &mut keep);
            arrival.bytes += scan.consumed as u64;
            if scan.ended {
                self.connection.put_back(Input::behind(lease, read + scan.consumed));
                return Ok(());
            }
            drop(lease);
            self.relieve(envelope, message, &mut arrival).await;
        }
    }

    /// Takes one chunk of a message (RFC 3030).
    async fn receive_chunk(
        &mut self,
        envelope: &Envelope<'_>,
        message: &mut Message<'_>,
        size: u64,
    ) -> Result<(), Left> {
        let mut keep = Vec::with_capacity(1);
        let mut arrival = Arrival::begin(self.worker);
        while arrival.bytes < size {
            let input = self.arriving(envelope, &mut arrival).await?;
            let (mut lease, read) = input.into_parts();
            let end = chunk_end(&lease.bytes()[read..], size - arrival.bytes) + read;
            keep.clear();
            keep.push(read..end);
            message.push(&mut lease, b"", &mut keep);
            arrival.bytes += (end - read) as u64;
            self.connection.put_back(Input::behind(lease, end));
            self.relieve(envelope, message, &mut arrival).await;
        }
        Ok(())
    }

    /// Lets the message write what it holds, if it must. That is our time, not the client's.
    async fn relieve(&self, envelope: &Envelope<'_>, message: &mut Message<'_>, arrival: &mut Arrival) {
        let begun = self.worker.exec.now();
        message.relieve(envelope).await;
        arrival.began = arrival.began.after(self.worker.exec.now().since(begun));
    }

    /// Reads and drops a chunk that was refused.
    async fn swallow(&mut self, envelope: Option<&Envelope<'_>>, size: u64) -> Result<(), Left> {
        let mut arrival = Arrival::begin(self.worker);
        while arrival.bytes < size {
            let input = match envelope {
                Some(envelope) => self.arriving(envelope, &mut arrival).await?,
                None => self.arriving_since(arrival.began, &mut arrival).await?,
            };
            let (lease, read) = input.into_parts();
            let end = chunk_end(&lease.bytes()[read..], size - arrival.bytes) + read;
            arrival.bytes += (end - read) as u64;
            self.connection.put_back(Input::behind(lease, end));
        }
        Ok(())
    }

    /// The next bytes of a message.
    async fn arriving(&mut self, envelope: &Envelope<'_>, arrival: &mut Arrival) -> Result<Input, Left> {
        self.arriving_since(envelope.started, arrival).await
    }

    async fn arriving_since(&mut self, started: Time, arrival: &mut Arrival) -> Result<Input, Left> {
        if let Some(input) = self.connection.take_input() {
            return Ok(input);
        }
        let settings = &self.worker.settings;
        let over = started.after(settings.transaction_timeout);
        if self.connection.has_replies() {
            let until = over.min(arrival.deadline(settings.data_rate_min));
            if let Some(lease) = self.converse(Patience { until, unless: None }).await? {
                return Ok(Input::new(lease));
            }
            let begun = self.worker.exec.now();
            self.flush().await?;
            arrival.began = arrival.began.after(self.worker.exec.now().since(begun));
        }
        let idle = self.worker.exec.now().after(settings.idle_timeout);
        let slow = arrival.deadline(settings.data_rate_min);
        let until = idle.min(over).min(slow);
        match self.connection.receive(Patience { until, unless: None }).await {
            Ok(lease) => Ok(Input::new(lease)),
            Err(End::TimedOut) => {
                let host = &settings.hostname;
                Err(if until == over {
                    self.dismiss(&replies::transaction_too_long(host), "the transaction took too long")
                } else if until == slow {
                    self.dismiss(&replies::data_too_slow(host), "the message came too slowly")
                } else {
                    self.dismiss(&replies::idle_too_long(host), "nothing came for too long")
                })
            }
            Err(end) => Err(Left::Gone(end)),
        }
    }

    async fn wait_for_command(&mut self, envelope: Option<&Envelope<'_>>) -> Result<(), Left> {
        let settings = &self.worker.settings;
        let over = envelope.map(|envelope| envelope.started.after(settings.transaction_timeout));
        // A transaction that has begun may be finished while the server goes down; a new one may not.
        let unless = if envelope.is_none() { Some(&self.worker.draining) } else { None };
        if self.connection.has_replies() {
            let until = over.unwrap_or(Time(u64::MAX));
            if let Some(lease) = self.converse(Patience { until, unless }).await? {
                self.connection.put_back(Input::new(lease));
                return Ok(());
            }
            self.flush().await?;
        }
        let idle = self.idle_since.after(settings.idle_timeout);
        let until = over.map_or(idle, |over| idle.min(over));
        match self.connection.receive(Patience { until, unless }).await {
            Ok(lease) => {
                self.connection.put_back(Input::new(lease));
                Ok(())
            }
            Err(End::TimedOut) => {
                let host = &settings.hostname;
                Err(if envelope.is_none() && self.worker.draining.get() {
                    self.dismiss(&replies::shutting_down(host), "the server goes down")
                } else if over == Some(until) {
                    self.dismiss(&replies::transaction_too_long(host), "the transaction took too long")
                } else {
                    self.dismiss(&replies::idle_too_long(host), "idle")
                })
            }
            Err(end) => Err(Left::Gone(end)),
        }
    }

    /// Says why we close; the caller leaves.
    fn dismiss(&mut self, reply: &Reply, why: &'static str) -> Left {
        self.connection.queue(reply);
        Left::Told(why)
    }

    /// Sends the replies and hears what the client says to them, if that comes soon; a flush sends what is left.
    async fn converse(&mut self, patience: Patience<'_>) -> Result<Option<Lease>, Left> {
        // Our time to deliver is not the client's idleness.
        self.idle_since = self.worker.exec.now();
        self.connection.converse(patience).await.map_err(Left::Gone)
    }

    async fn flush(&mut self) -> Result<(), Left> {
        if self.connection.has_replies() {
            self.connection.flush().await.map_err(Left::Gone)?;
            // Our time to deliver and to send is not the client's idleness.
            self.idle_since = self.worker.exec.now();
        }
        Ok(())
    }

    /// Delivers a message that was received whole, and answers for each recipient.
    async fn end_of_message(
        &mut self,
        envelope: &Envelope<'_>,
        mut message: Message<'_>,
        received: Result<(), Left>,
    ) -> Result<(), Left> {
        if received.is_err() {
            message.discard().await;
            return received;
        }
        self.protocol.data_ended();
        if message.is_too_large() {
            message.discard().await;
            for recipient in &envelope.recipients {
                let reply = replies::too_large_for(recipient.address);
                self.worker.log_refusal(envelope, recipient.address, &reply, "the message is too large");
                self.connection.queue(&reply);
            }
            return Ok(());
        }
        let bytes = message.received();
        let outcomes = Rc::clone(&message.outcomes);
        let ((), sent) = join_two(
            message.deliver(envelope),
            answer(self.worker, &mut self.connection, &outcomes, envelope, bytes),
        )
        .await;
        self.habit.was_answered(self.worker);
        sent.map_err(Left::Gone)
    }

    fn transaction_id(&self) -> String {
        match self.transactions {
            1 => self.id.clone(),
            later => [&self.id, ":T", itoa::Buffer::new().format(later)].concat(),
        }
    }

    fn farewell(&self, left: Left) {
        let why = match left {
            // Postfix keeps connections for later mail and closes the idle ones without a word.
            Left::Quit => return,
            Left::Gone(End::Closed) if !self.protocol.in_transaction() => return,
            Left::Gone(End::Closed) => "the client left in the middle of a transaction",
            Left::Gone(End::TimedOut) => "the client does not read its replies",
            Left::Gone(End::Broken(errno)) => {
                let (id, peer) = (&self.id, self.connection.peer);
                return self.worker.log.line(format_args!("id={id} peer={peer} disconnected: {errno}"));
            }
            Left::Told(why) => why,
        };
        self.worker
            .log
            .line(format_args!("id={} peer={} disconnected: {why}", self.id, self.connection.peer));
    }
}

impl Habit {
    /// The client begins a transaction.
    fn is_back(&mut self, now: Time) {
        self.comes_straight_back = self.answered_at.is_some_and(|at| now.since(at) <= limits::APPROACH_SPAN);
        self.returning = None;
    }

    fn was_answered(&mut self, worker: &Worker) {
        self.answered_at = Some(worker.exec.now());
        if self.comes_straight_back {
            self.returning = worker.journal.as_ref().map(|journal| journal.approach());
        }
    }
}

/// The reply for an address in a domain that has no users.
fn unknown_domain(wanted: UnknownDomain, address: &str, domain: Option<&str>) -> Reply {
    match (wanted, domain) {
        (UnknownDomain::NoDomain, Some(domain)) => replies::domain_unknown(address, domain),
        (UnknownDomain::NoUser, _) | (_, None) => replies::user_unknown(address),
    }
}

/// Answers for each recipient in the order of RCPT, each as soon as all before it are known.
async fn answer(
    worker: &Worker,
    connection: &mut Connection,
    outcomes: &super::copy::Outcomes,
    envelope: &Envelope<'_>,
    bytes: u64,
) -> Result<(), End> {
    let until = envelope.started.after(worker.settings.transaction_timeout);
    let mut known: Vec<Option<Outcome>> = vec![None; envelope.deliveries.len()];
    let mut asked = vec![false; envelope.deliveries.len()];
    let mut sent = Ok(());
    for recipient in &envelope.recipients {
        for &index in recipient.deliveries {
            if std::mem::replace(&mut asked[index], true) {
                continue;
            }
            known[index] = outcomes.take(index);
            if known[index].is_none() {
                if sent.is_ok() {
                    sent = connection.flush().await;
                }
                let patience = Patience { until, unless: None };
                known[index] = worker.exec.when_ready(patience, || outcomes.take(index)).await;
            }
        }
        connection.queue(&reply_to(worker, envelope, recipient, &known, bytes));
    }
    sent
}

/// The reply for one recipient: 250 if all his mailboxes have the message. Else what went wrong, and first of all what
/// another try may mend.
fn reply_to(
    worker: &Worker,
    envelope: &Envelope<'_>,
    recipient: &Recipient<'_>,
    known: &[Option<Outcome>],
    bytes: u64,
) -> Reply {
    let replies = recipient.deliveries.iter().map(|&index| {
        let delivery = &envelope.deliveries[index];
        verdict_on(worker, known[index].as_ref(), envelope, recipient, delivery, bytes)
    });
    replies.reduce(heavier).expect("a recipient has a mailbox")
}

/// The reply of the two that a recipient hears. Of equals the first counts, as aliases name them.
fn heavier(one: Reply, other: Reply) -> Reply {
    let weight = |reply: &Reply| match reply.code() {
        400..500 => 2,
        500.. => 1,
        _ => 0,
    };
    if weight(&other) > weight(&one) { other } else { one }
}

/// The reply for one delivery, and its line in the log.
fn verdict_on(
    worker: &Worker,
    outcome: Option<&Outcome>,
    envelope: &Envelope<'_>,
    recipient: &Recipient<'_>,
    delivery: &Delivery<'_>,
    bytes: u64,
) -> Reply {
    let address = recipient.address;
    match outcome {
        Some(Outcome::Saved { file }) => {
            worker.log_saved(envelope, recipient, delivery, file, bytes);
            replies::saved(address, envelope.id)
        }
        Some(Outcome::Failed(fault)) => {
            let verdict = verdict(*fault);
            let (class, subject, detail) = verdict.enhanced;
            let enhanced = Enhanced(class, subject, detail);
            let reply = replies::recipient(verdict.code, enhanced, address, verdict.text);
            let mailbox = delivery.mailbox.directory();
            worker.log_fault(envelope, address, &reply, format_args!("{mailbox}: {fault}"), verdict.advice);
            reply
        }
        None => {
            let text = "Delivery takes too long";
            let reply = replies::recipient(451, Enhanced(4, 3, 0), address, text);
            worker.log_fault(
                envelope,
                address,
                &reply,
                format_args!("not delivered within limits.transaction_timeout, and may yet be"),
                "is the mail file system overloaded, or its server away?",
            );
            reply
        }
    }
}

/// How fast a message comes.
struct Arrival {
    began: Time,
    bytes: u64,
}

impl Arrival {
    fn begin(worker: &Worker) -> Self {
        Self { began: worker.exec.now(), bytes: 0 }
    }

    /// When the next bytes must be here, for the average to stay at `rate` bytes a second.
    fn deadline(&self, rate: u64) -> Time {
        if rate == 0 {
            return Time(u64::MAX);
        }
        let allowed = std::time::Duration::from_millis(self.bytes.saturating_mul(1000) / rate);
        self.began.after(limits::DATA_RATE_GRACE).after(allowed)
    }
}

/// How much of `bytes` belongs to a chunk that has `left` octets to come.
fn chunk_end(bytes: &[u8], left: u64) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_aliass_mailboxes_the_one_that_another_try_may_mend_decides_and_then_the_refused() {
        let reply = |code: u16, number: u8| {
            let class = u8::try_from(code / 100).unwrap();
            replies::recipient(code, Enhanced(class, 0, 0), "team@x", number)
        };
        let said = |codes: &[u16]| {
            let replies = codes.iter().zip(0..).map(|(&code, number)| reply(code, number));
            replies.reduce(heavier).unwrap()
        };
        for (codes, code, number) in [
            (&[250][..], 250, 0),
            (&[250, 250], 250, 0),
            (&[250, 552, 250], 552, 1),
            (&[552, 250, 451], 451, 2),
            (&[451, 552, 250], 451, 0),
            (&[250, 452, 451], 452, 1),
            (&[552, 250, 550], 552, 0),
        ] {
            assert_eq!(said(codes), reply(code, number), "{codes:?}");
        }
    }

    #[test]
    fn an_unknown_domain_is_told_as_the_site_wants_it_and_without_a_domain_nobody_is_there() {
        let said = |wanted, domain| unknown_domain(wanted, "a@b", domain).to_string();
        let no_user = replies::user_unknown("a@b").to_string();
        assert_eq!(said(UnknownDomain::NoDomain, Some("b")), replies::domain_unknown("a@b", "b").to_string());
        assert_eq!(said(UnknownDomain::NoUser, Some("b")), no_user);
        assert_eq!(said(UnknownDomain::NoDomain, None), no_user);
    }

    #[test]
    fn a_client_comes_straight_back_when_it_begins_soon_after_its_last_answer() {
        let mut habit = Habit::default();
        habit.is_back(Time(0));
        assert!(!habit.comes_straight_back, "nothing was answered yet");
        let answered = Time(5_000_000);
        habit.answered_at = Some(answered);
        habit.is_back(answered.after(limits::APPROACH_SPAN));
        assert!(habit.comes_straight_back);
        habit.is_back(answered.after(limits::APPROACH_SPAN * 2));
        assert!(!habit.comes_straight_back, "it was long away");
    }
}
