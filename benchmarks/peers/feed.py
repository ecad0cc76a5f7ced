"""Photos as the readers that onnxruntime's quantizer wants; imports nothing of ours, for other venvs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Photos = NDArray[np.float32]  # (N, C, H, W)


def input_name(source: Path) -> str:
    """Return the name of a graph's image input."""
    model = onnx.load(source, load_external_data=False)
    stored = {tensor.name for tensor in model.graph.initializer}
    return str(next(value.name for value in model.graph.input if value.name not in stored))


class Reader:
    """Gives photos one by one as onnxruntime's calibrators ask for them."""

    def __init__(self, name: str, photos: Photos) -> None:
        self._feeds = iter({name: photo[None]} for photo in photos)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next feed, None after the last."""
        return next(self._feeds, None)
