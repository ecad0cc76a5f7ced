"""Int8 sums as x86 CPUs without VNNI make them, and weights whose sums come out right there too.

Without VNNI, ONNX Runtime and oneDNN multiply uint8 maps by int8 weights with vpmaddubsw: two neighbouring products
are added in 16 bits, and what lies outside -32768..32767 is cut off. VNNI adds in 32 bits. Who is a neighbour:

- ONNX Runtime goes through a kernel's taps, and in each through the channels, two by two over all of them: its
  sources core/providers/cpu/quantization/qlinearconv.cc (ReorderFilter), core/mlas/lib/convsym.cpp (MlasConvSymPackW)
  and, in core/mlas/lib/x86_64, QgemmU8X8KernelAvx2.S, QgemvU8S8KernelAvx2.S and ConvSymKernelAvx2.S. Maps go in as they
  are, their zero point inside and as padding. A depthwise convolution is multiplied singly and comes out right.
- oneDNN, and with it OpenVINO, does the same where a tap has an even number of channels. Where it is odd, neighbours
  are looked for within each tap, or by lines or columns of taps (its jit_brgemm_conv_utils.cpp, "relo"). Its developer
  guide tells of the saturation in "Nuances of int8 Computations", and names 7-bit weights as the cure.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 128  # two weights of one sign may add up to this: 255 * 128 = 32640, 255 * 129 = 32895
_SCALES = 17  # tried for a channel, from the one that rounds finest to the one at which no pair has to give way


def sums(columns: NDArray[np.uint8], weight: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Multiply as VNNI does and as vpmaddubsw does: the exact sums and the saturated ones, each (M, O).

    columns: (M, K), raw values of the map; weight: (O, K); both in the order in which a kernel goes through K.
    """
    exact = np.rint(columns.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.int64)  # exact below 2^53
    cut = exact.copy()
    pairs = _paired(np.arange(weight.shape[1])[None])
    risky = _risky(weight, pairs)
    for channel in np.flatnonzero(risky.any(1)):
        chosen = pairs[risky[channel]]
        added = (columns[:, chosen].astype(np.int32) * weight[channel, chosen].astype(np.int32)).sum(2)
        cut[:, channel] -= (added - added.clip(-32768, 32767)).sum(1)
    return exact, cut


def can_saturate(integers: NDArray[np.int8], axis: int) -> NDArray[np.bool_]:
    """Tell of each output channel whether some uint8 input saturates a pair of its weights, in either runtime.

    integers: (O, I / groups, ...) or a matrix, as stored; axis: that of the output channels.
    """
    return _at_risk(rows(integers, axis), _pairings(integers.shape, axis))


def saturation_free(
    weight: NDArray[np.float32], axis: int, *, uniform: bool = False, least: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round weights to int8 symmetrically per channel so that no input saturates any pair of them.

    A channel that plain rounding, to max |w| / 127, leaves without such a pair keeps it. In the others, of the scales
    from there to the one at which every pair fits, that one is taken at which the squares of the errors add up to the
    least, with pairs that are too large brought to the nearest ones that fit. Depthwise convolutions need none of it.

    Args:
        weight: (O, I / groups, ...) or a matrix.
        axis: That of the output channels, counted from the first.
        uniform: 7 bits for every channel instead, max |w| / 64: what other tools call "reduce range".
        least: The smallest scale each channel may have, (O,).

    Returns:
        The integers, shaped as the weights, and the scales, shaped to multiply them.
    """
    flat, pairings = rows(weight, axis), _pairings(weight.shape, axis)
    largest = LARGEST // 2 if uniform else 127
    scale = np.abs(flat).max(1, initial=0) / np.float32(largest)
    scale = np.maximum(np.where(scale > 0, scale, np.float32(1)), 0 if least is None else least).astype(np.float32)
    integers = np.clip(np.round(flat / scale[:, None]), -largest, largest).astype(np.int8)
    risky = _at_risk(integers, pairings)
    if risky.any():
        integers[risky], scale[risky] = _fit(flat[risky], scale[risky], pairings)
    sides = [1] * weight.ndim
    sides[axis] = -1
    return _restored(integers, weight.shape, axis), scale.reshape(sides)


def _fit(
    flat: NDArray[np.float32], finest: NDArray[np.float32], pairings: list[NDArray[np.intp]]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Fit channels (B, K), of which every one has a pair that is too large at its ``finest`` scale (B,)."""
    exact = flat.astype(np.float64)
    needed = np.max([_largest_pair(exact, pairs) for pairs in pairings], axis=0) / LARGEST
    least = np.full(len(flat), np.inf)
    integers, scales = np.zeros(flat.shape, np.int8), finest.copy()
    for share in np.linspace(0, 1, _SCALES):
        scale = (finest + share * np.maximum(needed - finest, 0)).astype(np.float32)[:, None]
        tried = _fitting(exact / scale, pairings)
        error = np.square(tried * scale - exact).sum(1)
        better = error < least
        least[better], integers[better], scales[better] = error[better], tried[better], scale[better, 0]
    return integers, scales


def _fitting(steps: NDArray[np.float64], pairings: list[NDArray[np.intp]]) -> NDArray[np.int8]:
    """Round weights in steps of their scale (B, K), pairs that are too large to the nearest ones that are not."""
    rounded = np.clip(np.round(steps), -127, 127)
    sizes, signs = np.abs(rounded), np.sign(rounded)
    for pairs in pairings:
        row, pair = np.nonzero(_risky(signs * sizes, pairs))
        first, second = (row, pairs[pair, 0]), (row, pairs[pair, 1])
        wanted = np.minimum(np.abs(steps[first]), sizes[first]) - np.minimum(np.abs(steps[second]), sizes[second])
        # the nearest point of the line on which both add up to LARGEST; never larger, which could undo other pairs
        sizes[first] = np.minimum(np.round((wanted + LARGEST) / 2), sizes[first])
        sizes[second] = np.minimum(LARGEST - sizes[first], sizes[second])
    return np.asarray(signs * sizes, np.int8)


def _largest_pair(flat: NDArray[Any], pairs: NDArray[np.intp]) -> NDArray[Any]:
    """Largest magnitude that two neighbours of one sign add up to, by channel."""
    both = flat[:, pairs]
    return np.asarray(np.maximum(both.clip(0, None).sum(2), -both.clip(None, 0).sum(2)).max(1, initial=0))


def _at_risk(flat: NDArray[Any], pairings: list[NDArray[np.intp]]) -> NDArray[np.bool_]:
    return np.asarray(np.any([_risky(flat, pairs).any(1) for pairs in pairings], axis=0))


def _risky(flat: NDArray[Any], pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell of every pair of neighbours, (O, pairs), whether they could be too large together."""
    both = flat[:, pairs].astype(np.int32)
    return np.asarray((both.clip(0, None).sum(2) > LARGEST) | (both.clip(None, 0).sum(2) < -LARGEST))


def _pairings(shape: tuple[int, ...], axis: int) -> list[NDArray[np.intp]]:
    """Neighbours of either runtime among a channel's weights in ``rows`` order: positions (pairs, 2)."""
    inputs, *sides = (side for index, side in enumerate(shape) if index != axis)
    places = np.arange(inputs * prod(sides)).reshape(*sides, inputs)
    if inputs % 2 == 0 or not sides:
        return [_paired(places.reshape(1, -1))]
    lines = [places.reshape(1, -1), places.reshape(-1, inputs), places.reshape(-1, sides[-1] * inputs)]
    return [_paired(line) for line in (*lines, np.moveaxis(places, -2, 0).reshape(1, -1))]


def _paired(lines: NDArray[np.intp]) -> NDArray[np.intp]:
    """Pair what follows one another in each line; the last of an odd number is alone."""
    return lines[:, : lines.shape[1] // 2 * 2].reshape(-1, 2)


def rows(weight: NDArray[Any], axis: int) -> NDArray[Any]:
    """Bring weights to (O, taps * I / groups), output channels from ``axis``: the order kernels go through them in."""
    moved = np.moveaxis(weight, axis, 0)
    return np.moveaxis(moved, 1, -1).reshape(len(moved), -1)


def _restored(flat: NDArray[Any], shape: tuple[int, ...], axis: int) -> NDArray[Any]:
    """Undo ``rows`` for weights of that shape."""
    inputs, *sides = (side for index, side in enumerate(shape) if index != axis)
    channels_first = np.moveaxis(flat.reshape(len(flat), *sides, inputs), -1, 1)
    return np.ascontiguousarray(np.moveaxis(channels_first, 0, axis))
