"""AIMET on an ONNX file in its default settings, exported as QDQ with integer weights and biases."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.feed import Photos, input_name


def load() -> None:
    """Import what quantizing needs."""
    import onnx
    from aimet_onnx import quantsim  # type: ignore[import-not-found]

    assert onnx
    assert quantsim


def quantize(source: Path, photos: Photos, folder: Path) -> Path:
    """Quantize with every photo given."""
    import onnx
    from aimet_onnx.quantsim import QuantizationSimModel  # type: ignore[import-not-found]

    name = input_name(source)
    feeds = [{name: photo[None]} for photo in photos]
    simulation = QuantizationSimModel(onnx.load(source), dummy_input=feeds[0], providers=["CPUExecutionProvider"])
    simulation.compute_encodings(feeds)
    onnx.save(simulation.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), folder / "model.onnx")
    return folder / "model.onnx"
