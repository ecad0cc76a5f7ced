"""The table of one browser target in one setting: what each cell says and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from compress.core.types import Artifact
from reports import words
from reports.compare import Line, Setting, within
from reports.frame import runtime_of
from reports.speeds import timed
from reports.tables import Cell, Column, Make, State, Table, latency, missing, table_of

NETWORKS = {"4g": "slow 4G", "cable": "cable"}
_STORED = ("float16", "uint16", "uint8")


@dataclass(frozen=True)
class Known:
    """The newest value of a quantity and what its row tells of it."""

    value: float
    details: Mapping[str, Any]


Facts = Mapping[tuple[str, str], Known]  # by artifact and quantity


def facts_of(web: pd.DataFrame, setting: Setting) -> Facts:
    """The newest of everything measured in one setting."""
    here = web[web["target"] == setting.target]
    same = (here["browser"] == setting.browser) & (here["renderer"] == setting.renderer)
    longest = here[same & (here["quantity"] == "longest")]  # of another size and number of threads than the rest
    rows = pd.concat([here[here["group"] == "static"], longest, within(web, setting)]).sort_values("order")
    return {
        (artifact, quantity): Known(float(value), details)
        for artifact, quantity, value, details in rows[["artifact", "quantity", "value", "details"]].itertuples(
            index=False, name=None
        )
    }


def is_stored(artifact: Artifact) -> bool:
    """Whether TF.js would only store the weights of this model in fewer bits."""
    return artifact.dtype in _STORED


def table_in(lines: Sequence[Line], setting: Setting, facts: Facts, *, tfjs: bool) -> Table:
    """One line a model that ran in the setting. tfjs: whether TF.js ran them."""
    kinds = {kind for _, kind in facts}
    parts: list[tuple[Column, Make]] = [
        (Column("Download", "MB", "lower"), _download(facts, setting)),
        (Column("Load", "ms", "lower"), _of(facts, setting, "load", words.ms)),
        (Column("First run", "ms", "lower"), _of(facts, setting, "first", words.ms)),
        (Column("Latency p50", "ms", "lower"), latency(setting)),
        (Column("p90", "ms", "lower"), timed(setting, lambda s: s.p90, words.ms)),
        (Column("p99", "ms", "lower"), timed(setting, lambda s: s.p99, words.ms)),
        (Column("First mask, slow 4G", "s", "lower"), _first_mask(facts, setting, "4g")),
        (Column("First mask, cable", "s", "lower"), _first_mask(facts, setting, "cable")),
        (Column(longest_title(facts.values()), _longest_unit(facts), "lower"), _longest(facts, setting)),
        (Column("JS memory", "MB", "lower"), _of(facts, setting, "js_memory", words.mb)),
    ]
    for name, title in (("gpu_memory", "GPU memory"), ("wasm_memory", "WASM memory")):
        if name in kinds:  # a backend has one of the two
            parts.append((Column(title, "MB", "lower"), _of(facts, setting, name, words.mb)))
    parts.append((Column("Whole browser", "MB", "lower"), _of(facts, setting, "peak_memory", words.mb)))
    table = table_of(lines, parts)
    if not tfjs:
        return table
    stored = {line.artifact.id: f"{line.artifact.dtype} storage" for line in lines if is_stored(line.artifact)}
    entries = (replace(e, made=(*e.made, stored[e.artifact])) if e.artifact in stored else e for e in table.entries)
    return replace(table, entries=tuple(entries))


def _of(facts: Facts, setting: Setting, quantity: str, write: Callable[[float], str]) -> Make:
    def cell(line: Line) -> Cell:
        known = facts.get((line.artifact.id, quantity))
        return missing(line, setting.target) if known is None else Cell(write(known.value), value=known.value)

    return cell


def _download(facts: Facts, setting: Setting) -> Make:
    def cell(line: Line) -> Cell:
        raw, gzip, brotli = (facts.get((line.artifact.id, f"download{how}")) for how in ("", "_gzip", "_brotli"))
        if raw is None:
            return missing(line, setting.target)
        notes = [f"{how} {words.mb(known.value)}" for how, known in (("gzip", gzip), ("brotli", brotli)) if known]
        return Cell(words.mb(raw.value), tuple(notes), value=raw.value)

    return cell


def _first_mask(facts: Facts, setting: Setting, network: str) -> Make:
    def cell(line: Line) -> Cell:
        known = facts.get((line.artifact.id, f"first_mask_{network}"))
        if known is None:
            return missing(line, setting.target)
        transfer = known.details.get("transfer")
        notes = () if transfer is None else (f"network {words.three(transfer)}",)
        return Cell(words.three(known.value), notes, value=known.value)

    return cell


def _longest(facts: Facts, setting: Setting) -> Make:
    def cell(line: Line) -> Cell:
        known = facts.get((line.artifact.id, "longest"))
        if known is None:
            return missing(line, setting.target)
        details, notes = known.details, []
        if details.get("height") and details.get("width"):
            notes.append(f"{details['height']}×{details['width']}")
        threads = _threads(details)
        notes += [words.many(threads, "thread")] if threads else []
        return Cell(words.three(known.value), tuple(notes), value=known.value, state=longest_state(known))

    return cell


def _threads(details: Mapping[str, Any]) -> int:
    """Threads that one inference had: those asked for, or as many as the runtime made of them; 0 where it has none."""
    runtime = runtime_of(details)
    if "threads" in runtime and not runtime["threads"]:
        return 0
    told = [int(source["threads"]) for source in (details, runtime) if source.get("threads")]
    return min(told, default=0)


def longest_title(facts: Iterable[Known]) -> str:
    """Pixels a side of the largest photo tried: "1024 px a side"."""
    sides = {max(k.details["height"], k.details["width"]) for k in facts if "height" in k.details}
    return f"{sides.pop()} px a side" if len(sides) == 1 else "Largest photo"


def _longest_unit(facts: Facts) -> str:
    held = [known.details.get("limit") for (_, quantity), known in facts.items() if quantity == "longest"]
    limits = {float(limit) for limit in held if limit is not None}
    return f"s, limit {words.listed([f'{limit:g}' for limit in sorted(limits)])}" if limits else "s"


def place(target: str) -> tuple[bool, bool, str]:
    """Where a browser's target stands among others: Firefox after the rest, ONNX Runtime Web after TF.js."""
    return target.endswith("-firefox"), target.startswith("ort-"), target


def longest_state(known: Known) -> State:
    """Whether the largest photo was done in time."""
    limit = known.details.get("limit")
    return "open" if limit is None else "within" if known.value <= limit else "outside"
