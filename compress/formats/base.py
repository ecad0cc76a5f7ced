"""The contract of a file format: an artifact of that format becomes something that runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.core.types import Artifact


class Runner(Protocol):
    """A network that runs: image in, shipped picture out.

    ``describe`` has at least "runtime", "version", "threads" (0: the runtime's own choice) and "provider".
    """

    describe: dict[str, Any]

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map image (N, C, H, W), prepared as the input spec says, to the picture (N, C', H', W').

        The picture is the one that ships: masks are already within 0..1.
        """

    def close(self) -> None:
        """Free what it holds; it can't be called afterwards."""


class Format(ABC):
    """One file format. Stateless: one instance serves everyone."""

    name: ClassVar[str]
    suffix: ClassVar[str]  # of the weights file, with its dot

    @abstractmethod
    def load(self, folder: Path, artifact: Artifact, *, threads: int = 0, device: str = "cpu") -> Runner:
        """Open the artifact in ``folder`` for running.

        Args:
            folder: Where the artifact's files lie.
            artifact: Its manifest.
            threads: Threads of one run; 0 leaves the choice to the runtime.
            device: "cpu" or "cuda".

        Raises:
            ArtifactError: If a file is absent, damaged or doesn't fit the manifest.
            MissingExtraError: If the runtime or the device is not here.
        """

    def weights(self, folder: Path, artifact: Artifact) -> Path:
        """Return the path of the artifact's weights file: the first one with this format's suffix.

        Raises:
            ArtifactError: If the manifest lists none.
        """
        from compress.core.errors import ArtifactError

        for file in artifact.files:
            if file.path.endswith(self.suffix):
                return folder / file.path
        raise ArtifactError(f"artifact '{artifact.name}' has no {self.suffix} file", hint="compress inspect tells more")
