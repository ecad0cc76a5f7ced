"""Where the channels lie: to the order ONNX means and back, side by side, and axes under either order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.table import Value

_PLACES = (0, 3, 1, 2)  # where axis N, C, H, W of ONNX lies in a map held channels last
_BACK = (0, 2, 3, 1)  # the axes of ONNX in the order a map channels last holds them


def positive(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return axis + rank if axis < 0 else axis


def place(value: Value, axis: int) -> int:
    """Return where an axis of ONNX lies in the tensor as it is held."""
    axis = positive(axis, value.rank)
    return _PLACES[axis] if value.last else axis


def transposed(data: Any, order: Sequence[int]) -> Any:
    """Reorder the axes of an array or a tensor."""
    return data.transpose(order) if isinstance(data, np.ndarray) else tf.transpose(data, order)


def canonical(value: Value) -> Any:
    """Return the tensor in the order ONNX means."""
    return transposed(value.data, _PLACES) if value.last else value.data


def image_map(value: Value) -> Any:
    """Return a tensor of four sides channels last."""
    assert value.rank == 4, value.rank
    return value.data if value.last else transposed(value.data, _BACK)


def side_by_side(found: Sequence[Value]) -> tuple[list[Any], bool]:
    """Return tensors that broadcast against each other as ONNX means, and whether they are channels last."""
    if not any(value.last for value in found) or any(value.rank > 4 for value in found):
        return [canonical(value) for value in found], False
    return [_beside_map(value) for value in found], True


def _beside_map(value: Value) -> Any:
    if value.last or value.rank == 0:
        return value.data
    missing = 4 - value.rank
    if value.known:
        return value.data.reshape((1,) * missing + value.data.shape).transpose(_BACK)
    data = value.data
    for _ in range(missing):
        data = tf.expand_dims(data, 0)
    return image_map(Value(data))


def keeps_order(value: Value, dropped: Sequence[int]) -> bool:
    """Whether the axes left in the tensor as it is held are in the order of ONNX once some (of ONNX) are dropped."""
    if not value.last:
        return True
    left = [axis for axis in _BACK if axis not in dropped]
    return left == sorted(left)
