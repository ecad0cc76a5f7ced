"""Every operator of the lowering against ONNX Runtime; whole networks; what can't be lowered."""

import importlib
import importlib.util
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lowering_cases import CASES
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import ArtifactError
from compress.core.networks import STUDENTS, TEACHERS, find_network
from compress.kit.lower import graph
from compress.kit.lower.table import OPERATORS, Value
from compress.kit.ship.runtime import Shipped, export_graph, quiet
from compress.tasks import TASKS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="the extra web is not here")


@pytest.fixture(scope="module")
def network():
    """The module that lowers networks: importing it imports TensorFlow, which no other test file should wait for."""
    return importlib.import_module("compress.kit.lower.network")


def reference(model, image):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})


def lowered_values(network, model, image, sides):
    import tensorflow as tf

    names = [each.name for each in model.graph.output]

    def run(given):
        found = network.values(model, Value(given, last=True), wanted=names)
        return [network.canonical(found[name]) for name in names]

    traced = tf.function(run, input_signature=[tf.TensorSpec(sides, tf.float32)], autograph=False)
    return [np.asarray(value) for value in traced(tf.constant(image.transpose(0, 2, 3, 1)))]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("order", ["channels last", "channels first"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.name}".strip())
def test_an_operator_computes_what_onnx_runtime_does(network, case, order):
    shape = [2, 6, 7, 9]
    image = noise(*shape)
    # free sides where the case is not about one size, a map in ONNX's own order the second time
    free, reshaped = case.free and order == "channels last", order == "channels first"
    model = case.model([None, 6, None, None] if free else shape, reshaped=reshaped)
    wanted = reference(model, image)
    found = lowered_values(network, model, image, (None, None, None, 6) if free else (2, 7, 9, 6))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=1e-4, atol=2e-5)


def test_the_table_of_cases_covers_every_operator(network):
    tried = {case.kind for case in CASES} | {"Constant"}
    assert set(network.OPERATORS) - tried == set()


def network_model(name, folder):
    """A registered network of width 8 with norms that have seen data, as an ONNX graph of free sides."""
    torch.manual_seed(0)
    registered = find_network(name)
    task = TASKS.get(registered.task)
    module = Shipped(registered.build(width=8).eval(), task.activate)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.uniform_(-0.2, 0.2)
                part.running_var.uniform_(0.1, 0.5)
    side = max(registered.stride, 32)
    path = folder / f"{name}.onnx"
    with quiet():
        export_graph(module, path, channels=task.input.channels, size=(side, side + registered.stride),
                     names=("image", "picture"), free=(0, 2, 3))  # fmt: skip
    return graph.read(path), registered.stride


NAMES = [*TEACHERS.names(), *STUDENTS.names()]
# one of each family; the others differ in their tables of channels, and writing them as ONNX takes its time
QUICK = {"colorizer_small", "csrnet", "lraspp_small", "membrane_small", "retouch_small"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_every_registered_network_is_lowered(network, name, tmp_path):
    model, stride = network_model(name, tmp_path)
    made = network.lower(model)
    assert made.dynamic
    assert (made.input, made.output) == ("image", "picture")
    for count, height, width in ((1, 32, 32), (2, 61, 87)):
        image = noise(count, made.sides[3], *(-(-side // stride) * stride for side in (height, width)))
        (wanted,) = reference(model, image)
        found = np.asarray(made.call(image.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 1e-4
    operations = [node.op for node in made.call.get_concrete_function().graph.as_graph_def().node]
    assert operations.count("Transpose") <= 8  # of vectors between pooled maps: the maps stay channels last


def small(nodes, *stored, opset=17, shape=(1, 3, 8, 8), output="y", functions=()):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * 4)
    arrays = [numpy_helper.from_array(array, name) for name, array in stored]
    whole = helper.make_graph(nodes, "small", [image], [made], arrays)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    model = helper.make_model(whole, opset_imports=opsets, functions=functions)
    model.ir_version = 8
    return model


def test_unknown_operators_are_named_all_at_once(network):
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="first det"),
        helper.make_node("Det", ["x"], ["b"], name="second det"),
        helper.make_node("Whirl", ["b"], ["y"], name="", domain="strange"),
    ]
    with pytest.raises(ArtifactError) as caught:
        network.lower(small(nodes))
    text = str(caught.value)
    assert "Det (first at 'first det')" in text
    assert "strange::Whirl (first at 'y')" in text
    assert "second det" not in text
    assert "ort-web" in text


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Resize", ["x", "", "two"], ["y"], name="up", antialias=1, mode="linear"), "is antialiased"),
        (helper.make_node("LRN", ["x"], ["y"], name="up", size=4), "odd number"),
        (helper.make_node("ArgMax", ["x"], ["y"], name="up", select_last_index=1), "last of equal"),
        (helper.make_node("Add", ["x", "three"], ["y"], name="up"), "can't be lowered"),
    ],
)  # fmt: skip
def test_what_tensorflow_lacks_is_refused_with_its_node(network, node, words):
    stored = [("two", np.asarray([1, 1, 0.5, 0.5], np.float32)), ("three", noise(1, 3, 5, 5))]
    with pytest.raises(ArtifactError, match=words) as caught:
        network.lower(small([node], *stored, opset=19))
    assert "'up'" in str(caught.value)


def test_a_network_whose_output_is_no_picture_is_refused(network):
    with pytest.raises(ArtifactError, match="2 sides"):
        network.lower(small([helper.make_node("Flatten", ["x"], ["y"])]))


def test_functions_of_a_model_are_inlined(network, tmp_path):
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    function = helper.make_function("own", "Turned", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    model = small([helper.make_node("Turned", ["x"], ["y"], domain="own")], functions=[function])
    onnx.save(model, tmp_path / "f.onnx")
    image = noise(1, 3, 8, 8)
    found = np.asarray(network.lower(graph.read(tmp_path / "f.onnx")).call(image.transpose(0, 2, 3, 1)))
    np.testing.assert_array_equal(found.transpose(0, 3, 1, 2), -np.maximum(image, 0))


def test_half_precision_weights_are_computed_in_float32(network):
    weight = noise(4, 3, 3, 3).astype(np.float16)
    nodes = [helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
             helper.make_node("Conv", ["x", "wide"], ["y"], pads=[1, 1, 1, 1])]  # fmt: skip
    model, image = small(nodes, ("w", weight)), noise(1, 3, 8, 8)
    found = np.asarray(network.lower(model).call(image.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, reference(model, image)[0], atol=1e-5)


def test_a_size_is_fixed_where_asked_and_refused_where_it_clashes(network):
    node = [helper.make_node("Relu", ["x"], ["y"])]
    assert network.lower(small(node, shape=(None, 3, None, None)), size=(24, 40)).sides == (None, 24, 40, 3)
    assert network.lower(small(node)).sides == (1, 8, 8, 3)
    with pytest.raises(ArtifactError, match="8x8 only, 9x9"):
        network.lower(small(node), size=(9, 9))


@pytest.mark.parametrize(
    ("name", "plain"), [("input.1", "input_1"), ("1959", "t1959"), ("image", "image"), ("/a/b", "t_a_b")]
)
def test_names_become_plain(network, name, plain):
    assert network.plain_name(name) == plain
    assert re.fullmatch(r"[A-Za-z]\w*", plain)


def test_the_first_node_that_differs_is_named(network, monkeypatch):
    from compress.kit.lower.differ import first_difference

    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("Tanh", ["a"], ["b"], name="wrong"),
        helper.make_node("Neg", ["b"], ["y"], name="after"),
    ]
    model, image = small(nodes), noise(1, 3, 8, 8)
    assert "agrees with ONNX Runtime at every node" in first_difference(model, image, 1e-4)
    monkeypatch.setitem(OPERATORS, "Tanh", lambda node: Value(node.value(0).data * 0.9, node.value(0).last))
    assert first_difference(model, image, 1e-4) == "the lowering first differs at Tanh node 'wrong'"


def test_quantized_graphs_are_told_apart():
    stored = (("s", np.float32(0.1)), ("z", np.uint8(0)))
    quantized = small([helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                       helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])], *stored)  # fmt: skip
    assert graph.is_quantized(quantized)
    assert not graph.is_quantized(small([helper.make_node("Relu", ["x"], ["y"])]))
