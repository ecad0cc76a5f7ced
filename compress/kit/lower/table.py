"""The table of operators: what a lowered value is, what an operator sees of its node, and how it enters the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ArtifactError

Constant = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A lowered tensor: a numpy array where it is known while lowering, a TensorFlow tensor where it is not.

    ``last`` tells that a four-sided feature map is held (N, H, W, C), though the ONNX graph means (N, C, H, W).
    """

    data: Any
    last: bool = False

    @property
    def known(self) -> bool:
        """Whether its numbers are known while lowering."""
        return isinstance(self.data, np.ndarray)

    @property
    def rank(self) -> int:
        """How many sides it has."""
        return int(self.data.ndim) if self.known else int(self.data.shape.rank)


@dataclass(frozen=True)
class Node:
    """A node of the graph with its inputs lowered; absent optional inputs are None."""

    kind: str
    name: str
    inputs: tuple[Value | None, ...]
    attributes: dict[str, Any]
    outputs: int  # how many of its outputs are named
    opset: int
    keep: Callable[[Constant], Any] = lambda numbers: numbers  # what stands for big weights in the graph

    def has(self, index: int) -> bool:
        """Whether the optional input ``index`` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Return an input that must be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        return self.refuse(f"has no input {index}") if found is None else found

    def constant(self, index: int) -> Constant:
        """Return the numbers of an input that must be known while lowering."""
        found = self.value(index)
        if not found.known:
            self.refuse(f"takes input {index} from the image; it must be a constant")
        numbers: Constant = found.data
        return numbers

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute, or ``default``."""
        return self.attributes.get(name, default)

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Return whole numbers that are an attribute in old operator sets and a constant input in new ones."""
        if name in self.attributes:
            return [int(number) for number in self.attributes[name]]
        return [int(number) for number in self.constant(index).ravel()] if self.has(index) else None

    def refuse(self, why: str) -> NoReturn:
        """Say that this node can't be lowered.

        Raises:
            ArtifactError: Always.
        """
        raise ArtifactError(f"{self.kind} node '{self.name}' {why}", hint="export the network without it")


Operator = Callable[[Node], Value | Sequence[Value]]
Lowering = TypeVar("Lowering", bound=Operator)
OPERATORS: dict[str, Operator] = {}


def operator(*kinds: str) -> Callable[[Lowering], Lowering]:
    """Put a function into the table under the ONNX operators it lowers."""

    def enter(function: Lowering) -> Lowering:
        for kind in kinds:
            assert kind not in OPERATORS, f"two functions lower {kind}"
            OPERATORS[kind] = function
        return function

    return enter


def values(node: Node) -> Iterator[Value]:
    """Every input of a node that takes any number of them."""
    for index in range(len(node.inputs)):
        yield node.value(index)
