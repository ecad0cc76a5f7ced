"""What rounding one layer's weights is for: the outputs it should write, given what it reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from compress.kit.quant.patches import Rows


@dataclass(frozen=True)
class Problem:
    """Weights (groups, O, K) to be rounded to whole numbers of ``steps``, -limit to limit, and what they are for.

    ``bias`` is (groups, 1, O). Outputs below zero are multiplied by ``slope``, those of the targets too.
    """

    rows: Rows
    weight: Tensor
    bias: Tensor
    steps: Tensor  # shaped as the weights
    limit: int
    slope: float = 1.0

    @property
    def nearest(self) -> Tensor:
        """Plain rounding."""
        return (self.weight / self.steps).clamp(-self.limit, self.limit).round()

    def error(self, whole: Tensor) -> float:
        """Mean square error of the outputs with these whole numbers of steps for weights."""
        return float(self.residual(whole * self.steps, slice(None))[0].double().square().mean())

    def residual(self, weight: Tensor, places: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Outputs minus targets (groups, places, O), and the slope at each of the outputs."""
        raw = torch.baddbmm(self.bias, self.rows.inputs[:, places], weight.transpose(1, 2))
        target = functional.leaky_relu(self.rows.targets[:, places], self.slope)
        slopes = torch.where(raw > 0, 1.0, self.slope)
        return raw * slopes - target, slopes
