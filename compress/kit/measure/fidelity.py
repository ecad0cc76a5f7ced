"""How close one colour picture is to another: PSNR, SSIM and the colour difference CIEDE2000."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]  # (H, W, 3), sRGB, 0..1

MOST = 100.0  # dB; equal pictures would have infinitely many, which no mean survives
_WINDOW = 11  # pixels a side of SSIM's window


def psnr(picture: Picture, target: Picture) -> float:
    """Peak signal to noise ratio in dB, at most ``MOST``: -10 log10 of the mean squared error over all values."""
    error = float(np.mean(np.square(picture - target)))
    return MOST if error <= 10 ** (-MOST / 10) else -10 * math.log10(error)


def ssim(picture: Picture, target: Picture) -> float:
    """Structural similarity, -1..1, mean over the picture and its channels, through scikit-image.

    Wang et al. 2004, "Image quality assessment", section III-B: Gaussian window of sigma 1.5, 11 pixels a side.
    Pictures with a shorter side are mirrored up to that size.
    """
    from skimage.metrics import structural_similarity

    more = [(0, max(_WINDOW - length, 0)) for length in picture.shape[:2]]
    a, b = (np.pad(image, (*more, (0, 0)), mode="symmetric") for image in (picture, target))
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, channel_axis=-1, data_range=1.0, **how))


def delta_e(picture: Picture, target: Picture) -> float:
    """Mean colour difference CIEDE2000 (Luo, Cui & Rigg 2001) under D65, through scikit-image; 1 can just be seen."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    return float(np.mean(deltaE_ciede2000(rgb2lab(picture), rgb2lab(target))))
