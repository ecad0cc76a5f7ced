"""ONNX files from elsewhere through `compress quantize`: each works, or is refused with the reason."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress import cli
from compress.core.launch import launch
from compress.core.store import Store
from compress.kit.ship.runtime import open_session

QUICK = ["--calibration", 2, "--selection", 1, "--tune", "none", "--force", "--size", 32]


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def network(opset=18, *, shape=("n", 3, "h", "w"), inputs=("image",), outputs=("mask",), constants=False):
    """Convolution, ReLU, convolution, sigmoid; an extra input is added, an extra output copied."""
    rng = np.random.default_rng(0)
    stored = {
        "w1": rng.standard_normal((32, 3, 3, 3)).astype(np.float32),
        "b1": rng.standard_normal(32).astype(np.float32),
        "w2": (rng.standard_normal((1, 32, 3, 3)) / 16).astype(np.float32),
    }
    first = inputs[0]
    nodes = []
    if len(inputs) > 1:
        nodes.append(helper.make_node("Add", list(inputs[:2]), ["sum"]))
        first = "sum"
    nodes += [
        helper.make_node("Conv", [first, "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Sigmoid", ["c2"], [outputs[0]]),
        *(helper.make_node("Identity", [outputs[0]], [name]) for name in outputs[1:]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    if constants:
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors] + nodes
        tensors = []
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [shape[0], 1, *shape[2:]]) for name in outputs],
        tensors,
    )
    version = 4 if opset == 9 else 6 if opset < 13 else 8 if opset < 19 else 10
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version)


def quantized(path, tmp_path):
    """Run the command; returns the store's newest file and the original."""
    assert run("quantize", "--model", path, "--store", tmp_path / "s", *QUICK) == 0
    store = Store(tmp_path / "s")
    child = next(a for a in store.artifacts() if a.method == "quantize")
    return store.folder(child) / "model.onnx", child


@pytest.mark.parametrize(
    "opset", [9, 13, 22, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (11, 17, 18, 21))]
)
def test_every_operator_set_is_quantized_and_keeps_its_free_sides(tmp_path, opset):
    path = tmp_path / "theirs.onnx"
    onnx.save(network(opset), path)
    written, child = quantized(path, tmp_path)
    assert child.notes["quantization"]["quantized"] >= 1
    image = np.random.default_rng(1).random((2, 3, 40, 24)).astype(np.float32)
    exact, rounded = (open_session(p).run(None, {"image": image})[0] for p in (path, written))
    assert np.abs(exact - rounded).mean() < 0.03


@pytest.mark.parametrize("kind", ["outputs", "external", "constants", "fixed"])
def test_what_is_unusual_but_sound_works(tmp_path, kind):
    path = tmp_path / "theirs.onnx"
    if kind == "external":
        onnx.save(network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        model = {
            "outputs": lambda: network(outputs=("mask", "again")),
            "constants": lambda: network(constants=True),
            "fixed": lambda: network(shape=(1, 3, 32, 32)),
        }[kind]()
        onnx.save(model, path)
    written, child = quantized(path, tmp_path)
    assert child.notes["quantization"]["quantized"] >= 1
    assert len(onnx.load(written).graph.output) == 1


def test_two_inputs_are_refused(tmp_path, capsys):
    onnx.save(network(inputs=("image", "other")), tmp_path / "two.onnx")
    assert run("quantize", "--model", tmp_path / "two.onnx", "--store", tmp_path / "s", *QUICK) == 4
    assert "takes one float image" in capsys.readouterr().err


def test_channels_last_is_refused(tmp_path, capsys):
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["image"], ["mask"], perm=[0, 3, 1, 2])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 3, 32, 32])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "nhwc.onnx")
    assert run("quantize", "--model", tmp_path / "nhwc.onnx", "--store", tmp_path / "s", *QUICK) == 4
    assert "export it as NCHW" in capsys.readouterr().err


def test_what_is_quantized_already_is_refused(tmp_path, capsys):
    path = tmp_path / "theirs.onnx"
    onnx.save(network(), path)
    written, _ = quantized(path, tmp_path)
    assert run("quantize", "--model", written, "--store", tmp_path / "t", *QUICK) == 4
    assert "quantized already" in capsys.readouterr().err


def test_data_outside_the_files_folder_is_not_read(tmp_path, capsys):
    inside = tmp_path / "inside"
    inside.mkdir()
    onnx.save(network(), inside / "a.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (inside / "w.bin").rename(tmp_path / "secret.bin")
    model = onnx.load(inside / "a.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.bin"
    (inside / "a.onnx").write_bytes(model.SerializeToString())
    assert run("quantize", "--model", inside / "a.onnx", "--store", tmp_path / "s", *QUICK) == 4
    assert "secret.bin" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_cut_short_is_refused(tmp_path, capsys, share):
    whole = network().SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(whole[: int(len(whole) * share)])
    assert run("quantize", "--model", tmp_path / "cut.onnx", "--store", tmp_path / "s", *QUICK) == 4
    assert "cut.onnx" in capsys.readouterr().err
