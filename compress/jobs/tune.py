"""Choose how a network is rounded: each device is on only if it wins on the selection photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import onnx

from compress.core.console import log
from compress.jobs.selection import Judged, Selection
from compress.kit.quant.biases import correct_biases, measure_biases
from compress.kit.quant.calibrate import Calibration, Feed
from compress.kit.quant.clip import Method, grids
from compress.kit.quant.equalize import equalize
from compress.kit.quant.plan import Choice, Form, Plan, Rounded
from compress.kit.quant.policy import Style, decide
from compress.kit.quant.ranges import channel_ranges
from compress.kit.quant.reconstruct import reconstruct

Tuning = Literal["none", "fast", "full"]
_CLIPS: dict[str, tuple[Method, ...]] = {"fast": ("mse", "percentile"), "full": ("mse", "percentile", "entropy")}
_WIN = 0.02  # of the distance to the original: what is less is luck


@dataclass(frozen=True)
class Recipe:
    """Which devices are on."""

    clip: Method = "minmax"
    bias: Literal["none", "analytic", "measured"] = "analytic"
    equalize: bool = False
    rounding: Literal["nearest", "compensate", "adaround"] = "nearest"


@dataclass(frozen=True)
class Material:
    """What every recipe starts from.

    ``graph`` is prepared; ``keep`` are choices of the user and of the search, by node name; ``size`` the height and
    width that costs are counted at. ``feeds`` gives a few calibration photos, ``calibrate`` what another graph of the
    same function sees of all of them; weights alone need neither.
    """

    graph: onnx.ModelProto
    seen: Calibration
    style: Style
    form: Form
    keep: Mapping[str, Choice]
    safe_weights: bool
    half: bool
    size: tuple[int, int]
    feeds: Callable[[], Iterable[Feed]] = tuple
    calibrate: Callable[[onnx.ModelProto], Calibration] | None = None
    rounded: Mapping[str, Rounded] = field(default_factory=dict)  # weights that need no rounding again


@dataclass(frozen=True)
class Cooked:
    """A recipe carried out: the float graph it changed, and the plan for it."""

    recipe: Recipe
    graph: onnx.ModelProto
    plan: Plan
    base: onnx.ModelProto  # before biases were corrected
    seen: Calibration  # what ``base`` saw

    def settled(self, material: Material) -> Material:
        """The material with everything in it that need not be done again for other choices of layers."""
        return replace(material, graph=self.base, seen=self.seen, calibrate=None, rounded=self.plan.rounded)


def cook(material: Material, recipe: Recipe = Recipe()) -> Cooked:
    """Carry a recipe out."""
    graph, seen = _evened(material, recipe)
    plan = decide(
        graph,
        grids(seen, recipe.clip),
        style=material.style,
        form=material.form,
        keep=material.keep,
        safe_weights=material.safe_weights,
        half=material.half,
        size=material.size,
    )
    base = graph
    if material.rounded:
        integers = {name: value for name, value in material.rounded.items() if plan.layers[name].form != "float32"}
        plan = replace(plan, rounded=integers)
    elif recipe.rounding != "nearest":
        plan, _ = reconstruct(graph, plan, material.feeds(), way=recipe.rounding)
    if recipe.bias == "analytic":
        graph = correct_biases(graph, plan, seen.means)
    elif recipe.bias == "measured":
        graph = measure_biases(graph, plan, material.feeds())
    return Cooked(recipe, graph, plan, base, seen)


def _evened(material: Material, recipe: Recipe) -> tuple[onnx.ModelProto, Calibration]:
    if not recipe.equalize or material.calibrate is None:
        return material.graph, material.seen
    maps = decide(material.graph, grids(material.seen), style=material.style, form=material.form).maps
    graph, _ = equalize(material.graph, channel_ranges(material.graph, material.feeds(), maps))
    return graph, material.calibrate(graph)


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
    for change in _changes(tuning, material.form, method == "auto"):
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


def _changes(tuning: Tuning, form: Form, clips: bool) -> Iterator[dict[str, Any]]:
    if tuning == "none":
        return
    if form == "int4":
        # 4 bits lose most of their error to it, 8 bits little for the minutes it takes
        yield {"rounding": "compensate"}
    if clips:
        yield from ({"clip": method} for method in _CLIPS[tuning])
    if tuning == "full":
        yield from ({"equalize": True}, {"rounding": "compensate"}, {"bias": "measured"}, {"rounding": "adaround"})


def _wins(found: Judged, best: Judged) -> bool:
    nearer = found.distance < best.distance * (1 - _WIN)
    return bool(nearer and found.dead <= best.dead and np.isfinite(found.loss))


def _line(recipe: Recipe, judged: Judged, kept: bool) -> dict[str, Any]:
    return {**asdict(recipe), "distance": judged.distance, "loss": judged.loss, "kept": kept}
