"""Surgery on quantized ONNX graphs: weights to int8, layers kept in float, names made short."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compress.kit.ship.runtime import float_initializers


def quantize_weight(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round weights to int8 symmetrically per channel: scale = max |w| / 127 over every axis but ``axis``.

    Returns the integers, shaped as the weights, and the scales, shaped to multiply them.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    largest = np.abs(weight).max(others, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.round(weight / scale), -127, 127).astype(np.int8), scale


def store_transposed_weights(model: onnx.ModelProto, exclude: Sequence[str]) -> None:
    """Put int8 weights and a DequantizeLinear before every ConvTranspose of one group."""
    weights = float_initializers(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "ConvTranspose" and node.name not in exclude and groups(node) == 1:
            weight = weights.get(node.input[1])
            if weight is not None:
                integers, scale = quantize_weight(weight, axis=1)  # (I, O, kh, kw)
                name = f"{node.name}_weight"
                model.graph.initializer.append(numpy_helper.from_array(integers, f"{name}_int8"))
                model.graph.initializer.append(numpy_helper.from_array(scale.ravel(), f"{name}_scale"))
                inputs = [f"{name}_int8", f"{name}_scale"]
                nodes.append(helper.make_node("DequantizeLinear", inputs, [name], axis=1))
                node.input[1] = name
        nodes.append(node)
    replace_nodes(model, nodes)


def keep_in_float(model: onnx.ModelProto) -> None:
    """Give every convolution that is left in float a DequantizeLinear of its own, with one scale per channel.

    ONNX Runtime's WeightBiasQuantization would otherwise round its weights at load, per tensor, because it sits
    between DequantizeLinear and QuantizeLinear: on a published U²-NetP one such layer turned the mask to noise.
    It passes over inputs whose scale is no scalar; the values are the same.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.op_type in ("Conv", "ConvTranspose") else None
        weight = stored.get(node.input[1]) if source is not None else None
        if source is not None and source.op_type == "DequantizeLinear" and weight is not None:
            channels = weight.dims[0] if node.op_type == "ConvTranspose" else weight.dims[1] * groups(node)
            inputs = [source.input[0]]
            for name in source.input[1:]:
                value = np.full(channels, numpy_helper.to_array(stored[name]))
                inputs.append(f"{node.name}_{name}")
                model.graph.initializer.append(numpy_helper.from_array(value, inputs[-1]))
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{node.name}_input"], axis=1))
            node.input[0] = f"{node.name}_input"
        nodes.append(node)
    replace_nodes(model, nodes)


def replace_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make ``nodes``, in their order, the nodes of the graph."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def groups(node: onnx.NodeProto) -> int:
    """Return the number of groups of a convolution."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def drop_unused(model: onnx.ModelProto) -> None:
    """Drop initialisers that no node reads."""
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def shorten(model: onnx.ModelProto) -> None:
    """Drop inferred shapes and give inner tensors short names: 7 % of a U²-NetP's int8 file."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    edge = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    short: dict[str, str] = {}

    def rename(name: str) -> str:
        return name if name in edge else short.setdefault(name, f"t{len(short):x}")

    for tensor in model.graph.initializer:
        tensor.name = rename(tensor.name)
    for node in model.graph.node:
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
