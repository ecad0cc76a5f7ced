import bisect
import itertools
import logging
import math
import weakref
from dataclasses import replace

import numpy as np
import onnx
import PIL.Image
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from scipy import stats

from compress.core.errors import ArtifactError, DataError, UsageError
from compress.core.store import Store
from compress.core.types import ImageSpec
from compress.jobs.calibration import calibration
from compress.kit.data.sets import Photos
from compress.kit.quant.calibrate import Calibration, calibrate
from compress.kit.quant.clip import METHODS, chosen_range, divergence, grids, squared_error
from compress.kit.quant.observe import SAMPLE, observe
from compress.kit.quant.plan import Grid
from compress.kit.quant.seen import BINS, Gathering, MeanGathering, Seen
from compress.kit.ship.runtime import open_session


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def write(path, nodes, weights, shape=("n", 3, "h", "w"), outputs=("mask",), ends=None):
    """Write a graph of one input "image" and infer its shapes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ends) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def weight(*shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """All whose range is measured or follows: convolutions, ReLU, pooling, concatenation, moves, a sigmoid."""
    nodes = [
        node("Conv", ["image", "w0"], "a", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], "b"),
        node("MaxPool", ["b"], "c", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["c", "w1", "b1"], "d", pads=[1, 1, 1, 1]),
        node("Resize", ["d", "", "twice"], "e", mode="linear"),
        node("Concat", ["e", "b"], "f", axis=1),
        node("SpaceToDepth", ["f"], "g", blocksize=2),
        node("DepthToSpace", ["g"], "h", blocksize=2),
        node("ConvTranspose", ["h", "w2"], "i"),
        node("Relu", ["i"], "j"),
        node("Conv", ["j", "w3"], "k"),
        node("Sigmoid", ["k"], "mask"),
    ]
    weights = {
        "w0": weight(16, 3, 3, 3), "w1": weight(8, 16, 3, 3, seed=1),
        "b1": weight(8, seed=2), "w2": weight(24, 8, 1, 1),
        "w3": weight(1, 8, 1, 1), "twice": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    return write(tmp_path_factory.mktemp("net") / "net.onnx", nodes, weights)


def images(count=4, seed=0, size=(20, 24)):
    """Noise whose strength differs from image to image, so that ranges grow while images come in."""
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((1, 3, *size)) * 4.0 ** rng.integers(-3, 4)).astype(np.float32) for _ in range(count)]


def feeds(pictures, batch=1):
    for start in range(0, len(pictures), batch):
        yield {"image": np.concatenate(pictures[start : start + batch])}


def activations(path, picture):
    """Every tensor of the graph, by onnx's own evaluator in numpy."""
    model = onnx.load(path)
    names = [output for made in model.graph.node for output in made.output]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    values = ReferenceEvaluator(model).run(None, {"image": picture})
    return {"image": picture, **dict(zip(names, values, strict=True))}


def assert_equal(one, other):
    """Bit for bit, but for the first image."""
    assert list(one.tensors) == list(other.tensors)
    assert one.images == other.images
    for name, seen in one.tensors.items():
        assert_same(seen, other.tensors[name])
    assert list(one.means) == list(other.means)
    for name, mean in one.means.items():
        np.testing.assert_array_equal(mean, other.means[name], strict=True)


def assert_same(seen, other):
    numbers = ("low", "high", "images", "zeros", "exponent", "start")
    assert [getattr(seen, n) for n in numbers] == [getattr(other, n) for n in numbers]
    np.testing.assert_array_equal(seen.counts, other.counts, strict=True)


def gathered(values, low=None, high=None):
    """What is seen of a tensor with these values."""
    values = np.asarray(values, np.float32)
    gathering = Gathering()
    gathering.see(
        float(values.min()) if low is None else low, float(values.max()) if high is None else high, values.ravel()
    )
    return gathering.seen()


# --- what is gathered


def test_ranges_and_means_are_those_of_every_tensor_of_every_image(net):
    pictures = images(3)
    found = calibrate(net, feeds(pictures), threads=1)
    all_values = [activations(net, picture) for picture in pictures]
    assert set(found.tensors) == set(all_values[0])
    assert found.images == 3
    for name, seen in found.tensors.items():
        low, high = (float(f([f(values[name]) for values in all_values])) for f in (np.min, np.max))
        span = high - low
        assert seen.low == pytest.approx(low, abs=1e-5 * span), name
        assert seen.high == pytest.approx(high, abs=1e-5 * span), name
        assert seen.images == 3
        assert seen.sampled == 3 * SAMPLE
    assert found.tensors["b"].low == 0.0
    assert set(found.means) == {"image", "c", "h", "j"}
    for name, mean in found.means.items():
        expected = np.mean([values[name].astype(np.float64).mean((0, 2, 3)) for values in all_values], axis=0)
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_smaller_than_the_sample_gives_all_its_values_about_equally_often(tmp_path):
    path = write(tmp_path / "a.onnx", [node("Identity", ["image"], "mask")], {}, shape=("n", 1, "h", "w"))
    values = np.arange(1, 301, dtype=np.float32).reshape(1, 1, 20, 15)
    seen = calibrate(path, [{"image": values}], threads=1).tensors["image"]
    assert seen.width < 1
    per_value = seen.counts[seen.counts > 0]
    assert len(per_value) == 300
    assert per_value.min() >= SAMPLE // 300 - 1
    assert per_value.max() <= SAMPLE // 300 + 2


@pytest.mark.parametrize("size", [(64, 10, 10), (32, 20, 20), (7, 63, 45), (3, 96, 128), (1, 255, 257)])
def test_the_sample_favours_no_column_row_or_channel(tmp_path, size):
    path = write(tmp_path / "a.onnx", [node("Identity", ["image"], "mask")], {}, shape=("n", "c", "h", "w"))
    for axis, length in enumerate(size):
        places = np.broadcast_to(np.arange(1, length + 1).reshape([-1 if a == axis else 1 for a in range(3)]), size)
        if length == 1:
            continue
        picture = places[None].astype(np.float32)
        picture[0, -1, -1, -1] = 1  # a pixel of another colour: a set of one flat colour is refused
        seen = calibrate(path, [{"image": picture}], threads=1).tensors["image"]
        groups = np.array_split(seen.counts[seen.counts > 0], min(length, 8))
        shares = np.array([group.mean() for group in groups]) * length / SAMPLE
        np.testing.assert_allclose(shares, 1, atol=0.1)


@pytest.mark.parametrize("seed", range(6))
def test_a_histogram_that_grew_is_the_one_counted_at_once(seed):
    rng = np.random.default_rng(seed)
    runs = [
        (rng.standard_normal(50) * 2.0 ** rng.integers(-40, 40) * (rng.random(50) > 0.2)).astype(np.float32)
        for _ in range(5)
    ]
    gathering = Gathering()
    for values in runs:
        gathering.see(float(values.min()), float(values.max()), values)
    seen = gathering.seen()
    largest = max(float(np.abs(values).max()) for values in runs)
    width = 2.0**-200
    while largest >= width * BINS:
        width *= 2
    assert seen.width == width
    counts = {}
    for value in itertools.chain(*(values.tolist() for values in runs)):
        if value != 0:
            place = math.floor(value / width)
            counts[place] = counts.get(place, 0) + 1
    assert counts == {seen.start + i: n for i, n in enumerate(seen.counts.tolist()) if n}
    assert seen.zeros == sum(int((values == 0).sum()) for values in runs)
    for order in itertools.islice(itertools.permutations(runs), 1, 30, 7):
        other = Gathering()
        for values in order:
            other.see(float(values.min()), float(values.max()), values)
        assert_same(seen, other.seen())


def test_values_at_the_ends_of_float32_have_a_bin():
    for values in ([1e-45, -1e-45], [3.4e38, -3.4e38, 1e-45], [-1.0, 1.0], [2.0**20], [-(2.0**-20)], [0.0, 0.0]):
        seen = gathered(values)
        assert seen.sampled == len(values)
        assert seen.counts.sum() == np.count_nonzero(values)


def test_mean_sums_are_exact_and_have_no_order():
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((40, 3)) * 10.0 ** rng.integers(-6, 7, (40, 1))).astype(np.float32)
    sums = []
    for order in (np.arange(40), rng.permutation(40)):
        gathering = MeanGathering()
        for start in range(0, 40, 8):
            gathering.see(values[order[start : start + 8]])
        sums.append(gathering.mean())
    np.testing.assert_array_equal(*sums)
    exact = [math.fsum(map(float, column)) / 40 for column in values.T]
    np.testing.assert_allclose(sums[0], exact, rtol=0, atol=2.0**-48)


# --- laws


def test_order_and_batches_change_no_bit(net):
    pictures = images(4)
    reference = calibrate(net, feeds(pictures), threads=1)
    for batch, order in ((1, [3, 1, 0, 2]), (2, [0, 1, 2, 3]), (4, [0, 1, 2, 3]), (4, [2, 3, 1, 0]), (3, [1, 0, 3, 2])):
        assert_equal(reference, calibrate(net, feeds([pictures[i] for i in order], batch), threads=1))


def test_the_same_images_twice_change_no_range_and_no_mean(net):
    pictures = images(3)
    once, twice = (calibrate(net, feeds(pictures * times), threads=1) for times in (1, 2))
    for name, seen in once.tensors.items():
        other = twice.tensors[name]
        assert (other.low, other.high, other.exponent) == (seen.low, seen.high, seen.exponent)
        np.testing.assert_array_equal(other.counts, 2 * seen.counts)
        assert other.zeros == 2 * seen.zeros
        for method in METHODS:
            assert chosen_range(seen, method) == chosen_range(other, method)
    for name, mean in once.means.items():
        np.testing.assert_allclose(twice.means[name], mean, rtol=1e-15)


def test_images_of_several_sizes_in_any_order(net):
    pictures = [*images(2), *images(2, seed=1, size=(16, 36))]
    found = [calibrate(net, feeds([pictures[i] for i in order]), threads=1) for order in ([0, 1, 2, 3], [2, 0, 3, 1])]
    assert_equal(*found)


def test_a_graph_with_a_fixed_batch_is_run_as_it_is(tmp_path):
    nodes = [node("Conv", ["image", "w"], "a"), node("Sigmoid", ["a"], "mask")]
    path = write(tmp_path / "a.onnx", nodes, {"w": weight(4, 3, 1, 1)}, shape=(2, 3, 8, 8))
    pictures = images(4, size=(8, 8))
    found = calibrate(path, feeds(pictures, 2), threads=1)
    assert found.images == 4
    expected = np.mean([picture.astype(np.float64).mean((0, 2, 3)) for picture in pictures], axis=0)
    np.testing.assert_allclose(found.means["image"], expected, atol=1e-6)
    with pytest.raises(UsageError, match="doesn't fit the network"):
        calibrate(path, feeds(pictures), threads=1)


def test_no_whole_tensor_leaves_the_graph(net, tmp_path):
    model = onnx.load(net)
    observe(model)
    onnx.save(model, tmp_path / "twin.onnx")
    values = open_session(tmp_path / "twin.onnx", threads=1).run(None, {"image": images(1, size=(256, 256))[0]})
    assert max(value.size for value in values) == SAMPLE


def test_each_batch_is_dropped_before_the_next_is_read(net):
    alive = []

    def stream():
        for picture in images(4):
            assert [ref() for ref in alive] == [None] * len(alive)
            image = picture.copy()
            alive.append(weakref.ref(image))
            yield {"image": image}
            del image

    calls = []
    calibrate(net, stream(), threads=1, advance=lambda: calls.append(1))
    assert len(alive) == len(calls) == 4


def test_the_graph_is_only_read_and_nothing_is_left_beside_it(net, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(net.read_bytes())
    monkeypatch.chdir(tmp_path)
    calibrate(path, feeds(images(1)), threads=1)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == net.read_bytes()


# --- what is refused


def test_no_image_is_refused(net):
    for nothing in ([], [{"image": np.zeros((0, 3, 20, 24), np.float32)}]):
        with pytest.raises(DataError, match="no image to calibrate with"):
            calibrate(net, nothing, threads=1)


@pytest.mark.parametrize("pixel", [(0, 0, 0), (1, 1, 1), (0.2, -1.5, 3)], ids=["black", "white", "one colour"])
def test_a_set_of_one_flat_colour_is_refused_with_what_was_found(net, pixel):
    flat = np.broadcast_to(np.reshape(np.array(pixel, np.float32), (1, 3, 1, 1)), (1, 3, 20, 24)).copy()
    with pytest.raises(DataError, match=r"the 3 calibration photos are all one flat colour.*'image' is .*--data"):
        calibrate(net, feeds([flat] * 3), threads=1)
    with pytest.raises(DataError, match="the calibration photo is"):
        calibrate(net, feeds([flat]), threads=1)
    # a flat photo among others is a photo
    for pictures in ([flat, *images(1)], [*images(1), flat], [flat, flat + 1]):
        assert calibrate(net, feeds(pictures), threads=1).images == 2


def test_flat_pictures_with_channels_last_are_refused_and_stripes_are_not(tmp_path):
    nodes = [node("Transpose", ["image"], "t", perm=[0, 3, 1, 2]), node("Conv", ["t", "w"], "mask")]
    path = write(tmp_path / "a.onnx", nodes, {"w": weight(4, 3, 1, 1)}, shape=("n", "h", "w", 3))
    flat = np.broadcast_to(np.array([0.1, 0.5, 0.9], np.float32), (1, 8, 12, 3))
    with pytest.raises(DataError, match="one flat colour"):
        calibrate(path, [{"image": flat}], threads=1)
    stripes = flat + np.arange(12, dtype=np.float32)[:, None]
    assert calibrate(path, [{"image": stripes}], threads=1).images == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_is_refused_by_name_and_number(net, bad):
    pictures = images(3)
    pictures[1][0, 2, 5, 7] = bad
    with pytest.raises(DataError, match=r"input 'image' of calibration image 1 \(counted from 0\)"):
        calibrate(net, feeds(pictures, 3), threads=1)


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        # one value of many, hidden by a pooling that passes over NaN
        ([("Log", ["image"], "a"), ("MaxPool", ["a"], "b"), ("Conv", ["b", "w"], "mask")], "a"),
        ([("Sqrt", ["image"], "a"), ("Relu", ["a"], "b"), ("Conv", ["b", "w"], "mask")], "a|b"),
        ([("Exp", ["image"], "a"), ("Conv", ["a", "w"], "mask")], "a"),
        ([("Conv", ["image", "w"], "a"), ("Sqrt", ["a"], "mask")], "mask"),
    ],
)
def test_a_tensor_that_is_not_finite_is_refused_by_name(tmp_path, nodes, named):
    made = [
        node(operator, inputs, output, **({"kernel_shape": [2, 2], "strides": [2, 2]} if operator == "MaxPool" else {}))
        for operator, inputs, output in nodes
    ]
    path = write(tmp_path / "a.onnx", made, {"w": np.ones((1, 3, 1, 1), np.float32)})
    good = np.random.default_rng(0).uniform(0.5, 1, (1, 3, 32, 32)).astype(np.float32)
    bad = good.copy()
    bad[0, :, 3, 4] = 1000 if made[0].op_type == "Exp" else -10
    assert calibrate(path, feeds([good]), threads=1).images == 1
    with pytest.raises(DataError, match=rf"tensor '({named})' takes values that aren't finite on calibration image 2"):
        calibrate(path, feeds([good, good, bad]), threads=1)


def test_means_too_large_to_add_are_refused(tmp_path):
    nodes = [node("Mul", ["image", "much"], "a"), node("Conv", ["a", "w"], "mask")]
    path = write(tmp_path / "a.onnx", nodes, {"w": weight(1, 3, 1, 1), "much": np.float32(1e25)})
    with pytest.raises(DataError, match="tensor 'a' takes values around"):
        calibrate(path, feeds([np.abs(images(1)[0])]), threads=1)


def test_a_batch_that_does_not_fit_is_refused_with_its_shape(net):
    with pytest.raises(UsageError, match=r"doesn't fit the network: image \[1, 4, 16, 16\]"):
        calibrate(net, [{"image": images(1, size=(16, 16))[0][:, [0, 1, 2, 2]]}], threads=1)
    with pytest.raises(UsageError, match="doesn't fit the network: photo"):
        calibrate(net, [{"photo": images(1)[0]}], threads=1)


# --- stored and read back


def test_a_calibration_comes_back_bit_for_bit(net, tmp_path):
    made = calibrate(net, feeds(images(2)), threads=1)
    made.save(tmp_path / "c.npz")
    back = Calibration.load(tmp_path / "c.npz")
    assert_equal(made, back)
    np.testing.assert_array_equal(back.first["image"], images(1)[0])
    np.testing.assert_array_equal(made.first["image"], images(1)[0])
    with np.load(tmp_path / "c.npz", allow_pickle=False) as kept:
        assert all(kept[name].dtype != object for name in kept.files)


def test_a_damaged_or_foreign_file_is_no_calibration(net, tmp_path):
    path = tmp_path / "c.npz"
    calibrate(net, feeds(images(1)), threads=1).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"text", whole[:100], whole[: len(whole) // 2], whole[:-1]]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"'c\.npz' holds no calibration"):
            Calibration.load(path)
    for place in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            Calibration.load(path)
        except ArtifactError:
            continue
    np.savez(path.open("wb"), images=np.array(3))
    with pytest.raises(ArtifactError, match="holds no calibration"):
        Calibration.load(path)
    np.savez(path.open("wb"), images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ArtifactError, match="holds no calibration"):
        Calibration.load(path)
    with pytest.raises(ArtifactError):
        Calibration.load(tmp_path / "absent.npz")


# --- ranges


def grid_values(low, high, bits):
    """The points of a grid over low..high (in bins), slow and plain."""
    last = 2**bits - 1
    step = (high - low) / last
    zero = min(max(round(-low / step), 0), last)
    return [(q - zero) * step for q in range(last + 1)]


def nearest(points):
    """Which point is nearest; of two the upper one, as a bin goes whose middle is the edge between two cells."""
    edges = [round((one + other) / 2, 9) for one, other in itertools.pairwise(points)]
    return lambda value: bisect.bisect_right(edges, value)


def slow_squared_error(seen, low, high, bits):
    points = grid_values(low, high, bits)
    place = nearest(points)
    total = 0.0
    for i, count in enumerate(seen.counts.tolist()):
        middle = seen.start + i + 0.5
        total += count * (points[place(middle)] - middle) ** 2
    return total / int(seen.counts.sum())


def slow_divergence(seen, low, high, bits):
    points = grid_values(low, high, bits)
    place = nearest(points)
    counts = {seen.start + i: n for i, n in enumerate(seen.counts.tolist()) if n}
    inside = [i for i in counts if math.floor(low) <= i < math.ceil(high)]
    if len(inside) < 2:
        return math.inf
    reference = {i: counts[i] for i in inside}
    reference[inside[0]] += sum(n for i, n in counts.items() if i < inside[0])
    reference[inside[-1]] += sum(n for i, n in counts.items() if i > inside[-1])
    cells = {}
    for i in inside:
        cells.setdefault(place(i + 0.5), []).append(i)
    candidate = {i: sum(counts[j] for j in cell) / len(cell) for cell in cells.values() for i in cell}
    p_total, q_total = sum(reference.values()), sum(candidate.values())
    return sum(reference[i] / p_total * math.log(reference[i] / p_total / (candidate[i] / q_total)) for i in inside)


def samples():
    rng = np.random.default_rng(3)
    return {
        "two sides": rng.standard_normal(3000),
        "after ReLU": np.maximum(rng.laplace(size=3000), 0),
        "skewed": rng.gamma(2, size=3000) - 0.7,
        "negative": -rng.random(500),
        "outlier": np.append(rng.standard_normal(3000), 40),
        "few": np.array([-1.0, 0.25, 3.0]),
        "away from zero": rng.uniform(5, 6, 500),
    }


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("bits", [3, 8])
def test_both_costs_are_those_of_slow_loops(name, bits):
    seen = gathered(samples()[name])
    low, high = min(seen.low, 0) / seen.width, max(seen.high, 0) / seen.width
    shares = [(1.0, 1.0), (0.9, 0.31), (0.23, 0.77), (0.5, 0.5), (0.041, 0.057)]
    lows, highs = (np.array(ends) for ends in zip(*((a * low, b * high) for a, b in shares), strict=True))
    for fast, slow in ((squared_error, slow_squared_error), (divergence, slow_divergence)):
        expected = [slow(seen, a, b, bits) for a, b in zip(lows.tolist(), highs.tolist(), strict=True)]
        np.testing.assert_allclose(fast(seen, bits)(lows, highs), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("percentile", [99.999, 99, 80])
def test_percentile_leaves_out_no_more_than_its_share_from_either_end(name, percentile):
    seen = gathered(samples()[name])
    low, high = chosen_range(seen, "percentile", percentile=percentile)
    values = sorted([(seen.start + i, n) for i, n in enumerate(seen.counts.tolist()) if n] + [(0, seen.zeros)])
    total, allowed = seen.sampled, (1 - percentile / 100) / 2
    ends = []
    for ordered, edge in ((values, 0), (values[::-1], 1)):
        passed = 0
        for place, count in ordered:
            passed += count
            if passed > allowed * total:
                ends.append((place + edge) * seen.width)
                break
    assert low == max(min(ends[0], 0), min(seen.low, 0))
    assert high == min(max(ends[1], 0), max(seen.high, 0))


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("method", METHODS)
def test_a_range_holds_zero_and_no_more_than_was_seen(name, method):
    seen = gathered(samples()[name])
    low, high = chosen_range(seen, method)
    assert min(seen.low, 0) <= low <= 0 <= high <= max(seen.high, 0)
    assert high > low
    if method == "minmax":
        assert (low, high) == (min(seen.low, 0), max(seen.high, 0))
    if seen.low >= 0:
        assert low == 0
    if seen.high <= 0:
        assert high == 0


@pytest.mark.parametrize("name", samples())
def test_a_search_finds_nothing_worse_than_all_that_was_seen_or_a_slow_scan(name):
    seen = gathered(samples()[name])
    ends = min(seen.low, 0) / seen.width, max(seen.high, 0) / seen.width
    for method, slow in (("mse", slow_squared_error), ("entropy", slow_divergence)):
        low, high = (end / seen.width for end in chosen_range(seen, method, 4))
        found = slow(seen, low, high, 4)
        scan = [slow(seen, a * ends[0], b * ends[1], 4) for a in (1, 0.75, 0.5, 0.25) for b in (1, 0.75, 0.5, 0.25)]
        assert found <= min(scan) + 1e-9


@pytest.mark.parametrize(("distribution", "published"), [(stats.norm, 3.92403714), (stats.laplace, 9.89675982)])
def test_mse_clips_where_the_published_optimum_of_8_bits_lies(distribution, published):
    """Banner et al. 2019: the optimal clipping of a normal and of a Laplace distribution, in its own scale."""
    seen = gathered(distribution.ppf((np.arange(400_000) + 0.5) / 400_000))
    low, high = chosen_range(seen, "mse")
    assert -low == pytest.approx(published, rel=0.02)
    assert high == pytest.approx(published, rel=0.02)


def test_mse_of_4_bits_is_near_the_best_of_any_uniform_quantizer():
    """Max 1960, "Quantizing for Minimum Distortion", table II: 0.01154 of a normal distribution with 16 levels."""
    seen = gathered(stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000))
    low, high = chosen_range(seen, "mse", 4)
    found = slow_squared_error(seen, low / seen.width, high / seen.width, 4) * seen.width**2
    # a little worse, because one of our levels is zero
    assert 0.01154 <= found <= 1.04 * 0.01154


def test_a_lone_outlier_is_clipped_and_an_even_spread_is_not():
    rng = np.random.default_rng(0)
    outlier = gathered(np.append(rng.standard_normal(1_000_000), [50.0]))
    even = gathered(rng.uniform(-1, 3, 100_000))
    for method in ("percentile", "entropy", "mse"):
        assert chosen_range(outlier, method, percentile=99.99)[1] < 30, method
        low, high = chosen_range(even, method)
        assert low == pytest.approx(-1, abs=0.05), method
        assert high == pytest.approx(3, abs=0.05), method


def test_zeros_after_a_relu_do_not_pull_the_range_in():
    values = np.abs(np.random.default_rng(0).standard_normal(20_000))
    for method in ("entropy", "mse"):
        without, flooded = (
            chosen_range(gathered(np.append(values, np.zeros(count))), method) for count in (0, 1_000_000)
        )
        assert without == flooded
        assert without[0] == 0


def test_a_tensor_that_is_always_zero_or_constant_gets_a_grid():
    for value in (0.0, 5.0, -3.0):
        seen = gathered(np.full(100, value))
        for method in METHODS:
            low, high = chosen_range(seen, method)
            grid = Grid.over(low, high)
            error = min(abs(q - value) for q in (np.arange(256) - grid.zero) * grid.scale)
            assert error <= max(seen.width, abs(value) / 255), method


def test_grids_take_one_method_or_one_per_tensor(net):
    found = calibrate(net, feeds(images(2)), threads=1)
    one = grids(found, "mse")
    assert one.keys() == found.tensors.keys()
    assert one["a"] == Grid.over(*chosen_range(found.tensors["a"], "mse"))
    mixed = grids(found, {"a": "entropy", "b": "percentile"}, percentile=99)
    assert mixed["a"] == Grid.over(*chosen_range(found.tensors["a"], "entropy"))
    assert mixed["b"] == Grid.over(*chosen_range(found.tensors["b"], "percentile", percentile=99))
    assert mixed["c"] == Grid.over(found.tensors["c"].low, found.tensors["c"].high)


def test_wrong_methods_and_numbers_are_refused():
    seen = gathered([1.0, 2.0])
    with pytest.raises(UsageError, match="unknown calibration method 'minmx', did you mean 'minmax'"):
        chosen_range(seen, "minmx")
    for percentile in (50, 100, 0, -1, 101, math.nan):
        with pytest.raises(UsageError, match="wanted above 50 and below 100"):
            chosen_range(seen, "percentile", percentile=percentile)
    for bits in (1, 9):
        with pytest.raises(UsageError, match="wanted 2 to 8"):
            chosen_range(seen, "mse", bits)


# --- the stored set


class Counted(Photos):
    read = 0

    def original(self, index):
        Counted.read += 1
        return super().original(index)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    items = []
    (tmp_path / "photos").mkdir()
    for index in range(3):
        path = tmp_path / "photos" / f"{index}.png"
        PIL.Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
        items.append((path.stem, path))
    Counted.read = 0
    return Counted(tuple(items))


SPEC = ImageSpec(height=20, width=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def test_a_calibration_is_kept_and_found_again(net, photos, tmp_path, caplog):
    store = Store(tmp_path / "store")
    made = calibration(store, net, photos, SPEC, threads=1)
    assert Counted.read == 3
    assert made.tensors["image"].high > 1
    logging.getLogger("compress").propagate = True
    with caplog.at_level(logging.INFO, "compress"):
        again = calibration(store, net, photos, SPEC, threads=1)
    assert Counted.read == 3
    assert_equal(made, again)
    assert "reused from" in caplog.text
    assert len(list((tmp_path / "store/cache/calibration").iterdir())) == 1


def test_another_graph_photo_or_size_is_another_calibration(net, photos, tmp_path):
    store = Store(tmp_path / "store")
    calibration(store, net, photos, SPEC, threads=1)
    model = onnx.load(net)
    model.doc_string = "another"
    onnx.save(model, tmp_path / "other.onnx")
    others = [
        (net, photos, replace(SPEC, height=24)),
        (net, photos, replace(SPEC, fit="pad")),
        (tmp_path / "other.onnx", photos, SPEC),
        (net, Counted(photos.items[:2]), SPEC),
    ]
    for count, (source, data, spec) in enumerate(others, 2):
        calibration(store, source, data, spec, threads=1)
        assert len(list((tmp_path / "store/cache/calibration").iterdir())) == count


def test_a_damaged_kept_file_is_made_again(net, photos, tmp_path, caplog):
    store = Store(tmp_path / "store")
    made = calibration(store, net, photos, SPEC, threads=1)
    (kept,) = (tmp_path / "store/cache/calibration").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    logging.getLogger("compress").propagate = True
    with caplog.at_level(logging.INFO, "compress"):
        assert_equal(made, calibration(store, net, photos, SPEC, threads=1))
    assert "made again" in caplog.text
    assert Counted.read == 6
    assert_equal(made, Calibration.load(kept))


def test_broken_photos_keep_their_message_and_leave_nothing_in_the_cache(net, photos, tmp_path):
    path = photos.items[1][1]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"1\.png"):
        calibration(Store(tmp_path / "store"), net, photos, SPEC, threads=1)
    PIL.Image.new("RGB", (30, 40), "white").save(path)
    white = Counted(photos.items[1:2])
    with pytest.raises(DataError, match="flat colour"):
        calibration(Store(tmp_path / "store"), net, white, SPEC, threads=1)
    assert not list(tmp_path.glob("store/cache/calibration/*"))


def test_letterboxed_photos_are_calibrated_with_their_white_borders(net, photos, tmp_path):
    spec = replace(SPEC, fit="pad", height=40, width=24)
    padded = calibration(Store(tmp_path / "store"), net, photos, spec, threads=1)
    stretched = calibration(Store(tmp_path / "store"), net, photos, replace(spec, fit="stretch"), threads=1)
    assert padded.means["image"][0] > stretched.means["image"][0] + 0.5


@pytest.mark.slow
def test_a_thousand_images_take_no_more_memory_than_one(tmp_path):
    import psutil

    from compress.core.networks import find_network
    from compress.kit.graph import fold_batch_norm
    from compress.kit.quant.prepare import prepare_graph
    from compress.kit.ship.runtime import Shipped, export_graph

    module = Shipped(find_network("u2netp").build().eval(), lambda mask: mask.sigmoid())
    path = tmp_path / "u2netp.onnx"
    export_graph(fold_batch_norm(module), path, channels=3, size=(64, 64), names=("image", "mask"), free=(0, 2, 3))
    onnx.save(prepare_graph(onnx.load(path)), path)
    process, sizes = psutil.Process(), []

    def stream():
        rng = np.random.default_rng(0)
        for _ in range(1000):
            yield {"image": rng.random((1, 3, 64, 64), np.float32)}

    found = calibrate(path, stream(), threads=1, advance=lambda: sizes.append(process.memory_info().rss))
    assert found.images == 1000
    assert max(sizes) - sizes[0] <= 64 * 2**20


def test_seen_is_a_record_of_plain_numbers():
    seen = gathered([-1.0, 0.0, 0.5])
    assert isinstance(seen, Seen)
    assert (seen.low, seen.high, seen.zeros, seen.sampled) == (-1.0, 0.5, 1, 3)
