"""Parity: the same images through two forms of one network, and where they part."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.errors import ParityError
from compress.kit.graph import Taps, sqnr
from compress.kit.ship.runtime import export_graph, open_session

Image = NDArray[np.float32]  # (N, C, H, W)
Run = Callable[[Image], Image]


@dataclass(frozen=True)
class Parity:
    """How far two runners are apart over the same images, in the picture's own range."""

    max_abs: float
    mean_abs: float  # mean over all values of all images
    sqnr: float  # dB, over all values; inf where they are equal
    worst: int  # index of the image with the largest difference


def parity(a: Run, b: Run, images: Sequence[Image]) -> Parity:
    """Run both on the same images, each (N, C, H, W), and compare; ``a`` is the reference of the SQNR.

    Raises:
        ParityError: If the pictures differ in shape or one isn't finite where the other is.
    """
    assert images, "no images to compare on"
    ours, theirs, worst = [], [], []
    for index, image in enumerate(images):
        first, second = a(image), b(image)
        if first.shape != second.shape:
            raise ParityError(f"image {index}: shapes differ, {first.shape} and {second.shape}")
        if not np.array_equal(np.isfinite(first), np.isfinite(second)):
            raise ParityError(f"image {index}: one picture has values that aren't finite where the other has none")
        ours.append(first.ravel())
        theirs.append(second.ravel())
        worst.append(float(np.abs(first - second).max()))
    left, right = np.concatenate(ours), np.concatenate(theirs)
    return Parity(max(worst), float(np.abs(left - right).mean()), sqnr(left, right), int(np.argmax(worst)))


def check_parity(module: nn.Module, path: Path, images: Sequence[Image], tolerance: float = 1e-3) -> Parity:
    """Compare a module that returns one tensor with its ONNX file on images, each (N, C, H, W).

    Raises:
        ParityError: If any value differs by more than ``tolerance``; the message names the largest difference,
            its image, and the first top-level part at which a fresh export of the module departs from it.
    """
    own = copy.deepcopy(module).eval()
    session = open_session(path)
    name = session.get_inputs()[0].name
    found = parity(lambda image: _eager(own, image)[-1], lambda image: session.run(None, {name: image})[0], images)
    if found.max_abs <= tolerance:
        return found
    raise ParityError(
        f"'{path.name}' differs from {type(module).__name__} by {found.max_abs:.3g} in image {found.worst}, "
        f"wanted {tolerance:g} at most",
        hint=_first_difference(own, images[found.worst], tolerance),
    )


class _Tapped(nn.Module):
    """Returns the outputs of some parts of a module in the order they ran, then its own."""

    def __init__(self, module: nn.Module, paths: Sequence[str]) -> None:
        super().__init__()
        self.module, self.paths = module, list(paths)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        with Taps(self.module, self.paths) as seen:
            output = self.module(image)
        return (*(seen[path] for path in self.paths), output)


def _eager(module: nn.Module, image: Image) -> list[Image]:
    with torch.inference_mode():
        outputs = module(torch.from_numpy(image))
    tensors = [outputs] if isinstance(outputs, Tensor) else outputs
    return [cast("Image", tensor.numpy()) for tensor in tensors]


def _first_difference(module: nn.Module, image: Image, tolerance: float) -> str:
    """Say at which top-level part a fresh export departs from the module."""
    try:
        paths = _parts_in_order(module, image)
        tapped = _Tapped(module, paths)
        exported = _run_export(tapped, image, len(paths) + 1)
    # a module that ships may still defy a second export with more outputs
    except Exception as error:
        return f"where it starts can't be told ({type(error).__name__})"
    for path, ours, theirs in zip((*paths, "the output"), _eager(tapped, image), exported, strict=True):
        # parts return raw features: judge the difference by their size
        if np.abs(ours - theirs).max() > tolerance * max(1.0, float(np.abs(ours).max())):
            return f"a fresh export first differs at '{path}'"
    return "a fresh export agrees at every part: the file holds other weights or another graph, write it again"


def _parts_in_order(module: nn.Module, image: Image) -> list[str]:
    """Return the paths of the top-level parts that gave one tensor, in the order they ran.

    A module that only wraps one other part (what ships wraps the network) is entered.
    """
    prefix, top = "", module
    while len(children := dict(top.named_children())) == 1:
        name, top = next(iter(children.items()))
        prefix += f"{name}."
    with Taps(module, [prefix + name for name in children]) as seen:
        _eager(module, image)
    return [path for path, value in seen.items() if isinstance(value, Tensor)]


def _run_export(module: nn.Module, image: Image, outputs: int) -> list[Image]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tapped.onnx"
        names = ("image", *(f"tap{index}" for index in range(outputs)))
        _, channels, height, width = image.shape
        export_graph(module, path, channels=channels, size=(height, width), names=names, free=(0,))
        return cast("list[Image]", open_session(path).run(None, {"image": image}))
