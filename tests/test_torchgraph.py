"""ONNX graphs run by torch: every operator and every network against ONNX Runtime; gradients; parts of a graph."""

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lowering_cases import CASES
from onnx import TensorProto, helper, numpy_helper
from tiny_store import season

from compress.core.errors import UsageError
from compress.core.networks import STUDENTS, TEACHERS, find_network
from compress.kit.quant.torchgraph import TorchGraph
from compress.kit.quant.torchops import OPERATORS
from compress.kit.ship.runtime import Shipped, export_graph
from compress.tasks import TASKS

NAMES = [*TEACHERS.names(), *STUDENTS.names()]
# a plain one and a generator; writing the others as ONNX takes its time
QUICK = {"csrnet", "retouch_small"}


def reference(model, image):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def chain(*nodes, stored=(), inputs=("x",)):
    """A graph of float maps (N, 2, H, W) from "x" to "y"."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2, None, None]) for name in inputs]
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored]
    model = helper.make_model(helper.make_graph([helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {}))
                                                 for node in nodes], "chain", given, [made], arrays),
                              opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("own", 1)])  # fmt: skip
    model.ir_version = 9
    return model


def two_convolutions():
    weights = [("w1", noise(3, 2, 3, 3)), ("b1", noise(3)), ("w2", noise(2, 3, 1, 1, seed=1))]
    return chain(
        ("Conv", ["x", "w1", "b1"], ["a"], {"pads": [1] * 4}), ("Relu", ["a"], ["b"]), ("Conv", ["b", "w2"], ["y"]),
        stored=weights,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.name}".strip())
def test_an_operator_computes_what_onnx_runtime_does(case):
    image = noise(2, 6, 7, 9)
    model = case.model([2, 6, 7, 9])
    graph = TorchGraph(model)
    with torch.no_grad():
        found = graph.run({graph.input: torch.from_numpy(image)}, graph.outputs)
    for name, wanted in zip(graph.outputs, reference(model, image), strict=True):
        assert tuple(found[name].shape) == wanted.shape
        np.testing.assert_allclose(found[name].double().numpy(), wanted.astype(np.float64), rtol=1e-4, atol=2e-5)


def test_the_table_of_cases_covers_every_operator():
    assert set(OPERATORS) - {case.kind for case in CASES} <= {"Constant"}


@cache
def exported(name, folder):
    torch.manual_seed(0)
    network = find_network(name)
    task = TASKS.get(network.task)
    module = network.build(width=8).eval()
    season(module)
    side = -(-32 // network.stride) * network.stride
    path = folder / f"{name}.onnx"
    export_graph(Shipped(module, task.activate), path, channels=task.input.channels, names=("image", "picture"),
                 size=(side, side + network.stride), free=(0, 2, 3))  # fmt: skip
    return onnx.load(path), network.stride, task.input.channels


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_registered_network_runs_at_two_sizes_and_every_weight_gets_a_gradient(name, tmp_path):
    model, stride, channels = exported(name, tmp_path)
    graph = TorchGraph(model)
    for count, height, width in ((1, 32, 32), (2, 61, 87)):
        image = noise(count, channels, -(-height // stride) * stride, -(-width // stride) * stride)
        found = graph(torch.from_numpy(image))
        (wanted,) = reference(model, image)
        assert found.shape == wanted.shape
        assert np.abs(found.detach().numpy() - wanted).max() <= 1e-4
    found.square().mean().backward()
    for weight in graph.parameters():
        assert torch.isfinite(weight.grad).all()


def test_the_gradient_of_a_weight_is_the_slope_of_the_output():
    graph = TorchGraph(two_convolutions()).double()
    image = torch.from_numpy(noise(1, 2, 5, 4)).double()
    graph(image).square().sum().backward()
    weight = graph.named_weights()["w1"]
    with torch.no_grad():
        values = []
        for step in (1e-6, -2e-6):
            weight[1, 0, 2, 1] += step
            values.append(graph(image).square().sum())
    assert weight.grad[1, 0, 2, 1] == pytest.approx(float(values[0] - values[1]) / 2e-6, rel=1e-5)


def test_a_run_starts_at_known_maps_and_stops_at_wanted_ones():
    graph, seen = TorchGraph(two_convolutions()), []
    image = torch.from_numpy(noise(1, 2, 5, 4))

    def read(node, inputs):
        seen.append(node.op_type)
        return inputs

    inner = graph.run({"x": image}, ["b"], read=read)["b"]
    assert seen == ["Conv", "Relu"]
    seen.clear()
    assert torch.equal(graph.run({"b": inner}, ["y"], read=read)["y"], graph(image))
    assert seen == ["Conv"]
    assert set(graph.run({"x": image}, ["a", "y"])) == {"a", "y"}
    with pytest.raises(UsageError, match="can't compute b from a2"):
        graph.run({"a2": inner}, ["b"])


def test_what_is_read_and_written_can_be_changed_on_the_way():
    graph = TorchGraph(two_convolutions())
    image = torch.from_numpy(noise(1, 2, 5, 4))
    zeroed = graph.run({"x": image}, ["y"], wrote=lambda name, value: value * 0 if name == "b" else value)["y"]
    assert not zeroed.any()
    doubled = graph.run({"x": image}, ["y"], read=lambda node, inputs: [inputs[0], *(2 * each for each in inputs[1:])])
    torch.testing.assert_close(doubled["y"], 4 * graph(image))


def test_changed_weights_are_written_back_under_their_names_and_the_source_stays():
    model = two_convolutions()
    before = model.SerializeToString()
    graph = TorchGraph(model)
    with torch.no_grad():
        graph.named_weights()["w2"].mul_(-3)
    written = graph.write_back()
    assert model.SerializeToString() == before
    assert [tensor.name for tensor in written.graph.initializer] == ["w1", "b1", "w2"]
    image = noise(1, 2, 5, 4)
    np.testing.assert_allclose(reference(written, image)[0], -3 * reference(model, image)[0], rtol=1e-5, atol=1e-5)
    assert TorchGraph(two_convolutions()).write_back().SerializeToString() == before


def test_a_vector_that_several_norms_share_is_a_constant():
    shared = [("one", np.ones(2, np.float32)), ("zero", np.zeros(2, np.float32)), ("own", noise(2))]
    model = chain(
        ("InstanceNormalization", ["x", "one", "zero"], ["a"]),
        ("InstanceNormalization", ["a", "one", "own"], ["y"]),
        stored=shared,
    )
    assert set(TorchGraph(model).named_weights()) == {"zero", "own"}


def test_only_maps_that_somebody_still_reads_are_kept():
    graph = TorchGraph(two_convolutions())
    (first, second, third) = graph._schedule(frozenset(["x"]), ("y",))
    assert [step.spent for step in (first, second, third)] == [("x", "w1", "b1"), ("a",), ("b", "w2")]


def test_unknown_operators_are_named_all_at_once():
    model = chain(("Det", ["x"], ["d"], {"name": "first det"}), ("Mystery", ["d"], ["y"], {"domain": "own"}))
    with pytest.raises(UsageError, match=r"Det \(first at 'first det'\), own::Mystery.*compress quantize"):
        TorchGraph(model)


def test_a_graph_of_two_pictures_is_refused():
    with pytest.raises(UsageError, match="wants inputs x, z"):
        TorchGraph(chain(("Add", ["x", "z"], ["y"]), inputs=("x", "z")))


def test_a_picture_that_does_not_fit_names_the_node():
    model = chain(("Add", ["x", "row"], ["y"], {"name": "sum"}), stored=[("row", noise(7))])
    with pytest.raises(UsageError, match=r"Add node 'sum' can't be run on \(1, 2, 4, 4\), \(7,\)"):
        TorchGraph(model)(torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(("node", "why"), [
    (("Resize", ["x", "", "s"], ["y"], {"mode": "linear", "antialias": 1}), "antialiased"),
    (("AveragePool", ["x"], ["y"], {"kernel_shape": [2, 2], "dilations": [2, 2]}), "dilated"),
    (("MaxPool", ["x"], ["y", "places"], {"kernel_shape": [2, 2]}), "places of its maxima"),
])  # fmt: skip
def test_what_torch_does_not_compute_alike_is_refused(node, why):
    model = chain(node, stored=[("s", np.asarray([1, 1, 2, 2], np.float32))])
    with pytest.raises(UsageError, match=why):
        TorchGraph(model)(torch.zeros(1, 2, 6, 6))
