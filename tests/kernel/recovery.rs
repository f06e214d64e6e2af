//! The journal that a crash left, recovered by the real program on a real file system.
//!
//! `POSTHASTE_RECOVERY_MIB=1024 POSTHASTE_RECOVERY_DIR=/mnt/ram tests/run --test kernel -- recovery::much` measures it:
//! a journal of so many MiB, with mail of 4 KiB in a thousand mailboxes, made on that directory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use posthaste::journal::format::{BLOCK_BYTES, RECORD_ALIGN, checksum};
use posthaste::journal::{Boot, Recipient, RecordHead, SegmentHeader};
use posthaste::ring::Owner;
use serde_json::Value;

use crate::ground::{Ground, owner};
use crate::server::Running;
use crate::stored::{assert_no_litter, new_in, only_in};

/// A message of the journal: its text, and a Maildir with its owner for each recipient.
struct Mail<'m> {
    payload: &'m [u8],
    recipients: Vec<(PathBuf, Option<u32>)>,
}

/// Messages that one durable write carries.
const BATCH: usize = 16;
/// Mailboxes that much mail is for.
const MAILBOXES: usize = 1000;
const TRACE: &[u8] = b"Return-Path: <>\r\n";

/// A segment with these messages, as a worker leaves it; the files are named from `first` on.
fn segment(bytes: u64, mails: &[Mail<'_>], first: usize) -> Vec<u8> {
    let header = SegmentHeader::new(bytes, 0, 7, Boot([1; 16]));
    let mut segment = header.encode().to_vec();
    segment.resize(BLOCK_BYTES, 0);
    for (sequence, mail) in mails.iter().enumerate() {
        let names: Vec<String> = (0..mail.recipients.len()).map(|one| name(first + sequence, one)).collect();
        let recipients = mail.recipients.iter().zip(&names).map(|((path, owner), name)| Recipient {
            owner: owner.map_or(Owner::Server, |id| Owner::User { uid: id, gid: id }),
            home: path.parent().and_then(Path::to_str),
            path: path.to_str().expect("ASCII"),
            name,
            trace: TRACE,
        });
        let payload = mail.payload;
        let mut head =
            RecordHead::new(recipients, payload.len() as u64, checksum([payload])).expect("it fits");
        let is_last = (sequence + 1) % BATCH == 0 || sequence + 1 == mails.len();
        head.seal(header.key, sequence as u64, is_last);
        segment.extend_from_slice(head.as_bytes());
        segment.extend_from_slice(payload);
        let step = if is_last { BLOCK_BYTES } else { RECORD_ALIGN };
        segment.resize(segment.len().next_multiple_of(step), 0);
    }
    assert!(segment.len() as u64 <= bytes, "too much for one segment");
    segment.resize(usize::try_from(bytes).expect("it is in memory"), 0);
    segment
}

fn name(sequence: usize, recipient: usize) -> String {
    format!("1700000000.M{sequence}P1Q{recipient}W0.mx.example.test,S=1,W=1")
}

/// Puts a journal on `ground` and a configuration beside it.
fn prepare(ground: &Ground, mails: &[Mail<'_>]) -> PathBuf {
    let journal = ground.path("state/journal");
    fs::create_dir_all(&journal).expect("a directory");
    fs::write(journal.join("0-0.segment"), segment(1 << 20, mails, 0)).expect("a segment");
    ground.build_table();
    fs::write(ground.path("posthaste.toml"), ground.configuration("")).expect("a configuration");
    journal
}

fn recover(ground: &Ground, options: &[&str]) -> Output {
    let config = ground.path("posthaste.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.arg("recover").arg("--config").arg(config).args(options).output().expect("the program")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn what_is_missing_is_written_once_and_a_dry_run_only_says_so() {
    let ground = Ground::new();
    let maildirs = [ground.user("alice", owner(0)), ground.user("bob", owner(1))];
    let recipients = vec![(maildirs[0].clone(), owner(0)), (maildirs[1].clone(), owner(1))];
    let journal = prepare(&ground, &[Mail { payload: b"Subject: one\r\n\r\n1\r\n", recipients }]);

    let dry = recover(&ground, &["--dry-run", "--json"]);
    assert_eq!(dry.status.code(), Some(0), "{dry:?}");
    assert_eq!(json(&dry)["segments"][0]["mail"]["actions"].as_array().map(Vec::len), Some(2));
    assert_eq!(new_in(&maildirs[0]).len(), 0);

    let real = recover(&ground, &["--json"]);
    assert_eq!(real.status.code(), Some(0), "{real:?}");
    assert_eq!(json(&real)["segments"][0]["mail"]["written"], 2);
    for (index, maildir) in maildirs.iter().enumerate() {
        let file = only_in(maildir);
        assert_eq!(file.bytes, [TRACE, b"Subject: one\r\n\r\n1\r\n"].concat());
        assert_eq!(file.name, name(0, index));
        assert_no_litter(maildir);
        let metadata = fs::metadata(maildir.join("new").join(&file.name)).expect("it is there");
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        if let Some(id) = owner(u32::try_from(index).expect("few")) {
            assert_eq!((metadata.uid(), metadata.gid()), (id, id));
        }
    }
    let again = recover(&ground, &["--json"]);
    assert_eq!(
        (again.status.code(), &json(&again)["segments"][0]["mail"]["messages"]),
        (Some(0), &Value::from(0))
    );
    assert_eq!(fs::metadata(journal.join("0-0.segment")).expect("it is kept").len(), 1 << 20);
}

#[test]
fn a_server_recovers_before_it_listens_and_keeps_the_journal_for_itself() {
    let ground = Ground::new();
    let maildir = ground.user("alice", owner(0));
    prepare(&ground, &[Mail { payload: b"Subject: x\r\n", recipients: vec![(maildir.clone(), owner(0))] }]);
    let server = Running::start(&ground, "");
    assert_eq!(only_in(&maildir).content(), b"Subject: x\r\n");
    server.said.wait_for("journal: 0-0.segment: 1 messages for 1 recipients, 1 written again", 1);
    let refused = recover(&ground, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("is in use by another process: stop that server first"), "{said}");
    server.stop();
}

#[test]
fn a_mailbox_that_cannot_be_had_keeps_its_mail_and_nobody_elses() {
    let ground = Ground::new();
    let (alice, bob) = (ground.user("alice", owner(0)), ground.user("bob", owner(1)));
    // A file where the Maildir should be.
    fs::write(&bob, "in the way").expect("a file");
    let recipients = vec![(alice.clone(), owner(0)), (bob.clone(), owner(1))];
    let journal = prepare(&ground, &[Mail { payload: b"Subject: x\r\n", recipients }]);
    let first = recover(&ground, &[]);
    assert_eq!(first.status.code(), Some(1));
    let said = String::from_utf8_lossy(&first.stdout);
    assert!(said.contains("1 FAILED") && said.contains("kept in 0-0.segment.kept"), "{said}");
    assert!(said.contains("not that of a directory: correct it"), "{said}");
    fs::remove_file(only_path(&alice)).expect("alice reads and removes her mail");
    fs::remove_file(&bob).expect("the file");
    let second = recover(&ground, &[]);
    assert_eq!(second.status.code(), Some(0), "{second:?}");
    assert_eq!(only_in(&bob).content(), b"Subject: x\r\n");
    assert_eq!(new_in(&alice).len(), 0, "what was delivered does not come back");
    assert!(!journal.join("0-0.segment.kept").exists());
}

fn only_path(maildir: &Path) -> PathBuf {
    maildir.join("new").join(only_in(maildir).name)
}

#[test]
fn much_is_recovered_quickly_whether_it_is_missing_or_there() {
    let mebibytes: u64 = number("POSTHASTE_RECOVERY_MIB").unwrap_or(16);
    let directory =
        std::env::var("POSTHASTE_RECOVERY_DIR").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
    let place = tempfile::Builder::new().prefix("phk-").tempdir_in(directory).expect("a directory");
    let config = place.path().join("posthaste.toml");
    let text = format!(
        "hostname = \"mx\"\nstate_dir = \"{}/state\"\n[[listen]]\nlmtp = \"tcp:127.0.0.1:1\"\n",
        place.path().display()
    );
    fs::write(&config, text).expect("a configuration");
    let journal = place.path().join("state/journal");
    fs::create_dir_all(&journal).expect("a directory");

    for index in 0..MAILBOXES {
        for sub in ["tmp", "new", "cur"] {
            fs::create_dir_all(place.path().join(format!("mail/{index}/{sub}"))).expect("a directory");
        }
    }
    // A message takes 4352 bytes, in batches as they are under load.
    let segment_bytes = mebibytes.min(64) << 20;
    let count = usize::try_from((segment_bytes - BLOCK_BYTES as u64) / 4352).expect("few");
    let payload = b"Subject: x\r\n".repeat(330);
    let segments: Vec<Vec<u8>> = (0..mebibytes.div_ceil(64))
        .map(|number| {
            let mail = |index: usize| Mail {
                payload: &payload,
                recipients: vec![(place.path().join(format!("mail/{}", index % MAILBOXES)), None)],
            };
            let mails: Vec<_> = (0..count).map(mail).collect();
            segment(segment_bytes, &mails, usize::try_from(number).expect("few") * count)
        })
        .collect();
    for state in ["missing", "there"] {
        for (number, bytes) in segments.iter().enumerate() {
            fs::write(journal.join(format!("0-{number}.segment")), bytes).expect("a segment");
        }
        rustix::fs::sync();
        let began = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        let output =
            command.args(["recover", "--json", "--config"]).arg(&config).output().expect("the program");
        let took = began.elapsed();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report = json(&output);
        let what = if state == "missing" { "written" } else { "present" };
        let done = |segment: &Value| segment["mail"][what].as_u64().expect("a number");
        let files: u64 = report["segments"].as_array().expect("segments").iter().map(done).sum();
        assert_eq!(files, (segments.len() * count) as u64, "all of them");
        println!("{mebibytes} MiB of journal, {files} files {state}: {took:?}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
