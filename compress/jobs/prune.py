"""Prune an artifact: choose channels, cut them out, check that the manifest rebuilds it, time it, publish it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.console import log, progress
from compress.core.errors import ArtifactError, NoTruthError, RejectedError, UsageError
from compress.core.store import Store, with_files
from compress.core.types import Artifact, ImageSpec
from compress.formats.base import Runner
from compress.formats.onnx import Onnx, OnnxRunner
from compress.formats.safetensors import Safetensors
from compress.jobs.desk import Stage
from compress.jobs.evaluate import Evaluation, evaluate, input_at
from compress.jobs.models import as_onnx, load_module
from compress.jobs.pruneoptions import Pruning
from compress.jobs.verdict import Verdict, in_turns
from compress.kit.data.batches import Batches
from compress.kit.data.sets import Dataset
from compress.kit.graph import count_macs, count_parameters
from compress.kit.images import prepare
from compress.kit.intervals import Interval, relative_change, speedup
from compress.kit.prune.core import How, check_ratio, full_widths, prune, ratio_for_macs
from compress.kit.prune.trace import Coupled, couple
from compress.kit.prune.widths import channels_of, sized, widths_of
from compress.kit.ship.parity import check_parity
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS
from compress.tasks.base import Task

RATIO = 0.5  # where the user gave nothing
_BATCH = 4  # photos a step of taylor
_SIDE = 64  # pixels a side of what the network is traced on; every network runs at it
_TOLERANCE = 1e-3  # of the export, as everywhere


def settled(options: Pruning) -> dict[str, Any]:
    """Return the options the command settles itself: the ratio where none was given, an order of the exclusions.

    Raises:
        UsageError: If a share is not between 0 and 1.
    """
    if options.macs is not None:
        check_ratio(options.macs, "macs")
        return {"exclude": sorted(set(options.exclude))}
    ratio = RATIO if options.ratio is None else options.ratio
    check_ratio(ratio)
    return {"ratio": ratio, "exclude": sorted(set(options.exclude))}


def prune_artifact(
    store: Store, planned: Stage, options: Pruning, parent: Artifact, photos: Dataset | None
) -> Artifact:
    """Prune ``parent`` as the options say, measure it beside its parent, publish it.

    Args:
        store: Where both lie.
        planned: The stage this is.
        options: As given, their data settled.
        parent: A registered network with torch weights.
        photos: Training photos for the importance that asks for gradients.

    Raises:
        UsageError: If nothing can be taken out.
        RejectedError: If it is not faster and the user did not want it anyway.
    """
    if parent.format == "safetensors" and not parent.network:
        raise ArtifactError(f"{parent.name} is a foreign file: no network rebuilds it", hint="see compress import")
    module = load_module(store, parent)
    desk = _Desk(store, options, parent, TASKS.get(parent.task), photos)
    thin, found = desk.thin(module)
    notes = {"pruned": {**_told(module, thin, parent.input, found), **desk.settings}}
    child = _record(planned, options, parent, thin, notes)
    _say(child)
    with store.draft() as draft:
        Safetensors().write(thin, draft)
        _check_rebuilt(thin, draft, child)
        return desk.finish(draft, thin, child)


@dataclass
class _Desk:
    """One network being pruned: where it lies, how, and on which photos."""

    store: Store
    options: Pruning
    parent: Artifact
    task: Task
    photos: Dataset | None

    def __post_init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def thin(self, module: nn.Module) -> tuple[nn.Module, list[Coupled]]:
        """Take channels out, round by round; returns what is left and what went together at the start.

        Raises:
            UsageError: If all layers stay as they are.
        """
        options, spec = self.options, self.parent.input
        size, how = (spec.height, spec.width), How(options.importance, options.scope, options.round_to, options.seed)
        example = torch.zeros(1, spec.channels, _SIDE, _SIDE)
        found = couple(module, example, options.exclude)
        full, whole = full_widths(found), count_macs(module, size, spec.channels)
        left, ratio = module, 0.0
        for number in range(1, options.rounds + 1):
            self._look(left)
            share = number / options.rounds
            if options.macs is None:
                ratio = share * (RATIO if options.ratio is None else options.ratio)
            else:
                allowed = (1 - share * (1 - options.macs)) * whole
                ratio = ratio_for_macs(left, example, allowed, size, how, exclude=options.exclude, full=full)
            left = prune(left, example, ratio, how, exclude=options.exclude, full=full)
        if count_parameters(left) == count_parameters(module):
            raise UsageError(f"every layer of {self.parent.name} keeps its channels at a ratio of {ratio:g} rounded to "
                             f"multiples of {options.round_to}", hint="raise --ratio or lower --round-to")  # fmt: skip
        self.settings["ratio"] = ratio
        return left, found

    def _look(self, module: nn.Module) -> None:
        """Leave the gradients of the task's loss over some training photos in ``module``, their mean over batches."""
        if self.photos is None:
            return
        options = self.options
        size = input_at(self.parent, options.size).height
        batches = Batches(
            self.photos, self.parent.input, size, batch=min(_BATCH, len(self.photos)), seed=options.seed,
            stop=options.batches, augment=None, workers=0, target_nearest=self.task.nearest,
        )  # fmt: skip
        module.zero_grad(set_to_none=True)
        with progress(f"gradients of {self.parent.name}", options.batches) as advance:
            for batch in batches:
                if "target" not in batch:
                    raise UsageError("--importance taylor needs photos with labels",
                                     hint="give such --data, or take --importance l2")  # fmt: skip
                loss = self.task.loss(module(batch["image"]), batch)["loss"] / options.batches
                loss.backward()  # type: ignore[no-untyped-call]
                advance()

    def finish(self, draft: Path, thin: nn.Module, child: Artifact) -> Artifact:
        """Score and time the child beside its parent, and publish it.

        Raises:
            RejectedError: If it is not faster and the user did not want it anyway.
        """
        form = Safetensors()
        parent = form.load(self.store.folder(self.parent), self.parent)
        before = self._score(parent, self.parent.name)
        after = self._score(form.load(draft, with_files(child, draft)), child.name)
        verdict = self._judge(thin, child, before, after)
        _tell(child, verdict)
        if verdict.rejected and not self.options.force:
            raise RejectedError(f"{child.name} is not worth having: {'. '.join(verdict.rejected)}",
                                hint="--force keeps it, marked")  # fmt: skip
        whole = {
            **child.notes,
            "parent_metrics": before.metrics,
            "verdict": verdict.record(),
            **({"rejected": list(verdict.rejected)} if verdict.rejected else {}),
        }
        return self.store.publish(draft, replace(child, metrics=after.metrics, notes=whole))

    def _score(self, runner: Runner, name: str) -> Evaluation:
        try:
            data = self.task.open(self.options.data, "val", seed=self.options.seed)
        except NoTruthError as error:
            log.warning("not scored: %s", error)
            return Evaluation({}, ())
        try:
            with progress(f"validate {name}", len(data)) as advance:
                return evaluate(runner, self.parent.input, self.task, data, advance)
        finally:
            runner.close()

    def _judge(self, thin: nn.Module, child: Artifact, before: Evaluation, after: Evaluation) -> Verdict:
        """Loss is no reason against it: nothing has been trained yet."""
        loss = relative_change(before.losses, after.losses) if before.losses else None
        speed = speedup(*self._seconds(thin, child)) if self.options.target == "cpu" else None
        whole, left = child.notes["pruned"]["parameters"]
        return Verdict(tuple(_reasons(speed, self.options)), whole / left, loss, speed, "ort")

    def _seconds(self, thin: nn.Module, child: Artifact) -> tuple[list[float], list[float]]:
        """Time both as ONNX on one photo, one thread each: the pools of two sessions would spin against one another."""
        spec = child.input
        photos = self.task.open(["builtin"], "test")
        images = [prepare(photos.original(index)["image"], spec)[None] for index in range(2)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            module = Shipped(thin, self.task.activate)
            Onnx().write(module, path, input=spec, output=child.output, size=(spec.height, spec.width), dynamic=True)
            check_parity(module, path, images, _TOLERANCE)
            runners = [OnnxRunner(file, threads=1) for file in (as_onnx(self.store, self.parent), path)]
            try:
                return in_turns(runners[0], runners[1], images[0])
            finally:
                for runner in runners:
                    runner.close()


def _reasons(speed: Interval | None, options: Pruning) -> list[str]:
    """Why it is not worth having: not faster for certain."""
    if speed is None or speed.beyond(1.0) > 0:
        return []
    low, high = speed.low or speed.value, speed.high or speed.value
    tries = ["take out more channels (--ratio, --macs)"]
    if options.round_to < 8:
        tries.append("--round-to 8, as vector units work on whole groups of channels")
    tries.append("--target none for size alone")
    return [f"{speed.value:.2f}x the speed of its parent in ONNX Runtime ({low:.2f} to {high:.2f}), not faster for "
            f"certain; try {', or '.join(tries)}"]  # fmt: skip


def _record(planned: Stage, options: Pruning, parent: Artifact, thin: nn.Module, notes: Mapping[str, Any]) -> Artifact:
    asked = f"{options.macs:g}-macs" if options.macs is not None else f"{options.ratio or RATIO:g}"
    spec = parent.input
    return planned.artifact(
        name=options.name or f"{parent.name}-pruned-{asked}",
        kind=parent.kind,
        task=parent.task,
        network=parent.network,
        network_options=parent.network_options,
        widths=widths_of(thin),
        format="safetensors",
        dtype="float32",
        input=parent.input,
        output=parent.output,
        parameters=count_parameters(thin),
        macs=count_macs(thin, (spec.height, spec.width), channels=spec.channels),
        metrics={},
        seed=options.seed,
        notes=dict(notes),
    )


def _told(module: nn.Module, thin: nn.Module, spec: ImageSpec, found: list[Coupled]) -> dict[str, Any]:
    """What a report shows: each layer's channels before and after, the sums, and what had to stay."""
    size = (spec.height, spec.width)
    layers = [
        {"path": path, "before": channels_of(part), "after": channels_of(thin.get_submodule(path))}
        for path, part in module.named_modules()
        if sized(part) and isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    return {
        "parameters": [count_parameters(module), count_parameters(thin)],
        "macs": [count_macs(net, size, channels=spec.channels) for net in (module, thin)],
        "channels": [sum(layer["before"] for layer in layers), sum(layer["after"] for layer in layers)],
        "layers": layers,
        "stays": [{"path": group.root, "why": group.why} for group in found if group.why],
    }


def _check_rebuilt(thin: nn.Module, draft: Path, child: Artifact) -> None:
    """Rebuild the child from its manifest and compare, bit for bit, at the network's size."""
    rebuilt = Safetensors().module(draft, with_files(child, draft))
    spec = child.input
    image = torch.rand(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = list(zip(_outputs(thin.eval()(image)), _outputs(rebuilt(image)), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs), f"{child.name} is not what its manifest rebuilds"


def _outputs(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else found


def _say(child: Artifact) -> None:
    told = child.notes["pruned"]
    (channels, wide), (kept, left) = zip(told["channels"], told["parameters"], strict=True)
    log.info("%s: channels %d -> %d, parameters %d -> %d (%.1f %% left), MACs %.3g -> %.3g (%.1f %% left)", child.name,
             channels, kept, wide, left, 100 * left / wide, *told["macs"],
             100 * told["macs"][1] / told["macs"][0])  # fmt: skip


def _tell(child: Artifact, verdict: Verdict) -> None:
    loss = "" if verdict.loss is None else f", validation loss {100 * verdict.loss.value:+.1f} % before any training"
    speed = "" if verdict.speed is None else f", {verdict.speed.value:.2f}x as fast in ONNX Runtime"
    log.info("%s: %.2fx fewer parameters%s%s", child.name, verdict.shrink, speed, loss)


def next_step(parent: Artifact, child: Artifact) -> None:
    """Say how it gets back what it lost."""
    log.info("next: compress distill --teacher %s --student %s", parent.id, child.id)
