"""Every teacher and student, small and with random weights, on every browser runtime against torch on real photos.

TensorFlow takes some fifteen seconds an export and every pair gets a browser of its own, so the whole matrix is slow;
`make test` runs one student through the runtimes that are used most.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browsers import needs_chromium, needs_firefox, start
from tiny_store import publish, record

pytest.importorskip("tensorflow")

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


@dataclass(frozen=True)
class Route:
    """A way through a browser, and how far off it may be.

    limit: largest difference of any value of a picture. share: the same as a share of the picture's own spread, since
    the pictures of a network that was never trained are paler than real ones.
    """

    runtime: str
    backend: str
    browser: str = "chromium"
    half: bool = False
    limit: float = 1e-3
    share: float = 0.01


ROUTES = {
    "wasm": Route("tfjs", "wasm"),
    "webgl": Route("tfjs", "webgl"),
    "webgpu": Route("tfjs", "webgpu"),
    "cpu": Route("tfjs", "cpu"),
    "webgl-f16": Route("tfjs", "webgl", half=True, limit=5e-3, share=1.0),
    "ort-wasm": Route("ort-web", "wasm"),
    "wasm-firefox": Route("tfjs", "wasm", browser="firefox"),
}


@dataclass(frozen=True)
class Exported:
    """A network's files, images (1, C, H, W), and the pictures torch makes of them."""

    tfjs: Path
    onnx: Path
    images: list[np.ndarray]
    pictures: list[np.ndarray]


def export(name: str, folder: Path) -> Exported:
    """Export a network whose norms have seen photos, as after training: else its activations fade or overflow."""
    network = find_network(name)
    task = TASKS.get(network.task)
    spec = replace(task.input, height=SIDE, width=SIDE)
    photos = task.open(["builtin"], "test")
    images = [prepare(photos.original(index)["image"], spec)[None] for index in range(2)]
    torch.manual_seed(0)
    module = network.build(width=WIDTH)
    see(module, torch.from_numpy(np.concatenate(images)))
    store = Store(folder)
    described = dict(
        kind=kind_of(name), task=task.name, network=name, network_options={"width": WIDTH},
        input=spec, output=replace(task.output, height=SIDE, width=SIDE),
    )  # fmt: skip
    artifact = publish(store, record(name, **described), module)
    tfjs = as_tfjs(store, artifact)
    taken, given, made = read_record(tfjs)
    assert made["dynamic"] and taken.dynamic and given.dynamic, made["why_fixed"]
    images.append(prepare(photos.original(2)["image"], at_size(spec, *OTHER))[None])
    shipped = Shipped(module, task.activate)
    with torch.no_grad():
        pictures = [shipped(torch.from_numpy(image)).numpy() for image in images]
    return Exported(tfjs, as_onnx(store, artifact), images, pictures)


def see(module: torch.nn.Module, images: torch.Tensor) -> None:
    """Give every batch norm the statistics of these images, and leave the module in eval mode."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    module.train()
    with torch.no_grad():
        module(images)
    module.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Each network exported when it is first asked for; one that can't be is tried once."""
    made = {}

    def get(name):
        if name not in made:
            try:
                made[name] = export(name, tmp_path_factory.mktemp(name))
            except Exception as error:
                made[name] = error
        if isinstance(made[name], Exception):
            raise made[name]
        return made[name]

    return get
