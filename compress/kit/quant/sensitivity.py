"""Which layers cost how much: what rounding each one alone does to the picture, all layers in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from compress.kit.quant.calibrate import Feed
from compress.kit.quant.insert import round_layer, stored_layers
from compress.kit.quant.plan import Plan
from compress.kit.quant.policy import readers_of, rounded_instead
from compress.kit.quant.torchgraph import TorchGraph
from compress.kit.quant.walk import on_grid
from compress.kit.ship.runtime import float_initializers


@dataclass(frozen=True)
class Sensitivity:
    """Root mean square change of the picture's values when one layer alone is rounded, its maps included."""

    name: str
    operator: str
    error: float


def sensitivities(
    prepared: onnx.ModelProto,
    plan: Plan,
    feeds: Iterable[Feed],
    *,
    corrected: onnx.ModelProto | None = None,
    probes: int = 4,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
) -> list[Sensitivity]:
    """Estimate what rounding each layer alone does to the picture, worst first.

    The change a layer makes in its own output is computed as it is; how far it reaches the picture follows from the
    Jacobian between the two, whose squared length on that change is estimated by random signs on the picture
    (Hutchinson 1990; Girard 1989): one backward pass gives all layers at once, however many there are. A change so
    large that the layers behind it answer it in another way than a small one is over- or underrated, not overlooked.

    Args:
        prepared: The float graph.
        plan: How it would be rounded.
        feeds: Prepared images.
        corrected: The float graph with corrected biases that the plan is for; the same graph when None.
        probes: Random sign pictures for each image.
        seed: Of the signs.
        advance: Called after each image.
    """
    graph = TorchGraph(prepared).requires_grad_(False)
    nodes = {name: node for name, node in stored_layers(prepared).items() if plan.layers[name].form != "float32"}
    changed = _Changed(prepared, corrected or prepared, plan, nodes)
    random = torch.Generator().manual_seed(seed)
    squares = dict.fromkeys(nodes, 0.0)
    count = 0
    for feed in feeds:
        seen = _Seen(nodes)
        picture = graph.run(
            {name: torch.from_numpy(np.asarray(value)) for name, value in feed.items()},
            graph.outputs[:1], read=seen.read, wrote=seen.wrote,
        )[graph.outputs[0]]  # fmt: skip
        changes = {name: changed.output(graph, name, seen) for name in seen.outputs}
        for _ in range(probes):
            signs = torch.randint(0, 2, picture.shape, generator=random) * 2.0 - 1
            slopes = torch.autograd.grad(
                (picture * signs).sum(), list(seen.outputs.values()), retain_graph=True, allow_unused=True
            )
            for name, slope in zip(seen.outputs, slopes, strict=True):
                if slope is not None:
                    squares[name] += float((slope * changes[name]).sum().double()) ** 2 / picture.numel()
        count += probes
        if advance is not None:
            advance()
    found = [Sensitivity(name, nodes[name].op_type, float(np.sqrt(squares[name] / max(count, 1)))) for name in nodes]
    return sorted(found, key=lambda each: -each.error)


class _Seen:
    """Hooks that keep what layers read and write, and let gradients reach what they write."""

    def __init__(self, nodes: dict[str, onnx.NodeProto]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._names = {node.output[0]: name for name, node in nodes.items()}
        self._nodes = nodes

    def read(self, node: onnx.NodeProto, inputs: list[Tensor | None]) -> Sequence[Tensor | None]:
        if node.name in self._nodes and inputs[0] is not None:
            self.inputs[node.name] = inputs[0].detach()
        return inputs

    def wrote(self, name: str, value: Tensor) -> Tensor:
        layer = self._names.get(name)
        if layer is None:
            return value
        self.outputs[layer] = value if value.requires_grad else value.requires_grad_()
        return self.outputs[layer]


class _Changed:
    """What a layer gives when it alone is rounded."""

    def __init__(
        self, prepared: onnx.ModelProto, corrected: onnx.ModelProto, plan: Plan, nodes: dict[str, onnx.NodeProto]
    ) -> None:
        self.plan, self.nodes = plan, nodes
        self.readers, self.ends = readers_of(prepared), {value.name for value in prepared.graph.output}
        weights, biases = float_initializers(prepared), float_initializers(corrected)
        theirs = stored_layers(corrected)
        self._weights: dict[str, list[Tensor]] = {}
        for name, node in nodes.items():
            rounded = round_layer(node, weights[node.input[1]], plan)
            assert rounded is not None, "only layers that are rounded are asked for"
            bias = [torch.from_numpy(biases[at].copy()) for at in theirs[name].input[2:3] if at in biases]
            self._weights[name] = [torch.from_numpy(rounded.copy()), *bias]

    @torch.no_grad()
    def output(self, graph: TorchGraph, name: str, seen: _Seen) -> Tensor:
        """The change of the layer's output map."""
        node = self.nodes[name]
        learned = self._weights[name]

        def read(_: onnx.NodeProto, inputs: list[Tensor | None]) -> Sequence[Tensor | None]:
            return [inputs[0], *learned, *inputs[1 + len(learned) :]]

        given = self._on_grid(node.input[0], seen.inputs[name])
        made = graph.run({node.input[0]: given}, [node.output[0]], read=read)[node.output[0]]
        # a ReLU inside the rounding changes nothing here: where it clips, no slope reaches the layer
        target = rounded_instead(node.output[0], self.readers, self.ends)
        return self._on_grid(target, made) - seen.outputs[name].detach()

    def _on_grid(self, name: str, value: Tensor) -> Tensor:
        grid = self.plan.maps.get(name)
        return value if grid is None else on_grid(value, grid)
