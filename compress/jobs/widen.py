"""The cheapest set of layers to keep in float such that the loss stays within a limit."""

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
from compress.kit.quant.plan import INTEGER, Choice
from compress.kit.quant.quantize import write
from compress.kit.quant.sensitivity import Sensitivity
from compress.kit.ship.profile import profile
from compress.kit.ship.runtime import float_initializers

_TRIES = 6  # of giving layers back


@dataclass(frozen=True)
class Cost:
    """What keeping one layer in float costs: bytes of the file, and measured seconds of a run."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class Widened:
    """A plan within the limit, or the nearest to it."""

    cooked: Cooked
    judged: Judged
    kept: tuple[str, ...]
    holds: bool
    trail: list[dict[str, Any]]


def costs(cooked: Cooked, original: Path, image: NDArray[np.float32]) -> dict[str, Cost]:
    """Measure what each integer layer of a plan would cost in float; runs both files on one image (N, C, H, W)."""
    weights = float_initializers(cooked.graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "integers.onnx"
        write(cooked.graph, cooked.plan, path)
        slow, fast = (profile(file, image).nodes for file in (original, path))
    return {
        name: Cost(weights[node.input[1]].size * 3, max(slow.get(name, 0.0) - fast.get(name, 0.0), 0.0))
        for name, node in stored_layers(cooked.graph).items()
        if cooked.plan.layers[name].form in INTEGER
    }


def ranked(found: Sequence[Sensitivity], costs: Mapping[str, Cost]) -> list[str]:
    """Names of the layers by what keeping them buys: squared error over their share of all bytes and seconds."""
    bytes_, seconds = (max(sum(getattr(c, name) for c in costs.values()), 1e-12) for name in ("bytes", "seconds"))
    price = {name: cost.bytes / bytes_ + cost.seconds / seconds for name, cost in costs.items()}
    worth = {each.name: each.error**2 / max(price[each.name], 1e-6) for each in found if each.name in price}
    return sorted(worth, key=lambda name: -worth[name])


def widen(
    material: Material, cooked: Cooked, judged: Judged, selection: Selection, order: Sequence[str], limit: float
) -> Widened:
    """Keep as few layers of ``order`` in float, from its front, as hold the loss within ``limit`` (relative).

    The number is found by doubling and halving; then layers that turn out not to be needed are given back.
    """
    search = _Search(material, cooked, selection, limit, {0: (cooked, judged)})
    count = search.smallest(order)
    kept = list(order[:count])
    if search.holds(search.at(order, count)[1]):
        kept = search.without_idle(kept)
    made, found = search.keeping(kept)
    if not kept:
        made, found = cooked, judged
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
        keep = {name: Choice("float32", "kept wide: the loss needs it") for name in names}
        cooked = cook(replace(self.material, keep={**self.material.keep, **keep}), self.cooked.recipe)
        judged = self.selection.judge(cooked.graph, cooked.plan)
        change = increase(self.selection.original.losses, judged.losses)
        log.info("%d layers in float: loss %+.2f %%, %.5f from the original", len(names), 100 * change, judged.distance)
        self.trail.append({"kept": names, "loss_increase": change, "distance": judged.distance})
        return cooked, judged

    def without_idle(self, kept: list[str]) -> list[str]:
        """Give back what the loss does not need, the last ones first; a few tries."""
        for name in list(reversed(kept))[1:_TRIES]:
            rest = [other for other in kept if other != name]
            if self.holds(self.keeping(rest)[1]):
                kept = rest
        return kept
