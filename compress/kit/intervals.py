"""Intervals derived from raw repeats: percentiles, ratios of medians, paired differences over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 2000
FEWEST_IMAGES = 10  # below these a bootstrap interval is far too narrow, so none is given
FEWEST_REPEATS = 5


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; ``low`` and ``high`` are None where there is too little to tell.

    ``n`` counts the images or repeats behind it.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def beyond(self, null: float) -> int:
        """1 if the whole interval is above ``null``, -1 if below, 0 if it holds ``null`` or there is none."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > null) - int(self.high < null)


def percentiles(repeats: Sequence[float]) -> tuple[float, float, float]:
    """p50, p90 and p99 of raw samples, linear between neighbours; at least one sample."""
    low, middle, high = np.percentile(np.asarray(repeats, dtype=np.float64), (50, 90, 99))
    return float(low), float(middle), float(high)


def speedup(teacher: Sequence[float], model: Sequence[float]) -> Interval:
    """How many times faster the model is: ratio of median latencies, teacher over model.

    Percentile bootstrap (Efron & Tibshirani 1993, chapter 13), both sides resampled on their own.
    """
    t, m = np.asarray(teacher, dtype=np.float64), np.asarray(model, dtype=np.float64)
    value = float(np.median(t) / np.median(m))
    if min(len(t), len(m)) < FEWEST_REPEATS:
        return Interval(value, None, None, min(len(t), len(m)))

    def draw(random: np.random.Generator, times: int) -> NDArray[np.float64]:
        medians = [np.median(random.choice(side, (times, len(side))), axis=1) for side in (t, m)]
        ratios: NDArray[np.float64] = medians[0] / medians[1]
        return ratios

    return _bootstrap(value, draw, min(len(t), len(m)))


def relative_change(teacher: Sequence[float], model: Sequence[float]) -> Interval:
    """How much more a model loses, over the same images in the same order: mean(model) / mean(teacher) - 1.

    Images are resampled in pairs, so what makes an image hard for both cancels out. The teacher's mean is above 0.
    """
    t, m = np.asarray(teacher, dtype=np.float64), np.asarray(model, dtype=np.float64)
    assert t.shape == m.shape, f"{t.shape} against {m.shape}: not the same images"
    value = float(m.mean() / t.mean() - 1)
    if len(t) < FEWEST_IMAGES:
        return Interval(value, None, None, len(t))

    def draw(random: np.random.Generator, times: int) -> NDArray[np.float64]:
        drawn = random.integers(len(t), size=(times, len(t)))
        changes: NDArray[np.float64] = m[drawn].sum(axis=1) / t[drawn].sum(axis=1) - 1
        return changes

    return _bootstrap(value, draw, len(t))


def paired_difference(one: Sequence[float], other: Sequence[float]) -> Interval:
    """How much larger ``one`` is than ``other`` over the same images in the same order: the mean of the differences."""
    differences = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    value = float(differences.mean())
    if len(differences) < FEWEST_IMAGES:
        return Interval(value, None, None, len(differences))

    def draw(random: np.random.Generator, times: int) -> NDArray[np.float64]:
        means: NDArray[np.float64] = differences[
            random.integers(len(differences), size=(times, len(differences)))
        ].mean(1)
        return means

    return _bootstrap(value, draw, len(differences))


def _bootstrap(value: float, draw: Callable[[np.random.Generator, int], NDArray[np.float64]], n: int) -> Interval:
    random = np.random.default_rng(0)  # the same store gives the same page
    block = max(1, min(RESAMPLES, 1_000_000 // n))  # bounds memory for large test sets
    sizes = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    draws = np.concatenate([draw(random, size) for size in sizes])
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(value, float(low), float(high), n)
