"""Random crops, flips, turns and light for training pictures, each drawn from its sample's own seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import kornia.enhance
import kornia.geometry.transform
import numpy as np
import torch
from numpy.typing import NDArray

from compress.kit.data.batches import Augmentation

ASPECT = 1.15  # a crop's height to width differs from the picture's by at most this factor
TURN = 8.0  # degrees either way, for half of the samples
USUAL = Augmentation()
LIGHT = 0.25  # brightness, contrast and saturation each times 1 - LIGHT to 1 + LIGHT


@dataclass(frozen=True)
class Change:
    """What happens to one sample: lengths in pixels of the source, angle in degrees."""

    top: float
    left: float
    height: float
    width: float
    flip: bool
    angle: float
    brightness: float
    contrast: float
    saturation: float
    upside_down: bool = False
    bent: bool = False


def draw(seed: int, height: int, width: int, size: int, how: Augmentation) -> Change:
    """Draw one sample's parameters for a picture of that size; a pure function of its arguments."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
    largest = min(1.0, how.widest * size / max(height, width))
    smallest = min(how.closest or size / max(height, width), largest)
    side, aspect = random.uniform(smallest**2, largest**2) ** 0.5, ASPECT ** random.uniform(-0.5, 0.5)
    crop_height, crop_width = height * min(side * aspect, 1), width * min(side / aspect, 1)
    top, left = random.uniform(0, height - crop_height), random.uniform(0, width - crop_width)
    flip, turned = (bool(v) for v in random.random(2) < 0.5)
    angle = random.uniform(-TURN, TURN) * turned
    brightness, contrast, saturation = random.uniform(1 - LIGHT, 1 + LIGHT, 3)
    bent = bool(random.random() < 0.5) and how.elastic > 0
    quarters, upside_down = int(random.integers(4)), bool(random.random() < 0.5)
    if how.upright:
        quarters, upside_down = 0, False
    angle += 90 * quarters
    return Change(
        top,
        left,
        crop_height,
        crop_width,
        flip,
        angle,
        brightness,
        contrast,
        saturation,
        upside_down,
        bent,
    )


def augment(
    image: torch.Tensor,
    target: torch.Tensor | None,
    seeds: Sequence[int],
    size: int,
    how: Augmentation = USUAL,
    *,
    nearest: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Crop, flip, turn and bend pictures and targets together, and change the light of the pictures alone.

    Args:
        image: uint8 (N, 3, H, W).
        target: uint8 (N, C, H, W), or None.
        seeds: One per sample, 0 to 2**64 - 1; a sample's result depends on nothing else in the batch.
        size: Side of the result in pixels.
        how: What is done, and how much of it.
        nearest: Pick target values instead of mixing them (class maps).

    Returns:
        uint8 (N, 3, size, size), and uint8 (N, C, size, size) or None.
    """
    assert len(seeds) == len(image)
    height, width = image.shape[2:]
    draws = [draw(seed, height, width, size, how) for seed in seeds]
    fields = [_field(seed, size, how) if d.bent else None for seed, d in zip(seeds, draws, strict=True)]
    # One sample at a time: batched matrix products may round differently from a single one.
    images = [_warp(image[i : i + 1], d, size, "bilinear", fields[i]) for i, d in enumerate(draws)]
    if how.relight:
        images = [_light(picture, d) for picture, d in zip(images, draws, strict=True)]
    if target is None:
        return torch.cat(images), None
    mode = "nearest" if nearest else "bilinear"
    targets = [_warp(target[i : i + 1], d, size, mode, fields[i]) for i, d in enumerate(draws)]
    return torch.cat(images), torch.cat(targets)


def _field(seed: int, size: int, how: Augmentation) -> NDArray[np.float32]:
    from compress.kit.data.elastic import displacement

    return displacement(seed, size, size, how.elastic * size)


def _warp(
    picture: torch.Tensor, d: Change, size: int, mode: str, field: NDArray[np.float32] | None = None
) -> torch.Tensor:
    matrix = torch.from_numpy(_matrix(d, size)).float()[None]
    # corners aligned: kornia's matrices count pixel centres
    warped = kornia.geometry.transform.warp_affine(
        picture.float(), matrix, (size, size), mode=mode, padding_mode="reflection", align_corners=True
    )
    if field is None:
        return _uint8(warped)
    from compress.kit.data.elastic import bend

    return bend(_uint8(warped), field, nearest=mode == "nearest")


def _matrix(d: Change, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Map source pixel centres to result pixel centres, (2, 3): turn about the crop's centre, scale, flip, shift."""
    radians = np.deg2rad(d.angle)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    scale = np.diag([(-1 if d.flip else 1) * size / d.width, (-1 if d.upside_down else 1) * size / d.height])
    linear = scale @ turn
    centre = np.array([d.left + d.width / 2, d.top + d.height / 2]) - 0.5
    return np.concatenate([linear, ((size - 1) / 2 - linear @ centre)[:, None]], axis=1)


def _light(image: torch.Tensor, d: Change) -> torch.Tensor:
    bright = _uint8(image * d.brightness)
    # the mean of whole numbers is exact however many threads add it up
    mean = float(bright.sum(dtype=torch.int64)) / bright.numel()
    contrasted = (bright - mean) * d.contrast + mean
    unit = (contrasted / 255).clamp(0, 1)
    return _uint8(kornia.enhance.adjust_saturation_with_gray_subtraction(unit, d.saturation) * 255)


def _uint8(values: torch.Tensor) -> torch.Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
