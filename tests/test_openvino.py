"""OpenVINO as a runtime and as a target of `benchmarks run`."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from tiny_store import record
from torch import nn
from torch.nn import functional as F

from benchmarks import commands
from benchmarks.commands import Options
from benchmarks.targets import TARGETS
from compress.core.errors import ArtifactError, MissingExtraError, UsageError
from compress.core.machine import cpu_flags
from compress.core.store import Store
from compress.kit.quant.quantize import quantize_int8
from compress.kit.ship.openvino import OpenVinoRunner
from compress.kit.ship.runtime import export_graph, open_session


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reference(path, image):
    return open_session(path, threads=1).run(None, {"image": image})[0]


class Net(nn.Module):
    """Convolutions, pooling, resizing and concatenation, and a mask at the end."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, image):
        skip = torch.relu(self.first(image))
        below = torch.relu(self.inner(F.max_pool2d(skip, 2, 2, ceil_mode=True)))
        up = F.interpolate(below, size=skip.shape[2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(4 * self.head(torch.cat((up, skip), 1)))


@pytest.fixture(scope="module")
def float32(tmp_path_factory):
    """A graph whose batch, height and width are free."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("openvino") / "float32.onnx"
    export_graph(Net().eval(), path, channels=3, size=(32, 64), names=("image", "mask"), free=(0, 2, 3))
    return path


@pytest.fixture(scope="module")
def int8(float32):
    path = float32.parent / "int8.onnx"
    quantize_int8(float32, path, [{"image": noise(1, 3, 32, 64, seed=seed)} for seed in range(4)], threads=1)
    return path


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A graph for one image of 16 x 24 pixels and nothing else; its second output is the mean over the channels."""
    weight = numpy_helper.from_array(noise(4, 3, 3, 3), "weight")
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["map"], pads=[1] * 4),
        helper.make_node("ReduceMean", ["map", "axes"], ["mean"]),
    ]
    ports = {"image": [1, 3, 16, 24], "map": [1, 4, 16, 24], "mean": [1, 1, 16, 24]}
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in ports.items()]
    graph = helper.make_graph(nodes, "fixed", values[:1], values[1:], [weight, axes])
    path = tmp_path_factory.mktemp("openvino") / "fixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


needs_openvino = pytest.mark.skipif(bool(TARGETS.get("openvino").available()), reason="openvino is not installed")


@needs_openvino
def test_pictures_are_those_of_onnx_runtime_at_any_size_and_batch(float32):
    runner = OpenVinoRunner(float32, threads=1)
    # twice the first: it stays compiled, and its second picture is no leftover
    for seed, shape in enumerate([(1, 3, 32, 32), (2, 3, 32, 64), (1, 3, 37, 51), (1, 3, 32, 32)]):
        image = noise(*shape, seed=seed)
        before = image.copy()
        found = runner(image)
        assert found.dtype == np.float32
        assert found.std() > 1e-3
        np.testing.assert_allclose(found, reference(float32, image), atol=1e-4)
        np.testing.assert_array_equal(image, before)
    runner.close()


@needs_openvino
def test_a_picture_stays_what_it_was_when_the_next_one_is_made(float32):
    runner = OpenVinoRunner(float32, threads=1)
    first = runner(noise(1, 3, 32, 32))
    kept = first.copy()
    runner(noise(1, 3, 32, 32, seed=1))
    np.testing.assert_array_equal(first, kept)


@needs_openvino
def test_an_image_that_does_not_lie_in_one_piece_is_read_right(float32):
    image = np.moveaxis(noise(1, 32, 48, 3), 3, 1)
    assert not image.flags.c_contiguous
    np.testing.assert_allclose(OpenVinoRunner(float32, threads=1)(image), reference(float32, image.copy()), atol=1e-4)


@needs_openvino
def test_an_int8_file_computes_in_int8_and_agrees_with_onnx_runtime(float32, int8):
    runner = OpenVinoRunner(int8, threads=1, shape=(1, 3, 32, 64))
    image = noise(1, 3, 32, 64, seed=9)
    found, theirs, exact = runner(image), reference(int8, image), reference(float32, image)
    # what the runtimes round at a different place is less than what 8 bits cost
    assert np.abs(theirs - exact).mean() > 0
    assert np.abs(found - theirs).mean() < 2 * np.abs(theirs - exact).mean()
    assert np.abs(found - theirs).mean() < 0.02
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(int8).graph.node)
    assert runner.describe["layers"] == convolutions
    assert runner.describe["int8_layers"] == convolutions
    assert OpenVinoRunner(float32, shape=(1, 3, 32, 64)).describe["int8_layers"] == 0


@needs_openvino
def test_one_shape_is_compiled_once_and_only_the_last_few_are_kept(float32, monkeypatch):
    runner = OpenVinoRunner(float32, threads=1, shape=(1, 3, 64, 64))
    compiled, compile_one = [], runner._compile
    monkeypatch.setattr(runner, "_compile", lambda shape: (compiled.append(shape[3]), compile_one(shape)))
    sides = (32, 48, 32, 48, 32)
    for side in sides:
        runner(noise(1, 3, 32, side))
    assert compiled == [32, 48]
    assert (1, 3, 64, 64) not in runner._compiled  # it never came
    for side in (64, 80, 96, 112, 48):
        runner(noise(1, 3, 32, side))
    assert compiled == [32, 48, 64, 80, 96, 112, 48]
    assert len(runner._compiled) == len(runner._requests) <= 4


@needs_openvino
def test_a_shape_compiled_at_once_is_not_compiled_again(float32, monkeypatch):
    runner = OpenVinoRunner(float32, threads=1, shape=(1, 3, 32, 32))
    monkeypatch.setattr(runner, "_compile", None)
    assert runner(noise(1, 3, 32, 32)).shape == (1, 1, 32, 32)


@needs_openvino
def test_it_says_what_it_is(float32):
    import openvino

    told = OpenVinoRunner(float32, threads=2).describe
    assert told["runtime"] == "openvino"
    assert openvino.__version__.startswith(told["version"])
    assert (told["threads"], told["provider"], told["precision"]) == (2, "CPU", "float32")
    json.dumps(told)


@needs_openvino
def test_float32_is_float32_on_a_cpu_that_has_bfloat16(float32):
    exact = OpenVinoRunner(float32, threads=1)
    image = noise(1, 3, 32, 32)
    np.testing.assert_allclose(exact(image), reference(float32, image), atol=1e-4)
    if "avx512_bf16" not in cpu_flags():
        with pytest.raises(UsageError, match="bfloat16"):
            OpenVinoRunner(float32, precision="bf16")
        return
    half = OpenVinoRunner(float32, threads=1, precision="bf16")
    assert half.describe["precision"] == "bf16"
    # 8 bits of fraction in three layers
    assert 1e-4 < np.abs(half(image) - reference(float32, image)).max() < 0.2


@needs_openvino
def test_the_output_is_chosen_by_its_name(fixed):
    image = noise(1, 3, 16, 24)
    first, mean = open_session(fixed).run(None, {"image": image})
    np.testing.assert_allclose(OpenVinoRunner(fixed, output="mean")(image), mean, atol=1e-5)
    for name in ("map", "", "no-such-output"):
        np.testing.assert_allclose(OpenVinoRunner(fixed, output=name)(image), first, atol=1e-5)


@needs_openvino
@pytest.mark.parametrize("shape", [(1, 3, 16, 32), (2, 3, 16, 24), (1, 4, 16, 24), (3, 16, 24)])
def test_a_shape_that_the_network_does_not_take_is_named(fixed, shape):
    runner = OpenVinoRunner(fixed)
    with pytest.raises(UsageError, match=r"wants an image of shape \[1,3,16,24\], found") as caught:
        runner(noise(*shape))
    assert str(list(shape)) in str(caught.value)
    assert runner(noise(1, 3, 16, 24)).shape == (1, 4, 16, 24)


@needs_openvino
def test_wrong_channels_are_named_where_sides_are_free_and_the_runner_lives_on(float32):
    runner = OpenVinoRunner(float32, threads=1)
    with pytest.raises(UsageError, match=r"\[1, 4, 32, 32\]"):
        runner(noise(1, 4, 32, 32))
    assert runner(noise(1, 3, 32, 32)).shape == (1, 1, 32, 32)


@needs_openvino
@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "absent", "operator"])
def test_a_file_that_is_no_network_is_refused_by_name(float32, tmp_path, damage):
    path = tmp_path / "bad.onnx"
    if damage == "operator":
        model = onnx.load(float32)
        next(node for node in model.graph.node if node.op_type == "Conv").op_type = "NoSuchOperator"
        onnx.save(model, path)
    elif damage != "absent":
        content = float32.read_bytes()
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 99, "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(ArtifactError, match=r"bad\.onnx") as caught:
        OpenVinoRunner(path)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_line_that_installs_it_is_told(monkeypatch, tmp_path):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "openvino" else find(name, *rest)
    )
    with pytest.raises(MissingExtraError, match=r"image-compress\[openvino\]") as caught:
        OpenVinoRunner(tmp_path / "model.onnx")
    assert caught.value.exit_code == 3
    assert "image-compress[openvino]" in TARGETS.get("openvino").available()


@needs_openvino
def test_the_package_does_not_report_home_when_we_import_it(tmp_path):
    """openvino_telemetry keeps its count of imports in ~/intel before it sends it."""
    code = """
import sys
from compress.kit.ship.openvino import import_openvino
import_openvino().Core()
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
print([name for name in ("torch", "onnx", "onnxruntime") if name in sys.modules])
"""
    home = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=home)
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr
    assert list(tmp_path.iterdir()) == []


@needs_openvino
@pytest.mark.parametrize("shape", [None, (1, 3, 32, 32)])
@pytest.mark.parametrize("closed", [True, False])
def test_two_runners_freed_in_turn_leave_a_process_that_survives_the_end_of_a_child(closed, shape, float32):
    """OpenVINO leaves the freed signal stack of the first behind: the next signal was a segmentation fault."""
    close = "first.close(); second.close()" if closed else "del first; gc.collect(); del second; gc.collect()"
    code = f"""
import gc, signal, subprocess, sys
from pathlib import Path
import numpy as np
from compress.kit.ship.openvino import OpenVinoRunner
import faulthandler; faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)  # as torch's loaders do
image = np.zeros((1, 3, 32, 32), np.float32)
first = OpenVinoRunner(Path({str(float32)!r}), threads=1, shape={shape}); first(image)
second = OpenVinoRunner(Path({str(float32)!r}), threads=1, shape={shape}); second(image)
{close}
subprocess.run([sys.executable, "-c", ""])
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "alive\n", done.stderr


def put(store, path, artifact):
    with store.draft() as draft:
        shutil.copyfile(path, draft / "model.onnx")
        return store.publish(draft, artifact)


@pytest.mark.slow
@needs_openvino
def test_the_target_is_measured_and_scored_like_the_others(float32, int8, tmp_path, capsys):
    store = Store(tmp_path / "artifacts")
    tiny = put(store, float32, record(format="onnx"))
    small = put(store, int8, record("tiny-int8", format="onnx", dtype="int8", parent=tiny.id, created="2026-02"))
    options = Options(
        store=store.root, target=("openvino",), limit=2, compared=2, repeats=2, warmup=1, threads=1, check=True
    )
    commands.run(options)
    assert "tiny-int8" in capsys.readouterr().out
    rows = {(row.artifact, row.quantity): row for row in store.rows()}
    # against ONNX Runtime's pictures of the float32 network: 1e-3 is the limit of one, the other has none
    assert rows[tiny.id, "parity_max"].details["reference_target"] == "cpu"
    assert rows[tiny.id, "parity_max"].value < 1e-4 < rows[small.id, "parity_max"].value < 0.2
    assert rows[small.id, "loss"].value == pytest.approx(rows[tiny.id, "loss"].value, abs=0.02)
    assert rows[small.id, "size"].value == int8.stat().st_size
    assert {row.target for row in rows.values()} == {"openvino"}
    for artifact, eights in ((tiny, 0), (small, 3)):
        assert rows[artifact.id, "latency"].value > 0
        told = rows[artifact.id, "latency"].details["runtime"]
        assert (told["layers"], told["int8_layers"]) == (3, eights)
        assert (told["precision"], told["threads"]) == ("float32", 1)
