"""Resize: by TensorFlow's own operation where it means the same, by gathering rows and columns where it doesn't."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.layout import image_map
from compress.kit.lower.shapes import shape_of
from compress.kit.lower.sizes import Size, side, vector
from compress.kit.lower.table import Node, Value, operator


@dataclass(frozen=True)
class Axis:
    """One side to resize: its length before and after, and the scale the node names (0: after / before)."""

    before: Size
    after: Size
    scale: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the scale is just after / before, as TensorFlow takes it to be."""
        if not self.scale or self.scale == int(self.scale):
            return True
        return isinstance(self.before, int) and self.before * self.scale == self.after

    @property
    def factor(self) -> int:
        """The whole number it grows by, 0 where that isn't known."""
        if self.scale and self.scale == int(self.scale):
            return int(self.scale)
        whole = isinstance(self.before, int) and isinstance(self.after, int) and self.after % self.before == 0
        return self.after // self.before if whole else 0


@operator("Resize", "Upsample")
def resize(node: Node) -> Value:
    """Lower Resize (and Upsample, its name before opset 10) of height and width."""
    value = node.value(0)
    mode = node.get("mode", "nearest")
    where = node.get("coordinate_transformation_mode", "asymmetric" if node.opset < 11 else "half_pixel")
    _refuse_strange(node, value, where)
    axes = _axes(node, value)
    kept = all(isinstance(axis.before, int) and axis.before == axis.after for axis in axes)
    if kept and where in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        return value
    image, target = image_map(value), vector([axis.after for axis in axes])
    rounding = node.get("nearest_mode", "floor" if node.opset < 11 else "round_prefer_floor")
    if mode == "linear" and _linear_alike(axes, where):
        return Value(_native("ResizeBilinear", image, target, where), last=True)
    if mode == "nearest" and _nearest_alike(axes, where, rounding):
        return Value(_native("ResizeNearestNeighbor", image, target, where), last=True)
    for number, axis in enumerate(axes):
        position = _positions(axis, where)
        if mode == "nearest":
            index = _clamped(_rounded(position, rounding), axis)
            image = tf.gather(image, index, axis=number + 1)
        else:
            image = _blended(image, position, axis, number + 1, _taps(node, mode))
    return Value(image, last=True)


def _refuse_strange(node: Node, value: Value, where: str) -> None:
    if node.get("antialias", 0):
        node.refuse("is antialiased")
    if value.rank != 4:
        node.refuse(f"resizes {value.rank} sides; an image has 4")
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch" or node.get("exclude_outside", 0):
        node.refuse("keeps the aspect ratio or leaves out what lies outside")
    if where not in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        node.refuse(f"places its pixels by '{where}'")
    if node.get("axes", [2, 3]) not in ([2, 3], [-2, -1], [0, 1, 2, 3]):
        node.refuse(f"resizes axes {node.get('axes', [])}, not height and width")


def _axes(node: Node, value: Value) -> list[Axis]:
    """Read sizes or scales of height and width."""
    before = [side(value, 2), side(value, 3)]
    scales_at = 1 if node.opset < 11 else 2
    if node.has(3):
        return [Axis(own, each) for own, each in zip(before, shape_of(node, 3)[-2:], strict=True)]
    scales = list(node.attributes["scales"] if "scales" in node.attributes else node.constant(scales_at))
    if len(scales) == 4 and list(scales[:2]) != [1.0, 1.0]:
        node.refuse(f"scales batch or channels by {scales[:2]}")
    return [Axis(own, _scaled(own, float(scale)), float(scale)) for own, scale in zip(before, scales[-2:], strict=True)]


def _scaled(length: Size, scale: float) -> Size:
    if scale == int(scale):
        return length * int(scale)
    if isinstance(length, int):
        return int(np.floor(np.float32(length) * np.float32(scale)))
    return tf.cast(tf.floor(tf.cast(length, tf.float32) * np.float32(scale)), tf.int32)


def _linear_alike(axes: list[Axis], where: str) -> bool:
    if where == "pytorch_half_pixel":
        # it differs from half_pixel where one row or column is left of several
        return all(axis.exact and (axis.factor or (isinstance(axis.after, int) and axis.after > 1)) for axis in axes)
    return where == "align_corners" or all(axis.exact for axis in axes)


def _nearest_alike(axes: list[Axis], where: str, rounding: str) -> bool:
    if not all(axis.exact for axis in axes):
        return False
    if where == "asymmetric":
        return rounding == "floor"
    # growing by a whole factor, the middle of a pixel never lies on the border of two
    grown = all(axis.factor >= 1 for axis in axes)
    return where == "half_pixel" and (rounding == "round_prefer_ceil" or (grown and rounding == "round_prefer_floor"))


def _native(name: str, image: Any, target: Any, where: str) -> Any:
    compute = getattr(tf.raw_ops, name)
    half = where in ("half_pixel", "pytorch_half_pixel")
    return compute(images=image, size=target, align_corners=where == "align_corners", half_pixel_centers=half)


def _positions(axis: Axis, where: str) -> Any:
    """Where each row of the output lies among those of the input, in float32."""
    before, after = (tf.cast(length, tf.float32) for length in (axis.before, axis.after))
    index = tf.cast(tf.range(axis.after), tf.float32)
    if where == "align_corners":
        return index * ((before - 1.0) / tf.maximum(after - 1.0, 1.0))
    step = np.float32(1 / axis.scale) if axis.scale else before / after
    if where == "asymmetric":
        return index * step
    position = (index + 0.5) * step - 0.5
    return position * tf.cast(after > 1.0, tf.float32) if where == "pytorch_half_pixel" else position


def _rounded(position: Any, rounding: str) -> Any:
    if rounding == "round_prefer_floor":
        return tf.math.ceil(position - 0.5)
    if rounding == "round_prefer_ceil":
        return tf.floor(position + 0.5)
    return tf.floor(position) if rounding == "floor" else tf.math.ceil(position)


def _clamped(index: Any, axis: Axis) -> Any:
    return tf.minimum(tf.maximum(tf.cast(index, tf.int32), 0), axis.before - 1)


def _taps(node: Node, mode: str) -> Any:
    """Return the weights of neighbours -1 .. 2 (cubic, Keys 1981) or 0 .. 1 (linear) by the fraction between two."""
    if mode == "linear":
        return lambda t: [(0, 1.0 - t), (1, t)]
    if mode != "cubic":
        node.refuse(f"interpolates by '{mode}'")
    a = node.get("cubic_coeff_a", -0.75)

    def near(t: Any) -> Any:
        return ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0

    def far(t: Any) -> Any:
        return ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a

    return lambda t: [(-1, far(t + 1.0)), (0, near(t)), (1, near(1.0 - t)), (2, far(2.0 - t))]


def _blended(image: Any, position: Any, axis: Axis, number: int, taps: Any) -> Any:
    first = tf.floor(position)
    total = None
    for offset, weight in taps(position - first):
        share = tf.gather(image, _clamped(first + float(offset), axis), axis=number)
        share = share * tf.reshape(weight, [-1, 1, 1] if number == 1 else [-1, 1])
        total = share if total is None else total + share
    return total
