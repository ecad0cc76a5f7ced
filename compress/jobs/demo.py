"""Write a static folder that shows models off in any browser: the page, TF.js, the models, how to draw pictures."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import PIL.Image

from compress.core.console import log
from compress.core.errors import ArtifactError, CompressError, UsageError
from compress.core.store import MANIFEST, writing
from compress.core.types import Artifact, ImageSpec, to_json
from compress.core.web import vendored, web_folder
from compress.kit import lab
from compress.kit.data.cells import Cells
from compress.kit.data.classes import VOID, Classed, palette
from compress.kit.data.classscenes import ClassScenes
from compress.tasks import TASKS
from compress.tasks.base import Task
from compress.tasks.membrane import TINT, TINT_SHARE

SCHEMA = 1
MARK = "compress demo"  # the page's generator, by which it is known again
SAMPLE = 512  # pixels a side of the made-up picture that people without a photo at hand can try
RUNTIME = {  # npm package of TF.js to its files that the page loads
    "tfjs-core": ("dist/tf-core.es2017.min.js",),
    "tfjs-converter": ("dist/tf-converter.es2017.min.js",),
    "tfjs-backend-cpu": ("dist/tf-backend-cpu.es2017.min.js",),
    "tfjs-backend-webgl": ("dist/tf-backend-webgl.es2017.min.js",),
    "tfjs-backend-webgpu": ("dist/tf-backend-webgpu.es2017.min.js",),
    "tfjs-backend-wasm": (
        "dist/tf-backend-wasm.es2017.min.js",
        "dist/tfjs-backend-wasm.wasm",
        "dist/tfjs-backend-wasm-simd.wasm",
        "dist/tfjs-backend-wasm-threaded-simd.wasm",
    ),
}
BUNDLED = ("seedrandom", "long")  # npm packages that lie inside TF.js' files
DRAWN = frozenset({"saliency", "retouch", "segmentation", "membrane", "color"})  # what shared/pictures.js knows


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


def check_free(out: Path) -> None:
    """Refuse to write over anything but an earlier demo.

    Raises:
        UsageError: If ``out`` holds something else.
    """
    if not out.exists():
        return
    index = out / "index.html"
    ours = index.is_file() and MARK in index.read_text(encoding="utf-8", errors="replace")[:2000]
    if not out.is_dir() or (any(out.iterdir()) and not ours):
        raise UsageError(f"'{out}' holds something else", hint="give another folder with --out")


def write_demo(exhibits: Sequence[Exhibit], out: Path) -> Demo:
    """Write the folder, whole or not at all; an earlier demo in it is replaced.

    Raises:
        UsageError: If ``out`` holds something else.
        MissingExtraError: If TF.js is not installed.
    """
    check_free(out)
    with _replaced(out) as draft:
        _copy_page(draft)
        _copy_runtime(draft)
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
    known = [metric for metric in task.metrics if metric.name in artifact.metrics]
    return {
        "schema": SCHEMA,
        "id": artifact.id,
        "name": artifact.name,
        "task": artifact.task,
        "weights": exhibit.weights,
        "bytes": sum(path.stat().st_size for path in _model_files(exhibit.folder)),
        "parameters": artifact.parameters,
        "created": artifact.created[:10],
        "metrics": [to_json(metric) | {"value": artifact.metrics[metric.name]} for metric in known],
        "input": to_json(_as_exported(artifact.input, exhibit.folder)),
        "output": to_json(artifact.output),
        "drawing": drawing(task, _labels(artifact, task)),
    }


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
    title, _, about = TASKS.help(task.name).partition(": ")
    sample = f"samples/{task.name}.png"
    made = Cells("test", 0, size=SAMPLE) if task.name == "membrane" else ClassScenes("test", 1, size=SAMPLE)
    (draft / "samples").mkdir(exist_ok=True)
    PIL.Image.fromarray(made.original(0)["image"]).save(draft / sample)
    return {"title": title, "about": about[:1].upper() + about[1:], "sample": sample}


def _copy_page(draft: Path) -> None:
    web = web_folder()
    for room in ("demo", "shared"):
        (draft / room).mkdir()
        for path in sorted((web / room).iterdir()):
            if path.suffix in (".js", ".css", ".svg"):
                shutil.copyfile(path, draft / room / path.name)
    shutil.copyfile(web / "demo" / "index.html", draft / "index.html")


def _copy_runtime(draft: Path) -> None:
    notices = [f"image-compress, Apache-2.0\n\n{_own_license()}"]
    for name, files in RUNTIME.items():
        package = vendored(f"@tensorflow/{name}")
        for file in files:
            target = draft / "vendor" / "@tensorflow" / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / file, target)
        notices.append(
            f"{_title(package)}: vendor/@tensorflow/{name}. Copyright Google LLC. Its license is the one above."
        )
    for name in BUNDLED:
        package = vendored(name)
        texts = [path.read_text(encoding="utf-8") for path in sorted(package.glob("LICENSE*"))]
        notices.append(
            "\n\n".join([f"{_title(package)}: inside TF.js' files.", *(texts or [_readme_license(package)])])
        )
    (draft / "LICENSES.txt").write_text(f"\n\n{'-' * 80}\n\n".join(notices) + "\n", encoding="utf-8")


def _title(package: Path) -> str:
    told: Mapping[str, Any] = json.loads((package / "package.json").read_text(encoding="utf-8"))
    return f"{told['name']} {told['version']}, {told['license']}"


def _readme_license(package: Path) -> str:
    """The license at the end of a package's README, for packages that keep it there."""
    lines = (package / "README.md").read_text(encoding="utf-8").splitlines()
    headings = [number for number, line in enumerate(lines) if line.lstrip("# ").upper().startswith("LICENSE")]
    assert headings, f"{package} has a license of its own or one in its README"
    return "\n".join(lines[headings[-1] :]).strip()


def _own_license() -> str:
    beside = web_folder().parents[1] / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("image-compress") or ():
            if file.name == "LICENSE":
                return file.read_text()
    raise CompressError("image-compress is installed without its LICENSE, which goes with every copy",
                        hint="install it again")  # fmt: skip


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


@contextmanager
def _replaced(out: Path) -> Iterator[Path]:
    """Yield a draft beside ``out``; on success it takes the place of what was there."""
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        with writing(out.parent):
            yield draft
            draft.chmod(0o755)
            shutil.rmtree(out, ignore_errors=True)
            draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
