"""The photos settings are chosen on: part of the validation split, scored by the task, compared with the original."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.core.types import ImageSpec
from compress.formats.base import Runner
from compress.jobs.evaluate import evaluate
from compress.kit.data.sets import Dataset
from compress.kit.quant.plan import Plan
from compress.kit.quant.quantize import write
from compress.tasks.base import Score, Task


class Open(Protocol):
    """Opens a file in a runtime."""

    def __call__(self, path: Path, *, threads: int = 0) -> Runner:
        """threads: of one run; 0 leaves the choice to the runtime."""


@dataclass(frozen=True)
class Judged:
    """How a file did: mean |difference| to the original's pictures, in the picture's own range, and the task's loss."""

    distance: float
    losses: tuple[float, ...]  # of each photo; empty where the photos have no labels
    dead: int

    @property
    def loss(self) -> float:
        """Mean over the photos."""
        return float(np.mean(self.losses)) if self.losses else 0.0


class Selection:
    """Judges quantized files on the same photos, in the runtime they are for.

    Args:
        task: Its scores and its loss.
        data: The photos; never of the test split.
        spec: The network's input.
        open_runner: Opens a file in the runtime.
        original: The float32 file.
    """

    def __init__(self, task: Task, data: Dataset, spec: ImageSpec, open_runner: Open, original: Path) -> None:
        self.task, self.data, self.spec, self._open = task, data, spec, open_runner
        self._pictures: list[NDArray[np.float32]] = []
        runner = open_runner(original)
        self.original = self._run(runner, lambda index, picture, score: self._pictures.append(picture))  # noqa: ARG005
        runner.close()

    def judge(self, graph: onnx.ModelProto, plan: Plan) -> Judged:
        """Write the planned graph to a temporary file and judge it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            write(graph, plan, path)
            return self.judge_file(path)

    def judge_file(self, path: Path) -> Judged:
        """Judge a file."""
        runner = self._open(path)
        try:
            return self.judge_runner(runner)
        finally:
            runner.close()

    def judge_runner(self, runner: Runner) -> Judged:
        """Judge what is open already."""
        apart: list[float] = []

        def compare(index: int, picture: NDArray[np.float32], score: Score) -> None:  # noqa: ARG001
            apart.append(float(np.abs(picture - self._pictures[index]).mean()))

        found = self._run(runner, compare)
        return Judged(float(np.mean(apart)), found.losses, found.dead)

    def _run(self, runner: Runner, keep: Callable[[int, NDArray[np.float32], Score], None]) -> Judged:
        result = evaluate(runner, self.spec, self.task, self.data, _nothing, keep=keep)
        return Judged(0.0, result.losses, int(result.metrics.get("dead_masks", 0)))


def _nothing(note: str = "") -> None:
    del note


def increase(before: Sequence[float], after: Sequence[float]) -> float:
    """Relative change of the mean loss; 0 where there is none."""
    start = float(np.mean(before)) if before else 0.0
    return float(np.mean(after)) / start - 1 if start else 0.0
