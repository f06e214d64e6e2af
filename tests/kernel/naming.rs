//! An unnamed file gets its name, as its owner and with no right of the server's.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::rc::Rc;

use posthaste::exec::Exec;
use posthaste::maildir::{Draft, Durability, Fault, Mailbox, NameMaker, Place, Settings, Sizes, Step, Store};
use posthaste::ring::uring::{LinkBy, link_by};
use posthaste::ring::{Bytes, Owner};
use rustix::io::Errno;

use crate::ground::{Ground, give, needs_root, not_run, own_directory};
use crate::ring::{on, ring};
use crate::stored::{assert_no_litter, only_in};

#[test]
fn a_file_is_named_by_its_descriptor_under_its_owners_identity() {
    const NAME: &str = "a_file_is_named_by_its_descriptor_under_its_owners_identity";
    if !needs_root(NAME, "only root may act for another owner") {
        return;
    }
    if link_by(&[&std::env::temp_dir(), Path::new("/dev/shm")]) != LinkBy::Descriptor {
        return not_run(NAME, "this kernel is older than 6.10");
    }
    deliver_as_another_owner(LinkBy::Descriptor);
}

#[test]
fn a_file_is_named_by_its_path_in_proc_under_its_owners_identity() {
    const NAME: &str = "a_file_is_named_by_its_path_in_proc_under_its_owners_identity";
    if needs_root(NAME, "only root may act for another owner") {
        deliver_as_another_owner(LinkBy::ProcPath);
    }
}

#[test]
fn both_ways_of_naming_work_for_the_servers_own_files() {
    let ground = Ground::new();
    let mut ways = vec![LinkBy::ProcPath];
    ways.extend((link_by(&[&ground.path("")]) == LinkBy::Descriptor).then_some(LinkBy::Descriptor));
    for way in ways {
        let home = ground.directory_of(format!("{way:?}"), None);
        let name = deliver(way, &home, Owner::Server).expect("a delivery");
        assert_eq!(only_in(&home.join("Maildir")).name, name);
    }
}

#[test]
fn no_group_of_the_server_opens_a_door_to_a_mail_owner() {
    const NAME: &str = "no_group_of_the_server_opens_a_door_to_a_mail_owner";
    if !needs_root(NAME, "only root may act for another owner") {
        return;
    }
    let ground = Ground::new();
    // Behind the door everybody may write; only members of a group of the server get that far.
    let home = ground.path("door/home");
    own_directory(&home, None);
    give(&home, None, 0o777);
    chown(ground.path("door"), Some(0), Some(SERVERS_GROUP)).expect("a group");
    fs::set_permissions(ground.path("door"), fs::Permissions::from_mode(0o770)).expect("a mode");

    // A thread of its own, as the groups stay with it. The ring is made after they are.
    let server = std::thread::spawn(move || {
        let group = rustix::process::Gid::from_raw(SERVERS_GROUP);
        rustix::thread::set_thread_groups(&[group, rustix::process::Gid::ROOT]).expect("root may");
        let stranger = deliver(LinkBy::ProcPath, &home, Owner::User { uid: 20_001, gid: 20_001 });
        let refused = stranger.expect_err("not a member");
        assert_eq!((refused.step, refused.errno), (Step::OpenMailbox, Errno::ACCESS));
        let member = deliver(LinkBy::ProcPath, &home, Owner::User { uid: 20_002, gid: SERVERS_GROUP });
        member.expect("the group of the mail owner opens it");
    });
    server.join().expect("both as said");
}

fn deliver_as_another_owner(way: LinkBy) {
    let ground = Ground::new();
    let home = ground.directory_of("home", Some(OWNER));
    let name = deliver(way, &home, Owner::User { uid: OWNER, gid: OWNER }).expect("a delivery");

    let maildir = home.join("Maildir");
    let file = only_in(&maildir);
    assert_eq!((file.name.as_str(), file.bytes.as_slice()), (name.as_str(), &b"Head: 1\r\n\r\nbody\r\n"[..]));
    assert_owned(&maildir.join("new").join(&name), 0o600);
    for directory in ["", "new", "cur", "tmp"] {
        assert_owned(&maildir.join(directory), 0o700);
    }
    assert_no_litter(&maildir);
}

fn assert_owned(path: &Path, mode: u32) {
    let metadata = fs::metadata(path).expect("it is there");
    let found = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
    assert_eq!(found, (OWNER, OWNER, mode), "owner and mode of {}", path.display());
}

/// One delivery into the Maildir of `home`, and the name that it got.
fn deliver(way: LinkBy, home: &Path, owner: Owner) -> Result<String, Fault> {
    let home = home.to_owned();
    on(ring(way), |exec| async move { deliver_by(&store(exec, 0), &home, owner).await })
}

/// The same by the verbs of `store`.
pub(crate) async fn deliver_by(store: &Store, home: &Path, owner: Owner) -> Result<String, Fault> {
    let (home, path) = (home.display().to_string(), home.join("Maildir").display().to_string());
    let place = Place::find(store, Mailbox { home: Some(&home), path: &path, folder: None, owner }).await?;
    let mut draft = Draft::create(store, &place, false).await?;
    let body = Rc::new(vec![Bytes::Static(b"\r\n"), Bytes::Static(b"body\r\n")]);
    draft.append(store, b"Head: 1\r\n".to_vec(), &body).await?;
    draft.settle(store, None).await?;
    let stored = draft.written();
    let name = draft.publish(store, &place, Sizes { stored, wire: stored }).await?;
    draft.discard(store).await;
    Ok(name)
}

/// A store that keeps so many directories.
pub(crate) fn store(exec: Rc<Exec>, kept_directories_max: usize) -> Store {
    let settings = Settings {
        durability: Durability::Fsync,
        create: true,
        create_folder: false,
        root: None,
        host: "mx.example.test".to_owned(),
        open_files_max: 16,
        kept_directories_max,
    };
    let names = NameMaker::new(&settings.host, std::process::id(), 0, 1);
    Store::new(exec, settings, names)
}

const OWNER: u32 = 20_001;
/// A group that no account of the test has but the server.
const SERVERS_GROUP: u32 = 54_321;
