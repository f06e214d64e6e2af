//! The `[[listen]]` tables.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Problem;
use super::section::{Problems, Section, absolute, expected, string};
use super::{Account, Host, ListenAddress, ListenConfig, Service};

/// All listeners of the file, in its order.
pub(super) fn all(host: &Host, document: &DeTable<'_>, problems: &mut Problems<'_>) -> Vec<ListenConfig> {
    let Some(value) = document.get("listen") else {
        problems.list.push(Problem::of_the_file("there is no listener".to_owned(), EXAMPLE.to_owned()));
        return Vec::new();
    };
    let Some(tables) = value.get_ref().as_array() else {
        let advice = "write [[listen]], with two brackets, once for each listener";
        problems.at(value.span(), "`listen` is a list of tables".to_owned(), advice.to_owned());
        return Vec::new();
    };
    if tables.is_empty() {
        problems.at(value.span(), "there is no listener".to_owned(), EXAMPLE.to_owned());
    }

    let mut found: Vec<(ListenConfig, std::ops::Range<usize>)> = Vec::new();
    for table in tables {
        let Some((listener, span)) = one(host, table, problems) else {
            continue;
        };
        let address = listener.address.to_string();
        let same = found.iter().find(|(other, _)| other.address.to_string() == address);
        if let Some((_, earlier)) = same {
            let message = format!("two listeners for {address}");
            let mut problem =
                Problem::at(problems.text, span.clone(), message, "remove one of them".to_owned());
            problem.earlier = Some((earlier.clone(), "the other one".to_owned()));
            problems.list.push(problem);
        }
        found.push((listener, span));
    }
    found.into_iter().map(|(listener, _)| listener).collect()
}

/// One listener and where its address stands.
fn one(
    host: &Host,
    table: &Spanned<DeValue<'_>>,
    problems: &mut Problems<'_>,
) -> Option<(ListenConfig, std::ops::Range<usize>)> {
    let Some(entries) = table.get_ref().as_table() else {
        let advice = expected("a table with the key `lmtp` or `map`", table.get_ref());
        problems.at(table.span(), "wrong value for `listen`".to_owned(), advice);
        return None;
    };
    let mut section = Section::new("listen", Some(entries), problems);
    let mode = section.optional("mode", mode);
    let user = section.optional("user", |value| account(host.user, "user", value));
    let group = section.optional("group", |value| account(host.group, "group", value));
    let named = SERVICES.iter().filter_map(|(key, service)| Some((*key, *service, section.raw(key)?)));
    let named: Vec<_> = named.collect();
    let (key, service, value) = match named.as_slice() {
        [one] => *one,
        [] => {
            problems.at(table.span(), "a listener without address".to_owned(), EXAMPLE.to_owned());
            return None;
        }
        [several @ .., (key, _, last)] => {
            let message = "a listener with two addresses".to_owned();
            let advice = format!("move `{key}` to a [[listen]] of its own");
            let mut problem = Problem::at(problems.text, last.span(), message, advice);
            problem.earlier = several.first().map(|(_, _, other)| (other.span(), "the other one".to_owned()));
            problems.list.push(problem);
            return None;
        }
    };
    let address = match section.optional(key, address)? {
        ListenAddress::Unix { path, .. } => {
            ListenAddress::Unix { path, mode: mode.unwrap_or(MODE), user, group }
        }
        other => {
            for key in ["mode", "user", "group"] {
                section.refuse(key, "only a socket file (`unix:`) has this".to_owned());
            }
            other
        }
    };
    Some((ListenConfig { service, address }, value.span()))
}

/// The address of a listener; a socket file gets its attributes later.
fn address(value: &DeValue<'_>) -> Result<ListenAddress, String> {
    let text = string(value)?;
    match text.split_once(':') {
        Some(("unix", path)) => unix(path),
        Some(("tcp", address)) => Ok(ListenAddress::Tcp { address: tcp(address)? }),
        Some(("systemd", name)) => systemd(name),
        _ => Err("expected \"unix:/PATH\", \"tcp:HOST:PORT\" or \"systemd:NAME\"".to_owned()),
    }
}

fn unix(path: &str) -> Result<ListenAddress, String> {
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(format!(
            "a socket path has at most {UNIX_PATH_BYTES_MAX} bytes, this one has {}",
            path.len()
        ));
    }
    let path = absolute(path)?;
    if path.file_name().is_none() {
        return Err("this names no socket file".to_owned());
    }
    Ok(ListenAddress::Unix { path, mode: MODE, user: None, group: None })
}

/// A literal address. Names are not looked up: a server must not wait for a resolver to start, and must
/// not listen somewhere else because an answer changed. `localhost` is 127.0.0.1, always.
fn tcp(text: &str) -> Result<SocketAddr, String> {
    let bad = "expected a literal address and a port: \"tcp:127.0.0.1:24\", \"tcp:[::1]:24\"";
    if let Some(port) = text.strip_prefix("localhost:") {
        let port: u16 = port.parse().map_err(|_| bad.to_owned())?;
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| bad.to_owned())
}

/// What systemd allows for `FileDescriptorName=` (systemd.socket(5)).
fn systemd(name: &str) -> Result<ListenAddress, String> {
    let clean = name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic() && byte != b':');
    if name.is_empty() || name.len() > 255 || !clean {
        return Err("expected the `FileDescriptorName=` of a socket unit".to_owned());
    }
    Ok(ListenAddress::Systemd { name: name.to_owned() })
}

fn mode(value: &DeValue<'_>) -> Result<u32, String> {
    let wanted = "permission bits as an octal string such as \"0600\"";
    let text = value.as_str().ok_or_else(|| expected(wanted, value))?;
    let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(bits) if octal && bits <= 0o777 => Ok(bits),
        _ => Err(format!("expected {wanted}, at most \"0777\"")),
    }
}

/// A name that this host knows, or a number, which need not be known.
fn account(
    find: fn(&str) -> std::io::Result<Option<u32>>,
    what: &str,
    value: &DeValue<'_>,
) -> Result<Account, String> {
    let name = match value {
        DeValue::Integer(digits) => u32::from_str_radix(digits.as_str(), digits.radix())
            .map_err(|_| format!("{digits} is no {what}"))?
            .to_string(),
        _ => value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| expected(&format!("the name or number of a {what}"), value))?,
    };
    // All ones is "leave it alone" to chown(2), never an account.
    if let Ok(id) = name.parse::<u32>() {
        return if id == u32::MAX { Err(format!("{id} is no {what}")) } else { Ok(Account { name, id }) };
    }
    match find(&name) {
        Ok(Some(id)) => Ok(Account { name, id }),
        Ok(None) => Err(format!("this host has no {what} {name:?}: create it, or name another")),
        Err(error) => Err(format!("cannot look up the {what} {name:?}: {error}")),
    }
}

/// The keys that name an address, and what is spoken there.
pub(super) const SERVICES: &[(&str, Service)] = &[("lmtp", Service::Lmtp), ("map", Service::Map)];
const EXAMPLE: &str = "give it one: `lmtp` for mail or `map` for look-ups, = \"unix:/PATH\", \"tcp:HOST:PORT\" or \
                       \"systemd:NAME\"";
/// Only the owner: who else may hand in mail is a decision of the site.
const MODE: u32 = 0o600;
/// `sun_path` has 108 bytes and the kernel wants room for a NUL (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;
