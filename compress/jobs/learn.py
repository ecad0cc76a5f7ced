"""Learning from a teacher: which artifact teaches, who learns, and the loss between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.core.console import log
from compress.core.errors import ArtifactError, UsageError
from compress.core.networks import STUDENTS, TEACHERS, find_network
from compress.core.store import Store
from compress.core.types import Artifact
from compress.jobs.models import load_module

if TYPE_CHECKING:
    from compress.jobs.fit import LessonMaker
    from compress.kit.data.sets import Dataset
    from compress.kit.lesson import Batch, Losses, Outputs
    from compress.tasks.base import Task


def pick_teacher(store: Store, name: str, data: Sequence[str]) -> Artifact:
    """Return the trained artifact that teaches: the newest of that network, or the one of that id or name.

    Raises:
        ArtifactError: If there is none, with the command that trains one.
        UsageError: If nothing is called so.
    """
    known = {*TEACHERS.names(), *STUDENTS.names()}
    if name in known:
        trained = [a for a in store.artifacts() if a.network == name and a.format == "safetensors" and not a.teacher]
        if not trained:
            data = "".join(f" --data {d}" for d in data if d != "builtin")
            raise ArtifactError(
                f"no trained {name} in {store.root}",
                hint=f"train one first: compress train --teacher {name}{data} --store {store.root}",
            )
        store.verify(trained[-1])
        teacher = trained[-1]
    else:
        teacher = store.get(name)
    if teacher.format != "safetensors":
        raise UsageError(
            f"{teacher.name} ({teacher.id}) is a {teacher.format} file, a teacher's levels must be readable",
            hint="name a trained network of format safetensors, see `compress list`",
        )
    log.info("teacher: %s %s, made %s", teacher.id, teacher.name, teacher.created[:19])
    return teacher


def pick_student(teacher: Artifact, student: str) -> str:
    """Return the name of the network that learns.

    Raises:
        UsageError: If none was named and the teacher has no student of its own, or their tasks differ.
    """
    name = student or find_network(teacher.network).student
    if not name:
        raise UsageError(
            f"{teacher.network} has no student of its own", hint=f"give --student: {', '.join(STUDENTS.names())}"
        )
    task = find_network(name).task
    if task != teacher.task:
        raise UsageError(f"{name} is for {task}, its teacher for {teacher.task}", hint="take a student of that task")
    return name


def learn_from(store: Store, teacher: Artifact, task: Task, temperature: float, data: Dataset) -> LessonMaker:
    """Return what makes the lesson of a student against ``teacher`` at ``temperature``.

    Targets that belong to other photos (unpaired folders) teach nothing here: the teacher alone does.
    """
    from compress.kit.data.unpaired import is_paired
    from compress.kit.lesson import Lesson

    labelled = is_paired(data)

    def make(fabric: Any) -> Lesson:
        module = fabric.to_device(freeze(load_module(store, teacher)).to(memory_format=torch.channels_last))  # type: ignore[call-overload]

        def loss(outputs: Outputs, batch: Batch) -> Losses:
            with torch.no_grad(), fabric.autocast():
                taught = module(batch["image"])
            known = batch if labelled else {key: value for key, value in batch.items() if key != "target"}
            return task.distill_loss(outputs, [t.float() for t in taught], known, temperature)

        return Lesson(loss)

    return make


def freeze(module: nn.Module) -> nn.Module:
    """Put a module into eval mode for good: no gradients, running statistics untouched."""
    return module.eval().requires_grad_(False)
