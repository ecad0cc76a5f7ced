"""Better rounding: weights chosen for a layer's outputs, compared with brute force, slow loops and plain rounding."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_graphs import Graph, biases_of, photos, plan_for, run, weights_of
from torch.nn import functional

from compress.kit.quant.adaround import learn
from compress.kit.quant.compensate import _ridge, _round, compensate
from compress.kit.quant.insert import insert, round_layer
from compress.kit.quant.patches import Rows, as_factors, as_weights, has_rows, sample
from compress.kit.quant.problem import Problem
from compress.kit.quant.reconstruct import reconstruct
from compress.kit.quant.weights import quantize_blocks

WAYS = ("compensate", "adaround")


def problem(seed=0, places=64, count=8, outputs=2, slope=1.0, limit=7, groups=1, alike=0.9):
    """Inputs that go up and down together, which is where plain rounding is not the best."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(groups, places, 1, generator=generator)
    inputs = alike * common + (1 - alike) * torch.randn(groups, places, count, generator=generator)
    weight = torch.randn(groups, outputs, count, generator=generator)
    bias = 0.1 * torch.randn(groups, 1, outputs, generator=generator)
    targets = inputs @ weight.transpose(1, 2) + bias
    steps = weight.abs().amax(2, keepdim=True) / limit
    return Problem(Rows(inputs, targets), weight, bias, steps.expand_as(weight).contiguous(), limit, slope)


def found(way, given, seed=0, steps=600):
    return compensate(given) if way == "compensate" else learn(given, steps, np.random.default_rng(seed))


def by_hand(given, whole):
    """Mean square error of the outputs, one at a time."""
    errors = []
    for group, place, output in np.ndindex(*given.rows.targets.shape):
        total = float(given.bias[group, 0, output])
        for k in range(given.weight.shape[2]):
            step = float(given.steps[group, output, k]) * float(whole[group, output, k])
            total += step * float(given.rows.inputs[group, place, k])
        target = float(given.rows.targets[group, place, output])
        bent = [value if value > 0 else given.slope * value for value in (total, target)]
        errors.append((bent[0] - bent[1]) ** 2)
    return sum(errors) / len(errors)


@pytest.mark.parametrize("slope", [1.0, 0.0, 0.2])
def test_the_error_is_that_of_slow_loops(slope):
    given = problem(slope=slope, groups=2, places=5)
    assert given.error(given.nearest) == pytest.approx(by_hand(given, given.nearest), rel=1e-4)


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_adaround_finds_the_best_of_all_roundings_up_and_down(seed):
    given = problem(seed, outputs=1, count=7)
    floor = (given.weight / given.steps).floor()
    best = min(given.error((floor + torch.tensor(up)).clamp(-7, 7)) for up in itertools.product((0.0, 1.0), repeat=7))
    plain = given.error(given.nearest)
    assert best < 0.5 * plain
    assert given.error(found("adaround", given, steps=2000)) <= best + 0.05 * (plain - best)


def test_adaround_finds_the_very_best_where_there_is_one_far_ahead():
    # one place, where all inputs are 1: only the sum counts, and every weight lies about .4 above a step
    weight = torch.tensor([[[7.0, 1.36, 1.38, 1.42, 1.44]]])
    inputs = torch.ones(1, 1, 5)
    given = Problem(Rows(inputs, inputs @ weight.transpose(1, 2)), weight, torch.zeros(1, 1, 1), torch.ones(1, 1, 5), 7)
    # 1.6 too little when all go down; two of them up leave .4
    assert given.error(given.nearest) == pytest.approx(1.6**2, rel=1e-4)
    assert given.error(found("adaround", given)) == pytest.approx(0.4**2, rel=1e-3)
    assert given.error(found("compensate", given)) == pytest.approx(0.4**2, rel=1e-3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("slope", [1.0, 0.0])
@pytest.mark.parametrize("groups", [1, 3])
def test_no_rounding_is_worse_than_the_nearest(way, slope, groups):
    gains = []
    for seed in range(6):
        given = problem(seed, slope=slope, groups=groups, alike=0.3 * (seed % 4), places=(4, 64)[seed % 2])
        gains.append(given.error(found(way, given, steps=100)) / given.error(given.nearest))
    assert max(gains) <= 1
    assert min(gains) < 0.9


@pytest.mark.parametrize("way", WAYS)
def test_whole_numbers_stay_within_their_limit(way):
    given = problem(3, outputs=6, count=20)
    whole = found(way, given)
    assert (whole == whole.round()).all()
    assert whole.abs().max() <= 7


@pytest.mark.parametrize("way", WAYS)
def test_weights_on_their_steps_stay(way):
    given = problem(1)
    given = replace(given, weight=given.nearest * given.steps)
    given = replace(given, rows=Rows(given.rows.inputs, given.rows.inputs @ given.weight.transpose(1, 2) + given.bias))
    assert (found(way, given) == given.nearest).all()


def test_adaround_moves_nothing_that_lies_on_its_step_whatever_the_outputs_want():
    given = problem(1)
    given = replace(given, weight=given.nearest * given.steps)
    given = replace(given, rows=Rows(given.rows.inputs, given.rows.targets + 1))
    assert (found("adaround", given) == given.nearest).all()


@pytest.mark.parametrize("way", WAYS)
def test_errors_of_what_is_read_are_made_up_for(way):
    given = problem(2, outputs=4, count=16, places=256)
    read = Rows(given.rows.inputs * 0.9, given.rows.targets)  # the layers before write a tenth too little
    blind = found(way, given)
    seeing = found(way, replace(given, rows=read))
    check = replace(given, rows=read)
    assert check.error(seeing) < 0.8 * check.error(blind)


@pytest.mark.parametrize("way", WAYS)
def test_inputs_that_are_never_there_do_no_harm(way):
    given = problem(0)
    dead = Rows(torch.zeros_like(given.rows.inputs), torch.zeros_like(given.rows.targets))
    assert torch.isfinite(found(way, replace(given, rows=dead))).all()
    inputs = given.rows.inputs.clone()
    inputs[:, :, 3] = 0
    assert torch.isfinite(found(way, replace(given, rows=Rows(inputs, given.rows.targets)))).all()


def slow_surgeon(inputs, weight, steps, limit):
    """One weight after the other, the inverse of what is left computed anew each time."""
    products = inputs.T @ inputs / len(inputs)
    products += 0.01 * (inputs**2).mean() * np.eye(len(products))
    weight, whole = weight.copy(), np.zeros_like(weight)
    for k in range(weight.shape[1]):
        inverse = np.linalg.inv(products[k:, k:])
        for row in range(len(weight)):
            whole[row, k] = np.clip(np.round(weight[row, k] / steps[row, k]), -limit, limit)
            error = weight[row, k] - whole[row, k] * steps[row, k]
            weight[row, k:] -= error / inverse[0, 0] * inverse[0]
    return whole


@pytest.mark.parametrize("count", [5, 64, 150])
def test_compensation_is_that_of_the_slow_surgeon(count):
    rng = np.random.default_rng(count)
    inputs = rng.normal(size=(200, count)) + rng.normal(size=(200, 1))
    weight = rng.normal(size=(3, count))
    steps = np.abs(weight).max(1, keepdims=True) / 7 * np.ones_like(weight)
    expected = slow_surgeon(inputs, weight, steps, 7)
    result = _round(*(torch.from_numpy(each) for each in (inputs, weight, steps)), 7).numpy()
    assert (result == expected).all()
    assert (result != np.round(weight / steps)).any()


@pytest.mark.parametrize(("places", "count"), [(40, 7), (7, 40)])
def test_the_ridge_is_least_squares_with_a_price_on_change(places, count):
    rng = np.random.default_rng(0)
    inputs, wanted = rng.normal(size=(places, count)), rng.normal(size=(places, 3))
    price = np.sqrt(0.1 * (inputs**2).mean() * places)
    stacked = np.vstack([inputs, price * np.eye(count)])
    expected = np.linalg.lstsq(stacked, np.vstack([wanted, np.zeros((count, 3))]), rcond=None)[0]
    np.testing.assert_allclose(_ridge(torch.from_numpy(inputs), torch.from_numpy(wanted)).numpy(), expected, rtol=1e-6)


def test_parts_of_many_weights_make_up_for_each_other(monkeypatch):
    monkeypatch.setattr("compress.kit.quant.compensate._PART", 16)
    given = problem(4, outputs=3, count=64, places=200, alike=0.5)
    parts = given.error(compensate(given))
    assert parts < 0.5 * given.error(given.nearest)


@pytest.mark.parametrize(
    ("operator", "weight", "attributes"),
    [
        ("Conv", (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ("Conv", (6, 4, 3, 2), {"pads": [2, 0, 1, 1], "strides": [2, 1], "dilations": [1, 2]}),
        ("Conv", (6, 2, 3, 3), {"pads": [1, 1, 1, 1], "group": 2}),
        ("Conv", (4, 1, 5, 5), {"group": 4}),
        ("ConvTranspose", (4, 6, 2, 2), {"strides": [2, 2]}),
        ("ConvTranspose", (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 2}),
        ("ConvTranspose", (4, 6, 3, 3), {"strides": [2, 1], "dilations": [2, 1], "output_padding": [1, 0]}),
    ],
)
def test_rows_times_factors_are_what_the_layer_writes(operator, weight, attributes):
    graph = Graph(channels=4)
    values = graph.rng.normal(size=weight).astype(np.float32)
    model = graph.model(graph.add(operator, "image", graph.store(values), **attributes))
    node = model.graph.node[0]
    image = photos(4, 12, count=1)[0]["image"].repeat(2, 0)
    image[1] *= -0.7
    target = torch.from_numpy(run(model, image))
    stored = torch.from_numpy(values)
    assert has_rows(node, stored)
    for count in (50, 10**6):
        rows = sample(node, stored, torch.from_numpy(image), target, count, np.random.default_rng(0))
        written = rows.inputs @ as_factors(node, values).transpose(1, 2)
        torch.testing.assert_close(written, rows.targets, rtol=1e-4, atol=1e-4)
    assert rows.targets.numel() == target.numel()
    torch.testing.assert_close(rows.targets.square().sum(), target.square().sum())
    assert (as_weights(node, as_factors(node, values), weight) == stored).all()


def test_layers_without_rows_are_known():
    graph = Graph()
    weight = graph.store(graph.rng.normal(size=(4, 3, 3, 3)))
    graph.add("Conv", "image", weight, auto_pad="SAME_UPPER")
    graph.add("Gemm", "image", weight, alpha=2.0)
    graph.add("Gemm", "image", weight, transA=1)
    graph.add("Conv", "image", weight)
    shapes = [torch.zeros(4, 3, 3, 3), torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4, 3, 3)]
    assert not any(has_rows(node, shape) for node, shape in zip(graph.nodes, shapes, strict=True))


def net():
    """Two convolutions with ReLUs, a transposed one, a sum, a matrix product and what needs no weights."""
    graph = Graph(seed=7)
    skip = graph.add("Relu", graph.conv("image", 16, 3))
    below = graph.add("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2])
    below = graph.add("LeakyRelu", graph.conv(below, 16, 16), alpha=0.2)
    up = graph.conv(below, 16, 16, side=2, operator="ConvTranspose", strides=[2, 2], pads=[0] * 4)
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", graph.add("Add", up, skip)))
    gate = graph.add("Gemm", flat, graph.store(graph.rng.normal(0, 0.3, (16, 16))), transB=1)
    gate = graph.add("Unsqueeze", gate, graph.store([2, 3], np.int64))
    return graph.model(graph.conv(graph.add("Add", up, gate), 2, 16))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["int4", "int4w"])
def test_four_bit_networks_come_nearer_on_other_photos(way, form):
    model, feeds, others = net(), photos(), photos(seed=9)
    plan = plan_for(model, feeds, form)
    better, report = reconstruct(model, plan, feeds, way=way, steps=150)
    errors = [np.mean([np.abs(run(insert(model, each), f["image"]) - run(model, f["image"])).mean() for f in others])
              for each in (plan, better)]  # fmt: skip
    assert errors[1] < (0.85 if way == "compensate" else 1) * errors[0]
    assert len(report) == 5
    assert set(better.rounded) == {each.name for each in report if each.kept}
    assert all((each.found < each.nearest) == each.kept for each in report)
    assert all(each.moved for each in report if each.kept)


def test_four_bit_integers_are_multiples_of_what_their_blocks_are_stored_with():
    model, feeds = net(), photos()
    plan = plan_for(model, feeds, "int4")
    better, _ = reconstruct(model, plan, feeds)
    for name, rounded in better.rounded.items():
        node = next(each for each in model.graph.node if each.name == name)
        weight = weights_of(model, name)
        axis = 1 if node.op_type == "ConvTranspose" else 0
        blocks = quantize_blocks(weight, axis, 32)
        np.testing.assert_array_equal(rounded.scales, blocks.scales)
        integers = np.moveaxis(rounded.integers, axis, 0).reshape(blocks.fours.shape)
        assert (integers % blocks.multipliers.astype(np.int8) == 0).all()
        assert np.abs(integers // blocks.multipliers.astype(np.int8)).max() <= 7


@pytest.mark.parametrize("way", WAYS)
def test_same_seed_same_bytes(way):
    model, feeds = net(), photos(count=4)
    plan = plan_for(model, feeds, "int4")
    files = [insert(model, reconstruct(model, plan, feeds, way=way, steps=30, places=200, seed=seed)[0])
             for seed in (0, 0, 1)]  # fmt: skip
    assert files[0].SerializeToString() == files[1].SerializeToString()
    assert files[0].SerializeToString() != files[2].SerializeToString()


def test_layers_kept_in_float_and_safe_weights_are_left_alone():
    model, feeds = net(), photos(count=2)
    plan = plan_for(model, feeds, "float32")
    assert reconstruct(model, plan, feeds) == (plan, [])
    safe = replace(plan_for(model, feeds, "int8"), safe_weights=True)
    assert reconstruct(model, safe, feeds) == (safe, [])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_photos_that_judge_are_not_those_that_are_learned_from(count, monkeypatch):
    seen = []

    def spy(given):
        seen.append(given.rows.targets)
        return compensate(given)

    monkeypatch.setattr("compress.kit.quant.reconstruct.compensate", spy)
    graph = Graph()
    model, feeds = graph.model(graph.conv("image", 4, 3)), photos(count=count)
    _, report = reconstruct(model, plan_for(model, feeds, "int4w"), feeds, places=10**6)
    assert seen[0].shape[1] == (count - 1) * 144
    last = torch.from_numpy(run(model, feeds[-1]["image"])).flatten(2).transpose(1, 2)
    assert not any((seen[0] == row).all(2).any() for row in last[:, ::10].transpose(0, 1)[:, :, None].unbind(0))
    assert len(report) == 1


def test_one_photo_will_do_and_progress_is_told():
    model, feeds, told = net(), photos(count=1), []
    before = model.SerializeToString()
    _, report = reconstruct(model, plan_for(model, feeds), feeds, places=100, advance=lambda: told.append(1))
    assert len(told) == len(report) == 5
    assert model.SerializeToString() == before


def test_the_relu_behind_a_layer_counts():
    # half of what the layer writes is cut off: errors there must not
    graph = Graph(channels=4)
    model = graph.model(graph.add("Relu", graph.conv("image", 4, 4, side=1)))
    feeds = photos(4)
    plan = plan_for(model, feeds, "int4w", "inputs", block=10**6)
    _, report = reconstruct(model, plan, feeds, places=10**6)
    weight = weights_of(model, "Conv0")
    bias = biases_of(model, "Conv0").copy()
    scale = np.abs(weight).max((1, 2, 3), keepdims=True) / 7
    unseen = torch.from_numpy(np.concatenate([feeds[3]["image"], feeds[7]["image"]]))
    plain = round_layer(model.graph.node[0], weight, plan)
    assert np.abs(plain - weight).max() < scale.max()
    both = [
        functional.relu(functional.conv2d(unseen, torch.tensor(values), torch.tensor(bias)))
        for values in (weight, plain)
    ]
    assert report[0].nearest == pytest.approx(float((both[0] - both[1]).square().mean()), rel=1e-3)
