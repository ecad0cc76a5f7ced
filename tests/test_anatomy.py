"""What an ONNX file is made of, how it computes, what it could go without, what float16 would cost it."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_nets import GRID, IMAGE, RESULT, RNG, WEIGHT, Net, build, decoded, floats, node, qdq, size_of, small, stored

from compress.kit.graph import count_macs
from compress.kit.ship.anatomy import dissect
from compress.kit.ship.arithmetic import counted, heavy, with_fused
from compress.kit.ship.halves import half_ranges, half_weights
from compress.kit.ship.loading import load
from compress.kit.ship.redundant import redundancies
from compress.kit.ship.runtime import export_graph


@pytest.fixture(scope="module")
def float_net(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("float") / "net.onnx"
    export_graph(Net().eval(), path, channels=3, size=(16, 24), names=("image", "picture"), free=(0, 2, 3))
    return path


# --- bytes


def test_bytes_of_a_quantized_file_are_told_by_what_they_are_for():
    model = qdq()
    anatomy = dissect(model, size_of(model))
    weights, biases = 4 * 3 * 3 * 3, 4 * 4
    scales = 4 * (1 + 4 + 4) + 1 + 4 + 4 * 4  # three float scales, one uint8 zero, four int8 and four int32 zeros
    assert anatomy.bytes_by("role") == {"weights": weights, "quantization parameters": scales, "biases": biases}
    assert anatomy.bytes_by("dtype") == {"int8": weights + 4, "float32": 4 * 9, "int32": biases + 16, "uint8": 1}
    assert anatomy.bytes_by("operator")["Conv"] == weights + biases + 4 * 8 + 4 + 16
    assert anatomy.values == weights + 4
    assert anatomy.stored_bytes == weights + biases
    assert anatomy.theoretical == pytest.approx(4 * (weights + 4) / (weights + biases))
    assert anatomy.real == pytest.approx(4 * (weights + 4) / size_of(model))


def test_tensors_and_overhead_add_up_to_the_file(float_net):
    old = build([node("Conv", "x w", "out", pads=[1] * 4)])
    # an old exporter: numbers as a list, not as bytes, and the initialiser an input too
    values = floats(4, 3, 3, 3)
    old.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, values.shape, values.ravel().tolist()))
    old.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, values.shape))
    inner = helper.make_graph([node("Add", "x big", "then")], "g", [],
                              [helper.make_tensor_value_info("then", TensorProto.FLOAT, [None] * 4)],
                              stored(big=floats(3, 8, 8)))  # fmt: skip
    other = helper.make_graph([node("Neg", "x", "else")], "g", [],
                              [helper.make_tensor_value_info("else", TensorProto.FLOAT, [None] * 4)])  # fmt: skip
    branch = build([helper.make_node("If", ["c"], ["out"], then_branch=inner, else_branch=other)], stored(c=True))
    for model in (qdq(), old, branch, onnx.load(float_net)):
        anatomy = dissect(model, size_of(model))
        assert sum(tensor.bytes for tensor in anatomy.tensors) + sum(anatomy.overhead.values()) == size_of(model)
        # a length and a tag or two around the numbers, never a multiple of them
        assert sum(tensor.bytes for tensor in anatomy.tensors) <= size_of(model)
    assert dissect(branch, size_of(branch)).tensors[0].bytes == 4 * 3 * 8 * 8
    assert [port.name for port in dissect(old, size_of(old)).inputs] == ["x"]


def test_four_bit_weights_count_two_a_byte():
    packed = RNG.integers(0, 256, 54).astype(np.uint8).tobytes()
    fours = helper.make_tensor("w", TensorProto.INT4, (4, 3, 3, 3), packed, raw=True)
    conv = [node("DequantizeLinear", "w ws", "wd", axis=0), node("Conv", "x wd", "out")]
    model = build(conv, [fours, *stored(ws=np.full(4, 0.1, np.float32))], opset=21)
    anatomy = dissect(model, size_of(model))
    weights = anatomy.tensors[0]
    assert (weights.role, weights.dtype, weights.bits, weights.values, weights.bytes) == ("weights", "int4", 4, 108, 54)
    assert anatomy.theoretical == 8


def test_weights_that_an_operator_unpacks_by_itself_count_as_what_they_stand_for():
    packed = RNG.integers(0, 256, (6, 1, 16)).astype(np.uint8)  # 6 outputs of one block of 32 values
    product = helper.make_node("MatMulNBits", ["x", "w", "ws"], ["out"], domain="com.microsoft", K=32, N=6, bits=4,
                               block_size=32)  # fmt: skip
    model = build([product], stored(w=packed, ws=np.ones(6, np.float32)), shape=(1, 32), made=[1, 6])
    anatomy = dissect(model, size_of(model))
    assert (anatomy.values, anatomy.stored_bytes, anatomy.theoretical) == (6 * 32, 6 * 16, 8)
    assert anatomy.bytes_by("role") == {"weights": 96, "quantization parameters": 24}


def test_weights_are_found_behind_whatever_decodes_them():
    model = decoded()
    tensors = {tensor.name: tensor for tensor in dissect(model, size_of(model)).tensors}
    assert {name: tensor.role for name, tensor in tensors.items()} == {
        "w": "weights", "scale": "quantization parameters", "shape": "constants",
    }  # fmt: skip
    assert {tensor.operator for tensor in tensors.values()} == {"Conv"}


def test_biases_and_norms_have_a_class_of_their_own():
    nodes = [node("Conv", "x w b", "c"), node("InstanceNormalization", "c scale shift", "n"),
             node("Flatten", "n", "f"), node("MatMul", "f m", "p"), node("Add", "p plus", "out")]  # fmt: skip
    tensors = stored(w=floats(4, 3, 1, 1), b=floats(4), scale=floats(4), shift=floats(4), m=floats(256, 5),
                     plus=floats(5))  # fmt: skip
    model = build(nodes, tensors, made=[1, 5])
    roles = {tensor.name: tensor.role for tensor in dissect(model, size_of(model)).tensors}
    assert roles == {"w": "weights", "m": "weights", "b": "biases", "plus": "biases", "scale": "norms",
                     "shift": "norms"}  # fmt: skip


def test_free_sides_keep_their_names():
    model = build([node("Relu", "x", "out")], shape=("n", 3, "height", None), made=["n", 3, "height", None])
    (given,) = dissect(model, 100).inputs
    assert given.shape == ("n", 3, "height", "?")
    assert given.free == ("n", "height", "?")


# --- arithmetic


def test_multiply_accumulates_are_those_of_the_network(float_net):
    module = Net().eval()
    works = heavy(onnx.load(float_net), (16, 24))
    assert sum(work.macs for work in works) == count_macs(module, (16, 24), channels=3)
    by_hand = {"first": 3 * 9 * 8 * 384, "depth": 9 * 8 * 384, "up": 8 * 4 * 4 * 384, "head": 4 * 3 * 4 * 384}
    assert sorted(work.macs for work in works if work.macs) == sorted(by_hand.values())
    assert not any(work.integer for work in works)
    assert [work.operator for work in works].count("InstanceNormalization") == 1


def test_sizes_that_shape_inference_does_not_follow_are_counted_all_the_same():
    # the sides are padded by what is computed from them: a remainder that onnx's own inference leaves open
    nodes = [node("Shape", "x", "all", start=2), node("Mod", "all four", "rest"), node("Sub", "four rest", "more"),
             node("Concat", "zeros more", "pads", axis=0), node("Pad", "x pads", "padded"),
             node("Conv", "padded w", "out")]  # fmt: skip
    tensors = stored(four=np.array([4, 4], np.int64), zeros=np.zeros(6, np.int64), w=floats(5, 3, 1, 1))
    model = build(nodes, tensors, shape=("n", 3, "h", "w"))
    assert counted(model, (6, 9)) == {"out": 5 * 3 * 8 * 12}


def test_integer_operators_of_the_file_format_are_counted():
    nodes = [node("DynamicQuantizeLinear", "x", "q")]
    nodes[0].output.extend(["scale", "zero"])
    nodes += [node("ConvInteger", "q w zero", "i"), node("Cast", "i", "out", to=TensorProto.FLOAT)]
    (work,) = heavy(build(nodes, stored(w=small(4, 3, 3, 3))), (8, 8))
    assert (work.operator, work.integer, work.macs) == ("ConvInteger", True, 4 * 27 * 36)


CASES = {
    # name: nodes after the image and the weights are there, what is stored instead, words of the reason
    "on integers": ([node("Conv", "xd wd", "y"), *RESULT], {}, ""),
    "through a relu": ([node("Conv", "xd wd", "c"), node("Relu", "c", "y"), *RESULT], {"z": np.uint8(0)}, ""),
    "image in float": ([node("Conv", "x wd", "y"), *RESULT], {}, "reads the image in float"),
    "float before it": ([node("Sigmoid", "xd", "f"), node("Conv", "f wd", "y"), *RESULT], {}, "result of Sigmoid"),
    "result is the picture": ([node("Conv", "xd wd", "out")], {}, "the picture"),
    "result read in float": (
        [node("Conv", "xd wd", "y"), node("Sigmoid", "y", "f"), node("QuantizeLinear", "y s z", "yq"),
         node("DequantizeLinear", "yq s z", "yd"), node("Add", "f yd", "out")], {}, "read in float by Sigmoid"),
    "transposed": ([node("ConvTranspose", "xd wd", "y"), *RESULT], {"w": small(3, 4, 3, 3), "axis": 1},
                   "no transposed convolution"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_computes_on_integers_is_what_onnx_runtime_fuses(case):
    nodes, changes, why = CASES[case]
    tensors = {**GRID, **WEIGHT} | changes
    weights = [node("DequantizeLinear", "w ws wz", "wd", axis=tensors.pop("axis", 0))]
    model = build([*IMAGE, *weights, *nodes], stored(**tensors))
    onnx.checker.check_model(model)
    loading = load(model)
    assert not loading.error
    (work,) = [work for work in with_fused(heavy(model, (8, 8)), loading) if "Conv" in work.operator]
    assert work.fused == work.integer == (not why)
    assert why in work.why


def test_float_weights_are_a_reason_though_onnx_runtime_rounds_them_itself():
    model = build([*IMAGE, node("Conv", "xd wf", "y"), *RESULT], stored(**GRID, wf=floats(4, 3, 3, 3)))
    (work,) = with_fused(heavy(model, (8, 8)), load(model))
    assert (work.integer, work.why) == (False, "its weights are stored as float32")


def test_scales_by_block_are_a_reason_though_onnx_runtime_fuses_what_it_then_cannot_run():
    tensors = {**GRID, **WEIGHT, "ws": np.full((4, 1, 3, 3), 0.02, np.float32), "wz": np.zeros((4, 1, 3, 3), np.int8)}
    weights = node("DequantizeLinear", "w ws wz", "wd", axis=1, block_size=3)
    model = build([*IMAGE, weights, node("Conv", "xd wd", "y"), *RESULT], stored(**tensors), opset=21)
    (work,) = heavy(model, (8, 8))
    assert (work.integer, "scale per block" in work.why) == (False, True)


def test_weights_decoded_at_load_are_a_reason():
    model = decoded()
    model.graph.node.extend([node("QuantizeLinear", "x s z", "xq")])
    model.graph.initializer.extend(stored(**GRID))
    model.graph.node[3].input[0] = "xd"
    model.graph.node.extend([node("DequantizeLinear", "xq s z", "xd")])
    (work,) = heavy(model, (8, 8))
    assert "widened to float when the file is loaded" in work.why


def test_a_matrix_product_needs_no_rounding_behind_it():
    nodes = [*IMAGE, node("DequantizeLinear", "m ms mz", "md"), node("MatMul", "xd md", "out")]
    model = build(nodes, stored(**GRID, m=small(8, 5), ms=np.float32(0.1), mz=np.int8(0)))
    (work,) = with_fused(heavy(model, (8, 8)), load(model))
    assert work.integer
    assert work.fused


def test_the_maker_s_own_reason_comes_first():
    model = build([*IMAGE, node("Conv", "xd wf", "y", name="head"), *RESULT], stored(**GRID, wf=floats(4, 3, 3, 3)))
    works = heavy(model, (8, 8), {"head": "it costs nothing", "other": "-"})
    assert [work.why for work in works] == ["it costs nothing"]
    # but where the file does compute on integers, no reason is one
    assert heavy(qdq(), (8, 8), {"y": "excluded"})[0].integer


def test_a_graph_onnx_runtime_does_not_know_is_told_of():
    model = build([helper.make_node("Conjure", ["x"], ["out"], domain="com.example")])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert "Conjure" in load(model).error or "com.example" in load(model).error


# --- redundancy


CLEAN = stored(w=floats(4, 3, 1, 1))
REDUNDANT = {
    "Identity: does nothing": ([node("Identity", "x", "i"), node("Relu", "i", "out")], {}),
    "Cast to the type it has": ([node("Cast", "x", "c", to=TensorProto.FLOAT), node("Relu", "c", "out")], {}),
    "Transpose after the one it undoes": (
        [node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("Transpose", "t", "out", perm=[0, 3, 1, 2])], {}),
    "Transpose that moves nothing": ([node("Transpose", "x", "out", perm=[0, 1, 2, 3])], {}),
    "Reshape of what was reshaped": (
        [node("Reshape", "x flat", "r"), node("Reshape", "r full", "out")],
        {"flat": np.array([1, -1], np.int64), "full": np.array([1, 3, 8, 8], np.int64)}),
    "Relu of a Relu": ([node("Relu", "x", "r"), node("Relu", "r", "out")], {}),
    "Concat of one tensor": ([node("Concat", "x", "out", axis=1)], {}),
    "Dropout: does nothing outside training": ([node("Dropout", "x", "out")], {}),
    "Resize to the size it has": (
        [helper.make_node("Resize", ["x", "", "ones"], ["out"], name="out")], {"ones": np.ones(4, np.float32)}),
    "DequantizeLinear and QuantizeLinear of equal parameters": (
        [*IMAGE, node("QuantizeLinear", "xd s2 z", "q2"), node("DequantizeLinear", "q2 s2 z", "out")],
        {**GRID, "s2": np.float32(0.1)}),
    "dead node: its result reaches no output": ([node("Relu", "x", "out"), node("Neg", "x", "dead")], {}),
    "constant: could be computed beforehand": (
        [node("Neg", "one", "minus"), node("Add", "x minus", "out")], {"one": np.ones(1, np.float32)}),
    "unused initialiser": ([node("Relu", "x", "out")], {"idle": floats(3)}),
    "initialiser that repeats another": (
        [node("Add", "x a", "y"), node("Mul", "y b", "out")], {"a": np.full(3, 2.0, np.float32).reshape(3, 1, 1),
                                                              "b": np.full(3, 2.0, np.float32).reshape(3, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", REDUNDANT)
def test_what_could_go_is_found_and_named(kind):
    nodes, tensors = REDUNDANT[kind]
    model = build(nodes, stored(**tensors))
    onnx.checker.check_model(model)
    found = redundancies(model)
    # the two equal scales repeat each other as well
    assert kind in {finding.kind for finding in found}
    assert len(found) == 2 if "QuantizeLinear" in kind else len(found) == 1
    assert all(finding.bytes > 0 for finding in found)


def test_what_has_a_purpose_is_left_alone(float_net):
    training = build([helper.make_node("Dropout", ["x", "", "on"], ["out"])], stored(on=True))
    other_scale = [*IMAGE, node("QuantizeLinear", "xd s2 z", "q2"), node("DequantizeLinear", "q2 s2 z", "out")]
    turned = [node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("Transpose", "t", "out", perm=[0, 2, 3, 1])]
    models = (training, build(other_scale, stored(**GRID, s2=np.float32(0.2))), build(turned), decoded(),
              onnx.load(float_net), qdq())  # fmt: skip
    for model in models:
        assert [f for f in redundancies(model) if f.kind != "initialiser that repeats another"] == []


def test_sizes_of_a_fixed_image_are_constants_and_those_of_a_free_one_are_not():
    nodes = [node("Shape", "x", "size"), node("Reshape", "x size", "out")]
    fixed = redundancies(build(nodes))
    assert [(finding.kind, finding.name) for finding in fixed] == [("constant: could be computed beforehand", "size")]
    assert redundancies(build(nodes, shape=("n", 3, "h", "w"))) == []


# --- float16


def test_weights_are_counted_as_float16_would_hold_them():
    values = np.array([0, 1, -65504, 65505, -1e6, 1e-5, -6e-8, 2e-8, np.inf, np.nan], np.float32)
    (found,) = half_weights(build([node("Relu", "x", "out")], stored(w=values)))
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    some = values != 0
    lost = int((some & (half == 0)).sum())
    subnormal = int((some & (np.abs(values) < 2.0**-14)).sum())
    assert (found.lost, found.subnormal, found.values) == (lost, subnormal, 10) == (1, 3, 10)
    # 65505 rounds to 65504, and is told of nevertheless
    assert found.beyond == 4


NORM = stored(one=np.ones(4, np.float32), none=np.zeros(4, np.float32))
AVERAGES = {
    "instance": (node("InstanceNormalization", "y one none", "n"), (2, 3), 17),
    "layer": (node("LayerNormalization", "y four", "n", axis=-1), (3,), 17),
    "group": (node("GroupNormalization", "y one none", "n", num_groups=2), "groups", 21),
    "mean, old": (node("ReduceMean", "y", "n", axes=[2, 3], keepdims=1), (2, 3), 11),
    "mean, middle": (node("ReduceMean", "y", "n", axes=[1], keepdims=1), (1,), 13),
    "mean, new": (node("ReduceMean", "y axes", "n", keepdims=1), (1, 2), 18),
    "mean of all": (node("ReduceMean", "y", "n", keepdims=1), None, 18),
    "pool": (node("GlobalAveragePool", "y", "n"), (2, 3), 17),
}


@pytest.mark.parametrize("case", AVERAGES)
def test_ranges_and_sums_are_those_numpy_finds(case):
    average, axes, opset = AVERAGES[case]
    tensors = [*NORM, *stored(many=np.float32(300), four=np.ones(6, np.float32), axes=np.array([1, 2], np.int64))]
    model = build([node("Mul", "x many", "y"), average, node("Add", "y n", "out")], tensors, shape=("n", 4, 5, 6),
                  opset=opset)  # fmt: skip
    batches = [floats(2, 4, 5, 6), 2 * floats(1, 4, 5, 6)]
    found = {each.name: each for each in half_ranges(model, ({"x": batch} for batch in batches))}
    sums, squares = [], []
    for batch in batches:
        y = batch * np.float32(300)
        if axes == "groups":
            y = y.reshape(len(y), 2, -1)
        over = (2,) if axes == "groups" else axes
        sums.append(np.abs(y.sum(over)).max())
        squares.append((y**2).sum(over).max())
    y = found["y"]
    assert y.largest == pytest.approx(300 * max(np.abs(batch).max() for batch in batches), rel=1e-5)
    assert y.sum == pytest.approx(max(sums), rel=1e-4)
    assert y.squares == pytest.approx(max(squares), rel=1e-4)
    assert (y.risk, y.summed_by, y.operator) == ("over", "n", "Mul")
    assert found["x"].risk == "none"
    assert found["x"].sum is None


def test_near_and_over_are_told_apart_and_come_first():
    tensors = stored(near=np.float32(40000), over=np.float32(70000), inside=np.float32(30000))
    nodes = [node("Mul", f"x {name}", f"y_{name}") for name in ("inside", "near", "over")]
    model = build([*nodes, node("Sum", "y_inside y_near y_over", "out")], tensors)
    found = half_ranges(model, [{"x": np.ones((1, 3, 8, 8), np.float32)}])
    assert [(each.name, each.risk) for each in found[1:4]] == [("y_over", "over"), ("y_near", "near"),
                                                               ("y_inside", "none")]  # fmt: skip


def test_values_that_are_not_finite_are_over():
    model = build([node("Log", "x", "y"), node("Relu", "y", "out")])
    found = half_ranges(model, [{"x": np.full((1, 3, 8, 8), -1, np.float32)}, {"x": np.ones((1, 3, 8, 8), np.float32)}])
    assert found[0].risk == "over"
    assert json.loads(json.dumps(found[0].largest)) == pytest.approx(float(np.finfo(np.float32).max))
