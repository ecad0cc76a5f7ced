"""Which photos are packed: folders with their splits, single photos, every name apart from the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.core.errors import DataError
from compress.kit.data.folders import find_photos, photos_below, split_folders


@dataclass(frozen=True)
class Source:
    """One photo to pack.

    Args:
        name: What it is called.
        path: Its file.
        part: Folder of the source it lies in: "train", "val", "test", or "" for one of no split in particular.
        parts: Every such folder of that source.
    """

    name: str
    path: Path
    part: str = ""
    parts: tuple[str, ...] = ("",)

    @property
    def stamp(self) -> list[Any]:
        """What changes when the photo does: name, size, time of the last change."""
        stat = self.path.stat()
        return [self.name, stat.st_size, stat.st_mtime_ns]


def find_sources(roots: Sequence[Path], loose: Sequence[Path] = ()) -> list[Source]:
    """Find what is to be packed: photos below folders as ``folders.find_photos`` finds them, and single photos.

    A photo that is named twice is packed once.

    Args:
        roots: Folders.
        loose: Photos that lie in no split.

    Raises:
        DataError: If a folder is absent or has no photos, or a file is none.
    """
    groups = [(root.resolve().name, _below(root)) for root in roots]
    if loose:
        groups.append(("photos", [Source(name, path) for name, path in find_photos(loose)]))
    found: dict[Path, Source] = {}
    for source in _named_apart(groups):
        found.setdefault(source.path.resolve(), source)
    return list(found.values())


def _below(root: Path) -> list[Source]:
    find_photos([root])  # refuses what is no folder of photos
    parts = split_folders(root)
    found = []
    for part, folder in parts.items():
        try:
            items = photos_below(folder)
        except DataError:  # one split's folder may be empty
            continue
        counts = Counter(name for name, _ in items)
        for name, (path,) in items:
            own = name if counts[name] == 1 else path.relative_to(folder).as_posix()  # a.jpg beside a.png
            found.append(Source(own, path, part, tuple(parts)))
    return found


def _named_apart(groups: Sequence[tuple[str, list[Source]]]) -> list[Source]:
    """Put a folder's name before the names that photos of another folder have too."""
    owners = Counter(name for _, group in groups for name in {source.name for source in group})
    labels = Counter(label for label, _ in groups)
    found = []
    for position, (label, group) in enumerate(groups):
        mark = label if labels[label] == 1 else f"{label}-{position}"
        found += [replace(s, name=f"{mark}/{s.name}") if owners[s.name] > 1 else s for s in group]
    return found
