"""Terms of pictures: against the teacher's, against the labels, of the picture alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.kit.distill.term import Balance, Compute, Term, mean_of, nothing
from compress.kit.distill.view import View, resized
from compress.kit.measure import losses, maplosses
from compress.kit.measure.losses import full
from compress.kit.nets.blocks import resize_like


def kl(view: View, term: Term) -> Tensor | None:
    """Divergence of the task at T: mean over pixels, then over the levels both have."""
    T = term.temperature(view)
    found = []
    for mine, theirs in view.levels():
        apart = view.task.divergence(mine, theirs, T)
        found.append((apart * confidence(view, theirs)).mean() if term.confidence else apart.mean())
    return mean_of(found)


def confidence(view: View, teacher: Tensor) -> Tensor:
    """What the teacher is sure of each pixel, (N, 1, H, W), divided by its mean over the batch; no gradient.

    Masks: |2 p - 1|. Classes: the largest probability minus the second. Its mean is 1, so that a term keeps its
    size however sure the teacher is; where it is sure of nothing all is 0. teacher: one level, raw (N, C, H, W).

    Raises:
        UsageError: If pictures of the task have no confidence.
    """
    picture = view.task.activate(full(teacher)).detach()
    color = view.task.output.color
    if color == "mask":
        sure = (2.0 * picture - 1.0).abs()
    elif color == "classes":
        top = picture.topk(min(2, picture.shape[1]), dim=1).values
        sure = top[:, :1] - top[:, 1:] if picture.shape[1] > 1 else top
    else:
        raise UsageError(
            f"confidence has no meaning for {view.task.name}: its pictures are {color}, wanted masks or classes",
            hint="take 'confidence' out of the recipe",
        )
    return sure / sure.mean().clamp(min=1e-6)


def labelled(view: View, outputs: list[Tensor]) -> tuple[list[Tensor], Mapping[str, Tensor]] | None:
    """Keep the rows that have labels, of outputs and batch; None where no row has any."""
    rows = view.labelled()
    if rows is None or bool(rows.all()):
        return outputs, view.batch
    if not bool(rows.any()):
        return None
    return [output[rows] for output in outputs], {key: value[rows] for key, value in view.batch.items()}


def hard(view: View, term: Term) -> Tensor | None:
    """Loss of the task against the labels: mean over the student's levels, of the rows that have labels."""
    if "target" not in view.batch:
        return None
    kept = labelled(view, [full(level) for level in view.task.levels(view.student)])
    if kept is None:
        return nothing(view)
    levels, batch = kept
    if term.balance == "none":
        return mean_of([view.task.label_loss(level, batch) for level in levels])
    target = batch["target"]
    if view.task.output.color != "classes":
        raise UsageError(
            f"balance = '{term.balance}' has no meaning for {view.task.name}: its labels are no classes",
            hint="take 'balance' out of the recipe",
        )
    weights = balanced_weights(target, levels[0].shape[1], term.balance)
    sized = [resize_like(level, target) for level in levels]
    return mean_of([losses.class_cross_entropy(level, target[:, 0], weights) for level in sized])


def balanced_weights(target: Tensor, classes: int, balance: Balance) -> Tensor:
    """Weight of each class, (C,), from the labelled pixels of one batch; 0 for a class it has none of.

    "median": ``losses.median_frequency_weights``. "effective": (1 - b) / (1 - b^n) for n pixels, mean 1 over the
    classes there are; Cui et al. 2019, "Class-balanced loss based on effective number of samples", equation 3, with
    their b = (P - 1) / P (section 4.1) for P labelled pixels. target: (N, 1, H, W), int64, 255 for none.
    """
    known = target[(target >= 0) & (target < classes)]
    counts = torch.bincount(known.flatten(), minlength=classes).to(torch.float64)
    if balance == "median":
        return losses.median_frequency_weights(counts)
    total = counts.sum().clamp(min=2.0)
    there = counts > 0
    # b^n = exp(n log(1 - 1 / P)): as P grows b comes so near 1 that its own powers would be rounded
    effective = -torch.expm1(counts * torch.log1p(-1.0 / total)) * total
    weights = torch.where(there, 1.0 / effective.clamp(min=1e-12), 0.0)
    return (weights * there.sum() / weights.sum().clamp(min=1e-12)).float()


def _pictures(view: View, term: Term) -> tuple[Tensor, Tensor] | None:
    """The student's first picture and what it learns from, activated, of one size; None where that is not there.

    The teacher's picture is brought to the student's size; the student's raw output to that of labels.
    """
    mine = full(view.student[0])
    if term.of == "teacher":
        if mine.shape[1] != view.teacher[0].shape[1]:
            raise UsageError(
                f"term '{term.name}': the teacher's picture has {view.teacher[0].shape[1]} channels, the student's "
                f"{mine.shape[1]}",
                hint="take a teacher of the same classes",
            )
        return view.task.activate(mine), resized(view.task.activate(full(view.teacher[0])), mine)
    kept = labelled(view, [mine])
    if kept is None or "target" not in kept[1]:
        return None
    truth = full(view.task.truth(kept[1])).detach()
    return view.task.activate(resize_like(kept[0][0], truth)), truth


def of_pictures(compare: Callable[[Tensor, Tensor, View, Term], Tensor]) -> Compute:
    """Make a term of a comparison of the student's first picture with the teacher's, or the labels'."""

    def compute(view: View, term: Term) -> Tensor | None:
        both = _pictures(view, term)
        if both is None:
            return nothing(view) if "target" in view.batch else None
        return compare(*both, view, term)

    return compute


def _unit(picture: Tensor, view: View) -> Tensor:
    """Bring a picture's range to 0..1."""
    spec = view.task.output
    return (picture - spec.low) / (spec.high - spec.low)


def iou(mine: Tensor, theirs: Tensor, view: View, _: Term) -> Tensor:
    """``maplosses.soft_iou_of_pictures``, of masks and classes."""
    if view.task.output.color not in ("mask", "classes"):
        raise UsageError(
            f"iou has no meaning for {view.task.name}: its pictures are {view.task.output.color}, wanted masks or "
            "classes",
            hint="take ssim or picture instead",
        )
    return maplosses.soft_iou_of_pictures(mine, theirs)


def ssim(mine: Tensor, theirs: Tensor, view: View, _: Term) -> Tensor:
    """``losses.ssim_loss`` of pictures brought to 0..1; the window shrinks with those smaller than it."""
    reach = min(5, *(side - 1 for side in mine.shape[2:]))  # a window's border is reflected: it must fit
    return losses.ssim_loss(_unit(mine, view), _unit(theirs, view), 2 * reach + 1)


def picture(mine: Tensor, theirs: Tensor, view: View, term: Term) -> Tensor:
    """Absolute or squared difference of activated pictures: mean over N, C, H, W."""
    apart = (mine - theirs).abs() if term.norm == "l1" else (mine - theirs).square()
    if term.confidence:
        apart = apart * confidence(view, resized(view.teacher[0], mine))
    return apart.mean()


def wavelet(mine: Tensor, theirs: Tensor, _: View, term: Term) -> Tensor:
    """``maplosses.wavelet_loss`` of activated pictures."""
    return maplosses.wavelet_loss(mine, theirs, term.steps)


def tv(view: View, _: Term) -> Tensor:
    """``maplosses.total_variation`` of the student's own picture: keeps it calm, and learns from nobody."""
    return maplosses.total_variation(view.task.activate(full(view.student[0])))


def seen(view: View, term: Term) -> tuple[list[Tensor], list[Tensor]] | None:
    """What the perceptor makes of both pictures.

    Raises:
        UsageError: If there is no perceptor, or it can't see what the task makes.
    """
    if view.perceptor is None:
        raise UsageError(
            f"term '{term.name}' looks through a feature network, and none was given",
            hint="give --perceptor FILE (VGG-16 weights by torchvision's keys), or a recipe without it",
        )
    if view.task.output.color != "rgb":
        raise UsageError(
            f"term '{term.name}' shows pictures to a feature network; those of {view.task.name} are "
            f"{view.task.output.color}, wanted rgb",
            hint="take a recipe of features on taps",
        )
    both = _pictures(view, term)
    if both is None:
        return None
    with torch.no_grad():
        theirs = list(view.perceptor(_unit(both[1], view)))
    return list(view.perceptor(_unit(both[0], view))), theirs


def perceptual(view: View, term: Term) -> Tensor | None:
    """L1 of a frozen network's maps of both pictures: mean over N, C, h, w, then over maps (Johnson et al. 2016)."""
    both = seen(view, term)
    if both is None:
        return nothing(view) if "target" in view.batch else None
    return mean_of([F.l1_loss(full(mine), full(theirs).detach()) for mine, theirs in zip(*both, strict=True)])
