"""The cheapest set of layers to keep wide, maps in float, such that the loss stays within a limit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.console import log
from compress.jobs.selection import Judged, Selection, increase
from compress.jobs.tune import Cooked, Material, cook
from compress.kit.quant.insert import stored_layers
from compress.kit.quant.plan import INTEGER, Choice, Form
from compress.kit.quant.quantize import write
from compress.kit.quant.sensitivity import Sensitivity
from compress.kit.ship.profile import profile

_WIDE: dict[Form, Form] = {"int8": "int8w", "int4": "int4w"}
_TRIES = 6  # of giving layers back


@dataclass(frozen=True)
class Widened:
    """A plan within the limit, or the nearest to it."""

    cooked: Cooked
    judged: Judged
    kept: tuple[str, ...]
    holds: bool
    trail: list[dict[str, Any]]


def costs(cooked: Cooked, original: Path, image: NDArray[np.float32]) -> dict[str, float]:
    """Measure how many seconds of a run each integer layer of a plan saves; runs both files on one image (N, C, H, W).

    Keeping a layer wide costs these and no bytes: its weights stay as small as they were.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "integers.onnx"
        write(cooked.graph, cooked.plan, path)
        slow, fast = (profile(file, image).nodes for file in (original, path))
    return {
        name: max(slow.get(name, 0.0) - fast.get(name, 0.0), 0.0)
        for name in stored_layers(cooked.graph)
        if cooked.plan.layers[name].form in INTEGER
    }


def ranked(found: Sequence[Sensitivity], costs: Mapping[str, float]) -> list[str]:
    """Names of the layers by what keeping them wide buys: squared error over their share of the seconds."""
    floor = 1e-3 * max(sum(costs.values()), 1e-9)  # no layer is free
    worth = {each.name: each.error**2 / max(costs[each.name], floor) for each in found if each.name in costs}
    return sorted(worth, key=lambda name: -worth[name])


def widen(
    material: Material, cooked: Cooked, judged: Judged, selection: Selection, order: Sequence[str], limit: float
) -> Widened:
    """Keep as few layers of ``order`` wide, from its front, as hold the loss within ``limit`` (relative).

    The number is found by doubling and halving; then layers that turn out not to be needed are given back.
    """
    search = _Search(material, cooked, selection, limit, {0: (cooked, judged)})
    count = search.smallest(order)
    kept = list(order[:count])
    made, found = search.at(order, count)
    if search.holds(found):
        kept, made, found = search.without_idle(kept, made, found)
    return Widened(made, found, tuple(kept), search.holds(found), search.trail)


class _Search:
    def __init__(
        self,
        material: Material,
        cooked: Cooked,
        selection: Selection,
        limit: float,
        known: dict[int, tuple[Cooked, Judged]],
    ) -> None:
        self.material, self.cooked, self.selection, self.limit = material, cooked, selection, limit
        self.known = known
        self.trail: list[dict[str, Any]] = []

    def holds(self, judged: Judged) -> bool:
        within = increase(self.selection.original.losses, judged.losses) <= self.limit
        return within and judged.dead <= self.selection.original.dead

    def smallest(self, order: Sequence[str]) -> int:
        low, high = -1, 0  # what fails, what is tried
        while not self.holds(self.at(order, high)[1]):
            if high == len(order):
                return high
            low, high = high, min(max(1, 2 * high), len(order))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.holds(self.at(order, middle)[1]) else (middle, high)
        return high

    def at(self, order: Sequence[str], count: int) -> tuple[Cooked, Judged]:
        if count not in self.known:
            self.known[count] = self.keeping(order[:count])
        return self.known[count]

    def keeping(self, names: Iterable[str]) -> tuple[Cooked, Judged]:
        names = list(names)
        forms = self.cooked.plan.layers
        # what hurts is its map: the weights stay as small as they are
        keep = {name: Choice(_WIDE[forms[name].form], "kept wide: the loss needs it", wide=True) for name in names}
        cooked = cook(replace(self.material, keep={**self.material.keep, **keep}), self.cooked.recipe)
        judged = self.selection.judge(cooked.graph, cooked.plan)
        change = increase(self.selection.original.losses, judged.losses)
        log.info("%d layers wide: loss %+.2f %%, %.5f from the original", len(names), 100 * change, judged.distance)
        self.trail.append({"kept": names, "loss_increase": change, "distance": judged.distance})
        return cooked, judged

    def without_idle(self, kept: list[str], made: Cooked, found: Judged) -> tuple[list[str], Cooked, Judged]:
        """Give back what the loss does not need, the last ones first; a few tries."""
        for name in list(reversed(kept))[1:_TRIES]:
            rest = [other for other in kept if other != name]
            tried, judged = self.keeping(rest)
            if self.holds(judged):
                kept, made, found = rest, tried, judged
        return kept, made, found
