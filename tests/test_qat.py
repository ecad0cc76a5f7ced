"""Quantization-aware training: it helps, it resumes bit for bit, it falls back, for every family; what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from retouch_photos import write_pairs
from tiny_store import publish, record, season

from compress import cli
from compress.core.errors import DivergedError
from compress.core.launch import launch
from compress.core.networks import find_network, kind_of
from compress.core.store import HISTORY, Store
from compress.formats.onnx import OnnxRunner
from compress.jobs.guard import Guard
from compress.jobs.picturelesson import raw_output
from compress.jobs.selection import Judged, Selection
from compress.kit.data.sets import Subset, spread_indices
from compress.kit.images import prepare
from compress.kit.quant.fakequant import FakeQuant
from compress.kit.quant.plan import Choice, Grid, Plan
from compress.kit.quant.torchgraph import TorchGraph
from compress.tasks import TASKS

SIDE = 32
SHORT = [
    "--batch",
    "4",
    "--calibration",
    "4",
    "--selection",
    "2",
    "--tune",
    "none",
    "--workers",
    "0",
    "--device",
    "cpu",
]


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network_file(path, *, last="Sigmoid", side=SIDE):
    """Three convolutions and a sigmoid for images of one size; sums of few weights, so that 4 bits hurt."""
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (1, 8, 3, 3)}
    stored = {
        name: noise(*shape, seed=i) / np.sqrt(np.prod(shape[1:])) for i, (name, shape) in enumerate(shapes.items())
    }
    stored |= {"b1": noise(8) * 0.1, "b2": noise(8, seed=7) * 0.1}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], name="second", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w3"], ["e"], name="third", pads=[1] * 4),
        helper.make_node(last, ["e"], ["mask"]),
    ]
    shape = ["N", 3, side, side]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1, side, side])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def write_masks(root):
    """Photos of a bright disc on noise, with its mask: eight to train on, three each to validate and test."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for split, count in (("train", 8), ("val", 3), ("test", 3)):
        for index in range(count):
            random = np.random.default_rng([count, index])
            disc = (y - random.integers(8, 24)) ** 2 + (x - random.integers(8, 24)) ** 2 < 49
            photo = random.integers(0, 90, (SIDE, SIDE, 3)) + 150 * disc[..., None]
            for folder, picture in (("images", photo), ("masks", disc * 255)):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(root / split / folder / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return network_file(tmp_path_factory.mktemp("network") / "net.onnx")


def qat(network, masks, store, *more):
    return run("qat", "--model", network, "--data", masks, "--store", store, *SHORT, "--force", *more)


def made(store):
    (artifact,) = [each for each in Store(store).artifacts() if each.method == "qat"]
    return artifact


def file_of(store, artifact):
    return Store(store).folder(artifact) / "model.onnx"


def pictures(path, images):
    runner = OnnxRunner(path)
    return np.concatenate([runner(image[None]) for image in images])


def test_training_brings_four_bits_nearer_to_the_original_and_the_manifest_tells(tmp_path, network, masks):
    more = ["--dtype", "int4", "--steps", 40, "--lr", 1e-3, "--validate-every", 10]
    assert qat(network, masks, tmp_path, *more) == 0
    artifact = made(tmp_path)
    told = artifact.notes["quantization"]["qat"]
    assert told["helped"] is True
    assert told["stopped"] == ""
    assert told["best_distance"] < 0.8 * told["start_distance"]
    assert [point[0] for point in told["curve"]] == [0, 10, 20, 30, 40]
    assert told["best_distance"] == min(point[1] for point in told["curve"])
    parent = Store(tmp_path).get(artifact.parent)
    assert (artifact.format, artifact.dtype, artifact.method) == ("onnx", "int4", "qat")
    assert (parent.dtype, artifact.teacher) == ("float32", "")
    assert artifact.name == "net-int4-qat"
    assert artifact.options["steps"] == 40
    assert artifact.metrics["images"] == 3
    history = json.loads((Store(tmp_path).folder(artifact) / HISTORY).read_text())
    assert [entry["step"] for entry in history["steps"]] == list(range(1, 41))
    assert not list(tmp_path.glob("runs/*"))
    plain = ["quantize", "--model", network, "--data", masks, "--store", tmp_path, *SHORT[2:8], "--dtype", "int4"]
    assert run(*plain, "--force") == 0
    (quantized,) = [each for each in Store(tmp_path).artifacts() if each.method == "quantize"]
    images = noise(4, 3, SIDE, SIDE)
    wanted = pictures(file_of(tmp_path, parent), images)
    trained, rounded = (pictures(file_of(tmp_path, each), images) for each in (artifact, quantized))
    assert np.abs(trained - wanted).mean() < 0.9 * np.abs(rounded - wanted).mean()


def free_network(path):
    """The same network, for images of any size."""
    model = onnx.load(network_file(path))
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in ((2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, path)
    return path


def test_the_distance_in_the_manifest_is_that_of_what_ships_at_its_own_size(tmp_path, masks, monkeypatch):
    network, looks = free_network(tmp_path / "net.onnx"), []
    judge = Selection.judge

    def seen(self, graph, plan):
        looks.append((self.spec.height, judge(self, graph, plan)))
        return looks[-1][1]

    monkeypatch.setattr(Selection, "judge", seen)
    more = ["--dtype", "int4", "--steps", 6, "--lr", 1e-3, "--validate-every", 3, "--size", SIDE]
    assert qat(network, masks, tmp_path / "store", *more) == 0
    artifact = made(tmp_path / "store")
    own = artifact.input.height
    assert own != SIDE
    sizes = [size for size, _ in looks]
    assert sizes == [own, SIDE, SIDE, SIDE, own]  # the start's settings; three looks; what ships
    notes = artifact.notes["quantization"]
    assert notes["qat"]["before"]["distance"] == looks[0][1].distance
    assert notes["distance"] == looks[-1][1].distance
    parent = Store(tmp_path / "store").get(artifact.parent)
    data = TASKS.get(artifact.task).open([str(masks)], "val", seed=0)
    kept = Subset(data, spread_indices(len(data), 2))
    beside = Selection(TASKS.get(artifact.task), kept, artifact.input, OnnxRunner, file_of(tmp_path / "store", parent))
    shipped = beside.judge_file(file_of(tmp_path / "store", artifact))
    assert notes["distance"] == pytest.approx(shipped.distance, rel=1e-6)
    change = np.mean(shipped.losses) / np.mean(beside.original.losses) - 1
    assert notes["selection_loss_increase"] == pytest.approx(change, rel=1e-5)


def test_a_broken_off_run_is_resumed_bit_for_bit(tmp_path, network, masks, monkeypatch):
    more = ["--steps", 9, "--lr", 1e-5, "--validate-every", 2, "--checkpoint-every", 2, "--warmup", 4, "--labels", 0.1]
    assert qat(network, masks, tmp_path / "whole", *more) == 0
    record_step = Guard.record

    def interrupted(self, step, losses):
        record_step(self, step, losses)
        if step == 5:  # after the checkpoint of step 4, and after looks at 2 and 4
            raise KeyboardInterrupt

    monkeypatch.setattr(Guard, "record", interrupted)
    assert qat(network, masks, tmp_path / "broken", *more) == 130
    monkeypatch.setattr(Guard, "record", record_step)
    assert not [each for each in Store(tmp_path / "broken").artifacts() if each.method == "qat"]
    assert qat(network, masks, tmp_path / "broken", *more, "--resume") == 0
    whole, resumed = (made(tmp_path / name) for name in ("whole", "broken"))
    assert file_of(tmp_path / "broken", resumed).read_bytes() == file_of(tmp_path / "whole", whole).read_bytes()
    assert resumed.notes["quantization"]["qat"] == whole.notes["quantization"]["qat"]


@pytest.mark.slow
def test_a_killed_run_is_resumed_bit_for_bit(tmp_path, network, masks):
    def command(root, *extra):
        line = [sys.executable, "-m", "compress", "qat", "--model", network, "--data", masks, "--store", root, *SHORT]
        line += [
            "--force",
            "--steps",
            "60",
            "--lr",
            "1e-3",
            "--validate-every",
            "20",
            "--checkpoint-every",
            "3",
            *extra,
        ]
        return [str(part) for part in line]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, timeout=300)
    process = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("killed/runs/*/checkpoint.pt")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command(tmp_path / "killed", "--resume"), check=True, capture_output=True, timeout=300)
    files = [file_of(tmp_path / name, made(tmp_path / name)).read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]


def test_an_absurd_rate_falls_back_to_plain_quantization_and_says_so(tmp_path, network, masks, capsys):
    assert qat(network, masks, tmp_path, "--steps", 12, "--lr", 50, "--validate-every", 1, "--warmup", 1) == 0
    said = capsys.readouterr().err
    told = made(tmp_path).notes["quantization"]["qat"]
    assert told["stopped"]
    assert told["steps"] < 12
    assert (told["best_step"], told["helped"]) == (0, False)
    assert told["best_distance"] == told["start_distance"]
    assert "taking the state of step 0" in said
    assert "training did not help: this is plain quantization" in said
    assert run("quantize", "--model", network, "--data", masks, "--store", tmp_path, *SHORT[2:8], "--force") == 0
    (plain,) = [each for each in Store(tmp_path).artifacts() if each.method == "quantize"]
    assert file_of(tmp_path, plain).read_bytes() == file_of(tmp_path, made(tmp_path)).read_bytes()


class Falling:
    """A selection whose distances are a given list; nan for pictures that are no numbers."""

    def __init__(self, *distances, dead=()):
        self.answers = [Judged(d, (d,), dead[i] if i < len(dead) else 0) for i, d in enumerate(distances)]

    def judge(self, graph, plan):
        return self.answers.pop(0)


class Steps:
    def __init__(self):
        self.step, self.validations = 0, []


def guarded(tmp_path, selection):
    model = onnx.load(network_file(tmp_path / "n.onnx"))
    layers = {node.name: Choice("float32", "") for node in model.graph.node}
    plan = Plan({**layers, "first": Choice("int8", "")}, {"image": Grid.over(-3, 3)}, shared=False)
    return Guard(FakeQuant(model, plan), selection, tmp_path, Steps(), 1, 0.5)


def look(guard, step):
    guard.loop.step = step
    with torch.no_grad():
        guard.fake.net.named_weights()["w1"].fill_(step)
    guard.look()


def test_the_best_state_is_kept_and_taken_back(tmp_path):
    guard = guarded(tmp_path, Falling(0.3, 0.2, 0.25, 0.2))
    for step in range(4):
        look(guard, step)
    guard.take_best()
    assert guard.best()["step"] == 1
    assert (guard.fake.net.named_weights()["w1"] == 1).all()
    assert [each["epoch"] for each in guard.loop.validations] == [0, 0.5, 1, 1.5]


def test_a_state_with_a_new_dead_mask_is_never_the_best(tmp_path):
    guard = guarded(tmp_path, Falling(0.3, 0.1, dead=(0, 1)))
    look(guard, 0)
    look(guard, 1)
    assert guard.best()["step"] == 0


def test_one_bad_look_is_borne_and_two_in_a_row_stop_training(tmp_path):
    guard = guarded(tmp_path, Falling(0.1, 0.3, 0.15, 0.3, 0.25))
    for step in range(4):
        look(guard, step)
    with pytest.raises(DivergedError, match=r"0\.25000 from the teacher's pictures at step 4, 0\.10000 at the start"):
        look(guard, 4)


def test_pictures_that_are_no_numbers_stop_training_at_once(tmp_path):
    guard = guarded(tmp_path, Falling(0.1, float("nan")))
    look(guard, 0)
    with pytest.raises(DivergedError, match="no numbers"):
        look(guard, 1)
    assert guard.best()["step"] == 0


@pytest.mark.parametrize(("last", "found"), [("Sigmoid", "e"), ("Tanh", "")])
def test_the_raw_output_is_found_where_the_task_s_activation_gives_the_picture(tmp_path, last, found):
    graph = TorchGraph(onnx.load(network_file(tmp_path / "net.onnx", last=last)))
    image = torch.from_numpy(noise(1, 3, SIDE, SIDE))
    assert raw_output(graph, TASKS.get("saliency").activate, image) == found


def store_with(folder, name, side=SIDE):
    """An untrained network of width 8 that has seen data, published."""
    torch.manual_seed(0)
    registered = find_network(name)
    module = registered.build(width=8).eval()
    season(module)
    task = TASKS.get(registered.task)
    size = {"height": side, "width": side}
    artifact = record(
        name, kind=kind_of(name), task=registered.task, network=name, input=replace(task.input, **size),
        output=replace(task.output_for({}), **size),
    )  # fmt: skip
    return publish(Store(folder), artifact, module)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retouch_small", "colorizer_small", "lraspp_small", "membrane_small", "u2netp"])
def test_every_family_trains_generators_of_gans_included(tmp_path, name):
    side = -(-SIDE // find_network(name).stride) * find_network(name).stride
    parent = store_with(tmp_path, name, side)
    more = ["--steps", 3, "--lr", 1e-5, "--validate-every", 3, "--labels", 0.1, "--data", "builtin"]
    assert run("qat", "--model", parent.id, "--store", tmp_path, *SHORT, "--force", *more) == 0
    artifact = made(tmp_path)
    told = artifact.notes["quantization"]["qat"]
    assert told["steps"] == 3
    assert (artifact.parent, artifact.network, artifact.dtype) == (parent.id, name, "int8")
    assert np.isfinite(artifact.metrics["loss"])
    steps = json.loads((Store(tmp_path).folder(artifact) / HISTORY).read_text())["steps"]
    assert all(entry["labels"] > 0 for entry in steps)


def generator_file(path):
    """What a pix2pixHD is made of: mirrored borders, instance norms, a transposed convolution, (tanh + 1) / 2."""
    stored = {
        "w1": noise(6, 3, 3, 3) * 0.2, "w2": noise(6, 6, 3, 3) * 0.1, "up": noise(6, 4, 3, 3) * 0.2,
        "b": noise(4) * 0.1, "w3": noise(3, 4, 3, 3) * 0.2, "s1": np.ones(6), "s2": np.zeros(6), "s3": np.ones(6) * 1.1,
        "s4": noise(6) * 0.1, "one": np.ones(()), "two": np.full((), 2),
    }  # fmt: skip
    stored = {name: np.asarray(array, np.float32) for name, array in stored.items()}
    stored["pads"] = np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    nodes = [
        helper.make_node("Pad", ["image", "pads"], ["p"], mode="reflect"),
        helper.make_node("Conv", ["p", "w1"], ["a"], name="first", strides=[2, 2]),
        helper.make_node("InstanceNormalization", ["a", "s1", "s2"], ["b1"]),
        helper.make_node("Relu", ["b1"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="second", pads=[1] * 4),
        helper.make_node("InstanceNormalization", ["d", "s3", "s4"], ["e"]),
        helper.make_node("Add", ["c", "e"], ["f"]),
        helper.make_node("ConvTranspose", ["f", "up", "b"], ["g"], name="up", strides=[2, 2], pads=[1] * 4,
                         output_padding=[1, 1]),
        helper.make_node("Conv", ["g", "w3"], ["h"], name="head", pads=[1] * 4),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Add", ["t", "one"], ["u"]),
        helper.make_node("Div", ["u", "two"], ["picture"]),
    ]  # fmt: skip
    shape = ["N", 3, SIDE, SIDE]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "picture")]
    graph = helper.make_graph(nodes, "generator", ports[:1], ports[1:],
                              [numpy_helper.from_array(array, name) for name, array in stored.items()])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_generator_learns_from_its_own_pictures_and_from_labels(tmp_path):
    file = generator_file(tmp_path / "generator.onnx")
    assert run("import", file, "--task", "retouch", "--name", "generator", "--store", tmp_path / "s") == 0
    more = ["--dtype", "int4", "--steps", 20, "--lr", 1e-3, "--validate-every", 5, "--labels", 0.01]
    assert qat("generator", write_pairs(tmp_path / "data"), tmp_path / "s", *more) == 0
    artifact = made(tmp_path / "s")
    told = artifact.notes["quantization"]["qat"]
    assert told["best_distance"] < 0.9 * told["start_distance"]
    steps = json.loads((Store(tmp_path / "s").folder(artifact) / HISTORY).read_text())["steps"]
    assert all(entry["loss"] == pytest.approx(entry["picture"] + 0.01 * entry["labels"], rel=1e-5) for entry in steps)


def test_another_network_can_teach(tmp_path, network, masks):
    """A copy of softer masks: what learns from it comes nearer to it than its own parent is."""
    model = onnx.load(network)
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "w3"]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(0.5), "w3"))
    onnx.save(model, tmp_path / "softer.onnx")
    more = ["--steps", 20, "--lr", 1e-3, "--validate-every", 5, "--teacher", tmp_path / "softer.onnx"]
    assert qat(network, masks, tmp_path / "s", *more) == 0
    artifact, store = made(tmp_path / "s"), Store(tmp_path / "s")
    teacher, parent = (store.get(each) for each in (artifact.teacher, artifact.parent))
    assert (teacher.name, parent.name) == ("softer", "net")
    photos = TASKS.get("saliency").open([str(masks)], "test")
    images = [prepare(photos.original(i)["image"], parent.input) for i in range(len(photos))]
    wanted, before, after = (pictures(file_of(tmp_path / "s", each), images) for each in (teacher, parent, artifact))
    assert np.abs(after - wanted).mean() < 0.7 * np.abs(before - wanted).mean()


def test_a_quantized_model_stands_for_the_float_one_behind_it(tmp_path, network, masks, capsys):
    assert run("quantize", "--model", network, "--data", masks, "--store", tmp_path, *SHORT[2:8], "--force") == 0
    capsys.readouterr()
    (small,) = [each for each in Store(tmp_path).artifacts() if each.method == "quantize"]
    assert qat(small.id, masks, tmp_path, "--steps", 1) == 0
    assert made(tmp_path).parent == small.parent
    assert "starting from net" in capsys.readouterr().err


def test_the_same_options_find_what_was_made(tmp_path, network, masks, capsys):
    assert qat(network, masks, tmp_path, "--steps", 1) == 0
    first = capsys.readouterr().out
    assert qat(network, masks, tmp_path, "--steps", 1) == 0
    again = capsys.readouterr()
    assert again.out == first
    assert "found" in again.err


@pytest.mark.parametrize(("more", "words"), [
    (["--steps", 0], "--steps is 0"),
    (["--lr", -1], "--lr is -1"),
    (["--validate-every", 0], "--validate-every is 0"),
    (["--devices", 2], "one device"),
    (["--size", 64], "runs at 32x32 only"),
    (["--exclude", "nobody"], "no node 'nobody'"),
])  # fmt: skip
def test_bad_input_is_one_line(tmp_path, network, masks, capsys, more, words):
    assert qat(network, masks, tmp_path, *more) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_an_unknown_teacher_is_one_line(tmp_path, network, masks, capsys):
    assert qat(network, masks, tmp_path, "--teacher", "nobody") != 0
    said = capsys.readouterr().err
    assert "nobody" in said
    assert "Traceback" not in said


def test_a_teacher_that_is_given_other_pictures_is_refused(tmp_path, network, masks, capsys):
    assert run("import", network, "--mean", 0, 0, 0, "--name", "other", "--store", tmp_path) == 0
    assert qat(network, masks, tmp_path, "--teacher", "other") == 2
    assert "mean of its input differ" in capsys.readouterr().err


def test_a_quantized_file_without_a_float_parent_is_refused(tmp_path, network, masks, capsys):
    assert run("quantize", "--model", network, "--data", masks, "--store", tmp_path / "a", *SHORT[2:8], "--force") == 0
    (small,) = [each for each in Store(tmp_path / "a").artifacts() if each.method == "quantize"]
    capsys.readouterr()
    assert qat(file_of(tmp_path / "a", small), masks, tmp_path / "b", "--steps", 1) == 4
    assert "name its float32 original" in capsys.readouterr().err


def test_a_dry_run_makes_nothing(tmp_path, network, masks, capsys):
    assert qat(network, masks, tmp_path, "--dry-run") == 0
    assert "would train" in capsys.readouterr().out
    assert not list(tmp_path.glob("runs/*"))
