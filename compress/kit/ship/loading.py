"""What ONNX Runtime makes of a graph when it loads it: which operators become integer kernels, which sizes hold."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime import GraphOptimizationLevel

from compress.kit.ship.wires import node_label

# operators that multiply integers
INTEGER = (
    "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm",
    "DynamicQuantizeMatMul", "QAttention",
)  # fmt: skip
# operators that multiply floats
LAYERS = ("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "FusedGemm")
_MARK = re.compile(r"heavy-(\d+)-")


@dataclass(frozen=True)
class Loading:
    """What ONNX Runtime says to a file: ``fused`` nodes by label that became integer kernels; ``error`` if it can't."""

    fused: frozenset[str] = frozenset()
    error: str = ""


def quantized(model: onnx.ModelProto) -> bool:
    """Whether anything in a graph is quantized."""
    return any("Quantize" in node.op_type or node.op_type in INTEGER for node in model.graph.node)


def load(model: onnx.ModelProto) -> Loading:
    """Let ONNX Runtime load a graph and say which heavy nodes it turned into integer kernels.

    The graph is optimised as for running, short of laying it out anew for this processor.
    """
    numbered, labels = _numbered(model)
    try:
        made = _optimized(numbered, GraphOptimizationLevel.ORT_ENABLE_EXTENDED, keep=quantized(model))
    # ONNX Runtime raises a class of its own per failure, and a model above 2 GB can't be written in one piece
    except Exception as error:
        return Loading(error=" ".join(str(error).split())[:200] or type(error).__name__)
    nodes = made.graph.node if made is not None else ()
    found = {int(mark.group(1)) for node in nodes if node.op_type in INTEGER and (mark := _MARK.search(node.name))}
    return Loading(frozenset(labels[index] for index in found if index in labels))


def folded(model: onnx.ModelProto, shape: Sequence[int]) -> onnx.ModelProto | None:
    """Return a graph for images of one shape, all that then is constant computed; None if ONNX Runtime can't load it.

    shape: of its first input, one number a side.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    stored = {tensor.name for tensor in twin.graph.initializer}
    image = next(value for value in twin.graph.input if value.name not in stored)
    for side, length in zip(image.type.tensor_type.shape.dim, shape, strict=True):
        if length:
            side.dim_value = length
    try:
        return _optimized(twin, GraphOptimizationLevel.ORT_ENABLE_BASIC, keep=True)
    # as above
    except Exception:
        return None


def _optimized(model: onnx.ModelProto, level: GraphOptimizationLevel, *, keep: bool) -> onnx.ModelProto | None:
    """Load a graph and return what became of it, if it is to be kept."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "optimized.onnx"
        onnx.save(model, source)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        if keep:
            options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        return onnx.load(target) if keep else None


def _numbered(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[int, str]]:
    """Return the graph with names that find its heavy nodes again, whatever they were called, and whose they are."""
    twin, labels = onnx.ModelProto(), {}
    twin.CopyFrom(model)
    for index, node in enumerate(twin.graph.node):
        if node.op_type in (*INTEGER, *LAYERS):
            labels[index] = node_label(node)
            node.name = f"heavy-{index}-"
    return twin, labels
