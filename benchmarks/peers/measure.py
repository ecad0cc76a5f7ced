"""Scores peers' files against the float32 network over the same photos, and times them in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.console import Advance
from compress.core.types import ImageSpec
from compress.formats.base import Runner
from compress.jobs.evaluate import evaluate
from compress.kit.data.sets import Dataset
from compress.kit.intervals import LEVEL, RESAMPLES, paired_difference, relative_change
from compress.tasks.base import Task


@dataclass(frozen=True)
class Scores:
    """What one file did over the test photos."""

    losses: tuple[float, ...]
    dead: int
    distances: tuple[float, ...]  # mean |difference| to the float32 picture of each photo; empty for itself

    def beside(self, reference: Scores) -> dict[str, Any]:
        """As JSON: dMAE, the loss beside the reference's, each with its 95 % interval over photos."""
        zeros = [0.0] * len(self.distances)
        return {
            "dmae": asdict(paired_difference(self.distances, zeros)),
            "loss": statistics.fmean(self.losses),
            "loss_difference": asdict(paired_difference(self.losses, reference.losses)),
            "loss_change": asdict(relative_change(reference.losses, self.losses)),
            "dead": self.dead,
        }


class Pictures:
    """The float32 network's pictures of the test photos, on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, index: int, picture: NDArray[np.float32]) -> None:
        """Keep one picture."""
        np.save(self._folder / f"{index}.npy", picture)

    def distance(self, index: int, picture: NDArray[np.float32]) -> float:
        """Mean |difference| of a picture to the one kept."""
        return float(np.abs(np.load(self._folder / f"{index}.npy") - picture).mean())


def score(
    runner: Runner, spec: ImageSpec, task: Task, data: Dataset, pictures: Pictures, advance: Advance, *, first: bool
) -> Scores:
    """Score a runner; the ``first`` one's pictures are kept, the others' compared with them."""
    distances: list[float] = []

    def look(index: int, picture: NDArray[np.float32], score: Any) -> None:  # noqa: ARG001
        if first:
            pictures.keep(index, picture)
        else:
            distances.append(pictures.distance(index, picture))

    result = evaluate(runner, spec, task, data, advance, keep=look)
    return Scores(result.losses, int(result.metrics.get("dead_masks", 0)), tuple(distances))


def time_in_turns(runners: Mapping[str, Runner], image: NDArray[np.float32], repeats: int) -> dict[str, list[float]]:
    """Time all runners on one image, round by round, the order turned by one each round; seconds of each."""
    names = list(runners)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(2):  # the first runs allocate, compile
        for name in names:
            runners[name](image)
    for turn in range(repeats):
        start = turn % len(names)
        for name in (*names[start:], *names[:start]):
            began = time.perf_counter()
            runners[name](image)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def times_faster(reference: list[float], other: list[float]) -> dict[str, Any]:
    """How many times faster ``other`` is: median over rounds of the ratio within a round, with its 95 % interval.

    What slows the machine for a round slows both. Percentile bootstrap over rounds (Efron & Tibshirani 1993, chapter
    13).
    """
    ratios = np.asarray(reference) / np.asarray(other)
    random = np.random.default_rng(0)
    medians = np.median(ratios[random.integers(len(ratios), size=(RESAMPLES, len(ratios)))], axis=1)
    low, high = np.quantile(medians, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return {"value": float(np.median(ratios)), "low": float(low), "high": float(high), "n": len(ratios)}
