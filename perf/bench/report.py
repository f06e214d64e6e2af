"""Tables of results: for a screen, for a record, and what stands behind each number.

Owns columns, ratios, and which rows are marked: a rival's figure that is better than that of Posthaste's default
mode has a star, and a rival that delivers faster is called so.
"""

from dataclasses import dataclass, field

from .rounds import Result
from .workload import Cell

REFERENCE = "journal"
# Which program without a server makes the same promise.
RAW_OF = {"journal": "journal", "group": "group", "fsync": "fsync", "none": "none", "journal-shared": "journal",
          "dovecot": "fsync", "dovecot-never": "none", "cyrus": "fsync", "postfix-virtual": "fsync"}


@dataclass
class Row:
    """One contender in one cell."""

    name: str
    promise: str
    client: str
    rounds: list[Result] = field(default_factory=list)
    median: Result | None = None
    # Why it has no figures.
    void: str | None = None

    def as_dict(self) -> dict:
        return {"promise": self.promise, "client": self.client, "void": self.void,
                "rounds": [result.as_dict() for result in self.rounds],
                "median": self.median.as_dict() if self.median else None}


@dataclass
class Table:
    """All contenders in one cell on one file system."""

    file_system: str
    cell: Cell
    rows: list[Row]

    @property
    def title(self) -> str:
        return f"{self.file_system}, {self.cell}"

    def median(self, name: str) -> Result | None:
        return next((row.median for row in self.rows if row.name == name), None)

    def as_dict(self) -> dict:
        return {"file_system": self.file_system, "connections": self.cell.connections, "size": self.cell.size,
                "recipients": self.cell.recipients, "rows": {row.name: row.as_dict() for row in self.rows}}


# Heading, the figure, how many digits, and whether a smaller one is better.
FIGURES = [
    ("messages/s", "messages_per_second", 0, False),
    ("recipients/s", "recipients_per_second", 0, False),
    ("CPU us", "cpu_us", 0, True),
    ("machine us", "machine_us", 0, True),
    ("p50 ms", "p50_ms", 2, True),
    ("p99 ms", "p99_ms", 2, True),
    ("p99.9 ms", "p999_ms", 2, True),
    ("MiB", "memory_mib", 0, True),
    ("flushes", "flushes_per_message", 3, True),
    ("written", "written_per_message", 0, True),
]
HEADINGS = ["", "promise", *(heading for heading, *_ in FIGURES[:2]), "ratio", "CPU us", "CPU/raw",
            *(heading for heading, *_ in FIGURES[3:])]
LEGEND = """\
ratio: messages/s of Posthaste's journal mode divided by those of the row; CPU us: processor time of server and children
for each recipient; CPU/raw: that, divided by the processor time of posthaste-raw with the same promise; machine us: busy time
of all CPUs, client and kernel threads included, for each recipient; MiB: peak memory of server and children;
flushes: requests to the device for each message until the last reply; written: bytes for each message until everything
is on the device; p50, p99, p99.9: from the end of the data to a reply. A star: a rival's figure that is better than
journal's. "^": the client had no time left, the server could do more. "-": not measured."""


def is_rival(name: str) -> bool:
    return name.startswith(("dovecot", "cyrus", "postfix"))


def cells_of(row: Row, table: Table) -> list[str]:
    """One line of the table, as text."""
    if row.median is None:
        return [row.name, row.promise, f"void: {row.void}"]
    reference = table.median(REFERENCE)
    shown = {key: figure(row, key, digits, smaller, reference) for _, key, digits, smaller in FIGURES}
    values = list(shown.values())
    return [row.name, row.promise, *values[:2], ratio(row, reference), values[2], against_raw(row, table), *values[3:]]


def figure(row: Row, key: str, digits: int, smaller: bool, reference: Result | None) -> str:
    value = getattr(row.median, key)
    if value is None:
        return "-"
    ours = getattr(reference, key) if reference else None
    better = ours is not None and is_rival(row.name) and (value < ours if smaller else value > ours)
    limited = key == "messages_per_second" and row.median.client_limited
    return f"{value:.{digits}f}{'*' if better else ''}{'^' if limited else ''}"


def ratio(row: Row, reference: Result | None) -> str:
    if reference is None:
        return "-"
    value = reference.messages_per_second / row.median.messages_per_second
    lost = " LOST" if is_rival(row.name) and value < 1 else ""
    return f"{value:.2f}{lost}"


def against_raw(row: Row, table: Table) -> str:
    raw = table.median(f"raw-{RAW_OF.get(row.name)}")
    if raw is None or not raw.cpu_us:
        return "-"
    return f"{row.median.cpu_us / raw.cpu_us:.2f}"


def as_text(table: Table) -> str:
    lines = [HEADINGS, *(cells_of(row, table) for row in table.rows)]
    widths = [max((len(line[column]) for line in lines if len(line) == len(HEADINGS)), default=0) for column in range(len(HEADINGS))]
    widths[0] = max(len(line[0]) for line in lines)
    widths[1] = max(len(line[1]) for line in lines)
    text = []
    for line in lines:
        pad = [cell.ljust(width) if column < 2 or len(line) == 3 else cell.rjust(width)
               for column, (cell, width) in enumerate(zip(line, widths))]
        if len(line) == 3:
            pad[2] = line[2]
        text.append("  ".join(pad).rstrip())
    return f"{table.title}\n" + "\n".join(text)


def as_markdown(table: Table) -> str:
    head = "| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS)
    rows = []
    for row in table.rows:
        cells = cells_of(row, table)
        cells += [""] * (len(HEADINGS) - len(cells))
        rows.append("| " + " | ".join(cells) + " |")
    return f"### {table.title}\n\n{head}\n" + "\n".join(rows)


def lost(tables: list[Table]) -> list[str]:
    """Where a rival delivers more messages than Posthaste's default mode."""
    found = []
    for table in tables:
        reference = table.median(REFERENCE)
        for row in table.rows:
            if reference and row.median and is_rival(row.name) and row.median.messages_per_second > reference.messages_per_second:
                found.append(f"{table.title}: {row.name} ({row.promise}) is {row.median.messages_per_second / reference.messages_per_second:.2f} times as fast")
    return found
