"""Run an artifact on photos and write what a user wants to see: mask and cut-out, retouched, classes, colour."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from compress.core.console import log, progress
from compress.core.errors import DataError
from compress.core.options import Common
from compress.core.store import Store


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Flags of `compress apply`."""

    model: str = ""
    """Id, id prefix, name or .onnx file; the newest artifact when not given."""
    out: Path = Path("out")
    """Folder for the pictures."""
    size: int | None = None
    """Pixels a side every photo is brought to; what the network was made for when not given."""
    tile: int = 0
    """Pixels a side of overlapping tiles that photos at their own size are cut into; 0 for none."""


def run(
    photos: Annotated[list[Path], Parameter(help="Photos, or folders of them.")], *, options: Options = Options()
) -> list[Path]:
    """Run an artifact on photos and write what a user wants to see: mask and cut-out, retouched, classes, colour."""
    from compress.jobs.evaluate import input_at, save_picture
    from compress.jobs.models import open_runner, pick
    from compress.kit.infer import predict
    from compress.tasks import TASKS

    files = _files(photos)
    store = Store(options.store)
    artifact = pick(store, options.model, shipped=True)
    task, spec = TASKS.get(artifact.task), input_at(artifact, options.size)
    if options.dry_run:
        print(f"would run {artifact.id} on {len(files)} photos and write to {options.out}")
        return []
    runner = open_runner(store, artifact)
    names, written = _names(files), []
    with progress(f"apply {artifact.name}", len(files)) as advance:
        for file in files:
            for page, photo in _pages(file):
                for kind, picture in task.pictures(photo, predict(runner, spec, photo, options.tile)).items():
                    path = options.out / f"{names[file]}{page}.{kind}.png"
                    save_picture(path, picture)
                    written.append(path)
            advance()
    if options.json:
        print(json.dumps({"model": artifact.id, "files": [str(path) for path in written]}))
    else:
        for path in written:
            log.info("wrote %s", path)
        print(artifact.id)
    return written


def _pages(file: Path) -> Iterator[tuple[str, Any]]:
    """The photo in a file, or every page of a TIFF stack, "-00" and so on after its name."""
    from compress.kit.data.stacks import Stack, page_count
    from compress.kit.images import read_rgb

    if file.suffix.lower() not in (".tif", ".tiff") or page_count(file) == 1:
        yield "", read_rgb(file)
        return
    stack = Stack(file)
    for index in range(len(stack)):
        yield f"-{index:02d}", stack.original(index)["image"]


def _names(files: list[Path]) -> dict[Path, str]:
    """What each photo's pictures are called: its stem, or more of its name where stems are equal."""
    stems = Counter(file.stem for file in files)
    names = Counter(file.name for file in files)
    return {
        file: file.stem if stems[file.stem] == 1 else file.name if names[file.name] == 1 else "_".join(file.parts[-2:])
        for file in files
    }


def _files(photos: list[Path]) -> list[Path]:
    from compress.kit.images import list_images

    files: list[Path] = []
    for path in photos:
        if path.is_dir():
            files += list_images(path)
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"no photo {path}", hint="give image files or a folder of them")
    if not files:
        raise DataError(f"no images in {', '.join(map(str, photos))}", hint="give image files or a folder of them")
    return files
