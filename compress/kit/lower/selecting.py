"""Operators that pick, join and move parts: slices, gathers, concatenations, padding, blocks to depth and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.layout import canonical, image_map, place, positive
from compress.kit.lower.shapes import shape_of
from compress.kit.lower.sizes import Size, elements, scalar, side, vector
from compress.kit.lower.table import Node, Value, operator, values

_FAR = 2**31 - 1


@operator("Concat")
def concat(node: Node) -> Value:
    """Lower Concat."""
    parts = list(values(node))
    found = [elements(part) for part in parts]
    if all(part.rank == 1 for part in parts) and all(each is not None for each in found):
        return Value(vector([number for each in found for number in each or ()]))
    axis = positive(node.get("axis", 0), parts[0].rank)
    if any(part.last for part in parts):
        maps = [Value(image_map(part), last=True) for part in parts]
        return Value(tf.concat([part.data for part in maps], place(maps[0], axis)), last=True)
    return Value(tf.concat([part.data for part in parts], axis))


@operator("Split")
def split(node: Node) -> list[Value]:
    """Lower Split into given or equal parts, the last one smaller where they don't divide."""
    value = node.value(0)
    axis, lengths = node.get("axis", 0), node.numbers("split", 1)
    if lengths is None:
        whole, count = side(value, axis), node.get("num_outputs", node.outputs)
        if not isinstance(whole, int):
            node.refuse("splits a side whose length is not known into equal parts")
        each = -(-whole // count)
        lengths = [min(each, whole - each * index) for index in range(count)]
    return [Value(part, value.last) for part in tf.split(value.data, lengths, place(value, axis))]


@operator("Slice")
def slice_(node: Node) -> Value:
    """Lower Slice: attributes before opset 10, inputs since."""
    value = node.value(0)
    starts, ends = (list(node.get(name, [])) or shape_of(node, index) for index, name in ((1, "starts"), (2, "ends")))
    axes = node.numbers("axes", 3) or list(range(len(starts)))
    steps = (shape_of(node, 4) if node.has(4) else None) or [1] * len(starts)
    found = elements(value)
    if found is not None and value.rank == 1 and all(isinstance(n, int) for n in (*starts, *ends, *steps)):
        return Value(vector(found[slice(starts[0], ends[0] if abs(ends[0]) < _FAR else None, steps[0])]))
    cuts: list[Any] = [slice(None)] * value.rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[place(value, axis)] = _cut(start, end, step)
    return Value(value.data[tuple(cuts)], value.last)


def _cut(start: Size, end: Size, step: Size) -> slice:
    """Bounds as Python has them: an end beyond everything is no end."""
    if isinstance(end, int) and abs(end) >= _FAR:
        end = None
    if isinstance(step, int) and step < 0 and isinstance(start, int) and start >= _FAR:
        start = None
    if isinstance(start, int) and start == 0 and isinstance(step, int) and step > 0:
        start = None
    return slice(start, end, step)


@operator("Gather")
def gather(node: Node) -> Value:
    """Lower Gather; an index below zero counts from the end."""
    value, index = node.value(0), node.value(1)
    axis = positive(node.get("axis", 0), value.rank)
    found = elements(value)
    if found is not None and value.rank == 1 and index.known and index.rank <= 1:
        picked = [found[int(number)] for number in index.data.ravel()]
        return Value(vector(picked) if index.rank else scalar(picked[0]))
    if value.last and index.rank != 1:
        value = Value(canonical(value))
    length = side(value, axis)
    return Value(tf.gather(value.data, _from_front(index, length), axis=place(value, axis)), value.last)


def _from_front(index: Value, length: Size) -> Any:
    if index.known and (index.data >= 0).all():
        return index.data
    return tf.where(index.data < 0, index.data + length, index.data)


@operator("GatherElements")
def gather_elements(node: Node) -> Value:
    """Lower GatherElements along the last axis of what is left after moving it there."""
    data, index = canonical(node.value(0)), canonical(node.value(1))
    rank = len(data.shape)
    axis = positive(node.get("axis", 0), rank)
    if [data.shape[each] for each in range(rank) if each != axis] != [
        index.shape[each] for each in range(rank) if each != axis
    ] or None in data.shape:
        node.refuse("gathers along sides that differ or are not known")
    order = [*(each for each in range(rank) if each != axis), axis]
    moved, where = tf.transpose(data, order), tf.transpose(index, order)
    rows = int(np.prod(moved.shape[:-1]))
    flat = tf.reshape(where, [rows, -1]) + np.arange(rows, dtype=np.int32)[:, None] * int(moved.shape[-1])
    picked = tf.reshape(tf.gather(tf.reshape(moved, [-1]), flat), where.shape)
    return Value(tf.transpose(picked, [int(each) for each in np.argsort(order)]))


@operator("Pad")
def pad(node: Node) -> Value:
    """Lower Pad with a constant, mirrored, or with the edge; negative padding crops."""
    value, mode = node.value(0), node.get("mode", "constant")
    amounts = list(node.get("pads", [])) or shape_of(node, 1)
    axes = [positive(int(axis), value.rank) for axis in (node.constant(3) if node.has(3) else range(value.rank))]
    pads: list[tuple[Size, Size]] = [(0, 0)] * value.rank
    for axis, before, after in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        pads[place(value, axis)] = (before, after)
    data = _cropped(value.data, pads)
    pads = [(_grown(before), _grown(after)) for before, after in pads]
    if mode == "reflect":
        return Value(tf.pad(data, _table(pads), "REFLECT"), value.last)
    if mode in ("edge", "wrap"):
        return Value(_repeated(data, pads, mode), value.last)
    fill: Any = node.get("value", 0.0)
    if node.has(2):
        fill = node.value(2).data.ravel()[0] if node.value(2).known else tf.reshape(node.value(2).data, [])
    return Value(tf.pad(data, _table(pads), constant_values=tf.cast(fill, data.dtype)), value.last)


def _grown(amount: Size) -> Size:
    return max(amount, 0) if isinstance(amount, int) else amount


def _cropped(data: Any, pads: Sequence[tuple[Size, Size]]) -> Any:
    cuts = [tuple(-amount if isinstance(amount, int) and amount < 0 else 0 for amount in pair) for pair in pads]
    if not any(map(any, cuts)):
        return data
    return data[tuple(slice(before or None, -after or None) for before, after in cuts)]


def _table(pads: Sequence[tuple[Size, Size]]) -> Any:
    return tf.stack([vector(pair) for pair in pads]) if not _all_known(pads) else np.asarray(pads, np.int32)


def _all_known(pads: Sequence[tuple[Size, Size]]) -> bool:
    return all(isinstance(amount, int) for pair in pads for amount in pair)


def _repeated(data: Any, pads: Sequence[tuple[Size, Size]], mode: str) -> Any:
    """Pad by gathering rows over again: TF.js mirrors, but neither repeats edges nor wraps."""
    for axis, (before, after) in enumerate(pads):
        if _all_known([(before, after)]) and not (before or after):
            continue
        known = data.shape[axis]
        length = tf.shape(data)[axis] if known is None else int(known)
        where = tf.range(-before, length + after)
        edge = mode == "edge"
        where = tf.minimum(tf.maximum(where, 0), length - 1) if edge else tf.math.floormod(where, length)
        data = tf.gather(data, where, axis=axis)
    return data


@operator("DepthToSpace")
def depth_to_space(node: Node) -> Value:
    """Lower DepthToSpace in either order of channels."""
    image, block = image_map(node.value(0)), node.get("blocksize", 1)
    if node.get("mode", "DCR") == "CRD":
        channels = int(image.shape[3])
        order = np.arange(channels, dtype=np.int32).reshape(-1, block * block).T.ravel()
        image = tf.gather(image, order, axis=3)
    return Value(image if block == 1 else tf.nn.depth_to_space(image, block), last=True)


@operator("SpaceToDepth")
def space_to_depth(node: Node) -> Value:
    """Lower SpaceToDepth by strided slices: TF.js has no such operation."""
    image, block = image_map(node.value(0)), node.get("blocksize", 1)
    parts = [image[:, row::block, column::block, :] for row in range(block) for column in range(block)]
    return Value(tf.concat(parts, 3), last=True)
