"""Packed photos against the plain folder: sizes and read speed: `python -m benchmarks.shards [FOLDER]`.

Both read the same photos in the same order, one after the other, and take turns, so that a slow minute of the machine
falls on both. "cold": the system is asked to drop the files from its page cache before each turn (what lies in a
disk's own cache it can't drop); "warm": they were read once just before. "bytes" is reading alone, "decoded" what a
training batch pays. One process, one thread.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from compress.core.console import set_up
from compress.core.machine import this_machine
from compress.kit.data.builtin import Builtin
from compress.kit.data.packing import Recipe, pack
from compress.kit.data.sets import Photos, open_photos
from compress.kit.data.shards import Shards, open_shards
from compress.kit.data.sources import find_sources

ROUNDS = 7
BUILTIN = 200  # pictures where no folder is named
LIMIT = 2000  # photos of a turn at most


@dataclass(frozen=True)
class Kind:
    """One way of keeping photos: open it anew, read one's bytes, decode one, and where its files lie."""

    name: str
    files: Sequence[Path]
    bytes: Callable[[], Callable[[int], int]]
    decoded: Callable[[], Callable[[int], int]]


def main() -> None:
    """Print sizes and images/s."""
    set_up(quiet=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else _pictures(Path(temporary) / "photos")
        sources = find_sources([folder])
        files = [source.path for source in sources]
        packed = Path(temporary) / "packed"
        start = time.perf_counter()
        pack(sources, packed, Recipe(), given=[str(folder)], advance=_quiet)
        seconds = time.perf_counter() - start
        shards = sorted(packed.rglob("*.arrow"))
        machine = this_machine()
        print(f"{folder}: {len(files)} photos; {machine.cpu}, {machine.cores} cores; packed in {seconds:.1f} s")
        for name, kept in (("folder", files), ("shards", [*shards, packed / "manifest.json"])):
            print(
                f"{name:<8} {len(kept):>6} files {_size(kept) / 1e6:>9.2f} MB  on disk {_blocks(kept) / 1e6:>9.2f} MB"
            )
        _flush([*files, *shards])
        kinds = (_folder(folder, files), _shards(packed, shards))
        print(
            f"{'':<30} {'folder':>10} {'shards':>10} {'ratio':>7}  images/s, medians of {ROUNDS} turns (least to most)"
        )
        for order, indices in _orders(len(files)).items():
            for what in ("bytes", "decoded"):
                for state in ("cold", "warm"):
                    print(_row(f"{order}, {what}, {state}", _measure(kinds, indices, what, cold=state == "cold")))


def _pictures(folder: Path) -> Path:
    folder.mkdir()
    data = Builtin("train", length=BUILTIN)
    for index in range(BUILTIN):
        PIL.Image.fromarray(data.original(index)["image"]).save(folder / f"{index:05d}.jpg", quality=90)
    return folder


def _orders(length: int) -> dict[str, list[int]]:
    count = min(length, LIMIT)
    drawn = np.random.default_rng(0).permutation(length)[:count]
    return {"sequential": list(range(count)), "random": [int(index) for index in drawn]}


def _folder(folder: Path, files: Sequence[Path]) -> Kind:
    def read() -> Callable[[int], int]:
        return lambda index: len(files[index].read_bytes())

    def decode() -> Callable[[int], int]:
        photos: Photos = open_photos([folder])
        return lambda index: photos.original(index)["image"].size

    return Kind("folder", files, read, decode)


def _shards(packed: Path, files: Sequence[Path]) -> Kind:
    def read() -> Callable[[int], int]:
        shards = open_shards(packed)
        return lambda index: len(shards.encoded(index).to_pybytes())

    def decode() -> Callable[[int], int]:
        shards: Shards = open_shards(packed)
        return lambda index: shards.original(index)["image"].size

    return Kind("shards", files, read, decode)


def _measure(kinds: Sequence[Kind], indices: Sequence[int], what: str, *, cold: bool) -> list[list[float]]:
    """Images/s of each kind, a value a turn; the kinds take turns, each other round in the other order."""
    speeds: list[list[float]] = [[] for _ in kinds]
    for turn in range(ROUNDS):
        for position in range(len(kinds)) if turn % 2 else reversed(range(len(kinds))):
            kind = kinds[position]
            reader = getattr(kind, what)()
            if cold:
                del reader  # a mapped file can't be dropped
                _drop(kind.files)
                reader = getattr(kind, what)()
            else:
                _all(reader, indices)
            start = time.perf_counter()
            _all(reader, indices)
            speeds[position].append(len(indices) / (time.perf_counter() - start))
            del reader
    return speeds


def _all(reader: Callable[[int], int], indices: Iterable[int]) -> None:
    for index in indices:
        assert reader(index) > 0


def _row(name: str, speeds: Sequence[Sequence[float]]) -> str:
    folder, shards = (statistics.median(values) for values in speeds)
    spans = "; ".join(f"{min(values):.0f} to {max(values):.0f}" for values in speeds)
    return f"{name:<30} {folder:>10.0f} {shards:>10.0f} {shards / folder:>7.2f}  ({spans})"


def _descriptors(files: Iterable[Path]) -> Iterator[int]:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _flush(files: Iterable[Path]) -> None:
    """Write what is dirty: only clean pages can be dropped."""
    for descriptor in _descriptors(files):
        os.fsync(descriptor)


def _drop(files: Iterable[Path]) -> None:
    for descriptor in _descriptors(files):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _blocks(files: Iterable[Path]) -> int:
    return sum(512 * path.stat().st_blocks for path in files)


def _quiet(note: str = "") -> None:
    del note


if __name__ == "__main__":
    main()
