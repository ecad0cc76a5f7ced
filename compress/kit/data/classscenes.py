"""The built-in segmentation set, made up by seed: five kinds of objects on plain ground, exact class maps."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.kit.data import shapes
from compress.kit.data.classes import VOID
from compress.kit.data.made import Made
from compress.kit.data.sets import Sample, digest

VERSION = 1  # raised whenever one pixel of the set changes
LENGTHS = {"train": 256, "val": 32, "test": 32}
LABELS = ("ground", "disc", "box", "star", "ring", "limb")
HUE_SPREAD = 0.09  # hues of neighbouring kinds, 0.2 apart, come near each other: the outline has to help
RIM = (0.05, 0.95)  # a pixel that an object covers by a share between these is void, as VOC's contours are


@dataclass(frozen=True)
class ClassScenes(Made):
    """One to four objects a picture, the nearer hiding the farther.

    Equal arguments give equal bytes in every process; another processor or numpy may differ in the last bit.

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
        return digest(map(str, ("class scenes", VERSION, self.split, self.seed, len(self), self.size)))

    def original(self, index: int) -> Sample:
        """Make sample ``index``: "image" (size, size, 3) and "target" (size, size), class numbers and 255."""
        random = self.random(index)
        picture = _ground(random, self.size)
        target = np.zeros((self.size, self.size), np.uint8)
        for label in random.integers(1, len(LABELS), random.integers(1, 5)):
            share = _object(random, int(label), self.size)
            picture += (_color(random, int(label)) - picture) * share[..., None]
            target[share >= RIM[1]] = label
            target[(share > RIM[0]) & (share < RIM[1])] = VOID
        picture += random.standard_normal(picture.shape, np.float32) * np.float32(random.uniform(0.01, 0.05))
        return {"image": np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), "target": target}


def _ground(random: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A ramp between two greyish colours, (size, size, 3)."""
    first, second = random.uniform(0.2, 0.8, (2, 1)) + random.uniform(-0.08, 0.08, (2, 3))
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    blend = ((rows * np.sin(angle) + columns * np.cos(angle)) / np.sqrt(2) + 0.5)[..., None]
    ramp: NDArray[np.float32] = (first + (second - first) * blend).astype(np.float32)
    return ramp


def _object(random: np.random.Generator, label: int, size: int) -> NDArray[np.float32]:
    """Coverage (size, size) of one object of that kind somewhere."""
    outline = _outline(random, LABELS[label])
    centre = (size * random.uniform(0.15, 0.85), size * random.uniform(0.15, 0.85))
    return shapes.coverage(
        shapes.place(outline, centre, size * random.uniform(0.12, 0.3), random.uniform(0, 2 * np.pi)), size
    )


def _outline(random: np.random.Generator, kind: str) -> shapes.Outline:
    flat = random.uniform(0.6, 1)
    if kind == "ring":
        hole = random.uniform(0.4, 0.6)
        return [shapes.ellipse(1, flat), shapes.ellipse(hole, hole * flat)[::-1]]
    if kind == "limb":
        along = np.linspace(0, 1, 24)
        path = np.stack([2 * along, random.uniform(-0.6, 0.6) * np.sin(np.pi * along)], axis=1)
        return [shapes.tube(path, np.full(24, random.uniform(0.15, 0.3)))]
    return [shapes.ellipse(1, flat, {"disc": 2.0, "box": 8.0, "star": 0.8}[kind])]


def _color(random: np.random.Generator, label: int) -> NDArray[np.float32]:
    hue = (label - 1) / (len(LABELS) - 1) + random.uniform(-HUE_SPREAD, HUE_SPREAD)
    return np.array(colorsys.hsv_to_rgb(hue % 1, random.uniform(0.5, 0.9), random.uniform(0.5, 1)), np.float32)
