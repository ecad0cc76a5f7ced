"""An ONNX file as a torch module: it runs in ONNX Runtime, without gradients, and gives raw outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError
from compress.kit.ship.runtime import open_session

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Outsider(nn.Module):
    """A network that can be asked, not trained: (N, C, H, W) of any N, H and W to a tuple of one raw output.

    A file that runs at one size only gets its images resized (bilinear, antialiased where they shrink) and its
    pictures are resized back; one that takes one batch size only is asked in such batches. There is nothing in
    ``parameters()`` or ``state_dict()``. It can be copied and pickled: the copy opens the file again.

    Args:
        path: ONNX file of one float image input (N, C, H, W); its first output is taken.
        raw: Maps the picture the file gives to the raw output (a task's ``raw``, or nothing for a file of logits).
        threads: Threads of one run; 0 leaves the choice to ONNX Runtime.
        device: "cpu" or "cuda".

    Raises:
        ArtifactError: If the file is no such network.
    """

    def __init__(
        self, path: Path, raw: Callable[[Tensor], Tensor] | None = None, *, threads: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__()
        self.path, self.raw, self.threads, self.device = Path(path), raw, threads, device
        self._open()
        self.eval()

    def _open(self) -> None:
        self._session: Any = open_session(self.path, threads=self.threads, device=self.device)
        given = self._session.get_inputs()
        if len(given) != 1 or len(given[0].shape) != 4 or given[0].type not in _TYPES:
            found = ", ".join(f"{port.name} {port.type} {port.shape}" for port in given)
            raise ArtifactError(f"'{self.path.name}' takes {found or 'nothing'}, wanted one float image (N, C, H, W)",
                                hint="export the network with one image input")  # fmt: skip
        self._input, self._type = given[0].name, _TYPES[given[0].type]
        self._output = self._session.get_outputs()[0].name
        self._batch, self._channels, *self._sides = (n if isinstance(n, int) else 0 for n in given[0].shape)

    def train(self, mode: bool = True) -> Outsider:  # noqa: ARG002
        """Stay in eval mode: there is no other."""
        return super().train(mode=False)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Map image (N, C, H, W), floating, to (raw output (N, C', H', W'),), float32, on the image's device.

        H' and W' are the file's own where its sides are free, else those of the image.

        Raises:
            ArtifactError: If the image has other channels than the file takes, or the answer is no such picture.
        """
        with torch.no_grad():
            picture = self.picture(image)
            return (picture if self.raw is None else self.raw(picture),)

    def picture(self, image: Tensor) -> Tensor:
        """Map image (N, C, H, W) to what the file itself gives of it, (N, C', H', W')."""
        if image.ndim != 4 or self._channels not in (0, image.shape[1]):
            raise ArtifactError(
                f"'{self.path.name}' wants images (N, {self._channels or 'C'}, H, W), found {tuple(image.shape)}",
                hint="give a teacher of the student's task",
            )
        sides = [own or side for own, side in zip(self._sides, image.shape[2:], strict=True)]
        fed = _resized(image.detach().float(), sides)
        pictures = self._run(np.ascontiguousarray(fed.cpu().numpy()))
        answer = torch.from_numpy(pictures).to(image.device)
        return _resized(answer, list(image.shape[2:])) if any(self._sides) else answer

    def _run(self, images: Any) -> Any:
        images = images.astype(self._type)
        size, parts = self._batch or max(len(images), 1), []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            # the last batch of a file of one batch size is filled up with its last image
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            parts.append(self._ask(filled)[: len(part)])
        return np.concatenate(parts)

    def _ask(self, images: Any) -> Any:
        try:
            answer = self._session.run([self._output], {self._input: images})[0]
        # ONNX Runtime raises a class of its own per failure, all of them plain Exceptions
        except Exception as error:
            said = " ".join(str(error).split())[-160:]
            raise ArtifactError(f"'{self.path.name}' does not run on images {images.shape}: {said}",
                                hint="train at a size the file takes: --size") from error  # fmt: skip
        answer = np.asarray(answer)
        if answer.ndim != 4 or len(answer) != len(images) or answer.dtype.kind != "f":
            raise ArtifactError(
                f"'{self.path.name}' gives {answer.dtype} {answer.shape} for images {images.shape}",
                hint="its first output must be a picture (N, C, H, W); import the file with --output NAME",
            )
        return answer.astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._open()


def _resized(images: Tensor, sides: list[int]) -> Tensor:
    if list(images.shape[2:]) == sides:
        return images
    return F.interpolate(images, size=sides, mode="bilinear", align_corners=False, antialias=True)
