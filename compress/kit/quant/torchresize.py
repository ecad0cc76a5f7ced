"""ONNX Resize in torch: torch's own where it means the same, by gathering rows and columns where it doesn't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from compress.kit.quant.torchops import Node, operator

Taps = Callable[[Tensor], list[tuple[int, Tensor]]]


@dataclass(frozen=True)
class _Axis:
    """One side to resize: its length before and after, and the scale ONNX computes places with."""

    number: int
    before: int
    after: int
    scale: float

    @property
    def exact(self) -> bool:
        """Whether the scale is just after / before, as torch takes it to be."""
        return self.before * self.scale == self.after


@operator("Resize", "Upsample")
def resize(node: Node) -> Tensor:
    """Compute Resize (and Upsample, its name before opset 10)."""
    x, mode = node.value(0), node.get("mode", "nearest")
    where = node.get("coordinate_transformation_mode", "asymmetric" if node.opset < 11 else "half_pixel")
    _refuse_strange(node, where)
    axes = _axes(node, x)
    rounding = node.get("nearest_mode", "floor" if node.opset < 11 else "round_prefer_floor")
    if x.ndim == 4 and [axis.number for axis in axes] == [2, 3]:
        native = _native(mode, where, rounding, axes)
        if native is not None:
            corners = where == "align_corners" if native == "bilinear" else None
            return functional.interpolate(x, [axis.after for axis in axes], mode=native, align_corners=corners)
    for axis in axes:
        place = _places(axis, where).to(x.device)
        if mode == "nearest":
            x = x.index_select(axis.number, _clamped(_rounded(place, rounding), axis))
        else:
            x = _blended(x, place, axis, _taps(node, mode))
    return x


def _refuse_strange(node: Node, where: str) -> None:
    if node.get("antialias", 0):
        node.refuse("is antialiased")
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch" or node.get("exclude_outside", 0):
        node.refuse("keeps the aspect ratio or leaves out what lies outside")
    if where not in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        node.refuse(f"places its pixels by '{where}'")


def _axes(node: Node, x: Tensor) -> list[_Axis]:
    """Read sizes or scales of the sides that change."""
    numbers = [axis % x.ndim for axis in node.get("axes", range(x.ndim))]
    if node.has(3) and node.value(3).numel():
        wanted = [int(each) for each in node.value(3).tolist()]
        scales = [after / x.shape[number] for number, after in zip(numbers, wanted, strict=True)]
    else:
        stored = node.get("scales", None)
        scales = [float(s) for s in (node.value(1 if node.opset < 11 else 2).tolist() if stored is None else stored)]
        wanted = [int(x.shape[number] * scale) for number, scale in zip(numbers, scales, strict=True)]
    sides = zip(numbers, wanted, scales, strict=True)
    axes = [_Axis(number, x.shape[number], after, scale) for number, after, scale in sides]
    # both sides of an image where one changes: torch's own resizing takes them together
    return [axis for axis in axes if axis.number >= 2 or axis.scale != 1]


def _native(mode: str, where: str, rounding: str, axes: list[_Axis]) -> str | None:
    """Return torch's name for this resizing, None where it has none that computes the same."""
    exact = all(axis.exact for axis in axes)
    if mode == "linear":
        half = where == "half_pixel" or (where == "pytorch_half_pixel" and all(axis.after > 1 for axis in axes))
        return "bilinear" if where == "align_corners" or (half and exact) else None
    # growing by a whole factor repeats each pixel: the middle of a new one never lies on the border of two
    grown = exact and all(axis.scale == int(axis.scale) for axis in axes)
    if mode == "nearest" and grown:
        floor = where == "asymmetric" and rounding == "floor"
        return "nearest" if floor or (where == "half_pixel" and rounding.startswith("round")) else None
    return None


def _places(axis: _Axis, where: str) -> Tensor:
    """Where each row of the output lies among those of the input, in float32 as ONNX Runtime has it."""
    index = torch.arange(axis.after, dtype=torch.float32)
    scale = torch.tensor(axis.scale, dtype=torch.float32)
    if where == "align_corners":
        return index * (axis.before - 1) / max(axis.after - 1, 1)
    if where == "asymmetric":
        return index / scale
    if where == "pytorch_half_pixel" and axis.after <= 1:
        return torch.zeros(axis.after)
    return (index + 0.5) / scale - 0.5


def _rounded(place: Tensor, rounding: str) -> Tensor:
    if rounding == "round_prefer_floor":
        return torch.ceil(place - 0.5)
    if rounding == "round_prefer_ceil":
        return torch.floor(place + 0.5)
    return torch.floor(place) if rounding == "floor" else torch.ceil(place)


def _clamped(index: Tensor, axis: _Axis) -> Tensor:
    return index.clamp(0, axis.before - 1).long()


def _taps(node: Node, mode: str) -> Taps:
    """Return the weights of neighbours -1 .. 2 (cubic, Keys 1981) or 0 .. 1 (linear) by the fraction between two."""
    if mode == "linear":
        return lambda t: [(0, 1.0 - t), (1, t)]
    if mode != "cubic":
        node.refuse(f"interpolates by '{mode}'")
    a = float(node.get("cubic_coeff_a", -0.75))

    def near(t: Tensor) -> Tensor:
        return ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0

    def far(t: Tensor) -> Tensor:
        return ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a

    return lambda t: [(-1, far(t + 1.0)), (0, near(t)), (1, near(1.0 - t)), (2, far(2.0 - t))]


def _blended(x: Tensor, place: Tensor, axis: _Axis, taps: Taps) -> Tensor:
    first = torch.floor(place)
    shape = [-1] + [1] * (x.ndim - axis.number - 1)
    total = torch.zeros((), device=x.device)
    for offset, weight in taps(place - first):
        picked = x.index_select(axis.number, _clamped(first + offset, axis))
        total = total + picked * weight.reshape(shape)
    return total
