"""ONNX operators in torch: convolutions, pooling, norms and resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compress.kit.quant.torchops import Node, operator

Pads = list[tuple[int, int]]  # before and after, of each side
_CONV: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAXIMUM: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def _of_rank(node: Node, table: dict[int, Callable[..., Tensor]], sides: int) -> Callable[..., Tensor]:
    return table[sides] if sides in table else node.refuse(f"slides over {sides} sides, wanted 1 to 3")


def _window(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int], Pads]:
    """Return strides, dilations and the padding of a sliding window, whichever way the node tells it."""
    count = len(kernel)
    strides, dilations = list(node.get("strides", [1] * count)), list(node.get("dilations", [1] * count))
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        pads = [0] * 2 * count if auto == "VALID" else list(node.get("pads", [0] * 2 * count))
        return strides, dilations, list(zip(pads[:count], pads[count:], strict=True))
    lengths = node.value(0).shape[2:]
    found = []
    for length, size, step, spread in zip(lengths, kernel, strides, dilations, strict=True):
        total = max((-(-length // step) - 1) * step + (size - 1) * spread + 1 - length, 0)
        found.append(_halves(total, auto))
    return strides, dilations, found


def _halves(total: int, auto: str) -> tuple[int, int]:
    less, more = total // 2, total - total // 2
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def _padded(x: Tensor, pads: Pads, fill: float = 0.0) -> Tensor:
    """Pad the sides behind batch and channels; negative amounts crop."""
    if not any(map(any, pads)):
        return x
    return functional.pad(x, [each for pair in reversed(pads) for each in pair], value=fill)


@operator("Conv")
def conv(node: Node) -> Tensor:
    """Compute Conv; filter (O, I / groups, ...)."""
    x, weight = node.value(0), node.value(1)
    compute = _of_rank(node, _CONV, x.ndim - 2)
    strides, dilations, pads = _window(node, weight.shape[2:])
    even = all(before == after for before, after in pads)
    x = x if even else _padded(x, pads)
    padding = [before for before, _ in pads] if even else 0
    return compute(x, weight, node.value(2) if node.has(2) else None, strides, padding, dilations, node.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(node: Node) -> Tensor:
    """Compute ConvTranspose without padding, then crop; filter (I, O / groups, ...)."""
    x, weight = node.value(0), node.value(1)
    compute = _of_rank(node, _TRANSPOSED, x.ndim - 2)
    kernel = list(weight.shape[2:])
    strides, dilations = (list(node.get(name, [1] * len(kernel))) for name in ("strides", "dilations"))
    pads, extra = _transposed_pads(node, x.shape[2:], kernel, strides, dilations)
    bias = node.value(2) if node.has(2) else None
    groups = node.get("group", 1)
    if all(a == b >= 0 for a, b in pads) and all(more < step for more, step in zip(extra, strides, strict=True)):
        return compute(x, weight, bias, strides, [before for before, _ in pads], extra, groups, dilations)
    whole = compute(x, weight, None, strides, 0, 0, groups, dilations)
    cropped = _padded(whole, [(-before, more - after) for (before, after), more in zip(pads, extra, strict=True)])
    return cropped if bias is None else cropped + bias.reshape(-1, *[1] * len(kernel))


def _transposed_pads(
    node: Node, lengths: Sequence[int], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[Pads, list[int]]:
    """Return what is cropped before and after, and the output padding, of each side."""
    count = len(kernel)
    extra = list(node.get("output_padding", [0] * count))
    auto, asked = node.get("auto_pad", "NOTSET"), node.get("output_shape", None)
    if asked is None and auto in ("NOTSET", "VALID"):
        pads = [0] * 2 * count if auto == "VALID" else list(node.get("pads", [0] * 2 * count))
        return list(zip(pads[:count], pads[count:], strict=True)), extra
    wanted = [length * step for length, step in zip(lengths, strides, strict=True)] if asked is None else asked[-count:]
    full = [
        (length - 1) * step + more + (size - 1) * spread + 1
        for length, step, more, size, spread in zip(lengths, strides, extra, kernel, dilations, strict=True)
    ]
    return [_halves(max(a - b, 0), auto) for a, b in zip(full, wanted, strict=True)], extra


@operator("MaxPool", "AveragePool")
def pool(node: Node) -> Tensor:
    """Compute MaxPool and AveragePool; a last window that would begin in the padding after the image is left out."""
    x, kernel, largest = node.value(0), list(node.get("kernel_shape", [])), node.kind == "MaxPool"
    compute = _of_rank(node, _MAXIMUM if largest else _AVERAGE, len(kernel))
    strides, dilations, pads = _window(node, kernel)
    if node.outputs > 1 or (not largest and any(each != 1 for each in dilations)):
        node.refuse("gives the places of its maxima" if largest else "is dilated")
    ceil = bool(node.get("ceil_mode", 0))
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel, dilations, strict=True)]
    sides = zip(x.shape[2:], reach, strides, pads, strict=True)
    beyond = [(0, _overhang(length, far, step, *pad, ceil=ceil)) for length, far, step, pad in sides]
    if largest:
        low = torch.finfo(x.dtype).min if x.is_floating_point() else torch.iinfo(x.dtype).min
        return compute(_padded(_padded(x, pads, low), beyond, low), kernel, strides, 0, dilations)
    mean = compute(_padded(_padded(x, pads), beyond), kernel, strides)
    counted = bool(node.get("count_include_pad", 0))
    if any(map(any, beyond)) or (any(map(any, pads)) and not counted):
        share = _padded(_padded(torch.ones_like(x[:1, :1]), pads, float(counted)), beyond)
        mean = mean / compute(share, kernel, strides)
    return mean


def _overhang(length: int, reach: int, step: int, before: int, after: int, *, ceil: bool) -> int:
    """Return how far the last window reaches beyond the padded side; negative where rows are never looked at."""
    room = length + before + after - reach
    count = (-(-room // step) if ceil else room // step) + 1
    if ceil and (count - 1) * step >= length + before:
        count -= 1
    return (count - 1) * step - room


@operator("GlobalAveragePool", "GlobalMaxPool")
def whole(node: Node) -> Tensor:
    """Compute pooling over a whole map."""
    x, axes = node.value(0), list(range(2, node.value(0).ndim))
    return x.mean(axes, keepdim=True) if node.kind == "GlobalAveragePool" else x.amax(axes, keepdim=True)


@operator("BatchNormalization")
def batch_norm(node: Node) -> Tensor:
    """Compute BatchNormalization of a trained network."""
    if node.get("training_mode", 0) or node.outputs > 1:
        node.refuse("is in training mode")
    scale, bias, mean, variance = (node.value(index) for index in range(1, 5))
    return functional.batch_norm(node.value(0), mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def instance_norm(node: Node) -> Tensor:
    """Compute InstanceNormalization: each channel of each image over its places."""
    x, epsilon = node.value(0), node.get("epsilon", 1e-5)
    # by hand: torch's own refuses maps of one pixel
    variance, mean = torch.var_mean(x, list(range(2, x.ndim)), correction=0, keepdim=True)
    scale, bias = (node.value(index).reshape(-1, *[1] * (x.ndim - 2)) for index in (1, 2))
    return (x - mean) * torch.rsqrt(variance + epsilon) * scale + bias


@operator("GroupNormalization")
def group_norm(node: Node) -> Tensor:
    """Compute GroupNormalization; before opset 21 scale and bias are one number a group."""
    x, groups, epsilon = node.value(0), node.get("num_groups", 1), node.get("epsilon", 1e-5)
    scale, bias = (node.value(index).flatten() for index in (1, 2))
    if len(scale) != x.shape[1]:
        scale, bias = (numbers.repeat_interleave(x.shape[1] // groups) for numbers in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, epsilon)


@operator("LayerNormalization")
def layer_norm(node: Node) -> Tensor:
    """Compute LayerNormalization over an axis and all that follow."""
    if node.outputs > 1:
        node.refuse("gives its mean and deviation")
    x = node.value(0)
    sides = x.shape[node.get("axis", -1) % x.ndim :]
    scale, bias = (node.value(index).expand(sides) if node.has(index) else None for index in (1, 2))
    return functional.layer_norm(x, sides, scale, bias, node.get("epsilon", 1e-5))


@operator("LRN")
def local_response(node: Node) -> Tensor:
    """Compute LRN, a norm over neighbouring channels."""
    x, size = node.value(0), node.get("size", 5)
    squares = functional.pad((x * x).unsqueeze(1), (0, 0, 0, 0, (size - 1) // 2, size // 2))
    near = functional.avg_pool3d(squares, (size, 1, 1), stride=1).squeeze(1)
    divisor: Tensor = (node.get("bias", 1.0) + node.get("alpha", 1e-4) * near) ** node.get("beta", 0.75)
    return x / divisor


@operator("LpNormalization")
def lp_norm(node: Node) -> Tensor:
    """Compute LpNormalization with p 1 or 2."""
    x, axis = node.value(0), node.get("axis", -1)
    length: Tensor = torch.linalg.vector_norm(x, node.get("p", 2), axis, keepdim=True)
    return x / length
