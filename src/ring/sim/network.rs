//! The simulated network: connections as two byte queues, with a test at the other end.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use rustix::io::Errno;

use super::World;
use super::random::Random;
use crate::ring::Peer;

/// How the bytes of a client reach the server: what one receive may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// As much as is there and fits.
    Whole,
    /// At most so many bytes.
    Every(usize),
    /// Any number, by chance.
    Random,
}

/// Names a connection.
pub(super) type ConnectionId = usize;

/// All connections there ever were, and those not yet accepted.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    connections: Vec<Connection>,
    backlog: VecDeque<ConnectionId>,
}

#[derive(Clone, Debug)]
struct Connection {
    peer: Peer,
    to_server: VecDeque<u8>,
    to_client: Vec<u8>,
    client: End,
    server_closed: bool,
    cut: Cut,
    window: usize,
}

/// What the client's end is still good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// It sends no more.
    HalfClosed,
    /// It neither sends nor receives.
    Closed,
    /// It is gone, and what it had sent with it.
    Reset,
}

impl Network {
    fn connect(&mut self, peer: Peer) -> ConnectionId {
        let id = self.connections.len();
        self.connections.push(Connection {
            peer,
            to_server: VecDeque::new(),
            to_client: Vec::new(),
            client: End::Open,
            server_closed: false,
            cut: Cut::Random,
            window: WINDOW_BYTES,
        });
        self.backlog.push_back(id);
        id
    }

    pub(super) fn can_accept(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub(super) fn accept(&mut self) -> Option<ConnectionId> {
        self.backlog.pop_front()
    }

    pub(super) fn peer(&self, id: ConnectionId) -> Peer {
        self.connections[id].peer
    }

    pub(super) fn can_receive(&self, id: ConnectionId) -> bool {
        let connection = &self.connections[id];
        !connection.to_server.is_empty() || connection.client != End::Open
    }

    /// Whether a receive gives the end of the stream, or an error: it needs no buffer.
    pub(super) fn is_ended(&self, id: ConnectionId) -> bool {
        let connection = &self.connections[id];
        connection.client == End::Reset || connection.to_server.is_empty()
    }

    /// The next bytes, at most `room` of them; none at the end.
    pub(super) fn receive(
        &mut self,
        id: ConnectionId,
        room: usize,
        random: &mut Random,
    ) -> Result<Vec<u8>, Errno> {
        let connection = &mut self.connections[id];
        if connection.client == End::Reset {
            return Err(Errno::CONNRESET);
        }
        let there = connection.to_server.len().min(room);
        let count = match connection.cut {
            Cut::Whole => there,
            Cut::Every(bytes) => there.min(bytes.max(1)),
            Cut::Random if there > 0 => 1 + random.below(there),
            Cut::Random => 0,
        };
        Ok(connection.to_server.drain(..count).collect())
    }

    pub(super) fn can_send(&self, id: ConnectionId) -> bool {
        let connection = &self.connections[id];
        connection.to_client.len() < connection.window
            || matches!(connection.client, End::Closed | End::Reset)
    }

    /// Takes some of `bytes` towards the client, at least one; says how many.
    pub(super) fn send(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        random: &mut Random,
    ) -> Result<usize, Errno> {
        let connection = &mut self.connections[id];
        match connection.client {
            End::Open | End::HalfClosed => {}
            End::Closed => return Err(Errno::PIPE),
            End::Reset => return Err(Errno::CONNRESET),
        }
        let room = connection.window - connection.to_client.len();
        let mut count = bytes.len().min(room);
        if count > 1 && random.once_in(4) {
            count = 1 + random.below(count - 1);
        }
        connection.to_client.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    pub(super) fn close(&mut self, id: ConnectionId) {
        let connection = &mut self.connections[id];
        connection.server_closed = true;
        connection.to_server = VecDeque::new();
    }

    /// The power is gone: so are all connections.
    pub(super) fn reset_all(&mut self) {
        self.backlog.clear();
        for id in 0..self.connections.len() {
            self.close(id);
        }
    }
}

/// The test's end of a connection.
#[derive(Debug)]
pub struct Client {
    world: World,
    id: ConnectionId,
}

impl Client {
    pub(super) fn connect(world: &World, peer: Peer) -> Self {
        let id = world.stir().network.connect(peer);
        Self { world: world.clone(), id }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Connection) -> T) -> T {
        act(&mut self.world.stir().network.connections[self.id])
    }

    /// How what is sent reaches the server; by chance if nothing is said.
    pub fn cut(&self, cut: Cut) {
        self.with(|connection| connection.cut = cut);
    }

    /// How many unread bytes the server may send before it has to wait.
    pub fn window(&self, bytes: usize) {
        self.with(|connection| connection.window = bytes);
    }

    /// Sends all of `bytes`; lost when the server has closed.
    pub fn send(&self, bytes: &[u8]) {
        self.with(|connection| {
            if !connection.server_closed {
                connection.to_server.extend(bytes);
            }
        });
    }

    /// Takes what the server has sent so far.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        self.with(|connection| std::mem::take(&mut connection.to_client))
    }

    /// Whether the server has closed its side.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.with(|connection| connection.server_closed)
    }

    /// Sends no more, but goes on reading.
    pub fn half_close(&self) {
        self.with(|connection| connection.client = End::HalfClosed);
    }

    /// Closes: what was sent still arrives, what the server sends fails.
    pub fn close(&self) {
        self.with(|connection| connection.client = End::Closed);
    }

    /// Vanishes: what was sent and not yet received is lost too.
    pub fn reset(&self) {
        self.with(|connection| {
            connection.client = End::Reset;
            connection.to_server.clear();
        });
    }
}

/// What a socket holds for a client that does not read: of the order of Linux's default.
const WINDOW_BYTES: usize = 200 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn receive_all(cut: Cut, bytes: &[u8], seed: u64) -> Vec<Vec<u8>> {
        let mut network = Network::default();
        let id = network.connect(Peer::Local);
        network.connections[id].cut = cut;
        network.connections[id].to_server.extend(bytes);
        let mut random = Random::new(seed);
        let mut pieces = Vec::new();
        while network.can_receive(id) {
            pieces.push(network.receive(id, 16, &mut random).expect("open"));
        }
        pieces
    }

    #[test]
    fn every_way_of_cutting_delivers_every_byte_in_order() {
        let bytes: Vec<u8> = (0..100).collect();
        for cut in [Cut::Whole, Cut::Every(1), Cut::Every(7), Cut::Random] {
            let pieces = receive_all(cut, &bytes, 3);
            assert_eq!(pieces.concat(), bytes, "{cut:?}");
            assert!(pieces.iter().all(|piece| !piece.is_empty()), "{cut:?}");
        }
        assert_eq!(receive_all(Cut::Every(1), &bytes, 3).len(), 100);
        assert_ne!(receive_all(Cut::Random, &bytes, 3), receive_all(Cut::Random, &bytes, 4));
    }

    #[test]
    fn a_closed_client_is_heard_to_the_end_and_a_reset_one_is_not() {
        let mut random = Random::new(0);
        let mut network = Network::default();
        let id = network.connect(Peer::Local);
        network.connections[id].cut = Cut::Whole;
        network.connections[id].to_server.extend(b"QUIT");
        network.connections[id].client = End::Closed;
        assert_eq!(network.receive(id, 16, &mut random), Ok(b"QUIT".to_vec()));
        assert_eq!(network.receive(id, 16, &mut random), Ok(Vec::new()));
        assert_eq!(network.send(id, b"221", &mut random), Err(Errno::PIPE));
        network.connections[id].client = End::Reset;
        assert_eq!(network.receive(id, 16, &mut random), Err(Errno::CONNRESET));
    }

    #[test]
    fn a_client_that_does_not_read_holds_the_server_up() {
        let mut random = Random::new(0);
        let mut network = Network::default();
        let id = network.connect(Peer::Local);
        network.connections[id].window = 4;
        let mut sent = 0;
        while network.can_send(id) {
            sent += network.send(id, &b"250 OK"[sent..], &mut random).expect("open");
        }
        assert_eq!(sent, 4);
        network.connections[id].to_client.clear();
        assert!(network.can_send(id));
    }
}
