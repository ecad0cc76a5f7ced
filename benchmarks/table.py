"""The table a person reads at the end of `benchmarks run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.rows import Entry
from compress.core.types import Row

_TEXTS = 3  # columns of words, set left; the numbers are set right


@dataclass(frozen=True)
class _Known:
    """What was measured: values by artifact, target and quantity; the pairs that failed or drew in software."""

    values: dict[tuple[str, str, str], float]
    failed: frozenset[tuple[str, str]]
    software: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class _Line:
    """One model on one target; ``biggest`` is the id of the biggest model there."""

    entry: Entry
    known: _Known
    biggest: str

    @property
    def pair(self) -> tuple[str, str]:
        """Artifact and target."""
        return self.entry.artifact.id, self.entry.target

    def value(self, quantity: str) -> float | None:
        """What was measured of a quantity, in SI units."""
        return self.known.values.get((*self.pair, quantity))

    @property
    def target(self) -> str:
        """The target, and that a processor imitated the graphics card where one did."""
        return f"{self.entry.target} (software)" if self.pair in self.known.software else self.entry.target

    @property
    def latency(self) -> str:
        """Milliseconds; "failed" where there are none for that reason, marked where it failed later."""
        failed, text = self.pair in self.known.failed, _cell(self.value("latency"), "{:.2f}", 1e3)
        return text if not failed else "failed" if text == "-" else f"{text} failed"

    @property
    def speed(self) -> str:
        """How many times as fast as the biggest model on the same target."""
        latency = self.value("latency")
        base = self.known.values.get((self.biggest, self.entry.target, "latency"))
        return f"{base / latency:.2f}x" if latency and base else "-"


_Column = tuple[str, Callable[[_Line], str]]
_COLUMNS: tuple[_Column, ...] = (
    ("model", lambda line: line.entry.artifact.name),
    ("id", lambda line: line.entry.artifact.id),
    ("target", lambda line: line.target),
    ("MB", lambda line: _cell(line.value("size"), "{:.2f}", 1e-6)),
    ("loss", lambda line: _cell(line.value("loss"), "{:.4f}")),
    ("MAE", lambda line: _cell(line.value("mae"), "{:.4f}")),
    ("p50 ms", lambda line: line.latency),
    ("speed", lambda line: line.speed),
    ("images/s", lambda line: _cell(line.value("throughput"), "{:.1f}")),
    ("peak MB", lambda line: _cell(line.value("peak_memory"), "{:.0f}", 1e-6)),
)
_SOMETIMES: dict[str, _Column] = {  # columns that stand only where their quantity was measured
    "first_mask_4g": ("first mask 4G s", lambda line: _cell(line.value("first_mask_4g"), "{:.2f}")),
    "parity_max": ("max abs", lambda line: _cell(line.value("parity_max"), "{:.1e}")),
}


def table(entries: Sequence[Entry], rows: Sequence[Row]) -> str:
    """One line a model, in the order of ``entries``; "speed" is against the biggest model on the same target."""
    known = _Known(
        {(row.artifact, row.target, row.quantity): row.value for row in rows},
        frozenset((row.artifact, row.target) for row in rows if row.quantity == "failed"),
        frozenset((row.artifact, row.target) for row in rows if _is_software(row)),
    )
    measured = {row.quantity for row in rows}
    columns = [*_COLUMNS, *(column for quantity, column in _SOMETIMES.items() if quantity in measured)]
    told = [_Line(entry, known, _biggest(entries, entry.target, known)) for entry in entries]
    lines = [[title for title, _ in columns], *([write(line) for _, write in columns] for line in told)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    return "\n".join(_padded(line, widths) for line in lines)


def _is_software(row: Row) -> bool:
    runtime = row.details.get("runtime") or {}
    return bool(runtime.get("software")) and runtime.get("backend") not in ("wasm", "cpu")


def _padded(line: Sequence[str], widths: Sequence[int]) -> str:
    texts, numbers = range(_TEXTS), range(_TEXTS, len(line))
    cells = [*(line[i].ljust(widths[i]) for i in texts), *(line[i].rjust(widths[i]) for i in numbers)]
    return "  ".join(cells).rstrip()


def _biggest(entries: Sequence[Entry], target: str, known: _Known) -> str:
    """Id of the biggest model of a target that was measured."""
    sizes = {
        e.artifact.id: known.values.get((e.artifact.id, target, "size"), 0.0) for e in entries if e.target == target
    }
    return max(sizes, key=lambda name: sizes[name])


def _cell(value: float | None, how: str, factor: float = 1.0) -> str:
    return "-" if value is None else how.format(value * factor)
