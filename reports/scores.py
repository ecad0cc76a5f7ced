"""What any two models of a task lose, measured on the same pictures: on the page's data, else at birth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from compress.core.types import Artifact, Better
from compress.kit.intervals import Interval
from reports import words
from reports.compare import change_of, losses_of, target_order
from reports.frame import wide

BORN = "validation, at birth"
_COUNTS = ("images", "dead_masks")


class Scores:
    """Losses and metrics by model.

    Args:
        scored: Quality rows of one data set, the page's first; may be empty.
        metrics: Quantity, unit and better of the task's metrics.
    """

    def __init__(self, scored: pd.DataFrame, metrics: Sequence[tuple[str, str, Better]]) -> None:
        targets = target_order(scored)
        self._losses = losses_of(scored, targets)
        self._table = wide(scored, targets)
        self.metrics = [(name, better) for name, _, better in metrics if name not in ("loss", *_COUNTS)]

    def measured(self, *artifacts: Artifact) -> bool:
        """Whether all of them have a loss on the page's data."""
        return all(artifact.id in self._losses for artifact in artifacts)

    def values(self, artifact: Artifact, *, born: bool) -> Mapping[str, float]:
        """Metrics by name, "loss" among them where it is known; ``born``: those on the validation split, at birth."""
        if born:
            return {name: float(value) for name, value in artifact.metrics.items()}
        if artifact.id not in self._table.index:
            return {}
        row: Any = self._table.loc[artifact.id].dropna()
        return {str(name): float(value) for name, value in row.items()}

    def loss(self, artifact: Artifact, *, born: bool) -> float:
        """Its loss; nan where it is not known."""
        return self.values(artifact, born=born).get("loss", math.nan)

    def change(self, artifact: Artifact, other: Artifact, *, born: bool) -> Interval | None:
        """Relative change of the loss against ``other``'s, paired over pictures where those are known.

        None where either is not known, or was scored on other pictures.
        """
        if not born:
            return change_of(self._losses, artifact, other)
        mine, theirs = self.loss(artifact, born=True), self.loss(other, born=True)
        known = math.isfinite(mine) and math.isfinite(theirs) and theirs > 0
        return Interval(mine / theirs - 1, None, None, 0) if known and same_split(artifact, other) else None


def same_split(one: Artifact, other: Artifact) -> bool:
    """Whether two models were scored on the same validation pictures when they were made, as far as is recorded."""
    seen = [(sorted(map(str, a.options.get("data") or ())), a.metrics.get("images")) for a in (one, other)]
    return seen[0] == seen[1]


def change_words(change: Interval | None) -> tuple[str, ...]:
    """A change in percent and its interval, or that there is none."""
    if change is None:
        return ("not compared",)
    ends = words.between(change)
    return f"{words.percent(change.value)} %", ends or "no interval"
