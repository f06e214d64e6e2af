//! README.md and the help texts, held against the program and the repository: commands parse, configurations are
//! valid, files exist.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

const README: &str = include_str!("../README.md");
const ARCHITECTURE: &str = include_str!("../ARCHITECTURE.md");

#[test]
fn every_command_line_of_the_readme_is_one_that_the_program_takes() {
    let sessions = blocks(README, "console").join("\n");
    let commands = commands(&sessions);
    assert!(commands.len() >= 8, "{commands:?}");
    commands.iter().for_each(|words| assert_taken(words));
}

#[test]
fn every_example_of_a_help_text_is_one_that_the_program_takes() {
    let pages = [
        "",
        "reload",
        "recover",
        "users build",
        "users lookup",
        "users verify",
        "users dump",
        "users stats",
        "users diff",
    ];
    for page in pages {
        let arguments: Vec<&str> = page.split_whitespace().chain(["--help"]).collect();
        let help = String::from_utf8(posthaste(Path::new("."), &arguments).stdout).unwrap();
        let (_, examples) = help.split_once("Example").unwrap_or_else(|| panic!("{page:?} has no example"));
        let commands = commands(examples);
        assert!(!commands.is_empty(), "{help}");
        commands.iter().for_each(|words| assert_taken(words));
    }
}

#[test]
fn every_configuration_of_the_readme_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("posthaste.toml");
    let blocks = blocks(README, "toml");
    assert!(blocks.iter().any(|block| block.starts_with("# A whole file")));
    for block in blocks {
        // A part of a file gets the listener that every file needs; the account need not exist on this machine.
        let is_whole = block.starts_with("# A whole file") || block.contains("[[listen]]");
        let listen = if is_whole { "" } else { "listen = [{ lmtp = \"tcp:127.0.0.1:2424\" }]\n" };
        std::fs::write(&file, format!("{listen}{}", block.replace("= \"postfix\"", "= 0"))).unwrap();
        let checked = posthaste(directory.path(), &["check", "--config", "posthaste.toml"]);
        assert!(checked.status.success(), "{block}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn every_file_that_readme_and_architecture_name_is_in_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (page, text) in [("README.md", README), ("ARCHITECTURE.md", ARCHITECTURE)] {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        // What stands between backticks and begins like a path of ours. Blocks have three of them, so every
        // second part is still what stands in between.
        let quoted =
            text.split('`').skip(1).step_by(2).filter(|part| FOLDERS.iter().any(|f| part.starts_with(f)));
        let paths: Vec<&str> = links.filter(|link| !link.contains("://")).chain(quoted).collect();
        assert!(paths.len() >= 6, "{page}: {paths:?}");
        for path in paths {
            assert!(root.join(path).exists(), "{page} names {path}, which is not there");
        }
    }
}

/// The contents of the fenced blocks of this kind.
fn blocks<'t>(text: &'t str, kind: &str) -> Vec<&'t str> {
    let fence = format!("\n```{kind}\n");
    text.split(&*fence).skip(1).map(|rest| rest.split("\n```").next().unwrap_or(rest)).collect()
}

/// The arguments of each `posthaste` in shell lines (indented, or behind a prompt).
fn commands(text: &str) -> Vec<Vec<&str>> {
    let text: Vec<&str> =
        text.lines().filter(|line| line.starts_with("$ ") || line.starts_with("  ")).collect();
    let mut found: Vec<Vec<&str>> = Vec::new();
    let mut goes_on = false;
    for line in text {
        let words: Vec<&str> = line.split_whitespace().take_while(|word| *word != "|").collect();
        let (words, more) = match words.split_last() {
            Some((&"\\", words)) => (words.to_vec(), true),
            _ => (words, false),
        };
        match words.iter().position(|word| *word == "posthaste") {
            Some(at) if at <= 1 => found.push(words[at + 1..].to_vec()),
            _ if goes_on => found.last_mut().expect("the line before").extend(words),
            _ => {}
        }
        goes_on = more;
    }
    found
}

/// Runs a command where none of its files are, so that it fails for that reason; clap's refusal shows the usage.
fn assert_taken(words: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let mut words = words.to_vec();
    if words[0] == "demo" {
        // The only one that would do something.
        words.push("--help");
    }
    let elsewhere: Vec<String> = words
        .iter()
        .map(|word| match word.strip_prefix('/') {
            Some(path) => format!("{}/{path}", directory.path().display()),
            None => (*word).to_owned(),
        })
        .collect();
    let words: Vec<&str> = elsewhere.iter().map(String::as_str).collect();
    let said = posthaste(directory.path(), &words);
    let refused = String::from_utf8_lossy(&said.stderr).contains("Usage:");
    assert!(!refused, "posthaste {}: {}", words.join(" "), String::from_utf8_lossy(&said.stderr));
}

fn posthaste(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(arguments)
        .current_dir(directory)
        // Wide enough that no example is broken in two.
        .env("COLUMNS", "1000")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// How paths of the repository begin.
const FOLDERS: [&str; 6] = ["src/", "tests/", "perf/", "systemd/", "benches/", ".ci/"];
