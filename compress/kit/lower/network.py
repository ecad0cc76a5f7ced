"""Lower a whole ONNX graph: one TensorFlow function from an image (N, H, W, C) to a picture (N, H', W', C')."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from compress.core.errors import ArtifactError, CompressError

# each of them enters its operators into the table
from compress.kit.lower import (  # noqa: F401
    activations,
    convolutions,
    graph,
    norms,
    pointwise,
    pooling,
    reductions,
    resizing,
    selecting,
    shapes,
)  # fmt: skip
from compress.kit.lower.layout import canonical, image_map
from compress.kit.lower.table import OPERATORS, Constant, Node, Value

_BIG = 4096  # numbers


@dataclass(frozen=True)
class Lowered:
    """A lowered network: ``call`` maps an image (N, H, W, C), float32, to the picture (N, H', W', C')."""

    call: Any  # a tf.function, traced for images of just these sides
    weights: list[Any]  # the variables it reads
    input: str
    output: str
    sides: tuple[int | None, ...]  # of the image, (N, H, W, C); None is free
    operators: dict[str, int]

    @property
    def dynamic(self) -> bool:
        """Whether height and width are free."""
        return self.sides[1] is None and self.sides[2] is None


def lower(model: onnx.ModelProto, *, size: tuple[int, int] | None = None) -> Lowered:
    """Lower a graph of one image input; its first output is what ships.

    Args:
        model: Functions inlined (see ``graph.read``); stays as it is.
        size: Height and width to fix; None leaves free what the graph leaves free.

    Raises:
        ArtifactError: If an operator is unknown, a node asks for what TensorFlow or TF.js lack, the graph wants
            another size, or its output is no image.
    """
    graph.refuse_unknown(model, OPERATORS)
    name, (batch, channels, height, width) = graph.image_sides(model)
    if size is not None:
        if height not in (None, size[0]) or width not in (None, size[1]):
            raise ArtifactError(f"the graph runs at {height}x{width} only, {size[0]}x{size[1]} was asked")
        height, width = size
    sides = (batch, height, width, channels)
    signature = tf.TensorSpec(sides, tf.float32, name=plain_name(name))

    weights: list[Any] = []

    def run(image: Any) -> Any:
        seen = itertools.count()  # TensorFlow traces a function that makes variables twice
        found = values(model, Value(image, last=True), keep=lambda numbers: _variable(numbers, weights, seen))
        return _shipped(model, found[model.graph.output[0].name])

    call = tf.function(run, input_signature=[signature], autograph=False)
    call.get_concrete_function()
    kinds = dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
    return Lowered(call, weights, plain_name(name), plain_name(model.graph.output[0].name), sides, kinds)


def plain_name(name: str) -> str:
    """Return a name that TensorFlow and JavaScript take: letters, digits and underscores, a letter first."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if re.match(r"[A-Za-z]", plain) else f"t{plain}"


def _shipped(model: onnx.ModelProto, value: Value) -> Any:
    if value.rank != 4:
        raise ArtifactError(
            f"output '{model.graph.output[0].name}' has {value.rank} sides, an image network gives (N, C, H, W)",
            hint="name another output with compress import --output",
        )
    return tf.identity(tf.cast(image_map(value), tf.float32))


def _variable(numbers: Constant, weights: list[Any], seen: Iterator[int]) -> Any:
    """Keep big weights out of the graph: TensorFlow copies a graph many times over."""
    if numbers.size < _BIG:
        return numbers
    index = next(seen)
    if index == len(weights):
        with tf.init_scope():
            weights.append(tf.Variable(numbers, trainable=False, name=f"w{index}"))
    return weights[index]


def values(
    model: onnx.ModelProto,
    image: Value,
    *,
    wanted: Sequence[str] = (),
    keep: Callable[[Constant], Any] = lambda numbers: numbers,
) -> dict[str, Value]:
    """Run the graph on a lowered image; returns the values alive at its end, and those wanted.

    keep: what stands for the filter of a convolution or the factor of a product.

    Raises:
        ArtifactError: Naming the node that could not be lowered.
    """
    found: dict[str, Value] = {each.name: Value(graph.numbers(each)) for each in model.graph.initializer}
    name, _ = graph.image_sides(model)
    found[name] = image
    version = graph.opset(model)
    last_use = _last_use(model, {*wanted, *(each.name for each in model.graph.output)})
    for number, proto in enumerate(model.graph.node):
        inputs = tuple(found[each] if each else None for each in proto.input)
        made = sum(bool(each) for each in proto.output)
        name = graph.node_name(proto, number)
        node = Node(proto.op_type, name, inputs, graph.attributes(proto), made, version, keep)
        found.update(zip(proto.output, _lowered(node), strict=False))
        for spent in last_use.get(number, ()):
            del found[spent]
    return found


def _last_use(model: onnx.ModelProto, kept: set[str]) -> Mapping[int, list[str]]:
    """Which values are read last by which node: weights of a big network should not all be held at once."""
    last = {each: number for number, node in enumerate(model.graph.node) for each in node.input if each}
    spent: dict[int, list[str]] = {}
    for each, number in last.items():
        if each not in kept:
            spent.setdefault(number, []).append(each)
    return spent


def _lowered(node: Node) -> Sequence[Value]:
    compute = OPERATORS[node.kind]
    try:
        present = [value for value in node.inputs if value is not None]
        made = _folded(node, compute) if all(value.known for value in present) else compute(node)
    except CompressError:
        raise
    # TensorFlow refuses a node with errors of many kinds
    except Exception as error:
        sides = ", ".join("-" if value is None else str(tuple(value.data.shape)) for value in node.inputs)
        raise ArtifactError(
            f"{node.kind} node '{node.name}' on {sides} can't be lowered: {' '.join(str(error).split())[:200]}",
            hint="fix the size of the image with --size, or export the network without it",
        ) from error
    return [made] if isinstance(made, Value) else made


def _folded(node: Node, compute: Callable[[Node], Value | Sequence[Value]]) -> list[Value]:
    """Compute a node whose inputs are all known now, outside the graph."""
    with tf.init_scope():
        made = compute(replace(node, keep=lambda numbers: numbers))
        many = [made] if isinstance(made, Value) else made
        return [Value(np.asarray(canonical(value))) for value in many]
