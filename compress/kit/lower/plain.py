"""A TF.js graph model as TensorFlow runs it: the operations only TF.js knows taken apart, weights put back in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import ParseDict

from compress.core.errors import ArtifactError
from compress.kit.lower.graphmodel import Array, GraphModel, Stored, as_text, text

_FLOAT = {"type": "DT_FLOAT"}
_WHOLE = {"_FusedConv2D": "Conv2D", "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative", "_FusedMatMul": "MatMul"}
_EXTRA = ("fused_ops", "num_args", "epsilon", "leakyrelu_alpha", "TArgs")  # of the fused form alone


def function_of(model: GraphModel) -> Callable[[Any], Any]:
    """Return the network as a TensorFlow function of its image (N, H, W, C).

    Raises:
        ArtifactError: If TensorFlow refuses the graph.
    """
    definition = tf.compat.v1.GraphDef()
    try:
        ParseDict({"node": plain_nodes(model), "versions": model.head["versions"]}, definition)
        for node in definition.node:
            if node.op == "Const":
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(_typed(model.weights[node.name])))
        wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, name=""), [])
        pruned = wrapped.prune(f"{model.input}:0", f"{model.output}:0")
    # a malformed graph is refused with errors of many kinds
    except Exception as error:
        raise ArtifactError(
            f"TensorFlow can't read the graph model: {' '.join(str(error).split())[:200]}", hint="export it again"
        ) from error
    run: Callable[[Any], Any] = pruned
    return run


def _typed(values: Array) -> Array:
    return values.astype(np.bool_) if values.dtype == np.uint8 else values


def plain_nodes(model: GraphModel) -> list[Stored]:
    """Return the nodes with every fused operation taken apart into those TensorFlow has."""
    nodes: list[Stored] = []
    for node in model.nodes:
        if node["op"] in _WHOLE:
            nodes += _apart(node)
        elif node["op"] == "Prelu":
            nodes += _prelu(node["name"], node["input"])
        else:
            nodes.append(node)
    return nodes


def _apart(node: Stored) -> list[Stored]:
    """Take a fused node apart: the convolution or product, then each step that was fused into it."""
    name, inputs, attributes = node["name"], list(node["input"]), node["attr"]
    steps = [text({"s": step}) for step in attributes["fused_ops"]["list"]["s"]]
    kept = {key: value for key, value in attributes.items() if key not in _EXTRA}
    extra = inputs[2:]
    names = [f"{name}/{number}" for number in range(len(steps))] + [name]
    nodes: list[Stored] = [{"name": names[0], "op": _WHOLE[node["op"]], "input": inputs[:2], "attr": kept}]
    for number, step in enumerate(steps):
        source, target = names[number], names[number + 1]
        if step == "BiasAdd":
            given = {"T": _FLOAT, "data_format": as_text("NHWC")}
            nodes.append({"name": target, "op": step, "input": [source, extra.pop(0)], "attr": given})
        elif step == "Prelu":
            nodes += _prelu(target, [source, extra.pop(0)])
        elif step == "LeakyRelu":
            alpha = attributes.get("leakyrelu_alpha", {"f": 0.2})
            nodes.append({"name": target, "op": step, "input": [source], "attr": {"T": _FLOAT, "alpha": alpha}})
        else:
            plain = "Identity" if step == "NoOp" else step
            nodes.append({"name": target, "op": plain, "input": [source], "attr": {"T": _FLOAT}})
    return nodes


def _prelu(name: str, inputs: Sequence[str]) -> list[Stored]:
    source, slope = inputs
    typed = {"T": _FLOAT}
    return [
        {"name": f"{name}/above", "op": "Relu", "input": [source], "attr": typed},
        {"name": f"{name}/turned", "op": "Neg", "input": [source], "attr": typed},
        {"name": f"{name}/below", "op": "Relu", "input": [f"{name}/turned"], "attr": typed},
        {"name": f"{name}/slope", "op": "Mul", "input": [f"{name}/below", slope], "attr": typed},
        {"name": name, "op": "Sub", "input": [f"{name}/above", f"{name}/slope"], "attr": typed},
    ]
