"""Which photo belongs to which target and split: the folder layouts that are understood, published ones among them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.core.errors import DataError, unknown
from compress.kit.images import is_image, list_images

Pair = tuple[str, Path, Path]
Item = tuple[str, tuple[Path, ...]]  # name, then photo and target or photo alone
Files = dict[str, Path]  # by stem

ALL = "all"  # every split at once
SPLITS = ("train", "val", "test")

# The one table of layouts, matched without regard to case; the first name that exists wins.
SPLIT_DIRS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "DUTS-TR"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "DUTS-TE"),
}
IMAGE_DIRS = (
    *("images", "image", "imgs", "img", "photos"),  # plain, ECSSD, HKU-IS, SOD
    *("DUTS-TR-Image", "DUTS-TE-Image"),
    *("DUT-OMRON-image/DUT-OMRON-image", "DUT-OMRON-image"),
    "datasets/imgs/pascal",  # PASCAL-S as published
)
TARGET_DIRS = (
    *("masks", "mask", "gt", "gts", "ground_truth", "ground_truth_mask"),  # plain, HKU-IS, ECSSD
    *("DUTS-TR-Mask", "DUTS-TE-Mask"),
    *("pixelwiseGT-new-PNG", "DUT-OMRON-gt-pixelwise.zip/pixelwiseGT-new-PNG"),
    "datasets/masks/pascal",
)
_LOSSY, _LOSSLESS = frozenset({".jpg", ".jpeg"}), frozenset({".png", ".bmp"})
_TENTHS = {"val": (0.8, 0.9), "test": (0.9, 1.0)}


@dataclass(frozen=True)
class _Names:
    images: tuple[str, ...]
    targets: tuple[str, ...]

    def __str__(self) -> str:
        image, target = self.images[0], self.targets[0]
        return (
            f"DIR/{image} + DIR/{target}, DIR/train|val|test/{image} + {target}, or a published layout "
            f"(folders {', '.join(self.images)} with {', '.join(self.targets)})"
        )


def find_pairs(
    roots: Iterable[str | Path],
    split: str,
    *,
    image_dirs: tuple[str, ...] = IMAGE_DIRS,
    target_dirs: tuple[str, ...] = TARGET_DIRS,
    seed: int = 0,
) -> list[Pair]:
    """Find the (name, photo, target) of ``split`` ("train", "val", "test" or "all") below each root, sorted by name.

    A root holds photo and target folders (or one folder with photos as .jpg and targets as .png), or folders
    "train", "val", "test" that do. Photo and target share their stem. A split without a folder of its own is a
    tenth of the train folder, or of a root without split folders, chosen by a hash of (seed, stem): adding a photo
    moves no other. A root called "train", "val" or "test" is that split alone.

    Raises:
        DataError: As ``data.open_pairs``.
    """
    names = _Names(image_dirs, target_dirs)
    found = _collect(roots, split, seed, lambda folder: _match(folder, names))
    return [(name, photo, target) for name, (photo, target) in found]


def find_photos(roots: Iterable[str | Path], split: str = ALL, *, seed: int = 0) -> list[tuple[str, Path]]:
    """Find the (name, path) of the photos of ``split``: files as they are, folders with all their sub-folders.

    Folders named like a target folder are left out. Splits are found as ``find_pairs`` finds them.

    Raises:
        DataError: As ``data.open_photos``.
    """
    return [(name, path) for name, (path,) in _collect(roots, split, seed, photos_below)]


def fold(stem: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on (seed, stem) alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{stem}".encode()).digest()[:8]) / 2**64


def _collect(roots: Iterable[str | Path], split: str, seed: int, read: Callable[[Path], list[Item]]) -> list[Item]:
    if split not in (*SPLITS, ALL):
        raise unknown("split", split, [*SPLITS, ALL])
    found: list[Item] = []
    paths = [Path(root) for root in roots]
    if not paths:
        raise DataError("no data folder was named", hint="name one with --data DIR")
    for root in paths:
        if is_image(root):
            found.append((root.stem, (root,)))
            continue
        parts = split_folders(_folder(root))
        for part, folder in parts.items():
            found += [item for item in read(folder) if split in (ALL, split_of(item[0], part, parts, seed))]
    if not found:
        where = ", ".join(f"'{path}'" for path in paths)
        raise DataError(f"nothing in the {split} split of {where}", hint=f"add photos, or a folder {split}/ of its own")
    return _unique(found)


def _unique(items: list[Item]) -> list[Item]:
    """Lengthen the names that more than one photo has to paths below what all photos share."""
    counts = Counter(name for name, _ in items)
    common = os.path.commonpath([paths[0].resolve().parent for _, paths in items])
    return [
        (name if counts[name] == 1 else paths[0].resolve().relative_to(common).as_posix(), paths)
        for name, paths in items
    ]


def _folder(root: str | Path) -> Path:
    path = Path(root)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise DataError(f"no data folder at '{path}': found {found}", hint="check the path given to --data")
    if not any(path.iterdir()):
        raise DataError(f"the data folder '{path}' is empty", hint="put photos and targets into it")
    return path


def split_folders(root: Path) -> dict[str, Path]:
    """Folders by the split they hold; "" for a root that holds photos of no split in particular."""
    below = {split: folder for split, names in SPLIT_DIRS.items() if (folder := _below(root, names))}
    if below:
        return below
    own = [split for split, names in SPLIT_DIRS.items() if root.resolve().name.lower() in map(str.lower, names)]
    return {own[0] if own else "": root}


def split_of(stem: str, part: str, parts: Mapping[str, Path], seed: int) -> str:
    """Say which split a photo in the folder of ``part`` belongs to."""
    if part in ("val", "test"):
        return part
    # in train, or in no split in particular: what has no folder of its own is sliced from here
    value = fold(stem, seed)
    return next((s for s, (low, high) in _TENTHS.items() if s not in parts and low <= value < high), "train")


def _match(folder: Path, names: _Names) -> list[Item]:
    images, targets = _photos_and_targets(folder, names)
    problems = [
        f"{len(alone)} {what} without a {other} ({', '.join(sorted(alone)[:3])}{', ...' if len(alone) > 3 else ''})"
        for what, other, alone in (
            ("photos", "target", images.keys() - targets.keys()),
            ("targets", "photo", targets.keys() - images.keys()),
        )
        if alone
    ]
    if problems:
        raise DataError(f"'{folder}' has {' and '.join(problems)}", hint="a photo and its target share their name")
    return [(stem, (image, targets[stem])) for stem, image in sorted(images.items())]


def _photos_and_targets(folder: Path, names: _Names) -> tuple[Files, Files]:
    image_dir, target_dir = _below(folder, names.images), _below(folder, names.targets)
    if image_dir and target_dir:
        images, targets = _by_stem(list_images(image_dir)), _by_stem(list_images(target_dir))
        for where, files in ((image_dir, images), (target_dir, targets)):
            if not files:
                raise DataError(f"no images in '{where}'", hint="put .jpg or .png files into it")
        return images, targets
    together = list_images(image_dir or folder)
    images = _by_stem(p for p in together if p.suffix.lower() in _LOSSY)
    targets = _by_stem(p for p in together if p.suffix.lower() in _LOSSLESS)
    if not images.keys() & targets.keys():
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:5])
        raise DataError(f"no photos with targets in '{folder}': found {inside}", hint=f"wanted {names}")
    return images, targets


def _below(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of ``names`` (each may be a path) that is a folder below, whatever its case."""
    return next((found for name in names if (found := _descend(folder, name.lower().split("/")))), None)


def _descend(folder: Path, parts: Sequence[str]) -> Path | None:
    for part in parts:
        matches = sorted(p for p in folder.iterdir() if p.name.lower() == part and p.is_dir())
        if not matches:
            return None
        folder = matches[0]
    return folder


def photos_below(folder: Path) -> list[Item]:
    """(name, (path,)) of the photos in a folder and its sub-folders, but those named like a target folder.

    Raises:
        DataError: If there is none.
    """
    targets = {name.lower().rpartition("/")[2] for name in TARGET_DIRS}
    found: list[Item] = [
        (str(path.relative_to(folder).with_suffix("")), (path,))
        for path in sorted(folder.rglob("*"))
        if is_image(path) and targets.isdisjoint(part.lower() for part in path.relative_to(folder).parts[:-1])
    ]
    if not found:
        raise DataError(f"no photos in '{folder}'", hint="name a folder with .jpg or .png files")
    return found


def _by_stem(paths: Iterable[Path]) -> Files:
    files: Files = {}
    for path in paths:
        other = files.setdefault(path.stem, path)
        if other is not path:
            raise DataError(f"'{other}' and '{path.name}' share a name, wanted one file of each", hint="remove one")
    return files
