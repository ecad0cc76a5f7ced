"""A network of the user's own, named as package.module:function, published as torch weights, fit to teach."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.console import log
from compress.core.errors import ArtifactError, CompressError, UsageError
from compress.core.networks import Network, find_network, kind_of
from compress.core.store import Store, stage_key
from compress.core.types import Artifact, ImageSpec
from compress.formats.safetensors import Safetensors
from compress.jobs.evaluate import spec_at
from compress.jobs.foreign import Reading, as_told, record, told
from compress.jobs.teachers import seems_activated
from compress.kit.graph import count_macs, count_parameters, load_state, read_checkpoint
from compress.kit.images import prepare
from compress.kit.nets.users import Adopted
from compress.tasks import TASKS
from compress.tasks.base import Task


def import_user(
    store: Store,
    reference: str,
    weights: Path | None,
    reading: Reading,
    *,
    options: Mapping[str, Any] | None = None,
    activated: bool | None = None,
    again: bool = False,
) -> Artifact:
    """Build a user's own network, load its weights and publish it as torch weights, fit to teach.

    The manifest holds the reference: what opens the artifact later must be able to import it.

    Args:
        store: Where to publish.
        reference: "package.module:function", looked for in the working directory first.
        weights: .pth, .pt or .safetensors file; None where the builder loads them itself. Nothing in it is executed.
        reading: Its task ("" for that of a decorated builder), and how it wants its pictures.
        options: Of its builder.
        activated: Whether it ends on the task's activation, which is then undone; None: refused when it looks so.
        again: Import it although the store has it.

    Raises:
        UsageError: If there is no such builder, or what it gives and ``activated`` don't agree.
        ArtifactError: If the weights don't fit, or it gives no picture of the task.
    """
    if weights is not None and not weights.is_file():
        raise ArtifactError(f"no file {weights}", hint="give the path of a .pth or .safetensors file")
    network = find_network(reference, reading.task)
    task = TASKS.get(network.task)
    built_with = dict(options or {})
    module = network.build(**built_with, activated=bool(activated)).eval()
    if weights is not None:
        load_state(module.theirs, read_checkpoint(weights))
    settings = {"teacher": reference, "name": reading.name, "activated": bool(activated), "task": task.name}
    key = stage_key("import", {**settings, **built_with, **told(reading)}, lineage=[_fingerprint(module)], data="")
    found = None if again else store.find(key)
    if found is not None:
        return found
    spec = _tried(module, network, reading, activated)
    channels, dynamic = _channels(module, spec), _takes_other_sizes(module, spec)
    described = record(
        key,
        reading.name or reference.rpartition(".")[2].replace(":", "-"),
        task.name,
        str(weights) if weights else reference,
        network=reference,
        kind=kind_of(reference),
        format="safetensors",
        dtype="float32",
        input=replace(spec, dynamic=dynamic),
        output=replace(spec_at(task.output, spec.height), channels=channels, dynamic=dynamic),
        network_options={**built_with, "activated": bool(activated)},
        parameters=count_parameters(module),
        macs=_macs(module, spec),
    )
    with store.draft() as draft:
        Safetensors().write(module, draft)
        return store.publish(draft, described)


def _fingerprint(module: nn.Module) -> str:
    """Hash the names and values of a module's state."""
    total = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _tried(module: nn.Module, network: Network, reading: Reading, activated: bool | None) -> ImageSpec:
    """Run one photo: it must come out as a raw output of the task. Returns how photos are brought in."""
    task = TASKS.get(network.task)
    spec = as_told(spec_at(task.input, reading.size or network.size), reading)
    if reading.fit is None and spec.fit == "native":
        spec = replace(spec, fit="stretch")  # a stranger need not take any size
    photo = torch.from_numpy(prepare(task.open(["builtin"], "test").original(0)["image"], spec)[None])
    assert isinstance(module, Adopted), type(module).__name__
    try:
        with torch.no_grad():
            plain = Adopted(module.theirs, module.name)
            given = plain(photo)[0]
            # so loud that raw outputs leave the range of a picture
            loud = plain(10 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0)))[0]
    except CompressError:
        raise
    # a stranger's forward may raise anything
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ArtifactError(f"{network.name} does not run on an image {tuple(photo.shape)}: {said}",
                            hint="does it take one image (N, C, H, W)? another side: --size") from error  # fmt: skip
    _check(given, loud, network.name, task, activated)
    return spec


def _check(given: Tensor, loud: Tensor, name: str, task: Task, activated: bool | None) -> None:
    low, high = float(given.min()), float(given.max())
    classes = task.output.color == "classes"
    wanted = "2 or more" if classes else str(task.output.channels)
    if given.shape[1] < 2 if classes else given.shape[1] != task.output.channels:
        raise ArtifactError(f"{name} gives {tuple(given.shape)}, wanted (1, {wanted}, H, W) for {task.name}",
                            hint="give the --task it is for, or let it return the picture first")  # fmt: skip
    if not torch.isfinite(given).all():
        raise ArtifactError(f"{name} gives values that are not finite", hint="are its weights whole, and for it?")
    if activated is None and seems_activated(task, given) and seems_activated(task, loud):
        raise UsageError(
            f"{name} gives {low:.3g}..{high:.3g}, which looks like {task.name} after its activation; raw outputs "
            "are wanted",
            hint="--activated undoes it, --no-activated says that these are raw",
        )
    if activated and not (low >= task.output.low - 0.01 and high <= task.output.high + 0.01):
        raise UsageError(
            f"{name} gives {low:.3g}..{high:.3g}, activated {task.name} is {task.output.low:g}..{task.output.high:g}",
            hint="leave --activated out: these are raw outputs",
        )


def _channels(module: nn.Module, spec: ImageSpec) -> int:
    """Channels of what ships."""
    with torch.no_grad():
        return int(module(torch.zeros(1, spec.channels, spec.height, spec.width))[0].shape[1])


def _takes_other_sizes(module: nn.Module, spec: ImageSpec) -> bool:
    image = torch.zeros(1, spec.channels, spec.height + 32, spec.width + 64)
    try:
        with torch.no_grad():
            module(image)
    # a stranger's forward may raise anything
    except Exception as error:
        log.info("runs at %dx%d only: %s", spec.height, spec.width, " ".join(str(error).split())[:120])
        return False
    return True


def _macs(module: nn.Module, spec: ImageSpec) -> int:
    try:
        return count_macs(module, (spec.height, spec.width), channels=spec.channels)
    # counting runs the network on shapes alone, which a stranger's forward need not bear
    except Exception as error:
        log.info("its multiply-accumulates can't be counted: %s", " ".join(str(error).split())[:120])
        return 0
