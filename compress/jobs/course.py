"""The lesson of a student: its teacher's answers, the feature maps that are compared, and a recipe of losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.console import log
from compress.core.networks import Network
from compress.kit.distill.answers import Answers
from compress.kit.distill.recipe import Recipe
from compress.kit.distill.taps import Adaptors, TapPair, describe, match_taps
from compress.kit.distill.view import Pair, Perceptor, View
from compress.kit.graph import Taps, fold_batch_norm
from compress.kit.lesson import Batch, Lesson, Losses, Outputs
from compress.tasks.base import Task

PROBE = 64  # pixels a side at which feature maps are matched


@dataclass(frozen=True)
class Memory:
    """Where a teacher's answers are kept, see ``Answers``; ``patterns`` 0 keeps none."""

    root: Path
    key: Mapping[str, Any]
    patterns: int
    slots: int
    visits: float
    limit: int
    keep: bool | None


@dataclass(frozen=True)
class Course:
    """What one student learns from one teacher.

    Args:
        task: Of both.
        teacher: Frozen; image (N, C, H, W) to raw outputs.
        recipe: The losses.
        temperature: The user's T.
        networks: What the student and the teacher are registered as; None for a stranger.
        wanted: Feature maps to compare, student's path to teacher's; None for the recipe's own choice.
        memory: How the teacher's answers are kept.
        labelled: Whether the data's targets are labels of its photos.
        perceptor: For recipes that look through a feature network.
    """

    task: Task
    teacher: nn.Module
    recipe: Recipe
    temperature: float
    networks: tuple[Network | None, Network | None]
    wanted: Mapping[str, str] | None
    memory: Memory
    labelled: bool = True
    perceptor: Perceptor | None = None

    def lesson(self, fabric: Any, student: nn.Module) -> Lesson:
        """Match the networks' feature maps, tell which, and return how ``student`` learns."""
        pairs = self._matched(student)
        teacher = fabric.to_device(fold_batch_norm(self.teacher).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        adaptors = Adaptors(pairs) if self.recipe.adapted and pairs else None
        if adaptors is not None and not any(True for _ in adaptors.parameters()):
            adaptors = None
        step = _Step(self, fabric, teacher, pairs, adaptors)
        return Lesson(step.loss, aid=adaptors, beside=step.listening, patterns=self.memory.patterns)

    def _matched(self, student: nn.Module) -> tuple[TapPair, ...]:
        if not self.recipe.needs_taps:
            return ()
        mine, theirs = (network.taps if network else () for network in self.networks)
        wanted = self.wanted or (None if self.recipe.taps == "auto" else self.recipe.taps)
        pairs = match_taps(student, self.teacher, PROBE, self.task.input.channels, mine, theirs, wanted)
        for line in describe(pairs):
            log.info("%s", line)
        return pairs


@dataclass
class _Step:
    """What happens in one step of training."""

    course: Course
    fabric: Any
    teacher: nn.Module
    pairs: tuple[TapPair, ...]
    adaptors: Adaptors | None
    seen: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        memory = self.course.memory
        key = {**memory.key, "taps": [pair.teacher_path for pair in self.pairs]}
        self.answers = Answers(self._ask, memory.root, key, memory.slots, memory.visits, memory.limit, memory.keep)

    @contextmanager
    def listening(self, module: nn.Module) -> Iterator[None]:
        """Keep what the student's tapped layers return while it learns."""
        with Taps(module, [pair.student_path for pair in self.pairs]) as seen:
            self.seen = seen
            yield

    def loss(self, outputs: Outputs, batch: Batch) -> Losses:
        answers = self.answers(batch)
        levels = len(answers) - len(self.pairs)
        known = dict(batch) if self.course.labelled else {k: v for k, v in batch.items() if k != "target"}
        if "labelled" in known:
            known["labelled"] = known["labelled"].flatten()
        view = View(
            task=self.course.task,
            student=outputs,
            teacher=answers[:levels],
            batch=known,
            pairs=self._pairs(answers[levels:]),
            temperature=self.course.temperature,
            perceptor=self.course.perceptor,
        )
        return self.course.recipe.loss(view)

    def _pairs(self, taught: list[Tensor]) -> tuple[Pair, ...]:
        maps = [self.seen[pair.student_path].float() for pair in self.pairs]  # autocast may have made them bfloat16
        fitted = maps if self.adaptors is None else self.adaptors(maps)
        return tuple(
            Pair(mine, theirs, adapted, f"{pair.student_path}={pair.teacher_path}")
            for pair, mine, theirs, adapted in zip(self.pairs, maps, taught, fitted, strict=True)
        )

    def _ask(self, images: Tensor) -> list[Tensor]:
        paths = [pair.teacher_path for pair in self.pairs]
        with torch.no_grad(), self.fabric.autocast(), Taps(self.teacher, paths) as seen:
            outputs = self.teacher(images.contiguous(memory_format=torch.channels_last))
        return [*(output.float() for output in outputs), *(seen[path].float() for path in paths)]
