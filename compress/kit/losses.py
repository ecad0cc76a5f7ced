"""Losses as pure functions of tensors: float32 (or float64) even when the networks run in half precision.

Every function returns a scalar tensor, states its reduction, and lets no gradient into ``teacher`` or ``target``.
``temperature`` is at least 1 in practice; the factor T * T keeps the gradient's size whatever T is
(Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.kit.blocks import resize_like


def full(tensor: Tensor) -> Tensor:
    """Cast up to float32; float64 stays (half precision has too few digits for a mean over a picture)."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of logits, in nats: mean over N, C, H, W.

    logits: (N, C, H, W); target: the same shape, values 0..1.
    """
    return F.binary_cross_entropy_with_logits(full(logits), full(target).detach())


def side_output_cross_entropy(
    outputs: Sequence[Tensor], target: Tensor, weights: Sequence[float] | None = None
) -> Tensor:
    """Deep supervision: sum over the outputs of w * BCE, each BCE a mean over N, C, H, W.

    The thesis's (3.1) and Qin et al. 2020, "U2-Net", section 3.3. outputs: logits (N, C, h, w), the fused one and the
    side outputs, upsampled (bilinear) where smaller than the target; target: (N, C, H, W), values 0..1; weights: one
    for each output, 1 unless told otherwise.
    """
    weights = [1.0] * len(outputs) if weights is None else weights
    assert len(outputs) == len(weights) > 0, f"{len(weights)} weights for {len(outputs)} outputs"
    terms = [
        weight * binary_cross_entropy(resize_like(full(output), target), target)
        for weight, output in zip(weights, outputs, strict=True)
    ]
    return torch.stack(terms).sum()


def tempered_binary_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T * T * KL(Bernoulli(sigmoid(teacher / T)) || Bernoulli(sigmoid(student / T))): mean over N, C, H, W.

    Hinton et al. 2015, section 2, for a sigmoid head. student, teacher: logits of one shape (N, C, H, W). Zero when
    they are equal; tends to mean((teacher - student)^2) / 8 as T grows, so above T = 10 it is an L2 on logits.
    """
    T = temperature
    s, t = full(student) / T, full(teacher).detach() / T
    # the Bregman divergence of softplus: no probability is formed before its logarithm, so nothing overflows
    divergence = F.softplus(s) - F.softplus(t) - torch.sigmoid(t) * (s - t)
    return divergence.mean() * (T * T)


def tempered_class_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T * T * KL(softmax(teacher / T) || softmax(student / T)) per pixel: sum over C, mean over N, H, W.

    Hinton et al. 2015, section 2. student, teacher: logits of one shape (N, C, H, W).
    """
    T = temperature
    s, t = F.log_softmax(full(student) / T, dim=1), F.log_softmax(full(teacher).detach() / T, dim=1)
    return F.kl_div(s, t, reduction="none", log_target=True).sum(dim=1).mean() * (T * T)


def channel_wise_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T * T * KL of the spatial softmax of each channel: sum over H * W, mean over N, C.

    Shu et al. 2021, "Channel-wise knowledge distillation for dense prediction", the KL variant. student, teacher:
    feature maps or logits of one shape (N, C, H, W). Blind to a constant added to a channel.
    """
    T = temperature
    s = F.log_softmax(full(student).flatten(2) / T, dim=2)
    t = F.log_softmax(full(teacher).detach().flatten(2) / T, dim=2)
    return F.kl_div(s, t, reduction="none", log_target=True).sum(dim=2).mean() * (T * T)


def soft_iou_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (I + 1) / (U + 1) of sigmoid(logits) and target: I, U sums over C, H, W; mean over N.

    Wei et al. 2020, "F3Net", the IoU part of its pixel position aware loss, unweighted; the ones keep a
    gradient where the mask is empty. logits, target: (N, C, H, W), target 0..1. The loss lies in 0..1.
    """
    p, t = torch.sigmoid(full(logits)), full(target).detach()
    intersection = (p * t).sum(dim=(1, 2, 3))
    union = (p + t - p * t).sum(dim=(1, 2, 3))
    return (1.0 - (intersection + 1.0) / (union + 1.0)).mean()


def ssim_loss(prediction: Tensor, target: Tensor, window: int = 11) -> Tensor:
    """1 - SSIM, Gaussian window of sigma 1.5, reflected border: mean over N, C, H, W.

    Wang et al. 2004, "Image quality assessment", section III-B, through kornia. prediction, target: (N, C, H, W),
    values 0..1, sides larger than window // 2; window: odd, pixels. The loss lies in 0..2.
    """
    from kornia.metrics import ssim

    similarity: Tensor = ssim(full(prediction), full(target).detach(), window)
    return 1.0 - similarity.mean()


def feature_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of feature maps: mean over N, C, H, W.

    Romero et al. 2015, "FitNets", equation 3, without its half and as a mean. student: (N, C, H, W); teacher:
    (N, C, h, w), resized to the student's sides (bilinear) where they differ. Channels must agree; an adaptor is the
    caller's.
    """
    assert student.shape[:2] == teacher.shape[:2], f"student {student.shape} against teacher {teacher.shape}"
    return F.mse_loss(full(student), resize_like(full(teacher).detach(), student))
