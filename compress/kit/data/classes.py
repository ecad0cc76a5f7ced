"""Class maps: reading them from files, checking them, and what is counted in one, and when two are compared."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.kit.data.sets import Dataset, Sample, digest
from compress.kit.images import MAX_PIXELS, Array

VOID = 255  # the label of pixels that belong to no class: neither learned from nor scored
VOID_COLOR = (224, 224, 192)  # Pascal VOC's cream, the colour its palette gives 255
STRAY = 0.01  # share of a coloured map's pixels that may have a colour of no class
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)

Counts = NDArray[np.float64]  # (C, C): pixels by true class (row) and predicted class (column)


def read_classes(path: Path, table: Sequence[int] = ()) -> Array:
    """Read a class map as (H, W) uint8: the palette's numbers, or the grey values, of a one-channel image.

    Args:
        path: The file.
        table: Class of each stored number, 256 of them; a number stands for itself where there is none.

    Raises:
        DataError: If the file is absent, no whole image, or one of colours instead of class numbers.
    """
    numbers = _pixels(path, _class_numbers)
    return np.asarray(table, np.uint8)[numbers] if len(table) else numbers


def read_colors(path: Path, classes: Mapping[tuple[int, int, int], int]) -> Array:
    """Read a class map of colours as (H, W) uint8. classes: the number of each colour, ``VOID`` for none.

    Other colours are void up to ``STRAY`` of the pixels: published maps have a few that were painted wrong.

    Raises:
        DataError: If the file is absent, no whole image, or has more pixels of other colours.
    """
    planes = _pixels(path, _rgb).astype(np.uint32)
    packed = planes[..., 0] << 16 | planes[..., 1] << 8 | planes[..., 2]
    colors = {red << 16 | green << 8 | blue: number for (red, green, blue), number in classes.items()}
    known = np.array(sorted(colors), np.uint32)
    places = np.searchsorted(known, packed).clip(max=len(known) - 1)
    right = known[places] == packed
    if 1 - right.mean() > STRAY:
        odd = f"#{int(packed[~right][0]):06x}"
        raise DataError(
            f"'{path}' has {np.sum(~right)} pixels of colours that are no class, the first {odd}",
            hint="wanted the colours of the data set's own list",
        )
    numbers = np.array([colors[int(color)] for color in known], np.uint8)
    return np.where(right, numbers[places], np.uint8(VOID))


def _pixels(path: Path, convert: Callable[[PIL.Image.Image, Path], Array]) -> Array:
    if not path.is_file():
        raise DataError(f"no class map at '{path}'", hint="check the path")
    try:
        with PIL.Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"'{path}' is too big: found {image.width} x {image.height} pixels")
            return convert(image, path)
    except (*_BROKEN, PIL.Image.DecompressionBombError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"'{path}' can't be decoded: found {found}, wanted a whole image") from error


def _class_numbers(image: PIL.Image.Image, path: Path) -> Array:
    if image.mode not in ("P", "L", "1"):
        raise DataError(
            f"'{path}' holds {image.mode} pixels, wanted class numbers (8-bit grey or palette)",
            hint="save it as an 8-bit PNG whose values are the classes, 255 for none",
        )
    return np.array(image).astype(np.uint8)


def _rgb(image: PIL.Image.Image, _path: Path) -> Array:
    return np.array(image.convert("RGB"))


@dataclass(frozen=True)
class Classed(Dataset):
    """Photos with class maps over a list of classes; every map is checked against it as it is read.

    Args:
        whole: The data set whose targets are class numbers (H, W), 255 for none.
        labels: Names of the classes, in the order of their numbers.
    """

    whole: Dataset
    labels: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the samples, in order."""
        return self.whole.names

    @property
    def fingerprint(self) -> str:
        """Of the whole's fingerprint and the names of the classes."""
        return digest((self.whole.fingerprint, *self.labels))

    def original(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: If a pixel is labelled with a number that is no class.
        """
        sample = self.whole.original(index)
        check_labels(sample["target"], len(self.labels), f"the class map of '{self.names[index]}'")
        return sample

    def vectors(self, index: int) -> dict[str, NDArray[np.float32]]:
        """Ask the whole."""
        return self.whole.vectors(index)

    def class_pixels(self) -> Iterator[NDArray[np.int64]]:
        """Count the labelled pixels of each class, (C,), one image at a time: all are read once."""
        for index in range(len(self)):
            target = self.original(index)["target"]
            yield np.bincount(target[target != VOID], minlength=len(self.labels))


def check_labels(target: Array, classes: int, what: str) -> None:
    """Refuse a class map (H, W) with numbers outside 0 .. ``classes`` - 1 and 255.

    Raises:
        DataError: If there are any; ``what`` names the map.
    """
    outside = np.unique(target[(target >= classes) & (target != VOID)])
    if outside.size:
        shown = ", ".join(map(str, outside[:5])) + (", ..." if outside.size > 5 else "")
        raise DataError(
            f"{what} has labels {shown}, wanted 0..{classes - 1}, or {VOID} for none",
            hint="classes.txt beside the folders names the classes, one a line; a network tells only its own apart",
        )


def confusion(prediction: Array, target: Array, classes: int) -> Counts:
    """Count pixels by true (row) and predicted (column) class: (classes, classes); void pixels are left out.

    prediction: (H, W), 0 .. classes - 1; target: (H, W), the same or 255.
    """
    assert prediction.shape == target.shape, f"prediction {prediction.shape} against target {target.shape}"
    known = target != VOID
    pairs = target[known].astype(np.int64) * classes + prediction[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.float64)


def class_iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union of each class, (C,); NaN for a class that is neither there nor predicted.

    Everingham et al. 2015, "The Pascal visual object classes challenge: a retrospective".
    """
    right = np.diag(counts)
    return _shares(right, counts.sum(axis=0) + counts.sum(axis=1) - right)


def class_dice(counts: Counts) -> NDArray[np.float64]:
    """Dice coefficient 2 I / (|A| + |B|) of each class, (C,); NaN for a class that is neither there nor predicted."""
    return _shares(2 * np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1))


def class_accuracy(counts: Counts) -> NDArray[np.float64]:
    """Share of each class's pixels that were given to it, (C,); NaN for a class that is not there."""
    return _shares(np.diag(counts), counts.sum(axis=1))


def pixel_accuracy(counts: Counts) -> float:
    """Share of the labelled pixels whose class is right; 0 where nothing is labelled."""
    return float(np.diag(counts).sum() / max(counts.sum(), 1.0))


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Mean of the values that are numbers; 0 where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else 0.0


def _shares(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def palette() -> Array:
    """Colours (256, 3) of the class numbers: Pascal VOC's colour map, class 0 black, 255 cream.

    The bits of the number, three at a time, become the high bits of red, green and blue.
    """
    numbers = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for bit in range(8):
        planes = (numbers[:, None] >> (3 * bit + np.arange(3))) & 1
        colors |= planes << (7 - bit)
    colors[VOID] = VOID_COLOR
    return colors.astype(np.uint8)
