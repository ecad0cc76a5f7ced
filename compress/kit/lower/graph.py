"""An ONNX graph made ready for lowering: functions inlined, what can't be lowered named all at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from compress.core.errors import ArtifactError
from compress.kit.lower.table import Constant

INTEGER = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


def read(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and inline its functions.

    Raises:
        ArtifactError: If it is damaged.
    """
    from compress.kit.ship.runtime import read_onnx

    model = read_onnx(path)
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a graph multiplies integers, or stores them with their scales."""
    return any(node.op_type in INTEGER for node in model.graph.node)


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators a graph is written in."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def refuse_unknown(model: onnx.ModelProto, known: Iterable[str]) -> None:
    """Check that every operator is in the table.

    Raises:
        ArtifactError: Naming each operator that is not, with its first node.
    """
    table, strange = set(known), dict[str, str]()
    for number, node in enumerate(model.graph.node):
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        if kind not in table:
            strange.setdefault(kind, node_name(node, number))
    if strange:
        told = ", ".join(f"{kind} (first at '{name}')" for kind, name in strange.items())
        raise ArtifactError(
            f"no lowering to TensorFlow for {told}",
            hint="export the network without it, run it with ONNX Runtime instead (benchmarks run --runtime ort-web), "
            "or add a function for it in compress/kit/lower",
        )


def node_name(node: onnx.NodeProto, number: int) -> str:
    """Return what a node is called: by its name, else by what it makes."""
    return node.name or (node.output[0] if node.output else f"{node.op_type} {number}")


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Read the attributes of a node: text as str, tensors as arrays."""
    return {each.name: _plain(helper.get_attribute_value(each)) for each in node.attribute}


def _plain(found: Any) -> Any:
    if isinstance(found, bytes):
        return found.decode()
    if isinstance(found, onnx.TensorProto):
        return numbers(found)
    return found


def numbers(tensor: onnx.TensorProto) -> Constant:
    """Read a stored tensor in a type a browser has: float32, int32 or bool."""
    found = numpy_helper.to_array(tensor)
    if found.dtype == np.bool_:
        return np.asarray(found)
    if found.dtype.kind in "iu":
        # "to the end" is written as the largest int64
        return np.asarray(np.clip(found, -(2**31) + 1, 2**31 - 1), np.int32)
    return np.asarray(found, np.float32)


def image_sides(model: onnx.ModelProto) -> tuple[str, list[int | None]]:
    """Return the name and sides of the one input that is not stored, None where a side is free.

    Raises:
        ArtifactError: If there is no such input of four sides, or its channels are free.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    sides = [[side.dim_value or None for side in value.type.tensor_type.shape.dim] for value in inputs]
    if len(inputs) != 1 or len(sides[0]) != 4 or sides[0][1] is None:
        found = ", ".join(f"{value.name} {side}" for value, side in zip(inputs, sides, strict=True)) or "none"
        raise ArtifactError(f"the graph wants inputs {found}; an image network takes one image (N, C, H, W)")
    return inputs[0].name, sides[0]
