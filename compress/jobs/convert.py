"""One export to a format of TensorFlow, step by step, each step compared with ONNX Runtime on real pictures.

TensorFlow is heavy, noisy, and never gives memory back, so ``jobs.export`` runs this in a process of its own:
``python -m compress.jobs.convert REQUEST ANSWER``.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ArtifactError, CompressError, ParityError
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec, from_json, to_json
from compress.formats.base import Runner
from compress.formats.litert import LiteRT, open_litert
from compress.formats.onnx import OnnxRunner
from compress.formats.saved_model import SavedModel, TensorflowRunner, open_saved_model
from compress.formats.tfjs import Per, Tfjs, Weights, open_tfjs
from compress.jobs.evaluate import evaluate, sample_indices
from compress.kit.data.sets import Subset
from compress.kit.images import prepare
from compress.kit.infer import at_size
from compress.kit.ship.parity import parity
from compress.tasks import TASKS

if TYPE_CHECKING:
    from compress.kit.lower.network import Lowered

Kind = Literal["tfjs", "saved_model", "litert"]
Image = NDArray[np.float32]
RECORD = "export.json"
TOLERANCE = 1e-3
STORED = 5e-3  # what float16 and uint16 may be off, at the least
_PHOTOS = 2  # parity is looked at on so many
_PACKAGES = ("tensorflow", "tensorflowjs", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Wish:
    """What an export shall be."""

    format: Kind
    weights: Weights = "float32"
    per: Per = "channel"
    size: int | None = None  # pixels a side to fix
    tolerance: float = TOLERANCE
    data: tuple[str, ...] = ("builtin",)  # whose validation split tells what uint8 costs


@dataclass(frozen=True)
class Request:
    """One export, as the process that makes it reads it. Folders and files are paths as text."""

    store: str
    artifact: str
    onnx: str
    folder: str
    wish: Wish
    base: str = ""  # folder of the float32 graph model that a storage variant is made from


class Steps:
    """Compares each step with ONNX Runtime on the same images, and keeps what it found.

    Args:
        onnx: The file that is exported; it runs once and is closed again, for memory's sake.
        images: Each (N, C, H, W).
        tolerance: Largest difference that passes.
    """

    def __init__(self, onnx: Path, images: Sequence[Image], tolerance: float) -> None:
        self.onnx, self.images, self.tolerance = onnx, images, tolerance
        self.found: list[dict[str, Any]] = []
        reference = OnnxRunner(onnx)
        self._wanted = {id(image): reference(image) for image in images}
        reference.close()

    def check(self, step: str, runner: Runner, limit: float | None = None) -> None:
        """Compare a step and close its runner; ``limit`` is its own tolerance, infinity to record only.

        Raises:
            ParityError: If it is further off, naming the first node that differs.
        """
        limit = self.tolerance if limit is None else limit
        apart = parity(lambda image: self._wanted[id(image)], runner, self.images)
        runner.close()
        gc.collect()
        self.found.append({"step": step, "max_abs": apart.max_abs, "mean_abs": apart.mean_abs})
        if not apart.max_abs <= limit:
            raise ParityError(
                f"{step} differs from ONNX Runtime by {apart.max_abs:.3g} in image {apart.worst}, "
                f"wanted {limit:g} at most",
                hint=self._where(self.images[apart.worst]),
            )

    def _where(self, image: Image) -> str:
        from compress.kit.lower import graph
        from compress.kit.lower.differ import first_difference

        return first_difference(graph.read(self.onnx), image, self.tolerance)


def carry_out(request: Request) -> None:
    """Make an export in this process, and its record beside it.

    Raises:
        ArtifactError: If the network can't become such a file.
        ParityError: If a step does not do what ONNX Runtime does.
    """
    artifact = Store(Path(request.store)).get(request.artifact)
    folder = Path(request.folder)
    make = _variant if request.base else _whole
    record = make(request, artifact, folder)
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _whole(request: Request, artifact: Artifact, folder: Path) -> dict[str, Any]:
    """Lower and write: with free sides where the network allows it, fixed otherwise."""
    from compress.kit.lower import graph

    model = graph.read(Path(request.onnx))
    if graph.is_quantized(model):
        raise ArtifactError(f"{artifact.name} multiplies integers", hint="export its float parent")
    _, (_, _, *sides) = graph.image_sides(model)
    size = request.wish.size
    fixed = (size or sides[0] or artifact.input.height, size or sides[1] or artifact.input.width)
    del model
    if size is not None or sides != [None, None]:
        why = "asked for with --size" if size is not None else "the ONNX graph runs at one size only"
        return _written(request, artifact, folder, fixed, why)
    try:
        return _written(request, artifact, folder, None, "")
    except CompressError as error:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return _written(request, artifact, folder, fixed, str(error)[:300])


def _written(
    request: Request, artifact: Artifact, folder: Path, size: tuple[int, int] | None, why_fixed: str
) -> dict[str, Any]:
    from compress.kit.lower import graph
    from compress.kit.lower.network import lower

    spec = at_size(artifact.input, *size) if size else artifact.input
    source = Path(request.onnx)
    lowered = lower(graph.read(source), size=size)
    steps = Steps(source, _images(artifact, spec, lowered.dynamic), request.wish.tolerance)
    steps.check("tf.function", TensorflowRunner(lowered.call, 0))
    with tempfile.TemporaryDirectory() as scratch:
        saved = folder if request.wish.format == "saved_model" else Path(scratch)
        SavedModel().write(lowered, saved)
        record = _record(request, artifact, lowered, spec, why_fixed)
        # a big network is in memory several times by now, and the converters want more
        del lowered
        steps.check("SavedModel", open_saved_model(saved))
        _last_step(request, folder, saved, record, steps)
    record["export"]["parity"] = steps.found
    return record


def _last_step(request: Request, folder: Path, saved: Path, record: dict[str, Any], steps: Steps) -> None:
    if request.wish.format == "tfjs":
        Tfjs().write(saved, folder, input=record["input"]["name"], output=record["output"]["name"])
        steps.check("TF.js files", open_tfjs(folder))
    elif request.wish.format == "litert":
        weights: Literal["float32", "float16"] = "float16" if request.wish.weights == "float16" else "float32"
        LiteRT().write(saved, folder / "model.tflite", weights=weights)
        limit = None if weights == "float32" else max(STORED, request.wish.tolerance)
        steps.check("LiteRT file", open_litert(folder / "model.tflite"), limit)


def _images(artifact: Artifact, spec: ImageSpec, dynamic: bool) -> list[Image]:
    """Photos of the built-in set as the network wants them, and where its sides are free, noise of another size."""
    photos = TASKS.get(artifact.task).open(["builtin"], "test")
    images = [prepare(photos.original(index)["image"], spec)[None] for index in range(_PHOTOS)]
    if dynamic:
        shape = (1, spec.channels, spec.height + 32, spec.width + 64)
        images.append(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    return images


def _record(request: Request, artifact: Artifact, lowered: Lowered, spec: ImageSpec, why_fixed: str) -> dict[str, Any]:
    dynamic = lowered.dynamic
    output = replace(artifact.output, name=lowered.output, layout="NHWC", dynamic=dynamic)
    if not dynamic:
        output = replace(output, height=spec.height, width=spec.width)
    return {
        "input": to_json(replace(spec, name=lowered.input, layout="NHWC", dynamic=dynamic)),
        "output": to_json(output),
        "export": {
            "format": request.wish.format,
            "weights": request.wish.weights,
            "dynamic": dynamic,
            "why_fixed": why_fixed,
            "tolerance": request.wish.tolerance,
            "operators": lowered.operators,
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }


def _variant(request: Request, artifact: Artifact, folder: Path) -> dict[str, Any]:
    """Store the float32 graph model in fewer bits; uint8 is not held to a limit, its cost is measured."""
    base = Path(request.base)
    record: dict[str, Any] = json.loads((base / RECORD).read_text(encoding="utf-8"))
    exported = record["export"]
    spec = replace(artifact.input, height=record["input"]["height"], width=record["input"]["width"])
    Tfjs().store_as(base, folder, weights=request.wish.weights, per=request.wish.per)
    steps = Steps(Path(request.onnx), _images(artifact, spec, exported["dynamic"]), request.wish.tolerance)
    limit = float("inf") if request.wish.weights == "uint8" else max(STORED, request.wish.tolerance)
    steps.check(f"TF.js files, {request.wish.weights}", open_tfjs(folder), limit)
    exported |= {"weights": request.wish.weights, "parity": exported["parity"] + steps.found}
    if request.wish.weights != "float16":
        exported["per"] = request.wish.per
    if request.wish.weights == "uint8":
        exported["cost"] = _cost(request, artifact, spec, open_tfjs(base), open_tfjs(folder))
    return record


def _cost(request: Request, artifact: Artifact, spec: ImageSpec, whole: Runner, stored: Runner) -> dict[str, Any]:
    """Score both on photos of the validation split, spread evenly over it."""
    task = TASKS.get(artifact.task)
    data = task.open(request.wish.data, "val")
    data = Subset(data, tuple(sample_indices(len(data))))
    before, after = (evaluate(runner, spec, task, data, _silent).metrics for runner in (whole, stored))
    kept = [name for name in ("loss", "mae") if name in before]
    return {
        "images": len(data),
        "split": "val",
        "data": list(request.wish.data),
        **{name: {"float32": before[name], request.wish.weights: after[name]} for name in kept},
    }


def _silent(note: str = "") -> None:
    del note


def main(order: str, answer: str) -> int:
    """Carry out a request read from a file; what was refused and why is written to ``answer``."""
    found = json.loads(Path(order).read_text(encoding="utf-8"))
    try:
        carry_out(from_json(Request, found))
    except CompressError as error:
        told = {"kind": type(error).__name__, "what": error.what, "hint": error.hint}
        Path(answer).write_text(json.dumps(told), encoding="utf-8")
        return error.exit_code
    return 0


def as_text(request: Request) -> str:
    """Write a request as ``main`` reads it."""
    return json.dumps(to_json(request))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
