"""Post-training quantization of an ONNX file: int8 (QDQ, per channel) and float16 storage."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from compress.core.errors import ArtifactError, did_you_mean, UsageError
from compress.kit.calibrate import Calibration, Feed, Method, calibrate
from compress.kit.graph import sqnr
from compress.kit.runtime import float_initializers, open_session, quiet, read_onnx, written_whole

# Operators that compute or only move 8-bit values: kept between convolutions so that maps stay 8 bits in memory.
QUANTIZED = (
    "Conv", "Gemm", "MatMul",
    "Relu", "LeakyRelu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "Resize", "Pad", "DepthToSpace",
)  # fmt: skip

# In a network with instance norms only these: the norm runs in float32, so 8-bit neighbours buy no speed, and
# 8-bit residual sums cost it ten times the loss (+4.5 % against +0.3 % on a small pix2pixHD).
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
        UsageError: If ``exclude`` names no node, or a batch doesn't fit the network.
        DataError: If there is no batch.
    """
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
        report = _report(result, source, scratch, seen, exclude, noise)
    return report
