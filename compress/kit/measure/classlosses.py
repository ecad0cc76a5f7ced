"""What networks of classes may be taught with: cross-entropy, Dice, focal, one-versus-rest, weighed and in sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.core.errors import UsageError, unknown
from compress.kit.data.classes import VOID, Classed
from compress.kit.lesson import Batch, Losses, LossOf, Outputs
from compress.kit.measure import losses
from compress.kit.nets.blocks import resize_like

LossName = Literal["ce", "dice", "focal", "bce"]
Weighting = Literal["none", "median"]
GAMMA = 2.0  # Lin et al. 2017, section 5.1: the best of theirs


def class_loss(names: Sequence[LossName], weights: Sequence[float] | None = None) -> LossOf:
    """Sum the losses of those names over the outputs of a network, each of them a mean over the outputs.

    "ce" ``losses.class_cross_entropy``, "dice" ``losses.class_dice_loss``, "focal" ``focal``, "bce"
    ``one_versus_rest``; "ce" and "focal" weigh pixels by their true class. Of several, each is among the parts.

    Args:
        names: Which; one named twice counts once.
        weights: Weight of each class; 1 where None.

    Raises:
        UsageError: If there is none, or one of another name.
    """
    weighed = None if weights is None else torch.tensor(list(weights))
    terms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ce": lambda logits, target: losses.class_cross_entropy(logits, target, weighed),
        "dice": losses.class_dice_loss,
        "focal": lambda logits, target: focal(logits, target, weighed),
        "bce": one_versus_rest,
    }
    if not names:
        raise UsageError("no loss was named", hint=f"known: {', '.join(terms)}")
    for name in names:
        if name not in terms:
            raise unknown("loss", name, list(terms))
    chosen = {name: terms[name] for name in dict.fromkeys(names)}

    def loss(outputs: Outputs, batch: Batch) -> Losses:
        """Of logits, each (N, C, h, w), brought to the size of batch["target"], class numbers (N, 1, H, W), int64."""
        target = batch["target"]
        levels = [resize_like(losses.full(output), target) for output in outputs]
        parts = {name: torch.stack([of(level, target[:, 0]) for level in levels]).mean() for name, of in chosen.items()}
        total = torch.stack(list(parts.values())).sum()
        return {"loss": total, **({k: v.detach() for k, v in parts.items()} if len(parts) > 1 else {})}

    return loss


def focal(logits: Tensor, target: Tensor, weights: Tensor | None = None, gamma: float = GAMMA) -> Tensor:
    """-w (1 - p)^gamma log p of the true class: weighted mean over the pixels of N, H, W that are not void.

    Lin et al. 2017, "Focal loss for dense object detection", equation 5, its alpha the weight w of the true class.
    Without weights ``losses.class_focal_loss``. logits: (N, C, H, W); target: (N, H, W), int64, 255 for void; weights:
    (C,). 0 where nothing is labelled.
    """
    if weights is None:
        return losses.class_focal_loss(logits, target, gamma)
    known = target != VOID
    numbers = target.where(known, 0)
    mass = weights.to(losses.full(logits))[numbers] * known
    log_p = F.log_softmax(losses.full(logits), dim=1).gather(1, numbers[:, None])[:, 0]
    cost = -((-torch.expm1(log_p)) ** gamma) * log_p * mass
    return cost.sum() / mass.sum().clamp(min=torch.finfo(cost.dtype).tiny)


def one_versus_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each class against all others: mean over C and the pixels that are not void.

    logits: (N, C, H, W), each class's own; target: (N, H, W), int64, 255 for void. 0 where nothing is labelled. Two
    classes under a softmax are one sigmoid of the logits' difference: there "ce" itself is the binary cross-entropy
    of a mask.
    """
    known = (target != VOID)[:, None]
    onehot = F.one_hot(target.where(known[:, 0], 0), logits.shape[1]).movedim(-1, 1)
    values = losses.full(logits)
    cost = F.binary_cross_entropy_with_logits(values, onehot.to(values), reduction="none") * known
    return cost.sum() / (known.sum() * logits.shape[1]).clamp(min=1)


def class_weights(data: Classed, weighting: Weighting) -> tuple[float, ...] | None:
    """Weight of each class by its pixels in ``data``, every class map read once; None for "none".

    "median": ``losses.median_frequency_weights``.

    Raises:
        UsageError: For another name.
    """
    if weighting == "none":
        return None
    if weighting != "median":
        raise unknown("weighting", weighting, ["none", "median"])
    counts = torch.zeros(len(data.labels), dtype=torch.float64)
    for pixels in data.class_pixels():
        counts += torch.from_numpy(pixels)
    return tuple(round(float(weight), 6) for weight in losses.median_frequency_weights(counts))
