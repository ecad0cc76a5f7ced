"""Write photos as shards: which photos there are, what stands from an earlier run, one file after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
from numpy.typing import NDArray

from compress.core.console import Advance, log
from compress.core.errors import DataError, UsageError
from compress.core.store import digest
from compress.core.whole import write_whole, written_whole
from compress.kit.data.folders import SPLITS
from compress.kit.data.shards import MANIFEST, SCHEMA, Manifest, Shard, is_packed, open_batch, read_manifest
from compress.kit.data.sources import Source
from compress.kit.images import Array, decode_rgb, resize

SHARD_BYTES = 64 * 10**6  # of encoded pictures, after which a shard is full
QUALITY = 95  # of JPEG where photos are resized; chroma stays at full resolution, as colour is learned from them
CHUNK, CHUNK_BYTES = 32, 16 * 10**6  # photos, and bytes of their files, that are decoded and embedded together
WORKERS = 4  # threads that decode


@dataclass(frozen=True)
class Embedder:
    """What turns whole photos into vectors, once and before any augmentation.

    Args:
        settings: What it is, in plain JSON: network, sha256 of its weights, size it sees.
        frame: Brings a photo (H, W, 3) to the size it sees, (S, S, 3).
        embed: Turns photos (N, 3, S, S) uint8 into (N, F).
    """

    settings: Mapping[str, Any]
    frame: Callable[[Array], Array]
    embed: Callable[[Array], NDArray[np.float32]]


@dataclass(frozen=True)
class Recipe:
    """How photos become rows of a shard.

    Args:
        size: Shorter side they are brought to; smaller ones, and with None all, keep their file's bytes.
        embedder: Gives each its vector, kept as float16; None for none.
        shard_bytes: Encoded pictures of a shard.
    """

    size: int | None = None
    embedder: Embedder | None = None
    shard_bytes: int = SHARD_BYTES

    @property
    def embedding(self) -> dict[str, Any] | None:
        """What made the embeddings, for the manifest."""
        return None if self.embedder is None else dict(self.embedder.settings) | {"dtype": "float16"}

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the rows, in plain JSON."""
        resized = None if self.size is None else [self.size, QUALITY]
        return {"schema": SCHEMA, "resized": resized, "embedding": self.embedding, "shard_bytes": self.shard_bytes}


def pack(sources: Sequence[Source], out: Path, recipe: Recipe, *, given: Sequence[str], advance: Advance) -> Manifest:
    """Pack photos into ``out``; shards that stand there from an earlier run on the same photos are kept.

    A photo that can't be read is left out with a warning.

    Args:
        sources: The photos, of ``sources.find_sources``.
        out: The folder.
        recipe: How they become rows.
        given: What the user named; a folder packed from something else is not touched.
        advance: Called once a photo.

    Raises:
        UsageError: If ``out`` holds shards of something else.
        DataError: If no photo can be read.
    """
    if is_packed(out) and read_manifest(out).sources != tuple(given):
        raise UsageError(f"'{out}' was packed from {', '.join(read_manifest(out).sources)}",
                         hint="give another folder with --out, or remove it")  # fmt: skip
    manifest = Manifest(tuple(given), recipe.size, recipe.embedding)
    shards: list[Shard] = []
    left_out: list[tuple[str, str]] = []
    begun = False
    for (part, parts), group in groupby(sources, key=lambda source: (source.part, source.parts)):
        todo = list(group)
        while todo:
            path = out / part / f"shard-{len(shards):05d}.arrow"
            told = _standing(path, todo, recipe)
            for _ in range(told["taken"] if told else 0):
                advance()
            if told is None:
                if not begun:  # from here on a reader must know that this is half done
                    _write_manifest(out, manifest)
                begun = True
                told = _write_shard(path, todo, recipe, advance)
            left_out += [(file, why) for file, why in told["left_out"]]
            if told["taken"] > len(told["left_out"]):
                shards.append(_shard(path, out, part, parts))
            todo = todo[told["taken"] :]
    return _finish(out, replace(manifest, shards=tuple(shards), left_out=tuple(left_out), complete=True))


def _finish(out: Path, manifest: Manifest) -> Manifest:
    """Write the manifest, and remove shards of an earlier run on other photos."""
    files = {shard.file for shard in manifest.shards}
    for part in ("", *SPLITS):
        for path in (out / part).glob("shard-[0-9][0-9][0-9][0-9][0-9].arrow"):
            if path.relative_to(out).as_posix() not in files:
                path.unlink()
    if not manifest.shards:
        (out / MANIFEST).unlink(missing_ok=True)
        with suppress(OSError):  # it may hold something else
            out.rmdir()
        count = len(manifest.left_out)
        raise DataError(f"none of {count} photos can be read", hint="see the lines above")
    _write_manifest(out, manifest)
    return manifest


def _write_manifest(out: Path, manifest: Manifest) -> None:
    write_whole(out / MANIFEST, json.dumps(dataclasses.asdict(manifest)))


def _key(taken: Sequence[Source], recipe: Recipe) -> str:
    return digest([recipe.settings, [source.stamp for source in taken]])


def _standing(path: Path, todo: Sequence[Source], recipe: Recipe) -> dict[str, Any] | None:
    """Say what a shard took, where it is whole and holds just the photos it would be made of now."""
    if not path.is_file():
        return None
    try:
        metadata = open_batch(path).schema.metadata or {}
        told: dict[str, Any] = json.loads(metadata[b"taken"])
    except (DataError, KeyError, ValueError):
        return None
    taken = todo[: told["taken"]]
    return told if len(taken) == told["taken"] and told["key"] == _key(taken, recipe) else None


def _write_shard(path: Path, todo: Sequence[Source], recipe: Recipe, advance: Advance) -> dict[str, Any]:
    """Write one shard of the first photos of ``todo``; returns how many it took, and which of them it left out."""
    rows: list[_Row] = []
    left_out: list[tuple[str, str]] = []
    taken, vectors = 0, []
    with ThreadPoolExecutor(WORKERS) as pool:
        for chunk in _chunks(todo):
            read = list(pool.map(lambda source: _read(source, recipe), chunk))
            good = [row for row in read if isinstance(row, _Row)]
            for source, why in zip(chunk, read, strict=True):
                if isinstance(why, DataError):
                    log.warning("left out: %s", " ".join(str(why).split()))
                    left_out.append((str(source.path), why.what))
                advance()
            if recipe.embedder is not None and good:
                vectors.append(_embed(good, recipe.embedder))
            rows += [dataclasses.replace(row, frame=None) for row in good]
            taken += len(chunk)
            if sum(len(row.image) for row in rows) >= recipe.shard_bytes:
                break
    told = {"taken": taken, "left_out": left_out, "key": _key(todo[:taken], recipe)}
    if rows:
        columns = {
            "name": pa.array([row.name for row in rows], pa.string()),
            "image": pa.array([row.image for row in rows], pa.binary()),
            "sha256": pa.array([hashlib.sha256(row.image).hexdigest() for row in rows], pa.string()),
        }
        if vectors:
            whole = np.concatenate(vectors)
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), whole.shape[1])
        _write_batch(path, columns, {"schema": str(SCHEMA), "embedding": json.dumps(recipe.embedding),
                                     "taken": json.dumps(told)})  # fmt: skip
    return told


@dataclass(frozen=True)
class _Row:
    """A photo ready to be written: its encoded picture, and what an embedder is shown of it."""

    name: str
    image: bytes
    frame: Array | None


def _chunks(todo: Sequence[Source]) -> Iterator[list[Source]]:
    """Cut a list into pieces of some photos, fewer where they are large."""
    chunk: list[Source] = []
    weight = 0
    for source in todo:
        chunk.append(source)
        weight += source.path.stat().st_size
        if len(chunk) == CHUNK or weight >= CHUNK_BYTES:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk


def _read(source: Source, recipe: Recipe) -> _Row | DataError:
    """Read a photo, decoded once to know that it is whole. A user's mistake is a value: the others go on."""
    try:
        image = source.path.read_bytes()
        photo = decode_rgb(image, str(source.path))
        if recipe.size is not None and min(photo.shape[:2]) > recipe.size:
            image = _smaller(photo, recipe.size)
            photo = decode_rgb(image, source.name)  # embeddings are of what is stored
    except DataError as error:
        return error
    except OSError as error:
        return DataError(f"'{source.path}' can't be read: {error.strerror}")
    return _Row(source.name, image, None if recipe.embedder is None else recipe.embedder.frame(photo))


def _smaller(photo: Array, size: int) -> bytes:
    """Encode a photo (H, W, 3) as JPEG with ``size`` as its shorter side."""
    scale = size / min(photo.shape[:2])
    height, width = (max(round(side * scale), size) for side in photo.shape[:2])
    stream = BytesIO()
    PIL.Image.fromarray(resize(photo, (height, width))).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def _embed(rows: Sequence[_Row], embedder: Embedder) -> NDArray[np.float16]:
    """Embed photos, as float16.

    Half the bytes of float32, for a relative error of at most 2^-11 of values above 6.2e-5 (IEEE 754-2019, table 3.5).
    """
    frames = np.stack([row.frame for row in rows if row.frame is not None])
    vectors = np.asarray(embedder.embed(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))), np.float32)
    assert vectors.ndim == 2 and len(vectors) == len(rows), f"embeddings {vectors.shape} of {len(rows)} photos"
    most = float(np.finfo(np.float16).max)
    if not (np.abs(vectors) <= most).all():  # NaN included
        raise DataError(f"an embedding of {np.abs(vectors).max():g} does not fit float16, whose end is {most:g}",
                        hint="check the embedding network's weights")  # fmt: skip
    return vectors.astype(np.float16)


def _shard(path: Path, out: Path, part: str, parts: tuple[str, ...]) -> Shard:
    batch = open_batch(path)
    return Shard(
        path.relative_to(out).as_posix(),
        part,
        parts,
        path.stat().st_size,
        tuple(batch.column("name").to_pylist()),
        tuple(batch.column("sha256").to_pylist()),
        tuple(len(picture.as_buffer()) for picture in batch.column("image")),
    )


def _write_batch(path: Path, columns: Mapping[str, pa.Array], metadata: Mapping[str, str]) -> None:
    schema = pa.schema([(name, column.type) for name, column in columns.items()], metadata=dict(metadata))
    batch = pa.record_batch(list(columns.values()), schema=schema)
    with (
        written_whole(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(batch)
