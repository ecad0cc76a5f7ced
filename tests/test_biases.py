"""Bias correction: what rounding does to the means of channels is taken back."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from small_graphs import Graph, biases_of, photos, plan_for, run, weights_of

from compress.core.errors import DataError, UsageError
from compress.kit.quant.biases import correct_biases, mean_shift, measure_biases
from compress.kit.quant.insert import insert, round_layer
from compress.kit.quant.walk import on_grid, walk


def net(norms=False):
    """A skip, a pooling, a concatenation, a sum and a transposed convolution."""
    graph = Graph(seed=5)
    skip = graph.add("Relu", graph.conv("image", 8, 3))
    below = graph.conv(graph.add("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2]), 8, 8, bias=False)
    below = graph.add("Relu", graph.norm(below, 8) if norms else below)
    wide = graph.conv(below, 8, 8, side=2, operator="ConvTranspose", strides=[2, 2], pads=[0] * 4)
    both = graph.add("Concat", graph.add("Add", wide, skip), skip, axis=1)
    return graph.model(graph.conv(graph.add("Relu", graph.conv(both, 8, 16)), 2, 8))


def means_of(model, feeds):
    names = sorted({node.input[0] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")})
    found = {}
    for name in names:
        maps = [feed["image"] if name == "image" else run(model, feed["image"], [name])[1] for feed in feeds]
        found[name] = np.concatenate(maps).astype(np.float64).mean((0, 2, 3))
    return found


def mean_error(model, other, feeds, name):
    """Mean of the difference by channel of a map, over all photos."""
    return np.mean([(run(other, f["image"], [name])[1] - run(model, f["image"], [name])[1]).mean((0, 2, 3))
                    for f in feeds], 0)  # fmt: skip


def with_rounded_weights(model, plan):
    """The float graph with its weights as they are stored, names kept."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    for node in twin.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            value = round_layer(node, weights_of(model, node.name), plan)
            twin.graph.initializer.append(onnx.numpy_helper.from_array(value, f"{node.name}/values"))
            node.input[1] = f"{node.name}/values"
    return twin


@pytest.mark.parametrize("group", [1, 2, 4])
def test_the_shift_is_that_of_every_output_summed_by_hand(group):
    rng = np.random.default_rng(0)
    graph = Graph(channels=8)
    graph.conv("image", 4, 8, group=group)
    error, means = rng.normal(size=(4, 8 // group, 3, 2)).astype(np.float32), rng.normal(size=8)
    expected = []
    for output in range(4):
        first = output // (4 // group) * (8 // group)
        expected.append(sum(float(error[output, i, y, x]) * means[first + i]
                            for i in range(8 // group) for y in range(3) for x in range(2)))  # fmt: skip
    np.testing.assert_allclose(mean_shift(graph.nodes[0], error, means), expected, rtol=1e-6)


@pytest.mark.parametrize(("side", "stride"), [(2, 2), (4, 2), (3, 1)])
def test_the_shift_of_a_transposed_convolution_is_what_a_constant_map_shows(side, stride):
    graph = Graph(channels=4, side=24)
    model = graph.model(graph.conv("image", 6, 4, side=side, operator="ConvTranspose", bias=False,
                                   strides=[stride] * 2, pads=[0] * 4))  # fmt: skip
    means = np.array([1.0, -2.0, 0.5, 3.0])
    constant = np.broadcast_to(means.reshape(1, 4, 1, 1), (1, 4, 24, 24)).astype(np.float32)
    inner = run(model, constant)[:, :, 8:16, 8:16]
    shift = mean_shift(model.graph.node[0], weights_of(model, "ConvTranspose0"), means)
    np.testing.assert_allclose(inner.mean((0, 2, 3)), shift, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["int8w", "int4w"])
def test_rounded_weights_write_the_same_means_where_no_border_counts(form):
    graph = Graph(seed=2)
    model = graph.model(graph.conv("image", 8, 3, side=1))
    feeds = photos()
    plan = plan_for(model, feeds, form, "inputs")
    corrected = correct_biases(model, plan, means_of(model, feeds))
    before, after = (
        mean_error(model, with_rounded_weights(each, plan), feeds, "Conv0_out") for each in (model, corrected)
    )
    assert np.abs(before).max() > 1e-4
    assert np.abs(after).max() < 1e-6


def test_layers_in_float_keep_their_biases_where_only_weights_are_looked_at():
    model, feeds = net(), photos()
    plan = plan_for(model, feeds, "float32")
    corrected = correct_biases(model, plan, means_of(model, feeds))
    assert corrected.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("through_a_sum", [False, True])
def test_a_bias_that_only_norms_read_stays(through_a_sum):
    graph = Graph(channels=8)
    inner = graph.conv("image", 8, 8)
    if through_a_sum:
        inner = graph.add("Add", inner, "image")
    inner = graph.norm(inner, 8)
    model, feeds = graph.model(graph.conv(inner, 4, 8)), photos(8)
    plan = plan_for(model, feeds, "int4w", "inputs")
    last = model.graph.node[-1].name
    for corrected in (correct_biases(model, plan, means_of(model, feeds)), measure_biases(model, plan, feeds)):
        assert (biases_of(corrected, "Conv0") == biases_of(model, "Conv0")).all()
        assert (biases_of(corrected, last) != biases_of(model, last)).any()


@pytest.mark.parametrize("style", ["all", "convolutions", "inputs"])
@pytest.mark.parametrize("norms", [False, True])
def test_measured_biases_bring_back_the_means_of_what_the_written_graph_writes(style, norms):
    model, feeds = net(norms), photos(count=6)
    plan = plan_for(model, feeds, "int4", style)
    plan = replace(plan, block=10**6)
    corrected = measure_biases(model, plan, feeds)
    errors = []
    for each in (model, corrected):
        written = insert(each, plan)
        off = [(run(written, f["image"]) - run(model, f["image"])).mean((0, 2, 3)) for f in feeds]
        errors.append(np.abs(np.mean(off, 0)).max())
    assert errors[1] < 0.2 * errors[0]


def test_a_layer_without_a_bias_gets_one():
    model, feeds = net(), photos()
    plan = plan_for(model, feeds)
    names = [node.name for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 2]
    assert len(names) == 1
    for corrected in (correct_biases(model, plan, means_of(model, feeds)), measure_biases(model, plan, feeds)):
        assert biases_of(corrected, names[0]).shape == (8,)
        onnx.checker.check_model(corrected, full_check=True)


def test_the_given_graph_is_not_touched():
    model, feeds = net(), photos(count=2)
    before = model.SerializeToString()
    correct_biases(model, plan_for(model, feeds), means_of(model, feeds))
    measure_biases(model, plan_for(model, feeds), feeds)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("style", ["all", "convolutions", "inputs"])
def test_the_walk_reads_what_the_written_graph_reads(style):
    model, feeds = net(), photos(count=2)
    plan = plan_for(model, feeds, style=style)
    last = next(node for node in model.graph.node[::-1] if node.op_type == "Conv")
    seen = []

    def visit(layer):
        if layer.node.name == last.name:
            seen.extend((layer.output(image, layer.rounded, layer.bias), target)
                        for image, target in zip(layer.inputs, layer.targets, strict=True))  # fmt: skip
        return layer.rounded, layer.bias

    walk(model, plan, feeds, visit)
    for feed, (made, target) in zip(feeds, seen, strict=True):
        np.testing.assert_allclose(target, run(model, feed["image"], [last.output[0]])[1], atol=1e-4)
        picture = run(insert(model, plan), feed["image"])
        grid = plan.maps.get(last.output[0])
        step = 0.01 * float(np.abs(picture).max()) if grid is None else grid.scale
        found = (made if grid is None else on_grid(made, grid)).numpy()
        # biases are in whole steps there, sums in another order: here and there a value falls on the next step
        assert np.abs(found - picture).max() < 1.5 * step
        assert np.abs(found - picture).mean() < 0.1 * step
        assert np.abs(target.numpy() - picture).mean() > 3 * np.abs(found - picture).mean()


def test_the_walk_goes_on_with_what_the_visitor_decides():
    model, feeds = net(), photos(count=1)
    first, maps = model.graph.node[0].name, []

    def visit(layer):
        if layer.node.name != first:
            maps.append(layer.inputs[0])
        return (layer.rounded * 0, layer.bias * 0) if layer.node.name == first else (layer.rounded, layer.bias)

    walk(model, plan_for(model, feeds), feeds, visit)
    assert not maps[0].any()


def test_no_photo_or_another_name_is_refused():
    model, feeds = net(), photos(count=1)
    plan = plan_for(model, feeds)
    with pytest.raises(DataError, match="no image"):
        measure_biases(model, plan, [])
    with pytest.raises(UsageError, match="reads 'image'"):
        measure_biases(model, plan, [{"picture": feeds[0]["image"]}])
