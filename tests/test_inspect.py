"""`compress inspect`: its report, its tables, its picture, its refusals."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx_nets import GRID, IMAGE, RESULT, RNG, Net, build, floats, node, qdq, stored
from PIL import Image
from tiny_store import publish, record

from compress import cli
from compress.core.launch import launch
from compress.core.networks import find_network
from compress.core.store import Store
from compress.jobs.inspect_model import examine, find
from compress.jobs.inspect_treemap import Box, squarify
from compress.kit.graph import count_macs
from compress.kit.ship.runtime import export_graph
from compress.tasks import TASKS


@pytest.fixture(scope="module")
def float_net(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("float") / "net.onnx"
    export_graph(Net().eval(), path, channels=3, size=(16, 24), names=("image", "picture"), free=(0, 2, 3))
    return path


# --- the picture


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(10, 2000), st.integers(10, 2000))
def test_a_treemap_fills_its_box_in_proportion_without_overlap(sizes, width, height):
    sizes = sorted(sizes, reverse=True)
    boxes = squarify(sizes, Box(0, 0, width, height))
    scale = width * height / sum(sizes)
    assert [box.width * box.height for box in boxes] == pytest.approx([size * scale for size in sizes], rel=1e-6)
    slack = 1e-6 * max(width, height)
    for index, box in enumerate(boxes):
        assert box.x >= -slack
        assert box.y >= -slack
        assert box.x + box.width <= width + slack
        assert box.y + box.height <= height + slack
        for other in boxes[:index]:
            across = min(box.x + box.width, other.x + other.width) - max(box.x, other.x)
            down = min(box.y + box.height, other.y + other.height) - max(box.y, other.y)
            assert min(across, down) <= slack


def test_equal_sizes_become_squares():
    assert all(box.width == pytest.approx(box.height) for box in squarify([1] * 4, Box(0, 0, 20, 20)))


# --- the command


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def inspected(capsys, *arguments):
    assert run("inspect", *arguments, "--json", "--quiet") == 0
    return json.loads(capsys.readouterr().out)


def tiny(root):
    """A store with one network of torch weights."""
    torch.manual_seed(0)
    task = TASKS.get("retouch")
    size = {"height": 32, "width": 32}
    fields = {"task": "retouch", "network": "csrnet", "network_options": {"width": 8}}
    artifact = record(**fields, input=replace(task.input, **size), output=replace(task.output, **size))
    store = Store(root)
    publish(store, artifact, find_network("csrnet").build(width=8))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose one export is made once."""
    return tiny(tmp_path_factory.mktemp("shared") / "store")


def only(store):
    return next(artifact for artifact in store.artifacts() if artifact.name == "tiny")


def add_child(store, name, write, **fields):
    with store.draft() as draft:
        write(draft)
        return store.publish(
            draft, record(name, parent=only(store).id, input=only(store).input, task="retouch", **fields)
        )


def test_a_file_is_inspected_without_a_store(tmp_path, float_net, capsys):
    told = inspected(capsys, float_net, "--store", tmp_path / "none", "--task", "retouch", "--size", 16)
    assert not (tmp_path / "none").exists()
    assert told["file_bytes"] == float_net.stat().st_size
    assert told["model"] == ""
    assert told["macs"] == count_macs(Net().eval(), (16, 16), channels=3)
    assert told["macs_integer"] == 0
    assert told["inputs"][0]["shape"][1] == 3
    assert {each["target"]: each["runs"] for each in told["targets"]}["cpu"] == "yes"
    assert {each["target"]: each["runs"] for each in told["targets"]}["torch"] == "no"


def test_download_is_what_gzip_makes_of_the_file(float_net, capsys, tmp_path):
    import gzip

    told = inspected(capsys, float_net, "--store", tmp_path)
    packed = gzip.compress(float_net.read_bytes(), 9, mtime=0)
    assert told["compression"]["download"]["gzip"] == len(packed)


def test_torch_weights_are_inspected_through_their_export(store, capsys):
    artifact = only(store)
    told = inspected(capsys, "--store", store.root)
    assert (told["model"], told["origin"]) == (artifact.id, "exported from its torch weights")
    assert told["size"] == [32, 32]
    assert told["compression"]["parent"] is None
    assert told["bytes"]["dtype"]["float32"] > 0.5 * told["file_bytes"]
    assert [each["runs"] for each in told["targets"] if each["target"] == "torch"] == ["yes"]


def test_a_child_is_weighed_against_its_parent_and_its_maker_s_reasons_are_told(store, capsys):
    parent = only(store)
    model = build([*IMAGE, node("Conv", "xd wf", "y", name="head"), *RESULT], stored(**GRID, wf=floats(1, 3, 1, 1)))
    notes = {"quantization": {"left": {"head": "the picture's last layer"}}}
    child = add_child(store, "child", lambda draft: onnx.save(model, draft / "model.onnx"), format="onnx", dtype="int8",
                      notes=notes, created="2025-01-01T00:00:00")  # fmt: skip
    told = inspected(capsys, child.id, "--store", store.root)
    assert told["compression"]["parent"]["model"] == parent.id
    assert told["compression"]["parent"]["times"] == pytest.approx(parent.bytes / child.bytes)
    assert [work["why"] for work in told["heavy"]] == ["the picture's last layer"]
    web = [each["why"] for each in told["targets"] if each["target"] == "webgl"]
    assert "floats only" in web[0]
    assert run("inspect", "child", "--store", store.root, "--quiet") == 0
    text = capsys.readouterr().out
    assert "the picture's last layer" in text
    assert f"its parent {parent.name}" in text


def test_ranges_of_a_quantized_child_are_those_of_its_float_parent(store, capsys):
    add_child(store, "rounded", lambda draft: onnx.save(qdq(), draft / "model.onnx"), format="onnx", dtype="int8",
              created="2025-01-01T00:00:00")  # fmt: skip
    told = inspected(capsys, "rounded", "--store", store.root, "--data", "builtin", "--photos", 2)
    ranges = told["float16"]["ranges"]
    assert (ranges["graph"], ranges["photos"], ranges["size"]) == ("tiny", 2, [32, 32])
    assert {"Conv", "Relu"} <= {each["operator"] for each in ranges["tensors"]}
    assert all(each["largest"] > 0 for each in ranges["tensors"])


def test_ranges_take_a_folder_of_mere_photos(tmp_path, capsys):
    for index in range(3):
        Image.fromarray(RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(tmp_path / f"{index}.png")
    path = tmp_path / "net.onnx"
    onnx.save(build([node("Mul", "x many", "y"), node("InstanceNormalization", "y one none", "out")],
                    stored(many=np.float32(100), one=np.ones(3, np.float32), none=np.zeros(3, np.float32)),
                    shape=(1, 3, 16, 16)), path)  # fmt: skip
    told = inspected(capsys, path, "--data", tmp_path, "--store", tmp_path / "none")
    ranges = told["float16"]["ranges"]
    assert (ranges["photos"], ranges["size"]) == (3, [16, 16])
    assert {each["name"]: each["risk"] for each in ranges["tensors"]}["y"] == "over"


@pytest.mark.parametrize("inputs", [("x", "y"), ("x",)])
def test_ranges_of_what_takes_no_single_photo_are_refused(tmp_path, capsys, inputs):
    path = tmp_path / "net.onnx"
    onnx.save(build([node("Sum", " ".join(inputs), "out")], inputs=inputs, shape=(1, 5, 8, 8)), path)
    assert run("inspect", path, "--data", "builtin", "--quiet") == 2
    assert "photos for one image of 3" in capsys.readouterr().err
    # the rest is told all the same
    assert run("inspect", path, "--quiet") == 0


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (4,), (), ("n", 7, "t")])
def test_networks_of_other_inputs_are_taken_apart(tmp_path, capsys, shape):
    path = tmp_path / "net.onnx"
    onnx.save(build([node("Relu", "x", "out")], shape=shape, made=list(shape)), path)
    assert inspected(capsys, path)["operators"] == {"Relu": 1}
    assert run("inspect", path, "--quiet") == 0


def test_a_picture_is_written_whole_at_its_size(tmp_path, capsys):
    picture, path = tmp_path / "new" / "map.png", tmp_path / "net.onnx"
    weights = stored(w=floats(64, 3, 3, 3), deep=floats(64, 64, 3, 3))
    onnx.save(build([node("Conv", "x w", "y"), node("Conv", "y deep", "out")], weights), path)
    assert run("inspect", path, "--picture", picture, "--quiet") == 0
    with Image.open(picture) as image:
        assert image.size == (1600, 1000)
        colours = image.convert("RGB").getcolors(1 << 24)
    # float32 blue takes most of it
    assert max(colours)[1] == (0x2F, 0x5D, 0x8A)
    assert [path.name for path in picture.parent.iterdir()] == ["map.png"]
    capsys.readouterr()


def test_dry_run_exports_and_writes_nothing(tmp_path, capsys):
    store = tiny(tmp_path / "store")
    assert run("inspect", "tiny", "--store", store.root, "--dry-run", "--picture", tmp_path / "map.png") == 0
    assert "would inspect" in capsys.readouterr().out
    assert not (store.root / "cache").exists()
    assert not (tmp_path / "map.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["gone.onnx"], 4, "no ONNX file"),
     (["nothing"], 4, "no artifact"),
     (["{net}", "--picture", "map.jpg"], 2, ".png"),
     (["{net}", "--photos", "0"], 2, "--photos"),
     (["{net}", "--task", "poetry"], 2, "unknown task"),
     (["{net}", "--data", "nowhere"], 2, "nowhere"),
     (["{fixed}", "--size", "64"], 2, "runs at 8x8 only")],
)  # fmt: skip
def test_mistakes_are_one_line_with_the_right_exit_code(tmp_path, float_net, capsys, arguments, code, words):
    onnx.save(build([node("Relu", "x", "out")]), tmp_path / "fixed.onnx")
    places = {"net": float_net, "fixed": tmp_path / "fixed.onnx"}
    line = [argument.format(**places) for argument in arguments]
    assert run("inspect", *line, "--store", tmp_path / "store", "--quiet") == code
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_other_formats_are_refused_with_their_parent_s_name(store, capsys):
    parent = only(store)
    child = add_child(store, "web", lambda draft: (draft / "model.json").write_text("{}"), format="tfjs",
                      created="2027-01-01T00:00:00")  # fmt: skip
    assert run("inspect", child.id, "--store", store.root, "--quiet") == 4
    assert f"compress inspect {parent.id}" in capsys.readouterr().err
    # and not taken when nothing is named
    assert inspected(capsys, "--store", store.root)["model"] == parent.id


def test_what_onnx_runtime_cannot_load_is_inspected_and_told(tmp_path, capsys):
    model = build([helper.make_node("Conjure", ["x"], ["out"], domain="com.example")])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    told = inspected(capsys, path)
    assert not told["onnxruntime"]["loads"]
    cpu = next(each for each in told["targets"] if each["target"] == "cpu")
    assert cpu["runs"] == "no"
    assert "can't load" in cpu["why"]


def test_the_tables_hold_what_the_report_knows(float_net, tmp_path, capsys):
    assert run("inspect", float_net, "--store", tmp_path, "--top", 2, "--quiet") == 0
    text = capsys.readouterr().out
    report = examine(Store(tmp_path), find(Store(tmp_path), str(float_net), "saliency"))
    assert f"{report.anatomy.file_bytes / 1e6:.4f}" in text
    assert report.anatomy.tensors[0].name in text
    assert f"and {len(report.anatomy.tensors) - 2} more" in text
    for title in (
        "bytes",
        "operators",
        "largest tensors",
        "compression",
        "arithmetic",
        "redundant",
        "float16",
        "targets",
    ):
        assert any(line.startswith(title) for line in text.splitlines())
