//! The programs that compare servers, at work on a few messages: what they print is no figure, but that they print it is.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn the_comparison_runs_counts_and_draws() {
    if Command::new("python3").arg("--version").output().is_err() {
        return not_run("the_comparison_runs_counts_and_draws", "not installed: python3");
    }
    let directory = tempfile::tempdir().unwrap();
    let (json, svg) = (directory.path().join("report.json"), directory.path().join("chart.svg"));
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/compare"))
        .args(["--quick", "--connections", "8", "--sizes", "4KiB,mix", "--recipients", "2"])
        .args(["--messages", "200", "--rounds", "1", "--mailboxes", "50", "--no-install"])
        .args(["--servers", "journal,dovecot,raw-journal,raw-group"])
        .args(["--plain-directory".as_ref(), directory.path().as_os_str()])
        .args(["--posthaste", env!("CARGO_BIN_EXE_posthaste")])
        .args(["--json".as_ref(), json.as_os_str(), "--svg".as_ref(), svg.as_os_str()])
        .output()
        .unwrap();
    let (said, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaints}");
    assert!(said.contains("messages/s") && said.contains("lost: "), "{said}");

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let tables = report["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 2, "{said}");
    for table in tables {
        for name in ["journal", "raw-journal", "raw-group"] {
            let row = &table["rows"][name];
            assert_eq!(row["void"], Value::Null, "{name}: {said}");
            assert_eq!(row["median"]["messages"], 100, "{name}: 200 for all recipients together");
            assert!(row["median"]["messages_per_second"].as_f64().unwrap() > 0.0, "{name}");
        }
        let journal = &table["rows"]["journal"]["median"];
        assert!(journal["p99_ms"].as_f64().unwrap() >= journal["p50_ms"].as_f64().unwrap(), "{journal}");
        assert!(journal["memory_mib"].as_f64().unwrap() > 1.0, "{journal}");
        // Who is not installed, or may not run, is a row that says so.
        let dovecot = &table["rows"]["dovecot"];
        assert!(dovecot["median"].is_object() || dovecot["void"].is_string(), "{dovecot}");
    }
    let chart = fs::read_to_string(&svg).unwrap();
    assert!(chart.starts_with("<svg") && chart.contains("messages per second"), "{chart}");
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing stays but what was asked for: {left:?}");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    if Command::new("python3").arg("--version").output().is_err() {
        return not_run("what_makes_no_sense_is_refused_in_words", "not installed: python3");
    }
    for (arguments, why) in [
        (&["--servers", "sendmail"][..], "sendmail is not one of journal"),
        (&["--posthaste", "/nowhere/posthaste"], "cargo build --release --features load"),
        (&["--file-systems", "ntfs"], "ext4, xfs or plain"),
    ] {
        let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/compare"))
            .arg("--no-install")
            .args(arguments)
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaints.contains(why), "{arguments:?}: {complaints}");
    }
}

/// Reports a test that cannot run here, on standard error and in the file that `tests/run` shows at its end.
fn not_run(name: &str, why: &str) {
    let line = format!("NOT RUN {name}: {why}");
    eprintln!("{line}");
    if let Some(list) = std::env::var_os("POSTHASTE_TEST_NOT_RUN") {
        use std::io::Write as _;
        let mut file = fs::File::options().create(true).append(true).open(list).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line} (in CI every test must run)");
}
