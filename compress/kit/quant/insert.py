"""Write a planned graph: QuantizeLinear and DequantizeLinear where the plan rounds, weights stored as it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compress.kit.quant.decode import SPELLED, decode_blocks, decode_channels, decode_halves
from compress.kit.quant.halves import in_float16
from compress.kit.quant.integers import saturation_free
from compress.kit.quant.plan import INTEGER, Grid, Plan
from compress.kit.quant.policy import readers_of, rounded_for_all
from compress.kit.quant.prepare import WEIGHTED, opset_of
from compress.kit.quant.qdq import attribute, drop_unused, groups, replace_nodes, shorten
from compress.kit.quant.weights import HALVES, Blocks, Channels, Halves, quantize_blocks, quantize_channels
from compress.kit.ship.runtime import float_initializers

_OPSET_OF_FOUR_BITS = 21
_LARGEST = 2**31 - 1  # of a bias


def insert(prepared: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Return the graph that ships, as a new model.

    A tensor on a grid goes through QuantizeLinear and DequantizeLinear right where it is made, and everybody reads
    it rounded; without ``plan.shared``, one that no integer layer makes is rounded for the integer layers only.
    """
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    if any(choice.form in ("int4", "int4w") for choice in plan.layers.values()) and opset_of(model) < (
        _OPSET_OF_FOUR_BITS
    ):
        model = onnx.version_converter.convert_version(model, _OPSET_OF_FOUR_BITS)
    for_all = rounded_for_all(model, plan)
    _fold_relus(model, plan)
    writer = _Writer(model, plan, for_all)
    writer.write()
    drop_unused(model)
    if plan.half:
        model = in_float16(model, writer.decoders)
    shorten(model)
    return model


def _fold_relus(model: onnx.ModelProto, plan: Plan) -> None:
    """Drop every ReLU that only feeds a rounding whose grid starts at zero: the rounding clips as it does."""
    readers, outputs = readers_of(model), {value.name for value in model.graph.output}
    producers = {output: node for node in model.graph.node for output in node.output}
    kept = []
    for node in model.graph.node:
        grid = plan.maps.get(node.output[0]) if node.op_type == "Relu" else None
        source = producers.get(node.input[0]) if grid is not None and grid.zero == 0 else None
        alone = len(readers[node.input[0]]) == 1 and node.input[0] not in (*outputs, *plan.maps)
        # only what everybody reads rounded may lose its clipping
        if source is not None and alone and (plan.shared or plan.layers[source.name].form in INTEGER):
            index = list(source.output).index(node.input[0])
            source.output[index] = node.output[0]
            producers[node.output[0]] = source
        else:
            kept.append(node)
    replace_nodes(model, kept)


class _Writer:
    """Walks the nodes once, in their order, and writes the new ones."""

    def __init__(self, model: onnx.ModelProto, plan: Plan, for_all: set[str]) -> None:
        self.model, self.plan, self.for_all = model, plan, for_all
        self.weights = float_initializers(model)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs = [value.name for value in model.graph.input if value.name not in self.weights]
        self.private: dict[str, str] = {}  # tensors read rounded by integer layers alone, by their own name
        self.rounded: set[str] = set()  # tensors that come out of a DequantizeLinear
        self.stored: dict[str, str] = {}
        self.decoders: list[str] = []  # nodes that unpack weights

    def write(self) -> None:
        for name in self.inputs:
            if name in self.plan.maps:
                self._round_for_some(name)
        for node in self.model.graph.node:
            self._read(node)
            self._write_outputs(node)
        replace_nodes(self.model, self.nodes)

    def _read(self, node: onnx.NodeProto) -> None:
        form = self.plan.layers[node.name].form
        if form in INTEGER or (self.plan.shared and node.op_type != "Identity"):
            for index, name in enumerate(node.input):
                node.input[index] = self.private.get(name, name)
        if node.op_type not in WEIGHTED or node.input[1] not in self.weights:
            return
        shape = self.weights[node.input[1]].shape
        if form != "float32":
            self._store_weights(node)
        if form not in INTEGER:
            self._shield(node, shape)

    def _write_outputs(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in self.plan.maps:
                continue
            if name in self.for_all:
                node.output[index] = f"{name}/float"
                self._pair(f"{name}/float", name, self.plan.maps[name])
            else:
                self._round_for_some(name)

    def _round_for_some(self, name: str) -> None:
        self.private[name] = f"{name}/rounded"
        self._pair(name, f"{name}/rounded", self.plan.maps[name])

    def _pair(self, source: str, target: str, grid: Grid) -> None:
        scale, zero = self._grid(grid)
        self._node("QuantizeLinear", [source, scale, zero], f"{target}/q")
        self._node("DequantizeLinear", [f"{target}/q", scale, zero], target)
        self.rounded.add(target)

    def _grid(self, grid: Grid) -> tuple[str, str]:
        return (
            self._constant(f"scale {grid.scale!r}", np.float32(grid.scale)),
            self._constant(f"zero {grid.zero}", np.uint8(grid.zero)),
        )

    def _store_weights(self, node: onnx.NodeProto) -> None:
        name = f"{node.name}/weight"
        integer = self.plan.layers[node.name].form in INTEGER
        stored = stored_form(node, self.weights[node.input[1]], self.plan, self._least(node))
        if isinstance(stored, Halves):
            written = decode_halves(stored, name)
        else:
            decode = decode_blocks if isinstance(stored, Blocks) else decode_channels
            spelled = node.op_type in SPELLED
            written = decode(stored, name, integer=integer, spelled=spelled)  # type: ignore[arg-type]
            self._store_bias(node, stored.scales)
        for index, decoder in enumerate(written[0]):
            decoder.name = f"{name}/decode{index}"
            self.decoders.append(decoder.name)
        self.nodes.extend(written[0])
        self.model.graph.initializer.extend(written[1])
        node.input[1] = name

    def _least(self, node: onnx.NodeProto) -> NDArray[np.float32] | None:
        """Smallest scales a layer's weights may have: its bias, in steps of both scales, has to fit into 32 bits."""
        bias, step = self._bias(node)
        return None if bias is None else np.abs(bias) / np.float32(step * _LARGEST)

    def _bias(self, node: onnx.NodeProto) -> tuple[NDArray[np.float32] | None, float]:
        """Return the bias to be stored in integers and the step of the layer's input; None where it stays float."""
        grid = self.plan.maps.get(self._original(node.input[0]))
        stored = len(node.input) > 2 and self.plan.layers[node.name].form in INTEGER and grid is not None
        return (self.weights.get(node.input[2]), grid.scale) if stored and grid is not None else (None, 0.0)

    def _store_bias(self, node: onnx.NodeProto, scales: NDArray[np.float32]) -> None:
        bias, step = self._bias(node)
        if bias is None:
            return
        scale = (np.float32(step) * scales).astype(np.float32)
        integers = np.round(bias.astype(np.float64) / scale).clip(-_LARGEST, _LARGEST).astype(np.int32)
        name = f"{node.name}/bias"
        inputs = [self._constant(f"{name}/q", integers), self._constant(f"{name}/scale", scale)]
        if node.op_type in SPELLED:
            inputs.append(self._constant(f"{name}/zero", np.zeros(scale.shape, np.int32)))
        self._node("DequantizeLinear", inputs, name, axis=0)
        node.input[2] = name

    def _original(self, name: str) -> str:
        return name.removesuffix("/rounded") if name in self.private.values() else name

    def _shield(self, node: onnx.NodeProto, shape: tuple[int, ...]) -> None:
        """Give a layer that computes in float on 8-bit maps a DequantizeLinear with one scale per channel.

        ONNX Runtime's WeightBiasQuantization would otherwise round its weights at load, per tensor, wherever it sits
        between DequantizeLinear and QuantizeLinear, which it moves up through a Slice first: on a published U²-NetP one
        such layer turned the mask to noise.
        It passes over inputs whose scale is no scalar; the values are the same.
        """
        grid = self.plan.maps.get(self._original(node.input[0]))
        if grid is None or node.input[0] not in self.rounded or node.op_type not in ("Conv", "ConvTranspose"):
            return
        channels = shape[0] if node.op_type == "ConvTranspose" else shape[1] * groups(node)
        scale = self._constant(f"{node.name}/input/scale", np.full(channels, grid.scale, np.float32))
        zero = self._constant(f"{node.name}/input/zero", np.full(channels, grid.zero, np.uint8))
        self._node("DequantizeLinear", [f"{node.input[0]}/q", scale, zero], f"{node.name}/input", axis=1)
        node.input[0] = f"{node.name}/input"

    def _constant(self, name: str, value: Any) -> str:
        if name not in self.stored:
            self.stored[name] = name
            self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))


def stored_form(
    node: onnx.NodeProto, weight: NDArray[np.float32], plan: Plan, least: NDArray[np.float32] | None
) -> Channels | Blocks | Halves:
    """Round a layer's weights as the plan says; ``least`` (O,) bounds the scales from below."""
    form, axis = plan.layers[node.name].form, output_axis(node)
    known = plan.rounded.get(node.name)
    if form in HALVES:
        return Halves(weight, form)
    if form in ("int4", "int4w"):
        blocks = quantize_blocks(weight, axis, plan.block, least if known is None else None)
        return blocks if known is None else blocks.holding(known.integers)
    if known is not None:
        return Channels(known.integers, known.scales, axis % weight.ndim)
    # a filter on a single channel is computed by another kernel, which never pairs products
    if plan.safe_weights and form in INTEGER and not (node.op_type == "Conv" and weight.shape[1] == 1):
        integers, scales = saturation_free(weight, axis % weight.ndim, least=least)
        return Channels(integers, scales.ravel(), axis % weight.ndim)
    return quantize_channels(weight, axis, least)


def round_layer(node: onnx.NodeProto, weight: NDArray[np.float32], plan: Plan) -> NDArray[np.float32] | None:
    """Return the values a layer's weights have once stored as the plan says; None where they stay as they are."""
    if plan.layers[node.name].form == "float32":
        return None
    return stored_form(node, weight, plan, None).values


def output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weights that runs over its output channels (of one group, for ConvTranspose)."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else -1


def stored_layers(model: onnx.ModelProto) -> Mapping[str, onnx.NodeProto]:
    """Return the nodes whose weights are stored as float32, by name."""
    weights = float_initializers(model)
    return {
        node.name: node
        for node in model.graph.node
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in weights
    }
