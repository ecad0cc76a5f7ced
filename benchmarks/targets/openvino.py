"""OpenVINO on the CPU, float layers in float32; runs what the target cpu runs."""

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


class OpenVino(Target):
    """Runs ONNX files, and everything that can be exported to one."""

    name = "openvino"

    def available(self) -> str:
        """Whether openvino is installed."""
        if importlib.util.find_spec("openvino"):
            return ""
        return "the package openvino is not installed, pip install -c constraints.txt 'image-compress[openvino]'"

    def can_run(self, artifact: Artifact) -> str:
        """ONNX files as they are, torch weights through an export."""
        return "" if artifact.format in ("onnx", "safetensors") else f"{artifact.format} can't become an ONNX file"

    def prepare(self, store: Store, artifact: Artifact) -> Path | None:
        """The artifact's own ONNX file, or an export kept in the store."""
        from compress.jobs.models import as_onnx

        return as_onnx(store, artifact)

    def start(self) -> None:
        """Import OpenVINO."""
        from compress.kit.ship.openvino import import_openvino

        import_openvino()

    def open(self, store: Store, artifact: Artifact, path: Path | None, threads: int) -> Runner:  # noqa: ARG002
        """Read the file and compile it for one image of the artifact's own size."""
        from compress.kit.ship.openvino import OpenVinoRunner

        assert path is not None, "prepare() gives this target a file"
        spec = artifact.input
        shape = (1, spec.channels, spec.height, spec.width)
        return OpenVinoRunner(path, output=artifact.output.name, threads=threads, shape=shape)


register(__name__, OpenVino())
