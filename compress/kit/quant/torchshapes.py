"""ONNX operators in torch: shapes, and operators that pick, join and move parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compress.kit.quant.torchops import Node, operator


@operator("Constant")
def constant(node: Node) -> Tensor:
    """Compute Constant."""
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            found = node.attributes[name]
            kind = torch.float32 if "float" in name else torch.int64
            return found if isinstance(found, Tensor) else torch.tensor(found, dtype=kind)
    return node.refuse("holds no numbers")


@operator("Shape")
def shape(node: Node) -> Tensor:
    """Compute Shape, on the CPU."""
    return torch.tensor(list(node.value(0).shape)[node.get("start", 0) : node.get("end", None)], dtype=torch.int64)


@operator("Size")
def size(node: Node) -> Tensor:
    """Compute Size, on the CPU."""
    return torch.tensor(node.value(0).numel(), dtype=torch.int64)


def _asked(node: Node, index: int) -> list[int]:
    return [int(number) for number in node.value(index).flatten().tolist()]


@operator("ConstantOfShape")
def constant_of_shape(node: Node) -> Tensor:
    """Compute ConstantOfShape."""
    fill = node.get("value", torch.zeros(1))
    return torch.full(_asked(node, 0), fill.item(), dtype=fill.dtype)


@operator("Range")
def range_(node: Node) -> Tensor:
    """Compute Range."""
    start, stop, step = (node.value(index).item() for index in range(3))
    count = max(math.ceil((stop - start) / step), 0)
    return torch.arange(count, dtype=node.value(0).dtype) * step + start


@operator("Reshape")
def reshape(node: Node) -> Tensor:
    """Compute Reshape: 0 keeps a side, -1 takes what is left."""
    x, asked = node.value(0), node.get("shape", None) or _asked(node, 1)
    keep = not node.get("allowzero", 0)
    return x.reshape([x.shape[axis] if keep and each == 0 else each for axis, each in enumerate(asked)])


@operator("Flatten")
def flatten(node: Node) -> Tensor:
    """Compute Flatten to two sides."""
    x, axis = node.value(0), node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(node: Node) -> Tensor:
    """Compute Squeeze."""
    x, axes = node.value(0), node.numbers("axes", 1)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze")
def unsqueeze(node: Node) -> Tensor:
    """Compute Unsqueeze; its axes are those of the result."""
    x, axes = node.value(0), node.numbers("axes", 1) or []
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(node: Node) -> Tensor:
    """Compute Transpose."""
    x = node.value(0)
    return x.permute(list(node.get("perm", range(x.ndim)[::-1])))


@operator("Expand")
def expand(node: Node) -> Tensor:
    """Compute Expand: each side becomes the larger of what it is and what is asked."""
    x = node.value(0)
    asked = _asked(node, 1)
    own = [1] * (len(asked) - x.ndim) + list(x.shape)
    asked = [1] * (len(own) - len(asked)) + asked
    return x.expand([max(a, b) if 0 not in (a, b) else 0 for a, b in zip(own, asked, strict=True)])


@operator("Tile")
def tile(node: Node) -> Tensor:
    """Compute Tile."""
    return node.value(0).repeat(_asked(node, 1))


@operator("Concat")
def concat(node: Node) -> Tensor:
    """Compute Concat."""
    return torch.cat(node.together(), node.get("axis", 0))


@operator("Split")
def split(node: Node) -> Sequence[Tensor]:
    """Compute Split into given or equal parts, the last one smaller where they don't divide."""
    x, axis, lengths = node.value(0), node.get("axis", 0), node.numbers("split", 1)
    each = -(-x.shape[axis] // node.get("num_outputs", node.outputs))
    return torch.split(x, each if lengths is None else lengths, axis)


@operator("Slice")
def slice_(node: Node) -> Tensor:
    """Compute Slice: attributes before opset 10, inputs since."""
    x = node.value(0)
    starts, ends = (list(node.get(name, [])) or _asked(node, index) for index, name in ((1, "starts"), (2, "ends")))
    axes = node.numbers("axes", 3) or list(range(len(starts)))
    steps = _asked(node, 4) if node.has(4) else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        kept = range(*slice(start, end, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, kept.start if kept else 0, len(kept))
        else:
            x = x.index_select(axis, torch.tensor(list(kept), dtype=torch.int64, device=x.device))
    return x


@operator("Gather")
def gather(node: Node) -> Tensor:
    """Compute Gather; an index below zero counts from the end."""
    x, index = node.value(0), node.value(1).to(node.value(0).device, torch.int64)
    axis = node.get("axis", 0) % x.ndim
    picked = x.index_select(axis, torch.where(index < 0, index + x.shape[axis], index).flatten())
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(node: Node) -> Tensor:
    """Compute GatherElements."""
    x, index = node.together()
    axis = node.get("axis", 0)
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index).long())


@operator("Pad")
def pad(node: Node) -> Tensor:
    """Compute Pad with a constant, mirrored, with the edge or going round; negative padding crops."""
    x, mode = node.value(0), node.get("mode", "constant")
    amounts = list(node.get("pads", [])) or _asked(node, 1)
    axes = [axis % x.ndim for axis in (_asked(node, 3) if node.has(3) else range(x.ndim))]
    given = dict(zip(axes, zip(amounts[: len(axes)], amounts[len(axes) :], strict=True), strict=True))
    pads = [given.get(axis, (0, 0)) for axis in range(x.ndim)]
    if mode == "constant":
        fill = node.value(2).item() if node.has(2) else node.get("value", 0.0)
        return functional.pad(x, [each for pair in reversed(pads) for each in pair], value=fill)
    for axis, (before, after) in enumerate(pads):
        if before or after:
            places = torch.arange(-before, x.shape[axis] + after, device=x.device)
            x = x.index_select(axis, _inside(places, x.shape[axis], mode))
    return x


def _inside(places: Tensor, length: int, mode: str) -> Tensor:
    """Bring places beyond the ends of a side back into it."""
    if mode == "edge":
        return places.clamp(0, length - 1)
    if mode == "wrap":
        return places % length
    folded = places.abs() % max(2 * (length - 1), 1)  # a mirror at either end: a wave of that period
    return torch.where(folded >= length, 2 * (length - 1) - folded, folded)


@operator("DepthToSpace")
def depth_to_space(node: Node) -> Tensor:
    """Compute DepthToSpace in either order of channels."""
    x, block = node.value(0), node.get("blocksize", 1)
    if node.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(batch, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node) -> Tensor:
    """Compute SpaceToDepth."""
    x, block = node.value(0), node.get("blocksize", 1)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(batch, channels * block**2, height // block, width // block)
