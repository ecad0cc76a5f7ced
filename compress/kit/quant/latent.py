"""Weights to train from: the original ones, moved no further than learned rounding needs to come out again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.kit.quant.insert import output_axis, stored_layers
from compress.kit.quant.plan import Plan, Rounded
from compress.kit.quant.weights import quantize_channels
from compress.kit.ship.runtime import float_initializers

_INSIDE = 0.499  # of a step around an integer: what is this near to it is rounded to it, in float32 too


def with_latent_weights(prepared: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Return the graph with weights that plain rounding takes to the integers in ``plan.rounded``, where it can.

    Training rounds weights anew at every pass, to the nearest step: started from the original weights it would give
    up what better rounding had gained. Taken to the middle of their steps instead, none would ever change its integer
    at the small rates of fine-tuning; so each is moved just past the border of its step, those already within not at
    all. Channels whose scale would not come out the same keep the original weights, and so do weights in 4 bits, whose
    steps are searched for anew, and what other layers read too.
    """
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    weights, readers = float_initializers(model), Counter(name for node in model.graph.node for name in node.input)
    changed: dict[str, NDArray[np.float32]] = {}
    for name, node in stored_layers(model).items():
        known, source = plan.rounded.get(name), node.input[1]
        plain = plan.layers[name].form in ("int8", "int8w") and not plan.safe_weights
        if known is not None and plain and readers[source] == 1:
            changed[source] = latent(weights[source], known, output_axis(node))
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return model


def latent(weight: NDArray[np.float32], known: Rounded, axis: int) -> NDArray[np.float32]:
    """Return weights, shaped as ``weight``, nearest to it of those that plain rounding takes to ``known``.

    axis: of the output channels; a channel for which there is no such weight with the same scale stays as it is.
    """
    axis %= weight.ndim
    shape = [-1 if each == axis else 1 for each in range(weight.ndim)]
    scales = known.scales.astype(np.float64).reshape(shape)
    low, high = ((known.integers + side) * scales for side in (-_INSIDE, _INSIDE))
    moved = weight.astype(np.float64).clip(low, high).astype(np.float32)
    found = quantize_channels(moved, axis)
    others = tuple(other for other in range(weight.ndim) if other != axis)
    same = (found.integers == known.integers).all(others) & (found.scales == known.scales)
    return np.where(same.reshape(shape), moved, weight)
