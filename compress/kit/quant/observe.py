"""A twin of a graph that gives ranges, samples and means of its own tensors, so that no whole tensor leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SAMPLE = 4096  # values of each tensor and image that a histogram counts

# Operators that give the values of their first input in another order.
_MOVES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


# Operators that read every value and whose output isn't finite where an input isn't. Others may lose it: ONNX Runtime's
# MaxPool passes over NaN, its Sigmoid cuts infinity, and a Resize may leave values out.
_HONEST = (*_MOVES, "Relu", "LeakyRelu", "Concat", "Add", "Sub", "Mul")


@dataclass(frozen=True)
class _Source:
    """Where the range of a tensor follows from; plain names, for a node would keep all weights in memory."""

    operator: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Observed:
    """Names of tensors, in the graph's order.

    The twin's outputs, in this order: ``low:`` and ``high:``, scalars, of those ``measured``, from which the range of
    the rest follows; ``sum:``, scalars, of those ``summed``; ``mean:`` (N, C, 1, ...) of the ``inputs`` of
    convolutions; ``sample:`` (``SAMPLE``,) of all ``tensors``. A value that isn't finite shows in a low, a high, a sum
    or a mean.
    """

    tensors: tuple[str, ...]
    measured: tuple[str, ...]
    summed: tuple[str, ...]
    inputs: tuple[str, ...]
    _derived: Mapping[str, _Source]

    def ranges(self, low: Sequence[float], high: Sequence[float]) -> list[tuple[float, float]]:
        """Return low and high of all ``tensors`` from those of the ``measured`` ones, both (measured,)."""
        known = dict(zip(self.measured, zip(low, high, strict=True), strict=True))
        for name, source in self._derived.items():
            lows, highs = zip(*(known[each] for each in source.tensors), strict=True)
            floor = 0.0 if source.operator == "Relu" else -np.inf
            known[name] = (max(min(lows), floor), max(*highs, floor))
        return [known[name] for name in self.tensors]


def observe(model: onnx.ModelProto) -> Observed:
    """Turn a float32 graph with inferred shapes, in place, into its twin.

    The range of a ReLU, of a concatenation and of operators that move values follows exactly from that of their
    inputs and is not measured. Sums are there because ONNX Runtime's ReduceMin and ReduceMax pass over NaN.
    """
    tensors = _float_tensors(model)
    sources = _sources(model, set(tensors))
    derived = {name: sources[name] for name in tensors if name in sources}
    measured = tuple(name for name in tensors if name not in derived)
    convolutions = [node.input[0] for node in model.graph.node if node.op_type in _CONVOLUTIONS]
    inputs = tuple(name for name in dict.fromkeys(convolutions) if name in set(tensors))
    honest = _shown(model, inputs)
    summed = tuple(name for name in measured if name not in honest)
    del model.graph.output[:]
    for kind, operator, names in (("low", "ReduceMin", measured), ("high", "ReduceMax", measured),
                                  ("sum", "ReduceSum", summed)):  # fmt: skip
        for name in names:
            _add(model, operator, [name], f"{kind}:{name}", keepdims=0)
    # a pooling over everything is the mean per channel, and reads the same in every operator set
    for name in inputs:
        _add(model, "GlobalAveragePool", [name], f"mean:{name}")
    _add_samples(model, tensors, derived)
    return Observed(tuple(tensors), measured, summed, inputs, derived)


def fix_sides(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs of a graph these shapes, in place, where it leaves sides free: it then runs faster."""
    for value in model.graph.input:
        for side, length in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            if not side.dim_value:
                side.dim_value = length


def _shown(model: onnx.ModelProto, means: Sequence[str]) -> set[str]:
    """Names of the tensors that turn one of ``means`` into something that isn't finite if they aren't."""
    shown = set(means)
    for node in reversed(model.graph.node):
        if node.op_type in _HONEST and not shown.isdisjoint(node.output):
            shown.update(node.input)
    return shown


def _spread() -> NDArray[np.float64]:
    """Return where in a flattened tensor the sampled values lie, as shares of its size, ascending.

    They are multiples of the golden ratio, which spread evenly over every size and fall in step with no width or
    number of channels. Of a tensor smaller than the sample each value is taken about equally often.
    """
    return np.sort(np.mod(np.arange(1, SAMPLE + 1) * (np.sqrt(5) - 1) / 2, 1))


def _add_samples(model: onnx.ModelProto, tensors: Sequence[str], derived: Mapping[str, _Source]) -> None:
    constants = {"spread": _spread(), "flat": np.array([-1], np.int64)}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, f"sample/{name}"))
    places: dict[str, str] = {}
    for name in tensors:
        source = derived.get(name)
        if source is not None and source.operator != "Concat":
            places[name] = places[source.tensors[0]]  # of the same size
        else:
            places[name] = _add_places(model, name)
        _node(model, "Reshape", [name, "sample/flat"], f"flat:{name}")
        _add(model, "Gather", [f"flat:{name}", places[name]], f"sample:{name}")


def _add_places(model: onnx.ModelProto, name: str) -> str:
    # the size is known only while it runs
    _node(model, "Size", [name], f"size:{name}")
    _node(model, "Cast", [f"size:{name}"], f"real:{name}", to=TensorProto.DOUBLE)
    _node(model, "Mul", ["sample/spread", f"real:{name}"], f"scaled:{name}")
    _node(model, "Cast", [f"scaled:{name}"], f"places:{name}", to=TensorProto.INT64)
    return f"places:{name}"


def _node(model: onnx.ModelProto, operator: str, sources: list[str], target: str, **attributes: int) -> None:
    model.graph.node.append(helper.make_node(operator, sources, [target], **attributes))


def _add(model: onnx.ModelProto, operator: str, sources: list[str], target: str, **attributes: int) -> None:
    _node(model, operator, sources, target, **attributes)
    model.graph.output.append(helper.make_tensor_value_info(target, TensorProto.FLOAT, None))


def _float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of all float32 tensors that are fed or computed, in the graph's order."""
    graph = model.graph
    kinds = {
        value.name: value.type.tensor_type
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    stored = {tensor.name for tensor in graph.initializer}
    made = [output for node in graph.node if node.op_type != "Constant" for output in node.output]
    names = dict.fromkeys([*(value.name for value in graph.input), *made])
    return [name for name in names if name in kinds and name not in stored and not _empty(kinds[name])]


def _empty(kind: onnx.TypeProto.Tensor) -> bool:
    return any(side.HasField("dim_value") and side.dim_value == 0 for side in kind.shape.dim)


def _sources(model: onnx.ModelProto, tensors: set[str]) -> dict[str, _Source]:
    """Return where ranges follow from, by the name of the tensor whose range it is."""
    found = {}
    for node in model.graph.node:
        if node.op_type in ("Relu", "Concat", *_MOVES):
            read = tuple(node.input if node.op_type == "Concat" else node.input[:1])
            if tensors.issuperset(read):
                found[node.output[0]] = _Source(node.op_type, read)
    return found
