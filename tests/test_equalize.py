"""Cross-layer equalization: the same function, evener channels."""

import re

import numpy as np
import onnx
import pytest
import torch
from small_graphs import Graph, biases_of, photos, run, weights_of
from tiny_store import season

from compress.core.errors import DataError
from compress.core.networks import STUDENTS, TEACHERS, find_network
from compress.kit.graph import fold_batch_norm
from compress.kit.quant.equalize import equalize
from compress.kit.quant.prepare import prepare_graph
from compress.kit.quant.ranges import channel_ranges
from compress.kit.ship.runtime import Shipped, export_graph
from compress.tasks import TASKS

QUICK = ("csrnet",)  # exporting takes the time
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in (*TEACHERS.names(), *STUDENTS.names())
]


def chain(operator="Relu", balance=None, **attributes):
    graph = Graph()
    first = graph.add(operator, graph.conv("image", 8, 3), **attributes)
    return graph.model(graph.add("Sigmoid", graph.conv(first, 4, 8)))


def everything():
    """Every operator that scales pass, and several readers of one map."""
    graph = Graph(seed=3)
    skip = graph.add("LeakyRelu", graph.conv("image", 8, 3), alpha=0.1)
    below = graph.add("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2])
    below = graph.add("Relu", graph.norm(graph.conv(below, 8, 8, bias=False), 8))
    below = graph.add("Pad", below, graph.store([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="reflect")
    below = graph.conv(below, 8, 8, pads=[0] * 4, group=4)
    below = graph.add("AveragePool", below, kernel_shape=[3, 3], pads=[1] * 4)
    scales = graph.store([1, 1, 2, 2])
    wide = graph.add("Resize", below, "", scales, mode="linear")
    summed = graph.add("Add", wide, graph.conv(skip, 8, 8, side=1))
    both = graph.add("Concat", summed, skip, axis=1)
    fine = graph.add("DepthToSpace", graph.add("Relu", graph.conv(both, 16, 16)), blocksize=2, mode="CRD")
    up = graph.conv(fine, 4, 4, side=2, operator="ConvTranspose", strides=[2, 2], pads=[0] * 4)
    return graph.model(graph.add("Sigmoid", graph.conv(up, 2, 4)))


def ranges_of(model, feeds):
    return channel_ranges(model, feeds, [value.name for value in model.graph.value_info], threads=1)


def exported(name, folder):
    network = find_network(name)
    task = TASKS.get(network.task)
    torch.manual_seed(0)
    net = network.build(width=8).eval()
    season(net)
    side = -(-32 // network.stride) * network.stride
    channels = task.input.channels
    path = folder / "net.onnx"
    export_graph(Shipped(fold_batch_norm(net), task.activate), path, channels=channels, size=(side, side),
                 names=("image", "picture"))  # fmt: skip
    return prepare_graph(onnx.load(path)), photos(channels, side, count=2)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_keeps_its_function(name, tmp_path):
    model, feeds = exported(name, tmp_path)
    before = run(model, feeds[0]["image"])
    for ranges in (None, ranges_of(model, feeds)):
        even, report = equalize(model, ranges)
        onnx.checker.check_model(even, full_check=True)
        assert np.abs(run(even, feeds[0]["image"]) - before).max() <= 1e-5 * max(1, np.abs(before).max())
        # rows and columns of random weights are even as they are
        assert report.even_after > report.even_before or ranges is None
    assert report.layers


@pytest.mark.parametrize("with_ranges", [False, True])
def test_scales_pass_every_operator_without_a_trace(with_ranges):
    model, feeds = everything(), photos()
    even, report = equalize(model, ranges_of(model, feeds) if with_ranges else None)
    names = [value.name for value in model.graph.value_info if value.name in report.scales]
    before, after = (run(each, feeds[0]["image"], names) for each in (model, even))
    assert np.abs(before[0] - after[0]).max() < 1e-5
    changed = {re.sub("[0-9]+_out", "", name) for name in names}
    assert changed >= {"LeakyRelu", "Concat", "Add", "Resize", "AveragePool", "DepthToSpace", "ConvTranspose"}
    for name, one, other in zip(names, before[1:], after[1:], strict=True):
        scale = report.scales[name].reshape(1, -1, 1, 1)
        np.testing.assert_allclose(one, other * scale, rtol=1e-3, atol=1e-4 * np.abs(one).max())


def test_rows_and_columns_of_a_chain_end_balanced():
    model = chain()
    even, report = equalize(model)
    first, second = weights_of(even, "Conv0"), weights_of(even, "Conv2")
    for channel in range(8):
        row = max(abs(float(value)) for value in first[channel].ravel()) / np.abs(first).max()
        column = max(abs(float(value)) for value in second[:, channel].ravel()) / np.abs(second).max()
        assert row == pytest.approx(column, rel=0.02)
    assert report.even_after > report.even_before + 0.05
    assert report.rounds < 100


def test_weights_that_take_everything_leave_maps_whose_channels_are_alike():
    model, feeds = chain(), photos()
    ranges = {"Relu1_out": ranges_of(model, feeds)["Relu1_out"]}
    even, report = equalize(model, ranges, balance=1.0)
    found = ranges_of(even, feeds)["Relu1_out"]
    np.testing.assert_allclose(found, found.max(), rtol=0.02)
    assert report.even_after > 0.95 > report.even_before


def test_half_a_balance_lies_between():
    model, feeds = chain(), photos()
    ranges = ranges_of(model, feeds)
    spread = []
    for balance in (0.0, 0.5, 1.0):
        found = ranges_of(equalize(model, {"Relu1_out": ranges["Relu1_out"]}, balance=balance)[0], feeds)["Relu1_out"]
        spread.append((found / found.max()).mean())
    assert spread[0] < spread[1] < spread[2]


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh", "HardSwish", "Softplus", "Exp"])
def test_channels_that_reach_what_is_not_homogeneous_stay(operator):
    model = chain(operator)
    even, report = equalize(model)
    assert report.channels == 0
    assert report.layers == ()
    assert even.SerializeToString() == model.SerializeToString()


def test_relu6_and_outputs_stay():
    graph = Graph()
    limited = graph.add("Clip", graph.conv("image", 8, 3), graph.store(0.0), graph.store(6.0))
    inner = graph.add("Relu", graph.conv(limited, 8, 8))
    model = graph.model(graph.conv(inner, 4, 8), inner)
    assert equalize(model)[1].channels == 0


def test_a_sum_with_a_branch_that_stays_stays():
    graph = Graph(channels=8)
    inner = graph.add("Add", graph.conv("image", 8, 8), "image")
    assert equalize(graph.model(graph.conv(inner, 4, 8)))[1].channels == 0


@pytest.mark.parametrize(
    ("operator", "extra", "attributes"),
    [
        ("Pad", ([0, 0, 1, 1, 0, 0, 1, 1], 0.5), {}),
        ("Pad", ([0, 1, 1, 1, 0, 0, 1, 1],), {}),
        ("Resize", (None, [1, 0.5, 1, 1]), {"mode": "nearest"}),
    ],
)
def test_padding_with_a_value_or_along_channels_stays(operator, extra, attributes):
    graph = Graph()
    extra = ["" if each is None else graph.store(each, np.int64 if isinstance(each, list) and operator == "Pad"
                                                 else np.float32) for each in extra]  # fmt: skip
    moved = graph.add(operator, graph.conv("image", 8, 3), *extra, **attributes)
    inner = {"Pad": 9 if len(extra) == 1 else 8, "Resize": 4}[operator]
    assert equalize(graph.model(graph.conv(moved, 4, inner)))[1].channels == 0


def test_dead_channels_and_weights_of_zero_do_no_harm():
    graph = Graph()
    weight = graph.rng.normal(0, 1, (8, 3, 3, 3))
    weight[2] = 0
    second = graph.rng.normal(0, 1, (4, 8, 3, 3))
    second[:, 5] = 0
    inner = graph.add("Relu", graph.conv("image", 8, 3, weight=weight, bias=False))
    model, feeds = graph.model(graph.conv(inner, 4, 8, weight=second)), photos()
    for ranges in (None, ranges_of(model, feeds)):
        even, report = equalize(model, ranges)
        assert all(np.isfinite(weights_of(even, name)).all() for name in ("Conv0", "Conv2"))
        assert all(np.isfinite(scale).all() and (scale > 0).all() for scale in report.scales.values())
        np.testing.assert_allclose(run(even, feeds[0]["image"]), run(model, feeds[0]["image"]), atol=1e-4)


def test_weights_that_two_layers_share_are_scaled_for_each():
    graph = Graph(channels=4)
    shared = graph.store(graph.rng.normal(0, 1, (4, 4, 3, 3)) * np.exp(graph.rng.normal(0, 1, (4, 1, 1, 1))))
    inner = graph.add("Relu", graph.add("Conv", "image", shared, pads=[1] * 4))
    inner = graph.add("Relu", graph.add("Conv", inner, shared, pads=[1] * 4))
    model, feeds = graph.model(graph.add("Conv", inner, shared, pads=[1] * 4)), photos(4)
    even, report = equalize(model)
    assert len(report.layers) == 3
    np.testing.assert_allclose(run(even, feeds[0]["image"]), run(model, feeds[0]["image"]), rtol=1e-4, atol=1e-4)


def test_the_given_graph_is_not_touched():
    model, feeds = everything(), photos()
    before = model.SerializeToString()
    equalize(model, ranges_of(model, feeds))
    assert model.SerializeToString() == before


def test_norms_take_scales_in_and_keep_what_they_read():
    graph = Graph()
    inner = graph.norm(graph.conv("image", 8, 3), 8)
    model = graph.model(graph.conv(graph.add("Relu", inner), 4, 8))
    even, report = equalize(model, ranges_of(model, photos()))
    assert report.layers == ("InstanceNormalization1", "Conv3")
    scale = report.scales["Relu2_out"]
    for found in (weights_of, biases_of):
        before = found(model, "InstanceNormalization1")
        np.testing.assert_allclose(found(even, "InstanceNormalization1"), before / scale, rtol=1e-5)


def test_channel_ranges_are_the_largest_magnitudes_over_all_photos():
    model, feeds = chain(), photos(count=3)
    found = ranges_of(model, feeds)
    maps = [run(model, feed["image"], ["Conv0_out"])[1] for feed in feeds]
    for channel in range(8):
        largest = max(abs(float(value)) for each in maps for value in each[0, channel].ravel())
        assert found["Conv0_out"][channel] == pytest.approx(largest)


def test_channel_ranges_want_a_photo():
    with pytest.raises(DataError, match="no image"):
        ranges_of(chain(), [])
