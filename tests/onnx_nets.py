"""Small ONNX graphs whose every byte and number is known."""

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

RNG = np.random.default_rng(0)


def node(operator, inputs, output, **attributes):
    name = attributes.pop("name", output)
    return helper.make_node(operator, inputs.split(), [output], name=name, **attributes)


def stored(**values):
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def build(nodes, tensors=(), *, shape=(1, 3, 8, 8), output="out", opset=17, made=None, inputs=("x",)):
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs]
    rank = made or [None] * 4
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, rank) for name in output.split()]
    graph = helper.make_graph(nodes, "net", given, outputs, list(tensors))
    # com.microsoft: operators of ONNX Runtime's own
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def small(*shape):
    return RNG.integers(-9, 9, shape).astype(np.int8)


GRID = {"s": np.float32(0.1), "z": np.uint8(7)}
WEIGHT = {"w": small(4, 3, 3, 3), "ws": np.full(4, 0.02, np.float32), "wz": np.zeros(4, np.int8)}
IMAGE = [node("QuantizeLinear", "x s z", "xq"), node("DequantizeLinear", "xq s z", "xd")]
WEIGHTS = [node("DequantizeLinear", "w ws wz", "wd", axis=0)]
RESULT = [node("QuantizeLinear", "y s z", "yq"), node("DequantizeLinear", "yq s z", "out")]


def qdq():
    """One convolution on integers, its bias in int32."""
    bias = [node("DequantizeLinear", "b bs bz", "bd", axis=0)]
    conv = [node("Conv", "xd wd bd", "y", pads=[1] * 4)]
    tensors = stored(**GRID, **WEIGHT, b=np.arange(4, dtype=np.int32), bs=np.full(4, 0.002, np.float32),
                     bz=np.zeros(4, np.int32))  # fmt: skip
    return build([*IMAGE, *WEIGHTS, *bias, *conv, *RESULT], tensors)


def size_of(model):
    return len(model.SerializeToString())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8)
        self.depth, self.up = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, image):
        return torch.tanh(self.head(self.up(F.relu(self.depth(self.norm(self.first(image)))))))


def decoded():
    """Integer weights that the graph itself widens: cast, scaled, put into shape."""
    decode = [node("Cast", "w", "wide", to=TensorProto.FLOAT), node("Mul", "wide scale", "scaled"),
              node("Reshape", "scaled shape", "wd"), node("Conv", "x wd", "out")]  # fmt: skip
    tensors = stored(w=small(4, 27), scale=np.full((4, 1), 0.1, np.float32), shape=np.array([4, 3, 3, 3], np.int64))
    return build(decode, tensors)
