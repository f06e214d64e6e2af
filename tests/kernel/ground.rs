//! What a test stands on: a directory, users in it, and the table that names them.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use posthaste::users::build::{Builder, Options};
use posthaste::users::key::LocalPart;
use posthaste::users::source::{accounts::Accounts, passwd_file};
use rustix::process::geteuid;

/// A directory that every user may traverse, as the owners of mailboxes must get in.
pub(crate) struct Ground {
    directory: tempfile::TempDir,
    users: RefCell<Vec<String>>,
}

impl Ground {
    /// A fresh one. Its path is short, as those of Unix sockets end after 107 bytes (unix(7)).
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("phk-").tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        Self { directory, users: RefCell::default() }
    }

    /// The path of `name` in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory of this ground that belongs to `owner`, mode 0700.
    pub(crate) fn directory_of(&self, name: impl AsRef<Path>, owner: Option<u32>) -> PathBuf {
        let path = self.path(name);
        own_directory(&path, owner);
        path
    }

    /// Adds a user `name@example.test` with this home to the table.
    pub(crate) fn add(&self, name: &str, home: &Path, owner: Option<u32>) {
        let owner = owner.map_or_else(|| ":".to_owned(), |id| format!("{id}:{id}"));
        self.users.borrow_mut().push(format!("{name}@{DOMAIN}::{owner}::{}::", home.display()));
    }

    /// Adds a user with a home of its own, which is there and empty. Returns the Maildir that will be in it.
    pub(crate) fn user(&self, name: &str, owner: Option<u32>) -> PathBuf {
        let home = self.directory_of(format!("mail/{name}"), owner);
        self.add(name, &home, owner);
        home.join("Maildir")
    }

    /// Builds the table of the users added so far.
    pub(crate) fn build_table(&self) {
        let options = Options::random(LocalPart::Folded).expect("a random number");
        let accounts = Accounts::system().expect("the accounts of this host");
        let mut builder = Builder::create(&self.path("users.table"), options).expect("a working file");
        for line in &*self.users.borrow() {
            let entry = passwd_file::parse_line(line, &accounts, LocalPart::Folded).expect("a good line");
            builder.add(&entry).expect("a good entry");
        }
        builder.finish().expect("a table");
    }

    /// A configuration on this ground: a socket `lmtp.sock`, the table, and then `rest`, which begins with
    /// keys of the top, if any, and goes on with tables.
    pub(crate) fn configuration(&self, rest: &str) -> String {
        let (top, tables) = rest.split_at(rest.find('[').unwrap_or(rest.len()));
        let mut text = String::new();
        let directory = self.directory.path().display();
        writeln!(text, "hostname = \"mx.example.test\"\nstate_dir = \"{directory}/state\"")
            .expect("a String");
        writeln!(text, "{top}\n[[listen]]\nlmtp = \"unix:{directory}/lmtp.sock\"").expect("a String");
        writeln!(text, "[users]\ntable = \"{directory}/users.table\"\n{tables}").expect("a String");
        text
    }
}

/// Makes `path` with its parents and gives it to `owner`, mode 0700; the parents stay as they come.
pub(crate) fn own_directory(path: &Path, owner: Option<u32>) {
    fs::create_dir_all(path).expect("a directory");
    give(path, owner, 0o700);
}

/// Gives `path` to `owner`, with this mode.
pub(crate) fn give(path: &Path, owner: Option<u32>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    if owner.is_some() {
        chown(path, owner, owner).expect("an owner");
    }
}

/// The owner of a mailbox, number `index`. Root gives each its own, so that a mixed-up identity shows; anybody
/// else can only be himself, which the table says by saying nothing.
pub(crate) fn owner(index: u32) -> Option<u32> {
    is_root().then_some(20_001 + index)
}

/// Whether this test may become somebody else.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether a test runs as root; reports it as not run otherwise, and it must return at once.
pub(crate) fn needs_root(test: &str, why: &str) -> bool {
    if !is_root() {
        not_run(test, why);
    }
    is_root()
}

/// Reports a test that cannot run here: on standard error, and in the file that `tests/run` shows at its end.
///
/// # Panics
/// In CI, where a test that does not run is a failure.
pub(crate) fn not_run(test: &str, why: &str) {
    let line = format!("NOT RUN {test}: {why}");
    eprintln!("{line}");
    if let Some(list) = std::env::var_os("POSTHASTE_TEST_NOT_RUN") {
        let file = fs::File::options().create(true).append(true).open(list);
        writeln!(file.expect("the list of tests not run"), "{line}").expect("the list of tests not run");
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line} (in CI every test must run)");
}

/// The domain of all users.
pub(crate) const DOMAIN: &str = "example.test";
