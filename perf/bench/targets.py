"""The project's targets: each with the command that shows it, the figure, the target, and whether it is met.

Owns which load belongs to which target. Everything runs on ext4 in memory, or what perf/compare was told instead.
"""

import contextlib
import datetime
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import filesystem, instructions, machine, scanner
from .clients import Load, SmtpSource
from .machine import Failure, run
from .raw import RawLimit
from .rounds import Contender, median
from .servers import Dovecot, Posthaste, PosthasteShared, Setting
from .workload import Cell, parse_bytes

IDLE_CONNECTIONS = 10000
IDLE_SECONDS = 5
# Ticks of /proc are 10 ms: less than this share of a CPU cannot be told from none.
IDLE_CPU_SHARE = 0.005
DD_MIB = 512
# Enough that what a connection costs once does not count for a message.
TRACED_MESSAGES = 20000
COUNTED_MESSAGES = 4000


@dataclass
class Target:
    """One line of the list."""

    what: str
    command: str
    figure: str
    target: str
    # None: not measured, and the figure says why.
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "NOT MET", None: "not measured"}[self.met]

    def __str__(self):
        return f"{self.what}\n    {self.command}\n    {self.figure}; target {self.target}: {self.verdict}"

    def as_row(self) -> str:
        """A line of a Markdown table."""
        return f"| {self.what} (`{self.command.replace('|', chr(92) + '|')}`) | {self.figure} | {self.target} | {self.verdict} |"


def main(options, about: list[str], say) -> int:
    """Measures all targets; 0 if every one that could be measured is met."""
    for line in about:
        say(line)
    if not (options.posthaste.parent / "posthaste-load").exists():
        raise Failure("posthaste-load is not built: run `cargo build --release --features load`")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bench = Bench(options, say)
    found = []
    for measure in (bench.against_dovecot, bench.with_smtp_source, bench.shared_recipients, bench.large_messages,
                    bench.latency, bench.idle, bench.memory, bench.system_calls, bench.instructions, bench.scanner):
        try:
            targets = measure()
        except Failure as failure:
            targets = [Target(measure.__doc__.splitlines()[0], "", str(failure), "", None)]
        for target in targets:
            say(f"{target}\n")
            found.append(target)
        if options.record:
            keep(found, about)
    met = sum(target.met is True for target in found)
    say(f"{met} of {len(found)} met, {sum(target.met is None for target in found)} not measured")
    return 0 if all(target.met is not False for target in found) else 1


def keep(found: list[Target], about: list[str]):
    """Writes the record; after every line, so that an interrupted run leaves what it has."""
    day = datetime.date.today().isoformat()
    parts = [f"# {day}: the targets", "\n".join(f"- {line}" for line in about),
             "| what | figure | target | verdict |\n|---|---|---|---|\n" + "\n".join(target.as_row() for target in found)]
    (machine.REPOSITORY / f"perf/record/{day}-targets.md").write_text("\n\n".join(parts) + "\n")


class Bench:
    """The loads, and what one leaves for the next."""

    def __init__(self, options, say):
        self.options, self.say = options, say
        self.load = Load(options.posthaste.parent / "posthaste-load")
        self.peak: float | None = None
        self.kind = options.file_systems[0]

    @contextlib.contextmanager
    def setting(self, connections: int):
        options = self.options
        with filesystem.scratch() as scratch:
            if self.kind == "plain":
                manager = filesystem.plain(options.plain_directory)
            else:
                manager = filesystem.in_memory(scratch, self.kind, parse_bytes(options.size))
            with manager as files:
                yield Setting(scratch, files, options.mailboxes, max(20000, options.mailboxes), connections, options.posthaste, options.workers)

    def alternate(self, cell: Cell, contenders: list[Contender], also=lambda: None) -> list:
        """Rounds in turn, in each of them `also` once; the median of each contender."""
        counts = [contender.prepare(cell, self.options) for contender in contenders]
        results = [[] for _ in contenders]
        for number in range(1, self.options.rounds + 1):
            for contender, count, into in zip(contenders, counts, results):
                into.append(contender.round(cell, count))
                self.say(f"  round {number}  {contender.name:16} {into[-1].messages_per_second:9.0f} messages/s {into[-1].cpu_us:7.0f} us CPU/recipient")
            also()
        for contender in contenders:
            contender.contestant.close()
        return [median(all_rounds) for all_rounds in results]

    def command(self, more: str) -> str:
        return f"perf/compare --file-systems {self.kind} {more}"

    # The targets, in the order of the list.

    def against_dovecot(self) -> list[Target]:
        """Durable 4 KiB messages, 64 connections, against Dovecot; CPU against the raw limit"""
        cell = Cell(64, "4KiB", 1)
        with self.setting(64) as setting:
            raw = RawLimit(setting, self.options.posthaste.parent / "posthaste-raw", "journal")
            contenders = [Contender(Posthaste(setting), self.load), Contender(Dovecot(setting), self.load), Contender(raw)]
            ours, dovecot, limit = self.alternate(cell, contenders)
        self.peak = ours.messages_per_second
        command = self.command("--servers journal,dovecot,raw-journal --connections 64 --sizes 4KiB --recipients 1")
        ratio = ours.messages_per_second / dovecot.messages_per_second
        cpu = ours.cpu_us / limit.cpu_us
        return [
            Target("Durable 4 KiB messages/s, journal, 64 connections, against Dovecot with fsync", command,
                   f"{ours.messages_per_second:.0f} / {dovecot.messages_per_second:.0f} = {ratio:.1f} times", "25 times", ratio >= 25),
            Target("CPU for each message, journal, against posthaste-raw with the same promise", command,
                   f"{ours.cpu_us:.0f} / {limit.cpu_us:.0f} us = {cpu:.2f}", "at most 1.6", cpu <= 1.6),
        ]

    def with_smtp_source(self) -> list[Target]:
        """The same with smtp-source -L -d -N -s 16"""
        with self.setting(16) as setting:
            contenders = [Contender(Posthaste(setting), SmtpSource()), Contender(Dovecot(setting), SmtpSource())]
            ours, dovecot = self.alternate(Cell(16, "4KiB", 1), contenders)
        ratio = ours.messages_per_second / dovecot.messages_per_second
        command = self.command("--servers journal,dovecot --client smtp-source --connections 16")
        return [Target("The same with smtp-source -L -d -N -s 16", command,
                       f"{ours.messages_per_second:.0f} / {dovecot.messages_per_second:.0f} = {ratio:.1f} times", "15 times", ratio >= 15)]

    def shared_recipients(self) -> list[Target]:
        """50 recipients a message, identical content hard-linked, recipients/s against Dovecot"""
        with self.setting(64) as setting:
            contenders = [Contender(PosthasteShared(setting), self.load), Contender(Dovecot(setting), self.load)]
            ours, dovecot = self.alternate(Cell(64, "4KiB", 50), contenders)
        ratio = ours.recipients_per_second / dovecot.recipients_per_second
        return [Target("50 recipients a message, single_instance = true, recipients/s against Dovecot (which links too)", self.command("--targets"),
                       f"{ours.recipients_per_second:.0f} / {dovecot.recipients_per_second:.0f} = {ratio:.1f} times", "60 times", ratio >= 60)]

    def large_messages(self) -> list[Target]:
        """1 MiB messages, bytes/s against dd with one fsync for each MiB"""
        rates = []
        with self.setting(20) as setting:
            file = setting.files.path / "dd"
            ours, = self.alternate(Cell(20, "1MiB", 1), [Contender(Posthaste(setting), self.load)], lambda: rates.append(dd_rate(file)))
        dd = statistics.median(rates)
        ratio = ours.messages_per_second / dd
        return [Target("1 MiB messages, 20 connections, MiB/s against dd with a sync for each MiB",
                       self.command("--servers journal --sizes 1MiB --connections 20") + "; dd bs=1M oflag=sync",
                       f"{ours.messages_per_second:.0f} / {dd:.0f} ({', '.join(f'{rate:.0f}' for rate in rates)}) = {ratio:.2f}", "0.8", ratio >= 0.8)]

    def latency(self) -> list[Target]:
        """p99 of end of data at half the peak rate, open loop"""
        if not self.peak:
            raise Failure("the peak rate was not measured")
        rate = int(self.peak / 2)
        with self.setting(64) as setting, Posthaste(setting).running() as server:
            more = ["--rate", rate, "--duration", f"{self.options.seconds * 2:.0f}s", "--warm-up", "1s"]
            target = self.load.call(server, Cell(64, "4KiB", 1), more)["targets"][0]
            command = f"posthaste-load --to unix:SOCKET --connections 64 {' '.join(map(str, more))}"
        latency = target["latency_us"]["end_of_data"]
        p99 = latency["p99"] / 1000
        figure = f"p99 {p99:.2f} ms, median {latency['p50'] / 1000:.2f} ms at {rate} messages/s"
        if not target["generator"]["kept_up"]:
            return [Target(Bench.latency.__doc__, command, f"{figure}, but the client did not keep up: {target['generator']['verdict']}", "less than 5 ms", None)]
        return [Target(Bench.latency.__doc__, command, figure, "less than 5 ms", p99 < 5)]

    def idle(self) -> list[Target]:
        """10,000 idle connections: memory beyond an empty server, and CPU"""
        with self.setting(64) as setting, Posthaste(setting).running() as server:
            pid = server.process.pid
            time.sleep(1)
            empty = resident(pid)
            clients = []
            try:
                for _ in range(IDLE_CONNECTIONS):
                    clients.append(greeted(server.socket))
                time.sleep(1)
                memory = (resident(pid) - empty) / 2**20
                cpu = machine.tree_seconds(pid)
                time.sleep(IDLE_SECONDS)
                cpu = (machine.tree_seconds(pid) - cpu) / IDLE_SECONDS
            finally:
                for client in clients:
                    client.close()
        return [Target(f"{IDLE_CONNECTIONS} idle connections after LHLO, resident beyond an empty server, and CPU", self.command("--targets"),
                       f"{memory:.1f} MiB, {cpu * 100:.1f}% of a CPU", "less than 64 MiB, no CPU", memory < 64 and cpu <= IDLE_CPU_SHARE)]

    def memory(self) -> list[Target]:
        """Peak memory while saturated with the ISP mix"""
        with self.setting(64) as setting:
            ours, = self.alternate(Cell(64, "mix", 1), [Contender(Posthaste(setting), self.load)])
        return [Target(Bench.memory.__doc__, self.command("--servers journal --sizes mix --connections 64"),
                       f"{ours.memory_mib:.0f} MiB at {ours.messages_per_second:.0f} messages/s", "less than 256 MiB", ours.memory_mib < 256)]

    def system_calls(self) -> list[Target]:
        """System calls of the workers for each message, 64 connections"""
        if not machine.program("strace"):
            raise Failure("strace is not installed: apt-get install strace")
        with self.setting(64) as setting, Posthaste(setting).running() as server:
            self.load.deliver(server, Cell(64, "4KiB", 1), TRACED_MESSAGES // 4)
            workers = threads(server.process.pid, "worker")
            words = ["strace", "-c", *(word for worker in workers for word in ("-p", str(worker)))]
            with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as tracer:
                time.sleep(1)
                marked = []
                self.load.deliver(server, Cell(64, "4KiB", 1), TRACED_MESSAGES, lambda: marked.append(tracer.send_signal(signal.SIGINT)))
                table = tracer.communicate()[1]
        calls = {words[-1]: int(words[3]) for words in map(str.split, table.splitlines()) if len(words) >= 5 and re.fullmatch(r"\d+", words[3])}
        calls.pop("total", None)
        each = sum(calls.values()) / TRACED_MESSAGES
        most = ", ".join(f"{name} {count / TRACED_MESSAGES:.2f}" for name, count in sorted(calls.items(), key=lambda item: -item[1])[:3])
        return [Target("System calls of the workers for each message, 64 connections (under strace, which slows)", "strace -c -p WORKER...; " + self.command("--targets"),
                       f"{each:.2f} ({most})", "less than 1.5", each < 1.5)]

    def instructions(self) -> list[Target]:
        """User-space instructions for a 4 KiB message and recipient"""
        program = instructions.build("release", self.say)
        with self.setting(64) as setting:
            setting.workers = 1
            count = instructions.measure(setting, program, self.load, Cell(64, "4KiB", 1), COUNTED_MESSAGES)
        most = ", ".join(f"{name} {share:.0%}" for name, share in count.most(3))
        return [Target("User-space instructions for a 4 KiB message and recipient, journal, 64 connections (under callgrind, which slows)",
                       "perf/instructions", f"{count.each:.0f} ({most})", "less than 8000", count.each < 8000)]

    def scanner(self) -> list[Target]:
        """DATA scanner on mail text against memmem alone"""
        ratios, rates = zip(*(scanner.measure() for _ in range(self.options.rounds)))
        ratio, rate = statistics.median(ratios), statistics.median(rates)
        return [Target("DATA scanner on mail text, time against memmem alone over the same mail, and rate",
                       scanner.COMMAND, f"{ratio:.2f}, {rate:.1f} GB/s", "at most 1.10, at least 5 GB/s", ratio <= 1.1 and rate >= 5)]


def dd_rate(file: Path) -> float:
    """MiB/s of one file written with a sync after each MiB."""
    begin = time.monotonic()
    run("dd", "if=/dev/zero", f"of={file}", "bs=1M", f"count={DD_MIB}", "oflag=sync")
    rate = DD_MIB / (time.monotonic() - begin)
    file.unlink()
    return rate


def resident(pid: int) -> int:
    return machine.field_kib(f"/proc/{pid}/status", "VmRSS:") * 1024


def threads(pid: int, name: str) -> list[int]:
    """Threads of a process whose name begins so; those of io-wq have other names."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/task/{task}/comm").read_text().startswith(name):
                found.append(int(task))
    if not found:
        raise Failure(f"no thread of the server is called {name}")
    return found


def greeted(path: Path) -> socket.socket:
    """A connection after LHLO."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(30)
    client.connect(str(path))
    with client.makefile("rb") as replies:
        greeting = replies.readline()
        if not greeting.startswith(b"220"):
            raise Failure(f"a connection was refused: {greeting!r}")
        client.sendall(b"LHLO idle.example.org\r\n")
        while replies.readline()[3:4] == b"-":
            pass
    return client


if __name__ == "__main__":
    sys.exit("run perf/compare --targets")
