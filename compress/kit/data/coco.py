"""COCO: class maps drawn from the polygons and runs of an instances JSON (Lin et al. 2014, "Microsoft COCO")."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.kit.data.classes import VOID
from compress.kit.data.sets import Dataset, Photos, Sample, digest
from compress.kit.images import read_rgb

_KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("image_id", "category_id", "segmentation"),
    "categories": ("id", "name"),
}


@dataclass(frozen=True)
class Instance:
    """One object: its class (``VOID`` for a crowd), its size in pixels, and COCO's polygons or runs."""

    label: int
    area: float
    shape: Any


@dataclass(frozen=True)
class CocoMaps(Dataset):
    """Photos whose class maps are drawn when they are read; 0 is the background.

    Args:
        items: (name, photo, instances) of each.
    """

    items: tuple[tuple[str, Path, tuple[Instance, ...]], ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the photos, in order."""
        return tuple(name for name, _, _ in self.items)

    @property
    def fingerprint(self) -> str:
        """Of names, photos and instances."""
        photos = Photos(tuple((name, path) for name, path, _ in self.items))
        return digest((photos.fingerprint, *(repr(instances) for _, _, instances in sorted(self.items, key=_name))))

    def original(self, index: int) -> Sample:
        """Read "image" (H, W, 3) and draw "target" (H, W); smaller objects lie on larger ones.

        Raises:
            DataError: If the photo can't be read or an object has no shape that can be drawn.
        """
        name, path, instances = self.items[index]
        image = read_rgb(path)
        target = np.zeros(image.shape[:2], np.uint8)
        for instance in sorted(instances, key=lambda one: -one.area):
            target[draw(instance.shape, image.shape[:2], name)] = instance.label
        return {"image": image, "target": target}


def _name(item: tuple[str, Path, tuple[Instance, ...]]) -> str:
    return item[0]


def draw(shape: Any, size: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """Draw COCO's "segmentation" as a mask of ``size`` (height, width).

    shape: polygons, each [x0, y0, x1, y1, ...] in pixels, or {"counts": run lengths down the columns, the first of
    them outside, as a list or as COCO's compressed string, "size": [height, width]}.

    Raises:
        DataError: If it is neither, or of another size; ``name`` says of which photo.
    """
    height, width = size
    if isinstance(shape, Mapping):
        counts = shape.get("counts")
        runs = unpack_runs(counts) if isinstance(counts, str) else counts
        if shape.get("size") == [height, width] and _are_runs(runs, height * width):
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            return inside.reshape(width, height).T
    elif isinstance(shape, Sequence) and all(_is_polygon(polygon) for polygon in shape):
        from skimage.draw import polygon as inner_pixels

        mask = np.zeros((height, width), np.bool_)
        for polygon in shape:
            # COCO's pixel reaches from its number to the next, scikit-image's half a pixel either way
            x, y = np.asarray(polygon, np.float64).reshape(-1, 2).T - 0.5
            mask[inner_pixels(y, x, (height, width))] = True
        return mask
    raise DataError(
        f"an object of '{name}' has no shape for {width} x {height} pixels: found {str(shape)[:60]}",
        hint="wanted polygons, or runs of the photo's size",
    )


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(isinstance(value, int | float) and math.isfinite(value) for value in polygon)
    )


def _are_runs(counts: Any, pixels: int) -> TypeGuard[list[int]]:
    return isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts) and sum(counts) == pixels


def unpack_runs(text: str) -> list[int] | None:
    """Unpack COCO's compressed run lengths; None where the text is cut short or has other characters.

    As pycocotools' maskApi writes them: characters from "0" on hold six bits each, the lowest five of them digits of
    base 32, least first, the sixth set where more follow; the last one's fifth bit is the sign. From the fourth run on
    a number is the difference to the run two before.
    """
    runs: list[int] = []
    value = place = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << place
        place += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << place
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = place = 0
    return None if place else runs


def read_instances(path: Path, photos: Path) -> tuple[CocoMaps, tuple[str, ...]]:
    """Read an instances JSON: all its photos, and the names of its classes with "background" first.

    Raises:
        DataError: If it is no JSON, lacks a key, or names a photo that is not in the folder ``photos``.
    """
    content = _read(path)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    labels = {category["id"]: number for number, category in enumerate(categories, start=1)}
    objects: dict[Any, list[Instance]] = defaultdict(list)
    for entry in content["annotations"]:
        if entry["category_id"] not in labels:
            raise DataError(f"'{path}' has an object of category {entry['category_id']}, which it does not list")
        label = VOID if entry.get("iscrowd") else labels[entry["category_id"]]
        objects[entry["image_id"]].append(Instance(label, float(entry.get("area", 0)), entry["segmentation"]))
    items = []
    for image in content["images"]:
        photo = photos / image["file_name"]
        if not photo.is_file():
            raise DataError(f"'{path}' names '{image['file_name']}', but there is no '{photo}'", hint="unpack it again")
        items.append((photo.stem, photo, tuple(objects[image["id"]])))
    return CocoMaps(tuple(sorted(items, key=_name))), ("background", *(str(c["name"]) for c in categories))


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"'{path}' is no JSON: {error}", hint="unpack it again") from error
    for part, keys in _KEYS.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"'{path}' has no list '{part}'", hint="wanted COCO's instances: " + ", ".join(_KEYS))
        absent = sorted({key for entry in entries for key in keys if key not in entry})
        if absent:
            raise DataError(f"'{path}' has {part} without {', '.join(absent)}", hint="wanted COCO's instances")
    checked: dict[str, list[dict[str, Any]]] = content
    return checked
