"""A comparison as an SVG: a panel for each file system, a group of bars for each load.

Owns coordinates and colours. The axis is logarithmic, as rates differ by a factor of a hundred and more.
"""

import math
from xml.sax.saxutils import escape

from .report import REFERENCE, Table

COLOURS = {
    "journal": "#08519c", "journal-shared": "#08306b", "group": "#3182bd", "fsync": "#6baed6", "none": "#bdd7e7",
    "dovecot": "#d94801", "dovecot-never": "#fdae6b", "cyrus": "#238b45", "postfix-virtual": "#756bb1",
    "raw-journal": "#525252", "raw-group": "#7a7a7a", "raw-fsync": "#a0a0a0", "raw-none": "#c8c8c8",
}
BAR, GAP, LEFT, RIGHT, PANEL = 13, 16, 210, 150, 620
FONT = 'font-family="DejaVu Sans, Helvetica, sans-serif"'


def draw(tables: list[Table], title: str, subtitles: list[str]) -> str:
    """The whole chart."""
    names = list(dict.fromkeys(row.name for table in tables for row in table.rows))
    low, high = bounds(tables)
    width = LEFT + PANEL + RIGHT
    parts = [text(16, 28, title, 17, weight="bold")]
    y = 48
    for line in [*subtitles, "Behind each bar: its rate, and how many times as many messages Posthaste's default mode, journal, delivers."]:
        parts.append(text(16, y, line[:150], 11, colour="#444"))
        y += 16
    y = legend(parts, names, y + 2, width) + 12
    for file_system in dict.fromkeys(table.file_system for table in tables):
        y = panel(parts, file_system, [table for table in tables if table.file_system == file_system], y, low, high)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 10}" viewBox="0 0 {width} {y + 10}" {FONT}>\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")


def bounds(tables: list[Table]) -> tuple[float, float]:
    """Powers of ten around all rates."""
    rates = [row.median.messages_per_second for table in tables for row in table.rows if row.median]
    rates = [rate for rate in rates if rate > 0] or [1, 10]
    low, high = 10 ** math.floor(math.log10(min(rates))), 10 ** math.ceil(math.log10(max(rates)))
    return low, max(high, low * 10)


def legend(parts: list[str], names: list[str], y: int, width: int) -> int:
    x = 16
    for name in names:
        label = f"Posthaste {name}" if name in ("journal", "group", "fsync", "none", "journal-shared") else name
        wide = 24 + 7 * len(label)
        if x + wide > width:
            x, y = 16, y + 18
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour(name)}"/>')
        parts.append(text(x + 17, y + 10, label, 11))
        x += wide
    return y + 18


def panel(parts: list[str], file_system: str, tables: list[Table], y: int, low: float, high: float) -> int:
    y += 14
    parts.append(text(16, y, file_system, 14, weight="bold"))
    top = y + 10
    bottom = top + sum(len(table.rows) * BAR + GAP for table in tables)
    axis(parts, top, bottom, low, high)
    at = top + GAP / 2
    for table in tables:
        group(parts, table, at, low, high)
        at += len(table.rows) * BAR + GAP
    return int(bottom) + 46


def axis(parts: list[str], top: float, bottom: float, low: float, high: float):
    decade = low
    while decade <= high:
        for step in (1, 2, 5):
            value = decade * step
            if value <= high:
                x = position(value, low, high)
                strong = step == 1
                parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{"#bbb" if strong else "#e8e8e8"}"/>')
                parts.append(text(x, bottom + 14, f"{value:,.0f}", 10 if strong else 8, anchor="middle", colour="#333" if strong else "#777"))
        decade *= 10
    parts.append(text(LEFT + PANEL / 2, bottom + 31, "messages per second (logarithmic)", 11, anchor="middle"))


def group(parts: list[str], table: Table, y: float, low: float, high: float):
    height = len(table.rows) * BAR
    middle = y + height / 2
    cell = table.cell
    to = "1 recipient" if cell.recipients == 1 else f"{cell.recipients} recipients"
    for line, (what, weight) in enumerate([(f"{cell.connections} connections", "bold"), (cell.size if cell.size != "mix" else "ISP mix of sizes", "normal"), (to, "normal")]):
        parts.append(text(LEFT - 12, middle - 12 + 14 * line, what, 11, anchor="end", weight=weight))
    reference = table.median(REFERENCE)
    for number, row in enumerate(table.rows):
        bar_y = y + number * BAR
        if row.median is None:
            parts.append(text(LEFT + 4, bar_y + BAR - 3, f"{row.name}: void", 9, colour="#a00"))
            continue
        rate = row.median.messages_per_second
        end = position(rate, low, high)
        parts.append(f'<rect x="{LEFT}" y="{bar_y:.1f}" width="{max(end - LEFT, 1):.1f}" height="{BAR - 2}" fill="{colour(row.name)}"/>')
        label = f"{rate:,.0f}/s"
        if reference and row.name != REFERENCE:
            times = reference.messages_per_second / rate
            label += f"   journal: {times:.{0 if times >= 20 else 1 if times >= 3 else 2}f}\u00d7"
        parts.append(text(end + 4, bar_y + BAR - 4, label, 9, colour="#222"))


def position(value: float, low: float, high: float) -> float:
    share = (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
    return LEFT + PANEL * share


def colour(name: str) -> str:
    return COLOURS.get(name, "#333")


def text(x, y, what, size, anchor="start", weight="normal", colour="#000") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">{escape(what)}</text>'
