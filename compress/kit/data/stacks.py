"""Membrane data: TIFF stacks as the ISBI 2012 challenge publishes them, and folders of photos and masks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image

from compress.core.errors import DataError, unknown
from compress.kit.data.folders import ALL, IMAGE_DIRS, SPLIT_DIRS, SPLITS, find_pairs, fold
from compress.kit.data.sets import Concat, Dataset, Pairs, Photos, Sample, Subset, digest
from compress.kit.images import MAX_PIXELS, Array, read_grey

T = TypeVar("T")

LABEL_DIRS = ("labels", "label", "masks", "mask", "membranes", "gt")
TENTHS = ("val", "test")  # splits that a tenth of the training pages stands in for where they have none of their own
WANTED = "wanted 8-bit grey pages"
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError)  # of Pillow's decoders


@dataclass(frozen=True)
class Stack(Dataset):
    """The pages of a TIFF stack, with those of its labels where it has any.

    Args:
        volume: The stack of photos.
        labels: The stack of their masks, cells 255 and membranes 0; None for photos alone.
    """

    volume: Path
    labels: Path | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``train-volume-00`` and so on.

        Raises:
            DataError: If a file is no whole TIFF stack of 8-bit grey pages, or the two differ in number of pages.
        """
        count = page_count(self.volume)
        if self.labels is not None and page_count(self.labels) != count:
            raise DataError(
                f"'{self.volume}' has {count} pages, '{self.labels.name}' has {page_count(self.labels)}, "
                "wanted equally many",
                hint="copy both stacks again from the same release",
            )
        return tuple(f"{self.volume.stem}-{page:02d}" for page in range(count))

    @property
    def fingerprint(self) -> str:
        """Of the files' contents."""
        if self.labels is None:
            return Photos(((self.volume.stem, self.volume),)).fingerprint
        return digest(("stack", Pairs(((self.volume.stem, self.volume, self.labels),)).fingerprint))

    def original(self, index: int) -> Sample:
        """Read "image" (H, W, 3), the grey page three times over, and "target" (H, W) where there are labels."""
        page = range(len(self))[index]
        grey = read_page(self.volume, page)
        sample = {"image": np.repeat(grey[..., None], 3, axis=2)}
        if self.labels is None:
            return sample
        mask = check_mask(read_page(self.labels, page), f"page {page} of '{self.labels}'")
        if mask.shape != grey.shape:
            sizes = " and ".join(f"{a.shape[1]} x {a.shape[0]}" for a in (grey, mask))
            raise DataError(
                f"page {page} of '{self.volume}' and '{self.labels.name}' differ in size: found {sizes} pixels, wanted "
                "equal sizes",
                hint="copy both stacks again from the same release",
            )
        return {**sample, "target": mask}


def open_membranes(root: str | Path, split: str, *, seed: int = 0) -> Dataset:
    """Open one folder of membrane photos and masks.

    Either ``train-volume.tif`` + ``train-labels.tif`` and, where there are such, ``test-volume.tif`` +
    ``test-labels.tif`` as ISBI 2012 publishes them; or ``images/`` + ``labels/``, with or without ``train/``, ``val/``
    and ``test/`` above them. A split without data of its own is a tenth of the training pages, one at least, chosen
    by a hash of (seed, name).

    Raises:
        DataError: If the folder is absent or of neither layout, stacks differ in their pages, a photo has no mask or
            the reverse, or nothing is left in that split.
    """
    if split not in (*SPLITS, ALL):
        raise unknown("split", split, [*SPLITS, ALL])
    folder = Path(root)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(f"no data folder at '{folder}': found {found}", hint="check the path given to --data")
    stacks = _stacks(folder)
    if stacks:
        return _split(_labelled(folder, stacks, split), folder, split, seed)
    return _split(_folders(folder), folder, split, seed)


def page_count(path: Path) -> int:
    """Count the pages of a TIFF stack.

    Raises:
        DataError: If the file is absent, no TIFF, or cut short.
    """
    return _with(path, lambda image: int(getattr(image, "n_frames", 1)))


def read_page(path: Path, page: int) -> Array:
    """Read one page (H, W), 0..255, of a TIFF stack; pages count from 0.

    Raises:
        DataError: If the file is no TIFF, cut short, has no such page, or the page is not 8-bit grey.
    """

    def read(image: PIL.Image.Image) -> Array:
        image.seek(page)
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"page {page} of '{path}' is too big: found {image.width} x {image.height} pixels")
        if image.mode not in ("L", "1"):
            kind = {"I;16": "16-bit grey", "I;16B": "16-bit grey", "P": "a palette"}.get(image.mode, image.mode)
            raise DataError(
                f"page {page} of '{path}' is not 8-bit grey: found {kind}, {WANTED}",
                hint="in Fiji: Image > Type > 8-bit, then save it as TIFF",
            )
        return np.array(image.convert("L"))

    return _with(path, read)


def check_mask(mask: Array, where: str) -> Array:
    """Return a mask whose cells are 255, as the challenge has them.

    Raises:
        DataError: If it was saved with 0 and 1, which would make every pixel a membrane.
    """
    if mask.size and mask.max() == 1:
        raise DataError(f"{where} holds 0 and 1, wanted 0 for membranes and 255 for cells", hint="multiply it by 255")
    return mask


def read_mask(path: Path) -> Array:
    """Read a mask (H, W), 0..255, from a picture.

    Raises:
        DataError: If it is no whole picture, or holds 0 and 1.
    """
    return check_mask(read_grey(path), f"'{path}'")


def _with(path: Path, read: Callable[[PIL.Image.Image], T]) -> T:
    if not path.is_file():
        raise DataError(f"no TIFF stack at '{path}'", hint="check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            warnings.filterwarnings("error", message="Truncated File Read|Corrupt EXIF")  # a page list cut short
            with PIL.Image.open(path, formats=("TIFF",)) as image:
                return read(image)
    except PIL.UnidentifiedImageError as error:
        raise DataError(f"'{path}' is no TIFF file: {WANTED}", hint="copy it again") from error
    except (*_BROKEN, UserWarning, PIL.Image.DecompressionBombError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"'{path}' can't be read: found {found}, {WANTED}", hint="copy it again") from error


def _stacks(folder: Path) -> Mapping[str, Path]:
    """Files such as train-volume.tif by what they hold, "train-volume"; the suffix and letters' case don't matter."""
    known = {f"{split}-{kind}" for split in SPLITS for kind in ("volume", "labels")}
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".tif", ".tiff")]
    return {path.stem.lower(): path for path in files if path.stem.lower() in known}


def _labelled(folder: Path, stacks: Mapping[str, Path], split: str) -> Mapping[str, Dataset]:
    """The stacks that have labels, by split; a test volume without them is no mistake until it is to be scored."""
    parts: dict[str, Dataset] = {}
    for name in SPLITS:
        volume, labels = stacks.get(f"{name}-volume"), stacks.get(f"{name}-labels")
        if volume and labels:
            parts[name] = Stack(volume, labels)
        elif labels or (volume and (name != "test" or split == "test")):
            raise _half(folder, name, volume, labels)
    if "train" not in parts and split not in parts:
        raise DataError(
            f"no train-volume.tif and train-labels.tif in '{folder}': found {', '.join(sorted(stacks))}",
            hint="unpack the challenge's archive there",
        )
    if "test-volume" in stacks and "test" not in parts:
        parts["test"] = Concat(())  # so that no tenth of the training pages is held back in its place
    return parts


def _half(folder: Path, name: str, volume: Path | None, labels: Path | None) -> DataError:
    if volume and name == "test":
        return DataError(
            f"'{volume}' has no test-labels.tif beside it: it can be applied to, not scored",
            hint="take --split val, or put the two train stacks alone into a folder, which holds a tenth back as test",
        )
    have, lack = (volume, "labels") if volume else (labels, "volume")
    assert have is not None
    return DataError(f"'{have}' has no {name}-{lack}.tif beside it in '{folder}'", hint="copy both stacks there")


def _folders(folder: Path) -> Mapping[str, Dataset]:
    """Folders of photos and masks by the split they hold; one without such parts is the training data."""
    lower = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    below = {s: lower[n.lower()] for s, names in SPLIT_DIRS.items() for n in names[::-1] if n.lower() in lower}
    parts: dict[str, Dataset] = {}
    for name, part in (below or {"train": folder}).items():
        found = find_pairs([part], ALL, image_dirs=IMAGE_DIRS, target_dirs=LABEL_DIRS)
        parts[name] = Pairs(tuple(found), read_mask)
    return parts


def _split(parts: Mapping[str, Dataset], folder: Path, split: str, seed: int) -> Dataset:
    """Take a split of what a folder holds."""
    if split == ALL:
        return Concat(tuple(part for part in parts.values() if len(part)))
    if split in parts and split != "train":
        return parts[split]
    train = parts.get("train")
    kept = _tenth(train.names, [name for name in TENTHS if name not in parts], split, seed) if train else ()
    if train is None or not kept:
        raise DataError(f"nothing in the {split} split of '{folder}'", hint=f"add pages, or data for {split} alone")
    return train if len(kept) == len(train) else Subset(train, kept)


def _tenth(names: Sequence[str], missing: Sequence[str], split: str, seed: int) -> tuple[int, ...]:
    """Indices of ``split`` among the training pages, in order.

    Sorted by hash, the first tenth stands in for the first missing split, the next one for the second.
    """
    order = sorted(range(len(names)), key=lambda index: (fold(names[index], seed), index))
    count = math.ceil(len(names) / 10)
    held = {name: order[count * k : count * (k + 1)] for k, name in enumerate(missing)}
    chosen = order[count * len(missing) :] if split == "train" else held.get(split, [])
    return tuple(sorted(chosen))
