"""Norms: batch, instance, group, layer, local response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.layout import canonical, image_map
from compress.kit.lower.sizes import sides, vector
from compress.kit.lower.table import Node, Value, operator


@operator("BatchNormalization")
def batch_norm(node: Node) -> Value:
    """Lower BatchNormalization of a trained network: one product, one sum."""
    if node.get("training_mode", 0) or node.outputs > 1:
        node.refuse("is in training mode")
    value = node.value(0)
    scale, bias, mean, variance = (node.value(index).data for index in range(1, 5))
    factor = scale / (variance + np.float32(node.get("epsilon", 1e-5))) ** 0.5
    offset = bias - mean * factor
    return Value(value.data * _along(value, factor) + _along(value, offset), value.last)


@operator("InstanceNormalization")
def instance_norm(node: Node) -> Value:
    """Lower InstanceNormalization: each channel of each image over its places."""
    value = node.value(0)
    axes = [1, 2] if value.last else list(range(2, value.rank))
    normal = _normal(value.data, axes, node.get("epsilon", 1e-5))
    scale, bias = (_along(value, node.value(index).data) for index in (1, 2))
    return Value(normal * scale + bias, value.last)


@operator("GroupNormalization")
def group_norm(node: Node) -> Value:
    """Lower GroupNormalization; before opset 21 scale and bias are one number a group."""
    value, groups = Value(image_map(node.value(0)), last=True), node.get("num_groups", 1)
    batch, channels, height, width = sides(value)
    grouped = tf.reshape(value.data, vector([batch, height * width, groups, channels // groups]))
    normal = _normal(grouped, [1, 3], node.get("epsilon", 1e-5))
    scale, bias = (np.ravel(node.constant(index)) for index in (1, 2))
    if len(scale) != channels:
        scale, bias = (np.repeat(numbers, channels // groups) for numbers in (scale, bias))
    return Value(tf.reshape(normal, vector([batch, height, width, channels])) * scale + bias, last=True)


@operator("LayerNormalization")
def layer_norm(node: Node) -> Value:
    """Lower LayerNormalization over an axis and all that follow."""
    if node.outputs > 1:
        node.refuse("gives its mean and deviation")
    value = node.value(0)
    axes = list(range(node.get("axis", -1) % value.rank, value.rank))
    normal = _normal(canonical(value), axes, node.get("epsilon", 1e-5)) * canonical(node.value(1))
    return Value(normal + canonical(node.value(2)) if node.has(2) else normal)


@operator("LRN")
def local_response(node: Node) -> Value:
    """Lower LRN, a norm over neighbouring channels."""
    size = node.get("size", 5)
    if size % 2 == 0:
        node.refuse(f"looks at {size} channels; TensorFlow wants an odd number")
    image = image_map(node.value(0))
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return Value(tf.nn.local_response_normalization(image, size // 2, bias, alpha / size, beta), last=True)


@operator("LpNormalization")
def lp_norm(node: Node) -> Value:
    """Lower LpNormalization with p 1 or 2."""
    data = canonical(node.value(0))
    axis = [node.get("axis", -1)]
    if node.get("p", 2) == 1:
        return Value(data / tf.reduce_sum(tf.abs(data), axis, keepdims=True))
    return Value(data / tf.sqrt(tf.reduce_sum(tf.square(data), axis, keepdims=True)))


def _normal(data: Any, axes: Sequence[int], epsilon: float) -> Any:
    centred = data - tf.reduce_mean(data, axes, keepdims=True)
    return centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axes, keepdims=True) + epsilon)


def _along(value: Value, numbers: Any) -> Any:
    """Shape one number a channel to broadcast against a value."""
    if value.last or value.rank == 2:
        return numbers
    shape = [-1] + [1] * (value.rank - 2)
    return numbers.reshape(shape) if isinstance(numbers, np.ndarray) else tf.reshape(numbers, shape)
