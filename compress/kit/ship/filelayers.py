"""The layers with weights of an ONNX graph, in the order in which they are stored, which is one they can run in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.core.errors import ArtifactError

Array = NDArray[np.float32]
HEAVY = ("Conv", "ConvTranspose", "Linear")  # layers that multiply
_NORMS = {"BatchNormalization": "BatchNorm", "InstanceNormalization": "InstanceNorm"}
_HANDS_ON = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")  # change no value


@dataclass(frozen=True)
class FileLayer:
    """A layer of a file.

    Args:
        index: Which of the file's nodes it is.
        kind: "Conv", "ConvTranspose", "Linear", "BatchNorm" or "InstanceNorm".
        name: Of its weight's initializer.
        weight: Conv (out, in / groups, kh, kw), ConvTranspose (in, out / groups, kh, kw), Linear (out, in), norm (C,).
        bias: (out,) or None.
        form: What it must share with a layer of ours, for people.
        label: Name of its node.
        source: Index of the layer whose output it reads, -1 where that is none.
        mean: Batch norm's running mean (C,); ``variance`` likewise.
        eps: Of a norm.
    """

    index: int
    kind: str
    name: str
    weight: Array
    bias: Array | None
    form: str
    label: str
    source: int
    mean: Array | None = None
    variance: Array | None = None
    eps: float = 0.0

    @property
    def trivial(self) -> bool:
        """Whether a norm does no more than normalise what it is given: scale 1, shift 0, of its own statistics."""
        plain = bool((self.weight == 1).all()) and (self.bias is None or not self.bias.any())
        return self.kind == "InstanceNorm" and plain


def form_of(kind: str, shape: Sequence[int], *, stride: Any = (), dilation: Any = (), groups: int = 1) -> str:
    """Say what a layer is: "Conv 64x32x3x3 stride 2"; what is usual is left out."""
    words = [kind, shape_text(shape)]
    for word, value in (("stride", stride), ("dilation", dilation)):
        numbers = sorted({int(number) for number in value})
        if numbers not in ([], [1]):
            words += [word, shape_text(list(value)) if len(numbers) > 1 else str(numbers[0])]
    return " ".join([*words, *(["groups", str(groups)] if groups != 1 else [])])


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as "64x32x3x3"."""
    return "x".join(map(str, shape)) or "scalar"


def named_constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return every constant of a graph's top level: initializers, constant nodes, and copies of either."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type in ("Identity", "Cast") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def file_layers(model: onnx.ModelProto) -> list[FileLayer]:
    """List the layers of a graph that hold weights.

    Raises:
        ArtifactError: If the graph has none, is quantized, or weights something the file computes.
    """
    constants = named_constants(model)
    if any("QuantizeLinear" in node.op_type or "Integer" in node.op_type for node in model.graph.node):
        raise ArtifactError("the file is quantized, its weights are rounded", hint="give the float32 file it came from")
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    made: dict[str, int] = {}  # tensor: the layer it came out of
    layers = []
    for index, node in enumerate(model.graph.node):
        layer = _layer(index, node, constants, readers, made.get(node.input[0], -1) if node.input else -1)
        if layer is not None:
            layers.append(layer)
            made[node.output[0]] = index
            if (shift := _shift(node, constants, readers)) is not None and layer.bias is not None:
                made[shift[0]] = index
        elif node.op_type in _HANDS_ON and node.input[0] in made:
            made[node.output[0]] = made[node.input[0]]
    if not layers:
        raise ArtifactError("the file has no convolution or matrix product with weights of its own",
                            hint="give a float32 ONNX file of a network")  # fmt: skip
    return layers


Readers = Mapping[str, Sequence[onnx.NodeProto]]
Constants = Mapping[str, NDArray[Any]]


def _layer(index: int, node: onnx.NodeProto, constants: Constants, readers: Readers, source: int) -> FileLayer | None:
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type in _NORMS and all(name in constants for name in node.input[1:]):
        return _norm(index, node, constants, attributes, source)
    if node.op_type in ("Conv", "ConvTranspose"):
        kind, turned = node.op_type, False
    elif node.op_type == "Gemm":
        kind, turned = "Linear", not attributes.get("transB", 0)
    elif node.op_type == "MatMul":
        kind, turned = "Linear", True
    else:
        return None
    if node.input[1] not in constants:
        if node.op_type == "MatMul":  # of two maps: attention
            return None
        raise ArtifactError(f"node {node.name or node.output[0]} ({node.op_type}) computes its weights",
                            hint="export the network in eval mode with constants folded")  # fmt: skip
    weight = constants[node.input[1]].astype(np.float32)
    if kind == "Linear" and weight.ndim != 2:
        return None
    weight = weight * np.float32(attributes.get("alpha", 1.0)) if kind == "Linear" else weight
    form = form_of(
        kind,
        weight.shape[::-1] if turned else weight.shape,
        stride=attributes.get("strides", ()),
        dilation=attributes.get("dilations", ()),
        groups=attributes.get("group", 1),
    )
    bias = _bias(node, constants, readers, attributes)
    weight = np.ascontiguousarray(weight.T) if turned else weight
    return FileLayer(index, kind, node.input[1], weight, bias, form, node.name or node.output[0], source)


def _bias(node: onnx.NodeProto, constants: Constants, readers: Readers, attributes: Mapping[str, Any]) -> Array | None:
    if len(node.input) > 2 and node.input[2] in constants:
        bias: Array = constants[node.input[2]].astype(np.float32).reshape(-1) * np.float32(attributes.get("beta", 1.0))
        return bias
    shift = _shift(node, constants, readers)
    return shift[1] if shift else None


def _shift(node: onnx.NodeProto, constants: Constants, readers: Readers) -> tuple[str, Array] | None:
    """Return what is added to every channel right behind a layer: the name of the sum, and the bias (out,)."""
    behind = readers.get(node.output[0], ())
    weight = constants.get(node.input[1])
    if len(behind) != 1 or behind[0].op_type != "Add" or weight is None or node.op_type not in ("MatMul", "Conv"):
        return None
    other = next((name for name in behind[0].input if name != node.output[0]), "")
    added = constants.get(other)
    count = weight.shape[-1] if node.op_type == "MatMul" else weight.shape[0]
    if added is None or added.size != count or added.shape[0 if node.op_type == "MatMul" else -1] not in (1, count):
        return None
    # a number a channel lies on the last axis behind a matrix product, on the third from the end behind a convolution
    axis = added.ndim - 1 if node.op_type == "MatMul" else added.ndim - 3
    if axis < 0 or added.shape[axis] != count:
        return None
    return behind[0].output[0], added.astype(np.float32).reshape(-1)


def _norm(
    index: int, node: onnx.NodeProto, constants: Constants, attributes: Mapping[str, Any], source: int
) -> FileLayer:
    kind = _NORMS[node.op_type]
    weight, bias, *moments = (constants[name].astype(np.float32) for name in node.input[1:])
    mean, variance = moments if kind == "BatchNorm" else (None, None)
    form = form_of(kind, weight.shape)
    eps = float(attributes.get("epsilon", 1e-5))
    label = node.name or node.output[0]
    return FileLayer(index, kind, node.input[1], weight, bias, form, label, source, mean, variance, eps)
