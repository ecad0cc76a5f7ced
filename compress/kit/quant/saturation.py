"""What a CPU without VNNI makes of an int8 ONNX file, layer by layer; ``integers`` says how it adds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compress.kit.quant.integers import can_saturate, rows, sums
from compress.kit.quant.qdq import attribute, groups
from compress.kit.ship.runtime import open_session, read_onnx

Arrays = Mapping[str, NDArray[Any]]

_BLOCK = 4096  # pixels whose columns are in memory at once
_PASSED = ("Relu", "LeakyRelu", "Clip")  # what may stand between a convolution and its QuantizeLinear


@dataclass(frozen=True)
class LayerSaturation:
    """What a CPU without VNNI makes of one layer whose inputs are right.

    ``changed`` is the share of its ``outputs`` whose sum is another, ``steps`` the largest change in steps of its
    output (where nothing rounds the output: of 1/255 of its range), ``channels`` the share of its output channels that
    some input could saturate.
    """

    name: str
    operator: str
    outputs: int
    changed: float
    steps: float
    channels: float


@dataclass(frozen=True)
class _Layer:
    """A node and its integers: ``image`` and ``weight`` name the 8-bit tensors, ``step`` what rounds its output."""

    node: onnx.NodeProto
    image: str
    weight: str
    zero: int
    scale: NDArray[np.float32]  # of a sum, (O,) or (1,)
    step: float | None


def saturation(path: Path, feed: Arrays) -> list[LayerSaturation]:
    """Compute every int8 layer of a QDQ graph with and without 16-bit saturation, on the uint8 maps of one run.

    Looked at, in the order of the graph, are convolutions and matrix products of a uint8 map by int8 weights without
    a zero point. A depthwise convolution never saturates and is left out.

    Args:
        path: An ONNX file in QDQ form.
        feed: Its inputs by name, float32 (N, C, H, W).

    Raises:
        ArtifactError: If the file is no ONNX network that runs here.
    """
    model = read_onnx(path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = _layers(model, stored)
    values = stored | _run(model, layers, stored, feed)
    measured = (_measure(layer, values) for layer in layers)
    return [found for found in measured if found is not None]


def _layers(model: onnx.ModelProto, stored: Arrays) -> list[_Layer]:
    producers = {output: node for node in model.graph.node for output in node.output}
    readers = {name: node for node in model.graph.node for name in node.input[:1]}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        sides = [producers.get(name) for name in node.input[:2]]
        if all(side is not None and side.op_type == "DequantizeLinear" for side in sides):
            left, right = (side for side in sides if side is not None)
            zero = _constant(left, 2, stored)
            if zero.dtype == np.uint8 and not _constant(right, 2, stored).any() and left.input[0] not in stored:
                scale = (stored[left.input[1]] * stored[right.input[1]]).astype(np.float32).ravel()
                step = _step(node.output[0], stored, readers)
                found.append(_Layer(node, left.input[0], right.input[0], int(zero.ravel()[0]), scale, step))
    return found


def _constant(node: onnx.NodeProto, index: int, stored: Arrays) -> NDArray[Any]:
    """A zero point; the one that is not given is 0 in 8 bits without sign."""
    return stored[node.input[index]] if len(node.input) > index else np.zeros(1, np.uint8)


def _step(output: str, stored: Arrays, readers: Mapping[str, onnx.NodeProto]) -> float | None:
    reader = readers.get(output)
    while reader is not None and reader.op_type in _PASSED:
        reader = readers.get(reader.output[0])
    if reader is None or reader.op_type != "QuantizeLinear" or reader.input[1] not in stored:
        return None
    return float(stored[reader.input[1]].ravel()[0])


def _run(model: onnx.ModelProto, layers: list[_Layer], stored: Arrays, feed: Arrays) -> dict[str, NDArray[Any]]:
    """Run the graph once with every layer's 8-bit tensors, and every output that nothing rounds, as further outputs."""
    kinds = {layer.image: TensorProto.UINT8 for layer in layers}
    kinds |= {layer.weight: TensorProto.INT8 for layer in layers}
    kinds |= {layer.node.output[0]: TensorProto.FLOAT for layer in layers if layer.step is None}
    present = {value.name for value in model.graph.output}
    wanted = [name for name in kinds if name not in stored and name not in feed]
    for name in wanted:
        if name not in present:
            model.graph.output.append(helper.make_tensor_value_info(name, kinds[name], None))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.onnx"
        onnx.save(model, path)
        values = open_session(path).run(wanted, dict(feed)) if wanted else []
    return dict(feed) | dict(zip(wanted, values, strict=True))


def _measure(layer: _Layer, values: Arrays) -> LayerSaturation | None:
    node, weight = layer.node, values[layer.weight]
    parts = groups(node)
    if node.op_type == "Conv" and parts == len(weight) and weight.shape[1] == 1:
        return None  # depthwise
    axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else weight.ndim - 1
    kernel = rows(weight, axis).reshape(parts, -1, weight.size // weight.shape[axis])
    scale = np.broadcast_to(layer.scale, weight.shape[axis]).reshape(parts, -1)
    count = changed = 0
    largest = 0.0
    for part, columns in _columns(layer, values[layer.image], weight):
        exact, cut = sums(columns, kernel[part])
        change = np.abs(exact - cut)
        count, changed = count + change.size, changed + int(np.count_nonzero(change))
        largest = max(largest, float((change * scale[part]).max(initial=0)))
    step = layer.step if layer.step is not None else float(np.ptp(values[node.output[0]])) / 255
    return LayerSaturation(
        name=node.name or node.output[0],
        operator=node.op_type,
        outputs=count,
        changed=changed / max(count, 1),
        steps=largest / step if step else 0.0,
        channels=float(can_saturate(weight, axis).mean()),
    )


def _columns(
    layer: _Layer, image: NDArray[np.uint8], weight: NDArray[np.int8]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield in blocks what the kernels multiply by the weights of each group, (M, taps * I / groups)."""
    if layer.node.op_type != "Conv":
        vectors = image.T if attribute(layer.node, "transA", 0) else image.reshape(-1, image.shape[-1])
        yield from ((0, vectors[start : start + _BLOCK]) for start in range(0, len(vectors), _BLOCK))
        return
    count, inputs = weight.ndim - 2, weight.shape[1]
    windows = _windows(layer, image, weight.shape[2:])
    for picture in windows.transpose(0, *range(2, 2 + 2 * count), 1):  # lines, ..., taps, C
        lines = max(1, _BLOCK // prod(picture.shape[1:count]))
        for start in range(0, len(picture), lines):
            for part in range(groups(layer.node)):
                block = picture[start : start + lines, ..., part * inputs : (part + 1) * inputs]
                yield part, block.reshape(-1, prod(weight.shape[1:]))


def _windows(layer: _Layer, image: NDArray[np.uint8], sides: tuple[int, ...]) -> NDArray[np.uint8]:
    """What each place of a convolution's output sees, (N, C, places..., taps...), padded with the zero point."""
    ones, node = [1] * len(sides), layer.node
    strides, dilations = _numbers(node, "strides", ones), _numbers(node, "dilations", ones)
    reach = [(side - 1) * step + 1 for side, step in zip(sides, dilations, strict=True)]
    added = _padding(node, image.shape[2:], reach, strides)
    padded = np.pad(image, [(0, 0), (0, 0), *added], constant_values=layer.zero)
    axes: Any = tuple(range(2, image.ndim))  # numpy's stub knows only one axis
    windows: NDArray[np.uint8] = sliding_window_view(padded, reach, axis=axes)
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    return windows[:, :, *steps]


def _padding(
    node: onnx.NodeProto, sides: tuple[int, ...], reach: list[int], strides: list[int]
) -> list[tuple[int, int]]:
    kind = next((entry.s.decode() for entry in node.attribute if entry.name == "auto_pad"), "NOTSET")
    if not kind.startswith("SAME"):
        pads = _numbers(node, "pads", [0] * 2 * len(sides))
        return list(zip(pads[: len(sides)], pads[len(sides) :], strict=True))
    added = []
    for side, long, step in zip(sides, reach, strides, strict=True):
        whole = max(0, (-(-side // step) - 1) * step + long - side)
        pair = (whole // 2, whole - whole // 2)
        added.append(pair if kind == "SAME_UPPER" else pair[::-1])
    return added


def _numbers(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(entry.ints) for entry in node.attribute if entry.name == name), default)
