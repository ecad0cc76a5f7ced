"""Ablate a network's branches: what the loss rises by when one gets another image's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.core.console import Advance
from compress.core.errors import DataError
from compress.core.machine import this_machine
from compress.core.store import digest
from compress.core.types import Artifact, ImageSpec, Row
from compress.jobs.desk import now
from compress.jobs.evaluate import Source
from compress.kit.alive import CONSTANT, Shuffled, forward
from compress.kit.data.sets import Dataset, Sample, Subset
from compress.kit.images import letterbox, normalized, resize
from compress.kit.intervals import Interval, paired_difference
from compress.tasks.base import Task

QUANTITY = "ablation"


@dataclass(frozen=True)
class Branch:
    """What a branch is worth.

    Args:
        name: As the network declares it.
        costs: Of each image, by how much its loss rises when the branch is another image's.
        rise: Their mean with its interval.
        spread: Deviation of its values over images, as a share of their root mean square.
    """

    name: str
    costs: tuple[float, ...]
    rise: Interval
    spread: float

    @property
    def dead(self) -> str:
        """Why it is dead, "" where it is not: a constant, or nothing that can be told from no cost at all."""
        if self.spread <= CONSTANT:
            return "the same for every image"
        if self.rise.low is not None and self.rise.low <= 0:
            return "shuffling it costs nothing"
        return ""


def drawn(data: Dataset, limit: int | None, seed: int) -> Subset:
    """Draw ``limit`` pictures (None: all), in an order that sets no film frame beside the next one.

    Raises:
        DataError: If there are fewer than two: nothing could be shuffled.
    """
    order = np.random.default_rng(seed).permutation(len(data))[:limit]
    if len(order) < 2:
        raise DataError(f"{len(order)} picture: shuffling needs two", hint="give more --data, or a higher --limit")
    return Subset(data, tuple(map(int, order)))


def ablate(
    module: nn.Module,
    branches: Sequence[str],
    spec: ImageSpec,
    task: Task,
    data: Dataset,
    *,
    batch: int = 8,
    device: str = "cpu",
    advance: Advance,
) -> tuple[list[float], list[Branch]]:
    """Score every picture of ``data`` as it is and with each branch shuffled within its batch.

    Args:
        module: The network, in eval mode.
        branches: What to shuffle, see ``kit.alive.Shuffled``.
        spec: Its input; photos are brought to the spec's height and width as its fit says, those at their own size cut.
        task: Scores the output that ships, after its activation.
        data: Two pictures or more.
        batch: Pictures at a time, 2 or more; less than twice as many where the last ones would be alone.
        device: "cpu" or "cuda".
        advance: Called after every picture.

    Returns:
        The loss of each picture, and the branches in their order.
    """
    assert batch > 1
    net = module.to(torch.device(device))
    shuffles = {name: Shuffled(net, name) for name in branches}
    plain: list[float] = []
    shuffled: dict[str, list[float]] = {name: [] for name in branches}
    for indices in np.array_split(np.arange(len(data)), max(1, len(data) // batch)):
        samples = [framed(data.original(int(index)), spec) for index in indices]
        image = torch.from_numpy(np.stack([normalized(sample["image"], spec) for sample in samples])).to(device)
        targets = [sample["target"] for sample in samples]
        losses = _losses(net, image, targets, task)
        plain += losses
        for name, shuffle in shuffles.items():
            with shuffle:
                shuffled[name] += _losses(net, image, targets, task)
        for _ in samples:
            advance()
    return plain, [_branch(name, plain, shuffled[name], shuffles[name].spread) for name in branches]


def framed(sample: Sample, spec: ImageSpec) -> Sample:
    """Bring a sample to the spec's height and width, so that several make a batch.

    Of a photo at its own size the middle is taken, of its target too; letterboxed, both have white around them. What
    is stretched, or smaller than the spec, keeps its target: a score brings the prediction to that size.
    """
    image, sides = sample["image"], (spec.height, spec.width)
    if spec.fit == "pad":
        return {key: letterbox(picture, sides)[0] for key, picture in sample.items()}
    if spec.fit == "native" and all(have >= side for have, side in zip(image.shape[:2], sides, strict=True)):
        top, left = ((have - side) // 2 for have, side in zip(image.shape[:2], sides, strict=True))
        return {key: picture[top : top + sides[0], left : left + sides[1]] for key, picture in sample.items()}
    return {**sample, "image": resize(image, sides)}


def _branch(name: str, plain: Sequence[float], shuffled: Sequence[float], spread: float) -> Branch:
    costs = tuple(after - before for before, after in zip(plain, shuffled, strict=True))
    return Branch(name, costs, paired_difference(shuffled, plain), spread)


def _losses(net: nn.Module, image: torch.Tensor, targets: Sequence[NDArray[np.uint8]], task: Task) -> list[float]:
    shipped = task.activate(forward(net, image)).float().cpu().numpy()
    return [float(task.score(one, target)["loss"]) for one, target in zip(shipped, targets, strict=True)]


def ablation_rows(
    artifact: Artifact, spec: ImageSpec, task: Task, data: str, source: Source, branches: Sequence[Branch]
) -> list[Row]:
    """Rows of an ablation: one a branch, its value the mean cost. data: fingerprint of the whole split."""
    common = {"data": data, "split": source.split, "sources": list(source.folders), "size": spec.height}
    run = digest([artifact.id, QUANTITY, common, now()])
    return [
        Row(
            artifact.id,
            "torch",
            QUANTITY,
            branch.rise.value,
            task.metrics[0].unit,
            "none",
            run=run,
            machine=this_machine(),
            repeats=branch.costs,
            details={**common, "branch": branch.name, "spread": branch.spread, "dead": branch.dead,
                     "interval": [branch.rise.low, branch.rise.high]},
            created=now(),
        )
        for branch in branches
    ]  # fmt: skip
