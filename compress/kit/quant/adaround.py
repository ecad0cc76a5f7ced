"""Learned rounding: a weight goes up or down as its layer's output wants it, not to the nearest step.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", sections 3.3 to 3.5.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from compress.kit.quant.problem import Problem

_STRETCH, _SHIFT = 1.2, -0.1  # of the sigmoid, so that it reaches 0 and 1 (zeta - gamma, gamma)
_WARM = 0.2  # of the steps nothing pulls weights to either side
_HARD, _SOFT = 20.0, 2.0  # exponent of the pull when it sets in and at the end
_PULL = 1.0  # weight of the pull against the error, both about one for each weight
_RATE = 0.02  # of Adam
_BATCH = 512  # places a step looks at
_ON_GRID = 1e-4  # steps a weight may be off and still count as on its step


@torch.no_grad()
def learn(problem: Problem, steps: int, rng: np.random.Generator) -> Tensor:
    """Return the whole numbers of steps that were learned, or plain rounding if its error is no larger.

    Weights that lie on a step stay there.
    """
    nearest = problem.nearest
    exact = (problem.weight / problem.steps).clamp(-problem.limit, problem.limit)
    settled = (exact - nearest).abs() < _ON_GRID
    floor = torch.where(settled, nearest, exact.floor())
    least = problem.error(nearest)
    if least == 0 or bool(settled.all()):
        return nearest
    up = _optimise(problem, floor, (exact - floor).clamp(0, 1), settled, least, steps, rng)
    learned = floor + up
    return learned if problem.error(learned) < least else nearest


def _optimise(
    problem: Problem, floor: Tensor, share: Tensor, settled: Tensor, scale: float, steps: int, rng: np.random.Generator
) -> Tensor:
    """Return 1 where a weight goes up from ``floor``, 0 where it stays."""
    value = torch.logit(((share - _SHIFT) / _STRETCH).clamp(0.01, 0.99))
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    places = problem.rows.inputs.shape[1]
    # the error counts once for each weight: so a weight's part in it is about as large as its pull
    factor = 2 * value.numel() / scale / problem.bias.numel()
    for step in range(1, steps + 1):
        batch: Tensor | slice = slice(None)
        if places > _BATCH:
            batch = torch.from_numpy(rng.choice(places, _BATCH, replace=False))
        sigmoid = value.sigmoid()
        stretched = sigmoid * _STRETCH + _SHIFT
        height = stretched.clamp(0, 1)
        residual, slopes = problem.residual((floor + height) * problem.steps, batch)
        found = (residual * slopes).transpose(1, 2) @ problem.rows.inputs[:, batch]
        gradient = found.mul_(problem.steps).mul_(factor / residual.shape[1])
        done = step / steps
        if done > _WARM:
            exponent = _HARD + (_SOFT - _HARD) * (done - _WARM) / (1 - _WARM)
            side = 2 * height - 1
            gradient -= _PULL * 2 * exponent * side.sign() * side.abs().pow(exponent - 1)
        gradient *= _STRETCH * sigmoid * (1 - sigmoid)
        gradient[(stretched < 0) | (stretched > 1) | settled] = 0
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        value -= _RATE * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return ((value.sigmoid() * _STRETCH + _SHIFT >= 0.5) & ~settled).to(value.dtype)
