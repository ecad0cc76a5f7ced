"""From what one model's worker measured to rows, in SI units."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compress.core.types import Artifact, Better, Machine, Row


@dataclass(frozen=True)
class Entry:
    """One model on one target.

    ``path`` is what the target made of the artifact, None where it runs the artifact itself; ``height`` and
    ``width`` are the pixels it is measured at.
    """

    artifact: Artifact
    target: str
    path: Path | None
    height: int
    width: int

    @property
    def bytes(self) -> int:
        """Size on disk of what the target loads."""
        if self.path is None:
            return self.artifact.bytes
        files = self.path.rglob("*") if self.path.is_dir() else (self.path,)
        return sum(file.stat().st_size for file in files if file.is_file())


@dataclass(frozen=True)
class Scored:
    """What scoring a data set gave: metrics, the loss of each image, the data's fingerprint."""

    metrics: dict[str, float]
    losses: tuple[float, ...]
    data: str
    split: str
    sources: tuple[str, ...]  # what --data named
    baseline: dict[str, Any] = field(default_factory=dict)  # what needs no network: "name" and "metrics"; or empty


@dataclass
class Measured:
    """What is known of one entry so far; None where it is not measured (yet). Seconds and bytes."""

    entry: Entry
    load: float | None = None
    describe: dict[str, Any] = field(default_factory=dict)
    first: float | None = None
    latencies: tuple[float, ...] = ()  # raw, in the order they were measured
    memory_before: int = 0
    memory_peak: int | None = None
    scored: Scored | None = None


@dataclass(frozen=True)
class Setting:
    """What all rows of a run share."""

    run: str
    machine: Machine
    batch: int
    block: int
    threads: int


Units = Mapping[str, tuple[str, Better]]  # metric -> unit, better


def rows_of(measured: Measured, setting: Setting, units: Units) -> list[Row]:
    """Build the rows of one entry; what was not measured has none."""
    created = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = measured.entry
    shared = {
        "batch": setting.batch,
        "threads": setting.threads,
        "size": entry.height,
        "width": entry.width,
        "runtime": measured.describe,
    }
    return [
        Row(entry.artifact.id, entry.target, name, float(value), unit, better, setting.run, setting.machine,
            repeats, shared | details, created)
        for name, value, unit, better, repeats, details in _quantities(measured, setting, units)
    ]  # fmt: skip


Quantity = tuple[str, float, str, Better, tuple[float, ...], dict[str, Any]]


def _quantities(measured: Measured, setting: Setting, units: Units) -> Iterator[Quantity]:
    if measured.load is not None:
        yield from _made(measured.entry)
        yield "load", measured.load, "s", "lower", (), {}
    if measured.first is not None:
        yield "first", measured.first, "s", "lower", (), {}
    if measured.latencies:
        seconds = measured.latencies
        yield "latency", statistics.median(seconds), "s", "lower", seconds, {"block": setting.block}
        yield "throughput", setting.batch * len(seconds) / sum(seconds), "1/s", "higher", (), {}
    if measured.memory_peak is not None:
        yield "peak_memory", measured.memory_peak, "B", "lower", (), {"before": measured.memory_before}
    if measured.scored is not None:
        yield from _scores(measured.scored, units)


def _made(entry: Entry) -> Iterator[Quantity]:
    """What needs no measuring; a foreign file may come without a count."""
    artifact = entry.artifact
    yield "size", entry.bytes, "B", "lower", (), {}
    if artifact.parameters:
        yield "parameters", artifact.parameters, "1", "lower", (), {}
    if artifact.macs:
        # counted at birth, whatever size runs today
        at = {"size": artifact.input.height, "width": artifact.input.width}
        yield "macs", artifact.macs, "1", "lower", (), at


def _scores(scored: Scored, units: Units) -> Iterator[Quantity]:
    details = {"data": scored.data, "split": scored.split, "sources": list(scored.sources)}
    for name, value in scored.metrics.items():
        unit, better = units.get(name, ("count", "none"))
        if name == "loss":
            beside = {"baseline": scored.baseline} if scored.baseline else {}
            yield name, value, unit, better, scored.losses, details | beside
        else:
            yield name, value, unit, better, (), details
