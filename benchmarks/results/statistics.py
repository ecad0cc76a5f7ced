"""Means and intervals of a stage's networks beside another's: images and seeds are both what was drawn.

What a metric is made of is summed over images, then finished: so means and mIoU go the same way. An interval draws
images with replacement, the same ones for both sides and every seed, and seeds with replacement, the same ones for
both sides: what makes an image hard, or a seed lucky in its batches, cancels out. Three seeds drawn from three are less
spread than three drawn from all there are, by (n - 1) / n in variance, so each is first moved away from their mean by
sqrt(n / (n - 1)). Percentiles as in ``compress.kit.intervals`` (Efron & Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.kit.intervals import FEWEST_IMAGES, LEVEL, RESAMPLES, Interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Statistic:
    """A number, the smaller the better, that follows from sums over images.

    Args:
        columns: What is summed of each image's score.
        finish: From means over images, (..., columns), to the number, (...).
        tells: What it is.
    """

    columns: tuple[str, ...]
    finish: Callable[[Array], Array]
    tells: str


def _first(means: Array) -> Array:
    found: Array = means[..., 0]
    return found


def _class_error(means: Array) -> Array:
    """1 - mIoU of confusion matrices (..., K * K), rows true; a class nobody has or says doesn't count."""
    classes = round(means.shape[-1] ** 0.5)
    counts = means.reshape(*means.shape[:-1], classes, classes)
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(-1) + counts.sum(-2) - hit
    known = union > 0
    iou = np.divide(hit, union, out=np.zeros_like(hit), where=known)
    error: Array = 1.0 - iou.sum(-1) / known.sum(-1)
    return error


def _fade(means: Array) -> Array:
    found: Array = np.abs(1.0 - means[..., 0] / means[..., 1])
    return found


METRICS = {
    "loss": Statistic(("loss",), _first, "the task's loss"),
    "mae": Statistic(("mae",), _first, "mean absolute error"),
    "1-miou": Statistic(("confusion",), _class_error, "1 - mIoU over the pixels of all pictures"),
    "fade": Statistic(("colorfulness", "true"), _fade, "share by which the mean colorfulness misses the true photos'"),
}


@dataclass(frozen=True)
class Comparison:
    """One side beside another: means over seeds, the difference and the ratio with 95 % intervals."""

    mine: float
    theirs: float
    difference: Interval
    ratio: Interval
    seeds: int


def value(statistic: Statistic, scores: Array) -> Array:
    """The number of each seed, (seeds,); scores: (seeds, images, columns)."""
    return statistic.finish(scores.mean(axis=1))


def compare(statistic: Statistic, mine: Array, theirs: Array) -> Comparison:
    """Compare two sides over the same images in the same order, and the same seeds in the same order.

    mine: (seeds, images, columns); theirs: the same, or with one seed that stands beside all of mine.
    """
    assert mine.shape[1:] == theirs.shape[1:] and theirs.shape[0] in (1, mine.shape[0]), (mine.shape, theirs.shape)
    theirs = np.broadcast_to(theirs, mine.shape)
    one, other = float(value(statistic, mine).mean()), float(value(statistic, theirs).mean())
    seeds, images = mine.shape[:2]
    if images < FEWEST_IMAGES:
        alone = Interval(one - other, None, None, images)
        return Comparison(one, other, alone, Interval(one / other, None, None, images), seeds)
    random = np.random.default_rng(0)  # the same scores give the same page
    weights = random.multinomial(images, np.full(images, 1.0 / images), size=RESAMPLES) / images
    drawn = random.integers(seeds, size=(RESAMPLES, seeds))
    both = [_drawn(statistic, side, weights, drawn) for side in (mine, theirs)]
    return Comparison(
        one,
        other,
        _interval(one - other, both[0] - both[1], images),
        _interval(one / other, both[0] / both[1], images),
        seeds,
    )


def _drawn(statistic: Statistic, scores: Array, weights: Array, seeds: NDArray[np.int64]) -> Array:
    """The mean over drawn seeds at each drawing of images: (draws,)."""
    each = np.stack([statistic.finish(weights @ scores[seed]) for seed in range(len(scores))], axis=1)
    count = len(scores)
    if count > 1:
        middle = each.mean(axis=1, keepdims=True)
        each = middle + np.sqrt(count / (count - 1)) * (each - middle)
    means: Array = np.take_along_axis(each, seeds, axis=1).mean(axis=1)
    return means


def _interval(estimate: float, draws: Array, images: int) -> Interval:
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(estimate, float(low), float(high), images)
