"""U-Net on a VGG-16 encoder with torchvision's key names, so that published weights load into it (S5)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from compress.core.errors import ArtifactError
from compress.core.networks import network
from compress.core.store import sha256_of
from compress.kit.data.sets import Dataset
from compress.kit.lesson import Lesson
from compress.kit.measure.classlosses import LossName, Weighting
from compress.kit.nets.unet import VGG16, VggUNet, cap, load_encoder, unet_branches

TAPS = ("features.29", "up4", "up3", "up2", "up1")


class Classes(Protocol):
    """What this network asks of its task."""

    def teach(self, data: Dataset, *, losses: tuple[LossName, ...], class_weights: Weighting) -> Lesson:
        """How its networks learn from labels."""


def teach(
    task: Classes,
    data: Dataset,
    *,
    encoder_weights: Path | None = None,
    losses: tuple[LossName, ...] = ("ce",),
    class_weights: Weighting = "none",
) -> Lesson:
    """Teach as the task does, from a published encoder where one is given.

    Args:
        task: Segmentation.
        data: The training split.
        encoder_weights: File with the weights of a VGG-16 by torchvision's names, .pth or .safetensors, its classifier
            left out; without one the encoder starts from random weights. What it expects is what the task gives it:
            ImageNet's mean and deviation.
        losses: What is summed: cross-entropy, Dice, focal loss, binary cross-entropy of each class; repeatable.
        class_weights: median: pixels of rare classes count for more in ce and focal, by the training split.

    Raises:
        ArtifactError: If there is no such file; when the training begins, if it holds other weights.
    """
    lesson = task.teach(data, losses=losses, class_weights=class_weights)
    if encoder_weights is None:
        return lesson
    if not encoder_weights.is_file():
        raise ArtifactError(f"no weights file '{encoder_weights}'", hint="check --encoder-weights")
    settings = {**lesson.settings, "encoder_weights": sha256_of(encoder_weights)}
    return replace(lesson, prepare=partial(load_encoder, path=encoder_weights), settings=settings)


@network(
    task="segmentation",
    size=256,
    stride=1,
    student="unet_slim",
    taps=TAPS,
    parameters=25_855_957,
    branches=unet_branches(5),
    teach=teach,
)
def build(width: int | None = None, classes: int = 21) -> VggUNet:
    """Build it: image (N, 3, H, W) to logits (N, classes, H, W)."""
    return VggUNet([cap(stage, width) for stage in VGG16], classes)
