"""What runs in a peer's own process: `python -m benchmarks.peers.child PEER source.onnx photos.npy FOLDER`.

Leaves FOLDER/result.json: {"file", "seconds"} or {"why"}. Imports nothing of ours, for other venvs.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS


def main(name: str, source: str, photos: str, folder: str) -> None:
    """Quantize, and tell the time it took."""
    result: dict[str, Any]
    try:
        peer = importlib.import_module(f"benchmarks.peers.{PEERS[name].module}")
        peer.load()
        images = np.load(photos)
        began = time.perf_counter()
        file = peer.quantize(Path(source), images, Path(folder))
        result = {"file": file.name, "seconds": time.perf_counter() - began}
    # whatever a peer stumbles over is its row of the table
    except BaseException as error:
        traceback.print_exc()
        said = " ".join(str(error).split())
        result = {"why": f"{type(error).__name__}: {said}"[:300]}
    Path(folder, "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
