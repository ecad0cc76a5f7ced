"""How wrong a mask is, in five ways: what membrane networks minimise, and what their discriminators learn to tell.

S6's quality functions, as errors: 0 is a perfect mask, 1 the worst, lower is better. Every function takes masks and
truths (N, C, H, W) with values 0..1, computes in float32 (or float64) and returns one error an image, (N,); a loss is
their mean. No gradient goes into the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from compress.kit.measure.losses import full

Name = Literal["module", "squaring", "percent", "iou", "iou2"]
Quality = Callable[[Tensor, Tensor], Tensor]

STEEP = 20.0  # slope of the soft threshold: 0.4 counts as 0.12, 0.6 as 0.88


def module(mask: Tensor, truth: Tensor) -> Tensor:
    """Mean over C, H, W of |mask - truth|: (N,)."""
    p, t = _both(mask, truth)
    return (p - t).abs().mean(dim=(1, 2, 3))


def squaring(mask: Tensor, truth: Tensor) -> Tensor:
    """Mean over C, H, W of (mask - truth)^2: (N,)."""
    p, t = _both(mask, truth)
    return (p - t).square().mean(dim=(1, 2, 3))


def percent(mask: Tensor, truth: Tensor) -> Tensor:
    """Share of the pixels of C, H, W that are wrong once both are cut at 0.5 (above is 1): (N,), without gradient."""
    p, t = _both(mask, truth)
    return ((p > 0.5) != (t > 0.5)).to(p.dtype).mean(dim=(1, 2, 3))


def soft_percent(mask: Tensor, truth: Tensor) -> Tensor:
    """``percent`` with a slope: mean over C, H, W of |sigmoid(20 (mask - 0.5)) - truth cut at 0.5|: (N,).

    Without the steep sigmoid in it, it would be ``module``: for a truth of 0 and 1 the expected share of wrong pixels
    is the mean absolute error.
    """
    p, t = _both(mask, truth)
    return (torch.sigmoid(STEEP * (p - 0.5)) - (t > 0.5).to(p.dtype)).abs().mean(dim=(1, 2, 3))


def iou(mask: Tensor, truth: Tensor) -> Tensor:
    """1 - (I + 1) / (U + 1), I = sum of p t and U = sum of p + t - p t over C, H, W: (N,).

    The soft intersection over union of what is 1 (Rahman & Wang 2016, section 3, with the ones of
    ``losses.soft_iou_loss``, which leave 0 to an empty mask of an empty truth).
    """
    return 1.0 - _overlap(*_both(mask, truth))


def iou2(mask: Tensor, truth: Tensor) -> Tensor:
    """1 - ((I + 1) / (U + 1))^2 with the sums of ``iou``: (N,). S6's "IoU squared"."""
    return 1.0 - _overlap(*_both(mask, truth)).square()


def cut(truth: Tensor) -> Tensor:
    """Truths (N, C, H, W) at 0 and 1 alone: float32, above 0.5 is 1.

    Turning and bending leave labels between the two along their borders, where an overlap of a soft truth with itself
    is less than 1.
    """
    return (full(truth) > 0.5).float()


def _overlap(p: Tensor, t: Tensor) -> Tensor:
    both = p * t
    return (both.sum(dim=(1, 2, 3)) + 1.0) / ((p + t - both).sum(dim=(1, 2, 3)) + 1.0)


def _both(mask: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    assert mask.shape == truth.shape, f"mask {tuple(mask.shape)} against truth {tuple(truth.shape)}"
    p = full(mask)
    return p, truth.detach().to(p.dtype)


# What a discriminator learns to tell: any function will do, it needs no gradient
QUALITIES: Mapping[str, Quality] = {
    "module": module,
    "squaring": squaring,
    "percent": percent,
    "iou": iou,
    "iou2": iou2,
}
# What a network can minimise by itself
SOFT: Mapping[str, Quality] = {**QUALITIES, "percent": soft_percent}
