//! The laws of the fuzz targets, over every input that was ever worth keeping. `tests/fuzz/README.md` tells how to look
//! for more.
#![forbid(unsafe_code)]

#[path = "fuzz/laws/lib.rs"]
#[allow(unreachable_pub, reason = "it is the library of the fuzz targets too")]
mod laws;

use std::path::{Path, PathBuf};

/// Fewer files than that are no corpus: the folder has moved, or was emptied.
const FILES_MIN: usize = 20;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Takes all inputs of a target through its law.
fn replay(target: &str, law: fn(&[u8])) {
    let corpus = here().join("fuzz/corpus").join(target);
    let mut files = 0;
    for file in std::fs::read_dir(&corpus).expect("a corpus") {
        let path = file.expect("a file of the corpus").path();
        let input = std::fs::read(&path).expect("a file of the corpus");
        let kept = std::panic::catch_unwind(|| law(&input));
        assert!(kept.is_ok(), "the law is broken by {}", path.display());
        files += 1;
    }
    assert!(files >= FILES_MIN, "{} has only {files} files", corpus.display());
}

#[test]
fn lines_mean_the_same_however_they_arrive() {
    replay("line", laws::line::hold);
}

#[test]
fn commands_are_read_alike_and_answered_in_order() {
    replay("command", laws::command::hold);
}

#[test]
fn look_ups_mean_the_same_however_they_arrive() {
    replay("socketmap", laws::socketmap::hold);
}

#[test]
fn a_message_is_the_same_however_it_arrives() {
    replay("data", laws::data::hold);
}

#[test]
fn a_table_answers_rightly_or_says_that_it_cannot() {
    replay("table", laws::table::hold);
}

#[test]
fn a_segment_is_read_within_its_bounds_and_up_to_the_damage() {
    replay("journal", laws::journal::hold);
}

#[test]
fn every_line_of_a_source_is_a_user_an_alias_or_a_fault() {
    replay("source", laws::source::hold);
}

#[test]
fn the_seeds_in_the_corpora_are_what_this_program_writes() {
    let seeds = laws::seeds::all(&here().join("dialogs"));
    assert!(seeds.len() > 10);
    for seed in seeds {
        let path = here().join("fuzz/corpus").join(seed.target).join(&seed.name);
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == seed.bytes,
            "{} is out of date: write it with the program in tests/fuzz",
            path.display()
        );
    }
}
