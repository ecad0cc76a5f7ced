"""Operators that look at one place of each input: arithmetic, comparisons, choices, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from compress.kit.lower.layout import side_by_side
from compress.kit.lower.sizes import divided, least
from compress.kit.lower.table import OPERATORS, Node, Value, operator, values


def divide(a: Any, b: Any) -> Any:
    """Divide as ONNX does: whole numbers are cut towards zero."""
    if not is_whole(a):
        return tf.divide(a, b)
    quotient = divided(a, b)
    if quotient is not None and least(a) >= 0:
        return quotient
    # TF.js knows division of whole numbers by flooring only
    return tf.sign(a) * tf.sign(b) * tf.math.floordiv(tf.abs(a), tf.abs(b))


def is_whole(data: Any) -> bool:
    """Whether a tensor or array holds whole numbers."""
    return bool(tf.as_dtype(data.dtype).is_integer)


def _power(a: Any, b: Any) -> Any:
    if isinstance(b, np.ndarray) and b.size == 1:
        known = {2.0: tf.square, 0.5: tf.sqrt, 1.0: tf.identity}.get(float(b.ravel()[0]))
        if known is not None and not is_whole(a):
            return known(a)
    return tf.pow(a, tf.cast(b, a.dtype))


def _exclusive_or(a: Any, b: Any) -> Any:
    # WebGPU has no LogicalXor
    return tf.logical_and(tf.logical_or(a, b), tf.logical_not(tf.logical_and(a, b)))


_PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": tf.add,
    "Sub": tf.subtract,
    "Mul": tf.multiply,
    "Div": divide,
    "Pow": _power,
    "Equal": tf.equal,
    "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal,
    "Less": tf.less,
    "LessOrEqual": tf.less_equal,
    "And": tf.logical_and,
    "Or": tf.logical_or,
    "Xor": _exclusive_or,
}
_SINGLES: dict[str, Callable[[Any], Any]] = {
    "Abs": tf.abs,
    "Neg": tf.negative,
    "Sign": tf.sign,
    "Exp": tf.exp,
    "Log": tf.math.log,
    "Sqrt": tf.sqrt,
    "Reciprocal": tf.math.reciprocal,
    "Floor": tf.floor,
    "Ceil": tf.math.ceil,
    "Round": tf.round,
    "Sin": tf.sin,
    "Cos": tf.cos,
    "Tan": tf.tan,
    "Asin": tf.asin,
    "Acos": tf.acos,
    "Atan": tf.atan,
    "Sinh": tf.sinh,
    "Cosh": tf.cosh,
    "Asinh": tf.asinh,
    "Acosh": tf.acosh,
    "Atanh": tf.atanh,
    "Erf": tf.math.erf,
    "Not": tf.logical_not,
    "IsNaN": tf.math.is_nan,
    "Identity": lambda data: data,
}


def single(node: Node, compute: Callable[[Any], Any]) -> Value:
    """Lower an operator of one input that keeps the layout."""
    value = node.value(0)
    return Value(compute(value.data), value.last)


def _single(compute: Callable[[Any], Any]) -> Callable[[Node], Value]:
    def lowered(node: Node) -> Value:
        return single(node, compute)

    return lowered


def _pair(compute: Callable[[Any, Any], Any]) -> Callable[[Node], Value]:
    def lowered(node: Node) -> Value:
        (a, b), last = side_by_side([node.value(0), node.value(1)])
        return Value(compute(a, b), last)

    return lowered


OPERATORS.update({kind: _pair(compute) for kind, compute in _PAIRS.items()})
OPERATORS.update({kind: _single(compute) for kind, compute in _SINGLES.items()})


@operator("Mod")
def modulo(node: Node) -> Value:
    """Lower Mod: the sign of the divisor, or of the dividend with ``fmod``."""
    (a, b), last = side_by_side([node.value(0), node.value(1)])
    if node.get("fmod", 0):
        return Value(a - b * tf.sign(a) * tf.sign(b) * tf.floor(tf.abs(a / b)), last)
    quotient = divided(a, b)
    return Value(tf.math.floormod(a, b) if quotient is None else a - b * quotient, last)


@operator("Max", "Min", "Sum", "Mean")
def several(node: Node) -> Value:
    """Lower the operators that join any number of inputs."""
    tensors, last = side_by_side(list(values(node)))
    join = {"Max": tf.maximum, "Min": tf.minimum}.get(node.kind, tf.add)
    joined = reduce(join, tensors)
    return Value(joined / float(len(tensors)) if node.kind == "Mean" else joined, last)


@operator("Where")
def where(node: Node) -> Value:
    """Lower Where."""
    tensors, last = side_by_side([node.value(index) for index in range(3)])
    return Value(tf.where(*tensors), last)


@operator("Clip")
def clip(node: Node) -> Value:
    """Lower Clip; either bound may be absent, an attribute or an input."""
    value = node.value(0)
    low, high = (_bound(node, name, index) for name, index in (("min", 1), ("max", 2)))
    if (low, high) == (0.0, 6.0):
        return Value(tf.nn.relu6(value.data), value.last)
    data = value.data
    if low is not None:
        data = tf.nn.relu(data) if isinstance(low, float) and low == 0.0 else tf.maximum(data, low)
    return Value(data if high is None else tf.minimum(data, high), value.last)


def _bound(node: Node, name: str, index: int) -> Any:
    if node.has(index):
        bound = node.value(index)
        kept = bound.known and bound.data.dtype.kind == "f"
        return float(bound.data.ravel()[0]) if kept else tf.reshape(bound.data, [])
    return float(node.attributes[name]) if name in node.attributes else None


@operator("Cast")
def cast(node: Node) -> Value:
    """Lower Cast to what a browser has: float32, int32 and booleans."""
    return single(node, lambda data: tf.cast(data, kept_type(node.get("to", 1))))


@operator("CastLike")
def cast_like(node: Node) -> Value:
    """Lower CastLike."""
    return single(node, lambda data: tf.cast(data, node.value(1).data.dtype))


def kept_type(kind: int) -> Any:
    """Return the TensorFlow type that stands for an ONNX element type."""
    if kind == onnx.TensorProto.BOOL:
        return tf.bool
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    return tf.float32 if kind in floats else tf.int32


@operator("Dropout")
def dropout(node: Node) -> Value:
    """Lower Dropout, which does nothing outside training."""
    if node.outputs > 1:
        node.refuse("gives its mask, which exists in training only")
    return node.value(0)
