"""neural-compressor's static PT2E quantization in its default settings: weights stay float behind their rounding."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers import pt2e
from benchmarks.peers.feed import Photos


def load() -> None:
    """Import what quantizing needs."""
    from neural_compressor.torch import quantization  # type: ignore[import-untyped]

    pt2e.load()
    assert quantization


def quantize(source: Path, photos: Photos, folder: Path) -> Path:
    """Quantize at the size of the photos and save the exported program."""
    from neural_compressor.torch.quantization import (  # type: ignore[import-untyped]
        StaticQuantConfig,
        convert,
        prepare,
    )

    module = pt2e.traced(source, photos).module
    module._exported, module.dynamic_shapes = True, None  # as its own export leaves a graph
    prepared = prepare(module, StaticQuantConfig())
    pt2e.calibrate(prepared, photos)
    return pt2e.saved(convert(prepared), photos, folder)
