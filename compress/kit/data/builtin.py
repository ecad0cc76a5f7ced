"""The built-in saliency set, made up by seed: no network, no download, exact masks."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image
import PIL.ImageFilter
import scipy.ndimage
from numpy.typing import NDArray

from compress.kit.data import shapes
from compress.kit.data.made import Made
from compress.kit.data.sets import Sample, digest
from compress.kit.images import Array, read_rgb, resize

Picture = NDArray[np.float32]  # (H, W, 3) or (H, W), 0..1
Random = np.random.Generator

VERSION = 1  # raised whenever one pixel of the set changes
FAINT = 0.06  # mean difference between an object and what it hides, below which it is made brighter
LENGTHS = {"train": 512, "val": 64, "test": 64}
_PHOTOS = {  # scikit-image's and scikit-learn's sample photos; a scene never stands in two splits
    "train": (
        *("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "hubble_deep_field.jpg", "ihc.png"),
        *("retina.jpg", "brick.png", "grass.png", "camera.png", "clock_motion.png", "text.png", "china.jpg"),
    ),
    "val": ("chelsea.png", "rocket.jpg", "gravel.png", "coins.png"),
    "test": ("coffee.png", "moon.png", "page.png", "flower.jpg"),
}


@dataclass(frozen=True)
class Builtin(Made):
    """Lit, textured, made-up objects before photos, with soft masks that are exact to a 1/255 step.

    Splits share neither seeds nor photos; outlines of all splits are drawn from the same seven kinds. Equal
    arguments give equal bytes in every process; another processor or numpy may differ in the last bit of a pixel.

    Args:
        split: "train", "val" or "test".
        seed: Another seed is another set.
        length: Number of pictures; ``LENGTHS`` by default.
        size: Pixels a side.
    """

    lengths: ClassVar[Mapping[str, int]] = LENGTHS

    length: int | None = None
    size: int = 256

    @property
    def count(self) -> int:
        """As told, or the split's own."""
        return super().count if self.length is None else self.length

    @property
    def fingerprint(self) -> str:
        """Of the generator's version, its arguments and the sample photos' pixels."""
        settings = (VERSION, self.split, self.seed, len(self), self.size)
        return digest([*map(str, settings), *(pixels_digest(name) for name in _PHOTOS[self.split])])

    def original(self, index: int) -> Sample:
        """Make sample ``index``: "image" (size, size, 3) and "target" (size, size), uint8."""
        image, mask = _Scene(self.random(index), self.split, self.size).render()
        return {"image": _bytes(image), "target": _bytes(mask)}


@dataclass(frozen=True)
class _Scene:
    """One picture: a background with distractors, a shadow, one object or two, a lens and a sensor."""

    random: Random
    split: str
    size: int

    def render(self) -> tuple[Picture, Picture]:
        random = self.random
        picture = self._background()
        for _ in range(random.integers(1, 6)):
            picture = self._distract(picture)
        if random.random() < 0.4:
            picture = _blurred(picture, random.uniform(0.5, 2.5) * self.size / 256)
        mask = shapes.coverage(self._object_outline(), self.size)
        skin = self._skin(mask, picture)
        if random.random() < 0.5:
            picture = self._shade(picture, mask)
        if (np.abs(skin - picture).mean(axis=2) * mask).sum() < FAINT * mask.sum():
            skin = np.clip(skin + np.float32(4 * FAINT), 0, 1)  # black on black can't be seen by anyone
        picture = picture + (skin - picture) * mask[..., None]
        return self._develop(picture), mask

    def _background(self) -> Picture:
        kind = self.random.random()
        if kind < 0.55:
            return self._texture(0.35, 1.0)
        if kind < 0.8:
            return self._paint()
        blend = self._clouds(1)
        return self._texture(0.35, 1.0) * blend + self._texture(0.2, 1.0) * (1 - blend)

    def _texture(self, smallest: float, largest: float) -> Picture:
        """A crop of one of the split's photos, mirrored, turned by a right angle for textures, and tinted."""
        random = self.random
        photo = wheel_photo(str(random.choice(_PHOTOS[self.split])))
        side = int(min(photo.shape[:2]) * random.uniform(smallest, largest))
        top, left = (random.integers(0, length - side + 1) for length in photo.shape[:2])
        crop = resize(photo[top : top + side, left : left + side], self.size)
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        return self._tint(crop.astype(np.float32) / np.float32(255))

    def _tint(self, picture: Picture) -> Picture:
        gain = self.random.uniform(0.75, 1.25, 3) * self.random.uniform(0.6, 1.2)
        offset = self.random.uniform(-0.1, 0.15, 3)
        tinted: Picture = np.clip(picture * gain.astype(np.float32) + offset.astype(np.float32), 0, 1)
        return tinted

    def _paint(self) -> Picture:
        """Clouds, stripes or a plain ramp between two colours."""
        random = self.random
        kind = random.integers(3)
        if kind == 0:
            blend = self._clouds(random.integers(1, 4))
        else:
            angle, waves = random.uniform(0, 2 * np.pi), random.uniform(2, 14) if kind == 1 else 0.25
            rows, columns = np.mgrid[: self.size, : self.size] / np.float32(self.size)
            phase = (rows * np.sin(angle) + columns * np.cos(angle)) * (2 * np.pi * waves)
            sharp = random.uniform(0.5, 4) if kind == 1 else 1
            blend = (np.clip(np.sin(phase) * sharp, -1, 1) / 2 + 0.5)[..., None].astype(np.float32)
        first, second = random.random((2, 3), np.float32)
        grain = (self._clouds(4) - 0.5) * np.float32(random.uniform(0, 0.4))
        painted: Picture = np.clip(first + (second - first) * blend + grain, 0, 1)
        return painted

    def _clouds(self, octaves: int) -> Picture:
        """Smooth noise (size, size, 1) that fills 0..1."""
        total = np.zeros((self.size, self.size), np.float32)
        cells = self.random.integers(2, 5)
        for octave in range(octaves):
            grid = self.random.random((cells * 2**octave, cells * 2**octave), np.float32)
            total += _resized(grid, self.size) / np.float32(2**octave)
        low, high = total.min(), total.max()
        noise: Picture = ((total - low) / (high - low))[..., None]
        return noise

    def _distract(self, picture: Picture) -> Picture:
        """Put something small towards the border, flat and often half transparent."""
        random, size = self.random, self.size
        outline = shapes.random_outline(random)
        away, angle = size * random.uniform(0.42, 0.62), random.uniform(0, 2 * np.pi)
        centre = (size / 2 + away * np.cos(angle), size / 2 + away * np.sin(angle))
        outline = shapes.place(outline, centre, size * random.uniform(0.03, 0.11), random.uniform(0, 2 * np.pi))
        mask = shapes.coverage(outline, size)[..., None] * np.float32(random.uniform(0.4, 1))
        return picture + (random.random(3, np.float32) - picture) * mask

    def _object_outline(self) -> shapes.Outline:
        random, size = self.random, self.size
        centre = tuple(size * random.uniform(0.36, 0.64, 2))
        radius = size * random.uniform(0.2, 0.42)
        outline = shapes.place(shapes.random_outline(random), centre, radius, random.uniform(0, 2 * np.pi))
        if random.random() < 0.15:  # a companion
            angle = random.uniform(0, 2 * np.pi)
            beside = (centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle))
            outline += shapes.place(shapes.random_outline(random), beside, radius * 0.6, angle)
        return outline

    def _skin(self, mask: Picture, around: Picture) -> Picture:
        """The object's colours in the light: texture times shading plus highlight."""
        random = self.random
        albedo = self._texture(0.1, 0.5) if random.random() < 0.55 else self._paint()
        if random.random() < 0.4:  # camouflage: the surroundings' mean colour
            albedo = albedo + (around.mean(axis=(0, 1)) - albedo.mean(axis=(0, 1)))
        angle, height = random.uniform(0, 2 * np.pi), random.uniform(0.4, 1.2)
        light = np.array([np.cos(angle), np.sin(angle), height], np.float32)
        light /= np.linalg.norm(light)
        normal = _normals(mask, random.uniform(0.1, 0.35))
        diffuse = np.clip(normal @ light, 0, 1)
        ambient = random.uniform(0.35, 0.8)
        lit = albedo * np.float32(ambient) + albedo * (diffuse * np.float32(1.25 - ambient))[..., None]
        if random.random() < 0.5:
            half = light + np.array([0, 0, 1], np.float32)
            shine = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 32
            lit = lit + (shine * np.float32(random.uniform(0.2, 0.7)))[..., None]
        return np.clip(lit, 0, 1)

    def _shade(self, picture: Picture, mask: Picture) -> Picture:
        """Let the object cast a soft shadow to one side."""
        shift = self.random.uniform(-0.08, 0.08, 2) * self.size
        moved = scipy.ndimage.shift(mask, shift.round(), order=0)
        soft = _blurred(moved, self.random.uniform(2, 8) * self.size / 256)
        return picture * (1 - soft * np.float32(self.random.uniform(0.2, 0.6)))[..., None]

    def _develop(self, picture: Picture) -> Picture:
        """Exposure, contrast and sensor noise over everything alike."""
        random = self.random
        out = (picture - 0.5) * np.float32(random.uniform(0.75, 1.15)) + np.float32(random.uniform(0.42, 0.58))
        if random.random() < 0.5:
            out = out + random.standard_normal(out.shape, np.float32) * np.float32(random.uniform(0.005, 0.03))
        return np.clip(out, 0, 1)


def _normals(mask: Picture, bulge: float) -> Picture:
    """Surface normals (H, W, 3) of a cushion over the mask; ``bulge`` is its rim's width as a share of the picture."""
    size = len(mask)
    coarse = max(size // 4, 16)
    depth = scipy.ndimage.distance_transform_edt(_resized(mask, coarse) > 0.5) / (bulge * coarse)
    dome = np.sqrt(1 - (1 - np.clip(depth, 0, 1)) ** 2) * bulge * size * 0.6
    height = _resized(scipy.ndimage.gaussian_filter(dome, 1.5).astype(np.float32), size)
    down, right = np.gradient(height)
    normal = np.stack([-right, -down, np.ones_like(height)], axis=-1)
    unit: Picture = normal / np.sqrt((normal**2).sum(axis=-1, keepdims=True))
    return unit


def _resized(plane: Picture, size: int) -> Picture:
    return np.asarray(PIL.Image.fromarray(plane).resize((size, size), PIL.Image.Resampling.BICUBIC))


def _blurred(picture: Picture, radius: float) -> Picture:
    soft = PIL.Image.fromarray(_bytes(picture)).filter(PIL.ImageFilter.GaussianBlur(radius))
    return np.asarray(soft, np.float32) / np.float32(255)


def _bytes(picture: Picture) -> Array:
    levels: Array = np.rint(picture * 255).astype(np.uint8)
    return levels


@cache
def wheel_photo(name: str) -> Array:
    """Read a sample photo, at most 640 pixels on its shorter side."""
    photo = read_rgb(_photo_path(name))
    shorter = min(photo.shape[:2])
    if shorter <= 640:
        return photo
    return resize(photo, (photo.shape[0] * 640 // shorter, photo.shape[1] * 640 // shorter))


@cache
def pixels_digest(name: str) -> str:
    """Hash a sample photo's pixels: another release of its package may ship another picture."""
    return digest([wheel_photo(name).tobytes().hex()])


def _photo_path(name: str) -> Path:
    package, folder = ("sklearn", "datasets/images") if name in ("china.jpg", "flower.jpg") else ("skimage", "data")
    found = importlib.util.find_spec(package)  # found, not imported: the photos need none of its code
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / folder / name
