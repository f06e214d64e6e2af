"""The DATA scanner against memmem, by benches/scanner.rs.

Owns how the bench is run and where its figures are read: both in one run, on the same mail.
"""

import json
import os

from .machine import REPOSITORY, run

COMMAND = "cargo bench --bench scanner -- '^scanner/(scan|memmem)$'"


def measure() -> tuple[float, float]:
    """Time of the scanner divided by that of memmem, and gigabytes a second of the scanner; medians of one run."""
    run("cargo", "bench", "--quiet", "--locked", "--bench", "scanner", "--", "^scanner/(scan|memmem)$", cwd=REPOSITORY)
    (scan, octets), (memmem, _) = found("scan"), found("memmem")
    return scan / memmem, octets / scan


def found(name: str) -> tuple[float, int]:
    """Nanoseconds of one pass, and octets of the mail."""
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")
    directory = f"{target}/criterion/scanner/{name}/new"
    with open(f"{directory}/estimates.json") as estimates, open(f"{directory}/benchmark.json") as benchmark:
        return json.load(estimates)["median"]["point_estimate"], json.load(benchmark)["throughput"]["Bytes"]
