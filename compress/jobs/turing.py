"""Write a page that asks "fake or real?": made pictures and real ones in random order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compress.core.errors import DataError, UsageError
from compress.core.store import digest
from compress.core.whole import check_ours, written_whole_folder
from compress.kit.data.sets import Dataset
from compress.tasks.base import Task

SCHEMA = 1
MARK = "compress turing"  # the page's generator, by which it is known again
SIDE, QUALITY = 640, 92  # of every picture: longer side in pixels at most; of JPEG, with chroma at full resolution
SMALLEST = 64  # pixels of the shorter side of a photo that can be judged
TINGE, TINGED = 12, 0.02  # levels of 255 between a pixel's channels, and share of such pixels: a colour photo
REPORTED = 0.5724  # coloured pictures taken for real in the colorization thesis (S7): 41 people, 12 pictures, its data
HOW = {
    "color": "coloured by a program that was shown their grey version alone",
    "retouch": "retouched by a program",
}
Photo = NDArray[np.uint8]
Make = Callable[[Photo], PIL.Image.Image]  # photo (H, W, 3) to a model's picture


@dataclass(frozen=True)
class Model:
    """A model that pictures on the page come from."""

    id: str
    name: str


@dataclass(frozen=True)
class Shot:
    """One picture of the page; ``kind`` 0 is real, k is of the k-th model."""

    kind: int
    picture: PIL.Image.Image


def makes_photos(task: Task) -> bool:
    """Whether a task's pictures could be taken for photos; masks, classes and traces can't."""
    return task.output.color in ("rgb", "ab")


def check_task(task: Task) -> None:
    """Refuse a task whose pictures nobody could take for a photo.

    Raises:
        UsageError: If its pictures are masks, classes or traces.
    """
    if not makes_photos(task):
        raise UsageError(
            f"nobody takes a picture of task '{task.name}' for a photo: found {task.output.color}, wanted rgb or ab",
            hint="name models of tasks color or retouch",
        )


def shots(task: Task, data: Dataset, makers: Sequence[Make], *, count: int, seed: int) -> Iterator[Shot]:
    """Make the pictures: half of them made, as many by each model, half real; every one of another photo.

    A real picture goes through the same steps as a made one: it is the task's picture of a network that knows the
    answer. Photos too small to judge, and grey ones where colours are judged, are passed over.

    Args:
        task: The models' task.
        data: Where photos come from.
        makers: Each model's way from a photo to its picture.
        count: Pictures in all.
        seed: Draws the photos, who makes which, and their order.

    Raises:
        UsageError: If ``count`` is too small for the models.
        DataError: If there are too few photos that fit.
    """
    if count < 2 * len(makers):
        raise UsageError(f"{count} pictures are too few for {len(makers)} models", hint=f"--count {2 * len(makers)}")
    random = np.random.default_rng(seed)
    made = count // 2
    kinds = [0] * (count - made) + [1 + number % len(makers) for number in range(made)]
    chosen = [int(index) for index in random.permutation(len(data))]
    fitting = (sample for index in chosen if _fits(task, (sample := data.original(index))["image"]))
    samples = list(islice(fitting, count))
    if len(samples) < count:
        raise DataError(f"{len(samples)} photos can be shown, {count} were wanted",
                        hint=f"give more photos, or --count {len(samples)}")  # fmt: skip
    for sample, kind in zip(samples, random.permutation(kinds), strict=True):
        photo = sample["image"]
        if kind:
            picture = makers[kind - 1](photo)
        elif "target" in sample:
            picture = next(iter(task.pictures(photo, task.as_prediction(sample["target"])).values()))
        else:
            picture = PIL.Image.fromarray(photo)
        yield Shot(int(kind), picture.convert("RGB"))


def _fits(task: Task, photo: Photo) -> bool:
    if min(photo.shape[:2]) < SMALLEST:
        return False
    spread = photo.max(axis=-1) - photo.min(axis=-1)
    return task.output.color != "ab" or float(np.mean(spread >= TINGE)) >= TINGED


def write_page(pictures: Sequence[Shot], models: Sequence[Model], out: Path, *, task: str, origin: str) -> str:
    """Write ``index.html`` and its pictures, whole or not at all; returns the page's id.

    Every picture is encoded alike, bears no metadata, and is named by a hash of its place. Which is which stands in the
    page, veiled so lightly that only a glance misses it: this is a game among honest people, not an examination.

    Args:
        pictures: In the order they are shown.
        models: Whose pictures they are, by ``Shot.kind`` - 1.
        out: Folder; an earlier page in it is replaced.
        task: Name of the models' task.
        origin: What decides the pictures: data, seed.

    Raises:
        UsageError: If ``out`` holds something else.
    """
    check_ours(out, MARK)
    page = digest([SCHEMA, origin, [asdict(model) for model in models], [shot.kind for shot in pictures]])
    listed = []
    with written_whole_folder(out) as draft:
        (draft / "pictures").mkdir()
        for number, shot in enumerate(pictures):
            file = f"{digest([page, number])[:12]}.jpg"
            small = shot.picture.copy()
            small.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
            small.save(draft / "pictures" / file, "JPEG", quality=QUALITY, subsampling=0)
            listed.append({"file": file, "width": small.width, "height": small.height,
                           "veil": shot.kind ^ int(file[:2], 16)})  # fmt: skip
        facts = {"id": page, "schema": SCHEMA, "task": task, "models": [asdict(model) for model in models],
                 "pictures": listed, "reported": REPORTED if task == "color" else None}  # fmt: skip
        text = _lay_out(facts, HOW.get(task, "made by a program"))
        (draft / "index.html").write_text(text, encoding="utf-8")
    return page


def _lay_out(facts: dict[str, Any], how: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("turing.html.j2").render(page=facts, mark=MARK, how=how)
