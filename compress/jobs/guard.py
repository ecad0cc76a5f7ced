"""Watch over quantization-aware training: judge the file it would ship at intervals, keep the best, stop a fall."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.core.console import log
from compress.core.errors import ArtifactError, DivergedError
from compress.core.whole import written_whole
from compress.jobs.selection import Selection
from compress.kit.loop import Loop
from compress.kit.quant.fakequant import FakeQuant

BEST = "best.pt"
_FALL = 2.0  # times the distance of the start: training leads away
_PATIENCE = 2  # looks in a row


@dataclass
class Guard:
    """Judges the file that would ship now, in the runtime it is for, on photos that nothing is trained on.

    Args:
        fake: The network in training.
        selection: Judges a graph by its distance to the teacher's pictures.
        folder: Where the best state is kept.
        loop: Whose ``validations`` are the looks so far; they are part of its checkpoint.
        every: Steps between looks.
        epoch: Share of an epoch that a step is.
    """

    fake: FakeQuant
    selection: Selection
    folder: Path
    loop: Loop
    every: int
    epoch: float
    stopped: str = ""  # why training ended before its last step

    def record(self, step: int, losses: Mapping[str, float]) -> None:  # noqa: ARG002
        """Look, where it is time.

        Raises:
            DivergedError: If the pictures are no numbers, or were far from the teacher's at the last looks.
        """
        if step % self.every == 0:
            self.look()

    def look(self) -> None:
        """Judge the network as it is now, and keep it if nothing before did better.

        Raises:
            DivergedError: As ``record``.
        """
        step, looks = self.loop.step, self.loop.validations
        judged = self.selection.judge(self.fake.graph(), self.fake.plan())
        if not math.isfinite(judged.distance):
            raise DivergedError(f"qat diverged at step {step}: its pictures are no numbers", hint="lower --lr")
        looks.append({"step": step, "epoch": step * self.epoch, "distance": judged.distance, "loss": judged.loss,
                      "dead_masks": judged.dead})  # fmt: skip
        log.info("step %d: %.5f from the teacher's pictures, loss %.5f", step, judged.distance, judged.loss)
        if self.best() is looks[-1]:
            with written_whole(self.folder / BEST) as scratch, scratch.open("wb") as stream:
                torch.save(self.fake.state_dict(), stream)
        start, last = looks[0]["distance"], looks[-_PATIENCE:]
        if len(looks) > _PATIENCE and all(each["distance"] > _FALL * start for each in last):
            raise DivergedError(
                f"qat leads away: {judged.distance:.5f} from the teacher's pictures at step {step}, "
                f"{start:.5f} at the start",
                hint="lower --lr",
            )

    def best(self) -> dict[str, float]:
        """The look with the smallest distance among those without a new dead mask, the first of equals."""
        looks = self.loop.validations
        alive = [look for look in looks if look["dead_masks"] <= looks[0]["dead_masks"]]
        return min(alive, key=lambda look: look["distance"])

    def take_best(self) -> None:
        """Bring the network back to its best state.

        Raises:
            ArtifactError: If the file that kept it is gone or damaged.
        """
        path = self.folder / BEST
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise ArtifactError(f"the best state {path} can't be read: {error}", hint="start over without --resume"
                                ) from error  # fmt: skip
        self.fake.load_state_dict(state)
