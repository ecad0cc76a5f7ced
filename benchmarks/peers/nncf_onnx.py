"""NNCF on an ONNX file, mixed preset: uint8 or int8 maps by their range."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.peers.feed import Photos, input_name


def load() -> None:
    """Import what quantizing needs, without its reports to Google Analytics."""
    os.environ["NNCF_CI"] = "1"
    import nncf  # type: ignore[import-not-found]
    import onnx

    assert nncf
    assert onnx


def quantize(source: Path, photos: Photos, folder: Path) -> Path:
    """Quantize with every photo given."""
    import nncf
    import onnx

    name = input_name(source)
    dataset = nncf.Dataset(list(photos), lambda photo: {name: photo[None]})
    preset = nncf.QuantizationPreset.MIXED
    model = nncf.quantize(onnx.load(source), dataset, preset=preset, subset_size=len(photos))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"
