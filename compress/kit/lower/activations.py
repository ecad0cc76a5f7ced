"""Activations, composed of what every TF.js backend has."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.layout import place, side_by_side
from compress.kit.lower.pointwise import single
from compress.kit.lower.table import Node, Value, operator


@operator("Relu")
def relu(node: Node) -> Value:
    """Lower Relu."""
    return single(node, tf.nn.relu)


@operator("Sigmoid")
def sigmoid(node: Node) -> Value:
    """Lower Sigmoid."""
    return single(node, tf.sigmoid)


@operator("Tanh")
def tanh(node: Node) -> Value:
    """Lower Tanh."""
    return single(node, tf.tanh)


@operator("Softplus")
def softplus(node: Node) -> Value:
    """Lower Softplus."""
    return single(node, tf.math.softplus)


@operator("Softsign")
def softsign(node: Node) -> Value:
    """Lower Softsign: x / (1 + abs x)."""
    return single(node, lambda x: x / (1.0 + tf.abs(x)))


@operator("LeakyRelu")
def leaky_relu(node: Node) -> Value:
    """Lower LeakyRelu."""
    return single(node, lambda x: tf.nn.leaky_relu(x, node.get("alpha", 0.01)))


@operator("PRelu")
def prelu(node: Node) -> Value:
    """Lower PRelu in the form the TF.js converter knows as one operation."""
    (x, slope), last = side_by_side([node.value(0), node.value(1)])
    return Value(tf.nn.relu(x) + (-slope) * tf.nn.relu(-x), last)


@operator("ThresholdedRelu")
def thresholded_relu(node: Node) -> Value:
    """Lower ThresholdedRelu."""
    return single(node, lambda x: x * tf.cast(x > node.get("alpha", 1.0), tf.float32))


@operator("Elu")
def elu(node: Node) -> Value:
    """Lower Elu."""
    return single(node, lambda x: _elu(x, node.get("alpha", 1.0)))


@operator("Celu")
def celu(node: Node) -> Value:
    """Lower Celu."""
    alpha = node.get("alpha", 1.0)
    return single(node, lambda x: tf.nn.relu(x) + alpha * tf.nn.elu(tf.minimum(x, 0.0) / alpha))


@operator("Selu")
def selu(node: Node) -> Value:
    """Lower Selu."""
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return single(node, lambda x: gamma * _elu(x, alpha))


def _elu(x: Any, alpha: float) -> Any:
    if alpha == 1.0:
        return tf.nn.elu(x)
    return tf.nn.relu(x) + alpha * tf.nn.elu(tf.minimum(x, 0.0))


@operator("HardSigmoid")
def hard_sigmoid(node: Node) -> Value:
    """Lower HardSigmoid."""
    return single(node, lambda x: _hard(x, node.get("alpha", 0.2), node.get("beta", 0.5)))


@operator("HardSwish")
def hard_swish(node: Node) -> Value:
    """Lower HardSwish."""
    return single(node, lambda x: x * _hard(x, 1 / 6, 0.5))


def _hard(x: Any, slope: float, offset: float) -> Any:
    return tf.minimum(tf.nn.relu(slope * x + offset), 1.0)


@operator("Mish")
def mish(node: Node) -> Value:
    """Lower Mish: x tanh(softplus x)."""
    return single(node, lambda x: x * tf.tanh(tf.math.softplus(x)))


@operator("Gelu")
def gelu(node: Node) -> Value:
    """Lower Gelu, exact or by its tanh."""
    if node.get("approximate", "none") == "tanh":
        return single(node, lambda x: 0.5 * x * (1.0 + tf.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x))))
    return single(node, lambda x: 0.5 * x * (1.0 + tf.math.erf(x / np.sqrt(2.0))))


@operator("Softmax", "LogSoftmax")
def softmax(node: Node) -> Value:
    """Lower Softmax and LogSoftmax over one axis, or before opset 13 over it and all that follow."""
    value = node.value(0)
    axis = node.get("axis", 1 if node.opset < 13 else -1) % value.rank
    axes = list(range(axis, value.rank)) if node.opset < 13 else [axis]
    places = [place(value, each) for each in axes]
    log = node.kind == "LogSoftmax"
    if places == [value.rank - 1] and not log:
        return Value(tf.nn.softmax(value.data), value.last)
    # TF.js has both over the last axis only
    shifted = value.data - tf.reduce_max(value.data, places, keepdims=True)
    raised = tf.exp(shifted)
    total = tf.reduce_sum(raised, places, keepdims=True)
    return Value(shifted - tf.math.log(total) if log else raised / total, value.last)
