"""What Python makes of photos, written down for benchmarks/web/test/fixtures.test.js to compare with."""

import json

import numpy as np
from report_store import artifact

from compress.core.types import ImageSpec, to_json
from compress.jobs.demo import Exhibit, drawing
from compress.kit.images import resize, resize_plane
from compress.kit.infer import predict
from compress.tasks import TASKS


def photo(height, width, seed=0):
    """Soft gradients, sharp edges and noise: (H, W, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = np.stack([x, y, (x + y) / 2], -1) * 200 + 40 * ((x * 8).astype(int) % 2)[..., None]
    return np.clip(planes + random.normal(0, 12, planes.shape), 0, 255).astype(np.uint8)


def halved_ramp(channels, step=1):
    """A network that a line of either language states: half of the picture, brighter towards the bottom right."""

    def run(image):
        planes = image[0][np.arange(channels) % image.shape[1]]
        y, x = np.mgrid[0 : planes.shape[1], 0 : planes.shape[2]].astype(np.float32)
        made = planes * np.float32(0.5) + (y * np.float32(1 / 512) + x * np.float32(1 / 1024))
        return made[None, :, ::step, ::step].astype(np.float32)

    return run


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PREDICTIONS = {
    "stretched": (ImageSpec(height=48, width=64, **IMAGENET), (75, 50), 0, 3, 1),
    "by its maximum": (ImageSpec(height=40, width=40, scale="max", **IMAGENET), (75, 50), 0, 1, 1),
    "grey": (ImageSpec(channels=1, color="grey", height=33, width=47), (75, 50), 0, 1, 1),
    "lightness": (
        ImageSpec(channels=1, color="lightness", height=33, width=47, mean=(0.5,), std=(0.25,)),
        (75, 50),
        0,
        2,
        1,
    ),
    "padded": (ImageSpec(height=64, width=64, fit="pad", **IMAGENET), (75, 50), 0, 1, 1),
    "padded, half the size": (ImageSpec(height=64, width=64, fit="pad"), (31, 90), 0, 2, 2),
    "native": (ImageSpec(fit="native"), (75, 50), 0, 3, 1),
    "native and tiny": (ImageSpec(fit="native"), (9, 40), 0, 3, 1),
    "native in tiles of its size": (ImageSpec(fit="native", dynamic=False, height=32, width=40), (75, 50), 0, 3, 1),
    "native in tiles as told": (ImageSpec(fit="native"), (130, 50), 48, 1, 1),
    "smaller than its tile": (ImageSpec(fit="native"), (40, 30), 48, 3, 1),
}  # spec, photo's size, tile, channels that come out, by how much they are smaller
SIZES = [
    ((75, 50), (40, 64)),
    ((40, 64), (133, 21)),
    ((33, 33), (33, 70)),
    ((17, 90), (60, 90)),
    ((300, 200), (7, 5)),
    ((90, 80), (30, 60)),
]
CLASSES = 5


def write(folder):
    """Write cases.json and the numbers it names, raw, into ``folder``."""
    cases = {"resize": [], "planes": [], "predict": [], "pictures": []}
    numbers = _Numbers(folder)
    for k, (old, new) in enumerate(SIZES):
        picture = photo(*old, seed=k)
        plane = np.random.default_rng(k).normal(0.5, 0.5, old).astype(np.float32)
        plane[0, :2] = np.nan, np.inf
        cases["resize"].append(
            {"photo": numbers.photo(picture), "size": new, "wanted": numbers.keep(resize(picture, new))}
        )
        cases["planes"].append({"size": [*old, *new], "plane": numbers.keep(plane),
                                "wanted": numbers.keep(resize_plane(plane, new, -0.5, 1))})  # fmt: skip
    for name, (spec, size, tile, channels, step) in PREDICTIONS.items():
        picture = photo(*size, seed=7)
        wanted = predict(halved_ramp(channels, step), spec, picture, tile)
        cases["predict"].append({
            "name": name, "spec": to_json(spec), "photo": numbers.photo(picture), "tile": tile, "channels": channels,
            "step": step, "shape": wanted.shape, "wanted": numbers.keep(wanted),
        })  # fmt: skip
    for name in TASKS.names():
        task = TASKS.get(name)
        picture = photo(90, 60, seed=3)
        channels = CLASSES if name == "segmentation" else task.output.channels
        made = np.random.default_rng(5).uniform(-0.1, 1.1, (channels, 21, 30)).astype(np.float32)
        made[:, :2, :9] = 0
        drawn = task.pictures(picture, made)
        cases["pictures"].append({
            "task": name, "photo": numbers.photo(picture), "prediction": numbers.keep(made), "shape": made.shape,
            "drawing": drawing(task, ()),
            "wanted": {kind: numbers.keep(np.asarray(image)) for kind, image in drawn.items()},
        })  # fmt: skip
    (folder / "cases.json").write_text(json.dumps(cases))


class _Numbers:
    def __init__(self, folder):
        self.folder, self.count = folder, 0

    def keep(self, array):
        self.count += 1
        name = f"{self.count:03d}.{array.dtype}"
        (self.folder / name).write_bytes(np.ascontiguousarray(array).tobytes())
        return name

    def photo(self, array):
        opaque = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
        return {"height": array.shape[0], "width": array.shape[1], "data": self.keep(opaque)}


WEIGHTS, BIAS = np.float32([1.5, -0.75, 0.5]), np.float32(-0.25)


def pointwise(image):
    """The network that ``write_model`` writes, (1, 3, H, W) to (1, 1, H, W): a 1x1 convolution and a sigmoid."""
    logit = np.einsum("nchw,c->nhw", image, WEIGHTS)[:, None] + BIAS
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def write_model(folder, sides=("-1", "-1")):
    """Write ``pointwise`` as a TF.js graph model, by hand."""
    folder.mkdir(parents=True)
    number = {"type": "DT_FLOAT"}
    order = {"s": "TkhXQw=="}  # "NHWC", as protobuf writes bytes in JSON
    ones = {"list": {"i": ["1", "1", "1", "1"]}}

    def shape(*dims):
        return {"dim": [{"size": str(dim)} for dim in dims]}

    def constant(name, *dims):
        tensor = {"dtype": "DT_FLOAT", "tensorShape": shape(*dims)}
        return {"name": name, "op": "Const", "attr": {"dtype": number, "value": {"tensor": tensor}}}

    nodes = [
        {"name": "image", "op": "Placeholder", "attr": {"dtype": number, "shape": {"shape": shape(1, *sides, 3)}}},
        constant("weights", 1, 1, 3, 1),
        constant("bias", 1),
        {"name": "conv", "op": "Conv2D", "input": ["image", "weights"], "attr": {
            "T": number, "strides": ones, "dilations": ones, "padding": {"s": "VkFMSUQ="}, "data_format": order,
        }},
        {"name": "logit", "op": "BiasAdd", "input": ["conv", "bias"], "attr": {"T": number, "data_format": order}},
        {"name": "mask", "op": "Sigmoid", "input": ["logit"], "attr": {"T": number}},
    ]  # fmt: skip
    kept = [
        {"name": "weights", "shape": [1, 1, 3, 1], "dtype": "float32"},
        {"name": "bias", "shape": [1], "dtype": "float32"},
    ]
    model = {
        "format": "graph-model",
        "modelTopology": {"node": nodes, "versions": {"producer": 1}},
        "weightsManifest": [{"paths": ["group1-shard1of1.bin"], "weights": kept}],
    }
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "group1-shard1of1.bin").write_bytes(WEIGHTS.tobytes() + BIAS.tobytes())
    return folder


SPEC = ImageSpec(height=48, width=48, **IMAGENET)


def exhibit(folder, name="pointwise", **fields):
    """``pointwise`` on show, with what a manifest knows and a page must not tell."""
    options = {"data": ["/home/somebody/photos"]}
    metrics = {"loss": 0.4, "mae": 0.0712, "maxf": 0.9, "images": 12.0}
    record = artifact(name, id=name, input=SPEC, metrics=metrics, options=options, **fields)
    return Exhibit(record, write_model(folder / name), "float32")
