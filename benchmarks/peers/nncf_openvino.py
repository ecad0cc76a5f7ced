"""NNCF on an OpenVINO model, mixed preset, saved as OpenVINO saves: float weights that are left in 16 bits."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers import nncf_onnx
from benchmarks.peers.feed import Photos


def load() -> None:
    """Import what quantizing needs."""
    nncf_onnx.load()
    import openvino

    assert openvino


def quantize(source: Path, photos: Photos, folder: Path) -> Path:
    """Quantize with every photo given."""
    import nncf  # type: ignore[import-not-found]
    import openvino

    dataset = nncf.Dataset(list(photos), lambda photo: photo[None])
    preset = nncf.QuantizationPreset.MIXED
    model = nncf.quantize(openvino.convert_model(source), dataset, preset=preset, subset_size=len(photos))
    openvino.save_model(model, folder / "model.xml")
    return folder / "model.xml"
