"""Layouts of segmentation data: Pascal VOC, Cityscapes, COCO, CamVid, and plain folders of photos and class maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from compress.core.errors import DataError, unknown
from compress.kit.data.camvid import CAMVID, STEMS, find_segnet, find_stills, has_stills, read_stills
from compress.kit.data.classes import VOID, Classed, read_classes
from compress.kit.data.coco import CocoMaps, read_instances
from compress.kit.data.folders import ALL, IMAGE_DIRS, SPLITS, Pair, find_pairs, fold
from compress.kit.data.sets import Concat, Pairs, Subset
from compress.kit.images import Array

Read = Callable[[Path], Array]

LABEL_DIRS = ("labels", "label", "annotations", "masks", "SegmentationClass")
CLASSES_FILE = "classes.txt"
TEST_TENTH = 0.9  # as in ``folders``: without a test list of its own, the last tenth of train is the test split

VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# Cordts et al. 2016, "The Cityscapes dataset": the 19 classes that are scored, by their number in labelIds
CITYSCAPES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
CITYSCAPES_LAST = 33  # numbers up to it that are not scored are void; above it they are a mistake


def open_classes(root: str | Path, split: str, *, seed: int = 0) -> Classed:
    """Open one folder of photos and class maps; what it holds says which layout it is.

    Pascal VOC (ImageSets/Segmentation, JPEGImages, SegmentationClass, also below VOCdevkit/VOC2012), Cityscapes
    (leftImg8bit, gtFine), COCO (annotations/instances_*.json, train2017, val2017), CamVid (701_StillsRaw_full,
    LabeledApproved_full, or SegNet's train, trainannot and so on), or images/ + labels/ with or without train/, val/,
    test/ above them. The last kind takes its classes from classes.txt in the folder, one name a line; CamVid is known
    by its file names; else there are as many as the largest label of any map says, for which all are read once.

    Raises:
        DataError: If the folder is absent or of no known layout, a list names a missing file, a photo has no class
            map, or nothing is left in that split.
    """
    if split not in (*SPLITS, ALL):
        raise unknown("split", split, [*SPLITS, ALL])
    folder = Path(root)
    for layout in (_film, _published):
        opened = layout(folder, split, seed)
        if opened is not None:
            return opened
    return _plain(folder, split, seed)


def _published(folder: Path, split: str, seed: int) -> Classed | None:
    """Open Pascal VOC, Cityscapes or COCO; None for any other folder."""
    for voc in (folder, folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"):
        if (voc / "ImageSets" / "Segmentation").is_dir():
            return Classed(_pairs(_voc(voc), split, seed, folder), _listed(folder, VOC))
    if (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir():
        numbers = _numbers({number: k for k, number in enumerate(CITYSCAPES)}, CITYSCAPES_LAST)
        return Classed(_pairs(_cityscapes(folder), split, seed, folder, numbers), tuple(CITYSCAPES.values()))
    found = next((folder / "annotations").glob("instances_*.json"), None)
    return _coco(folder, split, seed) if found else None


def _film(folder: Path, split: str, seed: int) -> Classed | None:
    """Open CamVid as its authors or SegNet's publish it; None for any other folder."""
    if has_stills(folder):
        return Classed(_pairs(find_stills(folder), split, seed, folder, read_stills), CAMVID)
    segnet = find_segnet(folder)
    return Classed(_pairs(segnet, split, seed, folder, _camvid_numbers()), CAMVID) if segnet else None


def _plain(folder: Path, split: str, seed: int) -> Classed:
    items = tuple(find_pairs([folder], split, image_dirs=IMAGE_DIRS, target_dirs=LABEL_DIRS, seed=seed))
    listed = _listed(folder, ())
    if listed:
        return Classed(Pairs(items, read_classes), listed)
    if all(photo.name.startswith(STEMS) for _, photo, _ in items):
        return Classed(Pairs(items, _camvid_numbers()), CAMVID)
    every = find_pairs([folder], ALL, image_dirs=IMAGE_DIRS, target_dirs=LABEL_DIRS, seed=seed)
    largest = max(_largest(path) for _, _, path in every)
    return Classed(Pairs(items, read_classes), tuple(f"class {k}" for k in range(largest + 1)))


def _largest(path: Path) -> int:
    numbers = read_classes(path)
    return int(np.max(numbers, initial=0, where=numbers != VOID))


def _numbers(classes: Mapping[int, int], last: int) -> Read:
    """Read class by stored number: void for numbers up to ``last`` without one, themselves (to be refused) above."""
    table = tuple(classes.get(number, VOID if number <= last else number) for number in range(256))
    return partial(read_classes, table=table)


def _camvid_numbers() -> Read:
    """Read SegNet's numbers: 11 is what is not labelled."""
    return _numbers({k: k for k in range(len(CAMVID))}, len(CAMVID))


def _listed(folder: Path, default: tuple[str, ...]) -> tuple[str, ...]:
    path = folder / CLASSES_FILE
    if not path.is_file():
        return default
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not 2 <= len(names) <= VOID:
        raise DataError(f"'{path}' names {len(names)} classes, wanted 2 to {VOID}", hint="one name a line")
    return names


def _pairs(parts: Mapping[str, list[Pair]], split: str, seed: int, root: Path, read: Read = read_classes) -> Pairs:
    """Take the pairs of a split from published lists; without a test list, a tenth of train is held back for it."""
    if split == ALL:
        items = [pair for part in parts.values() for pair in part]
    elif "test" in parts or split == "val":
        items = parts.get(split, [])
    else:
        items = [p for p in parts.get("train", []) if (fold(p[0], seed) >= TEST_TENTH) == (split == "test")]
    if not items:
        raise DataError(f"nothing in the {split} split of '{root}'", hint="check that the archive is whole")
    return Pairs(tuple(sorted(items)), read)


def _voc(folder: Path) -> dict[str, list[Pair]]:
    lists = folder / "ImageSets" / "Segmentation"
    parts: dict[str, list[Pair]] = {}
    for split in SPLITS:
        path = lists / f"{split}.txt"
        # the classes of VOC's own test photos are not published: a list without maps is no split
        stems = path.read_text(encoding="utf-8").split() if path.is_file() else []
        if stems and (split != "test" or (folder / "SegmentationClass" / f"{stems[0]}.png").is_file()):
            parts[split] = [_voc_pair(folder, path, stem) for stem in stems]
    return parts


def _voc_pair(folder: Path, listed: Path, stem: str) -> Pair:
    photo, target = folder / "JPEGImages" / f"{stem}.jpg", folder / "SegmentationClass" / f"{stem}.png"
    for path in (photo, target):
        if not path.is_file():
            raise DataError(f"'{listed}' names '{stem}', but there is no '{path}'", hint="unpack the archive again")
    return stem, photo, target


def _cityscapes(folder: Path) -> dict[str, list[Pair]]:
    # the maps of its own test photos are blank: its test split is not taken
    parts: dict[str, list[Pair]] = {}
    for split in ("train", "val"):
        below = folder / "leftImg8bit" / split
        parts[split] = [_city_pair(folder, below, photo) for photo in sorted(below.glob("*/*_leftImg8bit.png"))]
    return parts


def _city_pair(folder: Path, below: Path, photo: Path) -> Pair:
    stem = photo.name.removesuffix("_leftImg8bit.png")
    target = folder / "gtFine" / below.name / photo.parent.name / f"{stem}_gtFine_labelIds.png"
    if not target.is_file():
        raise DataError(f"'{photo}' has no class map: there is no '{target}'", hint="unpack gtFine_trainvaltest.zip")
    return stem, photo, target


def _coco(folder: Path, split: str, seed: int) -> Classed:
    """Open a COCO split, or every one of them; the objects of its own test photos are not published."""
    parts = ("train", "val") if split == ALL else ("val",) if split == "val" else ("train",)
    opened = [_coco_part(folder, part) for part in parts]
    if len({labels for _, labels in opened}) > 1:
        raise DataError(f"the JSON files of '{folder}' list different categories", hint="take those of one release")
    whole, labels = opened[0]
    if split == ALL:
        return Classed(Concat(tuple(data for data, _ in opened)), labels)
    if split != "val":
        kept = [k for k, name in enumerate(whole.names) if (fold(name, seed) >= TEST_TENTH) == (split == "test")]
        if not kept:
            raise DataError(f"nothing in the {split} split of '{folder}'", hint="check that the archive is whole")
        return Classed(Subset(whole, tuple(kept)), labels)
    return Classed(whole, labels)


def _coco_part(folder: Path, part: str) -> tuple[CocoMaps, tuple[str, ...]]:
    found = sorted((folder / "annotations").glob(f"instances_{part}*.json"))
    if not found:
        raise DataError(f"no annotations/instances_{part}*.json in '{folder}'", hint="unpack COCO's annotations there")
    name = found[-1].stem.removeprefix("instances_")
    below = folder / "images" / name
    return read_instances(found[-1], below if below.is_dir() else folder / name)
