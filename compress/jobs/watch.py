"""What a network in training makes of the validation split, at intervals: numbers for curves, pictures to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from torch import nn

from compress.core.console import log
from compress.core.types import ImageSpec
from compress.formats.base import Runner
from compress.formats.safetensors import TorchRunner
from compress.jobs.evaluate import evaluate, save_picture
from compress.kit.data.sets import Dataset, spread
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
        """Score a copy of ``module``. Returns "step", "epoch" and the task's metrics."""
        runner = TorchRunner(Shipped(module, self.task.activate), device=str(next(module.parameters()).device))
        few = spread(self.data, SCORED)
        result = evaluate(runner, self.spec, self.task, few, lambda _="": None)
        self._keep(runner, step)
        told = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items() if name != "images")
        log.info("step %d: %s", step, told)
        return {"step": float(step), "epoch": epoch, **result.metrics}

    def _keep(self, runner: Runner, step: int) -> None:
        few = spread(self.data, KEPT)
        for index in range(len(few)):
            sample = few.original(index)
            photo = sample["image"]
            shown = {f"step-{step:06d}": predict(runner, self.spec, photo)}
            original = self.folder / "photo" / f"{index:02d}.photo.png"
            if not original.is_file():
                shown["truth"] = self.task.as_prediction(sample["target"])
                _keep_small(original, PIL.Image.fromarray(photo))
            for where, prediction in shown.items():
                for kind, picture in self.task.pictures(photo, prediction).items():
                    _keep_small(self.folder / where / f"{index:02d}.{kind}.png", picture)


def _keep_small(path: Path, picture: PIL.Image.Image) -> None:
    picture.thumbnail((384, 384))
    save_picture(path, picture)
