"""Time a file beside its parent in a browser: `benchmarks run` in a process of its own, on a store of just the two."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from compress.core.console import log
from compress.core.errors import CompressError
from compress.core.store import Store
from compress.core.types import Artifact

_LIMIT_SECONDS = 900


def in_browser(parent: Artifact, original: Path, path: Path, dtype: str, size: int) -> tuple[list[float], list[float]]:
    """Seconds of runs taken in turns in ONNX Runtime Web on WASM, in the first browser found.

    Args:
        parent: Record of the original.
        original: Its float32 ONNX file.
        path: The file to judge.
        dtype: Its kind.
        size: Pixels a side.

    Raises:
        CompressError: If there is no browser, or the run fails; with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        child = replace(parent, name=f"{parent.name}-{dtype}", dtype=dtype)
        ids = [_kept(store, record, file) for record, file in ((parent, original), (child, path))]
        models = [argument for each in ids for argument in ("--model", each)]
        command = [sys.executable, "-m", "benchmarks", "run", "--target", "wasm", "--runtime", "ort-web", *models,
                   "--store", folder, "--size", str(size), "--limit", "0", "--compared", "0", "--repeats", "15",
                   "--budget", "30", "--data", "builtin"]  # fmt: skip
        log.info("timing both in a browser")
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
        rows = {row.artifact: list(row.repeats) for row in store.rows() if row.quantity == "latency"}
        if done.returncode or set(rows) != set(ids):
            said = " ".join(done.stderr.split())[-300:]
            raise CompressError(f"the two files could not be timed in a browser: {said}",
                                hint="make setup-browser, or take --runtime ort")  # fmt: skip
        return rows[ids[0]], rows[ids[1]]


def _kept(store: Store, record: Artifact, file: Path) -> str:
    with store.draft() as draft:
        shutil.copyfile(file, draft / "model.onnx")
        alone = replace(record, format="onnx", files=(), parent="", parent_sha256="", teacher="", options={})
        return store.publish(draft, alone).id
