"""The stored calibration: what a graph's tensors take for values over a set of photos, found once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.console import log, progress
from compress.core.errors import ArtifactError
from compress.core.store import Store, digest, sha256_of
from compress.core.types import ImageSpec, to_json
from compress.core.whole import written_whole
from compress.kit.data.sets import Dataset
from compress.kit.images import letterbox, normalized, prepare
from compress.kit.quant.calibrate import Calibration, calibrate
from compress.kit.quant.observe import SAMPLE
from compress.kit.quant.seen import BINS

_FORMAT = 1  # of what is kept, and of how it is gathered


def calibration(
    store: Store, source: Path, photos: Dataset, spec: ImageSpec, *, threads: int = 0, title: str = "calibrate"
) -> Calibration:
    """Return what the tensors of ``source`` take for values over ``photos``: the kept one, or else a new one, kept.

    It lies under the store's ``cache/calibration`` and is found by the sha256 of the graph's file, the fingerprint
    of the photos and how they are brought in. A file there that can't be read is made again.

    Args:
        store: Where it is kept.
        source: A prepared float32 ONNX graph, see ``kit.quant.prepare``.
        photos: The calibration photos; read one at a time, brought in as ``spec`` says, one that is fed at its own
            size stretched to the spec's.
        spec: The graph's image input.
        threads: Threads inside one operator; 0 leaves the choice to ONNX Runtime.
        title: What the progress display says.

    Raises:
        DataError: If a photo is broken, there is none, all are one flat colour, or a tensor isn't finite.
        UsageError: If photos of that size don't fit the graph.
    """
    key = digest([_FORMAT, SAMPLE, BINS, sha256_of(source), photos.fingerprint, to_json(spec)])
    kept = store.root / "cache" / "calibration" / f"{key}.npz"
    found = _kept(kept)
    if found is not None:
        log.info("calibration: %d photos seen before, reused from %s", found.images, kept)
        return found
    with progress(title, len(photos)) as advance:
        made = calibrate(source, _streamed(photos, spec), threads=threads, advance=advance)
    with written_whole(kept) as scratch:
        made.save(scratch)
    return made


def _kept(path: Path) -> Calibration | None:
    if not path.is_file():
        return None
    try:
        return Calibration.load(path)
    except ArtifactError as error:
        log.warning("calibration is made again: %s", error.what)
        return None


def _streamed(photos: Dataset, spec: ImageSpec) -> Iterator[dict[str, NDArray[np.float32]]]:
    for index in range(len(photos)):
        photo = photos.original(index)["image"]
        if spec.fit == "pad":
            image = normalized(letterbox(photo, (spec.height, spec.width))[0], spec)
        else:
            image = prepare(photo, spec)
        yield {spec.name: image[None]}
