//! The proof: runs on real file systems, cut at many points, and what must be there afterwards.

use std::time::Instant;

use crate::cut::{self, Replay};
use crate::device::Faults;
use crate::filesystem::FileSystem;
use crate::load::{self, Reply};
use crate::mount::in_namespace;
use crate::random::Random;
use crate::rig::{Layout, Mode, Rig};
use crate::settings;

#[test]
fn ext4_keeps_what_was_acknowledged() {
    proof("real::ext4_keeps_what_was_acknowledged", FileSystem::Ext4);
}

#[test]
fn xfs_keeps_what_was_acknowledged() {
    proof("real::xfs_keeps_what_was_acknowledged", FileSystem::Xfs);
}

#[test]
fn btrfs_keeps_what_was_acknowledged() {
    proof("real::btrfs_keeps_what_was_acknowledged", FileSystem::Btrfs);
}

#[test]
fn without_durability_every_file_system_loses_acknowledged_mail() {
    let test = "real::without_durability_every_file_system_loses_acknowledged_mail";
    in_namespace(test, &FileSystem::ALL.map(FileSystem::maker), || {
        for file_system in FileSystem::ALL {
            let mut random = Random::new(settings::seed());
            let rig = Rig::new(file_system, Layout::OneDisk, USERS);
            let mut sum = Sum::default();
            let findings = cuts_of_a_run(&rig, Mode::None, CONTROL_IMAGES, 0, &mut random, &mut sum);
            let lost = findings.iter().filter(|finding| finding.contains("is lost")).count();
            println!("{}, none: {sum}, {lost} of them lost", file_system.name());
            assert!(lost > 0, "{}: a rig that finds nothing here proves nothing", file_system.name());
        }
    });
}

/// Runs and cuts with every mode that promises something.
fn proof(test: &str, file_system: FileSystem) {
    in_namespace(test, &[file_system.maker()], || {
        let begun = Instant::now();
        let seed = settings::seed();
        println!("{}: seed {seed} (repeat with {}={seed})", file_system.name(), settings::SEED);
        let variants = variants();
        let rigs = [Layout::OneDisk, Layout::TwoDisks].map(|layout| Rig::new(file_system, layout, USERS));
        for (index, &(mode, layout)) in variants.iter().enumerate() {
            let rig = &rigs[usize::from(layout == Layout::TwoDisks)];
            let mut random = Random::new(seed.wrapping_add(index as u64));
            let (mut sum, mut run) = (Sum::default(), 0);
            let images = settings::images().div_ceil(variants.len());
            while sum.images < images {
                let count = IMAGES_A_RUN.min(images - sum.images);
                let findings = cuts_of_a_run(rig, mode, count, run, &mut random, &mut sum);
                assert!(
                    findings.is_empty(),
                    "{} {}:\n{}",
                    file_system.name(),
                    mode.name(),
                    findings.join("\n")
                );
                run += 1;
            }
            println!("{}, {}, {layout:?}: {run} runs, {sum}", file_system.name(), mode.name());
        }
        println!("{}: {:.1} s", file_system.name(), begun.elapsed().as_secs_f32());
    });
}

/// The journal also lies on a disk of its own; the other modes keep nothing beside the mail.
fn variants() -> Vec<(Mode, Layout)> {
    let layouts = |mode: Mode| match mode {
        Mode::Journal => vec![Layout::OneDisk, Layout::TwoDisks],
        _ => vec![Layout::OneDisk],
    };
    settings::modes()
        .into_iter()
        .flat_map(|mode| layouts(mode).into_iter().map(move |layout| (mode, layout)))
        .collect()
}

/// Records a run, cuts it `count` times, and returns what was found wrong.
fn cuts_of_a_run(
    rig: &Rig,
    mode: Mode,
    count: usize,
    run: u64,
    random: &mut Random,
    sum: &mut Sum,
) -> Vec<String> {
    let recording =
        rig.record(mode, SESSIONS, &load::letters(run, MESSAGES, USERS, random), &Faults::default());
    let (entries, answers) = (&recording.entries, &recording.answers);
    assert!(answers.iter().all(|answer| matches!(answer.reply, Reply::Saved(_))), "{answers:?}");
    let mut replay = Replay::new(&rig.base, entries);
    let mut findings = Vec::new();
    for cut in cut::choose(entries, answers, recording.span, rig.file_system.grain(), count, random) {
        match rig.examine(&replay.after(&cut), mode, answers, cut.at) {
            Ok(verdict) => {
                sum.acknowledged += verdict.acknowledged;
                findings.extend(verdict.findings.iter().map(|finding| format!("{cut}: {finding}")));
            }
            Err(why) => findings.push(format!("{cut}: {why}")),
        }
        sum.images += 1;
    }
    sum.entries += recording.span.1 - recording.span.0;
    findings
}

/// What has been examined.
#[derive(Debug, Default)]
struct Sum {
    images: usize,
    entries: usize,
    acknowledged: usize,
}

impl std::fmt::Display for Sum {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { images, entries, acknowledged } = self;
        write!(
            to,
            "{images} images, cut from {entries} writes and flushes, {acknowledged} acknowledged recipients checked"
        )
    }
}

/// Enough that some Maildirs are new and some are not, at any time.
const USERS: usize = 24;

/// Half of what Postfix opens to a destination at most; the machine has to run the disks as well.
const SESSIONS: usize = 10;

/// Messages of one run.
const MESSAGES: u64 = 250;

/// Cuts of one run, before another one is recorded.
const IMAGES_A_RUN: usize = 60;

/// Cuts of the control.
const CONTROL_IMAGES: usize = 12;
