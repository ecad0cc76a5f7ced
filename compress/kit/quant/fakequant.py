"""A planned graph that trains: weights, biases and maps are rounded as in the deployed file, gradients pass.

What stands here in floats is what ONNX Runtime computes in integers: sums of products of grid values, rounded to the
next grid. Both agree but where a float32 sum lies within its own error of the middle between two values of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compress.kit.quant.insert import output_axis, stored_form
from compress.kit.quant.latent import with_latent_weights
from compress.kit.quant.plan import INTEGER, Grid, Plan
from compress.kit.quant.policy import rounded_for_all
from compress.kit.quant.prepare import WEIGHTED
from compress.kit.quant.torchgraph import TorchGraph
from compress.kit.quant.weights import Halves

_LARGEST = 2**31 - 1  # of a bias
_FOLLOW = 0.1  # share of a batch's own range in the moving one: Jacob et al. 2018, section 3.1, count on many batches


class Rounding(torch.autograd.Function):
    """Round a map to its grid; the gradient passes where the grid reaches (Bengio et al. 2013, section 4)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: int) -> Tensor:
        """x: any shape; scale: no side, float32; zero: the integer that stands for 0."""
        steps = torch.round(x / scale)  # half to even, as QuantizeLinear
        ctx.save_for_backward((steps >= -zero) & (steps <= 255 - zero))
        return steps.clamp_(-zero, 255 - zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Let the gradient through where nothing was cut off."""
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None


def round_map(x: Tensor, grid: Grid) -> Tensor:
    """Round a map to its grid as QuantizeLinear and DequantizeLinear do."""
    # a tensor, not a number: torch divides by a number on a card by multiplying with its inverse
    scale = torch.tensor(np.float32(grid.scale), device=x.device)
    rounded: Tensor = Rounding.apply(x, scale, grid.zero)  # type: ignore[no-untyped-call]
    return rounded


def through(x: Tensor, rounded: Tensor) -> Tensor:
    """Return ``rounded`` with the gradient of ``x``."""
    return rounded.detach() + (x - x.detach())


def round_channels(weight: Tensor, axis: int, least: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Do what ``weights.quantize_channels`` does, bit for bit: rounded weights, and their scales (O,)."""
    axis %= weight.ndim
    others = [other for other in range(weight.ndim) if other != axis]
    weight = weight.detach()
    largest = weight.abs().amax(others, keepdim=True)
    one = torch.ones((), device=weight.device)
    scale = torch.where(largest > 0, largest / (127 * one), one)
    if least is not None:
        scale = torch.maximum(scale, least.reshape(scale.shape))
    return torch.round(weight / scale).clamp_(-127, 127).mul_(scale), scale.flatten()


class FakeQuant(nn.Module):
    """A prepared graph that computes, and learns, as ``insert`` will deploy it.

    At every pass weights are rounded with the scales that they have now, biases to steps of both scales, and maps to
    their grids. For the first ``warmup`` training passes the grids follow the range of the maps; tensors that share a
    grid in the plan go on sharing it. Weights that somebody rounded beforehand (``plan.rounded``) start where plain
    rounding makes the same of them (``with_latent_weights``), and are rounded anew as they move.

    Args:
        prepared: The float graph (``prepare_graph``); it stays as it is.
        plan: How it is quantized.
        warmup: Training passes during which the grids follow.
    """

    def __init__(self, prepared: onnx.ModelProto, plan: Plan, *, warmup: int = 0) -> None:
        super().__init__()
        self.net = TorchGraph(with_latent_weights(prepared, plan) if plan.rounded else prepared)
        self.warmup = warmup
        self._plan = replace(plan, rounded={})
        self._whole = rounded_for_all(self.net.model, plan)
        grids = list(dict.fromkeys(plan.maps.values()))
        self._group = {name: grids.index(grid) for name, grid in plan.maps.items()}
        self._grids = grids
        self.ranges: Tensor
        self.passes: Tensor
        self.register_buffer(
            "ranges", torch.tensor([(g.low, g.high) for g in grids], dtype=torch.float64).reshape(-1, 2)
        )
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self._seen: dict[int, Tensor] | None = None

    def forward(self, image: Tensor, names: Sequence[str] = ()) -> Any:
        """Map an image (N, C, H, W) to the shipped picture, or to the tensors of ``names`` as a tuple."""
        wanted = tuple(names) or self.net.outputs[:1]
        follow = self.training and int(self.passes) < self.warmup
        self._seen = {} if follow else None
        self._grids = [Grid.over(*pair) for pair in self.ranges.tolist()]
        found = self.net.run({self.net.input: image}, wanted, read=self._read, wrote=self._wrote)
        if follow:
            self._follow()
        if self.training:
            self.passes += 1
        return tuple(found[name] for name in wanted) if names else found[wanted[0]]

    def plan(self) -> Plan:
        """The plan with the grids as they are now."""
        pairs = self.ranges.tolist()
        return replace(self._plan, maps={name: Grid.over(*pairs[group]) for name, group in self._group.items()})

    def graph(self) -> onnx.ModelProto:
        """The prepared graph with the weights as they are now: ``insert(fake.graph(), fake.plan())`` ships."""
        return self.net.write_back()

    def _wrote(self, name: str, value: Tensor) -> Tensor:
        if name not in self._group:
            return value
        if self._seen is not None:
            self._look(self._group[name], value.detach())
        return self._rounded(name, value) if name in self._whole else value

    def _read(self, node: onnx.NodeProto, inputs: list[Tensor | None]) -> Sequence[Tensor | None]:
        form = self._plan.layers[node.name].form
        rounds = form in INTEGER or (self._plan.shared and node.op_type != "Identity")
        for index, (name, value) in enumerate(zip(node.input, inputs, strict=True)):
            if rounds and value is not None and name in self._group and name not in self._whole:
                inputs[index] = self._rounded(name, value)
        if form != "float32" and node.op_type in WEIGHTED and self.net.is_stored(node.input[1]):
            self._round_weights(node, inputs)
        return inputs

    def _rounded(self, name: str, value: Tensor) -> Tensor:
        return round_map(value, self._grids[self._group[name]])

    def _round_weights(self, node: onnx.NodeProto, inputs: list[Tensor | None]) -> None:
        weight, bias = inputs[1], inputs[2] if len(inputs) > 2 else None
        assert weight is not None
        form, group = self._plan.layers[node.name].form, self._group.get(node.input[0])
        step = None
        if bias is not None and form in INTEGER and group is not None and self.net.is_stored(node.input[2]):
            step = self._grids[group].scale
        least = None if step is None or bias is None else bias.detach().abs() / np.float32(step * _LARGEST).item()
        rounded, scales = self._store(node, weight, least)
        inputs[1] = through(weight, rounded)
        if bias is not None and step is not None and scales is not None:
            inputs[2] = through(bias, _round_bias(bias.detach(), np.float32(step).item() * scales))

    def _store(self, node: onnx.NodeProto, weight: Tensor, least: Tensor | None) -> tuple[Tensor, Tensor | None]:
        form = self._plan.layers[node.name].form
        if form in ("int8", "int8w") and not self._plan.safe_weights:
            return round_channels(weight, output_axis(node), least)
        floor = None if least is None else least.cpu().numpy()
        stored = stored_form(node, weight.detach().cpu().numpy(), self._plan, floor)
        scales = None if isinstance(stored, Halves) else torch.from_numpy(stored.scales).to(weight.device)
        return torch.from_numpy(np.ascontiguousarray(stored.values)).to(weight.device), scales

    def _look(self, group: int, value: Tensor) -> None:
        assert self._seen is not None
        low, high = torch.aminmax(value)
        pair = torch.stack([low, high]).double()
        if group in self._seen:
            pair = torch.stack(
                [torch.minimum(pair[0], self._seen[group][0]), torch.maximum(pair[1], self._seen[group][1])]
            )
        self._seen[group] = pair

    def _follow(self) -> None:
        """Move the ranges towards those of the last pass, never past 0, which every grid holds."""
        assert self._seen is not None
        for group, (low, high) in self._seen.items():
            pair = torch.stack([low.clamp(max=0), high.clamp(min=0)])
            self.ranges[group] += _FOLLOW * (pair - self.ranges[group])


def _round_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """Round a bias (O,) to whole steps of ``scale`` (O,) that 32 bits hold."""
    steps = torch.round(bias.double() / scale.double()).clamp(-_LARGEST, _LARGEST)
    return steps.float() * scale
