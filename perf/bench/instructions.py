"""User-space instructions of the real server on the real ring, counted by callgrind.

Owns the build that callgrind can run, when counting begins and ends, and how its profile is read. The kernel's work is not in it,
nor is waiting. Under callgrind the server is some fifty times slower and its threads run one at a time, so batches
(messages in one turn of the ring, in one write of the journal) are not those of a server at full speed.
"""

import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .machine import Failure, REPOSITORY, run
from .servers import Posthaste
from .workload import Cell

# What runs before, so that buffers have grown and pages are there.
WARM_UP_MESSAGES = 500
CONTROL_SECONDS = 60
ENTER = Path(__file__).resolve().parent / "enter.c"


@dataclass
class Count:
    """What a message costs, and where."""

    each: float
    # Instructions of a message by function, and by source file: most of the functions are inlined into few.
    functions: Counter
    files: Counter

    def most(self, many: int) -> list[tuple[str, float]]:
        """The functions that cost most, with their shares."""
        return [(name, cost / self.each) for name, cost in self.functions.most_common(many)]

    def top(self, many: int) -> str:
        lines = []
        for title, costs in (("function", self.functions), ("source file", self.files)):
            lines.append(f"{'each':>8} {'share':>6}  {title}")
            lines += [f"{cost:8.0f} {cost / self.each:6.1%}  {name}" for name, cost in costs.most_common(many)]
        return "\n".join(lines)


def build(profile: str, say) -> Path:
    """The server for callgrind: rustix has to make its system calls through libc, as what it reads from the vDSO is not there
    (valgrind hides the vDSO, and a clock that looks for it ends the process)."""
    if not machine.program("valgrind"):
        raise Failure("valgrind is not installed: apt-get install valgrind")
    target = REPOSITORY / "target/callgrind"
    words = ["cargo", "build", "--quiet", "--locked", "--profile", profile, "--bin", "posthaste", "--target-dir"]
    say(f"RUSTFLAGS='--cfg rustix_use_libc' {' '.join(words)} target/callgrind")
    run(*words, target, cwd=REPOSITORY, env={**os.environ, "RUSTFLAGS": "--cfg rustix_use_libc"})
    return target / profile / "posthaste"


class Counted(Posthaste):
    """Posthaste, `journal`, under callgrind."""

    name = "journal-counted"
    program_for_callgrind: Path | None = None

    def prepare(self):
        super().prepare()
        # Without it nothing moves under valgrind; enter.c says why.
        self.enter = self.directory / "enter.so"
        run("cc", "-shared", "-fPIC", "-O2", "-g", "-o", self.enter, ENTER)

    def environment(self):
        return {**super().environment(), "LD_PRELOAD": str(self.enter)}

    def command(self):
        return ["valgrind", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no",
                f"--callgrind-out-file={self.directory}/profile", self.program_for_callgrind, *super().command()[1:]]

    def control(self, what: str):
        run("callgrind_control", what, self.process.pid, timeout=CONTROL_SECONDS)


def measure(setting, program: Path, client, cell: Cell, messages: int) -> Count:
    """Instructions of the whole process for each message that `client` delivers."""
    server = Counted(setting)
    server.program_for_callgrind = program
    try:
        with server.running():
            client.deliver(server, cell, WARM_UP_MESSAGES)
            server.empty()
            server.control("--zero")
            client.deliver(server, cell, messages)
            server.control("--dump")
        return read(dumped(server.directory), messages)
    finally:
        server.close()


def dumped(directory: Path) -> Path:
    """The first profile; the one of the end has what was counted since."""
    path = directory / "profile.1"
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline:
            raise Failure(f"callgrind wrote no profile: {[entry.name for entry in directory.iterdir()]}")
        time.sleep(0.1)
    return path


def read(path: Path, messages: int) -> Count:
    """Self costs (valgrind manual, "Callgrind Format Specification")."""
    functions, files = Counter(), Counter()
    function = file = ""
    is_call = False
    with path.open(errors="replace") as lines:
        for line in lines:
            key, _, value = line.rstrip("\n").partition("=")
            if key == "fn":
                function = re.sub(r"'\d+$", "", value)
            elif key in ("fl", "fi", "fe"):
                file = short(value)
            elif key == "calls":
                # The next line is what the call cost, in the function that was called.
                is_call = True
            elif line[:1].isdigit():
                # What stands in for a call of the kernel is none of the server's.
                if not is_call and file != ENTER.name:
                    cost = int(line.split()[1]) / messages
                    functions[function] += cost
                    files[file] += cost
                is_call = False
    return Count(sum(functions.values()), functions, files)


def short(path: str) -> str:
    """A source file without where it lies."""
    if path.endswith(f"/{ENTER.name}") or path == ENTER.name:
        return ENTER.name
    for mark in (f"{REPOSITORY}/", "/library/", "/src/index.crates.io-"):
        if mark in path:
            rest = path.split(mark, 1)[1]
            return rest.partition("/")[2] if mark.startswith("/src/index") else rest
    return path.removeprefix("./")
