"""What was seen of one tensor: its exact range and a histogram that no order of the images changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 2048  # on each side of zero; a maximum fills at least half of its side
_LEAST = -200  # exponent of a width below any float32: where every histogram starts


@dataclass(frozen=True)
class Seen:
    """What one float tensor took for values over all images.

    ``low`` and ``high`` are exact. The histogram is of a sample, the same places of every image, without the values
    that are exactly 0: every grid has them. Bin i of ``counts`` holds the values from ``(start + i) * width`` up to
    the next one, so that zero always is an edge; its ends hold at least one value.
    """

    low: float
    high: float
    images: int
    zeros: int  # sampled values that are exactly 0
    exponent: int  # the width of a bin is two to this power
    start: int  # where the first bin begins, in bins from zero
    counts: NDArray[np.int64]  # (bins,)

    @property
    def width(self) -> float:
        """Width of a bin, in the units of the tensor."""
        return math.ldexp(1.0, self.exponent)

    @property
    def sampled(self) -> int:
        """Values in the sample, zeros among them."""
        return int(self.counts.sum()) + self.zeros


class Gathering:
    """The range and the histogram of one tensor while images come in.

    Bins are whole numbers of values, their width is a power of two and zero is an edge: when the range outgrows them,
    pairs of neighbours become one bin, and the result is what a histogram of the final width had counted at once.
    """

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._images = self._zeros = 0
        self._exponent = _LEAST
        self._counts = np.zeros(2 * BINS, np.int64)

    def see(self, low: float, high: float, sample: NDArray[np.float32], images: int = 1) -> None:
        """Count one run in: its exact range, finite, and a sample (n,) that lies inside it."""
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._images += images
        largest = max(-low, high)
        if largest > 0:
            # largest < 2^e, so that every index lies in -BINS .. BINS - 1
            self._widen(math.frexp(largest)[1] - (BINS.bit_length() - 1))
        # in float64 a power of two never rounds
        index = np.floor(np.multiply(sample, math.ldexp(1.0, -self._exponent), dtype=np.float64)).astype(np.intp)
        self._counts += np.bincount(index + BINS, minlength=2 * BINS)
        zeros = sample.size - int(np.count_nonzero(sample))
        self._counts[BINS] -= zeros
        self._zeros += zeros

    def _widen(self, exponent: int) -> None:
        # after so many halvings all that was counted lies in the two bins beside zero, and stays there
        for _ in range(min(exponent - self._exponent, BINS.bit_length())):
            halved = np.zeros_like(self._counts)
            halved[BINS // 2 : BINS + BINS // 2] = self._counts[0::2] + self._counts[1::2]
            self._counts = halved
        self._exponent = max(self._exponent, exponent)

    def seen(self) -> Seen:
        """Return what was seen so far, at least one image."""
        filled = np.flatnonzero(self._counts)
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (BINS, BINS)
        counts = self._counts[first:last].copy()
        return Seen(self._low, self._high, self._images, self._zeros, self._exponent, first - BINS, counts)


class MeanGathering:
    """Mean per channel as sums of whole numbers, which have no order: units, and what is left of them in 2^-48."""

    _FINE = 2.0**48
    LARGEST = 2.0**46  # a mean that can still be added 65,536 times

    def __init__(self) -> None:
        self._units: NDArray[np.int64] | None = None
        self._rest: NDArray[np.int64] | None = None
        self._count = 0

    def see(self, means: NDArray[np.float32]) -> None:
        """Count in the means of each image, (N, C), at most ``LARGEST`` in size."""
        values = means.astype(np.float64)
        units = np.rint(values)
        rest = np.rint((values - units) * self._FINE).astype(np.int64).sum(0)
        whole = units.astype(np.int64).sum(0)
        self._units = whole if self._units is None else self._units + whole
        self._rest = rest if self._rest is None else self._rest + rest
        self._count += len(means)

    def mean(self) -> NDArray[np.float64]:
        """Return the mean per channel (C,) of at least one image."""
        assert self._units is not None and self._rest is not None
        mean: NDArray[np.float64] = (self._units + self._rest / self._FINE) / self._count
        return mean
