//! The names of all keys, and the nearest one to a name that is none.
#![forbid(unsafe_code)]

/// Every table of the file with its keys; the table without a name is the top of the file.
pub const KEYS: &[(&str, &[&str])] = &[
    ("", &["hostname", "postmaster", "state_dir", "workers", "listen", "users", "maildir", "limits", "log"]),
    ("listen", &["lmtp", "map", "mode", "user", "group"]),
    ("users", &["table", "keep_in", "lock_memory", "recipient_delimiter", "local_domains", "unknown_domain"]),
    (
        "maildir",
        &[
            "durability",
            "line_endings",
            "create",
            "detail_to_folder",
            "create_folder",
            "single_instance",
            "root",
            "stream_above",
            "journal_dir",
            "journal_message_max",
            "journal_segment",
            "checkpoint_interval",
        ],
    ),
    (
        "limits",
        &[
            "message_size",
            "recipients",
            "connections",
            "idle_timeout",
            "transaction_timeout",
            "data_rate_min",
            "buffers",
            "bad_commands",
        ],
    ),
    ("log", &["deliveries"]),
];

/// The keys of one table of [`KEYS`].
pub(super) fn of_table(table: &str) -> &'static [&'static str] {
    KEYS.iter().find(|(name, _)| *name == table).map(|(_, keys)| *keys).expect("only tables of KEYS are read")
}

/// What to say beside an unknown key: the key meant, the table it belongs to, or the keys there are.
pub(super) fn advice(table: &str, unknown: &str) -> String {
    let keys = of_table(table);
    if let Some(near) = nearest(unknown, keys.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    match KEYS.iter().find(|(name, keys)| *name != table && keys.contains(&unknown)) {
        Some(("", _)) => {
            format!("`{unknown}` belongs at the top of the file, before the first [table]")
        }
        Some(("listen", _)) => format!("`{unknown}` belongs in [[listen]]"),
        Some((home, _)) => format!("`{unknown}` belongs in [{home}]"),
        None => format!("the keys here are {}", listed(keys)),
    }
}

/// The candidate most like `word`, if one is alike enough to be meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (strsim::jaro_winkler(&word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate)
}

/// "`a`, `b`, `c`".
pub(super) fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// Jaro-Winkler likeness below which a suggestion would only mislead; clap uses 0.7 for its options.
const LIKENESS_MIN: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_its_key() {
        for (slip, meant) in [
            ("idle_timout", "idle_timeout"),
            ("idle-timeout", "idle_timeout"),
            ("Recipients", "recipients"),
            ("message_size_max", "message_size"),
            ("buffer", "buffers"),
        ] {
            assert_eq!(advice("limits", slip), format!("did you mean `{meant}`?"), "{slip}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_table_is_sent_home() {
        assert_eq!(advice("maildir", "idle_timeout"), "`idle_timeout` belongs in [limits]");
        assert_eq!(advice("users", "mode"), "`mode` belongs in [[listen]]");
        assert!(advice("limits", "hostname").contains("at the top of the file"));
    }

    #[test]
    fn a_key_like_no_other_gets_the_list() {
        assert_eq!(advice("log", "qqq"), "the keys here are `deliveries`");
    }
}
