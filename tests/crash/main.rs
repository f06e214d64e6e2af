//! The crash proof: no power cut at any moment loses a message that was acknowledged, or shows half of one.
//!
//! One seed is one run of the whole server on the simulated ring, with many sessions at once, completions in any
//! order, short transfers and failing operations. The run is stopped after every single operation; of the world
//! as it stands then, several power cuts each leave another part of what was not durable, and the oracle looks at
//! what is left.
//!
//! ```text
//! cargo nextest run --cargo-profile quick --test crash          some ten thousand cuts
//! POSTHASTE_CRASH_SEEDS=500 cargo nextest run ...               more runs of each mode
//! ```
//!
//! A failure prints the command that repeats it alone. It sets POSTHASTE_CRASH_SEED (the run),
//! POSTHASTE_CRASH_OPERATION (how many operations happened before the cut) and POSTHASTE_CRASH_SURVIVOR (what
//! the cut left); each of them also works without those behind it.
#![forbid(unsafe_code)]

/// As in the server itself; segments come and go with every cut.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod oracle;
mod proof;
mod random;
mod sender;
mod server;
mod traffic;

use posthaste::ring::sim::OpKind;

use proof::{Lie, Mode, Plan, prove};

/// Every cut of every run is survived; prints how many there were.
fn holds(test: &str, mode: Mode) {
    let plan = Plan::from_environment(mode);
    match prove(&plan, &[]) {
        Ok(counts) => println!("{mode:?}: {counts}, seeds {:?}", plan.seeds),
        Err(failure) => panic!("{failure}\nagain: {} cargo nextest run --test crash {test}", failure.again()),
    }
}

/// A device that tells such lies is found out.
fn notices(mode: Mode, lies: &[Lie]) {
    let failure = match prove(&Plan::of(mode), lies) {
        Ok(counts) => panic!("{mode:?}, {lies:?}: the proof notices nothing in {counts}"),
        Err(failure) => failure,
    };
    println!("{mode:?}, {lies:?}: {}", failure.reason);
}

#[test]
fn fsync_keeps_every_acknowledged_message_whatever_a_power_cut_takes() {
    holds("fsync_keeps", Mode::Fsync);
}

#[test]
fn group_keeps_every_acknowledged_message_whatever_a_power_cut_takes() {
    holds("group_keeps", Mode::Group);
}

#[test]
fn journal_keeps_every_acknowledged_message_whatever_a_power_cut_takes() {
    holds("journal_keeps", Mode::Journal);
}

#[test]
fn the_proof_notices_that_nothing_is_synced_at_all() {
    notices(Mode::None, &[]);
}

#[test]
fn the_proof_notices_a_file_whose_sync_does_nothing() {
    notices(Mode::Fsync, &[Lie { kind: OpKind::Sync, end: "/new/." }]);
}

#[test]
fn the_proof_notices_a_name_whose_sync_does_nothing() {
    notices(Mode::Fsync, &[Lie { kind: OpKind::Sync, end: "/new" }]);
}

#[test]
fn the_proof_notices_bytes_that_are_not_written_out_ahead_of_their_name() {
    notices(Mode::Group, &[Lie { kind: OpKind::WriteOut, end: "" }]);
}

#[test]
fn the_proof_notices_it_for_what_is_too_large_for_the_journal_as_well() {
    notices(Mode::Journal, &[Lie { kind: OpKind::WriteOut, end: "" }]);
}

#[test]
fn the_proof_notices_a_round_that_does_nothing() {
    notices(Mode::Group, &[Lie { kind: OpKind::SyncFs, end: "" }]);
}

#[test]
fn the_proof_notices_a_record_that_is_not_durable() {
    notices(Mode::Journal, &[Lie { kind: OpKind::WriteDurably, end: "" }]);
}

#[test]
fn the_proof_notices_a_checkpoint_that_does_nothing() {
    notices(Mode::Journal, &[Lie { kind: OpKind::SyncFs, end: "" }]);
}

#[test]
fn the_proof_notices_a_new_segment_whose_sync_does_nothing() {
    notices(Mode::Journal, &[Lie { kind: OpKind::Sync, end: "" }]);
}
