"""Running programs, what this machine is, and what its processes and devices have cost so far.

Owns everything that is read from /proc and /sys. Counters only rise: who wants the cost of something reads them before
and after.
"""

import contextlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
SECTOR = 512


class Failure(Exception):
    """Something that ends a round or the program, in words that say what to do."""


def run(*command, timeout=None, cwd=None, env=None) -> str:
    """Runs a program to its end and returns what it printed; a Failure if it did not succeed."""
    words = [str(word) for word in command]
    try:
        result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=env)
    except FileNotFoundError:
        raise Failure(f"{words[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(words)}: not done after {timeout} s") from None
    if result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip() or f"exit code {result.returncode}")
        raise Failure(f"{' '.join(words)}: {said[-2000:]}")
    return result.stdout


def is_root() -> bool:
    return os.geteuid() == 0


def program(name: str) -> Path | None:
    """Where an installed program is; folders of the administrator and of daemons count as well."""
    folders = os.environ.get("PATH", "").split(":") + ["/usr/sbin", "/sbin", "/usr/lib/postfix/sbin", "/usr/lib/cyrus/bin"]
    for folder in folders:
        path = Path(folder or ".") / name
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


def enter_namespace(script: str):
    """Goes on in a mount namespace of its own: what is mounted there goes away with the last process in it."""
    if "--inside" in sys.argv:
        return
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--", sys.executable, script, *sys.argv[1:], "--inside"])


def may_mount() -> bool:
    """Whether a mount namespace can be made: containers and other users than root often may not."""
    if not is_root():
        return False
    test = ["unshare", "--mount", "--propagation", "private", "--", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(test, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def facts() -> dict:
    """The machine, for whoever reads the figures later."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = Path("/proc/meminfo").read_text().split("\n", 1)[0].split()[1]
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "cpus": f"{len(os.sched_getaffinity(0))} x {model}",
        "memory_gib": round(int(memory) / 2**20, 1),
        "load_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    git = subprocess.run(["git", "-C", REPOSITORY, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return git.stdout.strip() or "(unknown commit)"


def package_version(package: str) -> str | None:
    """The version of an installed Debian package."""
    with contextlib.suppress(Failure):
        return run("dpkg-query", "-W", "-f", "${Version}", package).strip() or None
    return None


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat (proc_pid_stat(5))."""

    pid: int
    parent: int
    name: str
    seconds: float


def processes() -> dict[int, Process]:
    """All processes: their own processor time (threads, those of io-wq among them, included) and their reaped children's."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                text = Path(entry.path, "stat").read_text()
                name, rest = text[text.index("(") + 1:].rsplit(")", 1)
                fields = rest.split()
                pid = int(entry.name)
                found[pid] = Process(pid, int(fields[1]), name, sum(map(int, fields[11:15])) / TICKS)
    return found


def tree(root: int) -> list[Process]:
    """A process and all that descend from it."""
    everything = processes()
    children: dict[int, list[int]] = {}
    for process in everything.values():
        children.setdefault(process.parent, []).append(process.pid)
    todo, members = [root], []
    while todo:
        pid = todo.pop()
        if pid in everything:
            members.append(everything[pid])
            todo.extend(children.get(pid, ()))
    return members


def tree_seconds(root: int) -> float:
    """Processor time of a tree, processes that have ended included as far as their parents waited for them."""
    return sum(process.seconds for process in tree(root))


def tree_peak_bytes(root: int) -> int:
    """An upper bound of the most memory that a tree has had.

    For each process its proportional set size now (pages that several share are divided among them), and how much
    more than now it once had. That costs nothing while a load is running.
    """
    total = 0
    for process in tree(root):
        with contextlib.suppress(OSError):
            total += field_kib(f"/proc/{process.pid}/smaps_rollup", "Pss:")
            status = f"/proc/{process.pid}/status"
            total += max(field_kib(status, "VmHWM:") - field_kib(status, "VmRSS:"), 0)
    return total * 1024


def forget_peaks(root: int):
    """The peak of every process of a tree is what it has now (proc_pid_clear_refs(5)): its start is not part of the load."""
    for process in tree(root):
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def field_kib(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    return field_kib("/proc/meminfo", "MemAvailable") * 1024


def busy_seconds() -> float:
    """Time of all CPUs in programs, kernel and interrupts."""
    user, nice, system, _idle, _iowait, hard, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + hard + soft) / TICKS


@dataclass(frozen=True)
class Device:
    """A block device: what it was asked for so far."""

    name: str

    def counters(self) -> tuple[int, int]:
        """Flush requests, and bytes written (Documentation/block/stat.rst)."""
        fields = Path(f"/sys/block/{self.name}/stat").read_text().split()
        return int(fields[15]), int(fields[6]) * SECTOR
