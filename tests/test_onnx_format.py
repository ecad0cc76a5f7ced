from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError, MissingExtraError, ParityError, UsageError
from compress.core.networks import find_network
from compress.core.types import Artifact, File, ImageSpec, Machine
from compress.core.whole import written_whole
from compress.formats import FORMATS
from compress.formats.onnx import OnnxRunner, inspect
from compress.kit.ship.parity import check_parity, parity
from compress.kit.ship.runtime import Shipped, open_session

INPUT = ImageSpec(name="image", channels=3)
OUTPUT = ImageSpec(name="mask", channels=1, color="mask")
OPTIONS = {"width": 8, "stages": [[4, 8, 8], *[[2, 8, 8]] * 10]}
ONNX, SAFETENSORS = FORMATS.get("onnx"), FORMATS.get("safetensors")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image):
        skip = self.down(image)
        below = self.inner(F.max_pool2d(skip, 2, 2, ceil_mode=True))
        up = F.interpolate(below, size=skip.shape[2:], mode="bilinear", align_corners=False)
        logits = self.head(torch.cat((up, skip), 1))
        return logits, below


class Fixed(nn.Module):
    """Its weight for every place allows one size only."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        self.place = nn.Parameter(torch.randn(1, 1, 32, 32))

    def forward(self, image):
        return (self.conv(image) * self.place,)


def lived_in(module, seed=0):
    """Give every batch norm statistics of its own: fresh ones would make folding trivial."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
    return module.eval()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def artifact(**changes):
    machine = Machine("", (), 1, 1, 0, "", "", "", {})
    record = Artifact(
        id="a", name="a", kind="student", task="saliency", network="u2netp", network_options=OPTIONS,
        format="onnx", dtype="float32", method="train", options={}, parent="", parent_sha256="", teacher="", key="",
        input=INPUT, output=OUTPUT, files=(File("weights.safetensors", "", 0), File("model.onnx", "", 0)),
        parameters=0, macs=0, data="", metrics={}, machine=machine, seed=0, versions={}, commit="", created="",
        seconds=0.0,
    )  # fmt: skip
    return replace(record, **changes)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(1)
    return Shipped(lived_in(Small()), torch.sigmoid)


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return ONNX.write(small, path, input=INPUT, output=OUTPUT, size=(32, 32))


@pytest.fixture(scope="module")
def u2net(tmp_path_factory):
    """A U2-Net of width 8, its blocks cut short, in both formats in one folder."""
    folder = tmp_path_factory.mktemp("u2net")
    torch.manual_seed(0)
    network = lived_in(find_network("u2netp").build(**OPTIONS))
    SAFETENSORS.write(network, folder)
    export = ONNX.write(
        Shipped(network, torch.sigmoid), folder / "model.onnx", input=INPUT, output=OUTPUT, size=(64, 64)
    )
    return folder, network, export


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 40, 56), (1, 3, 33, 47)])
def test_export_agrees_at_any_size(exported, small, shape):
    assert exported.dynamic
    assert exported.reason == ""
    image = noise(*shape)
    with torch.inference_mode():
        expected = small(torch.from_numpy(image)).numpy()
    output = OnnxRunner(exported.path, threads=1)(image)
    assert output.shape == (shape[0], 1, *shape[2:])
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_export_folds_batch_norms_names_its_ends_and_ships_one_output(exported):
    found = inspect(exported.path)
    assert "BatchNormalization" not in found.operators
    assert found.operators["Conv"] == 3
    assert [port.name for port in found.inputs] == ["image"]
    assert [port.name for port in found.outputs] == ["mask"]
    assert found.inputs[0].shape == (None, 3, None, None)
    assert found.inputs[0].dtype == "float32"
    weights = 3 * 8 * 9 + 8 * 8 * 9 + 16 * 9 + 8 + 8 + 1
    assert weights * 4 <= found.initializer_bytes["float32"] <= weights * 4 + 64
    assert found.opset >= 18


def test_export_names_no_folder_of_this_machine(exported):
    assert str(Path(__file__).parent).encode() not in exported.path.read_bytes()


def test_export_prints_nothing_and_leaves_the_module_alone(tmp_path, capfd):
    module = Shipped(Small().train(), torch.sigmoid)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    export = ONNX.write(module, tmp_path / "a.onnx", input=INPUT, output=OUTPUT, size=(32, 32), dynamic=False, opset=18)
    assert capfd.readouterr() == ("", "")
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not export.dynamic
    assert inspect(export.path).opset == 18
    assert OnnxRunner(export.path)(noise(3, 3, 32, 32)).shape == (3, 1, 32, 32)


def test_export_falls_back_to_a_fixed_size_and_says_why(tmp_path):
    export = ONNX.write(Shipped(Fixed(), torch.sigmoid), tmp_path / "a.onnx", input=INPUT, output=OUTPUT, size=(32, 32))
    assert not export.dynamic
    assert export.reason
    assert inspect(export.path).inputs[0].shape == (None, 3, 32, 32)
    runner = OnnxRunner(export.path)
    assert runner(noise(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    with pytest.raises(UsageError, match=r"wants image of shape .*found \[1, 3, 64, 64\]"):
        runner(noise(1, 3, 64, 64))


def test_u2net_exports_with_free_sides(u2net):
    _, network, export = u2net
    assert export.dynamic, export.reason
    found = check_parity(Shipped(network, torch.sigmoid), export.path, [noise(1, 3, 64, 96), noise(1, 3, 50, 39)])
    assert found.max_abs < 1e-4


def test_both_formats_run_the_same_artifact(u2net):
    folder, _, _ = u2net
    eager = SAFETENSORS.load(folder, artifact(), threads=1)
    graph = ONNX.load(folder, artifact(), threads=1)
    found = parity(eager, graph, [noise(1, 3, 64, 64, seed=seed) for seed in range(2)])
    assert found.max_abs < 1e-4
    assert found.sqnr > 60
    assert 0 <= eager(noise(1, 3, 64, 64)).min() <= eager(noise(1, 3, 64, 64)).max() <= 1
    for runner, runtime in ((eager, "torch"), (graph, "onnxruntime")):
        assert runner.describe["runtime"] == runtime
        assert runner.describe["threads"] == 1
        assert {"version", "provider"} <= set(runner.describe)
        runner.close()


def test_bf16_stays_near_float32_and_gives_float32(u2net):
    folder, _, _ = u2net
    exact, short = (SAFETENSORS.load(folder, artifact(), precision=name) for name in ("float32", "bf16"))
    found = parity(exact, short, [noise(1, 3, 64, 64)])
    assert 0 < found.max_abs < 0.1
    assert short(noise(1, 3, 64, 64)).dtype == np.float32
    with pytest.raises(UsageError, match="float32 or bf16"):
        SAFETENSORS.load(folder, artifact(), precision="fp8")


def test_float16_weights_are_half_the_bytes_and_upcast_on_load(u2net, tmp_path):
    folder, network, _ = u2net
    path = SAFETENSORS.write(network, tmp_path, dtype=torch.float16)
    assert path.stat().st_size < 0.6 * (folder / "weights.safetensors").stat().st_size
    upcast = SAFETENSORS.module(tmp_path, artifact())
    kept = SAFETENSORS.module(tmp_path, artifact(), upcast=False)
    name = "stage1.rebnconvin.conv_s1.weight"
    expected = network.state_dict()[name].half()
    assert upcast.state_dict()[name].dtype == torch.float32
    assert torch.equal(upcast.state_dict()[name], expected.float())
    assert torch.equal(kept.state_dict()[name], expected)
    assert network.state_dict()[name].dtype == torch.float32


def test_float16_refuses_weights_that_overflow(tmp_path):
    module = nn.Conv2d(1, 1, 1)
    nn.init.constant_(module.weight, 1e6)
    with pytest.raises(ArtifactError, match="too large"):
        SAFETENSORS.write(module, tmp_path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_artifact_has_no_module(tmp_path):
    with pytest.raises(ArtifactError, match="foreign"):
        SAFETENSORS.module(tmp_path, artifact(network=""))
    with pytest.raises(ArtifactError, match=r"no \.onnx file"):
        ONNX.load(tmp_path, artifact(files=()))


def test_parity_numbers_against_plain_numpy():
    images = [noise(1, 1, 2, 2, seed=seed) for seed in range(3)]
    shift = {0: 0.0, 1: 0.5, 2: 0.25}
    turn = iter(range(3))
    found = parity(lambda image: image, lambda image: image + np.float32(shift[next(turn)]), images)
    assert found.max_abs == pytest.approx(0.5, rel=1e-5)
    assert found.worst == 1
    assert found.mean_abs == pytest.approx(0.25, rel=1e-5)
    power = sum(float((image.astype(np.float64) ** 2).sum()) for image in images)
    assert found.sqnr == pytest.approx(10 * np.log10(power / (4 * 0.25 + 4 * 0.0625)), rel=1e-4)


def test_parity_refuses_other_shapes_and_lone_nans():
    image = noise(1, 1, 4, 4)
    with pytest.raises(ParityError, match="shapes differ"):
        parity(lambda x: x, lambda x: x[:, :, :2], [image])
    with pytest.raises(ParityError, match="aren't finite"):
        parity(lambda x: x, lambda x: x * np.float32("nan"), [image])


def test_parity_error_names_image_size_and_a_changed_file(exported, small, tmp_path):
    model = onnx.load(exported.path)
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [1])
    value = onnx.numpy_helper.to_array(bias) + np.float32(1)
    bias.CopyFrom(onnx.numpy_helper.from_array(value, bias.name))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ParityError, match=r"by 0\.\d+ in image \d, wanted 0\.001.*holds other weights"):
        check_parity(small, tmp_path / "changed.onnx", [noise(1, 3, 32, 32, seed=seed) for seed in range(2)])


class Doubled(nn.Module):
    """Exports otherwise than it runs: what a faulty exporter would do."""

    def forward(self, features):
        return features * 2 if torch.compiler.is_exporting() else features


def test_parity_error_names_the_part_where_it_starts(tmp_path):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Conv2d(3, 4, 1), Doubled(), nn.Conv2d(4, 1, 1)

        def forward(self, image):
            return (self.third(self.second(self.first(image))),)

    chain = Shipped(Chain().eval(), torch.sigmoid)
    export = ONNX.write(chain, tmp_path / "a.onnx", input=INPUT, output=OUTPUT, size=(16, 16), dynamic=False)
    with pytest.raises(ParityError, match=r"first differs at 'module\.second'"):
        check_parity(chain, export.path, [noise(1, 3, 16, 16)])


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "truncated"])
@pytest.mark.parametrize("reader", [inspect, OnnxRunner])
def test_broken_files_are_one_line(exported, tmp_path, damage, reader):
    path = tmp_path / "broken.onnx"
    whole = exported.path.read_bytes()
    content = {"empty": b"", "text": b"not a network", "truncated": whole[: len(whole) // 2]}
    if damage != "absent":
        path.write_bytes(content[damage])
    with pytest.raises(ArtifactError) as caught:
        reader(path)
    assert "broken.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def graph_file(path, shapes, kind=onnx.TensorProto.FLOAT):
    """Write the smallest graph with inputs of these shapes."""
    inputs = [onnx.helper.make_tensor_value_info(f"in{i}", kind, shape) for i, shape in enumerate(shapes)]
    output = onnx.helper.make_tensor_value_info("out", kind, shapes[0] if shapes else [])
    node = (
        onnx.helper.make_node("Sum", [value.name for value in inputs], ["out"])
        if inputs
        else onnx.helper.make_node("Constant", [], ["out"], value_float=1.0)
    )
    graph = onnx.helper.make_graph([node], "g", inputs, [output])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("shapes", "message"),
    [([], "inputs none"), ([[1, 3]], r"\[1, 3\]"), ([[1, 3, 8, 8]] * 2, "in1"), ([[1, 8, 8, 3]], "channels last")],
)
def test_graphs_without_one_image_input_are_refused(tmp_path, shapes, message):
    with pytest.raises(ArtifactError, match=message):
        inspect(graph_file(tmp_path / "odd.onnx", shapes))


def test_graphs_of_whole_numbers_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="int64"):
        inspect(graph_file(tmp_path / "odd.onnx", [[1, 3, 8, 8]], onnx.TensorProto.INT64))


def test_an_absent_device_is_a_missing_extra(exported):
    with pytest.raises(MissingExtraError, match="tpu"):
        open_session(exported.path, device="tpu")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.bin"
    target.write_text("before")
    with pytest.raises(RuntimeError), written_whole(target) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
