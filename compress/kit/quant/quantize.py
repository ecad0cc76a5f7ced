"""Post-training int8 quantization of an ONNX file: QDQ, weights per channel, biases corrected."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from compress.core.errors import ArtifactError, UsageError, did_you_mean
from compress.core.whole import written_whole
from compress.kit.graph import sqnr
from compress.kit.quant.calibrate import Calibration, Feed, Method, calibrate
from compress.kit.quant.qdq import drop_unused, keep_in_float, quantize_weight, shorten, store_transposed_weights
from compress.kit.ship.runtime import float_initializers, open_session, quiet, read_onnx

# Operators that compute or only move 8-bit values: kept between convolutions so that maps stay 8 bits in memory.
QUANTIZED = (
    "Conv", "Gemm", "MatMul",
    "Relu", "LeakyRelu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "Resize", "Pad", "DepthToSpace",
)  # fmt: skip

# In a network with instance norms only these are rounded: the norm runs in float32, so 8-bit maps around it buy no
# speed, and rounding every operator cost a small pix2pixHD +4.5 % of loss against +0.3 %.
CONVOLUTIONS = ("Conv", "Gemm", "MatMul")

# Operators left in float32, and why.
LEFT_IN_FLOAT = {
    "ConvTranspose": "ONNX Runtime computes it in float32: its weights are stored as int8, its maps are not rounded",
    "InstanceNormalization": "ONNX Runtime computes it in float32",
    "BatchNormalization": "no convolution to fold it into",
    "Sigmoid": "the head decides the picture's grey levels",
    "Tanh": "the head decides the picture's colours",
    "Softmax": "the head decides the classes",
}

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OPSET = 17  # for older files: per-channel scales want 13
_NO_WEIGHTS = "its weights are computed, not stored"


@dataclass(frozen=True)
class QuantReport:
    """What a quantization did.

    ``operators`` counts the nodes that compute in 8 bits; ``left`` says of each convolution, matrix product or
    norm that doesn't, by name, why. ``sqnr`` is in dB, of the first output on the first calibration batch.
    """

    quantized: int  # convolutions and matrix products that compute in 8 bits
    left: dict[str, str]
    operators: dict[str, int]
    bytes_before: int
    bytes_after: int
    images: int
    sqnr: float


def quantize_int8(
    source: Path,
    target: Path,
    batches: Iterable[Feed],
    *,
    method: Method = "minmax",
    exclude: Sequence[str] = (),
    percentile: float = 99.999,
    correct_bias: bool = True,
    threads: int = 0,
    advance: Callable[[], None] | None = None,
) -> QuantReport:
    """Quantize an ONNX file: weights int8 per output channel, symmetric; activations uint8; biases int32.

    The form is QDQ, which ONNX Runtime and OpenVINO both fuse into integer convolutions. Signed activations would
    leave most convolutions in float32 on x86.

    Args:
        source: A float32 ONNX file; it is only read.
        target: Where the int8 file goes, whole or not at all.
        batches: Inputs by name, float32 (N, C, H, W); seen once, one at a time.
        method: How ranges are found, see ``calibrate``.
        exclude: Names of nodes to leave in float32.
        percentile: Share of values that "percentile" keeps, in percent.
        correct_bias: Take the mean error that rounding the weights makes off the biases (Nagel et al. 2019,
            "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, with means
            measured on the batches). Decides where a channel is nearly constant and large.
        threads: Threads of calibration; 0 leaves the choice to ONNX Runtime.
        advance: Called after each batch.

    Raises:
        ArtifactError: If the source is no float32 ONNX file, or holds nothing to quantize.
        UsageError: If ``exclude`` names no node, a batch doesn't fit the network, or source and target are one.
        DataError: If there is no batch.
    """
    if source.resolve() == target.resolve():
        raise UsageError(f"source and target are one file, '{source.name}'")
    model = read_onnx(source)
    _check_quantizable(source, model, exclude)
    with tempfile.TemporaryDirectory() as folder, written_whole(target) as scratch:
        ready = _prepare(model, Path(folder))
        seen = calibrate(ready, batches, method=method, percentile=percentile, threads=threads, advance=advance)
        prepared = onnx.load(ready)
        if correct_bias:
            _correct_biases(prepared, seen, exclude)
        result = _insert_qdq(prepared, seen, exclude)
        onnx.checker.check_model(result)
        onnx.save(result, scratch)
        noise = _compare(ready, scratch, seen)
        return _report(result, source, scratch, seen, exclude, noise)


def _check_quantizable(source: Path, model: onnx.ModelProto, exclude: Sequence[str]) -> None:
    operators = Counter(node.op_type for node in model.graph.node)
    if operators["QuantizeLinear"] or operators["DequantizeLinear"]:
        raise ArtifactError(f"'{source.name}' is quantized already", hint="start from its float32 parent")
    if not any(operators[name] for name in CONVOLUTIONS):
        raise ArtifactError(f"'{source.name}' has no convolution or matrix product to quantize")
    names = [node.name for node in model.graph.node]
    for name in exclude:
        if name not in names:
            raise UsageError(f"'{source.name}' has no node '{name}'{did_you_mean(name, names)}")


def _prepare(model: onnx.ModelProto, folder: Path) -> Path:
    """Write the graph with folded constants and batch norms, every shape inferred and every node named."""
    raw, ready = folder / "raw.onnx", folder / "ready.onnx"
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for index, node in enumerate(named.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    onnx.save(named, raw)
    with quiet():
        # symbolic inference fails on free sides and then litters the working directory; the plain one is enough here
        quant_pre_process(str(raw), str(ready), skip_symbolic_shape=True)
    onnx.save(_modern(onnx.load(ready)), ready)
    return ready


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """Raise an old operator set to one with per-channel scales; drop operator sets nobody uses."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 13:
        model = onnx.version_converter.convert_version(model, _OPSET)
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return onnx.shape_inference.infer_shapes(model)


def _correct_biases(model: onnx.ModelProto, seen: Calibration, exclude: Sequence[str]) -> None:
    weights = float_initializers(model)
    for node in model.graph.node:
        if node.op_type != "Conv" or node.name in exclude or node.input[1] not in weights:
            continue
        weight = weights[node.input[1]]
        bias = np.zeros(len(weight)) if len(node.input) < 3 else weights.get(node.input[2])
        if bias is None:
            continue
        corrected = bias - _mean_shift(weight, seen.means[node.input[0]])
        name = f"{node.name}_corrected_bias"
        model.graph.initializer.append(numpy_helper.from_array(corrected.astype(np.float32), name))
        node.input[:] = [*node.input[:2], name]
    drop_unused(model)


def _mean_shift(weight: NDArray[np.float32], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean change of each output channel when the weights are rounded to int8.

    weight: (O, I / groups, kh, kw); means: (I,) of the input. Padded borders, where fewer taps count, are left out.
    """
    outputs, inputs = weight.shape[:2]
    rounded, scale = quantize_weight(weight, axis=0)
    error = (rounded * scale - weight).reshape(outputs, inputs, -1).sum(2)
    groups = len(means) // inputs
    by_group = np.repeat(means.reshape(groups, inputs), outputs // groups, axis=0)
    shift: NDArray[np.float64] = (error * by_group).sum(1)
    return shift


def _insert_qdq(model: onnx.ModelProto, seen: Calibration, exclude: Sequence[str]) -> onnx.ModelProto:
    present = {node.op_type for node in model.graph.node}
    chosen = CONVOLUTIONS if "InstanceNormalization" in present else QUANTIZED
    with quiet():
        quantizer = QDQQuantizer(
            model,
            True,  # per channel
            False,  # the full range of 8 bits: VNNI doesn't saturate
            QuantType.QInt8,
            QuantType.QUInt8,
            seen.ranges,
            [],
            list(exclude),
            [name for name in chosen if name in present],
            {},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result = quantizer.model.model
    store_transposed_weights(result, exclude)
    keep_in_float(result)
    drop_unused(result)
    shorten(result)
    return result


def _compare(reference: Path, quantized: Path, seen: Calibration) -> float:
    first, second = (open_session(path).run(None, seen.first)[0] for path in (reference, quantized))
    return sqnr(first, second)


def _report(
    model: onnx.ModelProto, source: Path, written: Path, seen: Calibration, exclude: Sequence[str], noise: float
) -> QuantReport:
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    counts: Counter[str] = Counter()
    left: dict[str, str] = {}
    for node in model.graph.node:
        weighted = node.op_type in _WEIGHTED
        # the other inputs of the rest are sizes and limits
        read = node.input[: {"Concat": None, "Add": None}.get(node.op_type, 2 if weighted else 1)]
        if node.op_type in QUANTIZED and all(producers.get(name) == "DequantizeLinear" for name in read):
            counts[node.op_type] += 1
        elif node.name in exclude:
            left[node.name] = "excluded by name"
        elif node.op_type in LEFT_IN_FLOAT or weighted:
            left[node.name] = LEFT_IN_FLOAT.get(node.op_type, _NO_WEIGHTS)
    convolutions = sum(counts[name] for name in CONVOLUTIONS)
    sizes = source.stat().st_size, written.stat().st_size
    return QuantReport(convolutions, left, dict(counts), *sizes, seen.images, noise)
