"""Metrics: what a number is called, its unit and which way is better, and pure numpy functions that measure it.

Nothing here stretches a prediction before it is measured: min-max normalisation, the habit of saliency papers and
of py_sod_metrics' default, turns a faint or blank mask into a good one and hides a dead network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.core.types import Better

FLAT_RANGE = 0.02  # 5 grey levels of 255: less than an eye or a threshold can use
FLAT_TAIL = 0.1  # percent of pixels dropped at each end, so that a few stuck pixels can't make a mask look alive


@dataclass(frozen=True)
class Metric:
    """A quantity a task reports: key in summaries, SI unit or "1" or "count", and which way is better."""

    name: str
    unit: str
    better: Better
    help: str


def mean_absolute_error(prediction: ArrayLike, target: ArrayLike) -> float:
    """Mean of |prediction - target| over every element, in float64. Arrays of one shape, values 0..1."""
    p, t = _pair(prediction, target)
    return float(np.mean(np.abs(p - t)))


def binary_cross_entropy(prediction: ArrayLike, target: ArrayLike, eps: float = 1e-7) -> float:
    """Mean binary cross-entropy over every element, in nats and float64. Arrays of one shape, values 0..1.

    Predictions are clipped to [eps, 1 - eps], so one saturated wrong pixel costs at most -ln(eps) = 16.1.
    """
    p, t = _pair(prediction, target)
    p = np.clip(p, eps, 1.0 - eps)
    return float(-np.mean(t * np.log(p) + (1.0 - t) * np.log1p(-p)))


def f_curve(prediction: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """F-measure of one mask at the 256 thresholds 255/255, 254/255, ... 0 (descending, "at least").

    beta squared is 0.3: Achanta et al. 2009, "Frequency-tuned salient region detection". Through
    py_sod_metrics, without its normalisation. Arrays (H, W), values 0..1; the target is cut at 128/255, the field's
    convention. Returns (256,) float64; all zero when the target has no foreground.
    """
    from py_sod_metrics import FmeasureHandler, FmeasureV2

    measure = FmeasureV2({"f": FmeasureHandler(with_dynamic=True, with_adaptive=False, beta=0.3)})
    measure.step(*_masks(prediction, target), normalize=False)
    curve: NDArray[np.float64] = measure.get_results()["f"]["dynamic"]
    return curve


def max_f(curves: Sequence[NDArray[np.float64]]) -> float:
    """MaxF of a data set: the maximum over thresholds of the mean of all images' F curves.

    This is the published convention; the mean of each image's own maximum would be higher. curves: N of (256,).
    """
    return float(np.mean(np.asarray(curves, dtype=np.float64), axis=0).max())


def s_measure(prediction: ArrayLike, target: ArrayLike) -> float:
    """Structure measure with alpha 0.5, 0..1: Fan et al. 2017, "Structure-measure", section 3.

    Through py_sod_metrics, without its normalisation. Arrays (H, W), values 0..1; the target is cut at 128/255.
    """
    from py_sod_metrics import Smeasure

    measure = Smeasure(alpha=0.5)
    measure.step(*_masks(prediction, target), normalize=False)
    return float(measure.get_results()["sm"])


def is_flat(prediction: ArrayLike) -> bool:
    """Tell whether a map of values 0..1 carries no picture: its robust range is below ``FLAT_RANGE``.

    The range runs from the 0.1th to the 99.9th percentile: plain max - min would call a blank int8 mask alive for
    one stuck pixel, while wider tails would call the mask of a small object (0.5 % of the picture) flat.
    A map with values that are not finite is flat too: nothing can be cut out with it.
    """
    low, high = np.percentile(np.asarray(prediction, dtype=np.float64), (FLAT_TAIL, 100.0 - FLAT_TAIL))
    return not high - low >= FLAT_RANGE  # "not >=" because a NaN compares false


def _pair(prediction: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, t = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    assert p.shape == t.shape, f"prediction {p.shape} against target {t.shape}"
    return p, t


def _masks(prediction: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    p, t = _pair(prediction, target)
    return p, t > 128.0 / 255.0
