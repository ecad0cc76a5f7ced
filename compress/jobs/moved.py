"""Weights of an ONNX file moved into a network of ours, and the proof that both do the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.core.console import log
from compress.core.errors import ArtifactError, ParityError
from compress.core.networks import Network, kind_of
from compress.core.store import Store, sha256_of, stage_key
from compress.core.types import Artifact, ImageSpec
from compress.formats.onnx import Signature, inspect
from compress.formats.safetensors import Safetensors
from compress.jobs.evaluate import spec_at
from compress.jobs.foreign import Reading, as_told, record, told
from compress.kit.graph import count_macs, count_parameters
from compress.kit.images import prepare
from compress.kit.infer import at_size
from compress.kit.ship.runtime import open_session, read_onnx
from compress.kit.ship.transplant import Misfit, table, transplant
from compress.tasks import TASKS
from compress.tasks.base import Task

TOLERANCE = 1e-3  # of the range of an output
Image = NDArray[np.float32]


def import_weights(
    store: Store, path: Path, network: Network, built_with: dict[str, Any], reading: Reading, *, again: bool = False
) -> Artifact:
    """Move the weights of an ONNX file into one of our networks, prove that it does the same, and publish it.

    Args:
        store: Where to publish.
        path: The file: the same network, batch norm folded or not, activation inside or not.
        network: Ours.
        built_with: Options of its builder.
        reading: How the file wants its pictures; its task and output don't count here.
        again: Import it although the store has it.

    Raises:
        ArtifactError: If it is no ONNX file of an image network, or has other layers.
        ParityError: If it has the same layers and gives something else.
    """
    settings = {"teacher": network.name, "name": reading.name, **built_with, **told(reading)}
    signature = inspect(path)
    key = stage_key("import", settings, lineage=[sha256_of(path)], data="")
    found = None if again else store.find(key)
    if found is not None:
        return found
    task = TASKS.get(network.task)
    spec = as_told(_sized(signature, task.input, reading.size or network.size, path, reading), reading)
    images = _images(task, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of what the file has nothing for, because it never runs
        built = network.build(**built_with)
    module = transplant(built, read_onnx(path), torch.from_numpy(images[0]))
    proof = proven(module, path, images, task)
    log.info("%s and %s agree on %d outputs, largest difference %.2g of an output's range", path.name, network.name,
             len(proof), max(entry["difference"] for entry in proof.values()))  # fmt: skip
    described = record(
        key,
        reading.name or network.name,
        task.name,
        str(path),
        network=network.name,
        kind=kind_of(network.name),
        format="safetensors",
        dtype="float32",
        input=spec,
        output=at_size(task.output_for(built_with), spec.height, spec.width),
        network_options=built_with,
        parameters=count_parameters(module),
        macs=count_macs(module, (spec.height, spec.width), channels=spec.channels),
        notes={"outputs": proof},
    )
    with store.draft() as draft:
        Safetensors().write(module, draft)
        return store.publish(draft, described)


def proven(module: nn.Module, path: Path, images: Sequence[Image], task: Task) -> dict[str, dict[str, Any]]:
    """Run a module and an ONNX file on the same images, each (1, C, H, W), and compare every output of the file.

    An output of the file may be a raw output of ours or one with an activation behind it (the task's, a sigmoid or a
    tanh). The one that ships must be among them.

    Returns:
        By output of the file: "output", which of ours it is; "activation" that is behind it; "difference", the
        largest, as a share of the output's range.

    Raises:
        ParityError: If an output differs by more than ``TOLERANCE``; the message has a table of them.
    """
    session = open_session(path)
    names = [port.name for port in session.get_outputs()]
    given = session.get_inputs()[0]
    kind = np.float16 if given.type == "tensor(float16)" else np.float32
    theirs: list[list[Any]] = []
    ours: list[dict[tuple[int, str], Any]] = []
    for image in images:
        try:
            theirs.append(session.run(names, {given.name: image.astype(kind)}))
        # ONNX Runtime raises a class of its own per failure, all of them plain Exceptions
        except Exception as error:
            said = " ".join(str(error).split())[-160:]
            raise ArtifactError(f"'{path.name}' does not run on an image {image.shape}: {said}",
                                hint="give its size: --size") from error  # fmt: skip
        with torch.no_grad():
            ours.append(_activated(module(torch.from_numpy(image)), task))
    proof, misfits = {}, []
    for index, name in enumerate(names):
        place, difference = _nearest([row[index] for row in theirs], ours, index)
        if difference <= TOLERANCE * (8 if kind is np.float16 else 1):
            proof[name] = {"output": place[0], "activation": place[1], "difference": difference}
        else:
            nearest = f"differs by {difference:.2g} of its range from output {place[0]}, {place[1]}"
            shape = "x".join(map(str, np.shape(theirs[0][index])))
            misfits.append(Misfit(name, f"within {TOLERANCE:g}", nearest if place[1] else f"{shape}, none of ours"))
    if not misfits and all(entry["output"] != 0 for entry in proof.values()):
        misfits.append(Misfit("-", "output 0, which ships", "none of the file's"))
    if misfits:
        head = f"the layers of '{path.name}' fit, yet it gives something else:"
        raise ParityError(table(head, misfits, "output"),
                          hint="its layers are stored in another order, or it is another network")  # fmt: skip
    return proof


def _activated(outputs: Sequence[torch.Tensor], task: Task) -> dict[tuple[int, str], Any]:
    """Everything an output of a file may be, by output of ours and activation."""
    ways = {"raw": lambda raw: raw, task.name: task.activate, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
    return {(index, how): way(raw).numpy() for index, raw in enumerate(outputs) for how, way in ways.items()}


def _nearest(theirs: Sequence[Any], ours: Sequence[dict[tuple[int, str], Any]], index: int) -> tuple[Any, float]:
    """Find what of ours is nearest to one output over all images: its place and the difference over the range."""
    values = np.concatenate([np.ravel(entry).astype(np.float64) for entry in theirs])
    # a flat output has no range to speak of
    span = max(float(np.ptp(values)), 1e-2 * float(np.abs(values).max()), 1e-12)
    best: tuple[Any, float] = ((0, ""), float("inf"))
    for place in sorted(ours[0], key=lambda place: place[0] != index):
        mine = [row[place] for row in ours]
        if all(np.shape(a) == np.shape(b) for a, b in zip(mine, theirs, strict=True)):
            flat = np.concatenate([np.ravel(entry).astype(np.float64) for entry in mine])
            difference = float(np.abs(flat - values).max()) / span
            if difference < best[1]:
                best = place, difference
    return best


def _sized(signature: Signature, spec: ImageSpec, size: int, path: Path, reading: Reading) -> ImageSpec:
    """The task's input at the file's size, or at ``size`` where its sides are free."""
    _, channels, height, width = signature.inputs[0].shape
    if channels not in (spec.channels, None):
        raise ArtifactError(f"'{path.name}' takes images of {channels} channels, wanted {spec.channels}",
                            hint="name another network with --teacher")  # fmt: skip
    if reading.size and height not in (None, reading.size):
        raise ArtifactError(f"{path} runs at {height}x{width} only, --size {reading.size} was asked",
                            hint="leave --size out")  # fmt: skip
    return at_size(spec_at(spec, size), height or size, width or size)


def _images(task: Task, spec: ImageSpec) -> list[Image]:
    """Noise and a photo, each (1, C, H, W)."""
    shape = (1, spec.channels, spec.height, spec.width)
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    photo = task.open(["builtin"], "test").original(0)["image"]
    return [noise, prepare(photo, spec)[None]]
