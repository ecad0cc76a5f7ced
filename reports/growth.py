"""Validation pictures by epoch: the same photos, one column a training, one line an epoch."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reports.pictures import Shot
from reports.words import number, three

PICTURES = "pictures"  # in the folder of an artifact: step-000100/00.mask.png, photo/00.photo.png, truth/00.mask.png
LINES = 7  # epochs shown
SIDE = 160  # longest side in pixels


@dataclass(frozen=True)
class Validation:
    """One look at the validation split. metric: None where the task has none of which more is better."""

    step: int
    epoch: float
    loss: float
    metric: float | None


Trained = tuple[str, Path, Sequence[Validation]]  # name, folder of the artifact, looks at the validation split


@dataclass(frozen=True)
class Cell:
    """What one run made of a photo, and after how much training; no shot where it had not begun or kept none."""

    shot: Shot | None
    note: str


@dataclass(frozen=True)
class Photo:
    """One photo, its truth, and lines of (epoch, a cell for each run)."""

    number: int
    photo: Shot | None
    truth: Shot | None
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]


def grown(runs: Sequence[Trained], kind: str) -> tuple[tuple[Photo, ...], str]:
    """Lay out the pictures of that kind that all runs kept of the same photos.

    Returns:
        The photos, and a remark where there are none to show.
    """
    photos = [_photos(folder) for _, folder, _ in runs]
    same = sorted(set.intersection(*(set(seen.items()) for seen in photos)))
    if not same:
        kept = any(photos)
        return (), "The runs kept pictures of different photos: none are shown." if kept else "No run kept pictures."
    epochs = _epochs([v.epoch for _, _, looks in runs for v in looks])
    return tuple(_photo(runs, number, kind, epochs) for number, _ in same), ""


def _photos(folder: Path) -> dict[str, str]:
    """Hashes of the photos by number."""
    files = (folder / PICTURES / "photo").glob("*.photo.png")
    return {path.name.partition(".")[0]: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _epochs(known: Sequence[float]) -> list[float]:
    """Choose few of the epochs, closer together early on, where most changes; the first and the last among them."""
    every = np.unique(np.asarray(known, np.float64))
    wanted = np.geomspace(max(every[0], 1e-3), max(every[-1], 1e-3), LINES)
    return sorted({float(every[np.abs(every - epoch).argmin()]) for epoch in wanted} | {float(every[-1])})


def _photo(runs: Sequence[Trained], number: str, kind: str, epochs: Sequence[float]) -> Photo:
    first = runs[0][1] / PICTURES
    told = int(number) + 1
    lines = [
        (three(epoch), tuple(_cell(name, folder, looks, epoch, f"{number}.{kind}.png") for name, folder, looks in runs))
        for epoch in epochs
    ]
    truth = _shot(first / "truth" / f"{number}.{kind}.png", f"{kind} as it should be, photo {told}")
    return Photo(told, _shot(first / "photo" / f"{number}.photo.png", f"photo {told}"), truth, tuple(lines))


def _cell(name: str, folder: Path, looks: Sequence[Validation], epoch: float, file: str) -> Cell:
    """The last look of a run at or before that epoch."""
    past = [look for look in looks if look.epoch <= epoch * (1 + 1e-9)]
    if not past:
        return Cell(None, "no look yet")
    look = past[-1]
    shot = _shot(folder / PICTURES / f"step-{look.step:06d}" / file, f"{name} at epoch {three(look.epoch)}")
    return Cell(shot, f"epoch {three(look.epoch)}, loss {number(look.loss)}")


def _shot(path: Path, alt: str) -> Shot | None:
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        small = picture.convert("RGBA" if picture.mode in ("RGBA", "LA", "PA") else "RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    flat = Image.new("RGB", small.size, "#dedede")
    flat.paste(small, mask=small.getchannel("A") if small.mode == "RGBA" else None)
    stream = io.BytesIO()
    flat.save(stream, format="JPEG", quality=85, optimize=True)
    return Shot(stream.getvalue(), *flat.size, alt)
