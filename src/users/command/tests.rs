//! The commands as they are typed, on small tables.
#![forbid(unsafe_code)]

use super::*;
use crate::users::build::{Builder, Options};
use crate::users::key::LocalPart;
use crate::users::{Alias, Entry};
use clap::Parser;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    users: UsersCommand,
}

/// Runs a command line in `directory`, with `=` before every file's name; exit code and output.
fn run_in(directory: &Path, line: &str) -> (u8, String) {
    let directory = format!("{}/", directory.display());
    let words = line.split(' ').map(|word| word.replace('=', &directory));
    let line = Line::try_parse_from(["users".to_owned()].into_iter().chain(words)).unwrap();
    let mut out = Vec::new();
    let code = execute(line.users, false, &mut out).unwrap_or_else(|failure| failure.exit_code());
    (code, String::from_utf8(out).unwrap())
}

const USERS: &str = "alice@example.org:x:1000:8::/home/alice:/bin/sh:userdb_quota_rule=*:bytes=9\n\
    bob:x:::::/bin/sh:userdb_mail=maildir:/var/mail/%u\n";
const BUILD: &str = "build --from passwd-file --input =users --output =table";

#[test]
fn the_commands_are_well_formed() {
    use clap::CommandFactory;
    Line::command().debug_assert();
}

#[test]
fn what_was_built_is_looked_up_dumped_and_built_again() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    fs::write(directory.path().join("users"), USERS).unwrap();
    let (code, said) = run(BUILD);
    assert!(code == 0 && said.contains("2 users"), "{said}");

    let (code, text) = run("lookup =table <ALICE+x@Example.org> -d +");
    assert!(code == 0 && text.contains("maildir         /home/alice/Maildir\n"), "{text}");
    assert!(text.contains("detail          x\n"), "{text}");
    let (code, text) = run("lookup =table bob@mx.example --local-domain MX.example --json");
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &found["address"], &found["uid"]), (0, &json!("bob"), &Value::Null));
    assert_eq!(run("lookup =table carol@example.org"), (1, String::new()));

    let (code, dumped) = run("dump =table");
    assert_eq!((code, dumped.lines().count()), (0, 2));
    fs::write(directory.path().join("users"), &dumped).unwrap();
    assert_eq!(run(BUILD).0, 0);
    // Another seed, another order.
    let sorted = |dumped: &str| {
        let mut lines: Vec<String> = dumped.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&run("dump =table").1), sorted(&dumped));
    let (_, lines) = run("dump --json =table");
    let users: Vec<Value> = sorted(&lines).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(users[0]["quota_bytes"], json!(9));
    assert_eq!(users[1]["mail"], json!("/var/mail/bob"));

    let (code, stats) = run("stats --json =table");
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((code, &stats["users"], &stats["domains"]), (0, &json!(2), &json!(1)));
    assert!(run("stats =table").1.contains(&format!("{:<28} 1\n", "users_with_quota")));
    assert!(run("verify =table").1.ends_with("intact, 2 users, 0 aliases\n"));
}

#[test]
fn aliases_are_looked_up_and_dumped_as_they_were_added() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    let options = Options::reproducible(LocalPart::Folded, [1; 16]);
    let mut builder = Builder::create(&directory.path().join("table"), options).unwrap();
    for (address, line) in ["alice@x", "bob@x"].into_iter().zip(1..) {
        let (address, mail) = (address.to_owned(), "/srv/mail".to_owned());
        builder.add(&Entry { line, address, mail, ..Entry::default() }).unwrap();
    }
    let targets = vec!["bob@x".to_owned(), "alice@x".to_owned()];
    builder.add_alias(&Alias { line: 3, address: "team@x".to_owned(), targets }).unwrap();
    builder.finish().unwrap();
    let (code, text) = run("lookup =table team+d@x -d +");
    assert_eq!(
        (code, text.matches("maildir ").count(), text.matches("detail          d").count()),
        (0, 2, 2)
    );
    assert!(text.find("bob@x") < text.find("alice@x"), "{text}");
    assert_eq!(run("dump --aliases =table"), (0, "team@x bob@x, alice@x\n".to_owned()));
    assert_eq!(run("dump =table").1.lines().count(), 2);
    let json = run("dump --json =table").1;
    assert!(json.ends_with("{\"alias\":\"team@x\",\"targets\":[\"bob@x\",\"alice@x\"]}\n"), "{json}");
    assert_eq!((json.lines().count(), run("dump --json --aliases =table").1.lines().count()), (3, 1));
    assert!(run("verify =table").1.ends_with("intact, 2 users, 1 aliases\n"));
}

#[test]
fn bad_lines_leave_the_published_table_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    fs::write(directory.path().join("users"), USERS).unwrap();
    assert_eq!(run(BUILD).0, 0);
    let before = fs::read(directory.path().join("table")).unwrap();
    for bad in ["carol:x:0:0::/root", "BOB:::::/home/bob", "carol"] {
        fs::write(directory.path().join("users"), format!("{USERS}{bad}\n")).unwrap();
        assert_eq!(run(BUILD), (FAILED, String::new()), "{bad}");
    }
    assert_eq!(fs::read(directory.path().join("table")).unwrap(), before);
    assert_eq!(run("build --from passwd-file --input =none --output =table").0, FAILED);
}

#[test]
fn a_seed_makes_builds_reproducible_and_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("users"), USERS).unwrap();
    let seeded = format!("{BUILD} --seed 000102030405060708090a0b0c0d0e0f");
    let built = || {
        assert_eq!(run_in(directory.path(), &seeded).0, 0);
        fs::read(directory.path().join("table")).unwrap()
    };
    assert_eq!(built(), built());
    assert!(run_in(directory.path(), "stats =table").1.contains(&format!("{:<28} not recorded", "built_at")));
    for seed in ["", "00", "+00102030405060708090a0b0c0d0e0f", "zz0102030405060708090a0b0c0d0e0f"] {
        assert!(build::parse_seed(seed).is_err(), "{seed}");
    }
}

#[test]
fn a_damaged_table_has_an_exit_code_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    fs::write(directory.path().join("users"), USERS).unwrap();
    assert_eq!(run(BUILD).0, 0);
    let path = directory.path().join("table");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).rposition(|octets| octets == b"alice").unwrap();
    bytes[at] ^= 1;
    let damaged = directory.path().join("damaged");
    fs::write(damaged, &bytes).unwrap();
    assert_eq!(run("lookup =damaged alice@example.org"), (DAMAGED, String::new()));
    assert_eq!(run("verify =damaged").0, DAMAGED);
    assert_eq!(run("stats =damaged").0, DAMAGED);
    let (code, rest) = run("dump =damaged");
    assert!(code == DAMAGED && rest.starts_with("bob:"), "{rest}");
    bytes.truncate(5000);
    fs::write(directory.path().join("damaged"), bytes).unwrap();
    assert_eq!(run("lookup =damaged alice@example.org").0, DAMAGED);
    assert_eq!(run("lookup =none alice@example.org").0, DAMAGED);
}

fn write(directory: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).unwrap();
    }
}

#[test]
fn every_format_gives_the_same_table_and_json_lines_go_round() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    let csv = "address,home,mail,uid,gid,quota_bytes\nalice@example.org,/home/alice,,1000,8,9\n\
        bob,,/var/mail/bob,,,\n";
    let json = "{\"address\":\"alice@example.org\",\"home\":\"/home/alice\",\"uid\":1000,\"gid\":\"8\",\
        \"quota_bytes\":\"9\"}\n{\"address\":\"bob\",\"mail\":\"/var/mail/bob\"}\n";
    let gzipped = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(csv.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    write(
        directory.path(),
        &[
            ("users", USERS.as_bytes()),
            ("csv", csv.as_bytes()),
            ("tsv", csv.replace(',', "\t").as_bytes()),
            ("json", json.as_bytes()),
            ("csv-gz", &gzipped),
            ("json-zst", &zstd::encode_all(json.as_bytes(), 1).unwrap()),
        ],
    );
    let seed = "--seed 000102030405060708090a0b0c0d0e0f";
    assert_eq!(run(&format!("{BUILD} {seed}")).0, 0);
    let (_, dumped) = run("dump --json =table");
    write(directory.path(), &[("dumped", dumped.as_bytes())]);
    for (format, input) in [
        ("csv", "csv"),
        ("tsv", "tsv"),
        ("json", "json"),
        ("csv", "csv-gz"),
        ("json", "json-zst"),
        ("json", "dumped"),
    ] {
        let line = format!("build --from {format} --input ={input} --output =other {seed}");
        assert_eq!(run(&line).0, 0, "{line}");
        assert_eq!(run("diff =table =other").0, 0, "{line}");
    }
}

#[test]
fn several_inputs_make_one_table_and_nothing_of_them_is_published_if_one_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    let many: String = (0..3000).map(|n| format!("user{n}:::::/home/{n}\n")).collect();
    let packed = zstd::encode_all(many.as_bytes(), 1).unwrap();
    let files = [("one", USERS.as_bytes()), ("two", &packed), ("cut", &packed[..packed.len() - 9])];
    write(directory.path(), &files);
    let build = "build --from passwd-file --output =table --input =one --input =";
    let (code, said) = run(&format!("{build}two"));
    assert!(code == 0 && said.contains("3002 users"), "{said}");
    let published = fs::read(directory.path().join("table")).unwrap();
    for bad in ["cut", "one", "missing"] {
        assert_eq!(run(&format!("{build}two --input ={bad}")), (FAILED, String::new()), "{bad}");
    }
    assert_eq!(fs::read(directory.path().join("table")).unwrap(), published);
}

#[test]
fn an_input_without_anybody_is_published_only_if_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    write(directory.path(), &[("users", b"# nobody\n")]);
    assert_eq!(run(BUILD), (FAILED, String::new()));
    assert!(!directory.path().join("table").exists());
    assert_eq!(run(&format!("{BUILD} --allow-empty")).0, 0);
}

#[test]
fn arguments_that_contradict_each_other_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &[("users", USERS.as_bytes())]);
    for arguments in [
        "--from nss --input =users",
        "--from nss --domain @example.net",
        "--from nss --uid-min 2 --uid-max 1",
        "--from csv --input =users --uid-min 1",
        "--from passwd-file --input =users --ignore-unknown",
        "--from passwd-file --input - --input -",
        "--from passwd-file --aliases -",
    ] {
        let ended = run_in(directory.path(), &format!("build {arguments} --output =table"));
        assert_eq!(ended, (WRONG_ARGUMENTS, String::new()), "{arguments}");
    }
    assert!(!directory.path().join("table").exists());
}

#[test]
fn the_systems_own_users_become_a_table() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    // Who is a user of this system is not known here: nobody, daemon (uid 1) and the like have homes.
    let line = "build --from nss --uid-min 1 --uid-max 1 --domain Example.net --output =table";
    let (code, said) = run(line);
    assert!(code == 0 && said.contains("1 users"), "{said}");
    let (_, dumped) = run("dump =table");
    assert!(dumped.contains("@example.net::1:"), "{dumped}");
}

const OLD: &str = "same@x:::::/h\nchanged@x::7:::/h\ngone@x:::::/h\n";
const NEW: &str = "new@x:::::/h\nsame@x:::::/h\nchanged@x::8:::/i::userdb_quota_rule=*:bytes=9\n";

#[test]
fn a_difference_is_an_address_that_came_went_or_changed() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    write(directory.path(), &[("old-users", OLD.as_bytes()), ("new-users", NEW.as_bytes())]);
    // With one seed and with two.
    for seed in ["000102030405060708090a0b0c0d0e0f", "100102030405060708090a0b0c0d0e0f"] {
        for (name, seed) in [("old", "000102030405060708090a0b0c0d0e0f"), ("new", seed)] {
            let build = format!("build --from passwd-file --input ={name}-users --output ={name}");
            assert_eq!(run(&format!("{build} --seed {seed}")).0, 0);
        }
        let (code, text) = run("diff =old =new");
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!((code, lines.pop()), (DIFFERENT, Some("1 added, 1 removed, 1 changed, 1 the same")));
        lines.sort_unstable();
        let changed = "~ changed@x home: /h -> /i uid: 7 -> 8 quota_bytes: none -> 9";
        assert_eq!(lines, ["+ new@x", "- gone@x", changed]);

        let (code, lines) = run("diff --json =old =new");
        let mut changes: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        changes.sort_by_key(|change| change["change"].as_str().unwrap().to_owned());
        assert_eq!((code, changes.len()), (DIFFERENT, 3));
        let said = |n: usize| (&changes[n]["change"], &changes[n]["address"]);
        assert_eq!(said(0), (&json!("added"), &json!("new@x")));
        assert_eq!(said(1), (&json!("changed"), &json!("changed@x")));
        assert_eq!(said(2), (&json!("removed"), &json!("gone@x")));
        assert_eq!(changes[1]["fields"], json!(["home", "uid", "quota_bytes"]));
        assert_eq!((&changes[1]["old"]["uid"], &changes[1]["new"]["uid"]), (&json!(7), &json!(8)));
    }
    assert_eq!(run("diff =old =old"), (0, "0 added, 0 removed, 0 changed, 3 the same\n".to_owned()));
    assert_eq!(run("diff --json =old =old"), (0, String::new()));
}

#[test]
fn aliases_are_compiled_beside_users_go_round_as_json_and_differ() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    let seed = "--seed 000102030405060708090a0b0c0d0e0f";
    let files: [(&str, &[u8]); 3] = [
        ("users", b"alice@x:::::/h\nbob@x:::::/h\n"),
        ("old-aliases", b"Info@X alice@x,\n bob@x\n@x alice@x\ngone@x bob@x\n"),
        ("new-aliases", b"info@x bob@x\n@x alice@x\nnew@x info@x\n"),
    ];
    write(directory.path(), &files);
    for name in ["old", "new"] {
        let aliases = format!("--aliases ={name}-aliases --output ={name} {seed}");
        let (code, said) = run(&format!("build --from passwd-file --input =users {aliases}"));
        assert!(code == 0 && said.contains("2 users, 3 aliases"), "{said}");
    }
    let (_, dumped) = run("dump --json =old");
    write(directory.path(), &[("dumped", dumped.as_bytes())]);
    assert_eq!(run(&format!("build --from json --input =dumped --output =again {seed}")).0, 0);
    assert_eq!(run("diff =old =again"), (0, "0 added, 0 removed, 0 changed, 5 the same\n".to_owned()));

    let (code, text) = run("diff =old =new");
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!((code, lines.pop()), (DIFFERENT, Some("1 added, 1 removed, 1 changed, 3 the same")));
    lines.sort_unstable();
    let changed = "~ info@x (alias) targets: alice@x,bob@x -> bob@x";
    assert_eq!(lines, ["+ new@x (alias)", "- gone@x (alias)", changed]);
    let (_, lines) = run("diff --json =new =old");
    let removed = r#""alias":"new@x""#;
    assert!(lines.lines().any(|line| line.contains(removed) && line.contains("removed")), "{lines}");
    assert_eq!(lines.lines().count(), 3);
}

#[test]
fn a_damaged_table_is_never_called_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &str| run_in(directory.path(), line);
    write(directory.path(), &[("users", USERS.as_bytes())]);
    assert_eq!(run(BUILD).0, 0);
    let mut bytes = fs::read(directory.path().join("table")).unwrap();
    let at = bytes.windows(5).rposition(|octets| octets == b"alice").unwrap();
    bytes[at] ^= 1;
    write(directory.path(), &[("damaged", &bytes)]);
    for line in ["diff =table =damaged", "diff =damaged =table", "diff =table =none"] {
        assert_eq!(run(line).0, DAMAGED, "{line}");
    }
}
