"""A float32 graph made ready to be quantized: constants and batch norms folded, shapes inferred, nodes named."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
from onnxruntime.quantization.shape_inference import quant_pre_process

from compress.core.errors import ArtifactError
from compress.kit.ship.runtime import quiet

_OPSET = 17  # for older files: per-channel scales want 13
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def check_quantizable(name: str, model: onnx.ModelProto) -> None:
    """Check that there is something to quantize, and nobody did it before.

    Raises:
        ArtifactError: Saying which.
    """
    operators = Counter(node.op_type for node in model.graph.node)
    if operators["QuantizeLinear"] or operators["DequantizeLinear"] or operators["QLinearConv"]:
        raise ArtifactError(f"'{name}' is quantized already", hint="start from its float32 parent")
    if not any(operators[operator] for operator in WEIGHTED):
        raise ArtifactError(f"'{name}' has no convolution or matrix product to quantize")


def prepare_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with constants and batch norms folded, every shape inferred and every node named.

    Names are kept where there are any, so that a user can point at a node; operator sets below 13, which know no
    scale per channel, are raised.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken = {node.name for node in named.graph.node}
    for index, node in enumerate(named.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
    with tempfile.TemporaryDirectory() as folder, quiet():
        raw, ready = Path(folder) / "raw.onnx", Path(folder) / "ready.onnx"
        onnx.save(named, raw)
        # symbolic inference fails on free sides and then litters the working directory; the plain one is enough here
        quant_pre_process(str(raw), str(ready), skip_symbolic_shape=True)
        return _modern(onnx.load(ready))


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """Raise an old operator set to one with per-channel scales; drop operator sets nobody uses."""
    if opset_of(model) < 13:
        model = onnx.version_converter.convert_version(model, _OPSET)
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return onnx.shape_inference.infer_shapes(model)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set a model is written in."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
