"""Random crops, flips, turns and light for training pictures, each drawn from its sample's own seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import kornia.enhance
import kornia.geometry.transform
import numpy as np
import torch

AREA = (0.6, 1.0)  # of the picture that a crop keeps
ASPECT = 1.15  # a crop's height to width differs from the picture's by at most this factor
TURN = 8.0  # degrees either way, for half of the samples
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


def draw(seed: int, height: int, width: int) -> Change:
    """Draw one sample's parameters for a picture of that size; a pure function of its arguments."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
    side, aspect = random.uniform(*AREA) ** 0.5, ASPECT ** random.uniform(-0.5, 0.5)
    crop_height, crop_width = height * min(side * aspect, 1), width * min(side / aspect, 1)
    top, left = random.uniform(0, height - crop_height), random.uniform(0, width - crop_width)
    flip, turned = (bool(v) for v in random.random(2) < 0.5)
    angle = random.uniform(-TURN, TURN) * turned
    return Change(top, left, crop_height, crop_width, flip, angle, *random.uniform(1 - LIGHT, 1 + LIGHT, 3))


def augment(
    image: torch.Tensor, target: torch.Tensor | None, seeds: Sequence[int], size: int, *, nearest: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Crop, flip and turn pictures and targets together, and change the light of the pictures alone.

    Args:
        image: uint8 (N, 3, H, W).
        target: uint8 (N, C, H, W), or None.
        seeds: One per sample, 0 to 2**64 - 1; a sample's result depends on nothing else in the batch.
        size: Side of the result in pixels.
        nearest: Pick target values instead of mixing them (class maps).

    Returns:
        uint8 (N, 3, size, size), and uint8 (N, C, size, size) or None.
    """
    assert len(seeds) == len(image)
    draws = [draw(seed, *image.shape[2:]) for seed in seeds]
    # One sample at a time: batched matrix products may round differently from a single one.
    images = [_light(_warp(image[i : i + 1], d, size, "bilinear"), d) for i, d in enumerate(draws)]
    if target is None:
        return torch.cat(images), None
    mode = "nearest" if nearest else "bilinear"
    return torch.cat(images), torch.cat([_warp(target[i : i + 1], d, size, mode) for i, d in enumerate(draws)])


def _warp(picture: torch.Tensor, d: Change, size: int, mode: str) -> torch.Tensor:
    matrix = torch.from_numpy(_matrix(d, size)).float()[None]
    # corners aligned: kornia's matrices count pixel centres
    warped = kornia.geometry.transform.warp_affine(
        picture.float(), matrix, (size, size), mode=mode, padding_mode="reflection", align_corners=True
    )
    return _uint8(warped)


def _matrix(d: Change, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Map source pixel centres to result pixel centres, (2, 3): turn about the crop's centre, scale, flip, shift."""
    radians = np.deg2rad(d.angle)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    scale = np.diag([(-1 if d.flip else 1) * size / d.width, size / d.height])
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
