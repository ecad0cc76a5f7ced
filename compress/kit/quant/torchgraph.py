"""An ONNX graph as a torch module: weights are parameters, inner maps can be read, changed and started from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from compress.core.errors import CompressError, UsageError

# each of them enters its operators into the table
from compress.kit.quant import torchlayers, torchresize, torchshapes, torchsums  # noqa: F401
from compress.kit.quant.torchops import OPERATORS, Node, as_tensor, attributes

# inputs of an operator that hold what it has learned
LEARNED = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "BatchNormalization": (1, 2),
    "PRelu": (1,),
}
Read = Callable[[onnx.NodeProto, list[Tensor | None]], Sequence[Tensor | None]]
Wrote = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class _Step:
    node: onnx.NodeProto
    attributes: Mapping[str, Any]
    spent: tuple[str, ...]  # tensors nobody reads after it


class TorchGraph(nn.Module):
    """A float32 ONNX graph of one image input, run by torch.

    What layers have learned (``LEARNED``) are parameters, other stored floats buffers that follow the module to its
    device. Shapes are computed on the CPU. A tensor is freed after its last reader, unless a gradient needs it.

    Raises:
        UsageError: If an operator has no counterpart here (all of them are named), or the graph has another number of
            inputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = onnx.inliner.inline_local_functions(model) if model.functions else model
        graph = self.model.graph
        _refuse_unknown(graph)
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in stored]
        if len(inputs) != 1:
            raise UsageError(f"the graph wants inputs {', '.join(inputs) or 'none'}, an image network takes one image")
        self.input: str = inputs[0]
        self.outputs: tuple[str, ...] = tuple(value.name for value in graph.output)
        self.opset = max((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        learned = _learned(graph, stored)
        self.weights = nn.ParameterList()
        self._places: dict[str, int] = {}  # of parameters, by name
        self._buffers_of: dict[str, str] = {}
        self._integers: dict[str, Tensor] = {}  # sizes and indices: they stay on the CPU
        for name, array in stored.items():
            self._hold(name, array, learned)
        self._attributes = [attributes(node) for node in graph.node]
        self._schedules: dict[tuple[frozenset[str], tuple[str, ...]], list[_Step]] = {}

    def _hold(self, name: str, array: np.ndarray[Any, Any], learned: set[str]) -> None:
        value = as_tensor(array)
        if not value.is_floating_point():
            self._integers[name] = value
        elif name in learned:
            self._places[name] = len(self.weights)
            self.weights.append(nn.Parameter(value))
        else:
            self._buffers_of[name] = f"stored{len(self._buffers_of)}"
            self.register_buffer(self._buffers_of[name], value, persistent=False)

    def named_weights(self) -> dict[str, nn.Parameter]:
        """Every parameter by the name of its initialiser."""
        return {name: self.weights[place] for name, place in self._places.items()}

    def is_stored(self, name: str) -> bool:
        """Whether a tensor is a float32 initialiser of the graph."""
        return name in self._places or name in self._buffers_of

    def stored(self) -> dict[str, Tensor]:
        """Every initialiser by name, as it is now."""
        buffers = {name: self.get_buffer(place) for name, place in self._buffers_of.items()}
        return {**self._integers, **buffers, **self.named_weights()}

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W) to the graph's first output."""
        return self.run({self.input: image}, self.outputs[:1])[self.outputs[0]]

    def run(
        self,
        known: Mapping[str, Tensor],
        wanted: Sequence[str],
        *,
        read: Read | None = None,
        wrote: Wrote | None = None,
    ) -> dict[str, Tensor]:
        """Compute tensors from others: the image, or maps somewhere inside, from which alone the rest must follow.

        Args:
            known: Tensors by name that are given; what lies before them isn't run.
            wanted: Names of the tensors to compute; what lies behind them isn't run.
            read: Given a node and its inputs (None where absent), returns the inputs it computes with.
            wrote: Given a tensor's name and value as soon as it is known, returns the value its readers get. Known
                tensors pass it too.

        Raises:
            UsageError: If a wanted tensor can't be computed from the known ones, or a node doesn't fit its inputs.
        """
        steps = self._schedule(frozenset(known), tuple(wanted))
        values: dict[str, Tensor] = self.stored()
        for name, value in known.items():
            values[name] = value if wrote is None else wrote(name, value)
        for step in steps:
            inputs: list[Tensor | None] = [values[name] if name else None for name in step.node.input]
            outputs = self._compute(step, inputs if read is None else read(step.node, inputs))
            for name, value in zip(step.node.output, outputs, strict=False):
                if name and name not in known:
                    values[name] = value if wrote is None else wrote(name, value)
            for name in step.spent:
                values.pop(name, None)
        return {name: values[name] for name in wanted}

    def _compute(self, step: _Step, inputs: Sequence[Tensor | None]) -> Sequence[Tensor]:
        node = step.node
        name = node.name or node.output[0]
        made = sum(bool(each) for each in node.output)
        try:
            found = OPERATORS[node.op_type](
                Node(node.op_type, name, tuple(inputs), step.attributes, made, self.opset)
            )  # fmt: skip
        except CompressError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            sides = ", ".join("-" if value is None else str(tuple(value.shape)) for value in inputs)
            raise UsageError(
                f"{node.op_type} node '{name}' can't be run on {sides}: {' '.join(str(error).split())[:160]}",
                hint="give pictures of the size the network takes",
            ) from error
        return [found] if isinstance(found, Tensor) else found

    def _schedule(self, known: frozenset[str], wanted: tuple[str, ...]) -> list[_Step]:
        """Return the nodes between known and wanted tensors, in order, with what each of them is the last to read."""
        if (known, wanted) in self._schedules:
            return self._schedules[known, wanted]
        ready = known | self._integers.keys() | self._buffers_of.keys() | self._places.keys() | {""}
        asked = set(wanted) - known
        picked: list[int] = []
        nodes = self.model.graph.node
        for number in reversed(range(len(nodes))):
            if asked.intersection(nodes[number].output):
                picked.append(number)
                asked.difference_update(nodes[number].output)
                asked.update(name for name in nodes[number].input if name not in ready)
        if asked - ready:
            raise UsageError(f"can't compute {', '.join(wanted)} from {', '.join(sorted(known))}: "
                             f"{', '.join(sorted(asked - ready))} is missing")  # fmt: skip
        seen, steps = set(wanted), list[_Step]()
        for number in picked:
            node = nodes[number]
            spent = tuple(dict.fromkeys(name for name in (*node.input, *node.output) if name and name not in seen))
            seen.update(spent)
            steps.append(_Step(node, self._attributes[number], spent))
        self._schedules[known, wanted] = steps[::-1]
        return self._schedules[known, wanted]

    def write_back(self) -> onnx.ModelProto:
        """Return a copy of the graph that holds the weights as they are now."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        weights = self.named_weights()
        for tensor in model.graph.initializer:
            if tensor.name in weights and tensor.data_type == TensorProto.FLOAT:
                value = weights[tensor.name].detach().to("cpu", torch.float32).contiguous().numpy()
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return model


def _learned(graph: onnx.GraphProto, stored: Mapping[str, np.ndarray[Any, Any]]) -> set[str]:
    readers = Counter(name for node in graph.node for name in node.input)
    found = (
        node.input[place]
        for node in graph.node
        for place in LEARNED.get(node.op_type, ())
        if place < len(node.input) and node.input[place] in stored
    )
    # a vector with several readers is a constant that an exporter keeps once: the ones of every norm without weights
    return {name for name in found if stored[name].ndim >= 2 or readers[name] == 1}


def _refuse_unknown(graph: onnx.GraphProto) -> None:
    strange: dict[str, str] = {}
    for node in graph.node:
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        if kind not in OPERATORS:
            strange.setdefault(kind, node.name or node.output[0])
    if strange:
        told = ", ".join(f"{kind} (first at '{name}')" for kind, name in strange.items())
        raise UsageError(
            f"the graph can't be trained: no torch counterpart of {told}",
            hint="export the network without it, or quantize it without training (compress quantize)",
        )
