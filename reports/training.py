"""Several trainings side by side: loss curves, pictures by epoch, at which loss pictures become plausible and when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from compress.core.errors import ArtifactError, UsageError
from compress.core.store import HISTORY, Store
from compress.core.types import Artifact
from compress.core.whole import write_whole
from reports import curves, words
from reports.curves import Curve, Drawn
from reports.growth import Photo, Validation, grown

FRACTIONS = (0.25, 0.5, 0.75, 0.9)  # of the best metric that any run reached
DOUBT = 0.2  # share of validations on the wrong side of a loss above which it tells nothing
LEVELS = 6


@dataclass(frozen=True)
class Judged:
    """What is looked at: the task's name, a metric of which more is better ("" for none), the main picture."""

    task: str
    metric: str
    kind: str


@dataclass(frozen=True)
class Run:
    """One training. steps: (epoch, training loss) of each step; validations by step, at least one."""

    artifact: Artifact
    name: str
    steps: tuple[tuple[float, float], ...]
    validations: tuple[Validation, ...]

    @property
    def best(self) -> float:
        """Least validation loss."""
        return min(v.loss for v in self.validations)

    def epochs_to(self, loss: float) -> float | None:
        """Epoch of the first validation at or below ``loss``, None where there is none."""
        return next((v.epoch for v in self.validations if v.loss <= loss), None)


@dataclass(frozen=True)
class Crossing:
    """Where a metric reaches a share of its best: between which validation losses, or why that can't be told.

    ``loss`` lies in the middle of ``low`` and ``high``; ``wrong`` of ``count`` validations are on its wrong side.
    """

    fraction: float
    value: float
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    wrong: int = 0
    count: int = 0
    why: str = ""


@dataclass(frozen=True)
class Level:
    """Epochs of each run, in their order, to a validation loss; ``common``: the least that all of them reach."""

    loss: float
    epochs: tuple[float | None, ...]
    common: bool


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    judged: Judged
    runs: tuple[Run, ...]
    finding: str
    crossings: tuple[Crossing, ...]
    levels: tuple[Level, ...]
    photos: tuple[Photo, ...]
    warnings: tuple[str, ...]


def write_training(store: Store, artifacts: Sequence[Artifact], judged: Judged, out: Path) -> tuple[Path, Path]:
    """Write the page, index.html, and its numbers, training.json, under ``out``; returns both paths.

    Raises:
        UsageError: If there are fewer than two runs, or one looked at no validation split.
        ArtifactError: If a history can't be read.
    """
    page = page_of(store, artifacts, judged)
    drawn = _plots(page)
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    style = (folder / "style.css").read_text(encoding="utf-8")
    html = environment.get_template("training.html.j2").render(page=page, plots=drawn, style=style, words=words)
    paths = out / "index.html", out / "training.json"
    write_whole(paths[0], html)
    write_whole(paths[1], json.dumps(_numbers(page), indent=1))
    return paths


def page_of(store: Store, artifacts: Sequence[Artifact], judged: Judged) -> Page:
    """Set out all there is to say; see ``write_training``."""
    chosen = list({artifact.id: artifact for artifact in artifacts}.values())
    if len(chosen) < 2:
        raise UsageError("one run alone is nothing to compare", hint="name two artifacts or more")
    runs = tuple(read_run(store, artifact, _label(artifact, chosen), judged.metric) for artifact in chosen)
    points = [(v.loss, v.metric) for run in runs for v in run.validations if v.metric is not None]
    levels = tuple(levels_of(runs))
    photos, remark = grown([(run.name, store.folder(run.artifact), run.validations) for run in runs], judged.kind)
    return Page(
        judged, runs, _finding(runs), tuple(crossings(points, FRACTIONS)), levels, photos,
        (*_differences(chosen), *([remark] if remark else [])),
    )  # fmt: skip


def read_run(store: Store, artifact: Artifact, name: str, metric: str) -> Run:
    """Read the history of a training.

    Raises:
        UsageError: If it never looked at its validation split.
        ArtifactError: If it can't be read.
    """
    path = store.folder(artifact) / HISTORY
    hint = f"compress train --teacher {artifact.network or 'NAME'} --validate-every 50 makes one that can be compared"
    if not path.is_file():
        raise UsageError(f"{artifact.name} ({artifact.id}) has no {HISTORY}: it was not trained here", hint=hint)
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
        looks = history["validations"] if isinstance(history, dict) else []
        validations = sorted((_validation(look, metric) for look in looks), key=lambda v: v.step)
        steps = [(int(s["step"]), float(s["loss"])) for s in (history["steps"] if looks else [])]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"'{path}' is no history of a training: {error!r}", hint="train it again") from error
    if not validations:
        raise UsageError(f"{artifact.name} ({artifact.id}) never looked at its validation split", hint=hint)
    pace = validations[-1].epoch / max(validations[-1].step, 1)
    return Run(artifact, name, tuple((step * pace, loss) for step, loss in steps), tuple(validations))


def _validation(look: dict[str, Any], metric: str) -> Validation:
    numbers = [float(look[key]) for key in ("epoch", "loss", *([metric] if metric in look else []))]
    if not np.isfinite(numbers).all():
        raise ValueError(f"step {look['step']} has numbers that are none")
    epoch, loss, *rest = numbers
    return Validation(int(look["step"]), epoch, loss, rest[0] if rest else None)


def crossings(points: Sequence[tuple[float, float]], fractions: Sequence[float]) -> list[Crossing]:
    """Find the validation loss that best parts the looks whose metric reaches a share of its best from the others.

    The loss with the fewest looks on the wrong side; of several such, the middle of the band they span. It can't be
    told where fewer than two looks are on either side, or more than ``DOUBT`` of them on the wrong one.

    Args:
        points: (loss, metric) of every look of every run; more of the metric is better.
        fractions: Shares of the best metric.
    """
    if not points:
        return []
    losses, metrics = np.array(sorted(points), np.float64).T
    return [_crossing(losses, metrics, fraction) for fraction in fractions]


def _crossing(losses: Any, metrics: Any, fraction: float) -> Crossing:
    value = fraction * float(metrics.max())
    reached = metrics >= value
    count, there = len(losses), int(reached.sum())
    if not 2 <= there <= count - 2:
        what = "all" if there == count else "none" if there == 0 else f"{there}"
        return Crossing(fraction, value, count=count, why=f"{what} of {count} looks reach it")
    # a cut after look k leaves those up to k on the side of less loss
    cuts = [k for k in range(count - 1) if losses[k] < losses[k + 1]]
    wrong = [int((~reached[: k + 1]).sum() + reached[k + 1 :].sum()) for k in cuts]
    if not cuts or min(wrong) > DOUBT * count:
        return Crossing(fraction, value, count=count, why="the loss does not tell: less of it is not always better")
    best = [k for k, errors in zip(cuts, wrong, strict=True) if errors == min(wrong)]
    low, high = float(losses[best[0]]), float(losses[best[-1] + 1])
    return Crossing(fraction, value, (low + high) / 2, low, high, min(wrong), count)


def levels_of(runs: Sequence[Run]) -> list[Level]:
    """Losses between the first look and the best one, and the epochs each run needs to them, highest loss first."""
    common = max(run.best for run in runs)
    top, bottom = max(run.validations[0].loss for run in runs), min(run.best for run in runs)
    losses = {loss for loss in curves.ticks(bottom, top, LEVELS) if bottom < loss < top} | {common}
    return [
        Level(loss, tuple(run.epochs_to(loss) for run in runs), loss == common)
        for loss in sorted(losses, reverse=True)
    ]  # fmt: skip


def _finding(runs: Sequence[Run]) -> str:
    common = max(run.best for run in runs)
    slowest = next(run for run in runs if run.best == common)
    to = sorted((run.epochs_to(common) or 0.0, run.name) for run in runs if run is not slowest)
    own = slowest.epochs_to(common) or 0.0
    told = words.listed([f"{name} {words.three(epoch)}" for epoch, name in to])
    sooner = f", {words.three(own / to[0][0])} times fewer" if 0 < to[0][0] < own else ""
    return (
        f"{slowest.name} needs {words.three(own)} epochs to its best validation loss of {words.number(common)}; "
        f"{told}{sooner}."
    )


def _differences(artifacts: Sequence[Artifact]) -> list[str]:
    """What must agree before losses of different runs may be compared, and does not."""
    found = []
    if len({artifact.data for artifact in artifacts}) > 1:
        found.append("The runs learned from different data: their validation losses may not be of the same pictures.")
    if len({artifact.input.height for artifact in artifacts}) > 1:
        found.append("The runs learned at different sizes; epochs of small pictures cost less.")
    return found


def _label(artifact: Artifact, chosen: Sequence[Artifact]) -> str:
    alone = sum(other.name == artifact.name for other in chosen) == 1
    return artifact.name if alone else f"{artifact.name} {artifact.id[:6]}"


def _plots(page: Page) -> list[Drawn]:
    metric = page.judged.metric
    title = words.title(metric)
    runs = [Curve(run.name, run.steps, [(v.epoch, v.loss) for v in run.validations]) for run in page.runs]
    drawn = [curves.lines(runs, "Loss by epoch", "loss  (lower is better)")]
    scored = [
        (run.name, [(v.epoch, v.loss, v.metric) for v in run.validations if v.metric is not None]) for run in page.runs
    ]
    if page.crossings:
        by_epoch = [Curve(name, (), [(epoch, value) for epoch, _, value in seen]) for name, seen in scored]
        drawn.append(curves.lines(by_epoch, f"{title} by epoch", f"{title}  (higher is better)"))
        against = [Curve(name, (), [(loss, value) for _, loss, value in seen]) for name, seen in scored]
        marks = [(c.loss, f"{c.fraction:.0%}") for c in page.crossings if c.loss is not None]
        drawn.append(curves.cloud(against, f"{title} against validation loss", title, marks))
    return drawn


def _numbers(page: Page) -> dict[str, Any]:
    ids = [run.artifact.id for run in page.runs]
    return {
        "task": page.judged.task,
        "metric": page.judged.metric,
        "finding": page.finding,
        "warnings": list(page.warnings),
        "plausible": [asdict(crossing) for crossing in page.crossings],
        "epochs_to_loss": [
            {"loss": level.loss, "common": level.common, "epochs": dict(zip(ids, level.epochs, strict=True))}
            for level in page.levels
        ],
        "runs": [
            {"id": run.artifact.id, "name": run.name, "network": run.artifact.network, "best_loss": run.best,
             "validations": [asdict(v) for v in run.validations]}
            for run in page.runs
        ],
    }  # fmt: skip
