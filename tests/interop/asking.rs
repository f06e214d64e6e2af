//! Postfix asks the user table before it accepts: `postmap -q`, and whole mail systems that refuse whom it does not know.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::{
        fs::chown,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use posthaste::socketmap::{
    expansion,
    netstring::NetstringReader,
    reply::Reply,
    request::{Map, Request},
};

use crate::{
    mailbox::Users,
    messages::with_body,
    place::{Place, Running, START, can_run, eventually, not_run, output_of, program, run},
    postfix::Postfix,
    server::{POSTHASTE, Program, Readiness, Server, Settings, configure_posthaste, socket_owner},
};

/// A server that takes mail and answers look-ups.
struct Asked {
    running: Running,
    lmtp: PathBuf,
    map: PathBuf,
    tcp: SocketAddr,
}

impl Asked {
    fn start(place: &Place, users: &Users) -> Self {
        Self::serve(place, &Self::configure(place, users))
    }

    /// Builds the table and writes the configuration.
    fn configure(place: &Place, users: &Users) -> PathBuf {
        let (lmtp, map, tcp) = (place.path("lmtp.sock"), place.path("map.sock"), place.port(MAP));
        let owner = socket_owner();
        let listen = format!(
            "[[listen]]\nlmtp = \"unix:{}\"\n{owner}[[listen]]\nmap = \"unix:{}\"\n{owner}[[listen]]\nmap = \"tcp:{tcp}\"\n",
            lmtp.display(),
            map.display(),
        );
        let settings = Settings { local_domain: Some("local.example.test"), ..Settings::default() };
        configure_posthaste(place, users, &settings, &listen)
    }

    fn serve(place: &Place, configuration: &Path) -> Self {
        let readiness = Readiness::listen(place);
        let log = place.path("posthaste.log");
        let mut running = Running::start("posthaste", log, Path::new(POSTHASTE), |command| {
            command.env("NOTIFY_SOCKET", &readiness.path).arg("serve").arg("--config").arg(configuration);
        });
        readiness.wait(&mut running);
        let (lmtp, map) = (place.path("lmtp.sock"), place.path("map.sock"));
        Self { running, lmtp, map, tcp: place.port(MAP) }
    }

    /// The table of Postfix that one of our maps is.
    fn table(&self, name: &str) -> String {
        format!("socketmap:unix:{}:{name}", self.map.display())
    }

    /// Mail of a virtual domain goes to this server, which is asked about it.
    fn virtual_domain(&self) -> String {
        format!(
            "virtual_mailbox_domains = example.test\n\
             virtual_mailbox_maps = {}\n\
             virtual_alias_maps = {}\n\
             virtual_transport = lmtp:unix:{}\n",
            self.table("mailbox"),
            self.table("alias"),
            self.lmtp.display()
        )
    }

    fn stop(mut self) -> String {
        let status = self.running.stop().expect("the server ends when it is asked to");
        assert!(status.success(), "the server ended with {status}");
        self.running.log()
    }
}

/// Whether a test can run; it is about our server, whoever else is under test.
fn can_ask(name: &str, root: bool, programs: &[&str]) -> bool {
    if Server::program() != Program::Posthaste {
        not_run(name, "Dovecot's LMTP server answers no look-ups");
        return false;
    }
    can_run(name, root, programs)
}

/// `postmap -q KEY TABLE`, with a configuration that has nothing to do with it.
fn postmap(place: &Place, key: &str, table: &str, input: &str) -> Output {
    let main = place.write(
        "postmap/main.cf",
        "compatibility_level = 3.6\nmyhostname = mx.example.test\nmydomain = example.test\n",
    );
    let mut command = Command::new(program("postmap"));
    command.arg("-c").arg(main.parent().expect("a directory")).args(["-q", key, table]);
    output_of(&mut command, input.as_bytes())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn postmap_finds_who_is_there_and_nobody_else() {
    if !can_ask("postmap_finds_who_is_there_and_nobody_else", false, &["postmap"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test", "bob@example.test", "dave"]);
    let server = Asked::start(&place, &users);

    for table in [server.table("mailbox"), format!("socketmap:inet:{}:mailbox", server.tcp)] {
        let found = postmap(&place, "Alice+lists@example.test", &table, "");
        assert_eq!(
            (found.status.code(), text(&found.stdout)),
            (Some(0), "alice@example.test\n"),
            "{found:?}"
        );
        for nobody in ["nobody@example.test", "alice@example.org", "@example.test", "example.test"] {
            let missing = postmap(&place, nobody, &table, "");
            assert_eq!(
                (missing.status.code(), text(&missing.stdout)),
                (Some(1), ""),
                "{nobody}: {missing:?}"
            );
            assert_eq!(text(&missing.stderr), "", "not found is no failure");
        }
    }
    let many = "alice@example.test\nnobody@example.test\nbob@example.test\ndave@local.example.test\n";
    let found = postmap(&place, "-", &server.table("mailbox"), many);
    assert_eq!(
        text(&found.stdout),
        "alice@example.test\talice@example.test\nbob@example.test\tbob@example.test\ndave@local.example.test\tdave\n"
    );
    let none = postmap(&place, "-", &server.table("alias"), many);
    assert_eq!((none.status.code(), text(&none.stdout)), (Some(1), ""), "a mailbox is no alias: {none:?}");
    assert!(!server.stop().contains("disconnected"), "postmap leaves no line");
}

#[test]
fn postmap_tells_which_maps_there_are() {
    if !can_ask("postmap_tells_which_maps_there_are", false, &["postmap"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let server = Asked::start(&place, &users);
    let refused = postmap(&place, "alice@example.test", &server.table("transport"), "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("the maps are: mailbox, alias, domain"), "{refused:?}");
    server.stop();
}

/// Every recipient and the code that RCPT hears for it.
fn assert_refused_and_accepted(postfix: &Postfix, recipients: &[(&str, u16)], words: &str) {
    let mut client = postfix.connect();
    client.expect("MAIL FROM:<sender@example.org>", 250);
    for (recipient, code) in recipients {
        let reply = client.expect(&format!("RCPT TO:<{recipient}>"), *code);
        if *code == 550 {
            assert!(reply.text.contains("5.1.1") && reply.text.contains(words), "{recipient}: {reply:?}");
        }
    }
    client.expect("RSET", 250);
    client.expect("QUIT", 221);
}

/// Neither did Postfix probe anybody, nor did a client of LMTP come.
fn assert_nothing_was_delivered(postfix: &Postfix, users: &Users) {
    let log = postfix.log();
    for daemon in ["postfix/lmtp[", "postfix/verify[", "postfix/qmgr["] {
        let works = log.lines().any(|line| line.contains(daemon) && !line.contains("daemon started"));
        assert!(!works, "nothing was handed on:\n{log}");
    }
    assert!(users.all_messages().is_empty());
}

#[test]
fn postfix_refuses_unknown_users_of_a_virtual_domain_without_a_probe() {
    let name = "postfix_refuses_unknown_users_of_a_virtual_domain_without_a_probe";
    if !can_ask(name, true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test", "john.smith@example.test"]);
    let server = Asked::start(&place, &users);
    let mut postfix = Postfix::start(&place, &server.virtual_domain());

    let recipients = [
        ("nobody@example.test", 550),
        ("alice@example.test", 250),
        ("ALICE+lists@Example.Test", 250),
        ("alic@example.test", 550),
        ("\"no body\"@example.test", 550),
        ("john.smith@example.test", 250),
    ];
    assert_refused_and_accepted(&postfix, &recipients, "User unknown in virtual mailbox table");
    assert_nothing_was_delivered(&postfix, &users);

    postfix.send("sender@example.org", &["alice+lists@example.test"], &with_body("known", b"Hello.\r\n"));
    postfix.wait_until_queue_is_empty();
    assert_eq!(users.mailboxes[0].messages().len(), 1);
    let log = server.stop();
    assert_eq!(log.matches("status=saved").count(), 1, "{log}");
    assert!(!log.contains("disconnected"), "Postfix's look-ups leave no line:\n{log}");
}

#[test]
fn postfix_refuses_unknown_recipients_of_a_relay_domain() {
    if !can_ask("postfix_refuses_unknown_recipients_of_a_relay_domain", true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let server = Asked::start(&place, &users);
    let main = format!(
        "relay_domains = example.test\n\
         relay_recipient_maps = {}\n\
         relay_transport = lmtp:unix:{}\n",
        server.table("mailbox"),
        server.lmtp.display()
    );
    let mut postfix = Postfix::start(&place, &main);
    let recipients = [("nobody@example.test", 550), ("alice+x@example.test", 250)];
    assert_refused_and_accepted(&postfix, &recipients, "User unknown in relay recipient table");
    assert_nothing_was_delivered(&postfix, &users);
    postfix.send("sender@example.org", &["alice@example.test"], &with_body("known", b"Hello.\r\n"));
    postfix.wait_until_queue_is_empty();
    assert_eq!(users.mailboxes[0].messages().len(), 1);
    server.stop();
}

#[test]
fn postfix_puts_recipients_off_while_nobody_can_tell() {
    if !can_ask("postfix_puts_recipients_off_while_nobody_can_tell", true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let configuration = Asked::configure(&place, &users);
    let server = Asked::serve(&place, &configuration);
    let postfix = Postfix::start(&place, &server.virtual_domain());
    assert_refused_and_accepted(&postfix, &[("alice@example.test", 250), ("nobody@example.test", 550)], "");
    server.stop();
    assert_refused_and_accepted(&postfix, &[("alice@example.test", 451), ("nobody@example.test", 451)], "");

    std::fs::remove_file(place.path("notify")).expect("the socket of the first start");
    let server = Asked::serve(&place, &configuration);
    assert_refused_and_accepted(&postfix, &[("alice@example.test", 250), ("nobody@example.test", 550)], "");
    server.stop();
}

#[test]
fn postfix_asks_for_whole_addresses_and_whole_domains() {
    if !can_ask("postfix_asks_for_whole_addresses_and_whole_domains", true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let users = Users::named(&place, &["alice@example.test"]);
    let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let map = place.path("map.sock");
    let keys = Arc::clone(&asked);
    answer_at(&map, move |request| {
        let Request { map, key } = request;
        keys.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("{map:?} {}", text(key)));
        (map == Map::Domain && key == b"example.test").then(|| "example.test".to_owned())
    });
    let main = format!(
        "virtual_mailbox_domains = socketmap:unix:{map}:domain\n\
         virtual_mailbox_maps = socketmap:unix:{map}:mailbox\n\
         virtual_alias_maps = socketmap:unix:{map}:alias\n\
         recipient_delimiter = +\n",
        map = map.display()
    );
    let postfix = Postfix::start(&place, &main);
    let recipients = [("alice+lists@example.test", 550), ("\"john smith\"@example.test", 550)];
    assert_refused_and_accepted(&postfix, &recipients, "User unknown");
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    let addresses = ["alice+lists@example.test", "\"john smith\"@example.test", "john smith@example.test"];
    // Sender's and recipient's. The map of aliases is asked whether they are domains of aliases
    // (`virtual_alias_domains`).
    let domains = ["example.org", "example.test"];
    for (map, expected) in [
        ("Mailbox", addresses.to_vec()),
        ("Alias", [&addresses[..], &domains].concat()),
        ("Domain", domains.to_vec()),
    ] {
        let expected: BTreeSet<&str> = expected.into_iter().collect();
        let keys: BTreeSet<&str> =
            asked.iter().filter_map(|line| line.strip_prefix(&format!("{map} "))).collect();
        assert_eq!(keys, expected, "{map}");
    }
    assert!(users.all_messages().is_empty());
}

#[test]
fn postfix_expands_an_alias_as_it_is_written_for_it() {
    if !can_ask("postfix_expands_an_alias_as_it_is_written_for_it", true, &["postfix"]) {
        return;
    }
    let place = Place::new();
    let names = ["alice@example.test", "john smith@example.test", "odd,name@example.test"];
    let users = Users::named(&place, &names);
    let server = Asked::start(&place, &users);
    // The table answers for mailboxes, and this for the alias that the table of this test has not.
    let aliases = place.path("aliases.sock");
    answer_at(&aliases, |request| {
        let mut list = String::new();
        for name in ["alice+staff", "john smith", "odd,name"] {
            expansion::push(&mut list, &[name], Some("example.test"));
        }
        (request.key == b"staff@example.test" && request.map == Map::Alias).then_some(list)
    });
    let main = format!(
        "virtual_mailbox_domains = example.test\n\
         virtual_mailbox_maps = {}\n\
         virtual_alias_maps = socketmap:unix:{}:alias\n\
         virtual_transport = lmtp:unix:{}\n",
        server.table("mailbox"),
        aliases.display(),
        server.lmtp.display()
    );
    let mut postfix = Postfix::start(&place, &main);
    assert_refused_and_accepted(
        &postfix,
        &[("staff@example.test", 250), ("stuff@example.test", 550)],
        "unknown",
    );
    postfix.send("sender@example.org", &["staff@example.test"], &with_body("all", b"To all of you.\r\n"));
    postfix.wait_until_queue_is_empty();
    for mailbox in &users.mailboxes {
        assert_eq!(mailbox.messages().len(), 1, "{}", mailbox.address);
    }
    server.stop();
}

#[test]
fn aliases_of_the_table_are_expanded_by_postfix_or_by_the_server_as_main_cf_says() {
    let name = "aliases_of_the_table_are_expanded_by_postfix_or_by_the_server_as_main_cf_says";
    if !can_ask(name, true, &["postfix", "postmap"]) {
        return;
    }
    for postfix_expands in [true, false] {
        let place = Place::new();
        let users =
            Users::named(&place, &["alice@example.test", "bob@example.test", "john smith@example.test"]);
        let configuration = Asked::configure(&place, &users);
        let aliases = "one@example.test alice@example.test\n\
                       all@example.test alice@example.test, bob@example.test, \"john smith\"@example.test\n\
                       @aliases.test bob@example.test\n";
        let server = Asked::serve(&place, &configuration);
        build_with_aliases(&place, &users, aliases);
        let is_known = || postmap(&place, "one@example.test", &server.table("alias"), "").status.success();
        eventually(START, "the running server answers from the new table", is_known);

        let asked = [
            "all@example.test",
            "one+x@example.test",
            "who@aliases.test",
            "alice@example.test",
            "aliases.test",
        ];
        let found = postmap(&place, "-", &server.table("alias"), &(asked.join("\n") + "\n"));
        assert_eq!(
            text(&found.stdout),
            "all@example.test\talice@example.test,bob@example.test,\"john smith\"@example.test\n\
             one+x@example.test\talice+x@example.test\n\
             who@aliases.test\tbob@example.test\n"
        );

        let alias_maps = if postfix_expands { server.table("alias") } else { String::new() };
        let main = format!(
            "virtual_mailbox_domains = {}\n\
             virtual_mailbox_maps = {}\n\
             virtual_alias_maps = {alias_maps}\n\
             virtual_transport = lmtp:unix:{}\n",
            server.table("domain"),
            server.table("mailbox"),
            server.lmtp.display()
        );
        let mut postfix = Postfix::start(&place, &main);
        let recipients = [
            ("all@example.test", 250),
            ("one@example.test", 250),
            ("who@aliases.test", 250),
            ("nobody@example.test", 550),
            // No domain of the table, so no business of ours. The client is one that may relay.
            ("nobody@elsewhere.example", 250),
        ];
        assert_refused_and_accepted(&postfix, &recipients, "User unknown");
        postfix.send("sender@example.org", &["all@example.test"], &with_body("all", b"To all of you.\r\n"));
        postfix.send("sender@example.org", &["who@aliases.test"], &with_body("bob", b"To Bob.\r\n"));
        postfix.wait_until_queue_is_empty();
        let messages: Vec<usize> = users.mailboxes.iter().map(|mailbox| mailbox.messages().len()).collect();
        assert_eq!(messages, [1, 2, 1]);
        let log = server.stop();
        let recipients = if postfix_expands { "to=<bob@example.test>" } else { "to=<all@example.test>" };
        assert!(log.contains(recipients), "{log}");
    }
}

/// Builds the table of these users again, with aliases from a file like virtual(5).
fn build_with_aliases(place: &Place, users: &Users, aliases: &str) {
    let aliases = place.write("aliases", aliases);
    let mut build = Command::new(POSTHASTE);
    build.args(["users", "build", "--from", "passwd-file", "--input"]).arg(&users.passwd_file);
    build.arg("--aliases").arg(aliases).arg("--output").arg(place.path("state/users.table"));
    run(&mut build, b"");
}

#[test]
fn a_path_in_main_cf_is_relative_to_the_queue_directory_in_a_chroot_or_not() {
    let name = "a_path_in_main_cf_is_relative_to_the_queue_directory_in_a_chroot_or_not";
    if !can_ask(name, true, &["postfix"]) {
        return;
    }
    let main = "virtual_mailbox_domains = example.test\n\
                virtual_mailbox_maps = socketmap:unix:private/posthaste-map:mailbox\n\
                virtual_alias_maps = socketmap:unix:private/posthaste-map:alias\n";
    for start in [Postfix::start, Postfix::start_in_chroot] {
        let place = Place::new();
        let users = Users::named(&place, &["alice@example.test"]);
        let server = Asked::start(&place, &users);
        let postfix = start(&place, main);
        let private = place.path("postfix/queue/private/posthaste-map");
        std::fs::rename(&server.map, private).expect("one file system");
        let recipients = [("nobody@example.test", 550), ("alice@example.test", 250)];
        assert_refused_and_accepted(&postfix, &recipients, "User unknown in virtual mailbox table");
        server.stop();
    }
}

/// Answers look-ups at a socket of the test's own, with the list that `find` gives, until the test ends.
fn answer_at(path: &Path, find: impl Fn(Request<'_>) -> Option<String> + Send + Sync + 'static) {
    let listener = UnixListener::bind(path).expect("a socket");
    if let Some(owner) = postfix_user() {
        chown(path, Some(owner), None).expect("the owner of a socket");
    }
    let find = Arc::new(find);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let find = Arc::clone(&find);
            thread::spawn(move || answer_all(stream, &*find));
        }
    });
}

fn answer_all(mut stream: UnixStream, find: &dyn Fn(Request<'_>) -> Option<String>) {
    let (mut reader, mut buffer) = (NetstringReader::default(), [0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let mut input = &buffer[..length];
        while let Some(request) = reader.next(&mut input).expect("netstrings of Postfix") {
            let found = find(Request::parse(request).expect("a request of Postfix"));
            let mut out = Vec::new();
            found.as_deref().map_or(Reply::NotFound, Reply::Found).write_to(&mut out);
            stream.write_all(&out).expect("Postfix reads");
        }
    }
}

fn postfix_user() -> Option<u32> {
    let id = run(Command::new("id").args(["-u", "postfix"]), b"");
    id.trim().parse().ok()
}

/// The service number of the TCP listener for look-ups.
const MAP: u16 = 2600;
