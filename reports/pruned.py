"""What pruning took out: channels, parameters and work, what that did to speed and loss, what learning gave back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.core.types import Artifact, from_json
from compress.kit.intervals import Interval
from reports import words
from reports.channels_plot import Kept, Layer
from reports.quantized_tables import Grid, by_reason
from reports.scores import BORN, Scores, change_words
from reports.tables import Cell, Column, Entry, Table

_TOLD = ("pruned", "verdict", "parent_metrics")  # notes that are told here
_NONE = Cell("–")


@dataclass(frozen=True)
class Detail:
    """One pruned model: the strip of its layers, and tables that fold away."""

    anchor: str
    name: str
    artifact: str
    kept: Kept
    folded: tuple[tuple[str, Grid], ...]


@dataclass(frozen=True)
class Pruned:
    """A line for every pruned model, and its layers."""

    table: Table
    details: tuple[Detail, ...]


def pruned_of(artifacts: Sequence[Artifact], known: Mapping[str, Artifact], scores: Scores) -> Pruned | None:
    """Read what was pruned among ``artifacts`` off their manifests; None where nothing was.

    known: all of the task by id: what was made of the pruned ones since is among them.
    """
    made = [artifact for artifact in artifacts if _notes(artifact)]
    if not made:
        return None
    columns = (
        Column("Asked for"), Column("Channels"), Column("Parameters"), Column("MACs"), Column("Speed", "of its parent"),
        Column("Loss", BORN, "lower"), Column("Distilled since", "", "lower"), Column("Verdict"),
    )  # fmt: skip
    names = Counter(artifact.name for artifact in made)
    entries = tuple(_entry(artifact, known, scores, twin=names[artifact.name] > 1) for artifact in made)
    return Pruned(Table(columns, entries), tuple(detail for a in made if (detail := _detail(a)) is not None))


def told_notes(artifact: Artifact) -> tuple[str, ...]:
    """Names of the notes that this section tells."""
    return _TOLD if _notes(artifact) else ()


def _notes(artifact: Artifact) -> dict[str, Any]:
    found = artifact.notes.get("pruned") if artifact.method == "prune" else None
    return found if isinstance(found, dict) else {}


def _entry(artifact: Artifact, known: Mapping[str, Artifact], scores: Scores, *, twin: bool) -> Entry:
    notes, verdict = _notes(artifact), artifact.notes.get("verdict") or {}
    parent = known.get(artifact.parent)
    reasons = artifact.notes.get("rejected") or []
    reasons = [reasons] if isinstance(reasons, str) else list(map(str, reasons))
    cells = (_asked(artifact, notes), _fewer(notes.get("channels"), str), _fewer(notes.get("parameters"), words.count),
             _fewer(notes.get("macs"), words.count), _speed(verdict), _loss(artifact, verdict),
             _distilled(artifact, known, scores), _verdict(verdict, reasons))  # fmt: skip
    made = (f"from {parent.name if parent else artifact.parent}", f"{words.mb(artifact.bytes)} MB",
            *([artifact.id] if twin else []))  # fmt: skip
    return Entry(artifact.name, artifact.id, "prune", made, "; ".join(reasons), cells)


def _asked(artifact: Artifact, notes: Mapping[str, Any]) -> Cell:
    options = artifact.options
    ratio, macs, rounds = notes.get("ratio", options.get("ratio")), options.get("macs"), options.get("rounds") or 1
    said = [f"a ratio of {ratio:.3g} found"] if macs is not None and ratio is not None else []
    said += [f"{options['importance']} importance"] if options.get("importance") else []
    said += (
        [f"per {options['scope']}" if options["scope"] == "layer" else "over all layers"]
        if options.get("scope")
        else []
    )
    said += [f"multiples of {options['round_to']}"] if (options.get("round_to") or 1) > 1 else []
    said += [f"in {words.many(rounds, 'round')}"] if rounds > 1 else []
    if macs is not None:
        return Cell(f"{100 * macs:.3g} % of MACs", tuple(said))
    return Cell("–" if ratio is None else f"ratio {ratio:.3g}", tuple(said))


def _fewer(pair: Any, told: Any) -> Cell:
    if not pair:
        return _NONE
    before, after = pair
    return Cell(f"{told(before)} → {told(after)}", (f"{words.percent(after / before - 1)} %",) if before else ())


def _speed(verdict: Mapping[str, Any]) -> Cell:
    if not verdict.get("speed"):
        return Cell("not timed")
    first, *ends = words.faster(from_json(Interval, verdict["speed"]))
    runtime = {"ort": "ONNX Runtime"}.get(str(verdict.get("runtime")), str(verdict.get("runtime") or ""))
    return Cell(first, (*ends, *([f"in {runtime}"] if runtime else [])))


def _loss(artifact: Artifact, verdict: Mapping[str, Any]) -> Cell:
    before, after = (artifact.notes.get("parent_metrics") or {}).get("loss"), artifact.metrics.get("loss")
    if before is None or after is None:
        return Cell("–", ("not scored",))
    change = from_json(Interval, verdict["loss"]) if verdict.get("loss") else None
    return Cell(f"{words.number(before)} → {words.number(after)}", (*change_words(change), "nothing trained yet"))


def _distilled(artifact: Artifact, known: Mapping[str, Artifact], scores: Scores) -> Cell:
    """The best of those that went on from it and learned, against the network that it was cut from."""
    heirs = [a for a in known.values() if a.method == "distill" and a.parent == artifact.id]
    if not heirs:
        return Cell("–", ("not yet",))
    whole = known.get(artifact.parent)
    born = not scores.measured(*heirs, *([whole] if whole else []))
    scored = [heir for heir in heirs if math.isfinite(scores.loss(heir, born=born))]
    if not scored:
        return Cell("–", (words.many(len(heirs), "student"), "not scored"))
    best = min(scored, key=lambda heir: scores.loss(heir, born=born))
    said = [] if whole is None else list(change_words(scores.change(best, whole, born=born)))
    said += [f"against {whole.name}"] if whole is not None else []
    steps = best.options.get("steps")
    said += [", ".join([best.name, *([words.many(steps, "step")] if steps else [])])]
    said += [f"best of {len(heirs)}"] if len(heirs) > 1 else []
    return Cell(words.number(scores.loss(best, born=born)), (*said, *([BORN] if born else [])))


def _verdict(verdict: Mapping[str, Any], reasons: Sequence[str]) -> Cell:
    if reasons:
        return Cell("rejected", tuple(reasons), bad=True)
    if not verdict:
        return Cell("not judged")
    return Cell("kept") if verdict.get("speed") else Cell("kept", ("for size alone",))


def _detail(artifact: Artifact) -> Detail | None:
    notes = _notes(artifact)
    stays = {str(each["path"]): str(each["why"]) for each in notes.get("stays") or []}
    layers = tuple(Layer(str(a["path"]), int(a["before"]), int(a["after"]), str(a["path"]) in stays)
                   for a in notes.get("layers") or [])  # fmt: skip
    if not layers:
        return None
    rows = tuple((a.name, str(a.before), str(a.after), _share(a)) for a in layers)
    folded = [(f"Channels of every layer ({len(rows)})", Grid(("Layer", "Before", "After", "Kept"), rows))]
    folded += [(f"Had to stay whole ({len(stays)})", by_reason(stays))] if stays else []
    return Detail(f"p-{artifact.id}", artifact.name, artifact.id, Kept(artifact.name, layers), tuple(folded))


def _share(layer: Layer) -> str:
    return f"{100 * layer.after / layer.before:.0f} %" if layer.before else "–"
