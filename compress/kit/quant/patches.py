"""A layer as matrix products: what it reads at a few places of its output, one row a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.kit.quant.qdq import attribute, groups
from compress.kit.quant.scalable import weight_axes


@dataclass(frozen=True)
class Rows:
    """What a layer reads at places of its output (groups, places, K), and should write there (groups, places, O)."""

    inputs: Tensor
    targets: Tensor

    @classmethod
    def gathered(cls, parts: Sequence[Rows]) -> Rows:
        """All places of several."""
        return cls(torch.cat([part.inputs for part in parts], 1), torch.cat([part.targets for part in parts], 1))


def as_factors(node: onnx.NodeProto, values: NDArray[np.generic]) -> Tensor:
    """Bring a layer's weights, or anything shaped as they are, to (groups, O, K), K as in the rows."""
    view, _ = weight_axes(node, values)
    return torch.from_numpy(np.ascontiguousarray(view)).flatten(2)


def as_weights(node: onnx.NodeProto, factors: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo ``as_factors`` for weights of that shape."""
    view, order = weight_axes(node, np.zeros(shape, np.int8))
    return factors.reshape(view.shape).permute(*np.argsort(order).tolist()).reshape(shape).contiguous()


def has_rows(node: onnx.NodeProto, weight: Tensor) -> bool:
    """Whether ``sample`` knows a layer: two-dimensional convolutions with stated padding, plain matrix products."""
    named = {entry.name for entry in node.attribute}
    if node.op_type == "Gemm":
        factors = [entry.f for entry in node.attribute if entry.name in ("alpha", "beta")]
        return not attribute(node, "transA", 0) and all(factor == 1 for factor in factors)
    if node.op_type == "MatMul":
        return weight.ndim == 2
    padding = next((entry.s for entry in node.attribute if entry.name == "auto_pad"), b"NOTSET")
    return weight.ndim == 4 and padding == b"NOTSET" and "output_shape" not in named


def sample(
    node: onnx.NodeProto,
    weight: Tensor,
    image: Tensor,
    target: Tensor,
    count: int,
    rng: np.random.Generator,
) -> Rows:
    """Return at most ``count`` places of one map, drawn without repeats.

    Args:
        node: A layer that ``has_rows``.
        weight: Its weights.
        image: What it reads: (N, C, H, W), or (..., C) for a matrix product.
        target: What it should write there.
        count: Places to draw, of all images of the map together.
        rng: Draws them.
    """
    if node.op_type in ("Gemm", "MatMul"):
        inputs, targets = image.reshape(-1, image.shape[-1]), target.reshape(-1, target.shape[-1])
        chosen = _drawn(len(inputs), count, rng)
        return Rows(inputs[chosen][None], targets[chosen][None])
    number, _, height, width = target.shape
    chosen = _drawn(number * height * width, count, rng)
    picture, line, column = (torch.from_numpy(each) for each in np.unravel_index(chosen, (number, height, width)))
    lines, inside = _sources(node, weight, line, image.shape[2], 0)
    columns, within = _sources(node, weight, column, image.shape[3], 1)
    seen = image[picture[:, None, None], :, lines[:, :, None], columns[:, None, :]]  # (places, kh, kw, C)
    seen = seen * (inside[:, :, None] & within[:, None, :])[..., None]
    parts = groups(node)
    inputs = seen.permute(3, 0, 1, 2).reshape(parts, -1, len(chosen), weight[0, 0].numel())
    written = target[picture, :, line, column].reshape(len(chosen), parts, -1)
    return Rows(inputs.transpose(1, 2).flatten(2).contiguous(), written.transpose(0, 1).contiguous())


def _drawn(available: int, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return np.sort(rng.permutation(available)[:count])


def _sources(node: onnx.NodeProto, weight: Tensor, places: Tensor, side: int, axis: int) -> tuple[Tensor, Tensor]:
    """Where along one axis each tap reads for each place (places, taps), and whether there is a value."""
    stride, dilation, pad = (
        _along(node, name, default, axis) for name, default in (("strides", 1), ("dilations", 1), ("pads", 0))
    )
    taps = torch.arange(weight.shape[2 + axis]) * dilation
    if node.op_type == "ConvTranspose":
        spread = places[:, None] + pad - taps
        found, exists = spread // stride, spread % stride == 0
    else:
        found, exists = places[:, None] * stride - pad + taps, torch.tensor(True)
    return found.clamp(0, side - 1), exists & (found >= 0) & (found < side)


def _along(node: onnx.NodeProto, name: str, default: int, axis: int) -> int:
    return next((int(entry.ints[axis]) for entry in node.attribute if entry.name == name), default)
