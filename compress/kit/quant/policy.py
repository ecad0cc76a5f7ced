"""Which form every node of a graph takes when it is quantized, and why: what `--explain` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.core.errors import UsageError, did_you_mean
from compress.kit.quant.plan import INTEGER, Choice, Form, Grid, Plan
from compress.kit.quant.prepare import WEIGHTED
from compress.kit.ship.count import node_macs
from compress.kit.ship.runtime import float_initializers

# all: every map between integer layers is 8 bits. convolutions: only what a convolution reads and writes.
# inputs: only what a convolution reads.
Style = Literal["all", "convolutions", "inputs"]

INTEGER_LAYERS = ("Conv", "Gemm", "MatMul")

# Operators that compute on 8-bit maps, or only move them.
COMPUTE = ("Relu", "LeakyRelu", "Clip", "Add", "Concat", "AveragePool")
MOVE = ("MaxPool", "Resize", "Pad", "DepthToSpace")  # what they write lies on the grid of what they read

# Operators that read a whole map at once.
NORMS = {
    "InstanceNormalization": "its mean and variance run over a whole map: 8 bits would shift every pixel, and ONNX "
    "Runtime computes it in float32 anyway",
    "LayerNormalization": "its mean and variance run over many values",
    "GroupNormalization": "its mean and variance run over many values",
    "BatchNormalization": "no convolution to fold it into",
    "ReduceMean": "a mean over a whole map",
    "GlobalAveragePool": "a mean over a whole map",
}
HEADS = {
    "Sigmoid": "the head decides the picture's grey levels",
    "Tanh": "the head decides the picture's colours",
    "Softmax": "the head decides the classes",
}
EXPLAINED = (*WEIGHTED, *NORMS, *HEADS, *COMPUTE, *MOVE)  # nodes whose form a user may ask about
_BETWEEN = dict.fromkeys((*COMPUTE, *MOVE), "float, as what is around it: 8 bits would buy no speed here")
SIZES = Choice("float32", "computes sizes, not maps")
_LARGEST_HALF = 65504.0
_HEAD_SHARE = 0.05  # of all multiply-accumulates: a head that costs less stays in float


def style_for(model: onnx.ModelProto, runtime: str) -> tuple[Style, str]:
    """Return the style that pays for this network in this runtime, and why."""
    if runtime == "openvino":
        return "inputs", "OpenVINO computes a convolution in 8 bits when its input is: nothing else needs rounding"
    operators = {node.op_type for node in model.graph.node}
    if "InstanceNormalization" in operators:
        return "convolutions", "instance norms compute in float32, so 8-bit maps between them buy no speed"
    return "all", "maps stay 8 bits in memory from one convolution to the next"


def decide(
    model: onnx.ModelProto,
    grids: Mapping[str, Grid],
    *,
    style: Style,
    form: Form = "int8",
    keep: Mapping[str, Choice] | None = None,
    safe_weights: bool = False,
    half: bool = False,
    size: tuple[int, int] | None = None,
) -> Plan:
    """Plan a prepared graph.

    Args:
        model: Prepared, see ``prepare_graph``.
        grids: A grid for every float tensor, from calibration; for weight-only forms it may be empty.
        style: Which maps are rounded, where ``form`` is one of INTEGER.
        form: What layers with weights become.
        keep: Choices that win over the policy's, by node name.
        safe_weights: See ``Plan``.
        half: See ``Plan``.
        size: Height and width at which multiply-accumulates are counted, to see whether the head is cheap.

    Raises:
        UsageError: If ``keep`` names no node.
    """
    keep = keep or {}
    names = [node.name for node in model.graph.node]
    for name in keep:
        if name not in names:
            raise UsageError(f"the network has no node '{name}'{did_you_mean(name, names)}",
                             hint="compress quantize --explain lists them")  # fmt: skip
    layers = {node.name: choice for node, choice in _choices(model, form, style, size)}
    layers.update(keep)
    wide = any(choice.wide for choice in keep.values())
    if wide:
        layers.update(_feeding(model, layers))
    maps = _maps(model, layers, style, grids) if form in INTEGER else {}
    return Plan(layers, maps, style == "all" and not wide, safe_weights=safe_weights, half=half)


def _choices(
    model: onnx.ModelProto, form: Form, style: Style, size: tuple[int, int] | None
) -> Iterator[tuple[onnx.NodeProto, Choice]]:
    stored = float_initializers(model)
    heads = _cheap_heads(model, size) if form in INTEGER else {}
    sizes = {
        value.name for value in model.graph.value_info if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT
    }
    for node in model.graph.node:
        if node.output[0] in sizes:
            yield node, SIZES
        elif node.op_type in WEIGHTED:
            yield node, _layer(node, form, stored, heads)
        elif node.op_type in NORMS or node.op_type in HEADS:
            yield node, Choice("float32", NORMS.get(node.op_type) or HEADS[node.op_type])
        elif node.op_type in (*COMPUTE, *MOVE) and style == "all" and form in INTEGER:
            yield node, Choice("int8", "computes on 8-bit maps" if node.op_type in COMPUTE else "moves 8-bit maps")
        else:
            yield node, Choice("float32", _BETWEEN.get(node.op_type, "computes no map of a layer"))


def _layer(
    node: onnx.NodeProto, form: Form, stored: Mapping[str, NDArray[np.float32]], heads: Mapping[str, str]
) -> Choice:
    if len(node.input) < 2 or node.input[1] not in stored:
        return Choice("float32", "its weights are computed, not stored")
    if form == "float16w" and np.abs(stored[node.input[1]]).max(initial=0) > _LARGEST_HALF:
        return Choice("float32", "weights beyond 65504, the largest float16")
    if form not in INTEGER:
        return Choice(form, "weights only: computes in float")
    if node.op_type == "ConvTranspose":
        weights_only: Form = "int8w" if form == "int8" else "int4w"
        return Choice(weights_only, "ONNX Runtime computes it in float32: only its weights are stored as integers")
    if node.name in heads:
        return Choice("float32", heads[node.name])
    return Choice(form, "integer kernel")


def _feeding(model: onnx.ModelProto, layers: Mapping[str, Choice]) -> dict[str, Choice]:
    """What makes the maps of layers kept wide computes in float too: an integer kernel would round what it writes."""
    producers = {output: node for node in model.graph.node for output in node.output}
    waiting = [node.input[0] for node in model.graph.node if layers[node.name].wide]
    found: dict[str, Choice] = {}
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in found or layers[node.name].form not in INTEGER:
            continue
        layer = node.op_type in WEIGHTED
        found[node.name] = Choice("int8w" if layer else "float32", "feeds a layer that is kept wide")
        waiting.extend(() if layer else node.input)
    return found


def _cheap_heads(model: onnx.ModelProto, size: tuple[int, int] | None) -> dict[str, str]:
    """Layers with no further layer between them and the output, where they cost next to nothing."""
    macs = node_macs(model, size) if size else {}
    total = sum(macs.values())
    found: dict[str, str] = {}
    for name in last_layers(model):
        share = macs.get(name, 0) / total if total else 1.0
        if share <= _HEAD_SHARE:
            found[name] = f"last layer: 8 bits would step the picture, and it takes {share:.1%} of the work"
    return found


def last_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layers whose values reach the first output through no other layer."""
    producers = {output: node for node in model.graph.node for output in node.output}
    waiting, seen, found = [model.graph.output[0].name], set(), []
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in WEIGHTED:
            found.append(node.name)
        else:
            waiting.extend(node.input)
    return found


def _maps(
    model: onnx.ModelProto, layers: Mapping[str, Choice], style: Style, grids: Mapping[str, Grid]
) -> dict[str, Grid]:
    readers = readers_of(model)
    outputs = {value.name for value in model.graph.output}
    wanted: dict[str, Grid] = {}
    for node in model.graph.node:
        if layers[node.name].form not in INTEGER:
            continue
        read = node.input if node.op_type in ("Add", "Concat") else node.input[:1]
        written = () if style == "inputs" else node.output
        for name in (rounded_instead(name, readers, outputs) for name in (*read, *written)):
            if name in grids:
                wanted.setdefault(name, grids[name])
    return _moved(model, layers, wanted)


def rounded_instead(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]], outputs: set[str]) -> str:
    """The tensor to round instead of ``name``: a ReLU that alone reads it is part of the rounding."""
    reading = readers.get(name, ())
    if len(reading) == 1 and reading[0].op_type == "Relu" and name not in outputs:
        return str(reading[0].output[0])
    return name


def _moved(model: onnx.ModelProto, layers: Mapping[str, Choice], maps: dict[str, Grid]) -> dict[str, Grid]:
    """Give what only moves values one grid for both sides, so that the runtime moves bytes."""
    for node in model.graph.node:
        moves = node.op_type in MOVE and layers[node.name].form in INTEGER
        if moves and node.input[0] in maps and node.output[0] in maps:
            maps[node.output[0]] = maps[node.input[0]]
    return maps


def readers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor, by its name."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def rounded_for_all(prepared: onnx.ModelProto, plan: Plan) -> set[str]:
    """Return the tensors that are rounded right where they are made, so that everybody reads them so.

    Without ``plan.shared`` they are those that something in integers makes; every other tensor on a grid is rounded
    for its integer readers alone. A ReLU that is part of its layer's rounding makes what the layer makes.
    """
    made = {
        name
        for node in prepared.graph.node
        if plan.shared or plan.layers[node.name].form in INTEGER
        for name in node.output
    }
    readers, outputs = readers_of(prepared), {value.name for value in prepared.graph.output}
    for node in prepared.graph.node:
        source = node.input[0] if node.input else ""
        folded = node.op_type == "Relu" and source in made and len(readers[source]) == 1
        grid = plan.maps.get(node.output[0])
        if folded and grid is not None and grid.zero == 0 and source not in (*outputs, *plan.maps):
            made.add(node.output[0])
    return made & plan.maps.keys()
