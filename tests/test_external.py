"""ONNX files that mean harm or are damaged: refused in one line, and nothing outside their folder is read."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_nets import build, floats, node, qdq, size_of, small, stored

from compress import cli
from compress.core.errors import ArtifactError, CompressError
from compress.core.launch import launch
from compress.core.store import Store
from compress.jobs.inspect_model import find
from compress.kit.ship.anatomy import dissect
from compress.kit.ship.arithmetic import heavy, with_fused
from compress.kit.ship.external import check_external, external_files
from compress.kit.ship.halves import half_weights
from compress.kit.ship.loading import load
from compress.kit.ship.redundant import redundancies
from compress.kit.ship.runtime import read_onnx


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


# --- files that mean harm


def externally(path, location, *, dims=(4, 3, 3, 3), **entries):
    """A file whose one weight is elsewhere."""
    model = build([node("Conv", "x w", "out")])
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(tensor)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


WEIGHT_BYTES = 4 * 108


def test_weights_beside_the_file_are_read_and_weighed(tmp_path):
    values = floats(4, 3, 3, 3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"head" + values.tobytes())
    path = externally(tmp_path / "net.onnx", "data/w.bin", offset=4, length=WEIGHT_BYTES)
    model = read_onnx(path)
    assert np.array_equal(numpy_helper.to_array(model.graph.initializer[0]), values)
    assert external_files(path) == {"data/w.bin": WEIGHT_BYTES + 4}
    anatomy = dissect(model, path.stat().st_size, external_files(path))
    assert anatomy.file_bytes == path.stat().st_size + WEIGHT_BYTES + 4
    assert anatomy.bytes_by("role")["weights"] == WEIGHT_BYTES
    assert load(model).error == ""


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "in/../../secret.bin", "{outside}", "link.bin", "folder/secret.bin", "..\\secret.bin",
     "C:\\secret.bin", "", "a\0b", "loop.bin", "x" * 5000],
)  # fmt: skip
def test_nothing_outside_the_file_s_folder_is_ever_read(tmp_path, location, monkeypatch):
    outside = tmp_path / "secret.bin"
    outside.write_bytes(bytes(WEIGHT_BYTES))
    home = tmp_path / "home"
    path = externally(home / "net.onnx", location.format(outside=outside), length=WEIGHT_BYTES)
    (home / "in").mkdir()
    (home / "link.bin").symlink_to(outside)
    (home / "folder").symlink_to(tmp_path)
    (home / "loop.bin").symlink_to("loop.bin")
    monkeypatch.setattr("compress.kit.ship.runtime.load_external_data_for_model", pytest.fail)
    for read in (check_external, external_files, read_onnx):
        with pytest.raises(ArtifactError):
            read(path)
    with pytest.raises(ArtifactError):
        find(Store(tmp_path / "store"), str(path), "saliency")


@pytest.mark.parametrize(
    ("entries", "dims", "words"),
    [({}, (4, 3, 3, 3), "no such file"),
     ({"location": "short.bin"}, (4, 3, 3, 3), "wants 432"),
     ({"location": "short.bin", "length": WEIGHT_BYTES}, (4, 3, 3, 3), "that file has 100"),
     ({"location": "short.bin", "offset": -8, "length": 100}, (25,), "bytes -8"),
     ({"location": "short.bin", "offset": "half"}, (25,), "no number"),
     ({"location": "short.bin", "length": 10**15}, (10**8, 10**7), "that file has 100"),
     ({"location": "short.bin"}, (-1, 25), "wants -1"),
     ({"location": "pipe"}, (25,), "no such file")],
)  # fmt: skip
def test_external_data_that_is_not_what_it_should_be_is_refused(tmp_path, entries, dims, words):
    (tmp_path / "short.bin").write_bytes(bytes(100))
    os.mkfifo(tmp_path / "pipe")
    path = externally(tmp_path / "net.onnx", **({"location": "gone.bin"} | entries), dims=dims)
    with pytest.raises(ArtifactError, match=words):
        read_onnx(path)


@pytest.mark.parametrize("where", ["initialiser", "attribute", "inner graph", "sparse"])
def test_external_data_is_found_wherever_a_tensor_can_be(tmp_path, where):
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    model = build([node("Relu", "x", "out")])
    if where == "initialiser":
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    elif where == "inner graph":
        inner = helper.make_graph([node("Neg", "x", "n")], "g", [], [], [tensor])
        model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner))
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="hostname"):
        check_external(path)


@pytest.mark.parametrize("change", ["raw", "list"])
def test_a_tensor_with_fewer_numbers_than_its_shape_says_is_refused(tmp_path, change):
    model = build([node("Conv", "x w", "out")])
    tensor = stored(w=floats(4, 3, 3, 3))[0] if change == "raw" else helper.make_tensor("w", 1, [108], floats(108))
    del tensor.dims[:]
    tensor.dims.extend([4, 3, 3, 4])
    model.graph.initializer.append(tensor)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"tensor 'w' of shape \[4, 3, 3, 4\]"):
        read_onnx(path)


def taken_apart(model, size):
    """Everything that looks at a graph without running it on pictures."""
    dissect(model, size)
    redundancies(model)
    half_weights(model)
    with_fused(heavy(model, (8, 8)), load(model))


_CHANGE = st.tuples(
    st.sampled_from(["set", "drop", "add", "flip"]), st.integers(0, 4000), st.binary(min_size=1, max_size=9)
)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_CHANGE, min_size=1, max_size=12))
def test_damaged_files_are_refused_or_taken_apart_and_never_crash(tmp_path, changes):
    data = bytearray(_BYTES)
    for kind, place, given_bytes in changes:
        where = place % len(data)
        if kind == "set":
            data[where : where + len(given_bytes)] = given_bytes
        elif kind == "drop":
            del data[where : where + len(given_bytes)]
        elif kind == "add":
            data[where:where] = given_bytes
        else:
            data[where] ^= 1 << given_bytes[0] % 8
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    try:
        model = read_onnx(path)
    except CompressError:
        return
    taken_apart(model, len(data))


_BYTES = qdq().SerializeToString()


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"not a network", b"\xff" * 64, _BYTES[:-1], _BYTES[: len(_BYTES) // 2]]
)
def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path, data, capsys):
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    assert run("inspect", path) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_a_graph_that_reads_its_own_result_is_taken_apart():
    tensors = stored(w=small(4, 4))
    nodes = [node("Cast", "w", "a", to=TensorProto.FLOAT), node("Identity", "c", "b"), node("Identity", "b", "c"),
             node("Relu", "b", "out"), node("Relu", "out", "out")]  # fmt: skip
    model = build(nodes, tensors)
    taken_apart(model, size_of(model))
