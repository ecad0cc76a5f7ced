"""What a stored tensor is for, told by who reads it and where: weight, bias, norm, scale or mere constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from onnx import GraphProto, NodeProto, TensorProto

from compress.kit.ship.wires import Reader, constants_of, producers_of, readers_of

Role = Literal["weights", "biases", "norms", "quantization parameters", "constants"]

# what a network learned, as opposed to what storing it in fewer bits or computing sizes takes
LEARNED: tuple[Role, ...] = ("weights", "biases", "norms")

# inputs by operator, as the operator specifications of ONNX and of ONNX Runtime (com.microsoft) number them
_Inputs = Mapping[str, tuple[int, ...]]
_WEIGHTS: _Inputs = {
    "Conv": (1,), "ConvTranspose": (1,), "FusedConv": (1,), "DeformConv": (1,), "ConvInteger": (1,),
    "QLinearConv": (3,), "Gemm": (0, 1), "FusedGemm": (0, 1), "QGemm": (0, 3), "MatMul": (0, 1), "FusedMatMul": (0, 1),
    "MatMulInteger": (0, 1), "MatMulIntegerToFloat": (0, 1), "DynamicQuantizeMatMul": (1,), "QLinearMatMul": (0, 3),
    "MatMulNBits": (1,), "GatherBlockQuantized": (0,), "Gather": (0,), "PRelu": (1,), "LSTM": (1, 2), "GRU": (1, 2),
    "RNN": (1, 2), "Einsum": (0, 1),
}  # fmt: skip
_BIASES: _Inputs = {
    "Conv": (2,), "ConvTranspose": (2,), "FusedConv": (2,), "DeformConv": (3,), "QLinearConv": (8,), "Gemm": (2,),
    "FusedGemm": (2,), "QGemm": (6,), "MatMulIntegerToFloat": (6,), "DynamicQuantizeMatMul": (4,), "MatMulNBits": (5,),
    "LSTM": (3,), "GRU": (3,), "RNN": (3,),
}  # fmt: skip
_NORMS: _Inputs = {
    "BatchNormalization": (1, 2, 3, 4), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,), "GroupNormalization": (1, 2), "GroupNorm": (1, 2), "RMSNormalization": (1,),
}  # fmt: skip
_QUANTIZATION: _Inputs = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7), "ConvInteger": (2, 3), "MatMulInteger": (2, 3), "QGemm": (1, 2, 4, 5, 7, 8),
    "MatMulIntegerToFloat": (2, 3, 4, 5), "DynamicQuantizeMatMul": (2, 3), "MatMulNBits": (2, 3, 4),
    "GatherBlockQuantized": (2, 3),
}  # fmt: skip
_TABLES: tuple[tuple[Role, _Inputs], ...] = (
    ("weights", _WEIGHTS), ("biases", _BIASES), ("norms", _NORMS), ("quantization parameters", _QUANTIZATION),
)  # fmt: skip
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_CARRIERS = (
    "DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten",
)  # fmt: skip
_SHAPERS = ("Reshape", "Expand", "Slice", "Squeeze", "Unsqueeze", "Tile", "Pad", "Gather")


@dataclass(frozen=True)
class Purpose:
    """The node a stored tensor is there for, None where nobody reads it, and what it is to that node."""

    reader: NodeProto | None
    role: Role


@dataclass(frozen=True)
class _Way:
    """How a tensor gets to the node it is for: where it arrives, its first hop, and whether it leads all the way."""

    end: Reader
    first: Reader
    leading: bool  # it is the first input of every node in between


def purposes(graph: GraphProto, stored: Mapping[str, TensorProto]) -> dict[str, Purpose]:
    """Tell what each stored tensor of a graph is for.

    Nodes that can be computed when the graph is loaded are passed over: casts, dequantization, changes of shape,
    products with a scale. Of the tensors that make one input of a node together, the one with the most values is what
    the node reads; the rest are the scales and shapes it takes to get there.
    """
    readers, producers = readers_of(graph), producers_of(graph)
    constants = constants_of(graph, stored)
    ways = {name: way for name in stored if (way := _way(name, readers, constants)) is not None}
    together: dict[tuple[int, int], list[str]] = {}
    for name, way in ways.items():
        together.setdefault((id(way.end.node), way.end.position), []).append(name)
    main = {max(names, key=lambda name: (prod(stored[name].dims), ways[name].leading)) for names in together.values()}
    return {
        name: _purpose(ways.get(name), name in main, tensor, producers) for name, tensor in stored.items()
    }  # fmt: skip


def _way(name: str, readers: Mapping[str, Sequence[Reader]], constants: frozenset[str]) -> _Way | None:
    first: Reader | None = None
    leading, seen = True, set[str]()
    while True:
        found = readers.get(name)
        if not found or name in seen:
            # the end of a chain that nobody reads
            return None if first is None else _Way(first, first, leading)
        seen.add(name)
        reader = found[0]
        first = first or reader
        onward = next(iter(reader.node.output), "")
        carried = reader.node.op_type in _CARRIERS and reader.position == 0
        if not onward or not (carried or onward in constants):
            return _Way(reader, first, leading)
        leading = leading and reader.position == 0
        name = onward


def _purpose(way: _Way | None, main: bool, tensor: TensorProto, producers: Mapping[str, NodeProto]) -> Purpose:
    if way is None:
        return Purpose(None, "constants")
    role = _role(way.end, tensor, producers)
    if main or role not in LEARNED:
        return Purpose(way.end.node, role)
    shapes = way.first.node.op_type in _SHAPERS and way.first.position > 0
    return Purpose(way.end.node, "constants" if shapes else "quantization parameters")


def _role(end: Reader, tensor: TensorProto, producers: Mapping[str, NodeProto]) -> Role:
    operator = end.node.op_type
    for role, table in _TABLES:
        # a table that is gathered from is a weight only where it is one: sizes are gathered too
        if end.position in table.get(operator, ()) and (operator != "Gather" or tensor.data_type in _FLOATS):
            return role
    if operator.startswith("QLinear") and len(tensor.dims) < 2:
        return "quantization parameters"
    return _beside(end.node, tensor, producers)


def _beside(reader: NodeProto, tensor: TensorProto, producers: Mapping[str, NodeProto]) -> Role:
    """What a sum or a product with something computed adds to it: a bias, or the scale of dynamic quantization."""
    if tensor.data_type not in _FLOATS:
        return "constants"
    makers = [producers[name].op_type for name in reader.input if name in producers]
    if reader.op_type == "Mul" and "DynamicQuantizeLinear" in makers:
        return "quantization parameters"
    sides = [side for side in tensor.dims if side != 1]
    return "biases" if reader.op_type == "Add" and len(sides) == 1 and makers else "constants"
