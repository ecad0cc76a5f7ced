"""Data sets of photos, pairs and their joins, each with a fingerprint; folders and batches are beside it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import DataError
from compress.kit.data.batches import Augmentation, Batches, Draw, stream
from compress.kit.data.folders import ALL, IMAGE_DIRS, TARGET_DIRS, find_pairs, find_photos
from compress.kit.images import Array, read_grey, read_rgb

__all__ = [
    "ALL",
    "IMAGE_DIRS",
    "TARGET_DIRS",
    "Augmentation",
    "Batches",
    "Concat",
    "Dataset",
    "Draw",
    "Pairs",
    "Photos",
    "Subset",
    "digest",
    "open_pairs",
    "open_photos",
    "spread",
    "stream",
]

Sample = dict[str, Array]  # "image": (H, W, 3) and, where there are labels, "target": (H, W[, 3]), both 0..255


class Dataset(ABC):
    """Pictures by index, with names and a fingerprint of everything they are made of."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """One name per sample, what a user would call it."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """16 hex digits: equal for equal names and contents, wherever the files lie."""

    @abstractmethod
    def original(self, index: int) -> Sample:
        """Read one sample at its original size, uint8: "image" (H, W, 3) and, of pairs, "target" (H, W[, C]).

        Raises:
            DataError: If a file is not a whole image, or photo and target differ in size.
        """

    def vectors(self, index: int) -> dict[str, NDArray[np.float32]]:  # noqa: ARG002
        """What else is known of a sample, one vector (F,) each, the same for every crop of it; mostly nothing."""
        return {}

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Pairs(Dataset):
    """Photos with a target picture each.

    Args:
        items: (name, photo, target) of each pair.
        read_target: Reads a target: a mask as (H, W) unless told otherwise.
    """

    items: tuple[tuple[str, Path, Path], ...]
    read_target: Callable[[Path], Array] = read_grey

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the pairs, in order."""
        return tuple(name for name, _, _ in self.items)

    @property
    def fingerprint(self) -> str:
        """Of names and of the contents of both files of each pair."""
        return digest(f"{name} {_file(image)} {_file(target)}" for name, image, target in sorted(self.items))

    def original(self, index: int) -> Sample:
        """Read "image" (H, W, 3) and "target" (H, W[, C])."""
        _, image_path, target_path = self.items[index]
        image, target = read_rgb(image_path), self.read_target(target_path)
        if image.shape[:2] != target.shape[:2]:
            sizes = " and ".join(f"{a.shape[1]} x {a.shape[0]}" for a in (image, target))
            raise DataError(
                f"'{image_path}' and '{target_path}' differ in size: found {sizes} pixels, wanted equal sizes",
                hint="export the target again from that photo",
            )
        return {"image": image, "target": target}


@dataclass(frozen=True)
class Photos(Dataset):
    """Photos without labels: (name, path) of each."""

    items: tuple[tuple[str, Path], ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the photos, in order."""
        return tuple(name for name, _ in self.items)

    @property
    def fingerprint(self) -> str:
        """Of names and contents."""
        return digest(f"{name} {_file(path)}" for name, path in sorted(self.items))

    def original(self, index: int) -> Sample:
        """Read "image" (H, W, 3)."""
        return {"image": read_rgb(self.items[index][1])}


@dataclass(frozen=True)
class Concat(Dataset):
    """Several data sets, one after the other; all with targets or all without."""

    parts: tuple[Dataset, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all parts, in order."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def fingerprint(self) -> str:
        """Of the parts' fingerprints, in order."""
        return digest(part.fingerprint for part in self.parts)

    def original(self, index: int) -> Sample:
        """Read the sample from the part it lies in."""
        part, inside = self._locate(index)
        return part.original(inside)

    def vectors(self, index: int) -> dict[str, NDArray[np.float32]]:
        """Ask the part it lies in."""
        part, inside = self._locate(index)
        return part.vectors(inside)

    def _locate(self, index: int) -> tuple[Dataset, int]:
        ends = self._ends
        part = bisect_right(ends, index)
        return self.parts[part], index - (ends[part - 1] if part else 0)

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        return tuple(accumulate(len(part) for part in self.parts))


@dataclass(frozen=True)
class Subset(Dataset):
    """The samples of a data set at ``indices``, in that order."""

    whole: Dataset
    indices: tuple[int, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the chosen samples, in order."""
        return tuple(self.whole.names[i] for i in self.indices)

    @property
    def fingerprint(self) -> str:
        """Of the whole's fingerprint and the indices."""
        return digest((self.whole.fingerprint, *map(str, self.indices)))

    def original(self, index: int) -> Sample:
        """Read the sample from the whole."""
        return self.whole.original(self.indices[index])

    def vectors(self, index: int) -> dict[str, NDArray[np.float32]]:
        """Ask the whole."""
        return self.whole.vectors(self.indices[index])


def spread_indices(length: int, limit: int) -> tuple[int, ...]:
    """At most ``limit`` of ``length`` indices, spread evenly."""
    count = min(limit, length)
    return tuple(k * length // count for k in range(count))


def spread(data: Dataset, limit: int | None) -> Dataset:
    """At most ``limit`` samples, spread evenly over ``data``; all of them when None."""
    if limit is None or limit >= len(data):
        return data
    return Subset(data, spread_indices(len(data), limit))


def open_pairs(
    roots: Iterable[str | Path],
    split: str,
    *,
    image_dirs: tuple[str, ...] = IMAGE_DIRS,
    target_dirs: tuple[str, ...] = TARGET_DIRS,
    seed: int = 0,
    read_target: Callable[[Path], Array] = read_grey,
) -> Pairs:
    """Open folders of photos and targets as one data set; ``folders.find_pairs`` says which layouts are understood.

    Raises:
        DataError: If a folder is absent, empty, of no known layout or has a photo or target without its partner,
            or nothing is left in that split.
    """
    return Pairs(
        tuple(find_pairs(roots, split, image_dirs=image_dirs, target_dirs=target_dirs, seed=seed)), read_target
    )


def open_photos(roots: Iterable[str | Path], split: str = ALL, *, seed: int = 0) -> Photos:
    """Open photos and folders of photos, sub-folders included, as one data set without labels.

    Raises:
        DataError: If a folder is absent or has no photo, or nothing is left in that split.
    """
    return Photos(tuple(find_photos(roots, split, seed=seed)))


def digest(parts: Iterable[str]) -> str:
    """First 16 hex digits of the sha256 of ``parts``, one a line."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _file(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {_content(path, stat.st_size, stat.st_mtime_ns)}"


@cache
def _content(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
