"""ONNX Runtime's quantize_static with what its documentation advises on x86: uint8 maps, weights per channel."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers import ort_default
from benchmarks.peers.feed import Photos

load = ort_default.load


def quantize(source: Path, photos: Photos, folder: Path) -> Path:
    """Quantize with U8S8."""
    from onnxruntime.quantization import QuantType

    return ort_default.quantize(
        source, photos, folder, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True
    )
