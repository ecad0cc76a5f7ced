"""Write a static folder that shows models off in any browser: the page, TF.js, the models, how to draw pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compress.core.console import log
from compress.core.errors import ArtifactError, CompressError, UsageError
from compress.core.store import MANIFEST
from compress.core.types import Artifact, ImageSpec, to_json
from compress.core.web import web_folder
from compress.core.whole import check_ours, written_whole_folder
from compress.jobs.demo_runtime import copy_runtime
from compress.kit import lab
from compress.kit.data.cells import Cells
from compress.kit.data.classes import VOID, Classed, palette
from compress.kit.data.classscenes import ClassScenes
from compress.kit.measure.metrics import Metric
from compress.tasks import TASKS
from compress.tasks.base import Task
from compress.tasks.membrane import TINT, TINT_SHARE
from reports import words

SCHEMA = 1
MARK = "compress demo"  # the page's generator, by which it is known again
SAMPLE = 512  # pixels a side of the made-up picture that people without a photo at hand can try
ONE_OBJECT, MANY_OBJECTS = 18, 1  # scenes of ClassScenes
DRAWN = {  # tasks that shared/pictures.js knows, and what their models do in words for anybody
    "saliency": "Cuts out the main object of a photo; the rest becomes transparent.",
    "retouch": "Hands a photo back as a retoucher would, with other light and other colours.",
    "segmentation": "Finds the things in a photo and paints each kind in a colour of its own.",
    "membrane": "Traces the membranes between cells in a photo from an electron microscope.",
    "color": "Gives a black-and-white photo colours. Of a photo in colour it sees only how light each spot is.",
}


@dataclass(frozen=True)
class Exhibit:
    """A model on the page: the artifact, and the folder of its TF.js files."""

    artifact: Artifact
    folder: Path
    weights: str


@dataclass(frozen=True)
class Demo:
    """A written folder: how many files, how many bytes."""

    files: int
    bytes: int


def check_drawn(artifact: Artifact) -> None:
    """Refuse a model whose pictures the page can't draw.

    Raises:
        UsageError: If its task is unknown to shared/pictures.js.
    """
    if artifact.task not in DRAWN:
        raise UsageError(
            f"the demo can't draw pictures of task '{artifact.task}' ({artifact.name})",
            hint=f"name models of {', '.join(sorted(DRAWN))}",
        )


def write_demo(exhibits: Sequence[Exhibit], out: Path) -> Demo:
    """Write the folder, whole or not at all; an earlier demo in it is replaced.

    Raises:
        UsageError: If ``out`` holds something else.
        MissingExtraError: If TF.js is not installed.
    """
    check_ours(out, MARK)
    with written_whole_folder(out) as draft:
        _copy_page(draft)
        copy_runtime(draft)
        tasks = {exhibit.artifact.task: TASKS.get(exhibit.artifact.task) for exhibit in exhibits}
        listed = {
            "schema": SCHEMA,
            "tasks": {name: _describe(task, draft) for name, task in sorted(tasks.items())},
            "models": [_copy_model(exhibit, tasks[exhibit.artifact.task], draft) for exhibit in exhibits],
        }
        (draft / "models.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return Demo(len(sizes), sum(sizes))


def drawing(task: Task, labels: Sequence[str]) -> dict[str, Any]:
    """What drawing a task's pictures needs beside a prediction, as plain JSON: ``Drawing`` of shared/spec.js."""
    if task.name == "segmentation":
        return {"palette": palette().tolist(), "none": VOID, "labels": list(labels)}
    if task.name == "membrane":
        return {"tint": list(TINT), "tintShare": TINT_SHARE}
    return {"ab": lab.AB} if task.name == "color" else {}


def card(exhibit: Exhibit, task: Task) -> dict[str, Any]:
    """What the page is told of a model, ``ModelCard`` of shared/spec.js: nothing of whose data it was made with."""
    artifact = exhibit.artifact
    return {
        "schema": SCHEMA,
        "id": artifact.id,
        "name": artifact.name,
        "task": artifact.task,
        "weights": exhibit.weights,
        "bytes": sum(path.stat().st_size for path in _model_files(exhibit.folder)),
        "parameters": artifact.parameters,
        "created": artifact.created[:10],
        "metrics": [_score(metric, artifact) for metric in task.metrics if metric.name in artifact.metrics],
        "images": int(artifact.metrics.get("images", 0)),
        "input": to_json(_as_exported(artifact.input, exhibit.folder)),
        "output": to_json(artifact.output),
        "drawing": drawing(task, _labels(artifact, task)),
    }


def _score(metric: Metric, artifact: Artifact) -> dict[str, Any]:
    """One metric at birth under the name and with the meaning that the report gives it."""
    title, help = words.title(metric.name), words.MEANINGS.get(metric.name, metric.help)
    return to_json(metric) | {"title": title, "help": help, "value": artifact.metrics[metric.name]}


def _labels(artifact: Artifact, task: Task) -> tuple[str, ...]:
    """Names of the classes, where the data that the model was made with is still here."""
    sources = artifact.options.get("data", ())
    if task.name != "segmentation" or not sources:
        return ()
    try:
        data = task.open(sources, "test", seed=artifact.seed)
    except CompressError as error:
        log.info("%s: its classes have numbers on the page, their names are not known: %s", artifact.name, error.what)
        return ()
    assert isinstance(data, Classed), type(data).__name__
    return tuple(data.labels) if len(data.labels) == artifact.output.channels else ()


def _as_exported(spec: ImageSpec, folder: Path) -> ImageSpec:
    """The spec with the height and width of a TF.js model's own input, where the export fixed them.

    Raises:
        ArtifactError: If its model.json has no single image for an input.
    """
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    shapes = [
        [int(side["size"]) for side in node["attr"]["shape"]["shape"]["dim"]]
        for node in model.get("modelTopology", {}).get("node", ())
        if node["op"] == "Placeholder"
    ]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ArtifactError(f"{folder / 'model.json'} has inputs {shapes}, wanted one of four dimensions")
    height, width = shapes[0][1:3]
    free = height < 0 and width < 0
    return spec if free else replace(spec, dynamic=False, height=height, width=width)


def _describe(task: Task, draft: Path) -> dict[str, str]:
    title = TASKS.help(task.name).partition(": ")[0]
    sample = f"samples/{task.name}.png"
    (draft / "samples").mkdir(exist_ok=True)
    PIL.Image.fromarray(_sample(task.name)).save(draft / sample)
    return {"title": title, "about": DRAWN[task.name], "sample": sample}


def _sample(task: str) -> NDArray[np.uint8]:
    """A made-up picture (SAMPLE, SAMPLE, 3) for a task: free of anybody's rights."""
    if task == "membrane":
        return Cells("test", 0, size=SAMPLE).original(0)["image"]
    scene = MANY_OBJECTS if task == "segmentation" else ONE_OBJECT
    return ClassScenes("test", 1, size=SAMPLE).original(scene)["image"]


def _copy_page(draft: Path) -> None:
    web = web_folder()
    for room in ("demo", "shared"):
        (draft / room).mkdir()
        for path in sorted((web / room).iterdir()):
            if path.suffix in (".js", ".css", ".svg"):
                shutil.copyfile(path, draft / room / path.name)
    shutil.copyfile(web / "demo" / "index.html", draft / "index.html")


def _copy_model(exhibit: Exhibit, task: Task, draft: Path) -> str:
    """Copy the files of a model and write its manifest; returns its folder on the page."""
    place = f"models/{exhibit.artifact.id}"
    (draft / place).mkdir(parents=True)
    for path in _model_files(exhibit.folder):
        shutil.copyfile(path, draft / place / path.name)
    told = json.dumps(card(exhibit, task), indent=1)
    (draft / place / MANIFEST).write_text(told, encoding="utf-8")
    return place


def _model_files(folder: Path) -> list[Path]:
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return [folder / "model.json", *(folder / path for group in model["weightsManifest"] for path in group["paths"])]
