"""Cut channels out of a network: which stay is chosen by importance, the rest follows what goes together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.core.errors import UsageError, did_you_mean
from compress.kit.graph import count_macs
from compress.kit.prune.importance import Importance, find_importance, has_scales
from compress.kit.prune.trace import Coupled, couple
from compress.kit.prune.widths import channels_of, sized, take

Kept = dict[str, list[int]]  # root of coupled channels -> those that stay, in order
Scope = Literal["global", "layer"]
LEAST = 0.25  # of the channels it would keep by itself, a layer keeps this share where layers are compared globally
_MOST = 0.99  # largest ratio that is tried for a share of MACs
_TRIES = 9  # halvings of the interval the ratio lies in


@dataclass(frozen=True)
class How:
    """How channels are chosen.

    Args:
        importance: A name, or a function of the network and coupled channels.
        scope: "layer" takes the same share of each, "global" the least worthy of all.
        round_to: Layers keep multiples of this.
        seed: Of --importance random.
    """

    importance: Importance | str = "l2"
    scope: Scope = "layer"
    round_to: int = 1
    seed: int = 0


def check_ratio(ratio: float, what: str = "ratio") -> None:
    """Raise UsageError unless ``ratio`` lies between 0 and 1, both excluded."""
    if not 0 < ratio < 1:
        raise UsageError(f"a {what} lies between 0 and 1, found {ratio:g}", hint=f"give --{what} 0.5")


def prune(
    module: nn.Module, example: Tensor, ratio: float, how: How, *, exclude: Sequence[str] = (),
    full: Mapping[str, int] | None = None,
) -> nn.Module:  # fmt: skip
    """Return a copy of ``module`` without the share ``ratio`` of its channels; see ``couple`` for what stays whole.

    Args:
        module: Its gradients count where the importance asks for them.
        example: Images (N, C, H, W) it runs on.
        ratio: Above 0, below 1.
        how: How channels are chosen.
        exclude: Paths of parts whose outputs keep their width.
        full: Channels that ``ratio`` is a share of, by root; those the module has, if None. See ``full_widths``.

    Raises:
        UsageError: If the ratio is none, an excluded path is no part, or nothing can be cut.
    """
    check_ratio(ratio)
    coupled = free(module, example, exclude)
    return cut(module, coupled, choose(module, coupled, ratio, how, full))


def full_widths(coupled: Sequence[Coupled]) -> dict[str, int]:
    """Channels by root: what the shares of several rounds refer to."""
    return {group.root: group.channels for group in coupled}


def free(module: nn.Module, example: Tensor, exclude: Sequence[str] = ()) -> list[Coupled]:
    """Return the coupled channels that may go.

    Raises:
        UsageError: If an excluded path is no part of the network, or nothing may go.
    """
    parts = dict(module.named_modules())
    for path in exclude:
        if path not in parts or not path:
            raise UsageError(f"--exclude '{path}' is no part of {type(module).__name__}{did_you_mean(path, parts)}",
                             hint=f"its parts: {', '.join(name for name, _ in module.named_children())}")  # fmt: skip
    found = couple(module, example, exclude)
    able = [group for group in found if not group.why and group.channels > 1]
    if not able:
        why = "; ".join(f"{group.root}: {group.why or 'one channel'}" for group in found[:5]) or "it has no layers"
        raise UsageError(f"nothing of {type(module).__name__} can be pruned ({why})", hint="exclude less")
    return able


def choose(
    module: nn.Module, coupled: Sequence[Coupled], ratio: float, how: How, full: Mapping[str, int] | None = None
) -> Kept:
    """Choose the channels that stay; see ``prune``.

    Raises:
        UsageError: If the importance asks for what the network has not: gradients, norms.
    """
    importance = find_importance(how.importance, seed=how.seed)
    if how.importance == "taylor" and all(parameter.grad is None for parameter in module.parameters()):
        raise UsageError("importance 'taylor' needs gradients", hint="run a backward pass first, or take l2")
    if how.importance == "bn" and not has_scales(module):
        raise UsageError(f"{type(module).__name__} has no norm with a scale", hint="take --importance l2")
    scores = {group.root: _even(group, importance(module, group)) for group in coupled}
    wide = {group.root: max((full or {}).get(group.root, 0), group.channels) for group in coupled}
    if how.scope == "global":
        counts = _least_worthy(coupled, scores, wide, ratio)
    else:
        counts = {root: count * (1 - ratio) for root, count in wide.items()}
    return {
        group.root: _best(group, scores[group.root], rounded(counts[group.root], group.channels, how.round_to,
                                                             group.groups))
        for group in coupled
    }  # fmt: skip


def rounded(wanted: float, channels: int, round_to: int, groups: int = 1) -> int:
    """Round a count of channels to the nearest multiple of both, up where two are as near; 1 multiple at least."""
    step = math.lcm(round_to, groups)
    # counts that are whole but for the rounding of 1 - ratio stay what they are
    count = max(step, step * math.floor(wanted / step + 0.5 + 1e-9))
    return min(count, channels)


def _even(group: Coupled, scores: Tensor) -> Tensor:
    """Where parts must shrink alike, a place is worth the sum over the parts."""
    if group.groups == 1:
        return scores
    return scores.view(group.groups, -1).sum(0).repeat(group.groups)


def _best(group: Coupled, scores: Tensor, count: int) -> list[int]:
    """The ``count`` channels of the highest scores, the first of equals, in their order; evenly over the parts."""
    parts = scores.view(group.groups, -1)
    each = parts.shape[1]
    order = torch.argsort(parts[0], descending=True, stable=True)[: count // group.groups]
    return sorted(part * each + int(place) for part in range(group.groups) for place in order)


def _least_worthy(
    coupled: Sequence[Coupled], scores: Mapping[str, Tensor], wide: Mapping[str, int], ratio: float
) -> dict[str, float]:
    """Counts that stay where the least worthy channels of all go; no layer is thinned beyond ``LEAST``."""
    floors = {group.root: max(1, math.ceil(LEAST * (1 - ratio) * wide[group.root])) for group in coupled}
    counts = {group.root: group.channels for group in coupled}
    excess = sum(counts.values()) - round(sum(wide.values()) * (1 - ratio))
    order = sorted((float(score), group.root) for group in coupled for score in scores[group.root])
    for _, root in order:
        if excess <= 0:
            break
        if counts[root] > floors[root]:
            counts[root] -= 1
            excess -= 1
    return {root: float(count) for root, count in counts.items()}


def cut(module: nn.Module, coupled: Sequence[Coupled], kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a copy of ``module`` that keeps only these channels of what goes together; gradients are left behind."""
    gone: dict[tuple[str, str], set[int]] = {}
    for group in coupled:
        stays = set(kept.get(group.root, range(group.channels)))
        for item in group.items:
            lost = {at for at, root in zip(item.index, item.root, strict=True) if root not in stays}
            gone.setdefault((item.path, item.side), set()).update(lost)
    thin = _bare_copy(module)
    for path in {path for path, _ in gone}:
        layer = thin.get_submodule(path)
        inputs = getattr(layer, "in_features", getattr(layer, "in_channels", 0))
        take(layer, _rest(channels_of(layer), gone.get((path, "out"))), _rest(inputs, gone.get((path, "in"))))
    return thin


def _bare_copy(module: nn.Module) -> nn.Module:
    grads = {parameter: parameter.grad for parameter in module.parameters()}
    try:
        module.zero_grad(set_to_none=True)
        return copy.deepcopy(module)
    finally:
        for parameter, grad in grads.items():
            parameter.grad = grad


def _rest(count: int, gone: set[int] | None) -> list[int] | None:
    return [at for at in range(count) if at not in gone] if gone else None


def ratio_for_macs(
    module: nn.Module, example: Tensor, macs: float, size: tuple[int, int], how: How, *, exclude: Sequence[str] = (),
    full: Mapping[str, int] | None = None,
) -> float:  # fmt: skip
    """Find the smallest ratio of channels that leaves at most so many MACs.

    Args:
        module: As in ``prune``, like ``example``, ``how``, ``exclude`` and ``full``.
        example: Images (N, C, H, W) it runs on.
        macs: Multiply-accumulates of one image that may remain.
        size: Height and width of that image.
        how: How channels are chosen.
        exclude: Paths of parts whose outputs keep their width.
        full: Channels that the ratio is a share of.

    Raises:
        UsageError: If what has to stay costs more.
    """
    coupled = free(module, example, exclude)

    def left(ratio: float) -> int:
        return count_macs(cut(module, coupled, choose(module, coupled, ratio, how, full)), size, example.shape[1])

    low, high, least = 0.0, _MOST, left(_MOST)
    if least > macs:
        raise UsageError(
            f"{macs:,.0f} MACs can't be: {least:,} remain of {count_macs(module, size, example.shape[1]):,} when all "
            "goes that may go",
            hint="raise --macs, lower --round-to or exclude less",
        )
    for _ in range(_TRIES):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) <= macs else (middle, high)
    return high


def prune_to(
    module: nn.Module,
    example: Tensor,
    keep: Mapping[str, int],
    importance: Callable[[nn.Module, Coupled], Tensor] | str = "l2",
) -> nn.Module:
    """Return a copy of ``module`` whose named layers keep that many output channels, the most important ones.

    What goes with them shrinks with them; everything else stays.

    Args:
        module: The network.
        example: Images (N, C, H, W) it runs on.
        keep: Path of a convolution or linear layer to the channels it keeps.
        importance: See ``find_importance``.

    Raises:
        UsageError: If a path is no layer whose channels may go, or a count is none or contradicts another.
    """
    coupled = couple(module, example)
    counts: dict[str, int] = {}
    for path, count in keep.items():
        group = _group_of(module, coupled, path)
        if not 1 <= count <= group.channels:
            raise UsageError(f"'{path}' has {group.channels} channels and can't keep {count}", hint="give 1 or more")
        if group.why and count < group.channels:
            raise UsageError(f"'{path}' has to stay as wide as it is: {group.why}", hint="leave it out")
        if counts.setdefault(group.root, count) != count:
            raise UsageError(f"'{path}' can't keep {count} channels: '{group.root}', which it goes with, "
                             f"keeps {counts[group.root]}", hint="give them one count")  # fmt: skip
        if count % group.groups:
            raise UsageError(f"'{path}' goes with {group.groups} groups and can't keep {count}", hint="give a multiple")
    return cut(module, coupled, choose_counts(module, coupled, counts, importance))


def choose_counts(
    module: nn.Module, coupled: Sequence[Coupled], counts: Mapping[str, int], importance: Importance | str
) -> Kept:
    """Choose the channels that stay, so many by root; those that are not among ``counts`` are not cut."""
    score = find_importance(importance)
    chosen = [group for group in coupled if counts.get(group.root, group.channels) < group.channels]
    return {group.root: _best(group, _even(group, score(module, group)), counts[group.root]) for group in chosen}


def _group_of(module: nn.Module, coupled: Sequence[Coupled], path: str) -> Coupled:
    for group in coupled:
        if any(item.path == path and len(item.index) == group.channels == channels_of(module.get_submodule(path))
               for item in group.makers):  # fmt: skip
            return group
    layers = [name for name, part in module.named_modules() if sized(part)]
    if path in layers:
        raise UsageError(f"'{path}' is made of several layers' channels side by side", hint="name those layers")
    raise UsageError(f"{type(module).__name__} has no layer '{path}'{did_you_mean(path, layers)}",
                     hint="name a convolution or a linear layer")  # fmt: skip
