"""Pairs for retouch from good photos alone: each is spoilt by its seed, and the photo itself is the target."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import PIL.Image
import scipy.ndimage
from numpy.typing import NDArray

from compress.kit.data.builtin import LENGTHS, pixels_digest, wheel_photo
from compress.kit.data.made import Made
from compress.kit.data.sets import Dataset, Sample, digest
from compress.kit.images import Array, resize

VERSION = 1  # raised whenever one pixel of a spoilt photo changes
_GAMMA = 2.2  # of a display; exposure and white balance act on light, before it
_GOOD = {  # those of the built-in set's photos that are colour pictures of the world, in the same splits
    "train": ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "china.jpg"),
    "val": ("chelsea.png", "rocket.jpg"),
    "test": ("coffee.png", "flower.jpg"),
}


@dataclass(frozen=True)
class Fault:
    """What is wrong with one photo; ``draw`` says within which bounds."""

    exposure: float  # stops: light times 2 to this power
    balance: tuple[float, float, float]  # gain of the light in red, green and blue; their geometric mean is 1
    contrast: float  # about mid grey, of the displayed values
    blur: float  # sigma in pixels
    noise: float  # standard deviation, of values 0..1
    quality: int  # of a JPEG, 101 for none
    seed: int  # of the noise


def draw(seed: int) -> Fault:
    """Draw what is wrong with a photo; a pure function of its seed, 0 to 2**64 - 1."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, 1], np.uint64)))
    logs = random.uniform(-0.25, 0.25, 3)
    red, green, blue = np.exp(logs - logs.mean())
    happens = random.random(3) < (0.4, 0.7, 0.6)
    return Fault(
        exposure=float(random.uniform(-1.5, 0.8)),
        balance=(float(red), float(green), float(blue)),
        contrast=float(random.uniform(0.55, 1.05)),
        blur=float(random.uniform(0.3, 1.3) * happens[0]),
        noise=float(random.uniform(0.005, 0.04) * happens[1]),
        quality=int(random.integers(35, 90)) if happens[2] else 101,
        seed=seed,
    )


def degrade(photo: Array, fault: Fault) -> Array:
    """Spoil a photo (H, W, 3), 0..255: light, contrast, lens, sensor, file, in that order; same shape and range."""
    light = (photo.astype(np.float32) / np.float32(255)) ** np.float32(_GAMMA)
    light *= np.array(fault.balance, np.float32) * np.float32(2**fault.exposure)
    shown = np.clip(light, 0, 1) ** np.float32(1 / _GAMMA)
    shown = (shown - np.float32(0.5)) * np.float32(fault.contrast) + np.float32(0.5)
    if fault.blur:
        shown = scipy.ndimage.gaussian_filter(shown, (fault.blur, fault.blur, 0))
    if fault.noise:
        random = np.random.Generator(np.random.Philox(key=np.array([fault.seed, 2], np.uint64)))
        shown = shown + random.standard_normal(shown.shape, np.float32) * np.float32(fault.noise)
    return _saved(np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8), fault.quality)


@dataclass(frozen=True)
class Degraded(Dataset):
    """Photos as targets and what ``degrade`` makes of them as images; which fault each has depends on (seed, name)."""

    photos: Dataset
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the photos, in order."""
        return self.photos.names

    @property
    def fingerprint(self) -> str:
        """Of the version, the seed and the photos."""
        return digest(["degraded", str(VERSION), str(self.seed), self.photos.fingerprint])

    def original(self, index: int) -> Sample:
        """Read the photo as "target" (H, W, 3) and spoil it as "image" of that shape."""
        photo = self.photos.original(index)["image"]
        named = hashlib.sha256(f"{self.seed}:{self.names[index]}".encode()).digest()
        return {"image": degrade(photo, draw(int.from_bytes(named[:8]))), "target": photo}


@dataclass(frozen=True)
class Crops(Made):
    """Square crops of the good photos that come inside scikit-image and scikit-learn; splits share no photo.

    Args:
        split: "train", "val" or "test".
        seed: Another seed is other crops.
        length: Number of pictures; those of the built-in saliency set by default.
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
        """Of the version, the arguments and the photos' pixels."""
        settings = ("crops", VERSION, self.split, self.seed, len(self), self.size)
        return digest([*map(str, settings), *(pixels_digest(name) for name in _GOOD[self.split])])

    def original(self, index: int) -> Sample:
        """Cut "image" (size, size, 3) out of one of the photos, mirrored half of the time."""
        random = self.random(index)
        photo = wheel_photo(str(random.choice(_GOOD[self.split])))
        side = int(min(photo.shape[:2]) * random.uniform(0.4, 1.0))
        top, left = (random.integers(0, length - side + 1) for length in photo.shape[:2])
        crop = resize(photo[top : top + side, left : left + side], self.size)
        return {"image": np.ascontiguousarray(crop[:, ::-1] if random.random() < 0.5 else crop)}


def _saved(photo: Array, quality: int) -> Array:
    if quality > 100:
        return photo
    file = io.BytesIO()
    PIL.Image.fromarray(photo).save(file, "JPEG", quality=quality)
    read: NDArray[np.uint8] = np.asarray(PIL.Image.open(file))
    return read
