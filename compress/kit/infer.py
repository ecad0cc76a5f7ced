"""One photo through a network, whatever sizes the two have: stretched, letterboxed, at its own size, or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.core.types import ImageSpec
from compress.kit.images import Array, letterbox, normalized, prepare

Picture = NDArray[np.float32]
Run = Callable[[Picture], Picture]  # image (1, C, H, W) to what ships, (1, C', H, W)
OVERLAP = 0.25  # of a tile's side that it shares with the next one
LEAST = 32  # pixels a side that a network is given at least: below, its deepest maps have nothing to average over


def predict(run: Run, spec: ImageSpec, photo: Array, tile: int = 0) -> Picture:
    """Run one photo (H, W, 3), values 0..255, as ``spec.fit`` says.

    "stretch": resized to the spec's height and width; "pad": shrunk or grown to fit into them, its aspect kept, white
    around it, and the prediction cut back; "native": at its own size, in overlapping tiles where the network runs at
    one size only.

    Args:
        run: The network.
        spec: Its input.
        photo: The photo.
        tile: Side of tiles in pixels that a photo at its own size is cut into; 0 for none.

    Returns:
        What ships, (C', h, w): at the photo's size for "native", at the network's otherwise.
    """
    if spec.fit == "pad":
        return _padded(run, spec, photo)
    if spec.fit == "stretch":
        return _one(run, prepare(photo, spec))
    height, width = photo.shape[:2]
    sides = (tile, tile) if tile else None if spec.dynamic else (spec.height, spec.width)
    if sides is not None and not (spec.dynamic and height <= sides[0] and width <= sides[1]):
        return _tiled(run, spec, photo, sides)
    return _one(run, normalized(_filled(photo, (LEAST, LEAST)), spec))[:, :height, :width]


def _filled(photo: Array, sides: tuple[int, int]) -> Array:
    """Mirror a photo to the right and below until it has those sides at least."""
    missing = [max(side - have, 0) for side, have in zip(sides, photo.shape[:2], strict=True)]
    return np.pad(photo, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")


def _one(run: Run, image: Picture) -> Picture:
    picture: Picture = run(image[None])[0]
    return picture


def at_size(spec: ImageSpec, height: int, width: int) -> ImageSpec:
    """Return the spec for photos that are all brought to one size, given in pixels; itself at its own."""
    if (height, width) == (spec.height, spec.width):
        return spec
    return replace(spec, height=height, width=width, fit="stretch" if spec.fit == "native" else spec.fit)


def _padded(run: Run, spec: ImageSpec, photo: Array) -> Picture:
    box, (rows, columns) = letterbox(photo, (spec.height, spec.width))
    picture = _one(run, normalized(box, spec))
    # a prediction may be smaller than its image by a whole factor
    return picture[:, _shrunk(rows, picture.shape[1] / spec.height), _shrunk(columns, picture.shape[2] / spec.width)]


def _shrunk(where: slice, factor: float) -> slice:
    start = round(where.start * factor)
    return slice(start, max(round(where.stop * factor), start + 1))


def _tiled(run: Run, spec: ImageSpec, photo: Array, sides: tuple[int, int]) -> Picture:
    """Run tiles of (height, width) that overlap by a quarter, and let each fade into the next."""
    height, width = photo.shape[:2]
    filled = _filled(photo, sides)
    weight = np.outer(*(_fade(side) for side in sides)).astype(np.float32)
    total: Picture | None = None
    mass = np.zeros(filled.shape[:2], np.float32)
    for top in _starts(filled.shape[0], sides[0]):
        for left in _starts(filled.shape[1], sides[1]):
            here = (slice(top, top + sides[0]), slice(left, left + sides[1]))
            piece = _one(run, normalized(filled[here], spec))
            assert piece.shape[1:] == sides, f"a tile of {sides} came back as {piece.shape[1:]}"
            if total is None:
                total = np.zeros((len(piece), *filled.shape[:2]), np.float32)
            total[(slice(None), *here)] += piece * weight
            mass[here] += weight
    assert total is not None
    shared: Picture = (total / mass)[:, :height, :width]
    return shared


def _starts(length: int, side: int) -> Iterator[int]:
    """Where tiles begin: evenly spread, each overlapping the one before by a quarter at least."""
    step = max(round(side * (1 - OVERLAP)), 1)
    count = -(-(length - side) // step) + 1
    yield from (round(k * (length - side) / max(count - 1, 1)) for k in range(count))


def _fade(side: int) -> NDArray[np.float64]:
    """Weights of a tile's rows: rising from its borders over the part that it shares."""
    ramp = (np.arange(side) + 0.5) / max(side * OVERLAP, 1)
    return np.minimum(np.minimum(ramp, ramp[::-1]), 1.0)
