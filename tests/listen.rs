//! Listeners on a real kernel: who may connect, what is replaced, what is refused, what systemd hands over.
#![forbid(unsafe_code)]

use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use posthaste::control::config::{Account, ListenAddress, ListenConfig, Service};
use posthaste::control::listen::{self, Family, ListenError, Listener};
use rustix::fs::OFlags;

#[test]
fn a_socket_file_has_the_mode_it_was_given_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o666, 0o777, 0o060, 0o000] {
        let path = directory.path().join(format!("{mode:o}"));
        let listener = open(unix(&path, mode)).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, mode);
        assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(listener.name, format!("unix:{}", path.display()));
        assert_eq!(listener.family, Family::Unix);
    }
}

#[test]
fn a_socket_file_belongs_to_whom_it_was_given() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: a_socket_file_belongs_to_whom_it_was_given: only root gives files away");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let account = |id| Some(Account { name: format!("{id}"), id });
    for (user, group, owner) in [
        (account(4_001), account(4_002), (4_001, 4_002)),
        (account(4_001), None, (4_001, 0)),
        (None, account(4_002), (0, 4_002)),
    ] {
        let path = directory.path().join("lmtp");
        let listener = open(ListenAddress::Unix { path: path.clone(), mode: 0o600, user, group }).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), owner);
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        drop(listener);
    }
}

#[test]
fn a_client_is_accepted_on_every_kind_of_listener() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let listener = open(unix(&path, 0o600)).unwrap();
    UnixStream::connect(&path).unwrap();
    assert_eq!(flags(&listener), (true, true));

    for (address, family) in [("127.0.0.1:0", Family::Inet), ("[::1]:0", Family::Inet6)] {
        if family == Family::Inet6 && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            eprintln!("NOT RUN: a_client_is_accepted_on_every_kind_of_listener: no IPv6 here");
            continue;
        }
        let listener = open(tcp(address)).unwrap();
        assert_eq!(listener.family, family);
        assert_eq!(flags(&listener), (true, true));
        let bound = listener.name.strip_prefix("tcp:").unwrap();
        assert!(!bound.ends_with(":0"), "the name has the real port: {bound}");
        TcpStream::connect(bound).unwrap();
    }
}

#[test]
fn an_ipv6_listener_leaves_ipv4_to_others() {
    let Ok(free) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) else {
        eprintln!("NOT RUN: an_ipv6_listener_leaves_ipv4_to_others: no IPv6 here");
        return;
    };
    let port = free.local_addr().unwrap().port();
    drop(free);
    let both = [tcp(&format!("[::]:{port}")), tcp(&format!("0.0.0.0:{port}"))];
    assert_eq!(listen::open(&both.map(lmtp)).unwrap().listeners.len(), 2);
}

#[test]
fn a_port_that_is_taken_is_refused_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = open(tcp(&taken.local_addr().unwrap().to_string())).unwrap_err();
    assert!(error.to_string().contains("another server listens there"), "{error}");
}

#[test]
fn a_stale_socket_file_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err(), "the file is there, nobody listens");
    let _listener = open(unix(&path, 0o600)).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_server_that_listens_keeps_its_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let first = open(unix(&path, 0o600)).unwrap();
    let error = open(unix(&path, 0o600)).unwrap_err();
    assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("another server listens"), "{error}");
    UnixStream::connect(&path).unwrap();
    drop(first);
}

#[test]
fn what_is_no_stream_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(open(unix(&path, 0o600)), Err(ListenError::InTheWay { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");

    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
    assert!(matches!(open(unix(&link, 0o600)), Err(ListenError::InTheWay { .. })));

    let datagrams = directory.path().join("datagrams");
    let _socket = std::os::unix::net::UnixDatagram::bind(&datagrams).unwrap();
    assert!(matches!(open(unix(&datagrams, 0o600)), Err(ListenError::InTheWay { .. })));
}

#[test]
fn a_missing_directory_is_named_with_a_remedy() {
    let error = open(unix("/nonexistent/run/lmtp".as_ref(), 0o600)).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/run") && error.contains("create it"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = open(unix(&file.join("lmtp"), 0o600)).unwrap_err().to_string();
    assert!(error.contains("is a file"), "{error}");
}

#[test]
fn the_socket_file_goes_with_its_listener() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let listener = open(unix(&path, 0o600)).unwrap();
    assert_eq!(listener.file.as_ref().unwrap().path(), path);
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn the_socket_file_of_a_successor_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lmtp");
    let listener = open(unix(&path, 0o600)).unwrap();
    std::fs::rename(&path, directory.path().join("moved")).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn one_listener_that_fails_takes_the_others_along() {
    let directory = tempfile::tempdir().unwrap();
    let good = directory.path().join("good");
    let both = [unix(&good, 0o600), unix("/nonexistent/lmtp".as_ref(), 0o600)];
    assert!(listen::open(&both.map(lmtp)).is_err());
    assert!(!good.exists());
}

#[test]
fn the_longest_path_of_the_kernel_works() {
    let directory = tempfile::tempdir().unwrap();
    let room = 107 - directory.path().as_os_str().len() - 1;
    let path = directory.path().join("p".repeat(room));
    let _listener = open(unix(&path, 0o600)).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn systemd_hands_over_all_sockets_of_a_name() {
    let said = handed_over(Stdio::from(listening()), "3<&0 4<&0", "lmtp:lmtp", "lmtp");
    let line = "listener systemd:lmtp Inet cloexec=true nonblocking=true file=false";
    assert_eq!(said, [line, line]);
}

#[test]
fn a_name_that_systemd_did_not_hand_over_lists_those_it_did() {
    let said = handed_over(Stdio::from(listening()), "3<&0", "smtp", "lmtp");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("error") && said[0].contains("[\"smtp\"]"), "{said:?}");
}

#[test]
fn a_socket_that_nobody_configured_is_a_warning() {
    let said = handed_over(Stdio::from(listening()), "3<&0 4<&0", "lmtp:other", "lmtp");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].starts_with("warning") && said[1].contains("systemd:other"), "{said:?}");
}

#[test]
fn a_descriptor_that_is_no_listening_stream_socket_is_refused() {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    for (stdin, reason) in [
        (Stdio::null(), "no socket"),
        (Stdio::from(OwnedFd::from(udp)), "ListenStream="),
        (Stdio::from(OwnedFd::from(client)), "Accept=no"),
    ] {
        let said = handed_over(stdin, "3<&0", "lmtp", "lmtp");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("error") && said[0].contains(reason), "{said:?}");
    }
}

#[test]
fn without_systemd_its_listener_says_what_to_start() {
    let error = open(ListenAddress::Systemd { name: "lmtp".to_owned() }).unwrap_err();
    assert!(error.to_string().contains("posthaste.socket"), "{error}");
}

/// The other side of [`handed_over`]: opens what its environment names and says what it got.
#[test]
#[ignore = "runs as the child of the tests about systemd, with descriptors handed over"]
fn child_of_systemd() {
    let name = std::env::var(CHILD).expect("started by `handed_over`");
    match listen::open(&[lmtp(ListenAddress::Systemd { name })]) {
        Err(error) => println!("\n{CHILD} error {error}"),
        Ok(opened) => {
            for listener in &opened.listeners {
                let Listener { name, family, file, .. } = listener;
                let (cloexec, nonblocking) = flags(listener);
                let file = file.is_some();
                print!("\n{CHILD} listener {name} {family:?} ");
                println!("cloexec={cloexec} nonblocking={nonblocking} file={file}");
            }
            for warning in &opened.warnings {
                println!("\n{CHILD} warning {warning}");
            }
        }
    }
}

/// What [`child_of_systemd`] says when `stdin` is handed over by the shell redirections `descriptors`,
/// under `names`, to a server configured with `systemd:configured`.
fn handed_over(stdin: Stdio, descriptors: &str, names: &str, configured: &str) -> Vec<String> {
    let count = names.split(':').count();
    // Only the process itself knows its number, and exec keeps it: what systemd does between the two.
    let script = format!("LISTEN_PID=$$ exec \"$0\" \"$@\" {descriptors}");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["child_of_systemd", "--exact", "--ignored", "--nocapture"])
        .env("LISTEN_FDS", count.to_string())
        .env("LISTEN_FDNAMES", names)
        .env(CHILD, configured)
        .stdin(stdin)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.lines().filter_map(|line| line.strip_prefix(CHILD)).map(|line| line[1..].to_owned()).collect()
}

fn listening() -> OwnedFd {
    TcpListener::bind("127.0.0.1:0").unwrap().into()
}

fn open(address: ListenAddress) -> Result<Listener, ListenError> {
    let mut opened = listen::open(&[lmtp(address)])?;
    assert_eq!(opened.listeners.len(), 1);
    Ok(opened.listeners.remove(0))
}

fn lmtp(address: ListenAddress) -> ListenConfig {
    ListenConfig { service: Service::Lmtp, address }
}

fn unix(path: &Path, mode: u32) -> ListenAddress {
    ListenAddress::Unix { path: path.to_path_buf(), mode, user: None, group: None }
}

fn tcp(address: &str) -> ListenAddress {
    ListenAddress::Tcp { address: address.parse().unwrap() }
}

/// Close-on-exec and nonblocking.
fn flags(listener: &Listener) -> (bool, bool) {
    let on_exec = rustix::io::fcntl_getfd(&listener.fd).unwrap();
    let status = rustix::fs::fcntl_getfl(&listener.fd).unwrap();
    (on_exec.contains(rustix::io::FdFlags::CLOEXEC), status.contains(OFlags::NONBLOCK))
}

const CHILD: &str = "POSTHASTE_TEST_LISTEN_CHILD";
