"""TF.js graph models: written small and the same every time, stored in fewer bits, run in Python from their files."""

import importlib.util
import json

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.core.errors import ArtifactError, UsageError
from compress.formats.litert import LiteRT, open_litert
from compress.formats.saved_model import SavedModel, open_saved_model
from compress.formats.tfjs import Tfjs, open_tfjs
from compress.kit.lower import graphmodel

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorflowjs") is None, reason="the extra web is not here")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network():
    """A little image network with every kind of layer that TF.js fuses, channels of very different weights."""
    unlike = np.geomspace(0.01, 3, 8).astype(np.float32)[:, None, None, None]
    weights = {
        "w1": noise(8, 3, 3, 3, seed=1) * unlike, "b1": noise(8, seed=2),
        "w2": noise(8, 1, 3, 3, seed=3) * unlike, "b2": noise(8, seed=4),
        "w3": noise(8, 8, 3, 3, seed=5) / 6, "slope": noise(8, 1, 1, seed=6),
        "w4": noise(8, 6, 4, 4, seed=7) / 9, "b4": noise(6, seed=8), "w5": noise(1, 6, 1, 1, seed=9) / 9,
        "sizes": np.asarray([0, 0, 0, 0, 0, 0, 1, 1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["a"], ["a1"], alpha=0.2),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["b"], pads=[1, 1, 1, 1], group=8, strides=[2, 2]),
        helper.make_node("Clip", ["b", "zero", "six"], ["b1x"]),
        helper.make_node("Conv", ["b1x", "w3"], ["c"], pads=[2, 2, 2, 2], dilations=[2, 2]),
        helper.make_node("PRelu", ["c", "slope"], ["c1"]),
        helper.make_node("ConvTranspose", ["c1", "w4", "b4"], ["d"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Pad", ["d", "sizes"], ["p"], mode="reflect"),
        helper.make_node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2], strides=[1, 1]),
        helper.make_node("Conv", ["m", "w5"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["mask.1"]),
    ]
    weights |= {"zero": np.float32(0), "six": np.float32(6)}
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    made = helper.make_tensor_value_info("mask.1", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", [image], [made], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The network as SavedModel and as a float32 graph model, and what ONNX Runtime makes of two images."""
    from compress.kit.lower.network import lower

    folder, model = tmp_path_factory.mktemp("made"), network()
    lowered = lower(model)
    SavedModel().write(lowered, folder / "saved")
    Tfjs().write(folder / "saved", folder / "tfjs", input=lowered.input, output=lowered.output)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = [noise(1, 3, 24, 32), noise(2, 3, 40, 26, seed=5)]
    return folder, images, [session.run(None, {"x": image})[0] for image in images]


def apart(runner, made):
    _, images, wanted = made
    return max(float(np.abs(runner(image) - picture).max()) for image, picture in zip(images, wanted, strict=True))


def test_saved_model_and_files_do_what_onnx_runtime_does(made):
    folder = made[0]
    assert apart(open_saved_model(folder / "saved"), made) <= 1e-5
    assert apart(open_tfjs(folder / "tfjs"), made) <= 1e-5


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_litert_does_what_onnx_runtime_does_at_any_size(made, tmp_path, weights):
    LiteRT().write(made[0] / "saved", tmp_path / "a.tflite", weights=weights)
    assert apart(open_litert(tmp_path / "a.tflite"), made) <= (1e-4 if weights == "float32" else 5e-3)


def test_the_graph_has_one_named_input_and_output_and_no_folder(made):
    found = json.loads((made[0] / "tfjs" / "model.json").read_text())
    signature = found["signature"]
    assert {side: {name: port["name"] for name, port in ports.items()} for side, ports in signature.items()} == {
        "inputs": {"x": "x:0"},
        "outputs": {"mask_1": "mask_1:0"},
    }
    assert [dim["size"] for dim in signature["inputs"]["x"]["tensorShape"]["dim"]] == ["-1", "-1", "-1", "3"]
    assert all(len(node["name"]) <= 6 for node in found["modelTopology"]["node"])
    assert str(made[0]) not in json.dumps(found)
    kinds = {node["op"] for node in found["modelTopology"]["node"]}
    assert {"_FusedConv2D", "FusedDepthwiseConv2dNative", "DepthToSpace", "MirrorPad"} <= kinds
    assert not kinds & {"Conv2DBackpropInput", "Transpose", "SpaceToBatchND", "BatchToSpaceND"}


def test_two_conversions_give_the_same_bytes(made, tmp_path):
    Tfjs().write(made[0] / "saved", tmp_path, input="x", output="mask_1")
    for path in (made[0] / "tfjs").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_weights_are_read_as_the_reference_reader_reads_them(made, tmp_path):
    from tensorflowjs.read_weights import read_weights

    Tfjs().store_as(made[0] / "tfjs", tmp_path, weights="uint8")
    manifest = json.loads((tmp_path / "model.json").read_text())["weightsManifest"]
    theirs = {entry["name"]: entry["data"] for entry in read_weights(manifest, str(tmp_path), flatten=True)}
    ours = graphmodel.read(tmp_path).weights
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-6)


def filters(folder):
    """The filters as the convolutions see them: what a product follows is multiplied."""
    model = graphmodel.read(folder)
    found = {name: value for name, value in model.weights.items() if value.ndim >= 2 and not name.endswith("s")}
    return {name: value * model.weights.get(f"{name}s", np.float32(1)) for name, value in found.items()}


@pytest.mark.parametrize(("weights", "share"), [("float16", 0.5), ("uint16", 0.5), ("uint8", 0.25)])
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_fewer_bits_shrink_the_filters_and_nothing_else(made, tmp_path, weights, share, per):
    Tfjs().store_as(made[0] / "tfjs", tmp_path, weights=weights, per=per)
    whole = graphmodel.read(made[0] / "tfjs").weights
    big = sum(value.nbytes for value in whole.values() if value.dtype == np.float32 and value.ndim >= 2)
    bits = {path: sum(file.stat().st_size for file in path.glob("*.bin")) for path in (tmp_path, made[0] / "tfjs")}
    scales = sum(value.nbytes for name, value in graphmodel.read(tmp_path).weights.items() if name.endswith("s"))
    assert bits[tmp_path] - scales == bits[made[0] / "tfjs"] - big * (1 - share)
    assert (scales > 0) == (per == "channel" and weights != "float16")
    assert apart(open_tfjs(tmp_path), made) <= (0.2 if weights == "uint8" else 5e-3)


@pytest.mark.parametrize("weights", ["uint16", "uint8"])
def test_a_range_for_each_channel_is_never_further_off(made, tmp_path, weights):
    whole = filters(made[0] / "tfjs")
    error = {}
    for per in ("tensor", "channel"):
        Tfjs().store_as(made[0] / "tfjs", tmp_path / per, weights=weights, per=per)
        found = filters(tmp_path / per)
        error[per] = {name: float(np.square(found[name] - value).mean()) for name, value in whole.items()}
    assert all(error["channel"][name] <= error["tensor"][name] * 1.001 for name in whole)
    assert sum(error["channel"].values()) < 0.5 * sum(error["tensor"].values())


def test_damage_is_one_line(made, tmp_path):
    with pytest.raises(ArtifactError, match=r"no TF\.js graph model"):
        open_tfjs(tmp_path)
    Tfjs().store_as(made[0] / "tfjs", tmp_path, weights="float32")
    shard = next(tmp_path.glob("*.bin"))
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"no TF\.js graph model"):
        open_tfjs(tmp_path)
    with pytest.raises(ArtifactError, match="can't read"):
        open_saved_model(tmp_path)


def test_an_image_of_other_channels_is_a_usage_error(made):
    with pytest.raises(UsageError, match="does not take an image of shape"):
        open_tfjs(made[0] / "tfjs")(noise(1, 4, 8, 8))


def test_what_tfjs_lacks_is_named(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.run = tf.function(lambda x: {"y": tf.raw_ops.Betainc(a=x, b=x, x=x)},
                             input_signature=[tf.TensorSpec((1, 4, 4, 1), tf.float32, name="x")])  # fmt: skip
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serving_default": module.run})
    with pytest.raises(ArtifactError, match="Betainc"):
        Tfjs().write(tmp_path / "saved", tmp_path / "tfjs", input="x", output="y")
