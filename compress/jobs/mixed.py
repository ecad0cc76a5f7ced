"""Which layers get 4 bits and which 8: as few of the first as the bytes want, as many as the loss allows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.core.console import log
from compress.core.errors import UsageError
from compress.jobs.selection import Judged, Selection, increase
from compress.jobs.tune import Cooked, Material, cook
from compress.kit.quant.insert import stored_layers
from compress.kit.quant.plan import Choice, Form
from compress.kit.quant.quantize import write
from compress.kit.quant.sensitivity import Sensitivity
from compress.kit.ship.runtime import float_initializers

FOUR: dict[Form, Form] = {"int8": "int4", "int8w": "int4w"}
_WORTH = 2048  # weights: below these the nodes that unpack 4 bits weigh as much as they save


def four_bit_material(material: Material, cooked: Cooked) -> Material:
    """The same network with every layer that could be in 4 bits there."""
    return _with_fours(material, cooked, _candidates(cooked))


def by_harm(found: Sequence[Sensitivity], cooked: Cooked) -> list[str]:
    """Names of the layers that may go to 4 bits, by squared error for each byte saved, the cheapest first.

    found: what 4 bits in each layer alone do to the picture.
    """
    saved = {name: count / 2 for name, count in _candidates(cooked).items()}
    harm = {each.name: each.error**2 / saved[each.name] for each in found if each.name in saved}
    return sorted(harm, key=lambda name: harm[name])


def mix(
    material: Material,
    cooked: Cooked,
    selection: Selection,
    order: Sequence[str],
    *,
    most_bytes: int | None,
    limit: float | None,
) -> tuple[Cooked, Judged, list[dict[str, Any]]]:
    """Put layers of ``order`` in 4 bits, from its front.

    Args:
        material: What the plan started from.
        cooked: The plan in 8 bits.
        selection: Judges.
        order: See ``by_harm``.
        most_bytes: Of the file; as few layers as hold it. None: as many as ``limit`` allows.
        limit: Largest relative increase of the loss, where there are no bytes to hold; None for all layers.

    Raises:
        UsageError: If the file is too big with every layer in 4 bits.
    """
    trail: list[dict[str, Any]] = []

    def at(count: int) -> tuple[Cooked, Judged]:
        made = cook(_with_fours(material, cooked, order[:count]), cooked.recipe)
        judged = selection.judge(made.graph, made.plan)
        change = increase(selection.original.losses, judged.losses)
        trail.append({"four_bits": count, "loss_increase": change, "distance": judged.distance})
        log.info("%d layers in 4 bits: loss %+.2f %%, %.5f from the original", count, 100 * change, judged.distance)
        return made, judged

    if most_bytes is not None:
        count = _fewest(material, cooked, order, most_bytes)
    elif limit is not None:
        count = _most(lambda tried: increase(selection.original.losses, at(tried)[1].losses) <= limit, len(order))
    else:
        count = len(order)
    made, judged = at(count)
    trail[-1]["names"] = list(order[:count])
    return made, judged, trail


def _fewest(material: Material, cooked: Cooked, order: Sequence[str], most_bytes: int) -> int:
    low, high = -1, len(order)
    smallest = _bytes(material, cooked, order)
    if smallest > most_bytes:
        raise UsageError(
            f"with every layer in 4 bits the file takes {smallest / 1e6:.2f} MB, --max-bytes is {most_bytes / 1e6:.2f}",
            hint="prune it first: compress prune, or distil into a smaller network: compress distill",
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _bytes(material, cooked, order[:middle]) <= most_bytes else (middle, high)
    return high


def _most(holds: Any, count: int) -> int:
    low, high = 0, count + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _bytes(material: Material, cooked: Cooked, names: Sequence[str]) -> int:
    made = cook(_with_fours(material, cooked, names))  # how they are rounded changes no byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.onnx"
        write(made.graph, made.plan, path)
        return path.stat().st_size


def _candidates(cooked: Cooked) -> dict[str, int]:
    """Weights of each layer that may go to 4 bits, by its name."""
    weights = float_initializers(cooked.graph)
    counts = {name: weights[node.input[1]].size for name, node in stored_layers(cooked.graph).items()}
    return {name: count for name, count in counts.items() if count >= _WORTH and cooked.plan.layers[name].form in FOUR}


def _with_fours(material: Material, cooked: Cooked, names: Any) -> Material:
    fours = {name: Choice(FOUR[cooked.plan.layers[name].form], "4 bits cost little here") for name in names}
    return replace(material, keep={**material.keep, **fours}, rounded={})
