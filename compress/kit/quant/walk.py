"""A float graph and its quantized twin run side by side, layer by layer, over a few photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.core.errors import DataError, UsageError
from compress.kit.quant.insert import round_layer, stored_layers
from compress.kit.quant.plan import INTEGER, Grid, Plan
from compress.kit.quant.policy import readers_of, rounded_for_all
from compress.kit.quant.torchgraph import TorchGraph


@dataclass(frozen=True)
class Visit:
    """One layer with stored weights, at its turn.

    ``inputs`` is what it reads in the quantized graph, rounded as there, ``targets`` what it writes in the float
    graph, one of each per feed.
    """

    node: onnx.NodeProto
    weight: Tensor  # of the float graph
    bias: Tensor | None
    rounded: Tensor  # the weights as the plan stores them
    inputs: Sequence[Tensor]
    targets: Sequence[Tensor]
    output: Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of input, weights and bias


# given a visit, the weights and the bias the quantized graph goes on with
Visitor = Callable[[Visit], tuple[Tensor, Tensor | None]]


def walk(prepared: onnx.ModelProto, plan: Plan, feeds: Iterable[Mapping[str, NDArray[Any]]], visit: Visitor) -> None:
    """Visit every layer with stored weights, those it reads from before it.

    Each runs once per feed in either graph. What is held in memory at a time is the maps of all feeds that are still
    to be read, in both.

    Args:
        prepared: The float graph.
        plan: How it is quantized.
        feeds: The graph's one input by name, float32 (N, C, H, W).
        visit: Called for every layer.

    Raises:
        DataError: If there is no feed.
        UsageError: If the graph has an operator without a counterpart in torch, or a feed doesn't fit it.
    """
    graph = TorchGraph(prepared)
    images = [_image(feed, graph.input) for feed in feeds]
    if not images:
        raise DataError("there is no image to look at the layers with", hint="give --data a folder with photos")
    stored = stored_layers(prepared)
    layers = [node for node in prepared.graph.node if node.name in stored]
    exact, rounded = (_Twin(graph, images, kept) for kept in (None, Rounding(prepared, plan)))
    with torch.no_grad():
        for index, node in enumerate(layers):
            found = _visit(graph, node, plan, exact, rounded)
            weight, bias = visit(found)
            rounded.settle(node.output[0], [found.output(image, weight, bias) for image in found.inputs])
            exact.settle(node.output[0], list(found.targets))
            later = [each.input[0] for each in layers[index + 1 :]]
            exact.forget(later)
            rounded.forget(later)


def _image(feed: Mapping[str, NDArray[Any]], name: str) -> Tensor:
    if name not in feed:
        raise UsageError(f"the network reads '{name}', the photos come as {', '.join(feed) or 'nothing'}")
    return torch.from_numpy(np.ascontiguousarray(feed[name], np.float32))


def _visit(graph: TorchGraph, node: onnx.NodeProto, plan: Plan, exact: _Twin, rounded: _Twin) -> Visit:
    weights = {name: value.detach() for name, value in graph.stored().items()}
    weight = weights[node.input[1]]
    values = round_layer(node, weight.numpy(), plan)
    bias = weights.get(node.input[2]) if len(node.input) > 2 else None

    def output(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return graph.run(
            {node.input[0]: image},
            node.output,
            read=lambda _, inputs: [inputs[0], weight, *([] if bias is None else [bias])],
        )[node.output[0]]

    return Visit(
        node,
        weight,
        bias,
        weight if values is None else torch.from_numpy(values),
        rounded.read(node),
        exact.written(node),
        output,
    )


class Rounding:
    """Rounds maps as the written graph does, see ``insert``: what `TorchGraph.run` takes as ``read`` and ``wrote``."""

    def __init__(self, prepared: onnx.ModelProto, plan: Plan) -> None:
        self._plan = plan
        self._shared = rounded_for_all(prepared, plan)

    def wrote(self, name: str, value: Tensor) -> Tensor:
        """Round what everybody reads rounded."""
        return on_grid(value, self._plan.maps[name]) if name in self._shared else value

    def read(self, node: onnx.NodeProto, inputs: list[Tensor | None]) -> Sequence[Tensor | None]:
        """Round what an integer layer reads rounded and others don't."""
        if self._plan.layers[node.name].form not in INTEGER:
            return inputs
        return [
            on_grid(value, self._plan.maps[name]) if value is not None and self._privately(name) else value
            for name, value in zip(node.input, inputs, strict=True)
        ]

    def _privately(self, name: str) -> bool:
        return name in self._plan.maps and name not in self._shared


def on_grid(value: Tensor, grid: Grid) -> Tensor:
    """Round a float32 map to its grid as QuantizeLinear and DequantizeLinear do; without a gradient."""
    # a tensor, not a number: float32 divided by float32
    scale = torch.tensor(grid.scale, dtype=torch.float32)
    return (value / scale).round_().add_(grid.zero).clamp_(0, 255).sub_(grid.zero).mul_(scale)


class _Twin:
    """The maps of one of the two graphs, for every feed, that are known and still to be read."""

    def __init__(self, graph: TorchGraph, images: list[Tensor], rounding: Rounding | None) -> None:
        self._graph, self._rounding = graph, rounding
        self._known: list[dict[str, Tensor]] = [{graph.input: image} for image in images]
        readers = readers_of(graph.model)
        # maps of several readers are kept, or a chain of sums would be run again from its start for every layer
        self._joints = {name for name, nodes in readers.items() if len(nodes) > 1}
        self._producers = {name: node for node in graph.model.graph.node for name in node.output}

    def read(self, node: onnx.NodeProto) -> list[Tensor]:
        """What a layer reads, of every feed."""
        name = node.input[0]
        maps = [self._run(known, name) for known in self._known]
        if self._rounding is None:
            return maps
        return [
            value
            for each in maps
            for value in self._rounding.read(node, [each] + [None] * (len(node.input) - 1))
            if value is not None
        ]

    def written(self, node: onnx.NodeProto) -> list[Tensor]:
        """What a layer writes, of every feed."""
        return [self._run(known, node.output[0]) for known in self._known]

    def settle(self, name: str, values: Sequence[Tensor]) -> None:
        """Take ``values``, one per feed, for a map from now on."""
        for known, value in zip(self._known, values, strict=True):
            known[name] = value

    def forget(self, wanted: Sequence[str]) -> None:
        """Drop every map that none of the maps ``wanted`` follows from any more."""
        waiting, needed = list(wanted), set[str]()
        while waiting:
            name = waiting.pop()
            if name in needed:
                continue
            needed.add(name)
            if name not in self._known[0] and name in self._producers:
                waiting.extend(self._producers[name].input)
        for known in self._known:
            for name in known.keys() - needed:
                del known[name]

    def _run(self, known: dict[str, Tensor], name: str) -> Tensor:
        caught: dict[str, Tensor] = {}

        def wrote(made: str, value: Tensor) -> Tensor:
            value = value if self._rounding is None else self._rounding.wrote(made, value)
            if made in self._joints:
                caught[made] = value
            return value

        reading = None if self._rounding is None else self._rounding.read
        found = self._graph.run(known, [name], read=reading, wrote=wrote)[name]
        known.update(caught)
        return found
