"""The built-in membrane set, made up by seed: cells that touch, dark membranes, and dark bodies that are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.ndimage
import scipy.spatial
from numpy.typing import NDArray

from compress.kit.data import shapes
from compress.kit.data.made import Made
from compress.kit.data.sets import Sample, digest

Plane = NDArray[np.float64]

VERSION = 1  # raised whenever one pixel of the set changes
LENGTHS = {"train": 256, "val": 32, "test": 32}
SPACING = (20.0, 38.0)  # mean distance of cells' centres in pixels, of one picture
WIDTH = (3.0, 5.0)  # of membranes in pixels, of one picture
WOBBLE = 3.0  # deviation in pixels by which borders leave straight lines


@dataclass(frozen=True)
class Cells(Made):
    """Cells as of a slice of tissue under the electron microscope: Voronoi cells with bent borders.

    The truth is 255 inside cells and 0 on membranes, exactly as wide as they were drawn. Bodies inside the cells are
    as dark as membranes and none. Equal arguments give equal bytes in every process; another processor or numpy may
    differ in the last bit.

    Args:
        split: "train", "val" or "test"; they share no seeds.
        seed: Another seed is another set.
        size: Pixels a side.
    """

    lengths: ClassVar[Mapping[str, int]] = LENGTHS

    size: int = 128

    @property
    def fingerprint(self) -> str:
        """Of the generator's version and its arguments."""
        return digest(map(str, ("cells", VERSION, self.split, self.seed, len(self), self.size)))

    def original(self, index: int) -> Sample:
        """Make sample ``index``: "image" (size, size, 3), all three grey, and "target" (size, size), 0 and 255."""
        random = self.random(index)
        gap, number = _gaps(random, self.size)
        membrane = gap < random.uniform(*WIDTH) / 2
        picture = _tissue(random, number)
        picture = _bodies(random, picture, gap)
        strength = 0.3 + 0.12 * _smooth(random, self.size, 10.0)  # fainter here, stronger there
        picture = picture - np.clip(strength, 0.1, 0.5) * membrane
        grey = np.rint(np.clip(_develop(random, picture), 0, 1) * 255).astype(np.uint8)
        return {
            "image": np.repeat(grey[..., None], 3, axis=2),
            "target": np.where(membrane, np.uint8(0), np.uint8(255)),
        }


def _gaps(random: np.random.Generator, size: int) -> tuple[Plane, NDArray[np.int64]]:
    """Distance of every pixel from the nearest border of its cell, in pixels, and the cell's number: (size, size)."""
    spacing = random.uniform(*SPACING)
    margin = 2 * spacing
    side = int(np.ceil((size + 2 * margin) / spacing))
    lattice = np.moveaxis(np.mgrid[:side, :side], 0, -1).reshape(-1, 2) * spacing - margin
    centres = lattice + random.uniform(-0.45, 0.45, lattice.shape) * spacing
    away = WOBBLE * np.stack([_smooth(random, size, 8.0) for _ in range(2)], axis=-1)
    places = np.moveaxis(np.mgrid[:size, :size], 0, -1) + away
    found = scipy.spatial.KDTree(centres).query(places, 2)
    (first, second), (mine, other) = (np.moveaxis(part, -1, 0) for part in found)
    # a point's distance from the line halfway between two centres
    apart = np.linalg.norm(centres[mine] - centres[other], axis=-1)
    return (second**2 - first**2) / (2 * apart), mine


def _tissue(random: np.random.Generator, number: NDArray[np.int64]) -> Plane:
    """Cells of their own brightness, with coarse and fine texture."""
    size = len(number)
    own = random.uniform(-0.08, 0.08, int(number.max()) + 1)
    texture = 0.05 * _smooth(random, size, 4.0) + 0.05 * _smooth(random, size, 1.0)
    return random.uniform(0.62, 0.72) + own[number] + texture


def _bodies(random: np.random.Generator, picture: Plane, gap: Plane) -> Plane:
    """Put round bodies into the cells: some dark throughout, some rings, none of them a membrane."""
    size = len(picture)
    for _ in range(random.integers(10, 30)):
        radius = random.uniform(2.5, 7.0)
        y, x = random.uniform(0, size, 2)
        if gap[int(y), int(x)] < radius + 1:  # it would lie on a membrane
            continue
        outline = [shapes.ellipse(1, random.uniform(0.6, 1))]
        turn = random.uniform(0, 2 * np.pi)
        body = shapes.coverage(shapes.place(outline, (x, y), radius, turn), size)
        if random.random() < 0.5:
            body = body - shapes.coverage(shapes.place(outline, (x, y), radius * 0.6, turn), size)
        picture = picture - random.uniform(0.15, 0.4) * body
    return picture


def _develop(random: np.random.Generator, picture: Plane) -> Plane:
    """The microscope: blur, uneven light, grain."""
    blurred = scipy.ndimage.gaussian_filter(picture, random.uniform(0.5, 0.9))
    light = 0.05 * _smooth(random, len(picture), 30.0)
    developed: Plane = blurred + light + random.normal(0, random.uniform(0.03, 0.08), picture.shape)
    return developed


def _smooth(random: np.random.Generator, size: int, sigma: float) -> Plane:
    """Smooth noise (size, size) of mean 0 and deviation 1."""
    noise = scipy.ndimage.gaussian_filter(random.standard_normal((size, size)), sigma, mode="wrap")
    plane: Plane = (noise - noise.mean()) / noise.std()
    return plane
