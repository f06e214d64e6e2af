"""What compare-dovecot and compare-modes have in common: a few servers, smtp-source, one load, one line for each round."""

import argparse
import contextlib
import json
import signal
import statistics
import sys
from pathlib import Path

from . import filesystem, machine
from .clients import SmtpSource
from .machine import Failure, REPOSITORY
from .rounds import Contender
from .servers import Setting
from .workload import Cell, parse_bytes


def arguments(documentation: str, sessions: int) -> argparse.ArgumentParser:
    """The options that both have."""
    summary, explanation = documentation.split("\n\n", 1)
    parser = argparse.ArgumentParser(description=summary, epilog=explanation, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="measured rounds of each (default: 3)")
    add("--messages", type=int, default=20000, help="messages of a round (default: 20000)")
    add("--sessions", type=int, default=sessions, help="sessions at the same time (default: %(default)s)")
    add("--length", type=int, default=4096, help="bytes of a body (default: 4096)")
    add("--mailboxes", type=int, default=1000, help="mailboxes, all of them existing (default: 1000)")
    add("--workers", type=int, help="workers of Posthaste (default: one per CPU)")
    add("--file-system", default="ext4", choices=["ext4", "xfs"], help="made with the defaults of its mkfs (default: ext4)")
    add("--size", default="4GiB", help="of the file system, in RAM (default: 4GiB)")
    add("--posthaste", type=Path, default=REPOSITORY / "target/release/posthaste", help="the program (default: %(default)s)")
    add("--json", action="store_true", help="print a JSON report at the end; the rounds go to standard error")
    add("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser):
    options = parser.parse_args()
    if not options.posthaste.exists():
        parser.error(f"{options.posthaste} does not exist: run `cargo build --release`, or say --posthaste PROGRAM")
    if options.messages < options.mailboxes:
        parser.error("fewer messages than mailboxes: some would never be used")
    return options


def main(script: str, options, compare):
    """Calls `compare` with a mounted file system, as root and in a namespace of its own; prints the report."""
    name = Path(script).name
    if not machine.is_root():
        sys.exit(f"{name} mounts a file system and starts servers: run it as root")
    machine.enter_namespace(script)
    # An interrupt has to pass the `finally` of every server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted"))
    try:
        with filesystem.scratch() as scratch, filesystem.in_memory(scratch, options.file_system, parse_bytes(options.size)) as files:
            report = compare(scratch, files, options)
    except Failure as failure:
        sys.exit(f"{name}: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    if options.json:
        print(json.dumps(report, indent=2))


@contextlib.contextmanager
def contenders(scratch, files, options, kinds):
    """The servers, their mailboxes filled with one message each."""
    setting = Setting(scratch, files, options.mailboxes, options.messages, options.sessions, options.posthaste, options.workers)
    made = [Contender(kind(setting), SmtpSource()) for kind in kinds]
    try:
        for contender in made:
            contender.fill()
        yield made
    finally:
        for contender in made:
            contender.contestant.close()


def rounds(made, options, line) -> dict:
    """Alternating rounds; what each came to."""
    cell = Cell(options.sessions, str(options.length), 1)
    results = {contender.name: [] for contender in made}
    for number in range(1, options.rounds + 1):
        for contender in made:
            result = contender.round(cell, options.messages)
            results[contender.name].append(result)
            say(options, f"round {number}  {line(contender.name, result)}")
    return results


def medians(results: dict, key: str) -> dict:
    return {name: statistics.median(getattr(result, key) for result in all) for name, all in results.items()}


def describe(files, options, what: str) -> list[str]:
    """What is compared, on what: enough to judge the figures later."""
    known = machine.facts()
    return [
        f"Posthaste {machine.commit()}, {what}",
        f"{options.messages} messages of {options.length} bytes, {options.sessions} sessions (smtp-source -L -d -N), "
        f"{options.messages} names on {options.mailboxes} existing mailboxes",
        f"{files.description}, {known['kernel']}, {known['cpus']}, load {known['load_before']} before",
    ]


def say(options, text: str):
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)
