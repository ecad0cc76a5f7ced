"""Surgery on ONNX graphs: nodes replaced, what is unused dropped, names made short."""

from __future__ import annotations

from collections.abc import Sequence

import onnx


def replace_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make ``nodes``, in their order, the nodes of the graph."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return a whole-number attribute of a node."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)


def groups(node: onnx.NodeProto) -> int:
    """Return the number of groups of a convolution."""
    return attribute(node, "group", 1)


def drop_unused(model: onnx.ModelProto) -> None:
    """Drop initialisers that no node reads."""
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def shorten(model: onnx.ModelProto) -> None:
    """Drop inferred shapes and give inner tensors short names: 7 % of a U²-NetP's int8 file."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    edge = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    short: dict[str, str] = {}

    def rename(name: str) -> str:
        return name if name in edge else short.setdefault(name, f"t{len(short):x}")

    for tensor in model.graph.initializer:
        tensor.name = rename(tensor.name)
    for node in model.graph.node:
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or "/decode" in node.name:
            node.name = ""
