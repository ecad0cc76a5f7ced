"""Which channels of a graph's maps may be scaled, and which of them only together, without a change of its function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.kit.quant.qdq import attribute, groups

Atoms = NDArray[np.intp]  # one number per channel of a tensor

# f(s * x) = s * f(x) for every s > 0, channel by channel
_POSITIVE = ("Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity")
_SUMS = ("Add", "Sub", "Sum", "Max", "Min")


@dataclass(frozen=True)
class Layer:
    """A node whose weights can take scales in.

    ``read`` and ``written`` hold the numbers of the channels it reads and writes, as ``Channels.numbers`` gives them;
    a norm takes none in from what it reads.
    """

    node: onnx.NodeProto
    read: Atoms | None
    written: Atoms


class Channels:
    """The channels of all float maps of a prepared graph, numbered so that those with one number share a scale.

    ``numbers`` maps a tensor's name to the numbers (C,) of its channels; -1 is a channel that has to stay. ``layers``
    are the nodes that take scales in: Conv, ConvTranspose, Gemm, and InstanceNormalization on the side it writes.
    ``count`` is one more than the largest number.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._widths = dict(_widths(model))
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        self._atoms: dict[str, Atoms] = {}
        self._layers: list[tuple[onnx.NodeProto, bool]] = []
        for value in (*model.graph.input, *model.graph.output):
            self._fix(value.name)
        for node in model.graph.node:
            if node.op_type not in ("Shape", "Constant") and not self._join(node):
                for name in (*node.input, *node.output):
                    self._fix(name)
        self.count, self.numbers = self._number()
        self.layers = list(self._with_numbers())

    def stored(self, name: str) -> NDArray[Any] | None:
        """Return an initialiser as an array; None where there is none of that name."""
        return numpy_helper.to_array(self._stored[name]) if name in self._stored else None

    def _join(self, node: onnx.NodeProto) -> bool:
        """Say of a node which channels it reads are the ones it writes; False where they can't be scaled."""
        if node.op_type in _POSITIVE:
            return self._same(node, node.input[:1])
        if node.op_type in _SUMS:
            return self._same(node, node.input)
        rule = _RULES.get(node.op_type)
        return rule is not None and rule(self, node)

    def _same(self, node: onnx.NodeProto, names: Sequence[str]) -> bool:
        """Join each channel of all ``names`` with that of the only output."""
        written = self._of(node.output[0])
        read = [self._of(name) for name in names]
        if len(node.output) > 1 or written is None or any(each is None or len(each) != len(written) for each in read):
            return False
        for each in read:
            assert each is not None
            self._unite(each, written)
        return True

    def _concat(self, node: onnx.NodeProto) -> bool:
        written, read = self._of(node.output[0]), [self._of(name) for name in node.input]
        parts = [each for each in read if each is not None]
        if attribute(node, "axis", 0) != 1 or written is None or len(parts) < len(read):
            return False
        joined = np.concatenate(parts)
        if len(joined) != len(written):
            return False
        self._unite(joined, written)
        return True

    def _depth_to_space(self, node: onnx.NodeProto) -> bool:
        read, written = self._of(node.input[0]), self._of(node.output[0])
        if read is None or written is None:
            return False
        mode = next((entry.s for entry in node.attribute if entry.name == "mode"), b"DCR")
        by_place = read.reshape(-1, len(written)) if mode == b"DCR" else read.reshape(len(written), -1).T
        for each in by_place:
            self._unite(each, written)
        return True

    def _pad(self, node: onnx.NodeProto) -> bool:
        filled = self.stored(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        chosen = len(node.input) > 3 and bool(node.input[3])
        if filled is None or filled.any() or chosen or any(entry.name == "value" for entry in node.attribute):
            return False
        pads = self.stored(node.input[1])
        rank = 0 if pads is None else len(pads) // 2
        if pads is None or pads[1] or pads[1 + rank]:
            return False
        return self._same(node, node.input[:1])

    def _resize(self, node: onnx.NodeProto) -> bool:
        mode = next((e.s for e in node.attribute if e.name == "coordinate_transformation_mode"), b"half_pixel")
        scales = self.stored(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        stretched = scales is not None and len(scales) > 1 and float(scales[1]) != 1
        return mode != b"tf_crop_and_resize" and not stretched and self._same(node, node.input[:1])

    def _layer(self, node: onnx.NodeProto) -> bool:
        """Enter a convolution or matrix product whose weights are stored and whose bias is one number a channel."""
        weight = self.stored(node.input[1])
        read, written = self._of(node.input[0]), self._of(node.output[0])
        if node.op_type == "Gemm" and attribute(node, "transA", 0):
            return False
        if weight is None or weight.dtype != np.float32 or read is None or written is None:
            return False
        if len(node.input) > 2 and node.input[2]:
            bias = self.stored(node.input[2])
            if bias is None or bias.size != len(written):
                return False
        self._layers.append((node, True))
        return True

    def _norm(self, node: onnx.NodeProto) -> bool:
        """Enter an instance norm: what it reads stays (its epsilon is no matter of scale), what it writes may move."""
        self._fix(node.input[0])
        if any(self.stored(name) is None for name in node.input[1:3]) or self._of(node.output[0]) is None:
            return False
        self._layers.append((node, False))
        return True

    def _of(self, name: str) -> Atoms | None:
        """Return the atoms of a computed map; None where it has no known number of channels, or is stored."""
        if name in self._stored or name not in self._widths:
            return None
        if name not in self._atoms:
            start = len(self._parents)
            self._parents.extend(range(start, start + self._widths[name]))
            self._atoms[name] = np.arange(start, len(self._parents))
        return self._atoms[name]

    def _fix(self, name: str) -> None:
        atoms = self._of(name)
        if atoms is not None:
            self._fixed.update(atoms.tolist())

    def _unite(self, first: Atoms, second: Atoms) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self._parents[self._root(one)] = self._root(other)

    def _root(self, atom: int) -> int:
        while self._parents[atom] != atom:
            self._parents[atom] = self._parents[self._parents[atom]]
            atom = self._parents[atom]
        return atom

    def _number(self) -> tuple[int, dict[str, Atoms]]:
        staying = {self._root(atom) for atom in self._fixed}
        found: dict[int, int] = {}

        def number(atom: int) -> int:
            root = self._root(atom)
            return -1 if root in staying else found.setdefault(root, len(found))

        numbers = {name: np.array([number(atom) for atom in atoms], np.intp) for name, atoms in self._atoms.items()}
        return len(found), numbers

    def _with_numbers(self) -> Iterator[Layer]:
        for node, reads in self._layers:
            yield Layer(node, self.numbers[node.input[0]] if reads else None, self.numbers[node.output[0]])


_RULES: dict[str, Callable[[Channels, onnx.NodeProto], bool]] = {
    "Concat": Channels._concat,
    "DepthToSpace": Channels._depth_to_space,
    "Pad": Channels._pad,
    "Resize": Channels._resize,
    "Conv": Channels._layer,
    "ConvTranspose": Channels._layer,
    "Gemm": Channels._layer,
    "InstanceNormalization": Channels._norm,
}


def weight_axes(node: onnx.NodeProto, weight: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Return weights as (groups, outputs of one, inputs of one, taps), a view, and the axes' order that made it."""
    count = groups(node) if node.op_type in ("Conv", "ConvTranspose") else 1
    first_is_output = node.op_type == "Conv" or (node.op_type == "Gemm" and bool(attribute(node, "transB", 0)))
    split = weight.reshape(count, weight.shape[0] // count, weight.shape[1], -1)
    order = (0, 1, 2, 3) if first_is_output else (0, 2, 1, 3)
    return split.transpose(order), order


def _widths(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Yield every float map of two or more axes with its number of channels, where that is known."""
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        sides = kind.shape.dim
        if kind.elem_type == onnx.TensorProto.FLOAT and len(sides) >= 2 and sides[1].dim_value > 0:
            yield value.name, sides[1].dim_value
