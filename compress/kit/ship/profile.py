"""Where ONNX Runtime spends its time: seconds of every node of a file, and of every kind of kernel."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from compress.kit.ship.runtime import session_options

# what ONNX Runtime hangs on a node's name when it rewrites it
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|_nhwc|_quant)+$")


@dataclass(frozen=True)
class Profile:
    """Median seconds of one run, by the name a node has in the file and by the kernel that ran."""

    nodes: dict[str, float]
    kernels: dict[str, float]


def profile(path: Path, image: NDArray[np.float32], *, threads: int = 0, runs: int = 5) -> Profile:
    """Run a file on one image (N, C, H, W) and read ONNX Runtime's own timing; the first run is left out.

    Nodes that were fused into another are not listed.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads, lean=False)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(runs + 1):
            session.run(None, {name: image})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _read(events)


def _read(events: list[dict[str, object]]) -> Profile:
    nodes: dict[str, list[float]] = defaultdict(list)
    kernels: dict[str, str] = {}
    for event in events:
        name = str(event["name"])
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            plain = _SUFFIX.sub("", name.removesuffix("_kernel_time"))
            nodes[plain].append(float(str(event["dur"])) / 1e6)
            kernels[plain] = event["args"]["op_name"]  # type: ignore[index]
    typical = {name: median(each[1:] or each) for name, each in nodes.items()}
    totals: dict[str, float] = defaultdict(float)
    for name, seconds in typical.items():
        totals[kernels[name]] += seconds
    return Profile(typical, dict(sorted(totals.items(), key=lambda entry: -entry[1])))
