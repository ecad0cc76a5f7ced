"""One summand of a recipe, as a record, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compress.kit.distill.view import View
from compress.kit.measure.losses import full

On = Literal["outputs", "features", "taps", "perceptor"]
Of = Literal["teacher", "labels"]
Norm = Literal["l1", "l2"]
Balance = Literal["none", "median", "effective"]


@dataclass(frozen=True)
class Term:
    """One summand of a recipe.

    Args:
        name: What it is called in logs.
        loss: Which of ``KINDS``.
        weight: Factor in the sum, 0 or more.
        T: Its temperature; the user's where None.
        on: What is compared: pictures ("outputs"), outputs beside them ("features"), "taps", maps of the perceptor.
        of: What is learned from.
        confidence: Whether a pixel weighs what the teacher is sure of it, see ``confidence``.
        norm: Absolute ("l1") or squared ("l2") difference.
        balance: How classes are weighed, see ``balanced_weights``.
        steps: Scales of a wavelet transform.
    """

    name: str
    loss: str
    weight: float
    T: float | None = None
    on: On = "outputs"
    of: Of = "teacher"
    confidence: bool = False
    norm: Norm = "l1"
    balance: Balance = "none"
    steps: int = 1

    def temperature(self, view: View) -> float:
        """The term's own T, or else the user's."""
        return view.temperature if self.T is None else self.T


Compute = Callable[[View, Term], Tensor | None]  # None: nothing to compare


def nothing(view: View) -> Tensor:
    """Zero that the student's every output can be derived from: what labels cost where there are none."""
    return torch.stack([full(output).flatten()[:0].sum() for output in view.student]).sum()


def mean_of(terms: list[Tensor]) -> Tensor | None:
    """Mean of scalars, None of none."""
    return torch.stack(terms).mean() if terms else None
