"""Tables of text that both templates lay out: what they are made of, the comparison, every target's losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from compress.core.types import Better
from reports import words
from reports.compare import Line, Setting
from reports.lineage import Role, Thesis, thesis_teacher
from reports.words import MISSING


@dataclass(frozen=True)
class Column:
    """A heading: what, in which unit, which way is better ("" for none), whether it is someone else's figure."""

    title: str
    unit: str = ""
    better: Better = "none"
    foreign: bool = False

    @property
    def arrow(self) -> str:
        """The way that is better, as an arrow."""
        return words.ARROWS[self.better]


State = Literal["", "within", "outside", "open", "failed", "absent"]
SIGNS: dict[State, str] = {"within": "✓", "outside": "✗"}
SAID: dict[State, str] = {"within": "within the limit", "outside": "outside the limit", "open": "no limit declared",
                          "absent": "not measured"}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A value as text, what is said below it, and how it stands out."""

    text: str
    notes: tuple[str, ...] = ()  # a line each
    value: float | None = None  # what ``text`` shows, for finding the best
    best: bool = False
    bad: bool = False
    state: State = ""  # where it stands against a declared limit, if it is held against one

    @property
    def missing(self) -> bool:
        """Whether there is no value."""
        return self.text == MISSING

    @property
    def sign(self) -> str:
        """A mark that tells the state without colour."""
        return SIGNS.get(self.state, "")

    @property
    def said(self) -> str:
        """The state in words, for who does not see it."""
        return SAID.get(self.state, "")


@dataclass(frozen=True)
class Entry:
    """One line of a table: the model and its cells."""

    name: str
    artifact: str
    role: Role
    made: tuple[str, ...]
    rejected: str
    cells: tuple[Cell, ...]
    failed: str = ""  # why there are no cells


@dataclass(frozen=True)
class Table:
    """Headings and lines."""

    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]

    @property
    def groups(self) -> list[tuple[bool, int]]:
        """Neighbouring columns by whose figures they are: (foreign, how many)."""
        return [(foreign, len(list(run))) for foreign, run in groupby(self.columns, key=lambda column: column.foreign)]


GAP = Cell(MISSING)
Make = Callable[[Line], Cell]


def comparison(
    lines: Sequence[Line],
    metrics: Sequence[tuple[str, str, Better]],
    settings: Sequence[Setting],
    baseline: Mapping[str, Any],
) -> Table:
    """The thesis's table, size and loss of every model, with what it cost against the teacher and what it gained.

    Args:
        lines: Models in order, the teacher first.
        metrics: Quantity, unit and better of the task's metrics, "loss" among them.
        settings: The settings whose latency is shown, one a target.
        baseline: What needs no network, "name" and "metrics"; empty for none.
    """
    scores = [
        (
            Column(words.title(quantity), "" if unit in ("1", "count") else unit, better),
            _metric(quantity, metrics_target(lines)),
        )
        for quantity, unit, better in sorted(metrics, key=lambda metric: metric[0] != "loss")
    ]
    latencies = [(Column(f"Latency, {s.heading}", "ms", "lower"), latency(s)) for s in settings]
    foreign = _of_thesis(lines)
    parts = [(Column("Size", "MB", "lower"), _size), *scores[:1], *foreign, *scores[1:], *latencies]
    table = table_of(lines, parts, described=True)
    if not baseline:
        return table
    quantities = sorted((quantity for quantity, _, _ in metrics), key=lambda quantity: quantity != "loss")
    known = [_trivial(quantity, baseline["metrics"].get(quantity)) for quantity in quantities]
    none = Cell("–")
    cells = (none, *known[:1], *(none for _ in foreign), *known[1:], *(none for _ in latencies))
    last = Entry(str(baseline["name"]), "", "other", ("needs no network",), "", cells)
    return replace(table, entries=(*table.entries, last))


def _trivial(quantity: str, value: float | None) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(f"{value:.0f}" if quantity == "dead_masks" else words.number(value))


def _of_thesis(lines: Sequence[Line]) -> list[tuple[Column, Make]]:
    teacher = thesis_teacher(lines[0].artifact.task)
    if teacher is None or not any(line.thesis for line in lines):
        return []
    return [
        (Column("Size", "MB", foreign=True), lambda line: _thesis_size(line.thesis, teacher)),
        (Column("Loss", foreign=True), lambda line: _thesis_loss(line.thesis, teacher)),
    ]


def by_target(
    lines: Sequence[Line],
    values: Mapping[tuple[str, str, str], float],
    quantities: Sequence[tuple[str, Better]],
    targets: Sequence[str],
) -> Table:
    """The same metrics on every target. values: by (artifact, target, quantity)."""

    def make(target: str, quantity: str) -> Make:
        def cell(line: Line) -> Cell:
            value = values.get((line.artifact.id, target, quantity))
            if value is None:
                return missing(line, target)
            return Cell(f"{value:.0f}" if quantity == "dead_masks" else words.number(value), value=value)

        return cell

    parts = [(Column(f"{words.title(quantity)}, {target}", "", better), make(target, quantity))
             for quantity, better in quantities for target in targets]  # fmt: skip
    return table_of(lines, parts)


def missing(line: Line, target: str) -> Cell:
    """What stands where a number would: why it failed there, else that nothing was measured."""
    reason = line.failures.get(target)
    return GAP if reason is None else Cell("failed", (reason,), bad=True, state="failed")


def metrics_target(lines: Iterable[Line]) -> str:
    """The target that most losses shown were taken on."""
    targets = [line.loss_target for line in lines if line.loss_target]
    return max(dict.fromkeys(targets), key=targets.count, default="")


def table_of(lines: Sequence[Line], parts: Sequence[tuple[Column, Make]], *, described: bool = False) -> Table:
    """A line a model, a column a part; the best of each column stands out, rejected models win nothing."""
    columns = tuple(column for column, _ in parts)
    rows = [[make(line) for _, make in parts] for line in lines]
    for position, column in enumerate(columns):
        rivals = [row[position] for row, line in zip(rows, lines, strict=True) if not line.rejected]
        best = _best([cell for cell in rivals if cell.value is not None and math.isfinite(cell.value)], column)
        for row, line in zip(rows, lines, strict=True):
            row[position] = replace(row[position], best=row[position].text == best and not line.rejected)
    entries = []
    for line, row in zip(lines, rows, strict=True):
        made = _made(line) if described else ()
        entries.append(Entry(line.artifact.name, line.artifact.id, line.role, made, line.rejected, tuple(row)))
    return Table(columns, tuple(entries))


def _made(line: Line) -> tuple[str, ...]:
    parameters = line.values.get("parameters")
    return (line.made, f"{words.count(parameters)} parameters") if parameters else (line.made,)


def _best(cells: Sequence[Cell], column: Column) -> str | None:
    """The best value as it is shown: what looks equal is equally good; None where there is nothing to win."""
    if len({cell.text for cell in cells}) < 2 or column.better == "none" or column.foreign:
        return None
    return (min if column.better == "lower" else max)(cells, key=lambda cell: cell.value or 0.0).text


def _size(line: Line) -> Cell:
    notes = () if line.role == "teacher" else (words.smaller(line.size_ratio),)
    return Cell(words.mb(line.size), notes, value=line.size)


def _metric(quantity: str, target: str) -> Make:
    def cell(line: Line) -> Cell:
        value = line.values.get(quantity)
        if value is None:
            return GAP
        if quantity == "dead_masks":
            images = line.values.get("images")
            return Cell(f"{value:.0f}", (f"of {images:.0f}",) if images else (), bad=value > 0)
        notes = _change(line, target) if quantity == "loss" else ()
        return Cell(words.number(value), notes, value=value)

    return cell


def _change(line: Line, target: str) -> tuple[str, ...]:
    change = line.change
    known = () if change is None else (f"{words.percent(change.value)} %",)
    ends = () if change is None or change.low is None else (words.between(change),)
    elsewhere = (f"on {line.loss_target}",) if line.loss_target != target else ()
    return (*known, *ends, *elsewhere)


def latency(setting: Setting) -> Make:
    """The median latency in one setting, and what it is against the teacher's of the same run, as a cell."""

    def cell(line: Line) -> Cell:
        known = line.speeds.get(setting)
        if known is None:
            return missing(line, setting.target)
        notes: tuple[str, ...] = () if line.role == "teacher" else ("no run with the teacher",)
        if known.faster is not None:
            elsewhere = (f"in run {known.ratio_run}",) if known.ratio_run != known.run else ()
            notes = (*words.faster(known.faster), *elsewhere)
        reason = line.failures.get(setting.target)
        since = () if reason is None else (f"newest run failed: {reason}",)
        return Cell(words.ms(known.latency), (*notes, *since), value=known.latency, state="failed" if since else "")

    return cell


def _thesis_size(thesis: Thesis | None, teacher: Thesis) -> Cell:
    if thesis is None:
        return Cell("–")
    ratio = float(teacher.mb) / float(thesis.mb)
    return Cell(thesis.mb, (words.smaller(ratio),) if thesis.order else ())


def _thesis_loss(thesis: Thesis | None, teacher: Thesis) -> Cell:
    if thesis is None:
        return Cell("–")
    change = float(thesis.loss) / float(teacher.loss) - 1
    return Cell(thesis.loss, (f"{words.percent(change)} %",) if thesis.order else ())
