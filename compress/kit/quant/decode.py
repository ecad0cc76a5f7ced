"""The nodes that turn stored weights into the ones a layer reads, such that runtimes fold them when they load."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.kit.quant.weights import Blocks, Channels, Halves

_KINDS = {"float16w": TensorProto.FLOAT16, "bfloat16w": TensorProto.BFLOAT16}
# ONNX Runtime takes QGemm only where DequantizeLinear of weights and bias names zero points, though they are all zero;
# convolutions and MatMul don't ask for them
SPELLED = ("Gemm",)
Written = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def decode_channels(weights: Channels, name: str, *, integer: bool, spelled: bool = False) -> Written:
    """Nodes and constants that make tensor ``name`` from int8 weights with a scale per channel.

    integer: whether an integer kernel reads them: it wants a DequantizeLinear right before it. A layer that computes
    in float gets Cast and Mul instead: ONNX Runtime folds those at load, but would run a DequantizeLinear every time.
    spelled: whether that DequantizeLinear names its zero points, see ``SPELLED``.
    """
    constants = [numpy_helper.from_array(weights.integers, f"{name}/q")]
    return _scaled(f"{name}/q", weights.scales, weights.axis, weights.integers.ndim, name, constants, integer, spelled)


def decode_blocks(weights: Blocks, name: str, *, integer: bool, spelled: bool = False) -> Written:
    """Nodes and constants that make tensor ``name`` from weights in 4 bits; runtimes fold all but the last at load.

    integer, spelled: as ``decode_channels``.
    """
    constants = [
        _packed(f"{name}/fours", TensorProto.INT4, weights.fours),
        _packed(f"{name}/multipliers", TensorProto.UINT4, weights.multipliers),
        numpy_helper.from_array(np.array(weights.shape, np.int64), f"{name}/shape"),
    ]
    nodes = [
        helper.make_node("Cast", [f"{name}/fours"], [f"{name}/wide"], to=TensorProto.INT32),
        helper.make_node("Cast", [f"{name}/multipliers"], [f"{name}/factors"], to=TensorProto.INT32),
        helper.make_node("Mul", [f"{name}/wide", f"{name}/factors"], [f"{name}/products"]),
        helper.make_node("Reshape", [f"{name}/products", f"{name}/shape"], [f"{name}/first"]),
    ]
    last = f"{name}/first"
    if weights.axis:
        order = [*range(1, weights.axis + 1), 0, *range(weights.axis + 1, len(weights.shape))]
        nodes.append(helper.make_node("Transpose", [last], [f"{name}/turned"], perm=order))
        last = f"{name}/turned"
    nodes.append(helper.make_node("Cast", [last], [f"{name}/q"], to=TensorProto.INT8))
    more, further = _scaled(f"{name}/q", weights.scales, weights.axis, len(weights.shape), name, [], integer, spelled)
    return [*nodes, *more], [*constants, *further]


def decode_halves(weights: Halves, name: str) -> Written:
    """A Cast and the constant in 16 bits that it reads."""
    kind = _KINDS[weights.form]
    stored = helper.make_tensor(f"{name}/half", kind, weights.full.shape, weights.stored.tobytes(), raw=True)
    return [helper.make_node("Cast", [stored.name], [name], to=TensorProto.FLOAT)], [stored]


def _scaled(
    source: str, scales: Any, axis: int, rank: int, name: str, constants: list[onnx.TensorProto], integer: bool,
    spelled: bool,
) -> Written:  # fmt: skip
    if integer:
        constants.append(numpy_helper.from_array(scales, f"{name}/scale"))
        inputs = [source, f"{name}/scale"]
        if spelled:
            constants.append(numpy_helper.from_array(np.zeros(scales.shape, np.int8), f"{name}/zero"))
            inputs.append(f"{name}/zero")
        return [helper.make_node("DequantizeLinear", inputs, [name], axis=axis)], constants
    shape = [1] * rank
    shape[axis] = -1
    constants.append(numpy_helper.from_array(scales.reshape(shape), f"{name}/scale"))
    return [
        helper.make_node("Cast", [source], [f"{name}/values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}/values", f"{name}/scale"], [name]),
    ], constants


def _packed(name: str, kind: int, values: NDArray[Any]) -> onnx.TensorProto:
    """Two values a byte, the first in the lower half, as ONNX packs them."""
    flat = (values.ravel().astype(np.int16) & 15).astype(np.uint8)
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    packed = flat[::2] | flat[1::2] << 4
    return helper.make_tensor(name, kind, values.shape, packed.tobytes(), raw=True)
