"""Train a network: run the loop, score the result, publish it. Shared by train, distill and qat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.core.console import log, progress
from compress.core.networks import Network, kind_of
from compress.core.store import HISTORY, Store, with_files
from compress.core.types import Artifact
from compress.formats.base import Format
from compress.formats.safetensors import Safetensors
from compress.jobs.desk import Stage
from compress.jobs.evaluate import evaluate, spec_at
from compress.jobs.options import Fitting
from compress.jobs.plan import Plan
from compress.kit.data import Batches, Dataset
from compress.kit.graph import count_macs, count_parameters
from compress.kit.loop import Loop, Player, Schedule, make_fabric
from compress.kit.parallel import synchronise
from compress.tasks.base import Batch, Losses, Outputs, Rival, Task

LossOf = Callable[[Outputs, Batch], Losses]
LossMaker = Callable[[Any], LossOf]  # given the launched fabric


def fit(
    store: Store,
    planned: Stage,
    options: Fitting,
    plan: Plan,
    network: Network,
    task: Task,
    data: Dataset,
    make_loss: LossMaker,
    name: str,
    network_options: Mapping[str, Any] | None = None,
    rivals: Mapping[str, Rival] | None = None,
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
        make_loss: Given the launched fabric, returns the loss of the network's outputs on a batch.
        name: Of the artifact.
        network_options: Handed to the network's builder, over what the data asks for.
        rivals: Who is trained against it, by name.

    Returns:
        The artifact, or None on every rank but the first.
    """
    fabric = make_fabric(device=options.device, devices=options.devices, precision=plan.precision)
    torch.manual_seed(options.seed)
    built_with = {**task.network_options(data), **(network_options or {})}
    against = dict(rivals or {})
    modules = {"network": network.build(**built_with), **{name: rival.build() for name, rival in against.items()}}
    loop = _loop(store.runs(planned.key), options, plan, modules, fabric)
    if options.resume and loop.resume():
        log.info("continuing at step %d of %d", loop.step, plan.steps)
    loss_of = make_loss(fabric)
    _oppose(loop, against, loss_of)
    _run(loop, store, planned, options, plan, task, data)
    fabric.barrier()
    if not fabric.is_global_zero:
        return None
    artifact = _publish(store, planned, options, plan, network, task, loop, name, built_with)
    _forget(store.runs(planned.key))
    return artifact


def _loop(folder: Path, options: Fitting, plan: Plan, modules: Mapping[str, nn.Module], fabric: Any) -> Loop:
    # two networks that chase each other want less memory of where they were: Radford et al. 2016, section 4
    momentum = 0.9 if len(modules) == 1 else 0.5
    players = {name: _player(module, plan, fabric, momentum) for name, module in modules.items()}
    return Loop(players, fabric, folder, options.checkpoint_every, plan.ema)


def _player(module: nn.Module, plan: Plan, fabric: Any, momentum: float) -> Player:
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if fabric.world_size > 1:
        module = synchronise(module)
    optimizer = torch.optim.Adam(module.parameters(), lr=plan.lr, betas=(momentum, 0.999), eps=1e-8)
    return Player(module, optimizer, _no_loss, Schedule(plan.steps, plan.lr, plan.schedule))


def _oppose(loop: Loop, rivals: Mapping[str, Rival], loss_of: LossOf) -> None:
    """Give every player its loss. The rivals move after the network, on what it gave before it moved."""
    given: list[torch.Tensor] = []

    def ours(batch: Batch) -> Losses:
        outputs = loop.forward("network", batch["image"])
        losses = loss_of(outputs, batch)
        if not rivals:
            return losses
        given[:] = [output.detach() for output in outputs]
        losses = {**losses, "labels": losses["loss"].detach()}
        for name, rival in rivals.items():
            losses = _pressed(loop, name, rival, losses, outputs, batch)
        return losses

    loop.players["network"].loss = ours
    for name, rival in rivals.items():
        loop.players[name].loss = partial(rival.loss, partial(loop.forward, name), given)


def _pressed(loop: Loop, name: str, rival: Rival, losses: Losses, outputs: Outputs, batch: Batch) -> Losses:
    """Add the pressure of a rival, which does not learn from it."""
    module = loop.players[name].module.requires_grad_(False)
    with loop.fabric.autocast():
        added = rival.pressure(module, outputs, batch)
    module.requires_grad_(True)
    parts = {f"{name}_{key}": value for key, value in added.items() if key != "loss"}
    return {**losses, **parts, "loss": losses["loss"] + added["loss"]}


def _no_loss(batch: Mapping[str, torch.Tensor]) -> Losses:
    raise AssertionError(f"the loss was never set; batch has {sorted(batch)}")


def _run(loop: Loop, store: Store, planned: Stage, options: Fitting, plan: Plan, task: Task, data: Dataset) -> None:
    fabric = loop.fabric
    batches = Batches(
        data,
        task.input,
        plan.size,
        batch=plan.batch,
        seed=options.seed,
        start=loop.step,
        stop=plan.steps,
        rank=fabric.global_rank,
        world=fabric.world_size,
        augment=plan.augment,
        workers=options.workers,
        target_nearest=task.nearest,
    )
    title = f"{planned.method} {plan.steps} steps at {plan.size} px"
    with _scalars(store, planned, fabric) as record, progress(title, plan.steps, done=loop.step) as advance:
        loop.run(map(channels_last, batches), advance, record)
    loop.save()  # should publishing fail, --resume has nothing left to train


def channels_last(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Lay the image out NHWC in memory: convolutions on a CPU and a tensor-core card run faster so."""
    return {k: v.contiguous(memory_format=torch.channels_last) if k == "image" else v for k, v in batch.items()}


@contextmanager
def _scalars(store: Store, planned: Stage, fabric: Any) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
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
) -> Artifact:
    module = loop.result.eval()
    artifact = planned.artifact(
        name=name,
        kind=kind_of(network.name),
        task=task.name,
        network=network.name,
        network_options=network_options,
        format="safetensors",
        dtype="float32",
        input=spec_at(task.input, plan.size),
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
        (draft / HISTORY).write_text(json.dumps(loop.history), encoding="utf-8")
        metrics = _validate(form, draft, with_files(artifact, draft), task, options)
        return store.publish(draft, replace(artifact, metrics=metrics))


def _validate(form: Format, folder: Path, artifact: Artifact, task: Task, options: Fitting) -> dict[str, float]:
    data = task.open(options.data, "val", seed=options.seed)
    runner = form.load(folder, artifact)
    with progress(f"validate {artifact.name}", len(data)) as advance:
        return evaluate(runner, artifact.input, task, data, advance).metrics


def _forget(run: Path) -> None:
    import shutil

    shutil.rmtree(run, ignore_errors=True)
