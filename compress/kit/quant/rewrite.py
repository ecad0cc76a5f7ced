"""New stored inputs for nodes of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.kit.quant.qdq import drop_unused


def with_inputs(model: onnx.ModelProto, values: Mapping[tuple[str, int], NDArray[Any]], mark: str) -> onnx.ModelProto:
    """Return a copy in which nodes read other constants; ``values`` has them by node name and place of the input.

    Each node gets constants of its own, float32 and named after it and ``mark``: others may read the ones it had. What
    nobody reads any more is dropped.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = {node.name: node for node in result.graph.node}
    for (name, index), value in values.items():
        node, stored = nodes[name], f"{name}/{mark}{index}"
        result.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), stored))
        node.input[:] = [*node.input[:index], stored, *node.input[index + 1 :]]
    before = {tensor.name for tensor in result.graph.initializer}
    drop_unused(result)
    gone = before - {tensor.name for tensor in result.graph.initializer}
    shapes = [value for value in result.graph.value_info if value.name not in gone]
    del result.graph.value_info[:]
    result.graph.value_info.extend(shapes)
    return result
