"""Where a lowered graph first departs from ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from numpy.typing import NDArray

from compress.kit.lower import graph
from compress.kit.lower.layout import canonical
from compress.kit.lower.network import values
from compress.kit.lower.table import Value


def first_difference(model: onnx.ModelProto, image: NDArray[np.float32], tolerance: float) -> str:
    """Compare every node's output, and name the first that differs.

    Args:
        model: As it was lowered, functions inlined.
        image: (N, C, H, W), prepared.
        tolerance: Largest difference that is none, relative to the largest value where that is above 1.

    Returns:
        Words that name the node, or say that the lowering agrees at every node.
    """
    names = [output for node in model.graph.node for output in node.output if output]
    theirs = _reference(model, names, image)
    ours = _lowered(model, list(theirs), image)
    makers = {output: (graph.node_name(node, number), node.op_type)
              for number, node in enumerate(model.graph.node) for output in node.output}  # fmt: skip
    for name, wanted in theirs.items():
        found = ours[name]
        largest = max(1.0, float(np.abs(wanted).max(initial=0.0)))
        if found.shape != wanted.shape or not np.abs(found - wanted).max(initial=0.0) <= tolerance * largest:
            node, kind = makers[name]
            return f"the lowering first differs at {kind} node '{node}'"
    return "the lowering agrees with ONNX Runtime at every node: what came after it is at fault"


def _reference(model: onnx.ModelProto, names: list[str], image: NDArray[np.float32]) -> dict[str, Any]:
    """Run ONNX Runtime with every value as an output; those that are not float32 are left out."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(names, {session.get_inputs()[0].name: image})
    return {name: value for name, value in zip(names, found, strict=True) if value.dtype == np.float32}


def _lowered(model: onnx.ModelProto, names: list[str], image: NDArray[np.float32]) -> dict[str, Any]:
    def run(image: Any) -> Any:
        found = values(model, Value(image, last=True), wanted=names)
        return {name: canonical(found[name]) for name in names}

    traced = tf.function(run, autograph=False)
    return {name: np.asarray(value) for name, value in traced(tf.constant(image.transpose(0, 2, 3, 1))).items()}
