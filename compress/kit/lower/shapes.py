"""Operators on shapes: what is known of them stays known, so that image networks keep their static sides."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from compress.kit.lower.layout import canonical, keeps_order, place, positive
from compress.kit.lower.sizes import Size, elements, product, scalar, side, sides, vector
from compress.kit.lower.table import Node, Value, operator


@operator("Constant")
def constant(node: Node) -> Value:
    """Lower Constant."""
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            kind = np.float32 if "float" in name else np.int32
            found = node.attributes[name]
            return Value(found if isinstance(found, np.ndarray) else np.asarray(found, kind))
    return node.refuse("holds no numbers")


@operator("Shape")
def shape(node: Node) -> Value:
    """Lower Shape."""
    found = sides(node.value(0))
    return Value(vector(found[node.get("start", 0) : node.get("end", None)]))


@operator("Size")
def size(node: Node) -> Value:
    """Lower Size."""
    return Value(scalar(product(sides(node.value(0)))))


def shape_of(node: Node, index: int) -> list[Size]:
    """Return the sizes that an input asks for."""
    asked = elements(node.value(index))
    return node.refuse("takes a shape whose length is not known") if asked is None else asked


@operator("ConstantOfShape")
def constant_of_shape(node: Node) -> Value:
    """Lower ConstantOfShape."""
    fill = np.asarray(node.get("value", np.zeros(1, np.float32))).ravel()[0]
    asked = vector(shape_of(node, 0))
    return Value(np.full(asked, fill) if isinstance(asked, np.ndarray) else tf.fill(asked, fill))


@operator("Range")
def range_(node: Node) -> Value:
    """Lower Range."""
    bounds = [tf.reshape(node.value(index).data, []) for index in range(3)]
    return Value(tf.range(*bounds))


@operator("Reshape")
def reshape(node: Node) -> Value:
    """Lower Reshape: 0 keeps a side, -1 takes what is left."""
    value, found = node.value(0), elements(node.value(0))
    asked = node.get("shape", None) or shape_of(node, 1)
    if found is not None and len(asked) <= 1:
        return Value(vector(found) if asked else scalar(found[0]))
    keep = not node.get("allowzero", 0)
    wanted = [side(value, axis) if keep and _is(each, 0) else each for axis, each in enumerate(asked)]
    unknown = [axis for axis, each in enumerate(wanted) if not isinstance(each, int)]
    if len(unknown) == 1 and -1 not in [each for each in wanted if isinstance(each, int)]:
        wanted[unknown[0]] = -1  # TensorFlow works it out, and the graph needs no size of the image
    return Value(tf.reshape(canonical(value), vector(wanted)))


def _is(size: Size, number: int) -> bool:
    return isinstance(size, int) and size == number


@operator("Flatten")
def flatten(node: Node) -> Value:
    """Lower Flatten to two sides."""
    value = node.value(0)
    axis, all_sides = node.get("axis", 1), sides(value)
    axis = positive(axis, value.rank)
    after = product(all_sides[axis:])
    shape = [-1, after] if isinstance(after, int) else [product(all_sides[:axis]), -1]
    return Value(tf.reshape(canonical(value), vector(shape)))


@operator("Squeeze")
def squeeze(node: Node) -> Value:
    """Lower Squeeze."""
    value, axes, found = node.value(0), node.numbers("axes", 1), elements(node.value(0))
    if found is not None and value.rank == 1:
        return Value(scalar(found[0]))
    dropped = [axis for axis, length in enumerate(sides(value)) if _is(length, 1)] if axes is None else axes
    dropped = [positive(axis, value.rank) for axis in dropped]
    if not keeps_order(value, dropped):
        value = Value(canonical(value))
    return Value(tf.squeeze(value.data, [place(value, axis) for axis in dropped])) if dropped else value


@operator("Unsqueeze")
def unsqueeze(node: Node) -> Value:
    """Lower Unsqueeze."""
    value, axes, found = node.value(0), node.numbers("axes", 1) or [], elements(node.value(0))
    if found is not None and value.rank == 0:
        return Value(vector(found)) if len(axes) == 1 else Value(tf.reshape(value.data, [1] * len(axes)))
    data = canonical(value)
    for axis in sorted(positive(axis, value.rank + len(axes)) for axis in axes):
        data = tf.expand_dims(data, axis)
    return Value(data)


@operator("Transpose")
def transpose(node: Node) -> Value:
    """Lower Transpose; one between the two layouts of an image costs nothing."""
    value = node.value(0)
    order = list(node.get("perm", range(value.rank)[::-1]))
    if value.last and order == [0, 2, 3, 1]:
        return Value(value.data)
    if not value.last and value.rank == 4 and order == [0, 3, 1, 2]:
        return Value(value.data, last=True)
    return Value(tf.transpose(canonical(value), order))


@operator("Expand")
def expand(node: Node) -> Value:
    """Lower Expand: each side becomes the larger of what it is and what is asked."""
    value, asked = node.value(0), shape_of(node, 1)
    if value.last and len(asked) > 4:
        value = Value(canonical(value))
    own = [1] * (len(asked) - value.rank) + sides(value)
    asked = [1] * (len(own) - len(asked)) + asked
    wanted = [_larger(a, b) for a, b in zip(own, asked, strict=True)]
    if value.last:
        wanted = [wanted[axis] for axis in (0, 2, 3, 1)]
    return Value(tf.broadcast_to(value.data, vector(wanted)), value.last)


def _larger(own: Size, asked: Size) -> Size:
    if _is(asked, 1) or (isinstance(own, int) and own > 1):
        return own
    return asked if _is(own, 1) or isinstance(asked, int) else tf.maximum(own, asked)


@operator("Tile")
def tile(node: Node) -> Value:
    """Lower Tile."""
    value, repeats = node.value(0), shape_of(node, 1)
    if value.last:
        repeats = [repeats[axis] for axis in (0, 2, 3, 1)]
    return Value(tf.tile(value.data, vector(repeats)), value.last)
