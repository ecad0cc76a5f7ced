"""Batch norms that were folded into their convolutions, given statistics again, so that training can start there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn


def folded_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    """Batch norms that change nothing in eval mode: what is left where a file had them folded."""
    norms = [part for part in module.modules() if type(part) is nn.BatchNorm2d and part.affine]
    return [norm for norm in norms if norm.running_mean is not None and _is_identity(norm)]


def _is_identity(norm: nn.BatchNorm2d) -> bool:
    mean, var = cast("Tensor", norm.running_mean), cast("Tensor", norm.running_var)
    return torch.equal(norm.bias, mean) and torch.equal(norm.weight, torch.sqrt(var + norm.eps))


def refit_norms(module: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give every folded norm the mean and variance of what it sees; what the network does in eval mode stays.

    In train mode a folded norm would bring every map to mean 0 and variance 1, which the weights never saw: a
    published U²-NetP so started stood at a mean absolute error of .28 after 150 steps, from .04.

    Args:
        module: Changed in place, left in the mode it was in.
        batches: Images (N, C, H, W) like those of training.

    Returns:
        How many norms were given statistics.
    """
    norms = folded_norms(module)
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}
    handles = [norm.register_forward_pre_hook(partial(_add, sums[norm])) for norm in norms]
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            for images in batches:
                module(images)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes:
            part.training = mode
    return sum(_settle(norm, *sums[norm]) for norm in norms)


def _add(total: Tensor, _norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    values = inputs[0].double()
    total += torch.stack(
        [torch.full_like(total[0], values[:, 0].numel()), values.sum((0, 2, 3)), values.square().sum((0, 2, 3))]
    )


def _settle(norm: nn.BatchNorm2d, count: Tensor, total: Tensor, squares: Tensor) -> bool:
    if not bool((count > 1).all()):
        return False
    mean = total / count
    var = (squares / count - mean.square()).clamp(min=0)
    with torch.no_grad():
        cast("Tensor", norm.running_mean).copy_(mean)
        cast("Tensor", norm.running_var).copy_(var)
        norm.bias.copy_(cast("Tensor", norm.running_mean))
        norm.weight.copy_(torch.sqrt(cast("Tensor", norm.running_var) + norm.eps))
    return True
