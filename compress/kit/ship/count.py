"""Count what an ONNX graph holds and does: parameters, and multiply-accumulates at a given image size."""

from __future__ import annotations

from math import prod

import onnx
from onnx import TensorProto, shape_inference

# operators that count, floats and integers: what they compute, and which input their weights are
_COUNTED = {
    "Conv": ("Conv", 1), "ConvInteger": ("Conv", 1), "QLinearConv": ("Conv", 3), "ConvTranspose": ("ConvTranspose", 1),
    "Gemm": ("MatMul", 1), "MatMul": ("MatMul", 1), "MatMulInteger": ("MatMul", 1), "QLinearMatMul": ("MatMul", 3),
}  # fmt: skip
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def count_onnx_parameters(model: onnx.ModelProto) -> int:
    """Count the values of all floating initialisers; of a float32 network, its weights and what it folded."""
    return sum(prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in _FLOATS)


def count_onnx_macs(model: onnx.ModelProto, size: tuple[int, int]) -> int:
    """Count multiply-accumulates of one image: convolutions, transposed convolutions and matrix products.

    Args:
        model: With one image input (N, C, H, W); stays as it is.
        size: Height and width, in pixels.

    Returns:
        0 where shapes can't be inferred for a node that counts.
    """
    return sum(node_macs(model, size).values())


def node_macs(model: onnx.ModelProto, size: tuple[int, int]) -> dict[str, int]:
    """Count multiply-accumulates of one image by node, for nodes that have any.

    Returns:
        By the node's name, or its first output where it has none; nothing at all where shapes can't be inferred
        for a node that counts.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    stored = {tensor.name: tuple(tensor.dims) for tensor in fixed.graph.initializer}
    image = next(value for value in fixed.graph.input if value.name not in stored)
    sides = image.type.tensor_type.shape.dim
    for position, length in ((0, 1), (2, size[0]), (3, size[1])):
        sides[position].dim_value = length
    # stale shapes of a free-sized graph would win over inferred ones
    del fixed.graph.value_info[:]
    inferred = shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = stored | {value.name: _shape(value) for value in (*inferred.value_info, *inferred.output, image)}
    counts = {node.name or node.output[0]: _node_macs(node, shapes) for node in fixed.graph.node}
    if None in counts.values():
        return {}
    return {name: count for name, count in counts.items() if count}


def _node_macs(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int | None:
    if node.op_type not in _COUNTED:
        return 0
    kind, position = _COUNTED[node.op_type]
    given, weight, made = (shapes.get(name, ()) for name in (node.input[0], node.input[position], node.output[0]))
    if kind == "Conv":
        return prod(made) * prod(weight[1:]) if _known(made, weight) else None
    if kind == "ConvTranspose":
        return prod(given) * prod(weight[1:]) if _known(given, weight) else None
    return prod(made) * given[-1] if _known(made, given) else None


def _known(*shapes: tuple[int, ...]) -> bool:
    return all(shape and all(side > 0 for side in shape) for shape in shapes)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
