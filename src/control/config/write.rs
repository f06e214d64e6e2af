//! From [`Config`] back to TOML, nothing left to defaults.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::path::Path;

use super::listener::SERVICES;
use super::read::{DURABILITY, KEEP_IN, LINE_ENDINGS, LOG_DELIVERIES, UNKNOWN_DOMAIN};
use super::{Account, Config, ListenAddress, ListenConfig, unit};

/// The whole file.
pub(super) fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    write(&mut text, config).expect("a string takes everything");
    text
}

fn write(out: &mut String, config: &Config) -> std::fmt::Result {
    writeln!(out, "hostname = {}", quoted(&config.hostname))?;
    writeln!(out, "postmaster = {}", quoted(&config.postmaster))?;
    writeln!(out, "state_dir = {}", path(&config.state_dir))?;
    writeln!(out, "workers = {}", config.workers)?;
    for listener in &config.listen {
        write_listener(out, listener)?;
    }

    let users = &config.users;
    let domains: Vec<String> = users.local_domains.iter().map(|domain| quoted(domain)).collect();
    writeln!(out, "\n[users]")?;
    writeln!(out, "table = {}", path(&users.table))?;
    writeln!(out, "keep_in = {}", word(KEEP_IN, users.keep_in))?;
    writeln!(out, "lock_memory = {}", users.lock_memory)?;
    writeln!(out, "recipient_delimiter = {}", quoted(&users.recipient_delimiter))?;
    writeln!(out, "local_domains = [{}]", domains.join(", "))?;
    writeln!(out, "unknown_domain = {}", word(UNKNOWN_DOMAIN, users.unknown_domain))?;

    let maildir = &config.maildir;
    writeln!(out, "\n[maildir]")?;
    writeln!(out, "durability = {}", word(DURABILITY, maildir.durability))?;
    writeln!(out, "line_endings = {}", word(LINE_ENDINGS, maildir.line_endings))?;
    writeln!(out, "create = {}", maildir.create)?;
    writeln!(out, "detail_to_folder = {}", maildir.detail_to_folder)?;
    writeln!(out, "create_folder = {}", maildir.create_folder)?;
    writeln!(out, "single_instance = {}", maildir.single_instance)?;
    if let Some(root) = &maildir.root {
        writeln!(out, "root = {}", path(root))?;
    }
    writeln!(out, "stream_above = {}", size(maildir.stream_above))?;
    writeln!(out, "journal_dir = {}", path(&maildir.journal_dir))?;
    writeln!(out, "journal_message_max = {}", size(maildir.journal_message_max))?;
    writeln!(out, "journal_segment = {}", size(maildir.journal_segment))?;
    writeln!(out, "checkpoint_interval = {}", duration(maildir.checkpoint_interval))?;

    let limits = &config.limits;
    writeln!(out, "\n[limits]")?;
    writeln!(out, "message_size = {}", size(limits.message_size))?;
    writeln!(out, "recipients = {}", limits.recipients)?;
    writeln!(out, "connections = {}", limits.connections)?;
    writeln!(out, "idle_timeout = {}", duration(limits.idle_timeout))?;
    writeln!(out, "transaction_timeout = {}", duration(limits.transaction_timeout))?;
    writeln!(out, "data_rate_min = {}", size(limits.data_rate_min))?;
    writeln!(out, "buffers = {}", size(limits.buffers))?;
    writeln!(out, "bad_commands = {}", limits.bad_commands)?;

    writeln!(out, "\n[log]")?;
    writeln!(out, "deliveries = {}", word(LOG_DELIVERIES, config.log.deliveries))
}

fn write_listener(out: &mut String, listener: &ListenConfig) -> std::fmt::Result {
    writeln!(out, "\n[[listen]]")?;
    let (key, _) = SERVICES.iter().find(|(_, service)| *service == listener.service).expect("each has a key");
    writeln!(out, "{key} = {}", quoted(&listener.address.to_string()))?;
    let ListenAddress::Unix { mode, user, group, .. } = &listener.address else {
        return Ok(());
    };
    writeln!(out, "mode = \"{mode:04o}\"")?;
    for (key, account) in [("user", user), ("group", group)] {
        if let Some(Account { name, .. }) = account {
            writeln!(out, "{key} = {}", quoted(name))?;
        }
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Paths of a parsed file are UTF-8; others would lose their odd bytes here.
fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn size(bytes: u64) -> String {
    quoted(&unit::size_text(bytes))
}

fn duration(duration: std::time::Duration) -> String {
    quoted(&unit::duration_text(duration))
}

fn word<T: Copy + PartialEq>(words: &[(&str, T)], value: T) -> String {
    let (word, _) = words.iter().find(|(_, other)| *other == value).expect("every choice has a word");
    quoted(word)
}
