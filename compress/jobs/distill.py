"""Distillation: what a student is made from, settled into a stage and run, once for each temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from compress.core.console import log
from compress.core.errors import UsageError
from compress.core.networks import find_network
from compress.core.store import Store, sha256_of
from compress.core.types import Artifact
from compress.jobs.choose import size_of
from compress.jobs.course import Course, Memory
from compress.jobs.desk import found, planned_only, stage, tell, with_data
from compress.jobs.distilloptions import Distilling
from compress.jobs.fit import fit
from compress.jobs.learn import Learner
from compress.jobs.plan import Plan, settle
from compress.jobs.teachers import open_teacher
from compress.kit.data.sets import Dataset, open_photos
from compress.kit.data.unlabelled import beside
from compress.kit.data.unpaired import is_paired
from compress.kit.distill.recipe import Recipe, default_recipe, read_recipe
from compress.tasks import TASKS
from compress.tasks.base import Task


def read_temperatures(text: str) -> tuple[float, ...]:
    """Read "2" or "1,2,4,7".

    Raises:
        UsageError: If a part is no number above 0, or comes twice.
    """
    found: list[float] = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0) or value in found:
            raise UsageError(f"--T is {text}, wanted numbers above 0, each once", hint="give --T 2, or --T 1,2,4,7")
        found.append(value)
    return tuple(found)


def distill(
    store: Store, teacher: Artifact, learner: Learner, temperature: float, options: Distilling, *, visits: int = 1
) -> Artifact | None:
    """Train ``learner`` by ``teacher`` at one temperature, or find it; None after a dry run, and on further ranks.

    visits: How many students ask the teacher the same.
    """
    _check(options)
    options = with_data(options, teacher) if not options.unlabelled or options.data else options
    network, task = learner.network, TASKS.get(teacher.task)
    recipe = read_recipe(options.recipe or default_recipe(task.name), task.name)
    perceptor = _perceptor(options, recipe)
    data, labelled = _data(task, options)
    if recipe.needs_labels and not labelled:
        raise UsageError(f"recipe {recipe.name} learns from labels alone, and there are none",
                         hint="give --data with labels, or another --recipe")  # fmt: skip
    wanted = _wanted(options.taps, recipe)
    plan = settle(options, network, len(data))
    settings = {
        **asdict(plan),
        **learner.settings,
        "student": learner.parent.name if learner.parent else network.name,
        "teacher": teacher.network or teacher.name,
        "temperature": temperature,
        "recipe": recipe.settings(),
        "taps": dict(wanted) if wanted else None,
        "perceptor": sha256_of(options.perceptor) if options.perceptor else "",
        "unlabelled": len(options.unlabelled),
        "weights": "",
    }
    planned = stage(
        "distill", options, data=data.fingerprint, parent=learner.parent, teacher=teacher, resolved=settings
    )
    name = options.name or _name(learner, recipe, task, temperature)
    what = f"distill {teacher.id} into {network.name} by {recipe.name} on {len(data)} pictures"
    if planned_only(options, planned, what):
        return None
    artifact = found(store, planned, options)
    if artifact is not None:
        return artifact
    course = Course(
        task=task,
        teacher=open_teacher(store, teacher, learner.start.input),
        recipe=recipe,
        temperature=temperature,
        networks=(network, find_network(teacher.network, teacher.task) if teacher.network else None),
        wanted=wanted,
        memory=_memory(store, teacher, data, plan, options, visits),
        labelled=labelled,
        perceptor=perceptor,
    )
    return fit(
        store,
        planned,
        options,
        plan,
        network,
        task,
        data,
        course.lesson,
        name,
        learner.options,
        start=learner.start,
    )


def _check(options: Distilling) -> None:
    if options.patterns < 0:
        raise UsageError(f"--patterns is {options.patterns}, it must be 0 or more", hint="give --patterns 4")
    if options.cache == "on" and not options.patterns:
        raise UsageError("--cache on keeps nothing where every epoch has pictures of its own",
                         hint="give --patterns 4 too")  # fmt: skip


def _data(task: Task, options: Distilling) -> tuple[Dataset, bool]:
    """The pictures that are learned from, and whether any of them have labels."""
    if not options.unlabelled:
        data = task.open(options.data, "train", seed=options.seed)
        return data, is_paired(data)
    photos = open_photos(options.unlabelled, seed=options.seed)
    if not options.data:
        return photos, False
    labelled = task.open(options.data, "train", seed=options.seed)
    if not is_paired(labelled) or labelled.vectors(0):
        raise UsageError("--unlabelled goes with pairs that have nothing but a photo and its target",
                         hint="leave --data out, or --unlabelled")  # fmt: skip
    return beside(labelled, photos), True


def _wanted(taps: Sequence[str], recipe: Recipe) -> Mapping[str, str] | None:
    if not taps:
        return recipe.wanted
    if not recipe.needs_taps:
        raise UsageError(f"--taps: recipe {recipe.name} compares no feature maps", hint="give a --recipe that does")
    pairs = [entry.split("=") for entry in taps]
    odd = [entry for entry, pair in zip(taps, pairs, strict=True) if len(pair) > 2 or not all(pair)]
    if odd:
        raise UsageError(f"--taps {odd[0]}, wanted student.path=teacher.path", hint="or one path that both have")
    return {pair[0]: pair[-1] for pair in pairs}


def _memory(store: Store, teacher: Artifact, data: Dataset, plan: Plan, options: Distilling, visits: int) -> Memory:
    limit = size_of(options.cache_bytes, "cache-bytes")
    assert limit is not None, options.cache_bytes
    key = {
        "teacher": teacher.sha256,
        "data": data.fingerprint,
        "seed": options.seed,
        "size": plan.size,
        "augment": plan.augment,
        "precision": plan.precision,
        "patterns": options.patterns,
    }
    slots = options.patterns * len(data)
    return Memory(
        root=store.root / "cache" / "answers",
        key=key,
        patterns=options.patterns,
        slots=slots,
        visits=visits * plan.steps * plan.batch / slots if slots else 0.0,
        limit=limit,
        keep={"auto": None, "on": True, "off": False}[options.cache],
    )


def _perceptor(options: Distilling, recipe: Recipe) -> Any:
    if options.perceptor is None:
        return None
    if not recipe.needs_perceptor:
        raise UsageError(f"--perceptor: recipe {recipe.name} looks through none", hint="give a --recipe that does")
    if not options.perceptor.is_file():
        raise UsageError(f"--perceptor {options.perceptor}: no such file", hint="give the weights of a VGG-16")
    from compress.kit.measure.perceptual import read_perceptor

    return read_perceptor(options.perceptor)


def _name(learner: Learner, recipe: Recipe, task: Task, temperature: float) -> str:
    base = learner.parent.name if learner.parent else learner.network.name.rpartition(".")[2].replace(":", "-")
    how = "" if recipe.name == default_recipe(task.name) else f"-{recipe.name.rpartition('/')[2].removesuffix('.toml')}"
    return f"{base}{how}-T{temperature:g}" if recipe.tempered else f"{base}{how or '-distilled'}"


def tell_sweep(
    store: Store, options: Distilling, temperatures: Sequence[float], made: Sequence[Artifact | None]
) -> Artifact | None:
    """Tell what was made, the best on the validation split last; of several temperatures their losses too."""
    known = [(T, artifact) for T, artifact in zip(temperatures, made, strict=True) if artifact is not None]
    if not known:
        return None
    scored = [(T, artifact) for T, artifact in known if "loss" in artifact.metrics]
    best = min(scored, key=lambda entry: entry[1].metrics["loss"]) if scored else known[-1]
    if len(known) > 1:
        for T, artifact in known:
            log.info("T = %-4g loss %.5g%s", T, artifact.metrics.get("loss", math.nan),
                     "  best" if artifact is best[1] else "")  # fmt: skip
    for _, artifact in known:
        if artifact is not best[1]:
            tell(options, artifact, store)
    tell(options, best[1], store)
    return best[1]
