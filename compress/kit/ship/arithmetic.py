"""Where an ONNX graph computes: multiply-accumulates by operator, which run on integers, and why the rest don't."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx
from onnx import NodeProto, TensorProto

from compress.kit.ship.count import node_macs
from compress.kit.ship.dtypes import dtype_bits, dtype_name
from compress.kit.ship.loading import INTEGER, LAYERS, Loading, folded, quantized
from compress.kit.ship.wires import (
    Reader,
    constants_of,
    node_label,
    producers_of,
    readers_of,
    skeleton,
    stored_tensors,
)

# of these ONNX Runtime has no kernel on integers
_FLOAT_ONLY = {
    "ConvTranspose": "ONNX Runtime has no transposed convolution on integers",
    "DeformConv": "ONNX Runtime has no deformable convolution on integers",
    "InstanceNormalization": "ONNX Runtime has no instance norm on integers",
    "LayerNormalization": "ONNX Runtime has no layer norm on integers",
    "GroupNormalization": "ONNX Runtime has no group norm on integers",
    "BatchNormalization": "a batch norm on its own: there was no convolution to fold it into",
    "MatMulNBits": "its weights of a few bits are widened to float",
    "Attention": "attention of floats",
    "FusedConv": "an operator that ONNX Runtime made of float ones",
    "FusedMatMul": "an operator that ONNX Runtime made of float ones",
    "FusedGemm": "an operator that ONNX Runtime made of float ones",
}
_NOTHING = "no map of this network is rounded to integers"
_CLIPPED = ("Relu", "Clip")


@dataclass(frozen=True)
class Work:
    """A heavy operator: convolution, matrix product or norm.

    ``macs`` are of one image, None where shapes can't be inferred. ``why`` tells of one that computes in float the
    reason, and is empty for one on integers. ``fused`` is what ONNX Runtime made of it: True for an integer kernel,
    None where it was not asked.
    """

    name: str
    operator: str
    macs: int | None
    integer: bool
    why: str = ""
    fused: bool | None = None


def heavy(model: onnx.ModelProto, size: tuple[int, int], reasons: Mapping[str, str] | None = None) -> list[Work]:
    """List the heavy operators of a graph in its order, those of inner graphs left out.

    A convolution is on integers when its image and its weights come out of DequantizeLinear and its result goes into
    QuantizeLinear and nowhere else, past a ReLU or Clip: runtimes make one integer kernel of that. A matrix product
    need not be followed by QuantizeLinear.

    Args:
        model: The graph; stays as it is.
        size: Height and width at which multiply-accumulates are counted, where the graph leaves them free.
        reasons: Why nodes were left in float, by name, where whoever quantized said so.
    """
    graph, macs, reasons = _Graph(model), counted(model, size), reasons or {}
    works = []
    for node in model.graph.node:
        if node.op_type not in (*INTEGER, *LAYERS, *_FLOAT_ONLY):
            continue
        label = node_label(node)
        why = "" if node.op_type in INTEGER else graph.why_float(node)
        known = reasons.get(label, "") if why else ""
        multiplies = node.op_type in (*INTEGER, *LAYERS, "MatMulNBits", "Attention")
        count = macs.get(label) if multiplies else 0
        works.append(Work(label, node.op_type, count, not why, known or why))
    return works


def counted(model: onnx.ModelProto, size: tuple[int, int]) -> dict[str, int]:
    """Count multiply-accumulates of one image by node; nothing where its sizes can't be told.

    size: height and width for sides that the graph leaves free; those it fixes stay.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    image = next((value for value in model.graph.input if value.name not in stored), None)
    sides = list(image.type.tensor_type.shape.dim) if image is not None else []
    if len(sides) != 4:
        return {}
    height, width = (sides[axis].dim_value or length for axis, length in ((2, size[0]), (3, size[1])))
    macs = _macs(skeleton(model), (height, width))
    if macs or not any(node.op_type in LAYERS for node in model.graph.node):
        return macs
    # sizes that the graph computes in more ways than shape inference follows: ONNX Runtime computes them at load
    fixed = folded(model, (1, sides[1].dim_value, height, width))
    return {} if fixed is None else _macs(fixed, (height, width))


def _macs(model: onnx.ModelProto, size: tuple[int, int]) -> dict[str, int]:
    try:
        return node_macs(model, size)
    # a graph that contradicts itself makes shape inference fail in any way it likes
    except Exception:
        return {}


def with_fused(works: list[Work], loading: Loading) -> list[Work]:
    """Put down what ONNX Runtime made of each operator; as they are where it couldn't load the graph."""
    if loading.error:
        return works
    return [replace(work, fused=work.name in loading.fused) for work in works]


class _Graph:
    """A graph with what has to be looked up of it again and again."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.stored = stored_tensors(model.graph)
        self.constants = constants_of(model.graph, self.stored)
        self.producers, self.readers = producers_of(model.graph), readers_of(model.graph)
        self.outputs = {value.name for value in model.graph.output}
        self.quantized = quantized(model)

    def why_float(self, node: NodeProto) -> str:
        """Why a node computes in float; "" where nothing keeps it from integers."""
        if not self.quantized:
            return _NOTHING
        if node.op_type in _FLOAT_ONLY:
            return _FLOAT_ONLY[node.op_type]
        if len(node.input) < 2 or not node.output:
            return "it lacks an input"
        product = node.op_type in ("MatMul", "Gemm")
        return (
            self._image(node.input[0])
            or self._weights(node.input[1])
            or ("" if product else self._result(node.output[0]))
        )

    def _image(self, name: str) -> str:
        source = self.producers.get(name)
        if source is None:
            return "it reads the image in float"
        if source.op_type != "DequantizeLinear":
            return f"it reads the float result of {source.op_type}: no DequantizeLinear in between"
        maker = self.producers.get(source.input[0])
        zero = self.stored.get(maker.input[2]) if maker is not None and len(maker.input) > 2 else None
        bits = dtype_bits(dtype_name(zero.data_type)) if zero is not None else 8
        return "" if bits == 8 else f"its image has {bits} bits a value: integer kernels take 8"

    def _weights(self, name: str) -> str:
        source = self.producers.get(name)
        if source is not None and source.op_type == "DequantizeLinear":
            blocks = next((entry.i for entry in source.attribute if entry.name == "block_size"), 0)
            narrow = self.stored.get(source.input[0])
            few = narrow is not None and narrow.data_type in (TensorProto.INT4, TensorProto.UINT4)
            return "its weights have a scale per block, which no integer kernel takes" if blocks or few else ""
        if name not in self.constants:
            return "its weights are computed, not stored"
        if name in self.stored:
            return f"its weights are stored as {dtype_name(self.stored[name].data_type)}"
        return "its weights are widened to float when the file is loaded"

    def _result(self, name: str) -> str:
        readers = self._past_clips(name)
        if readers is None:
            return "its result is the picture, in float"
        others = sorted({reader.node.op_type for reader in readers if reader.node.op_type != "QuantizeLinear"})
        if others:
            return f"its result is read in float by {', '.join(others)}"
        return "" if readers else "nobody reads its result"

    def _past_clips(self, name: str) -> list[Reader] | None:
        """Readers of a tensor, past a ReLU or Clip that alone reads it; None where it leaves the graph."""
        seen: set[str] = set()
        while name not in seen and name not in self.outputs:
            seen.add(name)
            readers = self.readers.get(name, [])
            if len(readers) != 1 or readers[0].node.op_type not in _CLIPPED or not readers[0].node.output:
                return readers
            name = readers[0].node.output[0]
        return None
