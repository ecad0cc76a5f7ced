"""What a recipe sees of one step: both networks' outputs, the batch, and the pairs of maps from inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from compress.core.types import ImageSpec
from compress.kit.lesson import Batch, Outputs
from compress.kit.measure.losses import full
from compress.kit.nets.blocks import resize_like

Perceptor = Callable[[Tensor], Sequence[Tensor]]  # pictures (N, 3, H, W), 0..1, to maps (N, C, h, w), all frozen


class Taught(Protocol):
    """What distillation asks of a task."""

    name: ClassVar[str]
    output: ClassVar[ImageSpec]

    def levels(self, outputs: Outputs) -> Outputs:
        """Those raw outputs that are pictures of the task, the one that ships first."""

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far one level is from the teacher's at that temperature, at every pixel: (N, 1, H, W)."""

    def label_loss(self, output: Tensor, batch: Batch) -> Tensor:
        """One level against the labels: a scalar."""

    def truth(self, batch: Batch) -> Tensor:
        """The labels as the picture of a network that knows them: (N, C', H, W)."""

    def activate(self, output: Tensor) -> Tensor:
        """Turn a raw output into the task's picture."""


@dataclass(frozen=True)
class Pair:
    """Two maps from inside that are compared.

    Args:
        student: The student's map (N, C, H, W), attached to its graph.
        teacher: The teacher's (N, C', h, w), without gradient.
        adapted: The student's after a 1x1 adaptor, (N, C', H, W); the map itself where the widths agree.
        name: For logs and messages.
    """

    student: Tensor
    teacher: Tensor
    adapted: Tensor
    name: str


@dataclass(frozen=True)
class View:
    """One step as a recipe sees it.

    Args:
        task: What pictures, temperature and labels mean.
        student: Raw outputs, the one that ships first.
        teacher: Raw outputs, float32, without gradient; it may have fewer levels, or more.
        batch: "image"; "target" where there are labels; "labelled" (N,), 1 or 0, where only some rows have any.
        pairs: Maps from inside, in the order of ``match_taps``.
        temperature: The user's T, above 0.
        perceptor: A frozen feature network, for the terms that look through one.
    """

    task: Taught
    student: Outputs
    teacher: Outputs
    batch: Batch
    pairs: Sequence[Pair] = ()
    temperature: float = 1.0
    perceptor: Perceptor | None = None

    def levels(self) -> list[tuple[Tensor, Tensor]]:
        """Pictures that both have, raw float32: (student's, teacher's at the student's sides)."""
        both = zip(self.task.levels(self.student), self.task.levels(self.teacher), strict=False)
        return [(full(mine), resized(theirs, mine)) for mine, theirs in both]

    def features(self) -> list[tuple[Tensor, Tensor]]:
        """Outputs beside the pictures that both have, raw float32: (student's, teacher's at its own sides)."""
        mine = self.student[len(self.task.levels(self.student)) :]
        theirs = self.teacher[len(self.task.levels(self.teacher)) :]
        return [(full(s), full(t).detach()) for s, t in zip(mine, theirs, strict=False)]

    def labelled(self) -> Tensor | None:
        """Which rows have labels, as truth values (N,); None where all do."""
        flags = self.batch.get("labelled")
        return None if flags is None else flags > 0.5


def resized(reference: Tensor, like: Tensor) -> Tensor:
    """Bring what is learned from, (N, C, h, w), to the sides of ``like``: float32, bilinear, without gradient."""
    told = full(reference).detach()
    return told if told.shape[2:] == like.shape[2:] else resize_like(told, like)
