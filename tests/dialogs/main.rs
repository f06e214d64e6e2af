//! Dialogs: sessions written down, played over the simulated and the real ring.
//!
//! Each `NAME.lmtp` beside this file shows one behaviour. README.md describes how to read and write
//! them.
#![forbid(unsafe_code)]

mod crowd;
mod lookups;
mod play;
mod real;
mod script;
mod server;
mod simulated;

use std::path::{Path, PathBuf};

use script::Script;

/// Makes a test of each dialog, or two.
macro_rules! dialogs {
    (on_both_rings: $($both:ident)*; on_the_simulated_ring: $($simulated:ident)*;) => {
        $(mod $both {
            #[test]
            fn goes_as_written_on_the_simulated_ring() {
                crate::simulated::run(&crate::dialog(stringify!($both)));
            }

            #[test]
            fn goes_as_written_on_the_real_ring() {
                crate::real::run(&crate::dialog(stringify!($both)));
            }
        })*
        $(mod $simulated {
            #[test]
            fn goes_as_written_on_the_simulated_ring() {
                crate::simulated::run(&crate::dialog(stringify!($simulated)));
            }
        })*

        const ON_BOTH_RINGS: &[&str] = &[$(stringify!($both)),*];
        const ON_THE_SIMULATED_RING: &[&str] = &[$(stringify!($simulated)),*];
    };
}

dialogs! {
    on_both_rings:
        alias
        alias_with_a_detail
        all_recipients_unknown
        any_octets
        bare_line_feeds_end_commands
        catch_all
        chunk_without_a_size
        chunks
        chunks_out_of_sequence
        chunks_over_the_limit
        chunks_with_an_empty_last_one
        commands_out_of_sequence
        detail_and_case
        detail_to_a_folder
        detail_to_a_folder_behind_a_symbolic_link
        detail_to_a_missing_folder
        detail_to_a_new_folder
        dot_stuffing
        empty_message
        greeting_and_capabilities
        half_closed_client
        hostile_details
        hostile_details_and_folders
        impatient_client
        large_message
        large_message_that_never_ends
        last_chunk_without_recipients
        lhlo_without_a_name
        line_endings_lf
        local_domain
        long_lines
        mail_without_lhlo
        mailbox_behind_a_symbolic_link
        malformed_addresses
        message_over_the_limit
        missing_maildir
        next_transaction_in_the_packet_that_ends_one
        one_message
        one_reply_for_each_recipient
        parameters
        postmaster
        recipient_given_twice
        reset_forgets_the_transaction
        silent_end_between_transactions
        single_instance
        size_is_refused_at_mail
        small_commands
        smtp_greetings_are_refused
        smuggling
        too_many_bad_commands
        too_many_recipients
        unknown_domain
        unknown_domain_as_an_unknown_user
        unknown_user
        unusual_addresses
        utf8_addresses
        utf8_addresses_without_smtputf8
        utf8_detail_to_a_new_folder
        vanishing_after_the_end_of_data
        vanishing_before_the_end_of_data
        vanishing_before_the_last_chunk
        verification_probe_in_one_packet
        whole_session_in_few_packets;
    on_the_simulated_ring:
        alias_with_a_mailbox_that_fails
        connection_reset
        disk_full
        failed_group_sync
        failed_sync
        failed_log_of_the_file_system
        failed_sync_of_a_name
        idle_between_transactions_is_not_a_transaction
        idle_in_a_transaction
        idle_timeout
        internet_client
        message_that_stalls
        message_that_trickles
        no_more_inodes
        no_unnamed_files
        no_unnamed_files_single_instance
        new_folder_that_cannot_be_subscribed
        new_folder_with_a_full_disk
        out_of_descriptors
        quota_of_the_file_system
        read_only_disk
        transaction_timeout;
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs")
}

fn dialog(name: &str) -> Script {
    let path = directory().join(format!("{name}.lmtp"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Script::parse(&text)
}

#[test]
fn every_dialog_has_its_test() {
    let mut files: Vec<String> = std::fs::read_dir(directory())
        .expect("the directory of this file")
        .map(|entry| entry.expect("the directory of this file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "lmtp"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut listed: Vec<&str> = ON_BOTH_RINGS.iter().chain(ON_THE_SIMULATED_RING).copied().collect();
    listed.sort_unstable();
    assert_eq!(files, listed);
}

#[test]
fn dialogs_that_only_the_simulated_ring_can_play_say_so() {
    for name in ON_BOTH_RINGS {
        assert!(!dialog(name).simulated_only, "{name}");
    }
    for name in ON_THE_SIMULATED_RING {
        assert!(dialog(name).simulated_only, "{name}");
    }
}
