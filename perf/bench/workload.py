"""What is delivered: how many mailboxes and names there are, and how large messages are.

Names are `<number>user@example.test`, as `smtp-source -N` makes them; mailbox `number % mailboxes` is theirs.
"""

import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .machine import Failure, REPOSITORY

DOMAIN = "example.test"
OWNER = 20001
SENDER = "sender@example.org"
ISP_MIX = REPOSITORY / "perf/load/mixes/isp.mix"
UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 1000, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True)
class Cell:
    """One kind of load."""

    connections: int
    size: str
    recipients: int

    def __str__(self):
        to = "1 recipient" if self.recipients == 1 else f"{self.recipients} recipients"
        return f"{self.connections} connections, {self.size}, {to}"

    @property
    def key(self) -> str:
        return f"{self.connections}/{self.size}/{self.recipients}"


def parse_bytes(text: str) -> int:
    digits = text.rstrip("bBiIkKmMgG")
    try:
        return int(float(digits) * UNITS[text[len(digits):].lower()])
    except (KeyError, ValueError):
        raise Failure(f"{text!r} is no size: say 4KiB, 1MiB, 8GiB or, for messages, mix") from None


def is_mix(size: str) -> bool:
    return size.startswith("mix")


def mix_file(size: str) -> Path:
    """`mix` is the one of an Internet provider; `mix:FILE` any other in that format."""
    path = ISP_MIX if size == "mix" else Path(size.partition(":")[2])
    if not path.exists():
        raise Failure(f"{path} does not exist: say --sizes mix:FILE with a file in the format of perf/load/mixes/isp.mix")
    return path


@cache
def drawn_sizes(size: str, count: int = 20000) -> tuple[int, ...]:
    """Sizes of messages as a mix has them, the same at every call."""
    if not is_mix(size):
        return (parse_bytes(size),)
    parts = [part for line in mix_file(size).read_text().splitlines() if (part := line.split("#")[0].split())]
    laws = [(float(weight), kind, dict(field.split("=", 1) for field in fields)) for weight, kind, *fields in parts]
    dice, sizes = random.Random(1), []
    while len(sizes) < count:
        _, kind, fields = dice.choices(laws, weights=[weight for weight, _, _ in laws])[0]
        if kind == "fixed":
            sizes.append(parse_bytes(fields["size"]))
            continue
        while True:
            drawn = int(dice.lognormvariate(math.log(parse_bytes(fields["median"])), float(fields["sigma"])))
            if parse_bytes(fields["min"]) <= drawn <= parse_bytes(fields["max"]):
                break
        sizes.append(drawn)
    return tuple(sizes)


def strata(size: str, count: int) -> list[int]:
    """A few sizes that stand for a mix: means of equal shares of the messages, so the mean is the mix's."""
    sizes = sorted(drawn_sizes(size))
    bounds = [len(sizes) * number // count for number in range(count + 1)]
    return [max(sum(sizes[low:high]) // (high - low), 1) for low, high in zip(bounds, bounds[1:])]


def mean_bytes(size: str) -> int:
    sizes = drawn_sizes(size)
    return sum(sizes) // len(sizes)


def smallest_bytes(size: str) -> int:
    return min(drawn_sizes(size))
