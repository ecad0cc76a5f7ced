"""Skip marks for tests that need a browser, and models small enough to be written by hand."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.browser.options import BrowserOptions
from benchmarks.browser.session import Session
from compress.core.errors import MissingExtraError
from compress.core.web import find_browser, find_node, vendored

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
BIAS = np.random.default_rng(1).normal(size=4).astype(np.float32)


def _missing(kind: str) -> str:
    try:
        find_browser(kind)
        find_node()
        vendored("puppeteer-core")
    except MissingExtraError as error:
        return str(error)
    return ""


def _needs(kind: str) -> pytest.MarkDecorator:
    missing = _missing(kind)
    return pytest.mark.skipif(bool(missing), reason=missing)


needs_chromium = _needs("chromium")
needs_firefox = _needs("firefox")
needs_screen = pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no Xvfb: Firefox has WebGL only in a window")


def _tensor(value: np.ndarray) -> dict:
    dims = {"dim": [{"size": str(size)} for size in value.shape]}
    kind = {"float32": "DT_FLOAT", "int32": "DT_INT32"}[str(value.dtype)]
    return {"tensor": {"dtype": kind, "tensorShape": dims if value.shape else {}}}


def write_tfjs(folder: Path, nodes: list[dict], weights: dict[str, np.ndarray], channels: int = 3) -> Path:
    """A TF.js graph model from "x" (N, H, W, channels) to "y", as its format is documented, without TensorFlow."""
    sizes = [{"size": str(size)} for size in (-1, -1, -1, channels)]
    given = {"shape": {"shape": {"dim": sizes}}, "dtype": {"type": "DT_FLOAT"}}
    kinds = {name: {"float32": "DT_FLOAT", "int32": "DT_INT32"}[str(value.dtype)] for name, value in weights.items()}
    constants = [
        {"name": name, "op": "Const", "attr": {"value": _tensor(value), "dtype": {"type": kinds[name]}}}
        for name, value in weights.items()
    ]
    graph = [{"name": "x", "op": "Placeholder", "attr": given}, *constants, *nodes]
    signature = {
        "inputs": {"x": {"name": "x:0", "dtype": "DT_FLOAT", "tensorShape": {"dim": sizes}}},
        "outputs": {"y": {"name": "y:0", "dtype": "DT_FLOAT"}},
    }
    specs = [{"name": name, "shape": list(value.shape), "dtype": str(value.dtype)} for name, value in weights.items()]
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "format": "graph-model",
        "modelTopology": {"node": graph, "library": {}, "versions": {"producer": 1}},
        "signature": signature,
        "weightsManifest": [{"paths": ["group1-shard1of1.bin"], "weights": specs}],
    }
    (folder / "model.json").write_text(json.dumps(document))
    (folder / "group1-shard1of1.bin").write_bytes(b"".join(value.tobytes() for value in weights.values()))
    return folder


def tfjs_identity(folder: Path, channels: int = 3) -> Path:
    """A model that gives back what it is given."""
    node = {"name": "y", "op": "Identity", "input": ["x"], "attr": {"T": {"type": "DT_FLOAT"}}}
    return write_tfjs(folder, [node], {}, channels)


def tfjs_convolution(folder: Path, kernel: np.ndarray, bias: np.ndarray) -> Path:
    """Convolution, bias, ReLU. kernel: (height, width, channels in, channels out), its borders filled with zeros."""
    kind = {"T": {"type": "DT_FLOAT"}}
    attributes = {
        **kind,
        "strides": {"list": {"i": ["1", "1", "1", "1"]}},
        "dilations": {"list": {"i": ["1", "1", "1", "1"]}},
        "padding": {"s": "U0FNRQ=="},  # SAME
        "dataFormat": {"s": "TkhXQw=="},  # NHWC
        "data_format": {"s": "TkhXQw=="},
    }
    nodes = [
        {"name": "conv", "op": "Conv2D", "input": ["x", "kernel"], "attr": attributes},
        {"name": "sum", "op": "AddV2", "input": ["conv", "bias"], "attr": kind},
        {"name": "y", "op": "Relu", "input": ["sum"], "attr": kind},
    ]
    return write_tfjs(folder, nodes, {"kernel": kernel, "bias": bias}, kernel.shape[2])


def onnx_convolution(path: Path, kernel: np.ndarray, bias: np.ndarray) -> Path:
    """The same convolution as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rows, columns, inputs, outputs = kernel.shape
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["sum"], pads=[rows // 2, columns // 2] * 2),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), "kernel"),
        numpy_helper.from_array(bias, "bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, "h", "w"])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def make_models(folder: Path) -> dict[str, Path]:
    """The convolution for each runtime, and a model that does nothing."""
    return {
        "tfjs": tfjs_convolution(folder / "convolution", KERNEL, BIAS),
        "ort-web": onnx_convolution(folder / "convolution.onnx", KERNEL, BIAS),
        "identity": tfjs_identity(folder / "identity"),
    }


def start(model, browser="chromium", runtime="tfjs", backend="wasm", patience=60.0, **settings):
    options = BrowserOptions(browser=browser, patience=patience)
    return Session(model, runtime=runtime, backend=backend, options=options, **settings)


def answers(host):
    with socket.socket() as probe:
        name, port = host.split(":")
        return probe.connect_ex((name, int(port))) == 0


class Watch:
    """What a session has on this machine, and whether all of it is gone."""

    def __init__(self, session):
        self.host, self.folder = session._server.host, session._driver.folder
        node = psutil.Process(session._driver._node.pid)
        self.processes = [node, *node.children(recursive=True)]
        assert len(self.processes) > 3 and self.folder.is_dir() and answers(self.host)

    def assert_nothing_left(self):
        psutil.wait_procs(self.processes, timeout=5)
        assert [found for found in self.processes if found.is_running() and found.status() != "zombie"] == []
        assert not self.folder.exists() and not answers(self.host)


def assert_no_driver():
    children = psutil.Process().children(recursive=True)
    assert [each for each in children if "main.mjs" in " ".join(each.cmdline())] == []
