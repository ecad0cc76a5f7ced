from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError, DataError, UsageError
from compress.kit.graph import fold_batch_norm, sqnr
from compress.kit.quant.calibrate import calibrate
from compress.kit.quant.quantize import quantize_int8
from compress.kit.ship.runtime import export_graph, open_session


class Net(nn.Module):
    """Convolution, norm, pooling, resize, concatenation, residual sum, transposed convolution and a sigmoid."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.mix = nn.Conv2d(32, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image):
        skip = self.first(F.max_pool2d(image, 2, 2, ceil_mode=True))
        below = self.inner(F.max_pool2d(skip, 2, 2, ceil_mode=True))
        up = F.interpolate(below, size=skip.shape[2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(self.head(self.up(self.mix(torch.cat((up, skip), 1)) + skip)))


class Cancelling(nn.Module):
    """A channel that is nearly constant and large, cancelled by a large bias: what broke a published U2-Net."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        with torch.no_grad():
            self.first.bias[0] = 228.0
            self.first.weight[0] *= 0.01
            self.second.weight[:, 0] *= 20
            self.second.bias.copy_(-228.0 * self.second.weight[:, 0].sum((1, 2)))

    def forward(self, image):
        return torch.sigmoid(self.second(torch.relu(self.first(image)))[:, :, 1:-1, 1:-1])


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, image):
        inner = torch.relu(self.norm(self.first(image)))
        return torch.tanh(self.head(inner + self.second(inner)))


def export(module, path, free=(0, 2, 3)):
    export_graph(fold_batch_norm(module), path, channels=3, size=(32, 48), names=("image", "mask"), free=free)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    net = Net()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
    return export(net, tmp_path_factory.mktemp("float32") / "model.onnx")


def batches(count=4, seed=0, size=(32, 48)):
    rng = np.random.default_rng(seed)
    return [{"image": rng.standard_normal((2, 3, *size)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def int8(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("int8") / "model.onnx"
    return target, quantize_int8(source, target, batches(), threads=1)


def run(path, feed):
    return open_session(path, threads=1).run(None, feed)[0]


def stored(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def nodes(path, operator):
    return [node for node in onnx.load(path).graph.node if node.op_type == operator]


def dequantized(path, name):
    """Return (integers, scale, axis) of the DequantizeLinear that makes the tensor."""
    node = next(node for node in onnx.load(path).graph.node if name in node.output)
    assert node.op_type == "DequantizeLinear"
    values = stored(path)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    return values.get(node.input[0]), values[node.input[1]], axis


def by_shape(path, shape):
    return next(value for value in stored(path).values() if value.shape == shape)


def reference(weight, axis):
    """Slow and plain: one channel at a time, max |w| / 127, rounded."""
    integers, scales = np.zeros(weight.shape, np.int8), []
    for channel in range(weight.shape[axis]):
        place = tuple(slice(None) if other != axis else channel for other in range(weight.ndim))
        scale = np.float32(max(abs(float(value)) for value in weight[place].ravel())) / np.float32(127)
        integers[place] = [[[round(float(v / scale)) for v in row] for row in plane] for plane in weight[place]]
        scales.append(scale)
    return integers, np.array(scales)


def test_int8_stays_near_float32_on_other_images_and_another_size(source, int8):
    for feed in (*batches(2, seed=9), *batches(1, seed=10, size=(40, 64))):
        assert sqnr(run(source, feed), run(int8[0], feed)) > 30
    assert int8[1].sqnr > 30


def test_nothing_is_written_but_the_target(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quantize_int8(source, tmp_path / "out.onnx", batches(1), threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


def test_int8_report_counts_what_was_done(source, int8):
    path, report = int8
    assert report.quantized == 3  # the head stays in float
    assert report.operators["Conv"] == 3
    assert report.operators["Concat"] == 1
    head = nodes(path, "Conv")[-1]
    left = {node.name for node in (*nodes(path, "ConvTranspose"), *nodes(path, "Sigmoid"), head)}
    assert set(report.left) == left
    assert all(report.left.values())
    assert report.images == 8
    assert report.bytes_before == source.stat().st_size
    assert report.bytes_after == path.stat().st_size < 0.6 * report.bytes_before


@pytest.mark.parametrize("shape", [(16, 3, 3, 3), (16, 16, 3, 3), (16, 32, 3, 3)])
def test_convolution_weights_are_int8_per_channel_as_the_reference(source, int8, shape):
    layers = nodes(int8[0], "Conv")[:-1]
    node = next(n for n in layers if dequantized(int8[0], n.input[1])[0].shape == shape)
    integers, scale, axis = dequantized(int8[0], node.input[1])
    expected, scales = reference(by_shape(source, shape), 0)
    assert integers.dtype == np.int8
    assert axis == 0
    np.testing.assert_allclose(scale, scales, rtol=1e-6)
    # the reference rounds halves to even as the library does; float32 division may fall either side of a half
    assert np.abs(integers.astype(int) - expected).max() <= 1
    assert (integers != expected).mean() < 0.01


def test_transposed_weights_are_int8_and_their_maps_float(source, int8):
    (node,) = nodes(int8[0], "ConvTranspose")
    # float weights from Cast and Mul: ONNX Runtime folds these when it loads
    mul = next(n for n in onnx.load(int8[0]).graph.node if node.input[1] in n.output)
    cast = next(n for n in onnx.load(int8[0]).graph.node if mul.input[0] in n.output)
    assert (mul.op_type, cast.op_type) == ("Mul", "Cast")
    expected, scales = reference(by_shape(source, (16, 8, 2, 2)), 1)
    assert stored(int8[0])[mul.input[1]].shape == (1, 8, 1, 1)
    np.testing.assert_allclose(stored(int8[0])[mul.input[1]].ravel(), scales, rtol=1e-6)
    np.testing.assert_array_equal(stored(int8[0])[cast.input[0]], expected)


def test_activations_are_uint8_and_biases_int32(int8):
    path, _ = int8
    values = stored(path)
    zero_points = {values[node.input[2]].dtype for node in nodes(path, "QuantizeLinear")}
    assert zero_points == {np.dtype(np.uint8)}
    for node in nodes(path, "Conv")[:-1]:
        assert dequantized(path, node.input[2])[0].dtype == np.int32
    kinds = Counter(str(value.dtype) for value in values.values() if value.ndim == 4)
    assert kinds == {"int8": 4, "float32": 2}  # the head, and the scales of what is transposed


def test_every_method_works_and_none_touches_the_source(source, tmp_path):
    before = source.read_bytes()
    results = {}
    for method in ("minmax", "entropy", "percentile"):
        path = tmp_path / f"{method}.onnx"
        report = quantize_int8(source, path, batches(2), method=method, percentile=99.9, threads=1)
        assert report.sqnr > 20, method
        results[method] = run(path, batches(1, seed=9)[0])
    assert source.read_bytes() == before
    assert not np.array_equal(results["minmax"], results["percentile"])
    with pytest.raises(UsageError, match="unknown calibration method 'minmx', did you mean 'minmax'"):
        quantize_int8(source, tmp_path / "x.onnx", batches(1), method="minmx")


def test_bias_correction_saves_a_channel_that_cancels(tmp_path):
    torch.manual_seed(3)
    source = export(Cancelling(), tmp_path / "a.onnx", free=(0,))
    found = {}
    for correct in (False, True):
        path = tmp_path / f"{correct}.onnx"
        quantize_int8(source, path, batches(), correct_bias=correct, threads=1)
        feed = batches(1, seed=5)[0]
        found[correct] = float(np.abs(run(source, feed) - run(path, feed)).mean())
    assert found[True] < 0.5 * found[False]


def test_an_excluded_node_stays_float_in_the_file_and_in_the_runtime(source, tmp_path):
    name = next(n for n in nodes(source, "Conv") if stored(source)[n.input[1]].shape == (16, 32, 3, 3)).name
    model = onnx.load(source)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [16, 32, 3, 3])
    value = numpy_helper.to_array(weight).copy()
    # a channel far above the others: rounding per tensor, as the runtime would do at load, wipes the others out
    value[0] *= 300
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    onnx.save(model, tmp_path / "wide.onnx")
    report = quantize_int8(tmp_path / "wide.onnx", tmp_path / "out.onnx", batches(), exclude=[name], threads=1)
    assert report.left[name] == "excluded by name"
    assert report.quantized == 2
    np.testing.assert_array_equal(by_shape(tmp_path / "out.onnx", (16, 32, 3, 3)), value)
    node = next(n for n in nodes(tmp_path / "out.onnx", "Conv") if n.name == name)
    _, scale, _ = dequantized(tmp_path / "out.onnx", node.input[0])
    assert scale.shape == (32,)


def test_the_runtime_does_not_round_an_excluded_layer(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 1)
    )
    with torch.no_grad():
        # weights that only ever meet zeros: harmless, unless one scale must serve them and all others
        net[0].weight[0], net[0].bias[0] = 0, 0
        net[2].weight[:, 0] = 3000
    source = export(net, tmp_path / "a.onnx", free=(0,))
    name = next(n for n in nodes(source, "Conv") if stored(source)[n.input[1]].shape[0] == 2).name
    report = quantize_int8(source, tmp_path / "b.onnx", batches(), exclude=[name], threads=1)
    assert report.quantized == 1
    feed = batches(1, seed=9)[0]
    assert sqnr(run(source, feed), run(tmp_path / "b.onnx", feed)) > 30


def test_networks_with_instance_norm_round_convolutions_only(tmp_path):
    torch.manual_seed(0)
    source = export(Normed(), tmp_path / "a.onnx")
    report = quantize_int8(source, tmp_path / "b.onnx", batches(), threads=1)
    assert report.quantized == 2
    path = tmp_path / "b.onnx"
    (norm,) = nodes(path, "InstanceNormalization")
    assert norm.name in report.left
    (after,) = [node for node in onnx.load(path).graph.node if norm.output[0] in node.input]
    assert after.op_type != "QuantizeLinear"
    assert not {"Relu", "Tanh"} & set(report.operators)
    assert report.sqnr > 25


def test_old_operator_sets_and_unfolded_norms_are_raised(tmp_path):
    rng = np.random.default_rng(0)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = {
        "w": rng.standard_normal((4, 3, 3, 3)),
        "g": np.ones(4) * 2,
        "b": np.ones(4),
        "m": np.zeros(4),
        "v": np.ones(4),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["mask"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", kind, ["n", 3, 32, 48])],
        [helper.make_tensor_value_info("mask", kind, ["n", 4, 32, 48])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    source = tmp_path / "old.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), source)
    report = quantize_int8(source, tmp_path / "new.onnx", batches(), threads=1)
    assert report.quantized == 1
    assert report.left == {}
    assert not nodes(tmp_path / "new.onnx", "BatchNormalization")
    (conv,) = nodes(tmp_path / "new.onnx", "Conv")
    assert dequantized(tmp_path / "new.onnx", conv.input[1])[1].shape == (4,)
    assert report.sqnr > 30


def test_calibration_ranges_and_means_against_numpy(source):
    feeds = batches(3)
    calls = []
    seen = calibrate(_inferred(source), iter(feeds), threads=1, advance=lambda: calls.append(1))
    everything = np.concatenate([feed["image"] for feed in feeds])
    low, high = seen.tensors["image"].low, seen.tensors["image"].high
    assert (low, high) == (everything.min(), everything.max())
    assert seen.images == 6
    assert len(calls) == 3
    pooled = F.max_pool2d(torch.from_numpy(everything), 2, 2, ceil_mode=True).numpy()
    name = nodes(source, "Conv")[0].input[0]
    np.testing.assert_allclose(seen.means[name], pooled.astype(np.float64).mean((0, 2, 3)), rtol=1e-4, atol=1e-6)


def _inferred(source):
    path = source.with_name("inferred.onnx")
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(source)), path)
    return path


def test_calibration_drops_each_batch_before_it_takes_the_next(source):
    import weakref

    alive = []

    def feeds():
        for feed in batches(4):
            image = feed["image"].copy()
            alive.append(weakref.ref(image))
            yield {"image": image}
            del image

    calibrate(_inferred(source), feeds(), threads=1)
    assert [ref() is None for ref in alive[1:-1]] == [True, True]


@pytest.mark.parametrize("fault", ["raises", "none", "shape", "nan"])
def test_nothing_is_left_when_calibration_fails(source, tmp_path, fault):
    def feeds():
        yield from batches(1) if fault != "none" else []
        if fault == "raises":
            raise KeyError("disk gone")
        if fault == "shape":
            yield {"image": np.zeros((1, 4, 32, 32), np.float32)}
        if fault == "nan":
            yield {"image": np.full((1, 3, 32, 32), np.nan, np.float32)}

    wanted = {"raises": KeyError, "none": DataError, "shape": UsageError, "nan": DataError}[fault]
    target = tmp_path / "out.onnx"
    with pytest.raises(wanted):
        quantize_int8(source, target, feeds(), threads=1)
    assert list(tmp_path.iterdir()) == []


def test_files_that_can_not_be_quantized_are_refused(source, int8, tmp_path):
    with pytest.raises(ArtifactError, match="quantized already"):
        quantize_int8(int8[0], tmp_path / "x.onnx", batches(1))
    with pytest.raises(UsageError, match="no node 'node_conv2d_9', did you mean"):
        quantize_int8(source, tmp_path / "x.onnx", batches(1), exclude=["node_conv2d_9"])
    with pytest.raises(UsageError, match="one file"):
        quantize_int8(source, source, batches(1))
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ArtifactError, match=r"text\.onnx"):
        quantize_int8(tmp_path / "text.onnx", tmp_path / "x.onnx", batches(1))
    assert not (tmp_path / "x.onnx").exists()
