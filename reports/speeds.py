"""Tables of speed and memory: one a setting, one line a model, those that failed among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reports import words
from reports.compare import Line, Setting, Speed
from reports.tables import GAP, Cell, Column, Entry, Make, Table, latency, table_of


def speed(lines: Sequence[Line], setting: Setting) -> Table:
    """Speed and memory in one setting."""
    parts: list[tuple[Column, Make]] = [
        (Column("Latency p50", "ms", "lower"), latency(setting)),
        (Column("p90", "ms", "lower"), timed(setting, lambda s: s.p90, words.ms)),
        (Column("p99", "ms", "lower"), timed(setting, lambda s: s.p99, words.ms)),
        (Column("First run", "ms", "lower"), timed(setting, lambda s: s.first, words.ms)),
        (Column("Load", "ms", "lower"), timed(setting, lambda s: s.load, words.ms)),
        (Column("Throughput", "images/s", "higher"), timed(setting, lambda s: s.throughput, words.three)),
        (Column("Peak memory", "MB", "lower"), timed(setting, lambda s: s.peak_memory, words.mb)),
        (Column("Repeats"), timed(setting, lambda s: s.repeats, words.count)),
    ]
    return table_of([line for line in lines if setting in line.speeds], parts)


def timed(setting: Setting, read: Callable[[Speed], float | None], write: Callable[[float], str]) -> Make:
    """A figure of a model's speed in one setting as a cell."""

    def cell(line: Line) -> Cell:
        known = line.speeds.get(setting)
        value = read(known) if known else None
        return GAP if value is None else Cell(write(value), value=value)

    return cell


def with_failed(table: Table, lines: Sequence[Line], target: str) -> Table:
    """Add a line for every model that failed on the target and has no numbers in the table."""
    known = {entry.artifact for entry in table.entries}
    more = (
        Entry(line.artifact.name, line.artifact.id, line.role, (), line.rejected, (), line.failures[target])
        for line in lines
        if target in line.failures and line.artifact.id not in known
    )
    return replace(table, entries=(*table.entries, *more))
