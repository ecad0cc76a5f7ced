"""Every form of weights and every style of maps: what is written, what it weighs, what it computes."""

import dataclasses
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from compress.core.errors import UsageError
from compress.kit.graph import fold_batch_norm, sqnr
from compress.kit.quant.calibrate import calibrate
from compress.kit.quant.clip import grids
from compress.kit.quant.plan import Choice, Grid, Rounded
from compress.kit.quant.policy import decide, last_layers, style_for
from compress.kit.quant.prepare import prepare_graph
from compress.kit.quant.quantize import write
from compress.kit.quant.weights import block_length, quantize_blocks, quantize_channels
from compress.kit.ship.runtime import export_graph, open_session

FORMS = ("int8", "int4", "int8w", "int4w", "float16w", "bfloat16w")


class Net(nn.Module):
    """Convolutions with ReLUs and a residual sum, a transposed convolution, a head and a sigmoid."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.up, self.mix = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, image):
        inner = torch.relu(self.first(image))
        inner = torch.relu(self.grouped(torch.relu(self.second(inner)))) + inner
        return torch.sigmoid(self.head(torch.relu(self.mix(self.up(inner)))))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("float32") / "model.onnx"
    export_graph(fold_batch_norm(Net()), path, channels=3, size=(16, 24), names=("image", "mask"), free=(0, 2, 3))
    return prepare_graph(onnx.load(path))


def feeds(count=4, seed=0, size=(16, 24)):
    rng = np.random.default_rng(seed)
    return [{"image": rng.standard_normal((1, 3, *size)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def seen(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared") / "model.onnx"
    onnx.save(graph, path)
    return calibrate(path, feeds(), threads=1)


def plan_of(graph, seen, form="int8", style="all", **more):
    return decide(graph, grids(seen), style=style, form=form, size=(16, 24), **more)


def written(graph, plan, tmp_path, name="out.onnx"):
    path = tmp_path / name
    write(graph, plan, path)
    return path


def run(path, feed):
    return open_session(path, threads=1).run(None, feed)[0]


def truth(graph, tmp_path, feed):
    path = tmp_path / "truth.onnx"
    onnx.save(graph, path)
    return run(path, feed)


def kernels(path, tmp_path):
    """Operators of the graph as ONNX Runtime runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_computes_the_picture_at_another_size_too(graph, seen, tmp_path, form):
    path = written(graph, plan_of(graph, seen, form), tmp_path)
    least = {"int8": 28, "int4": 12, "int8w": 38, "int4w": 12, "float16w": 60, "bfloat16w": 40}[form]
    for feed in (feeds(1, seed=5)[0], feeds(1, seed=6, size=(20, 30))[0]):
        assert sqnr(truth(graph, tmp_path, feed), run(path, feed)) > least


@pytest.mark.parametrize(("form", "bits"), [("int8w", 8), ("int4w", 4), ("float16w", 16), ("bfloat16w", 16)])
def test_weights_take_the_bits_their_form_says(graph, seen, tmp_path, form, bits):
    stored = onnx.load(written(graph, plan_of(graph, seen, form), tmp_path)).graph.initializer
    kinds = {8: "INT8", 4: "INT4"}.get(bits, "BFLOAT16" if form == "bfloat16w" else "FLOAT16")
    mine = [tensor for tensor in stored if tensor.data_type == getattr(onnx.TensorProto, kinds)]
    counts = [int(np.prod(tensor.dims)) for tensor in mine]
    weights = [numpy_helper.to_array(t) for t in graph.graph.initializer if len(t.dims) == 4]
    assert sum(counts) == sum(weight.size for weight in weights)
    assert sum(len(tensor.raw_data) for tensor in mine) <= sum(-(-count * bits // 8) for count in counts)


def test_weights_alone_are_unpacked_once_and_not_at_every_run(graph, seen, tmp_path):
    for form in ("int8w", "int4w", "float16w"):
        found = kernels(written(graph, plan_of(graph, seen, form), tmp_path), tmp_path)
        assert not {"DequantizeLinear", "Cast", "Mul", "Reshape"} & set(found), form


def test_four_bits_run_on_the_kernels_of_eight(graph, seen, tmp_path):
    eight = kernels(written(graph, plan_of(graph, seen, "int8"), tmp_path), tmp_path)
    four = kernels(written(graph, plan_of(graph, seen, "int4"), tmp_path), tmp_path)
    assert eight["QLinearConv"] == four["QLinearConv"] == 4
    assert eight == four


def test_a_relu_behind_an_integer_layer_is_part_of_its_rounding(graph, seen, tmp_path):
    path = written(graph, plan_of(graph, seen), tmp_path)
    assert not [node for node in onnx.load(path).graph.node if node.op_type == "Relu"]
    # in float between the layers it stays
    assert [node for node in onnx.load(written(graph, plan_of(graph, seen, "int8w"), tmp_path)).graph.node
            if node.op_type == "Relu"]  # fmt: skip


def test_styles_round_fewer_and_fewer_maps(graph, seen, tmp_path):
    counts = {}
    for style in ("all", "convolutions", "inputs"):
        plan = plan_of(graph, seen, style=style)
        counts[style] = len(plan.maps)
        path = written(graph, plan, tmp_path)
        assert sqnr(truth(graph, tmp_path, feeds(1, seed=5)[0]), run(path, feeds(1, seed=5)[0])) > 28, style
    assert counts["all"] >= counts["convolutions"] > counts["inputs"] > 0


def test_a_cheap_head_stays_in_float_and_a_dear_one_does_not(graph, seen):
    (head,) = last_layers(graph)
    assert plan_of(graph, seen).layers[head].form == "float32"
    assert "last layer" in plan_of(graph, seen).layers[head].reason
    assert decide(graph, grids(seen), style="all").layers[head].form == "int8"  # no size: its share is not known


def test_what_the_user_says_of_a_node_wins(graph, seen):
    (head,) = last_layers(graph)
    first = next(node.name for node in graph.graph.node if node.op_type == "Conv")
    plan = plan_of(graph, seen, keep={head: Choice("int8", "mine"), first: Choice("float32", "mine")})
    assert (plan.layers[head].form, plan.layers[first].form) == ("int8", "float32")
    with pytest.raises(UsageError, match="no node"):
        plan_of(graph, seen, keep={"nothing": Choice("int8", "mine")})


def test_a_norm_over_a_map_is_never_rounded(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3), nn.Tanh())
    export_graph(net.eval(), tmp_path / "a.onnx", channels=3, size=(16, 16), names=("image", "picture"), free=(0,))
    graph = prepare_graph(onnx.load(tmp_path / "a.onnx"))
    onnx.save(graph, tmp_path / "prepared.onnx")
    style, why = style_for(graph, "ort")
    assert style == "convolutions"
    assert "instance norms" in why
    plan = decide(graph, grids(calibrate(tmp_path / "prepared.onnx", feeds(2, size=(16, 16)))), style=style)
    path = written(graph, plan, tmp_path)
    model = onnx.load(path)
    (norm,) = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    (after,) = [node for node in model.graph.node if norm.output[0] in node.input]
    assert after.op_type == "Relu"
    assert kernels(path, tmp_path)["QLinearConv"] == 2


def test_float16_arithmetic_keeps_ends_norms_and_weights_that_unpack_in_float32(graph, seen, tmp_path):
    for form in ("int8w", "int4w", "float16w"):
        path = written(graph, dataclasses.replace(plan_of(graph, seen, form), half=True), tmp_path)
        session = open_session(path, threads=1)
        assert {port.type for port in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}
        feed = feeds(1, seed=5)[0]
        full = written(graph, plan_of(graph, seen, form), tmp_path, "full.onnx")
        assert sqnr(run(full, feed), run(path, feed)) > 50, form


def test_weights_beyond_float16_stay_as_they_are(graph, seen, tmp_path):
    large = onnx.ModelProto()
    large.CopyFrom(graph)
    node = next(node for node in large.graph.node if node.op_type == "Conv")
    tensor = next(tensor for tensor in large.graph.initializer if tensor.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e6), tensor.name))
    plan = decide(large, {}, style="all", form="float16w")
    assert plan.layers[node.name] == Choice("float32", "weights beyond 65504, the largest float16")
    kept = [t for t in onnx.load(written(large, plan, tmp_path)).graph.initializer if t.data_type == 1]
    assert any(list(t.dims) == list(tensor.dims) for t in kept)


def test_weights_somebody_rounded_are_written_as_they_are(graph, seen, tmp_path):
    node = next(node for node in graph.graph.node if node.op_type == "Conv")
    weight = next(numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == node.input[1])
    mine = Rounded(np.full(weight.shape, 3, np.int8), np.full(len(weight), 0.25, np.float32))
    plan = dataclasses.replace(plan_of(graph, seen), rounded={node.name: mine})
    stored = [numpy_helper.to_array(t) for t in onnx.load(written(graph, plan, tmp_path)).graph.initializer]
    assert any(np.array_equal(value, mine.integers) for value in stored if value.shape == weight.shape)


def test_a_dead_channel_keeps_its_bias(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0, 5.0
    export_graph(net.eval(), tmp_path / "a.onnx", channels=3, size=(16, 16), names=("image", "picture"), free=(0,))
    graph = prepare_graph(onnx.load(tmp_path / "a.onnx"))
    onnx.save(graph, tmp_path / "prepared.onnx")
    seen = calibrate(tmp_path / "prepared.onnx", feeds(2, size=(16, 16)))
    feed = feeds(1, seed=4, size=(16, 16))[0]
    for form, least in (("int8", 30), ("int4", 12)):
        plan = decide(graph, grids(seen), style="all", form=form)
        assert sqnr(truth(graph, tmp_path, feed), run(written(graph, plan, tmp_path), feed)) > least, form


def test_the_same_plan_gives_the_same_bytes(graph, seen, tmp_path):
    first, second = (written(graph, plan_of(graph, seen), tmp_path, name) for name in ("a.onnx", "b.onnx"))
    assert first.read_bytes() == second.read_bytes()


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_a_grid_holds_zero_and_its_ends(one, other):
    low, high = min(one, other), max(one, other)
    grid = Grid.over(low, high)
    assert 0 <= grid.zero <= 255
    step = grid.scale * 1.001
    assert grid.low - step <= min(low, 0.0) or grid.scale == 1.0
    assert grid.high + step >= max(high, 0.0) or grid.scale == 1.0


def slow_blocks(weight, block):
    """4-bit weights with the largest value of each block as its step, one value at a time."""
    error = 0.0
    for row in weight.reshape(len(weight), -1):
        for start in range(0, len(row), block):
            piece = row[start : start + block]
            step = max(abs(float(v)) for v in piece) / 7 or 1.0
            error += sum((min(max(round(float(v) / step), -7), 7) * step - float(v)) ** 2 for v in piece)
    return error


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(4, 8, 3, 3), (3, 32, 1, 1), (2, 12, 3, 3), (5, 7)]))
def test_blocks_of_four_bits_are_integers_of_eight_and_near_the_plain_blocks(seed, shape):
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    blocks = quantize_blocks(weight, 0, 32)
    assert blocks.fours.min() >= -7
    assert blocks.fours.max() <= 7
    assert 1 <= blocks.multipliers.min() <= blocks.multipliers.max() <= 15
    np.testing.assert_array_equal(
        blocks.integers.reshape(blocks.fours.shape), blocks.fours.astype(int) * blocks.multipliers
    )
    np.testing.assert_allclose(blocks.values, blocks.integers * blocks.scales.reshape(-1, *[1] * (len(shape) - 1)))
    error = float(((blocks.values - weight) ** 2).sum())
    # multipliers are coarser than scales of their own, steps are searched: no more than a third worse than those
    assert error <= 1.35 * slow_blocks(weight, block_length(shape, 32))


def test_blocks_divide_whole_input_channels():
    assert block_length((8, 64, 3, 3), 32) == 18  # two channels of nine taps; four would be 36
    assert block_length((8, 64, 1, 1), 32) == 32
    assert block_length((8, 7, 1, 1), 32) == 7
    assert block_length((8, 3, 7, 7), 32) == 49


def test_scales_have_a_floor_where_a_bias_needs_it():
    weight = np.array([[[[0.0]]], [[[1.0]]]], np.float32)
    found = quantize_channels(weight, 0, np.array([0.5, 0.5], np.float32))
    np.testing.assert_array_equal(found.scales, [1.0, 0.5])
    np.testing.assert_array_equal(found.integers.ravel(), [0, 2])


def test_safe_weights_are_written_when_asked_for(graph, seen, tmp_path):
    from compress.kit.quant.integers import can_saturate

    def risky(safe):
        model = onnx.load(written(graph, plan_of(graph, seen, safe_weights=safe), tmp_path))
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        weights = [value for value in stored.values() if value.dtype == np.int8 and value.ndim == 4]
        return sum(int(can_saturate(value, 0).sum()) for value in weights if value.shape[1] > 1 and value.shape[2] == 3)

    assert risky(False) > 0
    assert risky(True) == 0


def test_a_layer_kept_wide_reads_its_map_unrounded_at_no_bytes(graph, seen, tmp_path):
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    grouped = next(node for node in convolutions if any(a.name == "group" and a.i == 4 for a in node.attribute))
    before = next(node for node in convolutions if node.output[0] == producer_of(graph, grouped.input[0]).input[0])
    plain = plan_of(graph, seen)
    wide = plan_of(graph, seen, keep={grouped.name: Choice("int8w", "mine", wide=True)})
    assert grouped.input[0] in plain.maps
    assert grouped.input[0] not in wide.maps
    assert wide.layers[before.name].reason == "feeds a layer that is kept wide"
    first, second = (written(graph, plan, tmp_path, name) for plan, name in ((plain, "a.onnx"), (wide, "b.onnx")))
    assert second.stat().st_size < first.stat().st_size * 1.05
    feed = feeds(1, seed=5)[0]
    exact = truth(graph, tmp_path, feed)
    assert np.abs(run(second, feed) - exact).mean() < np.abs(run(first, feed) - exact).mean()


def producer_of(graph, name):
    return next(node for node in graph.graph.node if name in node.output)


def test_any_set_of_layers_can_be_kept_wide(graph, seen, tmp_path):
    layers = [name for name, choice in plan_of(graph, seen).layers.items() if choice.form == "int8"]
    convolutions = [node.name for node in graph.graph.node if node.op_type == "Conv" and node.name in layers]
    feed = feeds(1, seed=5)[0]
    exact = truth(graph, tmp_path, feed)
    for style in ("all", "convolutions", "inputs"):
        for chosen in range(1, 2 ** len(convolutions)):
            names = [name for bit, name in enumerate(convolutions) if chosen >> bit & 1]
            plan = plan_of(graph, seen, style=style, keep={n: Choice("int8w", "mine", wide=True) for n in names})
            assert sqnr(exact, run(written(graph, plan, tmp_path), feed)) > 28, (style, names)


def test_a_graph_with_layers_kept_wide_computes_in_torch_what_it_computes_deployed(graph, seen, tmp_path):
    from compress.kit.quant.fakequant import FakeQuant

    layers = [node.name for node in graph.graph.node if node.op_type == "Conv"]
    feed = feeds(1, seed=5)[0]
    for name in layers[1:3]:
        plan = plan_of(graph, seen, keep={name: Choice("int8w", "mine", wide=True)})
        ours = FakeQuant(graph, plan).eval()(torch.from_numpy(feed["image"])).detach().numpy()
        assert sqnr(run(written(graph, plan, tmp_path), feed), ours) > 45, name
