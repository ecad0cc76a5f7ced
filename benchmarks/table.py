"""The table a person reads at the end of `benchmarks run`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.rows import Entry
from compress.core.types import Row

_HEAD = ("model", "id", "target", "MB", "loss", "MAE", "p50 ms", "speed", "images/s", "peak MB")
_TEXTS = 3  # columns of words, set left; the numbers are set right


def table(entries: Sequence[Entry], rows: Sequence[Row]) -> str:
    """One line a model, in the order of ``entries``; "speed" is against the biggest model on the same target."""
    values = {(row.artifact, row.target, row.quantity): row.value for row in rows}
    lines = [_HEAD, *(_line(entry, values, _biggest(entries, entry.target, values)) for entry in entries)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(_padded(line, widths) for line in lines)


def _padded(line: Sequence[str], widths: Sequence[int]) -> str:
    texts, numbers = range(_TEXTS), range(_TEXTS, len(line))
    cells = [*(line[i].ljust(widths[i]) for i in texts), *(line[i].rjust(widths[i]) for i in numbers)]
    return "  ".join(cells).rstrip()


Values = dict[tuple[str, str, str], float]


def _biggest(entries: Sequence[Entry], target: str, values: Values) -> str:
    """Id of the biggest model of a target that was measured."""
    sizes = {e.artifact.id: values.get((e.artifact.id, target, "size"), 0.0) for e in entries if e.target == target}
    return max(sizes, key=lambda name: sizes[name])


def _line(entry: Entry, values: Values, biggest: str) -> tuple[str, ...]:
    def value(quantity: str, artifact: str = entry.artifact.id) -> float | None:
        return values.get((artifact, entry.target, quantity))

    latency, base = value("latency"), value("latency", biggest)
    return (
        entry.artifact.name,
        entry.artifact.id,
        entry.target,
        _cell(value("size"), "{:.2f}", 1e-6),
        _cell(value("loss"), "{:.4f}"),
        _cell(value("mae"), "{:.4f}"),
        _cell(latency, "{:.2f}", 1e3),
        f"{base / latency:.2f}x" if latency and base else "-",
        _cell(value("throughput"), "{:.1f}"),
        _cell(value("peak_memory"), "{:.0f}", 1e-6),
    )


def _cell(value: float | None, how: str, factor: float = 1.0) -> str:
    return "-" if value is None else how.format(value * factor)
