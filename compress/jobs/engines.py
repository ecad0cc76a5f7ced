"""Another tool's choices in our file: calibrated on the same photos, judged by the same rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.core.console import progress
from compress.core.errors import UsageError
from compress.formats.base import Runner
from compress.jobs.choose import NOTHING_SEEN, Chooser
from compress.jobs.options import Shrinking
from compress.jobs.selection import Selection
from compress.jobs.tune import Cooked, Recipe
from compress.kit.data.sets import Dataset
from compress.kit.quant.calibrate import Calibration
from compress.kit.quant.engines.engine import Chosen
from compress.kit.quant.plan import Plan

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def check_engine(options: Shrinking) -> None:
    """Check that the flags are those an engine heeds.

    Raises:
        UsageError: Naming one that only ours does.
    """
    if options.engine == "ort":
        return
    ours = {
        "--dtype": options.dtype != "int8",
        "--max-loss-increase": bool(options.max_loss_increase),
        "--sensitivity": options.sensitivity,
        "--method": options.method != "auto",
        "--safe-weights": options.safe_weights,
        "--include": bool(options.include),
    }
    wrong = [flag for flag, given in ours.items() if given]
    if wrong:
        raise UsageError(f"--engine {options.engine} decides alone, {', '.join(wrong)} does not go with it",
                         hint="take --engine ort")  # fmt: skip


def by_engine(
    options: Shrinking, chooser: Chooser, photos: Dataset, selection: Callable[[], Selection]
) -> tuple[Cooked, int]:
    """Let ``options.engine`` plan the chooser's graph; returns the plan and the number of photos it looked at.

    neural-compressor's autotune runs with ``--tune full``, scored by the distance to the original's pictures on the
    selection photos.
    """
    keep = chooser.material(NOTHING_SEEN).keep
    feeds = chooser.feeds(photos, range(len(photos)))
    with progress(f"calibrate for {options.engine}", len(photos)) as advance:
        if options.engine == "pt2e":
            from compress.kit.quant.engines.pt2e import plan_pt2e

            chosen = plan_pt2e(chooser.graph, feeds, style=chooser.style, keep=keep, advance=advance)
        else:
            from compress.kit.quant.engines.inc import plan_inc

            score = _score(selection()) if options.tune == "full" else None
            chosen = plan_inc(chooser.graph, feeds, style=chooser.style, keep=keep, score=score, advance=advance)
    return _cooked(chosen, chooser.graph, chosen.plan), chosen.images


def _cooked(chosen: Chosen, graph: onnx.ModelProto, plan: Plan) -> Cooked:
    return Cooked(Recipe(bias="none"), graph, plan, graph, Calibration({}, {}, chosen.images, {}))


def _score(selection: Selection) -> Callable[[Run], float]:
    def score(run: Run) -> float:
        # a score of zero for the original would be divided by
        return 1.0 / (1.0 + selection.judge_runner(_Called(run)).distance)

    return score


class _Called(Runner):
    """What an engine hands over to be scored, as a runner."""

    def __init__(self, run: Run) -> None:
        self.run, self.describe = run, {}

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.run(image)

    def close(self) -> None:
        pass
