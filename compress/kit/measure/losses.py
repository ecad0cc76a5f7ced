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

from compress.kit.nets.blocks import resize_like


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
    return binary_kl_map(student, teacher, temperature).mean()


def binary_kl_map(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``tempered_binary_kl`` of every pixel, before the mean: (N, C, H, W)."""
    T = temperature
    s, t = full(student) / T, full(teacher).detach() / T
    # the Bregman divergence of softplus: no probability is formed before its logarithm, so nothing overflows
    divergence = F.softplus(s) - F.softplus(t) - torch.sigmoid(t) * (s - t)
    return divergence * (T * T)


def tempered_class_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T * T * KL(softmax(teacher / T) || softmax(student / T)) per pixel: sum over C, mean over N, H, W.

    Hinton et al. 2015, section 2. student, teacher: logits of one shape (N, C, H, W).
    """
    return class_kl_map(student, teacher, temperature).mean()


def class_kl_map(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``tempered_class_kl`` of every pixel, before the mean: (N, 1, H, W)."""
    T = temperature
    s, t = F.log_softmax(full(student) / T, dim=1), F.log_softmax(full(teacher).detach() / T, dim=1)
    return F.kl_div(s, t, reduction="none", log_target=True).sum(dim=1, keepdim=True) * (T * T)


def class_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None, void: int = 255) -> Tensor:
    """Cross-entropy of classes, in nats: weighted mean over the pixels of N, H, W that are not void; 0 without any.

    logits: (N, C, H, W); target: class numbers (N, H, W), int64, ``void`` for pixels that don't count; weights: (C,),
    the weight of a pixel by its true class, 1 unless told otherwise.
    """
    logits = full(logits)
    weights = None if weights is None else weights.to(logits)
    total = F.cross_entropy(logits, target, weight=weights, ignore_index=void, reduction="sum")
    known = target != void
    mass = known.sum() if weights is None else (weights[target.where(known, 0)] * known).sum()
    return total / mass.clamp(min=torch.finfo(total.dtype).tiny)


def class_focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, void: int = 255) -> Tensor:
    """-(1 - p)^gamma log p of the true class: mean over the pixels of N, H, W that are not void; 0 without any.

    Lin et al. 2017, "Focal loss for dense object detection", equation 4. logits: (N, C, H, W); target: (N, H, W),
    int64. gamma 0 is the cross-entropy.
    """
    known = target != void
    log_p = F.log_softmax(full(logits), dim=1).gather(1, target.where(known, 0)[:, None])[:, 0]
    cost = -((-torch.expm1(log_p)) ** gamma) * log_p * known
    return cost.sum() / known.sum().clamp(min=1)


def class_dice_loss(logits: Tensor, target: Tensor, void: int = 255) -> Tensor:
    """1 - (2 I + 1) / (P + T + 1) of softmax(logits) and the one-hot target: sums over N, H, W, mean over classes.

    Milletari et al. 2016, "V-Net", without its squares, over the classes that the batch has; 0 where
    all is void. The one keeps a gradient where they do not meet. logits: (N, C, H, W); target: (N, H, W), int64.
    """
    known = (target != void)[:, None]
    p = torch.softmax(full(logits), dim=1) * known
    truth = F.one_hot(target.where(known[:, 0], 0), logits.shape[1]).movedim(-1, 1) * known
    there = truth.sum(dim=(0, 2, 3))
    dice = (2.0 * (p * truth).sum(dim=(0, 2, 3)) + 1.0) / (p.sum(dim=(0, 2, 3)) + there + 1.0)
    return ((1.0 - dice) * (there > 0)).sum() / (there > 0).sum().clamp(min=1)


def median_frequency_weights(pixels: Tensor) -> Tensor:
    """Weight of each class: the median of the classes' pixel counts over its own; 0 for a class without pixels.

    Eigen & Fergus 2015, "Predicting depth, surface normals and semantic labels", with counts over the
    whole data set. pixels: (C,), how many of each class. Returns (C,) float32.
    """
    counts = full(pixels)
    there = counts > 0
    median = counts[there].quantile(0.5) if bool(there.any()) else counts.new_zeros(())
    return torch.where(there, median / counts.clamp(min=1), 0.0)


def channel_wise_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T * T * KL of the spatial softmax of each channel: sum over H * W, mean over N, C.

    Shu et al. 2021, "Channel-wise knowledge distillation for dense prediction", the KL variant. student, teacher:
    feature maps or logits of one shape (N, C, H, W). Blind to a constant added to a channel.
    """
    T = temperature
    s = F.log_softmax(full(student).flatten(2) / T, dim=2)
    t = F.log_softmax(full(teacher).detach().flatten(2) / T, dim=2)
    return F.kl_div(s, t, reduction="none", log_target=True).sum(dim=2).mean() * (T * T)


def attention_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``channel_wise_distillation`` of where two feature maps look, which needs no adaptor between widths.

    Zagoruyko & Komodakis 2017, "Paying more attention to attention", section 3.1: the mean square over channels,
    divided by its mean over H and W, so that T means the same at every level. student: (N, C, H, W); teacher:
    (N, C', h, w), its attention resized to the student's sides.
    """
    mine = _attention(student)
    return channel_wise_distillation(mine, resize_like(_attention(teacher).detach(), mine), temperature)


def _attention(features: Tensor) -> Tensor:
    """Map features (N, C, H, W) to (N, 1, H, W) of mean 1, or to zeros where they are zero."""
    energy = full(features).square().mean(1, keepdim=True)
    return energy / energy.mean((2, 3), keepdim=True).clamp(min=1e-12)


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
