"""What float16 would cost a graph: weights it can't hold, and over real images the values and sums it can't."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from compress.core.errors import ArtifactError, DataError, UsageError
from compress.kit.ship.runtime import open_session
from compress.kit.ship.wires import node_label, producers_of, skeleton

LARGEST = float(np.finfo(np.float16).max)  # 65504
SMALLEST = float(np.finfo(np.float16).smallest_normal)  # 6.1e-5: below, digits are lost one after the other
LOST = float(np.finfo(np.float16).smallest_subnormal) / 2  # 3e-8: below, nothing is left
_NEAR = 0.5  # of the largest: near enough that another photo may pass it
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class HalfWeights:
    """Float32 weights as float16 would hold them: numbers beyond its range, below its normal range, and below all."""

    name: str
    largest: float  # magnitude
    values: int
    beyond: int
    subnormal: int
    lost: int


@dataclass(frozen=True)
class HalfRange:
    """A tensor over images: the largest magnitude, and of what a norm or mean sums up the largest sums.

    ``sum`` is the largest magnitude of a sum of the values, ``squares`` of their squares (for a variance), None where
    nothing sums the tensor up. ``risk`` says whether float16 holds the largest of the three. What isn't finite counts
    as the largest float32.
    """

    name: str
    node: str  # that makes it, "" for an input of the graph
    operator: str
    summed_by: str  # the node that averages it, or ""
    largest: float
    sum: float | None
    squares: float | None
    risk: Literal["over", "near", "none"]


def half_weights(model: onnx.ModelProto) -> list[HalfWeights]:
    """Look at every float32 initialiser with at least one side, in the order of the file."""
    found = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.dims:
            values = np.abs(numpy_helper.to_array(tensor))
            some = values[values > 0]
            # counted, not just compared: what isn't finite is beyond as well
            beyond = int(values.size - np.count_nonzero(values <= LARGEST))
            small, gone = int((some < SMALLEST).sum()), int((some <= LOST).sum())
            largest = _finite(values.max()) if values.size else 0.0
            found.append(HalfWeights(tensor.name, largest, values.size, beyond, small, gone))
    return found


def half_ranges(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    *,
    threads: int = 0,
    advance: Callable[[], None] | None = None,
) -> list[HalfRange]:
    """Run images through a graph in its own precision and tell what float16 would have to hold, worst first.

    Watched are all tensors of floats whose type can be inferred, but for those of inner graphs; of what
    InstanceNormalization, LayerNormalization, GroupNormalization, ReduceMean and GlobalAveragePool read, also the sums
    over the values that are averaged, since kernels that compute in float16 may keep them in float16.

    Args:
        model: The graph; stays as it is.
        feeds: Its inputs by name, one batch at a time.
        threads: Threads of one run; 0 leaves the choice to ONNX Runtime.
        advance: Called after each batch.

    Raises:
        ArtifactError: If ONNX Runtime can't load the graph with its statistics.
        UsageError: If a batch doesn't fit it.
        DataError: If there is no batch.
    """
    watched = _watched(model)
    sums = _sums(model, set(watched))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        onnx.save(_augmented(model, watched, sums), path)
        session = open_session(path, threads=threads, lean=True)
        names = [output.name for output in session.get_outputs()]
        largest: NDArray[np.float64] | None = None
        for feed in feeds:
            seen = _run(session, names, feed)
            largest = seen if largest is None else np.maximum(largest, seen)
            if advance is not None:
                advance()
    if largest is None:
        raise DataError("there is no image to look at ranges with", hint="give --data a folder with photos")
    found = dict(zip(names, largest.tolist(), strict=True))
    return sorted(_ranges(model, watched, sums, found), key=lambda entry: -_worst(entry))


def _run(session: Any, names: list[str], feed: Feed) -> NDArray[np.float64]:
    try:
        values = session.run(names, dict(feed))
    # ONNX Runtime raises a class of its own per failure, all of them plain Exceptions
    except Exception as error:
        shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feed.items())
        said = " ".join(str(error).split())[-160:]
        raise UsageError(f"an image doesn't fit the network: {shapes}", hint=f"it says: {said}") from error
    return np.array([_finite(value) for value in values], np.float64)


def _finite(value: Any) -> float:
    """A magnitude as a number that JSON can hold too."""
    number = float(value)
    return number if np.isfinite(number) else float(np.finfo(np.float32).max)


def _watched(model: onnx.ModelProto) -> list[str]:
    try:
        graph = shape_inference.infer_shapes(skeleton(model)).graph
    except Exception as error:
        raise ArtifactError(f"the types of this graph can't be inferred: {error}") from error
    stored = {tensor.name for tensor in model.graph.initializer}
    made = producers_of(model.graph)
    values = (*graph.input, *graph.value_info, *graph.output)
    floats = (value.name for value in values if value.type.tensor_type.elem_type in _FLOATS)
    # what inner graphs make can't be reached from outside
    inputs = {value.name for value in graph.input}
    return [name for name in dict.fromkeys(floats) if name not in stored and (name in made or name in inputs)]


def _sums(model: onnx.ModelProto, watched: set[str]) -> list[NodeProto]:
    """The nodes that average what they read, one for each such tensor."""
    summing = {
        node.input[0]: node
        for node in reversed(model.graph.node)
        if node.op_type in _AVERAGING and node.input and node.input[0] in watched
    }
    return list(summing.values())


def _augmented(model: onnx.ModelProto, watched: list[str], sums: list[NodeProto]) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.output[:]
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    writer = _Writer(twin, opset)
    for name in watched:
        writer.largest(name, f"largest:{name}")
    for node in sums:
        writer.sums(node)
    return twin


class _Writer:
    """Writes nodes that reduce a tensor to one number."""

    def __init__(self, model: onnx.ModelProto, opset: int) -> None:
        self.graph, self.opset = model.graph, opset

    def largest(self, name: str, target: str) -> None:
        """The largest magnitude, as an output."""
        self._node("Cast", [name], f"{target}/wide", to=TensorProto.FLOAT)
        self._node("Abs", [f"{target}/wide"], f"{target}/abs")
        # all axes, in every operator set
        self._node("ReduceMax", [f"{target}/abs"], target, keepdims=0)
        self.graph.output.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, None))

    def sums(self, node: NodeProto) -> None:
        """The largest sum of what a node averages, and of its squares."""
        name = node.input[0]
        start = f"sums:{name}"
        self._node("Cast", [name], f"{start}/wide", to=TensorProto.FLOAT)
        self._node("Mul", [f"{start}/wide", f"{start}/wide"], f"{start}/squared")
        for kind, source in (("sum", f"{start}/wide"), ("squares", f"{start}/squared")):
            inputs, attributes = self._summed(node, source, f"{kind}:{name}/axes")
            self._node("ReduceSum", inputs, f"{kind}:{name}/all", **attributes)
            self.largest(f"{kind}:{name}/all", f"{kind}:{name}")

    def _summed(self, node: NodeProto, source: str, label: str) -> tuple[list[str], dict[str, Any]]:
        """Inputs and attributes of a ReduceSum over the values that a node averages."""
        if node.op_type == "ReduceMean":
            axes = _attribute(node, "axes", None)
            if axes is None and len(node.input) > 1 and node.input[1]:
                # from version 18 on; sums have had it since 13
                return [source, node.input[1]], {}
            return self._over(source, axes, label)
        start = 2
        if node.op_type == "LayerNormalization":
            start = _attribute(node, "axis", -1)
        groups = _attribute(node, "num_groups", 0) if node.op_type == "GroupNormalization" else 0
        # (N, C, ...) as (N * C, ...), then everything behind is one axis
        shape = [0, groups, -1] if groups else None
        if shape is not None:
            self._node("Reshape", [source, self._whole(shape, f"{label}/shape")], f"{label}/flat")
            return self._over(f"{label}/flat", [2], label)
        self._node("Flatten", [source], f"{label}/flat", axis=start)
        return self._over(f"{label}/flat", [1], label)

    def _over(self, source: str, axes: list[int] | None, label: str) -> tuple[list[str], dict[str, Any]]:
        if axes is None:
            return [source], {}
        if self.opset < 13:
            return [source], {"axes": axes}
        return [source, self._whole(axes, label)], {}

    def _whole(self, numbers: list[int], name: str) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.graph.node.append(helper.make_node(operator, inputs, [output], **attributes))


_AVERAGING = (
    "InstanceNormalization", "LayerNormalization", "GroupNormalization", "ReduceMean", "GlobalAveragePool",
)  # fmt: skip


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def _ranges(
    model: onnx.ModelProto, watched: list[str], sums: list[NodeProto], found: Mapping[str, float]
) -> Iterable[HalfRange]:
    makers, summing = producers_of(model.graph), {node.input[0]: node for node in sums}
    for name in watched:
        node, summer = makers.get(name), summing.get(name)
        parts = found[f"largest:{name}"], found.get(f"sum:{name}"), found.get(f"squares:{name}")
        worst = max(part for part in parts if part is not None)
        yield HalfRange(
            name,
            node_label(node) if node is not None else "",
            node.op_type if node is not None else "",
            node_label(summer) if summer is not None else "",
            *parts,
            "over" if worst > LARGEST else "near" if worst > _NEAR * LARGEST else "none",
        )


def _worst(entry: HalfRange) -> float:
    return max(part for part in (entry.largest, entry.sum, entry.squares) if part is not None)
