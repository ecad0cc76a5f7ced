"""Bias correction: what rounding adds to the mean of a layer's channels, taken off its bias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.kit.quant.insert import round_layer, stored_layers
from compress.kit.quant.plan import Plan
from compress.kit.quant.policy import readers_of
from compress.kit.quant.qdq import attribute
from compress.kit.quant.rewrite import with_inputs
from compress.kit.quant.scalable import weight_axes
from compress.kit.quant.walk import Visit, walk
from compress.kit.ship.runtime import float_initializers

Floats = NDArray[np.float64]
_BIASED = ("Conv", "ConvTranspose", "Gemm")
# a constant added to a channel comes out of them as a constant
_TRANSPARENT = ("Add", "Identity", "MaxPool", "Resize")


def correct_biases(prepared: onnx.ModelProto, plan: Plan, means: Mapping[str, Floats]) -> onnx.ModelProto:
    """Return a copy with biases that make up for rounded weights.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, with means
    measured on the calibration photos. It decides where a channel is nearly constant and large. A layer that only
    instance norms read keeps its bias: they take every constant out.

    Args:
        prepared: The float graph.
        plan: How its weights will be rounded.
        means: Mean of each channel (C,) of a layer's input, by the tensor's name; layers without stay as they are.
    """
    weights = float_initializers(prepared)
    shifts: dict[str, Floats] = {}
    for name, node in _correctable(prepared).items():
        rounded = round_layer(node, weights[node.input[1]], plan)
        if rounded is not None and node.input[0] in means:
            shifts[name] = mean_shift(node, rounded - weights[node.input[1]], means[node.input[0]])
    return _shifted(prepared, shifts)


def measure_biases(
    prepared: onnx.ModelProto, plan: Plan, feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> onnx.ModelProto:
    """Return a copy whose layers write, on average, what they did: measured in the quantized graph.

    Section 4.2 of the same paper, the empirical way: layer by layer, each reading what the corrected ones before it
    write. It makes up for rounded maps too, layers that stay in float included. Not always the better of the two: with
    4 bits a published U²-NetP stayed broken by it that the other one mended.

    Args:
        prepared: The float graph.
        plan: How it will be quantized.
        feeds: Photos, see ``walk``.

    Raises:
        DataError: If there is no photo.
        UsageError: If the graph can't be run in torch.
    """
    correctable, shifts = _correctable(prepared), dict[str, Floats]()

    def visit(layer: Visit) -> tuple[Tensor, Tensor | None]:
        if layer.node.name not in correctable:
            return layer.rounded, layer.bias
        sums = torch.zeros(layer.targets[0].shape[1], dtype=torch.float64)
        count = 0
        for image, target in zip(layer.inputs, layer.targets, strict=True):
            error = (layer.output(image, layer.rounded, layer.bias) - target).double().transpose(0, 1).flatten(1)
            sums += error.sum(1)
            count += error.shape[1]
        shift = sums / count
        shifts[layer.node.name] = shift.numpy()
        bias = torch.zeros(len(shift)) if layer.bias is None else layer.bias
        return layer.rounded, (bias - shift.reshape(bias.shape)).float()

    walk(prepared, plan, feeds, visit)
    return _shifted(prepared, shifts)


def mean_shift(node: onnx.NodeProto, error: NDArray[np.float32], means: Floats) -> Floats:
    """Mean change of each output channel (O,) when the weights of a layer change by ``error``.

    means: (I,) of the layer's input. Padded borders, where fewer taps count, are left out.
    """
    view, _ = weight_axes(node, error)  # (groups, O, I, taps)
    summed = view.astype(np.float64).sum(3)
    shift = np.einsum("goi,gi->go", summed, means.reshape(len(view), -1)).ravel()
    if node.op_type == "ConvTranspose":
        # of a filter's taps, each place meets one in so many
        strides = next((list(entry.ints) for entry in node.attribute if entry.name == "strides"), [1])
        shift = shift / np.prod(strides)
    return np.asarray(shift)


def _correctable(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Layers by name whose bias is stored, one number a channel, or absent, and means something."""
    weights, readers = float_initializers(model), readers_of(model)
    outputs = {value.name for value in model.graph.output}

    def forgotten(name: str) -> bool:
        reading = readers.get(name, [])
        return name not in outputs and bool(reading) and all(
            node.op_type == "InstanceNormalization"
            or (node.op_type in _TRANSPARENT and forgotten(node.output[0]))
            for node in reading
        )  # fmt: skip

    found = {}
    for name, node in stored_layers(model).items():
        if node.op_type not in _BIASED or forgotten(node.output[0]):
            continue
        view, _ = weight_axes(node, weights[node.input[1]])
        bias = weights.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        present = len(node.input) > 2 and bool(node.input[2])
        fits = bias is not None and bias.size == view.shape[0] * view.shape[1]
        if _plain(node) and (fits or not present):
            found[name] = node
    return found


def _plain(node: onnx.NodeProto) -> bool:
    """Whether a layer adds its bias as it is: a Gemm may scale it, or multiply a turned map."""
    factors = [entry.f for entry in node.attribute if entry.name in ("alpha", "beta")]
    return node.op_type != "Gemm" or (not attribute(node, "transA", 0) and all(factor == 1 for factor in factors))


def _shifted(prepared: onnx.ModelProto, shifts: Mapping[str, Floats]) -> onnx.ModelProto:
    """Return a copy with ``shifts`` (O,) taken off the biases of the nodes they name."""
    weights = float_initializers(prepared)
    corrected = {}
    for node in prepared.graph.node:
        if node.name in shifts:
            shift = shifts[node.name]
            bias = weights[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(len(shift))
            corrected[node.name, 2] = bias - shift.reshape(bias.shape)
    return with_inputs(prepared, corrected, "corrected")
