"""ONNX Runtime on the CPU; a float32 artifact of torch weights is exported first, with a parity check."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.targets.base import Target
from compress.core.errors import ArtifactError
from compress.core.registry import register
from compress.core.store import Store
from compress.core.types import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.formats.base import Runner


class Cpu(Target):
    """Runs ONNX files, and everything that can be exported to one."""

    name = "cpu"

    def available(self) -> str:
        """Whether onnxruntime is installed."""
        return "" if importlib.util.find_spec("onnxruntime") else "the package onnxruntime is not installed"

    def can_run(self, artifact: Artifact) -> str:
        """ONNX files as they are, torch weights through an export."""
        return "" if artifact.format in ("onnx", "safetensors") else f"{artifact.format} can't become an ONNX file"

    def prepare(self, store: Store, artifact: Artifact) -> Path | None:
        """The artifact's own ONNX file, or an export kept in the store."""
        from compress.jobs.models import as_onnx

        return as_onnx(store, artifact)

    def start(self) -> None:
        """Import ONNX Runtime."""
        import onnxruntime  # noqa: F401

    def open(self, store: Store, artifact: Artifact, path: Path | None, threads: int) -> Runner:  # noqa: ARG002
        """Open an inference session on the file, every graph optimisation on."""
        assert path is not None, "prepare() gives this target a file"
        return _Session(path, threads, artifact.output.name)


class _Session:
    """A session of ONNX Runtime and nothing else: ``formats.onnx`` brings torch and its memory along."""

    def __init__(self, path: Path, threads: int, output: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # ONNX Runtime raises a class of its own per failure, all of them plain Exceptions
        except Exception as error:
            raise ArtifactError(f"ONNX Runtime can't load {path}: {' '.join(str(error).split())[:160]}") from error
        names = [port.name for port in self._session.get_outputs()]
        self._input, self._output = self._session.get_inputs()[0].name, output if output in names else names[0]
        self.describe: dict[str, Any] = {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "threads": threads,
            "provider": "CPUExecutionProvider",
        }

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", self._session.run([self._output], {self._input: image})[0])

    def close(self) -> None:
        del self._session


register(__name__, Cpu())
