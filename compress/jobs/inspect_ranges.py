"""Photos through a network to see what float16 would have to hold of its values and sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.core.console import log, progress
from compress.core.errors import DataError, UsageError
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec
from compress.jobs.models import as_onnx
from compress.kit.data.sets import spread_indices
from compress.kit.images import list_images, prepare, read_rgb
from compress.kit.ship.halves import HalfRange, half_ranges
from compress.kit.ship.loading import quantized
from compress.kit.ship.runtime import read_onnx
from compress.tasks import TASKS


@dataclass(frozen=True)
class Ranges:
    """What float16 would have to hold over photos, worst first; ``graph`` is the name of the network that ran."""

    graph: str
    photos: int
    size: tuple[int, int]  # height and width they were brought to
    tensors: tuple[HalfRange, ...]


@dataclass(frozen=True)
class _Photos:
    count: int
    read: Callable[[int], NDArray[np.uint8]]


def look(
    store: Store,
    artifact: Artifact,
    parent: Artifact | None,
    model: onnx.ModelProto,
    spec: ImageSpec,
    data: Sequence[str],
    limit: int,
) -> Ranges:
    """Run photos through an artifact's graph, or through its float32 parent's where it is quantized.

    Args:
        store: Where the parent lies.
        artifact: Whose task knows the photos.
        parent: What it was made from, if that is here.
        model: Its graph.
        spec: Its input, at the size to run at.
        data: Folders laid out as the task's, or of mere photos, or "builtin".
        limit: Photos at most, spread evenly.

    Raises:
        DataError: If there are no photos.
        UsageError: If the network takes something else than one such image.
    """
    graph = artifact.name
    if quantized(model):
        if parent is not None and parent.format in ("onnx", "safetensors") and parent.dtype == "float32":
            model, graph = read_onnx(as_onnx(store, parent)), parent.name
        else:
            log.warning("%s is quantized and its float32 parent is not here: ranges are those of the quantized graph",
                        graph)  # fmt: skip
    _check_image(model, spec, artifact)
    photos = _open(artifact, data)
    indices = spread_indices(photos.count, limit)
    with progress(f"ranges of {graph}", len(indices)) as advance:
        feeds = ({spec.name: prepare(photos.read(index), spec)[None]} for index in indices)
        tensors = half_ranges(model, feeds, advance=advance)
    return Ranges(graph, len(indices), (spec.height, spec.width), tuple(tensors))


def _check_image(model: onnx.ModelProto, spec: ImageSpec, artifact: Artifact) -> None:
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in stored]
    channels = TASKS.get(artifact.task).input.channels
    if inputs != [spec.name] or spec.channels != channels:
        raise UsageError(
            f"{artifact.name} takes {', '.join(inputs) or 'nothing'} of {spec.channels} channels; "
            f"{artifact.task} has photos for one image of {channels}",
            hint="name its task with --task, or leave --data out",
        )


def _open(artifact: Artifact, data: Sequence[str]) -> _Photos:
    """The training photos of folders laid out as the task's, else the photos that lie in them."""
    try:
        pairs = TASKS.get(artifact.task).open(data, "train")
    except DataError:
        files = [file for folder in data if Path(folder).is_dir() for file in list_images(folder)]
        if not files:
            raise
        return _Photos(len(files), lambda index: read_rgb(files[index]))
    return _Photos(len(pairs), lambda index: pairs.original(index)["image"])
