"""Score a runner on a data set by its task's metrics, and keep sample predictions for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compress.core.console import Advance, log
from compress.core.errors import DataError, UsageError
from compress.core.machine import this_machine
from compress.core.store import Store, digest
from compress.core.types import Artifact, ImageSpec, Row
from compress.core.whole import written_whole
from compress.formats.base import Runner
from compress.jobs.desk import now
from compress.kit.data.sets import Dataset
from compress.kit.infer import at_size, predict
from compress.kit.measure.metrics import Metric
from compress.tasks.base import Extra, Guess, Score, Task

SAMPLES = 6  # pictures kept for the report
Keep = Callable[[int, NDArray[np.float32], Score], None]  # index of an image, its prediction (C', h, w), its score


@dataclass(frozen=True)
class Evaluation:
    """Metrics over the whole set, the loss of each image (for intervals), and what single numbers hide."""

    metrics: dict[str, float]
    losses: tuple[float, ...]
    details: dict[str, Any] = field(default_factory=dict)


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
    return at_size(spec, size, size)


def spec_at(spec: ImageSpec, size: int) -> ImageSpec:
    """``spec`` for a network trained at ``size`` pixels a side."""
    return replace(spec, height=size, width=size)


def evaluate(
    runner: Runner,
    spec: ImageSpec,
    task: Task,
    dataset: Dataset,
    advance: Advance,
    *,
    tile: int = 0,
    extras: Sequence[Extra] = (),
    keep: Keep | None = None,
) -> Evaluation:
    """Score every image of ``dataset`` at its original size; ``advance`` is called after each, ``keep`` with each."""
    return _score(lambda photo: predict(runner, spec, photo, tile), task, dataset, advance, extras, keep)


def evaluate_baseline(
    task: Task, sources: Sequence[str], seed: int, dataset: Dataset, advance: Advance
) -> tuple[str, Evaluation] | None:
    """Score what needs no network, fitted to the training split of ``sources``, on the images of ``dataset``.

    Returns:
        Its name and scores; None where the sources have no such split, or the task knows no such answer.
    """
    try:
        baseline = task.baseline(task.open(sources, "train", seed=seed))
    except DataError as error:
        log.info("no baseline: %s", error.what)
        return None
    return None if baseline is None else (baseline.name, _score(baseline.guess, task, dataset, advance))


def _score(
    guess: Guess,
    task: Task,
    dataset: Dataset,
    advance: Advance,
    extras: Sequence[Extra] = (),
    keep: Keep | None = None,
) -> Evaluation:
    scores = []
    for index in range(len(dataset)):
        original = dataset.original(index)
        prediction = guess(original["image"])
        scores.append(task.score(prediction, original["target"]))
        for extra in extras:
            extra.add(prediction, original["target"])
        if keep is not None:
            keep(index, prediction, scores[-1])
        advance()
    losses = tuple(float(score["loss"]) for score in scores)
    further = {extra.metric.name: extra.result() for extra in extras}
    return Evaluation(task.summarize(scores) | further, losses, task.details(scores))


def sample_indices(length: int) -> list[int]:
    """Indices of the sample photos: spread evenly over the set."""
    count = min(SAMPLES, length)
    return [round(k * (length - 1) / max(1, count - 1)) for k in range(count)]


def keep_pictures(store: Store, artifact: Artifact, task: Task, data: Dataset) -> Keep:
    """Return what writes sample predictions, their photos and their truths under ``store.pictures``."""
    samples = sample_indices(len(data))

    def keep(index: int, prediction: NDArray[np.float32], score: Score) -> None:  # noqa: ARG001
        if index in samples:
            _keep_picture(store, artifact, task, data, index, f"{samples.index(index):02d}", prediction)

    return keep


def _keep_picture(
    store: Store, artifact: Artifact, task: Task, data: Dataset, index: int, name: str, prediction: NDArray[np.float32]
) -> None:
    original = data.original(index)
    photo, truth = original["image"], task.as_prediction(original["target"])
    mine = store.pictures(data.fingerprint, artifact.id)
    theirs = store.pictures(data.fingerprint, "truth")
    for folder, picture in ((mine, prediction), (theirs, truth)):
        for kind, drawn in task.pictures(photo, picture).items():
            save_picture(folder / f"{name}.{kind}.png", drawn)
    save_picture(theirs / f"{name}.photo.png", PIL.Image.fromarray(photo))


def save_picture(path: Path, picture: PIL.Image.Image) -> None:
    """Write a PNG, whole or not at all."""
    with written_whole(path) as temporary:
        picture.save(temporary, format="PNG")


@dataclass(frozen=True)
class Source:
    """Where pictures came from: what --data named, and which part of it."""

    folders: tuple[str, ...]
    split: str


def metric_rows(
    artifact: Artifact,
    runner: Runner,
    spec: ImageSpec,
    data: Dataset,
    source: Source,
    result: Evaluation,
    metrics: Sequence[Metric],
    more: Mapping[str, Any],
) -> list[Row]:
    """Rows of an evaluation; the loss keeps every image's, so that differences get an interval.

    metrics: what is known of the numbers; more: further details of the row of the loss (baseline, confusion matrix).
    """
    details = {
        "data": data.fingerprint,
        "split": source.split,
        "sources": list(source.folders),
        "size": spec.height,
        "fit": spec.fit,
        "runtime": runner.describe,
    }
    target = "torch" if artifact.format == "safetensors" else "cpu"
    known = {metric.name: metric for metric in metrics}
    return [
        Row(
            artifact.id,
            target,
            name,
            value,
            known[name].unit if name in known else "count",
            known[name].better if name in known else "none",
            run=digest([artifact.id, details, now()]),
            machine=this_machine(),
            repeats=result.losses if name == "loss" else (),
            details={**details, **more} if name == "loss" else details,
            created=now(),
        )
        for name, value in result.metrics.items()
    ]
