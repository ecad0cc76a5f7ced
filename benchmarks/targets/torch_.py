"""PyTorch on the CPU, eager, as the network was trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.targets.base import Target
from compress.core.registry import register
from compress.core.store import Store
from compress.core.types import Artifact

if TYPE_CHECKING:
    from compress.formats.base import Runner


class Torch(Target):
    """Runs artifacts of torch weights."""

    name = "torch"

    def available(self) -> str:
        """Whether torch is installed."""
        return "" if importlib.util.find_spec("torch") else "the package torch is not installed"

    def can_run(self, artifact: Artifact) -> str:
        """Torch weights only: an ONNX file does not become a torch module again."""
        return "" if artifact.format == "safetensors" else f"{artifact.format} can't become a torch module"

    def prepare(self, store: Store, artifact: Artifact) -> Path | None:  # noqa: ARG002
        """Nothing to make."""
        return None

    def start(self) -> None:
        """Import torch, and what rebuilds a network."""
        import compress.jobs.models  # noqa: F401

    def open(self, store: Store, artifact: Artifact, path: Path | None, threads: int) -> Runner:  # noqa: ARG002
        """Rebuild the module and load its weights."""
        import torch

        from compress.jobs.models import open_runner

        # once for the whole process: the runner changing it around every inference would be timed too
        torch.set_num_threads(threads)
        return open_runner(store, artifact, threads=threads)


register(__name__, Torch())
