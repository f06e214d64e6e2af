"""Who delivers: posthaste-load, or Postfix's smtp-source.

Owns how a client is called and what it says. posthaste-load measures latency, checks every message by digest and has
mixes of sizes; smtp-source is what everybody has, and speaks SMTP.
"""

import contextlib
import glob
import json
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .machine import Failure, run
from .servers import Server
from .workload import Cell, DOMAIN, SENDER, is_mix, mix_file, parse_bytes, strata

# How many sizes stand for a mix where a client can send but one.
STRATA = 16
# How long a queue may take to become empty.
QUEUE_SECONDS = 300


@dataclass
class Delivery:
    """What a client says about the messages that it has sent."""

    messages: int
    seconds: float
    # Milliseconds by percentile, where the client measures them.
    latency: dict | None = None
    # The client has read the mailboxes and compared digests.
    verified: bool = False
    # No file may be smaller.
    smallest: int = 1
    # The client had no time left: the server could have done more.
    client_limited: bool = False


class SmtpSource:
    """`smtp-source -d -N`, for LMTP with -L. Nothing is pipelined."""

    name = "smtp-source"

    def deliver(self, server: Server, cell: Cell, messages: int, mark=lambda: None) -> Delivery:
        """Sends the messages; for a mix several processes share the connections, each with one size. Calls `mark` when the
        last one is acknowledged (or in its mailbox, if the server queues)."""
        sizes = strata(cell.size, min(STRATA, cell.connections)) if is_mix(cell.size) else [parse_bytes(cell.size)]
        shares = [(size, cell.connections // len(sizes), max(messages // len(sizes), 1)) for size in sizes]
        before = server.delivered() if server.queues else 0
        begin = time.monotonic()
        with ThreadPoolExecutor(len(shares)) as pool:
            list(pool.map(lambda share: self.send(server, cell.recipients, *share), shares))
        sent = sum(share[2] for share in shares)
        if server.queues:
            self.wait_for_mailboxes(server, before + sent * cell.recipients)
        seconds = time.monotonic() - begin
        mark()
        return Delivery(sent, seconds, smallest=min(sizes) * 98 // 100)

    def send(self, server: Server, recipients: int, size: int, connections: int, messages: int):
        # -N counts from 1 in each run: who has no more names than so many gets several runs.
        most = (server.names_max or server.setting.names) // recipients
        while messages > 0:
            part = min(messages, max(most, 1))
            words = ["smtp-source", "-d", "-N", "-s", min(connections, part), "-m", part, "-l", size, "-r", recipients,
                     "-f", SENDER, "-t", f"user@{DOMAIN}"]
            run(*words, *(["-L"] if server.speaks == "lmtp" else []), server.target)
            messages -= part

    def wait_for_mailboxes(self, server: Server, wanted: int):
        """A server that queues is done when the mail is in the mailboxes: they are looked at until it is."""
        deadline = time.monotonic() + QUEUE_SECONDS
        while server.delivered() < wanted:
            if time.monotonic() > deadline:
                raise Failure(f"{server.name}: not everything is delivered after {QUEUE_SECONDS} s\n{server.log_tail()}")
            time.sleep(0.02)


class Load:
    """posthaste-load: closed loop, pipelined as Postfix does it, users chosen uniformly among as many as mailboxes."""

    name = "posthaste-load"

    def __init__(self, program: Path):
        self.program = program

    def deliver(self, server: Server, cell: Cell, messages: int, mark=lambda: None) -> Delivery:
        """Sends the messages and compares what is there with them; `mark` is called in between."""
        # In Cyrus's store there are no Maildirs to read.
        verify = [] if server.name == "cyrus" else ["--verify", server.mail]
        report = self.call(server, cell, ["--messages", messages, *verify], mark)
        target = report["targets"][0]
        if target["failed"]:
            raise Failure(f"{target['failed']} messages were refused: {target['errors']}")
        latency = {key: target["latency_us"]["end_of_data"][key] / 1000 for key in ("p50", "p99", "p99.9")}
        return Delivery(target["messages"], target["seconds"], latency, bool(verify), 1, not target["generator"]["kept_up"])

    def call(self, server: Server, cell: Cell, more: list, mark=lambda: None) -> dict:
        """Runs it and returns its report."""
        size = f"mix:{mix_file(cell.size)}" if is_mix(cell.size) else parse_bytes(cell.size)
        threads = min(len(os.sched_getaffinity(0)), cell.connections)
        words = [self.program, "--to", server.target, "--connections", cell.connections, "--recipients", cell.recipients,
                 "--size", size, "--users", f"{{1..{server.setting.mailboxes}}}user@{DOMAIN}", "--sender", SENDER,
                 "--threads", threads, "--json", *(["--calibrate"] if "--rate" not in more else []), *more]
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            with subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=output, stderr=errors) as process:
                try:
                    wait_for_threads(process)
                    mark()
                    process.wait()
                finally:
                    process.kill()
            for file in (output, errors):
                file.seek(0)
            # 3: it says itself in the report that it did not keep up.
            if process.returncode not in (0, 3):
                raise Failure(errors.read().strip() or f"{self.program}: exit code {process.returncode}")
            return json.load(output)


def wait_for_threads(process: subprocess.Popen):
    """Until the threads that send have ended: what follows is the reading of mailboxes, which is not the load."""
    seen = False
    while process.poll() is None:
        names = set()
        for task in glob.glob(f"/proc/{process.pid}/task/*/comm"):
            with contextlib.suppress(OSError):
                names.add(Path(task).read_text().strip())
        sending = any(name.startswith("load-") for name in names)
        if seen and not sending:
            return
        seen = seen or sending
        time.sleep(0.01)


__all__ = ["Delivery", "Load", "SmtpSource"]
