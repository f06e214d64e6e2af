//! `posthaste users build` and `diff` as a shell runs them: pipes, messages, exit codes.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn posthaste(directory: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.args(arguments.split(' ')).current_dir(directory).stdin(Stdio::null());
    command
}

fn run(directory: &Path, arguments: &str) -> Output {
    posthaste(directory, arguments).output().unwrap()
}

/// Gives `input` to the command through a pipe.
fn pipe(directory: &Path, arguments: &str, input: &[u8]) -> Output {
    let mut command = posthaste(directory, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // Who does not want it all may close the pipe.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().unwrap()
    })
}

fn said(output: &Output) -> Vec<String> {
    String::from_utf8(output.stderr.clone()).unwrap().lines().map(str::to_owned).collect()
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn users_come_through_a_pipe_packed_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let text = "address,home\nalice@example.org,/home/alice\nbob@example.org,/home/bob\n";
    let packed = [gzip(text), zstd::encode_all(text.as_bytes(), 1).unwrap(), text.as_bytes().to_vec()];
    for input in packed {
        for form in ["", " --input -"] {
            let built = pipe(at, &format!("users build --from csv{form} --output users.table"), &input);
            let out = String::from_utf8_lossy(&built.stdout);
            assert!(built.status.success() && out.contains("2 users"), "{out} {:?}", said(&built));
        }
    }
    let halves = [gzip("address,home\nalice,/home/"), gzip("alice\n")].concat();
    let built = pipe(at, "users build --from csv --output users.table", &halves);
    assert!(built.status.success(), "{:?}", said(&built));
    let cut = pipe(at, "users build --from csv --output users.table", &halves[..halves.len() - 4]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(said(&cut)[0].starts_with("posthaste users: cannot read standard input: "), "{:?}", said(&cut));
    let dumped = run(at, "users dump users.table");
    assert!(dumped.stdout.starts_with(b"alice:"), "the table is the one before");
}

#[test]
fn all_that_is_wrong_is_reported_with_the_name_of_its_input_and_that_inputs_line() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    write(at, "one.csv", "address,home,uid\na@x,/a,\nb@x,/b,0\n\"c@x\",\"/c\n\",\nd@x,/d,\n");
    write(at, "two.csv", "home,address\n\n/e,e@x\n/f,D@x\nf,f@x\n");
    write(at, "virtual", "# aliases\ninfo@x\n  a@x,\n  e@x\nroot: a@x\n@x a@x\n");
    let line =
        "users build --from csv --input one.csv --input two.csv --aliases virtual --output users.table";
    let built = run(at, line);
    assert_eq!((built.status.code(), built.stdout.len()), (Some(1), 0));
    let said = said(&built);
    for begin in [
        "one.csv: line 3, field uid: the uid is 0, and mail is never delivered as root; ",
        "one.csv: line 4, field home: the path has a control character; ",
        "two.csv: line 5, field home: the path is not absolute; ",
        "two.csv: line 4, field address: d@x is on line 6 of one.csv already; remove one of them",
        "virtual: line 5, field address: this looks like aliases(5), ",
        "5 bad lines: nothing was published",
    ] {
        let line = format!("posthaste users: {begin}");
        assert!(said.iter().any(|said| said.starts_with(&line)), "{line}\n{said:#?}");
    }
    assert_eq!(said.len(), 6, "{said:#?}");
    assert!(!at.join("users.table").exists());
}

#[test]
fn a_source_that_fails_in_front_of_the_pipe_publishes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for format in ["passwd-file", "csv", "tsv", "json"] {
        let built = run(directory.path(), &format!("users build --from {format} --output users.table"));
        assert_eq!(built.status.code(), Some(1), "{format}");
        assert!(!directory.path().join("users.table").exists());
    }
}

#[test]
fn the_systems_users_are_asked_of_getent_and_its_failure_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let getent = |script: &str| {
        let path = at.join("getent");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        posthaste(at, "users build --from nss --output users.table").env("PATH", at).output().unwrap()
    };
    let built =
        getent("test \"$*\" = passwd && echo root:x:0:0::/root: && echo alice:x:1000:1000::/home/alice:");
    assert!(built.status.success(), "{:?}", said(&built));
    let dumped = run(at, "users dump users.table");
    assert_eq!(dumped.stdout, b"alice::1000:1000::/home/alice::userdb_mail=maildir:~/Maildir\n");

    let failed = getent("echo bob:x:1000:1000::/home/bob:; echo no server >&2; exit 2");
    assert_eq!(failed.status.code(), Some(1));
    let expected =
        "posthaste users: cannot read getent passwd: \"getent passwd\" failed (exit status: 2): no server";
    assert_eq!(said(&failed), [expected]);
    assert_eq!(run(at, "users dump users.table").stdout, dumped.stdout);
}

#[test]
fn tables_that_differ_are_told_apart_by_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    write(at, "old", "a@x:::::/a\nb@x:::::/b\n");
    write(at, "new", "b@x:::::/c\nc@x:::::/c\n");
    for name in ["old", "new"] {
        let line = format!("users build --from passwd-file --input {name} --output {name}.table");
        assert!(run(at, &line).status.success());
    }
    let differ = run(at, "users diff old.table new.table");
    assert_eq!(differ.status.code(), Some(1));
    let text = String::from_utf8(differ.stdout).unwrap();
    assert!(!text.contains('\x1b'), "no colours in a pipe");
    assert!(text.ends_with("1 added, 1 removed, 1 changed, 0 the same\n"), "{text}");
    assert_eq!(run(at, "users diff old.table old.table").status.code(), Some(0));
    assert_eq!(run(at, "users diff old.table").status.code(), Some(2));
    assert_eq!(run(at, "users diff old.table old").status.code(), Some(3));
}
