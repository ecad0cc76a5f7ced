"""Widths of a network's layers: read off a module, put onto a freshly built one, refused where they can't be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from compress.core.errors import ArtifactError, did_you_mean
from compress.kit.graph import count_macs
from compress.kit.nets.pix2pixhd import InstanceNorm

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
NORMS = (nn.BatchNorm2d, nn.InstanceNorm2d, InstanceNorm)
_SIDE = 64  # pixels a side of an image that every network runs on
Widths = dict[str, list[int]]


def depthwise(layer: nn.Module) -> bool:
    """Whether each channel of a convolution is filtered alone."""
    return isinstance(layer, CONVOLUTIONS) and 1 < layer.groups == layer.in_channels == layer.out_channels


def output_axis(layer: nn.Module) -> int:
    """Axis of a weight that counts outputs: torch keeps those of a transposed convolution second."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) and not depthwise(layer) else 0


def per_channel(layer: nn.Module) -> bool:
    """Whether a layer holds numbers for each channel and maps each onto itself: norms, PReLU, depthwise."""
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters > 1
    return isinstance(layer, NORMS) or depthwise(layer)


def channels_of(layer: nn.Module) -> int:
    """Output channels of a layer that ``sized`` knows."""
    if isinstance(layer, InstanceNorm):
        return len(layer.bias)
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters
    return cast("int", layer.out_channels if isinstance(layer, CONVOLUTIONS) else layer.num_features)


def sized(layer: nn.Module) -> bool:
    """Whether a layer has a width that pruning changes."""
    return isinstance(layer, (*CONVOLUTIONS, nn.Linear)) or per_channel(layer)


def shape_of(layer: nn.Module) -> list[int]:
    """Shape of a layer's weight; [channels] of a norm, with or without one."""
    if isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        return list(layer.weight.shape)
    return [channels_of(layer)]


def widths_of(module: nn.Module) -> Widths:
    """Shape of the weight of every layer that has a width, by module path: what ``reshape`` needs."""
    return {path: shape_of(part) for path, part in module.named_modules() if sized(part)}


def take(layer: nn.Module, outputs: Sequence[int] | None, inputs: Sequence[int] | None) -> None:
    """Keep these channels of a layer, in place, in the order given; None keeps all.

    outputs: of a layer that maps channels onto themselves, its channels; inputs: ignored there. Those of a grouped
    convolution lie evenly over its groups, at the same places of each.
    """
    index = None if outputs is None else torch.as_tensor(list(outputs), dtype=torch.long)
    if per_channel(layer):
        for name in ("weight", "bias", "running_mean", "running_var"):
            _pick(layer, name, 0, index)
    else:
        _pick(layer, "weight", output_axis(layer), _inside(layer, index, side="out"))
        _pick(layer, "bias", 0, index)
        if inputs is not None:
            places = torch.as_tensor(list(inputs), dtype=torch.long)
            _pick(layer, "weight", 1 - output_axis(layer), _inside(layer, places, side="in"))
    _rename(layer, None if outputs is None else len(outputs), None if inputs is None else len(inputs))


def _inside(layer: nn.Module, index: Tensor | None, *, side: str) -> Tensor | None:
    """Places along the axis of a weight that holds the channels of one group only."""
    groups = getattr(layer, "groups", 1)
    if index is None or groups == 1:
        return index
    # of the two axes one runs over all channels, the other over those of one group
    whole = "in" if isinstance(layer, nn.ConvTranspose2d) else "out"
    return index if side == whole else index[: len(index) // groups]


def _pick(layer: nn.Module, name: str, axis: int, index: Tensor | None) -> None:
    tensor = getattr(layer, name, None)
    if index is None or tensor is None:
        return
    kept = tensor.detach().index_select(axis, index.to(tensor.device)).contiguous()
    if isinstance(tensor, nn.Parameter):
        kept = nn.Parameter(kept, requires_grad=tensor.requires_grad)
        if tensor.grad is not None:
            kept.grad = tensor.grad.index_select(axis, index.to(tensor.device))
    setattr(layer, name, kept)


def _rename(layer: Any, outputs: int | None, inputs: int | None) -> None:
    """Let a layer's attributes say how many channels it has."""
    if isinstance(layer, CONVOLUTIONS):
        alone = depthwise(layer)
        layer.out_channels = layer.out_channels if outputs is None else outputs
        if alone:
            layer.in_channels = layer.groups = layer.out_channels
        elif inputs is not None:
            layer.in_channels = inputs
    elif isinstance(layer, nn.Linear):
        layer.out_features = layer.out_features if outputs is None else outputs
        layer.in_features = layer.in_features if inputs is None else inputs
    elif outputs is not None and isinstance(layer, nn.PReLU):
        layer.num_parameters = outputs
    elif outputs is not None and not isinstance(layer, InstanceNorm):
        layer.num_features = outputs


def reshape(module: nn.Module, widths: Mapping[str, Any]) -> nn.Module:
    """Give a freshly built network the widths of a pruned one, in place; returns it.

    Its first channels stay: values are to be loaded over them. Nothing grows, so that no manifest makes it allocate.

    Raises:
        ArtifactError: If a path is no layer with a width, a shape has another rank or kernel or is none, is wider than
            the network or narrower than 1; every wrong one is named.
    """
    layers = {path: part for path, part in module.named_modules() if sized(part)}
    if not isinstance(cast("object", widths), Mapping):
        raise _refusal(module, [f"found {type(widths).__name__}, wanted shapes by path"])
    problems = [text for path, shape in widths.items() if (text := _problem(layers, path, shape))]
    if problems:
        raise _refusal(module, problems)
    for path, shape in widths.items():
        _shrink(layers[path], shape)
    return module


def check_runs(module: nn.Module, channels: int) -> None:
    """Run a pruned network on the shapes of a small image of so many channels; nothing is computed.

    Raises:
        ArtifactError: If its layers don't fit each other.
    """
    try:
        count_macs(module, (_SIDE, _SIDE), channels)
    except (RuntimeError, ValueError, IndexError) as error:
        raise _refusal(module, [f"layers don't fit each other: {str(error).splitlines()[0]}"]) from error


def _refusal(module: nn.Module, problems: Sequence[str]) -> ArtifactError:
    return ArtifactError(
        f"the manifest's widths don't fit {type(module).__name__}: {'; '.join(problems)}",
        hint="prune its parent again with `compress prune`",
    )


def _problem(layers: Mapping[str, nn.Module], path: str, shape: Any) -> str:
    """Say what is wrong with one entry, "" for nothing."""
    layer = layers.get(path)
    if layer is None:
        return f"no layer '{path}' with a width{did_you_mean(path, layers)}"
    full = shape_of(layer)
    if not isinstance(shape, list | tuple) or len(shape) != len(full) or any(type(count) is not int for count in shape):
        return f"'{path}' is {str(shape)[:80]}, wanted {len(full)} whole numbers"
    if any(not 1 <= count <= most for count, most in zip(shape, full, strict=True)):
        return f"'{path}' is {list(shape)}, wanted 1 to {full}"
    if list(shape[2:]) != full[2:]:
        return f"'{path}' has a kernel of {list(shape[2:])}, wanted {full[2:]}"
    groups = getattr(layer, "groups", 1)
    if groups > 1 and shape[0] % groups and not depthwise(layer):
        return f"'{path}' has {shape[0]} channels in {groups} groups"
    return ""


def _shrink(layer: nn.Module, shape: Sequence[int]) -> None:
    if per_channel(layer):
        take(layer, range(shape[0]), None)
        return
    axis, groups = output_axis(layer), getattr(layer, "groups", 1)
    outputs, inputs = shape[axis], shape[1 - axis]
    if groups > 1:  # the second axis counts the channels of one group
        outputs, inputs = (outputs, inputs * groups) if axis == 0 else (outputs * groups, inputs)
    take(layer, range(outputs), range(inputs))
