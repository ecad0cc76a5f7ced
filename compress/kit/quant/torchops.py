"""ONNX operators in torch: the table, what an operator sees of its node, pointwise arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NoReturn

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from compress.core.errors import UsageError

# torch tensors by what ONNX calls their type; half precision is computed in float32, as ONNX Runtime does on a CPU
TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float32,
    TensorProto.BFLOAT16: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


@dataclass(frozen=True)
class Node:
    """A node with its inputs computed; absent optional inputs are None. Shapes are int64 tensors on the CPU."""

    kind: str
    name: str
    inputs: tuple[Tensor | None, ...]
    attributes: Mapping[str, Any]
    outputs: int  # how many of its outputs are named
    opset: int

    def has(self, index: int) -> bool:
        """Whether the optional input ``index`` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Tensor:
        """Return an input that must be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        return self.refuse(f"has no input {index}") if found is None else found

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute, or ``default``."""
        return self.attributes.get(name, default)

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Return whole numbers that are an attribute in old operator sets and an input in new ones."""
        if name in self.attributes:
            return [int(number) for number in self.attributes[name]]
        return [int(number) for number in self.value(index).flatten().tolist()] if self.has(index) else None

    def together(self) -> list[Tensor]:
        """Return all inputs on one device: a size computed on the CPU may meet a map on a card."""
        found = [self.value(index) for index in range(len(self.inputs))]
        device = next((value.device for value in found if value.device.type != "cpu"), None)
        return found if device is None else [value.to(device) for value in found]

    def refuse(self, why: str) -> NoReturn:
        """Say that this node can't be run in torch.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{self.kind} node '{self.name}' {why}", hint="export the network without it")


Operator = Callable[[Node], Tensor | Sequence[Tensor]]
OPERATORS: dict[str, Operator] = {}


def operator(*kinds: str) -> Callable[[Operator], Operator]:
    """Put a function into the table under the ONNX operators it computes."""

    def enter(function: Operator) -> Operator:
        for kind in kinds:
            assert kind not in OPERATORS, f"two functions compute {kind}"
            OPERATORS[kind] = function
        return function

    return enter


def as_tensor(array: Any) -> Tensor:
    """Copy a stored array into a tensor of the type that stands for its own."""
    found = np.array(array)
    if found.dtype.name in ("float16", "bfloat16"):
        found = found.astype(np.float32)
    return torch.from_numpy(found)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Whole numbers are cut towards zero."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


_PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Pow": lambda a, b: torch.pow(a, b).to(a.dtype),
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "PRelu": lambda a, slope: torch.where(a < 0, a * slope, a),
}
_SINGLES: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sign": torch.sign,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Erf": torch.erf,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
    "Identity": lambda x: x,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    # torch's own softplus becomes the identity beyond 20
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "Softsign": functional.softsign,
    "HardSwish": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    "Mish": functional.mish,
}


def _single(compute: Callable[[Tensor], Tensor], node: Node) -> Tensor:
    return compute(node.value(0))


def _pair(compute: Callable[[Tensor, Tensor], Tensor], node: Node) -> Tensor:
    return compute(*node.together())


OPERATORS.update({kind: partial(_pair, compute) for kind, compute in _PAIRS.items()})
OPERATORS.update({kind: partial(_single, compute) for kind, compute in _SINGLES.items()})


@operator("Mod")
def modulo(node: Node) -> Tensor:
    """Compute Mod: the sign of the divisor, or of the dividend with ``fmod``."""
    a, b = node.together()
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@operator("Max", "Min", "Sum", "Mean")
def several(node: Node) -> Tensor:
    """Compute the operators that join any number of inputs."""
    join = {"Max": torch.maximum, "Min": torch.minimum}.get(node.kind, torch.add)
    joined = reduce(join, node.together())
    return joined / len(node.inputs) if node.kind == "Mean" else joined


@operator("Where")
def where(node: Node) -> Tensor:
    """Compute Where."""
    condition, a, b = node.together()
    return torch.where(condition, a, b)


@operator("Clip")
def clip(node: Node) -> Tensor:
    """Compute Clip; either bound may be absent, an attribute or an input."""
    bounds = [node.value(at).item() if node.has(at) else node.get(name, None) for name, at in (("min", 1), ("max", 2))]
    return node.value(0) if bounds == [None, None] else torch.clamp(node.value(0), *bounds)


@operator("Cast")
def cast(node: Node) -> Tensor:
    """Compute Cast between the types of ``TYPES``."""
    kind = node.get("to", TensorProto.FLOAT)
    return node.value(0).to(TYPES[kind]) if kind in TYPES else node.refuse(f"asks for the element type {kind}")


@operator("CastLike")
def cast_like(node: Node) -> Tensor:
    """Compute CastLike."""
    return node.value(0).to(node.value(1).dtype)


@operator("Dropout")
def dropout(node: Node) -> Tensor:
    """Compute Dropout, which does nothing in a graph that ships."""
    if node.outputs > 1:
        node.refuse("gives its mask, which exists in training only")
    return node.value(0)


def _elu(x: Tensor, node: Node) -> Tensor:
    return functional.elu(x, node.get("alpha", 1.0))


def _selu(x: Tensor, node: Node) -> Tensor:
    raised = functional.elu(x, node.get("alpha", 1.67326319217681884765625))
    return raised * float(node.get("gamma", 1.05070102214813232421875))


_SET: dict[str, Callable[[Tensor, Node], Tensor]] = {
    "LeakyRelu": lambda x, node: functional.leaky_relu(x, node.get("alpha", 0.01)),
    "ThresholdedRelu": lambda x, node: torch.where(x > node.get("alpha", 1.0), x, 0),
    "Elu": _elu,
    "Celu": lambda x, node: functional.celu(x, node.get("alpha", 1.0)),
    "Selu": _selu,
    "HardSigmoid": lambda x, node: torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1),
    "Gelu": lambda x, node: functional.gelu(x, approximate=node.get("approximate", "none")),
}


@operator(*_SET)
def activation(node: Node) -> Tensor:
    """Compute the activations that have settings."""
    return _SET[node.kind](node.value(0), node)


@operator("Softmax", "LogSoftmax")
def softmax(node: Node) -> Tensor:
    """Compute Softmax and LogSoftmax over one axis, or before opset 13 over it and all that follow."""
    x = node.value(0)
    compute: Callable[[Tensor, int], Tensor] = torch.softmax if node.kind == "Softmax" else torch.log_softmax
    if node.opset >= 13:
        return compute(x, node.get("axis", -1))
    return compute(x.flatten(node.get("axis", 1) % x.ndim), -1).reshape(x.shape)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Read the attributes of a node: text as str, stored tensors as torch tensors."""
    return {each.name: _plain(onnx.helper.get_attribute_value(each)) for each in node.attribute}


def _plain(found: Any) -> Any:
    if isinstance(found, bytes):
        return found.decode()
    return as_tensor(onnx.numpy_helper.to_array(found)) if isinstance(found, onnx.TensorProto) else found
