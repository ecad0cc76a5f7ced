"""Sums of int8 products on CPUs without VNNI, and weights that saturate none of them."""

import os
import shutil
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import ArtifactError
from compress.core.machine import cpu_flags
from compress.kit.quant.integers import can_saturate, rows, saturation_free, sums
from compress.kit.quant.saturation import saturation
from compress.kit.ship.runtime import open_session

STEP, ZERO = 0.02, 37  # of the maps below
QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")


def plain(weight, axis):
    """One channel at a time, max |w| / 127."""
    integers, scales = np.zeros(weight.shape, np.int8), []
    for channel in range(weight.shape[axis]):
        place = (slice(None),) * axis + (channel,)
        scale = np.float32(np.abs(weight[place]).max() / np.float32(127)) or np.float32(1)
        integers[place] = np.clip(np.round(weight[place] / scale), -127, 127)
        scales.append(scale)
    return integers, np.array(scales, np.float32)


def slow_sum(values, weights, pairs):
    """Sum of products in the order of ``pairs``, each pair cut off at 16 bits; positions in no pair are alone."""
    alone = set(range(len(values))) - {place for pair in pairs for place in pair}
    total = 0
    for places in [*pairs, *([place] for place in alone)]:
        added = sum(int(values[place]) * int(weights[place]) for place in places)
        total += min(max(added, -32768), 32767)
    return total


def in_turn(places):
    return [tuple(places[index : index + 2]) for index in range(0, len(places) - 1, 2)]


def every_pairing(taps_high, taps_wide, inputs):
    """Neighbours of each runtime as positions in (tap, channel) order, written out line by line."""
    place = lambda y, x, c: (y * taps_wide + x) * inputs + c  # noqa: E731
    ys, xs, cs = range(taps_high), range(taps_wide), range(inputs)
    yield in_turn([place(y, x, c) for y in ys for x in xs for c in cs])
    yield [pair for y in ys for x in xs for pair in in_turn([place(y, x, c) for c in cs])]
    yield [pair for y in ys for pair in in_turn([place(y, x, c) for x in xs for c in cs])]
    yield in_turn([place(y, x, c) for x in xs for y in ys for c in cs])


def test_sums_are_those_of_a_slow_loop():
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 256, (40, 27)).astype(np.uint8)
    weight = rng.integers(-128, 128, (6, 27)).astype(np.int8)
    exact, cut = sums(columns, weight)
    pairs = in_turn(range(27))
    for row in range(40):
        for channel in range(6):
            assert exact[row, channel] == sum(
                int(a) * int(b) for a, b in zip(columns[row], weight[channel], strict=True)
            )
            assert cut[row, channel] == slow_sum(columns[row], weight[channel], pairs)
    assert (exact != cut).mean() > 0.1


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [(64, 64, False), (64, 65, True), (127, 1, False), (127, 2, True), (-64, -64, False), (-127, -2, True),
     (-128, 0, False), (-128, -1, True), (127, -128, False), (-128, -128, True)],
)  # fmt: skip
def test_a_pair_saturates_from_129_on(first, second, wanted):
    pair = np.array([[first, second]], np.int8)
    assert can_saturate(pair, 0) == [wanted]
    white = np.full((1, 2), 255, np.uint8)
    exact, cut = sums(white, pair)
    assert bool((exact != cut).all()) == wanted


def worst_inputs(weight):
    """Maps that are 255 where a weight has one sign and 0 elsewhere: no other input makes a larger pair."""
    return [np.where(weight > 0, 255, 0).astype(np.uint8), np.where(weight < 0, 255, 0).astype(np.uint8)]


def assert_no_input_saturates(integers):
    """integers: (O, I, kh, kw). Tries the worst inputs of every channel in every order of the runtimes."""
    flat = integers.transpose(0, 2, 3, 1).reshape(len(integers), -1)
    orders = list(every_pairing(*integers.shape[2:], integers.shape[1]))
    for channel in flat:
        for values in worst_inputs(channel):
            exact = int(values.astype(int) @ channel.astype(int))
            assert all(slow_sum(values, channel, pairs) == exact for pairs in orders)


kernels = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
values = st.floats(-4, 4, width=32, allow_subnormal=False)


@given(weight=arrays.arrays(np.float32, kernels, elements=values), uniform=st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_input_saturates_weights_that_are_free_of_it(weight, uniform):
    integers, scale = saturation_free(weight, 0, uniform=uniform)
    assert integers.dtype == np.int8
    assert scale.dtype == np.float32
    assert integers.shape == weight.shape
    assert scale.shape == (len(weight), 1, 1, 1)
    assert not can_saturate(integers, 0).any()
    assert_no_input_saturates(integers)
    # a weight gives way by half its size at most, and half a step of rounding
    assert (np.abs(integers * scale - weight) <= np.abs(weight) / 2 + scale).all()


@pytest.mark.parametrize("inputs", [1, 3, 4, 7, 16])
def test_the_emulated_sums_of_such_weights_are_exact_whatever_comes(inputs):
    rng = np.random.default_rng(inputs)
    weight = rng.standard_normal((32, inputs, 3, 3)).astype(np.float32)
    weight[::2] = np.abs(weight[::2])  # of one sign throughout: the worst there is
    black_and_white = (rng.random((200, inputs * 9)) < 0.7).astype(np.uint8) * 255
    for uniform in (False, True):
        flat = rows(saturation_free(weight, 0, uniform=uniform)[0], 0)
        worst = np.concatenate([input for channel in flat for input in worst_inputs(channel)]).reshape(
            -1, flat.shape[1]
        )
        for columns in (worst, black_and_white):
            exact, cut = sums(columns, flat)
            np.testing.assert_array_equal(exact, cut)
    exact, cut = sums(worst, rows(plain(weight, 0)[0], 0))
    assert (exact != cut).any()


@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 6, 3, 3), 0), ((6, 8, 3, 3), 1), ((20, 8), 1), ((8, 20), 0), ((8, 5, 3), 0)]
)
def test_channels_without_such_a_pair_keep_plain_rounding(shape, axis):
    weight = 1 + np.random.default_rng(1).random(shape).astype(np.float32)
    fair = (slice(None),) * axis + (slice(0, 4),)
    # beside one large weight a few hundredths are nothing: no two neighbours come to 129 of 127 steps
    weight[fair] *= 0.01
    place = [0] * weight.ndim
    for place[axis] in range(4):
        weight[tuple(place)] = 4
    integers, scale = saturation_free(weight, axis)
    expected, scales = plain(weight, axis)
    assert not can_saturate(expected, axis)[:4].any()
    assert can_saturate(expected, axis)[4:].all()
    np.testing.assert_array_equal(integers[fair], expected[fair])
    np.testing.assert_array_equal(scale.ravel()[:4], scales[:4])
    assert (scale.ravel()[4:] >= scales[4:]).all()
    assert [side for side in scale.shape if side > 1] == [8]
    assert scale.shape[axis] == 8


def test_the_weights_lose_less_than_with_7_bits_and_than_with_a_scale_at_which_every_pair_fits():
    weight = np.random.default_rng(2).standard_normal((64, 32, 3, 3)).astype(np.float32)
    flat = weight.transpose(0, 2, 3, 1).reshape(64, -1)
    pairs = flat.reshape(64, -1, 2)
    together = np.where((pairs > 0).all(2) | (pairs < 0).all(2), np.abs(pairs.sum(2)), 0).max(1)
    # two rounded up come to half a step each more than their sum, 127 + 1
    fitting = (np.maximum(together, np.abs(flat).max(1)) / 127).reshape(-1, 1, 1, 1)
    integers, scales = plain(weight, 0)
    ways = {
        "free": saturation_free(weight, 0),
        "7 bits": saturation_free(weight, 0, uniform=True),
        "fitting": (np.round(weight / fitting), fitting),
        "plain": (integers, scales.reshape(-1, 1, 1, 1)),
    }
    assert not can_saturate(ways["fitting"][0].astype(np.int8), 0).any()
    errors = {name: np.square(found * scale - weight).sum((1, 2, 3)) for name, (found, scale) in ways.items()}
    assert (errors["free"] <= errors["7 bits"]).all()
    total = {name: error.sum() for name, error in errors.items()}
    assert total["plain"] < total["free"] < total["fitting"] < total["7 bits"]
    assert 2 * total["free"] < total["7 bits"]


def test_a_scale_is_never_smaller_than_asked_and_empty_channels_are_whole():
    weight = np.random.default_rng(4).standard_normal((4, 4, 3, 3)).astype(np.float32)
    weight[1] = 0
    least = np.array([0, 0, 1, 0.001], np.float32)
    integers, scale = saturation_free(weight, 0, least=least)
    assert (scale.ravel() >= least).all()
    assert scale.ravel()[2] == 1
    np.testing.assert_array_equal(integers[2], np.round(weight[2]))
    assert not integers[1].any()
    assert scale.ravel()[1] == 1


def model(path, *, weight, groups=1, side=9, seed=0, stride=1, dilation=1, operator="Conv", rounded=True):
    """Write a layer in QDQ form and return its input: x - Q - DQ - layer - Relu - Q - DQ."""
    rng = np.random.default_rng(seed)
    outputs, inputs = weight.shape[:2]
    attributes, rank, axis = {}, 4, 0
    if operator == "Conv":
        pad = dilation * (weight.shape[2] // 2)
        attributes = {"group": groups, "pads": [pad, 0, pad, pad], "strides": [stride] * 2, "dilations": [dilation] * 2}
        shape = (2, inputs * groups, side, side + 3)
    else:
        attributes = {"transB": 1} if operator == "Gemm" else {}
        shape, rank, axis = (side, inputs), 2, 0 if operator == "Gemm" else 1
        weight = weight if operator == "Gemm" else weight.T
    output_step = np.float32(STEP * 0.01 * np.sqrt(weight.size / outputs) * 60)
    stored = {
        "step": np.float32(STEP), "zero": np.uint8(ZERO), "weight": np.ascontiguousarray(weight),
        "scale": np.linspace(0.008, 0.012, outputs).astype(np.float32), "ystep": output_step, "yzero": np.uint8(128),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["map"]),
        helper.make_node("DequantizeLinear", ["map", "step", "zero"], ["left"]),
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["right"], axis=axis),
        helper.make_node(operator, ["left", "right"], ["sum"], name="layer", **attributes),
    ]
    last = "sum"
    if rounded:
        nodes.append(helper.make_node("QuantizeLinear", ["sum", "ystep", "yzero"], ["ymap"]))
        nodes.append(helper.make_node("DequantizeLinear", ["ymap", "ystep", "yzero"], ["out"]))
        last = "out"
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    raw = rng.integers(0, 256, shape)
    return raw, ((raw - ZERO) * np.float32(STEP)).astype(np.float32), stored


def slow_convolution(raw, weight, *, groups=1, stride=1, dilation=1):
    """Exact and saturated sums (N, O, H, W), one output after another, in the order of ONNX Runtime."""
    outputs, inputs, high, wide = weight.shape
    pad = dilation * (high // 2)
    padded = np.pad(raw, [(0, 0), (0, 0), (pad, pad), (0, pad)], constant_values=ZERO)
    reach = dilation * (high - 1) + 1, dilation * (wide - 1) + 1
    sides = [(padded.shape[2 + axis] - reach[axis]) // stride + 1 for axis in (0, 1)]
    pairs = in_turn(range(inputs * high * wide))
    found = np.zeros((2, len(raw), outputs, *sides), np.int64)
    for image, output, y, x in np.ndindex(len(raw), outputs, *sides):
        first = output // (outputs // groups) * inputs
        seen = [
            padded[image, first + c, y * stride + i * dilation, x * stride + j * dilation]
            for i in range(high) for j in range(wide) for c in range(inputs)
        ]  # fmt: skip
        kernel = weight[output].transpose(1, 2, 0).ravel()
        found[0, image, output, y, x] = int(np.dot(seen, kernel.astype(int)))
        found[1, image, output, y, x] = slow_sum(seen, kernel, pairs)
    return found


def random_weight(shape, seed=0):
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 3, 3, 3), {}),
        ((4, 4, 1, 1), {}),
        ((4, 2, 3, 3), {"groups": 2}),
        ((3, 5, 3, 3), {"stride": 2}),
        ((2, 2, 3, 3), {"dilation": 2}),
    ],
)
def test_a_layer_is_reported_as_a_slow_loop_finds_it(tmp_path, shape, options):
    weight = random_weight(shape)
    raw, image, stored = model(tmp_path / "m.onnx", weight=weight, side=6, **options)
    [found] = saturation(tmp_path / "m.onnx", {"x": image})
    exact, cut = slow_convolution(raw, weight, **options)
    assert (found.name, found.operator, found.outputs) == ("layer", "Conv", exact.size)
    assert 0 < found.changed < 1
    assert found.changed == pytest.approx((exact != cut).mean())
    steps = np.abs(exact - cut) * stored["scale"].reshape(-1, 1, 1) * STEP / stored["ystep"]
    assert found.steps == pytest.approx(steps.max(), rel=1e-5)
    assert 0 < found.channels <= 1


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_matrix_products_are_looked_at_too(tmp_path, operator):
    weight = random_weight((6, 20))
    raw, image, stored = model(tmp_path / "m.onnx", weight=weight, operator=operator)
    [found] = saturation(tmp_path / "m.onnx", {"x": image})
    exact, cut = sums(raw.astype(np.uint8), weight)
    assert found.operator == operator
    assert found.changed == (exact != cut).mean() > 0
    steps = np.abs(exact - cut) * stored["scale"] * STEP / stored["ystep"]
    assert found.steps == pytest.approx(steps.max(), rel=1e-5)


def test_an_output_that_nothing_rounds_is_measured_against_its_range(tmp_path):
    weight = random_weight((6, 20))
    raw, image, stored = model(tmp_path / "m.onnx", weight=weight, operator="Gemm", rounded=False)
    [found] = saturation(tmp_path / "m.onnx", {"x": image})
    exact, cut = sums(raw.astype(np.uint8), weight)
    full = image @ (weight * stored["scale"][:, None]).T
    wanted = (np.abs(exact - cut) * stored["scale"] * STEP).max() / (np.ptp(full) / 255)
    assert found.steps == pytest.approx(wanted, rel=1e-4)


def test_weights_that_are_free_of_saturation_are_reported_as_such(tmp_path):
    weight = np.random.default_rng(5).standard_normal((8, 6, 3, 3)).astype(np.float32)
    _, image, _ = model(tmp_path / "m.onnx", weight=saturation_free(weight, 0)[0])
    [found] = saturation(tmp_path / "m.onnx", {"x": image})
    assert (found.changed, found.steps, found.channels) == (0, 0, 0)


def test_depthwise_convolutions_and_other_types_are_left_out(tmp_path):
    _, image, _ = model(tmp_path / "m.onnx", weight=random_weight((4, 1, 3, 3)), groups=4)
    assert saturation(tmp_path / "m.onnx", {"x": image}) == []
    _, image, _ = model(tmp_path / "m.onnx", weight=random_weight((4, 4, 3, 3)))
    signed = onnx.load(tmp_path / "m.onnx")
    for tensor in signed.graph.initializer:
        if tensor.name in ("zero", "yzero"):
            tensor.CopyFrom(numpy_helper.from_array(np.int8(0), tensor.name))
    onnx.save(signed, tmp_path / "signed.onnx")
    assert saturation(tmp_path / "signed.onnx", {"x": image}) == []


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ArtifactError, match=r"m\.onnx"):
        saturation(tmp_path / "m.onnx", {})


def requantized(total, weight, stored):
    """What a runtime makes of sums (N, O, H, W): its output in float."""
    whole = weight.astype(int).sum((1, 2, 3)).reshape(-1, 1, 1) * ZERO
    scale = np.float32(STEP) * stored["scale"].reshape(-1, 1, 1) / stored["ystep"]
    steps = np.clip(np.rint((total - whole).astype(np.float32) * scale) + 128, 0, 255) - 128
    return steps * stored["ystep"]


CASES = [
    ((16, 16, 3, 3), {}),
    ((16, 3, 3, 3), {}),
    ((8, 5, 3, 3), {"stride": 2}),
    ((8, 4, 3, 3), {"groups": 2}),
    ((8, 6, 1, 1), {}),
    ((16, 8, 3, 3), {"dilation": 2}),
]  # fmt: skip


def write_cases(folder, cases):
    """Write models and inputs; return the exact and the saturated outputs of each."""
    wanted = []
    for index, (shape, options) in enumerate(cases):
        weight = random_weight(shape, index)
        raw, image, stored = model(folder / f"{index}.onnx", weight=weight, side=5, seed=index, **options)
        np.save(folder / f"{index}.npy", image)
        exact, cut = slow_convolution(raw, weight, **options)
        wanted.append([requantized(total, weight, stored) for total in (exact, cut)])
    return wanted


def agree(found, wanted):
    # rounding a number that lies half way between two steps is all that may differ
    step = np.diff(np.unique(np.append(wanted, found))).min()
    return (np.abs(found - wanted) > step / 2).mean() < 0.002


def test_onnx_runtime_on_this_machine_is_exact_or_saturates_as_emulated(tmp_path):
    for index, (exact, cut) in enumerate(write_cases(tmp_path, CASES[:3])):
        [found] = open_session(tmp_path / f"{index}.onnx", threads=1).run(
            None, {"x": np.load(tmp_path / f"{index}.npy")}
        )
        assert not agree(exact, cut)
        assert agree(found, exact) != agree(found, cut)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("works", [True, False])
def test_setting_up_asks_for_a_processor_without_vnni_and_does_without(tmp_path, works):
    """With browsers there and apt failing or not, ``make setup-browser`` comes through."""
    for name in ("chromium", "firefox-esr", "Xvfb", "apt-get"):
        path = tmp_path / name
        fails = name == "apt-get" and not works
        path.write_text(f'#!/bin/sh\necho "$0 $@" >> {tmp_path}/asked\nexit {int(fails)}\n')
        path.chmod(0o755)
    for name in ("sh", "echo", "cat"):
        (tmp_path / name).symlink_to(shutil.which(name))
    root = Path(__file__).parents[1]
    done = subprocess.run([shutil.which("make"), "-C", root, "setup-browser"], env={"PATH": str(tmp_path)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text()
    assert ("install -y -qq --no-install-recommends qemu-user-static" in asked) is works
    assert ("\nno qemu-user-static" in done.stdout) is not works


@pytest.mark.skipif(QEMU is None, reason="qemu-user is not installed")
def test_onnx_runtime_on_a_haswell_saturates_as_emulated_and_not_with_free_weights(tmp_path):
    wanted = write_cases(tmp_path, CASES)
    depthwise = random_weight((16, 1, 3, 3))
    raw, image, stored = model(tmp_path / "6.onnx", weight=depthwise, groups=16, side=5)
    free = saturation_free(np.random.default_rng(6).standard_normal((16, 5, 3, 3)).astype(np.float32), 0)[0]
    raw_free, image_free, stored_free = model(tmp_path / "7.onnx", weight=free, side=5)
    np.save(tmp_path / "6.npy", image)
    np.save(tmp_path / "7.npy", image_free)
    code = """
        import sys, numpy, onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        for index in range(8):
            path = f"{sys.argv[1]}/{index}"
            session = onnxruntime.InferenceSession(path + ".onnx", options, providers=["CPUExecutionProvider"])
            numpy.save(path + ".found.npy", session.run(None, {"x": numpy.load(path + ".npy")})[0])
    """
    command = [QEMU, "-cpu", "Haswell", sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [np.load(tmp_path / f"{index}.found.npy") for index in range(8)]
    for index, (exact, cut) in enumerate(wanted):
        assert agree(found[index], cut), index
        assert not agree(found[index], exact), index
    exact, _ = slow_convolution(raw, depthwise, groups=16)
    assert agree(found[6], requantized(exact, depthwise, stored))
    exact, _ = slow_convolution(raw_free, free)
    assert agree(found[7], requantized(exact, free, stored_free))


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")  # importing it reports home
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_openvino_held_to_an_older_cpu_saturates_as_emulated_and_not_with_free_weights(tmp_path, isa):
    if {"AVX2": "avx2", "AVX512_CORE": "avx512f"}[isa] not in cpu_flags():
        pytest.skip(f"this CPU has no {isa}")
    cases = [case for case in CASES if case[0][1] % 2 == 0]
    wanted = write_cases(tmp_path, cases)
    free = {}
    for index, inputs in enumerate((1, 3, 5, 8), len(cases)):
        normal = np.random.default_rng(index).standard_normal((16, inputs, 3, 3)).astype(np.float32)
        free[index] = saturation_free(np.abs(normal), 0)[0]
        raw, image, stored = model(tmp_path / f"{index}.onnx", weight=free[index], side=5, seed=index)
        np.save(tmp_path / f"{index}.npy", image)
        exact, _ = slow_convolution(raw, free[index])
        wanted.append([requantized(exact, free[index], stored)])
    code = """
        import sys, numpy
        from pathlib import Path
        from compress.kit.ship.openvino import OpenVinoRunner
        for index in range(int(sys.argv[2])):
            path = Path(sys.argv[1]) / str(index)
            runner = OpenVinoRunner(path.with_suffix(".onnx"), threads=1)
            numpy.save(f"{path}.found.npy", runner(numpy.load(f"{path}.npy")))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), str(len(wanted))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    )
    assert done.returncode == 0, done.stderr
    for index, [exact, *cut] in enumerate(wanted):
        found = np.load(tmp_path / f"{index}.found.npy")
        assert agree(found, cut[0] if cut else exact), index
        assert not cut or not agree(found, exact), index
