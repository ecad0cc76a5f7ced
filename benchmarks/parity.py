"""Parity across targets: every model's pictures against those of the network it came from, on the same photos."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.process import Process
from benchmarks.rows import Compared, Entry
from compress.core.console import log
from compress.core.errors import CompressError
from compress.core.machine import cores
from compress.core.store import Store
from compress.core.types import Artifact, to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Largest difference of any value of a picture to the network the file came from: float32 arithmetic in another order,
# and 16-bit floats or 8-bit stored weights. What computes in integers has no limit here; its loss says what it costs.
LIMITS = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 5e-3, "uint16": 5e-3, "uint8": 5e-3}


def limit_of(entry: Entry) -> float | None:
    """The difference that entry may show, None where none is declared."""
    if entry.name.endswith("-f16"):
        return LIMITS["float16"]
    return LIMITS.get(entry.artifact.dtype)


def reference_of(artifact: Artifact, known: Mapping[str, Artifact]) -> Artifact:
    """The network an artifact came from: its nearest ancestor of torch weights, else the first file of its line.

    known: the artifacts of the store by id.
    """
    line = [artifact]
    while line[-1].format != "safetensors" and line[-1].parent in known:
        line.append(known[line[-1].parent])
    return line[-1]


class References:
    """Pictures of the references, each made once, by a worker of its own that is gone afterwards.

    Args:
        store: Where the artifacts lie.
        request: What the workers are asked to score.
        command: What starts a worker.
    """

    def __init__(self, store: Store, request: dict[str, Any], command: Sequence[str]) -> None:
        self._store, self.request, self._command = store, request, command
        self._artifacts = {artifact.id: artifact for artifact in store.artifacts()}
        self._folder = tempfile.TemporaryDirectory(prefix="parity-")
        self._known: dict[tuple[str, int, int], tuple[Path, float] | None] = {}

    def folder(self, name: str) -> Path:
        """A folder for one entry's pictures."""
        made = Path(self._folder.name) / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def compare(self, entry: Entry, folder: Path, mae: float) -> Compared | None:
        """Compare the pictures in ``folder``; None where the reference can't be had, which is told.

        Args:
            entry: Whose pictures.
            folder: Where they lie, "<index>.npy" each.
            mae: Their mean absolute error against the truth.
        """
        reference = reference_of(entry.artifact, self._artifacts)
        target = "torch" if reference.format == "safetensors" else "cpu"
        key = (reference.id, entry.height, entry.width)
        if key not in self._known:
            self._known[key] = self._made(reference, target, entry)
        made = self._known[key]
        if made is None:
            return None
        theirs, true_mae = made
        differences = [_difference(path, theirs / path.name) for path in sorted(folder.glob("*.npy"))]
        return Compared(max(differences), mae - true_mae, len(differences), reference.id, target, limit_of(entry))

    def _made(self, reference: Artifact, target: str, entry: Entry) -> tuple[Path, float] | None:
        from benchmarks.targets import TARGETS

        folder = self.folder(f"reference-{reference.id}-{entry.height}x{entry.width}")
        process = Process(self._command)
        try:
            path = TARGETS.get(target).prepare(self._store, reference)
            process.ask(
                "load",
                target=target,
                how={},
                store=str(self._store.root),
                artifact=to_json(reference),
                path=str(path or ""),
                height=entry.height,
                width=entry.width,
                threads=cores(),
                batch=1,
                seed=0,
            )
            reply = process.ask("evaluate", **(self.request | {"keep": str(folder), "only_kept": True}))
        except CompressError as error:
            log.warning("no parity for what came from %s: %s", reference.name, error)
            return None
        finally:
            process.close()
        return folder, float(reply["mae"])

    def close(self) -> None:
        """Remove the pictures."""
        self._folder.cleanup()


def _difference(ours: Path, theirs: Path) -> float:
    import numpy as np

    mine: NDArray[np.float32] = np.load(ours)
    other: NDArray[np.float32] = np.load(theirs)
    if mine.shape != other.shape or not np.array_equal(np.isfinite(mine), np.isfinite(other)):
        return float("inf")
    return float(np.abs(mine - other).max())
