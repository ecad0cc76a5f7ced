"""Score a runner on a data set by its task's metrics, and keep sample predictions for the report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compress.core.console import Advance
from compress.core.errors import UsageError
from compress.core.machine import this_machine
from compress.core.store import Store, digest, written_whole
from compress.core.types import Artifact, ImageSpec, Row
from compress.formats.base import Runner
from compress.jobs.desk import now
from compress.kit.data import Dataset
from compress.kit.images import prepare
from compress.tasks.base import Task

SAMPLES = 6  # pictures kept for the report


@dataclass(frozen=True)
class Evaluation:
    """Metrics over the whole set, and the loss of each image (for intervals)."""

    metrics: dict[str, float]
    losses: tuple[float, ...]


def input_at(artifact: Artifact, size: int | None) -> ImageSpec:
    """The artifact's input at another size, or at its own when ``size`` is None.

    Raises:
        UsageError: If the network runs at one size only and another is asked.
    """
    spec = artifact.input
    if size is None or (size, size) == (spec.height, spec.width):
        return spec
    if not spec.dynamic:
        raise UsageError(
            f"{artifact.name} runs at {spec.height}x{spec.width} only, --size {size} was asked",
            hint="leave --size out, or make the artifact again at that size",
        )
    return replace(spec, height=size, width=size)


def spec_at(spec: ImageSpec, size: int) -> ImageSpec:
    """``spec`` for a network trained at ``size`` pixels a side."""
    return replace(spec, height=size, width=size)


def predict(runner: Runner, spec: ImageSpec, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run one photo (H, W, 3), values 0..255; returns what ships, (C', h, w)."""
    picture: NDArray[np.float32] = runner(prepare(photo, spec)[None])[0]
    return picture


def evaluate(runner: Runner, spec: ImageSpec, task: Task, dataset: Dataset, advance: Advance) -> Evaluation:
    """Score every image of ``dataset`` at its original size; ``advance`` is called after each."""
    scores = []
    for index in range(len(dataset)):
        original = dataset.original(index)
        scores.append(task.score(predict(runner, spec, original["image"]), original["target"]))
        advance()
    losses = tuple(float(score["loss"]) for score in scores)
    return Evaluation(task.summarize(scores), losses)


def sample_indices(length: int) -> list[int]:
    """Indices of the sample photos: spread evenly over the set."""
    count = min(SAMPLES, length)
    return [round(k * (length - 1) / max(1, count - 1)) for k in range(count)]


def keep_pictures(store: Store, artifact: Artifact, runner: Runner, spec: ImageSpec, task: Task, data: Dataset) -> None:
    """Write sample predictions, and the photos and truths they belong to, under ``store.pictures``."""
    for number, index in enumerate(sample_indices(len(data))):
        original = data.original(index)
        photo = original["image"]
        truth = task.as_prediction(original["target"])
        mine = store.pictures(data.fingerprint, artifact.id)
        theirs = store.pictures(data.fingerprint, "truth")
        for folder, prediction in ((mine, predict(runner, spec, photo)), (theirs, truth)):
            for kind, picture in task.pictures(photo, prediction).items():
                _save(folder / f"{number:02d}.{kind}.png", picture)
        _save(theirs / f"{number:02d}.photo.png", PIL.Image.fromarray(photo))


def _save(path: Path, picture: PIL.Image.Image) -> None:
    with written_whole(path) as temporary:
        picture.save(temporary, format="PNG")


@dataclass(frozen=True)
class Source:
    """Where pictures came from: what --data named, and which part of it."""

    folders: tuple[str, ...]
    split: str


def metric_rows(
    artifact: Artifact, runner: Runner, spec: ImageSpec, task: Task, data: Dataset, source: Source, result: Evaluation
) -> list[Row]:
    """Rows of an evaluation; the loss keeps every image's, so that differences get an interval."""
    details = {
        "data": data.fingerprint,
        "split": source.split,
        "sources": list(source.folders),
        "size": spec.height,
        "runtime": runner.describe,
    }
    target = "torch" if artifact.format == "safetensors" else "cpu"
    metrics = {metric.name: metric for metric in task.metrics}
    return [
        Row(
            artifact.id,
            target,
            name,
            value,
            metrics[name].unit if name in metrics else "count",
            metrics[name].better if name in metrics else "none",
            run=digest([artifact.id, details, now()]),
            machine=this_machine(),
            repeats=result.losses if name == "loss" else (),
            details=details,
            created=now(),
        )
        for name, value in result.metrics.items()
    ]
