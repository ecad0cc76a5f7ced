"""Smooth random bending of pictures and their targets, which makes few labelled ones teach more."""

from __future__ import annotations

import numpy as np
import scipy.interpolate
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

GRID = 3  # points a side that are displaced; what lies between them follows smoothly
_STREAM = 1  # the sample's seed has other streams for other changes


def displacement(seed: int, height: int, width: int, deviation: float) -> NDArray[np.float32]:
    """Draw a smooth field of displacements: a pure function of its arguments.

    Ronneberger et al. 2015, "U-Net", section 3.1: normal displacements of a coarse 3 x 3 grid, bicubic between them;
    the idea is that of Simard et al. 2003, "Best practices for convolutional neural networks", section 2. The grid's
    corners are the picture's; natural cubic splines run through its points along each axis.

    Args:
        seed: 0 to 2**64 - 1.
        height: Rows, 1 or more.
        width: Columns, 1 or more.
        deviation: Standard deviation of the grid's displacements along each axis, in pixels.

    Returns:
        (height, width, 2): how far down and how far right each pixel's value is fetched from, in pixels.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], np.uint64)))
    field = random.normal(0.0, deviation, (GRID, GRID, 2))
    for axis, length in enumerate((height, width)):
        spline = scipy.interpolate.CubicSpline(np.linspace(0.0, 1.0, GRID), field, axis=axis, bc_type="natural")
        field = spline(np.linspace(0.0, 1.0, length) if length > 1 else np.array([0.5]))
    smooth: NDArray[np.float32] = field.astype(np.float32)
    return smooth


def bend(picture: torch.Tensor, field: NDArray[np.float32], *, nearest: bool = False) -> torch.Tensor:
    """Fetch every pixel from where the field says, reflected about the outermost pixels' centres.

    Args:
        picture: uint8 (N, C, H, W); each picture's result depends on nothing else in the batch.
        field: (H, W, 2) down and right, in pixels, as ``displacement`` draws it.
        nearest: Pick values instead of mixing the four around (class maps).

    Returns:
        uint8 (N, C, H, W).
    """
    height, width = picture.shape[2:]
    assert field.shape == (height, width, 2), f"field {field.shape} for pictures of {height} x {width}"
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([_unit(columns + field[..., 1], width), _unit(rows + field[..., 0], height)], axis=-1)
    grid = torch.from_numpy(places.astype(np.float32))[None].expand(len(picture), -1, -1, -1)
    mode = "nearest" if nearest else "bilinear"
    fetched = F.grid_sample(picture.float(), grid, mode=mode, padding_mode="reflection", align_corners=True)
    return fetched.round().clamp(0, 255).to(torch.uint8)


def _unit(places: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Pixel centres 0 to length - 1 as -1 to 1, the way ``grid_sample`` counts them with corners aligned."""
    unit: NDArray[np.float64] = places * (2.0 / max(length - 1, 1)) - 1.0 if length > 1 else places * 0.0
    return unit
