"""What a channel is worth: the size of weights that go with it, what they do to the loss, the scale of its norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from compress.core.errors import unknown
from compress.kit.prune.trace import Coupled, Item
from compress.kit.prune.widths import NORMS, output_axis, per_channel

Name = Literal["l1", "l2", "taylor", "bn", "random"]
Importance = Callable[[nn.Module, Coupled], Tensor]  # scores (channels,), the higher the dearer


def find_importance(importance: Importance | str, *, seed: int = 0) -> Importance:
    """Return the function of that name, or the one given.

    l1, l2: sum of absolute or squared weights of each layer that goes with a channel, mean over these layers (Li et
    al. 2017; over coupled layers: Fang et al. 2023, section 3.3). taylor: the same of weight times gradient (Molchanov
    et al. 2019); a backward pass has been done. bn: absolute scale of its norms (Liu et al. 2017), l2 where it has
    none. random: drawn by seed, what the others must beat. Each is divided by its mean over the channels that are
    compared, so that those of different layers can be.

    Raises:
        UsageError: If there is none of that name.
    """
    if callable(importance):
        return importance
    known: dict[str, Importance] = {
        "l1": partial(_weighed, of=_first),
        "l2": partial(_weighed, of=_second),
        "taylor": partial(_weighed, of=_taylor),
        "bn": _scales,
        "random": partial(_drawn, seed=seed),
    }
    if importance not in known:
        raise unknown("importance", importance, list(known))
    return known[importance]


def _weighed(module: nn.Module, coupled: Coupled, of: Callable[[nn.Parameter], Tensor]) -> Tensor:
    scores = []
    for item in coupled.items:
        layer = module.get_submodule(item.path)
        weight = getattr(layer, "weight", None)
        if weight is not None:
            scores.append(_onto_root(coupled, item, _per_channel(layer, item, of(weight).detach())))
    return _relative(torch.stack(scores).mean(0))


def _per_channel(layer: nn.Module, item: Item, values: Tensor) -> Tensor:
    """Sum values, shaped like the layer's weight, over all but its outputs or inputs: (width,)."""
    if per_channel(layer):
        return values.flatten(1).sum(1) if values.ndim > 1 else values
    axis = output_axis(layer) if item.side == "out" else 1 - output_axis(layer)
    sums = values.transpose(0, axis).flatten(1).sum(1)
    groups: int = getattr(layer, "groups", 1)
    # an axis that holds the channels of one group stands for those at its places in every group
    whole = axis == 0
    return sums if groups == 1 or whole else sums.repeat(groups)


def _onto_root(coupled: Coupled, item: Item, widths: Tensor) -> Tensor:
    """Add what a layer's channels are worth to the channels of the root they go with."""
    total = torch.zeros(coupled.channels, dtype=torch.float64, device=widths.device)
    return total.index_add_(0, torch.tensor(item.root, device=widths.device),
                            widths[torch.tensor(item.index, device=widths.device)].double())  # fmt: skip


def _first(weight: nn.Parameter) -> Tensor:
    return weight.abs()


def _second(weight: nn.Parameter) -> Tensor:
    return weight.square()


def _taylor(weight: nn.Parameter) -> Tensor:
    # a layer that the loss does not reach may change as it likes
    return torch.zeros_like(weight) if weight.grad is None else (weight * weight.grad).abs()


def _scales(module: nn.Module, coupled: Coupled) -> Tensor:
    found = list(_norms(module, coupled))
    if not found:
        return _weighed(module, coupled, _second)
    return _relative(torch.stack([_onto_root(coupled, item, scale.detach().abs()) for item, scale in found]).mean(0))


def _norms(module: nn.Module, coupled: Coupled) -> Iterator[tuple[Item, Tensor]]:
    for item in coupled.items:
        layer = module.get_submodule(item.path)
        if isinstance(layer, NORMS) and layer.weight is not None:
            yield item, layer.weight


def has_scales(module: nn.Module) -> bool:
    """Whether any norm of a network has a learned scale."""
    return any(isinstance(part, NORMS) and part.weight is not None for part in module.modules())


def _drawn(module: nn.Module, coupled: Coupled, seed: int) -> Tensor:  # noqa: ARG001
    generator = torch.Generator().manual_seed(seed + sum(coupled.root.encode()) * 7919)
    return torch.rand(coupled.channels, generator=generator, dtype=torch.float64)


def _relative(scores: Tensor) -> Tensor:
    mean = scores.mean()
    return scores / mean if mean > 0 else scores
