"""The raw limit: posthaste-raw makes the files of a mode, with its promise, and there is no server and no network."""

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from .clients import Delivery
from .machine import Failure
from .servers import Setting
from .workload import Cell, drawn_sizes, is_mix, parse_bytes, smallest_bytes

# A thread that waits for a sync leaves its CPU to another one.
THREADS_PER_CPU = 2


class RawLimit:
    """The program in one mode; the same shape as a server, so that it takes its turn like one."""

    def __init__(self, setting: Setting, program: Path, mode: str, shared: bool = False):
        self.setting, self.program, self.promise, self.shared = setting, program, mode, shared
        self.name = f"raw-{mode}"
        self.mail = setting.files.path / self.name
        self.threads = THREADS_PER_CPU * len(os.sched_getaffinity(0))
        for number in range(setting.mailboxes):
            (self.mail / f"{number}/Maildir/new").mkdir(parents=True)

    @contextlib.contextmanager
    def prepared(self, cell: Cell, messages: int):
        """The program with everything made that it needs; gives what lets it begin and returns what it took, with
        processor seconds."""
        size = ["--size", parse_bytes(cell.size)] if not is_mix(cell.size) else ["--sizes", self.sizes(cell)]
        words = [self.program, "--dir", self.mail, "--mailboxes", self.setting.mailboxes, "--mode", self.promise,
                 "--messages", messages, *size, "--recipients", cell.recipients, "--in-flight", cell.connections,
                 "--threads", self.threads, "--json", "--wait", *(["--shared"] if self.shared else [])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([str(word) for word in words], **pipes) as process:
            try:
                if process.stdout.readline() != "ready\n":
                    raise Failure(process.communicate()[1].strip())
                yield lambda: self.begin(cell, process)
            finally:
                process.kill()

    def begin(self, cell: Cell, process) -> tuple[Delivery, float]:
        output, errors = process.communicate("\n")
        if process.returncode != 0:
            raise Failure(errors.strip())
        report = json.loads(output)
        delivery = Delivery(report["messages"], report["seconds"], smallest=smallest_bytes(cell.size))
        return delivery, report["user_seconds"] + report["system_seconds"]

    def sizes(self, cell: Cell) -> Path:
        path = self.setting.scratch / f"{self.name}.sizes"
        path.write_text("".join(f"{size}\n" for size in drawn_sizes(cell.size)))
        return path

    def files(self):
        for number in range(self.setting.mailboxes):
            yield from os.scandir(f"{self.mail}/{number}/Maildir/new")

    def empty(self):
        for entry in self.files():
            os.unlink(entry.path)

    def close(self):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.mail)
