"""Quantize a file and publish it: calibration photos streamed in, the result scored beside its parent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.console import log, progress
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec
from compress.formats.onnx import OnnxRunner
from compress.jobs.desk import Stage
from compress.jobs.evaluate import evaluate
from compress.jobs.models import as_onnx
from compress.jobs.options import Shrinking
from compress.kit.data.sets import Dataset, Subset
from compress.kit.images import prepare
from compress.kit.quant.float16 import Float16Report, to_float16
from compress.kit.quant.quantize import QuantReport, quantize_int8
from compress.tasks import TASKS
from compress.tasks.base import Task

Report = QuantReport | Float16Report


def calibration_photos(task: Task, data: Sequence[str], seed: int, count: int) -> Dataset:
    """Return ``count`` photos of the training split, drawn by seed without repeats (all, if there are fewer)."""
    whole = task.open(data, "train", seed=seed)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(whole))
    return Subset(whole, tuple(int(i) for i in order[:count]))


def shrink(
    store: Store, planned: Stage, options: Shrinking, parent: Artifact, spec: ImageSpec, photos: Dataset
) -> Artifact:
    """Quantize ``parent`` as the options say, score parent and child on the validation split, publish the child."""
    source = as_onnx(store, parent)
    with store.draft() as draft:
        target = draft / "model.onnx"
        if options.dtype == "float16":
            report: Report = to_float16(source, target)
        else:
            with progress(f"calibrate {parent.name}", len(photos)) as advance:
                report = quantize_int8(
                    source,
                    target,
                    _streamed(photos, spec),
                    method=options.method,
                    exclude=options.exclude,
                    advance=advance,
                )
        child = _record(planned, options, parent, report)
        before = _validate(source, parent, options)
        metrics = _validate(target, child, options)
        _compare(child.name, metrics, before, report)
        notes = {**child.notes, "parent_metrics": before}
        return store.publish(draft, replace(child, metrics=metrics, notes=notes))


def _streamed(photos: Dataset, spec: ImageSpec) -> Iterator[dict[str, NDArray[np.float32]]]:
    for index in range(len(photos)):
        yield {spec.name: prepare(photos.original(index)["image"], spec)[None]}


def _record(planned: Stage, options: Shrinking, parent: Artifact, report: Report) -> Artifact:
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
        notes={"quantization": asdict(report)},
    )


def _validate(path: Path, artifact: Artifact, options: Shrinking) -> dict[str, float]:
    task = TASKS.get(artifact.task)
    data = task.open(options.data, "val", seed=options.seed)
    runner = OnnxRunner(path)
    with progress(f"validate {artifact.name}", len(data)) as advance:
        metrics = evaluate(runner, artifact.input, task, data, advance).metrics
    runner.close()
    return metrics


def _compare(name: str, metrics: dict[str, float], before: dict[str, float], report: Report) -> None:
    change = metrics["loss"] / before["loss"] - 1 if before["loss"] else 0.0
    log.info("%s: %.2f -> %.2f MB (%.2fx), validation loss %+.2f %%, dead masks %d",
             name, report.bytes_before / 1e6, report.bytes_after / 1e6, report.bytes_before / report.bytes_after,
             100 * change, metrics.get("dead_masks", 0))  # fmt: skip
