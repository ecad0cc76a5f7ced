"""`compress export`: every format, checked at each step, found again, refused where it can't be."""

import importlib.util
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress import cli
from compress.core.errors import ArtifactError, ParityError
from compress.core.launch import launch
from compress.core.networks import find_network
from compress.core.store import Store
from compress.formats.safetensors import Safetensors
from compress.jobs import convert, export
from compress.jobs.convert import Request, Wish
from compress.jobs.export import as_tfjs, read_record
from compress.jobs.foreign import Reading, import_checkpoint, import_onnx
from compress.jobs.models import as_onnx, open_runner

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorflowjs") is None, reason="the extra web is not here")


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def here(request):
    """What the process of an export does, in this one: TensorFlow is imported once."""
    convert.carry_out(request)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(export, "run_apart", here)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def store(folder):
    return Store(folder / "store")


@pytest.fixture(scope="module")
def trained(store, folder):
    """A little network of ours with weights as after training."""
    torch.manual_seed(0)
    module = find_network("lraspp_small").build(width=8)
    weights = Safetensors().write(module, folder)
    return import_checkpoint(store, weights, find_network("lraspp_small"), {"width": 8}, name="lraspp")


@pytest.fixture(scope="module")
def foreign(folder):
    """A file from elsewhere: operator set 11, 64 x 64 pixels and no others, names TensorFlow does not take."""
    rng = np.random.default_rng(0)
    stored = {"0.weight": rng.standard_normal((8, 3, 3, 3)) / 5, "0.bias": rng.standard_normal(8),
              "1.weight": rng.standard_normal((1, 8, 1, 1))}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["input.1", "0.weight", "0.bias"], ["11"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["11"], ["12"]),
        helper.make_node("Conv", ["12", "1.weight"], ["13"]),
        helper.make_node("Sigmoid", ["13"], ["1959"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("1959", TensorProto.FLOAT, [1, 1, 64, 64])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 6
    onnx.save(model, folder / "foreign.onnx")
    return folder / "foreign.onnx"


def exported(store, capsys, *arguments):
    assert run("export", "--store", store.root, *arguments) == 0
    return store.get(capsys.readouterr().out.split()[-1])


def test_the_command_line_exports_in_a_process_of_its_own(store, trained, capsys):
    made = exported(store, capsys, "--format", "tfjs", "--model", trained.id)
    notes = made.notes["export"]
    assert (made.format, made.dtype, made.parent, made.name) == ("tfjs", "float32", trained.id, "lraspp-tfjs")
    assert (made.input.layout, made.input.dynamic, made.output.layout) == ("NHWC", True, "NHWC")
    assert (made.input.name, made.output.name) == (trained.input.name, trained.output.name)
    assert [step["step"] for step in notes["parity"]] == ["tf.function", "SavedModel", "TF.js files"]
    assert max(step["max_abs"] for step in notes["parity"]) <= 1e-4
    assert notes["operators"]["Conv"] > 10
    assert set(notes["versions"]) >= {"tensorflow", "tensorflowjs"}
    assert "model.json" in {file.path for file in made.files}
    assert all(file.path == "model.json" or file.path.endswith(".bin") for file in made.files)
    assert exported(store, capsys, "--format", "tfjs", "--model", trained.id).id == made.id


def test_storage_variants_come_from_one_conversion(store, trained, capsys, quick, monkeypatch):
    whole = as_tfjs(store, trained)
    monkeypatch.setattr(convert, "_whole", None)  # another lowering would be an error
    image = np.random.default_rng(0).standard_normal((1, 3, 96, 64)).astype(np.float32)
    wanted = open_runner(store, trained)(image)
    sizes = {"float32": sum(path.stat().st_size for path in whole.glob("*.bin"))}
    for weights, limit in (("float16", 5e-3), ("uint16", 5e-3), ("uint8", 0.1)):
        made = exported(store, capsys, "--format", "tfjs", "--weights", weights, "--model", trained.id)
        sizes[weights] = sum(file.bytes for file in made.files if file.path.endswith(".bin"))
        assert made.dtype == weights
        assert made.name == f"lraspp-tfjs-{weights}"
        found = open_runner(store, made)(image)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= limit
    assert sizes["float32"] > sizes["uint16"] > sizes["uint8"]
    assert sizes["float32"] > sizes["float16"] > sizes["uint8"]
    cost = made.notes["export"]["cost"]
    assert cost["images"] >= 2
    assert cost["loss"]["uint8"] == pytest.approx(cost["loss"]["float32"], rel=0.2)


def test_evaluate_runs_the_files_that_ship(store, trained, capsys, quick):
    made = exported(store, capsys, "--format", "tfjs", "--model", trained.id)
    scores = {}
    for model in (trained, made):
        assert run("evaluate", "--store", store.root, "--model", model.id, "--size", 64, "--json", "--no-baseline") == 0
        scores[model.id] = json.loads(capsys.readouterr().out)["loss"]
    assert scores[made.id] == pytest.approx(scores[trained.id], rel=1e-4)


@pytest.mark.parametrize("format", ["saved_model", "litert"])
def test_other_formats_of_tensorflow(store, trained, capsys, quick, format):
    made = exported(store, capsys, "--format", format, "--model", trained.id)
    assert made.format == format
    image = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    found, wanted = (open_runner(store, model)(image) for model in (made, trained))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_onnx_of_another_operator_set_and_size(store, trained, capsys):
    made = exported(store, capsys, "--format", "onnx", "--opset", 18, "--size", 64, "--model", trained.id)
    model = onnx.load(store.folder(made) / "model.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    assert (made.input.height, made.input.width, made.input.dynamic) == (64, 64, False)
    assert [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim][2:] == [64, 64]


def test_a_foreign_file_of_one_size(store, foreign, capsys, quick):
    made = exported(store, capsys, "--format", "tfjs", "--model", foreign)
    assert (made.input.name, made.output.name, made.input.dynamic) == ("input_1", "t1959", False)
    assert (made.input.height, made.input.width) == (64, 64)
    assert made.notes["export"]["why_fixed"] == "the ONNX graph runs at one size only"
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    parent = store.get(made.parent)
    np.testing.assert_allclose(open_runner(store, made)(image), open_runner(store, parent)(image), atol=1e-5)


def test_a_cached_export_is_made_once_and_whole(store, trained, quick, monkeypatch):
    first = as_tfjs(store, trained, size=64)
    given, made, notes = read_record(first)
    assert (given.height, given.width, given.dynamic, made.height) == (64, 64, False, 64)
    assert notes["why_fixed"] == "asked for with --size"
    monkeypatch.setattr(export, "run_apart", None)  # making it again would be an error
    assert as_tfjs(store, trained, size=64) == first

    def broken(request):
        raise ArtifactError("no")

    monkeypatch.setattr(export, "run_apart", broken)
    before = set((store.root / "cache").iterdir())
    with pytest.raises(ArtifactError, match="no"):
        as_tfjs(store, trained, size=96)
    assert set((store.root / "cache").iterdir()) == before


def test_an_int8_file_is_refused_with_the_command_for_its_parent(store, trained, capsys):
    from dataclasses import replace

    quantized = replace(trained, format="onnx", dtype="int8", parent=trained.id, name="lraspp-int8")
    with pytest.raises(ArtifactError) as caught:
        export.refuse_integers(quantized)
    text = str(caught.value)
    assert f"compress export --format tfjs --weights uint8 --model {trained.id}" in text
    assert "benchmarks run --target wasm --runtime ort-web" in text


def test_a_quantized_graph_is_refused_whatever_its_manifest_says(store, folder, quick):
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in
              (("s", np.float32(1 / 255)), ("z", np.uint8(0)))]  # fmt: skip
    nodes = [helper.make_node("Sigmoid", ["x"], ["a"]), helper.make_node("ReduceMean", ["a"], ["b"], axes=[1]),
             helper.make_node("QuantizeLinear", ["b", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
    graph = helper.make_graph(
        nodes, "q", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, "h", "w"])], stored,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, folder / "q.onnx")
    artifact = import_onnx(store, folder / "q.onnx", Reading())
    with pytest.raises(ArtifactError, match="multiplies int"):
        as_tfjs(store, artifact)


def test_a_difference_is_a_parity_error_that_names_the_node(store, trained, quick, monkeypatch, tmp_path):
    from compress.kit.lower import network
    from compress.kit.lower.table import Value

    right = network.OPERATORS["Resize"]

    def wrong(node):
        value = right(node)
        return Value(value.data * 1.5 + 1, value.last)

    monkeypatch.setitem(network.OPERATORS, "Resize", wrong)
    request = Request(str(store.root), trained.id, str(as_onnx(store, trained)), str(tmp_path), Wish("tfjs", size=64))
    with pytest.raises(ParityError, match="Resize node") as caught:
        convert.carry_out(request)
    assert caught.value.exit_code == 5
    assert "tf.function differs from ONNX Runtime" in str(caught.value)


def test_errors_cross_the_process_border(store, trained, tmp_path):
    missing = Request(str(store.root), "nothing", "", str(tmp_path), Wish("tfjs"))
    with pytest.raises(ArtifactError, match="no artifact 'nothing'"):
        export.run_apart(missing)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--format onnx --weights uint8", 2, "--weights uint8 was asked"),
        ("--format litert --weights uint16", 2, "float32 or float16"),
        ("--format tfjs --opset 12", 2, "--opset is for --format onnx"),
        ("--format tfjs --size 0", 2, "--size is 0"),
        ("--format tfsj", 2, "tfjs"),
    ],
)
def test_mistakes_are_one_line(store, capsys, line, code, words):
    assert run("export", "--store", store.root, *line.split()) == code
    assert words in capsys.readouterr().err
