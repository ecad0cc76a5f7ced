"""Networks from elsewhere: ONNX files and checkpoints, good ones and hostile ones."""

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress import cli
from compress.core.launch import launch
from compress.core.networks import find_network
from compress.core.store import Store
from compress.kit.ship.count import count_onnx_macs, count_onnx_parameters


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def write_net(path, *, side=None, channels=1, outputs=("mask", "other"), logits=False):
    """A one-convolution network of known values: sigmoid of the mean of the three colours."""
    weight = np.full((channels, 3, 1, 1), 1 / 3, np.float32)
    nodes = [helper.make_node("Conv", ["photo", "w"], ["c"], name="conv", kernel_shape=[1, 1])]
    head = "Identity" if logits else "Sigmoid"
    nodes += [helper.make_node(head, ["c"], [name], name=f"n_{name}") for name in outputs]
    shape = ["n", 3, side or "h", side or "w"]
    given = helper.make_tensor_value_info("photo", TensorProto.FLOAT, shape)
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", channels, *shape[2:]]) for n in outputs]
    graph = helper.make_graph(nodes, "net", [given], made, [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def only(store):
    (artifact,) = Store(Path(store)).artifacts()
    return artifact


def test_onnx_file_becomes_an_artifact_and_is_found_again(tmp_path, capsys):
    file, store = write_net(tmp_path / "net.onnx"), tmp_path / "s"
    line = ["import", file, "--size", 48, "--scale", "max", "--mean", 0, 0, 0, "--output", "other", "--store", store]
    assert run(*line) == 0
    assert run(*line) == 0
    artifact = only(store)
    assert capsys.readouterr().out.split() == [artifact.id] * 2
    assert (artifact.kind, artifact.format, artifact.dtype, artifact.name) == ("foreign", "onnx", "float32", "net")
    assert (artifact.input.height, artifact.input.scale, artifact.input.mean) == (48, "max", (0.0, 0.0, 0.0))
    assert artifact.input.dynamic
    assert artifact.output.name == "other"
    assert (artifact.parameters, artifact.macs) == (3, 3 * 48 * 48)
    shipped = onnx.load(store / artifact.id / "model.onnx")
    assert [value.name for value in shipped.graph.output] == ["other"]


def test_fixed_size_is_read_from_the_file_and_another_is_refused(tmp_path, capsys):
    file = write_net(tmp_path / "net.onnx", side=64)
    assert run("import", file, "--size", 32, "--store", tmp_path / "s") == 4
    assert "runs at 64x64 only" in capsys.readouterr().err
    assert run("import", file, "--store", tmp_path / "s") == 0
    artifact = only(tmp_path / "s")
    assert (artifact.input.height, artifact.input.dynamic) == (64, False)
    assert run("evaluate", "--size", 32, "--store", tmp_path / "s") == 2


def test_model_file_is_imported_on_the_way(tmp_path, capsys):
    file = write_net(tmp_path / "net.onnx", side=32)
    assert run("evaluate", "--model", file, "--store", tmp_path / "s", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == only(tmp_path / "s").id


def test_logits_are_warned_of(tmp_path, capsys):
    file = write_net(tmp_path / "net.onnx", outputs=("raw",), logits=True)
    assert run("import", file, "--size", 32, "--store", tmp_path / "s") == 0
    assert "are these logits?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_bytes(b""), "net.onnx"),
        (lambda p: p.write_bytes(b"not a graph"), "net.onnx"),
        (lambda p: (write_net(p), p.write_bytes(p.read_bytes()[:60])), "net.onnx"),
        (lambda p: write_net(p, channels=2), "wanted (1, 1, H, W)"),
    ],
)
def test_bad_onnx_is_one_line(tmp_path, capsys, make, words):
    file = tmp_path / "net.onnx"
    make(file)
    assert run("import", file, "--store", tmp_path / "s") == 4
    err = capsys.readouterr().err
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err
    assert Store(tmp_path / "s").artifacts() == []


def test_unknown_output_lists_those_there_are(tmp_path, capsys):
    file = write_net(tmp_path / "net.onnx")
    assert run("import", file, "--output", "nothing", "--store", tmp_path / "s") == 4
    assert "mask, other" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_loads_into_its_network(tmp_path, suffix):
    torch.manual_seed(3)
    state = find_network("u2netp").build().state_dict()
    file = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(state, file)
    else:
        from safetensors.torch import save_file

        save_file(state, file)
    assert run("import", "--teacher", "u2netp", file, "--store", tmp_path / "s") == 0
    artifact = only(tmp_path / "s")
    assert (artifact.network, artifact.kind, artifact.parameters) == ("u2netp", "student", 1_131_181)
    from compress.jobs.models import load_module

    loaded = load_module(Store(tmp_path / "s"), artifact).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_wrong_keys_are_all_listed_in_one_message(tmp_path, capsys):
    state = find_network("u2netp").build().state_dict()
    state["extra.weight"] = state.pop("side1.weight")
    state["side2.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "net.pth")
    assert run("import", "--teacher", "u2netp", tmp_path / "net.pth", "--store", tmp_path / "s") == 4
    err = capsys.readouterr().err
    assert all(word in err for word in ("side1.weight", "extra.weight", "side2.weight"))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_that_is_not_weights_is_never_executed(tmp_path, capsys, how):
    file, trace = tmp_path / "net.pth", tmp_path / "executed"
    if how == "pickle":
        file.write_bytes(pickle.dumps(Evil(trace)))
    else:
        torch.save({"state_dict": Evil(trace)}, file)
    assert run("import", "--teacher", "u2netp", file, "--store", tmp_path / "s") == 4
    assert not trace.exists()
    assert "Traceback" not in capsys.readouterr().err


def test_counts_of_an_export_are_those_of_the_module(tmp_path):
    from compress.core.types import ImageSpec
    from compress.formats.onnx import Onnx
    from compress.kit.graph import count_macs, fold_batch_norm
    from compress.kit.ship.runtime import Shipped

    net = find_network("u2netp").build(width=8).eval()
    path = tmp_path / "net.onnx"
    Onnx().write(
        Shipped(net, torch.sigmoid), path, input=ImageSpec(), output=ImageSpec(name="mask", channels=1), size=(64, 64)
    )
    model = onnx.load(path)
    assert count_onnx_macs(model, (64, 64)) == count_macs(net, (64, 64))
    folded = sum(p.numel() for p in fold_batch_norm(net).parameters())
    assert abs(count_onnx_parameters(model) - folded) <= 16  # scalars the exporter adds


def test_a_class_map_has_as_many_classes_as_its_file_says(tmp_path, capsys):
    file, store = write_net(tmp_path / "net.onnx", channels=6, outputs=("classes",)), tmp_path / "s"
    assert run("import", file, "--task", "segmentation", "--size", 32, "--store", store) == 0
    assert only(store).output.channels == 6
    assert run("evaluate", "--model", "net", "--store", store, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] > 0


def test_a_stranger_of_any_size_is_stretched_until_told_otherwise(tmp_path):
    file, store = write_net(tmp_path / "net.onnx", channels=3), tmp_path / "s"
    assert run("import", file, "--task", "retouch", "--size", 32, "--store", store) == 0
    assert only(store).input.fit == "stretch"
    assert run("import", file, "--task", "retouch", "--size", 32, "--fit", "native", "--store", tmp_path / "t") == 0
    assert only(tmp_path / "t").input.fit == "native"


def test_a_checkpoint_of_a_network_with_options_is_built_with_them(tmp_path, capsys):
    net = find_network("voc_unet").build(width=4, classes=5)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    line = ["import", tmp_path / "net.pth", "--teacher", "voc_unet", "--store", tmp_path / "s"]
    assert run(*line) == 4
    assert run(*line, "--width", 4, "--classes", 5) == 0
    artifact = only(tmp_path / "s")
    assert artifact.network_options == {"width": 4, "classes": 5}
    assert artifact.output.channels == 5
    assert run(*line, "--widht", 4) == 2
    assert "did you mean '--width'" in capsys.readouterr().err
