"""The contract of a task: data + loss + metrics + post-processing + what temperature means here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from compress.core.types import ImageSpec
from compress.kit.data.batches import Augmentation
from compress.kit.data.sets import Dataset
from compress.kit.lesson import Batch, Lesson, Losses, Outputs
from compress.kit.measure.metrics import Metric

EDGE = 1e-6  # how near to the ends of its range a picture is still turned back into the raw output it came from
Score = dict[str, float | NDArray[np.float64]]  # of one image: numbers, and curves that only many images sum up
Guess = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # photo (H, W, 3) to a prediction (C', h, w)


@dataclass(frozen=True)
class Baseline:
    """What a network must beat to have learned anything: a prediction that needs none.

    ``name`` is what a reader is told, such as "identity" or "majority class".
    """

    name: str
    guess: Guess


class Extra(Protocol):
    """A metric that is only computed where the user asks for it, over all images of a set together."""

    metric: Metric

    def add(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> None:
        """Take one image: prediction (C', h, w) as shipped, target (H, W[, C])."""

    def result(self) -> float:
        """Return the metric over everything taken."""


class Task(ABC):
    """One kind of picture to picture. Stateless: one instance serves everyone."""

    name: ClassVar[str]
    size: ClassVar[int]  # pixels a side of training images unless told otherwise
    input: ClassVar[ImageSpec]
    output: ClassVar[ImageSpec]
    metrics: ClassVar[tuple[Metric, ...]]  # in the order tables show them
    nearest: ClassVar[bool] = False  # whether targets are class numbers, which must be picked and never mixed
    augmentation: ClassVar[Augmentation] = Augmentation()  # what training pictures go through

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

    def teach(self, data: Dataset) -> Lesson:  # noqa: ARG002
        """How a network of this task learns from labels; a network of its own mind brings its own ``teach``.

        A task may add keyword-only arguments with defaults: they are flags of ``compress train``.
        """
        return Lesson(self.loss)

    def baseline(self, train: Dataset) -> Baseline | None:  # noqa: ARG002
        """What needs no network, fitted to the training split where it has something to fit."""
        return None

    def extras(self) -> Sequence[Extra]:
        """Further metrics of ``compress evaluate``; keyword-only arguments a task adds are its flags."""
        return ()

    def details(self, scores: Sequence[Score]) -> dict[str, Any]:  # noqa: ARG002
        """What a summary in single numbers hides, as plain JSON (a confusion matrix); nothing in most tasks."""
        return {}

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        """Training loss against the labels. outputs: raw, each (N, C', H, W)."""

    def levels(self, outputs: Outputs) -> Outputs:
        """Those raw outputs that are pictures of the task, the one that ships first: all in most tasks."""
        return outputs

    @abstractmethod
    def divergence(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """How far one level is from the teacher's at a temperature, at every pixel: (N, 1, H, W).

        student, teacher: raw, of one shape (N, C', H, W); no gradient reaches the teacher.

        Raises:
            UsageError: If temperature has no meaning here.
        """

    @abstractmethod
    def label_loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """One level against the labels: a scalar. output: raw (N, C', h, w); batch["target"]: the labels."""

    def truth(self, batch: Batch) -> torch.Tensor:
        """Return the labels as the picture of a network that knows them, (N, C', H, W), in ``output``'s range.

        Raises:
            UsageError: If labels are no such picture.
        """
        return batch["target"]

    @abstractmethod
    def activate(self, output: torch.Tensor) -> torch.Tensor:
        """Turn the raw output that ships into the task's picture; part of every exported graph.

        output: (N, C', H, W) raw. Returns the same shape within ``self.output``'s range.
        """

    @abstractmethod
    def raw(self, picture: torch.Tensor) -> torch.Tensor:
        """Turn a picture back into the raw output that activates to it, within 1e-5; the ends of the range are cut off.

        picture: (N, C', H, W) within ``self.output``'s range; values outside it count as its ends.
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
