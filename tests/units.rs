//! The systemd units that are shipped, as systemd itself reads them.
#![forbid(unsafe_code)]

use std::process::Command;

use posthaste::control::config::{Config, ListenAddress, ListenConfig, Service};

const SERVICE: &str = include_str!("../systemd/posthaste.service");
const SOCKET: &str = include_str!("../systemd/posthaste.socket");
const MAP_SOCKET: &str = include_str!("../systemd/posthaste-map.socket");

#[test]
fn systemd_has_no_complaint_about_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("NOT RUN: systemd_has_no_complaint_about_the_units: systemd-analyze is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let service = directory.path().join("posthaste.service");
    let socket = directory.path().join("posthaste.socket");
    let map_socket = directory.path().join("posthaste-map.socket");
    // The binary is not installed where tests run, and systemd looks whether it can be executed.
    let here = SERVICE.replace("/usr/bin/posthaste", env!("CARGO_BIN_EXE_posthaste"));
    std::fs::write(&service, here).unwrap();
    std::fs::write(&socket, SOCKET).unwrap();
    std::fs::write(&map_socket, MAP_SOCKET).unwrap();

    let verdict = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args([&service, &socket, &map_socket])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verdict.stderr);
    assert!(verdict.status.success(), "{said}");
    let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("posthaste")).collect();
    assert_eq!(about_ours, Vec::<&str>::new());
}

#[test]
fn the_listener_that_a_socket_unit_names_is_valid() {
    for (unit, spoken) in [(SOCKET, Service::Lmtp), (MAP_SOCKET, Service::Map)] {
        let line = unit.lines().find(|line| line.contains("[[listen]]")).unwrap();
        let text = line.split_once(": ").unwrap().1.replace("]] ", "]]\n");
        let config = Config::parse(&format!("hostname = \"mx\"\n{text}"), "the unit").unwrap();
        let [ListenConfig { address: ListenAddress::Systemd { name }, service }] = config.listen.as_slice()
        else {
            panic!("{:?}", config.listen)
        };
        assert_eq!(*service, spoken);
        assert!(unit.contains(&format!("\nFileDescriptorName={name}\n")));
    }
}

#[test]
fn the_service_announces_readiness_and_has_room_for_the_default_connections() {
    assert!(SERVICE.contains("\nType=notify\n"));
    let limit = SERVICE.lines().find_map(|line| line.strip_prefix("LimitNOFILE=")).unwrap();
    let wanted = posthaste::sys::limit::files_wanted(20_000, 2);
    assert!(limit.parse::<u64>().unwrap() >= wanted);
    assert!(SERVICE.contains(&format!("needs {wanted} with two workers")));
}

#[test]
fn a_reload_by_systemd_is_the_command_for_the_configuration_that_is_served() {
    let config = |key: &str| {
        let line = SERVICE.lines().find_map(|line| line.strip_prefix(key)).expect("the unit has it");
        line.split_once(" --config ").expect("it names a configuration").1.to_owned()
    };
    assert!(SERVICE.contains("\nExecReload=/usr/bin/posthaste reload "));
    assert_eq!(config("ExecReload="), config("ExecStart="));
}
