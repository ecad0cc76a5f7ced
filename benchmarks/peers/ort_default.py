"""ONNX Runtime's quantize_static in its default settings: QDQ, int8 maps, weights per tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.feed import Photos, Reader, input_name

_OPSET = 13  # its documentation's least, where a scale per channel came in


def load() -> None:
    """Import what quantizing needs."""
    import onnxruntime.quantization  # noqa: F401


def quantize(source: Path, photos: Photos, folder: Path, **settings: Any) -> Path:
    """Prepare the file as its documentation advises, and quantize it; ``settings`` go to quantize_static."""
    import onnx
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready, target = folder / "ready.onnx", folder / "model.onnx"
    model = onnx.load(source)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _OPSET:
        model = onnx.version_converter.convert_version(model, _OPSET)
    onnx.save(model, ready)
    quant_pre_process(str(ready), str(ready), skip_symbolic_shape=True)
    quantize_static(str(ready), str(target), Reader(input_name(source), photos), **settings)
    ready.unlink()
    return target
