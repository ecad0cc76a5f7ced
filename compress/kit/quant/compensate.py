"""Rounding weight by weight, the weights still to be rounded taking over what each one's rounding spoils.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", section 3.
Here the weights aim at the float graph's outputs from what the quantized
graph reads (Nagel et al. 2020, "Up or Down?", section 3.5), so errors of the layers before are made up for too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.kit.quant.problem import Problem

_RIDGE = 0.1  # of the inputs' mean square: what keeps weights near their own values while they make up for others
_DAMPING = 0.01  # of the same, where the error of one weight is spread over the rest
_PART = 1024  # weights of a channel that are rounded before the rest is fitted anew
_BLOCK = 64  # of these, how many are finished before the others hear of it


@torch.no_grad()
def compensate(problem: Problem) -> Tensor:
    """Return whole numbers of steps for the weights, or plain rounding if its error is no larger."""
    nearest = problem.nearest
    least = problem.error(nearest)
    if least == 0:
        return nearest
    found = torch.stack([_group(problem, group) for group in range(len(nearest))]).to(nearest.dtype)
    return found if problem.error(found) < least else nearest


def _group(problem: Problem, group: int) -> Tensor:
    inputs, weight, steps = (each[group].double() for each in (problem.rows.inputs, problem.weight, problem.steps))
    bias, targets = problem.bias[group].double(), problem.rows.targets[group].double()
    # inputs that are large matter most: they go first, while all others can still make up for them
    order = inputs.square().sum(0).argsort(descending=True, stable=True)
    inputs, weight, steps = inputs[:, order], weight[:, order].clone(), steps[:, order]
    whole = torch.zeros_like(weight)
    for start in range(0, len(order), _PART):
        stop = min(start + _PART, len(order))
        wrong = _wanted(inputs @ weight.T + bias, targets, problem.slope)
        weight[:, start:] += _ridge(inputs[:, start:], wrong).T
        part = slice(start, stop)
        whole[:, part] = _round(inputs[:, part], weight[:, part], steps[:, part], problem.limit)
        weight[:, part] = whole[:, part] * steps[:, part]
    return whole[:, order.argsort()]


def _wanted(outputs: Tensor, targets: Tensor, slope: float) -> Tensor:
    """What is missing in outputs (places, O); where a ReLU flattens both sides it counts as much less."""
    flat = (outputs < 0) & (targets < 0)
    return (targets - outputs) * torch.where(flat, slope, 1.0)


def _ridge(inputs: Tensor, wanted: Tensor) -> Tensor:
    """Return the change of the weights (K, O) that brings outputs by ``wanted`` (places, O), kept small."""
    places, count = inputs.shape
    damping = _RIDGE * _mean_square(inputs) * places
    if count <= places:
        return _solved(inputs.T @ inputs + damping * _eye(count), inputs.T @ wanted)
    # the same by way of the smaller matrix
    return inputs.T @ _solved(inputs @ inputs.T + damping * _eye(places), wanted)


def _solved(matrix: Tensor, wanted: Tensor) -> Tensor:
    return torch.cholesky_solve(wanted, torch.linalg.cholesky(matrix))


def _round(inputs: Tensor, weight: Tensor, steps: Tensor, limit: int) -> Tensor:
    """Return whole numbers of steps (O, K); the error of each is spread over those after it by the inputs' products."""
    weight = weight.clone()
    products = inputs.T @ inputs / len(inputs) + _DAMPING * _mean_square(inputs) * _eye(weight.shape[1])
    # products = upper @ upper.T, so the inverse is spread.T @ spread with spread upper triangular
    upper = torch.linalg.cholesky(products.flip(0, 1)).flip(0, 1)
    spread = torch.linalg.solve_triangular(upper, _eye(len(upper)), upper=True)
    whole = torch.empty_like(weight)
    for start in range(0, weight.shape[1], _BLOCK):
        stop = min(start + _BLOCK, weight.shape[1])
        errors = torch.empty(len(weight), stop - start, dtype=weight.dtype)
        for k in range(start, stop):
            whole[:, k] = (weight[:, k] / steps[:, k]).round().clamp(-limit, limit)
            errors[:, k - start] = (weight[:, k] - whole[:, k] * steps[:, k]) / spread[k, k]
            weight[:, k:stop] -= errors[:, k - start, None] * spread[k, k:stop]
        weight[:, stop:] -= errors @ spread[start:stop, stop:]
    return whole


def _mean_square(inputs: Tensor) -> float:
    # inputs that are zero everywhere leave nothing to divide by
    return max(float(inputs.square().mean()), torch.finfo(torch.float32).tiny)


def _eye(count: int) -> Tensor:
    return torch.eye(count, dtype=torch.float64)
