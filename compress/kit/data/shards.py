"""Photos in sequential shards, which are Apache Arrow files: mapped into memory, any photo is read in any order.

Layout of a packed folder: ``manifest.json`` and ``[train|val|test/]shard-00000.arrow``, each one record batch of the
columns "name", "image" (an encoded picture), "sha256" (of it) and, where one was asked for, "embedding".
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from compress.core.errors import DataError, unknown
from compress.kit.data.folders import SPLITS, split_of
from compress.kit.data.sets import ALL, Dataset, Sample, digest
from compress.kit.images import decode_rgb

SCHEMA = 1
KIND = "image-compress shards"
MANIFEST = "manifest.json"
AGAIN = "run the same `compress pack` again: it makes what is missing"


@dataclass(frozen=True)
class Shard:
    """One file of a packed folder.

    Args:
        file: Path below the folder.
        part: Folder of the source its photos lay in: "train", "val", "test", or "" for photos of no split.
        parts: Every such folder of that source.
        bytes: Size of the file.
        names: Of its photos, in order.
        sha256: Of their encoded pictures.
        sizes: Bytes of their encoded pictures.
    """

    file: str
    part: str
    parts: tuple[str, ...]
    bytes: int
    names: tuple[str, ...]
    sha256: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """What a packed folder holds.

    Args:
        sources: What was packed, as the user named it.
        size: Shorter side the photos were brought to, None for the encoded files as they were.
        embedding: What made the embeddings (its name, weights and their length), None where there are none.
        shards: Its files, in order.
        left_out: Photos that could not be read: [path, reason].
        complete: Whether packing came to its end.
    """

    sources: tuple[str, ...]
    size: int | None
    embedding: Mapping[str, Any] | None
    shards: tuple[Shard, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    complete: bool = False
    schema: int = SCHEMA
    kind: str = KIND


@dataclass(frozen=True)
class Row:
    """Where a photo lies, and what is known of it without opening its shard."""

    name: str
    file: str
    position: int
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Shards(Dataset):
    """Photos of a packed folder. A file is opened when a process first reads from it, so forks share none.

    Args:
        folder: The packed folder.
        rows: The photos, in the order of the folder they were packed from.
        embedding: What made the embeddings, None where there are none.
    """

    folder: Path
    rows: tuple[Row, ...]
    embedding: Mapping[str, Any] | None = None
    _open: dict[tuple[int, str], pa.RecordBatch] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the photos, in order."""
        return tuple(row.name for row in self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """Of names and contents, from the manifest: that of the folder, where files were packed as they were.

        Embeddings count by the network that made them.
        """
        whole = digest(f"{row.name} {row.bytes} {row.sha256}" for row in sorted(self.rows, key=lambda row: row.name))
        return whole if self.embedding is None else digest([whole, json.dumps(dict(self.embedding), sort_keys=True)])

    def original(self, index: int) -> Sample:
        """Read "image" (H, W, 3).

        Raises:
            DataError: If the shard or the picture in it is damaged.
        """
        row = self.rows[index]
        return {"image": decode_rgb(self.encoded(index), f"{self.folder / row.file}: {row.name}")}

    def encoded(self, index: int) -> pa.Buffer:
        """The encoded picture: a view of the mapped file, read from disk as it is looked at.

        Raises:
            DataError: If the shard is damaged.
        """
        row = self.rows[index]
        return self._batch(row.file).column("image")[row.position].as_buffer()

    def vectors(self, index: int) -> dict[str, NDArray[np.float32]]:
        """Read "embedding" (F,), where the folder was packed with one: of the whole photo, before any augmentation."""
        if self.embedding is None:
            return {}
        row = self.rows[index]
        column = self._batch(row.file).column("embedding")
        length = column.type.list_size
        flat = column.flatten().slice(row.position * length, length)  # both are views
        return {"embedding": flat.to_numpy(zero_copy_only=True).astype(np.float32)}

    def _batch(self, file: str) -> pa.RecordBatch:
        key = (os.getpid(), file)
        if key not in self._open:
            self._open[key] = open_batch(self.folder / file)
        return self._open[key]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # an opened file does not travel to another process


def is_packed(folder: str | Path) -> bool:
    """Whether a folder was written by ``compress pack``."""
    path = Path(folder) / MANIFEST
    try:
        return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("kind") == KIND
    except (ValueError, AttributeError):
        return False


def open_shards(folder: str | Path, split: str = ALL, *, seed: int = 0) -> Shards:
    """Open the photos of a packed folder that belong to ``split`` ("train", "val", "test" or "all"), as packed.

    The split is the one ``folders.find_photos`` gives for what was packed, at any seed: folders of the source named
    after a split are that split, and what has no folder of its own is a tenth by a hash of (seed, name).

    Raises:
        DataError: If the folder is none, was not packed to its end, lacks a shard or has one of another size, or
            nothing is left in that split.
    """
    if split not in (*SPLITS, ALL):
        raise unknown("split", split, [*SPLITS, ALL])
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise DataError(f"'{folder}' was not packed to its end", hint=AGAIN)
    for shard in manifest.shards:
        _check_file(folder / shard.file, shard.bytes)
    rows = [
        Row(name, shard.file, position, shard.sha256[position], shard.sizes[position])
        for shard in manifest.shards
        for position, name in enumerate(shard.names)
        if split in (ALL, split_of(name, shard.part, dict.fromkeys(shard.parts, folder), seed))
    ]
    if not rows:
        raise DataError(f"nothing in the {split} split of '{folder}'", hint="pack more photos")
    return Shards(folder, tuple(rows), manifest.embedding)


def read_manifest(folder: Path) -> Manifest:
    """Read what a packed folder holds.

    Raises:
        DataError: If there is no manifest, or it is malformed or of a newer schema.
    """
    path = folder / MANIFEST
    if not path.is_file():
        found = "a folder without it" if folder.is_dir() else "nothing"
        raise DataError(f"no '{path}': found {found}, wanted a packed folder", hint="`compress pack` makes one")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["kind"] != KIND:
            raise ValueError(f"it says kind '{data['kind']}', wanted '{KIND}'")
        if data["schema"] > SCHEMA:
            raise DataError(f"'{path}' has schema {data['schema']}, this version reads up to {SCHEMA}",
                            hint="update image-compress")  # fmt: skip
        shards = tuple(_shard(entry) for entry in data["shards"])
        manifest = Manifest(**{key: value for key, value in data.items() if key in Manifest.__dataclass_fields__})
        return replace(
            manifest,
            sources=tuple(data["sources"]),
            shards=shards,
            left_out=tuple((str(path), str(why)) for path, why in data["left_out"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"'{path}' is no manifest of shards: {error!r}", hint=AGAIN) from error


def _shard(entry: Mapping[str, Any]) -> Shard:
    lists = {key: tuple(entry[key]) for key in ("parts", "names", "sha256", "sizes")}
    if len({len(lists[key]) for key in ("names", "sha256", "sizes")}) != 1:
        raise ValueError(f"lists of different lengths for {entry['file']}")
    return Shard(str(entry["file"]), str(entry["part"]), bytes=int(entry["bytes"]), **lists)


def open_batch(path: Path) -> pa.RecordBatch:
    """Map a shard into memory; nothing of it is read yet.

    Raises:
        DataError: If it is absent, cut short or no Arrow file of one record batch.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1:
            raise pa.ArrowInvalid(f"{reader.num_record_batches} record batches where one was wanted")
        return reader.get_batch(0)
    except (pa.ArrowException, OSError) as error:
        found = " ".join(str(error).split())
        raise DataError(f"the shard '{path}' can't be read: {found}", hint=f"remove it, then {AGAIN}") from error


def _check_file(path: Path, size: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        seen = "no file" if found is None else f"{found} bytes"
        raise DataError(f"the shard '{path}' is not as it was written: found {seen}, wanted {size} bytes",
                        hint=f"remove it, then {AGAIN}")  # fmt: skip
