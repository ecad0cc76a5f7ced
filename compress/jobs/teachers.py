"""Teachers as modules: whatever an artifact is, something frozen that maps an image to a tuple of raw outputs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from compress.core.console import log
from compress.core.errors import ArtifactError, UsageError
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec
from compress.formats.onnx import Onnx
from compress.jobs.models import load_module
from compress.kit.images import prepare
from compress.kit.ship.outsider import Outsider
from compress.tasks import TASKS
from compress.tasks.base import Task


def open_teacher(store: Store, artifact: Artifact, seen: ImageSpec | None = None, *, threads: int = 0) -> nn.Module:
    """Open an artifact of torch weights or an ONNX file as a frozen module in eval mode.

    Args:
        store: Where it lies.
        artifact: Its manifest.
        seen: How the images it will be given were prepared; where the teacher wants them otherwise (another mean,
            each photo's maximum), they are turned into that on the way. None: as the teacher wants them.
        threads: Threads of ONNX Runtime; 0 leaves the choice to it.

    Returns:
        Maps image (N, C, H, W) to a tuple of raw outputs, the one that ships first; of an ONNX file that alone.

    Raises:
        ArtifactError: If it is of another format, or gives something else than the task's picture.
        UsageError: If the images can't be turned into what it wants.
    """
    if artifact.format == "safetensors":
        module = load_module(store, artifact)
    elif artifact.format == "onnx":
        module = _outsider(Onnx().weights(store.folder(artifact), artifact), artifact, threads)
    else:
        raise ArtifactError(
            f"{artifact.name} ({artifact.id}) is a {artifact.format} file and can't teach",
            hint="name the artifact it was made from, torch weights or an ONNX file",
        )
    if seen is not None and _values(seen) != _values(artifact.input):
        module = Reread(module, seen, artifact.input)
    return module.eval().requires_grad_(False)


def _outsider(path: Path, artifact: Artifact, threads: int) -> Outsider:
    """Open an ONNX file and look at one photo's answer: is it the task's picture, or a raw output already?"""
    task = TASKS.get(artifact.task)
    outsider = Outsider(path, task.raw, threads=threads)
    photo = task.open(["builtin"], "test").original(0)["image"]
    picture = outsider.picture(torch.from_numpy(prepare(photo, artifact.input)[None]))
    low, high = float(picture.min()), float(picture.max())
    if not torch.isfinite(picture).all():
        raise ArtifactError(f"{artifact.name} ({artifact.id}) gives values that are not finite and can't teach",
                            hint="give another teacher")  # fmt: skip
    if low >= task.output.low - 0.01 and high <= task.output.high + 0.01:
        return outsider
    if low >= task.output.low:  # raw outputs lie on both sides of 0
        raise ArtifactError(
            f"{artifact.name} ({artifact.id}) gives {low:.3g}..{high:.3g}, {task.name} wants "
            f"{task.output.low:g}..{task.output.high:g} or raw outputs",
            hint="import another output of the file: compress import FILE.onnx --output NAME",
        )
    log.info("%s gives %.3g..%.3g: taken for raw outputs", artifact.name, low, high)
    outsider.raw = None
    return outsider


def seems_activated(task: Task, output: Tensor) -> bool:
    """Whether what should be a raw output (N, C', H, W) looks like the task's picture instead.

    Masks and pictures: all of it is within 0..1. Classes: probabilities that sum to 1. Of a range around 0 (colour)
    no telling. A flat output tells nothing either.
    """
    if task.output.low < 0 or not torch.isfinite(output).all() or float(output.max() - output.min()) < 1e-6:
        return False
    inside = bool((output >= task.output.low).all() and (output <= task.output.high).all())
    if task.output.color == "classes":
        return inside and bool(((output.sum(1) - 1).abs() < 1e-3).all())
    return inside


class Reread(nn.Module):
    """A network behind the arithmetic that turns images prepared for another into its own.

    Args:
        module: Maps image (N, C, H, W), prepared as ``wanted`` says.
        seen: How the images given to it are prepared.
        wanted: What the network was made for; size and fit don't count.

    Raises:
        UsageError: If the colours differ, or ``seen`` has lost what ``wanted`` needs.
    """

    seen_mean: Tensor
    seen_std: Tensor
    wanted_mean: Tensor
    wanted_std: Tensor

    def __init__(self, module: nn.Module, seen: ImageSpec, wanted: ImageSpec) -> None:
        super().__init__()
        if (seen.color, seen.channels) != (wanted.color, wanted.channels) or (seen.scale, wanted.scale) == (
            "max",
            "255",
        ):
            raise UsageError(
                f"images of {seen.color}, {seen.channels} channels, over {seen.scale} can't become {wanted.color}, "
                f"{wanted.channels} channels, over {wanted.scale}",
                hint="give a teacher that reads its photos as the student does",
            )
        self.module = module
        self.brightest = wanted.scale == "max" and seen.scale != "max"
        for name, spec in (("seen", seen), ("wanted", wanted)):
            for part in ("mean", "std"):
                values = torch.tensor(getattr(spec, part)[: spec.channels], dtype=torch.float32)
                self.register_buffer(f"{name}_{part}", values[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, C, H, W) as ``seen`` to what the network gives of it as ``wanted``."""
        values = image * self.seen_std + self.seen_mean  # photo over 255, or over its maximum
        if self.brightest:
            # images.normalized divides by a level of 1 at least
            values = values / values.amax((1, 2, 3), keepdim=True).clamp(min=1 / 255)
        return cast("tuple[Tensor, ...]", self.module((values - self.wanted_mean) / self.wanted_std))


def _values(spec: ImageSpec) -> tuple[object, ...]:
    return spec.color, spec.channels, spec.scale, spec.mean[: spec.channels], spec.std[: spec.channels]
