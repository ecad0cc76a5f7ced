"""Sizes of tensors one by one: a whole number where a side is known, a scalar tensor where it depends on the image.

Kept apart so long, they tell TensorFlow every side that is known, and leave the graph short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.layout import place
from compress.kit.lower.table import Value

Size = Any  # int, or a scalar int32 tensor
_MOST = 16  # a longer vector is data, not a shape


def sides(value: Value) -> list[Size]:
    """Every side of a tensor, in the order of ONNX."""
    return [side(value, axis) for axis in range(value.rank)]


def side(value: Value, axis: int) -> Size:
    """One side of a tensor, its axis counted as in ONNX."""
    where = place(value, axis)
    known = value.data.shape[where]
    return tf.shape(value.data)[where] if known is None else int(known)


def elements(value: Value) -> list[Size] | None:
    """The numbers of a scalar or short vector of whole numbers; None if it is something else."""
    data = value.data
    if value.known:
        whole = data.dtype.kind in "iu" and data.ndim <= 1 and data.size <= _MOST
        return [int(number) for number in data.ravel()] if whole else None
    if data.dtype != tf.int32 or value.rank > 1:
        return None
    if value.rank == 0:
        return [_settled(data)]
    if data.op.type == "Pack":
        return [_settled(part) for part in data.op.inputs]
    length = data.shape[0]
    return None if length is None or length > _MOST else [data[index] for index in range(length)]


def _settled(scalar: Any) -> Size:
    known = tf.get_static_value(scalar)
    return scalar if known is None else int(known)


def vector(numbers: Sequence[Size]) -> Any:
    """Put sizes back into one vector: an array if all are known, else a tensor."""
    if all(isinstance(number, int) for number in numbers):
        return np.asarray(numbers, np.int32)
    return tf.stack([tf.cast(number, tf.int32) for number in numbers])


def scalar(number: Size) -> Any:
    """Make a size a tensor or array of no side."""
    return np.asarray(number, np.int32) if isinstance(number, int) else number


def product(numbers: Sequence[Size]) -> Size:
    """Multiply sizes."""
    total: Size = 1
    for number in numbers:
        total = total * number
    return total


def divided(data: Any, by: Any) -> Any | None:
    """Divide sizes by a positive constant, rounding down, with what the GPU backends of TF.js compute on the CPU.

    They have no division of whole numbers there; a size that goes to the GPU and back stalls the page at every resize.
    Exact up to 2 million, far beyond the sides of an image. None where the operands are something else.
    """
    if isinstance(data, np.ndarray) or not isinstance(by, np.ndarray) or by.size != 1 or by.min() <= 0:
        return None
    if data.dtype != tf.int32 or data.shape.rank is None or data.shape.num_elements() not in range(1, _MOST + 1):
        return None
    middle = (tf.cast(data, tf.float32) + 0.5) * np.float32(1 / float(by.ravel()[0]))
    return tf.cast(tf.floor(middle), tf.int32)


def least(data: Any) -> float:
    """Return what sizes are at least by the way they are made; minus infinity where that can't be told."""
    known = data if isinstance(data, np.ndarray) else tf.get_static_value(data)
    if known is not None:
        return float(np.min(known))
    kind, bounds = data.op.type, [least(part) for part in data.op.inputs if part.dtype in (tf.int32, tf.float32)]
    if kind == "Shape":
        return 1.0  # an image has no empty side
    if kind in ("StridedSlice", "Cast", "Reshape", "ExpandDims", "Squeeze", "Floor"):
        return math.floor(bounds[0]) if kind == "Floor" and math.isfinite(bounds[0]) else bounds[0]
    if kind == "AddV2":
        return sum(bounds)
    if kind == "Mul" and min(bounds) >= 0:
        return math.prod(bounds)
    return {"Maximum": max, "Minimum": min, "Pack": min}.get(kind, lambda _: -math.inf)(bounds)
