"""What a network in training makes of the validation split, at intervals: numbers for curves, pictures to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import nn

from compress.core.console import log
from compress.core.store import written_whole
from compress.core.types import ImageSpec
from compress.jobs.evaluate import evaluate
from compress.kit.data.sets import Dataset, Subset
from compress.kit.infer import predict
from compress.kit.ship.runtime import Shipped
from compress.tasks.base import Task

PICTURES = "pictures"
SCORED, KEPT = 32, 3  # photos, spread evenly over the split


@dataclass(frozen=True)
class Watch:
    """Scores a module on a few photos and keeps what it makes of some.

    Args:
        task: The task.
        spec: Input at the size the network is trained at.
        data: The validation split.
        folder: Where the pictures go.
    """

    task: Task
    spec: ImageSpec
    data: Dataset
    folder: Path

    def look(self, module: nn.Module, step: int, epoch: float) -> dict[str, float]:
        """Score ``module``, leave it in the mode it was in. Returns "step", "epoch" and the task's metrics."""
        was = module.training
        runner = Live(module.eval(), self.task)
        few = _few(self.data, SCORED)
        result = evaluate(runner, self.spec, self.task, few, lambda _="": None)
        self._keep(runner, step)
        module.train(was)
        told = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items() if name != "images")
        log.info("step %d: %s", step, told)
        return {"step": float(step), "epoch": epoch, **result.metrics}

    def _keep(self, runner: Live, step: int) -> None:
        few = _few(self.data, KEPT)
        for index in range(len(few)):
            sample = few.original(index)
            photo = sample["image"]
            shown = {f"step-{step:06d}": predict(runner, self.spec, photo)}
            if not (self.folder / "truth").is_dir() or index:
                shown["truth"] = self.task.as_prediction(sample["target"])
                _save(self.folder / "photo" / f"{index:02d}.photo.png", PIL.Image.fromarray(photo))
            for where, prediction in shown.items():
                for kind, picture in self.task.pictures(photo, prediction).items():
                    _save(self.folder / where / f"{index:02d}.{kind}.png", picture)


class Live:
    """A torch module in memory as a runner of its task."""

    def __init__(self, module: nn.Module, task: Task) -> None:
        self._module = Shipped(module, task.activate)
        self.describe: dict[str, Any] = {"runtime": "torch", "version": torch.__version__, "threads": 0, "provider": ""}

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the module where its parameters lie."""
        where = next(self._module.parameters()).device
        with torch.inference_mode():
            picture: NDArray[np.float32] = self._module(torch.from_numpy(image).to(where)).float().cpu().numpy()
        return picture

    def close(self) -> None:
        """Nothing is held."""


def _few(data: Dataset, count: int) -> Dataset:
    if len(data) <= count:
        return data
    return Subset(data, tuple(k * len(data) // count for k in range(count)))


def _save(path: Path, picture: PIL.Image.Image) -> None:
    with written_whole(path) as temporary:
        picture.thumbnail((384, 384))
        picture.save(temporary, format="PNG")
