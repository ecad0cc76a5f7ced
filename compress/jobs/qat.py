"""Quantization-aware training: the quantized start, the lesson in pictures, the guard over it, the file that ships."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch

from compress.core.console import log, progress
from compress.core.errors import ArtifactError, DivergedError, UsageError
from compress.core.store import HISTORY, Store
from compress.core.types import Artifact, ImageSpec
from compress.jobs.desk import Stage
from compress.jobs.evaluate import input_at
from compress.jobs.fit import channels_last
from compress.jobs.guard import Guard
from compress.jobs.models import as_onnx, pick
from compress.jobs.picturelesson import OURS, PictureLesson, rates, raw_output
from compress.jobs.qatoptions import Refining
from compress.jobs.selection import Selection, increase
from compress.jobs.shrink import Desk, finish, prepared_graph
from compress.kit.data.sets import Batches, Dataset, Subset, spread_indices
from compress.kit.data.unpaired import is_paired
from compress.kit.graph import freeze
from compress.kit.images import prepare
from compress.kit.loop import Loop, Player, Schedule, make_fabric
from compress.kit.quant.fakequant import FakeQuant
from compress.kit.quant.torchgraph import TorchGraph
from compress.tasks.base import Task

_LOOKS = 10  # at the selection photos, where the user names no interval
_ALIKE = ("channels", "color", "scale", "mean", "std", "layout")  # of two networks that see one picture


@dataclass(frozen=True)
class Lineage:
    """Who learns from whom: ``teacher`` is ``parent`` where nobody else was named; ``spec`` is the training input."""

    parent: Artifact
    teacher: Artifact
    spec: ImageSpec


def float_parent(store: Store, reference: str) -> Artifact:
    """Return the float32 artifact to start from: the one named, or the one that the named one was quantized from.

    Raises:
        ArtifactError: If nothing in float32 stands behind it.
    """
    found = pick(store, reference, wanted="float32 artifact", dtype="float32")
    first = found
    while found.dtype != "float32":
        if not found.parent:
            raise ArtifactError(
                f"{first.name} ({first.id}) is {first.dtype}, and the store has no float32 network it was made from",
                hint="name its float32 original",
            )
        found = store.get(found.parent)
    if found is not first:
        log.info("starting from %s (%s), which %s was made from", found.name, found.id, first.name)
    return found


def pick_teacher(store: Store, reference: str, parent: Artifact) -> Artifact:
    """Return the artifact whose pictures are learned.

    Raises:
        UsageError: If it is quantized, for another task, or sees or gives other pictures than the parent.
    """
    teacher = pick(store, reference)
    told = f"teacher {teacher.name} ({teacher.id})"
    if teacher.dtype != "float32":
        raise UsageError(f"{told} is {teacher.dtype}", hint="name a float32 artifact, or leave --teacher out")
    if teacher.task != parent.task or teacher.output.channels != parent.output.channels:
        raise UsageError(f"{told} is for {teacher.task} with {teacher.output.channels} channels, {parent.name} "
                         f"for {parent.task} with {parent.output.channels}", hint="take one of that task")  # fmt: skip
    odd = [name for name in _ALIKE if getattr(teacher.input, name) != getattr(parent.input, name)]
    if odd:
        raise UsageError(f"{told} is given other pictures than {parent.name}: {', '.join(odd)} of its input differ",
                         hint="take a teacher with the same preprocessing, or leave --teacher out")  # fmt: skip
    return teacher


def training_spec(parent: Artifact, options: Refining) -> ImageSpec:
    """Return the input at the size of training pictures.

    Raises:
        UsageError: If the network takes no squares, or several devices are asked for.
    """
    if options.devices > 1:
        raise UsageError(f"qat trains on one device, --devices is {options.devices}", hint="leave --devices out")
    spec = input_at(parent, options.size)
    if spec.height != spec.width:
        raise UsageError(f"{parent.name} runs at {spec.height}x{spec.width}, training pictures are square",
                         hint="give --size" if spec.dynamic else "export it with a square input")  # fmt: skip
    return spec


def refine(
    store: Store, planned: Stage, options: Refining, lineage: Lineage, photos: Dataset, data: Dataset
) -> Artifact:
    """Quantize the parent, train it as quantized on ``data``, publish the state that did best.

    Raises:
        RejectedError: If it is not worth having and the user did not want it anyway.
    """
    plain = replace(options.shrinking(), name=options.name or f"{lineage.parent.name}-{options.dtype}-qat")
    desk = Desk(store, plain, lineage.parent, lineage.spec)
    start, notes = desk.choose(photos)
    fake = FakeQuant(start.graph, start.plan, warmup=options.warmup)
    run = store.runs(planned.key)
    loop, guard = _train(store, run, options, lineage, desk, fake, data)
    with store.draft() as draft:
        history = {"steps": loop.history, "validations": loop.validations}
        (draft / HISTORY).write_text(json.dumps(history), encoding="utf-8")
        told = {**notes, **_trained(desk, fake, notes), "qat": {**_told(loop, guard), "before": _before(notes)}}
        artifact = finish(store, draft, planned, desk, fake.graph(), fake.plan(), told)
    shutil.rmtree(run, ignore_errors=True)
    return artifact


def _train(
    store: Store, run: Path, options: Refining, lineage: Lineage, desk: Desk, fake: FakeQuant, data: Dataset
) -> tuple[Loop, Guard]:
    """Train, and leave the best state in ``fake``."""
    taught = as_onnx(store, lineage.teacher)
    fabric = make_fabric(device=options.device, devices=1, precision="32")
    player = Player(fake, rates(fake, options.lr), dict, Schedule(options.steps, options.lr))
    loop = Loop({OURS: player}, fabric, run, options.checkpoint_every, seed=options.seed)
    if options.resume and loop.resume():
        log.info("continuing at step %d of %d", loop.step, options.steps)
    teacher = fabric.to_device(freeze(TorchGraph(onnx.load(prepared_graph(store, taught)))))
    names = (*fake.net.outputs[:1], *(_raw(fake, desk.task, data, lineage.spec) if options.labels else ()))
    player.loss = PictureLesson(loop, teacher, desk.task, options.labels, names).loss
    whole = desk.task.open(options.data, "val", seed=options.seed)
    kept = Subset(whole, spread_indices(len(whole), options.selection))
    selection = Selection(desk.task, kept, lineage.spec, desk.opener(), taught)
    every = options.validate_every or max(1, options.steps // _LOOKS)
    guard = Guard(fake, selection, run, loop, every, options.batch / len(data))
    _run(loop, guard, options, lineage.spec, desk.task, data)
    fake.cpu()
    guard.take_best()
    return loop, guard


def _run(loop: Loop, guard: Guard, options: Refining, spec: ImageSpec, task: Task, data: Dataset) -> None:
    batches = Batches(
        data,
        spec,
        spec.height,
        batch=options.batch,
        seed=options.seed,
        start=loop.step,
        stop=options.steps,
        augment=task.augmentation if options.augment else None,
        workers=options.workers,
        target_nearest=task.nearest,
    )
    if not loop.validations:
        guard.look()
    try:
        with progress(f"qat {options.steps} steps at {spec.height} px", options.steps, done=loop.step) as advance:
            loop.run(map(channels_last, batches), advance, guard.record)
        if loop.validations[-1]["step"] < loop.step:
            guard.look()
        loop.save()  # should publishing fail, --resume has nothing left to train
    except DivergedError as error:
        guard.stopped = error.what
        log.warning("%s; taking the state of step %d, the best", error.what, guard.best()["step"])


def _raw(fake: FakeQuant, task: Task, data: Dataset, spec: ImageSpec) -> tuple[str, ...]:
    """Name the tensor that the task's loss is about; nothing, with a warning, where labels can't be learned from."""
    if not is_paired(data):
        log.warning("--labels is left out: the targets belong to other photos")
        return ()
    image = torch.from_numpy(prepare(data.original(0)["image"], spec)[None])
    found = raw_output(fake.net, task.activate, image.to(fake.ranges.device))
    if not found:
        log.warning("--labels is left out: the network does not end as those of %s do", task.name)
    return (found,) if found else ()


def _trained(desk: Desk, fake: FakeQuant, notes: Mapping[str, Any]) -> dict[str, float]:
    """What the notes say of the start, measured anew of what ships: at its own size, beside its parent."""
    if not _before(notes):
        return {}
    selection = desk.selection()
    found = selection.judge(fake.graph(), fake.plan())
    change = increase(selection.original.losses, found.losses)
    return {"distance": found.distance, "selection_loss_increase": change}


def _before(notes: Mapping[str, Any]) -> dict[str, float]:
    return {name: notes[name] for name in ("distance", "selection_loss_increase") if name in notes}


def _told(loop: Loop, guard: Guard) -> dict[str, Any]:
    """What the manifest keeps of the training."""
    start, best = loop.validations[0], guard.best()
    if best is start:
        log.warning("training did not help: this is plain quantization")
    return {
        "steps": loop.step,
        "stopped": guard.stopped,
        "best_step": int(best["step"]),
        "helped": best is not start,
        "start_distance": start["distance"],
        "best_distance": best["distance"],
        "curve": [[look["step"], look["distance"], look["loss"]] for look in loop.validations],
    }
