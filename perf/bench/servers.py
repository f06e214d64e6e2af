"""The servers: Posthaste and its rivals, each with mailboxes, configuration, sockets, state and log of its own.

Owns how each is configured, started, known to be up, and stopped. Promises that no service and no file of the machine is
touched: a server is a child of this program, is stopped by its process id, and ends with this program even if that
is killed.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import machine
from .filesystem import FileSystem
from .machine import Failure, run
from .workload import DOMAIN, OWNER

START_SECONDS = 60
STOP_SECONDS = 60


@dataclass
class Setting:
    """What all servers of a comparison have in common."""

    scratch: Path
    files: FileSystem
    mailboxes: int
    names: int
    connections: int
    posthaste: Path
    workers: int | None = None
    options: dict = field(default_factory=dict)

    @property
    def owner(self) -> int | None:
        """Who owns the mail; without privilege whoever runs this."""
        return OWNER if machine.is_root() else None


class Server:
    """A server; started for each round and stopped after it."""

    name = "server"
    # What 250 means, for the table.
    promise = ""
    # What clients speak.
    speaks = "lmtp"
    # Clients are answered before the mail is in its mailbox.
    queues = False
    # Only as root.
    needs_root = True
    # The most different names that it may be given.
    names_max: int | None = None

    def __init__(self, setting: Setting):
        self.setting = setting
        self.directory = setting.scratch / self.name
        self.mail = setting.files.path / self.name
        for path in (self.directory, self.mail):
            path.mkdir()
        self.socket = self.directory / "lmtp"
        self.process: subprocess.Popen | None = None
        self.prepare()

    # What differs.

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here."""
        return None

    @classmethod
    def version(cls, posthaste: Path) -> str:
        return "?"

    def prepare(self):
        """Makes mailboxes and configuration."""

    def command(self) -> list:
        raise NotImplementedError

    def is_up(self) -> bool:
        return self.socket.exists()

    @property
    def target(self) -> str:
        """Where clients connect to."""
        return f"unix:{self.socket}"

    def files(self):
        """All message files, as directory entries; a half-written one is among them."""
        for home in self.homes:
            for folder in ("new", "cur", "tmp"):
                path = f"{home}/Maildir/{folder}"
                with contextlib.suppress(FileNotFoundError):
                    yield from os.scandir(path)

    def empty(self):
        """Removes all messages, so that there is room for the next round."""
        for entry in self.files():
            os.unlink(entry.path)

    # What they share.

    def make_homes(self, complete: bool):
        """Homes of the mailboxes; with `complete` the Maildirs in them."""
        self.homes = [self.mail / str(number) for number in range(self.setting.mailboxes)]
        for home in self.homes:
            folders = [home, home / "Maildir"] + [home / "Maildir" / name for name in ("new", "cur", "tmp")]
            for path in folders if complete else folders[:1]:
                path.mkdir(mode=0o700)
                if self.setting.owner:
                    os.chown(path, self.setting.owner, self.setting.owner)

    def write_users(self, extra: str = "") -> Path:
        """A passwd-file as Dovecot reads it, with all names."""
        owner = self.setting.owner or ""
        lines = (f"{name}user@{DOMAIN}:x:{owner}:{owner}::{self.homes[name % len(self.homes)]}::{extra}\n"
                 for name in range(1, self.setting.names + 1))
        return self.write("users.passwd", "".join(lines))

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @contextlib.contextmanager
    def running(self):
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self):
        self.socket.unlink(missing_ok=True)
        with (self.directory / "output").open("ab") as output:
            # It ends with this program, even if this program is killed.
            words = ["setpriv", "--pdeathsig", "TERM", "--", *map(str, self.command())]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            env=self.environment(), cwd=self.directory, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                why = self.log_tail()
                self.stop()
                raise Failure(f"{self.name} did not start:\n{why}")
            time.sleep(0.02)

    def stop(self):
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            # The session is its own: nobody else is in that group.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def environment(self) -> dict:
        return dict(os.environ)

    def log_tail(self) -> str:
        text = ""
        for name in ("output", "log"):
            with contextlib.suppress(OSError):
                text += (self.directory / name).read_text(errors="replace")
        return text[-3000:]

    def close(self):
        """Stops for good and leaves nothing behind."""
        self.stop()
        for path in (self.directory, self.mail):
            shutil.rmtree(path, ignore_errors=True)

    def children(self, name: str) -> int:
        return sum(process.name == name for process in machine.tree(self.process.pid))


class Posthaste(Server):
    """Posthaste in one durability mode."""

    name = promise = "journal"
    needs_root = False
    single_instance = False
    # Where the journal lies: beside the mail, on the same device.
    journal_with_mail = True

    @classmethod
    def version(cls, posthaste):
        return f"{run(posthaste, '--version').strip()} ({machine.commit()})"

    def prepare(self):
        self.program = self.setting.posthaste.resolve()
        self.make_homes(complete=True)
        users = self.write_users()
        table = self.directory / "users.table"
        run(self.program, "users", "build", "--from", "passwd-file", "--input", users, "--output", table)
        workers = f"workers = {self.setting.workers}\n" if self.setting.workers else ""
        journal = f'journal_dir = "{self.mail}/journal"\n' if self.journal_with_mail else ""
        single = "single_instance = true\n" if self.single_instance else ""
        self.configuration = self.write("posthaste.toml", f"""
hostname = "mx.example.test"
postmaster = "postmaster@example.test"
state_dir = "{self.directory}"
{workers}
[[listen]]
lmtp = "unix:{self.socket}"
mode = "0600"

[users]
table = "{table}"

[maildir]
durability = "{self.promise}"
{journal}{single}
""")
        self.readiness = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.readiness.bind(str(self.directory / "notify"))
        self.readiness.setblocking(False)

    def command(self):
        return [self.program, "serve", "--config", self.configuration]

    def environment(self):
        return {**os.environ, "NOTIFY_SOCKET": str(self.directory / "notify")}

    def start(self):
        # What the one before said while it stopped may still be there.
        with contextlib.suppress(BlockingIOError):
            while self.readiness.recv(4096):
                pass
        super().start()

    def is_up(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                if b"READY=1" in self.readiness.recv(4096).split(b"\n"):
                    return True
        return False

    def close(self):
        super().close()
        self.readiness.close()


class PosthasteGroup(Posthaste):
    """Posthaste, `group`."""

    name = promise = "group"


class PosthasteFsync(Posthaste):
    """Posthaste, `fsync`."""

    name = promise = "fsync"


class PosthasteNone(Posthaste):
    """Posthaste, `none`."""

    name = promise = "none"


class PosthasteShared(Posthaste):
    """Posthaste, `journal`, one file for all recipients of a message."""

    name = "journal-shared"
    single_instance = True


class Dovecot(Server):
    """Dovecot's LMTP server, a process for each connection, all of them started before the round."""

    name = "dovecot"
    promise = "mail_fsync = optimized"
    mail_fsync = "optimized"

    @classmethod
    def missing(cls):
        return None if Path("/usr/lib/dovecot/lmtp").exists() else "dovecot-lmtpd is not installed"

    @classmethod
    def version(cls, posthaste):
        return f"Dovecot {run('dovecot', '--version').split()[0]}"

    def prepare(self):
        self.make_homes(complete=True)
        users = self.write_users("userdb_mail=maildir:~/Maildir")
        sessions = self.setting.connections
        self.configuration = self.write("dovecot.conf", f"""
protocols = lmtp
base_dir = {self.directory}/run
state_dir = {self.directory}/state
log_path = {self.directory}/log
ssl = no
mail_location = maildir:~/Maildir
mail_fsync = {self.mail_fsync}
first_valid_uid = 1
default_process_limit = {sessions * 4 + 100}
default_client_limit = {sessions * 8 + 1000}
namespace {{
  inbox = yes
}}
passdb {{
  driver = static
  args = password=unused
}}
userdb {{
  driver = passwd-file
  args = {users}
}}
service lmtp {{
  client_limit = 1
  process_min_avail = {sessions}
  process_limit = {sessions * 4}
  service_count = 0
  unix_listener {self.socket} {{
    mode = 0600
  }}
}}
""")

    def command(self):
        return ["dovecot", "-F", "-c", self.configuration]

    def is_up(self):
        # Dovecot tells nobody when its processes are there, so they are counted.
        return self.children("lmtp") >= self.setting.connections


class DovecotUnsynced(Dovecot):
    """Dovecot with no syncs."""

    name = "dovecot-never"
    promise = "mail_fsync = never"
    mail_fsync = "never"


class Cyrus(Server):
    """Cyrus lmtpd, on its own mail store (files with an index for each mailbox, no Maildir)."""

    name = "cyrus"
    promise = "its default"
    master = Path("/usr/lib/cyrus/bin/master")

    @classmethod
    def missing(cls):
        return None if cls.master.exists() else "cyrus-imapd is not installed"

    @classmethod
    def version(cls, posthaste):
        return f"Cyrus {machine.package_version('cyrus-imapd') or '?'}"

    def prepare(self):
        # It has no names beside mailboxes.
        self.names_max = self.setting.mailboxes
        run_directory = self.directory / "run"
        run_directory.mkdir()
        configuration = self.write("imapd.conf", f"""
configdirectory: {self.mail}/conf
defaultpartition: default
partition-default: {self.mail}/spool
proc_path: {run_directory}/proc
mboxname_lockpath: {run_directory}/lock
lmtpsocket: {self.socket}
sievedir: {self.mail}/conf/sieve
admins: cyrus
altnamespace: no
unixhierarchysep: no
virtdomains: off
lmtp_downcase_rcpt: yes
# The same message comes to the same mailbox again and again.
duplicatesuppression: no
# The first message to a name makes the mailbox.
autocreate_post: yes
autocreate_quota: 0
servername: mx.example.test
""")
        sessions = self.setting.connections
        self.services = self.write("cyrus.conf", f"""
START {{
  recover cmd="/usr/lib/cyrus/bin/ctl_cyrusdb -C {configuration} -r"
}}
SERVICES {{
  lmtpunix cmd="/usr/lib/cyrus/bin/lmtpd -C {configuration} -a" listen="{self.socket}" prefork={sessions} maxchild={sessions * 2}
}}
EVENTS {{
}}
""")
        for path in (self.mail / "conf", self.mail / "spool"):
            path.mkdir()
        for path in (self.directory, run_directory, self.mail, self.mail / "conf", self.mail / "spool"):
            shutil.chown(path, "cyrus", "mail")

    def command(self):
        return [self.master, "-C", self.directory / "imapd.conf", "-M", self.services, "-p", self.directory / "run/pid",
                # As many may connect at once as there are clients.
                "-l", max(self.setting.connections, 32), "-D"]

    def is_up(self):
        # The processes become other users, and write their socket, when they are ready.
        return self.socket.exists() and self.children("lmtpd") >= self.setting.connections

    def files(self):
        todo = [self.mail / "spool"]
        while todo:
            for entry in os.scandir(todo.pop()):
                if entry.is_dir(follow_symlinks=False):
                    # What is being received has another name there.
                    if entry.name != "stage.":
                        todo.append(entry.path)
                elif entry.name[:-1].isdigit() and entry.name.endswith("."):
                    yield entry

    def empty(self):
        """Its index knows the messages: they stay, and are few enough."""


class PostfixVirtual(Server):
    """Postfix with its own delivery agent virtual(8). It takes mail over SMTP and queues it."""

    name = "postfix-virtual"
    promise = "fsync of queue file and mail"
    speaks = "smtp"
    queues = True

    @classmethod
    def missing(cls):
        return None if Path("/usr/lib/postfix/sbin/virtual").exists() else "postfix is not installed"

    @classmethod
    def version(cls, posthaste):
        return f"Postfix {run('/usr/sbin/postconf', '-d', '-h', 'mail_version').strip()}"

    def prepare(self):
        self.make_homes(complete=True)
        # All of 127.0.0.0/8 is this host (RFC 1122 section 3.2.1.3): an address of its own, by process id.
        high, low = divmod(os.getpid() % 65536, 256)
        self.address, self.port = f"127.77.{high}.{low}", 20025
        for name in ("etc", "data"):
            (self.directory / name).mkdir()
        # The queue is synced too, so it lies where the mail lies.
        self.queue = self.mail / "queue"
        self.queue.mkdir()
        shutil.chown(self.directory / "data", "postfix")
        (self.directory / "data").chmod(0o700)
        boxes = "".join(f"{name}user@{DOMAIN} {name % self.setting.mailboxes}/Maildir/\n" for name in range(1, self.setting.names + 1))
        boxes = self.write("etc/mailboxes", boxes)
        self.write("etc/main.cf", self.main_cf(boxes))
        self.write("etc/master.cf", self.master_cf())
        run("/usr/sbin/postmap", "-c", self.directory / "etc", f"hash:{boxes}")
        run("/usr/sbin/postfix", "-c", self.directory / "etc", "check")

    def main_cf(self, boxes) -> str:
        return f"""
compatibility_level = 3.6
queue_directory = {self.queue}
data_directory = {self.directory}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {self.directory}/log
maillog_file_prefixes = {self.directory}
myhostname = mx.example.test
mydomain = example.test
mydestination =
alias_maps =
alias_database =
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_maps = hash:{boxes}
virtual_mailbox_base = {self.mail}
virtual_uid_maps = static:{OWNER}
virtual_gid_maps = static:{OWNER}
virtual_mailbox_limit = 0
mailbox_size_limit = 0
message_size_limit = 104857600
# As fast as it can: no brake on what comes in, a process for each connection.
in_flow_delay = 0
default_process_limit = {max(self.setting.connections + 20, 100)}
smtpd_client_connection_count_limit = 0
smtpd_recipient_limit = 1000
smtpd_peername_lookup = no
"""

    def master_cf(self) -> str:
        return f"""
{self.address}:{self.port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

    def command(self):
        return ["/usr/lib/postfix/sbin/master", "-c", self.directory / "etc", "-d"]

    def is_up(self):
        with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), timeout=5) as greeting:
            return greeting.recv(3) == b"220"
        return False

    @property
    def target(self):
        return f"{self.address}:{self.port}"

    def log_tail(self):
        lines = super().log_tail().splitlines()
        return "\n".join(line for line in lines if re.search(r"warning|error|fatal|panic|status=(?!sent)", line))[-2000:]

    def delivered(self) -> int:
        """Messages in mailboxes, without a look at each: for waiting."""
        return sum(len(os.listdir(f"{home}/Maildir/new")) for home in self.homes)


POSTHASTE = {kind.promise: kind for kind in (Posthaste, PosthasteGroup, PosthasteFsync, PosthasteNone)}
RIVALS = {kind.name: kind for kind in (Dovecot, DovecotUnsynced, Cyrus, PostfixVirtual)}
