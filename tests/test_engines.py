"""neural-compressor and torchao behind our own file: their decisions, our graph."""

import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_store import season

from compress.core import machine
from compress.core.errors import ArtifactError, DataError, MissingExtraError, UsageError
from compress.core.networks import find_network
from compress.kit.graph import fold_batch_norm, sqnr
from compress.kit.quant.engines.inc import quantize_inc
from compress.kit.quant.engines.pt2e import observe, quantize_pt2e
from compress.kit.quant.engines.traced import trace
from compress.kit.quant.insert import stored_layers
from compress.kit.quant.prepare import prepare_graph
from compress.kit.ship.runtime import Shipped, export_graph, open_session, quiet
from compress.tasks import TASKS

pytest.importorskip("torchao")
pytest.importorskip("neural_compressor")

SIDE = 32
# three families: a U-Net with transposed convolutions, one with linear layers, one with instance norms
NAMES = ["unet_slim", "colorizer_small", "retouch_small"]
ENGINES = {"pt2e": quantize_pt2e, "inc": quantize_inc}
# what our file may differ from the engine's own fake quantization: it rounds what layers write as well
CLOSE = 20.0  # dB


@dataclass(frozen=True)
class Case:
    """A network's float32 file, images for it, and what an engine made of it."""

    source: Path
    images: list
    files: dict  # by engine
    reports: dict


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    @cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        source = (plain if name == "plain" else export)(name, folder / "float.onnx")
        images = pictures(source, 4)
        files = {engine: folder / f"{engine}.onnx" for engine in ENGINES}
        reports = {engine: ENGINES[engine](source, files[engine], feeds(source, images)) for engine in ENGINES}
        return Case(source, images, files, reports)

    return made


def export(name, path):
    network = find_network(name)
    task = TASKS.get(network.task)
    torch.manual_seed(0)
    net = network.build(width=4).eval()
    season(net)
    shipped, names = fold_batch_norm(Shipped(net, task.activate)), (task.input.name, task.output.name)
    export_graph(shipped, path, channels=task.input.channels, size=(SIDE, 2 * SIDE), names=names, free=(0, 2, 3))
    return path


def plain(name, path):
    """Two convolutions by hand, as a foreign file brings them: no network of ours, fixed sizes."""
    random = np.random.default_rng(0)
    shapes = {"w1": (8, 1, 3, 3), "b1": (8,), "w2": (2, 8, 3, 3), "w3": (2, 2, 3, 3)}
    weights = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), key) for key, shape in shapes.items()
    ]
    around = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["photo", "w1", "b1"], ["a"], name="first", **around),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", **around),
        helper.make_node("Conv", ["c", "w3"], ["out"], name="last", **around),
    ]
    image = helper.make_tensor_value_info("photo", TensorProto.FLOAT, [None, 1, SIDE, SIDE])
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, 2, SIDE, SIDE])
    graph = helper.make_graph(nodes, name, [image], [result], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def pictures(source, count, height=SIDE, width=SIDE, seed=0):
    """Smooth noise: photos are smooth, and white noise would blur every range."""
    channels = onnx.load(source).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    coarse = torch.randn(count, channels, height // 8, width // 8, generator=torch.manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return list(smooth.numpy()[:, None])


def feeds(source, images):
    name = onnx.load(source).graph.input[0].name
    return ({name: image} for image in images)


def run(path, image):
    session = open_session(path)
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def operators_in_runtime(path, folder):
    """Operators of the graph as ONNX Runtime runs it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def stored(path, kind):
    return [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type == kind]


def engines_own(engine, source, images):
    """The engine's fake quantization by its public API alone: the converted module, and how many layers it rounds."""
    traced = trace(prepare_graph(onnx.load(source)), images[0].shape)
    with quiet(), torch.no_grad(), warnings.catch_warnings():
        if engine == "pt2e":
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e as convert

            prepared = observe(traced)
        else:
            from neural_compressor.torch.quantization import StaticQuantConfig, convert, prepare

            traced.module._exported, traced.module.dynamic_shapes = True, None
            prepared = prepare(traced.module, StaticQuantConfig())
        for image in images:
            prepared(torch.from_numpy(image))
        converted = convert(prepared)
    rounded = [
        node
        for node in converted.graph.nodes
        if "conv2d" in str(node.target) and "dequantize_per_channel" in str(node.args[1].target)
    ]
    return converted, len(rounded)


both = pytest.mark.parametrize("engine", list(ENGINES))
families = pytest.mark.parametrize("name", NAMES)


@pytest.mark.slow
@families
def test_the_traced_graph_computes_what_the_file_does(case, name):
    made = case(name)
    traced = trace(prepare_graph(onnx.load(made.source)), made.images[0].shape)
    with torch.no_grad():
        ours = traced.module(torch.from_numpy(made.images[0])).numpy()
    np.testing.assert_allclose(ours, run(made.source, made.images[0]), rtol=0, atol=1e-4)


@both
@families
def test_the_file_does_what_the_engines_own_fake_quantization_does_in_integers(case, name, engine, tmp_path):
    made = case(name)
    converted, rounded = engines_own(engine, made.source, made.images)
    unseen = pictures(made.source, 1, seed=9)[0]
    with torch.no_grad():
        theirs = converted(torch.from_numpy(unseen)).numpy()
    assert sqnr(theirs, run(made.files[engine], unseen)) > CLOSE
    fused = operators_in_runtime(made.files[engine], tmp_path)["QLinearConv"]
    assert rounded > 10
    assert fused > 0.9 * rounded


@both
@families
def test_weights_are_stored_in_one_byte_each(case, name, engine):
    made = case(name)
    layers = stored_layers(prepare_graph(onnx.load(made.source)))
    before = {t.name: numpy_helper.to_array(t) for t in prepare_graph(onnx.load(made.source)).graph.initializer}
    weights = sum(before[node.input[1]].size for node in layers.values())
    integers = sum(array.nbytes for array in stored(made.files[engine], TensorProto.INT8) if array.ndim >= 2)
    assert 0.95 * weights < integers <= weights  # the last layer stays in float where it is cheap
    assert made.reports[engine].bytes_after == made.files[engine].stat().st_size < 0.7 * made.source.stat().st_size


def test_pt2e_rounds_weights_to_256_steps_around_zero(case):
    made = case("unet_slim")
    integers = {a.shape: [] for a in stored(made.files["pt2e"], TensorProto.INT8)}
    for array in stored(made.files["pt2e"], TensorProto.INT8):
        integers[array.shape].append(array)
    model = prepare_graph(onnx.load(made.source))
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = [weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    found = 0
    for weight in layers:
        scale = np.maximum(np.abs(weight).max((1, 2, 3), keepdims=True) / 127.5, 2**-12)
        expected = np.clip(np.round(weight / scale), -128, 127)
        # the largest weight of a channel lies between two steps, and may fall to either
        differences = [np.abs(expected - array) for array in integers.get(weight.shape, [])]
        found += any(each.max() <= 1 and each.sum() <= len(weight) for each in differences)
    assert found >= len(layers) - 1


@both
def test_other_sizes_and_batches_run(case, engine):
    made = case("unet_slim")
    images = np.concatenate(pictures(made.source, 3, 64, 32))
    together = run(made.files[engine], images)
    assert together.shape == (3, 21, 64, 32)
    assert sqnr(run(made.source, images), together) > CLOSE


@both
def test_the_same_images_give_the_same_bytes_however_they_are_batched(case, engine, tmp_path):
    made = case("plain")
    pairs = [np.concatenate(made.images[:2]), np.concatenate(made.images[2:])]
    report = ENGINES[engine](made.source, tmp_path / "again.onnx", feeds(made.source, pairs))
    assert (tmp_path / "again.onnx").read_bytes() == made.files[engine].read_bytes()
    assert report.images == 4


@both
def test_a_node_is_left_in_float_by_name(case, engine, tmp_path):
    made = case("plain")
    report = ENGINES[engine](made.source, tmp_path / "a.onnx", feeds(made.source, made.images), exclude=["second"])
    assert report.left["second"] == "excluded by name"
    assert report.quantized == made.reports[engine].quantized - 1


@both
@pytest.mark.parametrize(
    ("batches", "error", "says"),
    [
        ([], DataError, "no image"),
        ([{"photo": np.zeros((0, 1, SIDE, SIDE), np.float32)}], DataError, "no image"),
        ([{"picture": np.zeros((1, 1, SIDE, SIDE), np.float32)}], UsageError, "photo"),
        ([{"photo": np.zeros((1, 1, s, SIDE), np.float32)} for s in (32, 64)], UsageError, "one size"),
        ([{"photo": np.zeros((1, 7, SIDE, SIDE), np.float32)}], UsageError, "size"),
        ([{"photo": np.full((1, 1, SIDE, SIDE), np.nan, np.float32)}], DataError, "finite"),
    ],
    ids=["none", "empty", "wrong name", "sizes", "channels", "nan"],
)
def test_images_that_cannot_be_used_are_named(case, engine, batches, error, says, tmp_path):
    made = case("plain")
    with pytest.raises(error, match=says):
        ENGINES[engine](made.source, tmp_path / "a.onnx", iter(batches))
    assert not (tmp_path / "a.onnx").exists()


@both
def test_constant_images_still_give_a_file_that_runs(case, engine, tmp_path):
    made = case("plain")
    black = np.zeros((1, 1, SIDE, SIDE), np.float32)
    ENGINES[engine](made.source, tmp_path / "a.onnx", feeds(made.source, [black, black]))
    assert np.isfinite(run(tmp_path / "a.onnx", made.images[0])).all()


@both
def test_what_cannot_be_quantized_is_refused(case, engine, tmp_path):
    made = case("plain")
    with pytest.raises(UsageError, match="no node 'nonsense'"):
        ENGINES[engine](made.source, tmp_path / "a.onnx", feeds(made.source, made.images), exclude=["nonsense"])
    with pytest.raises(ArtifactError, match="quantized already"):
        ENGINES[engine](made.files[engine], tmp_path / "a.onnx", feeds(made.source, made.images))
    with pytest.raises(UsageError, match="one file"):
        ENGINES[engine](made.source, made.source, feeds(made.source, made.images))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    weight = helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4, 3, 1, 1])
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, 8, 8])
    node = helper.make_node("Conv", ["image", "weight"], ["out"])
    graph = helper.make_graph([node], "two", [image, weight], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "two.onnx")
    with pytest.raises(UsageError, match="one image"):
        ENGINES[engine](
            tmp_path / "two.onnx",
            tmp_path / "a.onnx",
            feeds(tmp_path / "two.onnx", [np.zeros((1, 3, 8, 8), np.float32)]),
        )


@both
def test_a_missing_package_is_named_with_the_line_that_installs_it(case, engine, tmp_path, monkeypatch):
    made = case("plain")
    monkeypatch.setitem(machine.EXTRAS, engine, "no_such_package")
    with pytest.raises(MissingExtraError, match=rf"'{engine}' \(no_such_package.*\n?.*image-compress\[{engine}\]"):
        ENGINES[engine](made.source, tmp_path / "a.onnx", feeds(made.source, made.images))


def autotuned(made, path, tolerance):
    """Autotune by the error on one image, which is 0 for the float network; returns the scores in their order."""
    image, scores = made.images[0], []
    right = run(made.source, image)

    def score(runner):
        scores.append(-float(np.abs(runner(image) - right).mean()))
        return scores[-1]

    quantize_inc(made.source, path, feeds(made.source, made.images), score=score, tolerance=tolerance)
    return scores, -float(np.abs(run(path, image) - right).mean())


def test_autotune_stops_at_the_first_settings_that_are_good_enough(case, tmp_path):
    made = case("colorizer_small")
    scores, final = autotuned(made, tmp_path / "a.onnx", 1.0)
    assert len(scores) == 2  # the float network and one trial
    assert scores[0] == 0.0
    assert final == pytest.approx(scores[1])
    # its first settings have grids around zero: their ReLUs must not stand between a layer and its rounding
    assert operators_in_runtime(tmp_path / "a.onnx", tmp_path)["QLinearConv"] >= 18


def test_autotune_takes_the_best_settings_where_none_is_good_enough(case, tmp_path):
    scores, final = autotuned(case("plain"), tmp_path / "a.onnx", -1.0)
    assert len(scores) == 5
    assert final == pytest.approx(max(scores[1:]))
    assert max(scores[1:]) > min(scores[1:])
