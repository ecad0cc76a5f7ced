"""Weights out of ONNX files into our networks: the round trip of every network, and what must be refused."""

import random
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_store import season
from torch import nn

from compress import cli
from compress.core.errors import ArtifactError, ParityError
from compress.core.launch import launch
from compress.core.networks import STUDENTS, TEACHERS, find_network
from compress.core.store import Store
from compress.jobs.foreign import Reading
from compress.jobs.models import load_module
from compress.jobs.moved import import_weights, proven
from compress.kit.graph import Taps, fold_batch_norm
from compress.kit.ship.runtime import export_graph, open_session
from compress.kit.ship.transplant import transplant
from compress.tasks import TASKS

NAMES = [*TEACHERS.names(), *STUDENTS.names()]
REAL = Path(__file__).parent.parent / "scratch" / "package" / "dist" / "u2netp.onnx"
SIDE = 64


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def build(name, seed, width=6):
    torch.manual_seed(seed)
    net = find_network(name).build(width=width).eval()
    season(net)
    with torch.no_grad():  # no bias and no shift stays 0, where a lost one would not show
        for path, parameter in net.named_parameters():
            if path.endswith("bias"):
                parameter.uniform_(-0.3, 0.3)
    return net


def channels(name):
    return TASKS.get(find_network(name).task).input.channels


def images(count, seed=0):
    return torch.randn(1, count, SIDE, SIDE, generator=torch.manual_seed(seed))


# networks whose padding to a multiple the older exporter fails on
PADDED = ("csrnet", "cyclegan", "pix2pix", "pix2pixhd_retouch", "retouch_small")


def exported(net, path, count, *, fold=True, older=True):
    """Write all raw outputs of a network; torch's older exporter folds and renames on its own."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = [f"out{i}" for i in range(len(net(images(count))))]
        if not older:
            export_graph(fold_batch_norm(net), path, channels=count, size=(SIDE, SIDE), names=["image", *names])
            return path
        mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(
            net, (images(count),), path, dynamo=False, opset_version=17, training=mode, do_constant_folding=fold,
            input_names=["image"], output_names=names, verbose=False,
        )  # fmt: skip
    return path


def nameless(path):
    """Rename every initializer, as exporters do that fold on the way."""
    model = onnx.load(path)
    names = {tensor.name: f"onnx::{index}" for index, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    onnx.save(model, path)
    return path


def assert_same(a, b, image, tolerance=1e-4):
    with torch.no_grad():
        left, right = a(image), b(image)
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert (one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max()))


def assert_moved(name, path):
    net, other, count = build(name, 1), build(name, 2), channels(name)
    for file in (path, nameless(path)):
        moved = transplant(other, onnx.load(file), images(count))
        assert_same(moved, net, images(count, 5))
    with Taps(moved, find_network(name).taps) as seen, torch.no_grad():
        moved(images(count))
    assert set(seen) == set(find_network(name).taps)
    assert_same(other, build(name, 2), images(count))  # what was handed over stays as it was


# those that share a class with u2netp and differ in widths alone
SLOW = {name: pytest.mark.slow for name in NAMES if name.startswith("u2net") and name != "u2netp"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in NAMES])
def test_round_trip_of_every_network(name, tmp_path):
    older = name not in PADDED
    assert_moved(name, exported(build(name, 1), tmp_path / "net.onnx", channels(name), older=older))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in PADDED])
def test_round_trip_by_the_exporter_we_use(name, tmp_path):
    assert_moved(name, exported(build(name, 1), tmp_path / "net.onnx", channels(name), older=False))


def test_batch_norm_the_file_kept_is_moved_with_its_statistics(tmp_path):
    net, other = build("colorizer_small", 1), build("colorizer_small", 2)
    model = onnx.load(exported(net, tmp_path / "net.onnx", 1, fold=False))
    assert any(node.op_type == "BatchNormalization" for node in model.graph.node)
    moved = transplant(other, model, images(1))
    assert_same(moved, net, images(1, 5))
    state, wanted = moved.state_dict(), net.state_dict()
    kept = [key for key in wanted if key.endswith("running_mean") and wanted[key].any()]
    assert kept
    assert all(torch.equal(state[key], wanted[key]) for key in kept)


class Norms(nn.Module):
    """One norm behind a convolution without bias, one in front of it, and one behind a linear layer."""

    def __init__(self, affine=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.behind = nn.BatchNorm2d(4, affine=affine)
        self.before = nn.BatchNorm2d(4, eps=1e-3)
        self.head = nn.Conv2d(4, 1, 1, bias=False)

    def forward(self, image):
        x = torch.relu(self.behind(self.conv(image)))
        return (self.head(torch.tanh(self.before(x))),)


def norm_net(seed, affine=True):
    torch.manual_seed(seed)
    net = Norms(affine).eval()
    for norm in (net.behind, net.before):
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.2, 2.0)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    return net


def norm_file(net, *, folded):
    """The same network by hand: the first norm folded or kept with another eps, the second kept."""
    values = {key: value.detach().numpy() for key, value in net.state_dict().items()}
    scale, shift = values.get("behind.weight", np.ones(4, np.float32)), values.get("behind.bias", np.zeros(4, "f"))
    deviation = np.sqrt(values["behind.running_var"] + net.behind.eps)
    if folded:
        weight = values["conv.weight"] * (scale / deviation)[:, None, None, None]
        stored = {"w": weight, "b": shift - values["behind.running_mean"] * scale / deviation}
        nodes = [helper.make_node("Conv", ["image", "w", "b"], ["n"], pads=[1] * 4)]
    else:
        # another eps: the scale makes up for it
        stored = {"w": values["conv.weight"], "s": scale / deviation * np.sqrt(values["behind.running_var"] + 0.1),
                  "h": shift, "m": values["behind.running_mean"], "v": values["behind.running_var"]}  # fmt: skip
        nodes = [
            helper.make_node("Conv", ["image", "w"], ["c"], pads=[1] * 4),
            helper.make_node("BatchNormalization", ["c", "s", "h", "m", "v"], ["n"], epsilon=0.1),
        ]
    for index, key in enumerate(("weight", "bias", "running_mean", "running_var")):
        stored[f"n{index}"] = values[f"before.{key}"]
    nodes += [
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("BatchNormalization", ["r", "n0", "n1", "n2", "n3"], ["k"], epsilon=1e-3),
        helper.make_node("Tanh", ["k"], ["t"]),
        helper.make_node("Conv", ["t", "head"], ["out"]),
    ]
    stored["head"] = values["head.weight"]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in stored.items()]
    shape = [1, "c", SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_norms_are_told_apart_by_the_layer_they_read(folded, affine):
    if not affine and not folded:
        pytest.skip("a scale that makes up for another eps has no place in a norm without one")
    net, other = norm_net(1, affine), norm_net(2, affine)
    moved = transplant(other, norm_file(net, folded=folded), images(3))
    assert_same(moved, net, images(3, 5), 1e-5)


def test_an_identity_is_exact():
    net = norm_net(1)
    moved = transplant(norm_net(2), norm_file(net, folded=True), images(3))
    x = torch.randn(2, 4, 5, 5)
    shifted = x + moved.behind.bias.detach()[:, None, None]
    torch.testing.assert_close(moved.behind(x), shifted, rtol=0, atol=2e-7 * 8)


def test_a_scale_without_a_place_is_refused():
    with pytest.raises(ArtifactError, match="without scale"):
        transplant(norm_net(2, affine=False), norm_file(norm_net(1), folded=False), images(3))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 1, bias=False)

    def forward(self, image):
        vector = self.b(torch.relu(self.a(self.conv(image).mean((2, 3)))))
        return (vector[:, :, None, None] * image[:, :1],)


@pytest.mark.parametrize("form", ["MatMul", "Gemm", "GemmT"])
def test_linear_layers_in_every_form_a_file_has(form):
    torch.manual_seed(1)
    net = Dense().eval()
    v = {key: value.numpy() for key, value in net.state_dict().items()}
    stored = {"w": v["conv.weight"], "b": v["conv.bias"].reshape(1, 4, 1, 1), "a": v["a.weight"].T, "ab": v["a.bias"],
              "c": v["b.weight"].T, "axes": np.array([2, 3])}  # fmt: skip
    if form == "GemmT":
        stored |= {"a": v["a.weight"] / 2, "ab": v["a.bias"] / 4}
    dense = {
        "MatMul": [helper.make_node("MatMul", ["m", "a"], ["d"]), helper.make_node("Add", ["ab", "d"], ["e"])],
        "Gemm": [helper.make_node("Gemm", ["m", "a", "ab"], ["e"])],
        "GemmT": [helper.make_node("Gemm", ["m", "a", "ab"], ["e"], transB=1, alpha=2.0, beta=4.0)],
    }[form]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Add", ["x", "b"], ["y"]),
        helper.make_node("ReduceMean", ["y"], ["m"], axes=[2, 3], keepdims=0),
        *dense,
        helper.make_node("Relu", ["e"], ["r"]),
        helper.make_node("MatMul", ["r", "c"], ["out"]),
    ]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in stored.items()]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    made = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1])
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    torch.manual_seed(2)
    assert_same(transplant(Dense(), model, images(3)), net, images(3, 5), 1e-6)


def wrapped(name, net, path):
    """Write what ships, activated, as a stranger's file would."""

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, image):
            return (TASKS.get(find_network(name).task).activate(self.net(image)[0]),)

    return exported(Whole().eval(), path, channels(name))


@pytest.mark.parametrize("name", ["membrane_small", "lraspp_small", "colorizer_small"])
def test_import_proves_it_with_the_activation_inside(name, tmp_path):
    net, store = build(name, 1), Store(tmp_path / "s")
    path = nameless(wrapped(name, net, tmp_path / "theirs.onnx"))
    reading = Reading(scale="max", mean=(0.1,) * 3, std=(0.5,) * 3, name="moved")
    artifact = import_weights(store, path, find_network(name), {"width": 6}, reading)
    assert (artifact.name, artifact.network, artifact.format) == ("moved", name, "safetensors")
    assert (artifact.input.height, artifact.input.scale, artifact.input.mean) == (SIDE, "max", (0.1,) * 3)
    assert artifact.notes["outputs"]["out0"]["output"] == 0
    assert artifact.notes["outputs"]["out0"]["activation"] == artifact.task
    module = load_module(store, artifact)
    with torch.no_grad():
        a, b = module(images(channels(name)))[0], net(images(channels(name)))[0]
    assert (a - b).abs().max() < 1e-4 * max(1.0, float(b.abs().max()))
    assert import_weights(store, path, find_network(name), {"width": 6}, reading).id == artifact.id


def command(path, store, *more):
    return run("import", "--teacher", "membrane_small", path, "--width", 6, "--store", store, *more)


@pytest.fixture(scope="module")
def membrane(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "theirs.onnx"
    return wrapped("membrane_small", build("membrane_small", 1), path)


def test_command_moves_and_flags_apply(membrane, tmp_path):
    assert command(membrane, tmp_path / "s", "--name", "mine", "--fit", "pad") == 0
    (artifact,) = Store(tmp_path / "s").artifacts()
    assert (artifact.name, artifact.kind, artifact.input.fit, artifact.input.height) == ("mine", "student", "pad", SIDE)
    assert command(membrane, tmp_path / "s", "--size", 128) == 4
    assert command(membrane, tmp_path / "s", "--task", "saliency") == 2


@pytest.mark.parametrize(
    ("teacher", "flags", "words"),
    [
        ("membrane_small", ["--width", 5], ("layer", "wanted", "found", "Conv 5x", "check the network's name")),
        ("membrane_gan", [], ("layers are not those of LeakyUNet",)),
        ("u2netp", ["--width", 6], ("1 channels, wanted 3",)),
        ("colorizer_small", ["--width", 6], ("layers are not those of Colorizer",)),
    ],
)
def test_another_network_is_refused_with_a_table(membrane, tmp_path, capsys, teacher, flags, words):
    assert run("import", "--teacher", teacher, membrane, *flags, "--store", tmp_path / "s") == 4
    err = capsys.readouterr().err
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert Store(tmp_path / "s").artifacts() == []


def test_layers_of_one_shape_in_another_order_are_refused(membrane, tmp_path, capsys):
    path = tmp_path / "shuffled.onnx"
    path.write_bytes(membrane.read_bytes())
    nameless(path)
    model = onnx.load(path)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    same = [node for node in convs if shapes[node.input[1]] == (6, 6, 3, 3)]
    # the same names, each at another layer: what a file with its nodes sorted otherwise looks like
    tensors = [node.input[1] for node in same]
    random.Random(1).shuffle(tensors)
    twin = build("membrane_small", 2)
    moved = transplant(twin, model, images(1))
    for node, name in zip(same, tensors, strict=True):
        node.input[1] = name
    onnx.save(model, path)
    with pytest.raises(ParityError, match="another order") as refused:
        proven(moved, path, [images(1).numpy()], TASKS.get("membrane"))
    assert "out0" in str(refused.value)


def test_shapes_in_another_order_are_listed(membrane, tmp_path, capsys):
    path = tmp_path / "shuffled.onnx"
    path.write_bytes(membrane.read_bytes())
    model = onnx.load(nameless(path))
    nodes = list(model.graph.node)
    first = next(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    # no valid graph any more, but the list of layers is only read
    del model.graph.node[:]
    model.graph.node.extend([*nodes[first + 1 :], nodes[first]])
    with pytest.raises(ArtifactError, match="differ"):
        transplant(build("membrane_small", 2), model, images(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda p, good: p.write_bytes(b""),
        lambda p, good: p.write_bytes(b"not a graph at all"),
        lambda p, good: p.write_bytes(good[: len(good) // 2]),
        lambda p, good: None,
    ],
    ids=["empty", "words", "cut", "absent"],
)
def test_malformed_files_are_one_line(membrane, tmp_path, capsys, make):
    path = tmp_path / "theirs.onnx"
    make(path, membrane.read_bytes())
    assert command(path, tmp_path / "s") == 4
    err = capsys.readouterr().err
    assert "theirs.onnx" in err
    assert "Traceback" not in err


def test_a_quantized_file_and_one_without_weights_are_refused(tmp_path, capsys):
    shape = [1, 1, SIDE, SIDE]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "mask")]
    scale = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    rounds = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["mask"]),
    ]
    plain = [helper.make_node("Sigmoid", ["image"], ["mask"])]
    for nodes, tensors, words in ((rounds, scale, "quantized"), (plain, [], "no convolution")):
        graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx"
        )
        assert command(tmp_path / "a.onnx", tmp_path / "s") == 4
        assert words in capsys.readouterr().err


def test_a_file_without_the_output_that_ships_is_refused(tmp_path):
    net = build("iizuka", 1)
    model = onnx.load(exported(net, tmp_path / "net.onnx", 1))
    del model.graph.output[0]
    onnx.save(model, tmp_path / "less.onnx")
    with pytest.raises(ParityError, match="output 0, which ships"):
        proven(net, tmp_path / "less.onnx", [images(1).numpy()], TASKS.get("color"))


@pytest.mark.skipif(not REAL.is_file(), reason="the published file is not here")
def test_the_published_u2netp_gives_all_seven_outputs(tmp_path):
    store = Store(tmp_path / "s")
    artifact = import_weights(store, REAL, find_network("u2netp"), {}, Reading())
    assert (artifact.parameters, artifact.input.height) == (1_131_181, 320)
    assert [entry["output"] for entry in artifact.notes["outputs"].values()] == list(range(7))
    assert {entry["activation"] for entry in artifact.notes["outputs"].values()} == {"saliency"}
    noise = np.random.default_rng(3).standard_normal((1, 3, 320, 320)).astype(np.float32)
    theirs = open_session(REAL, threads=1).run(None, {"input.1": noise})
    with torch.no_grad():
        ours = [torch.sigmoid(raw).numpy() for raw in load_module(store, artifact)(torch.from_numpy(noise))]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
