//! New connections, and messages from other threads.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::io::Errno;

use super::connection::Connection;
use super::loan::Loan;
use super::worker::Worker;
use super::{lookups, session};
use crate::exec::Pending;
use crate::limits;
use crate::lmtp::replies;
use crate::ring::{Done, Fd, Op, Passed};
use crate::socketmap::reply::Reply as Answer;

/// What is spoken over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Mail is handed in ([`session`]).
    Lmtp,
    /// The user table is asked ([`lookups`]).
    Map,
}

/// What crosses from one thread to another.
#[derive(Debug)]
pub enum Message {
    /// A connection that another worker accepted, counted already.
    Connection(Passed, Service),
    /// A new user table for transactions that begin from now on. The sender is dropped when the worker has it.
    Table(Loan, Sender<()>),
    /// Go down: accept nothing, begin nothing, finish what was begun.
    Drain,
}

/// Where messages to one worker go in.
#[derive(Clone, Debug)]
pub struct Outbox {
    messages: Sender<Message>,
    doorbell: Arc<OwnedFd>,
}

/// Where they come out.
#[derive(Debug)]
pub struct Inbox {
    messages: Receiver<Message>,
    /// The eventfd that is written to after each message.
    pub doorbell: Arc<OwnedFd>,
}

/// A way for messages to one worker.
///
/// # Errors
/// As eventfd(2).
pub fn mailbox() -> Result<(Outbox, Inbox), Errno> {
    let doorbell = Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?);
    let (sender, receiver) = unbounded();
    let outbox = Outbox { messages: sender, doorbell: Arc::clone(&doorbell) };
    Ok((outbox, Inbox { messages: receiver, doorbell }))
}

impl Outbox {
    /// Sends `message`. A worker that is gone needs none.
    pub fn send(&self, message: Message) {
        if self.messages.send(message).is_ok() {
            // Fails only when the counter is full, and then the worker has been woken already.
            let _ = rustix::io::write(&*self.doorbell, &1_u64.to_ne_bytes());
        }
    }
}

/// Reads messages for `worker` as long as it lives. `event` is the inbox's doorbell in the worker's ring.
pub async fn read_messages(worker: Rc<Worker>, inbox: Inbox, event: Rc<Fd>) {
    loop {
        for message in inbox.messages.try_iter() {
            match message {
                Message::Connection(passed, service) => {
                    let socket = worker.exec.with_ring(|ring| ring.take_over(passed));
                    begin(&worker, socket, service);
                }
                Message::Table(table, _taken) => worker.replace_table(table),
                Message::Drain => {
                    worker.draining.set(true);
                    worker.exec.wake_all();
                }
            }
        }
        let op = Op::Doorbell { event: Rc::clone(&event), count: Box::new([0; 8]) };
        if let Err(errno) = worker.exec.run(op).await.result {
            assert_eq!(errno, Errno::INTR, "an eventfd can be read");
        }
    }
}

/// Accepts connections from `listener` until the server goes down. Each goes to the worker that has the
/// fewest: a client with few long connections would else leave processors idle.
pub async fn accept(
    worker: Rc<Worker>,
    listener: Rc<Fd>,
    service: Service,
    name: Arc<str>,
    others: Arc<[Outbox]>,
) {
    while !worker.draining.get() {
        let mut accepting = worker.exec.start(Op::Accept { listener: Rc::clone(&listener) });
        let mut trouble = None;
        while let Some(finished) = next_or_cancel(&worker, &mut accepting).await {
            match finished {
                Ok(Done::Opened(socket)) => welcome(&worker, socket, service, &others),
                Ok(_) => unreachable!("an accept gives a descriptor"),
                Err(Errno::CANCELED) if worker.draining.get() => {}
                // The client was gone before we came, or a signal.
                Err(Errno::CONNABORTED | Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => trouble = Some(errno),
            }
        }
        if let Some(errno) = trouble {
            worker.log.line(format_args!(
                "cannot accept on {name}: {errno}; trying again in {} ms (if it goes on: raise LimitNOFILE, or \
                 lower limits.connections)",
                limits::ACCEPT_REST.as_millis()
            ));
            let until = worker.exec.now().after(limits::ACCEPT_REST);
            worker.exec.sleep_until(until).await;
        }
    }
}

/// The next completion of `accepting`, which is cancelled when the server goes down; `None` after the last.
async fn next_or_cancel(worker: &Worker, accepting: &mut Pending<'_>) -> Option<Result<Done, Errno>> {
    let mut cancelled = false;
    let finished = std::future::poll_fn(|context| {
        if worker.draining.get() && !std::mem::replace(&mut cancelled, true) {
            accepting.cancel();
        }
        accepting.poll_next(context)
    });
    finished.await.map(|finished| finished.result)
}

/// Serves a new connection, or passes it on, or says that there are too many.
fn welcome(worker: &Rc<Worker>, socket: Rc<Fd>, service: Service, others: &[Outbox]) {
    let Some(index) = worker.place() else {
        worker.exec.spawn(refuse(Rc::clone(worker), socket, service));
        return;
    };
    if index == worker.index() {
        begin(worker, socket, service);
        return;
    }
    let passed = socket.pass().expect("nobody else has heard of this connection");
    others[index].send(Message::Connection(passed, service));
}

/// Begins a session over a connection that is counted already.
fn begin(worker: &Rc<Worker>, socket: Rc<Fd>, service: Service) {
    let own = Rc::clone(worker);
    match service {
        Service::Lmtp => worker.exec.spawn(async move {
            session::serve(Rc::clone(&own), socket).await;
            own.release();
        }),
        Service::Map => worker.exec.spawn(async move {
            lookups::serve(Rc::clone(&own), socket).await;
            own.release();
        }),
    }
}

async fn refuse(worker: Rc<Worker>, socket: Rc<Fd>, service: Service) {
    let mut connection = Connection::new(Rc::clone(&worker.exec), socket, limits::REFUSAL_PATIENCE);
    match service {
        Service::Lmtp => connection.queue(&replies::too_many_connections(&worker.settings.hostname)),
        // Postfix asks first, and takes this for the answer.
        Service::Map => Answer::Temporary("too many connections").write_to(connection.outgoing()),
    }
    let _ = connection.flush().await;
    worker.log.line(format_args!(
        "peer={} refused: there are {} connections already (limits.connections)",
        connection.peer, worker.settings.connections_max
    ));
}
