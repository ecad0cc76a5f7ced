"""Which range of a tensor gets a grid of 256 values: all that was seen, or less of it with finer steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import UsageError, unknown
from compress.kit.quant.plan import Grid
from compress.kit.quant.seen import Seen

if TYPE_CHECKING:
    from compress.kit.quant.calibrate import Calibration

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")

Reals = NDArray[np.float64]
Cost = Callable[[Reals, Reals], Reals]  # of ranges low, high, in bins, (candidates,) each

_COARSE = 24  # shares of an end that are tried
_FINE = 6  # and, on each side of the best one, between it and its neighbours


def grids(
    calibration: Calibration, methods: Mapping[str, Method] | Method = "minmax", *, percentile: float = 99.999
) -> dict[str, Grid]:
    """Return a grid for every tensor that was seen.

    Args:
        calibration: What was seen.
        methods: How its range is chosen, one way for all or one per tensor; "minmax" for tensors it lacks.
        percentile: See ``chosen_range``.
    """
    chosen = {}
    for name, seen in calibration.tensors.items():
        method = methods if isinstance(methods, str) else methods.get(name, "minmax")
        chosen[name] = Grid.over(*chosen_range(seen, method, percentile=percentile))
    return chosen


def chosen_range(seen: Seen, method: Method, bits: int = 8, *, percentile: float = 99.999) -> tuple[float, float]:
    """Choose the range low..high that a grid is laid over; at most what was seen, widened to hold zero.

    - "minmax": all that was seen.
    - "percentile": the share ``percentile`` of the sampled values, in percent; half of the rest is cut at either end.
    - "mse": the range whose grid is nearest to the sampled values in expected square, what it rounds and what it
      clips together (Nagel et al. 2021, "A White Paper on Neural Network Quantization", section 3.1; Banner et al.
      2019, "Post training 4-bit quantization of convolutional networks for rapid-deployment", section 3).
    - "entropy": the range whose grid keeps the distribution best, by its Kullback-Leibler divergence (Migacz 2017,
      "8-bit Inference with TensorRT"), each end on its own.

    Both searches shrink either end by a share of its own. Values that are exactly 0 count for neither: every grid
    has them. So an end that is exactly 0, as after a ReLU, stays there.

    Args:
        seen: What was seen of the tensor.
        method: The way to choose.
        bits: Of the grid, 2 to 8.
        percentile: Above 50 and below 100.

    Raises:
        UsageError: If there is no such method, or a number is out of its range.
    """
    if method not in METHODS:
        raise unknown("calibration method", method, METHODS)
    if not 50 < percentile < 100:
        raise UsageError(f"percentile is {percentile:g}, wanted above 50 and below 100", hint="minmax keeps all")
    if not 2 <= bits <= 8:
        raise UsageError(f"a grid of {bits} bits was asked, wanted 2 to 8")
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    # without a value beside zero in the sample there is nothing to weigh
    if method == "minmax" or not seen.counts.any():
        return low, high
    if method == "percentile":
        return _percentile(seen, low, high, (1 - percentile / 100) / 2)
    cost = squared_error(seen, bits) if method == "mse" else divergence(seen, bits)
    return _search(cost, low, high, seen.width)


def _percentile(seen: Seen, low: float, high: float, cut: float) -> tuple[float, float]:
    """Leave out at either end the bins that together hold no more than the share ``cut`` of the sample."""
    start, stop = min(seen.start, 0), max(seen.start + len(seen.counts), 1)
    counts = np.zeros(stop - start, np.int64)
    counts[seen.start - start :][: len(seen.counts)] = seen.counts
    counts[-start] += seen.zeros
    allowed = cut * seen.sampled
    first = start + int((np.cumsum(counts) <= allowed).sum())
    last = stop - int((np.cumsum(counts[::-1]) <= allowed).sum())
    return max(low, min(first * seen.width, 0.0)), min(high, max(last * seen.width, 0.0))


def _search(cost: Cost, low: float, high: float, width: float) -> tuple[float, float]:
    """Find the cheapest range by shrinking both ends: coarse shares of them first, then finer ones around the best."""
    coarse = np.arange(_COARSE, 0, -1) / _COARSE
    near = np.arange(_FINE - 1, -_FINE, -1) / (_COARSE * _FINE)
    ends = np.array([low, high]) / width
    best = _cheapest(cost, ends, [coarse, coarse])
    best = _cheapest(cost, ends, [np.minimum(share + near, 1) for share in best])
    return float(best[0] * low), float(best[1] * high)


def _cheapest(cost: Cost, ends: Reals, shares: list[Reals]) -> Reals:
    """Return which pair of shares of the two ends, in bins, costs least; of equals the one that was named first."""
    sides = [share if end else np.ones(1) for share, end in zip(shares, ends, strict=True)]
    pairs = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
    lows, highs = (pairs * ends).T
    best: Reals = pairs[np.argmin(cost(lows, highs))]
    return best


def squared_error(seen: Seen, bits: int) -> Cost:
    """Return the mean square of what rounding to the grid of a range, and clipping, changes the values but zeros by.

    A value counts as the middle of its bin. In squared widths of a bin; ends are in bins, too.
    """
    middles = seen.start + np.arange(len(seen.counts)) + 0.5
    moments = [_running(seen.counts * middles**power) for power in range(3)]

    def cost(lows: Reals, highs: Reals) -> Reals:
        points, edges = _cells(seen, lows, highs, bits)
        inside = [np.diff(moment[edges], axis=1) for moment in moments]
        mean: Reals = (inside[2] - 2 * points * inside[1] + points**2 * inside[0]).sum(1) / moments[0][-1]
        return mean

    return cost


def divergence(seen: Seen, bits: int) -> Cost:
    """Return the Kullback-Leibler divergence between what was seen and what the grid of a range keeps of it, in nats.

    As Migacz has it: what a range clips counts in its outermost filled bins, P; what lies inside is summed by the
    points it rounds to and each sum spread over the filled bins it came from, Q. Infinite for a range that holds
    fewer than two filled bins.
    """
    counts, filled = seen.counts.astype(np.float64), np.flatnonzero(seen.counts)
    mass, places = _running(counts), _running(seen.counts > 0)
    surprise = _running(_x_log_x(counts))

    def cost(lows: Reals, highs: Reals) -> Reals:
        _, edges = _cells(seen, lows, highs, bits)
        begin = np.searchsorted(filled, np.floor(lows) - seen.start)
        end = np.searchsorted(filled, np.ceil(highs) - seen.start) - 1
        narrow = end <= begin
        first, last = (filled[np.clip(where, 0, len(filled) - 1)] for where in (begin, end))
        below, above = mass[first], mass[-1] - mass[last + 1]
        kept = mass[last + 1] - below
        edges = edges.clip(first[:, None], np.maximum(last, first)[:, None] + 1)
        inside, bins = np.diff(mass[edges], axis=1), np.diff(places[edges], axis=1)
        level = np.log(np.where(inside > 0, inside, 1) / np.maximum(bins, 1))
        expected = (inside * level).sum(1)
        for outside, at in ((below, first), (above, last)):
            cell = (edges[:, 1:-1] <= at[:, None]).sum(1, keepdims=True)
            expected += outside * np.take_along_axis(level, cell, 1)[:, 0]
        ends = sum(_x_log_x(counts[at] + out) - _x_log_x(counts[at]) for at, out in ((first, below), (last, above)))
        own = surprise[last + 1] - surprise[first] + ends
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (own - expected) / mass[-1] - np.log(mass[-1]) + np.log(kept)
        return np.where(narrow, np.inf, found)

    return cost


def _cells(seen: Seen, lows: Reals, highs: Reals, bits: int) -> tuple[Reals, NDArray[np.intp]]:
    """Lay a grid over each range as ``Grid.over`` does.

    Returns its points in bins from zero (candidates, 2^bits), and edges (candidates, 2^bits + 1): the bins of
    ``seen.counts`` from edges[:, k] up to edges[:, k + 1] have their middle nearest to point k.
    """
    last = 2**bits - 1
    step = ((highs - lows) / last)[:, None]
    offsets = np.arange(last + 1) - np.round(-lows[:, None] / step).clip(0, last)
    between = np.ceil((offsets[:, :-1] + 0.5) * step - 0.5 - seen.start).clip(0, len(seen.counts))
    edges = np.pad(between.astype(np.intp), ((0, 0), (1, 1)))
    edges[:, -1] = len(seen.counts)
    return offsets * step, edges


def _running(values: NDArray[Any]) -> Reals:
    """Return sums of the first 0, 1, ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: Reals) -> Reals:
    product: Reals = values * np.log(np.where(values > 0, values, 1))
    return product
