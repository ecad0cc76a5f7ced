"""Choose how a network is rounded: each device is on only if it wins on the selection photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import onnx

from compress.core.console import log
from compress.jobs.selection import Judged, Selection
from compress.kit.quant.calibrate import Calibration
from compress.kit.quant.clip import Method, grids
from compress.kit.quant.correct import correct_biases
from compress.kit.quant.plan import Choice, Form, Plan
from compress.kit.quant.policy import Style, decide

Tuning = Literal["none", "fast", "full"]
_CLIPS: dict[str, tuple[Method, ...]] = {"fast": ("mse", "percentile"), "full": ("mse", "percentile", "entropy")}
_WIN = 0.02  # of the distance to the original: what is less is luck


@dataclass(frozen=True)
class Recipe:
    """Which devices are on."""

    clip: Method = "minmax"
    bias: bool = True
    equalize: bool = False
    adaround: bool = False


@dataclass(frozen=True)
class Material:
    """What every recipe starts from.

    ``graph`` is prepared; ``keep`` are choices of the user and of the search, by node name; ``size`` the height and
    width that costs are counted at.
    """

    graph: onnx.ModelProto
    seen: Calibration
    style: Style
    form: Form
    keep: Mapping[str, Choice]
    safe_weights: bool
    half: bool
    size: tuple[int, int]


@dataclass(frozen=True)
class Cooked:
    """A recipe carried out: the float graph it changed, and the plan for it."""

    recipe: Recipe
    graph: onnx.ModelProto
    plan: Plan


def cook(material: Material, recipe: Recipe = Recipe()) -> Cooked:
    """Carry a recipe out."""
    graph = material.graph
    plan = decide(
        graph,
        grids(material.seen, recipe.clip),
        style=material.style,
        form=material.form,
        keep=material.keep,
        safe_weights=material.safe_weights,
        half=material.half,
        size=material.size,
    )
    if recipe.bias:
        graph = correct_biases(graph, plan, material.seen.means)
    return Cooked(recipe, graph, plan)


def tune(
    material: Material, selection: Selection, tuning: Tuning, method: str
) -> tuple[Cooked, Judged, list[dict[str, Any]]]:
    """Try devices one after the other, keep those that bring the pictures nearer to the original's.

    method: How ranges are read off the calibration photos; "auto" tries.

    Returns:
        The best recipe carried out, how it did, and what was tried: setting, distance and loss of each.
    """
    best = cook(material, Recipe("minmax" if method == "auto" else cast("Method", method)))
    judged = selection.judge(best.graph, best.plan)
    trail = [_line(best.recipe, judged, True)]
    for change in _changes(tuning, method == "auto"):
        recipe = replace(best.recipe, **change)
        if recipe == best.recipe:
            continue
        tried = cook(material, recipe)
        found = selection.judge(tried.graph, tried.plan)
        wins = _wins(found, judged)
        trail.append(_line(recipe, found, wins))
        log.info("tried %s: %.5f from the original, was %.5f%s",
                 ", ".join(f"{k} {v}" for k, v in change.items()), found.distance, judged.distance,
                 ": kept" if wins else "")  # fmt: skip
        if wins:
            best, judged = tried, found
    return best, judged, trail


def _changes(tuning: Tuning, clips: bool) -> Iterator[dict[str, Any]]:
    if tuning == "none":
        return
    if clips:
        yield from ({"clip": method} for method in _CLIPS[tuning])
    if tuning == "full":
        yield {"bias": False}
        yield {"equalize": True}
        yield {"adaround": True}


def _wins(found: Judged, best: Judged) -> bool:
    nearer = found.distance < best.distance * (1 - _WIN)
    return bool(nearer and found.dead <= best.dead and np.isfinite(found.loss))


def _line(recipe: Recipe, judged: Judged, kept: bool) -> dict[str, Any]:
    return {**asdict(recipe), "distance": judged.distance, "loss": judged.loss, "kept": kept}
