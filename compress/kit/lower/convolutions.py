"""Convolutions, plain, grouped, depthwise, dilated and transposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from compress.kit.lower.layout import image_map
from compress.kit.lower.sizes import Size, side, vector
from compress.kit.lower.table import Constant, Node, Value, operator

Pads = list[tuple[int, int]]  # before and after, of height and width


def window(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return strides and dilations of a node that slides a window over height and width.

    Raises:
        ArtifactError: If it slides over another number of sides.
    """
    if len(kernel) != 2:
        node.refuse(f"slides over {len(kernel)} sides; images have height and width")
    return list(node.get("strides", [1, 1])), list(node.get("dilations", [1, 1]))


def pads_of(node: Node, value: Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Pads:
    """Return the padding of a window, whichever way the node tells it.

    Raises:
        ArtifactError: If it depends on a size that isn't known.
    """
    auto = node.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return [(0, 0), (0, 0)]
    if auto == "NOTSET":
        top, left, bottom, right = node.get("pads", [0, 0, 0, 0])
        return [(top, bottom), (left, right)]
    pads = []
    for axis, (size, step, spread) in enumerate(zip(kernel, strides, dilations, strict=True)):
        length = side(value, axis + 2)
        reach = (size - 1) * spread + 1
        if not isinstance(length, int) and step > 1:
            node.refuse(f"pads by {auto}, which depends on the size of the image; fix it with --size")
        total = reach - step if step == 1 else max((-(-length // step) - 1) * step + reach - length, 0)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return pads


@operator("Conv")
def conv(node: Node) -> Value:
    """Lower Conv; its filter is a constant (O, I / groups, kh, kw) or a tensor."""
    value, groups = node.value(0), node.get("group", 1)
    if node.value(1).rank != 4 or value.rank != 4:
        node.refuse(f"slides over {value.rank - 2} sides; images have height and width")
    filters = _filter(node, (2, 3, 1, 0))  # (kh, kw, I / groups, O)
    kernel = [int(number) for number in filters.shape[:2]]
    strides, dilations = window(node, kernel)
    pads = pads_of(node, value, kernel, strides, dilations)
    image = image_map(value)
    if groups == 1:
        output = _plain(image, node.keep(filters), strides, dilations, pads)
    elif int(filters.shape[2]) == 1 and strides[0] == strides[1] and dilations == [1, 1]:
        output = _depthwise(node, image, filters, strides, pads)
    else:
        # TF.js has no grouped convolution
        parts = zip(tf.split(image, groups, 3), np.split(filters, groups, 3), strict=True)
        output = tf.concat([_plain(a, node.keep(b), strides, dilations, pads) for a, b in parts], 3)
    return Value(_biased(node, output), last=True)


def _filter(node: Node, order: tuple[int, ...]) -> Any:
    weight = node.value(1)
    if weight.known:
        return np.ascontiguousarray(weight.data.transpose(order))
    if node.get("group", 1) > 1 or weight.data.shape.rank != 4 or None in weight.data.shape:
        node.refuse("takes its filter from the image")
    return tf.transpose(weight.data, order)


def _plain(image: Any, filters: Any, strides: list[int], dilations: list[int], pads: Pads) -> Any:
    reach = [(int(size) - 1) * spread for size, spread in zip(filters.shape[:2], dilations, strict=True)]
    same = all(pad == (total // 2, total - total // 2) for pad, total in zip(pads, reach, strict=True))
    padding: Any = [(0, 0), *pads, (0, 0)]
    if not any(map(any, pads)):
        padding = "VALID"
    elif same and strides == [1, 1]:
        padding = "SAME"
    return tf.nn.conv2d(image, filters, strides, padding, dilations=dilations)


def _depthwise(node: Node, image: Any, filters: Constant, strides: list[int], pads: Pads) -> Any:
    kernel, groups = filters.shape[:2], node.get("group", 1)
    # group g owns the outputs g * M .. g * M + M - 1, as TensorFlow's channel multiplier does
    filters = filters.reshape(*kernel, groups, filters.shape[3] // groups)
    same = all(pad == ((size - 1) // 2, size // 2) for pad, size in zip(pads, kernel, strict=True))
    padding = "SAME" if same and strides == [1, 1] else "VALID"
    if padding == "VALID" and any(map(any, pads)):
        # explicit padding here makes TensorFlow 2.19 with oneDNN abort the whole process
        image = tf.pad(image, [(0, 0), *pads, (0, 0)])
    return tf.nn.depthwise_conv2d(image, node.keep(filters), [1, *strides, 1], padding)


def _biased(node: Node, output: Any) -> Any:
    return tf.nn.bias_add(output, node.value(2).data) if node.has(2) else output


@operator("ConvTranspose")
def conv_transpose(node: Node) -> Value:
    """Lower ConvTranspose: without padding, then cropped; as one operation where TensorFlow pads alike."""
    value, groups = node.value(0), node.get("group", 1)
    if value.rank != 4:
        node.refuse(f"slides over {value.rank - 2} sides; images have height and width")
    weight = node.constant(1).transpose(2, 3, 1, 0)  # (kh, kw, O / groups, I)
    strides, dilations = window(node, weight.shape[:2])
    filters = _spread(weight, dilations)
    pads, extra = _transposed_pads(node, value, filters.shape[:2], strides)
    if any(more >= step for more, step in zip(extra, strides, strict=True)):
        node.refuse("has an output padding that is no smaller than its stride")
    image = image_map(value)
    pairs = list(zip(_split(image, groups), np.split(filters, groups, 3), strict=True))
    if strides[0] == strides[1]:
        outputs = [_by_phases(node, part, share, strides[0], pads, extra) for part, share in pairs]
    else:
        batch, height, width = (side(value, axis) for axis in (0, 2, 3))
        outputs = [
            _transposed(part, node.keep(share), (batch, height, width), strides, pads, extra) for part, share in pairs
        ]
    return Value(_biased(node, outputs[0] if groups == 1 else tf.concat(outputs, 3)), last=True)


def _split(image: Any, groups: int) -> list[Any]:
    return [image] if groups == 1 else list(tf.split(image, groups, 3))


def _spread(filters: Constant, dilations: Sequence[int]) -> Constant:
    """Put zeros between the taps of a dilated filter: the transposed convolution of TF.js has no dilation."""
    if list(dilations) == [1, 1]:
        return np.ascontiguousarray(filters)
    (high, wide), (down, right) = filters.shape[:2], dilations
    spread = np.zeros(((high - 1) * down + 1, (wide - 1) * right + 1, *filters.shape[2:]), filters.dtype)
    spread[::down, ::right] = filters
    return spread


def _transposed_pads(node: Node, value: Value, kernel: Sequence[int], strides: Sequence[int]) -> tuple[Pads, list[int]]:
    """Return what is cropped before and after, and the output padding, of height and width."""
    extra = list(node.get("output_padding", [0, 0]))
    auto, shape = node.get("auto_pad", "NOTSET"), node.get("output_shape", None)
    if shape is None and auto in ("NOTSET", "VALID"):
        top, left, bottom, right = (0, 0, 0, 0) if auto == "VALID" else node.get("pads", [0, 0, 0, 0])
        return [(top, bottom), (left, right)], extra
    pads = []
    for axis in (0, 1):
        length = side(value, axis + 2)
        if shape is not None and not isinstance(length, int):
            node.refuse("names its output's size, but that of its input is not known; fix it with --size")
        full = kernel[axis] - strides[axis] + extra[axis]
        wanted = 0 if shape is None else shape[axis] - length * strides[axis]
        total = max(full - wanted, 0)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return pads, extra


def _by_phases(node: Node, image: Any, filters: Constant, step: int, pads: Pads, extra: list[int]) -> Any:
    """Compute a transposed convolution as a plain one to ``step`` squared phases, which are then woven together.

    The taps that meet one phase of the output are every ``step``-th of the filter (Shi et al. 2016, "Is the
    deconvolution layer the same as a convolutional layer?"). TF.js' own transposed convolution is several times slower
    in WASM than its convolution. filters: (kh, kw, O, I).
    """
    high, wide, outputs, inputs = filters.shape
    room = [max(more - after, 0) for (_, after), more in zip(pads, extra, strict=True)]
    rows, columns = (-(-(size + more) // step) for size, more in zip((high, wide), room, strict=True))
    whole = np.zeros((rows * step, columns * step, outputs, inputs), filters.dtype)
    whole[:high, :wide] = filters
    taps = whole.reshape(rows, step, columns, step, outputs, inputs)[::-1, :, ::-1]
    phases = np.ascontiguousarray(taps.transpose(0, 2, 5, 1, 3, 4)).reshape(rows, columns, inputs, -1)
    around = [[0, 0], [rows - 1, rows - 1], [columns - 1, columns - 1], [0, 0]]
    woven = tf.nn.conv2d(image, node.keep(phases), 1, around if rows + columns > 2 else "VALID")
    output = tf.nn.depth_to_space(woven, step) if step > 1 else woven
    sides = zip((rows, columns), (high, wide), pads, extra, strict=True)
    crops = [(before, count * step - size + after - more) for count, size, (before, after), more in sides]
    return _cropped(output, crops)


def _transposed(
    image: Any, filters: Any, sizes: tuple[Size, Size, Size], strides: list[int], pads: Pads, extra: list[int]
) -> Any:
    batch, *lengths = sizes
    channels = int(filters.shape[2])
    kernel = [int(number) for number in filters.shape[:2]]
    sides = list(zip(lengths, kernel, strides, pads, extra, strict=True))
    if all(_as_same(size, step, pad, more) for _, size, step, pad, more in sides):
        shape = [batch, *(length * step for length, _, step, _, _ in sides), channels]
        return tf.nn.conv2d_transpose(image, filters, vector(shape), strides, "SAME")
    # output padding beyond the crop is computed too: TensorFlow takes any size that a convolution shrinks to the input
    full = [(length - 1) * step + size + max(more - after, 0) for length, size, step, (_, after), more in sides]
    output = tf.nn.conv2d_transpose(image, filters, vector([batch, *full, channels]), strides, "VALID")
    crops = [(before, max(after - more, 0)) for _, _, _, (before, after), more in sides]
    return _cropped(output, crops)


def _cropped(image: Any, crops: Pads) -> Any:
    if not any(map(any, crops)):
        return image
    rows, columns = (slice(before, -after or None) for before, after in crops)
    return image[:, rows, columns, :]


def _as_same(size: int, step: int, pad: tuple[int, int], extra: int) -> bool:
    total = size - step
    return total >= 0 and pad[0] == total // 2 and pad[1] - extra == total - total // 2
