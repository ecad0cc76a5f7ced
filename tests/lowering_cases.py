"""Graphs of one or two nodes that a lowering must compute as ONNX Runtime does: name, node, attributes, inputs."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 6
_random = np.random.default_rng(0)


def f(*shape):
    return _random.standard_normal(shape).astype(np.float32)


def up(*shape):
    return _random.uniform(0.5, 2, shape).astype(np.float32)


def i(*numbers):
    return np.asarray(numbers, np.int64)


class Case:
    """One node on the image "x" (N, 6, H, W); arrays among the inputs are stored, None is an absent input."""

    def __init__(self, name, kind, *inputs, opset=20, first=None, outputs=1, free=True, **attributes):
        self.name, self.kind, self.inputs, self.opset = name, kind, inputs or ("x",), opset
        self.first, self.outputs, self.free, self.attributes = first, outputs, free, attributes

    def model(self, shape, *, reshaped=False):
        graph_inputs, stored, nodes = [], [], []
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        graph_inputs.append(image)
        source = "x"
        if reshaped:  # a map in the canonical order
            sides = i(0, 0, 0, 0)
            stored.append(numpy_helper.from_array(sides, "keep"))
            nodes.append(helper.make_node("Reshape", ["x", "keep"], ["xr"]))
            source = "xr"
        if self.first:
            kind, attributes, *arrays = self.first
            more = ["" if each is None else f"first{index}" for index, each in enumerate(arrays)]
            stored += [numpy_helper.from_array(np.asarray(each), name)
                       for each, name in zip(arrays, more, strict=True) if name]  # fmt: skip
            nodes.append(helper.make_node(kind, [source, *more], ["xf"], **attributes))
            source = "xf"
        names = []
        for index, given in enumerate(self.inputs):
            if given is None:
                names.append("")
            elif isinstance(given, str):
                names.append(source if given == "x" else given)
            else:
                names.append(f"in{index}")
                stored.append(numpy_helper.from_array(np.asarray(given), f"in{index}"))
        if "half" in names:
            nodes.append(helper.make_node("Sigmoid", [source], ["half"]))
        if "flags" in names:
            stored.append(numpy_helper.from_array(np.float32(0.1), "tenth"))
            nodes.append(helper.make_node("Greater", [source, "tenth"], ["flags"]))
        if "counts" in names:
            nodes.append(helper.make_node("Shape", [source], ["counts"]))
        results = [f"y{number}" for number in range(self.outputs)]
        nodes.append(helper.make_node(self.kind, names, results, name="the node", **self.attributes))
        made = [onnx.ValueInfoProto(name=name) for name in results]
        graph = helper.make_graph(nodes, "case", graph_inputs, made, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        return model


def _convolutions():
    yield Case("plain", "Conv", "x", f(4, 6, 3, 3), f(4), pads=[1, 1, 1, 1])
    yield Case("no padding", "Conv", "x", f(4, 6, 3, 2))
    yield Case("uneven padding", "Conv", "x", f(4, 6, 3, 3), f(4), pads=[2, 0, 1, 1])
    yield Case("even kernel, uneven padding", "Conv", "x", f(4, 6, 2, 4), pads=[0, 1, 1, 2])
    yield Case("strides", "Conv", "x", f(4, 6, 3, 3), f(4), pads=[1, 1, 1, 1], strides=[2, 3])
    yield Case("dilated", "Conv", "x", f(4, 6, 3, 3), f(4), pads=[2, 2, 2, 2], dilations=[2, 2])
    yield Case("dilated, oblong", "Conv", "x", f(4, 6, 3, 3), pads=[2, 1, 2, 1], dilations=[2, 1])
    yield Case("depthwise", "Conv", "x", f(6, 1, 3, 3), f(6), pads=[1, 1, 1, 1], group=6)
    yield Case("depthwise, stride", "Conv", "x", f(6, 1, 5, 3), pads=[2, 1, 2, 1], group=6, strides=[2, 2])
    yield Case("depthwise, more channels", "Conv", "x", f(12, 1, 3, 3), pads=[1, 1, 1, 1], group=6)
    yield Case("depthwise, oblong stride", "Conv", "x", f(6, 1, 3, 3), pads=[1, 1, 1, 1], group=6, strides=[1, 2])
    yield Case("depthwise, dilated", "Conv", "x", f(6, 1, 3, 3), f(6), pads=[2, 2, 2, 2], group=6, dilations=[2, 2])
    yield Case("grouped", "Conv", "x", f(4, 3, 3, 3), f(4), pads=[1, 1, 1, 1], group=2)
    yield Case("same upper", "Conv", "x", f(4, 6, 3, 4), auto_pad="SAME_UPPER")
    yield Case("same lower", "Conv", "x", f(4, 6, 3, 4), auto_pad="SAME_LOWER")
    yield Case("same, stride", "Conv", "x", f(4, 6, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2], free=False)
    for kernel in (2, 3, 4, 5):
        for stride in (1, 2, 3):
            for pad in range(min(kernel, 3)):
                more = [{}, {"output_padding": [stride - 1] * 2}][(kernel + pad) % 2] if stride > 1 else {}
                yield Case(f"k{kernel} s{stride} p{pad} {more}", "ConvTranspose", "x", f(6, 4, kernel, kernel), f(4),
                           strides=[stride, stride], pads=[pad] * 4, **more)  # fmt: skip
    yield Case("uneven", "ConvTranspose", "x", f(6, 4, 4, 3), strides=[2, 3], pads=[1, 0, 0, 2])
    yield Case("grouped", "ConvTranspose", "x", f(6, 2, 3, 3), f(4), strides=[2, 2], pads=[1, 1, 1, 1], group=2)
    yield Case("dilated", "ConvTranspose", "x", f(6, 4, 3, 3), strides=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1])
    yield Case("same", "ConvTranspose", "x", f(6, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER", free=False)
    yield Case("output shape", "ConvTranspose", "x", f(6, 4, 4, 4), strides=[2, 2], output_shape=[14, 18], free=False)


def _pools():
    for kind in ("MaxPool", "AveragePool"):
        yield Case("halved", kind, kernel_shape=[2, 2], strides=[2, 2])
        yield Case("ceil", kind, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
        yield Case("ceil, large", kind, kernel_shape=[3, 3], strides=[3, 3], ceil_mode=1)
        yield Case("padded", kind, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        yield Case("padded, ceil", kind, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)
        yield Case("last window in the padding", kind, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1],
                   ceil_mode=1)  # fmt: skip
        yield Case("uneven", kind, kernel_shape=[3, 2], strides=[1, 2], pads=[0, 1, 1, 0])
        yield Case("same", kind, kernel_shape=[3, 3], auto_pad="SAME_UPPER")
    yield Case("dilated", "MaxPool", kernel_shape=[2, 3], strides=[2, 1], dilations=[2, 2])
    counted = {"count_include_pad": 1, "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    yield Case("pads counted", "AveragePool", **counted, strides=[2, 2])
    yield Case("pads counted, ceil", "AveragePool", **counted, strides=[2, 2], ceil_mode=1)
    yield Case("", "GlobalAveragePool")
    yield Case("", "GlobalMaxPool")


def _norms():
    yield Case("", "BatchNormalization", "x", f(6), f(6), f(6), up(6), epsilon=1e-3)
    yield Case("old", "BatchNormalization", "x", f(6), f(6), f(6), up(6), opset=9)
    yield Case("", "InstanceNormalization", "x", f(6), f(6), epsilon=1e-4)
    yield Case("", "GroupNormalization", "x", f(6), f(6), num_groups=2, opset=21)
    yield Case("all", "LayerNormalization", "x", f(9), f(9), axis=-1, free=False)
    yield Case("three axes", "LayerNormalization", "x", f(6, 7, 9), axis=1, free=False)
    yield Case("channels last", "LayerNormalization", "x", f(6), f(6), first=("Transpose", {"perm": [0, 2, 3, 1]}))
    yield Case("", "LRN", size=3, alpha=0.1, beta=0.6, bias=2.0)
    yield Case("", "LpNormalization", axis=1)


def _resizes():
    scales = np.float32
    for where in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        for name, factors in (("twice", (2, 2)), ("thrice", (3, 2)), ("odd", (1.7, 2.3)), ("less", (0.6, 0.5))):
            given = np.asarray([1, 1, *factors], scales)
            yield Case(f"linear {where} {name}", "Resize", "x", None, given, mode="linear",
                       coordinate_transformation_mode=where)  # fmt: skip
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
            for name, factors in (("twice", (2, 3)), ("odd", (1.6, 0.7))):
                given = np.asarray([1, 1, *factors], scales)
                yield Case(f"nearest {where} {rounding} {name}", "Resize", "x", None, given,
                           mode="nearest", coordinate_transformation_mode=where, nearest_mode=rounding)  # fmt: skip
        yield Case(f"sizes {where}", "Resize", "x", None, None, i(2, 6, 11, 5), mode="linear",
                   coordinate_transformation_mode=where)  # fmt: skip
        yield Case(f"cubic {where}", "Resize", "x", None, np.asarray([1, 1, 2, 1.5], scales), mode="cubic",
                   coordinate_transformation_mode=where)  # fmt: skip
    yield Case("one pixel", "Resize", "x", None, None, i(2, 6, 1, 1), mode="linear",
               coordinate_transformation_mode="pytorch_half_pixel")  # fmt: skip
    yield Case("axes", "Resize", "x", None, None, i(5, 20), mode="linear", axes=[2, 3])
    yield Case("old", "Resize", "x", np.asarray([1, 1, 2, 2], scales), mode="linear", opset=10)
    yield Case("", "Upsample", "x", np.asarray([1, 1, 2, 3], scales), mode="nearest", opset=9)
    yield Case("attribute", "Upsample", "x", mode="linear", scales=[1.0, 1.0, 2.0, 2.0], opset=7)


def _selections():
    yield Case("channels", "Concat", "x", "half", axis=1)
    yield Case("rows", "Concat", "x", "half", axis=-2)
    yield Case("batch", "Concat", "x", "half", "x", axis=0)
    yield Case("channels", "Split", "x", i(1, 3, 2), axis=1, outputs=3)
    yield Case("equal", "Split", "x", axis=1, num_outputs=2, outputs=2)
    yield Case("uneven", "Split", "x", axis=2, num_outputs=3, outputs=3, opset=18, free=False)
    yield Case("old", "Split", axis=1, split=[2, 4], outputs=2, opset=11)
    yield Case("rows", "Slice", "x", i(1), i(-1), i(2))
    yield Case("steps", "Slice", "x", i(0, 1), i(2**63 - 1, 5), i(3, 1), i(2, 1))
    yield Case("backwards", "Slice", "x", i(-1, 2**31), i(-(2**63), 1), i(2, 3), i(-1, -2))
    yield Case("old", "Slice", starts=[1, 0], ends=[4, 100], axes=[1, 2], opset=9)
    yield Case("channels", "Gather", "x", i(5, 0, -2), axis=1)
    yield Case("rows", "Gather", "x", i(3, 3, -1, 0), axis=2)
    yield Case("one", "Gather", "x", np.asarray(2, np.int64), axis=1)
    yield Case("table", "Gather", "x", np.asarray([[0, 1], [2, 5]], np.int64), axis=-3)
    yield Case("", "GatherElements", "x", np.abs(_random.integers(0, 7, (2, 6, 4, 9))), axis=2, free=False)
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield Case(mode, "Pad", "x", i(0, 0, 2, 1, 0, 0, 1, 3), mode=mode, opset=20)
    yield Case("value, channels", "Pad", "x", i(0, 1, 0, 2, 1, 2, 0, 0), np.float32(1.5))
    yield Case("crops", "Pad", "x", i(0, 0, -1, 1, 0, 0, 2, -2))
    yield Case("axes", "Pad", "x", i(1, 2), None, i(3))
    yield Case("old", "Pad", pads=[0, 0, 1, 1, 0, 0, 2, 2], mode="reflect", opset=10)
    for mode in ("DCR", "CRD"):
        yield Case(mode, "DepthToSpace", blocksize=2, mode=mode, first=("Conv", {}, f(12, 6, 1, 1)))
    yield Case("", "SpaceToDepth", blocksize=3, first=("Resize", {}, None, np.asarray([1, 1, 3, 3], np.float32)))


def _shapes():
    yield Case("", "Shape")
    yield Case("part", "Shape", start=1, end=3)
    yield Case("", "Size")
    yield Case("keep", "Reshape", "x", i(0, 2, -1))
    yield Case("split channels", "Reshape", "x", i(0, 2, 3, -1))
    yield Case("old order", "Reshape", "x", i(-1, 3))
    yield Case("", "Flatten")
    yield Case("negative", "Flatten", axis=-1)
    yield Case("zero", "Flatten", axis=0)
    pooled = ("GlobalAveragePool", {})
    yield Case("axes", "Squeeze", "x", i(2, 3), first=pooled)
    yield Case("one", "Squeeze", "x", i(-1), first=pooled)
    yield Case("old", "Squeeze", axes=[2], first=("GlobalMaxPool", {}), opset=11)
    yield Case("all", "Squeeze", first=pooled, free=False)
    yield Case("", "Unsqueeze", "x", i(0, -1))
    for order in ([0, 2, 3, 1], [0, 3, 1, 2], [3, 2, 1, 0], [0, 1, 3, 2]):
        yield Case(str(order), "Transpose", perm=order)
    yield Case("default", "Transpose")
    yield Case("", "Expand", "x", i(2, 6, 7, 9), first=pooled)
    yield Case("more sides", "Expand", "x", i(3, 1, 1, 1, 1))
    yield Case("to another", "Expand", "x", "counts", first=pooled)
    yield Case("", "Tile", "x", i(1, 2, 3, 1))
    yield Case("", "ConstantOfShape", "counts", value=helper.make_tensor("v", TensorProto.FLOAT, [1], [2.5]))
    yield Case("", "Range", np.asarray(1, np.int64), np.asarray(9, np.int64), np.asarray(3, np.int64))


def _reductions():
    for kind in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"):
        yield Case("", f"Reduce{kind}", "x", i(2, 3))
    positive = ("Softplus", {})
    yield Case("", "ReduceLogSum", "x", i(1), first=positive)
    yield Case("not kept", "ReduceMean", "x", i(2, 3), keepdims=0)
    yield Case("rows not kept", "ReduceMax", "x", i(2), keepdims=0)
    yield Case("not kept", "ReduceLogSumExp", "x", i(1), keepdims=0)
    yield Case("channels", "ReduceMean", "x", i(1))
    yield Case("everything", "ReduceSum", keepdims=0)
    yield Case("nothing", "ReduceSum", noop_with_empty_axes=1)
    yield Case("old", "ReduceMean", axes=[-1, -2], keepdims=0, opset=11)
    for kind in ("ArgMax", "ArgMin"):
        yield Case("channels", kind, axis=1)
        yield Case("rows", kind, axis=2, keepdims=0)
    yield Case("", "MatMul", "x", f(9, 5), free=False)
    yield Case("batches", "MatMul", "x", f(6, 9, 5), free=False)
    yield Case("vector", "MatMul", "x", f(9), free=False)
    flat = ("Flatten", {})
    yield Case("", "Gemm", "x", f(378, 5), f(5), first=flat, free=False)
    yield Case("all", "Gemm", "x", f(5, 2), f(378, 5), first=flat, transA=1, transB=1, alpha=0.5, beta=2.0, free=False)


def _pointwise():
    for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"):
        yield Case("maps", kind, "x", "half")
    for name, other in (("scalar", np.float32(1.5)), ("channels", f(6, 1, 1)), ("row", f(9)), ("map", f(1, 1, 7, 9)),
                        ("five sides", f(2, 1, 1, 1, 1))):  # fmt: skip
        yield Case(name, "Mul", other, "x", free=name not in ("row", "map"))
    for power in (2.0, 0.5, 3.0):
        yield Case(str(power), "Pow", "half", np.float32(power))
    for kind in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        yield Case("", kind, "x", "half")
    for kind in ("And", "Or", "Xor"):
        yield Case("", kind, "flags", np.asarray([[[True]], [[False]]] * 3))
    yield Case("", "Not", "flags")
    yield Case("", "Where", "flags", "x", f(6, 1, 1))
    yield Case("", "Mod", "x", np.float32(0.3), fmod=1)
    for kind in ("Mod", "Div"):
        yield Case("whole numbers", kind, i(-7, -2, 0, 5, 9), i(3, 4, 2, -3, 5), opset=20)
    yield Case("sizes", "Div", "counts", np.asarray(2, np.int64))
    yield Case("sizes", "Mod", "counts", np.asarray(4, np.int64))
    yield Case("both", "Clip", "x", np.float32(-0.5), np.float32(0.7))
    yield Case("six", "Clip", "x", np.float32(0), np.float32(6))
    yield Case("below", "Clip", "x", np.float32(0))
    yield Case("above", "Clip", "x", None, np.float32(0.2))
    yield Case("old", "Clip", min=-0.3, max=0.4, opset=6)
    for kind in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.DOUBLE):
        yield Case(str(kind), "Cast", to=kind)
    for kind in ("Abs", "Neg", "Sign", "Exp", "Floor", "Ceil", "Round", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh",
                 "Asinh", "Erf", "Identity", "Dropout", "IsNaN"):  # fmt: skip
        yield Case("", kind)
    for kind in ("Log", "Sqrt", "Reciprocal", "Asin", "Acos", "Atanh"):
        yield Case("", kind, "half")
    yield Case("", "Acosh", first=("Max", {}, np.float32(1.5)))
    yield Case("", "CastLike", "flags", "x")


def _activations():
    for kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Mish", "Selu"):
        yield Case("", kind)
    yield Case("", "LeakyRelu", alpha=0.2)
    yield Case("channels", "PRelu", "x", f(6, 1, 1))
    yield Case("one", "PRelu", "x", f(1))
    yield Case("", "ThresholdedRelu", alpha=0.4)
    yield Case("", "Elu")
    yield Case("alpha", "Elu", alpha=0.7)
    yield Case("", "Celu", alpha=0.7)
    yield Case("alpha", "Selu", alpha=1.2, gamma=0.8)
    yield Case("", "HardSigmoid", alpha=0.3, beta=0.4)
    yield Case("", "Gelu")
    yield Case("tanh", "Gelu", approximate="tanh")
    for kind in ("Softmax", "LogSoftmax"):
        yield Case("channels", kind, axis=1)
        yield Case("columns", kind, axis=-1)
        yield Case("old", kind, axis=1, opset=11)


CASES = [case for made in (_convolutions, _pools, _norms, _resizes, _selections, _shapes, _reductions, _pointwise,
                           _activations) for case in made()]  # fmt: skip
