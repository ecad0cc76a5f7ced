"""What each image costs a network: scored once on the held-back images, kept in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results.plan import Family
from benchmarks.results.statistics import METRICS
from benchmarks.results.words import Setting, data_of
from compress.core.console import progress
from compress.core.store import Store, digest
from compress.core.types import Artifact
from compress.core.whole import written_whole
from compress.jobs.models import open_runner
from compress.kit.data.sets import Dataset, spread
from compress.kit.infer import predict
from compress.tasks import TASKS
from compress.tasks.base import Task

BLOCK = 128  # pixels a side of what a large page is scored in
LARGE = {"membrane"}  # tasks of few, large pages: each block of a page counts as an image of its own
QUICK = 12  # images at --quick


class Judge:
    """Scores networks of one family on its held-back images.

    Args:
        store: Where networks and scores lie.
        family: Which.
        setting: Where the data lies.
    """

    def __init__(self, store: Store, family: Family, setting: Setting) -> None:
        self.store, self.family = store, family
        self.task: Task = TASKS.get(family.name)
        data = self.task.open(data_of(family, setting, test=True), family.split, seed=0)
        self.images: Dataset = spread(data, QUICK if setting.quick else None)

    def _kept(self, artifact: Artifact) -> Path:
        key = digest([artifact.id, artifact.sha256, self.images.fingerprint])
        return self.store.root / "results" / "scores" / f"{key}.npz"

    def scores(self, artifact: Artifact) -> dict[str, NDArray[np.float64]]:
        """Columns of ``METRICS`` of each image, (images, columns), by metric; those the task has."""
        path = self._kept(artifact)
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                return {name: kept[name] for name in kept.files}
        found = self._score(artifact)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as scratch, scratch.open("wb") as stream:
            np.savez(stream, **found)
        return found

    def _score(self, artifact: Artifact) -> dict[str, NDArray[np.float64]]:
        runner, rows = open_runner(self.store, artifact), []
        try:
            with progress(f"score {artifact.name}", len(self.images)) as advance:
                for index in range(len(self.images)):
                    sample = self.images.original(index)
                    picture = predict(runner, artifact.input, sample["image"])
                    rows += [self.task.score(*pair) for pair in blocks(self.task.name, picture, sample["target"])]
                    advance()
        finally:
            runner.close()
        known = [name for name, metric in METRICS.items() if set(metric.columns) <= rows[0].keys()]
        return {name: np.stack([_row(row, METRICS[name].columns) for row in rows]) for name in known}


def blocks(
    task: str, picture: NDArray[np.float32], target: NDArray[np.uint8]
) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Cut a large page into equal blocks; anything else stays one. picture: (C, h, w); target: (H, W[, C])."""
    height, width = target.shape[:2]
    if task not in LARGE or height % BLOCK or width % BLOCK or picture.shape[1:] != (height, width):
        return [(picture, target)]
    corners = [(y, x) for y in range(0, height, BLOCK) for x in range(0, width, BLOCK)]
    return [(picture[:, y : y + BLOCK, x : x + BLOCK], target[y : y + BLOCK, x : x + BLOCK]) for y, x in corners]


def _row(score: dict[str, Any], columns: tuple[str, ...]) -> NDArray[np.float64]:
    return np.concatenate([np.atleast_1d(np.asarray(score[name], np.float64)) for name in columns])
