"""The parity matrix: how far each target's pictures are from the reference's, against the limits that are declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from compress.core.types import Artifact
from reports import words
from reports.compare import Line
from reports.frame import newest
from reports.tables import Cell, Column, Entry, State, Table, missing
from reports.web import storage_note
from reports.web_tables import is_stored, place

_DASH = Cell("–", state="absent")
_TOGETHER = 6  # pairs named in one sentence


@dataclass(frozen=True)
class Parity:
    """The matrix and what it comes to. ``told``: sentences, and whether something is amiss there."""

    told: tuple[tuple[str, bool], ...]
    images: str
    notes: tuple[str, ...]
    table: Table


@dataclass(frozen=True)
class _Pair:
    """One model on one target: largest difference, difference of the MAE (None: not told), what they are held to."""

    max_abs: float
    mae: float | None
    details: Mapping[str, Any]
    passed: bool  # as every row of the pair says
    here: bool  # whether it is the reference itself

    @property
    def state(self) -> State:
        """NaN is within no limit."""
        limit = self.details.get("limit")
        if limit is None or self.here:
            return "open"
        close = all(abs(difference) <= limit for difference in (self.max_abs, self.mae or 0.0))
        return "within" if self.passed and close else "outside"


_Pairs = Mapping[tuple[str, str], _Pair]  # by artifact and target


def parity_of(frame: pd.DataFrame, lines: Sequence[Line], known: Mapping[str, Artifact]) -> Parity | None:
    """Set out the newest parity of every model on every target; None where there is none.

    Args:
        frame: All rows of the task.
        lines: Its models in order.
        known: All artifacts by id, for names.
    """
    rows = newest(frame[frame["group"] == "parity"])
    if rows.empty:
        return None
    pairs = _pairs(rows)
    targets = _targets(frame, rows, lines)
    shown = [line for line in lines if any((line.artifact.id, t) in pairs or t in line.failures for t in targets)]
    usual = Counter(int(pair.details.get("images") or 0) for pair in pairs.values()).most_common(1)[0][0]
    table = Table(
        tuple(Column(target) for target in targets),
        tuple(_entry(line, [_cell(line, t, pairs.get((line.artifact.id, t)), usual) for t in targets], pairs, known)
              for line in shown),
    )  # fmt: skip
    tfjs = {str(a) for a, details in zip(rows["artifact"], rows["details"], strict=True) if _is_tfjs(details)}
    return Parity(
        told=tuple(_told(pairs, shown, targets)),
        images=words.many(usual, "image") if usual else "images not counted",
        notes=tuple(filter(None, [storage_note(line.artifact for line in shown if line.artifact.id in tfjs)])),
        table=table,
    )


def _is_tfjs(details: Mapping[str, Any]) -> bool:
    return bool((details.get("runtime") or {}).get("runtime") == "tfjs")


def _pairs(rows: pd.DataFrame) -> dict[tuple[str, str], _Pair]:
    records = rows.to_dict("records")
    maes = {(r["artifact"], r["target"], r["run"]): r for r in records if r["quantity"] == "parity_mae"}
    found = {}
    for record in records:
        if record["quantity"] != "parity_max":
            continue
        artifact, target, details = str(record["artifact"]), str(record["target"]), record["details"]
        mae = maes.get((artifact, target, record["run"]))
        passed = all(told["details"].get("passed", True) for told in (record, mae) if told is not None)
        here = (details.get("reference"), details.get("reference_target")) == (artifact, target)
        change = None if mae is None else float(mae["value"])
        found[artifact, target] = _Pair(float(record["value"]), change, details, passed, here)
    return found


def _targets(frame: pd.DataFrame, rows: pd.DataFrame, lines: Sequence[Line]) -> list[str]:
    """Those with parity, and those of a browser on which a model failed: outside a browser first, as they turn up."""
    web = set(frame[frame["web"].astype(bool)]["target"])
    failed = [target for line in lines for target in line.failures if target in web]
    targets = dict.fromkeys([*rows["target"], *failed])
    return sorted(targets, key=lambda target: (target in web, place(target) if target in web else ()))


def _entry(line: Line, cells: Sequence[Cell], pairs: _Pairs, known: Mapping[str, Artifact]) -> Entry:
    artifact = line.artifact
    told = {
        _reference(artifact, pair.details, known)
        for (name, _), pair in pairs.items()
        if name == artifact.id and not pair.here
    }
    dtype = f"{artifact.dtype} storage" if artifact.format == "tfjs" and is_stored(artifact) else artifact.dtype
    made = (dtype, *(f"against {name}" for name in sorted(told)))
    return Entry(artifact.name, artifact.id, line.role, made, line.rejected, tuple(cells))


def _reference(artifact: Artifact, details: Mapping[str, Any], known: Mapping[str, Artifact]) -> str:
    reference = str(details.get("reference") or "")
    name = known[reference].name if reference in known else reference or "a reference not named"
    name = "itself" if reference == artifact.id else name
    return f"{name} on {details['reference_target']}" if details.get("reference_target") else name


def _cell(line: Line, target: str, pair: _Pair | None, usual: int) -> Cell:
    if pair is None:
        return missing(line, target) if target in line.failures else _DASH
    if pair.here:
        return Cell("reference")
    notes = [] if pair.mae is None else [f"ΔMAE {words.signed(pair.mae)}"]
    limit, images = pair.details.get("limit"), int(pair.details.get("images") or 0)
    notes.append("no limit" if limit is None else f"limit {limit:g}")
    notes += [words.many(images, "image")] if images != usual else []
    notes += [f"newest run failed: {line.failures[target]}"] if target in line.failures else []
    return Cell(words.tiny(pair.max_abs), tuple(notes), state=pair.state)


def _told(pairs: _Pairs, lines: Sequence[Line], targets: Sequence[str]) -> list[tuple[str, bool]]:
    """How many are within their limits, how many are held to none, how many failed; and whether that is amiss."""
    names = {line.artifact.id: line.artifact.name for line in lines}
    shown = {pair: found for pair, found in pairs.items() if pair[0] in names and not found.here}
    held = [pair for pair, found in shown.items() if found.state != "open"]
    outside = [pair for pair in held if shown[pair].state == "outside"]
    failed = [f"{line.artifact.name} on {target}" for line in lines for target in targets if target in line.failures]
    told = [(_counted(outside, shown, names, len(held)), bool(outside))] if held else []
    free = words.many(len(shown) - len(held), "pair")
    told += [(f"{free} held to no declared limit.", False)] if len(shown) > len(held) else []
    told += [(f"{len(failed)} failed: {words.named(failed, _TOGETHER)}.", True)] if failed else []
    return told


def _counted(outside: Sequence[tuple[str, str]], pairs: _Pairs, names: Mapping[str, str], held: int) -> str:
    if not outside:
        return f"{held} of {held} pairs of model and target are within their limits."
    told = [
        f"{names[artifact]} on {target} ({words.tiny(pairs[artifact, target].max_abs)},"
        f" limit {pairs[artifact, target].details['limit']:g})"
        for artifact, target in outside
    ]
    are = "is outside its limit" if len(outside) == 1 else "are outside their limits"
    return f"{len(outside)} of {held} pairs of model and target {are}: {words.named(told, _TOGETHER)}."
