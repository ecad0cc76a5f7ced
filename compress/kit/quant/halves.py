"""Float16 arithmetic: for graphics cards and browsers; a processor computes it in float32 with casts around."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from compress.kit.quant.qdq import replace_nodes
from compress.kit.ship.runtime import quiet

# Sums over a whole map pass 65504, float16's largest value, long before its values do.
_WIDE = ("InstanceNormalization", "GroupNormalization", "LayerNormalization", "ReduceMean", "ReduceSum",
         "GlobalAveragePool", "Softmax")  # fmt: skip


def in_float16(model: onnx.ModelProto, decoders: Iterable[str]) -> onnx.ModelProto:
    """Return the graph with float16 maps and arithmetic; its input and outputs stay float32.

    Args:
        model: A float graph; norms, means and sums stay float32 between two casts.
        decoders: Names of nodes that unpack stored weights: they stay float32 too, where runtimes fold them at load.
    """
    with quiet():
        made: onnx.ModelProto = convert_float_to_float16(
            onnx.shape_inference.infer_shapes(model),  # it casts only what has a known type
            keep_io_types=True,
            disable_shape_infer=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_WIDE],
            node_block_list=list(decoders),
        )
        # it casts what two nodes read twice under one name, and appends its casts at the end
        once = {tuple(node.output): node for node in made.graph.node}
        replace_nodes(made, list(once.values()))
        ONNXModel(made).topological_sort()
    return made
