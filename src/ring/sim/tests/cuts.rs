//! What proofs over power cuts rest on: worlds that stand still, copies of them, devices that lie.

use super::files::{durable, part};
use super::*;

#[test]
fn a_world_that_is_halted_lets_just_so_many_operations_happen() {
    for seed in 0..16 {
        let mut rig = Rig::new(seed);
        let new = rig.directory("/mail/alice/new");
        let before = rig.world.operations();
        rig.world.halt_at(before + 7);
        for number in 0..10 {
            let at = Rc::clone(&new);
            rig.push(Op::MakeDir { at, name: name(&format!("{number}")), identity: Identity::Server });
        }
        let mut told = 0;
        for _ in 0..100 {
            told += rig.turn(None).len();
        }
        assert!(rig.world.is_halted());
        assert_eq!(rig.world.operations(), before + 7);
        assert_eq!(rig.world.list("/mail/alice/new").expect("a directory").len(), 7);
        assert_eq!(told, 7, "what has happened is told even so");
        rig.world.halt_at(u64::MAX);
        while told < 10 {
            told += rig.turn(None).len();
        }
    }
}

#[test]
fn a_fork_keeps_what_was_and_goes_its_own_way() {
    let mut rig = Rig::new(1);
    let file = rig.unnamed(b"mail");
    let new = rig.directory("/mail/alice/new");
    rig.link(&file, &new, "1").expect("a free name");
    rig.run(Op::SyncFs { on: Rc::clone(&new) }).expect("a sync");
    rig.link(&file, &new, "2").expect("a free name");
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let fork = rig.world.fork();
        assert_eq!(fork.read("/mail/alice/new/2"), Ok(b"mail".to_vec()));
        fork.power_cut(seed);
        seen.insert(fork.list("/mail/alice/new").expect("a directory"));
        fork.write_file("/mail/alice/new/1", b"other");
    }
    assert_eq!(seen, [vec!["1".to_owned()], vec!["1".to_owned(), "2".to_owned()]].into());
    assert_eq!(rig.world.read("/mail/alice/new/1"), Ok(b"mail".to_vec()));
    rig.sync(&new).expect("its descriptors are still open");
}

#[test]
fn a_sync_that_is_ignored_succeeds_and_keeps_nothing_and_others_work() {
    let mut rig = Rig::new(2);
    let (alice, bob) = (rig.directory("/mail/alice/new"), rig.directory("/mail/bob/new"));
    rig.world.ignore(OpKind::Sync, "alice/new");
    for directory in [&alice, &bob] {
        rig.run(Op::MakeDir { at: Rc::clone(directory), name: name("x"), identity: Identity::Server })
            .expect("a free name");
    }
    rig.sync(&alice).expect("it says so");
    assert_eq!(rig.world.unsettled(), 2);
    rig.sync(&bob).expect("a sync");
    assert_eq!(rig.world.unsettled(), 1);
    rig.run(Op::SyncFs { on: alice }).expect("a sync");
    assert_eq!(rig.world.unsettled(), 0);

    let segment = rig.segment(512);
    rig.world.ignore(OpKind::WriteDurably, "");
    rig.run(durable(&segment, &[part(b"x", &[])], 0, 0)).expect("it says so");
    assert_eq!(rig.world.unsettled(), 1);
}
