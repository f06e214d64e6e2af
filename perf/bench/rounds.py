"""One delivery with everything that is measured about it, of a server with a client or of the raw limit.

Owns when counters are read, and what makes a round void: a message that is not there afterwards, or not whole.
"""

import os
import statistics
from dataclasses import asdict, dataclass

from . import machine
from .clients import Delivery, SmtpSource
from .machine import Failure
from .raw import RawLimit
from .servers import Server
from .workload import Cell, mean_bytes, parse_bytes


@dataclass
class Result:
    """What one round came to. `None` is what could not be measured."""

    messages: int
    seconds: float
    messages_per_second: float
    recipients_per_second: float
    # Of the server with its children, and of the whole machine with client and kernel threads, for each recipient.
    cpu_us: float
    machine_us: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    memory_mib: float | None = None
    # Until the last reply; and until everything is written out.
    flushes_per_message: float | None = None
    written_per_message: float | None = None
    # The client had no time left.
    client_limited: bool = False

    def as_dict(self) -> dict:
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def median(results: list[Result]) -> Result:
    """Of each figure the median."""
    columns = {}
    for key in asdict(results[0]):
        values = [getattr(result, key) for result in results if getattr(result, key) is not None]
        columns[key] = statistics.median(values) if values else None
    columns["client_limited"] = any(result.client_limited for result in results)
    return Result(**columns)


class Contender:
    """A server and its client, or the raw limit: takes its turn in every round."""

    def __init__(self, contestant: Server | RawLimit, client=None):
        self.contestant, self.client = contestant, client
        self.name, self.promise = contestant.name, contestant.promise
        self.files = contestant.setting.files

    @property
    def client_name(self) -> str:
        return self.client.name if self.client else "no client"

    def fill(self) -> float:
        """One message to every mailbox, so that whatever a server keeps for a mailbox is there; messages/s."""
        if not isinstance(self.contestant, Server):
            return FIRST_GUESS
        setting = self.contestant.setting
        cell = Cell(min(setting.connections, FILL_CONNECTIONS), "4KiB", 1)
        with self.contestant.running():
            seconds = SmtpSource().deliver(self.contestant, cell, setting.mailboxes).seconds
        self.contestant.empty()
        return setting.mailboxes / seconds

    def prepare(self, cell: Cell, options) -> int:
        """Fills the mailboxes, and finds out how many messages a round of the wanted length has."""
        rate = self.fill()
        if options.messages:
            return max(options.messages // cell.recipients, 1)
        mean = mean_bytes(cell.size)
        # What a filled file system leaves, whatever the rate: a round is removed before the next one.
        most = parse_bytes(options.size) // 5 // ((mean + 8192) * cell.recipients)
        slower = cell.recipients / 4 + mean / 65536 + 1
        measured = self.round(cell, clamp(rate / slower * CALIBRATION_SECONDS, cell.connections, most))
        if measured.seconds < CALIBRATION_SECONDS / 2:
            # Too short to tell.
            measured = self.round(cell, clamp(measured.messages_per_second * CALIBRATION_SECONDS, cell.connections, most))
        return clamp(measured.messages_per_second * options.seconds, cell.connections, most)

    def round(self, cell: Cell, messages: int) -> Result:
        """Delivers the messages, makes sure that all are there, and removes them."""
        before = {entry.path for entry in self.contestant.files()}
        self.files.settle()
        try:
            if isinstance(self.contestant, Server):
                delivery, result = self.measure_server(cell, messages)
            else:
                delivery, result = self.measure_raw(cell, messages)
            self.verify(delivery, cell, before)
        finally:
            self.contestant.empty()
            self.files.settle()
        return result

    def measure_server(self, cell: Cell, messages: int):
        with self.contestant.running() as server:
            pid = server.process.pid
            machine.forget_peaks(pid)
            before, after = self.counters(pid), []
            try:
                delivery = self.client.deliver(server, cell, messages, lambda: after.append(self.counters(pid)))
            except Failure as failure:
                raise Failure(f"{failure}\n{server.log_tail()}".strip()) from None
            (device, cpu, busy), (device_after, cpu_after, busy_after) = before, after[0]
            memory = machine.tree_peak_bytes(pid)
            self.files.settle()
            device_settled = self.device()
        result = self.result(delivery, cell, cpu_after - cpu, busy_after - busy)
        result.memory_mib = memory / 2**20
        result.client_limited = delivery.client_limited
        self.note_device(result, delivery, device, device_after, device_settled)
        if delivery.latency:
            result.p50_ms, result.p99_ms, result.p999_ms = (delivery.latency[key] for key in ("p50", "p99", "p99.9"))
        return delivery, result

    def measure_raw(self, cell: Cell, messages: int):
        with self.contestant.prepared(cell, messages) as begin:
            self.files.settle()
            device, busy = self.device(), machine.busy_seconds()
            delivery, cpu = begin()
            device_after, busy_after = self.device(), machine.busy_seconds()
            self.files.settle()
        result = self.result(delivery, cell, cpu, busy_after - busy)
        self.note_device(result, delivery, device, device_after, self.device())
        return delivery, result

    def counters(self, pid: int):
        return self.device(), machine.tree_seconds(pid), machine.busy_seconds()

    def device(self):
        return self.files.device.counters() if self.files.device else None

    @staticmethod
    def result(delivery: Delivery, cell: Cell, cpu: float, busy: float) -> Result:
        rate = delivery.messages / delivery.seconds
        recipients = delivery.messages * cell.recipients
        return Result(delivery.messages, delivery.seconds, rate, rate * cell.recipients, cpu / recipients * 1e6, busy / recipients * 1e6)

    @staticmethod
    def note_device(result: Result, delivery: Delivery, before, after, settled):
        if before:
            result.flushes_per_message = max(after[0] - before[0], 0) / delivery.messages
            result.written_per_message = max(settled[1] - before[1], 0) / delivery.messages

    def verify(self, delivery: Delivery, cell: Cell, before: set[str]):
        """Every file is there, none is half a message, and each has the size that its name says."""
        count = 0
        for entry in self.contestant.files():
            if entry.path in before:
                continue
            size = entry.stat().st_size
            if os.path.basename(os.path.dirname(entry.path)) == "tmp":
                raise Failure(f"{entry.path} was left behind")
            if size < delivery.smallest or (",S=" in entry.name and f",S={size}," not in f"{entry.name},"):
                raise Failure(f"{entry.path} ({size} bytes) is not a whole message")
            count += 1
        wanted = delivery.messages * cell.recipients
        if count != wanted:
            raise Failure(f"{wanted} copies were acknowledged, {count} are there")


def clamp(messages: float, low: int, high: int) -> int:
    return max(min(int(messages), high), min(low, high), 1)


CALIBRATION_SECONDS = 1.0
# Messages a second of the raw limit, before anything is known: only the length of its first round depends on it.
FIRST_GUESS = 8000
FILL_CONNECTIONS = 32
