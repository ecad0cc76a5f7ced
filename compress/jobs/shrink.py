"""Quantize an artifact: calibrate, choose how on the selection photos, write, judge beside the parent, publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compress.core.console import log, progress
from compress.core.errors import NoTruthError, RejectedError
from compress.core.store import Store, digest, sha256_of
from compress.core.types import Artifact, ImageSpec
from compress.core.whole import written_whole
from compress.formats.onnx import OnnxRunner
from compress.jobs.browser_time import in_browser
from compress.jobs.calibration import calibration
from compress.jobs.choose import Chooser
from compress.jobs.desk import Stage
from compress.jobs.engines import by_engine, check_engine
from compress.jobs.evaluate import Evaluation, evaluate
from compress.jobs.models import as_onnx
from compress.jobs.options import Shrinking
from compress.jobs.selection import Open, Selection
from compress.jobs.tune import Cooked
from compress.jobs.verdict import Verdict, in_turns, judge
from compress.kit.data.sets import Dataset, Subset, spread_indices
from compress.kit.images import prepare
from compress.kit.quant.plan import INTEGER, Plan
from compress.kit.quant.policy import EXPLAINED, SIZES
from compress.kit.quant.prepare import check_quantizable, prepare_graph
from compress.kit.quant.quantize import QuantReport, report, write
from compress.kit.ship.runtime import read_onnx
from compress.tasks import TASKS
from compress.tasks.base import Task

_MORE = 4  # times as many selection photos where a loss is held
_PREPARED = 1  # of the form of a prepared graph; another makes the cached ones void


def calibration_photos(task: Task, data: Sequence[str], seed: int, count: int) -> Dataset:
    """Return ``count`` photos of the training split, drawn by seed without repeats (all, if there are fewer)."""
    whole = task.open(data, "train", seed=seed)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(whole))
    return Subset(whole, tuple(int(i) for i in order[:count]))


def shrink(
    store: Store, planned: Stage, options: Shrinking, parent: Artifact, spec: ImageSpec, photos: Dataset
) -> Artifact:
    """Quantize ``parent`` as the options say, measure it beside its parent, publish it.

    Raises:
        RejectedError: If it is not worth having and the user did not want it anyway.
    """
    desk = Desk(store, options, parent, spec)
    cooked, notes = desk.choose(photos)
    with store.draft() as draft:
        return finish(store, draft, planned, desk, cooked.graph, cooked.plan, notes)


def finish(
    store: Store, draft: Path, planned: Stage, desk: Desk, graph: onnx.ModelProto, plan: Plan, notes: dict[str, Any]
) -> Artifact:
    """Write a planned graph, measure it beside its parent and publish it; ``notes`` say how the plan was chosen.

    Raises:
        RejectedError: If it is not worth having and the user did not want it anyway.
    """
    target = draft / "model.onnx"
    write(graph, plan, target)
    made = report(desk.chooser.graph, plan, desk.source, target, desk.images)
    child = _record(planned, desk.options, desk.parent, {"quantization": {**asdict(made), **notes}})
    before, after = desk.score(desk.source, desk.parent.name), desk.score(target, child.name)
    verdict = desk.judge(target, made, before, after)
    _tell(child.name, made, verdict, after)
    if verdict.rejected and not desk.options.force:
        raise RejectedError(f"{child.name} is not worth having: {'. '.join(verdict.rejected)}",
                            hint="--force keeps it, marked")  # fmt: skip
    whole = {
        **child.notes,
        "parent_metrics": before.metrics,
        "verdict": verdict.record(),
        **({"rejected": list(verdict.rejected)} if verdict.rejected else {}),
    }
    return store.publish(draft, replace(child, metrics=after.metrics, notes=whole))


@dataclass(frozen=True)
class Explained:
    """What becomes of one node."""

    name: str
    operator: str
    form: str
    reason: str


def explain(store: Store, options: Shrinking, parent: Artifact, spec: ImageSpec) -> list[Explained]:
    """Say what the policy makes of every node that computes on maps; no photo is looked at."""
    desk = Desk(store, options, parent, spec)
    layers = desk.chooser.unseen().plan.layers
    nodes = [node for node in desk.chooser.graph.graph.node if node.op_type in EXPLAINED
             and layers[node.name] != SIZES]  # fmt: skip
    return [Explained(node.name, node.op_type, layers[node.name].form, layers[node.name].reason) for node in nodes]


class Desk:
    """One network being quantized: its graph, its photos, its runtime."""

    def __init__(self, store: Store, options: Shrinking, parent: Artifact, spec: ImageSpec) -> None:
        self.store, self.options, self.parent, self.spec = store, options, parent, spec
        self.task = TASKS.get(parent.task)
        self.source = as_onnx(store, parent)
        self.prepared = prepared_graph(store, self.source)
        check_engine(options)
        self.chooser = Chooser(options, self.prepared, spec)
        self.images = 0

    def choose(self, photos: Dataset) -> tuple[Cooked, dict[str, Any]]:
        """Choose a plan; returns it and what the manifest keeps of the choice."""
        unseen = self.chooser.unseen()  # a wrong name shows before the photos are run
        if self.chooser.form not in INTEGER:
            return unseen, {}
        if self.options.engine != "ort":
            cooked, self.images = by_engine(self.options, self.chooser, photos, self.selection)
            return cooked, {"engine": self.options.engine, **self.chooser.styled}
        seen = calibration(self.store, self.prepared, photos, self.spec)
        self.images = seen.images
        cooked, notes = self.chooser.choose(seen, photos, self.selection())
        return cooked, {**self.chooser.styled, **notes}

    def selection(self) -> Selection:
        """The validation photos that settings are chosen on."""
        whole = self.task.open(self.options.data, "val", seed=self.options.seed)
        # a limit on the loss needs more photos than a distance does: losses differ from photo to photo
        count = self.options.selection * (_MORE if self.chooser.limit is not None else 1)
        data = Subset(whole, spread_indices(len(whole), count))
        return Selection(self.task, data, self.parent.input, self.opener(), self.source)

    def opener(self) -> Open:
        """What opens a file in the runtime it is for."""
        if self.options.runtime != "openvino":
            return OnnxRunner
        from compress.kit.ship.openvino import OpenVinoRunner

        return OpenVinoRunner

    def score(self, path: Path, name: str) -> Evaluation:
        """Score a file on the whole validation split; nothing where it has no labels."""
        try:
            data = self.task.open(self.options.data, "val", seed=self.options.seed)
        except NoTruthError as error:
            log.warning("not scored: %s", error)
            return Evaluation({}, ())
        runner = self.opener()(path)
        try:
            with progress(f"validate {name}", len(data)) as advance:
                return evaluate(runner, self.parent.input, self.task, data, advance)
        finally:
            runner.close()

    def judge(self, path: Path, made: QuantReport, before: Evaluation, after: Evaluation) -> Verdict:
        """Time the file beside its parent, and judge it."""
        dead = tuple(int(result.metrics.get("dead_masks", 0)) for result in (before, after))
        return judge(
            dtype=self.options.dtype,
            runtime=self.options.runtime,
            bytes_before=made.bytes_before,
            bytes_after=made.bytes_after,
            losses=(before.losses, after.losses),
            dead=(dead[0], dead[1]),
            seconds=self._seconds(path) if self.chooser.form in INTEGER else None,
            limit=self.chooser.limit,
        )

    def _seconds(self, path: Path) -> tuple[list[float], list[float]]:
        if self.options.runtime == "web":
            return in_browser(self.parent, self.source, path, self.options.dtype, self.spec.height)
        photo = self.task.open(["builtin"], "test").original(0)["image"]
        # one thread each: the pools of two sessions would spin against one another
        parent, child = (self.opener()(file, threads=1) for file in (self.source, path))
        try:
            return in_turns(parent, child, prepare(photo, self.spec)[None])
        finally:
            parent.close()
            child.close()


def prepared_graph(store: Store, source: Path) -> Path:
    """Return the file's graph made ready to be quantized, kept in the store's cache.

    Raises:
        ArtifactError: If it is quantized already or holds nothing to quantize.
    """
    kept = store.root / "cache" / digest(["prepared", _PREPARED, sha256_of(source)]) / "prepared.onnx"
    if not kept.is_file():
        model = read_onnx(source)
        check_quantizable(source.name, model)
        with written_whole(kept) as scratch:
            onnx.save(prepare_graph(model), scratch)
    return kept


def _record(planned: Stage, options: Shrinking, parent: Artifact, notes: dict[str, Any]) -> Artifact:
    return planned.artifact(
        name=options.name or f"{parent.name}-{options.dtype}",
        kind=parent.kind,
        task=parent.task,
        network=parent.network,
        network_options=parent.network_options,
        format="onnx",
        dtype=options.dtype,
        input=parent.input,
        output=parent.output,
        parameters=parent.parameters,
        macs=parent.macs,
        metrics={},
        seed=options.seed,
        notes=notes,
    )


def _tell(name: str, made: QuantReport, verdict: Verdict, after: Evaluation) -> None:
    loss = "" if verdict.loss is None else f", validation loss {100 * verdict.loss.value:+.2f} %"
    speed = "" if verdict.speed is None else f", {verdict.speed.value:.2f}x as fast in {verdict.runtime}"
    log.info("%s: %.2f -> %.2f MB (%.2fx)%s%s, dead masks %d", name, made.bytes_before / 1e6, made.bytes_after / 1e6,
             verdict.shrink, loss, speed, after.metrics.get("dead_masks", 0))  # fmt: skip
