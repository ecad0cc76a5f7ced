"""Outlines of made-up objects, and their exact coverage of a pixel grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Outline = list[Floats]  # closed contours (K, 2) of x, y; clockwise ones (in image axes) fill, the others cut holes

LINES = 8  # scan lines a pixel: along each line coverage is exact


def coverage(outline: Outline, size: int) -> NDArray[np.float32]:
    """Say how much of each pixel an outline covers: (size, size) in 0..1.

    Contours are in pixels, x right and y down, pixel (row, column) being the square from (column, row) on. Points
    with a winding number above 0 are inside, so that equally turning contours unite and opposite ones cut holes.
    Exact along ``LINES`` scan lines a pixel, averaged over them.
    """
    points = np.concatenate(outline)
    left, top = np.clip(np.floor(points.min(axis=0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, size).astype(int)
    covered = np.zeros((size, size), np.float32)
    if left < right and top < bottom:
        moved = [contour - [left, top] for contour in outline]
        covered[top:bottom, left:right] = _covered(moved, bottom - top, right - left)
    return covered


def _covered(outline: Outline, height: int, width: int) -> NDArray[np.float32]:
    starts = np.concatenate(outline)
    ends = np.concatenate([np.roll(contour, -1, axis=0) for contour in outline])
    row0, row1 = starts[:, 1] * LINES - 0.5, ends[:, 1] * LINES - 0.5  # in lines: line j lies at j
    first = np.clip(np.ceil(np.minimum(row0, row1)), 0, height * LINES).astype(np.int64)
    counts = np.clip(np.ceil(np.maximum(row0, row1)), 0, height * LINES).astype(np.int64) - first
    edge = np.repeat(np.arange(len(starts)), counts)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    share = (line - row0[edge]) / (row1 - row0)[edge]
    x = np.clip(starts[edge, 0] + share * (ends[edge, 0] - starts[edge, 0]), 0, width)
    sign = np.where(row1 > row0, -1.0, 1.0)[edge]
    # a crossing at x covers what is right of it: its own pixel in part, all later ones in full
    column = x.astype(np.int64)
    part = column + 1 - x
    row = width + 2
    at = line * row + column
    steps = np.bincount(np.r_[at, at + 1], np.r_[sign * part, sign * (1 - part)], height * LINES * row)
    winding = np.cumsum(steps.reshape(-1, row)[:, :width], axis=1, dtype=np.float32)
    lines = np.clip(winding, 0, 1, out=winding).reshape(height, LINES, width)
    shares: NDArray[np.float32] = lines.mean(axis=1)
    return shares


def place(outline: Outline, centre: tuple[float, float], radius: float, angle: float) -> Outline:
    """Turn an outline by ``angle`` radians, scale it to ``radius`` pixels and move its middle to ``centre``."""
    points = np.concatenate(outline)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = np.linalg.norm(points - middle, axis=1).max()
    turn: Floats = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * (radius / reach)
    return [(contour - middle) @ turn + centre for contour in outline]


def ellipse(width: float = 1.0, height: float = 1.0, power: float = 2.0, points: int = 128) -> Floats:
    """|x / width|^power + |y / height|^power = 1; power 2 is an ellipse, 4 a rounded box, 0.8 a four-pointed star."""
    t = _turn(points)
    c, s = np.cos(t), np.sin(t)
    rounded = np.stack([np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)], axis=1)
    sized: Floats = rounded * [width, height]
    return sized


def tube(path: Floats, widths: Floats) -> Floats:
    """A limb of changing half-width along ``path`` (K, 2), round at its far end."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * widths[:, None]
    bow = np.linspace(np.pi / 2, -np.pi / 2, 12)[1:-1, None]
    tip = path[-1] + along[-1] * widths[-1] * np.cos(bow) + across[-1] * np.sin(bow)
    return _clockwise(np.concatenate([path + across, tip, (path - across)[::-1]]))


def random_outline(random: np.random.Generator) -> Outline:
    """Draw an object's outline of one of the kinds below."""
    return _KINDS[random.integers(len(_KINDS))](random)


def _blob(random: np.random.Generator, roughness: float = 0.35) -> Outline:
    t, orders = _turn(160), np.arange(1, 9)
    waves = np.cos(np.outer(t, orders) + random.uniform(0, 2 * np.pi, 8))
    radius = 1 + waves @ (random.normal(0, roughness, 8) / orders)
    return [np.stack([np.cos(t), np.sin(t)], axis=1) * np.maximum(radius, 0.25)[:, None]]


def _rounded(random: np.random.Generator) -> Outline:
    return [ellipse(1, random.uniform(0.35, 1), random.choice([0.9, 1.5, 2, 3, 5, 9]))]


def _star(random: np.random.Generator) -> Outline:
    t, tips = _turn(240), random.integers(3, 9)
    wave = np.cos(t * tips)
    sharp = np.sign(wave) * np.abs(wave) ** random.uniform(0.5, 1.5)
    radius = 1 + random.uniform(0.15, 0.55) * sharp + 0.1 * np.cos(t + random.uniform(0, 2 * np.pi))
    return [np.stack([np.cos(t), np.sin(t)], axis=1) * radius[:, None]]


def _creature(random: np.random.Generator) -> Outline:
    body = _blob(random, 0.2)[0] * [1, random.uniform(0.4, 0.9)]
    return [body, *(_limb(random, angle) for angle in random.uniform(0, 2 * np.pi, random.integers(2, 7)))]


def _limb(random: np.random.Generator, angle: float) -> Floats:
    along = np.linspace(0, 1, 24)
    bend = angle + random.uniform(-1.2, 1.2) * along
    steps = np.stack([np.cos(bend), np.sin(bend)], axis=1) * random.uniform(1.2, 2.2) / len(along)
    widths = np.interp(along, [0, 1], random.uniform([0.18, 0.06], [0.35, 0.2]))
    return tube(np.cumsum(steps, axis=0), widths)


def _pierced(random: np.random.Generator) -> Outline:
    body = _blob(random, 0.15)[0] * [1, random.uniform(0.6, 1)]
    hole = ellipse(random.uniform(0.15, 0.5), random.uniform(0.15, 0.5)) + random.uniform(-0.2, 0.2, 2)
    return [body, hole[::-1]]


def _vessel(random: np.random.Generator) -> Outline:
    """A body of revolution seen from the side, often with a handle."""
    heights = np.linspace(-1, 1, 40)
    knots = random.uniform(0.3, 0.8, 5)
    half = np.interp(heights, np.linspace(-1, 1, 5), knots)
    half = np.convolve(np.pad(half, 4, mode="edge"), np.ones(9) / 9, mode="valid")
    right = np.stack([half, heights], axis=1)
    body = np.concatenate([right, right[::-1] * [-1, 1]])
    if random.random() < 0.4:
        return [_clockwise(body)]
    where = np.array([half[20], random.uniform(-0.3, 0.3)])
    handle = ellipse(random.uniform(0.3, 0.5), random.uniform(0.35, 0.6)) + where
    # the body covers the handle's inner half: there winding is 1 + 1 - 1
    return [_clockwise(body), handle, ((handle - where) * 0.65 + where)[::-1]]


def _cluster(random: np.random.Generator) -> Outline:
    parts: Sequence[Floats] = [_blob(random, 0.15)[0] for _ in range(random.integers(2, 5))]
    return [part * random.uniform(0.5, 1) + random.uniform(-0.7, 0.7, 2) for part in parts]


def _turn(points: int) -> Floats:
    return np.linspace(0, 2 * np.pi, points, endpoint=False)


def _clockwise(contour: Floats) -> Floats:
    x, y = contour.T
    area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
    return contour if area > 0 else contour[::-1]


_KINDS: tuple[Callable[[np.random.Generator], Outline], ...] = (
    _blob,
    _rounded,
    _star,
    _creature,
    _pierced,
    _vessel,
    _cluster,
)
