"""ONNX operators in torch: reductions over axes, and products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from compress.kit.quant.torchops import OPERATORS, Node, operator


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": _sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: _sum(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt(_sum(x * x, axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: _sum(x * x, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: torch.log(_sum(x, axes, keep)),
    "ReduceLogSumExp": torch.logsumexp,
}


def _reduction(compute: Callable[[Tensor, list[int], bool], Tensor], node: Node) -> Tensor:
    x, axes = node.value(0), node.numbers("axes", 1)
    if not axes and node.get("noop_with_empty_axes", 0):
        return x
    return compute(x, [axis % x.ndim for axis in axes or range(x.ndim)], bool(node.get("keepdims", 1)))


OPERATORS.update({kind: partial(_reduction, compute) for kind, compute in _REDUCTIONS.items()})


@operator("ArgMax", "ArgMin")
def arg_extreme(node: Node) -> Tensor:
    """Compute ArgMax and ArgMin, the first of equals."""
    if node.get("select_last_index", 0):
        node.refuse("takes the last of equal values")
    find = torch.argmax if node.kind == "ArgMax" else torch.argmin
    return find(node.value(0), node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))


@operator("MatMul")
def matmul(node: Node) -> Tensor:
    """Compute MatMul, vectors on either side included."""
    return torch.matmul(*node.together())


@operator("Gemm")
def gemm(node: Node) -> Tensor:
    """Compute Gemm: alpha A B + beta C."""
    a, b = (node.value(i).mT if node.get(f"trans{'AB'[i]}", 0) else node.value(i) for i in (0, 1))
    product = torch.matmul(a, b)
    product = product if (alpha := node.get("alpha", 1.0)) == 1 else alpha * product
    if not node.has(2):
        return product
    return product + (node.value(2) if (beta := node.get("beta", 1.0)) == 1 else beta * node.value(2))
