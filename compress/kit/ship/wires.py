"""Who makes and who reads each tensor of an ONNX graph, and which tensors don't depend on the image."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from math import prod

import onnx
from onnx import GraphProto, NodeProto, TensorProto

from compress.kit.ship.external import sub_graphs

INNER = -1  # position of what a node's inner graph reads
_SMALL = 64  # values of a tensor that may be a shape


@dataclass(frozen=True)
class Reader:
    """A node that reads a tensor, and at which of its inputs."""

    node: NodeProto
    position: int


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for inner in sub_graphs(node):
            yield from all_nodes(inner)


def readers_of(graph: GraphProto) -> dict[str, list[Reader]]:
    """Return who reads each tensor of a graph; what an inner graph reads, its node reads at position ``INNER``."""
    readers: dict[str, list[Reader]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append(Reader(node, position))
        for name in _read_inside(node):
            readers.setdefault(name, []).append(Reader(node, INNER))
    readers.pop("", None)
    return readers


def producers_of(graph: GraphProto) -> dict[str, NodeProto]:
    """Return which node makes each tensor of a graph."""
    return {name: node for node in graph.node for name in node.output if name}


def constants_of(graph: GraphProto, stored: Iterable[str], sized: Container[str] = ()) -> frozenset[str]:
    """Return the tensors that don't depend on an input: those stored, and all that is computed from them alone.

    Random numbers and nodes with graphs inside count as depending; nodes are looked at in their order in the file.

    sized: tensors whose sides are all fixed, so that their shape is a constant too.
    """
    known = {"", *stored} - {value.name for value in graph.input}
    # before version 4 of the format every initialiser was an input too
    known |= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Shape", "Size") and node.input and node.input[0] in sized:
            known.update(node.output)
        fixed = not sub_graphs(node) and not node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
        if fixed and (node.input or node.op_type == "Constant") and known.issuperset(node.input):
            known.update(node.output)
    return frozenset(known - {""})


def node_label(node: NodeProto) -> str:
    """Return a node's name, or what it makes where it has none."""
    return str(node.name or next(iter(node.output), "") or node.op_type)


def held_tensors(node: NodeProto) -> list[TensorProto]:
    """Return the tensors in a node's attributes, those of inner graphs left out."""
    return [held for entry in node.attribute for held in (*((entry.t,) if entry.HasField("t") else ()), *entry.tensors)]


def stored_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the tensors a graph stores by the name it reads them by: initialisers and the values of Constant nodes."""
    values = {
        node.output[0]: held
        for node in graph.node
        if node.op_type == "Constant" and node.output
        for held in held_tensors(node)
    }
    return values | {tensor.name: tensor for tensor in graph.initializer}


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without the numbers of its large tensors: all that shape inference needs, in no time."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = model.graph
    bare.graph.name = graph.name
    bare.graph.node.extend(graph.node)
    bare.graph.input.extend(graph.input)
    bare.graph.output.extend(graph.output)
    bare.graph.value_info.extend(graph.value_info)
    bare.graph.initializer.extend(
        tensor
        if prod(tensor.dims) <= _SMALL
        else TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        for tensor in graph.initializer
    )
    return bare


def _read_inside(node: NodeProto) -> set[str]:
    inner = sub_graphs(node)
    read = {name for graph in inner for part in all_nodes(graph) for name in part.input}
    return read | {value.name for graph in inner for value in graph.output}
