"""The contract of a task: data + loss + metrics + post-processing + what temperature means here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import nn

from compress.core.networks import Network
from compress.core.types import ImageSpec
from compress.kit.data import Dataset
from compress.kit.metrics import Metric

Batch = Mapping[str, torch.Tensor]  # "image": (N, C, H, W) after the input spec; "target": (N, C', H, W)
Outputs = Sequence[torch.Tensor]  # raw outputs of a network, the one that ships first
Losses = dict[str, torch.Tensor]  # scalars by name; "loss" is the one that is minimised
Score = dict[str, float | NDArray[np.float64]]  # of one image: numbers, and curves that only many images sum up

Judge = Callable[[torch.Tensor], Any]  # a rival's forward


@dataclass(frozen=True)
class Rival:
    """A network that is trained against ours on the same batches, each of its steps after ours: half of a GAN.

    Args:
        build: Makes it, with weights from torch's global generator.
        loss: What the rival minimises, given itself, our raw outputs without gradient and the batch.
        pressure: What our loss gets on top, given the rival, our raw outputs and the batch; "loss" is added to ours.
        settings: What it is, in plain JSON, for the stage's key and the manifest.
    """

    build: Callable[[], nn.Module]
    loss: Callable[[Judge, Outputs, Batch], Losses]
    pressure: Callable[[Judge, Outputs, Batch], Losses]
    settings: Mapping[str, Any]


class Task(ABC):
    """One kind of picture to picture. Stateless: one instance serves everyone."""

    name: ClassVar[str]
    size: ClassVar[int]  # pixels a side of training images unless told otherwise
    input: ClassVar[ImageSpec]
    output: ClassVar[ImageSpec]
    metrics: ClassVar[tuple[Metric, ...]]  # in the order tables show them
    nearest: ClassVar[bool] = False  # whether targets are class numbers, which must be picked and never mixed

    @abstractmethod
    def open(self, data: Sequence[str], split: str, *, seed: int = 0) -> Dataset:
        """Open folders (or the word "builtin") as one data set of that split.

        Raises:
            DataError: If a folder is absent, empty or has a mask without a photo or the like.
        """

    def network_options(self, data: Dataset) -> dict[str, Any]:  # noqa: ARG002
        """Options of a network that follow from the data it is trained on; none in most tasks."""
        return {}

    def output_for(self, network_options: Mapping[str, Any]) -> ImageSpec:  # noqa: ARG002
        """What a network built with these options gives; ``output`` in most tasks."""
        return self.output

    def rivals(self, network: Network) -> Mapping[str, Rival]:  # noqa: ARG002
        """Who trains against this network when it is trained on labels, by name; nobody in most tasks."""
        return {}

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        """Training loss against the labels. outputs: raw, each (N, C', H, W)."""

    @abstractmethod
    def distill_loss(self, student: Outputs, teacher: Outputs, batch: Batch, temperature: float) -> Losses:
        """Loss of a student against its teacher's raw outputs (and the labels, where the batch has them)."""

    @abstractmethod
    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Turn the raw output that ships into the task's picture; part of every exported graph.

        output: (N, C', H, W) raw. Returns the same shape within ``self.output``'s range.
        """

    @abstractmethod
    def score(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> Score:
        """Score one image. prediction: (C', h, w) as shipped; target: (H, W[, C]) at its original size.

        "loss" is a number in every task; the other keys are the task's own, for its ``summarize``.
        """

    @abstractmethod
    def summarize(self, scores: Sequence[Score]) -> dict[str, float]:
        """Turn the scores of one image or more into one number per metric of ``metrics``, and their count, "images"."""

    def as_prediction(self, target: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn a target (H, W[, C]) into the prediction of a network that knows it, (C', H, W), for pictures."""
        planes = target[..., None] if target.ndim == 2 else target
        return np.ascontiguousarray(planes.transpose(2, 0, 1), dtype=np.float32) / 255

    @abstractmethod
    def pictures(self, photo: NDArray[np.uint8], prediction: NDArray[np.float32]) -> dict[str, PIL.Image.Image]:
        """What a user wants to see, by name: photo (H, W, 3), prediction (C', h, w) as shipped.

        The first picture is the prediction itself at the photo's size.
        """
