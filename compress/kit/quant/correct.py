"""Bias correction: the mean error that rounding a layer's weights makes, taken off its bias."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.kit.quant.insert import round_layer, stored_layers
from compress.kit.quant.plan import Plan
from compress.kit.quant.qdq import drop_unused
from compress.kit.ship.runtime import float_initializers


def correct_biases(prepared: onnx.ModelProto, plan: Plan, means: Mapping[str, NDArray[np.float64]]) -> onnx.ModelProto:
    """Return a copy whose convolutions have corrected biases.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, with
    means measured on the calibration photos. It decides where a channel is nearly constant and large.

    Args:
        prepared: The float graph.
        plan: How its weights will be rounded.
        means: Mean of each channel (C,) of a convolution's input, by the tensor's name.
    """
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    weights = float_initializers(model)
    for node in stored_layers(model).values():
        rounded = round_layer(node, weights[node.input[1]], plan) if node.op_type == "Conv" else None
        if rounded is None or node.input[0] not in means:
            continue
        error = rounded - weights[node.input[1]]
        bias = np.zeros(len(error)) if len(node.input) < 3 else weights.get(node.input[2])
        if bias is None:
            continue
        corrected = bias - mean_shift(error, means[node.input[0]])
        name = f"{node.name}/corrected"
        model.graph.initializer.append(numpy_helper.from_array(corrected.astype(np.float32), name))
        node.input[:] = [*node.input[:2], name]
    drop_unused(model)
    return model


def mean_shift(error: NDArray[np.float32], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean change of each output channel when the weights change by ``error``.

    error: (O, I / groups, kh, kw); means: (I,) of the input. Padded borders, where fewer taps count, are left out.
    """
    outputs, inputs = error.shape[:2]
    summed = error.astype(np.float64).reshape(outputs, inputs, -1).sum(2)
    groups = len(means) // inputs
    by_group = np.repeat(means.reshape(groups, inputs), outputs // groups, axis=0)
    shift: NDArray[np.float64] = (summed * by_group).sum(1)
    return shift
