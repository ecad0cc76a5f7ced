"""Nodes and tensors of an ONNX graph that could go without changing what it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper, shape_inference

from compress.kit.ship.dtypes import dtype_bits, dtype_name
from compress.kit.ship.external import sub_graphs
from compress.kit.ship.wires import (
    constants_of,
    node_label,
    producers_of,
    readers_of,
    skeleton,
    stored_tensors,
)


@dataclass(frozen=True)
class Finding:
    """Something a graph could do without: ``kind`` in words, the node or tensor, and the bytes it takes in the file."""

    kind: str
    name: str
    bytes: int


def redundancies(model: onnx.ModelProto) -> list[Finding]:
    """List what the outermost graph could do without, in the order of the file; a node counts under one kind only.

    Weights stored in few bits and widened by nodes of the graph are not redundant: computing those nodes beforehand
    would make the file larger.
    """
    graph = _Graph(model)
    return [*graph.nodes(), *_tensors(model, graph.live)]


class _Graph:
    """A graph with what has to be looked up of it again and again."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.graph = graph
        self.stored = stored_tensors(graph)
        self.producers = producers_of(graph)
        self.kinds, self.shapes = _types(model)
        sized = {name for name, shape in self.shapes.items() if all(side > 0 for side in shape)}
        self.constants = constants_of(graph, self.stored, sized)
        self.live = self._live()
        self.narrow = self._narrow()

    def nodes(self) -> Iterator[Finding]:
        """What could go, of nodes."""
        for node in self.graph.node:
            kind = self._kind(node)
            if kind:
                yield Finding(kind, node_label(node), node.ByteSize())

    def _live(self) -> set[str]:
        """Names of the tensors that reach an output."""
        waiting, live = [value.name for value in self.graph.output], set[str]()
        while waiting:
            name = waiting.pop()
            if name in live:
                continue
            live.add(name)
            node = self.producers.get(name)
            if node is not None:
                waiting.extend(node.input)
                waiting.extend(name for inner in sub_graphs(node) for name in readers_of(inner))
                waiting.extend(value.name for inner in sub_graphs(node) for value in inner.output)
        return live

    def _narrow(self) -> set[str]:
        """Names of the constants that are made from weights of fewer than 32 bits, or that were quantized."""
        narrow = {
            name
            for name, tensor in self.stored.items()
            if tensor.dims and 0 < dtype_bits(dtype_name(tensor.data_type)) < 32
        }
        for node in self.graph.node:
            grows = node.op_type == "DequantizeLinear" or narrow.intersection(node.input)
            if grows and self.constants.issuperset(node.output):
                narrow.update(node.output)
        return narrow

    def _kind(self, node: NodeProto) -> str:
        if not self.live.intersection(node.output):
            return "dead node: its result reaches no output"
        rule = _RULES.get(node.op_type)
        found = rule(self, node) if rule is not None else ""
        return found or self._foldable(node)

    def _foldable(self, node: NodeProto) -> str:
        fixed = node.op_type != "Constant" and self.constants.issuperset(node.output)
        return "" if not fixed or self.narrow.intersection(node.output) else "constant: could be computed beforehand"

    def _before(self, node: NodeProto, operator: str) -> NodeProto | None:
        """The node that makes the first input, if it is of that type."""
        source = self.producers.get(node.input[0]) if node.input else None
        return source if source is not None and source.op_type == operator else None

    def _numbers(self, name: str) -> NDArray[np.generic] | None:
        tensor = self.stored.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def identity(self, node: NodeProto) -> str:  # noqa: ARG002
        """An Identity."""
        return "Identity: does nothing"

    def cast(self, node: NodeProto) -> str:
        """A Cast to the type its input has."""
        target = next((entry.i for entry in node.attribute if entry.name == "to"), 0)
        same = bool(node.input) and self.kinds.get(node.input[0]) == target
        return "Cast to the type it has" if same else ""

    def transpose(self, node: NodeProto) -> str:
        """A Transpose after another that it undoes, or one that moves nothing."""
        order = _order(node)
        if order == sorted(order) and order:
            return "Transpose that moves nothing"
        before = self._before(node, "Transpose")
        first = _order(before) if before is not None else []
        undone = len(first) == len(order) > 0 and [first[axis] for axis in order] == sorted(order)
        # without their order both turn all axes around
        both = before is not None and not first and not order
        return "Transpose after the one it undoes" if undone or both else ""

    def reshape(self, node: NodeProto) -> str:
        """A Reshape whose input was reshaped just before."""
        return "Reshape of what was reshaped" if self._before(node, "Reshape") is not None else ""

    def relu(self, node: NodeProto) -> str:
        """A ReLU of a ReLU."""
        return "Relu of a Relu" if self._before(node, "Relu") is not None else ""

    def concat(self, node: NodeProto) -> str:
        """A Concat of one."""
        return "Concat of one tensor" if len(node.input) == 1 else ""

    def dropout(self, node: NodeProto) -> str:
        """A Dropout that isn't training."""
        mode = node.input[2] if len(node.input) > 2 else ""
        numbers = self._numbers(mode) if mode else None
        off = not mode or (numbers is not None and not numbers.any())
        return "Dropout: does nothing outside training" if off else ""

    def quantize(self, node: NodeProto) -> str:
        """A QuantizeLinear that rounds to the integers its input just came from."""
        before = self._before(node, "DequantizeLinear")
        if before is None or len(before.input) != len(node.input):
            return ""
        same = all(self._equal(a, b) for a, b in zip(before.input[1:], node.input[1:], strict=True))
        return "DequantizeLinear and QuantizeLinear of equal parameters" if same else ""

    def resize(self, node: NodeProto) -> str:
        """A Resize to the size its input has."""
        scales = self._numbers(node.input[2 if len(node.input) > 2 else -1]) if len(node.input) > 1 else None
        ones = scales is not None and scales.size > 0 and scales.dtype.kind == "f" and bool((scales == 1).all())
        given, made = (self.shapes.get(name) for name in (node.input[0], node.output[0]))
        equal = given is not None and given == made and all(given)
        return "Resize to the size it has" if ones or equal else ""

    def _equal(self, first: str, second: str) -> bool:
        if first == second:
            return True
        a, b = self._numbers(first), self._numbers(second)
        return a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b)


_RULES = {
    "Identity": _Graph.identity,
    "Cast": _Graph.cast,
    "Transpose": _Graph.transpose,
    "Reshape": _Graph.reshape,
    "Relu": _Graph.relu,
    "Concat": _Graph.concat,
    "Dropout": _Graph.dropout,
    "QuantizeLinear": _Graph.quantize,
    "Resize": _Graph.resize,
    "Upsample": _Graph.resize,
}


def _order(node: NodeProto) -> list[int]:
    return next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), [])


def _types(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Element type and shape of each tensor, as far as they can be inferred; a free side counts 0."""
    try:
        graph = shape_inference.infer_shapes(skeleton(model)).graph
    # a graph that contradicts itself makes shape inference fail in any way it likes
    except Exception:
        graph = model.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    shapes = {
        value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}, shapes


def _tensors(model: onnx.ModelProto, live: set[str]) -> Iterator[Finding]:
    """Initialisers that nobody reads, and those whose bytes another one has too."""
    first: dict[tuple[object, ...], str] = {}
    for tensor in model.graph.initializer:
        size = tensor.ByteSize()
        mark = (tensor.data_type, tuple(tensor.dims), _digest(tensor))
        if tensor.name not in live:
            yield Finding("unused initialiser", tensor.name, size)
        elif mark in first:
            yield Finding("initialiser that repeats another", tensor.name, size)
        first.setdefault(mark, tensor.name)


def _digest(tensor: TensorProto) -> bytes:
    """Hash of a tensor's numbers."""
    if tensor.HasField("raw_data"):
        return hashlib.sha256(tensor.raw_data).digest()
    bare = TensorProto()
    bare.CopyFrom(tensor)
    for field in ("name", "doc_string", "metadata_props"):
        bare.ClearField(field)
    return hashlib.sha256(bare.SerializeToString()).digest()
