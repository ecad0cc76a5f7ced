"""A prepared ONNX graph as the aten graph that PT2E quantizers annotate, its nodes known by their tensors in ONNX."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.kit.quant.prepare import WEIGHTED
from compress.kit.quant.qdq import attribute, replace_nodes
from compress.kit.quant.torchgraph import TorchGraph

_ATEN = torch.ops.aten
# Quantizers find patterns by the functions a user called, which export notes only for calls through nn.Module.
_CALLED: Mapping[Any, Any] = {
    _ATEN.conv2d.default: F.conv2d,
    _ATEN.linear.default: F.linear,
    _ATEN.relu.default: F.relu,
    _ATEN.add.Tensor: operator.add,
    _ATEN.mul.Tensor: torch.mul,
}
LAYERS = (_ATEN.conv2d.default, _ATEN.linear.default)


@dataclass(frozen=True)
class Traced:
    """An aten graph of fixed sizes and a batch of one.

    ``nodes``: name of the node that makes each float tensor, by the tensor's name in ONNX. ``layers``: name of the
    ONNX node by the name of its convolution or linear layer here. ``size``: height and width.
    """

    module: fx.GraphModule
    nodes: dict[str, str]
    layers: dict[str, str]
    size: tuple[int, int]


@torch.library.custom_op("image_compress::named", mutates_args=())
def _named(value: Tensor, name: str) -> Tensor:  # noqa: ARG001
    return value.clone()


@_named.register_fake
def _(value: Tensor, name: str) -> Tensor:  # noqa: ARG001
    return torch.empty_like(value)


class _Marked(nn.Module):
    """The graph with a mark behind every float tensor, which export carries along."""

    def __init__(self, graph: TorchGraph) -> None:
        super().__init__()
        self.network = graph  # "graph" would hide the traced module's own

    def forward(self, image: Tensor) -> Tensor:
        wanted = self.network.outputs[0]
        return self.network.run({self.network.input: image}, [wanted], wrote=_mark)[wanted]


def _mark(name: str, value: Tensor) -> Tensor:
    return torch.ops.image_compress.named(value, name) if value.is_floating_point() else value


def trace(prepared: onnx.ModelProto, shape: tuple[int, ...]) -> Traced:
    """Trace a prepared graph (see ``prepare_graph``) at one image shape (1, C, H, W).

    Raises:
        UsageError: If the graph holds an operator that torch can't run, or doesn't take such an image.
    """
    example = torch.zeros(shape)
    with torch.no_grad():
        marked = _Marked(TorchGraph(_fixed(prepared, example))).eval()
        try:
            program = torch.export.export(marked, (example,))
        # export meets what it can't trace in as many ways as networks can be written
        except Exception as error:
            said = " ".join(str(error).split())[:160]
            raise UsageError(
                f"the network can't be traced for this engine: {said}", hint="--engine ort needs no tracing"
            ) from error
        module = program.module(check_guards=False)
    nodes = _unmark(module)
    layers = _name_layers(module, prepared, nodes)
    module.graph.eliminate_dead_code()
    module.recompile()
    for node in module.graph.nodes:
        if node.target in _CALLED:
            node.meta["source_fn_stack"] = [(node.name, _CALLED[node.target])]
    return Traced(module, nodes, layers, (shape[2], shape[3]))


def _fixed(prepared: onnx.ModelProto, example: Tensor) -> onnx.ModelProto:
    """Return the graph with every whole number that follows from the image's size stored in it.

    What a tensor holds is unknown while tracing, so sizes, indices and scales must be there beforehand.
    """
    graph = TorchGraph(prepared)
    counted: dict[str, Tensor] = {}
    resized = {node.output[0] for node in prepared.graph.node if node.op_type == "Resize"}

    def record(name: str, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            counted[name] = value
        elif name in resized:
            counted[f"{name}/sizes"] = torch.tensor(value.shape)
        return value

    graph.run({graph.input: example}, graph.outputs[:1], wrote=record)
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    replace_nodes(model, [node for node in model.graph.node if node.output[0] not in counted])
    for node in model.graph.node:
        if node.output[0] in resized:
            node.input[:] = [node.input[0], "", "", f"{node.output[0]}/sizes"]
    model.graph.initializer.extend(numpy_helper.from_array(value.numpy(), name) for name, value in counted.items())
    return model


def _unmark(module: fx.GraphModule) -> dict[str, str]:
    """Take the marks out and return what they said: the node of each tensor."""
    nodes: dict[str, str] = {}
    for node in list(module.graph.nodes):
        if node.target is torch.ops.image_compress.named.default:
            source, name = node.args
            nodes[name] = source.name
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    return nodes


def _name_layers(module: fx.GraphModule, prepared: onnx.ModelProto, nodes: dict[str, str]) -> dict[str, str]:
    """Return the ONNX name of every layer with stored weights; matrix products become linear layers on the way."""
    by_name: dict[str, Any] = {node.name: node for node in module.graph.nodes}
    stored = {tensor.name for tensor in prepared.graph.initializer}
    layers: dict[str, str] = {}
    for node in prepared.graph.node:
        if node.op_type not in WEIGHTED or node.output[0] not in nodes or node.input[1] not in stored:
            continue
        made = by_name[nodes[node.output[0]]]
        if node.op_type in ("Gemm", "MatMul"):
            made = _as_linear(module, node, made, by_name[nodes[node.input[0]]])
            by_name[made.name] = made
            nodes[node.output[0]] = made.name
        if made.target in LAYERS:
            layers[made.name] = node.name
    return layers


def _as_linear(module: fx.GraphModule, node: onnx.NodeProto, made: Any, image: Any) -> Any:
    """Let a matrix product with stored weights be the linear layer that quantizers look for; else return ``made``."""
    product = made if made.target is _ATEN.matmul.default else made.args[0]
    plain = all(entry.f == 1 for entry in node.attribute if entry.name in ("alpha", "beta"))
    if product.target is not _ATEN.matmul.default or product.args[0] is not image or not plain:
        return made  # transposed or scaled on the way
    weight, bias = product.args[1], made.args[1] if made is not product else None
    transposed = attribute(node, "transB", 0)
    stored = weight.args[0] if transposed else weight
    value = module.get_parameter(stored.target)
    if value.ndim != 2:
        return made
    with module.graph.inserting_before(made):
        if not transposed:
            name = f"{stored.target.replace('.', '_')}_transposed"
            module.register_parameter(name, nn.Parameter(value.detach().T.contiguous(), requires_grad=False))
            stored = module.graph.get_attr(name)
        linear = module.graph.call_function(_ATEN.linear.default, (image, stored, bias))
    linear.meta.update(made.meta)
    made.replace_all_uses_with(linear)
    return linear
