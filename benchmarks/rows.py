"""From what one model's worker measured to rows, in SI units."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.targets.base import How
from compress.core.types import Artifact, Better, Machine, Row

# What a page over the network costs: bits per second and seconds of a round trip, as WebPageTest and Lighthouse name
# them. Two round trips: one for the page's own connection, one for the files asked for together.
NETWORKS = {"4g": (1.6e6, 0.150), "cable": (5e6, 0.028)}
ROUND_TRIPS = 2
LONGEST_LIMIT = 25.0  # seconds a photo may take, thesis 5
MEMORIES = ("js", "gpu", "wasm")


@dataclass(frozen=True)
class Entry:
    """One model on one target.

    ``target`` is what its rows are called, ``name`` the target's own name and ``how`` the user's choices about it;
    ``path`` is what the target made of the artifact, None where it runs the artifact itself; ``height`` and
    ``width`` are the pixels it is measured at.
    """

    artifact: Artifact
    target: str
    path: Path | None
    height: int
    width: int
    name: str = ""
    how: How = field(default_factory=How)

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


@dataclass(frozen=True)
class Compared:
    """One entry's pictures against those of the network it came from, on the same photos.

    ``max_abs`` is the largest difference of any value, ``mae`` this one's MAE minus the reference's; ``limit`` is None
    where none is declared.
    """

    max_abs: float
    mae: float
    images: int
    reference: str
    reference_target: str
    limit: float | None

    @property
    def passed(self) -> bool:
        """Whether the largest difference is within the limit; NaN is not."""
        return self.limit is None or self.max_abs <= self.limit


@dataclass(frozen=True)
class Longest:
    """One inference at the largest size a user may bring, in seconds."""

    seconds: float
    height: int
    width: int


@dataclass
class Measured:
    """What is known of one entry so far; None where it is not measured (yet). Seconds and bytes."""

    entry: Entry
    start: float = 0.0  # that a browser took to fetch and start the runtime
    load: float | None = None
    describe: dict[str, Any] = field(default_factory=dict)
    first: float | None = None
    latencies: tuple[float, ...] = ()  # raw, in the order they were measured
    memory_before: int = 0
    memory_peak: int | None = None
    memories: dict[str, int] = field(default_factory=dict)  # of a browser, by kind
    download: dict[str, dict[str, int]] = field(default_factory=dict)  # of a browser, see targets.base.Remote
    scored: Scored | None = None
    compared: Compared | None = None
    longest: Longest | None = None
    failed: str = ""  # why it came no further


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
    if measured.failed:
        yield "failed", 1, "count", "none", (), {"reason": measured.failed}
        if not measured.latencies:
            return
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
    for kind in MEMORIES:
        if measured.memories.get(kind):
            yield f"{kind}_memory", measured.memories[kind], "B", "lower", (), {}
    if measured.download:
        yield from _downloads(measured)
    if measured.scored is not None:
        yield from _scores(measured.scored, units)
    if measured.compared is not None:
        yield from _parity(measured.compared)
    if measured.longest is not None:
        longest = measured.longest
        at = {"size": longest.height, "height": longest.height, "width": longest.width, "limit": LONGEST_LIMIT,
              "threads": setting.threads}  # fmt: skip
        yield "longest", longest.seconds, "s", "lower", (), at


def _downloads(measured: Measured) -> Iterator[Quantity]:
    """What is fetched, and when the first picture stands: transfer, start, load, first inference, one after another."""
    model, runtime = measured.download["model"], measured.download["runtime"]
    beside = {"runtime_gzip": runtime["gzip"]}
    for name, how in (("download", "raw"), ("download_gzip", "gzip"), ("download_brotli", "brotli")):
        yield name, model[how], "B", "lower", (), beside
    if measured.load is None or measured.first is None:
        return
    for name, (speed, round_trip) in NETWORKS.items():
        transfer = 8 * (model["gzip"] + runtime["gzip"]) / speed + ROUND_TRIPS * round_trip
        details = {"bits_per_second": speed, "round_trip": round_trip, "transfer": transfer, "start": measured.start}
        yield (
            f"first_mask_{name}",
            transfer + measured.start + measured.load + measured.first,
            "s",
            "lower",
            (),
            beside | details,
        )


def _parity(compared: Compared) -> Iterator[Quantity]:
    details = {
        "images": compared.images,
        "reference": compared.reference,
        "reference_target": compared.reference_target,
        "limit": compared.limit,
        "passed": compared.passed,
    }
    yield "parity_max", compared.max_abs, "1", "lower", (), details
    yield "parity_mae", compared.mae, "1", "none", (), details


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
