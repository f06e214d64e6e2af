//! The laws of an exchange that rest on the kernel: of a linked send and receive exactly one completes.

use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use posthaste::exec::{Finished, Patience, join_all, join_two};
use posthaste::limits;
use posthaste::ring::uring::{LinkBy, Uring};
use posthaste::ring::{Done, Fd, Op};
use rustix::io::Errno;

use crate::ring::{on, pair, ring, say, turn};

#[test]
fn an_exchange_sends_all_and_gives_what_the_peer_says_to_it() {
    let ring = ring(LinkBy::ProcPath);
    let (here, mut there) = narrow_pair(&ring);
    on(ring, |exec| async move {
        let bytes = pattern(400 * 1024);
        let pending = exec.start(exchange(&here, &bytes));
        let read = async {
            let mut got = Vec::new();
            while got.len() < bytes.len() {
                drain(&mut there, &mut got);
                exec.give_way().await;
            }
            say(&mut there, b"thanks");
            got
        };
        let (got, finished) = join_two(read, pending).await;
        assert!(got == bytes, "all of it, in order");
        let Ok(Done::Received(lease)) = &finished.result else { panic!("{:?}", finished.result) };
        assert_eq!(lease.bytes(), b"thanks");
        assert!(state(finished.op.as_ref()).1);
    });
}

#[test]
fn an_exchange_with_a_peer_that_has_gone_fails_once_and_is_unsent() {
    let ring = ring(LinkBy::ProcPath);
    let (here, there) = pair(&ring);
    drop(there);
    on(ring, |exec| async move {
        for _ in 0..100 {
            let finished = exec.run(exchange(&here, b"250 OK\r\n")).await;
            assert!(matches!(finished.result, Err(Errno::PIPE)), "{:?}", finished.result);
            assert_eq!(state(finished.op.as_ref()), (0, false));
        }
        assert_eq!(exec.pool().free(), exec.pool().count());
    });
}

#[test]
fn an_exchange_whose_peer_goes_without_reading_all_is_unsent() {
    let ring = ring(LinkBy::ProcPath);
    let (here, there) = narrow_pair(&ring);
    on(ring, |exec| async move {
        let pending = exec.start(exchange(&here, &pattern(400 * 1024)));
        turn(&exec).await;
        drop(there);
        let finished = pending.await;
        assert!(matches!(finished.result, Err(Errno::PIPE | Errno::CONNRESET)), "{:?}", finished.result);
        assert!(!state(finished.op.as_ref()).1);
        turn(&exec).await;
    });
}

#[test]
fn an_exchange_that_is_cancelled_before_all_is_sent_tells_how_much_was() {
    let ring = ring(LinkBy::ProcPath);
    let (here, mut there) = narrow_pair(&ring);
    on(ring, |exec| async move {
        let bytes = pattern(400 * 1024);
        let mut pending = exec.start(exchange(&here, &bytes));
        turn(&exec).await;
        pending.cancel();
        let finished = pending.await;
        assert!(matches!(finished.result, Err(Errno::CANCELED)), "{:?}", finished.result);
        let (from, sent) = state(finished.op.as_ref());
        assert!(!sent && from > 0 && from < bytes.len(), "{from}");
        let mut got = Vec::new();
        drain(&mut there, &mut got);
        assert!(got == bytes[..from], "{} and {from}", got.len());
    });
}

#[test]
fn an_exchange_that_is_cancelled_while_it_waits_for_the_answer_is_sent() {
    let ring = ring(LinkBy::ProcPath);
    let (here, mut there) = pair(&ring);
    on(ring, |exec| async move {
        // Also with the cancellation in the very submission of the exchange.
        for turns in [0, 1, 2, 3] {
            let mut pending = exec.start(exchange(&here, b"250 OK\r\n"));
            for _ in 0..turns {
                exec.give_way().await;
            }
            pending.cancel();
            let finished = pending.await;
            assert!(matches!(finished.result, Err(Errno::CANCELED)), "{:?}", finished.result);
            assert!(state(finished.op.as_ref()).1, "{turns} turns");
            let mut got = Vec::new();
            drain(&mut there, &mut got);
            assert_eq!(got, b"250 OK\r\n");
        }
        assert_eq!(exec.pool().free(), exec.pool().count());
    });
}

#[test]
fn an_exchange_that_finds_no_buffer_for_the_answer_is_sent() {
    let ring = ring(LinkBy::ProcPath);
    let (here, mut there) = pair(&ring);
    on(ring, |exec| async move {
        let mut leases = Vec::new();
        for _ in 0..exec.pool().count() {
            say(&mut there, b"x");
            let received = exec.run(Op::Recv { socket: Rc::clone(&here) }).await;
            leases.push(received.result.expect("a buffer is free"));
        }
        say(&mut there, b"MAIL");
        let finished = exec.run(exchange(&here, b"250 OK\r\n")).await;
        assert!(matches!(finished.result, Err(Errno::NOBUFS)), "{:?}", finished.result);
        assert!(state(finished.op.as_ref()).1);
    });
}

#[test]
fn an_exchange_hears_the_end_of_a_peer_that_still_reads() {
    let ring = ring(LinkBy::ProcPath);
    let (here, there) = pair(&ring);
    there.shutdown(std::net::Shutdown::Write).expect("it is connected");
    on(ring, |exec| async move {
        let finished = exec.run(exchange(&here, b"250 OK\r\n")).await;
        assert!(matches!(finished.result, Ok(Done::Closed)), "{:?}", finished.result);
        assert!(state(finished.op.as_ref()).1);
        drop(there);
    });
}

/// A receive that is parted from its failed send would complete too, and the ring panics about that.
#[test]
fn an_exchange_is_not_parted_by_the_end_of_the_submission_queue() {
    let ring = ring(LinkBy::ProcPath);
    let (gone, _) = pair(&ring);
    let (silent, _peer) = pair(&ring);
    on(ring, |exec| async move {
        // One entry before or none, so that the end would lie within an exchange in one of the cases.
        for before in [0, 1] {
            let mut alone: Vec<_> =
                (0..before).map(|_| exec.start(Op::Recv { socket: Rc::clone(&silent) })).collect();
            let pending: Vec<_> =
                (0..limits::RING_SUBMISSIONS).map(|_| exec.start(exchange(&gone, b"x"))).collect();
            for finished in join_all(pending).await {
                assert!(matches!(finished.result, Err(Errno::PIPE)), "{:?}", finished.result);
            }
            turn(&exec).await;
            for mut pending in alone.drain(..) {
                pending.cancel();
                assert!(matches!(pending.await.result, Err(Errno::CANCELED)));
            }
        }
    });
}

/// Cancelled while it is sent, between the halves and while it waits: whatever happens first, it ends.
#[test]
fn no_exchange_is_lost_however_its_end_and_a_cancellation_meet() {
    let ring = ring(LinkBy::ProcPath);
    let pairs: Vec<_> = (0..32).map(|_| narrow_pair(&ring)).collect();
    on(ring, |exec| async move {
        let stories = pairs.into_iter().zip(1..).map(async |((here, mut there), seed)| {
            let mut dice = Dice(seed);
            let (mut wanted, mut got, mut told) = (Vec::new(), Vec::new(), [0; 3]);
            for _ in 0..400 {
                let bytes = pattern(if dice.below(3) == 0 { 40 * 1024 } else { 20 });
                let moment = exec.now().after(Duration::from_micros(dice.below(100)));
                let patience = Patience { until: moment, unless: None };
                let talk = exec.run_within(patience, exchange(&here, &bytes));
                let (says, reads) = (dice.below(2) == 0, dice.below(2) == 0);
                let peer = async {
                    if reads {
                        drain(&mut there, &mut got);
                    }
                    for _ in 0..dice.below(3) {
                        exec.give_way().await;
                    }
                    if says {
                        say(&mut there, b"yes");
                    }
                };
                let ((), Finished { result, op }) = join_two(peer, talk).await;
                let (from, sent) = state(op.as_ref());
                wanted.extend_from_slice(if sent { &bytes } else { &bytes[..from] });
                match result {
                    Ok(Done::Received(_)) => told[0] += 1,
                    Err(Errno::TIME) => told[if sent { 1 } else { 2 }] += 1,
                    Err(Errno::NOBUFS) => {}
                    other => panic!("{other:?}"),
                }
                drain(&mut there, &mut got);
                assert!(got == wanted, "{} of {} bytes", got.len(), wanted.len());
                got.clear();
                wanted.clear();
            }
            told
        });
        let told = join_all(stories).await;
        for way in 0..3 {
            assert!(told.iter().any(|told| told[way] > 0), "every end is met: {told:?}");
        }
        assert_eq!(exec.pool().free(), exec.pool().count());
    });
}

/// A ring that is dropped with exchanges in flight cancels and awaits them.
#[test]
fn a_ring_with_exchanges_in_flight_comes_to_its_end() {
    for turns in 0..3 {
        let ring = ring(LinkBy::ProcPath);
        let (mute, _peer) = narrow_pair(&ring);
        let (slow, _other) = pair(&ring);
        on(ring, |exec| async move {
            drop(exec.start(exchange(&mute, &pattern(400 * 1024))));
            drop(exec.start(exchange(&slow, b"250 OK\r\n")));
            for _ in 0..turns {
                exec.give_way().await;
            }
        });
    }
}

fn exchange(socket: &Rc<Fd>, bytes: &[u8]) -> Op {
    Op::Exchange { socket: Rc::clone(socket), bytes: bytes.to_vec(), from: 0, sent: false }
}

/// How much went out of an exchange that is over, and whether all did.
fn state(op: Option<&Op>) -> (usize, bool) {
    let Some(Op::Exchange { from, sent, .. }) = op else { panic!("it comes back, not {op:?}") };
    (*from, *sent)
}

/// A pair whose end in `ring` has little room for what the other one does not read.
fn narrow_pair(ring: &Uring) -> (Rc<Fd>, UnixStream) {
    let (here, there) = UnixStream::pair().expect("two sockets");
    rustix::net::sockopt::set_socket_send_buffer_size(&here, 8 * 1024).expect("a socket");
    (ring.adopt(here.into()), there)
}

/// Reads all that is there.
fn drain(stream: &mut UnixStream, into: &mut Vec<u8>) {
    stream.set_nonblocking(true).expect("a socket");
    if let Err(error) = stream.read_to_end(into) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    }
    stream.set_nonblocking(false).expect("a socket");
}

fn pattern(length: usize) -> Vec<u8> {
    (0..251).cycle().take(length).collect()
}

/// Numbers by chance (a linear congruential generator, Knuth's constants).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
