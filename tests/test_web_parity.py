"""Every teacher and student, small and with random weights, on every browser runtime against torch on photos.

TensorFlow takes some fifteen seconds an export and every pair gets a browser of its own, so the whole matrix is slow;
`make test` runs one student through the two runtimes that are used most. Networks that the cap on their width makes
one and the same are exported and run once.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from browsers import needs_chromium, needs_firefox, start, write_tfjs
from tiny_store import publish, record

from compress.core.networks import STUDENTS, TEACHERS, find_network, kind_of
from compress.core.store import Store
from compress.jobs.export import as_tfjs, read_record
from compress.jobs.models import as_onnx
from compress.kit.images import prepare
from compress.kit.infer import at_size
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

NAMES = [*TEACHERS.names(), *STUDENTS.names()]
WIDTH = 8
SIDE = 64
OTHER = (37, 90)  # odd sides: pooling that rounds up, and maps that are brought to the size of another
PATIENCE = 300.0  # seconds; a rasteriser compiles shaders for minutes on a busy machine

needs_tensorflow = pytest.mark.skipif(find_spec("tensorflowjs") is None, reason="needs the extra 'web'")


@dataclass(frozen=True)
class Route:
    """A way through a browser, and how far off it may be.

    limit: largest difference of any value of a picture. share: the same over the spread of the picture's values, for
    networks that were never trained draw paler pictures than real ones, and a limit alone would forgive them much.
    """

    runtime: str
    backend: str
    browser: str = "chromium"
    half: bool = False
    limit: float = 1e-3
    share: float = 2e-3


# ten bits of mantissa through dozens of layers that nobody trained: a wrong kernel is off by the whole spread or more
HALF = {"half": True, "limit": 1.5e-2, "share": 0.5}
ROUTES = {
    "wasm": Route("tfjs", "wasm"),
    "webgl": Route("tfjs", "webgl"),
    "webgpu": Route("tfjs", "webgpu"),
    "cpu": Route("tfjs", "cpu"),
    "webgl-f16": Route("tfjs", "webgl", **HALF),
    "ort-wasm": Route("ort-web", "wasm"),
    "wasm-firefox": Route("tfjs", "wasm", browser="firefox"),
}
QUICK = [("lraspp_small", "wasm"), ("lraspp_small", "webgl")]


def pairs():
    for name in NAMES:
        for way, route in ROUTES.items():
            browser = needs_chromium if route.browser == "chromium" else needs_firefox
            slow = [] if (name, way) in QUICK else [pytest.mark.slow]
            yield pytest.param(name, way, marks=[needs_tensorflow, browser, *slow], id=f"{name}-{way}")


@dataclass(frozen=True)
class Exported:
    """A network's files, images (1, C, H, W), and the pictures torch makes of them."""

    tfjs: Path
    onnx: Path
    images: list[np.ndarray]
    pictures: list[np.ndarray]


def photo(task, index, height, width):
    spec = replace(task.input, height=height, width=width)
    return prepare(task.open(["builtin"], "test").original(index)["image"], spec)[None]


@cache
def small(name):
    """A network whose norms have seen photos, as after training: without, activations fade or overflow."""
    network = find_network(name)
    task = TASKS.get(network.task)
    torch.manual_seed(0)
    module = network.build(width=WIDTH)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.from_numpy(np.concatenate([photo(task, index, SIDE, SIDE) for index in range(2)])))
    return module.eval()


@cache
def first_alike(name):
    """The first network of the same task, classes, weights and answer."""
    return next(other for other in NAMES if fingerprint(other) == fingerprint(name))


@cache
def fingerprint(name):
    module, task = small(name), TASKS.get(find_network(name).task)
    with torch.no_grad():
        answer = module(torch.from_numpy(photo(task, 2, *OTHER)))[0].numpy()
    classes = [(path, type(part).__module__, type(part).__name__) for path, part in module.named_modules()]
    found = hashlib.sha256(repr((task.name, classes, module)).encode())
    for array in (*(value.numpy() for value in module.state_dict().values()), answer):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def export(name, folder):
    task, module, store = TASKS.get(find_network(name).task), small(name), Store(folder)
    spec = at_size(task.input, SIDE, SIDE)
    described = dict(
        kind=kind_of(name), task=task.name, network=name, network_options={"width": WIDTH},
        input=spec, output=replace(task.output, height=SIDE, width=SIDE),
    )  # fmt: skip
    artifact = publish(store, record(name, **described), module)
    tfjs = as_tfjs(store, artifact)
    taken, given, made = read_record(tfjs)
    assert made["dynamic"] and taken.dynamic and given.dynamic, made["why_fixed"]
    images = [photo(task, 0, SIDE, SIDE), photo(task, 1, SIDE, SIDE), photo(task, 2, *OTHER)]
    shipped = Shipped(module, task.activate)
    with torch.no_grad():
        pictures = [shipped(torch.from_numpy(image)).numpy() for image in images]
    # agreement on flat pictures, or on one that does not follow the photo, would say nothing
    assert min(spread(picture) for picture in pictures) > 1e-3
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-2
    return Exported(tfjs, as_onnx(store, artifact), images, pictures)


def spread(picture):
    """Standard deviation over the pixels of a channel, mean over the channels."""
    return float(picture.std((2, 3)).mean())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Each network exported when it is first asked for; one that can't be is tried once."""
    return once(lambda name: export(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def shown(exported):
    """The pictures of a network on a route."""

    def run(name, way):
        model, route = exported(name), ROUTES[way]
        file = model.onnx if route.runtime == "ort-web" else model.tfjs
        session = start(file, route.browser, route.runtime, route.backend, PATIENCE, half=route.half)
        try:
            assert (session.describe["backend"], session.describe["half"]) == (route.backend, route.half)
            return [session(image) for image in model.images]
        finally:
            session.close()

    return once(run)


def once(make):
    """Call ``make`` once for the same arguments, also where it fails."""
    known = {}

    def get(*arguments):
        if arguments not in known:
            try:
                known[arguments] = make(*arguments), None
            except Exception as error:
                known[arguments] = None, error
        made, failed = known[arguments]
        if failed:
            raise failed
        return made

    return get


@pytest.mark.parametrize(("name", "way"), pairs())
def test_a_network_draws_in_the_browser_what_it_draws_in_torch(name, way, exported, shown):
    network, route = first_alike(name), ROUTES[way]
    for ours, theirs in zip(shown(network, way), exported(network).pictures, strict=True):
        assert ours.shape == theirs.shape
        off = float(np.abs(ours - theirs).max())
        assert off <= route.limit
        assert off <= route.share * spread(theirs)


@needs_chromium
def test_a_number_that_went_to_the_card_still_serves_as_an_axis(tmp_path):
    # TF.js' WebGPU forgets what it uploads and reads it back through a canvas, where a rasteriser gives zeros
    whole = {"T": {"type": "DT_INT32"}}
    cast = {"SrcT": {"type": "DT_INT32"}, "DstT": {"type": "DT_FLOAT"}}
    nodes = [
        {"name": "rest", "op": "FloorMod", "input": ["nine", "two"], "attr": whole},  # of what no processor computes
        {"name": "float", "op": "Cast", "input": ["rest"], "attr": cast},
        {"name": "sum", "op": "AddV2", "input": ["x", "float"], "attr": {"T": {"type": "DT_FLOAT"}}},
        {"name": "y", "op": "GatherV2", "input": ["sum", "columns", "two"], "attr": {"batch_dims": {"i": "0"}}},
    ]
    numbers = {"nine": np.asarray(9, np.int32), "two": np.asarray(2, np.int32), "columns": np.int32([3, 0, 3])}
    image = np.random.default_rng(0).random((1, 3, 5, 7), dtype=np.float32)
    session = start(write_tfjs(tmp_path / "model", nodes, numbers), backend="webgpu", patience=PATIENCE)
    try:
        np.testing.assert_allclose(session(image), (image + 1)[..., [3, 0, 3]], atol=1e-6)
    finally:
        session.close()
