"""Losses of feature maps and pictures that distillation compares: pure functions, scalars in float32 or float64.

As in ``losses``, no gradient reaches what is learned from, and every value is a mean, so that neither the number of
pixels nor that of channels scales it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.kit.measure.losses import full

_LEAST = 1e-12  # below it a map counts as zero


def kernel_alignment_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - ||X'Y||^2 / (||X'X|| ||Y'Y||), Frobenius norms of maps as matrices (N H W, C): in 0..1.

    Jin et al. 2021, "Teachers do more than teach", section 3.2: how alike two maps relate places to one another,
    whatever their channels are, so that widths may differ. student: (N, C, H, W); teacher: (N, C', H, W). Neither a
    rotation of the channels nor a factor changes it. 1 where a map is zero all over.
    """
    x, y = _places(full(student)), _places(full(teacher).detach())
    cross, mine, theirs = x.T @ y, x.T @ x, y.T @ y
    scale = (mine.square().sum() * theirs.square().sum()).clamp(min=_LEAST).sqrt()
    return 1.0 - cross.square().sum() / scale


def _places(features: Tensor) -> Tensor:
    """Turn (N, C, H, W) into (N H W, C) of root mean square 1, divided so that C by C sums of it stay small."""
    matrix = features.movedim(1, -1).flatten(0, 2)
    size = matrix.detach().square().sum().clamp(min=_LEAST).sqrt()  # a factor changes nothing: no gradient needed
    return matrix / size


def gram(features: Tensor) -> Tensor:
    """Gram matrix of each image, (N, C, C): products of channels, mean over C, H and W.

    Johnson et al. 2016, "Perceptual losses", equation 3. features: (N, C, H, W).
    """
    flat = full(features).flatten(2)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


def style_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 of Gram matrices: mean over N, C, C (Ren et al. 2021, "Online multi-granularity distillation", section 3.2).

    student: (N, C, H, W); teacher: (N, C, h, w), of any sides: where things are plays no part.
    """
    assert student.shape[:2] == teacher.shape[:2], f"student {student.shape} against teacher {teacher.shape}"
    return F.l1_loss(gram(student), gram(full(teacher).detach()))


def channel_means_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of each channel's mean over H and W: mean over N, C.

    Zhou et al. 2020, "Channel distillation", equation 2; the channel term of Ren et al. 2021. student: (N, C, H, W);
    teacher: (N, C, h, w), of any sides.
    """
    assert student.shape[:2] == teacher.shape[:2], f"student {student.shape} against teacher {teacher.shape}"
    return F.mse_loss(full(student).mean((2, 3)), full(teacher).detach().mean((2, 3)))


def total_variation(picture: Tensor) -> Tensor:
    """Mean absolute difference of neighbours down plus that of neighbours across: mean over N, C and places.

    Rudin et al. 1992, its anisotropic form. picture: (N, C, H, W); 0 where there are no neighbours.
    """
    values = full(picture)
    steps = (values.diff(dim=2), values.diff(dim=3))
    return torch.stack([part.abs().sum() / max(part.numel(), 1) for part in steps]).sum()


def haar_details(picture: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the orthonormal Haar transform: (mean band (N, C, h, w), detail bands (N, C, 3, h, w)).

    picture: (N, C, H, W), h and w half of its sides; the last row or column of odd sides is repeated. The details are
    of differences across, down and diagonal.
    """
    values = full(picture)
    values = F.pad(values, (0, values.shape[3] % 2, 0, values.shape[2] % 2), mode="replicate")
    a, b = values[..., ::2, ::2], values[..., ::2, 1::2]
    c, d = values[..., 1::2, ::2], values[..., 1::2, 1::2]
    details = torch.stack((a - b + c - d, a + b - c - d, a - b - c + d), dim=2)
    return (a + b + c + d) / 2, details / 2


def wavelet_loss(student: Tensor, teacher: Tensor, steps: int = 1) -> Tensor:
    """L1 of the Haar detail bands alone: mean over N, C, bands and places, then over ``steps`` scales.

    Zhang et al. 2022, "Wavelet knowledge distillation", section 3.2, with Haar's wavelet: the brightness and colour of
    large areas cost nothing. student, teacher: pictures (N, C, H, W); each further step takes the mean band of the
    one before.
    """
    mine, theirs = full(student), full(teacher).detach()
    terms = []
    for _ in range(steps):
        (mine, fine), (theirs, wanted) = haar_details(mine), haar_details(theirs)
        terms.append(F.l1_loss(fine, wanted))
    return torch.stack(terms).mean()


def soft_iou_of_pictures(picture: Tensor, truth: Tensor) -> Tensor:
    """1 - (I + 1) / (U + 1) of two masks: I, U sums over H, W; mean over N, C. In 0..1.

    ``losses.soft_iou_loss`` after the sigmoid; maps of classes count each on its own. picture, truth: (N, C, H, W),
    values 0..1. Against itself a soft mask costs more than 0: only one of zeros and ones agrees with itself wholly.
    """
    p, t = full(picture), full(truth).detach()
    both = (p * t).sum((2, 3))
    either = (p + t - p * t).sum((2, 3))
    return (1.0 - (both + 1.0) / (either + 1.0)).mean()
