"""Who teaches and who learns: artifacts and networks by what a user calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from compress.core.console import log
from compress.core.errors import ArtifactError, UsageError
from compress.core.networks import STUDENTS, TEACHERS, Network, find_network, is_reference
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec
from compress.jobs.distilloptions import Distilling
from compress.jobs.fit import Start
from compress.jobs.flags import take
from compress.jobs.models import load_module
from compress.tasks import TASKS

_ALIKE = ("channels", "color", "fit", "scale", "mean", "std")  # what two networks must agree on to see one image
_PROBE = 64  # pixels a side at which a teacher's channels are followed through it


@dataclass(frozen=True)
class Learner:
    """The network that learns.

    Args:
        network: Which.
        options: Of its builder, by the user.
        settings: The same in plain JSON.
        start: What it is before it learns.
        parent: The artifact it starts from, if any.
    """

    network: Network
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    start: Start
    parent: Artifact | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def pick_teacher(store: Store, options: Distilling) -> Artifact:
    """Return what teaches: the newest artifact of a network, one of that id or name, an ONNX file, a user's own.

    Raises:
        ArtifactError: If there is none, with the command that trains one.
        UsageError: If nothing is called so.
    """
    name = options.teacher
    if options.weights and not is_reference(name):
        raise UsageError(f"--weights belongs to a teacher named package.module:function, found --teacher {name}",
                         hint=f"compress import --teacher {name} {options.weights}, then name its id")  # fmt: skip
    if is_reference(name):
        from compress.jobs.foreign import Reading
        from compress.jobs.users import import_user

        teacher = import_user(store, name, options.weights, Reading(task=options.task, size=options.size))
    elif name.endswith(".onnx"):
        from compress.jobs.models import pick

        teacher = pick(store, name, reading=_reading(options))
    elif name in {*TEACHERS.names(), *STUDENTS.names()}:
        teacher = _newest(store, name, options.data)
    else:
        teacher = store.get(name)
    if teacher.format not in ("safetensors", "onnx") or teacher.dtype not in ("float32", "float16"):
        raise UsageError(
            f"{teacher.name} ({teacher.id}) is a {teacher.format} file of {teacher.dtype} and can't teach",
            hint="name the float network it was made from, see `compress list`",
        )
    log.info("teacher: %s %s, made %s", teacher.id, teacher.name, teacher.created[:19])
    return teacher


def _reading(options: Distilling) -> Any:
    from compress.jobs.foreign import Reading

    return Reading(task=options.task)


def _newest(store: Store, name: str, folders: Sequence[str]) -> Artifact:
    made = [a for a in store.artifacts() if a.network == name and a.format == "safetensors"]
    trained = [a for a in made if not a.teacher and not a.widths]
    if not trained:
        data = "".join(f" --data {d}" for d in folders if d != "builtin")
        raise ArtifactError(
            f"no trained {name} in {store.root}",
            hint=f"train one first: compress train --teacher {name}{data} --store {store.root}",
        )
    store.verify(trained[-1])
    return trained[-1]


def pick_learner(store: Store, teacher: Artifact, options: Distilling, own: Sequence[str]) -> Learner:
    """Return the network that learns, as ``--student`` and ``--init`` have it; the teacher's own student by default.

    Args:
        store: Where artifacts are.
        teacher: Who teaches.
        options: The command's.
        own: Flags of the student's builder.

    Raises:
        UsageError: If none was named and the teacher has no student of its own, or their tasks differ.
    """
    name = options.student or (find_network(teacher.network, teacher.task).student if teacher.network else "")
    if not name:
        raise UsageError(
            f"{teacher.network or teacher.name} has no student of its own",
            hint=f"give --student: {', '.join(STUDENTS.names())}, or the id of a pruned network",
        )
    spec = _as_seen_by(teacher)
    if name in {*TEACHERS.names(), *STUDENTS.names()} or is_reference(name):
        network = find_network(name, teacher.task)
        flags = take((network.build,), own, network.name, options)
        learner = Learner(network, flags.values[0], flags.settings, Start(network.build, spec))
    else:
        learner = _from_artifact(store, name, spec, options, own)
    if learner.network.task != teacher.task:
        raise UsageError(f"{name} is for {learner.network.task}, its teacher for {teacher.task}",
                         hint="take a student of that task")  # fmt: skip
    return _inheriting(store, teacher, learner) if options.init == "teacher" else learner


def _as_seen_by(teacher: Artifact) -> ImageSpec:
    """The task's input, its numbers prepared as the teacher wants them: both are given the same images."""
    seen = teacher.input
    task = TASKS.get(teacher.task)
    return replace(task.input, scale=seen.scale, mean=seen.mean, std=seen.std, color=seen.color, fit=seen.fit)


def _from_artifact(store: Store, name: str, spec: ImageSpec, options: Distilling, own: Sequence[str]) -> Learner:
    parent = store.get(name)
    module = load_module(store, parent)
    if options.init == "teacher":
        raise UsageError(f"--student {name} has weights of its own, --init teacher would replace them",
                         hint="leave --init out, or name a network")  # fmt: skip
    if own:
        raise UsageError(f"--student {name} is built already, found {' '.join(own)}", hint="leave its flags out")
    theirs = replace(spec, name=parent.input.name, height=parent.input.height, width=parent.input.width)
    if replace(parent.input, name=spec.name, dynamic=spec.dynamic) != replace(
        theirs, name=spec.name, dynamic=spec.dynamic
    ):
        raise UsageError(
            f"{parent.name} ({parent.id}) reads its photos otherwise than the teacher",
            hint="take a teacher with the same preprocessing, see compress show",
        )
    log.info("student: %s %s, made %s", parent.id, parent.name, parent.created[:19])
    network = find_network(parent.network, parent.task)
    start = Start(lambda **_: module, spec, parent.widths)
    return Learner(network, parent.network_options, {}, start, parent)


def _inheriting(store: Store, teacher: Artifact, learner: Learner) -> Learner:
    """Start the student from its teacher's most important channels.

    Raises:
        UsageError: If the teacher is a file, or not one layer of theirs agrees.
    """
    from compress.kit.prune.inherit import student_from

    if teacher.format != "safetensors":
        raise UsageError(f"--init teacher: {teacher.name} is a file whose layers can't be read",
                         hint="compress import --teacher NETWORK FILE.onnx moves its weights into ours")  # fmt: skip
    example = torch.rand(1, teacher.input.channels, _PROBE, _PROBE, generator=torch.Generator().manual_seed(0))

    def build(**options: Any) -> nn.Module:
        module: nn.Module = learner.network.build(**options)
        copied, layers = student_from(load_module(store, teacher), module, example)
        log.info("%d of %d layers of %s start from %s", copied, layers, learner.network.name, teacher.name)
        if not copied:
            raise UsageError(f"no layer of {learner.network.name} agrees with {teacher.name}: names or widths differ",
                             hint="leave --init out, or distil into a pruned teacher: compress prune")  # fmt: skip
        return module

    return replace(learner, start=replace(learner.start, build=build))
