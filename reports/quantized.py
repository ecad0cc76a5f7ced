"""How the quantized models were made: who rounded, what was switched on, what each layer costs, what was tried."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress.core.types import Artifact, from_json
from compress.kit.intervals import Interval
from reports import words
from reports.compare import Line
from reports.quantized_tables import NAMED, Grid, by_reason, given_back, search, share, switched_on, tried
from reports.sensitivity_plot import MOST, Bar, Costs
from reports.tables import Cell, Column, Entry, Table

_TOLD = ("quantization", "verdict")  # notes that are told here
_NONE = Cell("–")


@dataclass(frozen=True)
class Detail:
    """One quantized model: facts, its layers' costs where they were measured, and tables that fold away.

    ``said`` tells what ``costs`` come to; ``given_back``: of the worst layers, what keeping each alone in float does.
    """

    anchor: str
    name: str
    artifact: str
    facts: tuple[tuple[str, str], ...]
    costs: Costs | None
    said: str
    given_back: Grid | None
    folded: tuple[tuple[str, Grid], ...]


@dataclass(frozen=True)
class Quantized:
    """A line for every quantized model, and what there is to say of each."""

    table: Table
    details: tuple[Detail, ...]


def quantized_of(lines: Sequence[Line]) -> Quantized | None:
    """Read the making of the quantized models among ``lines`` off their manifests; None where there is none."""
    made = [line for line in lines if _notes(line.artifact)]
    if not made:
        return None
    columns = (
        Column("Rounded by"), Column("Layers"), Column("Switched on"), Column("Distance", "mean absolute", "lower"),
        Column("Loss", "on selection", "lower"), Column("Kept wide"), Column("Verdict"),
    )  # fmt: skip
    names = Counter(line.artifact.name for line in made)
    entries = tuple(_entry(line, alone=names[line.artifact.name] == 1) for line in made)
    return Quantized(Table(columns, entries), tuple(_detail(line.artifact) for line in made))


def without_told(artifact: Artifact) -> Artifact:
    """The artifact without the notes that this section tells."""
    if not _notes(artifact):
        return artifact
    return replace(artifact, notes={key: value for key, value in artifact.notes.items() if key not in _TOLD})


def _notes(artifact: Artifact) -> dict[str, Any]:
    found = artifact.notes.get("quantization")
    return found if isinstance(found, dict) else {}


def _entry(line: Line, *, alone: bool) -> Entry:
    artifact, notes = line.artifact, _notes(line.artifact)
    made = [artifact.dtype, *(["quantized, then trained"] if "qat" in notes else []), *([] if alone else [artifact.id])]
    cells = (_rounder(artifact, notes), _forms(artifact, notes), _settings(artifact, notes), _distance(notes),
             _loss(notes), _widened(notes), _verdict(artifact))  # fmt: skip
    return Entry(artifact.name, artifact.id, line.role, tuple(made), line.rejected, cells)


def _rounder(artifact: Artifact, notes: Mapping[str, Any]) -> Cell:
    options = artifact.options
    said = [f"maps: {notes['style']}"] if notes.get("style") else []
    said += [f"for {options['runtime']}"] if options.get("runtime") else []
    said += [f"{words.many(notes['images'], 'photo')} seen"] if notes.get("images") else []
    return Cell(str(notes.get("engine") or options.get("engine") or "ort"), tuple(said))


def _forms(artifact: Artifact, notes: Mapping[str, Any]) -> Cell:
    """Older manifests only count the layers that compute in integers."""
    forms = notes.get("forms") or ({artifact.dtype: notes["quantized"]} if notes.get("quantized") else {})
    said = [f"{count} {form}" for form, count in sorted(forms.items(), key=lambda item: -item[1])]
    return Cell(said[0], tuple(said[1:])) if said else _NONE


def _settings(artifact: Artifact, notes: Mapping[str, Any]) -> Cell:
    settings = notes.get("settings")
    older = {"clip": artifact.options.get("method")} if notes.get("images") else {}
    said = switched_on(settings or older)
    said += ["safe weights"] if artifact.options.get("safe_weights") else []
    said += ["float16 maps"] if artifact.options.get("activations") == "float16" else []
    return Cell(said[0], tuple(said[1:])) if said else _NONE


def _distance(notes: Mapping[str, Any]) -> Cell:
    """After training, where there was any: the rest of the notes is of its start."""
    start = notes.get("distance")
    if start is None:
        return _NONE
    qat = notes.get("qat") or {}
    before = (qat.get("before") or {}).get("distance")
    if before is not None:
        return Cell(words.tiny(start), (f"{words.tiny(before)} before training",) if qat.get("helped") else ())
    if qat.get("helped"):  # older manifests tell the distance of the start
        return Cell(words.tiny(qat["best_distance"]), (f"{words.tiny(qat['start_distance'])} before training",))
    return Cell(words.tiny(start))


def _loss(notes: Mapping[str, Any]) -> Cell:
    change = notes.get("selection_loss_increase")
    if change is None:
        return _NONE
    limit = (notes.get("widened") or {}).get("limit")
    qat = notes.get("qat") or {}
    said = ["before training"] if qat.get("helped") and not qat.get("before") else []
    said += [f"limit {share(limit)}"] if limit is not None else []
    return Cell(share(change), tuple(said), bad=limit is not None and not change <= limit)


def _widened(notes: Mapping[str, Any]) -> Cell:
    widened = notes.get("widened")
    if not widened:
        return _NONE
    kept = widened.get("kept") or []
    said = [words.named(list(kept), NAMED)] if kept else []
    holds = bool(widened.get("holds", True))
    said += [] if holds else ["no set of layers holds the limit"]
    none = "none needed" if holds else "none"
    return Cell(words.many(len(kept), "layer") if kept else none, tuple(said), bad=not holds)


def _verdict(artifact: Artifact) -> Cell:
    verdict, rejected = artifact.notes.get("verdict") or {}, artifact.notes.get("rejected")
    reasons = rejected if isinstance(rejected, list) else [rejected] if isinstance(rejected, str) else []
    if not verdict and not rejected:
        return Cell("not judged")
    said = [*reasons]
    said += [words.smaller(verdict["shrink"])] if verdict.get("shrink") else []
    if verdict.get("loss"):
        loss = from_json(Interval, verdict["loss"])
        said.append(f"loss {share(loss.value)}{_ends(loss)}")
    if verdict.get("speed"):
        faster = words.faster(from_json(Interval, verdict["speed"]))
        said.append(f"{' '.join(faster)} in {verdict.get('runtime') or 'its runtime'}")
    return Cell("rejected" if rejected else "kept", tuple(said), bad=bool(rejected))


def _ends(change: Interval) -> str:
    if change.low is None or change.high is None:
        return ""
    return f" [{share(change.low, unit='')}, {share(change.high, unit='')}]"


def _detail(artifact: Artifact) -> Detail:
    notes = _notes(artifact)
    probed = notes.get("sensitivity") or notes.get("four_bit_sensitivity") or []
    costs = _costs(artifact, notes, probed)
    widened = notes.get("widened") or {}
    folded = {"What was tried": tried(notes.get("tried") or []),
              "Search for layers to keep wide": search(widened.get("trail") or [], "kept", "Layers in float"),
              "Search for layers to put in 4 bits": search(notes.get("mixed") or [], "four_bits", "Layers in 4 bits"),
              "Not computed in 8 bits": by_reason(notes.get("left") or {})}  # fmt: skip
    return Detail(
        anchor=f"q-{artifact.id}",
        name=artifact.name,
        artifact=artifact.id,
        facts=tuple(_facts(notes)),
        costs=costs,
        said=_said(costs, probed) if costs else "",
        given_back=given_back(probed),
        folded=tuple((f"{name} ({len(grid.rows)})", grid) for name, grid in folded.items() if grid.rows),
    )


def _facts(notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    before, after, noise = (notes.get(key) for key in ("bytes_before", "bytes_after", "sqnr"))
    operators = Counter(notes.get("operators") or {}).most_common()
    qat = notes.get("qat") or {}
    known = [
        ("maps in 8 bits", " – ".join(str(notes[key]) for key in ("style", "style_reason") if notes.get(key))),
        ("computed in 8 bits", ", ".join(f"{count} {name}" for name, count in operators)),
        ("file", f"{words.mb(before)} → {words.mb(after)} MB" if before and after else ""),
        ("signal to noise", f"{noise:.1f} dB, first calibration batch" if noise and math.isfinite(noise) else ""),
        ("selection photos", str(notes.get("selection") or "")),
        ("training", _training(qat) if qat else ""),
    ]
    return [fact for fact in known if fact[1]]


def _training(qat: Mapping[str, Any]) -> str:
    said = words.many(qat.get("steps", 0), "step")
    said += (
        f", that of step {qat.get('best_step')} was taken"
        if qat.get("helped")
        else ", did not help: its start was taken"
    )
    return f"{said}; stopped: {qat['stopped']}" if qat.get("stopped") else said


def _costs(artifact: Artifact, notes: Mapping[str, Any], probed: Sequence[Mapping[str, Any]]) -> Costs | None:
    kept = {*((notes.get("widened") or {}).get("kept") or []), *(notes.get("left") or {})}
    bars = [Bar(str(each["name"]), float(each["error"]), each["name"] in kept) for each in probed]
    bars = sorted((bar for bar in bars if 0 < bar.error < math.inf), key=lambda bar: -bar.error)
    what = "What each layer costs" if notes.get("sensitivity") else "What 4 bits in each layer cost"
    return Costs(what, artifact.name, tuple(bars[:MOST]), len(probed)) if bars else None


def _said(costs: Costs, probed: Sequence[Mapping[str, Any]]) -> str:
    """Changes of different layers are near to independent: their squares add up."""
    squares = sorted((float(each["error"]) ** 2 for each in probed if math.isfinite(each["error"])), reverse=True)
    half = next(count for count in range(1, len(squares) + 1) if sum(squares[:count]) >= 0.5 * sum(squares))
    worst = costs.bars[0]
    some = "one layer makes" if half == 1 else f"{half} layers make"
    return (f"{worst.name} costs most, an RMS change of {words.tiny(worst.error)}; "
            f"{some} half of the squared error of all {costs.layers}.")  # fmt: skip
