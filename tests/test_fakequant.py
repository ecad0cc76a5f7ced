"""Fake quantization against ONNX Runtime's integers, bit by bit; gradients; grids that follow and freeze."""

import copy
import platform

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress.core.machine import cpu_flags
from compress.kit.quant.fakequant import FakeQuant, round_channels, round_map
from compress.kit.quant.insert import insert
from compress.kit.quant.latent import latent, with_latent_weights
from compress.kit.quant.plan import Choice, Grid, Plan, Rounded
from compress.kit.quant.torchgraph import TorchGraph
from compress.kit.quant.weights import quantize_channels

# without VNNI an x86 CPU adds two products in 16 bits, and cuts off: see compress.kit.quant.integers
EXACT = platform.machine() not in ("x86_64", "AMD64") or {"avx512_vnni", "avx_vnni"} & set(cpu_flags())
exact = pytest.mark.skipif(not EXACT, reason="this CPU's integer sums saturate")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model_of(nodes, stored, channels, output="y"):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, "H", "W"])
    made = onnx.ValueInfoProto(name=output)
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph([helper.make_node(kind, inputs, [out], name=f"n_{out}", **more)
                               for kind, inputs, out, more in nodes], "g", [image], [made], arrays)  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    return model


def plan_of(model, grids, forms=None, **more):
    layers = {node.name: Choice((forms or {}).get(node.name, "int8"), "") for node in model.graph.node}
    return Plan(layers, grids, **more)


def session_of(model, level="ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def integers_of(deployed, feed):
    """Every uint8 map that ONNX Runtime computes with, in the order of the file."""
    shown = copy.deepcopy(deployed)
    names = [node.output[0] for node in shown.graph.node if node.op_type == "QuantizeLinear"]
    for name in names:
        shown.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    return session_of(shown).run(names, {"x": feed})


def kernels_of(deployed, folder):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(deployed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def stored_integers(array, bias, step, axis=0):
    """Weights and bias as integers and the weights' scales, by their definition: scale = max|w| / 127."""
    flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    scale = np.asarray([np.float32(np.abs(row).max()) / np.float32(127) for row in flat], np.float32)
    shape = [-1 if each == axis else 1 for each in range(array.ndim)]
    integers = np.rint((array / scale.reshape(shape)).astype(np.float32)).astype(np.int64)
    both = (np.float32(step) * scale).astype(np.float32)
    added = np.zeros(len(scale), np.int64) if bias is None else np.rint(bias.astype(np.float64) / both).astype(np.int64)
    return integers, added, scale


def requantized(sums, source, scale, target):
    """Sums (N, O, ...) to uint8: one float32 multiplier per channel, to the nearest, half to even."""
    multiplier = (np.float32(source.scale) * scale) / np.float32(target.scale)
    shape = (1, -1, *[1] * (sums.ndim - 2))
    product = sums.astype(np.float32) * multiplier.astype(np.float32).reshape(shape)
    return np.clip(np.rint(product) + target.zero, 0, 255).astype(np.uint8)


def conv_sums(image, weight, bias, *, pads=0, stride=1, dilation=1, groups=1):
    """Slow convolution of integers (N, C, H, W), one tap after the other; padding is the value zero."""
    padded = np.pad(image, [(0, 0), (0, 0), (pads, pads), (pads, pads)])
    outputs, inputs, high, wide = weight.shape
    reach = [(side - 1) * dilation + 1 for side in (high, wide)]
    rows, columns = ((side - far) // stride + 1 for side, far in zip(padded.shape[2:], reach, strict=True))
    total = np.zeros((len(image), outputs, rows, columns), np.float64)
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for i in range(inputs):
            for r in range(high):
                for c in range(wide):
                    top, left = r * dilation, c * dilation
                    seen = padded[:, first + i, top : top + rows * stride : stride,
                                  left : left + columns * stride : stride]  # fmt: skip
                    total[:, o] += seen[:, :rows, :columns].astype(np.float64) * float(weight[o, i, r, c])
        total[:, o] += float(bias[o])
    return total


WINDOWS = [
    {},
    {"pads": 1, "stride": 2},
    {"pads": 2, "dilation": 2},
    {"pads": 1, "groups": 2},
    {"pads": 1, "groups": 4},
]  # fmt: skip


def convolution(window, *, relu=False, bias=True, seed=0):
    """One integer convolution (4 to 8 channels) of "x", its parts and its plan."""
    weight = noise(8, 4 // window.get("groups", 1), 3, 3, seed=seed)
    stored = {"w": weight} | ({"b": noise(8, seed=seed + 1)} if bias else {})
    attributes = {"pads": [window.get("pads", 0)] * 4, "strides": [window.get("stride", 1)] * 2,
                  "dilations": [window.get("dilation", 1)] * 2, "group": window.get("groups", 1)}  # fmt: skip
    nodes = [("Conv", ["x", *stored], "a" if relu else "y", attributes)]
    nodes += [("Relu", ["a"], "y", {})] if relu else []
    model = model_of(nodes, stored, 4)
    grids = {"x": Grid.over(-2.9, 3.3), "y": Grid.over(0.0 if relu else -7.1, 11.3)}
    return model, plan_of(model, grids), stored


@exact
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_a_convolution_in_onnx_runtime_is_exact_integers_and_fake_quantization_steps_beside_them(
    window, relu, tmp_path
):
    model, plan, stored = convolution(window, relu=relu)
    fake = FakeQuant(model, plan).eval()
    deployed = insert(fake.graph(), fake.plan())
    assert "QLinearConv" in kernels_of(deployed, tmp_path)
    image = noise(2, 4, 33, 31, seed=7)
    first, second = integers_of(deployed, image)
    x, y = plan.maps["x"], plan.maps["y"]
    np.testing.assert_array_equal(first, np.clip(np.rint(image / np.float32(x.scale)) + x.zero, 0, 255))
    weight, bias, scale = stored_integers(stored["w"], stored["b"], x.scale)
    sums = conv_sums(first.astype(np.int64) - x.zero, weight, bias, **window)
    np.testing.assert_array_equal(second, requantized(sums, x, scale, y))
    (found,) = fake(torch.from_numpy(image), ["y"])
    assert_steps(second, found, y)


def assert_steps(integers, found, grid):
    """The float path: at most one step beside the integers, in at most one of a thousand elements."""
    steps = found.detach().numpy() / np.float32(grid.scale) + grid.zero
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    apart = np.abs(np.rint(steps) - integers)
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 1e-3


@exact
def test_a_matrix_product_in_onnx_runtime_is_exact_integers_too(tmp_path):
    stored = {"shape": np.asarray([-1, 24], np.int64), "w": noise(24, 7), "b": noise(7, seed=1),
              "v": noise(7, 5, seed=2)}  # fmt: skip
    nodes = [("Reshape", ["x", "shape"], "r", {}), ("Gemm", ["r", "w", "b"], "a", {}), ("MatMul", ["a", "v"], "y", {})]
    model = model_of(nodes, stored, 3)
    grids = {name: Grid.over(*pair) for name, pair in {"r": (-3, 3), "a": (-14, 15), "y": (-41, 39)}.items()}
    plan = plan_of(model, grids, {"n_r": "float32"})
    fake = FakeQuant(model, plan).eval()
    deployed = insert(fake.graph(), fake.plan())
    assert {"QGemm", "QLinearMatMul"} <= set(kernels_of(deployed, tmp_path))
    image = noise(200, 3, 8, 8)
    maps = dict(zip("ray", integers_of(deployed, image), strict=True))
    for source, target, weight, bias in (("r", "a", "w", "b"), ("a", "y", "v", None)):
        integers, added, scale = stored_integers(stored[weight], stored.get(bias), grids[source].scale, axis=1)
        sums = (maps[source].astype(np.int64) - grids[source].zero) @ integers + added
        np.testing.assert_array_equal(maps[target], requantized(sums, grids[source], scale, grids[target]))
    for name, found in zip("ray", fake(torch.from_numpy(image), list("ray")), strict=True):
        assert_steps(maps[name], found, grids[name])


@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("biased", [True, False])
def test_gemm_runs_in_integers_whatever_its_form(tmp_path, form, turned, biased):
    shape = (7, 24) if turned else (24, 7)
    stored = {"shape": np.asarray([-1, 24], np.int64), "w": noise(*shape), "b": noise(7, seed=1)}
    nodes = [
        ("Reshape", ["x", "shape"], "r", {}),
        ("Gemm", ["r", "w", "b"][: 3 if biased else 2], "y", {"transB": turned}),
    ]
    model = model_of(nodes, stored if biased else {k: v for k, v in stored.items() if k != "b"}, 3)
    plan = plan_of(model, {"r": Grid.over(-3, 3), "y": Grid.over(-14, 15)}, {"n_r": "float32", "n_y": form})
    deployed = insert(model, plan)
    assert "QGemm" in kernels_of(deployed, tmp_path)
    assert "Gemm" not in kernels_of(deployed, tmp_path)
    image = np.clip(noise(50, 3, 8, 8), -2.9, 2.9)
    fake = FakeQuant(model, plan).eval()
    (found,) = session_of(deployed, "ORT_DISABLE_ALL").run(None, {"x": image})  # as the standard defines it, in float
    np.testing.assert_allclose(found, fake(torch.from_numpy(image)).detach().numpy(), atol=29 / 255 * 1.01)
    quick = session_of(deployed).run(None, {"x": image})[0]
    assert (np.abs(quick - found) > 1e-6).mean() < (0.01 if EXACT else 0.5)


def test_convolutions_keep_their_kernels_and_their_bytes(tmp_path):
    stored = {"w": noise(8, 4, 3, 3), "b": noise(8, seed=1)}
    model = model_of([("Conv", ["x", "w", "b"], "y", {"pads": [1] * 4})], stored, 4)
    deployed = insert(model, plan_of(model, {"x": Grid.over(-3, 3), "y": Grid.over(-20, 20)}))
    assert "QLinearConv" in kernels_of(deployed, tmp_path)
    decoders = [node for node in deployed.graph.node if node.op_type == "DequantizeLinear"]
    assert sorted(len(node.input) for node in decoders) == [2, 2, 3, 3]  # weights and bias name no zero points


@exact
def test_along_a_chain_of_layers_fake_quantization_stays_with_the_integers():
    stored = {
        "w1": noise(8, 4, 3, 3),
        "b1": noise(8, seed=1),
        "w2": noise(8, 8, 3, 3, seed=2),
        "w3": noise(2, 8, 1, 1, seed=3),
    }
    nodes = [
        ("Conv", ["x", "w1", "b1"], "a", {"pads": [1] * 4}), ("Relu", ["a"], "b", {}),
        ("MaxPool", ["b"], "c", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", ["c", "w2"], "d", {"pads": [1] * 4}), ("Conv", ["d", "w3"], "y", {}),
    ]  # fmt: skip
    model = model_of(nodes, stored, 4)
    half = Grid.over(0, 19)
    grids = {"x": Grid.over(-3, 3), "b": half, "c": half, "d": Grid.over(-90, 80), "y": Grid.over(-200, 210)}
    plan = plan_of(model, grids)
    fake = FakeQuant(model, plan).eval()
    image = noise(2, 4, 64, 64)
    deployed = insert(fake.graph(), fake.plan())
    _, *maps = integers_of(deployed, image)
    for name, theirs, ours in zip("bcdy", maps, fake(torch.from_numpy(image), list("bcdy")), strict=True):
        assert_steps(theirs, ours, grids[name])


@pytest.mark.parametrize("shared", [True, False])
def test_maps_are_rounded_for_just_the_readers_of_the_deployed_graph(shared):
    """Convolution, ReLU behind a float convolution, transposed convolution with stored integers, a float head."""
    stored = {"w1": noise(4, 3, 3, 3), "b1": noise(4, seed=1), "w2": noise(4, 4, 3, 3, seed=2), "up": noise(4, 2, 2, 2),
              "b": noise(2), "w3": noise(3, 2, 1, 1),
              "one": np.ones(4, np.float32), "nil": np.zeros(4, np.float32)}  # fmt: skip
    nodes = [
        ("Conv", ["x", "w1", "b1"], "a", {"pads": [1] * 4}), ("Relu", ["a"], "r", {}),
        ("InstanceNormalization", ["r", "one", "nil"], "i", {}), ("Conv", ["i", "w2"], "c", {"pads": [1] * 4}),
        ("Add", ["c", "i"], "s", {}), ("ConvTranspose", ["s", "up", "b"], "t", {"strides": [2, 2]}),
        ("Conv", ["t", "w3"], "h", {}), ("Tanh", ["h"], "y", {}),
    ]  # fmt: skip
    model = model_of(nodes, stored, 3)
    forms = dict.fromkeys(("n_i", "n_r", "n_h", "n_y"), "float32")
    forms |= {"n_s": "int8" if shared else "float32", "n_t": "int8w"}
    reach = {"x": (-3, 3), "r": (0, 9), "i": (-1, 4), "c": (-14, 16)} | (
        {"s": (-15, 16), "t": (-30, 31)} if shared else {}
    )
    plan = plan_of(model, {name: Grid.over(*pair) for name, pair in reach.items()}, forms, shared=shared)
    fake, image = FakeQuant(model, plan).eval(), noise(2, 3, 16, 16)
    deployed = insert(fake.graph(), fake.plan())
    (wanted,) = session_of(deployed, "ORT_DISABLE_ALL").run(None, {"x": image})
    found = fake(torch.from_numpy(image)).detach().numpy()
    plain = TorchGraph(model)(torch.from_numpy(image)).detach().numpy()
    assert np.abs(found - wanted).mean() <= 1e-5
    assert np.abs(plain - wanted).mean() >= 1e-3


@pytest.mark.parametrize("form", ["int8w", "int4", "int4w", "float16w", "bfloat16w"])
def test_every_form_of_weights_trains_as_it_is_stored(form):
    model, _, _ = convolution({"pads": 1})
    grids = {"x": Grid.over(-3, 3), "y": Grid.over(-9, 9)} if form == "int4" else {}
    plan = plan_of(model, grids, {"n_y": form}, block=8)
    fake, image = FakeQuant(model, plan), noise(1, 4, 12, 12)
    (wanted,) = session_of(insert(fake.graph(), fake.plan()), "ORT_DISABLE_ALL").run(None, {"x": image})
    found = fake.eval()(torch.from_numpy(image))
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=0.08 if form == "int4" else 1e-5)
    assert np.mean(np.abs(found.detach().numpy() - wanted)) <= 1e-4
    found.square().sum().backward()
    assert fake.net.named_weights()["w"].grad.abs().sum() > 0


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_weights_round_bit_for_bit_as_the_file_stores_them(axis):
    weight = noise(5, 6, 3, 4, seed=3)
    weight[2] = 0
    weight[:, :, 0, 0] = 0.5 * np.abs(weight).max() / 127  # the middle between two steps
    least = np.linspace(0, 0.1, weight.shape[axis]).astype(np.float32)
    for floor in (None, least):
        wanted = quantize_channels(weight, axis, floor)
        rounded, scales = round_channels(
            torch.from_numpy(weight), axis, None if floor is None else torch.from_numpy(floor)
        )
        np.testing.assert_array_equal(scales.numpy(), wanted.scales)
        np.testing.assert_array_equal(rounded.numpy(), wanted.values)


def test_a_bias_too_large_for_the_steps_of_its_weights_widens_them():
    model = model_of([("Conv", ["x", "w", "b"], "y", {})], {"w": np.full((2, 1, 1, 1), 1e-6, np.float32),
                                                           "b": np.asarray([3e3, 0], np.float32)}, 1)  # fmt: skip
    plan = plan_of(model, {"x": Grid.over(0, 1e-3), "y": Grid.over(0, 4e3)})
    fake, image = FakeQuant(model, plan).eval(), np.full((1, 1, 2, 2), 5e-4, np.float32)
    (wanted,) = session_of(insert(fake.graph(), fake.plan()), "ORT_DISABLE_ALL").run(None, {"x": image})
    np.testing.assert_array_equal(fake(torch.from_numpy(image)).detach().numpy(), wanted)
    assert wanted[0, 0, 0, 0] == pytest.approx(3e3, rel=1e-2)


def test_the_gradient_of_a_rounded_map_passes_inside_its_grid_alone():
    x = torch.tensor([-1.3, -1.0, -0.2, 0.0, 0.7, 2.9, 3.2], requires_grad=True)
    grid = Grid.over(-1.0, 3.0)
    y = round_map(x, grid)
    y.backward(torch.arange(1.0, 8.0))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]
    assert (y - x.clamp(grid.low, grid.high)).abs().max() <= grid.scale / 2 + 1e-6


def test_weights_and_biases_of_every_layer_learn_through_the_rounding():
    model, _, _ = convolution({"pads": 1}, relu=True)
    fake = FakeQuant(model, plan_of(model, {"x": Grid.over(-4, 4), "y": Grid.over(0, 30)}))
    image = torch.from_numpy(noise(2, 4, 16, 16))
    with torch.no_grad():
        target = TorchGraph(model)(image) * 0.9 + 0.1
    optimizer = torch.optim.Adam(fake.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (fake(image) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert set(fake.net.named_weights()) == {"w", "b"}
    assert losses[-1] < 0.3 * losses[0]


def test_without_warm_up_the_plan_stays_what_it_was():
    model, plan, _ = convolution({}, relu=True)
    fake = FakeQuant(model, plan)
    fake(torch.from_numpy(noise(1, 4, 8, 8) * 100))
    assert fake.plan().maps == plan.maps
    assert fake.graph().SerializeToString() == model.SerializeToString()


def test_grids_follow_the_maps_while_warming_up_and_then_stand_still():
    model, plan, _ = convolution({}, relu=True)
    fake = FakeQuant(model, plan, warmup=3)
    image = torch.from_numpy(noise(1, 4, 8, 8)).clamp(-2, 2) * 3
    low, high = plan.maps["x"].low, plan.maps["x"].high
    for _ in range(3):
        low, high = low + 0.1 * (float(image.min()) - low), high + 0.1 * (float(image.max()) - high)
        fake(image)
    moved = fake.plan().maps
    assert moved["x"] == Grid.over(low, high)
    assert moved["y"].zero == 0  # a ReLU's: the file still leaves it to the rounding
    fake(image * 10)
    fake.eval()(image * 10)
    assert fake.plan().maps == moved
    deployed = insert(fake.graph(), fake.plan())
    assert not [node for node in deployed.graph.node if node.op_type == "Relu"]


def test_looking_without_training_moves_no_grid():
    model, plan, _ = convolution({})
    fake = FakeQuant(model, plan, warmup=3).eval()
    fake(torch.from_numpy(noise(1, 4, 8, 8) * 100))
    assert fake.plan().maps == plan.maps
    assert int(fake.passes) == 0


def test_maps_that_share_a_grid_go_on_sharing_it():
    nodes = [("MaxPool", ["x"], "p", {"kernel_shape": [2, 2]}), ("Conv", ["p", "w"], "y", {})]
    model = model_of(nodes, {"w": noise(2, 3, 1, 1)}, 3)
    shared = Grid.over(-2, 2)
    fake = FakeQuant(model, plan_of(model, {"x": shared, "p": shared, "y": Grid.over(-8, 8)}), warmup=5)
    fake(torch.from_numpy(noise(1, 3, 9, 9) * 4))
    moved = fake.plan().maps
    assert moved["x"] == moved["p"] != shared


def test_the_state_restores_weights_grids_and_the_count_of_passes():
    model, plan, _ = convolution({})
    first, second = FakeQuant(model, plan, warmup=2), FakeQuant(model, plan, warmup=2)
    with torch.no_grad():
        first.net.named_weights()["w"].mul_(1.5)
    first(torch.from_numpy(noise(1, 4, 8, 8) * 3))
    second.load_state_dict(first.state_dict())
    assert second.plan().maps == first.plan().maps != plan.maps
    assert second.graph().SerializeToString() == first.graph().SerializeToString()
    assert int(second.passes) == 1


def learned(weight, axis=0, seed=3):
    """Rounding that went up or down against the nearest at every third weight, but at the largest of each channel."""
    plain = quantize_channels(weight, axis)
    shape = [-1 if each == axis else 1 for each in range(weight.ndim)]
    steps = weight.astype(np.float64) / plain.scales.astype(np.float64).reshape(shape)
    other = np.where(steps > plain.integers, plain.integers + 1, plain.integers - 1).clip(-127, 127)
    chosen = (np.random.default_rng(seed).random(weight.shape) < 1 / 3) & (np.abs(plain.integers) < 127)
    return Rounded(np.where(chosen, other, plain.integers).astype(np.int8), plain.scales)


def test_training_starts_from_the_learned_rounding_and_can_leave_it():
    model, plan, stored = convolution({})
    known = learned(stored["w"])
    assert (known.integers != quantize_channels(stored["w"], 0).integers).mean() > 0.2
    whole = Plan(plan.layers, plan.maps, rounded={"n_y": known})
    fake = FakeQuant(model, whole).eval()
    assert fake.plan().rounded == {}  # as they move they are rounded to the nearest
    assert insert(fake.graph(), fake.plan()) == insert(model, whole)
    (at_start,) = [p for p in fake.parameters() if p.shape == stored["w"].shape]
    moved = np.abs(at_start.detach().numpy() - stored["w"]) / known.scales.reshape(-1, 1, 1, 1)
    assert moved.max() < 1  # of a step: no further than past the border
    nearest = known.integers == quantize_channels(stored["w"], 0).integers
    assert moved[nearest].max() < 0.002
    steps = at_start.detach().numpy() / known.scales.reshape(-1, 1, 1, 1)
    assert np.abs(np.abs(steps - known.integers) - 0.499)[~nearest].max() < 1e-3  # a little step back turns them over


def test_rounding_whose_scale_would_move_is_rounded_to_the_nearest():
    weight = noise(6, 4, 3, 3)
    plain = quantize_channels(weight, 0)
    integers = plain.integers.copy()
    integers[2][np.abs(integers[2]) == 127] = 100  # the largest of this channel is gone, and with it the scale
    found = latent(weight, Rounded(integers, plain.scales), 0)
    assert np.array_equal(found[2], weight[2])
    assert np.array_equal(quantize_channels(found, 0).integers[:2], integers[:2])


@pytest.mark.parametrize("more", [{"safe_weights": True}, {"form": "int4"}])
def test_other_forms_of_weights_are_left_alone(more):
    model, plan, stored = convolution({})
    layers = {"n_y": Choice(more.get("form", "int8"), "")}
    plan = Plan(layers, plan.maps, rounded={"n_y": learned(stored["w"])}, safe_weights="safe_weights" in more)
    assert with_latent_weights(model, plan).SerializeToString() == model.SerializeToString()


def test_weights_rounded_beforehand_are_rounded_anew_and_leave_the_plan():
    model, plan, stored = convolution({})
    known = Rounded(np.ones_like(stored["w"], np.int8), np.ones(8, np.float32))
    fake = FakeQuant(model, Plan(plan.layers, plan.maps, rounded={"n_y": known})).eval()
    assert fake.plan().rounded == {}
    image = torch.from_numpy(noise(1, 4, 8, 8))
    assert torch.equal(fake(image), FakeQuant(model, plan).eval()(image))
