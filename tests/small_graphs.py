"""Small ONNX graphs, written node by node."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.kit.quant.plan import Grid, Plan
from compress.kit.quant.policy import decide


class Graph:
    """A graph of one image that grows node by node; every method returns the name of the new map."""

    def __init__(self, channels=3, side=12, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.stored = [], []
        self.image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, side, side])

    def store(self, value, dtype=np.float32):
        name = f"stored{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator, *inputs, **attributes):
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def conv(self, source, outputs, inputs, side=3, bias=True, operator="Conv", weight=None, **attributes):
        groups = attributes.get("group", 1)
        shape = (inputs, outputs // groups) if operator == "ConvTranspose" else (outputs, inputs // groups)
        if weight is None:
            spread = np.exp(self.rng.normal(0, 1, (*shape, 1, 1)))  # channels unlike each other
            weight = self.rng.normal(0, 0.5 / side, (*shape, side, side)) * spread
        stored = [self.store(weight)] + ([self.store(self.rng.normal(0, 0.2, outputs))] if bias else [])
        attributes.setdefault("pads", [side // 2] * 4)
        return self.add(operator, source, *stored, **attributes)

    def norm(self, source, channels):
        scale, shift = self.rng.uniform(0.2, 3, channels), self.rng.normal(0, 0.5, channels)
        return self.add("InstanceNormalization", source, self.store(scale), self.store(shift))

    def model(self, *outputs):
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "small", [self.image], made, self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(inferred)
        return inferred


def run(model, image, names=()):
    """Run a graph as it is written, no operator fused, and return its first output and the maps of those names."""
    import onnxruntime

    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    present = {value.name for value in twin.graph.output}
    for name in names:
        if name not in present:
            twin.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(twin.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run([model.graph.output[0].name, *names], {model.graph.input[0].name: image})
    return found if names else found[0]


def photos(channels=3, side=12, count=8, seed=1):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(0, 1, (count, 1, channels, 1, 1)) + rng.normal(0, 0.5, (count, 1, channels, side, side))
    return [{"image": image.astype(np.float32)} for image in smooth]


def plan_for(model, feeds, form="int8", style="all", block=32):
    """Plan a graph with the ranges of these feeds, heads and all."""
    names = [value.name for value in (*model.graph.value_info, *model.graph.output)]
    seen = [run(model, feed["image"], names)[1:] for feed in feeds]
    grids = {name: Grid.over(min(float(each[i].min()) for each in seen), max(float(each[i].max()) for each in seen))
             for i, name in enumerate(names)}  # fmt: skip
    images = np.concatenate([feed["image"] for feed in feeds])
    grids["image"] = Grid.over(float(images.min()), float(images.max()))
    found = decide(model, grids, style=style, form=form)
    return Plan(found.layers, found.maps, found.shared, block=block)


def weights_of(model, node):
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return next(stored[each.input[1]] for each in model.graph.node if each.name == node)


def biases_of(model, node):
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return next(stored[each.input[2]] for each in model.graph.node if each.name == node)
