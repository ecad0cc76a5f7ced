"""Reductions over axes, and products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.layout import canonical, keeps_order, place, positive
from compress.kit.lower.table import OPERATORS, Node, Value, operator

_REDUCTIONS: dict[str, Callable[[Any, list[int], bool], Any]] = {
    "ReduceMean": tf.reduce_mean,
    "ReduceSum": tf.reduce_sum,
    "ReduceMax": tf.reduce_max,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceL1": lambda data, axes, keep: tf.reduce_sum(tf.abs(data), axes, keep),
    "ReduceL2": lambda data, axes, keep: tf.sqrt(tf.reduce_sum(tf.square(data), axes, keep)),
    "ReduceSumSquare": lambda data, axes, keep: tf.reduce_sum(tf.square(data), axes, keep),
    "ReduceLogSum": lambda data, axes, keep: tf.math.log(tf.reduce_sum(data, axes, keep)),
}


def _reduction(compute: Callable[[Any, list[int], bool], Any]) -> Callable[[Node], Value]:
    def lowered(node: Node) -> Value:
        value, axes = node.value(0), node.numbers("axes", 1)
        if not axes and node.get("noop_with_empty_axes", 0):
            return value
        dropped = [positive(axis, value.rank) for axis in axes or range(value.rank)]
        return reduced(value, dropped, bool(node.get("keepdims", 1)), compute)

    return lowered


def reduced(value: Value, axes: list[int], keep: bool, compute: Callable[[Any, list[int], bool], Any]) -> Value:
    """Reduce over axes counted as in ONNX, in the order the tensor is held where that comes to the same."""
    if not keep and not keeps_order(value, axes):
        value = Value(canonical(value))
    return Value(compute(value.data, [place(value, axis) for axis in axes], keep), value.last and keep)


OPERATORS.update({kind: _reduction(compute) for kind, compute in _REDUCTIONS.items()})


@operator("ReduceLogSumExp")
def log_sum_exp(node: Node) -> Value:
    """Lower ReduceLogSumExp, shifted by the maximum."""

    def compute(data: Any, axes: list[int], keep: bool) -> Any:
        most = tf.reduce_max(data, axes, keepdims=True)
        total = tf.math.log(tf.reduce_sum(tf.exp(data - most), axes, keepdims=True)) + most
        return total if keep else tf.squeeze(total, axes)

    return _reduction(compute)(node)


@operator("ArgMax", "ArgMin")
def arg_extreme(node: Node) -> Value:
    """Lower ArgMax and ArgMin, the first of equals."""
    if node.get("select_last_index", 0):
        node.refuse("takes the last of equal values")
    find = tf.argmax if node.kind == "ArgMax" else tf.argmin

    def compute(data: Any, axes: list[int], keep: bool) -> Any:
        found = find(data, axes[0], tf.int32)
        return tf.expand_dims(found, axes[0]) if keep else found

    value = node.value(0)
    axis = positive(node.get("axis", 0), value.rank)
    return reduced(value, [axis], bool(node.get("keepdims", 1)), compute)


def _factors(node: Node) -> list[Any]:
    found = [canonical(node.value(index)) for index in (0, 1)]
    return [node.keep(data) if isinstance(data, np.ndarray) else data for data in found]


@operator("MatMul")
def matmul(node: Node) -> Value:
    """Lower MatMul, vectors on either side included."""
    a, b = _factors(node)
    left, right = len(a.shape) == 1, len(b.shape) == 1
    product = tf.matmul(a[None] if left else a, b[:, None] if right else b)
    dropped = [axis for axis, gone in ((-2, left), (-1, right)) if gone]
    return Value(tf.squeeze(product, dropped) if dropped else product)


@operator("Gemm")
def gemm(node: Node) -> Value:
    """Lower Gemm: alpha A B + beta C."""
    a, b = _factors(node)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = tf.matmul(a, b, transpose_a=bool(node.get("transA", 0)), transpose_b=bool(node.get("transB", 0)))
    product = product if alpha == 1.0 else alpha * product
    if not node.has(2):
        return Value(product)
    added = node.value(2).data
    return Value(product + (added if beta == 1.0 else beta * added))
