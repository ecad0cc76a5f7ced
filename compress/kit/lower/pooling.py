"""Pooling: windows and whole maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.convolutions import Pads, pads_of, window
from compress.kit.lower.layout import image_map
from compress.kit.lower.sizes import Size, side
from compress.kit.lower.table import Node, Value, operator

_LOWEST = float(np.finfo(np.float32).min)  # infinity would not survive a shader


@operator("MaxPool")
def max_pool(node: Node) -> Value:
    """Lower MaxPool."""
    value, kernel, strides, pads, over = _read(node)
    dilations = list(node.get("dilations", [1, 1]))
    if node.outputs > 1:
        node.refuse("gives the places of its maxima")
    image = image_map(value)
    plain = dilations == [1, 1]
    if plain and not any(map(any, pads)) and over == [1, 1] and strides == kernel == [2, 2]:
        # a last window of one row: what SAME does, and it needs no padded copy
        return Value(tf.nn.max_pool2d(image, kernel, strides, "SAME"), last=True)
    padded = _padded(image, [(before, after + more) for (before, after), more in zip(pads, over, strict=True)], _LOWEST)
    if plain:
        output = tf.nn.max_pool2d(padded, kernel, strides, "VALID")
    else:
        dense = tf.nn.pool(padded, kernel, "MAX", [1, 1], "VALID", dilations=dilations)
        output = dense[:, :: strides[0], :: strides[1], :]
    return Value(_trimmed(output, value, kernel, strides, pads, over), last=True)


@operator("AveragePool")
def average_pool(node: Node) -> Value:
    """Lower AveragePool; where windows hang over, the mean of an image of ones says what share counts."""
    value, kernel, strides, pads, over = _read(node)
    if list(node.get("dilations", [1, 1])) != [1, 1]:
        node.refuse("is dilated")
    counted = bool(node.get("count_include_pad", 0))
    image = image_map(value)
    beyond = [(0, more) for more in over]
    output = tf.nn.avg_pool2d(_padded(_padded(image, pads, 0.0), beyond, 0.0), kernel, strides, "VALID")
    if any(over) or (any(map(any, pads)) and not counted):
        ones = tf.ones([1, *(_known_or(image, axis) for axis in (1, 2)), 1])
        share = _padded(_padded(ones, pads, 1.0 if counted else 0.0), beyond, 0.0)
        output = output / tf.nn.avg_pool2d(share, kernel, strides, "VALID")
    return Value(_trimmed(output, value, kernel, strides, pads, over), last=True)


@operator("GlobalAveragePool", "GlobalMaxPool")
def whole(node: Node) -> Value:
    """Lower pooling over a whole map."""
    value = node.value(0)
    reduce = tf.reduce_mean if node.kind == "GlobalAveragePool" else tf.reduce_max
    axes = [1, 2] if value.last else list(range(2, value.rank))
    return Value(reduce(value.data, axes, keepdims=True), value.last)


def _read(node: Node) -> tuple[Value, list[int], list[int], Pads, list[int]]:
    """Return the input, kernel, strides, padding, and rows and columns that windows may hang over the end."""
    value, kernel = node.value(0), list(node.get("kernel_shape", []))
    strides, dilations = window(node, kernel)
    pads = pads_of(node, value, kernel, strides, dilations)
    over = [step - 1 for step in strides] if node.get("ceil_mode", 0) else [0, 0]
    for axis, step in enumerate(strides):
        length = side(value, axis + 2)
        if over[axis] and isinstance(length, int):
            room = length + sum(pads[axis]) - (kernel[axis] - 1) * dilations[axis] - 1
            over[axis] = -room % step
    return value, kernel, strides, pads, over


def _known_or(image: Any, axis: int) -> Size:
    return tf.shape(image)[axis] if image.shape[axis] is None else int(image.shape[axis])


def _padded(image: Any, pads: Sequence[tuple[int, int]], fill: float) -> Any:
    return tf.pad(image, [(0, 0), *pads, (0, 0)], constant_values=fill) if any(map(any, pads)) else image


def _trimmed(
    output: Any, value: Value, kernel: Sequence[int], strides: Sequence[int], pads: Pads, over: Sequence[int]
) -> Any:
    """Drop a last window that would begin in the padding after the image, as ONNX asks."""
    for axis, (size, step, (before, after), more) in enumerate(zip(kernel, strides, pads, over, strict=True)):
        if more and after > size - step:
            count = (side(value, axis + 2) + before - 1) // step + 1
            output = output[:, :count] if axis == 0 else output[:, :, :count]
    return output
