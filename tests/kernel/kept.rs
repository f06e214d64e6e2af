//! A store that keeps the directories of mailboxes for a moment notices soon what becomes of these.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use posthaste::maildir::KEEP;
use posthaste::ring::Owner;
use posthaste::ring::uring::LinkBy;

use crate::ground::Ground;
use crate::naming::{deliver_by, store};
use crate::ring::{on, ring};
use crate::stored::only_in;

/// Delivers twice with a store that keeps directories, does `between` in between, and gives the second name.
fn delivered_after(ground: &Ground, between: impl FnOnce(&Path) + 'static, waits: bool) -> String {
    let home = ground.directory_of("home", None);
    on(ring(LinkBy::ProcPath), move |exec| async move {
        let store = store(Rc::clone(&exec), 8);
        // The first message makes the mailbox; the second one opens it, and it is kept.
        for _ in 0..2 {
            deliver_by(&store, &home, Owner::Server).await.expect("a delivery");
        }
        between(&home);
        if waits {
            exec.sleep_until(exec.now().after(KEEP)).await;
        }
        deliver_by(&store, &home, Owner::Server).await.expect("a delivery")
    })
}

#[test]
fn a_removed_mailbox_is_made_again_at_once() {
    let ground = Ground::new();
    let remove = |home: &Path| fs::remove_dir_all(home.join("Maildir")).expect("it was there");
    let name = delivered_after(&ground, remove, false);
    assert_eq!(only_in(&ground.path("home/Maildir")).name, name);
}

#[test]
fn mail_for_a_mailbox_that_was_moved_goes_to_its_successor_a_moment_later() {
    let ground = Ground::new();
    let replace = |home: &Path| {
        fs::rename(home.join("Maildir"), home.join("Maildir.old")).expect("it was there");
    };
    let name = delivered_after(&ground, replace, true);
    assert_eq!(only_in(&ground.path("home/Maildir")).name, name);
    assert_eq!(fs::read_dir(ground.path("home/Maildir.old/new")).expect("moved").count(), 2);
}
