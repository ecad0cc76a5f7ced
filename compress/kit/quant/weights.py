"""Rounding stored weights: 8 bits per output channel, 4 bits by block, halves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SHRINK = np.linspace(1.0, 0.7, 13)  # of a block's largest weight: what 4 bits gain by clipping a little


@dataclass(frozen=True)
class Channels:
    """Weights in 8 bits, one scale per output channel."""

    integers: NDArray[np.int8]  # shaped as the weights
    scales: Floats  # (O,)
    axis: int  # of the output channels

    @property
    def values(self) -> Floats:
        """What the integers stand for."""
        return _scaled(self.integers, self.scales, self.axis)


def quantize_weight(weight: Floats, axis: int) -> tuple[NDArray[np.int8], Floats]:
    """Round weights to int8 symmetrically per channel: scale = max |w| / 127 over every axis but ``axis``.

    Returns the integers, shaped as the weights, and the scales, shaped to multiply them.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    largest = np.abs(weight).max(others, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.round(weight / scale), -127, 127).astype(np.int8), scale


@dataclass(frozen=True)
class Blocks:
    """Weights in 4 bits: ``fours * multipliers`` are int8 integers, which one step per output channel scales.

    Two levels of scales cost half a bit per block instead of 32 bits, and leave integers that an 8-bit kernel takes
    as they are (Dai et al. 2021, "VS-Quant", section 4.2).
    """

    fours: NDArray[np.int8]  # (O, blocks, block) in -7..7
    multipliers: NDArray[np.uint8]  # (O, blocks, 1) in 1..15
    scales: Floats  # (O,)
    shape: tuple[int, ...]  # of the weights, output channels first
    axis: int = 0  # where the layer wants its output channels

    @property
    def integers(self) -> NDArray[np.int8]:
        """The int8 weights, shaped as the layer wants them."""
        product = (self.fours.astype(np.int32) * self.multipliers).reshape(self.shape)
        return np.moveaxis(product, 0, self.axis).astype(np.int8)

    @property
    def values(self) -> Floats:
        """What they stand for."""
        return _scaled(self.integers, self.scales, self.axis)

    def holding(self, integers: NDArray[np.int8]) -> Blocks:
        """The same steps with other ``integers``, shaped as the layer wants them: multiples of the multipliers."""
        rows = np.moveaxis(integers, self.axis, 0).reshape(self.fours.shape)
        fours, rest = np.divmod(rows.astype(np.int32), self.multipliers.astype(np.int32))
        assert not rest.any() and np.abs(fours).max(initial=0) <= 7, "the integers were rounded to other steps"
        return replace(self, fours=fours.astype(np.int8))


HALVES = {"float16w": np.dtype(np.float16), "bfloat16w": np.dtype(ml_dtypes.bfloat16)}


_LARGEST = {"float16w": 65504.0, "bfloat16w": 2.0**127 * (2 - 2.0**-7)}


@dataclass(frozen=True)
class Halves:
    """Weights in 16 bits."""

    full: Floats
    form: str  # a key of HALVES

    @property
    def stored(self) -> NDArray[Any]:
        """The weights in 16 bits; beyond what float16 holds they become its largest value."""
        largest = _LARGEST[self.form]
        return self.full.clip(-largest, largest).astype(HALVES[self.form])

    @property
    def values(self) -> Floats:
        """What they stand for."""
        return self.stored.astype(np.float32)


def _scaled(integers: NDArray[np.int8], scales: Floats, axis: int) -> Floats:
    shape = [1] * integers.ndim
    shape[axis] = -1
    return integers * scales.reshape(shape)


def block_length(shape: tuple[int, ...], wanted: int) -> int:
    """Values of a block: whole input channels of a filter (O, I, ...), ``wanted`` values or a few less where it can."""
    taps, channels = prod(shape[2:]), shape[1]
    fitting = [count for count in range(1, channels + 1) if channels % count == 0 and count * taps <= max(wanted, taps)]
    return max(fitting) * taps


def quantize_channels(weight: Floats, axis: int, least: Floats | None = None) -> Channels:
    """Round weights to int8 as ``quantize_weight`` does, no scale (O,) smaller than ``least``."""
    axis %= weight.ndim
    integers, scale = quantize_weight(weight, axis)
    if least is None or (scale.ravel() >= least).all():
        return Channels(integers, scale.ravel(), axis)
    shape = scale.shape
    scale = np.maximum(scale.ravel(), least).reshape(shape)
    return Channels(np.round(weight / scale).astype(np.int8), scale.ravel(), axis)


def quantize_blocks(weight: Floats, axis: int, block: int, least: Floats | None = None) -> Blocks:
    """Round weights to 4 bits with a multiplier for each block of ``block`` values or so of an output channel.

    Each block's step is the one of a few that loses least (squares of the weights' error); no scale (O,) is smaller
    than ``least``.
    """
    axis %= weight.ndim
    weight = np.moveaxis(weight, axis, 0)
    rows = weight.reshape(len(weight), -1, block_length(weight.shape, block)).astype(np.float64)
    steps = _best_steps(rows)  # (O, blocks, 1)
    floor = np.finfo(np.float32).tiny if least is None else np.maximum(least, np.finfo(np.float32).tiny)[:, None, None]
    scales = np.maximum(steps.max(1, keepdims=True) / 15, floor).astype(np.float32)
    multipliers = np.clip(np.round(steps / scales), 1, 15)
    fours = np.clip(np.round(rows / (multipliers * scales)), -7, 7)
    return Blocks(fours.astype(np.int8), multipliers.astype(np.uint8), scales.ravel(), weight.shape, axis)


def _best_steps(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(rows).max(2, keepdims=True)
    best: NDArray[np.float64] = largest / 7
    least = np.full(largest.shape, np.inf)
    for share in _SHRINK:
        step = np.maximum(largest * share / 7, np.finfo(np.float32).tiny)
        error = ((np.clip(np.round(rows / step), -7, 7) * step - rows) ** 2).sum(2, keepdims=True)
        best, least = np.where(error < least, step, best), np.minimum(error, least)
    return best
