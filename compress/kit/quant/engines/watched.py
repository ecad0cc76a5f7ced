"""What an engine decided, read off its observers: a grid for every map, integers for every weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from compress.core.errors import DataError, UsageError
from compress.kit.quant.engines.engine import Image
from compress.kit.quant.engines.traced import LAYERS, Traced
from compress.kit.quant.insert import output_axis, stored_layers
from compress.kit.quant.plan import Choice, Grid, Plan, Rounded
from compress.kit.quant.policy import Style, decide

_STORED = Choice("int8w", "the engine leaves it in float: only its weights are stored as integers")


class Observer(Protocol):
    """A module of torchao's that sees a tensor and answers with what came in."""

    min_val: Tensor
    max_val: Tensor

    def __call__(self, value: Tensor) -> Tensor:
        """Count a tensor in."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Return scales and zero points."""


@dataclass(frozen=True)
class Watched:
    """A graph with an engine's observers in it, and ours where our file rounds and the engine doesn't.

    An engine rounds what a layer reads. For an integer kernel, ONNX Runtime wants its output rounded too; those get
    an observer of the engine's kind.
    """

    traced: Traced
    module: fx.GraphModule
    maps: dict[str, Any]  # observer by the name of the node it sees
    weights: dict[str, Any]  # observer by the name of the layer's node
    keep: dict[str, Choice]  # what is left in float, by name of the ONNX node
    ours: dict[str, Any] = field(default_factory=dict)  # as maps

    def see(self, image: Image) -> None:
        """Run one image (1, C, H, W) through all observers.

        Raises:
            DataError: If the network makes something of it that an observer can't count in.
        """
        try:
            with torch.no_grad():
                output = _Run(self.module, self.ours).run(torch.from_numpy(image))
        except RuntimeError as error:
            said = " ".join(str(error).split())[:160]
            raise DataError(f"this engine can't count a calibration image in: {said}") from error
        if not bool(torch.isfinite(output).all()):
            raise DataError("the network's picture of a calibration image isn't finite")


class _Run(fx.Interpreter):
    """Runs a graph, our observers with it."""

    def __init__(self, module: fx.GraphModule, ours: Mapping[str, Any]) -> None:
        super().__init__(module)
        self.ours = ours

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.ours:
            self.ours[n.name](value)
        return value


def watch(
    traced: Traced, module: fx.GraphModule, prepared: onnx.ModelProto, style: Style, keep: Mapping[str, Choice]
) -> Watched:
    """Find an engine's observers in ``module``, which it made of the traced one, and add ours.

    Args:
        traced: The graph as the engine got it.
        module: As it gave it back.
        prepared: The ONNX graph behind both.
        style: Which maps our file rounds.
        keep: Choices that win over the engine's, by node name.

    Raises:
        UsageError: If the engine found nothing to quantize.
    """
    maps, weights = _observers(module)
    if not weights:
        raise UsageError("this engine finds no layer to quantize", hint="--engine ort knows more operators")
    left = {name: _STORED for place, name in traced.layers.items() if place not in weights}
    found = Watched(traced, module, maps, weights, {**left, **keep})
    fresh = next(iter(maps.values()))
    names = {node.name for node in module.graph.nodes}
    wanted = _wanted(prepared, traced, found.keep, style)
    for place in dict.fromkeys(traced.nodes[tensor] for tensor in wanted):
        if place not in maps and place in names:
            found.ours[place] = copy.deepcopy(fresh)
    return found


def _observers(module: fx.GraphModule) -> tuple[dict[str, Any], dict[str, Any]]:
    maps: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    for layer in module.graph.nodes:
        if layer.target not in LAYERS or not all(_seen(module, layer.args[place]) for place in (0, 1)):
            continue
        weights[layer.name] = module.get_submodule(layer.args[1].target)
        maps.setdefault(layer.args[0].args[0].name, module.get_submodule(layer.args[0].target))
    for node in module.graph.nodes:  # after those of the layers: where a map has two grids, a layer's wins
        if _seen(module, node) and node.args[0].op != "get_attr":
            maps.setdefault(node.args[0].name, module.get_submodule(node.target))
    return maps, weights


def _seen(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and hasattr(module.get_submodule(str(node.target)), "calculate_qparams")


def _wanted(prepared: onnx.ModelProto, traced: Traced, keep: Mapping[str, Choice], style: Style) -> Iterator[str]:
    """Yield the tensors whose own grid decides, when everything could be rounded."""
    # a scale of its own per tensor tells where a grid of the plan came from
    own = {name: Grid(float(index), 0) for index, name in enumerate(traced.nodes, 1)}
    plan = decide(prepared, own, style=style, keep=keep, size=traced.size)
    return (name for name, grid in plan.maps.items() if grid == own[name])


def plan_of(watched: Watched, prepared: onnx.ModelProto, style: Style) -> Plan:
    """Put what was seen into a plan for the graph.

    Args:
        watched: Calibrated.
        prepared: The graph that was traced.
        style: Which maps our file rounds, as given to ``watch``.

    Raises:
        DataError: If an observer saw values that aren't finite.
    """
    grids = {name: _grid(name, observer) for name, observer in _by_tensor(watched).items()}
    for node in prepared.graph.node:
        # of a grid around zero, all that comes out of a ReLU lies in the upper half: the same steps from zero on,
        # and the rounding does what the ReLU does, which an integer kernel needs
        if node.op_type == "Relu" and node.output[0] in grids:
            grids[node.output[0]] = Grid(grids[node.output[0]].scale, 0)
    # what only moves values takes the grid of what it reads, but the policy asks for one before
    unknown = {name: Grid(float("nan"), 0) for name in watched.traced.nodes if name not in grids}
    plan = decide(prepared, grids | unknown, style=style, keep=watched.keep, size=watched.traced.size)
    maps = {name: grid for name, grid in plan.maps.items() if not isnan(grid.scale)}
    return replace(plan, maps=maps, rounded=_rounded(watched, prepared))


def _by_tensor(watched: Watched) -> dict[str, Any]:
    every = {**watched.ours, **watched.maps}
    return {tensor: every[place] for tensor, place in watched.traced.nodes.items() if place in every}


def _grid(name: str, observer: Observer) -> Grid:
    if not bool(torch.isfinite(observer.min_val) & torch.isfinite(observer.max_val)):
        raise DataError(f"'{name}' takes values that aren't finite over the calibration images")
    scale, zero = observer.calculate_qparams()
    return Grid(float(scale), int(zero))


def _rounded(watched: Watched, prepared: onnx.ModelProto) -> dict[str, Rounded]:
    layers = stored_layers(prepared)
    found = {}
    for node in watched.module.graph.nodes:
        if node.name in watched.weights:
            name = watched.traced.layers[node.name]
            weight = _stored(watched.module, node.args[1].args[0])
            integers, scales = _integers(weight, watched.weights[node.name])
            axis = output_axis(layers[name]) % integers.ndim
            found[name] = Rounded(np.ascontiguousarray(np.moveaxis(integers, 0, axis)), scales)
    return found


def _stored(module: fx.GraphModule, node: fx.Node) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    assert isinstance(value, Tensor)
    return value.detach()


def _integers(weight: Tensor, observer: Observer) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round weights (O, ...) as PT2E does: times the reciprocal of the scale, to -128..127."""
    scale = observer.calculate_qparams()[0].float().reshape(-1).expand(len(weight))
    reciprocal = (1.0 / scale).reshape(-1, *[1] * (weight.ndim - 1))
    integers = torch.clamp(torch.round(weight * reciprocal), -128, 127).to(torch.int8)
    return integers.numpy(), scale.numpy().copy()
