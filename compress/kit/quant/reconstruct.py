"""Better rounding, layer by layer: weights for what the float graph writes, given what the quantized one reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.kit.quant.adaround import learn
from compress.kit.quant.compensate import compensate
from compress.kit.quant.insert import output_axis, stored_form
from compress.kit.quant.patches import Rows, as_factors, as_weights, has_rows, sample
from compress.kit.quant.plan import Plan, Rounded
from compress.kit.quant.policy import readers_of
from compress.kit.quant.problem import Problem
from compress.kit.quant.walk import Visit, walk
from compress.kit.quant.weights import Blocks, Channels

Way = Literal["compensate", "adaround"]


@dataclass(frozen=True)
class LayerRounding:
    """What became of one layer: mean square errors of its output on photos that its weights were not chosen on.

    ``nearest`` is that of plain rounding, ``found`` that of the other; it is ``kept`` where it is lower.
    """

    name: str
    nearest: float
    found: float
    kept: bool
    moved: int  # weights that don't go to the nearest step


def reconstruct(
    prepared: onnx.ModelProto,
    plan: Plan,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    way: Way = "compensate",
    steps: int = 300,
    places: int = 2048,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
) -> tuple[Plan, list[LayerRounding]]:
    """Return the plan with better rounded weights in ``rounded``, and what they do.

    Layer by layer, weights are chosen for what the float graph writes (behind the ReLU that alone reads it), given
    what the quantized graph's layers before it write. A layer whose error on every fourth photo, which is not
    looked at before, does not fall keeps plain rounding.

    Args:
        prepared: The float graph.
        plan: How it is quantized; layers stored in 8 or 4 bits are rounded, those in ``plan.rounded`` anew. Of 4 bits
            the integers are those an 8-bit kernel reads, see ``Blocks``. With ``safe_weights`` nothing is done:
            neighbours that were kept small would grow again.
        feeds: Photos, see ``walk``; two at least.
        way: "compensate": one weight after the other, the rest takes over its error, see ``compensate``; the better
            and the faster one wherever both were measured. "adaround": up or down, learned, see ``adaround``.
        steps: Steps per layer of "adaround".
        places: Places of a layer's output that are looked at, of all photos together.
        seed: Draws the places, and the batches of "adaround".
        advance: Called after each layer.

    Raises:
        DataError: If there is no photo.
        UsageError: If the graph can't be run in torch.
    """
    plan = replace(plan, rounded={})
    if plan.safe_weights:
        return plan, []
    slopes, rounded, report = _slopes(prepared), dict[str, Rounded](), list[LayerRounding]()

    def visit(layer: Visit) -> tuple[Tensor, Tensor | None]:
        if advance is not None:
            advance()
        stored = _stored(layer, plan)
        if stored is None:
            return layer.rounded, layer.bias
        rng = np.random.default_rng([seed, len(report)])
        problem, unseen = _problem(layer, stored, slopes.get(layer.node.name, 1.0), places, rng)
        whole = learn(problem, steps, rng) if way == "adaround" else compensate(problem)
        report.append(_judged(layer.node.name, replace(problem, rows=unseen), whole))
        if not report[-1].kept:
            return layer.rounded, layer.bias
        shape = tuple(layer.weight.shape)
        integers = as_weights(layer.node, whole, shape).numpy() * _multipliers(stored)
        rounded[layer.node.name] = Rounded(integers.astype(np.int8), stored.scales)
        return as_weights(layer.node, whole * problem.steps, shape), layer.bias

    walk(prepared, plan, feeds, visit)
    return replace(plan, rounded=rounded), report


def _stored(layer: Visit, plan: Plan) -> Channels | Blocks | None:
    """Round a layer plainly; None where it isn't stored in integers or can't be looked at by place."""
    if plan.layers[layer.node.name].form == "float32" or not has_rows(layer.node, layer.weight):
        return None
    stored = stored_form(layer.node, layer.weight.numpy(), plan, None)
    return stored if isinstance(stored, Channels | Blocks) else None


def _problem(
    layer: Visit, stored: Channels | Blocks, slope: float, places: int, rng: np.random.Generator
) -> tuple[Problem, Rows]:
    """Return the problem on three of four photos, and the rows of the others."""
    node, weight = layer.node, layer.weight.numpy()
    each = max(1, places // len(layer.inputs))
    pairs = zip(layer.inputs, layer.targets, strict=True)
    rows = [sample(node, layer.weight, image, target, each, rng) for image, target in pairs]
    held = set(range(3, len(rows), 4)) or {len(rows) - 1}
    unseen = Rows.gathered([rows[index] for index in held])
    seen = Rows.gathered([part for index, part in enumerate(rows) if index not in held] or rows)
    shape = [1] * weight.ndim
    shape[output_axis(node)] = -1
    steps = (stored.scales.reshape(shape) * _multipliers(stored)).astype(np.float32)
    limit = 127 if isinstance(stored, Channels) else 7
    bias = _by_group(layer.bias, seen)
    return Problem(seen, as_factors(node, weight), bias, as_factors(node, steps), limit, slope), unseen


def _judged(name: str, check: Problem, whole: Tensor) -> LayerRounding:
    nearest, found = check.error(check.nearest), check.error(whole)
    return LayerRounding(name, nearest, found, found < nearest, int((whole != check.nearest).sum()))


def _multipliers(stored: Channels | Blocks) -> NDArray[np.float32]:
    """Steps of 8 bits in a step of the stored weights, shaped as the layer wants its weights."""
    if isinstance(stored, Channels):
        return np.ones(stored.integers.shape, np.float32)
    spread = np.broadcast_to(stored.multipliers.astype(np.float32), stored.fours.shape).reshape(stored.shape)
    return np.moveaxis(spread, 0, stored.axis)


def _by_group(bias: Tensor | None, rows: Rows) -> Tensor:
    count, _, outputs = rows.targets.shape
    return torch.zeros(count, 1, outputs) if bias is None else bias.reshape(count, 1, outputs)


def _slopes(model: onnx.ModelProto) -> dict[str, float]:
    """What a layer's negative outputs are multiplied by, where a ReLU is all that reads them, by the layer's name."""
    readers, outputs = readers_of(model), {value.name for value in model.graph.output}
    found = {}
    for node in model.graph.node:
        reading = readers.get(node.output[0], [])
        if len(reading) == 1 and node.output[0] not in outputs:
            if reading[0].op_type == "Relu":
                found[node.name] = 0.0
            elif reading[0].op_type == "LeakyRelu":
                found[node.name] = next((e.f for e in reading[0].attribute if e.name == "alpha"), 0.01)
    return found
