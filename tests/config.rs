//! The configuration as a user meets it: the shipped sample, the messages, the effective form.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste::control::config::{
    Account, Config, ConfigError, Durability, Host, KEYS, LineEndings, ListenAddress, ListenConfig,
    LogDeliveries, Service, UnknownDomain,
};

const SAMPLE: &str = include_str!("../posthaste.toml");

/// A listener, which every file needs, in as few lines as possible.
const LISTEN: &str = "listen = [{ lmtp = \"tcp:127.0.0.1:2424\" }]\n";

/// The examples of the sample that are no defaults, as they depend on the machine or have none.
const EXAMPLES: &[&str] =
    &["hostname", "postmaster", "workers", "[[listen]]", "lmtp", "map", "user", "group", "root"];

#[test]
fn the_sample_is_valid_as_it_is_shipped() {
    let config = parse(SAMPLE).unwrap();
    assert_eq!(config.to_string(), parse(&uncommented(EXAMPLES)).unwrap().to_string());
}

#[test]
fn the_sample_shows_every_key_and_no_other() {
    let document: toml::Table = uncommented(&[]).parse().unwrap();
    for (table, keys) in KEYS {
        let shown: BTreeSet<&str> = match document.get(*table) {
            None => document.keys().map(String::as_str).collect(),
            Some(toml::Value::Array(tables)) => {
                tables.iter().flat_map(|table| table.as_table().unwrap().keys()).map(String::as_str).collect()
            }
            Some(value) => value.as_table().unwrap().keys().map(String::as_str).collect(),
        };
        assert_eq!(shown, keys.iter().copied().collect(), "in [{table}]");
    }
}

#[test]
fn every_example_of_the_sample_would_be_accepted() {
    let config = parse(&uncommented(&[])).unwrap();
    assert_eq!(config.hostname, "mx.example.net");
    assert_eq!(config.listen.len(), 4);
    assert_eq!(config.listen[3].service, Service::Map);
}

#[test]
fn an_unknown_key_names_file_line_and_column_and_suggests_the_nearest() {
    let text = format!("{LISTEN}\n[limits]\nidle_timout = \"5m\"\n");
    assert_eq!(
        parse(&text).unwrap_err().to_string(),
        "\
error: unknown key `idle_timout` in [limits]
 --> posthaste.toml:4:1
  |
4 | idle_timout = \"5m\"
  | ^^^^^^^^^^^ did you mean `idle_timeout`?"
    );
}

#[test]
fn a_wrong_value_is_shown_with_what_was_expected() {
    let text = format!("{LISTEN}\n[limits]\nidle_timeout = 300\n");
    assert_eq!(
        parse(&text).unwrap_err().to_string(),
        "\
error: wrong value for `limits.idle_timeout`
 --> posthaste.toml:4:16
  |
4 | idle_timeout = 300
  |                ^^^ expected a duration such as \"5m\", found 300"
    );
}

#[test]
fn two_listeners_for_one_address_are_both_shown() {
    let text = "[[listen]]\nlmtp = \"tcp:127.0.0.1:24\"\n[[listen]]\nlmtp = \"tcp:localhost:24\"\n";
    assert_eq!(
        parse(text).unwrap_err().to_string(),
        "\
error: two listeners for tcp:127.0.0.1:24
 --> posthaste.toml:4:8
  |
2 | lmtp = \"tcp:127.0.0.1:24\"
  |        ------------------ the other one
3 | [[listen]]
4 | lmtp = \"tcp:localhost:24\"
  |        ^^^^^^^^^^^^^^^^^^ remove one of them"
    );
}

#[test]
fn a_file_without_listener_says_how_to_write_one() {
    let shown = parse("").unwrap_err().to_string();
    assert!(shown.contains("there is no listener"), "{shown}");
    assert!(shown.contains("unix:/PATH"), "{shown}");
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let text = "\
hostnme = \"a\"
workers = 0
[[listen]]
lmtp = \"tcp:nowhere\"
mod = \"0600\"
[users]
tabel = \"/t\"
[maildir]
durability = \"jurnal\"
";
    let error = parse(text).unwrap_err();
    let places: Vec<(usize, usize)> =
        error.problems().iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(1, 1), (2, 11), (4, 8), (5, 1), (7, 1), (9, 14)]);
}

#[test]
fn columns_count_characters_not_bytes() {
    let text = format!("{LISTEN}users = {{ \"t\u{e4}bel\" = 1, tabel = 2 }}");
    let error = parse(&text).unwrap_err();
    assert_eq!((error.problems()[1].line, error.problems()[1].column), (2, 24));
}

#[test]
fn what_is_not_toml_is_shown_where_it_breaks() {
    let error = parse("hostname = \n[[listen]\n").unwrap_err();
    let lines: Vec<usize> = error.problems().iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 2]);
    assert!(error.to_string().contains("this is not TOML"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load("/nonexistent/posthaste.toml".as_ref()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert!(error.to_string().contains("/nonexistent/posthaste.toml"), "{error}");
}

#[test]
fn colour_is_only_where_it_is_asked_for() {
    let error = parse("nonsense = 1").unwrap_err();
    assert!(error.render(true).contains('\u{1b}'));
    assert!(!error.render(false).contains('\u{1b}'));
}

#[test]
fn defaults_come_from_the_machine_or_are_those_of_the_manual() {
    let config = parse(LISTEN).unwrap();
    assert_eq!(config.hostname, "host.example.org");
    assert_eq!(config.postmaster, "postmaster@host.example.org");
    assert_eq!(config.workers, 3);
    assert_eq!(config.users.table.to_str(), Some("/var/lib/posthaste/users.table"));
    assert_eq!(config.maildir.durability, Durability::Journal);
    assert_eq!(config.maildir.line_endings, LineEndings::Crlf);
    assert!(!config.maildir.detail_to_folder && !config.maildir.create_folder);
    assert_eq!(config.users.unknown_domain, UnknownDomain::NoDomain);
    assert_eq!(config.limits.message_size, 50 << 20);
    assert_eq!(config.limits.idle_timeout, Duration::from_mins(5));
    assert_eq!(config.limits.data_rate_min, 500);
    assert_eq!(config.log.deliveries, LogDeliveries::All);
}

#[test]
fn the_table_lies_in_the_state_directory_unless_told_otherwise() {
    let config = parse(&format!("state_dir = \"/srv/mail\"\n{LISTEN}")).unwrap();
    assert_eq!(config.users.table.to_str(), Some("/srv/mail/users.table"));
}

#[test]
fn a_host_name_that_cannot_stand_in_mail_asks_for_one_that_can() {
    let host = Host { hostname: "my host".to_owned(), ..host() };
    let error = Config::parse_for(&host, LISTEN, "posthaste.toml").unwrap_err();
    assert!(error.to_string().contains("set `hostname`"), "{error}");
    let named = format!("hostname = \"mx\"\n{LISTEN}");
    assert!(Config::parse_for(&host, &named, "posthaste.toml").is_ok());
}

#[test]
fn a_socket_file_has_mode_owner_and_group() {
    let text = "[[listen]]\nlmtp = \"unix:/run/p/lmtp\"\nmode = \"0666\"\nuser = \"postfix\"\ngroup = 7\n";
    assert_eq!(
        parse(text).unwrap().listen,
        [ListenConfig {
            service: Service::Lmtp,
            address: ListenAddress::Unix {
                path: "/run/p/lmtp".into(),
                mode: 0o666,
                user: Some(Account { name: "postfix".to_owned(), id: 102 }),
                group: Some(Account { name: "7".to_owned(), id: 7 }),
            },
        }]
    );
}

#[test]
fn a_listener_for_look_ups_has_the_same_addresses() {
    let text = "[[listen]]\nmap = \"unix:/run/p/map\"\nmode = \"0666\"\n\
                [[listen]]\nmap = \"tcp:[::1]:26\"\n[[listen]]\nmap = \"systemd:map\"\n";
    let config = parse(text).unwrap();
    assert!(config.listen.iter().all(|listener| listener.service == Service::Map));
    let addresses: Vec<String> = config.listen.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["unix:/run/p/map", "tcp:[::1]:26", "systemd:map"]);
    assert!(config.to_string().contains("\n[[listen]]\nmap = \"unix:/run/p/map\"\nmode = \"0666\"\n"));
}

#[test]
fn a_listener_for_mail_and_look_ups_at_once_is_shown_with_both() {
    let text = "[[listen]]\nlmtp = \"unix:/run/p/lmtp\"\nmap = \"unix:/run/p/map\"\n";
    assert_eq!(
        parse(text).unwrap_err().to_string(),
        "\
error: a listener with two addresses
 --> posthaste.toml:3:7
  |
2 | lmtp = \"unix:/run/p/lmtp\"
  |        ------------------ the other one
3 | map = \"unix:/run/p/map\"
  |       ^^^^^^^^^^^^^^^^^ move `map` to a [[listen]] of its own"
    );
}

#[test]
fn a_listener_without_address_is_shown_with_both_keys() {
    let error = parse("[[listen]]\nmode = \"0600\"\n").unwrap_err();
    assert_eq!((error.problems()[0].line, error.problems()[0].column), (1, 1));
    let shown = error.to_string();
    assert!(shown.contains("`lmtp` for mail") && shown.contains("`map` for look-ups"), "{shown}");
}

/// Each of these lines, alone in an otherwise good file, is one problem with these words in it.
#[test]
fn values_out_of_their_bounds_are_refused() {
    let long = format!("lmtp = \"unix:/{}\"", "p".repeat(107));
    for (table, line, words) in [
        ("", "hostname = \"a b\"", "printable ASCII"),
        ("", "hostname = \"a/b\"", "printable ASCII"),
        ("", "hostname = \"\"", "not empty"),
        ("", "postmaster = \"postmaster\"", "postmaster@example.net"),
        ("", "state_dir = \"var\"", "absolute"),
        ("", "state_dir = \"/var/../etc\"", "without `..`"),
        ("", "workers = 0", "from 1 to 1024"),
        ("", "workers = \"2\"", "whole number"),
        ("listen", "lmtp = \"unix:relative\"", "absolute"),
        ("listen", "lmtp = \"unix:/\"", "no socket file"),
        ("listen", long.as_str(), "at most 107 bytes, this one has 108"),
        ("listen", "lmtp = \"tcp:mail.example.net:24\"", "literal address"),
        ("listen", "lmtp = \"tcp:127.0.0.1\"", "literal address"),
        ("listen", "lmtp = \"systemd:\"", "FileDescriptorName"),
        ("listen", "lmtp = \"/run/lmtp\"", "unix:/PATH"),
        ("listen", "map = \"unix:relative\"", "absolute"),
        ("listen", "map = \"tcp:127.0.0.1:25\"\nmode = \"0600\"", "only a socket file"),
        (
            "listen",
            "lmtp = \"tcp:[::1]:24\"\n[[listen]]\nmap = \"tcp:[::1]:24\"",
            "two listeners for tcp:[::1]:24",
        ),
        ("listen", "mode = \"0600\"", "without address"),
        ("listen", "lmtp = \"unix:/s\"\nmode = \"0999\"", "octal"),
        ("listen", "lmtp = \"unix:/s\"\nmode = \"1777\"", "at most \"0777\""),
        ("listen", "lmtp = \"unix:/s\"\nmode = \"+7\"", "octal"),
        ("listen", "lmtp = \"unix:/s\"\nmode = 600", "octal"),
        ("listen", "lmtp = \"unix:/s\"\nuser = \"nosuch\"", "no user \"nosuch\""),
        ("listen", "lmtp = \"unix:/s\"\ngroup = \"nosuch\"", "no group \"nosuch\""),
        (
            "listen",
            "lmtp = \"unix:/a//b\"\n[[listen]]\nlmtp = \"unix:/a/./b\"",
            "two listeners for unix:/a/b",
        ),
        ("listen", "lmtp = \"unix:/s\"\nuser = -1", "no user"),
        ("listen", "lmtp = \"unix:/s\"\nuser = 4294967295", "no user"),
        ("listen", "lmtp = \"tcp:[::1]:24\"\nmode = \"0600\"", "only a socket file"),
        ("users", "recipient_delimiter = \"a\"", "ASCII specials"),
        ("users", "recipient_delimiter = \"@\"", "ASCII specials"),
        ("users", "recipient_delimiter = \"++\"", "twice"),
        ("users", "local_domains = \"example.net\"", "list of domains"),
        ("users", "local_domains = [\"a b\"]", "no domain"),
        ("users", "unknown_domain = \"550\"", "expected one of `5.1.2`, `5.1.1`"),
        ("maildir", "detail_to_folder = 1", "true or false"),
        ("maildir", "create_folder = \"yes\"", "true or false"),
        ("maildir", "durability = \"fsyn\"", "did you mean `fsync`"),
        ("maildir", "line_endings = \"cr\"", "did you mean `crlf`"),
        ("maildir", "create = \"yes\"", "true or false"),
        ("maildir", "root = \"mail\"", "absolute"),
        ("maildir", "stream_above = \"8MiB\"", "a quarter of `limits.buffers`, which is 4MiB"),
        ("maildir", "journal_dir = \"journal\"", "absolute"),
        ("maildir", "journal_message_max = \"17MiB\"", "a quarter of `journal_segment`: here 16MiB"),
        ("maildir", "journal_segment = \"1MB\"", "from 1MiB to 1GiB"),
        ("maildir", "journal_segment = 1048577", "a multiple of 4KiB"),
        ("maildir", "checkpoint_interval = \"1h\"", "from 100ms to 10m"),
        ("limits", "message_size = \"50MX\"", "unit of a size"),
        ("limits", "message_size = -1", "not negative"),
        ("limits", "buffers = \"1023KiB\"", "from 1MiB"),
        ("limits", "recipients = 0", "from 1 to 100000"),
        ("limits", "idle_timeout = \"1ms\"", "from 100ms to 1d"),
        ("limits", "idle_timeout = \"5\"", "whole numbers and units"),
        ("log", "deliveries = \"some\"", "expected one of `all`, `failures`, `none`"),
    ] {
        let text = match table {
            "" => format!("{line}\n{LISTEN}"),
            "listen" => format!("[[listen]]\n{line}\n"),
            _ => format!("{LISTEN}[{table}]\n{line}\n"),
        };
        let error = parse(&text).expect_err(line);
        assert_eq!(error.problems().len(), 1, "{error}");
        assert!(error.to_string().contains(words), "{line}: {error}");
    }
}

#[test]
fn the_effective_configuration_parses_to_itself() {
    let full = "\
hostname = \"mx.example.net\"
postmaster = \"post.master@example.net\"
state_dir = \"/srv/\u{fc} b\\\"\\\\\"
workers = 7
[[listen]]
lmtp = \"unix:/run/a b\"
mode = \"0060\"
user = \"postfix\"
group = 12
[[listen]]
lmtp = \"tcp:[::]:24\"
[[listen]]
lmtp = \"systemd:lmtp in\"
[[listen]]
map = \"unix:/run/map\"
mode = \"0660\"
group = \"postfix\"
[users]
table = \"/t\"
recipient_delimiter = \"+-\"
local_domains = [\"A.example\", \"b.example\"]
unknown_domain = \"5.1.1\"
[maildir]
durability = \"none\"
line_endings = \"lf\"
create = false
detail_to_folder = true
create_folder = true
single_instance = true
root = \"/srv/mail\"
stream_above = 4097
journal_dir = \"/srv/journal\"
journal_message_max = 1025
journal_segment = \"1028KiB\"
checkpoint_interval = \"100ms\"
[limits]
message_size = \"1GB\"
recipients = 1
connections = 2
idle_timeout = \"1h30m\"
transaction_timeout = \"1500ms\"
data_rate_min = 0
buffers = \"3MB\"
bad_commands = 3
[log]
deliveries = \"failures\"
";
    for text in [full, LISTEN, SAMPLE] {
        let config = parse(text).unwrap();
        let printed = config.to_string();
        assert_eq!(parse(&printed).unwrap(), config, "{printed}");
    }
    let printed: toml::Table = parse(full).unwrap().to_toml().parse().unwrap();
    for (table, keys) in KEYS.iter().filter(|(table, _)| *table != "listen") {
        let here = if table.is_empty() { Some(&printed) } else { printed[*table].as_table() };
        for key in *keys {
            assert!(here.unwrap().contains_key(*key), "{table}.{key} is not printed");
        }
    }
}

#[test]
fn this_machine_has_defaults_that_work() {
    let config = Config::parse(&format!("hostname = \"mx\"\n{LISTEN}"), "posthaste.toml").unwrap();
    assert!(config.workers >= 1);
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse_for(&host(), text, "posthaste.toml")
}

/// A machine that is the same wherever the tests run.
fn host() -> Host {
    Host {
        hostname: "host.example.org".to_owned(),
        cpus: 3,
        user: |name| Ok((name == "postfix").then_some(102)),
        group: |name| Ok((name == "postfix").then_some(105)),
    }
}

/// The sample with every commented-out setting and table header switched on, except `left_out`.
fn uncommented(left_out: &[&str]) -> String {
    let name_of = |line: &str| {
        let (name, rest) = line.split_once(" = ").unwrap_or((line, ""));
        let is_key = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (line == "[[listen]]" || is_key && !rest.is_empty()).then(|| name.to_owned())
    };
    let switch_on = |line: &'static str| {
        let bare = line.strip_prefix('#')?;
        name_of(bare).filter(|name| !left_out.contains(&name.as_str())).map(|_| bare)
    };
    SAMPLE.lines().flat_map(|line| [switch_on(line).unwrap_or(line), "\n"]).collect()
}
