"""Train a network: run the loop, score the result, publish it. Shared by train, distill and qat."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compress.core.console import log, progress
from compress.core.errors import NoTruthError
from compress.core.machine import keep_freed_memory
from compress.core.networks import Network, kind_of
from compress.core.store import HISTORY, Store, with_files
from compress.core.types import Artifact, ImageSpec
from compress.formats.base import Format
from compress.formats.safetensors import Safetensors
from compress.jobs.desk import Stage
from compress.jobs.evaluate import evaluate, spec_at
from compress.jobs.flags import fitting
from compress.jobs.options import Fitting
from compress.jobs.plan import Plan
from compress.jobs.players import OURS, make_players, teach_them
from compress.jobs.watch import PICTURES, Watch
from compress.kit.data.sets import Batches, Dataset
from compress.kit.graph import count_macs, count_parameters
from compress.kit.lesson import Lesson
from compress.kit.loop import Loop, make_fabric
from compress.kit.nets.refit import folded_norms, refit_norms
from compress.tasks.base import Task

LessonMaker = Callable[[Any, torch.nn.Module], Lesson]  # given the launched fabric and the network that learns
_REFIT = 64  # pictures whose statistics folded norms get
Record = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Start:
    """What a network is before it learns.

    Args:
        build: Makes it, given the builder's options.
        input: How its photos are prepared; the size is the plan's.
        widths: Of its layers where those are not the builder's, see ``Artifact.widths``.
    """

    build: Callable[..., torch.nn.Module]
    input: ImageSpec
    widths: Mapping[str, list[int]] = field(default_factory=dict)


def fit(
    store: Store,
    planned: Stage,
    options: Fitting,
    plan: Plan,
    network: Network,
    task: Task,
    data: Dataset,
    make_lesson: LessonMaker,
    name: str,
    network_options: Mapping[str, Any] | None = None,
    *,
    alone: bool = True,
    start: Start | None = None,
) -> Artifact | None:
    """Train ``network`` and publish it.

    Args:
        store: Where checkpoints and the artifact go.
        planned: The stage this is.
        options: As given; only where and how often, never what.
        plan: What decides the result.
        network: Which.
        task: Its task.
        data: The training split.
        make_lesson: Given the launched fabric and the network, returns how it learns.
        name: Of the artifact.
        network_options: Handed to the network's builder, beside what the data asks for.
        alone: Whether nobody trains beside it and all of it learns all the time.
        start: What the network is before it learns; None: as its builder makes it, with the task's own photos.

    Returns:
        The artifact, or None on every rank but the first.
    """
    keep_freed_memory()
    fabric = make_fabric(device=options.device, devices=options.devices, precision=plan.precision, alone=alone)
    torch.manual_seed(options.seed)
    built_with = fitting(network_options or {}, task.network_options(data), network.build)
    start = start or Start(network.build, task.input)
    module = start.build(**built_with)
    _refit(module, options, plan, task, data, start.input)
    lesson = make_lesson(fabric, module)
    if lesson.prepare is not None:
        lesson.prepare(module)
    run = store.runs(planned.key)
    loop = Loop(
        make_players(module, lesson, plan, fabric), fabric, run, options.checkpoint_every, plan.ema, options.seed
    )
    if options.resume and loop.resume():
        log.info("continuing at step %d of %d", loop.step, plan.steps)
    teach_them(loop, lesson, plan.steps)
    with lesson.beside(loop.players[OURS].module):
        _run(loop, store, planned, options, plan, task, data, start.input, lesson.patterns)
    fabric.barrier()
    if not fabric.is_global_zero:
        return None
    artifact = _publish(store, planned, options, plan, network, task, loop, name, built_with, start)
    _forget(run)
    return artifact


def _refit(module: torch.nn.Module, options: Fitting, plan: Plan, task: Task, data: Dataset, spec: ImageSpec) -> None:
    """Norms that a file had folded see training pictures before they are trained."""
    if not folded_norms(module):
        return
    batches = _batches(options, plan, task, data, spec)
    count = refit_norms(module, (batches.at(step)["image"] for step in range(-(-_REFIT // plan.batch))))
    log.info("%d batch norms were folded: their statistics are those of %d training pictures", count, _REFIT)


def _batches(options: Fitting, plan: Plan, task: Task, data: Dataset, spec: ImageSpec, **more: int) -> Batches:
    return Batches(
        data,
        spec,
        plan.size,
        batch=plan.batch,
        seed=options.seed,
        augment=task.augmentation if plan.augment else None,
        workers=options.workers,
        target_nearest=task.nearest,
        **more,
    )


def _run(
    loop: Loop,
    store: Store,
    planned: Stage,
    options: Fitting,
    plan: Plan,
    task: Task,
    data: Dataset,
    spec: ImageSpec,
    patterns: int,
) -> None:
    fabric = loop.fabric
    batches = _batches(
        options,
        plan,
        task,
        data,
        spec,
        start=loop.step,
        stop=plan.steps,
        rank=fabric.global_rank,
        world=fabric.world_size,
        patterns=patterns,
    )
    title = f"{planned.method} {plan.steps} steps at {plan.size} px"
    watched = _watching(loop, store.runs(planned.key) / PICTURES, options, plan, task, data, spec)
    with _scalars(store, planned, fabric) as write, progress(title, plan.steps, done=loop.step) as advance:
        loop.run(map(channels_last, batches), advance, _both(watched, write))
    loop.save()  # should publishing fail, --resume has nothing left to train


def _watching(
    loop: Loop, folder: Path, options: Fitting, plan: Plan, task: Task, data: Dataset, spec: ImageSpec
) -> Record | None:
    """Return what looks at the validation split every ``--validate-every`` steps (rank 0), None for nothing."""
    every = options.validate_every
    if not every or not loop.fabric.is_global_zero:
        return None
    watch = Watch(task, spec_at(spec, plan.size), task.open(options.data, "val", seed=options.seed), folder)

    def record(step: int, losses: Mapping[str, float]) -> None:  # noqa: ARG001
        if step % every == 0 or step == plan.steps:
            loop.validations.append(watch.look(loop.result, step, step * plan.batch / len(data)))

    return record


def _both(first: Record | None, second: Record) -> Record:
    def record(step: int, losses: Mapping[str, float]) -> None:
        if first is not None:
            first(step, losses)
        second(step, losses)

    return record


def channels_last(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Lay the image out NHWC in memory: convolutions on a CPU and a tensor-core card run faster so."""
    return {k: v.contiguous(memory_format=torch.channels_last) if k == "image" else v for k, v in batch.items()}


@contextmanager
def _scalars(store: Store, planned: Stage, fabric: Any) -> Iterator[Record]:
    """Write losses for TensorBoard under <store>/logs/<key> (rank 0)."""
    if not fabric.is_global_zero:
        yield lambda step, losses: None  # noqa: ARG005
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(store.root / "logs" / planned.key)) as writer:
        yield partial(_write_scalars, writer)


def _write_scalars(writer: Any, step: int, losses: Mapping[str, float]) -> None:
    for name, value in losses.items():
        writer.add_scalar(f"train/{name}", value, step)


def _publish(
    store: Store,
    planned: Stage,
    options: Fitting,
    plan: Plan,
    network: Network,
    task: Task,
    loop: Loop,
    name: str,
    network_options: dict[str, Any],
    start: Start,
) -> Artifact:
    module = loop.result.eval()
    artifact = planned.artifact(
        name=name,
        kind="student" if planned.teacher else kind_of(network.name),
        task=task.name,
        network=network.name,
        network_options=network_options,
        format="safetensors",
        dtype="float32",
        input=spec_at(start.input, plan.size),
        widths=dict(start.widths),
        output=spec_at(task.output_for(network_options), plan.size),
        parameters=count_parameters(module),
        macs=count_macs(module, (plan.size, plan.size), channels=task.input.channels),
        metrics={},
        seed=options.seed,
        notes={"plan": asdict(plan), "final_loss": loop.history[-1]["loss"] if loop.history else None},
    )
    form = Safetensors()
    with store.draft() as draft:
        form.write(module, draft)
        history = {"steps": loop.history, "validations": loop.validations}
        (draft / HISTORY).write_text(json.dumps(history), encoding="utf-8")
        pictures = store.runs(planned.key) / PICTURES
        if loop.validations and pictures.is_dir():
            shutil.copytree(pictures, draft / PICTURES)
        metrics = _validate(form, draft, with_files(artifact, draft), task, options)
        return store.publish(draft, replace(artifact, metrics=metrics))


def _validate(form: Format, folder: Path, artifact: Artifact, task: Task, options: Fitting) -> dict[str, float]:
    if not options.data:
        log.warning("not scored: no labelled data was named; compress evaluate --data DIR does it")
        return {}
    try:
        data = task.open(options.data, "val", seed=options.seed)
    except NoTruthError as error:
        log.warning("not scored: %s", error)
        return {}
    runner = form.load(folder, artifact)
    with progress(f"validate {artifact.name}", len(data)) as advance:
        return evaluate(runner, artifact.input, task, data, advance).metrics


def _forget(run: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
